"""A tar that is put together, of bytes and of parts of files that are here: in the place of a blob that was not read.

What it is made of is nobody's promise: only its ``diff_id`` tells whether it is the layer, and whoever applies one has
to give it. Bytes are collected to pieces of a MiB. Parts of files that are large enough go into the tree as they are,
their extents shared where the file system can, and are read beside that for the hash; small ones are read once, for
both.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any, Protocol, TypeGuard

from fastlayer import _backend
from fastlayer._values import NamedTuple
from fastlayer.errors import FileChangedError, LimitError
from fastlayer.layer.hashing import HashStream, hashing
from fastlayer.layer.pipeline import STEP, Pipeline, Ring
from fastlayer.oci.digest import Digest

_BUFFERS = 8
_WORTH_SHARING = 16 << 10  # bytes; the extents of less take longer to share than to copy
_TRIES = 8  # extents that are not shared, one after the other, until the file system has shown that it cannot
_RATIO_FREE = 1 << 30  # bytes a tar may have before max_ratio counts


class Extent(NamedTuple):
    """``length`` bytes of an open file from ``offset`` on. The descriptor is good until the next piece is asked for."""

    fd: int
    offset: int
    length: int


class Assembled(Protocol):
    """What ``fastlayer.apply`` takes in the place of a blob.

    ``name``: in messages; ``media_type``, ``digest``, ``size``: of the blob, as its descriptor says; nobody verifies
    them here.
    """

    name: str
    media_type: str
    digest: Digest
    size: int

    def pieces(self) -> Iterator[bytes | memoryview | Extent]:
        """The tar, in its order; bytes are good until the next piece is asked for. An extent goes into the contents of
        a regular file, all of it."""
        ...


def is_assembled(value: Any) -> TypeGuard[Assembled]:
    """Whether it is one."""
    return hasattr(value, "pieces")


class Assembly:
    """Hands a tar to an extractor. After ``run``: ``tar_size``, ``diff_id``."""

    def __init__(self, source: Assembled, extractor: _backend.Extractor, *, max_ratio: int = 0) -> None:
        self.tar_size = 0
        self._source = source
        self._extractor = extractor
        self._max_ratio = max_ratio
        self._tries = _TRIES

    def run(self, report: Callable[[int], object]) -> None:
        """``report`` is told how long the tar is so far."""
        with hashing(1) as (tar,), Pipeline() as pipeline:
            room = _Room(Ring(pipeline, _BUFFERS, STEP), tar, self._extractor)
            for piece in self._source.pieces():
                self._count(piece.length if isinstance(piece, Extent) else len(piece))
                if not isinstance(piece, Extent):
                    room.add(memoryview(piece).cast("B"))
                elif self._tries and piece.length >= _WORTH_SHARING:
                    self._share(piece, room)
                else:
                    room.read(piece, feed=True)
                report(self.tar_size)
            room.flush()
            self.diff_id = tar.finish()
            pipeline.stop()

    def _count(self, length: int) -> None:
        self.tar_size += length
        if self.tar_size > _RATIO_FREE and 0 < self._max_ratio * max(self._source.size, 1) < self.tar_size:
            raise LimitError(
                f"expands to more than {self._max_ratio} times its size: raise max_ratio (--max-ratio) if you trust it"
            )

    def _share(self, piece: Extent, room: _Room) -> None:
        room.feed()
        before = self._extractor.shared_bytes
        self._extractor.feed_extent(*piece)
        self._tries = _TRIES if self._extractor.shared_bytes > before else self._tries - 1
        room.read(piece, feed=False)


class _Room:
    """A buffer that is filled with the tar, and goes to the hash when it is full; to the extractor as far as it is no
    extent."""

    def __init__(self, ring: Ring, tar: HashStream, extractor: _backend.Extractor) -> None:
        self._ring = ring
        self._tar = tar
        self._extractor = extractor
        self._buffer = ring.take()
        self._filled = 0
        self._fed = 0  # bytes of it that the extractor has

    def add(self, data: memoryview) -> None:
        while data:
            count = min(len(data), len(self._buffer) - self._filled)
            self._buffer[self._filled : self._filled + count] = data[:count]
            self._took(count)
            data = data[count:]

    def read(self, piece: Extent, *, feed: bool) -> None:
        """Bytes of a file; if not ``feed``, the extractor has them, and all before them."""
        offset, end = piece.offset, piece.offset + piece.length
        while offset < end:
            room = self._buffer[self._filled : self._filled + end - offset]
            count = os.preadv(piece.fd, [room], offset)
            if not count:
                raise FileChangedError("a file that the layer shares became shorter")
            if not feed:
                self._fed += count
            self._took(count)
            offset += count

    def _took(self, count: int) -> None:
        self._filled += count
        if self._filled == len(self._buffer):
            self.flush()

    def feed(self) -> None:
        """Gives the extractor all that it has not got."""
        if self._fed < self._filled:
            self._extractor.feed(self._buffer[self._fed : self._filled])
            self._fed = self._filled

    def flush(self) -> None:
        if not self._filled:
            return
        buffer = self._buffer
        back = self._ring.returns(buffer, 2)
        self._tar.put(buffer[: self._filled], back)
        self.feed()
        back()
        self._buffer = self._ring.take()
        self._filled = self._fed = 0
