"""Which stages of a Dockerfile are built, and what each one needs (Dockerfile reference, "FROM", "COPY --from").

Only what the target needs is built; stages that do not need each other can be built at the same time.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from fastlayer._values import NamedTuple
from fastlayer.builder.dockerfile.instructions import Arg, Copy, Run
from fastlayer.builder.dockerfile.mounts import source_of
from fastlayer.builder.dockerfile.shell import Budget, Lexer
from fastlayer.builder.dockerfile.stages import Dockerfile, Stage
from fastlayer.builder.dockerfile.values import nearest
from fastlayer.errors import DockerfileError

SCRATCH = "scratch"
_DIGITS = 9  # of the number of a stage, at most


class Needed(NamedTuple):
    """A stage that is built. ``base``: the number of the stage it goes on from; ``image``: else the name of an image,
    ``scratch`` for none; ``platform``: as FROM gives it, variables filled in; ``stages``: numbers of all stages that
    must be there before it; ``images``: what COPY --from and RUN --mount name besides."""

    stage: Stage
    base: int | None
    image: str
    platform: str
    stages: frozenset[int]
    images: frozenset[str]


class Plan(NamedTuple):
    """``needed``: in the order of the file, the target last; ``arguments``: the ARGs before the first FROM;
    ``unused``: names of variables that FROM asks for and nobody sets."""

    needed: tuple[Needed, ...]
    arguments: dict[str, str]
    unset: frozenset[str]


def plan(
    file: Dockerfile,
    target: str | None = None,
    given: Mapping[str, str] = MappingProxyType({}),
    platforms: Mapping[str, str] = MappingProxyType({}),
) -> Plan:
    """What has to be built for ``target`` (a stage's name or number; None: the last).

    ``given``: build arguments; ``platforms``: ``TARGETPLATFORM`` and the like, which FROM may use without an ARG.
    Raises ``DockerfileError`` for a target or stage that is not there, or comes later.
    """
    goal = file.stages[-1] if target is None else file.stage(target)
    if goal is None:
        names = [stage.begin.name for stage in file.stages if stage.begin.name]
        raise DockerfileError(f"{file.name}: no stage {target!r}{nearest(str(target), names)}")
    arguments = global_arguments(file, given, platforms)
    finder = _Finder(file, {**platforms, **arguments})
    found: dict[int, Needed] = {}
    waiting = [goal.number]
    while waiting:
        number = waiting.pop()
        if number not in found:
            found[number] = finder.needs(file.stages[number])
            waiting += found[number].stages
    return Plan(tuple(found[number] for number in sorted(found)), arguments, frozenset(finder.unset))


def needs(file: Dockerfile, number: int, values: Mapping[str, str]) -> Needed:
    """What one stage needs. ``values``: of the variables that FROM may use."""
    return _Finder(file, values).needs(file.stages[number])


def global_arguments(file: Dockerfile, given: Mapping[str, str], platforms: Mapping[str, str]) -> dict[str, str]:
    """The ARGs before the first FROM that have a value, each filled in with those before it."""
    lexer = Lexer(file.parsed.escape, budget=Budget())
    known, values = dict(platforms), dict[str, str]()
    for argument in file.arguments:
        for name, default in argument.values:
            if name in given:
                values[name] = given[name]
            elif default is not None:
                values[name] = _expanded(file, argument, lexer, default, known)
            elif name in platforms:
                values[name] = platforms[name]
            if name in values:
                known[name] = values[name]
    return values


def _expanded(file: Dockerfile, argument: Arg, lexer: Lexer, text: str, values: Mapping[str, str]) -> str:
    try:
        return lexer.word(text, values)
    except DockerfileError as exc:
        raise DockerfileError(f"{file.name}:{argument.at.start}: ARG {exc}") from None


class _Finder:
    def __init__(self, file: Dockerfile, values: Mapping[str, str]) -> None:
        self.unset: set[str] = set()
        self._file = file
        self._values = values
        self._lexer = Lexer(file.parsed.escape)

    def needs(self, stage: Stage) -> Needed:
        base, image, platform = self._base(stage)
        stages, images = {base} if base is not None else set(), set[str]()
        for command in stage.commands:
            for source in _sources(command):
                number = self._stage(stage, source, command.at.start)
                if number is None:
                    images.add(source)
                else:
                    stages.add(number)
        return Needed(stage, base, image, platform, frozenset(stages), frozenset(images))

    def _base(self, stage: Stage) -> tuple[int | None, str, str]:
        where = f"{self._file.name}:{stage.begin.at.start}"
        try:
            name = self._lexer.expand(stage.begin.base, self._values)
            platform = self._lexer.expand(stage.begin.platform, self._values)
        except DockerfileError as exc:
            raise DockerfileError(f"{where}: FROM {exc}") from None
        self.unset |= name.missing | platform.missing
        if not name.text:
            raise DockerfileError(f"{where}: FROM {stage.begin.base}: is empty: give the ARG before FROM a value")
        if stage.begin.platform and not platform.text:
            raise DockerfileError(f"{where}: --platform={stage.begin.platform}: is empty")
        for earlier in reversed(self._file.stages[: stage.number]):
            if earlier.begin.name and earlier.begin.name == name.text.lower():
                return earlier.number, "", platform.text
        return None, name.text, platform.text

    def _stage(self, stage: Stage, source: str, line: int) -> int | None:
        """The number of the stage that is meant; None: an image or a context."""
        earlier = [found for found in self._file.stages[: stage.number] if found.begin.name == source.lower()]
        if earlier:
            return earlier[-1].number
        if source.isascii() and source.isdigit():
            number = int(source[:_DIGITS])
            if len(source) < _DIGITS and number < stage.number:
                return number
        elif not any(found.begin.name == source.lower() for found in self._file.stages[stage.number :]):
            return None
        raise DockerfileError(f"{self._file.name}:{line}: from={source}: is no stage before this one: move it up")


def _sources(command: object) -> list[str]:
    if isinstance(command, Copy):
        return [command.source] if command.source else []
    if isinstance(command, Run):
        return [source for source in map(source_of, command.mounts) if source]
    return []
