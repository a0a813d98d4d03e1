"""A layer put together of what was fetched and what is here: its tar, for ``fastlayer.apply``, and its blob."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from fastlayer.errors import DigestMismatchError, FileChangedError, LayerFormatError
from fastlayer.layer.assembled import Extent
from fastlayer.layer.chunked.blob import open_packed
from fastlayer.layer.chunked.split import read_split
from fastlayer.registry.blobs import short
from fastlayer.transfer.pulling.ranges import BlobParts

if TYPE_CHECKING:
    from fastlayer.content.ingest import Ingest
    from fastlayer.image.contents import Contents, Found
    from fastlayer.layer.chunked.toc import Chunk, TocFile
    from fastlayer.oci.descriptor import Descriptor
    from fastlayer.transfer.pulling.layout import Layout, Part, Plan

_PIECE = 256 << 10
_COPY = 1 << 20
_ZEROS = bytes(_PIECE)


class Tar:
    """See ``layer.assembled.Assembled``. ``reused``: bytes of the tar that came from files of the store so far."""

    def __init__(
        self, layer: Descriptor, layout: Layout, plan: Plan, blob: BlobParts, there: Contents, out: Rebuilt | None
    ) -> None:
        self.name = f"layer {short(layer.digest)}"
        self.media_type, self.digest, self.size = layer.media_type, layer.digest, layer.size
        self.reused = 0
        self._layout = layout
        self._plan = plan
        self._blob = blob
        self._there = there
        self._out = out
        self._next = 0  # of the parts

    def pieces(self) -> Iterator[bytes | memoryview | Extent]:
        fetched = Fetched(self._blob.stream(self._plan.wanted), self._out)
        try:
            yield from self._by_split(fetched) if self._layout.has_split else self._parts(None, fetched)
        finally:
            fetched.close()
        if self._layout.tar_tail:
            yield self._layout.tar_tail
        if self._out is not None:
            self._out.write(self._layout.tail)

    def _by_split(self, fetched: Fetched) -> Iterator[bytes | memoryview | Extent]:
        split = self._layout.split
        files = iter(self._layout.toc.files)
        for part in read_split(self._layout.packed_split, split and split.expanded):
            if isinstance(part, bytes):
                yield part
                continue
            file = next(files, None)
            if file is None or file.size != part.size or file.path != part.path:
                raise LayerFormatError(f"its tar-split and its TOC do not agree about {part.path[:200]!a}")
            yield from self._parts(file, fetched)
        if next(files, None) is not None:
            raise LayerFormatError("its tar-split has fewer files than its TOC")
        yield from self._parts(None, fetched)

    def _parts(self, file: TocFile | None, fetched: Fetched) -> Iterator[bytes | memoryview | Extent]:
        """The next parts: those that are no file, and the file; None: all that are left."""
        parts = self._plan.parts
        while self._next < len(parts):
            part = parts[self._next]
            if file is not None and part.file is not None and part.file is not file:
                return
            self._next += 1
            needed = part.is_needed(has_split=self._layout.has_split)
            source = self._source(part, fetched, needed=needed)
            if part.place is not None:
                fd = self._open(part.place)
                try:
                    yield Extent(fd, part.place.offset, part.place.size)
                finally:
                    os.close(fd)
                self.reused += part.place.size
            elif part.file is None:
                if needed:
                    yield from self._expanded(source)
            elif part.chunk is not None and part.chunk.zeros:
                yield from _zeros(part.chunk.size)
            elif part.chunk is not None:
                yield from self._checked(part.chunk, part.file, source)

    def _source(self, part: Part, fetched: Fetched, *, needed: bool) -> Any:
        """Something to read the part from, if it is to be read; what the blob needs of it is given to that."""
        length = part.end - part.start
        if part.local is not None:
            fd = self._there.blob(part.local[0])
            if self._out is not None:
                fetched.finish()
                self._out.copy(fd, part.local[1], length)
            return Here(fd, part.local[1], length, self.name) if needed else None
        return fetched.span(length) if needed or self._out is not None else None

    def _open(self, place: Found) -> int:
        try:
            return self._there.open(place)
        except OSError as exc:
            raise FileChangedError(f"{self.name}: a file of the store is not to be had any more") from exc

    def _checked(self, chunk: Chunk, file: TocFile, source: Any) -> Iterator[memoryview]:
        """What was fetched must be what the TOC says."""
        sha = hashlib.sha256(usedforsecurity=False)
        left = chunk.size
        for data in self._expanded(source):
            left -= len(data)
            if left < 0:
                break
            sha.update(data)
            yield data
        if left or (chunk.digest and sha.digest() != chunk.digest):
            raise DigestMismatchError(f"what was fetched of {file.path[:200]!a} is not what the TOC says")

    def _expanded(self, source: Any) -> Iterator[memoryview]:
        reader = open_packed(self._layout.kind, source)
        buffer = memoryview(bytearray(_PIECE))
        while count := reader.readinto(buffer):
            yield buffer[:count]


def _zeros(size: int) -> Iterator[bytes]:
    while size:
        count = min(size, len(_ZEROS))
        yield _ZEROS[:count]
        size -= count


class Here:
    """Bytes of a blob in the store, as something to read from."""

    def __init__(self, fd: int, start: int, length: int, name: str) -> None:
        self.fd = fd
        self.end = start + length
        self._at = start
        self._name = name

    def readinto(self, buffer: Any, /) -> int:
        room = memoryview(buffer)[: self.end - self._at]
        count = os.preadv(self.fd, [room], self._at) if room else 0
        if not count and self._at < self.end:
            raise FileChangedError(f"{self._name}: a blob of the store became shorter")
        self._at += count
        return count


class Fetched:
    """Spans as they come, one after the other, as something to read from. All of them also go into ``out``."""

    def __init__(self, pieces: Iterator[memoryview], out: Rebuilt | None) -> None:
        self._pieces = pieces
        self._out = out
        self._rest = memoryview(b"")
        self._left = 0  # bytes of the current span

    def span(self, length: int) -> Fetched:
        """The next one. What was not read of the one before is left out."""
        self.finish()
        self._left = length
        if self._out is not None:
            self._refill()
        return self

    def finish(self) -> None:
        """To the end of the span."""
        while self._left and self._refill():
            self._left -= len(self._rest)
            self._rest = self._rest[:0]

    def readinto(self, buffer: Any, /) -> int:
        if not self._left or not self._refill():
            return 0
        count = min(len(buffer), len(self._rest))
        buffer[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        self._left -= count
        return count

    def _refill(self) -> bool:
        if not self._rest:
            self._rest = next(self._pieces, self._rest)
            if self._out is not None:
                self._out.write(self._rest)
        return bool(self._rest)

    def close(self) -> None:
        self.finish()
        close = getattr(self._pieces, "close", None)
        if close is not None:
            close()


class Rebuilt:
    """The blob, written in its order. Whether it is the one that it should be is told by its digest."""

    def __init__(self, blob: Ingest) -> None:
        self._blob = blob
        self._run: Here | None = None  # bytes that are still to be copied

    def write(self, data: Any) -> None:
        self._flush()
        if len(data):
            self._blob.write(data)

    def copy(self, fd: int, start: int, length: int) -> None:
        run = self._run
        if run is not None and run.fd == fd and run.end == start:
            run.end += length
            return
        self._flush()
        self._run = Here(fd, start, length, "blob")

    def _flush(self) -> None:
        run, self._run = self._run, None
        if run is None:
            return
        buffer = memoryview(bytearray(_COPY))
        while count := run.readinto(buffer):
            self._blob.write(buffer[:count])

    def finish(self) -> bool:
        """Gives the blob its name, if it is the right one."""
        try:
            self._flush()
            self._blob.commit()
        except (DigestMismatchError, FileChangedError):
            return False
        return True
