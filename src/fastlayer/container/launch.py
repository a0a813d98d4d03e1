"""``start``: from what is written down about a container to its running program."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from fastlayer.container import client, containers, logs, state, volumes, writable
from fastlayer.container.alone import alone
from fastlayer.container.mounted import refuse_mounted
from fastlayer.container.mountoptions import of_record
from fastlayer.errors import FastlayerError, InUseError, RunError
from fastlayer.running.capabilities import changed

if TYPE_CHECKING:
    from fastlayer.container.client import Socket
    from fastlayer.container.containers import Container
    from fastlayer.container.mountoptions import MountOption
    from fastlayer.mounts.mount import Mount
    from fastlayer.running.spec import Bind, Spec, Tmpfs
    from fastlayer.running.users import Ids as User
    from fastlayer.running.watched import Begun
    from fastlayer.store.store import Store

_FILES = ("/etc/resolv.conf", "/etc/hosts", "/etc/hostname")
_FAILED = 128  # exit status of a container that could not be started, as Docker writes it down


def start(
    store: Store,
    container: Container,
    *,
    attached: Socket | None = None,
    size: tuple[int, int] = (0, 0),
    warnings: list[str] | None = None,
) -> Begun:
    """Starts it; returns when its program has been executed.

    ``attached``: the monitor's end of a connection (``client.pair``) that has all of its output. ``size``: rows and
    columns of its terminal. Raises ``InUseError`` when it runs, or its layer is mounted; ``RunError`` when it cannot be
    started, which is written down; one that was not to stay goes then.
    """
    try:
        return _start(store, container, attached, size, [] if warnings is None else warnings)
    except FastlayerError:
        if container.auto_remove and state.has_failed(containers.directory_of(store, container.id)):
            from fastlayer.container import lifecycle

            with suppress(FastlayerError):
                lifecycle.remove(store, container)
        raise


def _start(
    store: Store, container: Container, attached: Socket | None, size: tuple[int, int], warnings: list[str]
) -> Begun:
    layer = writable.of_container(store, container.id)
    directory = containers.directory_of(store, container.id)
    with ExitStack() as ends:
        ends.enter_context(alone(store, layer.name))
        if state.state_of(directory).running:
            raise InUseError(f"container {container.name}: is running already")
        refuse_mounted(store, layer)
        lock = state.lock(directory, container.name)
        ends.callback(os.close, lock)
        config = containers.config_of(store, container)
        _clear(directory)
        if _has_volumes(config):
            volumes.give_back(store, container.id)  # of a life that was cut off
        try:
            return _Launch(store, container, config, ends, warnings).begin(lock, attached, size)
        except FastlayerError as exc:
            status = getattr(exc, "status", None) or _FAILED
            state.note_failure(directory, status, str(exc))
            with suppress(FastlayerError):
                if _has_volumes(config):
                    volumes.give_back(store, container.id)
            raise


def _has_volumes(record: Mapping[str, Any]) -> bool:
    return any(row["kind"] == "volume" for row in record["MountOptions"])


def _clear(directory: Any) -> None:
    state.begin(directory)
    if (directory / "bundle").exists():
        import shutil

        shutil.rmtree(directory / "bundle", ignore_errors=True)
    left = state.cgroups_of(directory)
    if left:
        from fastlayer.running import cgroups

        cgroups.remove(left)
        (directory / "cgroup").unlink(missing_ok=True)


class _Launch:
    """One start."""

    def __init__(
        self, store: Store, container: Container, record: Mapping[str, Any], ends: ExitStack, warnings: list[str]
    ) -> None:
        from fastlayer.container.userns import rights_of

        self._store = store
        self._container = container
        self._record = record
        self._config: Mapping[str, Any] = record["Config"]
        self._host: Mapping[str, Any] = record["HostConfig"]
        self._ends = ends
        self._warnings = warnings
        self._rights = rights_of(store, container, self._host)
        self._directory = containers.directory_of(store, container.id)

    def begin(self, lock: int, attached: Socket | None, size: tuple[int, int]) -> Begun:
        from fastlayer.running.watched import Streams, Watch

        tty = bool(self._config["Tty"])
        place = self._keep(os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
        limits = self._cgroups()
        ours, theirs = self._terminal(tty)
        streams = Streams(stdin=bool(self._config["OpenStdin"]), terminal=tty)
        self._ends.callback(streams.close)
        listener = client.listen(place)
        self._ends.callback(listener.close)
        log_size, log_files = self._log()
        watch = Watch(
            directory=place,
            lock=lock,
            listener=listener.fileno(),
            client=-1 if attached is None else attached.fileno(),
            stdin_once=bool(self._config["StdinOnce"]) and attached is not None,
            log_size=log_size,
            log_files=log_files,
            size=size,
            oom=limits.oom,
            cgroups=limits.paths,
            **self._cleanup(),
        )
        try:
            spec = self._spec(theirs)._replace(cgroups=limits.procs, size=size)
            self._store.take_back_room()
            return self._run(spec, watch, streams, ours)
        except BaseException:
            self._drop_cgroups(limits.paths)
            raise

    def _keep(self, fd: int) -> int:
        self._ends.callback(os.close, fd)
        return fd

    def _terminal(self, tty: bool) -> tuple[int, int]:
        """Our end, and the program's, of the socket that the master of a terminal comes through."""
        if not tty:
            return -1, -1
        ours, theirs = client.stream_pair()
        self._ends.callback(ours.close)
        self._ends.callback(theirs.close)
        return ours.fileno(), theirs.fileno()

    def _log(self) -> tuple[int, int]:
        how = self._host["LogConfig"]
        return (0, 0) if how["Type"] == "none" else logs.rotation(how["Config"])

    def _cleanup(self) -> dict[str, Any]:
        """What removes an unattended container that is not to stay, or gives the volumes of another back."""
        if not (self._container.auto_remove or _has_volumes(self._record)):
            return {}
        words = [sys.executable, "-m", "fastlayer.container.cleanup", os.fspath(self._store.root), self._container.id]
        kept = [f"{name}={value}" for name, value in os.environ.items() if name.startswith(("PYTHON", "FASTLAYER"))]
        return {"cleanup": words, "environment": [*kept, f"PATH={os.environ.get('PATH', os.defpath)}"]}

    # ---- limits ------------------------------------------------------------------------------

    def _cgroups(self) -> Any:
        from fastlayer.running import cgroups

        host = self._host
        wanted = cgroups.Limits(
            host["Memory"],
            host["MemorySwap"] if host["Memory"] else 0,
            host["NanoCpus"] / 1e9,
            host["CpuShares"],
            host["CpusetCpus"],
            max(0, host["PidsLimit"] or 0),
            host.get("CpuPeriod", 0),
            host.get("CpuQuota", 0),
            host.get("CpusetMems", ""),
            host.get("MemoryReservation", 0),
        )
        made = cgroups.make(self._container.id, wanted, partial(state.write_json, self._directory / "cgroup"))
        self._ends.callback(made.close)
        self._warnings += made.warnings
        return made

    def _drop_cgroups(self, paths: Sequence[str]) -> None:
        if paths:
            from fastlayer.running import cgroups

            cgroups.remove(paths)
            (self._directory / "cgroup").unlink(missing_ok=True)

    # ---- the program -------------------------------------------------------------------------

    def _spec(self, terminal: int) -> Spec:
        from fastlayer.container.kernelside import kernel_side
        from fastlayer.running.limits import Limit
        from fastlayer.running.security import parse_security_options
        from fastlayer.running.spec import Ids, Spec

        config, host = self._config, self._host
        mounts, fds = self._root()
        user = self._user(mounts, fds)
        secured = parse_security_options(host["SecurityOpt"] or ())
        hostname = config["Hostname"]
        words = [self._record["Path"], *self._record["Args"]]
        return Spec(
            root=mounts,
            root_fds=fds,
            args=self._with_init(words),
            env=self._environment(user),
            cwd=config["WorkingDir"] or "/",
            user=Ids(user.uid, user.gid, user.groups),
            mounts=self._mounts(),
            hostname=hostname,
            hosts=tuple(_host(entry) for entry in host["ExtraHosts"] or ()),
            network=host["NetworkMode"],
            security="insecure" if host["Privileged"] else "sandbox",
            capabilities=changed(host["CapAdd"] or (), host["CapDrop"] or ()),
            seccomp=secured.seccomp,
            no_new_privileges=secured.no_new_privileges,
            limits=tuple(Limit(each["Name"], each["Soft"], each["Hard"]) for each in host["Ulimits"]),
            devices=self._devices(),
            shm_size=host["ShmSize"],
            readonly=bool(host["ReadonlyRootfs"]),
            without=self._missing_files(mounts, fds) if host.get("ReadonlyImage") else (),
            files=(("/etc/hostname", f"{hostname}\n"),),
            terminal=terminal,
            lasting=True,
            **kernel_side(config, host),
        )

    def _root(self) -> tuple[Sequence[Mount], tuple[int, ...]]:
        """The mounts of the root, and those of them that could be made already."""
        from fastlayer.mounts import mounting

        layer = writable.of_container(self._store, self._container.id)
        mounts = writable.snapshotter_of(self._store, layer).ready(layer.key)
        if self._rights.wants_namespace and not self._rights.remapped:
            return mounts, ()
        fds = []
        for value in mounts:
            fd = mounting.detached(value)
            if fd is None:
                break
            fds.append(self._keep(fd))
        return mounts, tuple(fds)

    def _user(self, mounts: Sequence[Mount], fds: Sequence[int]) -> User:
        """Whom ``User`` means in this root, with the groups asked for."""
        from fastlayer.running import inroot, users

        place, own = _tree_of(mounts, fds)
        try:

            def read(path: str) -> bytes | None:
                return None if place < 0 else inroot.read_file(place, path)

            found = users.resolve(self._config["User"], read)
            more = [users.resolve(f"0:{group}", read).gid for group in self._host["GroupAdd"] or ()]
        finally:
            if own:
                os.close(place)
        return found._replace(groups=tuple(dict.fromkeys((found.gid, *found.groups, *more))))

    def _missing_files(self, mounts: Sequence[Mount], fds: Sequence[int]) -> list[str]:
        """Of those that are shown in /etc: what the image lacks cannot be made in it."""
        from fastlayer.running import inroot

        place, own = _tree_of(mounts, fds)
        try:
            return [path for path in _FILES if place < 0 or inroot.read_file(place, path) is None]
        finally:
            if own:
                os.close(place)

    def _environment(self, user: User) -> list[str]:
        from fastlayer.running.spec import DEFAULT_PATH

        config = self._config
        found = {"PATH": DEFAULT_PATH, "HOSTNAME": config["Hostname"], **({"TERM": "xterm"} if config["Tty"] else {})}
        found.update(entry.partition("=")[::2] for entry in config["Env"] if "=" in entry)
        found.setdefault("HOME", user.home)
        return [f"{name}={value}" for name, value in found.items()]

    def _with_init(self, words: list[str]) -> list[str]:
        return ["/dev/init", "--", *words] if self._host["Init"] else words

    # ---- mounts ------------------------------------------------------------------------------

    def _mounts(self) -> list[Bind | Tmpfs]:
        found = [self._mount(number, of_record(row)) for number, row in enumerate(self._record["MountOptions"])]
        if self._host["Init"]:
            from fastlayer.running.spec import Bind

            found.append(Bind(_init_program(), "/dev/init"))
        return found

    def _mount(self, number: int, mount: MountOption) -> Bind | Tmpfs:
        from fastlayer.running.spec import Bind, Tmpfs

        if mount.kind == "tmpfs":
            words = ("ro",) if mount.readonly and "ro" not in mount.words else ()
            return Tmpfs(mount.target, mount.size, mount.mode, (*mount.words, *words))
        if mount.kind == "image":
            from fastlayer.container import imagemounts

            shown = imagemounts.show(self._store, self._container.id, number, mount, self._warnings)
            self._keep(shown.fd)
            return Bind("", mount.target, fd=shown.fd, subdirectory=shown.subdirectory, is_file=shown.is_file)
        if mount.kind == "volume":
            place = volumes.directory_of_volume(self._store, self._container.id, mount)
            if self._rights.remapped:
                from fastlayer.container.userns import mapped

                return Bind("", mount.target, mount.readonly, fd=self._keep(mapped(place, self._rights)))
            return Bind(place, mount.target, mount.readonly)
        if mount.make and not os.path.exists(mount.source):
            _make_source(mount.source)
        return Bind(
            mount.source,
            mount.target,
            mount.readonly,
            recursive=mount.recursive != "disabled",
            readonly_below=mount.recursive != "writable",
            propagation=_propagation(mount),
        )

    def _devices(self) -> tuple[Any, ...]:
        from fastlayer.running.spec import Device

        found = [Device(each["PathOnHost"], each["PathInContainer"]) for each in self._host["Devices"]]
        if self._host["Privileged"]:
            known = {device.target for device in found}
            found += [Device(path, path) for path in _host_devices() if path not in known]
        return tuple(found)

    # ---- starting ----------------------------------------------------------------------------

    def _run(self, spec: Spec, watch: Any, streams: Any, terminal: int) -> Begun:
        from fastlayer.running.spec import check

        check(spec)
        first: RunError | None = None
        for runtime in _runtimes(self._host["Runtime"]):
            try:
                if runtime == "native":
                    return self._native(spec, watch, streams, terminal)
                if self._rights.remapped:
                    raise RunError(f"--userns auto: {runtime} cannot be used with it", remedy="use --runtime native")
                if runtime == "chroot":
                    return self._chroot(spec, watch, streams)
                return self._oci(runtime, spec, watch, streams)
            except RunError as exc:
                if exc.status is not None or not exc.remedy:
                    raise first or exc from None
                first = first or exc  # another one may be allowed what this one is not
        if first is None:
            raise RunError("there is no way to run a container here")
        if not self._host["Runtime"] and "namespaces" in first.remedy:
            raise RunError(first.message, remedy=f"{first.remedy}; or --runtime chroot, which needs none") from first
        raise first

    def _native(self, spec: Spec, watch: Any, streams: Any, terminal: int) -> Begun:
        from fastlayer.running import native, watched

        program = native.program_of(spec, self._rights, streams.given)
        plan = native.plan_of(spec, self._rights)
        try:
            return watched.start(plan, program, watch, streams, terminal=terminal, maps=self._maps())
        finally:
            plan.close()

    def _chroot(self, spec: Spec, watch: Any, streams: Any) -> Begun:
        from fastlayer.container.chrooted import begin

        return begin(spec._replace(root_fds=()), self._directory, watch, streams)

    def _maps(self) -> Any:
        return self._rights.maps if self._rights.wants_namespace else None

    def _oci(self, wanted: str, spec: Spec, watch: Any, streams: Any) -> Begun:
        from fastlayer.container.ociruntime import begin

        return begin(wanted, spec, self._rights, os.fspath(self._directory / "bundle"), watch, streams)


def _runtimes(wanted: str) -> tuple[str, ...]:
    """Chroot alone is for those who ask for it: it hides nothing of the host."""
    wanted = wanted or os.environ.get("FASTLAYER_ISOLATION") or ""
    return (wanted,) if wanted else ("native", "oci")


def _make_source(path: str) -> None:
    try:
        os.makedirs(path, exist_ok=True)
    except OSError as exc:
        why = f"error while creating mount source path {path!r}: {exc.strerror}"
        raise RunError(f"{why}: make it, or name another") from exc


def _propagation(mount: MountOption) -> Literal["private", "slave", "shared"]:
    """Raises ``RunError`` where the host itself passes nothing on."""
    from fastlayer.mounts import table

    word = mount.propagation.removeprefix("r")
    if word not in ("shared", "slave"):
        return "private"
    known = table.identity(mount.source, plain=True)
    found = [entry for entry in table.entries() if known is not None and entry.number == known.number]
    wanted = ("shared:",) if word == "shared" else ("shared:", "master:")
    if not any(tag.startswith(wanted) for entry in found for tag in entry.tags):
        kind = "shared" if word == "shared" else "shared or slave"
        place = os.fsdecode(found[0].target) if found else "something"
        raise RunError(
            f"path {mount.source} is mounted on {place} but it is not a {kind} mount: mount --make-{word} it"
        )
    return "shared" if word == "shared" else "slave"


def _tree_of(mounts: Sequence[Mount], fds: Sequence[int]) -> tuple[int, bool]:
    """An open directory in which the root's files can be looked up, and whether it is the caller's to close.

    Without a mount: the layer that has the users' file, the topmost first.
    """
    if fds:
        part = mounts[len(fds) - 1].subdirectory
        if not part:
            return fds[-1], False
        return os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=fds[-1]), True
    places = [option.partition("=")[2] for option in mounts[0].options if option.startswith("upperdir=")]
    places += mounts[0].lowers or ([mounts[0].source] if mounts[0].type == "bind" else [])
    for place in places:
        if os.path.lexists(os.path.join(place, "etc/passwd")):
            return os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC), True
    return -1, False


def _host(entry: str) -> tuple[str, str]:
    name, _, address = entry.partition(":")
    return name, address


def _host_devices() -> list[str]:
    """Those of the host's /dev, without terminals and what a container has of its own."""
    import stat

    own = {"console", "ptmx", "null", "zero", "full", "random", "urandom", "tty"}
    found = []
    for entry in os.scandir("/dev"):
        mode = entry.stat(follow_symlinks=False).st_mode
        if entry.name not in own and (stat.S_ISCHR(mode) or stat.S_ISBLK(mode)):
            found.append(entry.path)
    return sorted(found)[:256]


def _init_program() -> str:
    """A static init for ``--init``: where Docker and podman have theirs."""
    from fastlayer.running import idmaps

    for name in ("docker-init", "tini-static", "catatonit", "/usr/libexec/podman/catatonit", "tini"):
        path = name if name.startswith("/") and os.path.exists(name) else idmaps.find(name)
        if path and _is_static(path):
            return path
    raise RunError("--init needs a static init program: install tini (tini-static, docker-init) or catatonit")


def _is_static(path: str) -> bool:
    """Whether an ELF file names no interpreter (elf(5), PT_INTERP)."""
    with open(path, "rb") as file:
        head = file.read(1 << 16)
    if head[:4] != b"\x7fELF" or head[4] != 2:
        return False
    start, size, count = (int.from_bytes(head[at : at + n], sys.byteorder) for at, n in ((32, 8), (54, 2), (56, 2)))
    kinds = [int.from_bytes(head[start + i * size : start + i * size + 4], sys.byteorder) for i in range(count)]
    return 3 not in kinds
