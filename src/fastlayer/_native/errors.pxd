from fastlayer._native.libfl cimport fl_error

cdef int raise_error(const fl_error *err) except -1
