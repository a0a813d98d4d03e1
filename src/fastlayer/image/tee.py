"""A layer read once and kept: what the reader takes is also written into a blob."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Any

from fastlayer.layer.source import Source

if TYPE_CHECKING:
    from fastlayer.content.ingest import Ingest


class Tee:
    """A binary file object for ``fastlayer.apply`` over any source it takes; a context manager."""

    def __init__(self, source: Any, blob: Ingest) -> None:
        self._source = Source(source)
        self._blob = blob
        self.name = self._source.name

    def readinto(self, buffer: Any) -> int:
        count = self._source.readinto(buffer)
        if count:
            self._blob.write(memoryview(buffer)[:count])
        return count

    def read(self, size: int = -1, /) -> bytes:
        """For readers that do not bring a buffer."""
        buffer = bytearray(size if size > 0 else 1 << 20)
        return bytes(memoryview(buffer)[: self.readinto(buffer)])

    def __enter__(self) -> Tee:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self._source.close()
