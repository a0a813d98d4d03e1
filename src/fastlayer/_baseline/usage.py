"""What the files of a tree take on the disk (csrc/fl_usage.h)."""

from __future__ import annotations

import fcntl
import os
import stat
import struct
from typing import Any

from fastlayer.errors import StorageError

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


class TreeUsage:
    """Counts the tree of ``root_fd``; see ``_backend.TreeUsage``."""

    def __init__(self, root_fd: int) -> None:
        self._bytes = self._inodes = self._shared = 0
        self._seen: set[int] = set()  # inodes of several names
        status = _stat(root_fd)
        self._device = status.st_dev
        self._sharing = _can_share(root_fd)
        self._count(status)
        self._waiting: list[tuple[int, bytes]] = [(root_fd, b".")]

    def step(self) -> bool:
        """Depth first; directories are opened by names relative to one above, at most ``_LONG`` bytes of it."""
        if self._waiting:
            above, path = self._waiting.pop()
            if path:
                self._look_into(above, path)
            else:
                os.close(above)  # all below it was counted
        return bool(self._waiting)

    def sums(self) -> tuple[int, int, int]:
        return self._bytes, self._inodes, self._shared

    def close(self) -> None:
        for above, path in self._waiting:
            if not path:
                os.close(above)
        self._waiting = []

    def _look_into(self, above: int, path: bytes) -> None:
        try:
            fd = os.open(path, _DIRECTORY, dir_fd=above)
        except FileNotFoundError:
            return
        except OSError as exc:
            raise StorageError(exc.errno or 0, "open", path) from exc
        try:
            inner = self._directory(fd)
            if inner and len(path) > _LONG:
                above, path = os.dup(fd), b"."
                self._waiting.append((above, b""))
        finally:
            os.close(fd)
        self._waiting += [(above, path + b"/" + name) for name in inner]

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
                    self._shared += _shared_bytes(fd, child.name)
        return inner

    def _count(self, status: os.stat_result) -> bool:
        """False for an inode that was met before."""
        if status.st_nlink > 1 and not stat.S_ISDIR(status.st_mode):
            if status.st_ino in self._seen:
                return False
            self._seen.add(status.st_ino)
        self._inodes += 1
        self._bytes += status.st_blocks * _BLOCK
        return True


def _stat(fd: int) -> os.stat_result:
    try:
        return os.fstat(fd)
    except OSError as exc:
        raise StorageError(exc.errno or 0, "stat") from exc


def _can_share(fd: int) -> bool:
    import ctypes

    buffer = ctypes.create_string_buffer(256)
    if ctypes.CDLL(None).fstatfs(fd, buffer) < 0:
        return False
    return ctypes.c_long.from_buffer(buffer).value & 0xFFFFFFFF in _SHARING


def _shared_bytes(directory: int, name: Any) -> int:
    """Bytes of the file whose blocks belong to others as well (FIEMAP_EXTENT_SHARED)."""
    try:
        fd = os.open(name, _FILE, dir_fd=directory)
    except OSError:  # gone, or not ours to read: nothing is known to be shared
        return 0
    try:
        return sum(length for length, flags in _extents(fd) if flags & _SHARED)
    except OSError:
        return 0
    finally:
        os.close(fd)


def _extents(fd: int) -> list[tuple[int, int]]:
    found: list[tuple[int, int]] = []
    start, more = 0, True
    while more:
        buffer = bytearray(_HEAD.pack(start, (1 << 64) - 1 - start, 0, 0, _ROOM, 0) + bytes(_EXTENT.size * _ROOM))
        fcntl.ioctl(fd, _FIEMAP, buffer)
        mapped = _HEAD.unpack_from(buffer)[3]
        more = mapped > 0
        for index in range(mapped):
            logical, _, length, flags = _EXTENT.unpack_from(buffer, _HEAD.size + index * _EXTENT.size)
            found.append((length, flags))
            start = logical + length
            more = not flags & _LAST
    return found
