"""What the store asks of the file system: new files, shared data, durability, and errors with a name."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, cast

from fastlayer.errors import NoSpaceError, StorageError, UsageError

Durability = Literal["none", "syncfs", "fsync"]
_FICLONE = 0x40049409  # ioctl_ficlone(2)
_CANNOT_SHARE = (errno.EOPNOTSUPP, errno.EXDEV, errno.EINVAL, errno.ENOTTY, errno.ENOSYS, errno.EPERM, errno.ETXTBSY)


def check_durability(value: str) -> Durability:
    """Raises ``UsageError`` for an unknown one."""
    if value not in ("none", "syncfs", "fsync"):
        raise UsageError(f"unknown durability {value!r}: use none, syncfs or fsync")
    return cast(Durability, value)


@contextmanager
def explained(op: str, path: Any, but: type[OSError] | None = None) -> Iterator[None]:
    """The system's refusals as ``StorageError`` that name ``path``; those of the kind ``but`` pass."""
    try:
        yield
    except StorageError:
        raise
    except OSError as exc:
        if but is not None and isinstance(exc, but):
            raise
        kind = NoSpaceError if exc.errno in (errno.ENOSPC, errno.EDQUOT) else StorageError
        raise kind(exc.errno or 0, op, os.fspath(path) if not isinstance(path, int) else None) from exc


def new_file(path: Any) -> int:
    """A file that was not there, open for writing and reading."""
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)


def write_all(fd: int, data: Any) -> None:
    view = memoryview(data).cast("B")
    while len(view):
        view = view[os.write(fd, view) :]


def share(source: int, target: int) -> bool:
    """Gives the empty file ``target`` all data of ``source`` without copying it; False where that is not possible."""
    try:
        fcntl.ioctl(target, _FICLONE, source)
    except OSError as exc:
        if exc.errno in _CANNOT_SHARE:
            return False
        raise
    return True


def make_durable(fd: int, durability: Durability) -> None:
    """The contents of the file are on the disk when this returns, if that is wanted."""
    if durability == "fsync":
        os.fsync(fd)
    elif durability == "syncfs":
        _syncfs(fd)


def sync_directory(path: Any, durability: Durability) -> None:
    """The names in the directory are on the disk when this returns, if that is wanted."""
    if durability == "none":
        return
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _syncfs(fd: int) -> None:
    """syncfs(2), which ``os`` lacks."""
    import ctypes

    if ctypes.CDLL(None, use_errno=True).syncfs(fd) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
