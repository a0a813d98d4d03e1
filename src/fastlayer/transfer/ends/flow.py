"""What one thread writes and another one reads, a few MiB ahead: between a layer's writer and the body of a request.

A writer wants a file to write to, a request wants its pieces one after the other. Between them nothing is kept but
what has not been read yet. The writer can be run again from the start; what is skipped then costs no more than making
it.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

from fastlayer.layer.pipeline import HEARD

T = TypeVar("T")

_AHEAD = 4 << 20  # bytes that may wait for the reader
_JOIN_SECONDS = 5.0  # for a writer whose reader is gone: it stops at its next piece


class _LeftError(Exception):
    """Nobody reads any more; only the writer sees it."""


class Flow(Generic[T]):
    """The pieces, to be iterated over once; raises what the writer raises. ``result``: of the writer, at the end."""

    def __init__(self, write: Callable[[Any], T], skip: int) -> None:
        self.name = "the transfer"  # for messages of the writer
        self._write = write
        self._skip = skip
        self._pieces: deque[bytes | memoryview] = deque()
        self._held = 0
        self._change = threading.Condition()
        self._ended = self._left = False
        self._error: BaseException | None = None
        self._result: list[T] = []
        self._thread = threading.Thread(target=self._run, daemon=True)

    @property
    def result(self) -> T:
        return self._result[0]

    def write(self, data: Any) -> int:
        """For the writer. What may change when this returns is copied."""
        view = memoryview(data)
        cut = min(self._skip, len(view))
        self._skip -= cut
        if cut < len(view):
            rest = view[cut:]
            self._put(rest if isinstance(view.obj, bytes) else bytes(rest))
        return len(view)

    def _put(self, piece: bytes | memoryview) -> None:
        with self._change:
            while self._held >= _AHEAD and not self._left:
                self._change.wait(HEARD)
            if self._left:
                raise _LeftError
            self._pieces.append(piece)
            self._held += len(piece)
            self._change.notify_all()

    def _run(self) -> None:
        try:
            self._result.append(self._write(self))
        except BaseException as exc:
            self._error = exc
        with self._change:
            self._ended = True
            self._change.notify_all()

    def __iter__(self) -> Iterator[bytes | memoryview]:
        while True:
            with self._change:
                while not self._pieces and not self._ended:
                    self._change.wait(HEARD)
                if not self._pieces:
                    break
                piece = self._pieces.popleft()
                self._held -= len(piece)
                self._change.notify_all()
            yield piece
        if self._error is not None:
            raise self._error

    def leave(self) -> None:
        with self._change:
            self._left = True
            self._pieces.clear()
            self._change.notify_all()
        self._thread.join(_JOIN_SECONDS)

    def start(self) -> None:
        self._thread.start()


@contextmanager
def flowing(write: Callable[[Any], T], skip: int = 0) -> Iterator[Flow[T]]:
    """What ``write`` writes to the file it is given, but for the first ``skip`` bytes; it stops with the block."""
    flow = Flow(write, skip)
    flow.start()
    try:
        yield flow
    finally:
        flow.leave()
