"""Judges of zstd:chunked and eStargz blobs, written from the formats' own descriptions and knowing nothing of ours.

zstd:chunked: containers/storage, pkg/chunked (internal/minimal, compression_linux.go), and vbatts/tar-split.
eStargz: stargz-snapshotter, docs/estargz.md.
"""

from __future__ import annotations

import base64
import datetime
import gzip
import hashlib
import io
import itertools
import json
import posixpath
import struct
import tarfile
import zlib
from collections.abc import Mapping
from typing import Any

import zstandard

NEW, OLD = "io.github.containers.zstd-chunked.", "io.containers.zstd-chunked."
TOC_DIGEST = "containerd.io/snapshot/stargz/toc.digest"
_TYPES = {
    tarfile.REGTYPE: "reg",
    tarfile.AREGTYPE: "reg",
    tarfile.LNKTYPE: "hardlink",
    tarfile.SYMTYPE: "symlink",
    tarfile.CHRTYPE: "char",
    tarfile.BLKTYPE: "block",
    tarfile.DIRTYPE: "dir",
    tarfile.FIFOTYPE: "fifo",
}
Toc = list[dict[str, Any]]


def sha256(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def unzstd(data: bytes) -> bytes:
    """All frames."""
    reader = zstandard.ZstdDecompressor().stream_reader(io.BytesIO(data), read_across_frames=True)
    return reader.readall()


# ---- zstd:chunked --------------------------------------------------------------------------------------


def check_zstd_chunked(blob: bytes, annotations: Mapping[str, str]) -> tuple[bytes, Toc]:
    """The tar and the table, after everything about them was found to be in order."""
    offset, length, size, kind = map(int, annotations[NEW + "manifest-position"].split(":"))
    split_at, split_length, split_size = map(int, annotations[NEW + "tarsplit-position"].split(":"))
    footer = blob[-64:]
    assert blob[-72:-64] == b"\x50\x2a\x4d\x18" + struct.pack("<I", 64)
    assert footer[56:] == b"GNUlInUx"
    assert struct.unpack("<7Q", footer[:56]) == (offset, length, size, 1, split_at, split_length, split_size)
    assert kind == 1
    assert blob[offset - 8 : offset] == b"\x50\x2a\x4d\x18" + struct.pack("<I", length)
    assert blob[split_at - 8 : split_at] == b"\x50\x2a\x4d\x18" + struct.pack("<I", split_length)
    assert split_at == offset + length + 8 and split_at + split_length + 72 == len(blob)
    table, split = blob[offset : offset + length], blob[split_at : split_at + split_length]
    assert annotations[NEW + "manifest-checksum"] == sha256(table)
    assert annotations[NEW + "tarsplit-checksum"] == sha256(split)
    for key in ("manifest-checksum", "manifest-position"):
        assert annotations[OLD + key] == annotations[NEW + key]
    text = unzstd(table)
    assert len(text) == size
    value = json.loads(text)
    assert value["version"] == 1 and value["tarSplitDigest"] == sha256(split)
    tar = unzstd(blob[: offset - 8])
    assert unzstd(blob) == tar
    lines = unzstd(split)
    assert len(lines) == split_size
    _check_entries(value["entries"], tar)
    payloads = _check_payloads(value["entries"], blob, offset - 8)
    _check_split([json.loads(line) for line in lines.splitlines()], value["entries"], payloads, tar)
    return tar, value["entries"]


def _check_payloads(entries: Toc, blob: bytes, end: int) -> dict[str, bytes]:
    """The bytes of every file, from its chunks alone."""
    found: dict[str, bytes] = {}
    for number, entry in enumerate(entries):
        if entry["type"] != "reg" or not entry.get("size"):
            assert (
                not {"offset", "endOffset", "digest", "chunkSize", "chunkDigest"} & set(entry)
                or entry["type"] == "chunk"
            )
            continue
        chunks = [entry]
        for follower in entries[number + 1 :]:
            if follower["type"] != "chunk":
                break
            assert follower["name"] == entry["name"]
            chunks.append(follower)
        bounds = [chunk["offset"] for chunk in chunks] + [entry["endOffset"]]
        assert bounds == sorted(bounds) and bounds[0] > 0 and bounds[-1] <= end
        pieces = [unzstd(blob[start:stop]) for start, stop in itertools.pairwise(bounds)]
        if len(chunks) > 1:
            for chunk, piece, begin in zip(chunks, pieces, _sums(pieces), strict=True):
                assert (chunk["chunkSize"], chunk.get("chunkOffset", 0)) == (len(piece), begin)
                assert chunk["chunkDigest"] == sha256(piece)
                assert (chunk.get("chunkType") == "zeros") == (not any(piece))
        payload = b"".join(pieces)
        assert (entry["size"], entry["digest"]) == (len(payload), sha256(payload))
        found[entry["name"]] = payload
    return found


def _sums(pieces: list[bytes]) -> list[int]:
    return [sum(map(len, pieces[:number])) for number in range(len(pieces))]


def crc64(data: bytes) -> bytes:
    """Go's crc64.ISO, a byte at a time: what is shifted out, times x^64, which is x^4 + x^3 + x + 1."""
    table = [_shifted_out(byte) for byte in range(256)]
    value = (1 << 64) - 1
    for byte in data:
        value = (value >> 8) ^ table[(value ^ byte) & 255]
    return (value ^ ((1 << 64) - 1)).to_bytes(8, "big")


def _shifted_out(byte: int) -> int:
    for _ in range(8):
        byte = (byte >> 1) ^ (0xD800000000000000 if byte & 1 else 0)
    return byte


def _check_split(lines: list[dict[str, Any]], entries: Toc, payloads: Mapping[str, bytes], tar: bytes) -> None:
    """The tar comes out of it, and it names the entries of the table, one header in each segment (IterateHeaders)."""
    assert [line["position"] for line in lines] == list(range(len(lines)))
    made, files, headers, pad = [], [], [], 0
    for line in lines:
        if line["type"] == 2:
            segment = base64.b64decode(line["payload"])
            made.append(segment)
            assert len(segment) >= pad
            header = io.BytesIO(segment[pad:])
            pad = 0
            try:
                info = tarfile.TarInfo.fromtarfile(_alone(header))
            except (tarfile.EOFHeaderError, tarfile.EmptyHeaderError):
                continue
            headers.append(info.name)
            if info.isreg():
                pad = -info.size % 512
            continue
        assert line["type"] == 1
        files.append(line["name"])
        payload = payloads.get(line["name"], b"")
        assert line.get("size", 0) == len(payload)
        assert line["payload"] is None or base64.b64decode(line["payload"]) == crc64(payload)
        assert (line["payload"] is None) == (not payload)
        made.append(payload)
    assert b"".join(made) == tar
    names = [entry["name"] for entry in entries if entry["type"] != "chunk"]
    assert files == names
    assert [name.rstrip("/") for name in headers] == [name.rstrip("/") for name in names]


def _alone(header: io.BytesIO) -> tarfile.TarFile:
    """A TarFile that stands at the header, and at the end of the archive behind it."""
    empty = tarfile.TarFile.__new__(tarfile.TarFile)
    empty.fileobj, empty.offset, empty.pax_headers = header, 0, {}  # type: ignore[assignment]
    empty.encoding, empty.errors, empty.tarinfo = "utf-8", "surrogateescape", tarfile.TarInfo
    return empty


# ---- what a table says of entries ----------------------------------------------------------------------


def _check_entries(entries: Toc, tar: bytes) -> None:
    with tarfile.open(fileobj=io.BytesIO(_padded(tar)), mode="r:", encoding="utf-8") as found:
        members = found.getmembers()
    told = [entry for entry in entries if entry["type"] != "chunk"]
    assert len(told) == len(members)
    for entry, member in zip(told, members, strict=True):
        assert entry["type"] == _TYPES[member.type]
        assert entry["name"].rstrip("/") == member.name.rstrip("/")
        assert entry.get("linkName", "") == (member.linkname if entry["type"] in ("hardlink", "symlink") else "")
        assert entry.get("mode", 0) == member.mode
        assert (entry.get("uid", 0), entry.get("gid", 0)) == (member.uid, member.gid)
        assert entry.get("size", 0) == member.size
        if entry["type"] in ("char", "block"):
            assert (entry.get("devMajor", 0), entry.get("devMinor", 0)) == (member.devmajor, member.devminor)
        pax = member.pax_headers
        assert _seconds(entry.get("modtime")) == round(float(pax.get("mtime", member.mtime)), 6)
        for key, name in (("accesstime", "atime"), ("changetime", "ctime")):
            assert (key in entry) == (name in pax)
            if name in pax:
                assert _seconds(entry[key]) == round(float(pax[name]), 6)
        attributes = {
            key[len("SCHILY.xattr.") :]: value.encode("utf-8", "surrogateescape")
            for key, value in pax.items()
            if key.startswith("SCHILY.xattr.")
        }
        assert {key: base64.b64decode(value) for key, value in entry.get("xattrs", {}).items()} == attributes


def _padded(tar: bytes) -> bytes:
    """For Python's reader, which insists on the last padding."""
    return tar + bytes(-len(tar) % 512)


def _seconds(moment: str | None) -> float:
    if moment is None:
        return 0.0
    whole, _, rest = moment.rstrip("Z").partition(".")
    base = datetime.datetime.fromisoformat(whole).replace(tzinfo=datetime.UTC)
    since = base - datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
    return round(since.days * 86400 + since.seconds + int(rest.ljust(9, "0") or 0) / 1e9, 6)


# ---- eStargz ---------------------------------------------------------------------------------------------


def check_estargz(blob: bytes, annotations: Mapping[str, str]) -> tuple[bytes, Toc]:
    """The tar and the table, after everything about them was found to be in order."""
    footer = blob[-51:]
    assert footer[:12] == b"\x1f\x8b\x08\x04\0\0\0\0\0\xff\x1a\0" and footer[12:16] == b"SG\x16\0"
    assert footer[32:38] == b"STARGZ" and footer[38:] == b"\x01\0\0\xff\xff" + bytes(8)
    table_at = int(footer[16:32], 16)
    first_member = zlib.decompressobj(31)
    last = first_member.decompress(blob[table_at:])
    assert first_member.eof and first_member.unused_data == footer  # one member: readers take no second
    with tarfile.open(fileobj=io.BytesIO(last), mode="r:") as found:
        (member,) = found.getmembers()
        assert member.name == "stargz.index.json" and member.isreg()
        opened = found.extractfile(member)
        assert opened is not None
        text = opened.read()
    assert annotations[TOC_DIGEST] == sha256(text)
    value = json.loads(text)
    assert value["version"] == 1
    tar = gzip.decompress(blob)
    assert tar.endswith(last) and int(annotations["io.containers.estargz.uncompressed-size"]) == len(tar)
    _check_entries(value["entries"], tar[: len(tar) - len(last)])
    _check_members(value["entries"], blob, tar)
    landmarks = [entry for entry in value["entries"] if entry["name"] == ".no.prefetch.landmark"]
    assert len(landmarks) == 1 and not any(entry["name"] == ".prefetch.landmark" for entry in value["entries"])
    links = {clean(entry["name"]) for entry in value["entries"] if entry["type"] != "chunk"}
    assert all(clean(entry["linkName"]) in links for entry in value["entries"] if entry["type"] == "hardlink")
    return tar, value["entries"]


def clean(name: str) -> str:
    return posixpath.normpath("/" + name).lstrip("/")


def _check_members(entries: Toc, blob: bytes, tar: bytes) -> None:
    with tarfile.open(fileobj=io.BytesIO(tar), mode="r:", encoding="utf-8") as found:
        bodies = {
            member.name: tar[member.offset_data : member.offset_data + member.size]
            for member in found.getmembers()
            if member.isreg()
        }
    offsets: set[int] = set()
    for number, entry in enumerate(entries):
        if entry["type"] == "reg" and entry.get("size"):
            chunks = [entry]
            for follower in entries[number + 1 :]:
                if follower["type"] != "chunk":
                    break
                chunks.append(follower)
            done = b""
            for place, chunk in enumerate(chunks):
                assert chunk["offset"] not in offsets and blob[chunk["offset"] :][:2] == b"\x1f\x8b"
                offsets.add(chunk["offset"])
                assert chunk.get("chunkOffset", 0) == len(done)
                size = chunk.get("chunkSize", 0)
                assert (size == 0) == (place == len(chunks) - 1)
                piece = zlib.decompressobj(31).decompress(blob[chunk["offset"] :])
                assert size in (0, len(piece)) and chunk["chunkDigest"] == sha256(piece)
                done += piece
            ends = zlib.decompressobj(31)
            ends.decompress(blob[chunks[-1]["offset"] :])
            assert blob[entry["endOffset"] :] == ends.unused_data  # not of the format, but ours say it
            assert done == bodies[entry["name"]] and entry["digest"] == sha256(done)
            assert len(done) == entry["size"]
