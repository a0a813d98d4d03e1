"""Directory trees as flat records, and many small files with one call: contracts in ``fastlayer._backend``."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint8_t, uint32_t

from fastlayer._native.errors cimport raise_error
from fastlayer._native.libfl cimport (
    FL_XATTR_ALL, FL_XATTR_DOCKER, FL_XATTR_NONE, fl_buf, fl_error, fl_read_many, fl_read_many_free,
    fl_read_many_init, fl_read_many_next, fl_scan, fl_scan_free, fl_scan_init, fl_scan_next,
)

from fastlayer.errors import UsageError

cdef dict _XATTRS = {"all": FL_XATTR_ALL, "docker": FL_XATTR_DOCKER, "none": FL_XATTR_NONE}


cdef bytes _bytes(const fl_buf *buf):
    return PyBytes_FromStringAndSize(<const char *>buf.data, buf.len)


cdef class Scanner:
    """See ``fastlayer._backend.Scanner``. The descriptor stays the caller's and must outlive the scanner."""

    cdef fl_scan scan
    cdef bint open
    cdef bint busy

    def __init__(self, int root_fd, *, str xattrs="all"):
        cdef fl_error err
        if self.open:
            raise UsageError("a scanner is made once")
        if xattrs not in _XATTRS:
            raise UsageError(f"xattrs={xattrs!r} is unknown: use all, docker or none")
        if fl_scan_init(&self.scan, root_fd, _XATTRS[xattrs], &err) < 0:
            raise_error(&err)
        self.open = True

    def __dealloc__(self):
        if self.open:
            fl_scan_free(&self.scan)

    @property
    def entries(self):
        return self.scan.entries

    @property
    def skipped_sockets(self):
        return self.scan.skipped_sockets

    @property
    def dropped_xattrs(self):
        return self.scan.dropped_xattrs

    def next_batch(self, uint32_t n=4096):
        cdef fl_error err
        cdef int r
        if self.busy or not self.open:
            raise UsageError("the scanner is in use by another thread" if self.busy else "the scanner has failed")
        self.busy = True
        with nogil:
            r = fl_scan_next(&self.scan, n, &err)
        self.busy = False
        if r < 0:
            self.open = False
            fl_scan_free(&self.scan)
            raise_error(&err)
        return (_bytes(&self.scan.records), _bytes(&self.scan.heap)) if r else None


cdef class _Reader:
    """Scope of a fl_read_many."""

    cdef fl_read_many state

    def __cinit__(self, int root_fd):
        fl_read_many_init(&self.state, root_fd)

    def __dealloc__(self):
        fl_read_many_free(&self.state)

    cdef int next(self, bytes path, uint8_t *buf, size_t room, int64_t *ret_len) except -1:
        cdef fl_error err
        cdef const uint8_t *data = <const uint8_t *>PyBytes_AS_STRING(path)
        cdef uint32_t length = <uint32_t>PyBytes_GET_SIZE(path)
        cdef int r
        with nogil:
            r = fl_read_many_next(&self.state, data, length, buf, room, ret_len, &err)
        if r < 0:
            raise_error(&err)
        return r


def read_many(int root_fd, paths, buffer):
    """See ``fastlayer._backend.ReadMany``."""
    cdef uint8_t[::1] room = buffer
    cdef size_t left = room.shape[0]
    cdef uint8_t *at = &room[0] if left else NULL
    cdef _Reader reader = _Reader(root_fd)
    cdef int64_t length = -1
    cdef list lengths = []
    for path in paths:
        if not reader.next(path, at, left, &length):
            break
        lengths.append(length)
        if length > 0:
            at += length
            left -= length
    return lengths
