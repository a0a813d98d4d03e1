"""The Merkle nodes of what the steps of a cache copied, as one blob: they name the first file that differs.

The blob is zstd of nodes one after the other, each ``u32 length`` (little-endian) and its bytes. A node's digest is its
blake3, so what is read needs no names, and cannot say anything else than it is.
"""

from __future__ import annotations

import io
import stat
import struct
from collections.abc import Iterable, Mapping
from typing import Any

from fastlayer.builder.context.merkle import Nodes
from fastlayer.builder.context.nodes import decode
from fastlayer.errors import FastlayerError, ManifestError

MAX_PACKED = 64 << 20  # bytes of the blob
_MAX_BYTES = 256 << 20  # bytes of nodes
_MAX_WINDOW = 1 << 27
_LENGTH = struct.Struct("<I")


def roots_of(inputs: Iterable[Mapping[str, Any]]) -> set[bytes]:
    """The digests of what steps with these inputs copied."""
    found: set[bytes] = set()
    for value in inputs:
        for about in (value, *(value.get("mounts") or ())):
            found.update(bytes.fromhex(digest) for _, digest in about.get("_details") or ())
    return found


def below(roots: Iterable[bytes], nodes: Nodes) -> dict[bytes, bytes]:
    """All nodes that are there at and below these digests."""
    found: dict[bytes, bytes] = {}
    waiting = list(roots)
    while waiting:
        digest = waiting.pop()
        if digest in found or (data := nodes(digest)) is None:
            continue
        found[digest] = data
        waiting += [child.key for child in decode(data) if stat.S_ISDIR(child.mode)]
    return found


def is_whole(nodes: Mapping[bytes, bytes]) -> bool:
    """Whether all that they lead to is among them."""
    return all(child.key in nodes for data in nodes.values() for child in decode(data) if stat.S_ISDIR(child.mode))


def pack(nodes: Mapping[bytes, bytes]) -> bytes | None:
    """The blob; None when there is nothing, or more than a reader takes. The same nodes give the same bytes."""
    import zstandard

    if not nodes or sum(map(len, nodes.values())) > _MAX_BYTES - _LENGTH.size * len(nodes):
        return None
    data = b"".join(_LENGTH.pack(len(nodes[digest])) + nodes[digest] for digest in sorted(nodes))
    packed = zstandard.ZstdCompressor(level=3, write_checksum=True).compress(data)
    return packed if len(packed) <= MAX_PACKED else None


def unpack(packed: bytes, what: str) -> dict[bytes, bytes]:
    """The nodes by their digests. Raises ``ManifestError``."""
    import zstandard
    from blake3 import blake3

    found: dict[bytes, bytes] = {}
    reader = zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW).stream_reader(io.BytesIO(packed))
    left = _MAX_BYTES
    try:
        while head := reader.read(_LENGTH.size):
            (length,) = _LENGTH.unpack(head)
            left -= length + _LENGTH.size
            data = reader.read(length) if left >= 0 else b""
            if len(data) != length:
                raise ManifestError(f"{what}: is cut off, or too large")
            for _ in decode(data):  # whatever is used later on can be read
                pass
            found[blake3(data).digest()] = data
    except (zstandard.ZstdError, struct.error, FastlayerError) as exc:
        raise ManifestError(f"{what}: is no list of nodes: {exc}") from None
    return found
