"""Content-defined chunking; the rules are in csrc/fl_chunk.h."""

from fastlayer import errors as _errors
from fastlayer._native.errors cimport raise_error
from fastlayer._native.libfl cimport fl_chunk, fl_chunk_init, fl_chunk_next, fl_error, uint8_t, uint64_t

cdef enum:
    CUTS = 512  # gathered before they become Python integers

KERNELS = ("scalar", "stripes")  # enum fl_chunk_kernel


cdef class Chunker:
    """Finds the cuts of one stream; see ``_backend.Chunker``."""

    cdef fl_chunk _chunk
    cdef readonly str kernel

    def __cinit__(self, uint64_t min_size, uint64_t avg_size, uint64_t max_size, kernel=None):
        cdef fl_error err

        self.kernel = KERNELS[1] if kernel is None else kernel
        if self.kernel not in KERNELS:
            raise _errors.BackendError(f"chunk kernel {kernel!r} is not in this build: use one of {', '.join(KERNELS)}")
        if fl_chunk_init(&self._chunk, min_size, avg_size, max_size, KERNELS.index(self.kernel), &err) < 0:
            raise_error(&err)

    def feed(self, const uint8_t[::1] buffer, bint final):
        cdef size_t size = buffer.shape[0], pos = 0
        cdef const uint8_t *data = &buffer[0] if size else NULL
        cdef uint64_t[CUTS] found
        cdef size_t count, i
        cdef list cuts = []

        while pos < size:
            count = 0
            with nogil:
                while count < CUTS and fl_chunk_next(&self._chunk, data, size, &pos):
                    found[count] = self._chunk.base
                    count += 1
                    if pos == size:
                        break
            for i in range(count):
                cuts.append(found[i])
        if final and self._chunk.length:
            self._chunk.base += self._chunk.length
            self._chunk.length = 0
            cuts.append(self._chunk.base)
        return cuts
