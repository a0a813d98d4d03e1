"""PAX extended headers: ``LENGTH KEY=VALUE\\n`` records.

Records are cut by their length and nothing else (a value may hold what looks like a record): LENGTH is 1 to 9 plain
digits and counts the whole record. A body that is not exactly a run of such records is refused as a whole. Of equal
keys the last counts; an empty value unsets a key (but is a value for an extended attribute); unknown keys are ignored.
Everything wrong raises ``ValueError`` with the reason.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterator
from typing import TypeVar

from fastlayer._baseline import numbers

_Value = TypeVar("_Value")

_LENGTH = re.compile(rb"([0-9]{1,9}) ")
_XATTR_NAME_MAX = 255  # the kernel's
_SCHILY, _LIBARCHIVE = b"SCHILY.xattr.", b"LIBARCHIVE.xattr."
_ESCAPE = re.compile(rb"%([0-9A-Fa-f]{2})?")
_BASE64 = re.compile(rb"([A-Za-z0-9+/]*)(={0,2})")

_NAMES = {b"path", b"linkpath", b"GNU.sparse.name"}
_NUMBERS = {
    b"size", b"uid", b"gid", b"GNU.sparse.size", b"GNU.sparse.realsize", b"GNU.sparse.major", b"GNU.sparse.minor",
    b"GNU.sparse.numblocks",
}  # fmt: skip
_PAIR = (b"GNU.sparse.offset", b"GNU.sparse.numbytes")


class Records:
    """The records of one member, by meaning. A name or number that is not set is not in its table."""

    def __init__(self) -> None:
        self.names: dict[bytes, bytes] = {}
        self.numbers: dict[bytes, int] = {}
        self.mtime_ns: int | None = None
        self.map: list[int] | None = None  # GNU.sparse 0.1
        self.pairs: list[int] = []  # GNU.sparse 0.0
        self._schily: dict[bytes, bytes] = {}
        self._libarchive: dict[bytes, bytes] = {}

    @property
    def xattrs(self) -> tuple[tuple[bytes, bytes], ...]:
        """Sorted by name; libarchive's spelling counts only where SCHILY's is missing."""
        return tuple(sorted((self._libarchive | self._schily).items()))

    def take(self, key: bytes, value: bytes) -> None:
        if key.startswith(_SCHILY):
            self._schily[_xattr_name(key[len(_SCHILY) :])] = value
        elif key.startswith(_LIBARCHIVE):
            self._libarchive[_xattr_name(_percent_decode(key[len(_LIBARCHIVE) :]))] = _base64_decode(value)
        elif key in _PAIR:
            self._take_pair(_PAIR.index(key), value)
        elif key in _NAMES:
            _set(self.names, key, value, _name)
        elif key in _NUMBERS:
            _set(self.numbers, key, value, numbers.decimal)
        elif key == b"mtime":
            self.mtime_ns = numbers.time_ns(value) if value else None
        elif key == b"GNU.sparse.map":
            self._take_map(value)

    def _take_map(self, value: bytes) -> None:
        if value and self.pairs:
            raise ValueError("two sparse maps")
        self.map = [numbers.decimal(number) for number in value.split(b",")] if value else None

    def _take_pair(self, which: int, value: bytes) -> None:
        if self.map is not None:
            raise ValueError("two sparse maps")
        if len(self.pairs) % 2 != which:
            raise ValueError("sparse map out of order")
        self.pairs.append(numbers.decimal(value))


def parse(body: bytes) -> Records:
    found = Records()
    for key, value in split(body):
        found.take(key, value)
    return found


def split(body: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The records as (key, value)."""
    at = 0
    while at < len(body):
        match = _LENGTH.match(body, at)
        end = at + int(match[1]) if match else 0
        if match is None or end > len(body) or end <= match.end():
            raise ValueError("record length")
        if body[end - 1 : end] != b"\n":
            raise ValueError("record without a newline")
        key, equals, value = body[match.end() : end - 1].partition(b"=")
        if not equals or not key:
            raise ValueError("record without a key")
        if b"\0" in key:
            raise ValueError("NUL in a key")
        yield key, value
        at = end


def _set(table: dict[bytes, _Value], key: bytes, value: bytes, convert: Callable[[bytes], _Value]) -> None:
    if value:
        table[key] = convert(value)
    else:
        table.pop(key, None)


def _name(value: bytes) -> bytes:
    if b"\0" in value:
        raise ValueError("NUL in a name")
    return value


def _xattr_name(name: bytes) -> bytes:
    if not 0 < len(name) <= _XATTR_NAME_MAX:
        raise ValueError("name of an extended attribute")
    return name


def _percent_decode(text: bytes) -> bytes:
    def byte(match: re.Match[bytes]) -> bytes:
        if match[1] in (None, b"00"):
            raise ValueError("name of an extended attribute")
        return bytes.fromhex(match[1].decode())

    return _ESCAPE.sub(byte, text)


def _base64_decode(text: bytes) -> bytes:
    """Padding may be missing, as libarchive writes it."""
    match = _BASE64.fullmatch(text)
    if match is None or len(match[1]) % 4 == 1 or (match[2] and len(text) % 4):
        raise ValueError("base64 of an extended attribute")
    return base64.b64decode(match[1] + b"=" * (-len(match[1]) % 4))
