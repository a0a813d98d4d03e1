"""``exec``: one more program in a running container.

A process of ours enters the namespaces of the container's first process and starts the program there, with the same
limits as the first one has. Before it enters, it has closed every descriptor but its own and cannot be looked into
(PR_SET_DUMPABLE), so that nothing in the container gets hold of its files or its program (CVE-2019-5736, CVE-2016-9962,
CVE-2024-21626); the working directory is entered after that and must lie in the root. What is executed is found in
steps that nobody in the container can lead astray, unless the profile that was given refuses execveat(2).
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

from fastlayer._values import NamedTuple
from fastlayer.container import chrooted, containers, state
from fastlayer.container.kernelside import shared
from fastlayer.errors import FastlayerError, RunError, UsageError
from fastlayer.running.capabilities import changed

if TYPE_CHECKING:
    from fastlayer.container.client import Socket
    from fastlayer.container.containers import Container
    from fastlayer.running.spec import Spec
    from fastlayer.running.watched import Begun, Streams
    from fastlayer.store.store import Store

_USER = 0x10000000
_SPACES = {"mnt": 0x20000, "cgroup": 0x2000000, "uts": 0x4000000, "ipc": 0x8000000, "pid": 0x20000000}
_SPACES |= {"user": _USER, "net": 0x40000000}
_NOT_EXECUTED = 126
_PATIENCE = 1.0  # seconds: processes end within milliseconds


class ExecOptions(NamedTuple):
    """``user``, ``workdir``: empty: the container's. ``env``: besides the container's."""

    user: str = ""
    workdir: str = ""
    env: Sequence[str] = ()
    tty: bool = False
    interactive: bool = False
    privileged: bool = False


def execute(
    store: Store,
    container: Container,
    command: Sequence[str],
    options: ExecOptions | None = None,
    *,
    attached: Socket | None = None,
    size: tuple[int, int] = (0, 0),
) -> Begun:
    """Starts a program; returns when it has been executed.

    Raises ``RunError``: with exit code 126 or 127 when the program cannot be executed as it was asked for.
    """
    options = options or ExecOptions()
    if not command or not command[0]:
        raise UsageError("there is no program to run: name one after the container")
    if options.workdir and not options.workdir.startswith("/"):
        raise UsageError(f"{options.workdir}: the working directory of a program must be absolute")
    found = state.state_of(containers.directory_of(store, container.id))
    if not found.running:
        raise RunError(f"Container {container.short_id} is not running: `fastlayer start {container.name}` first")
    if found.status == "paused":
        raise RunError(f"Container {container.name} is paused: `fastlayer unpause` it before exec")
    with ExitStack() as ends:
        made = _Exec(store, container, found.pid, options, ends)
        store.take_back_room()
        try:
            return made.begin(command, attached, size)
        except FastlayerError as exc:
            exc.exit_code = getattr(exc, "status", None) or _NOT_EXECUTED
            raise


class _Exec:
    def __init__(self, store: Store, container: Container, pid: int, options: ExecOptions, ends: ExitStack) -> None:
        self._record = containers.config_of(store, container)
        self._directory = containers.directory_of(store, container.id)
        self._name = container.name
        self._options = options
        self._ends = ends
        self._pid = pid
        if pid <= 0:
            raise RunError(f"Container {container.short_id} is not running: it has just begun, or just ended")
        try:
            self._process = self._keep(os.pidfd_open(pid))
            self._root = self._keep(os.open(f"/proc/{pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
        except OSError as exc:
            if exc.errno in (errno.ESRCH, errno.ENOENT):  # nobody has that number, or a dead one
                raise self._gone(container) from None
            raise RunError(f"container {container.name}: its first process cannot be reached: {exc.strerror}") from exc
        self._shared = shared(self._record["HostConfig"])
        self._chroot = chrooted.root_of(self._directory) is not None
        apart = () if self._chroot else ("mnt", "pid") if "pid" not in self._shared else ("mnt",)
        try:
            is_here = any(map(self._is_here, apart))
            self._flags = self._spaces()
        except OSError:
            raise self._gone(container) from None
        if is_here:
            raise RunError(f"container {container.name}: process {pid} is in our own namespaces: start it again")
        if not state.state_of(self._directory).running:  # else the number may be another's by now
            raise self._gone(container)
        self._container = container

    @staticmethod
    def _gone(container: Container) -> RunError:
        return RunError(f"Container {container.short_id} is not running: it has just ended")

    def _has_ended(self, seconds: float) -> bool:
        """Its first process; a descriptor of one can be read then (pidfd_open(2))."""
        import select

        return bool(select.select([self._process], [], [], seconds)[0])

    def _keep(self, fd: int) -> int:
        self._ends.callback(os.close, fd)
        return fd

    def begin(self, command: Sequence[str], attached: Socket | None, size: tuple[int, int]) -> Begun:
        from fastlayer.running import native, steps, watched
        from fastlayer.running.filters import may_make
        from fastlayer.running.steps import Plan, step

        options = self._options
        spec = self._spec(command)
        streams = watched.Streams(stdin=options.interactive, terminal=options.tty)
        self._ends.callback(streams.close)
        if self._chroot:
            return self._begin_in_chroot(spec, attached, streams, size)
        plan, rights = Plan(), native.Rights()
        self._ends.callback(plan.close)
        score = self._record["HostConfig"].get("OomScoreAdj")
        if score:  # of the keeper, and so of what it starts; the container's /proc may be anything
            plan.keeper.append(step(steps.WRITE, "/proc/self/oom_score_adj", str(score)))
        plan.whole_tree = "pid" in self._shared
        plan.keeper += [
            step(steps.HIDE),
            step(steps.SETNS, slot=plan.slot(os.dup(self._process)), number=self._flags),
        ]
        if self._is_of_another_user():
            plan.keeper.append(step(steps.ROOT_IDS))
        for fd in self._cgroups():
            plan.child.append(step(steps.JOIN, slot=plan.slot(fd)))
        ours = self._terminal(plan) if options.tty else -1
        program = native.program_of(spec, rights, streams.given)._replace(apart=may_make(spec, "execveat"))
        watch = watched.Watch(client=-1 if attached is None else attached.fileno(), stdin_once=True, size=size)
        try:
            return watched.start(plan, program, watch, streams, terminal=ours)
        except RunError as exc:
            ends = exc.errnum in (errno.ESRCH, errno.ENOMEM)  # as setns(2) and fork(2) say while it does
            if self._has_ended(_PATIENCE if ends else 0.0):
                raise self._gone(self._container) from exc
            raise

    def _begin_in_chroot(self, spec: Spec, attached: Socket | None, streams: Streams, size: tuple[int, int]) -> Begun:
        """There is no namespace to enter; its root it cannot leave either."""
        from fastlayer.running import chroot, steps, watched
        from fastlayer.running.steps import step

        plan, program = chroot.prepared(spec, os.dup(self._root), streams.given)
        self._ends.callback(plan.close)
        plan.child[:0] = [step(steps.JOIN, slot=plan.slot(fd)) for fd in self._cgroups()]
        master = self._keep(chrooted.terminal_of_host(plan)) if self._options.tty else -1
        watch = watched.Watch(client=-1 if attached is None else attached.fileno(), stdin_once=True, size=size)
        return watched.start(plan, program, watch, streams, master=master)

    def _terminal(self, plan: object) -> int:
        from fastlayer.container import client
        from fastlayer.running import native
        from fastlayer.running.steps import Plan

        assert isinstance(plan, Plan)
        ours, theirs = client.stream_pair()
        self._ends.callback(ours.close)
        self._ends.callback(theirs.close)
        native.make_terminal(plan, theirs.fileno())
        return ours.fileno()

    def _spaces(self) -> int:
        return sum(flag for name, flag in _SPACES.items() if not self._is_here(name))

    def _is_here(self, name: str) -> bool:
        """Whether its namespace is ours: then there is none to enter."""
        return os.path.samestat(os.stat(f"/proc/{self._pid}/ns/{name}"), os.stat(f"/proc/self/ns/{name}"))

    def _is_of_another_user(self) -> bool:
        return bool(self._flags & _USER)

    def _cgroups(self) -> list[int]:
        """Those of the container, to be joined by the program."""
        found = []
        for path in state.cgroups_of(self._directory):
            try:
                found.append(os.open(f"{path}/cgroup.procs", os.O_WRONLY | os.O_CLOEXEC))
            except OSError as exc:
                if self._has_ended(0.0):
                    raise self._gone(self._container) from exc
                raise RunError(f"container {self._name}: cannot enter its cgroup {path}: {exc.strerror}") from exc
        return found

    def _spec(self, command: Sequence[str]) -> Spec:
        from fastlayer.running import inroot, users
        from fastlayer.running.limits import Limit
        from fastlayer.running.security import parse_security_options
        from fastlayer.running.spec import Ids, Spec, check, directory

        config, host = self._record["Config"], self._record["HostConfig"]
        options = self._options
        user = users.resolve(options.user or config["User"], lambda path: inroot.read_file(self._root, path))
        groups = tuple(dict.fromkeys((user.gid, *user.groups)))
        secured = parse_security_options(host["SecurityOpt"] or ())
        spec = Spec(
            root=directory("/"),
            args=list(command),
            env=self._environment(user.home),
            cwd=options.workdir or config["WorkingDir"] or "/",
            user=Ids(user.uid, user.gid, groups),
            security="insecure" if host["Privileged"] or options.privileged else "sandbox",
            capabilities=changed(host["CapAdd"] or (), host["CapDrop"] or ()),
            seccomp=secured.seccomp,
            no_new_privileges=secured.no_new_privileges,
            limits=tuple(Limit(each["Name"], each["Soft"], each["Hard"]) for each in host["Ulimits"]),
        )
        check(spec)
        return spec

    def _environment(self, home: str) -> list[str]:
        from fastlayer.running.spec import DEFAULT_PATH

        config = self._record["Config"]
        found = {"PATH": DEFAULT_PATH, "HOSTNAME": config["Hostname"]}
        if self._options.tty or config["Tty"]:
            found["TERM"] = "xterm"
        for name, equals, value in (entry.partition("=") for entry in (*config["Env"], *self._options.env)):
            if equals:
                found[name] = value
            else:
                found.pop(name, None)
        found.setdefault("HOME", home)
        return [f"{name}={value}" for name, value in found.items()]
