"""Blobs of a repository, several at once and each by several connections, read in order while their bytes arrive.

Threads fetch ranges of ``SEGMENT`` bytes, those first that somebody waits for, and write them to their places in the
file of the blob (``kept.py``); a reader follows behind what has come without a gap. So no bytes are held in memory but
those of one read per connection, and what came in any order survives the process. There are two connections at first,
and more while readers have to wait: where the processor is the limit, more of them would only be in its way.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any

from fastlayer.content.ingest import new_hash
from fastlayer.errors import DigestMismatchError, RegistryError
from fastlayer.layer.pipeline import HEARD, checkpoint
from fastlayer.oci import mediatypes
from fastlayer.oci.digest import Digest
from fastlayer.transfer.events import BlobProgress, Doing, Observer, silent
from fastlayer.transfer.pulling.spans import Spans

if TYPE_CHECKING:
    from fastlayer.oci.descriptor import Descriptor
    from fastlayer.registry.blobs import BlobStream
    from fastlayer.registry.calls import Pause
    from fastlayer.registry.client import Repository
    from fastlayer.transfer.pulling.kept import KeptBlob

SEGMENT = 4 << 20  # bytes that are asked for at once
_NOTED = 256 << 10  # bytes after which the log is told, at the latest
_READ = 256 << 10
_FIRST = 2  # connections at the beginning
_WINDOW = 0.1  # seconds: who has waited for half of them is worth more connections
_JOIN = 2.0  # seconds for all threads


class _NoRangesError(Exception):
    """The server gives all of a blob whatever is asked for."""


class Downloads:
    """What comes from one repository; a context manager, whose end stops everything. For threads.

    ``connections``: at most so many at once; ``pause``: how long to wait after a failure (``calls.Pause``).
    ``received``: bytes that have come over the wire.
    """

    def __init__(self, repository: Repository, *, connections: int, pause: Pause, observe: Observer = silent) -> None:
        self.received = 0
        self.changed = threading.Condition()
        self._repository = repository
        self._most = connections
        self._allowed = min(_FIRST, connections)
        self._since, self._waited = time.monotonic(), 0.0
        self._pause = pause
        self._observe = observe
        self._stop = threading.Event()
        self._downloads: list[Download] = []
        self._threads: list[threading.Thread] = []

    def begin(self, blob: Descriptor, kept: KeptBlob) -> Download:
        """Fetches what is missing of a blob, of which we have the file, in the background."""
        with self.changed:
            found = Download(self, blob, kept)
            self._downloads.append(found)
            self._grow()
            self.changed.notify_all()
            self.tell(found, "receiving")
        return found

    def tell(self, download: Download, doing: Doing) -> None:
        """With the lock held."""
        blob = download.blob
        self._observe(BlobProgress(blob.digest, doing, download.moved, download.kept_before, blob.size))

    def report(self, progress: BlobProgress) -> None:
        """About a blob that comes in another way."""
        with self.changed:
            self._observe(progress)

    def hungry(self, seconds: float) -> None:
        """A reader has waited so long, perhaps for a few bytes only. With the lock held."""
        now = time.monotonic()
        self._waited += seconds
        if now - self._since < _WINDOW:
            return
        if self._waited >= (now - self._since) / 2 and self._allowed < self._most:
            self._allowed = min(2 * self._allowed, self._most)
            self._grow()
        self._since, self._waited = now, 0.0

    def _grow(self) -> None:
        while len(self._threads) < self._allowed and not self._stop.is_set():
            self._threads.append(threading.Thread(target=self._work, daemon=True))
            self._threads[-1].start()

    def _work(self) -> None:
        while (found := self._next()) is not None:
            download, start, end = found
            error: BaseException | None = None
            try:
                self._fetch(download, start, end)
            except _NoRangesError:
                pass
            except BaseException as exc:  # of a thread nobody would hear: the reader raises it
                error = exc
            with self.changed:
                download.at_work.remove((start, end))
                download.error = download.error or error
                self.changed.notify_all()

    def _next(self) -> tuple[Download, int, int] | None:
        """What to fetch next: of those that are waited for first, then in the order of their beginning."""
        with self.changed:
            while not self._stop.is_set():
                for download in sorted(self._downloads, key=lambda one: not one.awaited):
                    if (span := download.claim()) is not None:
                        return download, *span
                self.changed.wait()
        return None

    # ---- one range -----------------------------------------------------------------------------------------

    def _fetch(self, download: Download, start: int, end: int) -> None:
        """The range, however often the connection breaks."""
        failures = 0
        while start < end and not self._stop.is_set() and download.error is None:
            try:
                self._some(download, start, end)
                reached = download.front(start)
            except RegistryError as exc:
                reached = download.front(start)
                failures = 0 if reached > start else failures
                seconds = self._pause(failures, exc.status, exc.headers) if exc.transient else None
                if seconds is None:
                    raise
                failures += 1
                self._stop.wait(seconds)
            start = min(reached, end)

    def _some(self, download: Download, start: int, end: int) -> None:
        """From ``start`` on, as far as it comes."""
        with download.opened(self._repository, start, end) as stream:
            at = noted = start
            skip = start - stream.offset
            try:
                while at < end and not self._stop.is_set() and download.error is None:
                    data = stream.read(_READ if skip else min(_READ, end - at))
                    if not data:
                        break
                    useful = data[skip:]
                    skip = max(0, skip - len(data))
                    self._take(download, useful[: end - at], at, len(data))
                    at += min(len(useful), end - at)
                    if at - noted >= _NOTED:
                        download.kept.note(noted, at)
                        noted = at
            finally:
                if at > noted:
                    download.kept.note(noted, at)

    def _take(self, download: Download, data: bytes, at: int, received: int) -> None:
        """Bytes for their place."""
        download.kept.write(data, at)
        with self.changed:
            self.received += received
            download.moved += received
            download.kept.spans.add(at, at + len(data))
            self.tell(download, "receiving")
            if download.awaited:
                self.changed.notify_all()

    # ---- the end -------------------------------------------------------------------------------------------

    def __enter__(self) -> Downloads:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self._stop.set()
        with self.changed:
            self.changed.notify_all()
            busy = any(download.at_work for download in self._downloads)
        if busy:
            self._repository.give_up()
        for thread in self._threads:
            thread.join(_JOIN)
        if not any(thread.is_alive() for thread in self._threads):  # else it would write into what we have closed
            for download in self._downloads:
                download.kept.close()


class Download:
    """A blob that comes. ``moved``: bytes of it that have come over the wire, ``kept_before``: those that were here.

    ``readers``: how many read it, ``awaited``: how many of them wait for the next bytes; ``at_work``: ranges that are
    being fetched.
    """

    def __init__(self, downloads: Downloads, blob: Descriptor, kept: KeptBlob) -> None:
        self.blob = blob
        self.kept = kept
        self.kept_before = kept.spans.total
        self.moved = self.awaited = self.readers = 0
        self.error: BaseException | None = None
        self.at_work: list[tuple[int, int]] = []
        self._downloads = downloads
        self._etag = ""
        self._single = False  # the server knows no ranges: one connection, from the beginning
        self._addresses = _addresses(blob)

    def claim(self) -> tuple[int, int] | None:
        """The next range to be fetched, which is at work then. With the lock held."""
        if self.error is not None or (self._single and self.at_work):
            return None
        gap = Spans([*self.kept.spans, *self.at_work]).gap(0, self.blob.size)
        if gap is None:
            return None
        start, end = gap
        found = (start, self.blob.size if self._single else min(end, start + SEGMENT))
        self.at_work.append(found)
        return found

    def front(self, at: int) -> int:
        """The end of what is there from ``at`` on without a gap."""
        with self._downloads.changed:
            return self.kept.spans.front(at)

    @contextmanager
    def opened(self, repository: Repository, start: int, end: int) -> Iterator[BlobStream]:
        """The bytes from ``start`` on, or all of them where the server knows no ranges and nobody else is at work."""
        ranged = (start, end) != (0, self.blob.size) and not self._single
        with self._stream(repository, start if ranged else 0, end if ranged else None) as stream:
            if stream.offset != start and not self._single:
                self._single = True
                raise _NoRangesError
            self._etag = self._etag or stream.etag
            yield stream

    def _stream(self, repository: Repository, start: int, end: int | None) -> BlobStream:
        """From the first address that has it."""
        while True:
            address = self._addresses[0]
            try:
                return repository.blob(
                    self.blob.digest, offset=start, end=end, size=self.blob.size, etag=self._etag, address=address
                )
            except RegistryError as exc:
                if exc.transient or len(self._addresses) < 2:
                    raise
                self._addresses = self._addresses[1:]

    # ---- reading -------------------------------------------------------------------------------------------

    @contextmanager
    def reading(self, *, hashed: bool) -> Iterator[Reader]:
        """A file object of all of its bytes, from the beginning, for the block."""
        with self._downloads.changed:
            self.readers += 1
        try:
            yield Reader(self, hashed=hashed)
        finally:
            with self._downloads.changed:
                self.readers -= 1

    def wait(self, at: int) -> int:
        """Waits for bytes from ``at`` on; how far there are any. Raises what the download failed with."""
        changed = self._downloads.changed
        with changed:
            self.awaited += 1
            try:
                while (front := self.kept.spans.front(at)) == at:
                    if self.error is not None:
                        raise self.error
                    since = time.monotonic()
                    changed.wait(HEARD)
                    checkpoint()
                    self._downloads.hungry(time.monotonic() - since)
            finally:
                self.awaited -= 1
        return front

    @property
    def is_complete(self) -> bool:
        return self.front(0) == self.blob.size

    def spoilt(self) -> None:
        """What has come is something else: it is thrown away, and nothing more of it comes from here."""
        with self._downloads.changed:
            self.error = self.error or DigestMismatchError(f"{self.blob.digest}: something else came")
            self.settle()
            self.kept.reset()

    def settle(self) -> None:
        """Waits until nobody works on the file."""
        with self._downloads.changed:
            while self.at_work:
                self._downloads.changed.wait(HEARD)

    def end(self) -> None:
        """It has become a blob of the store."""
        with self._downloads.changed:
            self._downloads.tell(self, "done")


class Reader:
    """Binary file object over a download, whose bytes nobody has verified; ``digest``: of those read, if ``hashed``."""

    def __init__(self, download: Download, *, hashed: bool) -> None:
        self.name = f"layer {download.blob.digest}"
        self.identity = download.kept.identity
        self._download = download
        self._at = 0
        self._hasher = new_hash(download.blob.digest.algorithm) if hashed else None

    @property
    def digest(self) -> Digest:
        assert self._hasher is not None
        return Digest(f"{self._download.blob.digest.algorithm}:{self._hasher.hexdigest()}")

    def readinto(self, buffer: Any) -> int:
        if self._at == self._download.blob.size:
            return 0
        front = self._download.wait(self._at)
        view = memoryview(buffer).cast("B")
        count = self._download.kept.readinto(view[: front - self._at], self._at)
        if self._hasher is not None:
            self._hasher.update(view[:count])
        self._at += count
        return count

    def read(self, size: int = -1, /) -> bytes:
        """For readers that do not bring a buffer."""
        buffer = bytearray(size if size > 0 else 1 << 20)
        return bytes(memoryview(buffer)[: self.readinto(buffer)])


def _addresses(blob: Descriptor) -> tuple[str, ...]:
    """Where it is: in the repository (an empty address); a foreign layer where its descriptor says, first."""
    urls = blob.extra.get("urls") if mediatypes.is_foreign(blob.media_type) else None
    named = tuple(url for url in urls if isinstance(url, str) and url) if isinstance(urls, list) else ()
    return (*named, "")
