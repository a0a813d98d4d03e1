"""Which mount a descriptor is on: nothing can be renamed from one to another, also where both show one file system."""

from __future__ import annotations

import os


def same_mount(one: int, other: int) -> bool:
    """Whether both descriptors are on one mount. Without /proc only devices can tell, and a bind mount is not seen."""
    if os.fstat(one).st_dev != os.fstat(other).st_dev:
        return False
    return _mount_id(one) == _mount_id(other)


def _mount_id(fd: int) -> bytes:
    try:
        with open(f"/proc/self/fdinfo/{fd}", "rb") as file:
            return next((line for line in file if line.startswith(b"mnt_id:")), b"")
    except OSError:
        return b""
