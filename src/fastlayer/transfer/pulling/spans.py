"""Which bytes of a blob are there."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator


class Spans:
    """A set of numbers, as sorted ranges that neither touch nor overlap; ends are behind the last."""

    def __init__(self, spans: Iterable[tuple[int, int]] = ()) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []
        for start, end in spans:
            self.add(start, end)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return iter(zip(self._starts, self._ends, strict=True))

    @property
    def total(self) -> int:
        return sum(self._ends) - sum(self._starts)

    def add(self, start: int, end: int) -> None:
        """Those from ``start`` to before ``end``."""
        if start >= end:
            return
        first, behind = bisect_left(self._ends, start), bisect_right(self._starts, end)
        if first < behind:
            start, end = min(start, self._starts[first]), max(end, self._ends[behind - 1])
        self._starts[first:behind] = [start]
        self._ends[first:behind] = [end]

    def front(self, at: int) -> int:
        """The end of what is there from ``at`` on without a gap; ``at`` itself if nothing is."""
        number = bisect_right(self._starts, at) - 1
        return max(at, self._ends[number]) if number >= 0 else at

    def gap(self, at: int, end: int) -> tuple[int, int] | None:
        """The first range from ``at`` on and before ``end`` that is missing."""
        start = self.front(at)
        if start >= end:
            return None
        number = bisect_left(self._starts, start)
        return start, min(end, self._starts[number]) if number < len(self._starts) else end
