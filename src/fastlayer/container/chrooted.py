"""A container by chroot(2) alone, where neither namespaces nor mounts can be made: a pod without rights.

It has the host's processes, network and names, and its root is the directory of its layer (drivers vfs, btrfs). What
others show by mounts is written into the layer: /etc/hosts, /etc/resolv.conf, /etc/hostname and the usual devices;
volumes, and whatever else would be mounted, are refused. No pid namespace ends what it has started: its keeper and its
monitor look for that, and should both be killed, the next command, by the root that those processes have.
"""

from __future__ import annotations

import os
import signal
import stat
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from fastlayer.container import state
from fastlayer.errors import RunError

if TYPE_CHECKING:
    from fastlayer.running.spec import Spec
    from fastlayer.running.steps import Plan
    from fastlayer.running.watched import Begun, Streams, Watch

_NOTE = "chroot"  # JSON in a container's directory: the root of its processes
_PATIENCE = 5.0  # seconds


def begin(spec: Spec, directory: Path, watch: Watch, streams: Streams) -> Begun:
    """Starts it; returns when its program has been executed. Raises ``RunError``."""
    from fastlayer.running import chroot, idmaps, watched

    _refuse(spec)
    root = chroot.directory_of(spec)
    idmaps.check_mapped(idmaps.current(), spec.user.uid, spec.user.gid)
    _furnish(root, spec)
    state.write_json(directory / _NOTE, os.path.realpath(root))
    plan, program = chroot.prepared(spec, root, streams.given)
    master = terminal_of_host(plan) if spec.terminal >= 0 else -1
    try:
        return watched.start(plan, program, watch, streams, master=master)
    finally:
        plan.close()
        if master >= 0:
            os.close(master)


def terminal_of_host(plan: Plan) -> int:
    """Its root has no /dev/pts: the program's terminal is one of the host's. The master."""
    master, slave = os.openpty()
    plan.terminal = plan.slot(slave)
    return master


def _refuse(spec: Spec) -> None:
    """Raises ``RunError`` for what only mounts and namespaces can do."""
    wanted = {
        "--network none": spec.network == "none",
        "volumes and other mounts": bool(spec.mounts),
        "--device": bool(spec.devices),
        "--read-only": spec.readonly,
        "--sysctl and --domainname": bool(spec.sysctls or spec.domainname),
    }
    for what, asked in wanted.items():
        if asked:
            raise RunError(f"{what}: chroot makes neither namespaces nor mounts", remedy="use native or oci")


# ---- what takes the place of mounts ----------------------------------------------------------------


def _furnish(root: str, spec: Spec) -> None:
    from fastlayer.running import chroot, native

    top = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for path, text in native.shown_files(spec):
            _write(top, path, text)
        for name, numbers in chroot.DEVICES.items():
            _make_device(top, f"/dev/{name}", numbers)
        for path in ("/proc", "/sys", "/dev/shm"):
            where, name = _walk(top, path)
            with suppress(FileExistsError):
                os.mkdir(name, 0o1777 if name == "shm" else 0o555, dir_fd=where)
            os.close(where)
    except OSError as exc:
        raise RunError(f"cannot write what the container is given into {root}: {exc.strerror}") from exc
    finally:
        os.close(top)


def _walk(top: int, path: str) -> tuple[int, str]:
    """Where the path leads inside the root; directories that are missing are made."""
    from fastlayer.running import inroot

    return inroot.walk(top, path, lambda where, name: os.mkdir(name, 0o755, dir_fd=where))


def _write(top: int, path: str, text: str) -> None:
    """In place of what was there, at once."""
    where, name = _walk(top, path)
    fresh = f".{name}.new"
    try:
        with suppress(FileNotFoundError):
            os.unlink(fresh, dir_fd=where)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with open(os.open(fresh, flags, 0o644, dir_fd=where), "w") as file:
            file.write(text)
        os.rename(fresh, name, src_dir_fd=where, dst_dir_fd=where)
    finally:
        os.close(where)


def _make_device(top: int, path: str, numbers: tuple[int, int]) -> None:
    """One that is there stays. Where devices cannot be made /dev/null is a file."""
    where, name = _walk(top, path)
    try:
        os.mknod(name, stat.S_IFCHR | 0o666, os.makedev(*numbers), dir_fd=where)
        os.chmod(name, 0o666, dir_fd=where)
    except FileExistsError:
        pass
    except PermissionError:
        if name == "null":
            os.close(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o666, dir_fd=where))
    finally:
        os.close(where)


# ---- its processes ---------------------------------------------------------------------------------


def root_of(directory: Path) -> str | None:
    """The root of its processes, when it was started by chroot."""
    found = state.read_json(directory / _NOTE)
    return found if isinstance(found, str) else None


def end_strays(directory: Path) -> None:
    """Kills what is left of a container that has ended: programs of ``exec``, or all when its keepers were killed."""
    root = root_of(directory)
    if root is None:
        return
    end = time.monotonic() + _PATIENCE
    while (found := _inside(root)) and time.monotonic() < end:
        for pid in found:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.005)
    with suppress(FileNotFoundError):
        os.unlink(directory / _NOTE)


def _inside(root: str) -> list[int]:
    """All that have the directory as their root."""
    try:
        wanted = os.stat(root)
    except OSError:
        return []
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        with suppress(OSError):
            if os.path.samestat(os.stat(f"/proc/{name}/root"), wanted):
                found.append(int(name))
    return found
