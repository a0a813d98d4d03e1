"""renameat2(2), which ``os`` lacks."""

from __future__ import annotations

import os


def rename_new(old_dir: int, old: bytes, new_dir: int, new: bytes) -> None:
    """Renames to a name that must be free (RENAME_NOREPLACE); ``FileExistsError`` when it is not."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.renameat2(old_dir, old, new_dir, new, 1) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
