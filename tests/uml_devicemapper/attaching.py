"""Mounts a ``Mount`` value of a block file system where everybody sees it: what the mounts of a store do."""

from __future__ import annotations

import ctypes
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fastlayer.mounts.mount import Mount

_OPEN_TREE, _MOVE_MOUNT = 428, 429
_CLONE, _EMPTY_PATH = 1, 4
_AT_FDCWD = -100
_libc = ctypes.CDLL(None, use_errno=True)


@contextmanager
def attached(mount: Mount, target: Path) -> Iterator[Path]:
    """Unmounted at the end of the block. ``target`` is made."""
    whole = target.with_name(target.name + ".whole")
    for path in (target, whole):
        path.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", mount.type, "-o", ",".join(mount.options), mount.source, whole], check=True)
    try:
        fd = _syscall(_OPEN_TREE, _AT_FDCWD, os.fsencode(whole / mount.subdirectory), _CLONE)
        try:
            _syscall(_MOVE_MOUNT, fd, b"", _AT_FDCWD, os.fsencode(target), _EMPTY_PATH)
        finally:
            os.close(fd)
    finally:
        subprocess.run(["umount", whole], check=True)
    try:
        yield target
    finally:
        subprocess.run(["umount", target], check=True)


def _syscall(number: int, *arguments: int | bytes) -> int:
    values = [ctypes.c_long(a) if isinstance(a, int) else ctypes.c_char_p(a) for a in arguments]
    found = int(_libc.syscall(ctypes.c_long(number), *values))
    if found < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return found
