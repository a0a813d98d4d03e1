"""The steps of mounting, by ctypes (csrc/fl_mount.h)."""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import threading
from collections.abc import Iterable

from fastlayer.errors import StorageError, UsageError

# system call numbers, the same on every architecture
_OPEN_TREE, _MOVE_MOUNT, _FSOPEN, _FSCONFIG, _FSMOUNT, _MOUNT_SETATTR = 428, 429, 430, 431, 432, 442

_SET_FLAG, _SET_STRING, _SET_FD, _CREATE = 0, 1, 5, 6
_CLOEXEC = 1  # FSOPEN_CLOEXEC, FSMOUNT_CLOEXEC
_OPEN_TREE_CLONE = 1
_BOTH_EMPTY = 0x44  # MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH
_IDMAP = 0x100000
_AT_FDCWD, _AT_EMPTY_PATH, _AT_RECURSIVE = -100, 0x1000, 0x8000
_STATX_MNT_ID, _STATX_MNT_ID_UNIQUE, _STATX_ATTR_MOUNT_ROOT = 0x1000, 0x4000, 0x2000
_CLONE_FS, _CLONE_NEWUSER = 0x200, 0x10000000

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


def _syscall(op: str, path: bytes, number: int, *arguments: int | bytes | ctypes.Array[ctypes.c_char] | None) -> int:
    full = [ctypes.c_long(value) if isinstance(value, int) else value for value in arguments]
    result = int(_libc.syscall(ctypes.c_long(number), *full))
    if result < 0:
        raise StorageError(ctypes.get_errno(), op, path or None)
    return result


def _text(value: bytes) -> bytes:
    if b"\0" in value:
        raise UsageError("a path or option of a mount cannot contain a NUL byte")
    return value


def _explained(context: int, error: StorageError) -> StorageError:
    """With what the file system wrote into the log of its context."""
    found = []
    try:
        while line := os.read(context, 511):
            if line.startswith(b"e "):
                found.append(line[2:].split(b"\n")[0].decode("utf-8", "replace"))
    except OSError:
        pass
    error.detail = "; ".join(found)[:159]
    return error


def open_fs(fs_type: bytes) -> int:
    return _syscall("fsopen", fs_type, _FSOPEN, _text(fs_type), _CLOEXEC)


def set_parameters(context: int, parameters: Iterable[tuple[bytes, bytes | int | None]]) -> None:
    for key, value in parameters:
        command = _SET_STRING if isinstance(value, bytes) else _SET_FLAG if value is None else _SET_FD
        text = _text(value) if isinstance(value, bytes) else None
        fd = value if isinstance(value, int) else 0
        try:
            _syscall(key.decode(), text or b"", _FSCONFIG, context, command, _text(key), text, fd)
        except StorageError as exc:
            raise _explained(context, exc) from None


def create_mount(context: int, attributes: int) -> int:
    try:
        _syscall("mount", b"", _FSCONFIG, context, _CREATE, None, None, 0)
        return _syscall("fsmount", b"", _FSMOUNT, context, _CLOEXEC, attributes)
    except StorageError as exc:
        raise _explained(context, exc) from None


def clone_mount(path: bytes, *, recursive: bool) -> int:
    flags = _OPEN_TREE_CLONE | os.O_CLOEXEC | (_AT_RECURSIVE if recursive else 0)
    return _syscall("open_tree", path, _OPEN_TREE, _AT_FDCWD, _text(path), flags)


def change_mount(mount: int, *, set: int, clear: int = 0, userns: int = -1, recursive: bool = False) -> None:
    attributes = struct.pack("=4Q", set | (_IDMAP if userns >= 0 else 0), clear, 0, max(userns, 0))
    flags = _AT_EMPTY_PATH | (_AT_RECURSIVE if recursive else 0)
    _syscall("mount_setattr", b"", _MOUNT_SETATTR, mount, b"", flags, attributes, len(attributes))


def attach(mount: int, target: int) -> None:
    _syscall("move_mount", b"", _MOVE_MOUNT, mount, b"", target, b"", _BOTH_EMPTY)


def detach(path: bytes, flags: int) -> None:
    if _libc.umount2(_text(path), flags) < 0:
        raise StorageError(ctypes.get_errno(), "umount", path)


def mount_old(source: bytes, target: bytes, fs_type: bytes, flags: int, data: bytes, *, cwd: int = -1) -> None:
    failed = []
    for value in (source, target, fs_type, data):
        _text(value)

    def call() -> None:
        moved = cwd < 0 or (_libc.unshare(_CLONE_FS) == 0 and _libc.fchdir(cwd) == 0)
        if not moved or _libc.mount(source, target, fs_type, ctypes.c_ulong(flags), data) < 0:
            failed.append(ctypes.get_errno())

    if cwd < 0:
        call()
    else:  # a thread with a working directory of its own
        thread = threading.Thread(target=call)
        thread.start()
        thread.join()
    if failed:
        raise StorageError(failed[0], "mount", source)


def mount_id(fd: int, *, plain: bool = False) -> tuple[int, bool, bool]:
    result = ctypes.create_string_buffer(256)
    mask = _STATX_MNT_ID | (0 if plain else _STATX_MNT_ID_UNIQUE)
    if not hasattr(_libc, "statx"):
        raise StorageError(errno.ENOSYS, "statx")
    if _libc.statx(fd, b"", _AT_EMPTY_PATH, mask, result) < 0:
        raise StorageError(ctypes.get_errno(), "statx")
    (mask,) = struct.unpack_from("=I", result, 0)
    (attributes,) = struct.unpack_from("=Q", result, 8)
    (number,) = struct.unpack_from("=Q", result, 144)
    if not mask & (_STATX_MNT_ID | _STATX_MNT_ID_UNIQUE):
        raise StorageError(errno.ENOSYS, "statx")
    return number, bool(mask & _STATX_MNT_ID_UNIQUE), bool(attributes & _STATX_ATTR_MOUNT_ROOT)


def user_namespace(uid_map: bytes, gid_map: bytes) -> int:
    report_r, report_w = os.pipe()
    wait_r, wait_w = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(wait_w)
        failed = ctypes.get_errno() if _libc.unshare(_CLONE_NEWUSER) < 0 else 0
        os.write(report_w, bytes([failed]))
        os.read(wait_r, 1)
        os._exit(0)
    os.close(report_w)
    os.close(wait_r)
    try:
        if how := (os.read(report_r, 1) or bytes([errno.ECHILD]))[0]:
            raise StorageError(how, "unshare")
        return _mapped(pid, _text(uid_map), _text(gid_map))
    finally:
        os.close(report_r)
        os.close(wait_w)
        os.waitpid(pid, 0)


def _mapped(pid: int, uid_map: bytes, gid_map: bytes) -> int:
    try:
        for which, text in (("uid_map", uid_map), ("gid_map", gid_map)):
            with open(f"/proc/{pid}/{which}", "wb", buffering=0) as file:
                file.write(text)
        return os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    except OSError as exc:
        raise StorageError(exc.errno or 0, "id map") from exc
