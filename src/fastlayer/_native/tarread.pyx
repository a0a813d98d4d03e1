"""Reads a layer tar as it goes by: Python values over csrc/fl_tar.h."""

from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t
from libc.string cimport memcpy

from fastlayer._native.errors cimport raise_error
from fastlayer._native.libfl cimport (
    FL_TAR_DATA, FL_TAR_END, FL_TAR_ENTRY, FL_TAR_FILE_END, fl_error, fl_tar, fl_tar_entry, fl_tar_event, fl_tar_finish,
    fl_tar_free, fl_tar_init, fl_tar_limits, fl_tar_next,
)

from typing import NamedTuple


class TarItem(NamedTuple):
    """One entry of a tar, extended headers applied. See tarread.pyi for the fields."""

    type: str
    path: bytes
    link: bytes
    mode: int
    uid: int
    gid: int
    mtime_ns: int
    size: int
    rdev: tuple[int, int]
    xattrs: tuple[tuple[bytes, bytes], ...]
    data_offset: int
    sparse: bool


cdef object _new = tuple.__new__
cdef tuple _END = ("end",)
cdef dict _TYPES = {ord(c): c for c in "0123456"}


cdef inline bytes _bytes(const uint8_t *data, size_t n):
    return PyBytes_FromStringAndSize(<const char *>data, <Py_ssize_t>n) if n else b""


cdef tuple _xattrs(const uint8_t *p, size_t left):
    """The pairs of an fl_entry.h blob."""
    cdef uint16_t name_len
    cdef uint32_t value_len
    cdef list pairs = []
    while left:
        memcpy(&name_len, p, sizeof(name_len))
        memcpy(&value_len, p + 2, sizeof(value_len))
        pairs.append((_bytes(p + 6, name_len), _bytes(p + 6 + name_len, value_len)))
        p += 6 + name_len + value_len
        left -= 6 + name_len + value_len
    return tuple(pairs)


cdef object _item(const fl_tar_entry *e):
    return _new(TarItem, (
        _TYPES[e.type], _bytes(e.path, e.path_len), _bytes(e.link, e.link_len), e.mode, e.uid, e.gid,
        <object>e.mtime_sec * 1_000_000_000 + e.mtime_nsec, e.size, (e.rdev_major, e.rdev_minor),
        _xattrs(e.xattrs, e.xattr_len), e.data_offset, bool(e.sparse),
    ))


cdef class TarScanner:
    """See ``fastlayer._backend.TarScanner``."""

    cdef fl_tar _tar
    cdef readonly bint ended

    def __cinit__(self, max_pax=1 << 20):
        cdef fl_tar_limits limits
        if not 0 < max_pax <= 1 << 30:
            raise ValueError("max_pax must be 1 to 2**30")
        limits.max_pax = max_pax
        fl_tar_init(&self._tar, &limits)

    def __dealloc__(self):
        fl_tar_free(&self._tar)

    @property
    def offset(self):
        return self._tar.pos

    def feed(self, buffer):
        cdef const uint8_t[::1] view = memoryview(buffer).cast("B")
        cdef size_t left = <size_t>view.shape[0]
        cdef const uint8_t *begin
        cdef const uint8_t *p
        cdef fl_tar_event ev
        cdef fl_error err
        cdef list events = []
        cdef size_t start
        cdef int r
        if left == 0:
            return events
        begin = p = &view[0]
        while True:
            r = fl_tar_next(&self._tar, &p, &left, &ev, &err)
            if r == 0:
                return events
            if r < 0:
                raise_error(&err)
            if ev.kind == FL_TAR_ENTRY:
                events.append(("entry", _item(ev.entry)))
            elif ev.kind == FL_TAR_DATA:
                start = <size_t>(ev.data - begin)
                events.append(("data", start, start + ev.data_len, ev.data_pos))
            elif ev.kind == FL_TAR_FILE_END:
                events.append(_END)
            else:
                self.ended = True

    def finish(self):
        cdef fl_error err
        if fl_tar_finish(&self._tar, &err) < 0:
            raise_error(&err)
