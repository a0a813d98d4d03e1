"""Change tables as Python sees them, and the differ that makes them: contracts in ``fastlayer._backend``."""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_FillInfo, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AsString, PyBytes_FromStringAndSize
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from fastlayer._native.errors cimport raise_error
from fastlayer._native.libfl cimport (
    FL_DIFF_AUTO, FL_DIFF_CONTENT, FL_DIFF_METADATA, FL_KIND_DELETE, FL_NO_LEADER, FL_ROW_AUX, FL_TABLE_KEY_LEN,
    FL_XATTR_ALL, FL_XATTR_DOCKER, FL_XATTR_NONE, fl_changes, fl_changes_free, fl_columns, fl_diff, fl_diff_finish,
    fl_diff_free, fl_diff_init, fl_diff_operand, fl_diff_options, fl_diff_settle, fl_diff_step, fl_diff_unverified,
    fl_diff_unverified_at, fl_diff_unverified_count, fl_diff_unverified_key, fl_error, fl_pick_keys, fl_row,
    fl_builder, fl_builder_add, fl_builder_finish, fl_builder_free, fl_builder_row, fl_builder_xattr,
    fl_error_path,
)

from typing import NamedTuple

from fastlayer.errors import UsageError

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


cdef class TableBuilder:
    """See ``fastlayer._backend.TableBuilder``."""

    cdef fl_builder builder
    cdef dict groups  # the caller's number of a hard link -> ours, which are few
    cdef bint ended

    def __cinit__(self):
        self.groups = {}

    def __dealloc__(self):
        fl_builder_free(&self.builder)

    cdef int check(self) except -1:
        if self.ended:
            raise UsageError("the table is finished, or has failed")
        return 0

    def add(self, rows):
        """Rows in any order; see ``fastlayer._backend.NewRow``."""
        self.check()
        self.ended = True  # until all were taken
        for row in rows:
            try:
                self.add_row(row)
            except (OverflowError, TypeError, ValueError, IndexError) as exc:
                raise UsageError(f"{row!r:.200} is no row of a table: {exc}") from exc
        self.ended = False

    def finish(self):
        cdef fl_error err
        cdef int r
        self.check()
        self.ended = True
        with nogil:
            r = fl_builder_finish(&self.builder, &err)
        if r < 0:
            raise_error(&err)
        return ChangeTable.take(&self.builder.table)

    cdef int add_row(self, object row) except -1:
        cdef fl_builder_row made
        cdef fl_error err
        cdef bytes path, link, source
        kind, path, mode, uid, gid, size, mtime_ns, rdev, link, xattrs, root, given, ctime_ns, group = row
        made.kind = <uint8_t>ord(kind)
        made.mode, made.uid, made.gid, made.size, made.root = mode, uid, gid, size, root
        sec, nsec = divmod(mtime_ns, 1_000_000_000)
        made.mtime_sec, made.mtime_nsec = sec, nsec
        made.rdev_major, made.rdev_minor = rdev
        made.path, made.path_len = <const uint8_t *>PyBytes_AsString(path), <uint32_t>len(path)
        made.link, made.link_len = <const uint8_t *>PyBytes_AsString(link), <uint32_t>len(link)
        made.is_range = not isinstance(given, bytes)
        made.offset = given if made.is_range else 0
        source = b"" if made.is_range else given
        made.source, made.source_len = <const uint8_t *>PyBytes_AsString(source), <uint32_t>len(source)
        made.ctime_ns = ctime_ns & 0xFFFFFFFFFFFFFFFF
        made.group = self.groups.setdefault(group, len(self.groups) + 1) if group else 0
        if xattrs:
            self.add_xattrs(path, xattrs)
        if fl_builder_add(&self.builder, &made, &err) < 0:
            raise_error(&err)
        return 0

    cdef int add_xattrs(self, bytes path, object xattrs) except -1:
        cdef fl_error err
        cdef bytes name, value
        for name, value in xattrs:
            if fl_builder_xattr(&self.builder, PyBytes_AsString(name), len(name), PyBytes_AsString(value), len(value),
                                &err) < 0:
                fl_error_path(&err, PyBytes_AsString(path), len(path))
                raise_error(&err)
        return 0


cdef dict _COMPARE = {"auto": FL_DIFF_AUTO, "metadata": FL_DIFF_METADATA, "content": FL_DIFF_CONTENT}
cdef dict _XATTRS = {"all": FL_XATTR_ALL, "docker": FL_XATTR_DOCKER, "none": FL_XATTR_NONE}

# Column names of _backend.Columns with the bytes of an item, in the order of _Columns.point
cdef tuple _COLUMNS = (
    ("dev", 8), ("ino", 8), ("size", 8), ("mtime_sec", 8), ("ctime_sec", 8), ("path_off", 8), ("mtime_nsec", 4),
    ("ctime_nsec", 4), ("mode", 4), ("uid", 4), ("gid", 4), ("nlink", 4), ("rdev_major", 4), ("rdev_minor", 4),
    ("path_len", 4), ("link_len", 4), ("xattr_len", 4), ("flags", 4),
)


cdef class _Columns:
    """Keeps the buffers of a ``_backend.Columns`` exported while C reads them."""

    cdef fl_columns columns
    cdef Py_buffer views[21]
    cdef int held

    def __cinit__(self, source):
        cdef uint64_t count = source.count
        cdef const void *found[18]
        for i, (name, size) in enumerate(_COLUMNS):
            found[i] = self.hold(name, getattr(source, name), count * <uint64_t>size, size)
        self.point(found)
        self.columns.heap = <const uint8_t *>self.hold("heap", source.heap, 0, 1)
        self.columns.heap_len = self.views[self.held - 1].len
        if source.key is not None:
            self.columns.key = <const uint8_t *>self.hold("key", source.key, count * FL_TABLE_KEY_LEN, 1)
        if source.data_off is not None:
            self.columns.data_off = <const uint64_t *>self.hold("data_off", source.data_off, count * 8, 8)
        self.columns.count = count
        self.columns.racy_ns = source.racy_ns

    def __dealloc__(self):
        for i in range(self.held):
            PyBuffer_Release(&self.views[i])

    cdef const void *hold(self, str name, object column, uint64_t need, size_t align) except? NULL:
        cdef Py_buffer *view = &self.views[self.held]
        PyObject_GetBuffer(column, view, PyBUF_SIMPLE)
        self.held += 1
        if <uint64_t>view.len < need:
            raise UsageError(f"column {name!r} holds {view.len} bytes, not {need}")
        if <size_t>view.buf % align != 0:
            raise UsageError(f"column {name!r} is not aligned to {align} bytes")
        return view.buf

    cdef void point(self, const void **found) noexcept:
        cdef fl_columns *c = &self.columns
        c.dev, c.ino, c.size = <const uint64_t *>found[0], <const uint64_t *>found[1], <const uint64_t *>found[2]
        c.mtime_sec, c.ctime_sec = <const int64_t *>found[3], <const int64_t *>found[4]
        c.path_off = <const uint64_t *>found[5]
        c.mtime_nsec, c.ctime_nsec = <const uint32_t *>found[6], <const uint32_t *>found[7]
        c.mode, c.uid, c.gid = <const uint32_t *>found[8], <const uint32_t *>found[9], <const uint32_t *>found[10]
        c.nlink = <const uint32_t *>found[11]
        c.rdev_major, c.rdev_minor = <const uint32_t *>found[12], <const uint32_t *>found[13]
        c.path_len, c.link_len = <const uint32_t *>found[14], <const uint32_t *>found[15]
        c.xattr_len, c.flags = <const uint32_t *>found[16], <const uint32_t *>found[17]


cdef class Differ:
    """See ``fastlayer._backend.Differ``."""

    cdef fl_diff diff
    cdef _Columns a
    cdef _Columns b
    cdef bint open   # diff is initialised
    cdef bint busy   # a step runs without the GIL
    cdef bytes keys  # the walk reads from it

    def __init__(
        self, a, b, *, str compare="auto", str xattrs="all", bint details=False, int threads=2, only=None,
        int64_t shared_until_ns=0,
    ):
        cdef fl_diff_options options
        cdef fl_pick_keys keys
        cdef fl_error err
        if self.open:
            raise UsageError("a differ is made once")
        if compare not in _COMPARE:
            raise UsageError(f"compare={compare!r} is unknown: use auto, metadata or content")
        if xattrs not in _XATTRS:
            raise UsageError(f"xattrs={xattrs!r} is unknown: use all, docker or none")
        self.a = _columns(a)
        self.b = _columns(b)
        options.a = _operand(a, self.a)
        options.b = _operand(b, self.b)
        options.compare = _COMPARE[compare]
        options.xattrs = _XATTRS[xattrs]
        options.details = details
        options.threaded = threads > 0
        self.keys = pick_keys(only, &keys)
        options.only = NULL if only is None else &keys
        options.shared_until_ns = shared_until_ns
        if fl_diff_init(&self.diff, &options, &err) < 0:
            raise_error(&err)
        self.open = True

    def __dealloc__(self):
        if self.open:
            fl_diff_free(&self.diff)

    cdef int check(self) except -1:
        if not self.open or self.busy:
            raise UsageError("the differ is finished" if not self.open else "the differ is in use by another thread")
        return 0

    @property
    def entries(self):
        return self.diff.entries

    @property
    def assumed(self):
        return self.diff.assumed

    @property
    def bytes_compared(self):
        return self.diff.content.bytes

    def step(self):
        cdef fl_error err
        cdef int r
        self.check()
        self.busy = True
        with nogil:
            r = fl_diff_step(&self.diff, &err)
        self.busy = False
        if r < 0:
            self.close()
            raise_error(&err)
        return r > 0

    def unverified(self):
        cdef uint64_t ticket
        cdef fl_diff_unverified *pair
        cdef fl_row *row
        cdef list found = []
        self.check()
        for ticket in range(self.diff.settled, fl_diff_unverified_count(&self.diff)):
            pair = fl_diff_unverified_at(&self.diff, ticket)
            if pair.settled:
                continue
            row = &self.diff.table.rows[pair.row]
            found.append((ticket, _slice(self.diff.table.heap.data + row.path_off, row.path_len),
                          _slice(fl_diff_unverified_key(&self.diff, pair), FL_TABLE_KEY_LEN)))
        return found

    def settle(self, uint64_t ticket, bint equal):
        cdef fl_error err
        self.check()
        if fl_diff_settle(&self.diff, ticket, equal, &err) < 0:
            raise_error(&err)

    def finish(self):
        cdef fl_error err
        cdef ChangeTable table
        cdef int r
        self.check()
        self.busy = True
        with nogil:
            r = fl_diff_finish(&self.diff, &err)
        self.busy = False
        if r < 0:
            raise_error(&err)
        table = ChangeTable.take(&self.diff.table)
        self.close()
        return table

    cdef void close(self) noexcept:
        """Ends the walkers and frees all but the counters."""
        self.open = False
        fl_diff_free(&self.diff)


cdef bytes pick_keys(object only, fl_pick_keys *ret):
    """The keys of csrc/fl_pick.h, joined; the bytes must be kept as long as the source."""
    cdef bytes joined = b""
    if only is not None:
        joined = b"\0".join([*only, b""])
        if joined.count(b"\0") != len(only):
            raise UsageError("a path has no NUL")
    ret.data = joined
    ret.len = len(joined)
    return joined


cdef _Columns _columns(object operand):
    return None if operand is None or isinstance(operand, int) else _Columns(operand)


cdef fl_diff_operand _operand(object operand, _Columns held) except *:
    cdef fl_diff_operand made
    made.root = operand if isinstance(operand, int) else -1
    made.columns = NULL if held is None else &held.columns
    return made
