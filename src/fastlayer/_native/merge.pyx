"""A stack of layer tars as one tree: Python values over csrc/fl_merge.h. Contracts in ``fastlayer._backend``."""

from cpython.bytearray cimport PyByteArray_AS_STRING
from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from fastlayer._native.errors cimport raise_error
from fastlayer._native.libfl cimport (
    FL_MERGE_KEY_LEN, FL_TAR_DATA, FL_TAR_ENTRY, FL_TAR_FILE_END, fl_buf, fl_buf_free, fl_entry, fl_error, fl_merge,
    fl_merge_begin_layer, fl_merge_finish, fl_merge_free, fl_merge_init, fl_merge_limits, fl_merge_next, fl_merge_put,
    fl_merge_set_key, fl_tar, fl_tar_event, fl_tar_finish, fl_tar_free, fl_tar_init, fl_tar_limits, fl_tar_next,
)

from fastlayer.errors import UsageError

cdef tuple _END = ("end",)
cdef tuple _SIZES = (8, 8, 8, 8, 8, 8, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4)  # of the columns, in the order of Columns


cdef class _Batch:
    """Columns being filled."""

    cdef list columns
    cdef bytearray keys
    cdef bytearray offsets
    cdef char *at[18]
    cdef fl_buf heap

    def __cinit__(self, uint32_t n):
        cdef bytearray column
        self.columns = []
        for i, size in enumerate(_SIZES):
            column = bytearray(n * <uint64_t>size)
            self.columns.append(column)
            self.at[i] = PyByteArray_AS_STRING(column)
        self.keys = bytearray(n * <uint64_t>FL_MERGE_KEY_LEN)
        self.offsets = bytearray(n * <uint64_t>8)

    def __dealloc__(self):
        fl_buf_free(&self.heap)

    cdef void put(self, uint32_t i, const fl_entry *e) noexcept:
        (<uint64_t *>self.at[0])[i] = e.dev
        (<uint64_t *>self.at[1])[i] = e.ino
        (<uint64_t *>self.at[2])[i] = e.size
        (<int64_t *>self.at[3])[i] = e.mtime_sec
        (<int64_t *>self.at[4])[i] = e.ctime_sec
        (<uint64_t *>self.at[5])[i] = e.path_off
        (<uint32_t *>self.at[6])[i] = e.mtime_nsec
        (<uint32_t *>self.at[7])[i] = e.ctime_nsec
        (<uint32_t *>self.at[8])[i] = e.mode
        (<uint32_t *>self.at[9])[i] = e.uid
        (<uint32_t *>self.at[10])[i] = e.gid
        (<uint32_t *>self.at[11])[i] = e.nlink
        (<uint32_t *>self.at[12])[i] = e.rdev_major
        (<uint32_t *>self.at[13])[i] = e.rdev_minor
        (<uint32_t *>self.at[14])[i] = e.path_len
        (<uint32_t *>self.at[15])[i] = e.link_len
        (<uint32_t *>self.at[16])[i] = e.xattr_len
        (<uint32_t *>self.at[17])[i] = e.flags

    cdef tuple take(self, uint32_t count):
        for column, size in zip(self.columns, _SIZES):
            del column[count * <uint64_t>size:]
        del self.keys[count * <uint64_t>FL_MERGE_KEY_LEN:]
        del self.offsets[count * <uint64_t>8:]
        heap = PyBytes_FromStringAndSize(<const char *>self.heap.data, self.heap.len) if self.heap.len else b""
        return (*self.columns, heap, self.keys, self.offsets)


cdef class Merger:
    """See ``fastlayer._backend.Merger``."""

    cdef fl_merge merge
    cdef fl_tar tar
    cdef fl_tar_limits limits
    cdef uint64_t heap_len
    cdef bint following  # data events belong to a file of the tree that is not empty
    cdef bint finished
    cdef readonly uint64_t entries

    def __cinit__(self, *, bint in_place=False, max_entries=0, max_size=0, max_file_size=0, max_pax=1 << 20):
        cdef fl_merge_limits limits
        cdef fl_error err
        if not 0 < max_pax <= 1 << 30:
            raise ValueError("max_pax must be 1 to 2**30")
        self.limits.max_pax = max_pax
        limits.max_entries, limits.max_size, limits.max_file_size = max_entries, max_size, max_file_size
        fl_tar_init(&self.tar, &self.limits)
        if fl_merge_init(&self.merge, &limits, in_place, &err) < 0:
            raise_error(&err)

    def __dealloc__(self):
        fl_tar_free(&self.tar)
        fl_merge_free(&self.merge)

    @property
    def count(self):
        return self.merge.count

    @property
    def size(self):
        return self.merge.size

    @property
    def sparse(self):
        return bool(self.merge.sparse)

    def begin_layer(self):
        fl_tar_free(&self.tar)
        fl_tar_init(&self.tar, &self.limits)
        fl_merge_begin_layer(&self.merge)
        self.following = False

    def feed(self, buffer):
        cdef const uint8_t[::1] view = memoryview(buffer).cast("B")
        cdef size_t left = <size_t>view.shape[0]
        cdef const uint8_t *begin
        cdef const uint8_t *p
        cdef fl_tar_event ev
        cdef fl_error err
        cdef list events = []
        cdef size_t start
        cdef uint32_t node = 0
        cdef uint64_t off = 0
        cdef int r
        if self.finished:
            raise UsageError("the layers are complete")
        if left == 0:
            return events
        begin = p = &view[0]
        while True:
            r = fl_tar_next(&self.tar, &p, &left, &ev, &err)
            if r == 0:
                return events
            if r < 0:
                raise_error(&err)
            if ev.kind == FL_TAR_ENTRY:
                self.entries += 1
                r = fl_merge_put(&self.merge, ev.entry, &node, &off, &err)
                if r < 0:
                    raise_error(&err)
                self.following = r > 0 and ev.entry.size > 0
                if self.following:
                    events.append(("file", node, ev.entry.size, off))
            elif not self.following:
                continue
            elif ev.kind == FL_TAR_DATA:
                start = <size_t>(ev.data - begin)
                events.append(("data", start, start + ev.data_len, ev.data_pos))
            elif ev.kind == FL_TAR_FILE_END:
                events.append(_END)

    def set_key(self, uint32_t number, const uint8_t[::1] key not None):
        cdef fl_error err
        if key.shape[0] != FL_MERGE_KEY_LEN:
            raise UsageError("a key has 32 bytes")
        if fl_merge_set_key(&self.merge, number, &key[0], &err) < 0:
            raise_error(&err)

    def end_layer(self):
        cdef fl_error err
        if fl_tar_finish(&self.tar, &err) < 0:
            raise_error(&err)

    def finish(self):
        cdef fl_error err
        cdef int r
        if self.finished:
            raise UsageError("the layers are complete")
        self.finished = True
        with nogil:
            r = fl_merge_finish(&self.merge, &err)
        if r < 0:
            raise_error(&err)

    def next_batch(self, uint32_t n=4096):
        cdef _Batch batch
        cdef fl_entry e
        cdef fl_error err
        cdef const uint8_t *key = NULL
        cdef uint64_t off = 0
        cdef uint32_t count = 0
        cdef char *keys
        cdef uint64_t *offsets
        cdef int r = 1
        if not self.finished:
            raise UsageError("the layers are not complete")
        batch = _Batch(n)
        keys = PyByteArray_AS_STRING(batch.keys)
        offsets = <uint64_t *>PyByteArray_AS_STRING(batch.offsets)
        while count < n:
            r = fl_merge_next(&self.merge, &e, &batch.heap, &off, &key, &err)
            if r < 0:
                raise_error(&err)
            if r == 0:
                break
            e.path_off += self.heap_len
            batch.put(count, &e)
            if key != NULL:
                memcpy(keys + <size_t>count * FL_MERGE_KEY_LEN, key, FL_MERGE_KEY_LEN)
            offsets[count] = off
            count += 1
        self.heap_len += batch.heap.len
        return batch.take(count) if count else None
