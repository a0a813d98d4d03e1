"""Blobs that are verified while they pass by: nobody gets the last of a wrong one."""

from __future__ import annotations

from collections.abc import Iterator

from fastlayer.content.ingest import new_hash
from fastlayer.errors import DigestMismatchError
from fastlayer.oci.descriptor import Descriptor
from fastlayer.registry.blobs import short
from fastlayer.transfer.ends.protocols import Bytes, Moved


class Verified:
    """The bytes of a blob, verified: the last piece is held back until all of it is known to be right.

    What is read a second time, after a failure, is verified by the registry only.
    """

    def __init__(self, blob: Descriptor, data: Bytes, moved: Moved) -> None:
        self._blob = blob
        self._data = data
        self._moved = moved
        self._hash = new_hash(blob.digest.algorithm)
        self._hashed = 0

    def __call__(self, offset: int) -> Iterator[bytes | memoryview]:
        held: bytes | memoryview = b""
        for piece in self._data(offset):
            if len(held):
                yield held
                offset += len(held)
                self._moved(offset)
            held = piece if isinstance(piece, bytes) else bytes(piece)
            self._take(held, offset)
        self._require(offset + len(held))
        yield held
        self._moved(offset + len(held))

    def _take(self, piece: bytes, offset: int) -> None:
        new = memoryview(piece)[max(0, self._hashed - offset) :]
        self._hash.update(new)
        self._hashed += len(new)

    def _require(self, size: int) -> None:
        digest = self._blob.digest
        if size != self._blob.size:
            raise DigestMismatchError(f"{short(digest)}: has {size} bytes instead of {self._blob.size}: fetch it again")
        if self._hash.hexdigest() != digest.encoded:
            found = f"{digest.algorithm}:{self._hash.hexdigest()}"
            raise DigestMismatchError(f"{digest}: the bytes hash to {found}: fetch it again")
