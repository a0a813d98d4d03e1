"""What is to be said of stages as they are built: bases, variables, and what comes of them.

A base image whose configuration nobody knows may set any variable; then only those are doubted that have a near name,
or that are set further down.
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Iterable, Iterator, Mapping

from fastlayer._values import NamedTuple
from fastlayer.builder.dockerfile.ignore import Matcher
from fastlayer.builder.dockerfile.instructions import (
    Add,
    Arg,
    Cmd,
    Command,
    Copy,
    Entrypoint,
    Env,
    Expose,
    From,
    Healthcheck,
    Label,
    Onbuild,
    Shell,
    Workdir,
    understand,
)
from fastlayer.builder.dockerfile.parser import Instruction, parse_one
from fastlayer.builder.dockerfile.shell import Budget, Expansion, Lexer
from fastlayer.builder.dockerfile.stages import Dockerfile, Stage
from fastlayer.builder.dockerfile.text import words
from fastlayer.builder.lint import rules
from fastlayer.builder.lint.rules import LintWarning
from fastlayer.builder.lint.words import expanded_contents, expanded_words, similar
from fastlayer.builder.lint.written import about, keyword
from fastlayer.errors import DockerfileError

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_NOT_IN_ENV = ("BUILDKIT_SBOM_SCAN_CONTEXT", "BUILDKIT_SBOM_SCAN_STAGE")
_SECRET = frozenset(
    ("apikey", "auth", "credential", "credentials", "key", "password", "pword", "passwd", "secret", "token")
)
_PUBLIC = frozenset(("public", "file", "version"))
_LONG = 4  # letters of a name that is not near another by chance
_ELSEWHERE = ("http://", "https://", "git://", "git@", "ssh://")


class Base(NamedTuple):
    """What is known of a base image: its variables, shell, triggers, and ``os/architecture``."""

    env: Mapping[str, str]
    shell: tuple[str, ...] = ()
    triggers: tuple[str, ...] = ()
    platform: str = ""


Bases = Callable[[str, str], Base | None]  # of an image and a platform (empty: the target's); None: not known


class Surroundings(NamedTuple):
    """``arguments``: those before the first FROM that have a value; ``given``: build arguments; ``platforms``: the
    predefined ones; ``ignored``: the patterns of ``.dockerignore``, None without one; ``bases``: what knows images."""

    arguments: Mapping[str, str]
    given: Mapping[str, str]
    platforms: Mapping[str, str]
    ignored: Matcher | None
    bases: Bases


class _State(NamedTuple):
    """Of a stage when it is complete. ``known``: nothing else can be in ``env``."""

    env: dict[str, str]
    declared: frozenset[str]
    shell: tuple[str, ...]
    workdir_set: bool
    known: bool
    triggers: tuple[str, ...]


_SCRATCH = _State({"PATH": _PATH}, frozenset(), (), False, True, ())


def of_stages(file: Dockerfile, around: Surroundings, wanted: frozenset[int]) -> Iterator[LintWarning]:
    """Of all FROMs, and of the instructions of the ``wanted`` stages, by number. Errors are left to the build."""
    states: dict[int, _State] = {}
    budget = Budget()
    for stage in file.stages:
        of_from = _OfFrom(file, around, stage)
        yield from of_from.warnings()
        base = of_from.base()
        if stage.number in wanted:
            yield from of_from.late
        if base is None:
            continue
        below = states.get(base, _SCRATCH) if isinstance(base, int) else base
        walk = _Walk(file, around, stage, below, budget)
        walk.run()
        states[stage.number] = walk.state()
        if stage.number in wanted:
            yield from walk.found


# ---- FROM ------------------------------------------------------------------------------------------


class _OfFrom:
    def __init__(self, file: Dockerfile, around: Surroundings, stage: Stage) -> None:
        self.late: list[LintWarning] = []  # what `base` finds
        self._file, self._around, self._stage = file, around, stage
        self._begin = stage.begin
        values = {**around.platforms, **around.arguments}
        self._image = _expanded(file, self._begin.base, values)
        self._platform = _expanded(file, self._begin.platform, values)

    def warnings(self) -> Iterator[LintWarning]:
        yield from self._undeclared()
        yield from self._default()
        if self._begin.platform and self._platform is not None:
            yield from self._platform_flag(self._platform)

    def base(self) -> _State | int | None:
        """The number of the stage it goes on from, or what its image gives; None where that cannot be said."""
        if self._image is None or not self._image.text:
            return None
        name = self._image.text
        for earlier in reversed(self._file.stages[: self._stage.number]):
            if earlier.begin.name and earlier.begin.name == name.lower():
                return earlier.number
        if name == "scratch":
            return _SCRATCH
        platform = self._platform.text if self._platform else ""
        found = self._around.bases(name, platform)
        if found is None:
            return _SCRATCH._replace(known=False)
        self._mismatch(found.platform, platform or self._around.platforms.get("TARGETPLATFORM", ""))
        return _SCRATCH._replace(env={"PATH": _PATH, **found.env}, shell=found.shell, triggers=found.triggers)

    def _mismatch(self, actual: str, expected: str) -> None:
        if actual and expected and actual.split("/")[:2] != expected.split("/")[:2]:
            message = (
                f'Base image {self._begin.base} was pulled with platform "{actual}", expected "{expected}" for current '
                "build"
            )
            self.late.append(about(rules.INVALID_BASE_IMAGE_PLATFORM, self._begin.at, message))

    def _undeclared(self) -> Iterator[LintWarning]:
        declared = {name for argument in self._file.arguments for name, _ in argument.values}
        known = declared | self._around.platforms.keys() | self._around.arguments.keys()
        missing = {name for found in (self._image, self._platform) if found for name in found.missing}
        for name in missing - known:
            near = similar(name, known)
            hint = f" (did you mean {near}?)" if near else ""
            yield about(rules.UNDEFINED_ARG_IN_FROM, self._begin.at, f"FROM argument '{name}' is not declared{hint}")

    def _default(self) -> Iterator[LintWarning]:
        """Whether the name still is one when nobody gives build arguments."""
        from fastlayer.builder.graph import global_arguments
        from fastlayer.errors import ReferenceFormatError
        from fastlayer.oci.reference import parse_reference

        platforms = self._around.platforms
        try:
            values = {**platforms, **global_arguments(self._file, {}, platforms)}
        except DockerfileError:
            return
        found = _expanded(self._file, self._begin.base, values)
        if found is None or not (found.used or found.missing):
            return
        try:
            parse_reference(found.text)
        except ReferenceFormatError:
            yield about(
                rules.INVALID_DEFAULT_ARG_IN_FROM,
                self._begin.at,
                f"Default value for ARG {self._begin.base} results in empty or invalid base image name",
            )

    def _platform_flag(self, found: Expansion) -> Iterator[LintWarning]:
        from fastlayer.errors import ReferenceFormatError
        from fastlayer.oci.platform import parse_platform

        target = self._around.platforms.get("TARGETPLATFORM")
        if found.used == {"TARGETPLATFORM"} and not found.missing and found.text == target:
            yield about(
                rules.REDUNDANT_TARGET_PLATFORM,
                self._begin.at,
                f"Setting platform to predefined {self._begin.platform} in FROM is redundant as this is the default "
                "behavior",
            )
        if found.used or found.missing:
            return
        try:
            platform = parse_platform(found.text)
        except ReferenceFormatError:
            return
        if platform.os not in self._begin.name and platform.architecture not in self._begin.name:
            yield about(
                rules.FROM_PLATFORM_FLAG_CONST_DISALLOWED,
                self._begin.at,
                f'FROM --platform flag should not use constant value "{found.text}"',
            )


# ---- the instructions of a stage -------------------------------------------------------------------


class _Walk:
    """One stage, instruction by instruction."""

    def __init__(self, file: Dockerfile, around: Surroundings, stage: Stage, base: _State, budget: Budget) -> None:
        self.found: list[LintWarning] = []
        self._file, self._around, self._stage, self._base = file, around, stage, base
        self._lexer = Lexer(file.parsed.escape, budget=budget)
        self._plain = Lexer("\\", plain_quotes=True, budget=budget)
        self._env = dict(base.env)
        self._declared = set(base.declared)
        self._shell = base.shell
        self._workdir_set = base.workdir_set
        self._last: dict[str, Instruction] = {}  # CMD, ENTRYPOINT, HEALTHCHECK
        self._triggers: list[str] = []
        self._later: list[str] = []

    def run(self) -> None:
        commands = [*self._triggered(), *self._stage.commands]
        for number, command in enumerate(commands):
            self._later = [] if self._base.known else list(_names_set(commands[number + 1 :]))
            self._variables(command)
            self._one(command)

    def state(self) -> _State:
        return _State(
            self._env,
            frozenset(self._declared),
            self._shell,
            self._workdir_set,
            self._base.known,
            tuple(self._triggers),
        )

    def _triggered(self) -> Iterator[Command]:
        """ONBUILD of the base, as if it stood at FROM."""
        at = self._stage.begin.at
        for trigger in self._base.triggers:
            try:
                found = parse_one(trigger, "ONBUILD", self._file.parsed.escape)
                command = understand(found._replace(start=at.start, end=at.end))
            except DockerfileError:
                continue
            if not isinstance(command, From):
                yield command

    def _say(self, rule: rules.Rule, command: Command, message: str) -> None:
        self.found.append(about(rule, command.at, message))

    # ---- variables ---------------------------------------------------------------------------

    def _variables(self, command: Command) -> None:
        missing: set[str] = set()
        for word in expanded_words(command):
            found = _expanded(self._file, word, self._env, self._lexer)
            missing |= found.missing if found else frozenset()
        for content in expanded_contents(command):
            found = _expanded(self._file, content, self._env, self._plain)
            missing |= found.missing if found else frozenset()
        self._undefined(command, missing)

    def _undefined(self, command: Command, missing: Iterable[str]) -> None:
        for name in set(missing) - self._declared - set(_NOT_IN_ENV):
            near = similar(name, self._env)
            typo = near and len(name) >= _LONG
            if typo or self._base.known or name in self._later:
                hint = f" (did you mean ${near}?)" if near else ""
                self._say(rules.UNDEFINED_VAR, command, f"Usage of undefined variable '${name}'{hint}")

    def _secret(self, command: Command, name: str, instruction: str) -> None:
        parts = set(name.lower().split("_"))
        if parts & _SECRET and not parts & _PUBLIC:
            self._say(
                rules.SECRETS_USED_IN_ARG_OR_ENV,
                command,
                f'Do not use ARG or ENV instructions for sensitive data ({instruction} "{name}")',
            )

    # ---- one by one --------------------------------------------------------------------------

    def _one(self, command: Command) -> None:
        if isinstance(command, Arg):
            self._arg(command)
        elif isinstance(command, (Env, Label)):
            self._pairs(command)
        elif isinstance(command, (Copy, Add)):
            self._ignored(command)
        elif isinstance(command, Workdir):
            self._workdir(command)
        elif isinstance(command, Expose):
            self._expose(command)
        elif isinstance(command, (Cmd, Entrypoint, Healthcheck)):
            self._only_once(command)
        elif isinstance(command, Shell):
            self._shell = command.words
        elif isinstance(command, Onbuild):
            self._triggers.append(command.trigger)

    def _arg(self, command: Arg) -> None:
        for name, default in command.values:
            self._secret(command, name, "ARG")
            value = self._around.given.get(name)
            if value is None and default is not None:
                found = _expanded(self._file, default, self._env, self._lexer)
                self._undefined(command, found.missing if found else ())
                value = found.text if found else default
            elif value is None:
                value = {**self._around.platforms, **self._around.arguments}.get(name)
            if value is not None and name not in _NOT_IN_ENV:
                self._env[name] = value
            self._declared.add(name)

    def _pairs(self, command: Env | Label) -> None:
        written = keyword(command.at)
        if _is_legacy(command.at, self._file.parsed.escape):
            self._say(
                rules.LEGACY_KEY_VALUE_FORMAT,
                command,
                f'"{written} key=value" should be used instead of legacy "{written} key value" format',
            )
        if isinstance(command, Label):
            return
        before = dict(self._env)  # NAME=VALUE pairs of one ENV do not see each other
        for name, value in command.values:
            self._secret(command, name, "ENV")
            found = _expanded(self._file, value, before, self._lexer)
            self._env[name] = found.text if found else value

    def _ignored(self, command: Copy | Add) -> None:
        patterns = self._around.ignored
        if not patterns or patterns.takes_back or (isinstance(command, Copy) and command.source):
            return
        for word in command.sources.paths:
            found = _expanded(self._file, word, self._env, self._lexer)
            if found is None or found.text.startswith(_ELSEWHERE):
                continue
            path = posixpath.normpath(found.text)
            if path.strip("/") not in ("", ".") and patterns.excludes(path.lstrip("/")):
                verb = "Copy" if isinstance(command, Copy) else "Add"
                self._say(
                    rules.COPY_IGNORED_FILE,
                    command,
                    f'Attempting to {verb} file "{path}" that is excluded by .dockerignore',
                )

    def _workdir(self, command: Workdir) -> None:
        found = _expanded(self._file, command.path, self._env, self._lexer)
        path = found.text if found else command.path
        if not self._workdir_set and not path.startswith("/"):
            self._say(
                rules.WORKDIR_RELATIVE_PATH,
                command,
                f'Relative workdir "{path}" can have unexpected results if the base image changes',
            )
        self._workdir_set = True

    def _expose(self, command: Expose) -> None:
        for word in command.ports:
            found = _expanded(self._file, word, self._env, self._lexer)
            for port in found.words if found else ():
                container = port.rpartition(":")[2]
                protocol = container.partition("/")[2]
                if protocol != protocol.lower():
                    self._say(
                        rules.EXPOSE_PROTO_CASING,
                        command,
                        f"Defined protocol '{port}' in EXPOSE instruction should be lowercase",
                    )
                if port.rpartition(":")[0]:
                    self._say(
                        rules.EXPOSE_INVALID_FORMAT,
                        command,
                        f"EXPOSE instruction should not define an IP address or host-port mapping, found '{port}'",
                    )

    def _only_once(self, command: Cmd | Entrypoint | Healthcheck) -> None:
        at, written = command.at, keyword(command.at)
        earlier = self._last.get(at.keyword)
        if earlier is not None:
            self.found.append(
                about(
                    rules.MULTIPLE_INSTRUCTIONS_DISALLOWED,
                    earlier,
                    f"Multiple {written} instructions should not be used in the same stage because only the last one "
                    "will be used",
                )
            )
        self._last[at.keyword] = at
        if not isinstance(command, Healthcheck) and command.command.shell and not self._shell:
            self._say(
                rules.JSON_ARGS_RECOMMENDED,
                command,
                f"JSON arguments recommended for {written} to prevent unintended behavior related to OS signals",
            )


def _expanded(file: Dockerfile, word: str, env: Mapping[str, str], lexer: Lexer | None = None) -> Expansion | None:
    """None for a word that means nothing: the build says what is wrong with it."""
    try:
        return (lexer or Lexer(file.parsed.escape)).expand(word, env)
    except DockerfileError:
        return None


def _is_legacy(at: Instruction, escape: str) -> bool:
    """``NAME the rest``: the first word has no ``=``."""
    rest = words(at.original.strip().partition(keyword(at))[2], escape)
    return bool(rest) and "=" not in rest[0]


def _names_set(commands: Iterable[Command]) -> Iterator[str]:
    for command in commands:
        if isinstance(command, (Arg, Env)):
            yield from (name for name, _ in command.values)
