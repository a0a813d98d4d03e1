"""Tables of contents of chunked layers: which bytes of the blob are the contents of which file.

Only that is taken from them: names, owners and modes come from the headers of the tar, which are there, too. What a TOC
leaves out, or says in a way that is of no use, is no error: it is fetched with what stands between contents.
"""

from __future__ import annotations

import json
import re
from typing import Any
from zlib import crc32

from fastlayer._values import NamedTuple
from fastlayer.errors import LayerFormatError, LimitError

MAX_ENTRIES = 150_000  # of whatever type; each takes about 2 KB of memory
_VALUES = 24  # of an entry at most
_MAX_VALUES = 20 * MAX_ENTRIES
_FEW = 1000
_LARGEST = (1 << 63) - 1
_OF_THE_BLOB = frozenset(
    ("digest", "offset", "endOffset", "innerOffset", "chunkOffset", "chunkSize", "chunkDigest", "chunkType")
)
_SHA256_LENGTH = 71
_SHA256 = re.compile(r"sha256:([0-9a-f]{64})", re.ASCII)


class Chunk(NamedTuple):
    """Contents of a file, ``size`` bytes: what ``start`` to before ``end`` of the blob expands to.

    ``end`` is 0 where nobody knows, because something else follows in the same gzip member. ``digest``: the sha256, 32
    bytes, or none. ``zeros``: it is nothing else.
    """

    start: int
    end: int
    size: int
    digest: bytes
    zeros: bool


class TocFile(NamedTuple):
    """A file that is not empty. ``chunks`` are all of it, in order; ``digest``: of all of it, or none.

    ``mark``: a checksum of what the TOC says of the entries since the file before, and of that file's size: where it is
    the same in two layers, so is, most probably, what the tar has between the contents of the two files.
    """

    path: str
    size: int
    digest: bytes
    chunks: tuple[Chunk, ...]
    mark: int

    @property
    def is_whole(self) -> bool:
        """Whether it is known where each of its bytes is."""
        return all(chunk.end for chunk in self.chunks)


class Toc(NamedTuple):
    """``files``: in the order in which the blob has them; ``split_digest``: of the tar-split, empty for none."""

    files: tuple[TocFile, ...]
    split_digest: str


class _Entry(NamedTuple):
    """What matters of an object of the JSON. ``mark``: of what does not concern the blob."""

    mark: int
    kind: str
    name: str
    size: int
    digest: bytes
    start: int
    end: int
    chunk_at: int
    chunk_size: int
    chunk_digest: bytes
    zeros: bool
    inner: bool


def parse_toc(data: bytes | bytearray, tar_end: int) -> Toc:
    """The TOC of a layer whose frames or members with the tar end at ``tar_end``.

    Raises ``LayerFormatError`` for what contradicts itself, ``LimitError`` for too much.
    """
    objects = data.count(b"{")
    if objects > 2 * MAX_ENTRIES or data.count(b",") > _MAX_VALUES:
        raise LimitError(f"a TOC of more than {MAX_ENTRIES} entries")
    if data.count(b",") > _VALUES * objects + _FEW or data.count(b"[") > objects + _FEW:  # some are in names
        raise LayerFormatError("the TOC has values that are no entries")
    try:
        value = json.loads(data, object_hook=_hook)
    except (ValueError, RecursionError) as exc:
        raise LayerFormatError("the TOC is no JSON that could be one") from exc
    if not isinstance(value, dict) or value.get("version") != 1 or not isinstance(value.get("entries"), list):
        raise LayerFormatError("the TOC is none of version 1")
    split = value.get("tarSplitDigest") or ""
    if split and not (isinstance(split, str) and _SHA256.fullmatch(split)):
        raise LayerFormatError("the TOC has a digest of a tar-split that is none")
    entries = value["entries"]
    if not all(isinstance(entry, _Entry) for entry in entries):
        raise LayerFormatError("the TOC has entries that are none")
    return Toc(_placed(_files(entries), tar_end), split)


def _hook(value: dict[str, Any]) -> Any:
    """Each object as soon as it is read, so that they are not all in memory at once."""
    if "entries" in value:
        return value
    kind = value.get("type")
    if not isinstance(kind, str):
        return str(sorted(value.items(), key=str))  # extended attributes
    get = value.get
    mark = crc32(str([item for item in value.items() if item[0] not in _OF_THE_BLOB]).encode("utf-8", "replace"))
    if kind != "chunk" and not (kind == "reg" and get("size")):
        return _Entry(mark, "", "", 0, b"", 0, 0, 0, 0, b"", False, False)
    name = get("name")
    numbers = [get("size", 0), get("offset", 0), get("endOffset", 0), get("chunkOffset", 0), get("chunkSize", 0)]
    for number in numbers:
        if type(number) is not int or not 0 <= number <= _LARGEST:
            raise ValueError("a number of an entry")
    if not isinstance(name, str) or not name:
        raise ValueError("the name of an entry")
    size, start, end, chunk_at, chunk_size = numbers
    digests = _digest(get("digest")), _digest(get("chunkDigest"))
    zeros, inner = get("chunkType") == "zeros", bool(get("innerOffset"))
    return _Entry(mark, kind, name, size, digests[0], start, end, chunk_at, chunk_size, digests[1], zeros, inner)


_NONE = _Entry(0, "", "", 0, b"", 0, 0, 0, 0, b"", False, False)


def _digest(text: Any) -> bytes:
    """Those of other kinds are of no use."""
    if not isinstance(text, str) or len(text) != _SHA256_LENGTH or not text.startswith("sha256:"):
        return b""
    found = bytes.fromhex(text[7:])
    return found if len(found) == 32 else b""


def _files(entries: list[_Entry]) -> list[TocFile]:
    """A file is an entry ``reg`` and the ``chunk`` entries right behind it."""
    if len(entries) > MAX_ENTRIES:
        raise LimitError(f"a TOC of more than {MAX_ENTRIES} entries")
    files = []
    at = mark = 0
    while at < len(entries):
        mark = crc32(b"%d" % entries[at].mark, mark)
        end = at + 1
        if not entries[at].kind:
            at = end
            continue
        while end < len(entries) and entries[end].kind == "chunk":
            end += 1
        group = entries[at:end]
        entries[at:end] = [_NONE] * len(group)  # they take memory
        if group[0].kind != "reg" or any(entry.name != group[0].name for entry in group):
            raise LayerFormatError("the TOC has a chunk of no file")
        if not any(entry.inner for entry in group):  # several in one member: those are fetched as a whole
            files.append(_file(group, mark))
            mark = crc32(b"%d" % group[0].size)
        at = end
    return files


def _file(group: list[_Entry], mark: int) -> TocFile:
    first = group[0]
    if len(group) == 1 and not first.chunk_at and not first.chunk_size and not 0 < first.end <= first.start:
        chunk = Chunk(first.start, first.end, first.size, first.chunk_digest or first.digest, first.zeros)
        return TocFile(first.name, first.size, first.digest, (chunk,), mark)
    ends = [entry.start for entry in group[1:]] + [first.end]
    stops = [entry.chunk_at for entry in group[1:]] + [first.size]
    if first.chunk_at or (not first.start and len(group) > 1):
        raise _contradiction(first)
    chunks = []
    for entry, end, stop in zip(group, ends, stops, strict=True):
        size = stop - entry.chunk_at
        if size <= 0 or (entry.chunk_size and entry.chunk_size != size) or (end and end <= entry.start):
            raise _contradiction(first)
        digest = entry.chunk_digest or (first.digest if len(group) == 1 else b"")
        chunks.append(Chunk(entry.start, end, size, digest, entry.zeros))
    return TocFile(first.name, first.size, first.digest, tuple(chunks), mark)


def _contradiction(entry: _Entry) -> LayerFormatError:
    return LayerFormatError(f"the TOC contradicts itself about {entry.name[:200]!a}")


def _placed(files: list[TocFile], tar_end: int) -> tuple[TocFile, ...]:
    """In the order of the blob. No two may have the same bytes of it, nor any what is behind the tar."""
    files.sort(key=lambda file: file.chunks[0].start)
    at = 0
    for file in files:
        if file.chunks[0].start < at or file.chunks[0].start == 0:
            raise LayerFormatError(f"the TOC gives the same bytes to {file.path[:200]!a} and another file")
        at = file.chunks[-1].end or file.chunks[-1].start + 1
        if at > tar_end:
            raise LayerFormatError(f"the TOC has {file.path[:200]!a} behind the end of the tar")
    return tuple(files)
