"""What several trees take on the disk together, when they share blocks with each other by reflink or hard link."""

from __future__ import annotations

import fcntl
import os
import stat
import struct
from collections.abc import Iterable
from typing import Any

_FIEMAP = 0xC020660B  # FS_IOC_FIEMAP (kernel: Documentation/filesystems/fiemap.rst)
_HEAD = struct.Struct("=QQIIII")  # start, length, flags, mapped, room, reserved
_EXTENT = struct.Struct("=QQQ16xI12x")  # logical, physical, length, flags
_ROOM = 64
_LAST, _SHARED = 0x1, 0x2000
_SHARING = frozenset({0x9123683E, 0x58465342, 0xCA451A4E, 0x7461636F})  # btrfs, xfs, bcachefs, ocfs2
_BLOCK = 512  # bytes of st_blocks
_LONG = 3800  # bytes of a path; with one more name it still fits into a call
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def disk_bytes(roots: Iterable[Any]) -> int:
    """What several trees of one file system take together: what they share, by reflink or hard link, counts once."""
    walk = _Walk()
    for root in roots:
        walk.tree(root)
    shared = sum(length for _, length in walk.shared)
    return walk.bytes - shared + _covered(walk.shared)


def _covered(ranges: list[tuple[int, int]]) -> int:
    """Bytes in the union of (start, length) ranges."""
    total = end = 0
    for start, length in sorted(ranges):
        total += max(0, start + length - max(start, end))
        end = max(end, start + length)
    return total


class _Walk:
    """Counts trees one after the other. ``shared``: (physical place, length) of the extents that are others', too."""

    def __init__(self) -> None:
        self.bytes = self.inodes = 0
        self.shared: list[tuple[int, int]] = []
        self._seen: set[tuple[int, int]] = set()  # device and inode of those with several names
        self._device = 0
        self._sharing = False

    def tree(self, root: Any) -> None:
        fd = os.open(root, _DIRECTORY)
        try:
            status = os.fstat(fd)
            self._device = status.st_dev
            self._sharing = _can_share(fd)
            self._count(status)
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
                if status.st_dev != self._device or not self._count(status):
                    continue
                if stat.S_ISDIR(status.st_mode):
                    inner.append(os.fsencode(child.name))
                elif self._sharing and stat.S_ISREG(status.st_mode) and status.st_blocks:
                    self.shared += _shared_extents(fd, child.name)
        return inner

    def _count(self, status: os.stat_result) -> bool:
        """False for an inode that was met before."""
        if status.st_nlink > 1 and not stat.S_ISDIR(status.st_mode):
            if (status.st_dev, status.st_ino) in self._seen:
                return False
            self._seen.add((status.st_dev, status.st_ino))
        self.inodes += 1
        self.bytes += status.st_blocks * _BLOCK
        return True


def _can_share(fd: int) -> bool:
    import ctypes

    buffer = ctypes.create_string_buffer(256)
    if ctypes.CDLL(None).fstatfs(fd, buffer) < 0:
        return False
    return ctypes.c_long.from_buffer(buffer).value & 0xFFFFFFFF in _SHARING


def _shared_extents(directory: int, name: Any) -> list[tuple[int, int]]:
    """Those of the file whose blocks belong to others as well (FIEMAP_EXTENT_SHARED)."""
    try:
        fd = os.open(name, _FILE, dir_fd=directory)
    except OSError:  # gone, or not ours to read: nothing is known to be shared
        return []
    try:
        return [(place, length) for place, length, flags in _extents(fd) if flags & _SHARED]
    except OSError:
        return []
    finally:
        os.close(fd)


def _extents(fd: int) -> list[tuple[int, int, int]]:
    """(physical place, length, flags)."""
    found: list[tuple[int, int, int]] = []
    start, more = 0, True
    while more:
        buffer = bytearray(_HEAD.pack(start, (1 << 64) - 1 - start, 0, 0, _ROOM, 0) + bytes(_EXTENT.size * _ROOM))
        fcntl.ioctl(fd, _FIEMAP, buffer)
        mapped = _HEAD.unpack_from(buffer)[3]
        more = mapped > 0
        for index in range(mapped):
            logical, physical, length, flags = _EXTENT.unpack_from(buffer, _HEAD.size + index * _EXTENT.size)
            found.append((physical, length, flags))
            start = logical + length
            more = not flags & _LAST
    return found
