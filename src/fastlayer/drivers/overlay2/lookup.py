"""Which layer shows a path in the merged tree, without mounting it (Documentation/filesystems/overlayfs.rst)."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Sequence
from pathlib import Path

from fastlayer.errors import DriverError, StorageError, show_path

_SPACES = ("trusted.overlay.", "user.overlay.")


def provider(lowers: Sequence[Path], path: bytes) -> Path:
    """The topmost of ``lowers`` (top first) that has ``path`` and is hidden by none above it.

    Raises ``StorageError`` (ENOENT) when the merged tree has no such path, ``DriverError`` when it got there by a
    rename (``redirect_dir``) or has its data elsewhere (``metacopy``): only the kernel puts these together.
    """
    parts = path.split(b"/")
    for lower in lowers:
        found = _look(os.fsencode(lower), parts, path)
        if found is not None:
            if found:
                return lower
            break
    raise StorageError(errno.ENOENT, "copy-up", path)


def is_opaque(directory: bytes) -> bool:
    """Whether the directory hides those of the same name in lower layers."""
    return _mark(directory, "opaque") == b"y"


def decides(upper: Path, path: bytes) -> bool:
    """Whether the upper directory has the path itself, so that there is nothing to copy up. Raises as ``provider``."""
    found = _look(os.fsencode(upper), path.split(b"/"), path)
    if found is False:
        raise StorageError(errno.ENOENT, "copy-up", path)
    return found is True


def _look(root: bytes, parts: Sequence[bytes], path: bytes) -> bool | None:
    """True: it is here. False: it is hidden. None: the next lower directory decides."""
    here, opaque = root, False
    for number, part in enumerate(parts):
        here += b"/" + part
        try:
            status = os.lstat(here)
        except FileNotFoundError:
            return False if opaque else None
        if _is_whiteout(here, status):
            return False
        if _mark(here, "redirect") is not None or _mark(here, "metacopy") is not None:
            raise DriverError(
                f"{show_path(path)}: was renamed or changed by metadata alone: mount the snapshot and open the file "
                "for writing instead"
            )
        if not stat.S_ISDIR(status.st_mode):
            return number == len(parts) - 1  # a file hides the directory below it
        opaque = opaque or is_opaque(here)
    return True


def _is_whiteout(path: bytes, status: os.stat_result) -> bool:
    if stat.S_ISCHR(status.st_mode):
        return status.st_rdev == 0
    return stat.S_ISREG(status.st_mode) and status.st_size == 0 and _mark(path, "whiteout") is not None


def _mark(path: bytes, name: str) -> bytes | None:
    for space in _SPACES:
        try:
            return os.getxattr(path, space + name, follow_symlinks=False)
        except OSError as exc:
            if exc.errno not in (errno.ENODATA, errno.EOPNOTSUPP, errno.EPERM):
                raise
    return None
