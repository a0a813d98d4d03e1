"""What a tree takes on the disk (csrc/fl_usage.h)."""

from fastlayer._native.errors cimport raise_error
from fastlayer._native.libfl cimport fl_error, fl_usage, fl_usage_free, fl_usage_init, fl_usage_step


cdef class TreeUsage:
    """Counts the tree of ``root_fd``; see ``_backend.TreeUsage``."""

    cdef fl_usage _usage
    cdef bint _open

    def __cinit__(self, int root_fd):
        cdef fl_error err

        if fl_usage_init(&self._usage, root_fd, &err) < 0:
            raise_error(&err)
        self._open = True

    def __dealloc__(self):
        self.close()

    def step(self):
        cdef fl_error err
        cdef int r

        if not self._open:
            return False
        with nogil:
            r = fl_usage_step(&self._usage, &err)
        if r < 0:
            raise_error(&err)
        return r > 0

    def sums(self):
        return self._usage.bytes, self._usage.inodes, self._usage.shared

    def close(self):
        cdef unsigned long long sums[3]

        if self._open:
            self._open = False
            sums = [self._usage.bytes, self._usage.inodes, self._usage.shared]
            fl_usage_free(&self._usage)
            self._usage.bytes, self._usage.inodes, self._usage.shared = sums[0], sums[1], sums[2]
