"""Tar archives from parts, well formed or not: every field can be given as raw bytes."""

from __future__ import annotations

BLOCK = 512
POSIX = b"ustar\x0000"
GNU = b"ustar  \0"
V7 = b"\0" * 8
END = b"\0" * (2 * BLOCK)


def octal(value: int, width: int) -> bytes:
    """Leading zeros and a NUL: what most writers write."""
    return b"%0*o\0" % (width - 1, value)


def base256(value: int, width: int) -> bytes:
    """Two's complement with the marker bit set."""
    raw = bytearray(value.to_bytes(width, "big", signed=True))
    raw[0] |= 0x80
    return bytes(raw)


def _field(value: int | bytes, width: int) -> bytes:
    raw = value if isinstance(value, bytes) else octal(value, width)
    assert len(raw) <= width, (value, width)
    return raw.ljust(width, b"\0")


def checksum(block: bytes, *, signed: bool = False) -> int:
    blanked = block[:148] + b" " * 8 + block[156:]
    return sum(c - 256 if signed and c > 127 else c for c in blanked)


def header(
    name: bytes = b"f",
    type: bytes = b"0",
    *,
    size: int | bytes = 0,
    mode: int | bytes = 0o644,
    uid: int | bytes = 0,
    gid: int | bytes = 0,
    mtime: int | bytes = 0,
    link: bytes = b"",
    magic: bytes = POSIX,
    major: int | bytes = 0,
    minor: int | bytes = 0,
    prefix: bytes = b"",
    patch: dict[int, bytes] | None = None,
    check: str | bytes = "unsigned",
) -> bytes:
    """One header block. ``patch`` puts raw bytes at offsets; ``check`` is "unsigned", "signed" or the raw field."""
    block = bytearray(
        name.ljust(100, b"\0")
        + _field(mode, 8)
        + _field(uid, 8)
        + _field(gid, 8)
        + _field(size, 12)
        + _field(mtime, 12)
        + b" " * 8
        + type
        + link.ljust(100, b"\0")
        + magic
        + b"\0" * 64
        + _field(major, 8)
        + _field(minor, 8)
        + prefix.ljust(155, b"\0")
    )
    block = block.ljust(BLOCK, b"\0")
    for offset, raw in (patch or {}).items():
        block[offset : offset + len(raw)] = raw
    assert len(block) == BLOCK
    if isinstance(check, bytes):
        block[148:156] = check.ljust(8, b"\0")
    else:
        block[148:156] = b"%06o\0 " % (checksum(bytes(block), signed=check == "signed") & 0o777777)
    return bytes(block)


def padded(body: bytes) -> bytes:
    return body + b"\0" * (-len(body) % BLOCK)


def member(name: bytes = b"f", type: bytes = b"0", body: bytes = b"", **fields: object) -> bytes:
    """A header, whose size is that of body unless given, and the padded body."""
    fields.setdefault("size", len(body))
    return header(name, type, **fields) + padded(body)  # type: ignore[arg-type]


def record(key: bytes, value: bytes) -> bytes:
    """One PAX record with the length that counts itself."""
    rest = len(key) + len(value) + 3
    length = rest + len(str(rest))
    while len(str(length)) + rest != length:
        length += 1
    return b"%d %s=%s\n" % (length, key, value)


def records(*pairs: tuple[str | bytes, bytes]) -> bytes:
    return b"".join(record(k.encode() if isinstance(k, str) else k, v) for k, v in pairs)


def pax(*pairs: tuple[str | bytes, bytes], type: bytes = b"x") -> bytes:
    return member(b"PaxHeaders.0/f", type, records(*pairs))


def raw_pax(body: bytes, type: bytes = b"x") -> bytes:
    return member(b"PaxHeaders.0/f", type, body)


def long_name(name: bytes, type: bytes = b"L", *, nul: bool = True) -> bytes:
    return member(b"././@LongLink", type, name + (b"\0" if nul else b""), magic=GNU)


def gnu_sparse(
    pairs: list[tuple[int | bytes, int | bytes]],
    body: bytes,
    real: int | bytes,
    *,
    name: bytes = b"f",
    magic: bytes = GNU,
    size: int | None = None,
) -> bytes:
    """An old GNU sparse member: four segments in the header, 21 in each extension block."""
    fields = [_field(a, 12) + _field(b, 12) for a, b in pairs]
    more = fields[4:]
    patch = {386: b"".join(fields[:4]), 482: bytes([bool(more)]), 483: _field(real, 12)}
    out = header(name, b"S", size=len(body) if size is None else size, magic=magic, patch=patch)
    while more:
        block, more = b"".join(more[:21]).ljust(504, b"\0"), more[21:]
        out += block + bytes([bool(more)]) + b"\0" * 7
    return out + padded(body)
