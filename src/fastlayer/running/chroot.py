"""Isolation by chroot(2) alone: for root in a container that may neither mount nor make namespaces.

What a step needs of mounts is put into the root before and taken out after: resolv.conf, hosts, the usual devices,
and copies of what is bound. What that cannot do:

* no /proc and /sys, no pseudo-terminals; the network, the host's name and the other processes are the container's:
  a step can see and kill what runs as its user; there is no ``network=none``;
* a bind that may be written is a copy, which takes its source's place when the step has ended: two steps that share one
  do not see each other, and the last one wins; hard links, sockets, fifos and devices in it are lost;
* a killed caller leaves what was put in; its snapshot is not to be used any more.

All descendants of the step are found and killed, whatever session they made (PR_SET_CHILD_SUBREAPER).
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from typing import TYPE_CHECKING

from fastlayer._backend import RunProgram
from fastlayer.errors import RunError
from fastlayer.running import capabilities, idmaps, inroot, network_files, process, steps
from fastlayer.running.filters import Filter, filter_of
from fastlayer.running.isolation import Probe, tried
from fastlayer.running.seccomp.profile import Profile
from fastlayer.running.spec import Bind, Spec, Tmpfs, check, directory, in_order
from fastlayer.running.steps import Plan, step

if TYPE_CHECKING:
    import threading

DEVICES = {"null": (1, 3), "zero": (1, 5), "full": (1, 7), "random": (1, 8), "urandom": (1, 9), "tty": (5, 0)}


class Chroot:
    """``Isolation`` by chroot(2)."""

    name = "chroot"
    mounts = False

    def probe(self) -> Probe:
        if not capabilities.effective() & capabilities.SYS_CHROOT:
            remedy = "run as root with CAP_SYS_CHROOT (containers have it unless it was dropped)"
            return Probe(False, "this process may not call chroot(2)", remedy)
        return tried(_Bare(), directory("/"))

    def run(self, spec: Spec, *, stdout: int, stderr: int, stop: threading.Event | None) -> int:
        check(spec)
        root = directory_of(spec)
        idmaps.check_mapped(idmaps.current(), spec.user.uid, spec.user.gid)
        if spec.network == "none":
            raise RunError(
                "network none needs a network namespace, which chroot cannot make: use isolation native or oci"
            )
        if spec.devices:
            raise RunError(f"{spec.devices[0].source}: chroot cannot show devices: use isolation native or oci")
        stdin = os.open("/dev/null", os.O_RDONLY) if spec.stdin is None else spec.stdin
        guests = inroot.Guests(root)
        try:
            _put_guests(guests, spec)
            return _start(spec, root, (stdin, stdout, stderr), stop)
        finally:
            if spec.stdin is None:
                os.close(stdin)
            guests.close()


class _Bare(Chroot):
    """Puts nothing into the root: for trying."""

    def run(self, spec: Spec, *, stdout: int, stderr: int, stop: threading.Event | None) -> int:
        return _start(spec, directory_of(spec), (stdout, stdout, stderr), stop)


def directory_of(spec: Spec) -> str:
    """The root, which must be a directory as it is. Raises ``RunError``."""
    if len(spec.root) == 1 and spec.root[0].type == "bind" and not spec.root[0].readonly:
        return spec.root[0].source
    kinds = ", ".join(mount.type for mount in spec.root)
    raise RunError(f"chroot cannot mount a root file system ({kinds}): use the storage driver vfs or btrfs")


def _start(spec: Spec, root: str, stdio: tuple[int, int, int], stop: threading.Event | None) -> int:
    plan, program = prepared(spec, root, stdio)
    return process.run(plan, program, stop)


def prepared(spec: Spec, root: str | int, stdio: tuple[int, int, int]) -> tuple[Plan, RunProgram]:
    """The steps, and the program they lead to. ``root``: a directory, or a descriptor of one, which is given away."""
    has = capabilities.effective()
    sandbox = spec.security == "sandbox"
    # chroot(2) inside a chroot is the way out of it
    caps = spec.capabilities & ~capabilities.SYS_CHROOT if sandbox and has & capabilities.SETPCAP else None
    program = process.program_of(spec, stdio, caps=caps, filter_=_filter_of(spec, has))
    if not (has & capabilities.SETGID and idmaps.may_set_groups()):
        program = program._replace(groups=None)
    plan = Plan()
    plan.whole_tree = True
    if isinstance(root, int):
        slot = plan.slot(root)
    else:
        slot = plan.slot()
        plan.keeper.append(step(steps.OPEN, root, slot=slot))
    plan.keeper.append(step(steps.CHDIR, "/"))
    plan.child += [step(steps.CHROOT, slot=slot), step(steps.MAKE, spec.cwd, number=1)]
    return plan, program


def _filter_of(spec: Spec, has: int) -> Filter | None:
    """Only who has CAP_SYS_ADMIN may set one for a program that may gain privileges; a container's own filter stays."""
    if has & capabilities.SYS_ADMIN or spec.no_new_privileges:
        return filter_of(spec)
    if isinstance(spec.seccomp, Profile):
        remedy = "give --security-opt no-new-privileges, too"
        raise RunError("without CAP_SYS_ADMIN a seccomp profile needs no_new_privs", remedy=remedy)
    return None


# ---- what takes the place of mounts --------------------------------------------------------------


def _put_guests(guests: inroot.Guests, spec: Spec) -> None:
    _put_text(guests, "/etc/resolv.conf", network_files.resolv_conf(host_network=True))
    _put_text(guests, "/etc/hosts", network_files.hosts(spec.hostname, spec.hosts))
    for name, numbers in DEVICES.items():
        _put_device(guests, f"/dev/{name}", numbers)
    guests.put("/dev/shm", _make_empty(0o1777))
    for mount in in_order(spec.mounts):
        if isinstance(mount, Tmpfs):
            guests.put(mount.target, _make_empty(mount.mode))
        else:
            _put_bind(guests, mount)


def _put_text(guests: inroot.Guests, path: str, text: str) -> None:
    def make(where: int, name: str) -> None:
        fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644, dir_fd=where)
        with open(fd, "wb") as file:
            os.fchmod(fd, 0o644)
            file.write(text.encode())

    guests.put(path, make)


def _put_device(guests: inroot.Guests, path: str, numbers: tuple[int, int]) -> None:
    """Containers may make these; in a user namespace nobody may: there /dev/null at least is a file, for a while."""

    def make(where: int, name: str) -> None:
        try:
            os.mknod(name, stat.S_IFCHR | 0o666, os.makedev(*numbers), dir_fd=where)
        except PermissionError:
            if name != "null":
                return
            os.close(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, dir_fd=where))
        os.chmod(name, 0o666, dir_fd=where)

    if not guests.has_device(path, numbers):
        guests.put(path, make)


def _make_empty(mode: int) -> Callable[[int, str], None]:
    def make(where: int, name: str) -> None:
        os.mkdir(name, dir_fd=where)
        os.chmod(name, mode, dir_fd=where)

    return make


def _put_bind(guests: inroot.Guests, mount: Bind) -> None:
    source = os.path.abspath(mount.source)

    def make(where: int, name: str) -> None:
        inroot.copy(source, where, name)

    def keep(where: int, name: str) -> None:
        _take_back(f"/proc/self/fd/{where}/{name}", source)

    if stat.S_ISSOCK(os.stat(source).st_mode):
        guests.put(mount.target, _linker(source, mount.target))
    else:
        guests.put(mount.target, make, None if mount.readonly else keep)


def _linker(source: str, target: str) -> Callable[[int, str], None]:
    """A socket cannot be copied, but have another name."""

    def make(where: int, name: str) -> None:
        try:
            os.link(os.path.realpath(source), name, dst_dir_fd=where)
        except OSError as exc:
            message = f"{source}: a socket of another file system cannot be shown at {target} without mounts"
            raise RunError(message, remedy="use isolation native or oci") from exc

    return make


def _take_back(changed: str, source: str) -> None:
    """Takes the source's place at once: whoever looks finds the old one or the new one."""
    folder, name = os.path.split(source)
    fresh, old = (os.path.join(folder, f".{name}.{word}-{os.getpid()}") for word in ("new", "old"))
    inroot.copy_to(changed, fresh)
    if not os.path.isdir(source):
        os.rename(fresh, source)
        return
    os.rename(source, old)
    os.rename(fresh, source)
    where = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        inroot.remove(where, os.path.basename(old))
    finally:
        os.close(where)
