"""What a build tells while it runs: vertices (BuildKit's word: one line of work that people follow) and their output.

The builder calls an ``Observer``; the command has those that print. A vertex belongs to one thread, many are under way
at once: observers lock.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from typing import Protocol

from fastlayer._values import NamedTuple


class Vertex(NamedTuple):
    """``number``: in the order of beginning, from 1; ``name``: ``[build 2/5] RUN make``; ``line``: of the Dockerfile, 0
    for what stands in none."""

    number: int
    name: str
    line: int = 0


class Observer(Protocol):
    """Told by the builder, from any thread."""

    def begin(self, vertex: Vertex) -> None: ...
    def cached(self, vertex: Vertex) -> None:
        """Its result was there already; ``end`` follows."""
        ...

    def missed(self, vertex: Vertex, reason: str) -> None:
        """It has to be done; why the cache has nothing for it."""
        ...

    def note(self, vertex: Vertex, text: str) -> None:
        """A line about the vertex itself."""
        ...

    def output(self, vertex: Vertex, stream: int, data: bytes) -> None:
        """What a step writes to its stdout (1) or stderr (2), as it comes."""
        ...

    def end(self, vertex: Vertex, seconds: float, error: str | None = None) -> None: ...


class Silent:
    """An observer that tells nothing."""

    def begin(self, vertex: Vertex) -> None: ...
    def cached(self, vertex: Vertex) -> None: ...
    def missed(self, vertex: Vertex, reason: str) -> None: ...
    def note(self, vertex: Vertex, text: str) -> None: ...
    def output(self, vertex: Vertex, stream: int, data: bytes) -> None: ...
    def end(self, vertex: Vertex, seconds: float, error: str | None = None) -> None: ...


class Journal:
    """Numbers vertices and passes on what happens to one."""

    def __init__(self, observer: Observer) -> None:
        self.observer = observer
        self.vertices: list[Vertex] = []  # all that began, in order
        self._numbers = count(1)

    @contextmanager
    def vertex(self, name: str, line: int = 0) -> Iterator[Work]:
        """A vertex for the block; an exception is its error."""
        vertex = Vertex(next(self._numbers), name, line)
        started = time.monotonic()
        self.vertices.append(vertex)
        self.observer.begin(vertex)
        try:
            yield Work(vertex, self.observer)
        except BaseException as exc:
            self.observer.end(vertex, time.monotonic() - started, str(exc) or type(exc).__name__)
            raise
        self.observer.end(vertex, time.monotonic() - started)


class Work:
    """One vertex under way."""

    def __init__(self, vertex: Vertex, observer: Observer) -> None:
        self.vertex = vertex
        self._observer = observer

    def cached(self) -> None:
        self._observer.cached(self.vertex)

    def missed(self, reason: str) -> None:
        self._observer.missed(self.vertex, reason)

    def note(self, text: str) -> None:
        self._observer.note(self.vertex, text)

    def output(self, stream: int, data: bytes) -> None:
        self._observer.output(self.vertex, stream, data)
