"""Mounting mount values onto a directory, and taking them off again.

``mount`` and ``umount`` for callers that keep the books themselves, ``temporary`` for a block. The new mount API is
used where the kernel has it - a mount is made complete with all its attributes and only then appears - else mount(2).
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fastlayer import _backend
from fastlayer.errors import DriverError, InUseError, NotFoundError, OperandError, StorageError, UsageError, show_path
from fastlayer.mounts import overlay, table
from fastlayer.mounts.mount import Mount
from fastlayer.mounts.options import Plan, sort_out

_TARGET = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_MNT_DETACH, _UMOUNT_NOFOLLOW = 2, 8
_MS_REMOUNT, _MS_BIND, _MS_REC = 0x20, 0x1000, 0x4000
_BUSY_SECONDS = 1.0  # how long a temporary mount is given before it is detached

_lacking: set[str] = set()  # "fsopen": found missing by a call of this process


def mount(mounts: Sequence[Mount], target: Any) -> int:
    """Mounts one after the other onto the directory ``target`` and returns the number of the top mount.

    The number is unique where the kernel has such (``table.identity``), 0 where it tells none. ``target``: a path; it
    must be a directory and no symbolic link. When one fails, those before it are taken off again.

    Raises ``OperandError`` for the target, ``DriverError`` when the kernel cannot or may not do it - with a remedy -,
    ``StorageError`` for anything else it refuses, with the kernel's explanation where it has one.
    """
    if not mounts:
        raise UsageError("nothing to mount")
    path = os.path.abspath(os.fsencode(target))
    done = 0
    try:
        for value in mounts:
            fd = _open_target(path)
            try:
                _mount_one(value, fd, path)
            finally:
                os.close(fd)
            done += 1
    except BaseException:
        for _ in range(done):
            _backend.engine().mountapi.detach(path, _UMOUNT_NOFOLLOW | _MNT_DETACH)
        raise
    found = table.identity(path)
    return 0 if found is None else found.number


def umount(target: Any, *, detach: bool = False, numbers: Collection[int] | None = None, patience: float = 0.0) -> None:
    """Takes the top mount off ``target``. ``patience``: seconds to try again while it is in use.

    ``numbers``: mounts as ``mount`` returned them: all of these are taken off as long as one lies on top, nothing else
    is touched. ``detach``: also when it is in use; it goes away with its last user.
    Raises ``NotFoundError`` when nothing (of these) is mounted there, ``InUseError`` when it is in use.
    """
    path = os.path.abspath(os.fsencode(target))
    flags = _UMOUNT_NOFOLLOW | (_MNT_DETACH if detach else 0)
    if numbers is None:
        _detach_within(path, flags, patience)
        return
    count = 0
    while (top := table.identity(path)) is not None and top.is_root and top.number in numbers:
        _detach_within(path, flags, patience)
        count += 1
    if count == 0:
        raise NotFoundError(f"{show_path(path)}: what was mounted there is not there any more")


@contextmanager
def temporary(mounts: Sequence[Mount], *, directory: Any = None) -> Iterator[Path]:
    """Mounts onto a private directory for the block; unmounted and removed at its end, whatever happens.

    ``directory``: where that directory is made (default: the system's for temporary files).
    """
    import tempfile

    where = Path(os.fsdecode(tempfile.mkdtemp(prefix="fastlayer-mount-", dir=directory)))
    try:
        mount(mounts, where)
        try:
            yield where
        finally:
            for _ in mounts:
                _detach_soon(os.fsencode(where))
    finally:
        os.rmdir(where)


@contextmanager
def private(value: Mount) -> Iterator[Path]:
    """A mount that is attached nowhere: for this process only, under a path below ``/proc/self/fd``.

    It ends with the block, or with the process, however that ends. Where the kernel has no such mounts (before 5.2) it
    is a temporary one.
    """
    fd = detached(value)
    if fd is None:
        with temporary([value]) as path:
            yield path
        return
    try:
        yield Path(f"/proc/self/fd/{fd}") / value.subdirectory
    finally:
        os.close(fd)


@contextmanager
def as_directory(mounts: Sequence[Mount]) -> Iterator[Path]:
    """What a snapshot's only mount shows, to be looked at: a bind mount needs no mounting for that."""
    (value,) = mounts
    if value.type == "bind":
        yield Path(value.source)
        return
    with private(value) as path:
        yield path


def detached(value: Mount) -> int | None:
    """A descriptor of a mount that is attached nowhere (of a block file system: of the whole, not of ``subdirectory``).

    None where this kernel has no such. Raises as ``mount`` does.
    """
    plan = sort_out(value.options)
    try:
        if value.type == "bind":
            return _bound(os.fsencode(value.source), plan)
        if value.type == "overlay":
            return None if overlay.means() == "page" else overlay.make(value, plan)
        return _made(value.type.encode(), os.fsencode(value.source), plan)
    except StorageError as exc:
        if exc.errno == errno.ENOSYS:
            return None
        raise _explained(exc, value, os.fsencode(value.source)) from exc


def _detach_soon(path: bytes) -> None:
    """Someone who only looks (an indexer, a desktop) may keep it busy for a moment."""
    try:
        _detach_within(path, _UMOUNT_NOFOLLOW, _BUSY_SECONDS)
    except InUseError:
        _detach(path, _UMOUNT_NOFOLLOW | _MNT_DETACH)


def _detach_within(path: bytes, flags: int, seconds: float) -> None:
    end = time.monotonic() + seconds
    while True:
        try:
            _detach(path, flags)
            return
        except InUseError:
            if time.monotonic() >= end:
                raise
            time.sleep(0.005)


def _detach(path: bytes, flags: int) -> None:
    try:
        _backend.engine().mountapi.detach(path, flags)
    except StorageError as exc:
        name = show_path(path)
        if exc.errno in (errno.EINVAL, errno.ENOENT):
            raise NotFoundError(f"{name}: nothing is mounted there") from exc
        if exc.errno == errno.EBUSY:
            raise InUseError(f"{name}: is in use: end the programs that have it open, or detach it (`--lazy`)") from exc
        if exc.errno == errno.EPERM:
            raise DriverError(f"{name}: not permitted to unmount: run as root, or where it was mounted") from exc
        raise


# ---- one mount -----------------------------------------------------------------------------------


def _open_target(path: bytes) -> int:
    try:
        return os.open(path, _TARGET)
    except OSError as exc:
        if os.path.islink(path):
            raise OperandError(f"{show_path(path)}: is a symbolic link: give the directory itself") from exc
        raise OperandError(f"{show_path(path)}: {exc.strerror}: give a directory that exists") from exc
    except ValueError as exc:
        raise OperandError(f"{show_path(path)}: {exc}") from exc


def _mount_one(value: Mount, target: int, path: bytes) -> None:
    plan = sort_out(value.options)
    try:
        if value.type == "bind":
            _bind(value, plan, target)
        elif value.type == "overlay":
            _overlay(value, plan, target)
        elif value.subdirectory:
            _part_of_device(value, plan, target)
        else:
            _device(value, plan, target)
    except StorageError as exc:
        raise _explained(exc, value, path) from exc


def _explained(exc: StorageError, value: Mount, path: bytes) -> Exception:
    name = show_path(path)
    if exc.errno == errno.EPERM:
        instead = ", or use a writable layer with --no-mount" if value.type == "bind" else ""
        return DriverError(
            f"{name}: not permitted to mount {value.type}: run as root, or inside `fastlayer unshare`{instead}"
        )
    if exc.errno == errno.ENODEV and exc.op in ("fsopen", "mount"):
        return DriverError(f"{name}: this kernel has no {value.type}: load its module (modprobe {value.type})")
    if exc.filename is None:
        exc.filename = path
    return exc


def _overlay(value: Mount, plan: Plan, target: int) -> None:
    if not value.lowers:
        raise UsageError("an overlay needs at least one lower directory")
    if overlay.means() == "page":
        overlay.mount_by_page(value, plan, target)
    else:
        _attach(overlay.make(value, plan), target)


def _attach(fd: int, target: int) -> None:
    try:
        _backend.engine().mountapi.attach(fd, target)
    finally:
        os.close(fd)


# ---- bind mounts ---------------------------------------------------------------------------------


def _bind(value: Mount, plan: Plan, target: int) -> None:
    if plan.parameters:
        raise UsageError(f"a bind mount has no option {os.fsdecode(plan.parameters[0][0])}")
    source = os.fsencode(value.source)
    if "fsopen" not in _lacking:
        try:
            _attach(_bound(source, plan), target)
            return
        except StorageError as exc:
            if exc.errno != errno.ENOSYS:
                raise
            _lacking.add("fsopen")
    _bind_old(source, plan, target)


def _bound(source: bytes, plan: Plan) -> int:
    """A detached copy with its attributes: at no time is it seen without them."""
    api = _backend.engine().mountapi
    fd = int(api.clone_mount(source, recursive=plan.recursive))
    try:
        if plan.attributes or plan.clear:
            api.change_mount(fd, set=plan.attributes, clear=plan.clear, recursive=plan.recursive)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _bind_old(source: bytes, plan: Plan, target: int) -> None:
    """mount(2) takes two steps, and one more for each mount below."""
    api = _backend.engine().mountapi
    here = b"/proc/self/fd/%d" % target
    path = os.path.realpath(here)
    api.mount_old(source, here, b"", _MS_BIND | (_MS_REC if plan.recursive else 0), b"")
    if not plan.flags:
        return
    try:
        below = [entry.target for entry in table.entries() if entry.target.startswith(path + b"/")]
        for name in (path, *(below if plan.recursive else ())):
            api.mount_old(b"none", name, b"", _MS_BIND | _MS_REMOUNT | plan.flags | _kept(name), b"")
    except BaseException:
        api.detach(path, _MNT_DETACH | _UMOUNT_NOFOLLOW)
        raise


def _kept(path: bytes) -> int:
    """The flags a mount has: a remount would drop them, which a user namespace may not."""
    return os.statvfs(path).f_flag & 0xF


# ---- block devices -------------------------------------------------------------------------------


def _device(value: Mount, plan: Plan, target: int) -> None:
    source, fs_type = os.fsencode(value.source), value.type.encode()
    if "fsopen" not in _lacking:
        try:
            _attach(_made(fs_type, source, plan), target)
            return
        except StorageError as exc:
            if exc.errno != errno.ENOSYS:
                raise
            _lacking.add("fsopen")
    data = b",".join(key if text is None else key + b"=" + text for key, text in plan.parameters)
    _backend.engine().mountapi.mount_old(source, b"/proc/self/fd/%d" % target, fs_type, plan.flags, data)


def _part_of_device(value: Mount, plan: Plan, target: int) -> None:
    """Mounted where nobody looks, and from there only the directory bound onto the target."""
    import tempfile

    place = os.fsencode(tempfile.mkdtemp(prefix="fastlayer-mount-"))
    try:
        fd = _open_target(place)
        try:
            _device(value, plan, fd)
        finally:
            os.close(fd)
        try:
            inner = os.path.join(os.fsdecode(place), value.subdirectory)
            _bind(Mount("bind", inner), plan._replace(parameters=(), recursive=False), target)
        finally:
            _backend.engine().mountapi.detach(place, _UMOUNT_NOFOLLOW | _MNT_DETACH)
    finally:
        os.rmdir(place)


def _made(fs_type: bytes, source: bytes, plan: Plan) -> int:
    api = _backend.engine().mountapi
    context = api.open_fs(fs_type)
    try:
        readonly: list[tuple[bytes, bytes | None]] = [(b"ro", None)] if plan.attributes & 1 else []
        api.set_parameters(context, [(b"source", source), *readonly, *plan.parameters])
        return int(api.create_mount(context, plan.attributes))
    finally:
        os.close(context)
