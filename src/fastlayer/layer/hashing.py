"""SHA-256 beside everything else: streams of buffers, hashed two at a time by a few threads.

Two streams hashed together cost little more than one (csrc/fl_sha256.h), and the jobs of a process have many: the blob
and the tar of every layer. So they share the threads, half as many as there are processors, and a thread takes the next
buffers of two streams whenever two have some waiting. On a busy machine that is nearly always.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from fastlayer import _backend
from fastlayer.layer.pipeline import HEARD, default_jobs
from fastlayer.oci.digest import Digest, sha256_digest

_ENOUGH = 2 << 20  # bytes that are worth hashing alone
_LINGER = 0.001  # seconds that less than that waits for a second stream

Done = Callable[[], object]


class HashStream:
    """One stream, filled by one thread at a time."""

    def __init__(self, service: _Service) -> None:
        self.sha = service.module.Sha256()
        self.waiting: deque[tuple[memoryview, Done | None]] = deque()
        self.busy = False  # in a thread's hands, or in the queue
        self._service = service

    def put(self, data: Any, done: Done | None = None) -> None:
        """Hashes ``data`` soon; ``done`` is called (by another thread) when its memory may be used again."""
        self._service.put(self, memoryview(data), done)

    def finish(self) -> Digest:
        """Waits for all that was put."""
        self._service.end(self)
        return sha256_digest(self.sha.hexdigest())


class _Service:
    """The threads of a process."""

    def __init__(self) -> None:
        self.module = _backend.hashing()
        self.pid = os.getpid()
        self.users = 1
        self._queue: deque[HashStream] = deque()  # streams with something waiting, in nobody's hands
        self._lock = threading.Lock()
        self._work = threading.Condition(self._lock)
        self._idle = threading.Condition(self._lock)
        self._open: set[HashStream] = set()  # those of which more may come
        self._stopped = False
        self._most = max(1, default_jobs(None) // 2)
        self._threads: list[threading.Thread] = []

    def put(self, stream: HashStream, data: memoryview, done: Done | None) -> None:
        if not len(data):
            if done is not None:
                done()
            return
        with self._lock:
            self._open.add(stream)
            if not stream.busy:
                self._need_thread()
                stream.busy = True
                self._queue.append(stream)
                self._work.notify()
            stream.waiting.append((data, done))

    def _need_thread(self) -> None:
        if len(self._threads) < min(self._most, len(self._queue) + 1):
            thread = threading.Thread(target=self._run, daemon=True)
            thread.start()
            self._threads.append(thread)

    def end(self, stream: HashStream) -> None:
        """No more comes; returns when all of it is hashed."""
        with self._lock:
            self._open.discard(stream)
            while stream.busy:
                self._idle.wait(HEARD)

    def forget(self, stream: HashStream) -> None:
        """Hashes no more of it; when this returns none of its buffers is in use."""
        with self._lock:
            stream.waiting.clear()
            if stream in self._queue:
                self._queue.remove(stream)
                stream.busy = False
        self.end(stream)

    def stop(self) -> None:
        with self._lock:
            self._stopped = True
            self._work.notify_all()
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        while True:
            with self._lock:
                while not self._queue and not self._stopped:
                    self._work.wait()
                if self._should_linger():
                    self._work.wait(_LINGER)
                if not self._queue:
                    if self._stopped:
                        return
                    continue
                taken = [self._queue.popleft() for _ in range(min(2, len(self._queue)))]
                jobs = [(stream, *stream.waiting[0]) for stream in taken]
            count = min(len(data) for _, data, _ in jobs)
            if len(jobs) == 1:
                jobs[0][0].sha.update(jobs[0][1])
            else:
                (one, data, _), (other, more, _) = jobs
                self.module.update_both(one.sha, data[:count], other.sha, more[:count])
            for stream, _, done in jobs:
                self._advance(stream, count, done)

    def _should_linger(self) -> bool:
        """Whether the only stream that waits should have company soon and has buffers to spare until then."""
        if len(self._queue) != 1 or len(self._open) < 2:
            return False
        stream = self._queue[0]
        return stream in self._open and sum(len(data) for data, _ in stream.waiting) < _ENOUGH

    def _advance(self, stream: HashStream, count: int, done: Done | None) -> None:
        """The first ``count`` bytes of what waited first are hashed."""
        with self._lock:
            complete = True
            if stream.waiting:  # else it was forgotten
                rest = stream.waiting[0][0][count:]
                complete = not len(rest)
                if complete:
                    stream.waiting.popleft()
                else:
                    stream.waiting[0] = (rest, done)
            if stream.waiting:
                self._queue.append(stream)
                self._work.notify()
            else:
                stream.busy = False
                self._idle.notify_all()
        if complete and done is not None:
            done()


_service: _Service | None = None
_guard = threading.Lock()


@contextmanager
def hashing(count: int) -> Iterator[list[HashStream]]:
    """``count`` new streams. Left by an exception, what waits is not hashed any more."""
    service = _join()
    streams = [HashStream(service) for _ in range(count)]
    try:
        yield streams
    finally:
        try:
            for stream in streams:
                service.forget(stream)
        finally:
            _leave(service)


def _join() -> _Service:
    global _service
    with _guard:
        if _service is None or _service.pid != os.getpid():  # threads do not survive a fork
            _service = _Service()
        else:
            _service.users += 1
        return _service


def _leave(service: _Service) -> None:
    global _service
    with _guard:
        service.users -= 1
        if service.users:
            return
        if _service is service:
            _service = None
    service.stop()
