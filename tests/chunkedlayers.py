"""Chunked layers made by hand, well and badly: zstd:chunked and eStargz as their specifications describe them."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from typing import Any, NamedTuple

import zstandard

from fastlayer.oci import mediatypes
from fastlayer.oci.digest import Digest
from tests.applying import file, folder
from tests.corpus.tarparts import END
from tests.registry_server import RegistryServer, digest

PREFIX = "io.github.containers.zstd-chunked."
ESTARGZ = "containerd.io/snapshot/stargz/toc.digest"
Edit = Callable[[dict[str, Any]], object]


class Layer(NamedTuple):
    """A layer of a registry: its blob, what its descriptor says, and the tar that it is."""

    blob: bytes
    annotations: dict[str, str]
    tar: bytes
    media_type: str

    @property
    def descriptor(self) -> dict[str, Any]:
        return {
            "mediaType": self.media_type,
            "digest": str(digest(self.blob)),
            "size": len(self.blob),
            "annotations": self.annotations,
        }

    @property
    def diff_id(self) -> Digest:
        return digest(self.tar)


def _sum(data: bytes) -> str:
    return f"sha256:{sha256(data).hexdigest()}"


def _cut(body: bytes, size: int) -> list[bytes]:
    return [body[at : at + size] for at in range(0, len(body), size)]


def _entries(
    path: str, body: bytes, pieces: Sequence[bytes], places: Sequence[tuple[int, int]]
) -> list[dict[str, Any]]:
    """A file in a TOC; ``places``: of its pieces in the blob."""
    first: dict[str, Any] = {"type": "reg", "name": path, "size": len(body), "mode": 0o644}
    if not body:
        return [first]
    first |= {"digest": _sum(body), "offset": places[0][0], "endOffset": places[-1][1]}
    found, at = [first], 0
    for piece, (start, _) in zip(pieces, places, strict=True):
        entry = first if not at else {"type": "chunk", "name": path, "offset": start, "chunkOffset": at}
        if len(pieces) > 1:
            entry |= {"chunkSize": len(piece), "chunkDigest": _sum(piece)}
            if not any(piece):
                entry["chunkType"] = "zeros"
        if at:
            found.append(entry)
        at += len(piece)
    return found


class _Writer:
    """A blob that grows, piece by piece, and the tar that it is."""

    def __init__(self, pack: Callable[[bytes], bytes]) -> None:
        self.blob = self.tar = b""
        self._pack = pack

    def put(self, data: bytes) -> tuple[int, int]:
        start = len(self.blob)
        self.blob += self._pack(data)
        self.tar += data
        return start, len(self.blob)


def tree(files: Mapping[str, bytes]) -> list[tuple[str, bytes, bytes, bytes]]:
    """(path, header, body, padding) of each member; a path that ends in a slash is a directory."""
    found = []
    for path, body in files.items():
        name = path.encode()
        member = folder(name) if path.endswith("/") else file(name, body)
        head = len(member) - len(body) - (-len(body) % 512)
        found.append((path, member[:head], body, bytes(-len(body) % 512)))
    return found


def zstd_chunked(
    files: Mapping[str, bytes],
    *,
    split: bool = True,
    chunk: int = 1 << 30,
    level: int = 3,
    edit: Edit = lambda toc: None,
    edit_split: Callable[[list[dict[str, Any]]], object] = lambda lines: None,
) -> Layer:
    """``chunk``: bytes of the pieces of a file; ``edit``: changes the TOC, ``edit_split`` the tar-split."""
    pack = zstandard.ZstdCompressor(level, write_checksum=True).compress
    out = _Writer(pack)
    entries: list[dict[str, Any]] = []
    lines: list[dict[str, Any]] = []
    between = b""
    for path, head, body, padding in tree(files):
        between += head
        lines.append({"type": 2, "payload": base64.b64encode(head).decode(), "position": len(lines)})
        lines.append({"type": 1, "name": path, "size": len(body), "payload": "AAAAAAAAAAA=", "position": len(lines)})
        if path.endswith("/"):
            entries.append({"type": "dir", "name": path, "mode": 0o755})
            continue
        pieces = _cut(body, chunk)
        if body:
            out.put(between)
            between = b""
        entries += _entries(path, body, pieces, [out.put(piece) for piece in pieces])
        between += padding
        lines.append({"type": 2, "payload": base64.b64encode(padding).decode(), "position": len(lines)})
    lines.append({"type": 2, "payload": base64.b64encode(END).decode(), "position": len(lines)})
    out.put(between + END)
    edit_split(lines)
    packed_split = pack("".join(json.dumps(line) + "\n" for line in lines).encode())
    toc: dict[str, Any] = {"version": 1, "entries": entries}
    if split:
        toc["tarSplitDigest"] = _sum(packed_split)
    edit(toc)
    raw = json.dumps(toc).encode()
    packed = pack(raw)
    at = len(out.blob) + 8
    annotations = {
        PREFIX + "manifest-checksum": _sum(packed),
        PREFIX + "manifest-position": f"{at}:{len(packed)}:{len(raw)}:1",
    }
    numbers = [at, len(packed), len(raw), 1, 0, 0, 0]
    blob = out.blob + _skippable(packed)
    if split:
        expanded = sum(len(json.dumps(line)) + 1 for line in lines)
        numbers[4:] = [len(blob) + 8, len(packed_split), expanded]
        annotations[PREFIX + "tarsplit-position"] = ":".join(map(str, numbers[4:]))
        blob += _skippable(packed_split)
    blob += _skippable(b"".join(number.to_bytes(8, "little") for number in numbers) + b"GNUlInUx")
    return Layer(blob, annotations, out.tar, mediatypes.LAYER_ZSTD)


def _skippable(data: bytes) -> bytes:
    return b"\x50\x2a\x4d\x18" + len(data).to_bytes(4, "little") + data


def estargz(
    files: Mapping[str, bytes],
    *,
    chunk: int = 1 << 30,
    apart: bool = True,
    edit: Edit = lambda toc: None,
) -> Layer:
    """``apart``: contents end with their member, and the TOC says where; else padding and the next header follow in it,
    as in layers of the stargz snapshotter."""
    out = _Writer(lambda data: gzip.compress(data, 6, mtime=0))
    entries: list[dict[str, Any]] = []
    between = b""
    for path, head, body, padding in tree(files):
        between += head
        if path.endswith("/"):
            entries.append({"type": "dir", "name": path, "mode": 0o755})
            continue
        pieces = _cut(body, chunk)
        places = []
        if body:
            out.put(between)
            between = b""
        for number, piece in enumerate(pieces):
            if not apart and number == len(pieces) - 1:
                between, places = piece, [*places, (len(out.blob), 0)]
            else:
                places.append(out.put(piece))
        found = _entries(path, body, pieces, places)
        if body and not apart:
            del found[0]["endOffset"]
        for entry in found:
            entry.setdefault("chunkDigest", entry.get("digest", ""))
        entries += found
        between += padding
    out.put(between)
    toc = {"version": 1, "entries": entries}
    edit(toc)
    raw = json.dumps(toc).encode()
    at = len(out.blob)
    out.put(file(b"stargz.index.json", raw) + END)
    footer = b"\x1f\x8b\x08\x04\0\0\0\0\0\xff\x1a\0SG\x16\0%016xSTARGZ\x01\0\0\xff\xff" % at + bytes(8)
    return Layer(out.blob + footer, {ESTARGZ: _sum(raw)}, out.tar, mediatypes.LAYER_GZIP)


def publish(server: RegistryServer, name: str, tag: str, layers: Sequence[Layer]) -> Digest:
    """An image of layers in a registry."""
    config = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": {},
            "rootfs": {"type": "layers", "diff_ids": [layer.diff_id for layer in layers]},
        }
    ).encode()
    server.add_blob(name, config)
    for layer in layers:
        server.add_blob(name, layer.blob)
    return server.add_manifest(
        name,
        tag,
        {
            "schemaVersion": 2,
            "mediaType": mediatypes.MANIFEST,
            "config": {"mediaType": mediatypes.CONFIG, "digest": digest(config), "size": len(config)},
            "layers": [layer.descriptor for layer in layers],
        },
    )
