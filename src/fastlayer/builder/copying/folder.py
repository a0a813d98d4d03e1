"""A directory that is read as it is asked about: the tree below a layer, here-documents, what was fetched.

Every path is walked component by component from the root's descriptor, and no link is ever followed, so that whatever
is in the directory cannot lead outside.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator, Sequence

from fastlayer import _backend
from fastlayer.builder.copying.trees import Found, Xattrs, join
from fastlayer.errors import OperandError, StorageError, show_path

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_PASSED = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NOT_THERE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG)
_READ = 1 << 20  # bytes


class Folder:
    """A ``Tree`` over the directory of a descriptor, which stays the caller's.

    ``explicit``: None, or the directories that are meant as they are: others were only made on the way.
    """

    def __init__(self, fd: int, *, explicit: frozenset[bytes] | None = None) -> None:
        self.fd = fd
        self.explicit = explicit

    def find(self, path: bytes) -> Found | None:
        """What is there; the root for ``b""``."""
        if not path:
            return _found(self.fd, b".", b"")
        directory, _, name = path.rpartition(b"/")
        fd = self._open(directory, _PASSED)
        if fd is None:
            return None
        try:
            return _found(fd, name, path)
        except OSError as exc:
            if exc.errno in _NOT_THERE:
                return None
            raise StorageError(exc.errno or 0, "stat", path) from exc
        finally:
            os.close(fd)

    def names(self, path: bytes) -> list[bytes]:
        """Of what is in a directory, sorted; none for what is not a directory."""
        fd = self._open(path, _DIRECTORY)
        if fd is None:
            return []
        try:
            return sorted(os.fsencode(name) for name in os.listdir(fd))
        finally:
            os.close(fd)

    def kinds(self, path: bytes) -> dict[bytes, int]:
        """The names in a directory, and of what type each is (``S_IFDIR`` and the like); none for what is none."""
        fd = self._open(path, _DIRECTORY)
        if fd is None:
            return {}
        try:
            with os.scandir(fd) as entries:
                return {os.fsencode(entry.name): _type(entry) for entry in entries}
        finally:
            os.close(fd)

    def below(self, path: bytes) -> Iterator[Found]:
        """In the order of the bytes of full paths."""
        waiting: list[tuple[bytes, Found | None]] = [(path, None)]
        while waiting:
            where, entry = waiting.pop()
            if entry is not None:
                yield entry
                continue
            waiting += self._listed(where.rstrip(b"/"))

    def digests(self, paths: Sequence[bytes]) -> list[bytes]:
        """32 bytes of each entry and all below it, which is read."""
        return [self.digest(path) for path in paths]

    def digest(self, path: bytes) -> bytes:
        """32 bytes of one."""
        hashed = _backend.hashing().Sha256()
        top = self.find(path)
        if top is not None:
            self._hash(hashed, top, b"")
        for entry in self.below(path):
            self._hash(hashed, entry, entry.path[len(path) :])
        return bytes.fromhex(hashed.hexdigest())

    def read(self, path: bytes, limit: int) -> bytes | None:
        """A file's first ``limit`` bytes; None when there is none. Never waits for a fifo."""
        directory, _, name = path.rpartition(b"/")
        fd = self._open(directory, _PASSED)
        if fd is None:
            return None
        try:
            file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=fd)
        except OSError:
            return None
        finally:
            os.close(fd)
        with os.fdopen(file, "rb") as opened:
            return opened.read(limit) if stat.S_ISREG(os.fstat(file).st_mode) else None

    def _open(self, path: bytes, flags: int) -> int | None:
        """A descriptor of a directory; None when there is no such directory."""
        parts = [part for part in path.split(b"/") if part]
        at = os.open(b".", flags if not parts else _PASSED, dir_fd=self.fd)
        try:
            for number, name in enumerate(parts, 1):
                inside = os.open(name, flags if number == len(parts) else _PASSED, dir_fd=at)
                at, above = inside, at
                os.close(above)
        except OSError as exc:
            os.close(at)
            if exc.errno in _NOT_THERE:
                return None
            raise StorageError(exc.errno or 0, "open", path) from exc
        return at

    def _listed(self, path: bytes) -> list[tuple[bytes, Found | None]]:
        """The entries of a directory, and after each directory what is in it: last first."""
        fd = self._open(path, _DIRECTORY)
        if fd is None:
            return []
        try:
            entries = [_found(fd, name, join(path, name)) for name in map(os.fsencode, os.listdir(fd))]
        finally:
            os.close(fd)
        listed: list[tuple[bytes, Found | None]] = [(entry.path, entry) for entry in entries]
        listed += [(entry.path + b"/", None) for entry in entries if stat.S_ISDIR(entry.mode)]
        return sorted(listed, key=lambda pair: pair[0], reverse=True)

    def _hash(self, hashed: _backend.Sha256, entry: Found, relative: bytes) -> None:
        facts = (relative, entry.mode, entry.uid, entry.gid, entry.rdev, entry.link, entry.xattrs)
        hashed.update(repr(facts).encode())
        if stat.S_ISREG(entry.mode):
            hashed.update(entry.size.to_bytes(8, "big"))
            self._hash_file(hashed, entry.path)

    def _hash_file(self, hashed: _backend.Sha256, path: bytes) -> None:
        directory, _, name = path.rpartition(b"/")
        fd = self._open(directory, _PASSED)
        if fd is None:
            raise OperandError(f"{show_path(path)}: went away while it was read: try again")
        try:
            file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=fd)
        except OSError as exc:
            raise StorageError(exc.errno or 0, "open", path) from exc
        finally:
            os.close(fd)
        with os.fdopen(file, "rb", buffering=0) as opened:
            while data := opened.read(_READ):
                hashed.update(data)


def _type(entry: os.DirEntry[str]) -> int:
    """Files and special files are alike here."""
    if entry.is_symlink():
        return stat.S_IFLNK
    return stat.S_IFDIR if entry.is_dir(follow_symlinks=False) else stat.S_IFREG


def _found(fd: int, name: bytes, path: bytes) -> Found:
    seen = os.stat(name, dir_fd=fd, follow_symlinks=False)
    mode = seen.st_mode
    is_device = stat.S_ISCHR(mode) or stat.S_ISBLK(mode)
    return Found(
        path,
        mode,
        seen.st_uid,
        seen.st_gid,
        seen.st_size if stat.S_ISREG(mode) else 0,
        seen.st_mtime_ns,
        (os.major(seen.st_rdev), os.minor(seen.st_rdev)) if is_device else (0, 0),
        os.readlink(name, dir_fd=fd) if stat.S_ISLNK(mode) else b"",
        _xattrs(fd, name),
        seen.st_dev,
        seen.st_ino,
        seen.st_nlink,
        seen.st_ctime_ns,
    )


def _xattrs(fd: int, name: bytes) -> Xattrs:
    """Those that travel in layers."""
    path = f"/proc/self/fd/{fd}/".encode() + name
    try:
        names = sorted(os.fsencode(key) for key in os.listxattr(path, follow_symlinks=False))
        return tuple((key, os.getxattr(path, key, follow_symlinks=False)) for key in names if _travels(key))
    except OSError:
        return ()  # a file system without any, or one that went away in between


def _travels(name: bytes) -> bool:
    return name.startswith((b"user.", b"system.posix_acl_")) or name == b"security.capability"
