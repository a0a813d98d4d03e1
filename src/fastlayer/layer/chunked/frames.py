"""Frames of a batch, compressed one by one, with as little Python per frame as there can be."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import Any, Protocol

from fastlayer.layer.chunked.cutting import SKIP, Frame
from fastlayer.layer.compression import Gzip, Zstd, check_level


class Packer(Protocol):
    """Compresses frames; may be called by several threads at once."""

    def pack(self, view: memoryview, frames: Sequence[Frame]) -> tuple[bytes, list[int]]:
        """The compressed frames, one behind the other, and the length of each (0: one that is skipped)."""
        ...


class ZstdPacker:
    """A zstd frame each; nothing is skipped. All of a batch with one call, where the binding has that."""

    def __init__(self, level: int | None) -> None:
        self._codec = Zstd(check_level("zstd", level), small_tables=level is None)

    def pack(self, view: memoryview, frames: Sequence[Frame]) -> tuple[bytes, list[int]]:
        compressor = self._codec.compressor()
        if len(frames) > 1 and hasattr(compressor, "multi_compress_to_buffer"):
            return _packed_at_once(compressor, view, frames)
        pieces = [compressor.compress(view[frame.start : frame.stop]) for frame in frames]
        return b"".join(pieces), [len(piece) for piece in pieces]


def _packed_at_once(compressor: Any, view: memoryview, frames: Sequence[Frame]) -> tuple[bytes, list[int]]:
    import zstandard

    bounds = array("Q", [number for frame in frames for number in (frame.start, frame.stop - frame.start)])
    found = compressor.multi_compress_to_buffer(zstandard.BufferWithSegments(view, memoryview(bounds)), threads=1)
    pieces = [found[number] for number in range(len(found))]
    return b"".join(pieces), [len(piece) for piece in pieces]


class GzipPacker:
    """A gzip member each."""

    def __init__(self, level: int | None) -> None:
        self._codec = Gzip(check_level("gzip", level))

    def pack(self, view: memoryview, frames: Sequence[Frame]) -> tuple[bytes, list[int]]:
        compress = self._codec.compress
        pieces = [b"" if frame.kind == SKIP else compress(view[frame.start : frame.stop]) for frame in frames]
        return b"".join(pieces), [len(piece) for piece in pieces]
