"""The files of a cache mount as entries of an archive, and their data, one file after the other."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from fastlayer.builder.mountarchive.entries import MAX_SEGMENTS, Entry
from fastlayer.errors import FileChangedError, StorageError, show_path
from fastlayer.layer.reading import open_quietly, reachable

_PIECE = 1 << 20
_KEPT = ("user.", "security.capability", "system.posix_acl_")  # attributes that travel (docs/formats.md)
_TYPES = {stat.S_IFIFO: "p", stat.S_IFCHR: "c", stat.S_IFBLK: "b", stat.S_IFLNK: "l", stat.S_IFDIR: "d"}


class Walk:
    """All that is below the directory ``root``, a descriptor. ``sockets``: how many were left out.

    ``take`` is told of the data as it is read; its pieces are only valid during the call.
    """

    def __init__(self, root: int, take: Callable[[Any], object], check: Callable[[], object]) -> None:
        self.sockets = 0
        self._root = root
        self._take = take
        self._check = check
        self._buffer = memoryview(bytearray(_PIECE))
        self._names: dict[tuple[int, int], bytes] = {}  # of files with several, by device and inode

    def entries(self) -> Iterator[Entry]:
        """In the order of paths, parents first. Raises ``FileChangedError``, ``StorageError``."""
        waiting = [b""]
        yield self._entry(b"", os.fstat(self._root), self._root)
        while waiting:
            path = waiting.pop()
            self._check()
            below = []
            with opened(self._root, path) as fd:
                names = sorted(os.fsencode(name) for name in os.listdir(fd))
                for name in names:
                    whole = path + b"/" + name if path else name
                    found = self._found(whole, name, fd)
                    if found is None:
                        continue
                    yield found
                    if found.type == "d":
                        below.append(whole)
            waiting += reversed(below)

    def _found(self, path: bytes, name: bytes, parent: int) -> Entry | None:
        """None for what has gone, and for sockets."""
        try:
            status = os.stat(name, dir_fd=parent, follow_symlinks=False)
        except FileNotFoundError:
            return None
        if stat.S_ISSOCK(status.st_mode):
            self.sockets += 1
            return None
        place = (status.st_dev, status.st_ino)
        if status.st_nlink > 1 and not stat.S_ISDIR(status.st_mode):
            first = self._names.setdefault(place, path)
            if first != path:
                return Entry(path, "h", link=first)
        if stat.S_ISREG(status.st_mode):
            return self._file(path, name, parent)
        kind = _TYPES[stat.S_IFMT(status.st_mode)]
        if kind == "d":
            with opened(parent, name) as fd:
                return self._entry(path, status, fd)
        entry = self._entry(path, status, None)._replace(type=kind)
        if kind == "l":
            return entry._replace(link=os.readlink(name, dir_fd=parent))
        if kind in "cb":
            return entry._replace(device=(os.major(status.st_rdev), os.minor(status.st_rdev)))
        return entry

    def _entry(self, path: bytes, status: os.stat_result, fd: int | None) -> Entry:
        mode = stat.S_IMODE(status.st_mode)
        attributes = xattrs_of(fd) if fd is not None else ()
        return Entry(path, "d", mode, status.st_uid, status.st_gid, status.st_mtime_ns, attributes)

    def _file(self, path: bytes, name: bytes, parent: int) -> Entry:
        from blake3 import blake3

        try:
            fd = open_quietly(name, os.O_NOFOLLOW | os.O_NONBLOCK, parent)
        except OSError as exc:
            raise StorageError(exc.errno or 0, "read", path) from exc
        try:
            status = os.fstat(fd)
            segments = data_segments(fd, status)
            hasher = blake3()
            for start, length in segments if segments is not None else [(0, status.st_size)]:
                for piece in read_range(fd, start, length, self._buffer, path):
                    hasher.update(piece)
                    self._take(piece)
            entry = self._entry(path, status, fd)
            return entry._replace(type="f", size=status.st_size, key=hasher.hexdigest(), data=segments)
        finally:
            os.close(fd)


def read_range(fd: int, start: int, length: int, buffer: memoryview, path: bytes) -> Iterator[memoryview]:
    """The bytes in pieces. Raises ``FileChangedError`` when there are fewer."""
    end = start + length
    while start < end:
        count = os.preadv(fd, [buffer[: end - start]], start)
        if not count:
            raise FileChangedError(f"{show_path(path)}: changed while it was read: try again when no build uses it")
        yield buffer[:count]
        start += count


def data_segments(fd: int, status: os.stat_result) -> tuple[tuple[int, int], ...] | None:
    """Where a file has data: offsets and lengths; None: it has no holes, or too many (lseek(2), SEEK_DATA)."""
    if status.st_blocks * 512 >= status.st_size:
        return None
    found = []
    at, size = 0, status.st_size
    while at < size:
        try:
            start = os.lseek(fd, at, os.SEEK_DATA)
            at = min(os.lseek(fd, start, os.SEEK_HOLE), size)
        except OSError as exc:
            if exc.errno != errno.ENXIO:  # no data behind
                raise
            break
        if start < size:
            found.append((start, at - start))
    return None if found == [(0, size)] or len(found) > MAX_SEGMENTS else tuple(found)


def xattrs_of(place: Any) -> tuple[tuple[bytes, bytes], ...]:
    """The attributes of a descriptor or path that travel, by name."""
    found = []
    for name in sorted(_listed(place)):
        if name.startswith(_KEPT):
            try:
                found.append((os.fsencode(name), os.getxattr(place, name)))
            except OSError as exc:
                if exc.errno != errno.ENODATA:
                    raise
    return tuple(found)


def _listed(place: Any) -> list[str]:
    try:
        return os.listxattr(place)
    except OSError as exc:
        if exc.errno in (errno.ENOTSUP, errno.EPERM, errno.EACCES):
            return []
        raise


@contextmanager
def opened(root: int, path: bytes) -> Iterator[int]:
    """A directory below a descriptor, for the block; no link is followed at its end."""
    with reachable(root, path or b".") as (parent, rest):
        try:
            fd = open_quietly(rest, os.O_DIRECTORY | os.O_NOFOLLOW, parent)
        except OSError as exc:
            raise StorageError(exc.errno or 0, "read", path) from exc
        try:
            yield fd
        finally:
            os.close(fd)
