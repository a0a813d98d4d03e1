"""Exact copies: whole trees, and single paths as overlayfs copies them up."""

from fastlayer import errors as _errors
from fastlayer._native.errors cimport raise_error
from fastlayer._native.libfl cimport (
    FL_BACKING_LAYERS, FL_CLONE_LIVE, fl_backing, fl_clone, fl_clone_free, fl_clone_new, fl_clone_read_stats, fl_clone_stats, fl_clone_step, fl_copyup,
    fl_copyup_free, fl_copyup_new, fl_copyup_read_stats, fl_copyup_step, fl_error,
)

cdef enum:
    STEP_MS = 50  # how long a step may keep a signal waiting


cdef tuple _values(const fl_clone_stats *s):
    return (s.entries, s.bytes, s.shared, s.copied, s.sockets, s.lost_owners, s.lost_xattrs, s.changed)


cdef int _fill_backing(fl_backing *out, object behind) except -1:
    out.count = 0
    out.target = -1
    if behind is None:
        return 0
    layers, out.target = behind
    if len(layers) > FL_BACKING_LAYERS:
        raise _errors.UsageError(f"{len(layers)} layers: at most {FL_BACKING_LAYERS}")
    for layer in layers:
        out.layers[out.count] = layer
        out.count += 1
    return 0


cdef class TreeCloner:
    """Copies the tree of ``src_fd`` into the empty private directory ``dst_fd``; see ``_backend.TreeCloner``."""

    cdef fl_clone *_clone

    def __cinit__(self, int src_fd, int dst_fd, *, jobs=None, bint live=False, behind=None):
        cdef unsigned threads = 0 if jobs is None else jobs
        cdef fl_backing backing
        cdef fl_error err

        if jobs is not None and jobs < 1:
            raise _errors.UsageError("jobs must be at least 1")
        _fill_backing(&backing, behind)
        self._clone = fl_clone_new(src_fd, dst_fd, threads, FL_CLONE_LIVE if live else 0, &backing, &err)
        if self._clone is NULL:
            raise_error(&err)

    def __dealloc__(self):
        with nogil:
            fl_clone_free(self._clone)

    def step(self):
        cdef fl_error err
        cdef int r

        if self._clone is NULL:
            raise _errors.UsageError("the clone was aborted")
        with nogil:
            r = fl_clone_step(self._clone, STEP_MS, &err)
        if r < 0:
            raise_error(&err)
        return r > 0

    def stats(self):
        cdef fl_clone_stats s

        if self._clone is NULL:
            raise _errors.UsageError("the clone was aborted")
        fl_clone_read_stats(self._clone, &s)
        return _values(&s)

    def abort(self):
        with nogil:
            fl_clone_free(self._clone)
        self._clone = NULL


cdef class PathCopier:
    """Copies one path up; see ``_backend.PathCopier``."""

    cdef fl_copyup *_copy

    def __cinit__(self, int lower_fd, int upper_fd, int work_fd, bytes path not None, *, behind=None):
        cdef fl_backing backing
        cdef fl_error err

        if b"\0" in path:
            raise _errors.UsageError("a path cannot contain a NUL byte")
        _fill_backing(&backing, behind)
        self._copy = fl_copyup_new(lower_fd, upper_fd, work_fd, path, &backing, &err)
        if self._copy is NULL:
            raise_error(&err)

    def __dealloc__(self):
        with nogil:
            fl_copyup_free(self._copy)

    def step(self):
        cdef fl_error err
        cdef int r

        if self._copy is NULL:
            raise _errors.UsageError("the copy was aborted")
        with nogil:
            r = fl_copyup_step(self._copy, STEP_MS, &err)
        if r < 0:
            raise_error(&err)
        return r > 0

    def stats(self):
        cdef fl_clone_stats s

        if self._copy is NULL:
            raise _errors.UsageError("the copy was aborted")
        fl_copyup_read_stats(self._copy, &s)
        return _values(&s)

    def abort(self):
        with nogil:
            fl_copyup_free(self._copy)
        self._copy = NULL
