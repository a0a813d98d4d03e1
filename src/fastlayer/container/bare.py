"""The root of a running container without what is mounted in it."""

from __future__ import annotations

import ctypes
import os
import socket
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from fastlayer import _backend
from fastlayer.errors import InUseError

_libc = ctypes.CDLL(None, use_errno=True)


def bare_root(root: Path) -> int:
    """A descriptor of a copy of the mount at ``/proc/PID/root``, which is the caller's.

    Mounts are copied in their own namespace only, so a process is sent there; in our own namespace (chroot) the program
    has no mounts. Raises ``InUseError``.
    """
    if _is_here(root.parent, "mnt"):
        return os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    clone = _backend.engine().mountapi.clone_mount
    ours, theirs = socket.socketpair()
    with ours, theirs:
        agent = os.fork()
        if agent == 0:
            _send(root.parent, theirs, clone)
        theirs.close()
        try:
            data, fds, _, _ = socket.recv_fds(ours, 16, 1)
        finally:
            os.waitpid(agent, 0)
    if not fds:
        why = os.strerror(int(data or b"3"))
        raise InUseError(f"{root}: the mount of a running container cannot be copied ({why}): stop it first")
    os.set_inheritable(fds[0], False)
    return fds[0]


def _is_here(process: Path, space: str) -> bool:
    try:
        return os.path.samestat(os.stat(process / "ns" / space), os.stat(f"/proc/self/ns/{space}"))
    except OSError as exc:
        raise InUseError(f"{process}: the program of the container has just ended: try again") from exc


def _send(process: Path, channel: socket.socket, clone: Callable[..., int]) -> NoReturn:
    """``recv_fds`` gets it, or the number of the error. Nothing may be imported in there: it would be the container's
    (CVE-2019-14271)."""
    try:
        sys.meta_path.clear()
        sys.path.clear()
        for space in ("user", "mnt"):
            if not _is_here(process, space):
                fd = os.open(process / "ns" / space, os.O_RDONLY | os.O_CLOEXEC)
                if _libc.setns(fd, 0) < 0:
                    channel.send(str(ctypes.get_errno()).encode())
                    os._exit(1)
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack("i", clone(b"/", recursive=False)))
        channel.sendmsg([b"0"], [rights])
    except OSError as exc:
        channel.send(str(exc.errno).encode())
    finally:
        os._exit(0)
