"""The overlay fast path: contract in ``fastlayer._backend.Differ``."""

from libc.stdint cimport uint8_t, uint32_t
from libc.stdlib cimport free, malloc

from fastlayer import errors as _errors
from fastlayer._native.changes cimport ChangeTable
from fastlayer._native.errors cimport raise_error
from fastlayer._native.libfl cimport (
    fl_diff_compare, fl_error, fl_upper, fl_upper_finish, fl_upper_free, fl_upper_init, fl_upper_old, fl_upper_options,
    fl_upper_step,     fl_xattr_policy,
)

_COMPARE = {"auto": 0, "metadata": 1, "content": 2}
_XATTRS = {"all": 0, "docker": 1, "none": 2}


cdef int _choice(dict choices, str what, value) except -1:
    if value not in choices:
        raise _errors.UsageError(f"{what}={value!r} is unknown: use {', '.join(choices)}")
    return choices[value]


cdef class UpperDiffer:
    """Walks an upperdir only. The descriptors must stay open until ``finish``; the top lowerdir comes first."""

    cdef fl_upper engine
    cdef bint finished

    def __cinit__(self, int upper_fd, lower_fds, *, compare="auto", xattrs="all", bint userxattr=False,
                  bint details=False):
        cdef fl_error err
        cdef fl_upper_options options
        cdef list numbers = list(lower_fds)
        cdef uint32_t i
        cdef int r
        cdef int *lowers

        options.upper = upper_fd
        options.compare = <fl_diff_compare>_choice(_COMPARE, "compare", compare)
        options.xattrs = <fl_xattr_policy>_choice(_XATTRS, "xattrs", xattrs)
        options.userxattr = userxattr
        options.details = details
        options.lower_count = len(numbers)
        lowers = <int *>malloc((options.lower_count + 1) * sizeof(int))
        if lowers == NULL:
            raise MemoryError
        try:
            for i in range(options.lower_count):
                lowers[i] = numbers[i]
            options.lowers = lowers
            r = fl_upper_init(&self.engine, &options, &err)
        finally:
            free(lowers)
        if r < 0:
            raise_error(&err)

    def __dealloc__(self):
        fl_upper_free(&self.engine)

    @property
    def entries(self):
        return self.engine.entries

    @property
    def bytes_compared(self):
        return self.engine.content.bytes

    def step(self):
        """Does a batch; True while there is more to do."""
        cdef fl_error err
        cdef int r
        with nogil:
            r = fl_upper_step(&self.engine, &err)
        if r < 0:
            raise_error(&err)
        return r > 0

    def unverified(self):
        """Always empty: both sides are files, nothing is left to hashing."""
        return []

    def settle(self, ticket, equal):
        raise _errors.UsageError(f"ticket {ticket} is unknown: an upperdir leaves nothing unverified")

    def finish(self):
        """The change table; once."""
        cdef fl_error err
        cdef int r
        if self.finished:
            raise _errors.UsageError("finish was called before")
        self.finished = True
        with nogil:
            r = fl_upper_finish(&self.engine, &err)
        if r < 0:
            raise_error(&err)
        return ChangeTable.take(&self.engine.table)

    def old_place(self, bytes path not None):
        """Where the lowerdirs have the bytes of their regular file: the number of one, and the path in it."""
        cdef fl_error err
        cdef uint32_t layer
        cdef const uint8_t *where
        cdef size_t length
        cdef const char *asked = path
        cdef int r
        with nogil:
            r = fl_upper_old(&self.engine, asked, &layer, &where, &length, &err)
        if r < 0:
            raise_error(&err)
        return (layer, <bytes>where[:length]) if r > 0 else None
