"""JSON that grows with the layer, kept compressed until it is known where it goes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

from fastlayer.oci.digest import Digest, sha256_digest

_PIECE = 256 << 10  # bytes that are compressed at once
_LEVEL = 3


class Spool:
    """``add`` text, ``close``, then ``packed`` (one zstd frame) and the like."""

    def __init__(self) -> None:
        import zstandard

        self.size = 0  # bytes of the text
        self._compressor: Any = zstandard.ZstdCompressor(level=_LEVEL, write_checksum=True).compressobj()
        self._waiting: list[bytes] = []
        self._waiting_size = 0
        self._packed: list[bytes] = []

    def add(self, text: bytes) -> None:
        self._waiting.append(text)
        self._waiting_size += len(text)
        if self._waiting_size >= _PIECE:
            self._flush()

    def close(self) -> None:
        self._flush()
        self._packed.append(self._compressor.flush())

    def _flush(self) -> None:
        data = b"".join(self._waiting)
        self._waiting.clear()
        self._waiting_size = 0
        self.size += len(data)
        self._packed.append(self._compressor.compress(data))

    def digest(self) -> Digest:
        """Of the text."""
        found = hashlib.sha256(usedforsecurity=False)
        for piece in self.text():
            found.update(piece)
        return sha256_digest(found.hexdigest())

    def packed(self) -> bytes:
        return b"".join(self._packed)

    def text(self) -> Iterator[bytes]:
        """What was added, in pieces."""
        import zstandard

        expander = zstandard.ZstdDecompressor().decompressobj()
        for piece in self._packed:
            if found := expander.decompress(piece):
                yield found
