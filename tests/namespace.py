"""A mount namespace for the process that runs tests: nothing it mounts meets what others mount or look at meanwhile."""

from __future__ import annotations

import ctypes
import os
import tempfile
from pathlib import Path

from fastlayer.mounts.table import entries

_NEW_MOUNTS = 0x20000  # CLONE_NEWNS
_PRIVATE = 0x44000  # MS_PRIVATE | MS_REC
_DETACH = 2  # MNT_DETACH
_PROJECT = str(Path(__file__).resolve().parents[1])


def enter() -> None:
    """For this thread and all it starts from now on. Nothing happens without the right to.

    A mount is busy while any namespace has a copy of it, so the copies of what other tests have mounted are let go.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if os.geteuid() != 0 or libc.unshare(_NEW_MOUNTS) != 0:
        return
    if libc.mount(b"none", b"/", None, ctypes.c_ulong(_PRIVATE), None) != 0:
        raise OSError(ctypes.get_errno(), "cannot make mounts private")
    for entry in reversed(list(entries())):
        if _is_temporary(entry.target):
            libc.umount2(entry.target, _DETACH)


def _is_temporary(target: bytes) -> bool:
    """Below a directory for temporary files, and not what this project or such a directory itself lies on."""
    given = ("/dev/shm", tempfile.gettempdir(), os.environ.get("FASTLAYER_TEST_TMP") or "/tmp")
    places, mount = [os.path.realpath(place) for place in given], os.fsdecode(target)
    below = any(mount.startswith(f"{place}/") for place in places)
    return below and not any(f"{path}/".startswith(f"{mount}/") for path in (_PROJECT, *places))
