"""The folder per snapshot that drivers keep below their root: listing and removing."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from fastlayer.errors import StorageError

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def numbers(root: Path) -> set[int]:
    """The folders of ``root`` that are named by a number."""
    try:
        return {int(name) for name in os.listdir(root) if name.isascii() and name.isdecimal()}
    except FileNotFoundError:
        return set()


def set_aside(root: Path, folder: Path) -> Path:
    """Moves a snapshot's folder to ``lost+found`` in the driver's directory; returns where it is then."""
    place = root / "lost+found"
    place.mkdir(mode=0o700, exist_ok=True)
    target = place / f"{folder.name}-{os.urandom(4).hex()}"
    os.rename(folder, target)
    return target


def is_filled(directory: Path) -> bool:
    """Whether it is a directory with something in it."""
    try:
        return any(os.scandir(directory))
    except (FileNotFoundError, NotADirectoryError):
        return False


def remove(place: Path, name: bytes) -> None:
    """Removes one name of a directory with all below it, at any depth; nothing there is no error. Follows no link."""
    try:
        fd = os.open(place, _DIRECTORY)
    except FileNotFoundError:
        return
    try:
        _remove_at(fd, name)
    finally:
        os.close(fd)


def _remove_at(parent: int, name: bytes) -> None:
    from fastlayer.layer.target import empty

    try:
        fd = os.open(name, _DIRECTORY, dir_fd=parent)
    except FileNotFoundError:
        return
    except OSError as exc:
        if exc.errno not in (errno.ENOTDIR, errno.ELOOP):
            raise
        os.unlink(name, dir_fd=parent)
        return
    try:
        empty(fd)
    finally:
        os.close(fd)
    try:
        os.rmdir(name, dir_fd=parent)
    except FileNotFoundError:
        pass
    except OSError as exc:
        if exc.errno == errno.EBUSY:
            raise StorageError(errno.EBUSY, "is mounted", name) from exc
        raise
