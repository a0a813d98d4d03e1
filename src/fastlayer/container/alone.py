"""Who works with a writable layer that must not be mounted meanwhile: an advisory lock for each (flock(2))."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from fastlayer.errors import InUseError, StorageError

if TYPE_CHECKING:
    from fastlayer.store.store import Store

_PATIENCE = 5.0  # seconds: a mount is made in milliseconds


@contextmanager
def alone(store: Store, name: str, *, shared: bool = False) -> Iterator[None]:
    """The lock of the layer ``name`` for the block; ``shared``: with others who only read it.

    The kernel drops it when the process ends. Raises ``InUseError`` when others do not come to an end. In a store that
    cannot be written nobody works.
    """
    if store.read_only:
        yield
        return
    path = _place(store, name)
    end = time.monotonic() + _PATIENCE
    fd = -1
    while fd < 0:
        fd = _attempt(path, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
        if fd < 0:
            if time.monotonic() >= end:
                raise InUseError(f"{name}: another fastlayer is at work on it: try again when that is done")
            time.sleep(0.01)
    try:
        yield
    finally:
        os.close(fd)


def forget(store: Store, name: str) -> None:
    """The layer is gone; whoever has its lock takes the file away, too."""
    _place(store, name).unlink(missing_ok=True)


def _place(store: Store, name: str) -> Path:
    return store.root / "locks" / name


def _attempt(path: Path, kind: int) -> int:
    """The descriptor of the locked file; -1: others have it, or took the file away before it was locked."""
    try:
        path.parent.mkdir(mode=0o700, exist_ok=True)
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as exc:
        raise StorageError(exc.errno or 0, "cannot lock", os.fspath(path)) from exc
    try:
        fcntl.flock(fd, kind | fcntl.LOCK_NB)
        ours, there = os.fstat(fd), os.stat(path)
        if (ours.st_dev, ours.st_ino) == (there.st_dev, there.st_ino):
            return fd
    except (BlockingIOError, FileNotFoundError):
        pass
    except BaseException:
        os.close(fd)
        raise
    os.close(fd)
    return -1
