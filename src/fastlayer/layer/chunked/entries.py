"""What a table of contents says of an entry of a tar, or why it cannot say it.

Readers compare the table with the headers of the tar, as Go's archive/tar understands them (containers/storage,
``ensureTOCMatchesTarSplit``). So it says what that package makes of a header; where it and our reader disagree, or
where JSON has no way to say it, the tar gets no table.
"""

from __future__ import annotations

import time
from base64 import b64encode
from functools import lru_cache
from json.encoder import encode_basestring as quoted
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fastlayer._backend.contract import TarItem

BLOCK = 512
_TYPES = {"0": "reg", "1": "hardlink", "2": "symlink", "3": "char", "4": "block", "5": "dir", "6": "fifo"}
_OF_FLAG = {0: "0", **{ord(name): name for name in _TYPES}}  # what Go reads without further thought
_SIZE, _FLAG, _MAGIC, _MAJOR, _MINOR = slice(124, 136), 156, slice(257, 265), slice(329, 337), slice(337, 345)
_GNU_MAGIC = b"ustar  \0"
_GNU_TIMES = {"accesstime": slice(345, 357), "changetime": slice(357, 369)}
_STAR = b"tar\0"  # at 508
_NOTHING = (bytes(8), b"0000000\0", b"000000 \0", b" " * 8)  # device numbers of what is no device
_PAX_TIMES = {b"atime": "accesstime", b"ctime": "changetime"}
_XATTR = b"SCHILY.xattr."


class Untold(Exception):
    """The table cannot have this entry; the message says why."""


def padding(size: int) -> int:
    """Bytes from the end of a body to the next block."""
    return -size % BLOCK


def clean(path: bytes) -> bytes:
    """The path as ``filepath.Clean`` writes it, relative: one name for every spelling."""
    if path.startswith(b"./"):
        path = path[2:]
    path = path.strip(b"/")
    if b"//" not in path and not path.startswith(b".") and b"/." not in path:
        return path
    parts: list[bytes] = []
    for part in path.split(b"/"):
        if part == b"..":
            del parts[-1:]
        elif part not in (b"", b"."):
            parts.append(part)
    return b"/".join(parts)


def described(item: TarItem, header: bytes) -> str:
    """The members of the entry's JSON object, without those about its bytes.

    ``header``: the blocks of the entry, extended headers first. Raises ``Untold``.
    """
    block = header[-BLOCK:]
    name = _text(item.path, "name")
    _refuse_foreign(item, block, name)
    extra = _extended(item, header[:-BLOCK], name) if len(header) > BLOCK else {}
    if block[_MAGIC] == _GNU_MAGIC:
        extra = {**_gnu_times(block), **extra}
    fields = [f'"type":"{_TYPES[item.type]}","name":{name}']
    if item.link:
        fields.append(f'"linkName":{_text(item.link, "target of a link")}')
    if mode := _mode(item, block):
        fields.append(f'"mode":{mode}')
    if item.size:
        fields.append(f'"size":{item.size}')
    if item.uid:
        fields.append(f'"uid":{item.uid}')
    if item.gid:
        fields.append(f'"gid":{item.gid}')
    fields.append(f'"modtime":"{moment(item.mtime_ns)}"')
    fields += [f'"{key}":"{value}"' for key, value in extra.items()]
    fields += _devices(item, block)
    if item.xattrs:
        pairs = (f'{_text(key, "attribute")}:"{b64encode(value).decode()}"' for key, value in item.xattrs)
        fields.append(f'"xattrs":{{{",".join(pairs)}}}')
    return ",".join(fields)


def _text(raw: bytes, what: str) -> str:
    try:
        return quoted(raw.decode())
    except UnicodeDecodeError:
        raise Untold(f"a {what} that is not UTF-8: {raw.decode('utf-8', 'backslashreplace')}") from None


def _refuse_foreign(item: TarItem, block: bytes, name: str) -> None:
    """What Go's reader takes for something else, or refuses."""
    if not item.path:
        raise Untold("an entry without a name")
    if item.sparse:
        raise Untold(f"a sparse file: {name}")
    if _OF_FLAG.get(block[_FLAG]) != item.type:
        raise Untold(f"an entry of type {chr(block[_FLAG])!r}: {name}")
    if block[508:] == _STAR:
        raise Untold(f"a header of star: {name}")
    if item.type != "0" and _number(block[_SIZE]):
        raise Untold(f"a size of what is no file: {name}")


def _number(field: bytes) -> int:
    """A number of a header that our reader has found to be well formed."""
    if field[0] & 0x80:
        return int.from_bytes(field, "big") & (1 << 8 * len(field) - 1) - 1
    return int(field.split(b"\0", 1)[0].strip(b" ") or b"0", 8)


def _mode(item: TarItem, block: bytes) -> int:
    """All of its bits, also those that name the type."""
    field = block[100:108]
    return item.mode if field == b"%07o\0" % item.mode else _number(field.lstrip(b"\0 ") or b"0")


def _devices(item: TarItem, block: bytes) -> list[str]:
    major, minor = item.rdev
    if item.type not in ("3", "4"):
        if (block[_MAJOR] in _NOTHING and block[_MINOR] in _NOTHING) or not block.startswith(b"ustar", 257):
            return []
        try:
            major, minor = _number(block[_MAJOR]), _number(block[_MINOR])
        except ValueError:
            raise Untold("device numbers that are none") from None
    return [f'"{key}":{value}' for key, value in (("devMajor", major), ("devMinor", minor)) if value]


def _extended(item: TarItem, blocks: bytes, name: str) -> dict[str, str]:
    """Times of access and change of the extended headers."""
    found: dict[str, str] = {}
    at = 0
    while at < len(blocks):
        flag, size = blocks[at + _FLAG : at + _FLAG + 1], _number(blocks[at + 124 : at + 136])
        body = blocks[at + BLOCK : at + BLOCK + size]
        if flag == b"g":
            raise Untold("a global header")
        if flag == b"x" and (b"atime=" in body or b"ctime=" in body or b"LIBARCHIVE" in body):
            found = _times(item, body, name)
        at += BLOCK + size + padding(size)
    return found


def _times(item: TarItem, body: bytes, name: str) -> dict[str, str]:
    found: dict[str, str] = {}
    known = set()
    at = 0
    while at < len(body):
        blank = body.index(b" ", at)
        end = at + int(body[at:blank])
        key, _, value = body[blank + 1 : end - 1].partition(b"=")
        if key in _PAX_TIMES and value:
            found[_PAX_TIMES[key]] = moment(_nanoseconds(value))
        elif key in _PAX_TIMES:
            found.pop(_PAX_TIMES[key], None)
        elif key.startswith(_XATTR):
            known.add(key[len(_XATTR) :])
        at = end
    if b"LIBARCHIVE.xattr." in body and any(key not in known for key, _ in item.xattrs):
        raise Untold(f"attributes that only libarchive reads: {name}")
    return dict(sorted(found.items()))


def _nanoseconds(value: bytes) -> int:
    """``[-]digits[.digits]``, cut after nine."""
    whole, _, fraction = value.partition(b".")
    parts = int(fraction[:9].ljust(9, b"0"))
    seconds = int(whole) * 1_000_000_000
    return seconds - parts if whole.startswith(b"-") else seconds + parts


def _gnu_times(block: bytes) -> dict[str, str]:
    try:
        return {key: moment(_number(block[at]) * 1_000_000_000) for key, at in _GNU_TIMES.items() if block[at.start]}
    except ValueError:
        raise Untold("times of a GNU header that are none") from None


def moment(ns: int) -> str:
    """RFC 3339 in UTC, with as many digits of a second as it has."""
    seconds, rest = divmod(ns, 1_000_000_000)
    text = _second(seconds)
    return f"{text}.{rest:09}".rstrip("0") + "Z" if rest else text + "Z"


@lru_cache(maxsize=4096)
def _second(seconds: int) -> str:
    try:
        year, month, day, hour, minute, second = time.gmtime(seconds)[:6]
    except (OverflowError, OSError, ValueError):
        year = -1
    if not 0 <= year <= 9999:
        raise Untold("a time beyond the year 9999")
    return f"{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}"
