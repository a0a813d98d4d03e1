"""``cache-mounts.json``: the cache mounts of an archive.

What a mount holds is a stream of lines (``entries.py``) and one of data, both as chunks. Their names are here, so all
that is read can be verified.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from fastlayer._values import NamedTuple
from fastlayer.builder.mountarchive.pack import MAX_CHUNK, MAX_PACKED, Chunk
from fastlayer.oci import jsontext

NAME = "cache-mounts.json"
SCHEMA = 1
MAX_INDEX = 64 << 20  # bytes
_ID = re.compile(r"[0-9a-f]{64}", re.ASCII)
_MAX_NAME = 4096


class Mount(NamedTuple):
    """``id``: of the cache mount; ``used_ns``: when a step had it last; ``lines``, ``data``: its two streams;
    ``files``: how many entries there are."""

    id: str
    used_ns: int
    files: int
    lines: tuple[Chunk, ...]
    data: tuple[Chunk, ...]

    @property
    def size(self) -> int:
        """Bytes of data."""
        return sum(chunk.size for chunk in self.data)

    @property
    def chunks(self) -> set[str]:
        """All that it needs."""
        return {chunk.id for chunk in (*self.lines, *self.data)}


def to_bytes(mounts: Iterable[Mount]) -> bytes:
    """The document; the same mounts give the same bytes."""
    return jsontext.write(to_value(mounts))


def to_value(mounts: Iterable[Mount]) -> dict[str, Any]:
    """The same as JSON."""
    return {
        "schema": SCHEMA,
        "mounts": [
            {
                "id": mount.id,
                "used_ns": mount.used_ns,
                "files": mount.files,
                "lines": [list(chunk) for chunk in mount.lines],
                "data": [list(chunk) for chunk in mount.data],
            }
            for mount in sorted(mounts)
        ],
    }


def from_bytes(data: bytes, what: str) -> dict[str, Mount]:
    """The mounts by their ids. Raises ``ManifestError``."""
    return from_value(jsontext.parse_object(data, what, MAX_INDEX), what)


def from_value(value: Mapping[str, Any], what: str) -> dict[str, Mount]:
    """The same of JSON that has been parsed."""
    if value.get("schema") != SCHEMA:
        jsontext.refuse(what, f"is an archive of another version than {SCHEMA}: export it again")
    found: dict[str, Mount] = {}
    for entry in jsontext.objects(value, "mounts", what):
        identity = jsontext.text(entry, "id", what)
        if not 0 < len(identity) <= _MAX_NAME or identity in found or not identity.isprintable():
            jsontext.refuse(what, f"{identity[:60]!a} is no id of a cache mount, or is there twice")
        used, files = entry.get("used_ns"), entry.get("files")
        if not _is_number(used, 1 << 62) or not _is_number(files, 1 << 32):
            jsontext.refuse(what, f"{identity}: has no numbers where they have to be")
        lines, data_ = _chunks(entry, "lines", what), _chunks(entry, "data", what)
        found[identity] = Mount(identity, used or 0, files or 0, lines, data_)
    return found


def _chunks(entry: Mapping[str, Any], name: str, what: str) -> tuple[Chunk, ...]:
    found = entry.get(name)
    if not isinstance(found, list):
        jsontext.refuse(what, f"has no {name}")
    return tuple(_chunk(item, what) for item in found)


def _chunk(item: Any, what: str) -> Chunk:
    if (
        not isinstance(item, list)
        or len(item) != 3
        or not is_id(item[0])
        or not _is_number(item[1], MAX_CHUNK)
        or not _is_number(item[2], MAX_PACKED)
        or 0 in item
    ):
        jsontext.refuse(what, "names a chunk that cannot be: do not use this archive")
    return Chunk(*item)


def is_id(value: Any) -> bool:
    """Whether it is the name of a chunk."""
    return isinstance(value, str) and _ID.fullmatch(value) is not None


def _is_number(value: Any, highest: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= highest
