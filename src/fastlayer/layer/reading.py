"""Opening what is only read."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_PATH_PIECE = 2048  # bytes of path given to one open: PATH_MAX is 4096


def open_quietly(path: Any, flags: int = 0, dir_fd: int | None = None) -> int:
    """``os.open`` for reading that leaves the access time alone where the caller may ask for that (owner or root)."""
    flags |= os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY
    try:
        return os.open(path, flags | os.O_NOATIME, dir_fd=dir_fd)
    except PermissionError:
        return os.open(path, flags, dir_fd=dir_fd)


@contextmanager
def reachable(root: int, path: bytes) -> Iterator[tuple[int, bytes]]:
    """A directory on the way to ``path`` and what is left of it, short enough for a system call."""
    directory, parts = root, path.split(b"/")
    try:
        while len(path) > _PATH_PIECE:
            head = 0
            while len(parts) > 1 and head + len(parts[0]) < _PATH_PIECE:
                head += len(parts.pop(0)) + 1
            below = os.open(path[:head], os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=directory)
            if directory != root:
                os.close(directory)
            directory, path = below, path[head:]
        yield directory, path
    finally:
        if directory != root:
            os.close(directory)
