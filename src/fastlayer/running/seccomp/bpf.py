"""Classic BPF as the kernel takes it for a filter (Documentation/userspace-api/seccomp_filter.rst).

A program is built from its end: whatever a jump leads to is there already, so how far it is is known. A conditional
jump reaches 255 lines; what is farther away is reached by one that is not. A label is the number of a line, counted
from the end.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence

from fastlayer.errors import LimitError

LOAD, AND, RETURN = 0x20, 0x54, 0x06
GO, EQUAL, ABOVE, FROM = 0x05, 0x15, 0x25, 0x35  # jumps: always, ==, >, >= the operand
_REACH = 255
_MOST = 4096  # BPF_MAXINSNS


class Code:
    """A program while it is built."""

    def __init__(self) -> None:
        self._lines: list[bytes] = []
        self._returns: dict[int, int] = {}

    def _line(self, code: int, operand: int, true: int = 0, false: int = 0) -> int:
        self._lines.append(struct.pack("<HBBI", code, true, false, operand & 0xFFFFFFFF))
        return len(self._lines) - 1

    def _distance(self, label: int) -> int:
        return len(self._lines) - label - 1

    def _next(self, label: int) -> None:
        """Makes the label the line that comes next."""
        if self._distance(label):
            self._line(GO, self._distance(label))

    def act(self, action: int) -> int:
        """Ends the program: what becomes of the call."""
        known = self._returns.get(action)
        if known is None or self._distance(known) > _REACH - 2:
            known = self._returns[action] = self._line(RETURN, action)
        return known

    def straight(self, code: int, operand: int, then: int) -> int:
        """A line that goes on with ``then``."""
        self._next(then)
        return self._line(code, operand)

    def jump(self, code: int, operand: int, true: int, false: int) -> int:
        if self._distance(true) > _REACH - 1:
            self._next(true)
            true = len(self._lines) - 1
        if self._distance(false) > _REACH:
            self._next(false)
            false = len(self._lines) - 1
        return self._line(code, operand, self._distance(true), self._distance(false))

    def search(self, starts: Sequence[int], leaf: Callable[[int], int]) -> int:
        """Which range is the accumulator in? ``starts``: of each, in order; ``leaf``: the label for its index."""

        def part(first: int, end: int) -> int:
            if end - first == 1:
                return leaf(first)
            middle = (first + end) // 2
            above = part(middle, end)
            return self.jump(FROM, starts[middle], above, part(first, middle))

        return part(0, len(starts))

    def assembled(self) -> bytes:
        """The program, which begins with the last line that was made. Raises ``LimitError``."""
        if len(self._lines) > _MOST:
            raise LimitError(f"a seccomp filter of {len(self._lines)} lines: the kernel takes {_MOST}")
        return b"".join(reversed(self._lines))
