"""Who works with a writable layer that must not be mounted meanwhile: an advisory lock for each (flock(2))."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from fastlayer.errors import InUseError, StorageError

if TYPE_CHECKING:
    from fastlayer.store.store import Store

_PATIENCE = 5.0  # seconds: a mount is made in milliseconds


@contextmanager
def alone(store: Store, name: str, *, shared: bool = False) -> Iterator[None]:
    """The lock of the layer ``name`` for the block; ``shared``: with others who only read it.

    The kernel drops it when the process ends. Raises ``InUseError`` when others do not come to an end.
    """
    path = store.root / "locks" / name
    end = time.monotonic() + _PATIENCE
    try:
        path.parent.mkdir(mode=0o700, exist_ok=True)
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as exc:
        raise StorageError(exc.errno or 0, "cannot lock", os.fspath(path)) from exc
    try:
        while not _locked(fd, fcntl.LOCK_SH if shared else fcntl.LOCK_EX):
            if time.monotonic() >= end:
                raise InUseError(f"{name}: another fastlayer is at work on it: try again when that is done")
            time.sleep(0.01)
        yield
    finally:
        os.close(fd)


def _locked(fd: int, kind: int) -> bool:
    try:
        fcntl.flock(fd, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
