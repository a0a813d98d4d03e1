"""Where layers go: an existing directory, or a new one that appears only when it is complete."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from fastlayer import _backend
from fastlayer._temporary import name_beside
from fastlayer.errors import OperandError, StorageError, show_path
from fastlayer.layer import libc
from fastlayer.layer.mounts import same_mount

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_INNER = b"root"
_FEW = 24  # names


class Target:
    """A context manager around the directory that is extracted into, ``fd``.

    An existing directory (also through a symbolic link) is used as it is. For a new one a private directory (mode 0700)
    ``.NAME.fastlayer-XXXX`` is made beside it, so that nobody sees unverified files; ``commit`` moves the finished tree
    to its name, which must still be free. Leaving the block without a commit removes what was made.

    A new one is 0755, of the time 0, and nothing of it comes from its surroundings (umask, setgid, ACLs); ``owner``
    (uid, gid; None: the process') is set where that is permitted.
    """

    def __init__(self, value: Any, owner: tuple[int, int] | None = None) -> None:
        self._owner = owner
        self._staging: bytes | None = None
        self._parent = -1
        self._name = b""
        self.fd = -1
        if isinstance(value, int):
            self.name = f"descriptor {value}"
            self.fd = _open(".", self.name, value)
            return
        path = os.fsencode(value)
        self.name = show_path(path)
        if not path:
            raise OperandError("the target has an empty name: give a directory, or a name that is free")
        try:
            self.fd = os.open(path, _DIRECTORY)
        except FileNotFoundError:
            self._stage(path)
        except (OSError, ValueError) as exc:
            raise OperandError(f"{self.name}: {_reason(exc)}: give a directory, or a name that is free") from exc

    def _stage(self, path: bytes) -> None:
        parent, self._name = os.path.split(path.rstrip(b"/"))
        self._parent = _open(parent or b".", show_path(parent or b"."))
        try:
            if stat.S_ISLNK(os.lstat(path.rstrip(b"/")).st_mode):
                raise OperandError(
                    f"{self.name}: is a symbolic link to nothing: give a directory, or a name that is free"
                )
        except FileNotFoundError:
            pass
        staging = name_beside(self._name)
        self._staging = staging  # before: an interrupt may come as soon as it is made
        try:
            os.mkdir(staging, 0o700, dir_fd=self._parent)
            os.mkdir(staging + b"/" + _INNER, 0o755, dir_fd=self._parent)
            self.fd = os.open(staging + b"/" + _INNER, _DIRECTORY, dir_fd=self._parent)
            _make_plain(self.fd, self._owner or (os.geteuid(), os.getegid()))
        except OSError as exc:
            self.__exit__()
            raise StorageError(exc.errno or 0, "mkdir", self.name) from exc
        except BaseException:
            self.__exit__()
            raise

    def commit(self, durability: str) -> None:
        """Everything is applied and verified. Raises ``StorageError`` when the name has been taken meanwhile."""
        try:
            if durability != "none":
                libc.syncfs(self.fd) if durability == "syncfs" else os.fsync(self.fd)
            if self._staging is None:
                return
            self._move(self._staging + b"/" + _INNER)
            os.rmdir(self._staging, dir_fd=self._parent)
            self._staging = None
            if durability != "none":
                os.fsync(self._parent)
        except OSError as exc:
            raise StorageError(exc.errno or 0, "commit", self.name) from exc

    def _move(self, path: bytes) -> None:
        """A directory that gets another parent must be writable (rename(2)): a layer's root may be 0555."""
        try:
            libc.rename_new(self._parent, path, self._parent, self._name)
            return
        except PermissionError:
            mode = stat.S_IMODE(os.fstat(self.fd).st_mode)
            if mode & stat.S_IWUSR:
                raise
        os.fchmod(self.fd, mode | stat.S_IRWXU)
        try:
            libc.rename_new(self._parent, path, self._parent, self._name)
        finally:
            os.fchmod(self.fd, mode)

    def __enter__(self) -> Target:
        return self

    def __exit__(self, *_exc: object) -> None:
        try:
            if self._staging is not None:
                self._remove_staging(self._staging)
        finally:
            owned, self.fd, self._parent = (self.fd, self._parent), -1, -1
            for fd in owned:
                if fd >= 0:
                    os.close(fd)

    def __del__(self) -> None:
        """Of one whose block was never entered: an interrupt came just before that."""
        if self._staging is not None:
            self.__exit__()

    def _remove_staging(self, staging: bytes) -> None:
        self._staging = None
        if self.fd >= 0 and is_named(self.fd, self._parent, staging + b"/" + _INNER):
            empty(self.fd)
        for path in (staging + b"/" + _INNER, staging):
            remove_made(path, self._parent)


def _make_plain(fd: int, owner: tuple[int, int]) -> None:
    """0755, of that owner where permitted, with nothing inherited from the directory above, at any time the same."""
    for uid, gid in ((-1, os.getegid()), owner):
        try:
            os.fchown(fd, uid, gid)
        except OSError as exc:
            if exc.errno not in (errno.EPERM, errno.EINVAL):  # EINVAL: not mapped in this user namespace
                raise
    for name in ("system.posix_acl_default", "system.posix_acl_access"):
        try:
            os.removexattr(fd, name)
        except OSError as exc:
            if exc.errno not in (errno.ENODATA, errno.EOPNOTSUPP):
                raise
    os.fchmod(fd, 0o755)
    os.utime(fd, (0, 0))


def is_named(fd: int, parent: int, name: bytes) -> bool:
    """Whether the directory still has that name: an interrupt may come right after the rename, before it is noted."""
    try:
        found, status = os.lstat(name, dir_fd=parent), os.fstat(fd)
    except FileNotFoundError:
        return False
    return (found.st_dev, found.st_ino) == (status.st_dev, status.st_ino)


def remove_made(path: bytes, parent: int) -> None:
    """Removes the empty directory, if it was made: where it could not be, the system may give any reason (EROFS)."""
    try:
        os.rmdir(path, dir_fd=parent)
    except OSError as exc:
        if _exists(path, parent):
            raise StorageError(exc.errno or 0, "rmdir", path) from exc


def _exists(path: bytes, parent: int) -> bool:
    try:
        os.lstat(path, dir_fd=parent)
    except OSError:
        return False
    return True


def _open(path: Any, name: str, dir_fd: int | None = None) -> int:
    try:
        return os.open(path, _DIRECTORY, dir_fd=dir_fd)
    except OSError as exc:
        raise OperandError(f"{name}: {_reason(exc)}: give a directory that exists") from exc


def _reason(exc: OSError | ValueError) -> str:
    return (exc.strerror or str(exc)) if isinstance(exc, OSError) else str(exc)


def empty(fd: int) -> None:
    """Removes everything in the directory, whatever its depth; it follows no link and enters nothing mounted.

    Raises ``StorageError`` (EBUSY for what is mounted).
    """
    if _empty_of_few(fd):
        return
    extractor = _backend.engine().extract.Extractor(fd, format="dir")  # a layer that is nothing but an opaque marker
    extractor.begin_layer()
    extractor.feed(_OPAQUE_LAYER)
    extractor.end_layer()


def remove_tree(place: str | os.PathLike[str]) -> None:
    """Removes a directory with all that is in it, whatever the modes of its directories; as ``empty``.

    Raises ``OSError`` when it is none, or is not there.
    """
    fd = os.open(place, _DIRECTORY | os.O_NOFOLLOW)
    try:
        empty(fd)
    finally:
        os.close(fd)
    os.rmdir(place)


def names_in(fd: int) -> list[bytes]:
    """What is in the directory now."""
    with _opened_anew(fd) as fresh:
        return [os.fsencode(name) for name in os.listdir(fresh)]


@contextmanager
def _opened_anew(fd: int) -> Iterator[int]:
    """On btrfs (Linux 6.5) a first listing shows nothing that came after the descriptor was opened."""
    fresh = os.open(b".", _DIRECTORY, dir_fd=fd)
    try:
        yield fresh
    finally:
        os.close(fresh)


def _empty_of_few(fd: int) -> bool:
    """As ``empty``, without loading the engine's extractor: of a writable layer that nothing was written to, say.

    False: there is more than a few names, or something about them is not plain; what is left is left to ``empty``.
    """
    try:
        with _opened_anew(fd) as first:
            return _remove_few(first)
    except OSError:
        return False


def _remove_few(fd: int) -> bool:
    directories: list[tuple[int, bytes, int]] = []  # above, name, itself: those above first
    try:
        files: list[tuple[int, bytes]] = []
        for here in _grown(fd, directories):
            with os.scandir(here) as entries:
                for entry in entries:
                    if len(files) + len(directories) == _FEW:
                        return False
                    name = os.fsencode(entry.name)
                    if not entry.is_dir(follow_symlinks=False):
                        files.append((here, name))
                        continue
                    directories.append((here, name, os.open(name, _DIRECTORY | os.O_NOFOLLOW, dir_fd=here)))
                    if not same_mount(here, directories[-1][2]):
                        return False
        for above, name in files:
            os.unlink(name, dir_fd=above)
        for above, name, _ in reversed(directories):
            os.rmdir(name, dir_fd=above)
        return True
    finally:
        for *_, opened in directories:
            os.close(opened)


def _grown(first: int, directories: list[tuple[int, bytes, int]]) -> Iterator[int]:
    """The directory, and then those of a list that grows meanwhile."""
    yield first
    number = 0
    while number < len(directories):
        yield directories[number][2]
        number += 1


def _opaque_layer() -> bytes:
    """One tar entry, ``.wh..wh..opq``, and the end of the archive."""
    header = bytearray(512)
    header[0:12] = b".wh..wh..opq"
    for offset, width in ((100, 8), (108, 8), (116, 8), (124, 12), (136, 12)):  # mode uid gid size mtime
        header[offset : offset + width] = b"0" * (width - 1) + b"\0"
    header[156:157] = b"0"
    header[257:265] = b"ustar\x0000"
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header) + bytes(1024)


_OPAQUE_LAYER = _opaque_layer()
