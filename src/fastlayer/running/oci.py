"""Isolation by an OCI runtime that is installed: crun, else runc.

The root file system is mounted where only the runtime sees it: in a mount namespace of its own, in which the runtime is
the first process of a pid namespace. So it and all it starts end together, and nothing has to be cleaned up after it.
It makes no cgroups: a build has no limits of its own, and without them the runtime needs neither systemd nor rights.
Devices are shut by their mounts, as ``native`` has it, but crun opens those of the root again.
"""

from __future__ import annotations

import json
import os
import stat
from typing import TYPE_CHECKING, Any

from fastlayer._backend import RunProgram
from fastlayer.errors import RunError
from fastlayer.mounts.mount import Mount
from fastlayer.running import bundles, capabilities, idmaps, kernel, native, process, roots, steps
from fastlayer.running.filters import profile_of
from fastlayer.running.isolation import Probe, tried
from fastlayer.running.limits import NONE, Limit
from fastlayer.running.seccomp.runtime import seccomp_of
from fastlayer.running.spec import (
    DEFAULT_PATH,
    Bind,
    Ids,
    Spec,
    Tmpfs,
    check,
    complete_env,
    in_order,
    is_filtered,
    search_path,
)
from fastlayer.running.steps import Plan, step

if TYPE_CHECKING:
    import threading

# They are shown a cgroup2 that cannot be written, and told not to mind: whatever the host has, they make no cgroup.
_RUNTIMES = {"crun": ("--cgroup-manager=disabled",), "runc": ("--rootless=true",)}
_REMEDY = "install crun or runc"
_LOG_MAX = 1 << 16


class Oci:
    """``Isolation`` by crun or runc. ``runtime``: a program to use, else the first that is found."""

    name = "oci"
    mounts = True

    def __init__(self, runtime: str | None = None) -> None:
        self.runtime = runtime

    def probe(self) -> Probe:
        if self.find() is None:
            return Probe(False, "neither crun nor runc is installed", _REMEDY)
        return tried(self, (Mount("tmpfs", "tmpfs"),))

    def run(self, spec: Spec, *, stdout: int, stderr: int, stop: threading.Event | None) -> int:
        check(spec)
        runtime = self.find()
        if runtime is None:
            raise RunError("neither crun nor runc is installed", remedy=_REMEDY)
        with bundles.bundle() as bundle:
            stdin = os.open("/dev/null", os.O_RDONLY) if spec.stdin is None else spec.stdin
            try:
                status = _run(spec, runtime, bundle, (stdin, stdout, stderr), stop)
            finally:
                if spec.stdin is None:
                    os.close(stdin)
            if status != 0 and not (stop is not None and stop.is_set()):
                raise_what_it_logged(spec, bundle, os.path.basename(runtime))
            return status

    def find(self) -> str | None:
        """The runtime, when there is one."""
        if self.runtime is not None:
            return idmaps.find(self.runtime) if "/" not in self.runtime else self.runtime
        return next(filter(None, map(idmaps.find, _RUNTIMES)), None)


def _run(spec: Spec, runtime: str, bundle: str, stdio: tuple[int, int, int], stop: threading.Event | None) -> int:
    rights = native.Rights()
    plan = plan_of(spec, runtime, bundle, rights)
    try:
        maps = rights.maps if rights.wants_namespace else None
        return process.run(plan, program_of(spec, runtime, bundle, stdio), stop, maps)
    finally:
        plan.close()


def program_of(spec: Spec, runtime: str, bundle: str, stdio: tuple[int, int, int]) -> RunProgram:
    """What the child executes: the runtime."""
    return process.program_of(_command(spec, runtime, bundle), stdio, caps=None)._replace(groups=None)


def plan_of(spec: Spec, runtime: str, bundle: str, rights: native.Rights) -> Plan:
    """Where the runtime runs. Writes its bundle into the empty directory ``bundle``."""
    if "pid" in spec.shared:  # it would wait for all that the program has left running
        raise RunError(f"{os.path.basename(runtime)} needs a pid namespace here", remedy="use --runtime native")
    by_runc_of_a_user = not rights.is_initial and os.path.basename(runtime) == "runc"
    devices = _devices(spec, makes_them=by_runc_of_a_user)
    spec = spec._replace(mounts=[*spec.mounts, *devices], devices=())
    idmaps.check_mapped(rights.maps, spec.user.uid, spec.user.gid)
    place = os.path.join(bundle, "rootfs")
    os.mkdir(place)
    _make_places(spec, bundle)
    with open(os.path.join(bundle, "config.json"), "w") as file:
        file.write(json.dumps(config_of(spec, place, bundle, rights)))
    plan = Plan()
    try:
        with native.namespaces_around(plan, rights):
            binds = native.copy_binds(plan, spec, rights)
        roots.show_parts(plan, spec, binds, place)
        plan.keeper += [
            step(steps.ATTACH, _place_of(spec, bundle, target), slot=slot) for target, slot in binds.items()
        ]
        root = roots.mount_root(plan, spec, place, in_user_namespace=rights.wants_namespace)
        shown = {device.target for device in devices}
        native.shut_devices(plan, spec, [root, *(slot for target, slot in binds.items() if target not in shown)])
        native.make_mount_points(plan, spec, root)
        plan.keeper.append(step(steps.CHDIR, "/"))
        plan.namespaces = steps.NEWNS | (kernel.own_spaces(spec.shared) & (steps.NEWPID | steps.NEWCGROUP))
        native.join_cgroups(plan, spec)
        plan.child += [
            step(steps.MOUNT, "proc", "/proc", number=native.QUIET),
            step(steps.MOUNT | steps.OPTIONAL, "cgroup2", "/sys/fs/cgroup", number=native.QUIET),
            step(steps.LOCK, "/sys/fs/cgroup"),
        ]
    except BaseException:
        plan.close()
        raise
    return plan


def _devices(spec: Spec, *, makes_them: bool) -> list[Bind]:
    """Those of the host, over what the runtime makes in a /dev where devices are shut. Read-only, as in ``native``.

    ``makes_them``: the runtime shows the usual ones itself. It opens what is there to do so, which /dev/tty refuses to
    who has no terminal.
    """
    wanted = native.DEVICES if spec.security == "sandbox" and not makes_them else ()
    usual = {f"/dev/{name}": f"/dev/{name}" for name in wanted}
    every = {**usual, **{device.target: device.source for device in spec.devices}}
    return [Bind(os.path.abspath(source), target) for target, source in every.items()]


def _place_of(spec: Spec, bundle: str, target: str) -> str:
    """Where what is shown at ``target`` is attached for the runtime, which cannot follow every name to its source."""
    number = next(number for number, mount in enumerate(spec.mounts) if mount.target == target)
    return os.path.join(bundle, f"bind-{number}")


def _make_places(spec: Spec, bundle: str) -> None:
    for mount in spec.mounts:
        if isinstance(mount, Bind):
            if mount.propagation != "private":
                raise RunError(f"{mount.target}: mounts that come later are passed on by the runtime native alone")
            place = _place_of(spec, bundle, mount.target)
            if native.is_directory(mount):
                os.mkdir(place)
            else:
                with open(place, "x"):
                    pass


def _command(spec: Spec, runtime: str, bundle: str) -> Spec:
    """The runtime as a program: as root of what it is in, with an environment that is ours."""
    flags = _RUNTIMES.get(os.path.basename(runtime), ())
    log = ("--log", os.path.join(bundle, "log"), "--log-format", "json")
    words = [runtime, *flags, *log, "--root", os.path.join(bundle, "state"), "run", "--bundle", bundle, "step"]
    env = [f"PATH={DEFAULT_PATH}", "HOME=/", f"XDG_RUNTIME_DIR={bundle}"]
    return Spec(root=spec.root, args=words, env=env)


def raise_what_it_logged(spec: Spec, bundle: str, runtime: str) -> None:
    """A runtime that could not start the program says so in its log; one that did has nothing to say."""
    message = _last_error(os.path.join(bundle, "log"))
    if not message:
        return
    lower = message.lower()
    searched = len(search_path(spec)) > 1
    if "exec" in lower or "executable" in lower or "open `" in lower:
        if "not found" in lower or "no such file" in lower:
            raise process.not_executed(spec.args[0], 2, searched=searched)
        if "exec format error" in lower:
            raise process.not_executed(spec.args[0], 8, searched=searched)
        if "permission denied" in lower:
            raise process.not_executed(spec.args[0], 13, searched=searched)
    raise RunError(f"{runtime}: {message}")


def _last_error(path: str) -> str:
    try:
        with open(path, "rb") as file:
            lines = file.read(_LOG_MAX).decode("utf-8", "replace").splitlines()
    except OSError:
        return ""
    found = ""
    for line in lines:
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict) and entry.get("level", "error") in ("error", "fatal"):
            found = " ".join(str(entry.get("msg", "")).split()) or found
    return found


# ---- config.json (runtime-spec, config.md and config-linux.md) ------------------------------------


def config_of(spec: Spec, place: str, bundle: str, rights: native.Rights) -> dict[str, Any]:
    """The same step as ``native`` runs it. Writes the files that are shown into ``bundle``."""
    sandbox = spec.security == "sandbox"
    has = capabilities.effective() if not rights.wants_namespace else (1 << len(capabilities.NAMES)) - 1
    caps = capabilities.names(spec.capabilities & has if sandbox else has)
    return {
        "ociVersion": "1.0.2",
        "process": {
            "terminal": spec.terminal >= 0,
            **({"consoleSize": {"height": spec.size[0], "width": spec.size[1]}} if spec.size[0] else {}),
            "user": _user(spec.user, rights),
            "args": list(spec.args),
            "env": complete_env(spec),
            "cwd": spec.cwd,
            "capabilities": dict.fromkeys(("bounding", "effective", "permitted"), caps)
            if spec.user.uid == 0
            else {"bounding": caps},
            "noNewPrivileges": spec.no_new_privileges,
            "rlimits": [_limit(limit) for limit in spec.limits],
            **({"oomScoreAdj": spec.oom_score_adj} if spec.oom_score_adj is not None else {}),
        },
        "root": {"path": place, "readonly": spec.readonly},
        **({"hostname": spec.hostname} if "uts" not in spec.shared else {}),
        "mounts": [*_system_mounts(spec, rights), *_files(spec, bundle), *_given(spec, bundle)],
        "linux": {
            "namespaces": [{"type": name} for name in _namespaces(spec)],
            "sysctl": {
                **{name.replace("/", "."): value for name, value in spec.sysctls},
                **({"kernel.domainname": spec.domainname} if spec.domainname else {}),
            },
            **(_hidden() if sandbox else {}),
            **({"seccomp": seccomp_of(*profile_of(spec))} if is_filtered(spec) else {}),
        },
    }


def _namespaces(spec: Spec) -> list[str]:
    own = [name for name in ("ipc", "uts") if name not in spec.shared]
    return ["pid", *own, "mount", *(["network"] if spec.network == "none" else [])]


def _user(user: Ids, rights: native.Rights) -> dict[str, Any]:
    found: dict[str, Any] = {"uid": user.uid, "gid": user.gid, "umask": 0o022}
    if user.groups and rights.may_set_groups:
        found["additionalGids"] = list(user.groups)
    return found


def _system_mounts(spec: Spec, rights: native.Rights) -> list[dict[str, Any]]:
    group = ["gid=5"] if rights.maps.has_group(5) else []
    quiet = ["nosuid", "noexec", "nodev"]
    readonly, shut = (["ro"], ["nodev"]) if spec.security == "sandbox" else ([], [])
    sys = (
        ("sysfs", "sysfs", [*quiet, *readonly])
        if rights.is_initial or spec.network == "none"
        else ("none", "/sys", ["rbind", *quiet, *readonly])
    )
    bind, size = ["rbind", "rprivate"], f"size={spec.shm_size}"
    ipc = "ipc" in spec.shared
    rows = [
        ("/proc", "proc", "proc", quiet),
        ("/dev", "tmpfs", "tmpfs", ["nosuid", *shut, "strictatime", "mode=755", "size=65536k"]),
        ("/dev/pts", "devpts", "devpts", ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", *group]),
        ("/dev/shm", *(("bind", "/dev/shm", bind) if ipc else ("tmpfs", "shm", [*quiet, "mode=1777", size]))),
        *([] if ipc else [("/dev/mqueue", "mqueue", "mqueue", quiet)]),
        ("/sys", *sys),
    ]
    return [dict(zip(("destination", "type", "source", "options"), row, strict=True)) for row in rows]


def _files(spec: Spec, bundle: str) -> list[dict[str, Any]]:
    texts = {os.path.basename(path): text for path, text in native.shown_files(spec)}  # all of /etc
    for name, text in texts.items():
        path = os.path.join(bundle, name)
        with open(path, "w") as file:
            file.write(text)
        os.chmod(path, 0o644)
    return [_bind(os.path.join(bundle, name), f"/etc/{name}") for name in texts]


def _bind(source: str, target: str, *options: str) -> dict[str, Any]:
    options = ("rbind", "rprivate", *options)
    return {"destination": target, "type": "bind", "source": source, "options": list(options)}


def _given(spec: Spec, bundle: str) -> list[dict[str, Any]]:
    return [
        _bind(_place_of(spec, bundle, mount.target), mount.target, *_options(spec, mount))
        if isinstance(mount, Bind)
        else _tmpfs(spec, mount)
        for mount in in_order(spec.mounts)
    ]


def _options(spec: Spec, mount: Bind) -> list[str]:
    kind = os.stat(mount.source if mount.fd < 0 else mount.fd).st_mode
    shut = spec.security == "sandbox" and not (stat.S_ISCHR(kind) or stat.S_ISBLK(kind))
    return ["ro" if mount.readonly else "rw", *(["nodev"] if shut else [])]


def _tmpfs(spec: Spec, mount: Tmpfs) -> dict[str, Any]:
    """What the words undo is left out: crun heeds the first of two that contradict each other."""
    usual = [word for word in ("nosuid", "noexec", "nodev") if word.removeprefix("no") not in mount.words]
    options = [*usual, f"mode={mount.mode:o}"]
    if mount.size is not None:
        options.append(f"size={mount.size}")
    options += [*mount.words, *(["nodev"] if spec.security == "sandbox" else [])]
    return {"destination": mount.target, "type": "tmpfs", "source": "tmpfs", "options": options}


def _limit(limit: Limit) -> dict[str, Any]:
    soft, hard = (value if value != NONE else (1 << 64) - 1 for value in (limit.soft, limit.hard))
    return {"type": f"RLIMIT_{limit.name.upper()}", "soft": soft, "hard": hard}


def _hidden() -> dict[str, Any]:
    return {"maskedPaths": [*native.MASKED, *native.MASKED_SYS], "readonlyPaths": native.READONLY}
