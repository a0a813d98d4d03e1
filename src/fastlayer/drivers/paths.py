"""Paths within a snapshot, as people name them."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Sequence
from pathlib import Path

from fastlayer.errors import StorageError, UnsafeEntryError, UsageError, show_path


def with_parents(path: bytes) -> list[bytes]:
    """``a``, ``a/b``, ``a/b/c``: parents first, for each may come from another layer."""
    parts = [part for part in path.split(b"/") if part not in (b"", b".")]
    if b".." in parts:
        raise UnsafeEntryError(f"{show_path(path)}: not a plain relative path")
    if b"\0" in path:
        raise UsageError("a path cannot contain a NUL byte")
    return [b"/".join(parts[: number + 1]) for number in range(len(parts))]


def require(tree: Path, paths: Sequence[bytes]) -> None:
    """Raises ``StorageError`` (ENOENT) when one is not in the tree. No link is followed."""
    root = os.fsencode(tree)
    for path in paths:
        names = with_parents(path)
        if not all(_is_there(root + b"/" + name, name != names[-1]) for name in names):
            raise StorageError(errno.ENOENT, "copy-up", names[-1])


def _is_there(path: bytes, as_directory: bool) -> bool:
    try:
        status = os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return not as_directory or stat.S_ISDIR(status.st_mode)
