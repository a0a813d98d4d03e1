"""What is printed: names, sizes, warnings. Results go to stdout, everything else to stderr."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable
from typing import Any

from fastlayer.cli.plain import printable

_UNITS = ("B", "kB", "MB", "GB", "TB", "PB")
_ESCAPES = {7: b"\\a", 8: b"\\b", 9: b"\\t", 10: b"\\n", 11: b"\\v", 12: b"\\f", 13: b"\\r", 34: b'\\"', 92: b"\\\\"}


def human(size: int) -> str:
    """Bytes in decimal units, as docker prints them: ``1.23 MB``."""
    value = float(size)
    for unit in _UNITS:
        if value < 1000 or unit == _UNITS[-1]:
            return f"{size} B" if unit == "B" else f"{value:.3g} {unit}"
        value /= 1000
    raise AssertionError("unreachable")


def docker_size(size: int) -> str:
    """The same without a blank, as docker's lists have it: ``1.23MB``."""
    return human(size).replace(" ", "")


def quote(path: bytes) -> bytes:
    """A name on one line: as it is when printable UTF-8, else C-quoted with octal escapes, as git does."""
    try:
        if path.decode().isprintable() and not path.startswith(b'"'):
            return path
    except UnicodeDecodeError:
        pass
    out = bytearray(b'"')
    for byte in path:
        if byte in _ESCAPES:
            out += _ESCAPES[byte]
        elif 32 <= byte < 127:
            out.append(byte)
        else:
            out += b"\\%03o" % byte
    return bytes(out + b'"')


def write_lines(lines: Iterable[bytes], end: bytes = b"\n", batch: int = 2048) -> None:
    """Writes lines to stdout in large pieces; never holds them all."""
    out = sys.stdout.buffer
    pending: list[bytes] = []
    for line in lines:
        pending.append(line)
        if len(pending) >= batch:
            out.write(end.join(pending) + end)
            pending.clear()
    if pending:
        out.write(end.join(pending) + end)
    out.flush()


def json_line(value: Any) -> bytes:
    """One compact JSON object. Names that are not UTF-8 keep their bytes as lone surrogates (\\udcXX)."""
    return json.dumps(value, separators=(",", ":")).encode()


def pairs(rows: Iterable[tuple[str, str]], file: Any = None) -> None:
    """A two-column list."""
    rows = list(rows)
    width = max((len(name) for name, _ in rows), default=0)
    for name, value in rows:
        print(f"{name:<{width}}  {value}", file=file)


def table(
    header: tuple[str, ...], rows: Iterable[tuple[str, ...]], right: frozenset[int] = frozenset(), file: Any = None
) -> None:
    """A plain table with aligned columns; ``right`` numbers the right-aligned ones."""
    lines = [header, *rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    for line in lines:
        cells = (f"{c:>{w}}" if i in right else f"{c:<{w}}" for i, (c, w) in enumerate(zip(line, widths, strict=True)))
        print("  ".join(cells).rstrip(), file=file)


def warn(messages: Iterable[str], quiet: bool = False) -> None:
    """Warning lines on stderr."""
    if quiet:
        return
    for message in messages:
        print(f"fastlayer: warning: {printable(' '.join(message.split()))}", file=sys.stderr)


def warn_line(line: str) -> None:
    """One of them, for whoever tells of each when it comes up."""
    warn([line])


def display_name(path: str | bytes) -> str:
    """A file name for a message."""
    return os.fsdecode(quote(os.fsencode(path)))
