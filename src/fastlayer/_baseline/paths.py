"""Names from archives, and how they are resolved: component by component from a root descriptor, never outside it.

``open_beneath`` and ``open_directory`` follow no link at all; ``resolve`` follows the links of parent directories as a
process chrooted into the root would. No directory is remembered between two calls, so nothing remembered can go stale.
Paths longer than PATH_MAX work; a few descriptors are enough for any depth.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable

from fastlayer.errors import UnsafeEntryError, show_path

Parts = tuple[bytes, ...]
# (directory fd, its parts, name that cannot be entered): True when it is a directory now
Obstacle = Callable[[int, Parts, bytes], bool]
Entered = Callable[[int, Parts], None]

DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_CONTENT = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_MAX_LINKS = 40  # the kernel's
_MAX_NAME = 255


def normalise(path: bytes) -> Parts:
    """Components of an archive's name: ``a``, ``./a``, ``/a`` and ``a//`` are one. Root is ().

    Refused: no name at all, ``..``, and components longer than a file name (a whiteout's may be, by its prefix).
    """
    if not path:
        raise UnsafeEntryError("an entry without a name")
    parts = tuple(part for part in path.split(b"/") if part not in (b"", b"."))
    if b".." in parts:
        raise UnsafeEntryError(f"{show_path(path)}: '..' in a name")
    if any(len(part.removeprefix(b".wh.")) > _MAX_NAME for part in parts):
        raise UnsafeEntryError(f"{show_path(path)}: a component of the name is longer than 255 bytes")
    return parts


def proc_path(fd: int) -> str:
    """What an ``O_PATH`` descriptor is, for the calls that take none (chmod, xattrs, times)."""
    return f"/proc/self/fd/{fd}"


def open_directory(root: int, parts: Iterable[bytes]) -> int:
    """An ``O_PATH`` descriptor of a directory; a link in the way is an OSError like any other obstacle."""
    fd = os.open(".", DIRECTORY, dir_fd=root)
    try:
        for name in parts:
            fd = _swap(fd, os.open(name, DIRECTORY, dir_fd=fd))
    except BaseException:
        os.close(fd)
        raise
    return fd


def open_beneath(root: int, path: bytes) -> int:
    """A file to read: without following links, waiting (for a fifo) or, where permitted, changing its access time."""
    *parents, name = path.split(b"/")
    parent = open_directory(root, parents)
    try:
        return os.open(name, _CONTENT | os.O_NOATIME, dir_fd=parent)
    except PermissionError:
        return os.open(name, _CONTENT, dir_fd=parent)
    finally:
        os.close(parent)


def _just_enter(fd: int, at: Parts) -> None:
    pass


def resolve(root: int, parts: Parts, obstacle: Obstacle, entered: Entered = _just_enter) -> tuple[int, Parts] | None:
    """The directory that ``parts`` lead to, as an ``O_PATH`` descriptor and its own path, free of links.

    ``obstacle`` is asked about each component that is missing or neither directory nor link; where it does not put a
    directory there, the answer is None. ``entered`` is told of each directory on the way. More than 40 links (or a
    loop) are refused.
    """
    at: Parts = ()
    fd, links = open_directory(root, at), 0
    waiting = list(reversed(parts))
    try:
        while waiting:
            name = waiting.pop()
            if name == b"..":  # only in targets of links; the root is its own parent
                at = at[:-1]
                fd = _swap(fd, open_directory(root, at))
            elif (target := _readlink(fd, name)) is not None:
                links += 1
                if links > _MAX_LINKS:
                    raise UnsafeEntryError(f"{show_path(b'/'.join(parts))}: too many symbolic links")
                if target.startswith(b"/"):
                    at = ()
                    fd = _swap(fd, open_directory(root, at))
                waiting += _reversed_components(target)
            elif _enterable(fd, name) or obstacle(fd, at, name):
                fd = _swap(fd, os.open(name, DIRECTORY, dir_fd=fd))
                at = (*at, name)
                entered(fd, at)
            else:
                os.close(fd)
                return None
    except BaseException:
        os.close(fd)
        raise
    return fd, at


def _reversed_components(target: bytes) -> list[bytes]:
    parts = [part for part in reversed(target.split(b"/")) if part not in (b"", b".")]
    if any(len(part) > _MAX_NAME for part in parts):
        raise UnsafeEntryError("a symbolic link leads to a name longer than 255 bytes")
    return parts


def _swap(old: int, new: int) -> int:
    os.close(old)
    return new


def _readlink(fd: int, name: bytes) -> bytes | None:
    try:
        return os.readlink(name, dir_fd=fd)
    except OSError as exc:
        if exc.errno in (errno.EINVAL, errno.ENOENT):
            return None
        raise


def _enterable(fd: int, name: bytes) -> bool:
    try:
        os.close(os.open(name, DIRECTORY, dir_fd=fd))
    except OSError as exc:
        if exc.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            return False
        raise
    return True
