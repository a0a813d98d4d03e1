"""Stages in the order in which they need each other, those that do not at the same time."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from fastlayer.builder.graph import Needed, Plan
from fastlayer.builder.stage import StageRun
from fastlayer.builder.workshop import Stopped
from fastlayer.errors import BuildError

if TYPE_CHECKING:
    from fastlayer.builder.dockerfile.stages import Dockerfile
    from fastlayer.builder.state import State
    from fastlayer.builder.workshop import Workshop

_THREADS = 8  # stages at work at the same time


class _Result:
    """Of one stage: there when ``done`` is set."""

    def __init__(self) -> None:
        self.done = threading.Event()
        self.state: State | None = None
        self.error: BaseException | None = None


class Solver:
    """The stages of one build. A stage needs earlier ones only, so whoever waits, waits for one that is under way."""

    def __init__(self, shop: Workshop, file: Dockerfile, plan: Plan) -> None:
        self.file = file
        self._shop = shop
        self._needed = {needed.stage.number: needed for needed in plan.needed}
        self._results: dict[int, _Result] = {}
        self._lock = threading.Lock()
        self._target = plan.needed[-1].stage.number
        self._several = len(file.stages) > 1

    def solve(self) -> State:
        """What the target comes to. The first error of any stage ends all others and is raised."""
        if len(self._needed) == 1:
            return self.state_of(self._target)
        threads = [
            threading.Thread(target=self._work, daemon=True) for _ in range(min(_THREADS, len(self._needed) - 1))
        ]
        for thread in threads:
            thread.start()
        try:
            self._work()
            return self.state_of(self._target)
        except BaseException:
            self._shop.stop.set()
            raise
        finally:
            for thread in threads:
                thread.join()

    def state_of(self, number: int) -> State:
        """What a stage comes to: made by the caller, unless another thread is at it."""
        result, mine = self._claim(number)
        if mine:
            self._make(number, result)
        while not result.done.wait(0.1):  # signals are heard in between
            pass
        if result.state is None:
            raise self._first_error(result.error)
        return result.state

    def number_of(self, before: int, name: str) -> int | None:
        """Of the stage of that name or number that comes before the stage ``before``."""
        for stage in reversed(self.file.stages[:before]):
            if stage.begin.name and stage.begin.name == name.lower():
                return stage.number
        number = int(name) if name.isascii() and name.isdigit() and len(name) < 6 else -1
        return number if 0 <= number < before else None

    def _work(self) -> None:
        """Takes the next stage that nobody is at, the earliest first: others are at all that it needs, or were, so that
        no chain of stages is too long."""
        for number in sorted(self._needed):
            if self._shop.stop.is_set():
                return
            result, mine = self._claim(number)
            if mine:
                self._make(number, result)

    def _claim(self, number: int) -> tuple[_Result, bool]:
        with self._lock:
            mine = number not in self._results
            return self._results.setdefault(number, _Result()), mine

    def _make(self, number: int, result: _Result) -> None:
        try:
            result.state = StageRun(self._shop, self, self._stage(number), self._label(number)).run()
        except BaseException as exc:
            result.error = exc
            self._shop.stop.set()
            if not isinstance(exc, Exception):
                raise
        finally:
            result.done.set()

    def _first_error(self, error: BaseException | None) -> BaseException:
        """That others were stopped is no news: what stopped them is."""
        with self._lock:
            errors = [result.error for result in self._results.values() if result.error is not None]
        real = [found for found in errors if not isinstance(found, Stopped)]
        return real[0] if real else error or BuildError("a stage of the build was not done")

    def _stage(self, number: int) -> Needed:
        """Triggers of a base image may ask for stages that nothing else needs."""
        if number not in self._needed:
            from fastlayer.builder.graph import needs

            self._needed[number] = needs(self.file, number, self._shop.given.globals)
        return self._needed[number]

    def _label(self, number: int) -> str:
        if not self._several:
            return ""
        return self.file.stages[number].begin.name or f"stage-{number}"
