"""What a tree occupies on disk, every inode once, and how much of it is shared by reflink."""

from __future__ import annotations

import fcntl
import os
import stat
import struct
from collections.abc import Iterator
from pathlib import Path

from fastlayer.snapshot.driver import Usage

# linux/fiemap.h
_FS_IOC_FIEMAP = 0xC020660B
_REQUEST = struct.Struct("=QQIIII")  # start, length, flags, mapped, count, reserved
_EXTENT = struct.Struct("=QQQQQIIII")  # logical, physical, length, reserved[2], flags, reserved[3]
_LAST, _SHARED = 0x1, 0x2000
_BATCH = 64
_WHOLE = (1 << 64) - 1


def tree_usage(root: Path) -> Usage:
    """Allocated bytes and inodes of everything below ``root``, itself included; ``shared`` of them by reflink."""
    total = inodes = shared = 0
    seen: set[tuple[int, int]] = set()
    tells = True  # the file system answers FIEMAP, as far as we know
    for path, status in _walk(os.fsencode(root)):
        if status.st_nlink > 1 and not stat.S_ISDIR(status.st_mode):
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
        inodes += 1
        total += status.st_blocks * 512
        if tells and stat.S_ISREG(status.st_mode) and status.st_blocks:
            found = shared_bytes(path)
            tells = found is not None
            shared += found or 0
    return Usage(total, inodes, min(shared, total))


def shared_bytes(path: bytes) -> int | None:
    """Bytes of a regular file that are another file's, too (FIEMAP_EXTENT_SHARED); None where nobody can tell."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except PermissionError:
        return 0
    try:
        return sum(length for length, flags in _extents(fd) if flags & _SHARED)
    except OSError:
        return None
    finally:
        os.close(fd)


def _extents(fd: int) -> Iterator[tuple[int, int]]:
    """(length in bytes, flags) of each extent."""
    start = 0
    while True:
        buffer = bytearray(_REQUEST.size + _BATCH * _EXTENT.size)
        _REQUEST.pack_into(buffer, 0, start, _WHOLE - start, 0, 0, _BATCH, 0)
        fcntl.ioctl(fd, _FS_IOC_FIEMAP, buffer)
        count = _REQUEST.unpack_from(buffer)[3]
        for i in range(count):
            logical, _, length, _, _, flags, *_ = _EXTENT.unpack_from(buffer, _REQUEST.size + i * _EXTENT.size)
            yield length, flags
            start = logical + length
            if flags & _LAST:
                return
        if not count:
            return


def _walk(root: bytes) -> Iterator[tuple[bytes, os.stat_result]]:
    """Every path and its lstat, without recursion and without following links."""
    yield root, os.lstat(root)
    pending = [root]
    while pending:
        with os.scandir(pending.pop()) as entries:
            for entry in entries:
                status = entry.stat(follow_symlinks=False)
                yield entry.path, status
                if stat.S_ISDIR(status.st_mode):
                    pending.append(entry.path)
