from fastlayer._native.libfl cimport fl_changes, fl_pick_keys


cdef class ChangeTable:
    cdef fl_changes table  # moved in by the differ that made it, after fl_changes_finish; frozen from then on

    @staticmethod
    cdef ChangeTable take(fl_changes *made)  # empties *made
    cdef object _row(self, size_t number)


cdef bytes pick_keys(object only, fl_pick_keys *ret)
