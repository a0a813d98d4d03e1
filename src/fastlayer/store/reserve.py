"""``<root>/reserve``: space that is given up when the file system is full.

The database cannot be opened without room for its ``-wal`` and ``-shm``, so nothing could be removed from a store that
fills its file system. The file is made again when there is room.
"""

from __future__ import annotations

import os
from pathlib import Path

SIZE = 1 << 20
_NAME = "reserve"


def release_if_full(root: Path) -> None:
    """Before the database is opened."""
    try:
        if _free(root) < SIZE:
            os.unlink(root / _NAME)
    except OSError:
        pass  # none there, or not ours to remove: opening the database tells


def renew(root: Path) -> None:
    """After work: makes the file if it is not there and twice its size is free, or nothing."""
    path = root / _NAME
    try:
        if path.exists() or _free(root) < 2 * SIZE:
            return
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError:
        return
    try:
        os.posix_fallocate(fd, 0, SIZE)
    except OSError:
        path.unlink(missing_ok=True)
    finally:
        os.close(fd)


def _free(root: Path) -> int:
    found = os.statvfs(root)
    return found.f_bavail * found.f_frsize
