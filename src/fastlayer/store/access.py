"""Who may use a store: its owner. Others find their way through its root to what is mounted, and read nothing else.

The root and the drivers' directories are 0711; ``content``, ``leases``, ``locks``, ``spare`` are 0700, files beside
them 0600.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from fastlayer.errors import StoreError, show_path

_PRIVATE_DIRECTORIES = ("content", "leases", "locks", "spare")
_PRIVATE_FILES = ("metadata.db", "reserve")  # and all that is named after them: -wal, -shm, copies
_OTHERS = stat.S_IRWXG | stat.S_IRWXO


def exists(root: Path) -> bool:
    """Whether there is a store. Raises ``StoreError`` where that may not be known, or it is not ours to use."""
    try:
        found = os.stat(root / "metadata.db")
    except (FileNotFoundError, NotADirectoryError):
        return False
    except PermissionError:
        raise StoreError(_not_ours(root, "readable", None)) from None
    _refuse(root, found.st_uid)
    return True


def make_private(root: Path) -> None:
    """Takes from others what an earlier version or a careless hand gave them; only where we own it."""
    with os.scandir(root) as entries:
        for entry in entries:
            if entry.name in _PRIVATE_DIRECTORIES or entry.name.startswith(_PRIVATE_FILES):
                _close(entry)


def new_database(root: Path) -> None:
    """SQLite gives the files beside the database the mode that this one has."""
    try:
        fd = os.open(root / "metadata.db", os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError:
        return  # there is one; or opening it tells what is wrong
    os.close(fd)


def _refuse(root: Path, owner: int) -> None:
    """Looks without opening: closing a descriptor of the database would drop the locks that SQLite holds on it."""
    for path, wanted in ((root / "metadata.db", os.R_OK), (root / "content", os.R_OK | os.X_OK)):
        if os.path.lexists(path) and not os.access(path, wanted, effective_ids=True):
            raise StoreError(_not_ours(root, "readable", owner))
    if not is_read_only(root):
        for path in (root / "metadata.db", root):
            if not os.access(path, os.W_OK, effective_ids=True):
                raise StoreError(_not_ours(root, "writable", owner))


def is_read_only(root: Path) -> bool:
    """Whether nothing can be written there by anybody."""
    try:
        return bool(os.statvfs(root).f_flag & os.ST_RDONLY)
    except OSError:
        return False


def _not_ours(root: Path, what: str, owner: int | None) -> str:
    whose = "" if owner in (None, os.geteuid()) else f" (it belongs to user {owner})"
    return f"{show_path(os.fspath(root))}: not {what} for you{whose}: run as root or use another --root"


def _close(entry: os.DirEntry[str]) -> None:
    try:
        found = entry.stat(follow_symlinks=False)
        if found.st_mode & _OTHERS and found.st_uid == os.geteuid() and _kind(found.st_mode):
            os.chmod(entry.path, stat.S_IMODE(found.st_mode) & ~_OTHERS)
    except OSError:
        pass  # gone meanwhile, or a file system that has no modes


def _kind(mode: int) -> bool:
    """No link: what it points to is somebody else's business."""
    return stat.S_ISDIR(mode) or stat.S_ISREG(mode)
