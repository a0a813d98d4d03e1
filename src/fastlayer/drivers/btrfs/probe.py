"""Whether the btrfs driver works at a place, by making and deleting a subvolume and a snapshot there."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from fastlayer import _backend
from fastlayer.drivers.btrfs import subvolumes
from fastlayer.errors import FastlayerError, StorageError
from fastlayer.snapshot.driver import Probe


def probe(root: Path) -> Probe:
    """Leaves nothing behind."""
    try:
        with subvolumes.opened(root) as fd:
            _backend.engine().subvolume.info(fd)
    except StorageError as exc:
        if exc.errno in (errno.ENOTTY, errno.EINVAL, errno.EOPNOTSUPP):
            return Probe(False, f"{root} is not on btrfs", "put the store on a btrfs file system (--root)")
        return Probe(False, str(exc), "choose another store with --root or FASTLAYER_ROOT")
    one, two = (root / f".fastlayer-probe-{os.getpid()}{suffix}" for suffix in ("", "-child"))
    try:
        return _try(root, one, two)
    finally:
        for path in (two, one):
            _clear(path)


def _try(root: Path, one: Path, two: Path) -> Probe:
    try:
        subvolumes.create(one)
        subvolumes.snapshot(one, two, readonly=True)
    except StorageError as exc:
        return Probe(False, f"{root}: subvolumes cannot be made here: {exc}", _making_remedy(exc))
    try:
        subvolumes.delete(two)
        subvolumes.delete(one)
    except StorageError as exc:
        return Probe(
            False,
            f"{root}: subvolumes cannot be deleted: {exc}",
            "mount the file system with user_subvol_rm_allowed, or run as root",
        )
    return Probe(True)


def _making_remedy(exc: StorageError) -> str:
    if exc.errno == errno.EROFS:
        return "mount the file system read-write"
    if exc.errno in (errno.EPERM, errno.EACCES):
        return f"give {os.geteuid()} a store directory of its own, or run as root"
    return "make room, or choose another store with --root"


def _clear(path: Path) -> None:
    """Without the right to delete subvolumes: rmdir takes empty ones (Linux 4.18) that are writable."""
    try:
        subvolumes.delete(path)
    except FastlayerError:
        try:
            with subvolumes.opened(path) as fd:
                _backend.engine().subvolume.set_readonly(fd, False)
            path.rmdir()
        except (OSError, FastlayerError):
            pass
