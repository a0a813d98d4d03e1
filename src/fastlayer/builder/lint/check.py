"""The checks of a Dockerfile: as a report of a file, or as warnings while it is built. Nothing is built or fetched."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from types import MappingProxyType

from fastlayer._values import NamedTuple
from fastlayer.builder.dockerfile.ignore import Matcher
from fastlayer.builder.dockerfile.instructions import understand
from fastlayer.builder.dockerfile.parser import Parsed, parse
from fastlayer.builder.dockerfile.stages import Dockerfile, read
from fastlayer.builder.graph import global_arguments, plan
from fastlayer.builder.lint import stages, written
from fastlayer.builder.lint.options import Options, options_of, wanted
from fastlayer.builder.lint.rules import LintWarning
from fastlayer.builder.lint.stages import Bases, Surroundings
from fastlayer.errors import DockerfileError
from fastlayer.oci.platform import host_platform

_NOTHING: Mapping[str, str] = MappingProxyType({})


class Report(NamedTuple):
    """What was found in the file ``name``. ``warnings``: by line; ``error``: why it cannot be built, empty when it can
    be, and ``error_line`` (0: none in particular); ``data``: the file."""

    name: str
    data: bytes
    warnings: tuple[LintWarning, ...]
    error: str = ""
    error_line: int = 0

    @property
    def clean(self) -> bool:
        return not self.warnings and not self.error


def check(
    data: bytes,
    name: str = "Dockerfile",
    *,
    target: str | None = None,
    arguments: Mapping[str, str] = _NOTHING,
    platforms: Mapping[str, str] | None = None,
    ignored: Iterable[str] | None = None,
    bases: Bases | None = None,
) -> Report:
    """All that is wrong or doubtful in a Dockerfile, errors too; nothing is raised for what it says.

    ``target``: only the stages that this one needs; None: all. ``arguments``: build arguments; ``platforms``:
    ``TARGETPLATFORM`` and the like, by default of this machine; ``ignored``: the patterns of ``.dockerignore``;
    ``bases``: what knows base images.
    """
    found: list[LintWarning] = []
    try:
        parsed = parse(data, name)
        options = options_of(parsed, arguments, name)
        found = _as_far_as_it_goes(parsed, options)
        file = read(data, name)
        predefined = predefined_platforms() if platforms is None else platforms
        needed = None if target is None else _numbers(file, target, arguments, predefined)
        found = warnings_of(
            file, stages=needed, arguments=arguments, platforms=predefined, ignored=ignored, bases=bases
        )
        plan(file, target, arguments, predefined)  # stages that are not there, bases that have no name
    except DockerfileError as exc:
        line = re.match(re.escape(name) + r":(\d+):", str(exc))
        return Report(name, data, tuple(found), str(exc), int(line[1]) if line else 0)
    return Report(name, data, tuple(found), _violation(options, found))


def warnings_of(
    file: Dockerfile,
    *,
    stages: Iterable[int] | None = None,
    arguments: Mapping[str, str] = _NOTHING,
    platforms: Mapping[str, str] | None = None,
    ignored: Iterable[str] | None = None,
    bases: Bases | None = None,
) -> list[LintWarning]:
    """The warnings of a file, by line. ``stages``: numbers of those that are built; None: all. The rest is ``check``'s.

    Raises ``DockerfileError`` for a ``check`` option that is none, and where the ARGs before FROM cannot be filled in.
    """
    options = options_of(file.parsed, arguments, file.name)
    if options.skip == {"all"} and not options.experimental:
        return []
    predefined = predefined_platforms() if platforms is None else platforms
    around = Surroundings(
        global_arguments(file, arguments, predefined),
        arguments,
        predefined,
        None if ignored is None else Matcher(ignored),
        bases or _unknown,
    )
    numbers = frozenset(range(len(file.stages)) if stages is None else stages)
    return wanted(_all(file, around, numbers), file.parsed, options)


def violation(file: Dockerfile, arguments: Mapping[str, str], found: Iterable[LintWarning]) -> str:
    """Why the warnings fail the build: ``error=true`` was asked for. Empty when they do not."""
    return _violation(options_of(file.parsed, arguments, file.name), found)


def predefined_platforms() -> dict[str, str]:
    """The predefined ARGs of a build on and for this machine."""
    here = host_platform()
    parts = {"PLATFORM": str(here), "OS": here.os, "ARCH": here.architecture, "VARIANT": here.variant}
    return {kind + part: value for kind in ("BUILD", "TARGET") for part, value in parts.items()}


def _all(file: Dockerfile, around: Surroundings, numbers: frozenset[int]) -> Iterator[LintWarning]:
    instructions = file.parsed.instructions
    return chain(
        written.of_parsed(file.parsed, instructions),
        written.of_whole(instructions),
        stages.of_stages(file, around, numbers),
    )


def _violation(options: Options, found: Iterable[LintWarning]) -> str:
    names = sorted({warning.rule.name for warning in found})
    return f"lint violation found for rules: {', '.join(names)}" if options.error and names else ""


def _numbers(file: Dockerfile, target: str, given: Mapping[str, str], platforms: Mapping[str, str]) -> list[int]:
    return [needed.stage.number for needed in plan(file, target, given, platforms).needed]


def _as_far_as_it_goes(parsed: Parsed, options: Options) -> list[LintWarning]:
    """What is said of the instructions before the first that means nothing."""
    good = []
    for instruction in parsed.instructions:
        try:
            understand(instruction)
        except DockerfileError:
            break
        good.append(instruction)
    return wanted(written.of_parsed(parsed, good), parsed, options)


def _unknown(image: str, platform: str) -> None:
    """No base image is known."""
