"""A whole Dockerfile: its stages, and the ARGs before the first of them."""

from __future__ import annotations

from fastlayer._values import NamedTuple
from fastlayer.builder.dockerfile.instructions import Arg, Command, From, understand
from fastlayer.builder.dockerfile.parser import Parsed, parse
from fastlayer.errors import DockerfileError


class Stage(NamedTuple):
    """From one FROM to the next. ``number``: from 0, by which COPY --from can name it, too."""

    number: int
    begin: From
    commands: tuple[Command, ...]

    @property
    def name(self) -> str:
        """Its name, or its number."""
        return self.begin.name or str(self.number)


class Dockerfile(NamedTuple):
    """``arguments``: the ARGs before the first FROM."""

    name: str
    parsed: Parsed
    arguments: tuple[Arg, ...]
    stages: tuple[Stage, ...]

    def stage(self, wanted: str) -> Stage | None:
        """By name, the last of that name, or by number."""
        for stage in reversed(self.stages):
            if stage.begin.name and stage.begin.name == wanted.lower():
                return stage
        number = int(wanted) if wanted.isascii() and wanted.isdigit() and len(wanted) < 6 else -1
        return self.stages[number] if 0 <= number < len(self.stages) else None


def read(data: bytes, name: str = "Dockerfile") -> Dockerfile:
    """Everything a Dockerfile says. Raises ``DockerfileError``: ``name:line: what is wrong``."""
    parsed = parse(data, name)
    arguments: list[Arg] = []
    stages: list[tuple[From, list[Command]]] = []
    for instruction in parsed.instructions:
        try:
            found = understand(instruction)
            if isinstance(found, From):
                stages.append((found, []))
            elif stages:
                stages[-1][1].append(found)
            elif isinstance(found, Arg):
                arguments.append(found)
            else:
                raise DockerfileError(f"{instruction.keyword.upper()} before the first FROM: only ARG can be there")
        except DockerfileError as exc:
            raise DockerfileError(f"{name}:{instruction.start}: {exc}") from None
    if not stages:
        raise DockerfileError(f"{name}: has no FROM: nothing can be built")
    return Dockerfile(
        name,
        parsed,
        tuple(arguments),
        tuple(Stage(number, begin, tuple(commands)) for number, (begin, commands) in enumerate(stages)),
    )
