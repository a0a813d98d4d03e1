"""Maps of sparse archive members: where the stored bytes of a file go.

A map is a list of ``(position, length)`` segments in file order; everything between them is a hole. Four spellings
exist: old GNU (type ``S``), and PAX GNU.sparse 0.0, 0.1 and 1.0. Numbers that are wrong raise ``ValueError``.
"""

from __future__ import annotations

import re

from fastlayer._baseline import numbers

Segment = tuple[int, int]

_FIELD = 12
_LINE = re.compile(rb"([0-9]+)\n")


def pairs(flat: list[int]) -> list[Segment]:
    """``[offset, length, offset, length, ...]`` as segments; an odd count is refused."""
    if len(flat) % 2:
        raise ValueError("sparse map with an odd number of numbers")
    return list(zip(flat[::2], flat[1::2], strict=True))


def old_fields(block: bytes, count: int) -> list[int]:
    """Old GNU: up to ``count`` pairs of 12-byte fields; an empty offset ends the list."""
    flat: list[int] = []
    for number in range(2 * count):
        text = block[number * _FIELD : (number + 1) * _FIELD]
        if number % 2 == 0 and text[0] == 0:
            break
        value = numbers.field(text)
        if value < 0:
            raise ValueError("negative number in a sparse map")
        flat.append(value)
    return flat


class TextMap:
    """GNU.sparse 1.0: decimal lines at the start of the body, in blocks; the first is the number of segments."""

    def __init__(self) -> None:
        self._text = b""
        self._expect: int | None = None
        self.flat: list[int] = []

    def add(self, block: bytes) -> bool:
        """Takes the next block; True when the map is complete (the rest of the block is padding)."""
        self._text += block
        at = 0
        while match := _LINE.match(self._text, at):
            at = match.end()
            value = numbers.decimal(match[1])
            if self._expect is None:
                self._expect = 2 * value
            else:
                self.flat.append(value)
            if len(self.flat) == self._expect:
                return True
        self._text = self._text[at:]
        if self._text:
            numbers.decimal(self._text)  # a line that goes on in the next block
        return False


def check(segments: list[Segment], size: int, stored: int) -> None:
    """Refuses a map that is unordered, overlapping, reaches beyond ``size`` or does not place ``stored`` bytes."""
    end = total = 0
    for position, length in segments:
        if position < end:
            raise ValueError("sparse map out of order")
        end = position + length
        total += length
        if end > size:
            raise ValueError("sparse map reaches beyond the file")
    if total != stored:
        raise ValueError("sparse map does not fit the stored bytes")
