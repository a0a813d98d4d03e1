"""What a cache mount has before another one takes its place: files whose data need not be written again."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from fastlayer.builder.mountarchive.entries import Entry
from fastlayer.builder.mountarchive.tree import data_segments, read_range
from fastlayer.errors import FileChangedError
from fastlayer.layer.reading import open_quietly, reachable

_PIECE = 1 << 20


class Present:
    """The directory that is there, or None; a context manager."""

    def __init__(self, root: Path | None) -> None:
        self.root = -1 if root is None else os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._taken: set[tuple[int, int]] = set()
        self._buffer = memoryview(bytearray(_PIECE))

    def __enter__(self) -> Present:
        return self

    def __exit__(self, *_exc: object) -> None:
        if self.root >= 0:
            os.close(self.root)

    def has(self, entry: Entry) -> bool:
        """Whether the file at that path has the same data, in the same places. Each file is taken for one path only:
        what are several files in the archive do not become one."""
        if self.root < 0:
            return False
        try:
            with reachable(self.root, entry.path) as (parent, name):
                fd = open_quietly(name, os.O_NOFOLLOW | os.O_NONBLOCK, parent)
        except OSError:
            return False
        try:
            return self._same(fd, entry)
        finally:
            os.close(fd)

    def _same(self, fd: int, entry: Entry) -> bool:
        status = os.fstat(fd)
        place = (status.st_dev, status.st_ino)
        if not stat.S_ISREG(status.st_mode) or status.st_size != entry.size or place in self._taken:
            return False
        if data_segments(fd, status) != entry.data or self._key(fd, entry) != entry.key:
            return False
        self._taken.add(place)
        return True

    def _key(self, fd: int, entry: Entry) -> str:
        from blake3 import blake3

        hasher = blake3()
        try:
            for start, length in entry.segments:
                for piece in read_range(fd, start, length, self._buffer, entry.path):
                    hasher.update(piece)
        except FileChangedError:
            return ""
        return hasher.hexdigest()
