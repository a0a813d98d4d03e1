"""Where blobs are that have not come in whole yet, and for how long (``transfer/pulling/kept.py`` writes them).

A file that nobody has locked is fetched by nobody. It stays for a week, for whoever asks for the blob again.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time
from pathlib import Path

from fastlayer.errors import StorageError

STAYS = 7 * 86_400  # seconds, since bytes last came
LOG = ".log"  # behind the name of a file: which of its bytes have come


def downloads_of(root: Path) -> Path:
    """Where they are."""
    return root / "downloads"


def usage(root: Path) -> tuple[int, int]:
    """How many there are, and the bytes that they take."""
    count = size = 0
    for name in _names(root):
        try:
            size += os.lstat(downloads_of(root) / name).st_blocks * 512
        except FileNotFoundError:
            continue
        count += not name.endswith(LOG)
    return count, size


def sweep(root: Path, *, older_than: float = STAYS) -> tuple[int, int]:
    """Removes what nobody fetches and nobody has asked for in so many seconds: files and bytes that went.

    Raises ``StorageError``.
    """
    count = size = 0
    for name in _names(root):
        if not name.endswith(LOG) and (freed := _swept(downloads_of(root) / name, older_than)) is not None:
            count, size = count + 1, size + freed
    return count, size


def _names(root: Path) -> list[str]:
    try:
        return sorted(os.listdir(downloads_of(root)))
    except (FileNotFoundError, NotADirectoryError):
        return []


def _swept(path: Path, older_than: float) -> int | None:
    """Bytes that a file had taken; None when it stays."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as exc:
        if exc.errno in (errno.ENOENT, errno.ELOOP, errno.EISDIR, errno.ENXIO):
            return None
        raise StorageError(exc.errno or 0, "cannot remove", os.fspath(path)) from exc
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        found = os.fstat(fd)
        if time.time() - found.st_mtime < older_than:
            return None
        for name in (f"{path}{LOG}", path):
            Path(name).unlink(missing_ok=True)
        return found.st_blocks * 512
    except BlockingIOError:
        return None
    except OSError as exc:
        raise StorageError(exc.errno or 0, "cannot remove", os.fspath(path)) from exc
    finally:
        os.close(fd)
