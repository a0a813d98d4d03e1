"""Setting an entry's attributes: owner, then mode, then extended attributes (times are the extractor's business).

chown clears set-id bits and capabilities, chmod changes the mask of an ACL: so each comes before what it would spoil.
Every object is named by a descriptor (``paths.proc_path``), so no link is ever followed.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from functools import partial

from fastlayer._baseline.paths import proc_path
from fastlayer._baseline.tarread import TarItem
from fastlayer._baseline.tree import HOST_ONLY
from fastlayer.errors import UnsafeEntryError, show_path

IdMap = tuple[tuple[int, int, int], ...]

_REFUSED_HERE = (errno.EPERM, errno.EOPNOTSUPP)  # by this file system or user: a warning, not an error


class Attributes:
    """Applies attributes and counts the extended ones that could not be."""

    def __init__(
        self, uid_map: IdMap | None, gid_map: IdMap | None, ignore_chown: bool, xattr_prefix: bytes | None
    ) -> None:
        self._uid_map, self._gid_map = uid_map, gid_map
        self._ignore_chown = ignore_chown
        self._xattr_prefix = xattr_prefix
        self.begin_layer()

    def begin_layer(self) -> None:
        self.skipped_xattrs = 0
        self._causes: dict[str, int] = {}
        self._examples: dict[str, str] = {}

    def warnings(self) -> tuple[str, ...]:
        """One line per cause."""
        return tuple(
            f"{count} extended attributes not set: {cause} (first: {self._examples[cause]})"
            for cause, count in self._causes.items()
        )

    def apply(self, fd: int, item: TarItem) -> None:
        uid = _mapped(self._uid_map, item.uid, item.path, "uid")
        gid = _mapped(self._gid_map, item.gid, item.path, "gid")
        self._chown(fd, uid, gid)
        if item.type != "2":
            os.chmod(proc_path(fd), item.mode)
        self._set_xattrs(fd, item.path, dict(item.xattrs))

    def apply_implied(self, fd: int, mode: int) -> None:
        """A directory that no entry speaks of: owner 0:0, nothing inherited."""
        self._chown(fd, _mapped(self._uid_map, 0, b"", "uid"), _mapped(self._gid_map, 0, b"", "gid"))
        os.chmod(proc_path(fd), mode)
        self._set_xattrs(fd, b"", {})

    def _chown(self, fd: int, uid: int, gid: int) -> None:
        try:
            os.chown(proc_path(fd), uid, gid)
        except OSError as exc:
            if not self._ignore_chown or exc.errno not in (errno.EPERM, errno.EINVAL):
                raise

    def _set_xattrs(self, fd: int, path: bytes, wanted: dict[bytes, bytes]) -> None:
        """Exactly these: what was there before, or was inherited, goes."""
        where = proc_path(fd)
        for name in self._present(where) - wanted.keys():
            self._try(path, name, partial(os.removexattr, where, name))
        for name, value in wanted.items():
            if name.startswith(b"trusted.") or self._is_of_format(name):
                self._skip(path, name, "trusted.* and the storage format's own are not taken from layers")
            else:
                self._try(path, name, partial(os.setxattr, where, name, value))

    def _present(self, where: str) -> set[bytes]:
        try:
            names = {os.fsencode(name) for name in os.listxattr(where)}
        except OSError as exc:
            if exc.errno == errno.EOPNOTSUPP:
                return set()
            raise
        return {name for name in names if not self._is_hosts(name)}

    def _is_hosts(self, name: bytes) -> bool:
        """Of the host, not of any layer: neither removed nor replaced."""
        return name in HOST_ONLY or name.startswith(b"trusted.overlay.") or self._is_of_format(name)

    def _is_of_format(self, name: bytes) -> bool:
        return self._xattr_prefix is not None and name.startswith(self._xattr_prefix)

    def _try(self, path: bytes, name: bytes, action: Callable[[], None]) -> None:
        try:
            action()
        except OSError as exc:
            if exc.errno not in _REFUSED_HERE:
                raise
            self._skip(path, name, os.strerror(exc.errno))

    def _skip(self, path: bytes, name: bytes, cause: str) -> None:
        self.skipped_xattrs += 1
        self._causes[cause] = self._causes.get(cause, 0) + 1
        self._examples.setdefault(cause, f"{show_path(name)} of {show_path(path)}")


def _mapped(ranges: IdMap | None, value: int, path: bytes, what: str) -> int:
    if not ranges:
        return value
    for inside, outside, count in ranges:
        if inside <= value < inside + count:
            return outside + value - inside
    raise UnsafeEntryError(f"{show_path(path)}: {what} {value} is not in the {what} map")
