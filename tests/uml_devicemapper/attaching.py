"""Mounts a ``Mount`` value of a block file system where everybody sees it: what the mounts of a store do."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fastlayer.mounts.mount import Mount

_OPEN_TREE, _MOVE_MOUNT = 428, 429
_CLONE, _EMPTY_PATH = 1, 4
_AT_FDCWD = -100
_MS_RDONLY = 1
_libc = ctypes.CDLL(None, use_errno=True)


@contextmanager
def attached(mount: Mount, target: Path) -> Iterator[Path]:
    """Unmounted at the end of the block. ``target`` is made."""
    attach(mount, target)
    try:
        yield target
    finally:
        detach(target)


def attach(mount: Mount, target: Path) -> None:
    whole = target.with_name(target.name + ".whole")
    for path in (target, whole):
        path.mkdir(parents=True, exist_ok=True)
    data = ",".join(option for option in mount.options if option not in ("ro", "rw"))
    flags = _MS_RDONLY if mount.readonly else 0
    _done(_libc.mount(mount.source.encode(), os.fsencode(whole), mount.type.encode(), flags, data.encode()))
    try:
        fd = _syscall(_OPEN_TREE, _AT_FDCWD, os.fsencode(whole / mount.subdirectory), _CLONE)
        try:
            _syscall(_MOVE_MOUNT, fd, b"", _AT_FDCWD, os.fsencode(target), _EMPTY_PATH)
        finally:
            os.close(fd)
    finally:
        detach(whole)


def detach(target: Path) -> None:
    _done(_libc.umount2(os.fsencode(target), 0))


def _syscall(number: int, *arguments: int | bytes) -> int:
    values = [ctypes.c_long(a) if isinstance(a, int) else ctypes.c_char_p(a) for a in arguments]
    return _done(int(_libc.syscall(ctypes.c_long(number), *values)))


def _done(found: int) -> int:
    if found < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return found
