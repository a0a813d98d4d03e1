"""zstd:chunked: a zstd blob with a table of contents behind it, as containers/storage reads it (docs/formats.md).

The tar is cut into frames and stays what it is. Behind it are three skippable frames, which decompressors pass over:
the table, the stream of tar-split, and a footer that tells where they are. The annotations of the layer tell the same,
and the digest of the table, which is what makes the rest trustworthy.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from fastlayer.layer.chunked.contents import ZstdContents
from fastlayer.layer.chunked.cutting import Cutter, Entry
from fastlayer.layer.chunked.frames import ZstdPacker
from fastlayer.layer.chunked.places import (
    CHECKSUM,
    FRAME,
    MAGIC,
    POSITION,
    SKIPPABLE,
    SPLIT_CHECKSUM,
    SPLIT_POSITION,
    ZSTD_PREFIXES,
)
from fastlayer.layer.chunked.sums import Sum
from fastlayer.layer.chunked.tarsplit import TarSplit
from fastlayer.oci.digest import digest_of

NAME = "zstd:chunked"
_CRFS = 1  # the type of the table


class ZstdChunked:
    """One blob in the making; see ``writer.Format``."""

    with_crc = True

    def __init__(self, level: int | None) -> None:
        self.annotations: dict[str, str] = {}
        self.packer = ZstdPacker(level)
        self.cutter = Cutter()
        self._contents = ZstdContents()
        self._split = TarSplit()

    def begin(self, entry: Entry) -> None:
        self._contents.begin(entry)
        self._split.begin(entry)

    def chunk(self, offset: int, size: int, end: int, found: Sum) -> None:
        entry = self._contents.chunk(offset, size, end, found)
        if entry is not None:
            self._split.end(entry, found.crc)

    def tail(self, data: bytes) -> None:
        self._split.tail(data)

    def ending(self, offset: int) -> Iterator[tuple[bytes, bytes]]:
        split = self._split.close()
        packed_split = split.packed()
        split_digest = digest_of(packed_split)
        table = self._contents.close(f',"tarSplitDigest":"{split_digest}"')
        packed = table.packed()
        position = offset + FRAME
        split_position = position + len(packed) + FRAME
        self._annotate(str(digest_of(packed)), (position, len(packed), table.size, _CRFS))
        self.annotations[ZSTD_PREFIXES[0] + SPLIT_CHECKSUM] = str(split_digest)
        self.annotations[ZSTD_PREFIXES[0] + SPLIT_POSITION] = f"{split_position}:{len(packed_split)}:{split.size}"
        yield b"", _skippable(packed)
        yield b"", _skippable(packed_split)
        places = (position, len(packed), table.size, _CRFS, split_position, len(packed_split), split.size)
        yield b"", _skippable(struct.pack("<7Q", *places) + MAGIC)

    def plain_ending(self) -> Iterator[tuple[bytes, bytes]]:
        yield from ()

    def _annotate(self, checksum: str, places: tuple[int, ...]) -> None:
        for prefix in reversed(ZSTD_PREFIXES):
            self.annotations[prefix + CHECKSUM] = checksum
            self.annotations[prefix + POSITION] = ":".join(map(str, places))


def _skippable(data: bytes) -> bytes:
    return SKIPPABLE + len(data).to_bytes(4, "little") + data
