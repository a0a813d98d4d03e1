"""A directory tree as flat records, and the bytes of many files: what makes a tree index."""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Sequence
from itertools import islice

from fastlayer._baseline.tree import Entry, open_bytes, pack_xattrs, walk
from fastlayer.errors import StorageError, UsageError

ENTRY = struct.Struct("=QQQqqQIIIIIIIIIIII")  # struct fl_entry of csrc/fl_entry.h
BATCH = 4096


class Scanner:
    """Walks a directory in path order, the root first; sockets are there like everything else.

    ``xattrs`` is the policy of a differ. ``dropped_xattrs`` counts those left out so far.
    """

    def __init__(self, root_fd: int, *, xattrs: str = "all") -> None:
        if xattrs not in ("all", "docker", "none"):
            raise UsageError(f"xattrs={xattrs!r} is unknown: use all, docker or none")
        self.entries = 0
        self.dropped_xattrs = 0
        self._walk = walk(root_fd, xattrs)

    def next_batch(self) -> tuple[bytes, bytes] | None:
        """``(records, heap)``, ``path_off`` counted from the start of this heap; None when the tree is done."""
        records, heap = bytearray(), bytearray()
        for entry in islice(self._walk, BATCH):
            records += pack_entry(entry, len(heap))
            heap += entry.path + entry.link + pack_xattrs(entry.xattrs)
            self.entries += 1
            self.dropped_xattrs += entry.dropped
        return (bytes(records), bytes(heap)) if records else None


def pack_entry(entry: Entry, path_off: int) -> bytes:
    mtime_sec, mtime_nsec = divmod(entry.mtime_ns, 10**9)
    ctime_sec, ctime_nsec = divmod(entry.ctime_ns, 10**9)
    return ENTRY.pack(
        entry.dev, entry.ino, entry.size, mtime_sec, ctime_sec, path_off, mtime_nsec, ctime_nsec, entry.mode,
        entry.uid, entry.gid, entry.nlink, *entry.rdev, len(entry.path), len(entry.link),
        len(pack_xattrs(entry.xattrs)), entry.flags,
    )  # fmt: skip


def read_many(root_fd: int, paths: Sequence[bytes], limit: int) -> list[bytes | None]:
    """The whole contents of regular files of at most ``limit`` bytes; None for one that is longer."""
    return [_read_whole(root_fd, path, limit) for path in paths]


def _read_whole(root_fd: int, path: bytes, limit: int) -> bytes | None:
    try:
        with open_bytes(root_fd, path) as file:
            if os.fstat(file.fileno()).st_size > limit:
                return None
            data = file.read(limit + 1)
    except OSError as exc:
        raise StorageError(exc.errno or errno.EIO, "read", path) from exc
    return data if len(data) <= limit else None
