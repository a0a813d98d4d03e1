"""CRC-64 by a table of bytes; see csrc/fl_crc64.h."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from fastlayer.errors import UsageError

_POLYNOMIAL = 0xD800000000000000
_ONES = (1 << 64) - 1


@lru_cache(maxsize=1)
def _table() -> tuple[int, ...]:
    """What each value of the lowest byte becomes when it is shifted out."""
    found = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (_POLYNOMIAL if value & 1 else 0)
        found.append(value)
    return tuple(found)


def update(crc: int, data: Any) -> int:
    """The sum ``crc`` (0 at first), gone on with data."""
    table = _table()
    crc ^= _ONES
    for byte in memoryview(data).cast("B"):
        crc = crc >> 8 ^ table[crc & 255 ^ byte]
    return crc ^ _ONES


def many(data: Any, bounds: Any) -> list[int]:
    """The sums of data[bounds[2i]:bounds[2i+1]], in order."""
    view = memoryview(data)
    pieces = list(zip(bounds[::2], bounds[1::2], strict=True))
    if any(not start <= stop <= len(view) for start, stop in pieces):
        raise UsageError("a piece lies outside of the data")
    return [update(0, view[start:stop]) for start, stop in pieces]
