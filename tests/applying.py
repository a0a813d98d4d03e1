"""Applying hand-made layers to a directory, and looking at what became of it."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.corpus.tarparts import END, long_name, member, pax

CAPABILITY = bytes.fromhex("0100000200040000000000000000000000000000")  # security.capability: cap_net_raw+ep

OLD = 1_600_000_000 * 10**9


@contextmanager
def directory(path: Path) -> Iterator[int]:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield fd
    finally:
        os.close(fd)


def apply(engine: Any, target: Path, *layers: bytes, step: int = 1 << 20, **options: Any) -> list[Any]:
    """Applies layers (joined members, without their end) and returns the statistics of each."""
    with directory(target) as fd:
        extractor = engine.extract.Extractor(fd, **options)
        found = []
        try:
            for layer in layers:
                extractor.begin_layer()
                data = layer + END
                for start in range(0, len(data), step):
                    extractor.feed(data[start : start + step])
                found.append(extractor.end_layer())
        finally:
            extractor.abort()
        return found


def named(path: bytes, type: bytes, body: bytes = b"", **fields: Any) -> bytes:
    """A member whose name or target may be of any length."""
    link = fields.pop("link", b"")
    prefix = long_name(path) if len(path) > 100 else b""
    prefix += long_name(link, b"K") if len(link) > 100 else b""
    return prefix + member(path[:100], type, body, link=link[:100], **fields)


def file(path: bytes, body: bytes = b"", **fields: Any) -> bytes:
    return named(path, b"0", body, **fields)


def folder(path: bytes, **fields: Any) -> bytes:
    return named(path, b"5", **{"mode": 0o755, **fields})


def symlink(path: bytes, target: bytes, **fields: Any) -> bytes:
    return named(path, b"2", link=target, **fields)


def hardlink(path: bytes, target: bytes, **fields: Any) -> bytes:
    return named(path, b"1", link=target, **fields)


def fifo(path: bytes, **fields: Any) -> bytes:
    return named(path, b"6", **fields)


def char(path: bytes, major: int, minor: int, **fields: Any) -> bytes:
    return named(path, b"3", major=major, minor=minor, **fields)


def with_xattrs(entry: bytes, **xattrs: bytes) -> bytes:
    """Keyword names have ``__`` for the first dot: ``user__a`` is user.a."""
    found = {name.replace("__", "."): value for name, value in xattrs.items()}
    return pax(*((b"SCHILY.xattr." + name.encode(), value) for name, value in found.items())) + entry


def names(path: Path) -> list[str]:
    """Every path below, sorted."""
    found: list[str] = []
    for parent, folders, files in os.walk(path):
        found += [os.path.relpath(os.path.join(parent, name), path) for name in folders + files]
    return sorted(found)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def owner(path: Path) -> tuple[int, int]:
    found = path.lstat()
    return found.st_uid, found.st_gid


def xattrs(path: Path) -> dict[str, bytes]:
    return {name: os.getxattr(path, name, follow_symlinks=False) for name in os.listxattr(path, follow_symlinks=False)}


def is_whiteout(path: Path) -> bool:
    found = path.lstat()
    return stat.S_ISCHR(found.st_mode) and found.st_rdev == 0


def put(path: Path, content: bytes = b"lower") -> Path:
    """A file of a lower layer; its directories get an old mtime."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    for above in (path, *path.parents):
        os.utime(above, ns=(OLD, OLD))
        if above.name == "target":
            break
    return path
