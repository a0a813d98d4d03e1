"""Threads in a row: bounded work, reused buffers, one error, and a stop that everyone hears.

The stages of a job hand pieces of about 1 MiB to each other through queues. Memory is bounded because the pieces live
in the buffers of a ``Ring``: a stage that is ahead waits for a free buffer. The heavy calls of every stage (engine,
hashes, codecs, system calls) release the GIL, so a thread per stage is enough to keep all processors busy.

The caller's thread runs the last stage, inside ``with Pipeline() as p``: it is the one that hears Ctrl-C. However the
block is left, all threads have been told to stop and have been joined; the first error wins.
"""

from __future__ import annotations

import mmap
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Any, TypeVar

T = TypeVar("T")
R = TypeVar("R")

STEP = 1 << 20  # bytes per call of a stage: half a millisecond of hashing, and within a second of any signal
HEARD = 0.2  # seconds between two looks: the interpreter may begin to wait for a lock just after a signal came
_JOIN_SECONDS = 0.5  # for all: a thread in a foreign read or a long compression is left behind (it is a daemon)


def default_jobs(jobs: int | None) -> int:
    """``jobs``, or the processors this process may use."""
    return jobs if jobs is not None else len(os.sched_getaffinity(0))


class Stopped(Exception):
    """Another stage failed or the caller gave up; never leaves this module's users."""


class _Stop:
    """What a queue delivers to everyone once the pipeline stops."""


_STOP = _Stop()


_here = threading.local()  # .pipeline: the one whose stage this thread runs


def checkpoint() -> None:
    """For work that may be long: raises ``Stopped`` in a stage whose pipeline has stopped."""
    pipeline: Pipeline | None = getattr(_here, "pipeline", None)
    if pipeline is not None:
        pipeline.check()


class Channel:
    """A queue between stages. ``get`` raises ``Stopped`` when the pipeline has stopped."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self._queue: SimpleQueue[Any] = SimpleQueue()
        self.put = self._queue.put

    def get(self) -> Any:
        item = self._next()
        if item is _STOP or self._pipeline.stopped:
            self._queue.put(_STOP)  # for the next reader of this queue
            raise Stopped
        return item

    def _next(self) -> Any:
        while True:
            try:
                return self._queue.get(timeout=HEARD)
            except Empty:
                pass

    def drain(self) -> None:
        """Forgets what is left. Only when all threads have ended."""
        while not self._queue.empty():
            self._queue.get()


class Ring:
    """``count`` buffers of ``size`` bytes that go round. Their memory is touched only as far as it is used."""

    def __init__(self, pipeline: Pipeline, count: int, size: int) -> None:
        self._free = pipeline.channel()
        for _ in range(count):
            self._free.put(memoryview(mmap.mmap(-1, size)))

    def take(self) -> memoryview:
        """A free buffer; waits for one."""
        buffer: memoryview = self._free.get()
        return buffer

    def give(self, buffer: memoryview) -> None:
        self._free.put(buffer)

    def returns(self, buffer: memoryview, users: int) -> Callable[[], None]:
        """What each of the users of a buffer calls when done with it: the last call gives it back."""
        others = [None] * (users - 1)

        def back() -> None:
            try:
                others.pop()
            except IndexError:
                self.give(buffer)

        return back


class Pipeline:
    """The threads and channels of one job; a context manager."""

    def __init__(self) -> None:
        self.stopped = False
        self._error: BaseException | None = None
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._channels: list[Channel] = []

    def channel(self) -> Channel:
        channel = Channel(self)
        with self._lock:
            self._channels.append(channel)
            stopped = self.stopped
        if stopped:  # by a stage that failed at once: whoever waits here would hear of nothing
            channel.put(_STOP)
        return channel

    def spawn(self, stage: Callable[[], object]) -> None:
        """Runs a stage in a thread of its own; its exception stops the pipeline and is raised by ``__exit__``."""
        thread = threading.Thread(target=self._run, args=(stage,), daemon=True)
        self._threads.append(thread)
        thread.start()

    def _run(self, stage: Callable[[], object]) -> None:
        if self.stopped:  # an interrupt while the thread was being started
            return
        _here.pipeline = self
        try:
            stage()
        except Stopped:
            pass
        except BaseException as exc:
            self.stop(exc)

    def stop(self, error: BaseException | None = None) -> None:
        with self._lock:
            if self._error is None and not self.stopped:
                self._error = error
            self.stopped = True
            channels = list(self._channels)
        for channel in channels:
            channel.put(_STOP)

    def check(self) -> None:
        """For stages that loop without a channel."""
        if self.stopped:
            raise Stopped

    def __enter__(self) -> Pipeline:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, _tb: TracebackType | None) -> None:
        if exc is not None:
            self.stop(None if isinstance(exc, Stopped) else exc)
        deadline = time.monotonic() + _JOIN_SECONDS
        for thread in self._threads:
            while thread.is_alive() and not (self.stopped and time.monotonic() > deadline):
                thread.join(HEARD)  # not joined at once: one whose start was interrupted cannot be
        self._threads.clear()
        for channel in self._channels:
            channel.drain()  # buffers are large: they do not wait for the garbage collector
        self._channels.clear()
        if self._error is not None and self._error is not exc:
            raise self._error from None


def map_ordered(function: Callable[[T], R], items: Iterable[T], jobs: int) -> Iterator[R]:
    """``map`` by ``jobs`` threads, results in order, at most ``4 * jobs`` of them ahead.

    With one job, or one item, it is plain ``map``.
    """
    if jobs <= 1:
        yield from map(function, items)
        return
    with Pipeline() as pipeline:
        work, done = pipeline.channel(), pipeline.channel()

        def worker() -> None:
            while True:
                number, item = work.get()
                done.put((number, function(item)))

        source = enumerate(items)
        sent = taken = 0
        ready: dict[int, R] = {}
        for number, item in source:
            if sent < jobs:
                pipeline.spawn(worker)
            work.put((number, item))
            sent += 1
            while sent - taken >= 4 * jobs:
                yield _next_in_order(done, ready, taken)
                taken += 1
        while taken < sent:
            yield _next_in_order(done, ready, taken)
            taken += 1
        pipeline.stop()


def in_order(done: Channel) -> Iterator[Any]:
    """The values of (number, value) pairs that come in any order, by number from 0; the value None is the end."""
    ready: dict[int, Any] = {}
    number = 0
    while (value := _next_in_order(done, ready, number)) is not None:
        yield value
        number += 1


def _next_in_order(done: Channel, ready: dict[int, R], number: int) -> R:
    while number not in ready:
        found, result = done.get()
        ready[found] = result
    return ready.pop(number)
