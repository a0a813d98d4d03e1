"""Directories that hold the data of volumes: plain ones, and subvolumes where the store is on btrfs.

A limited one is a project of XFS or ext4, or has a quota group of btrfs. A copy shares its blocks with what it was
copied from where the file system can; on btrfs it is a snapshot, of one moment.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

from fastlayer._values import NamedTuple
from fastlayer.drivers import folders, quota
from fastlayer.drivers.btrfs import subvolumes
from fastlayer.drivers.system import refusals
from fastlayer.errors import StorageError

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NO_BTRFS = (errno.ENOTTY, errno.EINVAL, errno.EOPNOTSUPP)


class Copied(NamedTuple):
    """How a copy was made. ``atomic``: it is of one moment; ``copied_bytes``: that could not be shared; ``changed``:
    files that were written to meanwhile, taken as they were read."""

    atomic: bool
    copied_bytes: int = 0
    changed: int = 0
    warnings: tuple[str, ...] = ()


def make(place: Path, size: int | None = None) -> None:
    """Makes the empty directory ``place``, mode 0755; ``size``: bytes that may be in it.

    Raises ``DriverError`` where sizes cannot be limited; nothing is left then.
    """
    if not _make_subvolume(place):
        with refusals("mkdir"):
            os.mkdir(place, 0o700)
            os.chmod(place, 0o755)
    try:
        if size is not None:
            _limit(place, size)
    except BaseException:
        remove(place)
        raise


def copy(source: Path, place: Path, size: int | None = None) -> Copied:
    """Makes ``place`` with all that is in the directory ``source``, which may be in use. Nothing is left on failure."""
    if subvolumes.is_subvolume(source) and _make_snapshot(source, place):
        try:
            subvolumes.flatten(place, source)
            if size is not None:
                _limit(place, size)
        except BaseException:
            remove(place)
            raise
        return Copied(atomic=True)
    make(place, size)
    try:
        return fill(source, place)
    except BaseException:
        remove(place)
        raise


def fill(source: Path | int, place: Path) -> Copied:
    """Copies all that is in ``source`` into the empty directory ``place``; owner, mode and times of itself, too."""
    from fastlayer.layer.clone import clone

    fd = os.open(place, _DIRECTORY)
    try:
        stats = clone(source, fd, live=True)
    finally:
        os.close(fd)
    return Copied(False, stats.copied_bytes, stats.changed, stats.warnings)


def remove(place: Path) -> None:
    """Removes a directory that ``make`` or ``copy`` made, or what is left of it; nothing there is no error."""
    number = quota.project(place)
    group = subvolumes.group(place)
    subvolumes.delete(place)
    if group is not None:
        subvolumes.forget_group(place.parent, group)
    if number and place.parent.is_dir():
        quota.unlimit(place.parent, number)


def exchange(one: Path, other: Path) -> None:
    """Two names in the same directory change places at once."""
    from fastlayer.layer import libc

    with subvolumes.opened(one.parent) as fd, refusals("rename"):
        libc.exchange(fd, os.fsencode(one.name), os.fsencode(other.name))


def is_empty(place: Path) -> bool:
    """Whether nothing is in the directory."""
    return not folders.is_filled(place)


def empty(place: Path) -> None:
    """Removes all that is in the directory, on its file system."""
    from fastlayer.layer.target import empty as empty_at

    with subvolumes.opened(place) as fd:
        empty_at(fd)


def _make_subvolume(place: Path) -> bool:
    """False where there are none, or nobody could remove it again."""
    if not _may_remove_subvolumes():
        return False
    try:
        subvolumes.create(place)
    except StorageError as exc:
        if exc.errno in _NO_BTRFS:
            return False
        raise
    return True


def _may_remove_subvolumes() -> bool:
    """Root of the initial user namespace may; others only with a mount option, or when they are empty."""
    from fastlayer.store.store import may_make_devices

    return may_make_devices()


def _make_snapshot(source: Path, place: Path) -> bool:
    """False where none can be made: on another file system."""
    if not _may_remove_subvolumes():
        return False
    try:
        subvolumes.snapshot(source, place)
    except StorageError as exc:
        if exc.errno in (errno.EXDEV, *_NO_BTRFS):
            return False
        raise
    return True


def _limit(place: Path, size: int) -> None:
    if subvolumes.is_subvolume(place):
        subvolumes.limit(place, size)
    else:
        quota.limit((place,), size)
