"""Size limits of directories: project quotas of XFS and ext4 (xfs_quota(8) "Project quota", quotactl(2)).

What is limited becomes a project of its own; what is made in it inherits that. The limit is the kernel's: whoever
writes beyond it gets ENOSPC (XFS) or EDQUOT (ext4). On ext4 root may go beyond it in the directory itself, but nobody
may through an overlay, for overlayfs gives that right up.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from collections.abc import Sequence
from pathlib import Path

from fastlayer.errors import DriverError, StorageError
from fastlayer.mounts import table

_GETXATTR, _SETXATTR = 0x801C581F, 0x401C5820  # FS_IOC_FSGETXATTR, FS_IOC_FSSETXATTR
_ATTRIBUTES = struct.Struct("=IIIII8x")  # struct fsxattr: flags, extsize, nextents, project, cowextsize
_INHERIT = 0x200  # FS_XFLAG_PROJINHERIT
_PROJECT = 2  # PRJQUOTA
_GETQUOTA, _SETQUOTA, _GETSTATE = 0x800007, 0x800008, 0x5805  # Q_GETQUOTA, Q_SETQUOTA, Q_XGETQSTAT
_LIMITS = struct.Struct("=8QI4x")  # struct if_dqblk: block hard, soft, bytes used, inode hard, soft, used, times, valid
_BLOCK_LIMITS = 1  # QIF_BLIMITS
_STATE = struct.Struct("=bxH76x")  # struct fs_quota_stat: version, flags
_ENFORCED = 0x20  # FS_QUOTA_PDQ_ENFD
_QUOTACTL_FD = 443  # system call of Linux 5.14, the same on every architecture
_UNIT = 1024  # bytes of a block in the limits
_FIRST = 0x464C0000  # projects of ours; others have small numbers
_TRIES = 1 << 16


def project(directory: Path) -> int:
    """The project that the directory belongs to; 0 for none."""
    try:
        return _attributes(directory)[3]
    except OSError:
        return 0


def limit(directories: Sequence[Path], size: int) -> None:
    """What is made in these (empty) directories may take at most ``size`` bytes together.

    Raises ``DriverError``, with the remedy, where the file system has no such limits.
    """
    need_limits(directories[0])
    number = _free_project(directories[0])
    _set_limit(directories[0], number, size)
    try:
        for directory in directories:
            _join(directory, number)
    except OSError as exc:
        unlimit(directories[0], number)
        raise StorageError(exc.errno or 0, "cannot make a project of", os.fspath(directories[0])) from exc


def unlimit(place: Path, number: int) -> None:
    """The project may grow again, and its number is free once nothing belongs to it."""
    if number >= _FIRST:
        try:
            _set_limit(place, number, 0)
        except OSError:
            pass  # no quotas any more: no limit either


def used(place: Path, number: int) -> int:
    """Bytes that the project takes, as the file system accounts them."""
    return int(_quota(place, number)[2])


def need_limits(place: Path) -> None:
    """Raises ``DriverError`` unless project quotas are switched on and ours to set."""
    try:
        state = bytearray(_STATE.size)
        _quotactl(place, _GETSTATE, 0, state)
        if not _STATE.unpack(state)[1] & _ENFORCED:
            raise OSError(errno.ESRCH, "")
        _quota(place, _FIRST)
    except OSError as exc:
        if exc.errno == errno.EPERM:
            remedy = "only root may set project quotas: run as root, or leave the size out"
        else:
            remedy = "keep the store on XFS or ext4 mounted with -o prjquota, or leave the size out"
        raise DriverError(f"{place}: a size cannot be limited here: {remedy}") from exc


def _attributes(directory: Path) -> tuple[int, ...]:
    buffer = bytearray(_ATTRIBUTES.size)
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.ioctl(fd, _GETXATTR, buffer)
    finally:
        os.close(fd)
    return _ATTRIBUTES.unpack(buffer)


def _join(directory: Path, number: int) -> None:
    flags, extent, _, _, cow = _attributes(directory)
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.ioctl(fd, _SETXATTR, _ATTRIBUTES.pack(flags | _INHERIT, extent, 0, number, cow))
    finally:
        os.close(fd)


def _free_project(place: Path) -> int:
    """A project that nothing belongs to and that has no limit: other stores of the file system have some, too."""
    start = int.from_bytes(os.urandom(2))
    for attempt in range(_TRIES):
        number = _FIRST + (start + attempt) % _TRIES
        hard, soft, space, inode_hard, inode_soft, inodes, *_ = _quota(place, number)
        if not (hard or soft or space or inode_hard or inode_soft or inodes):
            return number
    raise DriverError(f"{place}: all {_TRIES} project numbers are in use: remove writable layers with a size limit")


def _quota(place: Path, number: int) -> tuple[int, ...]:
    buffer = bytearray(_LIMITS.size)
    try:
        _quotactl(place, _GETQUOTA, number, buffer)
    except OSError as exc:
        if exc.errno != errno.ENOENT:  # XFS: never heard of that project
            raise
    return _LIMITS.unpack(buffer)


def _set_limit(place: Path, number: int, size: int) -> None:
    blocks = -(-size // _UNIT)
    _quotactl(place, _SETQUOTA, number, bytearray(_LIMITS.pack(blocks, 0, 0, 0, 0, 0, 0, 0, _BLOCK_LIMITS)))


def _quotactl(place: Path, command: int, number: int, buffer: bytearray) -> None:
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    target = (ctypes.c_char * len(buffer)).from_buffer(buffer)
    full = ctypes.c_uint(command << 8 | _PROJECT)
    fd = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        number_of_call = ctypes.c_long(_QUOTACTL_FD)
        failed = libc.syscall(number_of_call, ctypes.c_uint(fd), full, ctypes.c_uint(number), target) < 0
    finally:
        os.close(fd)
    if failed and ctypes.get_errno() == errno.ENOSYS and (device := _device(place)):
        failed = libc.quotactl(ctypes.c_int(full.value), device, ctypes.c_int(number), target) < 0
    if failed:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), os.fspath(place))


def _device(place: Path) -> bytes | None:
    wanted = place.stat().st_dev
    found = (entry.source for entry in table.entries() if os.makedev(*entry.device) == wanted)
    return next(found, None)
