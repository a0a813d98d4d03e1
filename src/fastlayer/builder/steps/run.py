"""RUN: a command in the files of the stage; what it writes is the layer."""

from __future__ import annotations

import os
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from fastlayer.builder.dockerfile.instructions import Run
from fastlayer.builder.effects import proxies
from fastlayer.builder.leave import check_leave
from fastlayer.builder.steps.commandline import SCRIPTS, CommandWords, command_words, history_text
from fastlayer.builder.steps.lower import opened
from fastlayer.builder.steps.output import Output
from fastlayer.builder.steps.rundevices import Devices
from fastlayer.builder.steps.runmounts import Mounts
from fastlayer.builder.steps.step import Task, carry_out
from fastlayer.builder.steps.written import freeze
from fastlayer.errors import BuildError, FastlayerError

if TYPE_CHECKING:
    from fastlayer.builder.stage import StageRun
    from fastlayer.builder.state import State
    from fastlayer.image.images import LayerInfo
    from fastlayer.running.isolation import Isolation
    from fastlayer.running.spec import Spec

_NOT_FOUND, _NOT_EXECUTABLE = 127, 126


def run_step(stage: StageRun, task: Task, command: Run, line: int) -> State:
    """The state with what the command wrote. Raises ``BuildError`` when it fails."""
    words = command_words(task.state, command)
    with ExitStack() as ends:
        work = _Run(stage, task, command, words, line, ends)
        return carry_out(work.task, work.inputs(), work.do)


class _Run:
    def __init__(
        self, stage: StageRun, task: Task, command: Run, words: CommandWords, line: int, ends: ExitStack
    ) -> None:
        self.task = task._replace(history=history_text(task.state, words.words))
        self.shop = task.shop
        self.state = task.state
        self.command = command
        self.words = words
        self.line = line
        check_leave(command, self.shop.options.leave, self.shop.options.network)
        self.mounts = Mounts(stage, task, command, ends)
        self.devices = Devices(self.shop, command)
        self._file = stage.solver.file.name
        self._network = command.network if command.network != "default" else self.shop.options.network

    def inputs(self) -> dict[str, Any]:
        """Everything that decides what it writes, as far as that can be known. Secrets and proxies do not count."""
        return {
            "step": "run",
            "parent": self.state.chain,
            "args": list(self.words.words),
            "script": self.words.script[1].decode("utf-8", "surrogateescape") if self.words.script else None,
            "env": dict(self.state.env),
            "cwd": self.state.directory,
            "user": self.state.run.user,
            "mounts": self.mounts.inputs(),
            "network": self._network,
            "security": self.command.security,
            "hosts": [list(host) for host in self.shop.options.hosts],
            "platform": str(self.state.platform),
            "epoch": self.shop.options.epoch,
            **self._limits(),
            **self.devices.inputs(),
        }

    def _limits(self) -> dict[str, Any]:
        """Those that the build was given."""
        options = self.shop.options
        found: dict[str, Any] = {}
        if options.limits:
            found["ulimits"] = sorted(map(str, options.limits))
        if options.capabilities is not None:
            found["capabilities"] = f"{options.capabilities:x}"
        return found

    def do(self) -> LayerInfo | None:
        shop = self.shop
        isolation = self._isolation()
        key = shop.new_key()
        snapshotter = shop.snapshotter
        snapshotter.prepare(key, shop.ensure(self.state), lease=shop.lease)
        try:
            self._run(key, isolation)
            shop.check()
            return freeze(shop, self.state, key)
        except BaseException:
            if snapshotter.exists(key):
                shop.store.make_room()  # for a step that filled the disk: it is its error that is told
                snapshotter.remove(key)
            raise

    def _isolation(self) -> Isolation:
        """The first step that runs tells when it is not that which is tried first, and why."""
        from fastlayer.running.isolation import passed_over

        found = self.shop.isolation
        others = passed_over(found.name, self.shop.options.isolation)
        if others:
            self.shop.once("isolation is told", lambda _: self.task.work.note(f"isolation {found.name} ({others})"))
        return found

    def _run(self, key: str, isolation: Isolation) -> None:
        from fastlayer.running.spec import Ids, Spec

        shop = self.shop
        with opened(shop, self.state) as lower:
            found = lower.user(self.state.run.user) if self.state.run.user else None
        home = {"HOME": found.home} if found is not None and found.home else {}
        env = {**home, **proxies(shop.given), **self.state.env}
        with ExitStack() as ends, Output(self.task.work) as output:
            mounts, variables = self.mounts.made(ends)
            spec = self._allowed(
                Spec(
                    root=shop.snapshotter.ready(key),
                    args=self.words.words,
                    env=tuple(f"{name}={value}" for name, value in {**env, **variables}.items()),
                    cwd=self.state.directory,
                    user=Ids(found.uid, found.gid, _groups(found)) if found is not None else Ids(groups=(0,)),
                    mounts=(*mounts, *self._script()),
                    hosts=shop.options.hosts,
                    network=self._network,  # type: ignore[arg-type]
                    security=self.command.security,  # type: ignore[arg-type]
                    shm_size=shop.options.shm_size or 64 << 20,
                )
            )
            try:
                status = isolation.run(spec, stdout=output.stdout, stderr=output.stderr, stop=shop.stop)
            except FastlayerError as exc:
                raise BuildError(f"{self._where()}: {exc}", line=self.line, cause=exc) from exc
        if status:
            shop.check()
            raise BuildError(f"{self._where()}: {_said(status)}", line=self.line, status=status, output=output.tail())

    def _allowed(self, spec: Spec) -> Spec:
        """With what the options of the build give and take."""
        options = self.shop.options
        if options.security is not None:
            spec = spec._replace(seccomp=options.security.seccomp, no_new_privileges=options.security.no_new_privileges)
        if options.capabilities is not None:
            spec = spec._replace(capabilities=options.capabilities)
        edits = self.devices.edits()
        if edits is not None:
            groups = tuple(dict.fromkeys((*spec.user.groups, *edits.groups)))
            names = {entry.partition("=")[0] for entry in edits.env}
            spec = spec._replace(
                env=(*(entry for entry in spec.env if entry.partition("=")[0] not in names), *edits.env),
                mounts=(*spec.mounts, *edits.mounts),
                devices=edits.devices,
                user=spec.user._replace(groups=groups),
            )
        return spec._replace(limits=options.limits)

    def _script(self) -> list[Any]:
        """A here-document with an interpreter line, as a file that the command can execute."""
        from fastlayer.running.spec import Bind

        if self.words.script is None:
            return []
        name, data = self.words.script
        place = self.shop.directory()
        place.chmod(0o755)
        fd = os.open(place / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o755)
        with os.fdopen(fd, "wb") as file:
            os.fchmod(fd, 0o755)
            file.write(data)
        return [Bind(os.fspath(place), SCRIPTS, readonly=True)]

    def _where(self) -> str:
        text = " ".join(self.command.at.original.split())
        return f"{self._file}:{self.line}: {text if len(text) <= 120 else text[:117] + '...'}"


def _groups(found: Any) -> tuple[int, ...]:
    """The supplementary groups, with the first one among them, as Docker has it (CVE-2022-36109)."""
    return tuple(dict.fromkeys((found.gid, *found.groups)))


def _said(status: int) -> str:
    """An exit status in words (Docker: 126 and 127 are the engine's and the shell's)."""
    if status > 128:
        import signal

        try:
            return f"was ended by {signal.Signals(status - 128).name} (exit status {status})"
        except ValueError:
            pass
    why = {_NOT_FOUND: ": a command was not found", _NOT_EXECUTABLE: ": a file cannot be executed"}.get(status, "")
    return f"exit status {status}{why}"
