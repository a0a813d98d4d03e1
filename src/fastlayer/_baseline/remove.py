"""Removing trees: without recursion, without following links, at any depth, with three descriptors at most.

The way back up is ``..``, accepted only when it is the very directory that was left.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from typing import NamedTuple

from fastlayer._baseline.paths import DIRECTORY, Parts, proc_path

_LISTING = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

Keep = Callable[[Parts], bool]  # whether the entry at this path stays
Spared = Callable[[int, Parts], None]  # a directory that stays only for what is below it: its descriptor and path


class _Level(NamedTuple):
    path: Parts
    identity: tuple[int, int]
    subdirs: list[bytes]


def remove(parent: int, path: Parts, keep: Keep, spared: Spared) -> None:
    """Removes ``path`` (its last component in the directory ``parent``) and all below it, but for what is kept and
    the directories above that. Nothing there is no error."""
    name = path[-1]
    try:
        fd = _open(name, parent)
    except FileNotFoundError:
        return
    except OSError as exc:
        if exc.errno not in (errno.ENOTDIR, errno.ELOOP):
            raise
        if not keep(path):
            os.unlink(name, dir_fd=parent)
        return
    try:
        remove_children(fd, path, keep, spared)
        _remove_directory(parent, fd, path, keep, spared)
    finally:
        os.close(fd)


def remove_children(root: int, path: Parts, keep: Keep, spared: Spared) -> None:
    """Everything below the directory ``root``, which is ``path``; the directory itself stays."""
    fd = _open(b".", root)
    stack = [_enter(fd, path, keep)]
    try:
        while True:
            level = stack[-1]
            if level.subdirs:
                name = level.subdirs.pop()
                fd = _swap(fd, _open(name, fd))
                stack.append(_enter(fd, (*level.path, name), keep))
                continue
            stack.pop()
            if not stack:
                return
            above = os.open("..", _LISTING, dir_fd=fd)
            if _identity(above) != stack[-1].identity:
                os.close(above)
                raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))  # moved away under our feet
            try:
                _remove_directory(above, fd, level.path, keep, spared)
            finally:
                fd = _swap(fd, above)
    finally:
        os.close(fd)


def _open(name: bytes, parent: int) -> int:
    """Opens a directory to be emptied; its owner, when not root, may have to take the permission first."""
    fd = os.open(name, DIRECTORY, dir_fd=parent)
    try:
        found = os.fstat(fd)
        if found.st_mode & 0o700 != 0o700 and found.st_uid == os.geteuid() != 0:
            os.chmod(proc_path(fd), stat.S_IMODE(found.st_mode) | 0o700)
        return os.open(".", _LISTING, dir_fd=fd)
    finally:
        os.close(fd)


def _enter(fd: int, path: Parts, keep: Keep) -> _Level:
    """Unlinks what is not a directory and lists what is."""
    with os.scandir(fd) as listing:
        children = [(os.fsencode(child.name), child.is_dir(follow_symlinks=False)) for child in listing]
    for name, is_directory in children:
        if not is_directory and not keep((*path, name)):
            os.unlink(name, dir_fd=fd)
    return _Level(path, _identity(fd), [name for name, is_directory in children if is_directory])


def _remove_directory(parent: int, fd: int, path: Parts, keep: Keep, spared: Spared) -> None:
    if keep(path):
        return
    try:
        os.rmdir(path[-1], dir_fd=parent)
    except OSError as exc:
        if exc.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        spared(fd, path)


def _identity(fd: int) -> tuple[int, int]:
    found = os.fstat(fd)
    return found.st_dev, found.st_ino


def _swap(old: int, new: int) -> int:
    os.close(old)
    return new
