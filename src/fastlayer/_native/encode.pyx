"""The layer tar of a change table: contract in ``fastlayer._backend.Encoder``."""

from cpython.buffer cimport PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from libc.stdint cimport int64_t, uint8_t, uint32_t
from libc.stdlib cimport free, malloc

from fastlayer._native.changes cimport ChangeTable
from fastlayer._native.errors cimport raise_error
from fastlayer._native.libfl cimport (
    fl_encode, fl_encode_free, fl_encode_init, fl_encode_read, fl_error,
)


cdef class Encoder:
    """Gives out the layer piece by piece; the descriptors in ``roots`` must stay open until it is done."""

    cdef fl_encode engine
    cdef ChangeTable table

    def __cinit__(self, ChangeTable table not None, roots, clamp_mtime=None):
        cdef fl_error err
        cdef int64_t clamp = 0 if clamp_mtime is None else clamp_mtime
        cdef list numbers = list(roots)
        cdef uint32_t count = len(numbers)
        cdef int *fds = <int *>malloc((count + 1) * sizeof(int))
        cdef uint32_t i
        cdef int r

        if fds == NULL:
            raise MemoryError
        try:
            for i in range(count):
                fds[i] = numbers[i]
            r = fl_encode_init(&self.engine, &table.table, fds, count, NULL if clamp_mtime is None else &clamp, &err)
        finally:
            free(fds)
        if r < 0:
            raise_error(&err)
        self.table = table

    def __dealloc__(self):
        fl_encode_free(&self.engine)

    @property
    def entries(self):
        return self.engine.entries

    @property
    def payload(self):
        return self.engine.payload

    def readinto(self, buffer, /):
        """Fills buffer with the next tar bytes; less than its length only at the end, 0 when done."""
        cdef fl_error err
        cdef Py_buffer view
        cdef Py_ssize_t n

        PyObject_GetBuffer(buffer, &view, PyBUF_WRITABLE)
        try:
            with nogil:
                n = fl_encode_read(&self.engine, <uint8_t *>view.buf, view.len, &err)
        finally:
            PyBuffer_Release(&view)
        if n < 0:
            raise_error(&err)
        return n
