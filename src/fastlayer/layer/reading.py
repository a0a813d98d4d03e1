"""Opening what is only read."""

from __future__ import annotations

import os
from typing import Any


def open_quietly(path: Any, flags: int = 0, dir_fd: int | None = None) -> int:
    """``os.open`` for reading that leaves the access time alone where the caller may ask for that (owner or root)."""
    flags |= os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY
    try:
        return os.open(path, flags | os.O_NOATIME, dir_fd=dir_fd)
    except PermissionError:
        return os.open(path, flags, dir_fd=dir_fd)
