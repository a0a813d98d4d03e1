"""A directory tree as flat records, and the bytes of many files: what makes a tree index."""

from __future__ import annotations

import errno
import os
import stat
import struct
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

from fastlayer._baseline.ignore import KEEP, Program, without_ignored
from fastlayer._baseline.pick import pick
from fastlayer._baseline.tree import Entry, open_bytes, pack_xattrs, walk
from fastlayer.errors import FileChangedError, StorageError, UsageError, show_path

ENTRY = struct.Struct("=QQQqqQIIIIIIIIIIII")  # struct fl_entry of csrc/fl_entry.h


class Scanner:
    """See ``fastlayer._backend.Scanner``."""

    def __init__(
        self,
        root_fd: int,
        *,
        xattrs: str = "all",
        only: Sequence[bytes] | None = None,
        ignore: bytes | None = None,
    ) -> None:
        if xattrs not in ("all", "docker", "none"):
            raise UsageError(f"xattrs={xattrs!r} is unknown: use all, docker or none")
        self.entries = 0
        self.skipped_sockets = 0
        self.dropped_xattrs = 0
        program = None if ignore is None else Program(ignore)
        enters = None if program is None else program.enters
        found = walk(root_fd, xattrs, enters) if only is None else pick(root_fd, only, xattrs)
        entries = self._without_sockets(found, program)
        self._entries = entries if program is None else without_ignored(entries, program)

    def next_batch(self, n: int = 4096) -> tuple[bytes, bytes] | None:
        records, heap = bytearray(), bytearray()
        for entry in islice(self._entries, n):
            records += pack_entry(entry, len(heap))
            heap += entry.path + entry.link + pack_xattrs(entry.xattrs)
            self.entries += 1
            self.dropped_xattrs += entry.dropped
        return (bytes(records), bytes(heap)) if records else None

    def _without_sockets(self, entries: Iterator[Entry], program: Program | None) -> Iterator[Entry]:
        for entry in entries:
            if not stat.S_ISSOCK(entry.mode):
                yield entry
            elif program is None or program.look(entry.path, is_dir=False) == KEEP:
                self.skipped_sockets += 1


def pack_entry(entry: Entry, path_off: int) -> bytes:
    mtime_sec, mtime_nsec = divmod(entry.mtime_ns, 10**9)
    ctime_sec, ctime_nsec = divmod(entry.ctime_ns, 10**9)
    return ENTRY.pack(
        entry.dev, entry.ino, entry.size, mtime_sec, ctime_sec, path_off, mtime_nsec, ctime_nsec, entry.mode,
        entry.uid, entry.gid, entry.nlink, *entry.rdev, len(entry.path), len(entry.link),
        len(pack_xattrs(entry.xattrs)), entry.flags,
    )  # fmt: skip


def read_many(root_fd: int, paths: Sequence[bytes], buffer: Any) -> list[int]:
    """See ``fastlayer._backend.ReadMany``."""
    room = memoryview(buffer).cast("B")
    lengths = []
    for path in paths:
        length = _read_whole(root_fd, path, room)
        if length is None:
            break
        lengths.append(length)
        room = room[max(length, 0) :]
    return lengths


def _read_whole(root_fd: int, path: bytes, room: memoryview) -> int | None:
    """Bytes read; -1 for what is gone or no regular file, None when it does not fit."""
    try:
        with open_bytes(root_fd, path) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                return -1
            if status.st_size > len(room):
                return None
            data = file.read(status.st_size + 1)
    except OSError as exc:
        if exc.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO, errno.EISDIR):
            return -1
        raise StorageError(exc.errno or errno.EIO, "read", path) from exc
    if len(data) != status.st_size:
        raise FileChangedError(f"{show_path(path)}: changed while it was read: try again when the tree is quiet")
    room[: len(data)] = data
    return len(data)
