"""Setting an entry's attributes: owner, then mode, then extended attributes (times are the extractor's business).

chown clears set-id bits and capabilities, chmod changes the mask of an ACL: so each comes before what it would spoil.
Only ``user.*`` attributes come before chmod, which may take away the permission for them. Every object is named by a
descriptor (``paths.proc_path``), so no link is ever followed.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from functools import partial

from fastlayer._baseline.paths import overrides_permissions, proc_path
from fastlayer._baseline.tarread import TarItem
from fastlayer._baseline.tree import is_host_only
from fastlayer.errors import UnsafeEntryError, show_path

IdMap = tuple[tuple[int, int, int], ...]

_SET_IDS = 0o6000
_REFUSED_HERE = (errno.EPERM, errno.EOPNOTSUPP)  # by this file system or user: a warning, not an error


class Attributes:
    """Applies attributes and counts the extended ones that could not be."""

    def __init__(
        self, uid_map: IdMap | None, gid_map: IdMap | None, ignore_chown: bool, xattr_prefix: bytes | None
    ) -> None:
        self._uid_map, self._gid_map = uid_map, gid_map
        self._ignore_chown = ignore_chown
        self._xattr_prefix = xattr_prefix
        self._is_free = overrides_permissions()
        self.begin_layer()

    def begin_layer(self) -> None:
        self.skipped_xattrs = 0
        self._causes: dict[str, tuple[int, str]] = {}  # what was lost: how often, and of what first

    def warnings(self) -> tuple[str, ...]:
        """One line per cause; devices that were left out are one, too."""
        return tuple(f"{count} {cause} (first: {example})" for cause, (count, example) in self._causes.items())

    def apply(self, fd: int, item: TarItem) -> None:
        mode = self._chown(fd, item.uid, item.gid, item.mode if item.type != "2" else 0, item.path)
        xattrs = dict(item.xattrs)
        if item.type == "2":
            self._set_xattrs(fd, item.path, xattrs)
            return
        self._remove_others(fd, item.path, xattrs)
        if not self._is_free:
            os.chmod(proc_path(fd), 0o700)
        self._set_xattrs(fd, item.path, {name: xattrs[name] for name in xattrs if name.startswith(b"user.")})
        os.chmod(proc_path(fd), mode)
        self._set_xattrs(fd, item.path, {name: xattrs[name] for name in xattrs if not name.startswith(b"user.")})

    def apply_implied(self, fd: int, mode: int) -> None:
        """A directory that no entry speaks of: owner 0:0, nothing inherited."""
        self._chown(fd, 0, 0, mode, b"")
        self._remove_others(fd, b"", {})
        os.chmod(proc_path(fd), mode)

    def _chown(self, fd: int, uid: int, gid: int, mode: int, path: bytes) -> int:
        """Returns the mode to set: where the owner could not be set, the set-id bits are left out."""
        uid = _mapped(self._uid_map, uid, path, "uid")
        gid = _mapped(self._gid_map, gid, path, "gid")
        try:
            os.chown(proc_path(fd), uid, gid)
        except OSError as exc:
            if not self._ignore_chown or exc.errno not in (errno.EPERM, errno.EINVAL):
                raise
            if mode & _SET_IDS:
                self.lose("files without their set-id bits, because the owner is not the entry's", show_path(path))
            return mode & ~_SET_IDS
        return mode

    def _remove_others(self, fd: int, path: bytes, wanted: dict[bytes, bytes]) -> None:
        """What was there before, or was inherited, goes."""
        where = proc_path(fd)
        for name in self._present(where) - wanted.keys():
            self._try(path, name, partial(os.removexattr, where, name))

    def _set_xattrs(self, fd: int, path: bytes, wanted: dict[bytes, bytes]) -> None:
        for name, value in wanted.items():
            if self._is_hosts(name):
                self._skip(
                    path, name, "trusted.*, security.selinux and the storage format's own are not layers' to set"
                )
            else:
                self._try(path, name, partial(os.setxattr, proc_path(fd), name, value))

    def _present(self, where: str) -> set[bytes]:
        try:
            names = {os.fsencode(name) for name in os.listxattr(where)}
        except OSError as exc:
            if exc.errno == errno.EOPNOTSUPP:
                return set()
            raise
        return {name for name in names if not self._is_hosts(name)}

    def _is_hosts(self, name: bytes) -> bool:
        """Of the host or the storage format, not of any layer: neither set nor replaced nor removed."""
        return is_host_only(name) or name.startswith(b"trusted.") or self._is_of_format(name)

    def _is_of_format(self, name: bytes) -> bool:
        return self._xattr_prefix is not None and name.startswith(self._xattr_prefix)

    def _try(self, path: bytes, name: bytes, action: Callable[[], None]) -> None:
        try:
            action()
        except OSError as exc:
            if exc.errno == errno.ENODATA:  # removed together with another one
                return
            if exc.errno not in _REFUSED_HERE:
                raise
            self._skip(path, name, os.strerror(exc.errno))

    def _skip(self, path: bytes, name: bytes, cause: str) -> None:
        self.skipped_xattrs += 1
        self.lose(f"extended attributes not set: {cause}", f"{show_path(name)} of {show_path(path)}")

    def lose(self, cause: str, example: str) -> None:
        count, first = self._causes.get(cause, (0, example))
        self._causes[cause] = (count + 1, first)


def _mapped(ranges: IdMap | None, value: int, path: bytes, what: str) -> int:
    if not ranges:
        return value
    for inside, outside, count in ranges:
        if inside <= value < inside + count:
            return outside + value - inside
    raise UnsafeEntryError(f"{show_path(path)}: {what} {value} is not in the {what} map")
