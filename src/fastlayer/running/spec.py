"""What is to be run, as values: nothing happens by making one."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from typing import Literal

from fastlayer._values import NamedTuple
from fastlayer.errors import RunError, UsageError
from fastlayer.mounts.mount import Mount
from fastlayer.running import capabilities
from fastlayer.running.limits import Limit
from fastlayer.running.seccomp.profile import Profile

Network = Literal["default", "none", "host"]
Security = Literal["sandbox", "insecure"]

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_MAX_ID = (1 << 32) - 2


class Bind(NamedTuple):
    """A file or directory of the host, and what is mounted below it, shown at ``target`` (absolute) of the root.

    ``fd``: a mount that is made already and attached nowhere is shown instead, and stays the caller's; ``is_file``: it
    is none of a directory; of it only ``subdirectory`` when that is given. ``recursive``: what is mounted below is
    shown, too; ``readonly_below``: ``readonly`` means that as well. ``propagation``: of mounts that appear later:
    ``private``, ``slave`` (the host's appear in the container) or ``shared`` (and the other way round).
    """

    source: str
    target: str
    readonly: bool = True
    fd: int = -1
    subdirectory: str = ""
    is_file: bool = False
    recursive: bool = True
    readonly_below: bool = True
    propagation: Literal["private", "slave", "shared"] = "private"


class Tmpfs(NamedTuple):
    """An empty directory in memory at ``target``. ``size``: bytes, or None for the kernel's default.

    ``words``: more options of mount(8), among them those that undo ``nosuid``, ``nodev`` and ``noexec``.
    """

    target: str
    size: int | None = None
    mode: int = 0o1777
    words: tuple[str, ...] = ()


class Device(NamedTuple):
    """A device of the host, with the mode and owner that it has there, shown at ``target``, which is below /dev."""

    source: str
    target: str


class Resolver(NamedTuple):
    """Lines of resolv.conf(5); what is empty is the host's. A search of ``.`` is none."""

    servers: tuple[str, ...] = ()
    search: tuple[str, ...] = ()
    options: tuple[str, ...] = ()


class Ids(NamedTuple):
    """Who runs it. ``groups``: the supplementary ones."""

    uid: int = 0
    gid: int = 0
    groups: tuple[int, ...] = ()


class Spec(NamedTuple):
    """One program in one root file system.

    ``root``: as a snapshot gives it (``Snapshotter.ready``), or ``directory(path)``.
    ``env``: ``NAME=value``; what is missing of ``PATH`` and ``HOME`` is added (``complete_env``).
    ``network``: ``none`` has a loopback interface alone. ``default`` and ``host`` are the host's network as it is:
    there is no bridge here to put a step on.
    ``security``: ``insecure`` keeps all capabilities the caller has, there is no seccomp filter, nothing is masked, and
    devices that are in the root or made there can be opened. ``capabilities``: what a sandbox leaves, as bits.
    ``seccomp``: None: Docker's default profile; ``unconfined``: no filter.
    ``no_new_privileges``: programs that are setuid, or have capabilities of their own, gain nothing by it.
    ``limits``: of setrlimit(2); the others are the caller's.
    ``stdin``: a descriptor, or None for /dev/null.
    ``root_fds``: of the mounts of the root that are made already and attached nowhere; they stay the caller's.
    ``readonly``: the root cannot be written, only what is mounted in it.
    ``files``: (path, text) that are shown besides ``/etc/hosts`` and ``/etc/resolv.conf``.
    ``cgroups``: open ``cgroup.procs`` of those the program is in.
    ``lasting``: mount points of ``mounts`` that the root lacks are made to stay, as Docker's do; else they go again.
    ``without``: files of /etc that are not shown, as the root has no place for them.
    ``shared``: namespaces it has in common with the caller, of ``pid``, ``ipc``, ``uts``, ``cgroup``.
    ``sysctls``: names and values; ``domainname``: NIS domain, empty: none; ``oom_score_adj``: None: the caller's.
    ``resolver``: what /etc/resolv.conf says, instead of what the host's does.
    ``terminal``: its standard streams are a new terminal, whose master is sent through this socket; -1: what the
    caller gives. ``size``: its rows and columns, 0 when they are not known yet.
    """

    root: Sequence[Mount]
    args: Sequence[str]
    env: Sequence[str] = ()
    cwd: str = "/"
    user: Ids = Ids()
    mounts: Sequence[Bind | Tmpfs] = ()
    hostname: str = "fastlayer"
    hosts: Sequence[tuple[str, str]] = ()
    network: Network = "default"
    security: Security = "sandbox"
    capabilities: int = capabilities.DEFAULT
    seccomp: Profile | Literal["unconfined"] | None = None
    no_new_privileges: bool = False
    limits: Sequence[Limit] = ()
    devices: Sequence[Device] = ()
    stdin: int | None = None
    shm_size: int = 64 << 20
    root_fds: Sequence[int] = ()
    readonly: bool = False
    files: Sequence[tuple[str, str]] = ()
    cgroups: Sequence[int] = ()
    lasting: bool = False
    without: Sequence[str] = ()
    shared: frozenset[str] = frozenset()
    sysctls: Sequence[tuple[str, str]] = ()
    domainname: str = ""
    oom_score_adj: int | None = None
    resolver: Resolver = Resolver()
    terminal: int = -1
    size: tuple[int, int] = (0, 0)


def directory(path: str) -> tuple[Mount, ...]:
    """A plain directory as a root."""
    return (Mount("bind", os.path.abspath(path), ("rbind", "rw")),)


def check(spec: Spec) -> None:
    """Raises ``UsageError`` for what cannot be run at all, ``RunError`` for a source that is not there."""
    if not spec.root:
        raise UsageError("a program needs a root file system")
    if not spec.args or not spec.args[0]:
        raise UsageError("there is no program to run")
    for text in (*spec.args, *spec.env, spec.cwd, spec.hostname, *(mount.target for mount in spec.mounts)):
        if "\0" in text:
            raise UsageError(f"{text!r}: a program, its variables and its mounts cannot contain a NUL byte")
    if not spec.cwd.startswith("/"):
        raise UsageError(f"{spec.cwd}: the working directory of a program must be absolute")
    if not 0 < len(os.fsencode(spec.hostname)) <= 64:
        raise UsageError(f"{spec.hostname!r}: the name of a host has 1 to 64 bytes")
    if any(not 0 <= number <= _MAX_ID for number in (spec.user.uid, spec.user.gid, *spec.user.groups)):
        raise UsageError(f"{spec.user.uid}:{spec.user.gid}: ids are between 0 and {_MAX_ID}")
    for mount in spec.mounts:
        _check_target(mount.target)
        if isinstance(mount, Bind) and mount.fd < 0 and not os.path.exists(mount.source):
            raise RunError(f"{mount.source}: is not there: it cannot be shown at {mount.target}")
    for device in spec.devices:
        _check_device(device)
    targets = [place.target for place in (*spec.mounts, *spec.devices)]
    if len(set(targets)) != len(targets):
        raise UsageError("two mounts or devices of a step have the same target")


def _check_target(target: str) -> None:
    parts = [part for part in target.split("/") if part not in ("", ".")]
    if not target.startswith("/") or not parts or ".." in parts:
        raise UsageError(f"{target}: a mount needs an absolute path below the root of the file system")
    if parts[0] in ("proc", "sys") or parts == ["dev"]:
        raise UsageError(f"{target}: nothing can be mounted there: the step has a {'/' + parts[0]} of its own")


def _check_device(device: Device) -> None:
    _check_target(device.target)
    if not device.target.startswith("/dev/"):
        raise UsageError(f"{device.target}: a device is shown below /dev")
    try:
        kind = os.stat(device.source).st_mode
    except OSError as exc:
        raise RunError(f"{device.source}: no such device: {exc.strerror}") from exc
    if not (stat.S_ISCHR(kind) or stat.S_ISBLK(kind)):
        raise RunError(f"{device.source}: is not a device")


def complete_env(spec: Spec) -> list[str]:
    """The variables, and PATH and HOME when they are not given: the same whatever runs it."""
    names = {entry.partition("=")[0] for entry in spec.env}
    result = list(spec.env)
    if "PATH" not in names:
        result.append(f"PATH={DEFAULT_PATH}")
    if "HOME" not in names:
        result.append("HOME=" + ("/root" if spec.user.uid == 0 else "/"))
    return result


def search_path(spec: Spec) -> list[str]:
    """The files that may be the program, in order (execvp(3)): names with a slash are not looked for."""
    name = spec.args[0]
    if "/" in name:
        return [name]
    path = next((entry[5:] for entry in reversed(complete_env(spec)) if entry.startswith("PATH=")), "")
    return [f"{place or '.'}/{name}" for place in path.split(":")]


def is_filtered(spec: Spec) -> bool:
    """Whether a seccomp filter belongs to it."""
    return spec.security == "sandbox" and spec.seccomp != "unconfined"


def in_order(mounts: Sequence[Bind | Tmpfs]) -> list[Bind | Tmpfs]:
    """Those above before those below them; else as given."""
    return sorted(mounts, key=lambda mount: len([part for part in mount.target.split("/") if part not in ("", ".")]))
