"""Names from archives, and how they are resolved: component by component from a root descriptor, never outside it.

``open_beneath`` and ``open_directory`` follow no link at all; ``resolve`` follows the links of parent directories as a
process chrooted into the root would. No descriptor is kept between two calls, so nothing remembered can go stale.
Paths longer than PATH_MAX work; a few descriptors are enough for any depth.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable

from fastlayer._baseline.nodes import Node
from fastlayer.errors import UnsafeEntryError, show_path

Parts = tuple[bytes, ...]
# (directory fd, its place, name that cannot be entered, links followed so far): True when it is a directory now
Obstacle = Callable[[int, Node, bytes, int], bool]
Entered = Callable[[int, Node], None]

DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_CONTENT = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_CAP_DAC_OVERRIDE = 1  # linux/capability.h
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


class Handle:
    """Owns one descriptor. It is forgotten before it is closed, so that an interrupt can lose, but never reuse it."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def move(self, fd: int) -> None:
        """Closes the descriptor and owns another one."""
        old, self.fd = self.fd, fd
        os.close(old)

    def release(self) -> int:
        """The descriptor is the caller's now."""
        fd, self.fd = self.fd, -1
        return fd

    def __enter__(self) -> Handle:
        return self

    def __exit__(self, *_exc: object) -> None:
        fd = self.release()
        if fd >= 0:
            os.close(fd)


def identity(fd: int) -> tuple[int, int]:
    found = os.fstat(fd)
    return found.st_dev, found.st_ino


def overrides_permissions() -> bool:
    """Whether permissions of files do not count for this thread: CAP_DAC_OVERRIDE, which root may have dropped."""
    try:
        with open("/proc/thread-self/status", "rb") as status:
            effective = next(int(line[7:], 16) for line in status if line.startswith(b"CapEff:"))
    except (OSError, StopIteration):
        return os.geteuid() == 0
    return effective >> _CAP_DAC_OVERRIDE & 1 == 1


def proc_path(fd: int) -> str:
    """What an ``O_PATH`` descriptor is, for the calls that take none (chmod, xattrs, times)."""
    return f"/proc/self/fd/{fd}"


def open_directory(root: int, parts: Iterable[bytes]) -> int:
    """An ``O_PATH`` descriptor of a directory; a link in the way is an OSError like any other obstacle."""
    with Handle(os.open(".", DIRECTORY, dir_fd=root)) as at:
        for name in parts:
            at.move(os.open(name, DIRECTORY, dir_fd=at.fd))
        return at.release()


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


def _just_enter(fd: int, at: Node) -> None:
    pass


def resolve(
    root: int, top: Node, parts: Parts, obstacle: Obstacle, entered: Entered = _just_enter
) -> tuple[int, Node] | None:
    """The directory that ``parts`` lead to, as an ``O_PATH`` descriptor and its own place below ``top``, free of links.

    ``obstacle`` is asked about each component that is missing or neither directory nor link; where it does not put a
    directory there, the answer is None. ``entered`` is told of each directory on the way. More than 40 links (or a
    loop) are refused.
    """
    walk = _Walk(root, top)
    waiting, links = list(reversed(parts)), 0
    with walk.handle:
        while waiting:
            name = waiting.pop()
            if name == b"..":  # only in targets of links; the root is its own parent
                walk.leave()
            elif (target := _readlink(walk.handle.fd, name)) is not None:
                links += 1
                if links > _MAX_LINKS:
                    raise UnsafeEntryError(f"{show_path(b'/'.join(parts))}: too many symbolic links")
                if target.startswith(b"/"):
                    walk.restart()
                waiting += _reversed_components(target)
            elif _enterable(walk.handle.fd, name) or obstacle(walk.handle.fd, walk.at, name, links):
                walk.enter(name)
                entered(walk.handle.fd, walk.at)
            else:
                return None
        return walk.handle.release(), walk.at


class _Walk:
    """Where a resolution is: a descriptor, its place, and the inodes above it."""

    def __init__(self, root: int, top: Node) -> None:
        self._root, self._top = root, top
        self._inodes: list[tuple[int, int]] = []
        self.at = top
        self.handle = Handle(open_directory(root, ()))

    def restart(self) -> None:
        self.handle.move(open_directory(self._root, ()))
        self.at = self._top
        self._inodes.clear()

    def enter(self, name: bytes) -> None:
        inside = os.open(name, DIRECTORY, dir_fd=self.handle.fd)
        self._inodes.append(identity(self.handle.fd))
        self.handle.move(inside)
        self.at = self.at.child(name)

    def leave(self) -> None:
        """``..`` is taken only when it is the directory that we came from; else the way down is walked again."""
        if self.at.above is None:
            return
        self.at = self.at.above
        self.handle.move(os.open("..", DIRECTORY, dir_fd=self.handle.fd))
        if identity(self.handle.fd) != self._inodes.pop():
            self.handle.move(open_directory(self._root, self.at.names()))


def _reversed_components(target: bytes) -> list[bytes]:
    parts = [part for part in reversed(target.split(b"/")) if part not in (b"", b".")]
    if any(len(part) > _MAX_NAME for part in parts):
        raise UnsafeEntryError("a symbolic link leads to a name longer than 255 bytes")
    return parts


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
