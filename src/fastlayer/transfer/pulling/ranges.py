"""Parts of a blob, ahead of who reads them: few requests, several at a time, in bounded memory.

Parts with little between them are fetched as one. Where a registry answers a request for many ranges at once
(RFC 9110, 14.6: ``multipart/byteranges``) each request asks for many; else each asks for one, and more is fetched that
nobody wanted. Nothing is verified here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING
from weakref import WeakSet

from fastlayer._values import NamedTuple
from fastlayer.errors import RegistryError
from fastlayer.layer.pipeline import Channel, Pipeline
from fastlayer.registry.blobs import open_blob, parse_range, short

if TYPE_CHECKING:
    from fastlayer.oci.digest import Digest
    from fastlayer.registry.calls import Calls, RepositoryCalls

_REQUEST = 2 << 20  # bytes of an answer
_AHEAD = 6  # answers that may wait for who reads them
_CONNECTIONS = 4
_PARTS = 120  # ranges of a request: their header must be taken by every server
_GAP_IN_MANY = 512  # bytes that cost less than one more part of an answer
_GAP = 32 << 10  # bytes that cost less than one more request
_PART_HEAD = 1024  # bytes that a part may have besides its own
_one_at_a_time: WeakSet[Calls] = WeakSet()  # registries that have shown that they know one range only
_HEAD = re.compile(rb"content-range:[ \t]*([^\r\n]*)", re.IGNORECASE)


class Span(NamedTuple):
    """Bytes ``start`` to before ``end`` of the blob."""

    start: int
    end: int


class NoRangesError(RegistryError):
    """A registry gives whole blobs only."""


def joined(spans: Sequence[Span], gap: int) -> list[Span]:
    """Spans, in order, with less than ``gap`` bytes between them as one."""
    found: list[Span] = []
    for span in spans:
        if found and span.start - found[-1].end < gap:
            found[-1] = Span(found[-1].start, max(found[-1].end, span.end))
        else:
            found.append(span)
    return found


def requests(spans: Sequence[Span], parts: int) -> list[list[Span]]:
    """What to ask for, request by request, each of about ``_REQUEST`` bytes and at most ``parts`` spans."""
    found: list[list[Span]] = []
    room = 0
    for span in spans:
        start = span.start
        while start < span.end:
            if room <= 0 or len(found[-1]) >= parts:
                found.append([])
                room = _REQUEST
            end = min(span.end, start + room)
            found[-1].append(Span(start, end))
            room -= end - start
            start = end
    return found


class BlobParts:
    """The parts of one blob that are wanted: ``spans``, in order and apart. ``received``: bytes of all answers so far.

    To be used as a context manager; parts are read in their order.
    """

    def __init__(self, repository: RepositoryCalls, digest: Digest, size: int) -> None:
        self.received = 0
        self._repository = repository
        self._digest = digest
        self._size = size

    @property
    def _many(self) -> bool:
        return self._repository.calls not in _one_at_a_time

    def read(self, span: Span) -> bytes:
        """One part, at once. Raises ``NoRangesError`` where parts are not to be had."""
        return self._patiently([span])[0]

    def stream(self, spans: Sequence[Span]) -> Iterator[memoryview]:
        """All of ``spans``, in their order, as pieces that do not cross the end of one."""
        first = self._first_many(spans)
        plan = requests(joined(spans, _GAP_IN_MANY), _PARTS) if self._many else requests(joined(spans, _GAP), 1)
        with Pipeline() as pipeline:
            yield from cut(_Ahead(self, plan, pipeline, first).pieces(), spans)
            pipeline.stop()

    def _first_many(self, spans: Sequence[Span]) -> list[bytes] | None:
        """The answer to the first request for many ranges, which shows whether there are such answers."""
        plan = requests(joined(spans, _GAP_IN_MANY), _PARTS)
        if not plan or len(plan[0]) == 1 or not self._many:
            return None
        try:
            return self._patiently(plan[0])
        except NoRangesError:
            _one_at_a_time.add(self._repository.calls)
            return None

    def fetch(self, spans: Sequence[Span]) -> list[bytes]:
        """The bytes of spans by one request, from any thread."""
        return self._patiently(spans)

    def _patiently(self, spans: Sequence[Span]) -> list[bytes]:
        def once() -> list[bytes]:
            return [self._one(spans[0])] if len(spans) == 1 else self._several(spans)

        return self._repository.calls.patiently(once)

    def _one(self, span: Span) -> bytes:
        with open_blob(
            self._repository, self._digest, offset=span.start, end=span.end, size=self._size, repeat=False
        ) as stream:
            if stream.length != span.end - span.start:
                raise NoRangesError(f"{self._what}: the registry gives all of it where a part was asked for")
            data = b"".join(stream)
        self.received += len(data)
        return data

    def _several(self, spans: Sequence[Span]) -> list[bytes]:
        wanted = ",".join(f"{span.start}-{span.end - 1}" for span in spans)
        most = sum(span.end - span.start + _PART_HEAD for span in spans) + _PART_HEAD
        with self._repository.call(
            "GET",
            f"blobs/{self._digest}",
            f"blob {short(self._digest)}",
            (200, 206, 416),
            headers={"Range": f"bytes={wanted}"},
            repeat=False,
        ) as answer:
            boundary = boundary_of(answer.headers.get("content-type", ""))
            if answer.status != 206 or not boundary:
                raise NoRangesError(f"{self._what}: the registry gives no more than one part at a time")
            data = answer.read_all(most)
        self.received += len(data)
        found = parts(data, boundary, self._size)
        if [span for span, _ in found] != list(spans):
            raise NoRangesError(f"{self._what}: the registry gives other parts than it was asked for")
        return [data for _, data in found]

    @property
    def _what(self) -> str:
        return f"{self._repository.name}: blob {short(self._digest)}"


class _Ahead:
    """Threads that fetch what a plan says, and the answers in the order of the plan."""

    def __init__(
        self, blob: BlobParts, plan: Sequence[Sequence[Span]], pipeline: Pipeline, first: list[bytes] | None
    ) -> None:
        self._blob = blob
        self._plan = plan
        self._work: Channel = pipeline.channel()
        self._done: Channel = pipeline.channel()
        self._ready: dict[int, list[bytes]] = {} if first is None else {0: first}
        self._next = len(self._ready)
        for _ in range(min(_CONNECTIONS, len(plan))):
            pipeline.spawn(self._fetch)

    def _fetch(self) -> None:
        while True:
            number = self._work.get()
            self._done.put((number, self._blob.fetch(self._plan[number])))

    def pieces(self) -> Iterator[tuple[Span, bytes]]:
        for number, spans in enumerate(self._plan):
            while self._next < min(len(self._plan), number + _AHEAD):
                self._work.put(self._next)
                self._next += 1
            while number not in self._ready:
                found, data = self._done.get()
                self._ready[found] = data
            yield from zip(spans, self._ready.pop(number), strict=True)


def cut(pieces: Iterator[tuple[Span, bytes]], spans: Sequence[Span]) -> Iterator[memoryview]:
    """Of what was fetched, in order, only what is in ``spans``: what lies between is left out."""
    wanted = iter(spans)
    span = next(wanted, None)
    for at, data in pieces:
        view = memoryview(data)
        while span is not None and span.start < at.end:
            start, end = max(span.start, at.start), min(span.end, at.end)
            yield view[start - at.start : end - at.start]
            if span.end > at.end:
                break
            span = next(wanted, None)


def boundary_of(content_type: str) -> bytes:
    """What separates the parts of such an answer; empty when it is none."""
    kind, _, parameters = content_type.partition(";")
    if kind.strip().lower() != "multipart/byteranges":
        return b""
    found = re.search(r'(?:^|;)\s*boundary=(?:"([^"\r\n]{1,200})"|([^\s;"]{1,200}))', parameters, re.IGNORECASE)
    return (found[1] or found[2]).encode("latin-1", "replace") if found else b""


def parts(data: bytes, boundary: bytes, size: int) -> list[tuple[Span, bytes]]:
    """The parts of a body (RFC 2046, 5.1). Raises ``RegistryError`` for one that is none."""
    found: list[tuple[Span, bytes]] = []
    mark = b"--" + boundary
    at = data.find(mark)
    while at >= 0 and data[at + len(mark) : at + len(mark) + 2] != b"--":
        head_end = data.find(b"\r\n\r\n", at)
        head = _HEAD.search(data, at, head_end) if head_end >= 0 else None
        there = parse_range(head[1].decode("latin-1")) if head else None
        if there is None or there.total not in (None, size):
            break
        start = head_end + 4
        end = start + there.end - there.start
        if data[end : end + 2 + len(mark)] != b"\r\n" + mark:
            break
        found.append((Span(there.start, there.end), data[start:end]))
        at = end + 2
    else:
        if at >= 0:
            return found
    raise RegistryError("the registry's answer with many parts of a blob is damaged: try again", transient=True)
