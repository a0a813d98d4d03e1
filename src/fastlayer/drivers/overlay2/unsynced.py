"""Snapshots that are mounted ``volatile``: programs that sync in them wait for nothing, and nothing is on the disk.

The note ``boot`` of such a snapshot says in which boot of the machine it was last made ready for mounting. In the same
boot nothing was lost, whatever became of the mount: the kernel writes back later what it has. After another one parts
may be missing, and nobody can tell which.
"""

from __future__ import annotations

import os
from pathlib import Path

from fastlayer.drivers.overlay2.layout import BOOT
from fastlayer.errors import DriverError
from fastlayer.layer.libc import syncfs

_BOOT_ID = "/proc/sys/kernel/random/boot_id"


def begin(place: Path) -> None:
    """Before it is mounted. The kernel leaves a directory behind that stands for this module's note, and refuses to
    mount what has it (Documentation/filesystems/overlayfs.rst, "Volatile mount"): that goes."""
    if not _is_noted(place):
        (place / BOOT).write_text(_boot() + "\n")
    left = place / "work" / "work" / "incompat"
    if left.exists():
        import shutil

        shutil.rmtree(left, ignore_errors=True)


def settle(place: Path) -> None:
    """What was written to it is on the disk, and all else on that file system. Of other snapshots nothing is asked."""
    if _is_noted(place):
        fd = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            syncfs(fd)
        finally:
            os.close(fd)


def forget(place: Path) -> None:
    """It is sealed: no more writing."""
    (place / BOOT).unlink(missing_ok=True)


def _is_noted(place: Path) -> bool:
    """Whether it was mounted so in this boot. Raises ``DriverError`` when it was in another."""
    try:
        last = (place / BOOT).read_text().strip()
    except FileNotFoundError:
        return False
    if last != _boot():
        raise DriverError(
            f"snapshot {place.name}: the machine went down while it was volatile, parts may be lost: remove it"
        )
    return True


def _boot() -> str:
    return Path(_BOOT_ID).read_text().strip()
