"""Digests as OCI writes them: ``algorithm:encoded`` (image-spec descriptor.md, "Digests")."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import Any

# Encoded length (lower-case hex) of the registered algorithms.
_HEX_LENGTH = {"sha256": 64, "sha384": 96, "sha512": 128, "blake3": 64}
ALGORITHMS = frozenset(_HEX_LENGTH)
_SMALL = 256 << 10  # bytes


class Digest(str):
    """A checked digest; a ``str`` such as ``sha256:6c3c624b58db…``.

    Raises ``ValueError`` when the text is not a digest of a registered algorithm.
    """

    __slots__ = ()

    def __new__(cls, text: str) -> Digest:
        algorithm, colon, encoded = text.partition(":")
        if not colon or algorithm not in _HEX_LENGTH:
            raise ValueError(f"{_shown(text)} is not a digest: expected sha256:<64 hex digits>")
        if len(encoded) != _HEX_LENGTH[algorithm] or encoded.strip("0123456789abcdef"):
            raise ValueError(f"{_shown(text)} is not a digest: expected {_HEX_LENGTH[algorithm]} lower-case hex digits")
        return str.__new__(cls, text)

    @property
    def algorithm(self) -> str:
        """``sha256`` for everything fastlayer writes."""
        return self.partition(":")[0]

    @property
    def encoded(self) -> str:
        """The hex digits."""
        return self.partition(":")[2]


def sha256_digest(hexdigest: str) -> Digest:
    """The digest of a finished sha256, given its hex digits."""
    return Digest("sha256:" + hexdigest)


def digest_of(data: Any) -> Digest:
    """The sha256 of bytes that are all there.

    To import hashlib loads OpenSSL, which takes longer than to hash a configuration by what the interpreter brings
    along.
    """
    if len(data) <= _SMALL:
        return sha256_digest(_sha256()(data, usedforsecurity=False).hexdigest())
    import hashlib

    return sha256_digest(hashlib.sha256(data, usedforsecurity=False).hexdigest())


@cache
def _sha256() -> Any:
    for name in ("_sha2", "_sha256", "hashlib"):  # since Python 3.12, before, and where there is neither
        try:
            return import_module(name).sha256
        except ImportError:
            continue
    raise AssertionError("there is no Python without hashlib")


def _shown(text: str) -> str:
    return ascii(text if len(text) <= 150 else text[:150] + "...")
