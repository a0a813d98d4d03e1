"""Numbers as archives write them. ``int()`` is too kind for that: it takes ``0o17``, ``1_7``, ``+17`` and blanks.

All functions raise ``ValueError`` for anything that is not exactly such a number.
"""

from __future__ import annotations

import re

INT64_MAX = 2**63 - 1

_OCTAL = re.compile(rb" *([0-7]+)(?:\x00.*|[ \x00]*)|[ \x00]*", re.DOTALL)
_DECIMAL = re.compile(rb"[0-9]+")
_TIME = re.compile(rb"(-?)([0-9]+)(?:\.([0-9]*))?")


def octal(field: bytes) -> int:
    """Blanks, octal digits, then the end of the field, a NUL (what follows is stale) or blanks. Empty is 0."""
    match = _OCTAL.fullmatch(field)
    if match is None:
        raise ValueError("number")
    return int(match[1] or b"0", 8)


def field(field: bytes) -> int:
    """A field of a header: octal, or base-256 (first bit set) as a signed big-endian number of 64 bits."""
    if not field[0] & 0x80:
        return octal(field)
    bits = 8 * len(field) - 1
    value = int.from_bytes(field, "big") & ((1 << bits) - 1)
    if value >> (bits - 1):
        value -= 1 << bits
    if not -INT64_MAX - 1 <= value <= INT64_MAX:
        raise ValueError("number")
    return value


def decimal(text: bytes) -> int:
    """A PAX value: digits and nothing else, at most 2^63-1."""
    digits = text.lstrip(b"0") or b"0"
    if _DECIMAL.fullmatch(text) is None or len(digits) > 19 or int(digits) > INT64_MAX:
        raise ValueError("number")
    return int(digits)


def time_ns(text: bytes) -> int:
    """A PAX time in nanoseconds since the epoch. Digits after the ninth of the fraction are cut; the sign belongs to
    the whole number: ``-1.5`` is one and a half seconds before the epoch."""
    match = _TIME.fullmatch(text)
    if match is None:
        raise ValueError("mtime")
    fraction = (match[3] or b"")[:9].ljust(9, b"0")
    value = decimal(match[2]) * 10**9 + int(fraction)
    return -value if match[1] else value
