"""Pulling a layer in part: of a zstd:chunked or eStargz layer only what no snapshot of the store has is fetched.

Nothing is believed that was not compared with a digest:

::

    manifest (verified) -> annotation: digest of the TOC -> TOC -> digests of chunks -> what is fetched
    configuration (verified) -> diff_id -> the tar: its headers, contents fetched and contents from the store

The digest of the blob cannot be checked without all of its bytes; the ``diff_id`` is that of the very same tar, hashed
as it goes into the snapshot, contents that come from the store included. So files of the store are hints: one that was
changed makes another tar, which is noticed, and then each is compared with the digest that the TOC has for it. When
that does not help either, the whole blob is fetched, as if there were no TOC, and has to have its own digest.

Contents are shared with the files that they are taken from, where the file system can. The headers are in the tar-split
of zstd:chunked layers; else they are fetched, from between the contents.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from fastlayer._values import NamedTuple
from fastlayer.errors import (
    DigestMismatchError,
    FileChangedError,
    LayerError,
    LayerFormatError,
    RegistryDeniedError,
    RegistryError,
)
from fastlayer.image import contents
from fastlayer.image.contents import Contents, Found
from fastlayer.image.unpack import LayerSource
from fastlayer.layer.assembled import Extent
from fastlayer.layer.chunked.blob import open_packed, verified_toc
from fastlayer.layer.chunked.places import ESTARGZ_FOOTER, Announced, announced, toc_place
from fastlayer.layer.chunked.split import Contents as SplitContents
from fastlayer.layer.chunked.split import read_split
from fastlayer.oci.digest import digest_of
from fastlayer.registry.blobs import short
from fastlayer.transfer.ranges import BlobParts, Span, joined

if TYPE_CHECKING:
    from fastlayer.layer.chunked.toc import Chunk, Toc, TocFile
    from fastlayer.metadata.leases import Lease
    from fastlayer.oci.descriptor import Descriptor
    from fastlayer.oci.digest import Digest
    from fastlayer.registry.calls import RepositoryCalls
    from fastlayer.registry.client import Repository
    from fastlayer.store.store import Store

_PIECE = 256 << 10
_ZEROS = bytes(_PIECE)
_WORTH = 0.9  # of the blob: what would be fetched has to be less
_SMALL = 64 << 10  # bytes of a blob that is rather fetched at once
_REQUEST = 600  # bytes that a request costs, and its answer besides what it brings


class PartialStats(NamedTuple):
    """``fetched``: bytes that came; ``reused``: of the tar, from files of the store."""

    fetched: int
    reused: int


class PartialLayer:
    """A layer of which only a part is fetched. ``source``: for ``image.unpack``; ``stats``: so far.

    ``close`` when it was unpacked, or will not be.
    """

    def __init__(
        self,
        store: Store,
        blob: BlobParts,
        layer: Descriptor,
        diff_id: Digest,
        chain: str,
        found: _Layout,
        there: Contents,
        full: LayerSource,
    ) -> None:
        self._store = store
        self._blob = blob
        self._layer = layer
        self._chain = chain
        self._layout = found
        self._there = there
        self._reused = 0
        second = LayerSource(diff_id, layer.digest, layer.size, lambda: self._opened(checked=True), full)
        self.source = LayerSource(diff_id, layer.digest, layer.size, lambda: self._opened(checked=False), second)

    @property
    def stats(self) -> PartialStats:
        return PartialStats(self._blob.received, self._reused)

    @contextmanager
    def _opened(self, *, checked: bool) -> Iterator[_Tar]:
        places = self._layout.places(self._there)
        if checked:
            places = {digest: place for digest, place in places.items() if _is_right(self._there, place, digest)}
        tar = _Tar(self._layer, self._layout, self._blob, self._there, places)
        yield tar
        self._reused = tar.reused
        contents.record(self._store, self._chain, self._layout.toc)

    def close(self) -> None:
        self._there.close()


def partial_layer(
    store: Store,
    lease: Lease,
    repository: Repository,
    layer: Descriptor,
    diff_id: Digest,
    chain: Digest,
    full: LayerSource,
    *,
    warn: Callable[[str], object] = lambda line: None,
) -> PartialLayer | None:
    """The layer with the chain id ``chain`` and the descriptor ``layer``, of a verified manifest, to be pulled in part.

    ``full``: how to get all of it, should that be necessary. None when it is no chunked layer, when the store has
    nothing of it, or when what there is of it is not as it should be: that is told by ``warn``, in one line. Raises
    ``RegistryDeniedError``, which the whole layer would, too.
    """
    try:
        found = announced(layer.annotations, layer.size)
        if found is None or layer.size <= _SMALL:
            return None
        there = Contents(store)
        if not there:
            return None
        try:
            made = _prepared(store, lease, repository.calls, layer, diff_id, str(chain), full, found, there)
        except BaseException:
            there.close()
            raise
        if made is None:
            there.close()
        return made
    except RegistryDeniedError:
        raise
    except (LayerError, RegistryError) as exc:
        warn(f"{layer.digest}: all of it is taken, because {exc}")
        return None


def _prepared(
    store: Store,
    lease: Lease,
    repository: RepositoryCalls,
    layer: Descriptor,
    diff_id: Digest,
    chain: str,
    full: LayerSource,
    found: Announced,
    there: Contents,
) -> PartialLayer | None:
    blob = BlobParts(repository, layer.digest, layer.size)
    layout = _read_layout(blob, found, layer.size)
    places = layout.places(there)
    there.claim(lease, places.values())
    if not _is_worth(layout, places, blob.received, layer.size):
        return None
    layout.fetch_split(blob)
    return PartialLayer(store, blob, layer, diff_id, chain, layout, there, full)


def _is_worth(layout: _Layout, places: dict[bytes, Found], received: int, size: int) -> bool:
    spans = joined(layout.wanted(places), 1024)
    fetched = sum(span.end - span.start + 100 for span in spans) + _REQUEST + received
    return fetched < _WORTH * size


# ---- what is where -------------------------------------------------------------------------------------


class _Layout:
    """The parts of a tar: ``toc``; ``end``: of the frames or members that are the tar; ``tail``: bytes behind them."""

    def __init__(self, found: Announced, toc: Toc, end: int, tail: bytes) -> None:
        self.kind = found.kind
        self.toc = toc
        self.tail = tail
        self.packed_split = b""
        self.has_split = bool(toc.split_digest) and all(file.is_whole for file in toc.files)
        self._split = found.split
        self._end = end
        if self.has_split and found.split is None:
            raise LayerFormatError("the TOC names a tar-split, but nothing says where it is")

    def places(self, there: Contents) -> dict[bytes, Found]:
        """Where the store should have which contents, by digest."""
        return there.find(
            digest
            for file in self.toc.files
            for digest in (file.digest, *(chunk.digest for chunk in file.chunks if chunk.end))
        )

    def steps(self) -> Iterator[TocFile | Span]:
        """The tar in its order: files, and spans that expand to whatever is between them."""
        at = 0
        for file in self.toc.files:
            if not self.has_split and at < file.chunks[0].start:
                yield Span(at, file.chunks[0].start)
            yield file
            at = file.chunks[-1].end or file.chunks[-1].start
        if not self.has_split and at < self._end:
            yield Span(at, self._end)

    def wanted(self, places: dict[bytes, Found]) -> list[Span]:
        """What has to be fetched of the tar, in order."""
        spans: list[Span] = []
        for step in self.steps():
            if isinstance(step, Span):
                spans.append(step)
            elif not self.taken_whole(step, places):
                spans += [Span(chunk.start, chunk.end) for chunk in step.chunks if _is_fetched(chunk, places)]
        return spans

    def taken_whole(self, file: TocFile, places: dict[bytes, Found]) -> bool:
        place = places.get(file.digest)
        return place is not None and place.size == file.size and file.is_whole

    def fetch_split(self, blob: BlobParts) -> None:
        """Raises ``DigestMismatchError`` for another one than the TOC names."""
        if self.has_split and self._split is not None:
            self.packed_split = blob.read(Span(self._split.start, self._split.end))
            if digest_of(self.packed_split) != self.toc.split_digest:
                raise DigestMismatchError("its tar-split is not the one that the TOC names")

    def split(self) -> Iterator[bytes | SplitContents]:
        assert self._split is not None
        return read_split(self.packed_split, self._split.expanded)


def _is_fetched(chunk: Chunk, places: dict[bytes, Found]) -> bool:
    """Of chunks whose end is not known a span between files has everything."""
    return bool(chunk.end) and not chunk.zeros and not _is_there(chunk, places)


def _is_there(chunk: Chunk, places: dict[bytes, Found]) -> bool:
    place = places.get(chunk.digest)
    return place is not None and place.size == chunk.size


def _read_layout(blob: BlobParts, found: Announced, size: int) -> _Layout:
    """Fetches the TOC. Raises ``DigestMismatchError``, ``LayerFormatError``, ``LimitError``, ``RegistryError``."""
    if found.toc is None:
        footer = blob.read(Span(size - ESTARGZ_FOOTER, size))
        found = found._replace(toc=toc_place(footer, size))
    assert found.toc is not None
    packed = blob.read(Span(found.toc.start, found.toc.end))
    toc, tail = verified_toc(found, packed)
    end = found.toc.start - (8 if found.kind == "zstd:chunked" else 0)
    return _Layout(found, toc, end, tail)


def _is_right(there: Contents, place: Found, digest: bytes) -> bool:
    """Whether the store has the contents that it should have there."""
    sha = hashlib.sha256(usedforsecurity=False)
    buffer = memoryview(bytearray(_PIECE))
    try:
        with there.opened(place) as fd:
            at, end = place.offset, place.offset + place.size
            while at < end and (count := os.preadv(fd, [buffer[: end - at]], at)):
                sha.update(buffer[:count])
                at += count
    except OSError:
        return False
    return sha.digest() == digest


# ---- the tar -------------------------------------------------------------------------------------------


class _Tar:
    """The tar of a layer, for ``fastlayer.apply``: see ``layer.assembled.Assembled``."""

    def __init__(
        self, layer: Descriptor, layout: _Layout, blob: BlobParts, there: Contents, places: dict[bytes, Found]
    ) -> None:
        self.name = f"layer {short(layer.digest)}"
        self.media_type, self.digest, self.size = layer.media_type, layer.digest, layer.size
        self.reused = 0
        self._layout = layout
        self._blob = blob
        self._there = there
        self._places = places

    def pieces(self) -> Iterator[bytes | memoryview | Extent]:
        wanted = self._layout.wanted(self._places)
        fetched = _Fetched(self._blob.stream(wanted))
        try:
            yield from self._by_split(fetched) if self._layout.has_split else self._by_spans(fetched)
        finally:
            fetched.close()

    def _by_spans(self, fetched: _Fetched) -> Iterator[bytes | memoryview | Extent]:
        for step in self._layout.steps():
            if isinstance(step, Span):
                yield from self._expanded(fetched.span(step))
            else:
                yield from self._file(step, fetched)
        if self._layout.tail:
            yield self._layout.tail

    def _by_split(self, fetched: _Fetched) -> Iterator[bytes | memoryview | Extent]:
        files = iter(self._layout.toc.files)
        for part in self._layout.split():
            if isinstance(part, bytes):
                yield part
                continue
            file = next(files, None)
            if file is None or file.size != part.size or file.path != part.path:
                raise LayerFormatError(f"its tar-split and its TOC do not agree about {part.path[:200]!a}")
            yield from self._file(file, fetched)

    def _file(self, file: TocFile, fetched: _Fetched) -> Iterator[bytes | memoryview | Extent]:
        if self._layout.taken_whole(file, self._places):
            yield from self._taken(self._places[file.digest])
            return
        for chunk in file.chunks:
            if not chunk.end:
                return
            if chunk.zeros:
                yield from _zeros(chunk.size)
            elif _is_there(chunk, self._places):
                yield from self._taken(self._places[chunk.digest])
            else:
                yield from self._checked(chunk, file, fetched.span(Span(chunk.start, chunk.end)))

    def _taken(self, place: Found) -> Iterator[Extent]:
        try:
            with self._there.opened(place) as fd:
                yield Extent(fd, place.offset, place.size)
        except OSError as exc:
            raise FileChangedError(f"{self.name}: a file of the store is not to be had any more") from exc
        self.reused += place.size

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


class _Fetched:
    """Spans as they come, one after the other, as something to read from."""

    def __init__(self, pieces: Iterator[memoryview]) -> None:
        self._pieces = pieces
        self._rest = memoryview(b"")
        self._left = 0  # bytes of the current span

    def span(self, span: Span) -> _Fetched:
        """The next one. What was not read of the one before is left out."""
        while self._left and self._refill():
            self._left -= len(self._rest)
            self._rest = self._rest[:0]
        self._left = span.end - span.start
        return self

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
        return bool(self._rest)

    def close(self) -> None:
        close = getattr(self._pieces, "close", None)
        if close is not None:
            close()
