"""Subvolumes by path: opening, deleting with all that is in them, turning inner ones into directories."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fastlayer import _backend
from fastlayer.drivers import folders
from fastlayer.drivers.btrfs.generation import ROOT_INODE, Places
from fastlayer.drivers.system import refusals, storage_error
from fastlayer.errors import DriverError, StorageError

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FS_INFO, _FS_INFO_SIZE = 0x8400941F, 1024  # BTRFS_IOC_FS_INFO: max_id, num_devices, fsid[16], ...
_MOVED = ".fastlayer-nested-"  # beside an inner subvolume, the directory that will replace it


@contextmanager
def opened(path: Path, *, about: Path | None = None) -> Iterator[int]:
    """A descriptor of a directory. Refusals inside name it, or ``about``; a full quota is ``NoSpaceError``."""
    try:
        fd = os.open(path, _DIRECTORY)
    except OSError as exc:
        raise storage_error(exc, "open", path) from exc
    try:
        yield fd
    except StorageError as exc:
        raise storage_error(exc, exc.op, exc.filename or about or path) from exc
    finally:
        os.close(fd)


def create(path: Path) -> None:
    """A new, empty subvolume of mode 0755."""
    with opened(path.parent, about=path) as fd:
        _backend.engine().subvolume.create(fd, os.fsencode(path.name))
        os.chmod(path, 0o755)
        os.utime(path, (0, 0))  # on every machine and at any time the same


def snapshot(source: Path, path: Path, *, readonly: bool = False) -> None:
    with opened(path.parent, about=path) as fd, opened(source, about=path) as source_fd:
        _backend.engine().subvolume.snapshot(fd, os.fsencode(path.name), source_fd, readonly=readonly)


def delete(path: Path) -> None:
    """Deletes a subvolume and all in it. Nothing there is no error; a plain directory is removed, too."""
    try:
        inode = os.lstat(path).st_ino
    except FileNotFoundError:
        return
    except OSError as exc:
        raise storage_error(exc, "delete subvolume", path) from exc
    if inode != ROOT_INODE:
        folders.remove(path.parent, os.fsencode(path.name))
        return
    with opened(path.parent) as fd:
        name = os.fsencode(path.name)
        if (refusal := _destroy(fd, name)) == errno.EROFS:  # a user's own may have to be writable
            _make_writable(path)
            refusal = _destroy(fd, name)
        if refusal == errno.ENOTEMPTY:
            _delete_inner(path)
            refusal = _destroy(fd, name)
        if refusal not in (0, errno.ENOENT):
            raise StorageError(refusal, "delete subvolume", path.as_posix())


def _destroy(fd: int, name: bytes) -> int:
    """0, or the errno."""
    try:
        _backend.engine().subvolume.destroy(fd, name)
    except StorageError as exc:
        return exc.errno or errno.EIO
    return 0


def _make_writable(path: Path) -> None:
    with opened(path) as fd:
        _backend.engine().subvolume.set_readonly(fd, False)


def _delete_inner(path: Path) -> None:
    _make_writable(path)
    with opened(path) as fd:
        inner = inner_paths(fd, path)
    for name in inner:
        delete(path / os.fsdecode(name))


def inner_paths(fd: int, path: Path) -> list[bytes]:
    """The subvolumes right in the one that ``fd`` is the root of; by a walk where nobody may search."""
    try:
        return Places(fd).nested()
    except StorageError as exc:
        if exc.errno not in (errno.EPERM, errno.EACCES):
            raise
    return [os.fsencode(found.relative_to(path)) for found in _walk_inner(path)]


def _walk_inner(path: Path) -> Iterator[Path]:
    pending = [path]
    while pending:
        with os.scandir(pending.pop()) as entries:
            for entry in entries:
                if not entry.is_dir(follow_symlinks=False):
                    continue
                if entry.inode() == ROOT_INODE or entry.stat(follow_symlinks=False).st_ino == ROOT_INODE:
                    yield Path(entry.path)
                else:
                    pending.append(Path(entry.path))


# ---- inner subvolumes become directories ------------------------------------------------------


def flatten(path: Path, source: Path | None = None) -> None:
    """Replaces each subvolume inside by a directory with the same tree (files by reflink), because a snapshot does not
    take them along. ``source``: what ``path`` is a snapshot of, while it shows empty directories in their place.

    Killed at any instant and called again it goes on: an inner subvolume is there until its directory is complete.
    """
    origin = source or path
    with opened(origin) as fd:
        inner = inner_paths(fd, origin)
    for name in inner:
        where = os.fsdecode(name)
        _replace(origin / where, path / where)


def _replace(subvolume: Path, place: Path) -> None:
    from fastlayer.layer.clone import clone

    if place.name.startswith(_MOVED) and subvolume == place:  # exchanged already
        delete(place)
        return
    beside = place.parent / f"{_MOVED}{place.name}"[:255]
    above = os.lstat(place.parent)
    delete(beside)
    with refusals("mkdir"):
        os.mkdir(beside, 0o700)
        os.chmod(beside, 0o755)
    with opened(beside) as fd:
        clone(subvolume, fd)  # in place: no name that a killed process would leave unknown
    if subvolume == place:
        _exchange(beside, place)
        delete(beside)
    else:
        place.rmdir()
        beside.rename(place)
    os.utime(place.parent, ns=(above.st_atime_ns, above.st_mtime_ns))


def _exchange(a: Path, b: Path) -> None:
    from fastlayer.layer import libc

    with opened(a.parent) as fd:
        libc.exchange(fd, os.fsencode(a.name), os.fsencode(b.name))


def file_system(path: Path) -> bytes | None:
    """The id of the btrfs that a directory is on, whatever its subvolume, which has a device number of its own; None
    where there is no btrfs."""
    buffer = bytearray(_FS_INFO_SIZE)
    with opened(path) as fd:
        try:
            fcntl.ioctl(fd, _FS_INFO, buffer)
        except OSError as exc:
            if exc.errno in (errno.ENOTTY, errno.EINVAL, errno.EOPNOTSUPP):
                return None
            raise storage_error(exc, "BTRFS_IOC_FS_INFO", path) from exc
    return bytes(buffer[16:32])


def is_subvolume(path: Path) -> bool:
    try:
        status = os.lstat(path)
    except OSError:
        return False
    return stat.S_ISDIR(status.st_mode) and status.st_ino == ROOT_INODE


# ---- quota groups ---------------------------------------------------------------------------------


def limit(path: Path, size: int) -> None:
    """Limits the bytes that only this subvolume refers to, metadata included; turns quotas on when they are off.

    Raises ``DriverError`` without the right to.
    """
    engine = _backend.engine().subvolume
    try:
        with opened(path) as fd:
            number = engine.info(fd).id
            if engine.qgroup_usage(fd, number) is None:
                engine.quota_enable(fd)
            engine.qgroup_limit(fd, number, size)
    except StorageError as exc:
        if exc.errno in (errno.EPERM, errno.EACCES):
            raise DriverError(f"driver btrfs: {exc}: limiting the size of a snapshot needs root") from exc
        raise


def group(path: Path) -> int | None:
    """The quota group of a subvolume, if it is one and has one."""
    engine = _backend.engine().subvolume
    if not is_subvolume(path):
        return None
    try:
        with opened(path) as fd:
            number = int(engine.info(fd).id)
            return number if engine.qgroup_usage(fd, number) is not None else None
    except StorageError:
        return None


def forget_group(place: Path, number: int) -> None:
    """Kernels before 6.11 leave the quota group of a deleted subvolume; while that is cleaned they refuse."""
    try:
        with opened(place) as fd:
            _backend.engine().subvolume.qgroup_remove(fd, number)
    except StorageError:
        pass
