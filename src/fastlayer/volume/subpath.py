"""A path inside a volume, where what is in the volume may be exchanged at any time by whoever writes to it.

The kernel resolves it with the volume as its root (openat2(2), RESOLVE_IN_ROOT): links and ``..`` never lead out, and
what was found is a descriptor, which nothing that happens later leads elsewhere (CVE-2021-25741). A bind mount of that
descriptor gives it a name again, outside of the volume.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from fastlayer.errors import DriverError, NotFoundError, StorageError, UsageError, show_path

if TYPE_CHECKING:
    from fastlayer.store.store import Store

_OPENAT2 = 437  # system call of Linux 5.6, the same on every architecture
_NO_MAGICLINKS, _IN_ROOT = 0x02, 0x10
_PATH = os.O_PATH | os.O_CLOEXEC
_TRIES = 64  # EAGAIN: something was renamed meanwhile


def check_subpath(text: str) -> str:
    """A path that is meant to stay inside. As Docker, raises ``UsageError`` for an absolute one, and for ``..``."""
    if not text or not is_path(text) or os.path.isabs(text) or ".." in text.split("/"):
        raise UsageError(f"subpath {show_path(text) or repr(text)}: give a relative path without `..`")
    return text


def is_path(text: str) -> bool:
    """Whether the kernel can be told it."""
    try:
        return b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:
        return False


def open_inside(root: int, path: str) -> int:
    """A descriptor (O_PATH) of what ``path`` is in the directory ``root``; the caller closes it.

    Absolute links are taken from ``root``. Raises ``OSError``.
    """
    for _ in range(_TRIES):
        try:
            return _openat2(root, os.fsencode(path))
        except OSError as exc:
            if exc.errno == errno.ENOSYS:
                return _walk(root, path)
            if exc.errno != errno.EAGAIN:
                raise
    raise OSError(errno.EAGAIN, "it is renamed without pause")


def _openat2(root: int, path: bytes) -> int:
    import ctypes

    how = (ctypes.c_uint64 * 3)(_PATH, 0, _IN_ROOT | _NO_MAGICLINKS)
    libc = ctypes.CDLL(None, use_errno=True)
    number = ctypes.c_long(_OPENAT2)
    fd = libc.syscall(number, ctypes.c_int(root), ctypes.c_char_p(path), how, ctypes.c_size_t(ctypes.sizeof(how)))
    if fd < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return int(fd)


def _walk(root: int, path: str) -> int:
    """The same a component at a time, for kernels without it."""
    from fastlayer.running.inroot import walk

    if not [part for part in path.split("/") if part not in ("", ".")]:
        return os.open(".", _PATH | os.O_DIRECTORY, dir_fd=root)

    def missing(_directory: int, _name: str) -> None:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))

    directory, name = walk(root, path, missing)
    try:
        fd = os.open(name, _PATH | os.O_NOFOLLOW, dir_fd=directory)
    finally:
        os.close(directory)
    if stat.S_ISLNK(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.ELOOP, "it was exchanged for a link")
    return fd


# ---- as a name of its own ------------------------------------------------------------------------------


def bind(store: Store, volume: str, user: str, directory: Path, *, subpath: str, read_only: bool) -> Path:
    """A bind mount for the user of the whole volume (``subpath`` is empty) or of a part; if it is there, the same one.

    Raises ``NotFoundError`` for a part that is not there, ``UsageError`` for what is neither directory nor file,
    ``DriverError`` without the right to mount.
    """
    from fastlayer.mounts import table

    root = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fd = _open_part(root, volume, subpath)
    finally:
        os.close(root)
    try:
        kind = stat.S_IFMT(os.fstat(fd).st_mode)
        if kind not in (stat.S_IFDIR, stat.S_IFREG):
            raise UsageError(f"volume {volume}: subpath {show_path(subpath)}: is neither a directory nor a file")
        name = hashlib.sha256(f"{subpath}\0{read_only}".encode("utf-8", "surrogateescape")).hexdigest()[:24]
        target = _place(store, user) / volume / name
        if _made(target, kind) or table.find(target) is None:
            _mount(fd, target, volume, read_only)
        return target
    finally:
        os.close(fd)


def _open_part(root: int, volume: str, subpath: str) -> int:
    try:
        return open_inside(root, subpath or ".")
    except OSError as exc:
        if exc.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            raise NotFoundError(
                f"volume {volume}: subpath {show_path(subpath)}: {os.strerror(exc.errno)}: make it in the volume first"
            ) from exc
        raise StorageError(exc.errno or 0, "cannot open the subpath", subpath) from exc


def unbind(store: Store, volume: str, user: str) -> None:
    """The user's bind mounts of the volume go."""
    place = _place(store, user)
    for target in _names(place / volume):
        _unmount(target)
    for directory in (place / volume, place):
        try:
            os.rmdir(directory)
        except OSError:
            pass  # other volumes of the user, or nothing at all


def sweep(store: Store, living: set[tuple[str, str]]) -> None:
    """Bind mounts of (user, volume) pairs that are not there any more go: their makers were killed."""
    kept = {(_place(store, user).name, volume) for user, volume in living}
    for place in _names(store.root / "volumes" / ".binds"):
        for volume in _names(place):
            if (place.name, volume.name) not in kept:
                for target in _names(volume):
                    _unmount(target)
                os.rmdir(volume)
        try:
            os.rmdir(place)
        except OSError:
            pass  # something living is in it


def _names(directory: Path) -> list[Path]:
    try:
        return sorted(directory.iterdir())
    except FileNotFoundError:
        return []


def _place(store: Store, user: str) -> Path:
    return store.root / "volumes" / ".binds" / hashlib.sha256(user.encode("utf-8", "surrogateescape")).hexdigest()[:32]


def _made(target: Path, kind: int) -> bool:
    """Something of that kind to mount onto; whether it had to be made."""
    target.parent.mkdir(mode=0o711, parents=True, exist_ok=True)
    try:
        found = os.lstat(target)
        if stat.S_IFMT(found.st_mode) == kind:
            return False
        _unmount(target)  # the part was of another kind before
    except FileNotFoundError:
        pass
    if kind == stat.S_IFDIR:
        target.mkdir(mode=0o700)
    else:
        target.touch(mode=0o600)
    return True


def _mount(fd: int, target: Path, volume: str, read_only: bool) -> None:
    from fastlayer import _backend
    from fastlayer.mounts.mount import Mount
    from fastlayer.mounts.mounting import detached

    value = Mount("bind", f"/proc/self/fd/{fd}", ("rbind", "ro") if read_only else ("rbind",))
    try:
        mount = detached(value)
        if mount is None:
            raise DriverError(f"volume {volume}: this kernel cannot mount a part of it safely: use Linux 5.2 or newer")
        place = os.open(target, _PATH | os.O_NOFOLLOW)
        try:
            _backend.engine().mountapi.attach(mount, place)
        finally:
            os.close(place)
            os.close(mount)
    except BaseException:
        _unmount(target)
        raise


def _unmount(target: Path) -> None:
    """Detached: whoever has it open keeps what it has."""
    from fastlayer.errors import OperandError
    from fastlayer.mounts import table
    from fastlayer.mounts.mounting import umount

    try:
        while table.find(target) is not None:
            umount(target, detach=True)
        if target.is_dir():
            target.rmdir()
        else:
            target.unlink()
    except (OperandError, FileNotFoundError):
        pass  # another process was faster
