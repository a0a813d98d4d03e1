"""Change tables as Python sees them, and the differ that makes them: contracts in ``fastlayer._backend``."""

from cpython.buffer cimport PyBUF_WRITABLE, PyBuffer_FillInfo
from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from fastlayer._native.libfl cimport (
    FL_KIND_DELETE, FL_NO_LEADER, FL_ROW_AUX, fl_changes, fl_changes_free, fl_row,
)

from typing import NamedTuple

cdef enum:
    S_IFMT = 0o170000
    S_IFREG = 0o100000
    S_IFCHR = 0o020000
    S_IFBLK = 0o060000


class Row(NamedTuple):
    """One line as Python values; the fields are those of ``fastlayer._backend.Row``."""

    kind: str
    what: int
    path: bytes
    mode: int
    uid: int
    gid: int
    size: int
    mtime_ns: int
    rdev: tuple
    link: bytes
    leader: object
    xattrs: tuple


cdef object _make_row = Row._make


cdef bytes _slice(const uint8_t *data, size_t length):
    return PyBytes_FromStringAndSize(<const char *>data, length)


cdef tuple _xattrs(const uint8_t *blob, size_t length):
    """The pairs of an xattr blob (csrc/fl_entry.h)."""
    cdef size_t at = 0
    cdef uint16_t name_len
    cdef uint32_t value_len
    cdef list pairs = []
    while at < length:
        memcpy(&name_len, blob + at, 2)
        memcpy(&value_len, blob + at + 2, 4)
        at += 6
        pairs.append((_slice(blob + at, name_len), _slice(blob + at + name_len, value_len)))
        at += name_len + value_len
    return tuple(pairs)


cdef class _Memory:
    """Read-only memory of a table; keeps the table alive. The table never changes once a Python object can see it."""

    cdef ChangeTable owner
    cdef void *data
    cdef Py_ssize_t size

    def __getbuffer__(self, Py_buffer *view, int flags):
        PyBuffer_FillInfo(view, self, self.data, self.size, True, flags)


cdef memoryview _memory(ChangeTable owner, const void *data, size_t size):
    cdef _Memory memory = _Memory.__new__(_Memory)
    memory.owner = owner
    memory.data = <void *>data if size else <void *>b""
    memory.size = size
    return memoryview(memory)


cdef class ChangeTable:
    """See ``fastlayer._backend.ChangeTable``."""

    def __init__(self):
        raise TypeError("change tables are made by differs")

    def __dealloc__(self):
        fl_changes_free(&self.table)

    @staticmethod
    cdef ChangeTable take(fl_changes *made):
        cdef ChangeTable self = ChangeTable.__new__(ChangeTable)
        self.table = made[0]
        memset(made, 0, sizeof(fl_changes))
        return self

    @property
    def skipped_sockets(self):
        return self.table.skipped_sockets

    @property
    def dropped_xattrs(self):
        return self.table.dropped_xattrs

    def __len__(self):
        return self.table.count

    def row(self, Py_ssize_t number):
        if not 0 <= number < self.table.count:
            raise IndexError(number)
        return self._row(number)

    def rows(self, Py_ssize_t start=0, stop=None):
        """A batch of rows as Python values; bounds as in a slice."""
        return [self._row(number) for number in range(*slice(start, stop).indices(self.table.count))]

    def records(self):
        return _memory(self, self.table.rows, self.table.count * sizeof(fl_row))

    def heap(self):
        return _memory(self, self.table.heap.data, self.table.heap.len)

    cdef object _row(self, size_t number):
        cdef fl_row *row = &self.table.rows[number]
        cdef const uint8_t *path = self.table.heap.data + row.path_off
        cdef uint32_t kind = row.mode & S_IFMT
        cdef bint device = (kind == S_IFCHR or kind == S_IFBLK) and row.kind != FL_KIND_DELETE
        cdef fl_row *leader
        cdef object lead = None
        if row.leader != FL_NO_LEADER:
            leader = &self.table.rows[row.leader]
            lead = _slice(self.table.heap.data + leader.path_off, leader.path_len)
        return _make_row((
            chr(row.kind), row.what, _slice(path, row.path_len), row.mode, row.uid, row.gid,
            row.size if kind == S_IFREG else 0, <object>row.mtime_sec * 1_000_000_000 + row.mtime_nsec,
            (row.size >> 32, row.size & 0xFFFFFFFF) if device else (0, 0),
            b"" if row.flags & FL_ROW_AUX else _slice(path + row.path_len, row.link_len), lead,
            _xattrs(path + row.path_len + row.link_len, row.xattr_len),
        ))
