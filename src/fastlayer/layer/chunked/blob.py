"""The table of contents of a chunked layer, verified: of bytes that were fetched, or of a blob that is there."""

from __future__ import annotations

import os
from typing import Any

from fastlayer.errors import DigestMismatchError, LayerFormatError, LimitError
from fastlayer.layer.chunked.places import ESTARGZ_FOOTER, MAX_TOC, ZSTD_FOOTER, Announced, Kind, from_tail
from fastlayer.layer.chunked.toc import Toc, parse_toc
from fastlayer.layer.decompress import GzipReader, Lookahead, Reader, ZstdReader
from fastlayer.oci.digest import digest_of

_PIECE = 256 << 10
_FRAME = 8
_BLOCK = 512
_NAME = b"stargz.index.json"


class Bytes:
    """Bytes as something to read from."""

    def __init__(self, data: Any) -> None:
        self._rest = memoryview(data)

    def readinto(self, buffer: Any, /) -> int:
        count = min(len(buffer), len(self._rest))
        buffer[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count


def open_packed(kind: Kind, source: Any) -> Reader:
    """A reader of what frames or members expand to, of a ``Readable``."""
    return ZstdReader(Lookahead(source)) if kind == "zstd:chunked" else GzipReader(Lookahead(source))


def expand(kind: Kind, packed: bytes, most: int) -> bytearray:
    """All of what they expand to. Raises ``LimitError`` when it is more than ``most`` bytes."""
    reader = open_packed(kind, Bytes(packed))
    buffer = memoryview(bytearray(_PIECE))
    found = bytearray()
    while count := reader.readinto(buffer):
        found += buffer[:count]
        if len(found) > most:
            raise LimitError(f"a table of contents of more than {most} bytes")
    return found


def verified_toc(found: Announced, packed: bytes) -> tuple[Toc, bytes | bytearray]:
    """The TOC of what stands at ``found.toc``, and the bytes of the tar that came with it: of eStargz it is a file.

    Raises ``DigestMismatchError`` when it is not the one that was announced, ``LayerFormatError``, ``LimitError``.
    """
    assert found.toc is not None
    if found.kind == "zstd:chunked":
        _require(found, packed)
        data = expand(found.kind, packed, found.toc.expanded or MAX_TOC)
        return parse_toc(data, found.toc.start - _FRAME), b""
    tail = expand(found.kind, packed, MAX_TOC)
    data = _in_tar(tail)
    _require(found, data)
    return parse_toc(data, found.toc.start), tail


def _require(found: Announced, data: bytes | bytearray) -> None:
    if found.digest and digest_of(data) != found.digest:
        raise DigestMismatchError("the table of contents is not the one that the manifest names")


def _in_tar(tail: bytearray) -> bytearray:
    """The JSON in the last file of the tar of an eStargz layer."""
    size = tail[124:135]
    if tail[: len(_NAME) + 1] != _NAME + b"\0" or size.strip(b"01234567"):
        raise LayerFormatError("eStargz: the TOC is no file of its name")
    length = int(size, 8)
    if length > len(tail) - _BLOCK:
        raise LayerFormatError("eStargz: the TOC is cut off")
    return tail[_BLOCK : _BLOCK + length]


def read_toc(path: Any) -> Toc | None:
    """The TOC of a blob whose digest is known to be right; None when it is none with one."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        size = os.fstat(fd).st_size
        tail = os.pread(fd, min(size, max(ZSTD_FOOTER, ESTARGZ_FOOTER)), max(0, size - ZSTD_FOOTER))
        found = from_tail(tail, size)
        if found is None or found.toc is None:
            return None
        return verified_toc(found, os.pread(fd, found.toc.end - found.toc.start, found.toc.start))[0]
    finally:
        os.close(fd)
