"""The file system inside a thin device: made, mounted privately, grown.

A snapshot's tree is the directory ``rootfs`` of its file system, so that ``lost+found`` is no part of it. Mounts made
here are attached nowhere (fsmount(2)): nobody else sees them, and they end with their descriptor or their process.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import struct
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from fastlayer import _backend
from fastlayer.drivers.devicemapper.dmsetup import lock_descriptors
from fastlayer.errors import DriverError, NoSpaceError, StorageError

ROOTFS = "rootfs"
_ATTR_RDONLY = 1
_EXT4_RESIZE = 0x40086610  # EXT4_IOC_RESIZE_FS: u64 blocks
_XFS_GROW = 0x4010586E  # XFS_IOC_FSGROWFSDATA: u64 blocks, u32 imaxpct
_EXT4_STATE, _EXT4_ERRORS = 1024 + 0x3A, 2  # offset of s_state, and its EXT4_ERROR_FS
_XFS_IMAXPCT = 127  # offset of sb_imax_pct

# Inode tables are left as they are, in the base and in all that is made of it: zeroing them would fill the pool. The
# journal is zeroed, for the pool does not zero blocks, and a stale journal of a sibling would look like this one's.
_MKFS = {
    "ext4": "mkfs.ext4 -q -F -m 0 -I 256 -O ea_inode -J size=16 -E lazy_itable_init=1,lazy_journal_init=0,nodiscard",
    "xfs": "mkfs.xfs -q -f -K -m reflink=1",
}
_PACKAGES = {"ext4": "e2fsprogs", "xfs": "xfsprogs"}
_WRITABLE = {"ext4": ("noinit_itable", "discard"), "xfs": ("nouuid", "discard")}
_READONLY: dict[str, tuple[str, ...]] = {"ext4": (), "xfs": ("nouuid",)}

_libc = ctypes.CDLL(None, use_errno=True)


def mount_options(kind: str, *, readonly: bool) -> tuple[str, ...]:
    """As mount(8) writes them. All snapshots of a pool have the UUID of its base, hence ``nouuid``."""
    return ("ro", *_READONLY[kind]) if readonly else ("rw", *_WRITABLE[kind])


def make(kind: str, device: str) -> None:
    """Makes an empty file system with an empty ``rootfs`` on a device that reads as zeros or was never written."""
    command = [*_MKFS[kind].split(), device]
    env = {**os.environ, "PATH": os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin", "LC_ALL": "C"}
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            env=env,
            pass_fds=lock_descriptors(),
            check=False,
        )
    except FileNotFoundError:
        raise DriverError(f"{command[0]} is not installed: install the package {_PACKAGES[kind]}") from None
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        raise DriverError(f"{command[0]} {device}: {lines[-1].strip() if lines else 'failed'}")
    with mounted(kind, device) as root:
        os.mkdir(root / ROOTFS, 0o755)
        os.chmod(root / ROOTFS, 0o755)
        os.utime(root / ROOTFS, (0, 0))  # on every machine and at any time the same


@contextmanager
def mounted(kind: str, device: str, *, readonly: bool = False, look: bool = False) -> Iterator[Path]:
    """The root of a private mount, for this process only (a path below ``/proc/self/fd``).

    ``readonly`` also for the file system itself; ``look``: only for this mount of a file system that others may write.
    Unmounted, all writes on disk, when the block ends. Raises ``StorageError``, ``NoSpaceError`` when writes were lost.
    """
    fd = _mount(kind, device, mount_options(kind, readonly=readonly), _ATTR_RDONLY if look or readonly else 0)
    try:
        root = os.open(f"/proc/self/fd/{fd}/.", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            yield Path(f"/proc/self/fd/{fd}")
            if not (readonly or look):
                _sync(root, device)
        finally:
            os.close(root)
    finally:
        os.close(fd)


@contextmanager
def looked_at(kind: str, device: str) -> Iterator[Path]:
    """A read-only look at a file system that others may have mounted, writable or not, and may write meanwhile."""
    try:
        look = mounted(kind, device, look=True)
        path = look.__enter__()
    except StorageError as exc:
        if exc.errno != errno.EBUSY:  # somebody has mounted it read-only
            raise
        look = mounted(kind, device, readonly=True)
        path = look.__enter__()
    try:
        yield path
    finally:
        look.__exit__(None, None, None)


def _mount(kind: str, device: str, options: Sequence[str], attributes: int) -> int:
    """The descriptor of a mount that is attached nowhere."""
    api = _backend.engine().mountapi
    try:
        context = api.open_fs(kind.encode())
        try:
            parameters = [(option.encode(), None) for option in options]
            api.set_parameters(context, [(b"source", os.fsencode(device)), *parameters])
            return int(api.create_mount(context, attributes))
        finally:
            os.close(context)
    except StorageError as exc:
        exc.filename = device
        raise


def _sync(fd: int, device: str) -> None:
    """syncfs(2), which also tells of writes that were lost since ``fd`` was opened."""
    if _libc.syncfs(fd) != 0:
        number = ctypes.get_errno()
        error = NoSpaceError if number in (errno.ENOSPC, errno.EDQUOT) else StorageError
        raise error(number, "write", device)


def grow(kind: str, device: str) -> None:
    """Makes the file system as large as its device, by the kernel, mounted."""
    with open(device, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(_XFS_IMAXPCT)
        imaxpct = file.read(1)[0]
    with mounted(kind, device) as root:
        fd = os.open(root / ROOTFS, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            blocks = size // os.fstatvfs(fd).f_frsize
            if kind == "ext4":
                fcntl.ioctl(fd, _EXT4_RESIZE, struct.pack("=Q", blocks))
            else:
                fcntl.ioctl(fd, _XFS_GROW, struct.pack("=QII", blocks, imaxpct, 0))
        except OSError as exc:
            raise StorageError(exc.errno or 0, f"cannot grow the {kind} file system", device) from exc
        finally:
            os.close(fd)


def recover(kind: str, device: str) -> None:
    """Replays the journal of a file system that nobody has mounted: from then on a read-only mount needs no writing.

    Raises ``DriverError`` when the kernel has noted errors in it: writes were lost.
    """
    with mounted(kind, device):
        pass
    if kind == "ext4":
        with open(device, "rb") as file:
            file.seek(_EXT4_STATE)
            if file.read(1)[0] & _EXT4_ERRORS:
                raise DriverError(f"{device}: its ext4 has errors, as writes were lost: remove the snapshot")
