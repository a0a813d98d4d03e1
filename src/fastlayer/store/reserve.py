"""``<root>/reserve`` and ``<root>/spare``: space and inodes that are given up when the file system has none left.

The database cannot be opened without room for its ``-wal`` and ``-shm``, nor a lease taken without a file, so nothing
could be removed from a store that fills its file system. Both are made again when there is room. Where there is none,
who gave them up takes them back at the end: else whatever fills the file system would take them, too. Space is taken
back sooner by who lets others write: a container's program, `cp`.
"""

from __future__ import annotations

import os
from pathlib import Path

from fastlayer._values import NamedTuple

SIZE = 1 << 20
INODES = 16  # -wal, -shm, leases, locks, a new index.json; and those of others who work here
_LEAST = 128 << 10  # less than that helps nobody
_NAME = "reserve"
_SPARE = "spare"  # a directory of empty files


class Released(NamedTuple):
    """What was given up."""

    space: bool = False
    inodes: int = 0


def release_if_full(root: Path) -> Released:
    """Before the database is opened."""
    space, inodes = False, 0
    try:
        found = os.statvfs(root)
        if _bytes(found) < SIZE and (root / _NAME).exists():
            (root / _NAME).unlink()
            space = True
        if _inodes(found) < INODES:
            for name in os.listdir(root / _SPARE):
                (root / _SPARE / name).unlink()
                inodes += 1
    except OSError:
        pass  # none there, or not ours to remove: opening the database tells
    return Released(space, inodes)


def take_back(root: Path, released: Released) -> None:
    """Before somebody else's bytes are written, of any number, which would take what was given up and keep it.

    What is left for our own work is what was free before, and a little while more than half of the reserve is there.
    """
    try:
        if _alone(root, released) and not (root / _NAME).exists():
            free = _bytes(os.statvfs(root))
            _allocate(root / _NAME, min(SIZE, max(free - _LEAST, min(free, SIZE // 2))))
    except OSError:
        pass


def renew(root: Path, released: Released) -> None:
    """After work: makes what is not there, if twice as much is free; else takes back what was given up."""
    _renew_space(root, released)
    _renew_inodes(root / _SPARE, released.inodes)


def _renew_space(root: Path, released: Released) -> None:
    path = root / _NAME
    try:
        free = _bytes(os.statvfs(root))
        if (path.exists() and path.stat().st_size >= SIZE) or not (free >= 2 * SIZE or _alone(root, released)):
            return
        _allocate(path, min(SIZE, max(free, _LEAST)))
    except OSError:
        return


def _allocate(path: Path, size: int) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        os.posix_fallocate(fd, 0, size)
    except OSError:
        path.unlink(missing_ok=True)
    finally:
        os.close(fd)


def _alone(root: Path, released: Released) -> bool:
    """Whether space was given up, and nobody is at work who may need it now."""
    return released.space and not os.listdir(root / "leases")


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
