"""SHA-256 with the processor's instructions; see csrc/fl_sha256.h."""

from fastlayer import errors as _errors
from fastlayer._native.libfl cimport (
    fl_sha256, fl_sha256_available, fl_sha256_digest, fl_sha256_init, fl_sha256_update, fl_sha256_update2, uint8_t,
)

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
