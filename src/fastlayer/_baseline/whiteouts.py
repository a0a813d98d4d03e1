"""What ``.wh.`` names mean (OCI image-spec layer.md) and how the storage formats write hidden names down.

============== ============================================ =================================================
format         NAME is hidden                               nothing of lower layers shows in a directory
============== ============================================ =================================================
dir            (not there)                                  (nothing there)
overlay        NAME is a character device 0:0               ``trusted.overlay.opaque`` = ``y``
overlay-userx… the same                                     ``user.overlay.opaque`` = ``y``
aufs           an empty file ``.wh.NAME`` beside it         an empty file ``.wh..wh..opq`` in it
============== ============================================ =================================================
"""

from __future__ import annotations

import errno
import os
import stat

from fastlayer._baseline.paths import Parts, proc_path
from fastlayer._values import NamedTuple
from fastlayer.errors import UnsafeEntryError, show_path

PREFIX = b".wh."
OPAQUE = b".wh..wh..opq"
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_OWN = b".wh..wh."  # aufs keeps its books in these


class Marker(NamedTuple):
    """``directory``: where it acts; ``name``: what it hides, or None for everything in the directory."""

    directory: Parts
    name: bytes | None


def is_bookkeeping(parts: Parts) -> bool:
    """Entries of aufs' own (``.wh..wh.plnk``, …) and whatever lies below a ``.wh.`` name have no effect."""
    own = bool(parts) and parts[-1].startswith(_OWN) and parts[-1] != OPAQUE
    return own or any(part.startswith(PREFIX) for part in parts[:-1])


def marker(parts: Parts, raw: bytes | None = None) -> Marker | None:
    """The marker that a name is, if it is one. Only the name decides. ``.wh.`` alone and markers for ``.`` and ``..``
    are refused. ``raw``: the name as the archive has it."""
    if not parts or not parts[-1].startswith(PREFIX):
        return None
    if parts[-1] == OPAQUE:
        return Marker(parts[:-1], None)
    name = parts[-1][len(PREFIX) :]
    if name in (b"", b".", b".."):
        raise UnsafeEntryError(f"{show_path(raw or b'/'.join(parts))}: a whiteout without a name")
    return Marker(parts[:-1], name)


class Storage:
    """``dir``: whiteouts are carried out, nothing is written down."""

    stores_markers = False
    xattr_prefix: bytes | None = None  # extended attributes that belong to the format

    def hide(self, parent: int, name: bytes) -> None:
        """Writes down that ``name``, which is not there, is hidden."""

    def reveal(self, parent: int, name: bytes) -> bool:
        """Takes the marker of ``name`` away; whether there was one."""
        return False

    def is_hidden(self, parent: int, name: bytes) -> bool:
        return False

    def set_opaque(self, directory: int) -> None: ...

    def is_opaque(self, directory: int) -> bool:
        return False


class OverlayStorage(Storage):
    """Linux Documentation/filesystems/overlayfs.rst, "whiteouts and opaque directories".

    In the user namespace, who may not make the device makes an empty file with ``user.overlay.whiteout`` instead, and
    says so in the directory.
    """

    stores_markers = True

    def __init__(self, namespace: bytes) -> None:
        self.xattr_prefix = namespace + b".overlay."
        self._opaque = self.xattr_prefix + b"opaque"
        self._whiteout = b"user.overlay.whiteout" if namespace == b"user" else None

    def hide(self, parent: int, name: bytes) -> None:
        try:
            os.mknod(name, stat.S_IFCHR, 0, dir_fd=parent)
        except PermissionError as exc:
            if exc.errno != errno.EPERM or self._whiteout is None:
                raise
            fd = os.open(name, _NEW, 0o600, dir_fd=parent)
            try:
                os.setxattr(fd, self._whiteout, b"y")
            finally:
                os.close(fd)
            os.setxattr(proc_path(parent), self._opaque, b"x")

    def reveal(self, parent: int, name: bytes) -> bool:
        hidden = self.is_hidden(parent, name)
        if hidden:
            os.unlink(name, dir_fd=parent)
        return hidden

    def is_hidden(self, parent: int, name: bytes) -> bool:
        try:
            fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
        except FileNotFoundError:
            return False
        try:
            found = os.fstat(fd)
            if stat.S_ISREG(found.st_mode) and found.st_size == 0 and self._whiteout is not None:
                return os.fsdecode(self._whiteout) in os.listxattr(proc_path(fd))
            return stat.S_ISCHR(found.st_mode) and found.st_rdev == 0
        finally:
            os.close(fd)

    def set_opaque(self, directory: int) -> None:
        os.setxattr(proc_path(directory), self._opaque, b"y")

    def is_opaque(self, directory: int) -> bool:
        try:
            return os.getxattr(proc_path(directory), self._opaque) == b"y"
        except OSError:
            return False


class AufsStorage(Storage):
    stores_markers = True

    def hide(self, parent: int, name: bytes) -> None:
        _touch(parent, PREFIX + name)

    def reveal(self, parent: int, name: bytes) -> bool:
        hidden = self.is_hidden(parent, name)
        if hidden:
            os.unlink(PREFIX + name, dir_fd=parent)
        return hidden

    def is_hidden(self, parent: int, name: bytes) -> bool:
        return _exists(parent, PREFIX + name)

    def set_opaque(self, directory: int) -> None:
        _touch(directory, OPAQUE)

    def is_opaque(self, directory: int) -> bool:
        return _exists(directory, OPAQUE)


def storage(format: str) -> Storage:
    if format == "dir":
        return Storage()
    if format == "aufs":
        return AufsStorage()
    return OverlayStorage({"overlay": b"trusted", "overlay-userxattr": b"user"}[format])


def _touch(parent: int, name: bytes) -> None:
    try:
        fd = os.open(name, _NEW, 0o444, dir_fd=parent)
    except FileExistsError:
        return
    os.close(fd)


def _exists(parent: int, name: bytes) -> bool:
    try:
        os.stat(name, dir_fd=parent, follow_symlinks=False)
    except OSError as exc:
        if exc.errno in (errno.ENOENT, errno.ENAMETOOLONG):
            return False
        raise
    return True
