"""What a chunked layer is made of, and where each part of it comes from: the registry, a snapshot, another blob."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING

from fastlayer._values import NamedTuple
from fastlayer.errors import DigestMismatchError, LayerFormatError, LimitError
from fastlayer.layer.chunked.blob import verified_toc
from fastlayer.layer.chunked.places import ESTARGZ_FOOTER, Announced, toc_place
from fastlayer.layer.chunked.toc import MAX_ENTRIES, Chunk, TocFile
from fastlayer.oci.digest import digest_of
from fastlayer.transfer.pulling.ranges import BlobParts, Span, joined

if TYPE_CHECKING:
    from fastlayer.image.contents import Contents, Found

_FRAME = 8  # bytes before what a skippable frame holds
_FOOTERS = 4096  # bytes behind the tar that may be neither TOC nor tar-split
_EXTRA = 64 << 10  # bytes that may be fetched for the blob alone, or one in
_EXTRA_SHARE = 40  # of it
_PART = 100  # bytes that a range costs


class Room:
    """How many files the layers may have that are pulled in part at the same time: each takes memory. For threads."""

    def __init__(self, files: int = MAX_ENTRIES) -> None:
        self._left = files
        self._lock = threading.Lock()

    def take(self, files: int) -> None:
        """Raises ``LimitError`` where there is none."""
        with self._lock:
            if files > self._left:
                raise LimitError(f"the layers of the image have more than {MAX_ENTRIES} files")
            self._left -= files

    def give(self, files: int) -> None:
        with self._lock:
            self._left += files


_parsing = threading.Lock()  # a TOC takes the most memory while it is read


class Layout:
    """The layer. ``end``: of the frames or members that hold its tar; ``tail``: all of the blob behind that, or none
    where it is too much; ``tar_tail``: the end of the tar where that is known; ``packed_split``: its tar-split, or
    none."""

    def __init__(self, blob: BlobParts, found: Announced, size: int) -> None:
        """Fetches the TOC. Raises ``DigestMismatchError``, ``LayerFormatError``, ``LimitError``, ``RegistryError``."""
        tail = b""
        if found.toc is None:
            tail = blob.read(Span(size - ESTARGZ_FOOTER, size))
            found = found._replace(toc=toc_place(tail, size))
        assert found.toc is not None
        self.kind = found.kind
        self.end = found.toc.start - (_FRAME if found.kind == "zstd:chunked" else 0)
        self.split = found.split
        self._size = size
        data = self._fetch(blob, found, tail)
        self.tail = data if self.end + len(data) == size else b""
        with _parsing:
            self.toc, tar_tail = verified_toc(found, self._at(data, found.toc.start, found.toc.end))
        self.tar_tail = memoryview(tar_tail)
        self.packed_split = b""
        if self.toc.split_digest and self.is_whole:
            self.packed_split = self._take_split(blob, data)

    @property
    def is_whole(self) -> bool:
        return all(file.is_whole for file in self.toc.files)

    @property
    def has_split(self) -> bool:
        return bool(self.packed_split)

    def _fetch(self, blob: BlobParts, found: Announced, tail: bytes) -> bytes:
        """What is behind the tar, at once, if it is not much more than what has to be known of it."""
        assert found.toc is not None
        length = found.toc.end - found.toc.start
        split = 0 if found.split is None else found.split.end - found.split.start
        end = self._size - len(tail)
        if end - self.end > length + split + _FOOTERS:
            return bytes(found.toc.start - self.end) + blob.read(Span(found.toc.start, found.toc.end))
        return blob.read(Span(self.end, end)) + tail

    def _at(self, data: bytes, start: int, end: int) -> bytes:
        return data[start - self.end : end - self.end]

    def _take_split(self, blob: BlobParts, data: bytes) -> bytes:
        """Raises ``DigestMismatchError`` for another one than the TOC names."""
        if self.split is None:
            raise LayerFormatError("the TOC names a tar-split, but nothing says where it is")
        found = b""
        if self.tail and self.split.start >= self.end:
            found = self._at(data, self.split.start, self.split.end)
        found = found or blob.read(Span(self.split.start, self.split.end))
        if digest_of(found) != self.toc.split_digest:
            raise DigestMismatchError("its tar-split is not the one that the TOC names")
        return found

    def places(self, there: Contents) -> dict[bytes, Found]:
        """Where the store should have which contents, by digest."""
        return there.find(
            digest for file in self.toc.files for digest in (file.digest, *(chunk.digest for chunk in file.chunks))
        )


class Part(NamedTuple):
    """Bytes ``start`` to before ``end`` of the blob: contents of ``file``, all of it or a ``chunk``, or what is between
    files (None).

    ``place``: where a snapshot has these contents; ``local``: (tree, start) where its blob has these very bytes, as far
    as one can tell.
    """

    start: int
    end: int
    file: TocFile | None
    chunk: Chunk | None
    place: Found | None
    local: tuple[int, int] | None

    def is_needed(self, *, has_split: bool) -> bool:
        """Whether the tar cannot be made without these bytes."""
        if self.file is None:
            return not has_split
        return self.place is None and not (self.chunk is not None and self.chunk.zeros)


class Plan(NamedTuple):
    """``parts`` of the blob in their order, up to the end of its tar; ``wanted``: what is fetched of it; ``rebuild``:
    whether the whole blob is put together, too."""

    parts: list[Part]
    wanted: list[Span]
    rebuild: bool

    def cost(self) -> int:
        """Bytes that will come, about."""
        return sum(span.end - span.start + _PART for span in joined(self.wanted, _PART))


def make_plan(layout: Layout, places: dict[bytes, Found], there: Contents, *, guess: bool) -> Plan:
    """``guess``: what is between two files may be taken from another blob, where it should be the same."""
    parts = _Planner(layout, places, there, guess=guess).parts()
    has_split = layout.has_split
    extra = sum(
        part.end - part.start for part in parts if part.local is None and not part.is_needed(has_split=has_split)
    )
    rebuild = bool(layout.tail) and extra <= max(_EXTRA, (layout.end + len(layout.tail)) // _EXTRA_SHARE)
    wanted = [
        Span(part.start, part.end)
        for part in parts
        if part.local is None and (rebuild or part.is_needed(has_split=has_split))
    ]
    return Plan(parts, wanted, rebuild)


class _Planner:
    def __init__(self, layout: Layout, places: dict[bytes, Found], there: Contents, *, guess: bool) -> None:
        self._layout = layout
        self._places = places
        self._there = there
        self._guess = guess

    def parts(self) -> list[Part]:
        found: list[Part] = []
        at = 0
        before: TocFile | None = None
        for file in self._layout.toc.files:
            if at < file.chunks[0].start:
                found.append(self._between(at, before, file))
            found += self._of_file(file)
            before = file
            at = file.chunks[-1].end or file.chunks[-1].start
        if at < self._layout.end:
            found.append(Part(at, self._layout.end, None, None, None, None))
        return found

    def _of_file(self, file: TocFile) -> Sequence[Part]:
        start, end = file.chunks[0].start, file.chunks[-1].end
        place = self._place(file.digest, file.size)
        if place is not None and file.is_whole:
            return (Part(start, end, file, None, place, self._same(place, start, end)),)
        found = []
        for chunk in file.chunks:
            if chunk.end:
                place = self._place(chunk.digest, chunk.size)
                local = None if place is None else self._same(place, chunk.start, chunk.end)
                found.append(Part(chunk.start, chunk.end, file, chunk, place, local))
        return found

    def _place(self, digest: bytes, size: int) -> Found | None:
        place = self._places.get(digest) if digest else None
        return place if place is not None and place.size == size else None

    def _same(self, place: Found, start: int, end: int) -> tuple[int, int] | None:
        """Where another blob has as many bytes for the same contents."""
        if place.end - place.start != end - start or self._there.blob(place.tree) < 0:
            return None
        return place.tree, place.start

    def _between(self, at: int, before: TocFile | None, file: TocFile) -> Part:
        return Part(at, file.chunks[0].start, None, None, None, self._same_between(at, before, file))

    def _same_between(self, at: int, before: TocFile | None, file: TocFile) -> tuple[int, int] | None:
        """Where another blob has, in front of the same file, as much that its TOC describes in the same words."""
        first = file.chunks[0]
        place = self._place(file.digest, file.size) or self._place(first.digest, first.size)
        if not self._guess or place is None or place.mark != file.mark:
            return None
        if place.start - place.gap != first.start - at or self._there.blob(place.tree) < 0:
            return None
        if before is not None and not before.chunks[-1].end:  # the end of its contents is in there, too
            last = before.chunks[-1]
            other = self._place(last.digest, last.size)
            if other is None or (other.tree, other.start) != (place.tree, place.gap):
                return None
        return place.tree, place.gap
