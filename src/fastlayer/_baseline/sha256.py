"""SHA-256 by hashlib: what csrc/fl_sha256.h does for two streams at once, one after the other."""

from __future__ import annotations

import hashlib
from typing import Any

from fastlayer.errors import UsageError

AVAILABLE = True


class Sha256:
    """See ``fastlayer._backend.Sha256``."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256(usedforsecurity=False)
        self.update = self._hash.update
        self.hexdigest = self._hash.hexdigest


def update_both(a: Sha256, data_a: Any, b: Sha256, data_b: Any) -> None:
    if a is b:
        raise UsageError("two streams are needed")
    a.update(data_a)
    b.update(data_b)


def digests(data: Any, bounds: Any) -> bytes:
    """The digests of data[bounds[2i]:bounds[2i+1]], one behind the other."""
    view = memoryview(data)
    pieces = list(zip(bounds[::2], bounds[1::2], strict=True))
    if any(not start <= stop <= len(view) for start, stop in pieces):
        raise UsageError("a piece lies outside of the data")
    return b"".join(hashlib.sha256(view[start:stop], usedforsecurity=False).digest() for start, stop in pieces)
