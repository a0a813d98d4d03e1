"""Reading a tar-split (github.com/vbatts/tar-split, tar/storage): all of a tar but the contents of its files.

JSON objects, one behind the other: those of type 2 are bytes of the tar as they are, those of type 1 stand for the
contents of a file.
"""

from __future__ import annotations

import binascii
import json
from collections.abc import Iterator
from typing import Any

from fastlayer._values import NamedTuple
from fastlayer.errors import LayerFormatError, LimitError
from fastlayer.layer.chunked.blob import Bytes
from fastlayer.layer.chunked.places import MAX_SPLIT
from fastlayer.layer.decompress import Lookahead, ZstdReader

_LINE = 4 << 20  # bytes of an object
_PIECE = 256 << 10


class Contents(NamedTuple):
    """The contents of a file, ``size`` bytes, belong here."""

    path: str
    size: int


def read_split(packed: bytes, expanded: int | None) -> Iterator[bytes | Contents]:
    """What a compressed tar-split says, in the order of the tar. Raises ``LayerFormatError``, ``LimitError``."""
    for lines in _lines(packed, MAX_SPLIT if expanded is None else expanded):
        try:
            values = json.loads(b"[%b]" % b",".join(lines))
            if len(values) != len(lines):
                raise ValueError
            found = [_entry(value) for value in values]
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as exc:
            raise LayerFormatError("the tar-split is none") from exc
        yield from filter(None, found)


def _entry(value: Any) -> bytes | Contents | None:
    kind = value["type"]
    if kind == 2:
        return binascii.a2b_base64(value["payload"] or "", strict_mode=True)
    if kind != 1:
        raise ValueError(kind)
    return Contents(_name(value), _size(value["size"])) if value.get("size") else None


def _lines(packed: bytes, expanded: int) -> Iterator[list[bytes]]:
    """Some at a time."""
    reader = ZstdReader(Lookahead(Bytes(packed)))
    buffer = memoryview(bytearray(_PIECE))
    total, rest = 0, b""
    while count := reader.readinto(buffer):
        total += count
        if total > expanded:
            raise LimitError(f"a tar-split of more than the {expanded} bytes that were announced")
        *lines, rest = (rest + bytes(buffer[:count])).split(b"\n")
        if len(rest) > _LINE:
            raise LimitError("a tar-split with an entry that is too long")
        yield [line for line in lines if line]
    if rest:
        yield [rest]


def _name(value: dict[str, Any]) -> str:
    """As a TOC has it: what is no UTF-8 was replaced."""
    if raw := value.get("name_raw"):
        return binascii.a2b_base64(raw, strict_mode=True).decode("utf-8", "replace")
    name = value.get("name", "")
    if not isinstance(name, str):
        raise TypeError
    return name


def _size(value: Any) -> int:
    if type(value) is not int or not 0 < value < 1 << 63:
        raise ValueError
    return value
