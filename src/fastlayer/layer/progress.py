"""Progress: what a long call tells its caller, a few times a second."""

from __future__ import annotations

import time
from collections.abc import Callable

from fastlayer._values import NamedTuple

_INTERVAL_NS = 100_000_000  # ten reports a second are enough for any display


class Progress(NamedTuple):
    """One report. ``bytes`` and ``total`` are bytes of the stage's input; ``total`` is None when unknown."""

    stage: str
    entries: int
    bytes: int
    total: int | None = None


ProgressCallback = Callable[[Progress], object]


class Reporter:
    """Calls back at most every tenth of a second, and once when a stage ends.

    An exception of the callback stops the work like any other error.
    """

    def __init__(self, callback: ProgressCallback | None) -> None:
        self._callback = callback
        self._next = 0

    def update(self, stage: str, entries: int, done: int, total: int | None = None) -> None:
        if self._callback is None:
            return
        now = time.monotonic_ns()
        if now >= self._next:
            self._next = now + _INTERVAL_NS
            self._callback(Progress(stage, entries, done, total))

    def end(self, stage: str, entries: int, done: int, total: int | None = None) -> None:
        if self._callback is not None:
            self._callback(Progress(stage, entries, done, total))
