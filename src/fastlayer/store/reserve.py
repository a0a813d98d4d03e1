"""``<root>/reserve`` and ``<root>/spare``: space and inodes that are given up when the file system has none left.

The database cannot be opened without room for its ``-wal`` and ``-shm``, nor a lease taken without a file, so nothing
could be removed from a store that fills its file system. Both are made again when there is room.
"""

from __future__ import annotations

import os
from pathlib import Path

SIZE = 1 << 20
INODES = 16  # -wal, -shm, leases, locks, a new index.json; and those of others who work here
_NAME = "reserve"
_SPARE = "spare"  # a directory of empty files


def release_if_full(root: Path) -> int:
    """Before the database is opened. Returns how many inodes were given up."""
    released = 0
    try:
        found = os.statvfs(root)
        if _bytes(found) < SIZE:
            (root / _NAME).unlink(missing_ok=True)
        if _inodes(found) < INODES:
            for name in os.listdir(root / _SPARE):
                (root / _SPARE / name).unlink()
                released += 1
    except OSError:
        pass  # none there, or not ours to remove: opening the database tells
    return released


def renew(root: Path, released: int) -> None:
    """After work: makes what is not there, if twice as much is free; else takes inodes back that were given up."""
    _renew_space(root)
    _renew_inodes(root / _SPARE, released)


def _renew_space(root: Path) -> None:
    path = root / _NAME
    try:
        if path.exists() or _bytes(os.statvfs(root)) < 2 * SIZE:
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


def _renew_inodes(spare: Path, released: int) -> None:
    try:
        there = set(os.listdir(spare)) if spare.exists() else set()
        missing = sorted({str(number) for number in range(INODES)} - there)
        if missing and _inodes(os.statvfs(spare.parent)) < 2 * INODES:
            missing = missing[:released]
        if not missing:
            return
        spare.mkdir(mode=0o700, exist_ok=True)
        for name in missing:
            os.close(os.open(spare / name, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
    except OSError:
        return


def _bytes(found: os.statvfs_result) -> int:
    return found.f_bavail * found.f_frsize


def _inodes(found: os.statvfs_result) -> int:
    """Those that can be made; btrfs does not count them, and never lacks any."""
    return found.f_favail if found.f_files else INODES  # enough: none is given up, and none kept
