"""Our own isolation: namespaces and a root file system of its own, as an OCI runtime makes them, without one.

=============  ====================================================================================================
namespaces     mount, pid, ipc, uts, cgroup; network when it is ``none``; user when we are not root
root           mounted in a private mount namespace, pivot_root(2); /dev, /dev/pts, /dev/shm, /proc, /sys are new
limits         Docker's capabilities and seccomp profile, masked and read-only paths of /proc and /sys as runc has them;
               only devices that it is shown can be opened, whatever the root has or it makes
first process  the program itself: when it ends, or the caller does, the kernel ends all others
=============  ====================================================================================================

Needs Linux 5.12 (open_tree, move_mount, mount_setattr).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from fastlayer._backend import RunProgram, RunStep
from fastlayer._values import NamedTuple
from fastlayer.errors import RunError
from fastlayer.mounts.mount import Mount
from fastlayer.running import capabilities, idmaps, kernel, network_files, process, roots, steps
from fastlayer.running.filters import filter_of
from fastlayer.running.isolation import Probe, tried
from fastlayer.running.spec import Bind, Spec, Tmpfs, check, in_order
from fastlayer.running.steps import MS_NODEV, MS_NOEXEC, MS_NOSUID, MS_STRICTATIME, Plan, step

if TYPE_CHECKING:
    import threading

DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
_LINKS = (
    ("/proc/self/fd", "/dev/fd"),
    ("/proc/self/fd/0", "/dev/stdin"),
    ("/proc/self/fd/1", "/dev/stdout"),
    ("/proc/self/fd/2", "/dev/stderr"),
    ("/proc/kcore", "/dev/core"),
    ("pts/ptmx", "/dev/ptmx"),
)
MASKED = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
]
MASKED_SYS = ("/sys/firmware", "/sys/devices/virtual/powercap")
READONLY = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]
_TTY_GROUP = 5
QUIET = MS_NOSUID | MS_NODEV | MS_NOEXEC
# words of mount(8) for a tmpfs: the flags of mount(2) that go, and that come
_TMPFS_FLAGS = {
    "rw": (steps.MS_RDONLY, 0),
    "ro": (0, steps.MS_RDONLY),
    "exec": (MS_NOEXEC, 0),
    "noexec": (0, MS_NOEXEC),
    "suid": (MS_NOSUID, 0),
    "nosuid": (0, MS_NOSUID),
    "dev": (MS_NODEV, 0),
    "nodev": (0, MS_NODEV),
    "async": (0x10, 0),
    "sync": (0, 0x10),
    "dirsync": (0, 0x80),
    "atime": (0x400, 0),
    "noatime": (0, 0x400),
    "diratime": (0x800, 0),
    "nodiratime": (0, 0x800),
    "relatime": (MS_STRICTATIME, 1 << 21),
    "norelatime": (1 << 21, 0),
    "strictatime": (1 << 21, MS_STRICTATIME),
    "nostrictatime": (MS_STRICTATIME, 0),
}


class _Host(NamedTuple):
    """Copies of what the host has mounted, in slots: ``devices`` and ``ipc`` by their targets."""

    devices: list[tuple[str, int]]
    sys: int | None
    proc: int | None
    ipc: list[tuple[str, int]]


class Native:
    """``Isolation`` by ourselves."""

    name = "native"
    mounts = True

    def probe(self) -> Probe:
        """Everything but the program, for real."""
        return tried(self, (Mount("tmpfs", "tmpfs"),))

    def run(self, spec: Spec, *, stdout: int, stderr: int, stop: threading.Event | None) -> int:
        check(spec)
        rights = Rights()
        idmaps.check_mapped(rights.maps, spec.user.uid, spec.user.gid)
        stdin = os.open("/dev/null", os.O_RDONLY) if spec.stdin is None else spec.stdin
        try:
            program = program_of(spec, rights, (stdin, stdout, stderr))
            plan = plan_of(spec, rights)
            try:
                return process.run(plan, program, stop, rights.maps if rights.wants_namespace else None)
            finally:
                plan.close()
        finally:
            if spec.stdin is None:
                os.close(stdin)


class Rights:
    """What this process may do, and hence how it goes about.

    ``mapped``: root's container is to be in a user namespace of these ids (``remapped``): all that is shown in it is
    looked up outside.
    """

    def __init__(self, mapped: idmaps.IdMaps | None = None) -> None:
        has = capabilities.effective()
        wanted = capabilities.SYS_ADMIN | capabilities.SETUID | capabilities.SETGID
        self.wants_namespace = has & wanted != wanted or os.geteuid() != 0
        self.maps = idmaps.own() if self.wants_namespace else idmaps.current()
        self.is_initial = not self.wants_namespace and idmaps.is_initial()
        self.may_set_groups = self.maps.helped if self.wants_namespace else idmaps.may_set_groups()
        self.remapped = mapped is not None
        if mapped is not None:
            if not self.is_initial:
                raise RunError("a user namespace of other ids is for root of the machine alone: leave out --userns")
            self.wants_namespace, self.maps, self.is_initial, self.may_set_groups = True, mapped, False, True


def program_of(spec: Spec, rights: Rights, stdio: tuple[int, int, int]) -> RunProgram:
    """What the child executes, with the limits of its sandbox."""
    program = process.program_of(
        spec,
        stdio,
        caps=spec.capabilities if spec.security == "sandbox" else None,
        filter_=filter_of(spec),
    )
    return program if rights.may_set_groups else program._replace(groups=None)


def plan_of(spec: Spec, rights: Rights) -> Plan:
    plan = Plan()
    try:
        with namespaces_around(plan, rights):
            devices = _copy_devices(plan, spec)
            sys = _copy_sys(plan, spec, rights)
            proc = _copy_proc(plan, rights)
            for_keeper = _copy_proc(plan, rights) if "pid" in spec.shared else None
            ipc = _copy_ipc(plan, spec)
            binds = copy_binds(plan, spec, rights)
        place = roots.place_of_all() if rights.remapped else roots.place_of(spec)
        roots.show_parts(plan, spec, binds, place)
        root = roots.mount_root(plan, spec, place, in_user_namespace=rights.wants_namespace)
        shut_devices(plan, spec, [root, *binds.values()])
        plan.keeper.append(step(steps.PIVOT, slot=root))
        make_mount_points(plan, spec, root)
        if "pid" in spec.shared:  # the keeper has to see whom it is to end; the child has no use for that view
            plan.keeper += [step(steps.PLAIN, "/proc"), *_proc_of(spec, for_keeper)]
            plan.child.append(step(steps.UMOUNT, "/proc"))
        _fill_child(plan, spec, rights, _Host(devices, sys, proc, ipc), binds)
    except BaseException:
        plan.close()
        raise
    return plan


# ---- the keeper ----------------------------------------------------------------------------------


@contextmanager
def namespaces_around(plan: Plan, rights: Rights) -> Iterator[None]:
    """Steps of the keeper: those of the block are done where there are rights to, before nobody sees us any more."""
    own = [step(steps.UNSHARE, number=steps.NEWNS), step(steps.PRIVATE)]
    user = [step(steps.UNSHARE, number=steps.NEWUSER), step(steps.MAP), step(steps.ROOT_IDS)]
    if rights.remapped:
        yield
        plan.keeper += [*user, *own]
    elif rights.wants_namespace:
        plan.keeper += [*user, *own]
        yield
    else:
        yield
        plan.keeper += own


def _copy_devices(plan: Plan, spec: Spec) -> list[tuple[str, int]]:
    """The host's: making them anew is not for everybody. (target, slot)

    Read-only mounts of them: whoever is root inside must not change the mode or the owner that they have outside. What
    is written to a device does not ask the mount.
    """
    given = {device.target: device.source for device in spec.devices}
    found = []
    for target, source in {**{f"/dev/{name}": f"/dev/{name}" for name in DEVICES}, **given}.items():
        found.append((target, plan.slot()))
        plan.keeper.append(step(steps.TREE, os.path.abspath(source), slot=found[-1][1]))
        plan.keeper.append(step(steps.READONLY, slot=found[-1][1]))
    return found


def shut_devices(plan: Plan, spec: Spec, slots: list[int]) -> None:
    """There may be files of any disk of the host: without a cgroup nothing else keeps a step from opening them."""
    if spec.security == "sandbox":
        plan.keeper += [step(steps.NODEV, slot=slot) for slot in slots]


def _copy_ipc(plan: Plan, spec: Spec) -> list[tuple[str, int]]:
    """The host's, when it is shared; (target, slot)."""
    places = [path for path in ("/dev/shm", "/dev/mqueue") if "ipc" in spec.shared and os.path.ismount(path)]
    found = [(path, plan.slot()) for path in places]
    plan.keeper += [step(steps.TREE, path, slot=slot) for path, slot in found]
    return found


def _copy_sys(plan: Plan, spec: Spec, rights: Rights) -> int | None:
    """Who does not own the network namespace cannot mount a sysfs (EPERM) and gets the host's; None: mount it."""
    if rights.is_initial:
        return None
    slot = plan.slot()
    plan.keeper.append(step(steps.TREE, "/sys", slot=slot))
    if spec.security == "sandbox":
        plan.keeper.append(step(steps.READONLY, slot=slot))
    return slot


def _copy_proc(plan: Plan, rights: Rights) -> int | None:
    """In a user namespace a procfs can only be mounted while another one is in full view (mount_too_revealing)."""
    if rights.is_initial:
        return None
    slot = plan.slot()
    plan.keeper.append(step(steps.TREE, "/proc", slot=slot))
    return slot


def copy_binds(plan: Plan, spec: Spec, rights: Rights) -> dict[str, int]:
    """Target -> slot."""
    slots = {}
    for mount in spec.mounts:
        if isinstance(mount, Bind):
            if mount.fd >= 0:
                slot = plan.slot(os.dup(mount.fd))
            else:
                inside = rights.wants_namespace and not rights.remapped
                slot = roots.copy_source(plan, mount.source, in_user_namespace=inside, how=_how(mount))
            slots[mount.target] = slot
            if mount.readonly:
                number = 0 if mount.readonly_below else steps.TREE_ALONE
                plan.keeper.append(step(steps.READONLY, slot=slot, number=number))
    return slots


def _how(mount: Bind) -> int:
    propagation = {"private": 0, "slave": steps.TREE_SLAVE, "shared": steps.TREE_SHARED}[mount.propagation]
    return propagation | (0 if mount.recursive else steps.TREE_ALONE)


def mount_points(spec: Spec) -> list[tuple[str, bool]]:
    """(path, is a directory) of all that must be there before anything is mounted, those above first."""
    points = [("/proc", True), ("/sys", True), ("/dev", True)]
    points += [(path, False) for path, _ in shown_files(spec)]
    targets = [mount.target.rstrip("/") for mount in spec.mounts]
    for mount in in_order(spec.mounts):
        inside = any(mount.target.startswith(other + "/") for other in (*targets, "/dev") if other != mount.target)
        if not inside:
            points.append((mount.target, is_directory(mount)))
    return points


def shown_files(spec: Spec) -> list[tuple[str, str]]:
    """(path, text) of the files of /etc that are ours; what is mounted there instead is not."""
    resolv_conf = network_files.resolv_conf(host_network=spec.network != "none", resolver=spec.resolver)
    hosts = network_files.hosts(spec.hostname, spec.hosts)
    every = [("/etc/resolv.conf", resolv_conf), ("/etc/hosts", hosts), *spec.files]
    others = {*spec.without, *(mount.target.rstrip("/") for mount in spec.mounts)}
    return [(path, text) for path, text in every if path not in others]


def is_directory(mount: Bind | Tmpfs) -> bool:
    if isinstance(mount, Tmpfs):
        return True
    return not mount.is_file if mount.fd >= 0 else os.path.isdir(mount.source)


def make_mount_points(plan: Plan, spec: Spec, root: int) -> None:
    given = {mount.target for mount in spec.mounts}
    for path, is_dir in mount_points(spec):
        stays = steps.STUB_STAYS if spec.lasting and path in given else 0
        plan.keeper.append(step(steps.STUB, path, slot=root, number=stays | (steps.STUB_DIRECTORY if is_dir else 0)))


# ---- the child -----------------------------------------------------------------------------------


def _fill_child(plan: Plan, spec: Spec, rights: Rights, host: _Host, binds: dict[str, int]) -> None:
    plan.namespaces = steps.NEWNS | kernel.own_spaces(spec.shared)
    plan.whole_tree = "pid" in spec.shared
    join_cgroups(plan, spec)
    if "uts" not in spec.shared:
        plan.child.append(step(steps.HOSTNAME, spec.hostname))
    if spec.network == "none":
        plan.namespaces |= steps.NEWNET
        plan.child.append(step(steps.LOOPBACK))
    plan.child += [step(steps.PLAIN, path) for path in ("/dev", "/proc", "/sys")]
    _fill_dev(plan, spec, rights, host)
    _fill_sys(plan, spec, host.sys)
    _fill_files(plan, spec)
    _fill_mounts(plan, spec, binds)
    _fill_proc(plan, spec, host.proc)  # the last: until then there is no magic link that a path could go through
    plan.child.append(step(steps.MAKE, spec.cwd, number=1))
    if spec.readonly:
        plan.child.append(step(steps.MOUNT, None, "/", number=steps.MS_RDONLY | steps.MS_REMOUNT | steps.MS_BIND))


def join_cgroups(plan: Plan, spec: Spec) -> None:
    """First thing: a cgroup namespace begins where its maker is."""
    if spec.cgroups:
        own = plan.namespaces & steps.NEWCGROUP
        plan.namespaces &= ~steps.NEWCGROUP
        plan.child += [step(steps.JOIN, slot=plan.slot(os.dup(fd))) for fd in spec.cgroups]
        plan.child += [step(steps.UNSHARE, number=own)] if own else []


def _fill_dev(plan: Plan, spec: Spec, rights: Rights, host: _Host) -> None:
    group = f",gid={_TTY_GROUP}" if rights.maps.has_group(_TTY_GROUP) else ""
    shm = f"mode=1777,size={spec.shm_size}"
    shut = MS_NODEV if spec.security == "sandbox" else 0
    plan.child += [
        step(steps.MOUNT, "tmpfs", "/dev", "mode=755,size=65536k", number=MS_NOSUID | MS_STRICTATIME | shut),
        *(step(steps.DIRECTORY, f"/dev/{name}", number=0o755) for name in ("pts", "shm", "mqueue")),
        step(
            steps.MOUNT,
            "devpts",
            "/dev/pts",
            f"newinstance,ptmxmode=0666,mode=0620{group}",
            number=MS_NOSUID | MS_NOEXEC,
        ),
    ]
    if "ipc" not in spec.shared:
        plan.child += [
            step(steps.MOUNT, "tmpfs", "/dev/shm", shm, number=QUIET),
            step(steps.MOUNT | steps.OPTIONAL, "mqueue", "/dev/mqueue", number=QUIET),
        ]
    plan.child += [step(steps.ATTACH, target, slot=slot) for target, slot in host.ipc]
    for target, slot in host.devices:
        plan.child += [step(steps.MAKE, target), step(steps.ATTACH, target, slot=slot)]
    plan.child += [step(steps.SYMLINK, text, name) for text, name in _LINKS]
    if spec.terminal >= 0:
        make_terminal(plan, spec.terminal, "/dev/console")


def make_terminal(plan: Plan, socket: int, console: str | None = None) -> None:
    """A terminal of the root's own /dev/pts; its master goes through the socket."""
    plan.terminal = plan.slot()
    plan.child.append(step(steps.TERMINAL, console, slot=plan.terminal, number=plan.slot(os.dup(socket))))


def _fill_sys(plan: Plan, spec: Spec, sys: int | None) -> None:
    """Over the host's goes one of the network namespace, where there is one of its own and the kernel allows it: it
    does while another one is in full view."""
    sandbox = spec.security == "sandbox"
    own = step(steps.MOUNT, "sysfs", "/sys", number=QUIET | (steps.MS_RDONLY if sandbox else 0))
    if sys is None:
        plan.child.append(own)
    else:
        plan.child.append(step(steps.ATTACH, "/sys", slot=sys))
        if spec.network == "none":
            plan.child.append((own[0] | steps.OPTIONAL, *own[1:]))
    if sandbox:
        plan.child += [step(steps.MASK, path, "/dev/null") for path in MASKED_SYS]


def _fill_files(plan: Plan, spec: Spec) -> None:
    """Written into the new /dev, shown where they belong, and without a name again."""
    for path, text in shown_files(spec):
        slot, name = plan.slot(), f"/dev/.{os.path.basename(path)}"
        plan.child += [
            step(steps.FILE, name, text),
            step(steps.TREE, name, slot=slot),
            step(steps.ATTACH, path, slot=slot),
            step(steps.UNLINK, name),
        ]


def _fill_mounts(plan: Plan, spec: Spec, binds: dict[str, int]) -> None:
    for mount in in_order(spec.mounts):
        plan.child.append(step(steps.MAKE, mount.target, number=is_directory(mount)))
        if isinstance(mount, Bind):
            plan.child.append(step(steps.ATTACH, mount.target, slot=binds[mount.target]))
        else:
            flags, options = _tmpfs_options(spec, mount)
            plan.child.append(step(steps.MOUNT, "tmpfs", mount.target, options, number=flags))


def _tmpfs_options(spec: Spec, mount: Tmpfs) -> tuple[int, str]:
    """For mount(2): flags and data. The last of words that contradict each other counts, as everywhere.

    In a sandbox no device can be opened there, whatever they say: nothing else keeps those out.
    """
    flags, data = QUIET, [f"mode={mount.mode:o}"]
    if mount.size is not None:
        data.append(f"size={mount.size}")
    for word in mount.words:
        if word in _TMPFS_FLAGS:
            cleared, added = _TMPFS_FLAGS[word]
            flags = flags & ~cleared | added
        else:
            data.append(word)
    return flags | (MS_NODEV if spec.security == "sandbox" else 0), ",".join(data)


def _fill_proc(plan: Plan, spec: Spec, proc: int | None) -> None:
    plan.child += _proc_of(spec, proc)
    plan.child += [step(steps.WRITE, kernel.place_of(name), value) for name, value in spec.sysctls]
    if spec.domainname:
        plan.child.append(step(steps.WRITE, kernel.place_of("kernel.domainname"), spec.domainname))
    if spec.oom_score_adj is not None:
        plan.child.append(step(steps.WRITE, "/proc/self/oom_score_adj", str(spec.oom_score_adj)))
    if spec.security == "sandbox":
        plan.child += [step(steps.LOCK, path) for path in READONLY]
        plan.child += [step(steps.MASK, path, "/dev/null") for path in MASKED]


def _proc_of(spec: Spec, proc: int | None) -> list[RunStep]:
    """Who has no rights over a pid namespace, which is so for the host's in a user namespace, sees what is mounted."""
    mount, view = step(steps.MOUNT, "proc", "/proc", number=QUIET), "/dev/shm"
    if proc is None:
        return [mount]
    if "pid" in spec.shared:
        return [step(steps.ATTACH, "/proc", slot=proc)]
    return [step(steps.ATTACH, view, slot=proc), mount, step(steps.UMOUNT, view)]
