"""Extended attributes that no layer holds: a committed snapshot is named by its layer, so it holds none either."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Sequence
from pathlib import Path

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_AT_ONCE = 15  # names of a path that PATH_MAX always has room for
_ALIASES = ("trusted.SGI_ACL_FILE", "trusted.SGI_ACL_DEFAULT")  # XFS lists the ACLs twice
_MISSING = (errno.ENOENT, errno.ENODATA, errno.EOPNOTSUPP, errno.EPERM, errno.EACCES)


def drop_trusted(tree: Path, *, keep: tuple[str, ...] = (), only: Sequence[bytes] | None = None) -> None:
    """Removes ``trusted.*`` from a tree that nobody else uses, at any depth. ``keep``: how names begin that stay.

    ``only``: at these paths instead of everywhere; ``path/`` means all below the path. One that is gone is no error.
    """
    stay = (*_ALIASES, *keep)
    root = os.open(tree, _DIRECTORY)
    try:
        _drop(b"/proc/self/fd/%d/." % root, stay)
        for path in (b"/",) if only is None else only:
            parts = [part for part in path.split(b"/") if part]
            if path.endswith(b"/"):
                _drop_below(root, parts, stay)
            elif parts:
                _drop_at(root, parts, stay)
    finally:
        os.close(root)


def _drop_at(root: int, parts: list[bytes], stay: tuple[str, ...]) -> None:
    _in_directory(root, parts[:-1], lambda fd: _drop(b"/proc/self/fd/%d/%s" % (fd, parts[-1]), stay))


def _drop_below(root: int, parts: list[bytes], stay: tuple[str, ...]) -> None:
    pending = [parts]
    while pending:
        here = pending.pop()
        _in_directory(root, here, lambda fd, here=here: pending.extend(_children(fd, here, stay)))  # type: ignore[misc]


def _children(fd: int, parts: list[bytes], stay: tuple[str, ...]) -> list[list[bytes]]:
    """Cleans what is in the directory; returns the directories among it."""
    found = []
    with os.scandir(fd) as entries:
        for entry in entries:
            name = os.fsencode(entry.name)
            _drop(b"/proc/self/fd/%d/%s" % (fd, name), stay)
            if entry.is_dir(follow_symlinks=False):
                found.append([*parts, name])
    return found


def _in_directory(root: int, parts: list[bytes], work: Callable[[int], object]) -> None:
    fd = os.dup(root)
    try:
        for start in range(0, len(parts), _AT_ONCE):
            below = os.open(b"/".join(parts[start : start + _AT_ONCE]), _DIRECTORY, dir_fd=fd)
            os.close(fd)
            fd = below
        work(fd)
    except (FileNotFoundError, NotADirectoryError):
        pass
    finally:
        os.close(fd)


def _drop(path: bytes, stay: tuple[str, ...]) -> None:
    try:
        for name in os.listxattr(path, follow_symlinks=False):
            if name.startswith("trusted.") and not name.startswith(stay):
                os.removexattr(path, name, follow_symlinks=False)
    except OSError as exc:
        if exc.errno not in _MISSING:
            raise
