"""Content-defined chunking: the specification of csrc/fl_chunk.h, written out."""

from __future__ import annotations

from typing import Any

from fastlayer.errors import BackendError, UsageError

KERNELS = ("scalar",)

_SEED = 0x666173746C617965
_WINDOW = 64
_MASK = (1 << 64) - 1


def _gear_table() -> tuple[int, ...]:
    """256 outputs of splitmix64."""
    state, table = _SEED, []
    for _ in range(256):
        state = (state + 0x9E3779B97F4A7C15) & _MASK
        z = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
        table.append(z ^ (z >> 31))
    return tuple(table)


class Chunker:
    """Finds the cuts of one stream; see ``_backend.Chunker``."""

    def __init__(self, min_size: int, avg_size: int, max_size: int, kernel: str | None = None) -> None:
        self.kernel = "scalar" if kernel is None else kernel
        if self.kernel not in KERNELS:
            raise BackendError(f"chunk kernel {kernel!r} is not in this build: use one of {', '.join(KERNELS)}")
        if not (_WINDOW <= min_size <= avg_size <= max_size <= 1 << 31 and avg_size >= 256):
            raise UsageError("chunk sizes need 64 <= min <= avg <= max <= 2^31, avg >= 256")
        bits = avg_size.bit_length() - 1
        self._min, self._avg, self._max = min_size, avg_size, max_size
        self._limit_small = 1 << (64 - (bits + 2))
        self._limit_large = 1 << (64 - (bits - 2))
        self._gear = _gear_table()
        self._base = 0
        self._length = 0
        self._hash = 0

    def feed(self, buffer: Any, final: bool) -> list[int]:
        cuts: list[int] = []
        gear, low, length, value = self._gear, self._min, self._length, self._hash
        for byte in memoryview(buffer).cast("B"):
            value = ((value << 1) + gear[byte]) & _MASK
            length += 1
            if length >= low and self._ends(length, value):
                self._base += length
                cuts.append(self._base)
                length = 0
        if final and length:
            self._base += length
            cuts.append(self._base)
            length = 0
        self._length, self._hash = length, value
        return cuts

    def _ends(self, length: int, value: int) -> bool:
        """Is a chunk of at least min bytes complete when its last 64 bytes hash to value?"""
        limit = self._limit_small if length < self._avg else self._limit_large
        return value < limit or length == self._max
