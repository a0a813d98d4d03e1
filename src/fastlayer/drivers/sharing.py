"""What several trees take on the disk together, when they share blocks with each other by reflink or hard link."""

from __future__ import annotations

import fcntl
import os
import stat
import struct
from array import array
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from fastlayer._values import NamedTuple

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_FIEMAP = 0xC020660B  # FS_IOC_FIEMAP (kernel: Documentation/filesystems/fiemap.rst)
_HEAD = struct.Struct("=QQIIII")  # start, length, flags, mapped, room, reserved
_EXTENT = struct.Struct("=QQQ16xI12x")  # logical, physical, length, flags
_ROOM = 64
_LAST, _SHARED = 0x1, 0x2000
_SHARING = frozenset({0x9123683E, 0x58465342, 0xCA451A4E, 0x7461636F})  # btrfs, xfs, bcachefs, ocfs2
_BLOCK = 512  # bytes of st_blocks
_MANY = 1 << 20  # numbers in a list before it is brought together
_LONG = 3800  # bytes of a path; with one more name it still fits into a call
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Blocks(NamedTuple):
    """The blocks of a tree on the file system ``device``. ``own``: bytes that are in no list; ``linked``: of inodes
    with several names, (inode, bytes that are in no extent); ``shared``: extents that other files have, too, (physical
    place, length), sorted and without overlap. Arrays of shape (n, 2), 64 bit: 16 bytes for each extent, however many
    files have it."""

    device: int
    own: int
    linked: NDArray[np.int64]
    shared: NDArray[np.int64]


def blocks_of(root: Any) -> Blocks:
    """Walks a tree, opening each file on a file system that can share. What goes away meanwhile is not counted."""
    walk = _Walk()
    walk.tree(root)
    return Blocks(walk.device, walk.own, walk.linked.table(), walk.shared.table())


def together(trees: Sequence[Blocks]) -> int:
    """Bytes that several trees take: what those of one file system share, by reflink or hard link, counts once."""
    import numpy as np

    total = sum(tree.own for tree in trees)
    for device in {tree.device for tree in trees}:
        here = [tree for tree in trees if tree.device == device]
        shared = _union(np.concatenate([tree.shared for tree in here]))
        linked = _once(np.concatenate([tree.linked for tree in here]))
        total += int(shared[:, 1].sum()) + int(linked[:, 1].sum())
    return total


def _union(ranges: NDArray[np.int64]) -> NDArray[np.int64]:
    """Disjoint (start, length) ranges that cover the same places, in order."""
    import numpy as np

    if not len(ranges):
        return ranges
    ranges = ranges[np.argsort(ranges[:, 0], kind="stable")]
    start = ranges[:, 0]
    end = np.maximum.accumulate(start + ranges[:, 1])
    first = np.concatenate([[True], start[1:] > end[:-1]])
    last = np.concatenate([first[1:], [True]])
    return np.stack([start[first], end[last] - start[first]], axis=1)


def _once(inodes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Each inode once."""
    import numpy as np

    return inodes[np.unique(inodes[:, 0], return_index=True)[1]]


class _Pairs:
    """Pairs of numbers that are brought together from time to time, so that what occurs often is kept once."""

    def __init__(self, unite: Callable[[NDArray[np.int64]], NDArray[np.int64]]) -> None:
        self._numbers = array("q")
        self._unite = unite
        self._limit = _MANY

    def add(self, first: int, second: int) -> None:
        self._numbers.append(first)
        self._numbers.append(second)
        if len(self._numbers) > self._limit:
            self._numbers = array("q", self.table().tobytes())
            self._limit = max(_MANY, 2 * len(self._numbers))

    def table(self) -> NDArray[np.int64]:
        import numpy as np

        return self._unite(np.frombuffer(self._numbers.tobytes(), np.int64).reshape(-1, 2))


class _Walk:
    """Counts one tree. ``own``, ``linked``, ``shared``: as in ``Blocks``."""

    def __init__(self) -> None:
        self.own = 0
        self.linked = _Pairs(_once)
        self.shared = _Pairs(_union)
        self.device = 0
        self._sharing = False

    def tree(self, root: Any) -> None:
        fd = os.open(root, _DIRECTORY)
        try:
            status = os.fstat(fd)
            self.device = status.st_dev
            self._sharing = _can_share(fd)
            self.own += status.st_blocks * _BLOCK
            self._descend(fd)
        finally:
            os.close(fd)

    def _descend(self, root: int) -> None:
        """Depth first; directories are opened by names relative to one above, at most ``_LONG`` bytes of it."""
        waiting: list[tuple[int, bytes]] = [(root, b".")]
        try:
            while waiting:
                above, path = waiting.pop()
                if not path:
                    os.close(above)  # all below it was counted
                    continue
                try:
                    fd = os.open(path, _DIRECTORY, dir_fd=above)
                except FileNotFoundError:
                    continue
                try:
                    inner = self._directory(fd)
                    if inner and len(path) > _LONG:
                        above, path = os.dup(fd), b"."
                        waiting.append((above, b""))
                finally:
                    os.close(fd)
                waiting += [(above, path + b"/" + name) for name in inner]
        finally:
            for above, path in waiting:
                if not path:
                    os.close(above)

    def _directory(self, fd: int) -> list[bytes]:
        """Counts the names in it and returns those of directories."""
        inner = []
        with os.scandir(fd) as listing:
            for child in listing:
                try:
                    status = child.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue
                if status.st_dev != self.device:
                    continue
                if stat.S_ISDIR(status.st_mode):
                    inner.append(os.fsencode(child.name))
                self._count(fd, child.name, status)
        return inner

    def _count(self, directory: int, name: Any, status: os.stat_result) -> None:
        own = status.st_blocks * _BLOCK
        if self._sharing and own and stat.S_ISREG(status.st_mode):
            for place, length in _shared_extents(directory, name):
                self.shared.add(place, length)
                own -= length
        if status.st_nlink > 1 and not stat.S_ISDIR(status.st_mode):
            self.linked.add(status.st_ino, own)
        else:
            self.own += own


def _can_share(fd: int) -> bool:
    import ctypes

    buffer = ctypes.create_string_buffer(256)
    if ctypes.CDLL(None).fstatfs(fd, buffer) < 0:
        return False
    return ctypes.c_long.from_buffer(buffer).value & 0xFFFFFFFF in _SHARING


def _shared_extents(directory: int, name: Any) -> Iterator[tuple[int, int]]:
    """(physical place, length) of those whose blocks belong to others as well (FIEMAP_EXTENT_SHARED)."""
    try:
        fd = os.open(name, _FILE, dir_fd=directory)
    except OSError:  # gone, or not ours to read: nothing is known to be shared
        return
    try:
        for place, length, flags in _extents(fd):
            if flags & _SHARED:
                yield place, length
    except OSError:
        return
    finally:
        os.close(fd)


def _extents(fd: int) -> Iterator[tuple[int, int, int]]:
    """(physical place, length, flags)."""
    start, more = 0, True
    while more:
        buffer = bytearray(_HEAD.pack(start, (1 << 64) - 1 - start, 0, 0, _ROOM, 0) + bytes(_EXTENT.size * _ROOM))
        fcntl.ioctl(fd, _FIEMAP, buffer)
        mapped = _HEAD.unpack_from(buffer)[3]
        more = mapped > 0
        for index in range(mapped):
            logical, physical, length, flags = _EXTENT.unpack_from(buffer, _HEAD.size + index * _EXTENT.size)
            yield physical, length, flags
            start = logical + length
            more = not flags & _LAST
