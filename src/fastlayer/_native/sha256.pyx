"""SHA-256 with the processor's instructions; see csrc/fl_sha256.h."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport uint8_t, uint64_t

from fastlayer._native.libfl cimport (
    fl_sha256, fl_sha256_available, fl_sha256_digest, fl_sha256_init, fl_sha256_many, fl_sha256_update,
    fl_sha256_update2,
)

from fastlayer import errors as _errors

AVAILABLE = bool(fl_sha256_available())


cdef class Sha256:
    """See ``fastlayer._backend.Sha256``."""

    cdef fl_sha256 _stream

    def __cinit__(self):
        if not AVAILABLE:
            raise _errors.BackendError("this processor has no SHA instructions: use hashlib")
        fl_sha256_init(&self._stream)

    def update(self, const uint8_t[::1] data):
        cdef size_t size = data.shape[0]

        if size:
            with nogil:
                fl_sha256_update(&self._stream, &data[0], size)

    def hexdigest(self):
        cdef uint8_t[32] out

        fl_sha256_digest(&self._stream, out)
        return (<bytes>(<char *>out)[:32]).hex()


def update_both(Sha256 a not None, const uint8_t[::1] data_a, Sha256 b not None, const uint8_t[::1] data_b):
    cdef size_t size_a = data_a.shape[0], size_b = data_b.shape[0]

    if a is b:
        raise _errors.UsageError("two streams are needed")
    if size_a and size_b:
        with nogil:
            fl_sha256_update2(&a._stream, &data_a[0], size_a, &b._stream, &data_b[0], size_b)
    else:
        a.update(data_a)
        b.update(data_b)


def digests(const uint8_t[::1] data, const uint64_t[::1] bounds):
    """The digests of data[bounds[2i]:bounds[2i+1]], one behind the other."""
    cdef size_t size = data.shape[0], n = bounds.shape[0] // 2, i
    cdef bytes found
    cdef uint8_t *out

    if not AVAILABLE:
        raise _errors.BackendError("this processor has no SHA instructions: use hashlib")
    if not n:
        return b""
    for i in range(n):
        if not bounds[2 * i] <= bounds[2 * i + 1] <= size:
            raise _errors.UsageError("a piece lies outside of the data")
    found = PyBytes_FromStringAndSize(NULL, n * 32)
    out = <uint8_t *>PyBytes_AS_STRING(found)
    with nogil:
        fl_sha256_many(&data[0] if size else NULL, &bounds[0], n, out)
    return found
