"""Writing tar headers: ustar where it fits, a PAX header before it where not (docs/formats.md, "Layer bytes").

The layout is exact: ``csrc/fl_header.c`` writes the same bytes. A number that does not fit its field, a fraction of
a second, a long name or an extended attribute goes to PAX; what went there leaves behind the first 100 bytes
(path, linkpath), the seconds clamped to 0..2^33-1 (mtime) or 0 (uid, gid, size).
"""

from __future__ import annotations

import base64

from fastlayer._values import NamedTuple

BLOCK = 512
FILE, HARDLINK, SYMLINK, CHAR, BLOCKDEV, DIRECTORY, FIFO = b"0", b"1", b"2", b"3", b"4", b"5", b"6"

_OCTAL7 = 0o7777777
_OCTAL11 = 0o77777777777
_NAME, _PREFIX = 100, 155  # bytes of the ustar fields
_CHECKSUM = slice(148, 156)


class Header(NamedTuple):
    """One entry as it is stored: ``path`` of a directory ends in ``/``; ``mtime_ns`` since the epoch, negative before
    it; ``xattrs`` sorted by name; ``size`` 0 for all but regular files."""

    type: bytes
    path: bytes
    mode: int
    uid: int = 0
    gid: int = 0
    size: int = 0
    mtime_ns: int = 0
    link: bytes = b""
    rdev: tuple[int, int] = (0, 0)
    xattrs: tuple[tuple[bytes, bytes], ...] = ()


def padding(size: int) -> int:
    """Zero bytes that fill the last block of ``size`` bytes."""
    return -size % BLOCK


def octal(value: int, digits: int) -> bytes:
    """Zero-padded with a closing NUL: ``digits + 1`` bytes."""
    return b"%0*o\0" % (digits, value)


def split_path(path: bytes) -> tuple[bytes, bytes] | None:
    """(prefix, name) of a path that fits ustar, else None.

    Up to 100 bytes are the name. A longer path is cut at its last slash at or before byte 155, if 1 to 100 bytes
    remain behind it; the slash that closes a directory's name does not count.
    """
    if len(path) <= _NAME:
        return b"", path
    cut = path.rfind(b"/", 1, min(len(path) - 1, _PREFIX + 1))
    if cut < 0 or len(path) - cut - 1 > _NAME:
        return None
    return path[:cut], path[cut + 1 :]


def encode_mtime(mtime_ns: int) -> bytes:
    """The exact decimal value without trailing zeros; ``-1.5`` is one and a half seconds before the epoch."""
    whole, fraction = divmod(abs(mtime_ns), 10**9)
    text = b"%s%d" % (b"-" if mtime_ns < 0 else b"", whole)
    return text + (b".%09d" % fraction).rstrip(b"0") if fraction else text


def encode_record(key: bytes, value: bytes) -> bytes:
    """``LENGTH KEY=VALUE\\n``, where LENGTH counts the whole record, itself included."""
    rest = len(key) + len(value) + 3
    total = rest + len(str(rest))
    total = rest + len(str(total))
    return b"%d %s=%s\n" % (total, key, value)


def encode_xattr(name: bytes, value: bytes) -> bytes:
    """A name with ``=`` cannot be a PAX key: it takes libarchive's percent- and base64-encoded spelling."""
    if b"=" not in name:
        return encode_record(b"SCHILY.xattr." + name, value)
    plain = (bytes([c]) if 32 < c < 127 and c not in b"%=" else b"%%%02X" % c for c in name)
    return encode_record(b"LIBARCHIVE.xattr." + b"".join(plain), base64.b64encode(value).rstrip(b"="))


def encode_header(entry: Header) -> bytes:
    """The header blocks of an entry: a multiple of 512 bytes."""
    records = _pax_records(entry)
    return (_pax_blocks(entry.path, records) if records else b"") + _main_block(entry)


def _block(
    type_: bytes, name: bytes, mode: int, uid: int, gid: int, size: int, mtime: int, link: bytes, rdev: tuple[int, int],
    prefix: bytes,
) -> bytes:  # fmt: skip
    fields = (
        name.ljust(_NAME, b"\0"),
        octal(mode & 0o7777, 7),
        octal(uid, 7),
        octal(gid, 7),
        octal(size, 11),
        octal(mtime, 11),
        b" " * 8,  # the checksum counts its own field as blanks
        type_,
        link.ljust(_NAME, b"\0"),
        b"ustar\x0000",
        bytes(64),  # no owner names: they would differ between machines
        octal(rdev[0], 7),
        octal(rdev[1], 7),
        prefix.ljust(_PREFIX, b"\0"),
        bytes(12),
    )
    block = bytearray(b"".join(fields))
    block[_CHECKSUM] = b"%06o\0 " % sum(block)
    return bytes(block)


def _main_block(entry: Header) -> bytes:
    prefix, name = split_path(entry.path) or (b"", entry.path[:_NAME])
    return _block(
        entry.type, name, entry.mode,
        entry.uid if entry.uid <= _OCTAL7 else 0,
        entry.gid if entry.gid <= _OCTAL7 else 0,
        entry.size if entry.size <= _OCTAL11 else 0,
        min(max(entry.mtime_ns // 10**9, 0), _OCTAL11),
        entry.link[:_NAME], entry.rdev, prefix,
    )  # fmt: skip


def _pax_blocks(path: bytes, records: bytes) -> bytes:
    name = b"PaxHeaders.0/" + path.rstrip(b"/").rpartition(b"/")[2]
    block = _block(b"x", name[:_NAME], 0o644, 0, 0, len(records), 0, b"", (0, 0), b"")
    return block + records + bytes(padding(len(records)))


def _pax_records(entry: Header) -> bytes:
    """hdrcharset first, then the keys in byte order, then the extended attributes in theirs."""
    keys: list[tuple[bytes, bytes]] = []
    if entry.gid > _OCTAL7:
        keys.append((b"gid", b"%d" % entry.gid))
    if len(entry.link) > _NAME:
        keys.append((b"linkpath", entry.link))
    if entry.mtime_ns % 10**9 or not 0 <= entry.mtime_ns // 10**9 <= _OCTAL11:
        keys.append((b"mtime", encode_mtime(entry.mtime_ns)))
    if split_path(entry.path) is None:
        keys.append((b"path", entry.path))
    if entry.size > _OCTAL11:
        keys.append((b"size", b"%d" % entry.size))
    if entry.uid > _OCTAL7:
        keys.append((b"uid", b"%d" % entry.uid))
    if not all(_is_utf8(value) for key, value in keys if key in (b"linkpath", b"path")):
        keys.insert(0, (b"hdrcharset", b"BINARY"))
    records = [encode_record(key, value) for key, value in keys]
    return b"".join(records + [encode_xattr(name, value) for name, value in entry.xattrs])


def _is_utf8(name: bytes) -> bool:
    try:
        name.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True
