"""Puts layer tars onto a tree: Python values around csrc/fl_extract.h."""

cimport cython
from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.exc cimport PyErr_CheckSignals
from libc.stdint cimport int64_t, uint8_t, uint32_t
from libc.stdlib cimport calloc, free

from fastlayer import errors as _errors
from fastlayer._native.changes cimport ChangeTable
from fastlayer._native.errors cimport raise_error
from fastlayer._native.libfl cimport (
    FL_FORMAT_AUFS, FL_FORMAT_DIR, FL_FORMAT_OVERLAY, FL_FORMAT_OVERLAY_USERXATTR, FL_LOSS_DEVICE, FL_LOSS_ENOTSUP,
    FL_LOSS_EPERM, FL_LOSS_POLICY, FL_LOSS_SETID, fl_error, fl_extract, fl_extract_begin, fl_extract_end, fl_extract_feed,
    fl_extract_feed_extent,
    fl_extract_free, fl_extract_lost, fl_extract_new, fl_extract_options, fl_extract_read_stats, fl_extract_stats,
    fl_extract_is_placing, fl_extract_place, fl_extract_place_begin, fl_extract_stop, fl_extract_wait, fl_id_map,
    fl_id_range,
)

import errno
import os
from typing import NamedTuple

cdef enum:
    STEP = 1 << 20  # bytes between two looks at signals
    WAIT_MS = 50  # how long a call may keep a signal waiting

_FORMATS = {
    "dir": FL_FORMAT_DIR,
    "overlay": FL_FORMAT_OVERLAY,
    "overlay-userxattr": FL_FORMAT_OVERLAY_USERXATTR,
    "aufs": FL_FORMAT_AUFS,
}
_CAUSES = (
    (FL_LOSS_POLICY, "trusted.*, security.selinux and the storage format's own are not layers' to set"),
    (FL_LOSS_EPERM, os.strerror(errno.EPERM)),
    (FL_LOSS_ENOTSUP, os.strerror(errno.EOPNOTSUPP)),
)


class ExtractStats(NamedTuple):
    """See ``fastlayer._backend.ExtractStats``."""

    entries: int
    payload: int
    whiteouts: int
    warnings: tuple[str, ...]
    skipped_xattrs: int
    needs_lower: bool


cdef fl_id_range *_ranges(object pairs, fl_id_map *ret) except? NULL:
    """Copies (inside, outside, count) ranges; the caller frees them. NULL for none."""
    cdef fl_id_range *ranges
    cdef list values = list(pairs or ())

    ret.ranges = NULL
    ret.count = 0
    if not values:
        return NULL
    ranges = <fl_id_range *>calloc(len(values), sizeof(fl_id_range))
    if ranges is NULL:
        raise MemoryError("fastlayer engine: out of memory")
    try:
        for i, (inside, outside, count) in enumerate(values):
            if not (0 <= inside and 0 <= outside and 0 < count and max(inside, outside) + count <= 1 << 32):
                raise _errors.UsageError(f"{inside}:{outside}:{count} is not a range of ids")
            ranges[i].inside, ranges[i].outside, ranges[i].count = inside, outside, min(count, (1 << 32) - 1)
    except BaseException:
        free(ranges)
        raise
    ret.ranges = ranges
    ret.count = <unsigned int>len(values)
    return ranges


cdef tuple _example(const fl_extract_lost *lost):
    """Attribute name and path of the first."""
    cdef bytes text = PyBytes_FromStringAndSize(<const char *>lost.example.data, <Py_ssize_t>lost.example.len)
    name, _, path = text.partition(b"\0")
    return _errors.show_path(name), _errors.show_path(path)


cdef tuple _warnings(const fl_extract_stats *stats):
    cdef list found = []
    cdef const fl_extract_lost *lost

    if stats.root_is_opaque:
        found.append("the root is opaque, which overlay cannot say: mount this layer without lower ones")
    for kind, cause in _CAUSES:
        lost = &stats.lost[<int>kind]
        if lost.count:
            name, path = _example(lost)
            found.append(f"{lost.count} extended attributes not set: {cause} (first: {name} of {path})")
    lost = &stats.lost[<int>FL_LOSS_SETID]
    if lost.count:
        found.append(f"{lost.count} files without their set-id bits, because the owner is not the entry's"
                     f" (first: {_example(lost)[1]})")
    lost = &stats.lost[<int>FL_LOSS_DEVICE]
    if lost.count:
        found.append(f"{lost.count} devices not made: {os.strerror(errno.EPERM)} (first: {_example(lost)[1]})")
    return tuple(found)


@cython.no_gc_clear  # threads may read the table until __dealloc__
cdef class Extractor:
    """See ``fastlayer._backend.Extractor``."""

    cdef fl_extract *_extract
    cdef bint _busy
    cdef unsigned long long _entries_before, _payload_before
    cdef ChangeTable _table  # that is being placed

    def __cinit__(
        self, int target_fd, *, format="dir", uid_map=None, gid_map=None, ignore_chown=False, skip_devices=False,
        max_entries=0, max_size=0, max_file_size=0, max_pax=1 << 20, fsync=False, int donor=-1,
    ):
        cdef fl_extract_options options
        cdef fl_id_range *uids = NULL
        cdef fl_id_range *gids = NULL
        cdef fl_error err

        if format not in _FORMATS:
            raise _errors.UsageError(f"format={format!r} is unknown: use {', '.join(_FORMATS)}")
        if not 0 < max_pax <= 1 << 30:
            raise _errors.UsageError("max_pax must be 1 to 2**30")
        options.format = _FORMATS[format]
        options.ignore_chown = ignore_chown
        options.skip_devices = skip_devices
        options.fsync = fsync
        options.donor = donor
        options.max_pax = max_pax
        options.max_entries, options.max_size, options.max_file_size = max_entries, max_size, max_file_size
        try:
            uids = _ranges(uid_map, &options.uid_map)
            gids = _ranges(gid_map, &options.gid_map)
            self._extract = fl_extract_new(target_fd, &options, &err)
        finally:
            free(uids)
            free(gids)
        if self._extract is NULL:
            raise_error(&err)

    def __dealloc__(self):
        with nogil:
            fl_extract_free(self._extract)

    cdef int _check(self) except -1:
        if self._extract is NULL:
            raise _errors.UsageError("the extraction was aborted")
        if self._busy:
            raise _errors.UsageError("the extractor is in use by another thread")
        return 0

    cdef int _finish(self, int state, fl_error *err) except -1:
        """Waits for work that goes on; whatever a signal raises stops it."""
        try:
            while state > 0:
                PyErr_CheckSignals()
                with nogil:
                    state = fl_extract_wait(self._extract, WAIT_MS, err)
        except BaseException:
            with nogil:
                fl_extract_stop(self._extract)
            raise
        if state < 0:
            raise_error(err)
        return 0

    @property
    def entries(self):
        if self._extract is NULL:
            return self._entries_before
        return self._entries_before + fl_extract_read_stats(self._extract).entries

    @property
    def payload(self):
        if self._extract is NULL:
            return self._payload_before
        return self._payload_before + fl_extract_read_stats(self._extract).payload

    def begin_layer(self):
        cdef fl_error err
        cdef const fl_extract_stats *stats
        cdef unsigned long long entries, payload
        cdef int r

        self._check()
        stats = fl_extract_read_stats(self._extract)
        entries, payload = stats.entries, stats.payload
        with nogil:
            r = fl_extract_begin(self._extract, &err)
        if r < 0:
            raise_error(&err)
        self._entries_before += entries
        self._payload_before += payload

    def feed(self, buffer):
        cdef const uint8_t[::1] view
        cdef size_t left, n
        cdef const uint8_t *data
        cdef fl_error err
        cdef int r = 0

        self._check()
        view = memoryview(buffer).cast("B")
        left = <size_t>view.shape[0]
        data = &view[0] if left else NULL
        self._busy = True
        try:
            while left:
                n = left if left < STEP else STEP
                with nogil:
                    r = fl_extract_feed(self._extract, data, n, WAIT_MS, &err)
                self._finish(r, &err)
                data += n
                left -= n
                PyErr_CheckSignals()
        finally:
            self._busy = False

    def feed_extent(self, int fd, unsigned long long offset, unsigned long long length):
        cdef fl_error err
        cdef int r

        self._check()
        self._busy = True
        try:
            with nogil:
                r = fl_extract_feed_extent(self._extract, fd, offset, length, WAIT_MS, &err)
            self._finish(r, &err)
            PyErr_CheckSignals()
        finally:
            self._busy = False

    def place(self, ChangeTable table not None, roots, clamp_mtime=None, *, unsigned int jobs=1):
        cdef fl_error err
        cdef int r

        self._check()
        if self._table is not None and self._table is not table:
            raise _errors.UsageError("the table has rows that are not placed yet")
        self._busy = True
        try:
            if self._table is None:
                self._begin_place(table, list(roots), clamp_mtime, jobs)
            with nogil:
                r = fl_extract_place(self._extract, WAIT_MS, &err)
            self._finish(r, &err)
            PyErr_CheckSignals()
        finally:
            self._busy = False
        if not fl_extract_is_placing(self._extract):
            self._table = None
        return self._table is not None

    cdef int _begin_place(self, ChangeTable table, list roots, object clamp_mtime, unsigned int jobs) except -1:
        cdef fl_error err
        cdef int64_t clamp = 0 if clamp_mtime is None else clamp_mtime
        cdef uint32_t count = <uint32_t>len(roots)
        cdef int *fds = <int *>calloc(count + 1, sizeof(int))
        cdef int r

        if fds is NULL:
            raise MemoryError("fastlayer engine: out of memory")
        try:
            for i in range(count):
                fds[i] = roots[i]
            r = fl_extract_place_begin(
                self._extract, &table.table, fds, count, NULL if clamp_mtime is None else &clamp,
                jobs - 1 if jobs else 0, &err)
        finally:
            free(fds)
        if r < 0:
            raise_error(&err)
        self._table = table
        return 0

    @property
    def shared_bytes(self):
        return 0 if self._extract is NULL else fl_extract_read_stats(self._extract).shared

    @property
    def copied_bytes(self):
        return 0 if self._extract is NULL else fl_extract_read_stats(self._extract).copied

    @property
    def donated_bytes(self):
        return 0 if self._extract is NULL else fl_extract_read_stats(self._extract).donated

    def end_layer(self):
        cdef fl_error err
        cdef const fl_extract_stats *stats
        cdef int r

        self._check()
        self._busy = True
        try:
            with nogil:
                r = fl_extract_end(self._extract, WAIT_MS, &err)
            self._finish(r, &err)
        finally:
            self._busy = False
        stats = fl_extract_read_stats(self._extract)
        return ExtractStats(stats.entries, stats.payload, stats.whiteouts, _warnings(stats), stats.skipped_xattrs,
                            stats.needs_lower)

    def abort(self):
        cdef fl_extract *extract = self._extract

        if extract is NULL or self._busy:
            return
        self._entries_before = self.entries
        self._payload_before = self.payload
        self._extract = NULL
        with nogil:
            fl_extract_free(extract)
