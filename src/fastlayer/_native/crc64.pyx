"""CRC-64 as tar-split has it; the rules are in csrc/fl_crc64.h."""

from libc.stdint cimport uint8_t, uint64_t

from fastlayer._native.libfl cimport fl_crc64_bitwise, fl_crc64_update

from array import array

from fastlayer import errors as _errors

KERNELS = ("bitwise", "words")


def update(uint64_t crc, const uint8_t[::1] data, kernel=KERNELS[1]):
    """The sum ``crc`` (0 at first), gone on with data."""
    cdef size_t size = data.shape[0]
    cdef bint bitwise = kernel == KERNELS[0]
    if kernel not in KERNELS:
        raise _errors.BackendError(f"crc64 kernel {kernel!r} is not in this build: use one of {', '.join(KERNELS)}")
    if size:
        with nogil:
            crc = fl_crc64_bitwise(crc, &data[0], size) if bitwise else fl_crc64_update(crc, &data[0], size)
    return crc


def many(const uint8_t[::1] data, const uint64_t[::1] bounds):
    """The sums of data[bounds[2i]:bounds[2i+1]], in order."""
    cdef size_t size = data.shape[0], n = bounds.shape[0] // 2, i
    cdef const uint8_t *begin = &data[0] if size else NULL
    cdef object found = array("Q", bytes(8 * n))
    cdef uint64_t[::1] out = found
    for i in range(n):
        if not bounds[2 * i] <= bounds[2 * i + 1] <= size:
            raise _errors.UsageError("a piece lies outside of the data")
    with nogil:
        for i in range(n):
            out[i] = fl_crc64_update(0, begin + bounds[2 * i], bounds[2 * i + 1] - bounds[2 * i])
    return found.tolist()
