"""One stage of a Dockerfile, from its base to its last instruction."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastlayer.builder import effects
from fastlayer.builder.bases import Base, of_image, of_stage
from fastlayer.builder.dockerfile import instructions as said
from fastlayer.builder.steps.step import Task
from fastlayer.builder.workshop import Stopped
from fastlayer.errors import BuildError, DockerfileError, FastlayerError

if TYPE_CHECKING:
    from fastlayer.builder.graph import Needed
    from fastlayer.builder.solver import Solver
    from fastlayer.builder.state import State
    from fastlayer.builder.workshop import Workshop

_SHOWN = (said.Run, said.Copy, said.Add, said.Workdir)  # what may change files: lines that people follow


class StageRun:
    """``label``: what stands before its steps: its name, or ``stage-1``; empty where there is only one."""

    def __init__(self, shop: Workshop, solver: Solver, needed: Needed, label: str) -> None:
        self.shop = shop
        self.solver = solver
        self.needed = needed
        self._label = label
        stage = needed.stage
        self._cached = not (shop.options.no_cache or stage.name.lower() in shop.options.no_cache_stages)
        self._step = 1
        self._steps = 1

    def run(self) -> State:
        """What the stage comes to. Raises errors with the line of the Dockerfile."""
        base = self._base()
        commands = (*base.triggers, *self.needed.stage.commands)
        self._steps = 1 + sum(isinstance(command, _SHOWN) for command in commands)
        line = self.needed.stage.begin.at.start
        with self.shop.journal.vertex(f"{self._prefix()}FROM {base.name}", line) as work:
            if base.state.layers:
                work.cached()
        state = base.state
        origin = "FROM " if base.directory else "ONBUILD "
        for number, command in enumerate(commands):
            self.shop.check()
            state = self._one(state, command, origin if number < len(base.triggers) else "")
        return state

    def number_of(self, name: str) -> int | None:
        """The number of the earlier stage that ``--from=name`` means; None: it is no stage."""
        return self.solver.number_of(self.needed.stage.number, name)

    def _base(self) -> Base:
        needed = self.needed
        where = f"{self.solver.file.name}:{needed.stage.begin.at.start}"
        try:
            if needed.base is not None:
                name = self.solver.file.stages[needed.base].name
                return of_stage(self.solver.state_of(needed.base), name, self.shop.given.escape)
            return of_image(self.shop, needed.image, needed.platform)
        except (BuildError, Stopped):
            raise
        except FastlayerError as exc:
            raise BuildError(f"{where}: FROM {needed.image or needed.base}: {exc}") from exc

    def _one(self, state: State, command: said.Command, origin: str) -> State:
        """An instruction; what goes wrong is said with its line. ``origin``: what it is there for when it does not
        stand in the file."""
        try:
            done = effects.effect(state, command, self.shop.given)
            return self._shown(state, command, origin) if done is None else done
        except (BuildError, Stopped):
            raise
        except DockerfileError as exc:
            raise DockerfileError(f"{self._where(command, origin)}: {exc}") from exc
        except FastlayerError as exc:
            text = f"{self._where(command, origin)}: {command.at.keyword.upper()}: {exc}"
            raise BuildError(text, cause=exc) from exc

    def _where(self, command: said.Command, origin: str) -> str:
        line = self.needed.stage.begin.at.start if origin else command.at.start
        return f"{self.solver.file.name}:{line}" + (" (ONBUILD of the base image)" * (origin == "ONBUILD "))

    def _shown(self, state: State, command: said.Command, origin: str) -> State:
        from fastlayer.builder.steps.copy import copy_step
        from fastlayer.builder.steps.run import run_step
        from fastlayer.builder.steps.workdir import workdir_step

        self._step += 1
        title = " ".join(command.at.original.split())
        line = self.needed.stage.begin.at.start if origin else command.at.start
        with self.shop.journal.vertex(f"{self._prefix()}{origin}{title}", line) as work:
            task = Task(self.shop, state, work, command.at.original, "", self._cached)
            if isinstance(command, said.Run):
                return run_step(self, task, command, line)
            if isinstance(command, (said.Copy, said.Add)):
                return copy_step(self, task, command)
            assert isinstance(command, said.Workdir)
            return workdir_step(task, command)

    def _prefix(self) -> str:
        width = len(str(self._steps))
        label = f"{self._label} " if self._label else ""
        return f"[{label}{self._step:>{width}}/{self._steps}] "
