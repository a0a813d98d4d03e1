"""What can be asked of a container, and how it is written down: Docker's ``Config`` and ``HostConfig``."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fastlayer._values import NamedTuple
from fastlayer.errors import UsageError

if TYPE_CHECKING:
    from fastlayer.container.mountoptions import MountOption
    from fastlayer.oci.config import RunConfig

NETWORKS = ("default", "host", "none")
_LOG_DRIVERS = ("json-file", "none")
_ISOLATIONS = ("native", "oci", "crun", "runc", "chroot")
_USERNS = ("", "host", "auto")


class Options(NamedTuple):
    """Everything that ``create`` takes besides the image, the name and the command. Sizes in bytes.

    ``entrypoint``: None is the image's, empty is none. ``env``: ``NAME=value``, or a name alone: the image's goes.
    ``memory_swap``: memory and swap together, -1 for any. ``volumes_from``: ``CONTAINER[:ro|rw]``, whose volumes and
    binds are mounted, too; ``volume_driver``: of volumes that ``-v`` and the image ask for. ``runtime``: ``native``,
    ``oci`` (crun, else runc), ``crun``, ``runc``, ``chroot``, or empty for the first that works, which ``chroot`` is
    not. ``size``: of the writable layer. ``storage_options``: the driver's. ``readonly_image``: there is no writable
    layer at all. ``pid``, ``ipc``, ``uts``, ``cgroupns``: ``host``, or empty for one of its own.
    """

    entrypoint: Sequence[str] | None = None
    env: Sequence[str] = ()
    user: str = ""
    workdir: str = ""
    hostname: str = ""
    labels: Mapping[str, str] = {}
    tty: bool = False
    interactive: bool = False
    detach: bool = False
    auto_remove: bool = False
    read_only: bool = False
    mounts: Sequence[MountOption] = ()
    volumes_from: Sequence[str] = ()
    volume_driver: str = ""
    network: str = "default"
    add_hosts: Sequence[tuple[str, str]] = ()
    cap_add: Sequence[str] = ()
    cap_drop: Sequence[str] = ()
    group_add: Sequence[str] = ()
    privileged: bool = False
    security_opts: Sequence[str] = ()
    userns: str = ""
    memory: int = 0
    memory_swap: int = 0
    cpus: float = 0.0
    cpu_shares: int = 0
    cpuset_cpus: str = ""
    pids_limit: int = 0
    ulimits: Sequence[str] = ()
    devices: Sequence[str] = ()
    shm_size: int = 64 << 20
    init: bool = False
    stop_signal: str = ""
    stop_timeout: int | None = None
    log_driver: str = "json-file"
    log_options: Mapping[str, str] = {}
    runtime: str = ""
    size: int | None = None
    storage_options: Mapping[str, str] = {}
    cidfile: str = ""
    readonly_image: bool = False
    pid: str = ""
    ipc: str = ""
    uts: str = ""
    cgroupns: str = ""
    domainname: str = ""
    dns: Sequence[str] = ()
    dns_search: Sequence[str] = ()
    dns_options: Sequence[str] = ()
    sysctls: Sequence[str] = ()
    oom_score_adj: int = 0
    restart: str = "no"
    expose: Sequence[str] = ()
    annotations: Mapping[str, str] = {}
    cpu_period: int = 0
    cpu_quota: int = 0
    cpuset_mems: str = ""
    memory_reservation: int = 0

    @property
    def shared(self) -> frozenset[str]:
        """Namespaces that are the host's."""
        modes = {"pid": self.pid, "ipc": self.ipc, "uts": self.uts, "cgroup": self.cgroupns}
        return frozenset(name for name, mode in modes.items() if mode == "host")


def check(options: Options) -> None:
    """Raises ``UsageError`` for what cannot be."""
    from fastlayer.container import logs
    from fastlayer.running import signals
    from fastlayer.running.capabilities import changed

    _one_of("--network", options.network, NETWORKS, "there is no bridge here, and no other network")
    _one_of("--log-driver", options.log_driver, _LOG_DRIVERS, "logs are files")
    _one_of("--userns", options.userns, _USERNS, "no other user namespace is made")
    if options.runtime:
        _one_of("--runtime", options.runtime, _ISOLATIONS, "others are not known")
    if options.workdir and not options.workdir.startswith("/"):
        raise UsageError(f"the working directory {options.workdir!r} is invalid: it needs to be an absolute path")
    if options.stop_signal:
        signals.parse_signal(options.stop_signal)
    _check_spaces(options)
    _check_hostname(options.hostname)
    _check_numbers(options)
    logs.rotation(options.log_options)
    changed(options.cap_add, options.cap_drop)
    if options.ulimits:
        from fastlayer.running.limits import parse_limits

        parse_limits(tuple(options.ulimits))
    if options.security_opts:
        from fastlayer.running.security import parse_security_options

        parse_security_options(options.security_opts)


def _check_spaces(options: Options) -> None:
    """Namespaces, and what is set in them."""
    from fastlayer.running import kernel, network_files
    from fastlayer.running.spec import Resolver

    for name in ("pid", "ipc", "uts", "cgroupns"):
        value = getattr(options, name)
        if value.startswith("container:"):
            raise UsageError(f"--{name} {value}: namespaces are not shared between containers here: use `host`")
        if value not in ("", "host", "private", *(("shareable",) if name == "ipc" else ())):
            raise UsageError(f"--{name} {value}: invalid mode: use host, or leave it out")
    if "uts" in options.shared and (options.hostname or options.domainname):
        raise UsageError("conflicting options: hostname and the UTS mode: leave one out")
    sysctls = [kernel.parse_sysctl(text) for text in options.sysctls]
    kernel.check_sysctls(sysctls, options.network, options.shared)
    network_files.check_resolver(Resolver(tuple(options.dns), tuple(options.dns_search), tuple(options.dns_options)))
    _check_restart(options)


def _check_restart(options: Options) -> None:
    policy, _, count = options.restart.partition(":")
    if policy not in ("no", "always", "unless-stopped", "on-failure") or (count and not count.isdecimal()):
        raise UsageError(f"--restart {options.restart}: invalid restart policy: use no")
    if policy != "no":
        raise UsageError(
            f"--restart {options.restart}: no daemon is here to start it again: let systemd run "
            "`fastlayer start -a NAME` with Restart=, or leave it out"
        )


def _one_of(name: str, value: str, allowed: Sequence[str], why: str) -> None:
    if value not in allowed:
        raise UsageError(f"{name} {value}: {why}: use {', '.join(filter(None, allowed))}")


def _check_numbers(options: Options) -> None:
    if options.memory and options.memory < 6 << 20:
        raise UsageError("Minimum memory limit allowed is 6MB")
    if options.memory_swap and not options.memory:
        raise UsageError("You should always set the Memory limit when using Memoryswap limit: give --memory, too")
    if 0 < options.memory_swap < options.memory:
        raise UsageError("Minimum memoryswap limit should be larger than memory limit: it is both together")
    if options.cpus != 0 and not 0.01 <= options.cpus <= (os.cpu_count() or 1):
        raise UsageError(
            f"Range of CPUs is from 0.01 to {os.cpu_count()}.00, as there are only {os.cpu_count()} CPUs available"
        )
    if not -1000 <= options.oom_score_adj <= 1000:
        raise UsageError(f"Invalid value {options.oom_score_adj}, range for oom score adj is [-1000, 1000]")
    if options.cpus and (options.cpu_period or options.cpu_quota):
        raise UsageError("Conflicting options: Nano CPUs and CPU Period or Quota cannot both be set: leave one out")
    if options.cpu_period and not 1000 <= options.cpu_period <= 1_000_000:
        raise UsageError("CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)")
    if options.cpu_quota and options.cpu_quota < 1000:
        raise UsageError("CPU cfs quota can not be less than 1ms (i.e. 1000)")
    if options.memory and options.memory_reservation > options.memory:
        raise UsageError("Minimum memory limit can not be less than memory reservation limit: give more to --memory")
    if options.cpu_shares < 0:
        raise UsageError(f"invalid CPU shares ({options.cpu_shares}): value must be a positive integer")
    for name, value in (("--cpu-shares", options.cpu_shares), ("--pids-limit", options.pids_limit)):
        if value >= 1 << 31:
            raise UsageError(f"{name} {value}: is too large: the kernel takes less than {1 << 31}")
    _check_processors(options.cpuset_cpus)
    if options.shm_size <= 0:
        raise UsageError("--shm-size: SHM size can not be less than 0: give a size of 1 byte or more")


def _check_processors(text: str) -> None:
    """``--cpuset-cpus``: numbers and ranges (cpuset(7), "List format")."""
    available = os.cpu_count() or 1
    for word in filter(None, text.split(",")):
        first, dash, last = word.partition("-")
        ends = (first, last) if dash else (first,)
        if not all(end.isascii() and end.isdecimal() and len(end) < 6 for end in ends) or int(ends[0]) > int(ends[-1]):
            raise UsageError(f"Invalid value {text!r} for cpuset cpus: give numbers and ranges, as in 0-1,3")
        if int(ends[-1]) >= available:
            raise UsageError(f"Requested CPUs are not available - requested {text}, available: 0-{available - 1}")


def _check_hostname(name: str) -> None:
    """It becomes a line of /etc/hosts."""
    if name and (len(os.fsencode(name)) > 64 or any(c.isspace() or not c.isprintable() or c == "#" for c in name)):
        raise UsageError(f"invalid hostname format: {name!r}: give 1 to 64 letters, digits, `-` and `.`")


# ---- as it is written down -------------------------------------------------------------------------


def config(identity: str, image: str, run: RunConfig, command: Sequence[str], options: Options) -> dict[str, Any]:
    """``Config``: the image's, and what was asked for. Raises ``UsageError`` when there is no command at all."""
    entrypoint, cmd = _command(run, command, options)
    attached = not options.detach
    found: dict[str, Any] = {
        "Hostname": options.hostname or _hostname(identity, options),
        "Domainname": options.domainname,
        "User": options.user or run.user,
        "AttachStdin": attached and options.interactive,
        "AttachStdout": attached,
        "AttachStderr": attached,
        **_exposed(run, options),
        "Tty": options.tty,
        "OpenStdin": options.interactive,
        "StdinOnce": attached and options.interactive,
        "Env": _environment(run.env, options.env),
        "Cmd": cmd,
        "Image": image,
        "Volumes": {path: {} for path in (*run.volumes, *_anonymous(options))} or None,
        "WorkingDir": options.workdir or run.working_dir,
        "Entrypoint": entrypoint,
        "OnBuild": None,
        "Labels": {**run.labels, **options.labels},
    }
    if options.stop_signal or run.stop_signal:
        found["StopSignal"] = options.stop_signal or run.stop_signal
    if options.stop_timeout is not None:
        found["StopTimeout"] = options.stop_timeout
    return found


def _exposed(run: RunConfig, options: Options) -> dict[str, Any]:
    given = [port if "/" in port else f"{port}/tcp" for port in options.expose]
    return {"ExposedPorts": {port: {} for port in (*run.exposed_ports, *given)}} if run.exposed_ports or given else {}


def _anonymous(options: Options) -> list[str]:
    """Targets of volumes without a name that ``-v`` asks for; images made of the container have them, too."""
    return [mount.target for mount in options.mounts if mount.kind == "volume" and mount.short and not mount.source]


def _hostname(identity: str, options: Options) -> str:
    return os.uname().nodename[:64] if options.network == "host" or "uts" in options.shared else identity[:12]


def _command(run: RunConfig, command: Sequence[str], options: Options) -> tuple[list[str] | None, list[str] | None]:
    if options.entrypoint is not None:  # which takes away the image's command
        entrypoint: list[str] | None = list(options.entrypoint) or None
        cmd = list(command) or None
    else:
        entrypoint = list(run.entrypoint) if run.entrypoint else None
        cmd = list(command) or (list(run.cmd) if run.cmd else None)
    if not [*(entrypoint or ()), *(cmd or ())]:
        raise UsageError("No command specified: the image has none: name a program after it")
    return entrypoint, cmd


def _environment(image: Iterable[str], given: Iterable[str]) -> list[str]:
    """What was given first, as Docker does it; a name alone takes the image's away."""
    found = {entry.partition("=")[0]: entry for entry in given}
    for entry in image:
        found.setdefault(entry.partition("=")[0], entry)
    return list(found.values())


def host_config(options: Options) -> dict[str, Any]:
    """``HostConfig``. What is not offered has Docker's value for nothing."""
    from fastlayer.running.capabilities import normalized

    return {
        "Binds": _binds(options),
        "ContainerIDFile": options.cidfile,
        "LogConfig": {"Type": options.log_driver, "Config": dict(options.log_options)},
        "NetworkMode": options.network,
        "PortBindings": {},
        "RestartPolicy": {"Name": "no", "MaximumRetryCount": 0},
        "AutoRemove": options.auto_remove,
        "VolumeDriver": options.volume_driver,
        "VolumesFrom": list(options.volumes_from) or None,
        "CapAdd": normalized(options.cap_add) or None,
        "CapDrop": normalized(options.cap_drop) or None,
        "CgroupnsMode": options.cgroupns or "private",
        "Dns": list(options.dns),
        "DnsOptions": list(options.dns_options),
        "DnsSearch": list(options.dns_search),
        "ExtraHosts": [f"{name}:{address}" for name, address in options.add_hosts] or None,
        "GroupAdd": list(options.group_add) or None,
        "IpcMode": options.ipc or "private",
        "Cgroup": "",
        "Links": None,
        "OomScoreAdj": options.oom_score_adj,
        "PidMode": "" if options.pid == "private" else options.pid,
        "Privileged": options.privileged,
        "PublishAllPorts": False,
        "ReadonlyRootfs": options.read_only or options.readonly_image,
        "ReadonlyImage": options.readonly_image,
        "SecurityOpt": list(options.security_opts) or None,
        "StorageOpt": _storage(options),
        "Tmpfs": {mount.target: mount.text for mount in options.mounts if mount.short and mount.kind == "tmpfs"},
        "UTSMode": "" if options.uts == "private" else options.uts,
        "UsernsMode": options.userns,
        "ShmSize": options.shm_size,
        **_optional(options),
        "Runtime": options.runtime,
        "Isolation": "",
        **_limits(options),
        "Mounts": [mount.to_dict() for mount in options.mounts if not mount.short],
        "Init": options.init,
    }


def _optional(options: Options) -> dict[str, Any]:
    """What Docker leaves out when there is nothing."""
    from fastlayer.running.kernel import parse_sysctl

    found: dict[str, Any] = {}
    if options.sysctls:
        found["Sysctls"] = dict(map(parse_sysctl, options.sysctls))
    if options.annotations:
        found["Annotations"] = dict(options.annotations)
    return found


def _binds(options: Options) -> list[str] | None:
    """``-v`` with something to be shown; one that only names a place is in ``Config.Volumes``."""
    return [
        mount.as_bind() for mount in options.mounts if mount.short and mount.kind != "tmpfs" and mount.source
    ] or None


def _storage(options: Options) -> dict[str, str] | None:
    size = {"size": str(options.size)} if options.size else {}
    return {**size, **options.storage_options} or None


def _limits(options: Options) -> dict[str, Any]:
    from fastlayer.running.limits import parse_limits

    swap = options.memory_swap or 2 * options.memory
    return {
        "CpuShares": options.cpu_shares,
        "Memory": options.memory,
        "NanoCpus": round(options.cpus * 1e9),
        "CgroupParent": "",
        "CpuPeriod": options.cpu_period,
        "CpuQuota": options.cpu_quota,
        "CpusetCpus": options.cpuset_cpus,
        "CpusetMems": options.cpuset_mems,
        "MemoryReservation": options.memory_reservation,
        "Devices": [_device(text) for text in options.devices],
        "MemorySwap": swap,
        "PidsLimit": options.pids_limit or None,
        "Ulimits": [
            {"Name": limit.name, "Soft": limit.soft, "Hard": limit.hard}
            for limit in parse_limits(tuple(options.ulimits))
        ],
    }


def _device(text: str) -> dict[str, str]:
    """``HOST[:TARGET[:RIGHTS]]``. Raises ``UsageError``."""
    source, _, rest = text.partition(":")
    target, _, rights = rest.partition(":")
    if target and not target.startswith("/"):  # HOST:RIGHTS
        target, rights = "", target
    if not source.startswith("/") or not set(rights) <= set("rwm"):
        raise UsageError(f"--device {text!r}: give HOST[:TARGET[:RIGHTS]], RIGHTS of the letters rwm")
    if rights and not set("rw") <= set(rights):
        raise UsageError(f"--device {text!r}: rights over a device are those of its file here: leave out {rights!r}")
    return {"PathOnHost": source, "PathInContainer": target or source, "CgroupPermissions": rights or "rwm"}
