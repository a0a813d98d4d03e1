"""Named parts of a directory tree: the rules are in csrc/fl_pick.h."""

from __future__ import annotations

import errno
import itertools
import os
from collections.abc import Iterator, Sequence

from fastlayer._baseline.tree import Entry, open_dir, parent_of, placed, read_entry, walk_below
from fastlayer.errors import StorageError, UsageError

_ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)


def pick(root_fd: int, keys: Sequence[bytes], policy: str = "all") -> Iterator[Entry]:
    """What ``walk`` would yield, but only of these paths; ``path/`` is everything below ``path``."""
    _check(keys)
    return _pick(root_fd, keys, policy)


def _pick(root_fd: int, keys: Sequence[bytes], policy: str) -> Iterator[Entry]:
    for key in keys:
        if key.endswith(b"/"):
            if _exists(root_fd, key[:-1]):
                yield from walk_below(root_fd, key[:-1], policy)
        elif (entry := _read(root_fd, key)) is not None:
            yield placed(entry, root_fd, policy)


def _check(keys: Sequence[bytes]) -> None:
    if not keys or keys[0] != b"":
        raise UsageError("the first key must be the root")
    tree = None
    for key, following in itertools.pairwise(keys):
        if b"\0" in following:
            raise UsageError("a path has no NUL")
        if following <= key:
            raise UsageError(f"{following!r}: key out of order")
        if following.startswith(b"/"):
            raise UsageError(f"{following!r}: key is not relative")
        tree = key if key.endswith(b"/") else tree
        if tree is not None and following.startswith(tree):
            raise UsageError(f"{following!r}: key below another")


def _open(root_fd: int, path: bytes) -> int | None:
    try:
        return open_dir(root_fd, path)
    except OSError as exc:
        if exc.errno in _ABSENT:
            return None
        raise StorageError(exc.errno or errno.EIO, "open", path) from exc


def _exists(root_fd: int, path: bytes) -> bool:
    fd = _open(root_fd, path)
    if fd is not None:
        os.close(fd)
    return fd is not None


def _read(root_fd: int, path: bytes) -> Entry | None:
    fd = _open(root_fd, parent_of(path))
    if fd is None:
        return None
    try:
        return read_entry(fd, path.rpartition(b"/")[2] or b".", path)
    finally:
        os.close(fd)
