"""JSON that grows with the layer, kept compressed until it is known where it goes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

_PIECE = 256 << 10  # characters that are encoded at once
_LEVEL = 3


class Spool:
    """``add`` text, ``close``, then ``packed`` (one zstd frame) and the like."""

    def __init__(self) -> None:
        import zstandard

        self.size = 0  # bytes of the text
        self._compressor: Any = zstandard.ZstdCompressor(level=_LEVEL, write_checksum=True).compressobj()
        self._hash = hashlib.sha256(usedforsecurity=False)
        self._waiting: list[str] = []
        self._waiting_size = 0
        self._packed: list[bytes] = []

    def add(self, text: str) -> None:
        self._waiting.append(text)
        self._waiting_size += len(text)
        if self._waiting_size >= _PIECE:
            self._flush()

    def close(self) -> None:
        self._flush()
        self._packed.append(self._compressor.flush())

    def _flush(self) -> None:
        data = "".join(self._waiting).encode()
        self._waiting.clear()
        self._waiting_size = 0
        self.size += len(data)
        self._hash.update(data)
        self._packed.append(self._compressor.compress(data))

    @property
    def hexdigest(self) -> str:
        """SHA-256 of the text."""
        return self._hash.hexdigest()

    def packed(self) -> bytes:
        return b"".join(self._packed)

    def text(self) -> Iterator[bytes]:
        """What was added, in pieces."""
        import zstandard

        expander = zstandard.ZstdDecompressor().decompressobj()
        for piece in self._packed:
            if found := expander.decompress(piece):
                yield found
