"""Files in a store that somebody works under: advisory locks by name (flock(2)), which the kernel drops with a process.

Whoever has the lock of a thing that goes takes the file away, too.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from fastlayer.errors import StorageError


def attempt(path: Path, kind: int = fcntl.LOCK_EX) -> int | None:
    """A descriptor that holds the lock of the file, which is made if need be with its directory.

    ``kind``: ``LOCK_EX`` or ``LOCK_SH``. None: others have it, or took the file away before it was locked. Raises
    ``StorageError``.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
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
    return None
