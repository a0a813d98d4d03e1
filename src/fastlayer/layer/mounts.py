"""Which mount a descriptor is on: nothing can be renamed from one to another, also where both show one file system."""

from __future__ import annotations

import os


def same_mount(one: int, other: int) -> bool:
    """Whether both descriptors are on one mount. Without /proc only devices can tell, and a bind mount is not seen."""
    if os.fstat(one).st_dev != os.fstat(other).st_dev:
        return False
    return _mount_id(one) == _mount_id(other)


def is_mount_point(directory: int, name: bytes) -> bool:
    """Whether something is mounted at a name of an open directory, in the mount namespace that it was opened in.

    Not by devices: the files of an overlay may have others than its directories. Without /proc nothing is told.
    """
    try:
        fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    except FileNotFoundError:
        return False
    try:
        return _mount_id(fd) != _mount_id(directory)
    finally:
        os.close(fd)


def _mount_id(fd: int) -> bytes:
    try:
        with open(f"/proc/self/fdinfo/{fd}", "rb") as file:
            return next((line for line in file if line.startswith(b"mnt_id:")), b"")
    except OSError:
        return b""
