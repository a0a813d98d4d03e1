"""Directory trees as flat records, and many small files with one call: contracts in ``fastlayer._backend``."""

from cpython.bytes cimport PyBytes_AsString, PyBytes_FromStringAndSize
from libc.stdint cimport int64_t, uint8_t, uint32_t
from libc.stdlib cimport calloc, free

from fastlayer._native.changes cimport pick_keys
from fastlayer._native.errors cimport raise_error
from fastlayer._native.libfl cimport (
    FL_XATTR_ALL, FL_XATTR_DOCKER, FL_XATTR_NONE, fl_buf, fl_error, fl_pick_keys, fl_read_many, fl_read_many_free,
    fl_read_many_init, fl_read_many_next, fl_scan, fl_scan_free, fl_scan_init, fl_scan_next,
    fl_scan_options,
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
    cdef bytes keys  # the scan reads from it

    def __init__(self, int root_fd, *, str xattrs="all", only=None, bytes ignore=None):
        cdef fl_error err
        cdef fl_pick_keys keys
        cdef fl_scan_options options
        if self.open:
            raise UsageError("a scanner is made once")
        if xattrs not in _XATTRS:
            raise UsageError(f"xattrs={xattrs!r} is unknown: use all, docker or none")
        self.keys = pick_keys(only, &keys)
        options.policy = _XATTRS[xattrs]
        options.only = NULL if only is None else &keys
        options.ignore = NULL if ignore is None else PyBytes_AsString(ignore)
        options.ignore_len = 0 if ignore is None else len(ignore)
        if fl_scan_init(&self.scan, root_fd, &options, &err) < 0:
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
    """Scope of a fl_read_many and of the flat list of paths that C reads without the GIL."""

    cdef fl_read_many state
    cdef const uint8_t **paths
    cdef uint32_t *path_lens
    cdef int64_t *sizes
    cdef list kept

    def __cinit__(self, int root_fd, paths):
        cdef size_t i
        fl_read_many_init(&self.state, root_fd)
        self.kept = list(paths)
        self.paths = <const uint8_t **>calloc(len(self.kept) + 1, sizeof(uint8_t *))
        self.path_lens = <uint32_t *>calloc(len(self.kept) + 1, sizeof(uint32_t))
        self.sizes = <int64_t *>calloc(len(self.kept) + 1, sizeof(int64_t))
        if self.paths == NULL or self.path_lens == NULL or self.sizes == NULL:
            raise MemoryError
        for i, path in enumerate(self.kept):
            self.paths[i] = <const uint8_t *>PyBytes_AsString(path)
            self.path_lens[i] = <uint32_t>len(path)

    def __dealloc__(self):
        fl_read_many_free(&self.state)
        free(self.paths)
        free(self.path_lens)
        free(self.sizes)

    cdef list read(self, uint8_t *buf, size_t room):
        cdef fl_error err
        cdef size_t done = 0, count = len(self.kept)
        cdef int r = 1
        with nogil:
            while done < count:
                r = fl_read_many_next(
                    &self.state, self.paths[done], self.path_lens[done], buf, room, &self.sizes[done], &err)
                if r <= 0:
                    break
                if self.sizes[done] > 0:
                    buf += self.sizes[done]
                    room -= <size_t>self.sizes[done]
                done += 1
        if r < 0:
            raise_error(&err)
        return [self.sizes[i] for i in range(done)]


def read_many(int root_fd, paths, buffer):
    """See ``fastlayer._backend.ReadMany``."""
    cdef uint8_t[::1] room = buffer
    return _Reader(root_fd, paths).read(&room[0] if room.shape[0] else NULL, room.shape[0])
