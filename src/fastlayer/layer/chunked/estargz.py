"""eStargz: a gzip blob whose tar ends with a table of contents, as stargz-snapshotter reads it (docs/formats.md).

Two entries follow those of the tar: an empty landmark, which says that no file is to be fetched before others, and
``stargz.index.json``. So the tar is another one, and so is its diff id. Entries of these names that were in the tar are
left out: it may have been an eStargz before.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Any

from fastlayer.layer.chunked.contents import StargzContents
from fastlayer.layer.chunked.cutting import DATA, HEAD, Cutter, Entry, Frame
from fastlayer.layer.chunked.entries import BLOCK, padding
from fastlayer.layer.chunked.frames import GzipPacker
from fastlayer.layer.chunked.places import ESTARGZ_TOC
from fastlayer.layer.chunked.spool import Spool
from fastlayer.layer.chunked.sums import Sum, Sums
from fastlayer.layer.compression import check_level

NAME = "estargz"
TABLE = b"stargz.index.json"
LANDMARK = b".no.prefetch.landmark"
PREFETCH = b".prefetch.landmark"
_LANDMARK_BYTES = b"\x0f"
_END = bytes(2 * BLOCK)
_ZEROS = bytes(1 << 20)


class Stargz:
    """One blob in the making; see ``writer.Format``."""

    with_crc = False

    def __init__(self, level: int | None) -> None:
        self.annotations: dict[str, str] = {}
        self.packer = GzipPacker(level)
        self.cutter = Cutter(frozenset((TABLE, LANDMARK, PREFETCH)), own_end=True)
        self._level = check_level("gzip", level)
        self._contents = StargzContents()

    def begin(self, entry: Entry) -> None:
        self._contents.begin(entry)

    def chunk(self, offset: int, size: int, end: int, found: Sum) -> None:
        self._contents.chunk(offset, size, end, found)

    def tail(self, data: bytes) -> None:
        pass

    def ending(self, offset: int) -> Iterator[tuple[bytes, bytes]]:
        for tar, packed in self._landmark(offset):
            offset += len(packed)
            yield tar, packed
        table = self._contents.close()
        self.annotations[ESTARGZ_TOC] = str(table.digest())
        yield from self._table(table)
        yield b"", _footer(offset)

    def plain_ending(self) -> Iterator[tuple[bytes, bytes]]:
        """The end of the archive as it was, if it was one of zeros."""
        left = self.cutter.ending
        while left:
            piece = _ZEROS[:left]
            left -= len(piece)
            yield piece, self.packer.pack(memoryview(piece), [Frame(HEAD, 0, len(piece))])[0]

    def _landmark(self, offset: int) -> Iterator[tuple[bytes, bytes]]:
        before = bytes(self.cutter.missing) + _header(LANDMARK, len(_LANDMARK_BYTES))
        tar = before + _LANDMARK_BYTES + bytes(padding(len(_LANDMARK_BYTES)))
        data = Frame(DATA, len(before), len(before) + 1, last=True)
        frames = [Frame(HEAD, 0, data.start), data, Frame(HEAD, data.stop, len(tar))]
        packed, (first, second, _) = self.packer.pack(memoryview(tar), frames)
        (found,) = Sums(with_crc=False).of(memoryview(tar), frames)
        text = f'"type":"reg","name":"{LANDMARK.decode()}","size":1'
        self.begin(Entry(0, LANDMARK, text, b"", 1))
        self.chunk(offset + first, 1, offset + first + second, found)
        yield tar, packed

    def _table(self, table: Spool) -> Iterator[tuple[bytes, bytes]]:
        """The last entry and the end of the archive: one member, which readers take as such."""
        deflate = _deflate(self._level)
        for piece in (_header(TABLE, table.size), *table.text(), bytes(padding(table.size)) + _END):
            yield piece, deflate.compress(piece)
        yield b"", deflate.flush()


def _deflate(level: int) -> Any:
    """A gzip stream."""
    if level > 3:
        return zlib.compressobj(level, zlib.DEFLATED, 31)
    from isal import isal_zlib

    return isal_zlib.compressobj(level, isal_zlib.DEFLATED, 31)


def _header(name: bytes, size: int) -> bytes:
    """A ustar header of a regular file that says nothing but its name and size."""
    fields = [name.ljust(100, b"\0")]
    fields += [b"0000000\0" * 3, b"%011o\0" % size, b"00000000000\0", b" " * 8, b"0", bytes(100)]
    fields += [b"ustar\x0000", bytes(64), b"0000000\0" * 2]
    block = b"".join(fields).ljust(BLOCK, b"\0")
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]


def _footer(table: int) -> bytes:
    """An empty member, stored, that says where the table begins."""
    subfield = b"%016xSTARGZ" % table
    extra = b"SG" + len(subfield).to_bytes(2, "little") + subfield
    header = b"\x1f\x8b\x08\x04" + bytes(4) + b"\x00\xff" + len(extra).to_bytes(2, "little")
    return header + extra + b"\x01\x00\x00\xff\xff" + bytes(8)
