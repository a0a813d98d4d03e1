"""What the frames of a batch add up to: SHA-256 of chunks and of files, and the CRC-64 that tar-split wants."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import Any

from fastlayer import _backend
from fastlayer._values import NamedTuple
from fastlayer.layer.chunked.cutting import DATA, Frame


class Sum(NamedTuple):
    """Of a frame of data: hex digests of the chunk and, with the last chunk, of its file, and the file's CRC."""

    chunk: str
    file: str = ""
    crc: int = 0
    zeros: bool = False  # the chunk is nothing but zeros


class Sums:
    """Of all batches of a tar, one after the other. ``with_crc``: CRC-64, too."""

    def __init__(self, *, with_crc: bool) -> None:
        self._sha256 = _backend.hashing()
        self._crc64 = _backend.engine().crc64
        self._with_crc = with_crc
        self._file: Any = None  # hash of a file of several chunks, from its first chunk on
        self._crc = 0

    def of(self, view: memoryview, frames: Sequence[Frame]) -> list[Sum]:
        """A sum for every frame of data, in order."""
        data = [frame for frame in frames if frame.kind == DATA]
        if not data:
            return []
        bounds = array("Q", [place for frame in data for place in (frame.start, frame.stop)])
        digests = self._sha256.digests(view, bounds).hex()
        chunks = [digests[at : at + 64] for at in range(0, len(digests), 64)]
        crcs = self._crcs(view, data)
        return [
            Sum(chunk, *self._of_file(view, frame, chunk, crcs), zeros=_is_zeros(view, frame))
            for frame, chunk in zip(data, chunks, strict=True)
        ]

    def _crcs(self, view: memoryview, data: Sequence[Frame]) -> dict[int, int]:
        """Of files that are one chunk, by where they begin."""
        if not self._with_crc:
            return {}
        whole = [
            frame
            for number, frame in enumerate(data)
            if frame.last and (data[number - 1].last if number else self._file is None)
        ]
        bounds = array("Q", [place for frame in whole for place in (frame.start, frame.stop)])
        found = self._crc64.many(view, bounds)
        return {frame.start: crc for frame, crc in zip(whole, found, strict=True)}

    def _of_file(self, view: memoryview, frame: Frame, chunk: str, crcs: dict[int, int]) -> tuple[str, int]:
        if self._file is None and frame.last:
            return chunk, crcs.get(frame.start, 0)
        piece = view[frame.start : frame.stop]
        if self._file is None:
            self._file, self._crc = self._sha256.Sha256(), 0
        self._file.update(piece)
        if self._with_crc:
            self._crc = self._crc64.update(self._crc, piece)
        if not frame.last:
            return "", 0
        digest, self._file = self._file.hexdigest(), None
        return digest, self._crc


def _is_zeros(view: memoryview, frame: Frame) -> bool:
    if view[frame.start] or view[frame.stop - 1]:
        return False
    piece = bytes(view[frame.start : frame.stop])
    return piece.count(0) == len(piece)
