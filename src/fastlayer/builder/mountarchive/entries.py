"""What an archive says of the files of a cache mount: one JSON object a line, parents before what is in them.

::

    {"path": "", "type": "d", "mode": 493, "uid": 0, "gid": 0, "mtime_ns": 1}
    {"path": "a/f", "type": "f", "mode": 420, ..., "size": 9, "key": "blake3 of its data", "holes": [[0, 4096], ...]}
    {"path": "a/g", "type": "h", "link": "a/f"}

Types: ``f`` file, ``d`` directory, ``l`` symbolic link, ``h`` another name of a file before it, ``p`` FIFO, ``c`` and
``b`` devices. ``holes`` (offset and length of the data, of files with holes only). Text is UTF-8; other bytes of names
are lone surrogates (``\\udc80`` and up), as Python has them.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from fastlayer._values import NamedTuple
from fastlayer.errors import LayerFormatError, LimitError, UnsafeEntryError, show_path

MAX_ENTRIES = 5_000_000
_MAX_LINE = 4 << 20  # bytes: the longest name, and all attributes that a file may have
_MAX_ID = (1 << 32) - 2
_MAX_SIZE = (1 << 63) - 1
MAX_SEGMENTS = 1 << 16  # of a file with holes
_KEY = re.compile(r"[0-9a-f]{64}", re.ASCII)
_TYPES = "fdlhpcb"


class Entry(NamedTuple):
    """``key``: hex blake3 of the data of a file; ``data``: where that lies, (offset, length) pairs, None: all of it is
    data; ``link``: of a symbolic link, or the other name of an ``h``; ``device``: major and minor."""

    path: bytes
    type: str
    mode: int = 0
    uid: int = 0
    gid: int = 0
    mtime_ns: int = 0
    xattrs: tuple[tuple[bytes, bytes], ...] = ()
    size: int = 0
    key: str = ""
    data: tuple[tuple[int, int], ...] | None = None
    link: bytes = b""
    device: tuple[int, int] = (0, 0)

    @property
    def segments(self) -> tuple[tuple[int, int], ...]:
        """Where the data of a file lies."""
        if self.data is not None:
            return self.data
        return ((0, self.size),) if self.size else ()

    @property
    def stored(self) -> int:
        """Bytes of data."""
        return sum(length for _, length in self.segments) if self.type == "f" else 0


def to_line(entry: Entry) -> bytes:
    """One line, with its end."""
    value: dict[str, Any] = {"path": _text(entry.path), "type": entry.type}
    if entry.type == "h":
        value["link"] = _text(entry.link)
    else:
        value.update(mode=entry.mode, uid=entry.uid, gid=entry.gid, mtime_ns=entry.mtime_ns)
    if entry.xattrs:
        value["xattrs"] = {_text(name): base64.b64encode(data).decode() for name, data in entry.xattrs}
    if entry.type == "f":
        value.update(size=entry.size, key=entry.key)
        if entry.data is not None:
            value["holes"] = entry.data
    elif entry.type == "l":
        value["link"] = _text(entry.link)
    elif entry.type in "cb":
        value["device"] = entry.device
    return json.dumps(value, separators=(",", ":")).encode() + b"\n"


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


# ---- reading ---------------------------------------------------------------------------------------


def from_lines(pieces: Iterable[bytes], what: str) -> Iterator[Entry]:
    """The entries, each checked: names stay inside, parents are directories that came before.

    Raises ``LayerFormatError``, ``UnsafeEntryError``, ``LimitError``; ``what`` begins messages.
    """
    kinds: dict[bytes, str] = {}
    for number, line in enumerate(_lines(pieces, what), 1):
        if number > MAX_ENTRIES:
            raise LimitError(f"{what}: has more than {MAX_ENTRIES} entries: do not use this archive")
        try:
            entry = _entry(json.loads(line))
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError, binascii.Error):
            raise LayerFormatError(f"{what}: entry {number} is not as it has to be: do not use this archive") from None
        _check_place(entry, kinds, what)
        kinds[entry.path] = entry.type
        yield entry
    if kinds.get(b"") != "d":
        raise LayerFormatError(f"{what}: has no directory of its own: do not use this archive")


def _lines(pieces: Iterable[bytes], what: str) -> Iterator[bytes]:
    rest = b""
    for piece in pieces:
        *lines, rest = (rest + piece).split(b"\n")
        yield from lines
        if len(rest) > _MAX_LINE:
            raise LimitError(f"{what}: has a line of more than {_MAX_LINE} bytes: do not use this archive")
    if rest:
        raise LayerFormatError(f"{what}: is cut off")


def _check_place(entry: Entry, kinds: Mapping[bytes, str], what: str) -> None:
    """A place below directories that are made by the same archive: no link can lead out of it."""
    path = entry.path
    parts = path.split(b"/")
    if path and any(part in (b"", b".", b"..") or len(part) > 255 or b"\0" in part for part in parts):
        raise UnsafeEntryError(f"{what}: {show_path(path)}: is no name for a file: do not use this archive")
    if path in kinds:
        raise UnsafeEntryError(f"{what}: {show_path(path)}: is there twice: do not use this archive")
    if path and kinds.get(path.rpartition(b"/")[0]) != "d":
        raise UnsafeEntryError(f"{what}: {show_path(path)}: is not in a directory: do not use this archive")
    if entry.type == "h" and kinds.get(entry.link) not in ("f", "l", "p", "c", "b"):
        raise UnsafeEntryError(f"{what}: {show_path(path)}: is a name of no file before it: do not use this archive")


def _entry(value: Mapping[str, Any]) -> Entry:
    path, kind = _bytes(value["path"]), value["type"]
    if not isinstance(kind, str) or len(kind) != 1 or kind not in _TYPES or (not path and kind != "d"):
        raise ValueError
    if kind == "h":
        return Entry(path, kind, link=_bytes(value["link"]))
    entry = Entry(
        path,
        kind,
        _number(value["mode"], 0o7777),
        _number(value["uid"], _MAX_ID),
        _number(value["gid"], _MAX_ID),
        _number(value["mtime_ns"], _MAX_SIZE, -_MAX_SIZE),
        _xattrs(value.get("xattrs") or {}),
    )
    if kind == "f":
        return _file(entry, value)
    if kind == "l":
        link = _bytes(value["link"])
        if not 0 < len(link) < 4096 or b"\0" in link:
            raise ValueError
        return entry._replace(link=link)
    if kind in "cb":
        major, minor = value["device"]
        return entry._replace(device=(_number(major, 4095), _number(minor, 1048575)))
    return entry


def _file(entry: Entry, value: Mapping[str, Any]) -> Entry:
    size, key, holes = _number(value["size"], _MAX_SIZE), value["key"], value.get("holes")
    if not isinstance(key, str) or not _KEY.fullmatch(key):
        raise ValueError
    if holes is None:
        return entry._replace(size=size, key=key)
    if not isinstance(holes, list) or len(holes) > MAX_SEGMENTS:
        raise ValueError
    data = tuple((_number(start, size), _number(length, size, 1)) for start, length in holes)
    end = 0
    for start, length in data:
        if start < end or start + length > size:
            raise ValueError
        end = start + length
    return entry._replace(size=size, key=key, data=data)


def _xattrs(value: Any) -> tuple[tuple[bytes, bytes], ...]:
    found = tuple((_bytes(name), base64.b64decode(data, validate=True)) for name, data in value.items())
    if any(not 0 < len(name) <= 255 or b"\0" in name for name, _ in found):
        raise ValueError
    return found


def _bytes(text: Any) -> bytes:
    if not isinstance(text, str):
        raise ValueError
    return text.encode("utf-8", "surrogateescape")


def _number(value: Any, highest: int, lowest: int = 0) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not lowest <= value <= highest:
        raise ValueError
    return value
