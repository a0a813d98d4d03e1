"""Loop devices by their ioctls (loop(4)): attached so that the kernel detaches them when the last user is gone."""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from pathlib import Path

from fastlayer.errors import DriverError, StorageError

_SET_CAPACITY = 0x4C07
_CONFIGURE = 0x4C0A  # Linux 5.8
_GET_FREE = 0x4C82
_AUTOCLEAR = 4
_DIRECT_IO = 16
_TRIES = 64
_BLKGETSIZE64 = 0x80081272
_BLKDISCARD = 0x1277


def attach(file: Path) -> int:
    """A descriptor of a loop device over ``file``. The device goes when this and all its other users are closed.

    Raises ``DriverError`` when the kernel has no loop devices, ``StorageError`` when it refuses.
    """
    backing = os.open(file, os.O_RDWR | os.O_CLOEXEC)
    try:
        for _ in range(_TRIES):
            device = _open_free()
            try:
                fcntl.ioctl(device, _CONFIGURE, _config(backing))
            except OSError as exc:
                os.close(device)
                if exc.errno == errno.EBUSY:  # another process took it in between
                    continue
                raise StorageError(exc.errno or 0, "cannot attach a loop device", os.fspath(file)) from exc
            return device
    finally:
        os.close(backing)
    raise StorageError(errno.EBUSY, "cannot attach a loop device", os.fspath(file))


def _config(backing: int) -> bytes:
    """``struct loop_config``: descriptor, block size, ``struct loop_info64`` (its lo_flags are at 52), reserved."""
    info = bytearray(232)
    struct.pack_into("=I", info, 52, _AUTOCLEAR | _DIRECT_IO)
    return struct.pack("=II", backing, 0) + bytes(info) + bytes(64)


def _open_free() -> int:
    try:
        control = os.open("/dev/loop-control", os.O_RDWR | os.O_CLOEXEC)
    except OSError as exc:
        raise DriverError(
            f"/dev/loop-control: {os.strerror(exc.errno or 0)}: `modprobe loop`, or give block devices in "
            "FASTLAYER_DM_DATA and FASTLAYER_DM_METADATA"
        ) from exc
    try:
        number = fcntl.ioctl(control, _GET_FREE)
    finally:
        os.close(control)
    path = f"/dev/loop{number}"
    try:
        return os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:  # a /dev without devtmpfs or udev
        os.mknod(path, 0o600 | 0o060000, os.makedev(7, number))
        return os.open(path, os.O_RDWR | os.O_CLOEXEC)


def refresh_size(device: int) -> None:
    """The file behind an attached device has grown."""
    fcntl.ioctl(device, _SET_CAPACITY, 0)


def backing_file(device: int) -> str | None:
    """The path of the file behind a loop device given by its number; None when it is none."""
    path = f"/sys/dev/block/{os.major(device)}:{os.minor(device)}/loop/backing_file"
    try:
        with open(path) as file:
            return file.read().rstrip("\n")
    except OSError:
        return None


def device_size(fd: int) -> int:
    """Bytes of an open block device."""
    found = fcntl.ioctl(fd, _BLKGETSIZE64, bytes(8))
    return int.from_bytes(found, "little" if struct.pack("=H", 1)[0] else "big")


def discard(fd: int, size: int) -> None:
    """Gives back the first ``size`` bytes of an open block device."""
    fcntl.ioctl(fd, _BLKDISCARD, struct.pack("=QQ", 0, size))
