"""What is mounted: ``/proc/self/mountinfo`` (proc_pid_mountinfo(5)), and the identity of mounts (statx(2))."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from typing import Any

from fastlayer import _backend
from fastlayer._values import NamedTuple
from fastlayer.errors import OperandError, StorageError, show_path

_ESCAPED = re.compile(rb"\\([0-7]{3})")
_PATH = os.O_PATH | os.O_CLOEXEC


class Entry(NamedTuple):
    """One mount. ``number`` is valid while the mount is; ``parent`` that of the mount it lies on.

    ``root``: the directory of the file system that is seen; ``options`` of the mount, ``super_options`` of the file
    system; ``tags`` its propagation (``shared:7``).
    """

    number: int
    parent: int
    device: tuple[int, int]
    root: bytes
    target: bytes
    options: tuple[str, ...]
    tags: tuple[str, ...]
    type: str
    source: bytes
    super_options: tuple[bytes, ...]

    @property
    def readonly(self) -> bool:
        return "ro" in self.options or b"ro" in self.super_options


class Identity(NamedTuple):
    """The mount that something lies on. ``unique``: its number is never used again (Linux 6.8); ``is_root``: that
    something is the root of the mount."""

    number: int
    unique: bool
    is_root: bool


def entries(path: str = "/proc/self/mountinfo") -> Iterator[Entry]:
    """All mounts of this mount namespace, in the kernel's order: a mount comes after the one it lies on."""
    try:
        with open(path, "rb") as file:
            lines = file.read().split(b"\n")
    except OSError as exc:
        raise StorageError(exc.errno or 0, "cannot read the mounts", path) from exc
    return (_entry(line) for line in lines if line)


def _entry(line: bytes) -> Entry:
    before, _, after = line.partition(b" - ")
    number, parent, device, root, target, options, *tags = before.split(b" ")
    fs_type, source, super_options = [*after.split(b" ", 2), b"", b""][:3]
    major, _, minor = device.partition(b":")
    return Entry(
        int(number),
        int(parent),
        (int(major), int(minor)),
        _plain(root),
        _plain(target),
        tuple(options.decode("ascii", "replace").split(",")),
        tuple(tag.decode("ascii", "replace") for tag in tags),
        fs_type.decode("ascii", "replace"),
        _plain(source),
        tuple(_plain(option) for option in super_options.split(b",")),
    )


def _plain(field: bytes) -> bytes:
    r"""Blank, tab, newline, backslash (and what file systems add) are written as ``\040``."""
    return _ESCAPED.sub(lambda match: bytes([int(match[1], 8) & 0xFF]), field)


def identity(place: Any, *, plain: bool = False) -> Identity | None:
    """The mount that a path (a symbolic link itself, not its target) or descriptor lies on.

    ``plain``: the number as in ``Entry.number``. None before Linux 5.8, which does not tell. Raises ``OperandError``.
    """
    fd = _open(place)
    try:
        return Identity(*_backend.engine().mountapi.mount_id(fd, plain=plain))
    except StorageError as exc:
        if exc.errno == errno.ENOSYS:
            return None
        raise
    finally:
        os.close(fd)


def find(target: Any) -> Entry | None:
    """What is mounted on ``target`` - the top mount, when there are several - or None when nothing is.

    Raises ``OperandError`` when there is no such path.
    """
    known = identity(target, plain=True)
    if known is not None:
        if not known.is_root:
            return None
        return next((entry for entry in entries() if entry.number == known.number), None)
    wanted = os.path.realpath(os.fsencode(target))
    return next((entry for entry in reversed(list(entries())) if entry.target == wanted), None)


def _open(place: Any) -> int:
    try:
        if isinstance(place, int):
            return os.dup(place)
        return os.open(place, _PATH | os.O_NOFOLLOW)
    except (OSError, ValueError) as exc:
        name = f"descriptor {place}" if isinstance(place, int) else show_path(os.fsencode(place))
        raise OperandError(f"{name}: {getattr(exc, 'strerror', None) or exc}") from exc
