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
