"""Which rules are wanted: ``# check=skip=A,B;error=true;experimental=all``, and the comment above one instruction."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from fastlayer._values import NamedTuple
from fastlayer.builder.dockerfile.parser import Instruction, Parsed
from fastlayer.builder.lint.rules import LintWarning, Rule
from fastlayer.errors import DockerfileError

BUILD_ARGUMENT = "BUILDKIT_DOCKERFILE_CHECK"  # it replaces what the file says
_TRUE, _FALSE = ("1", "t", "T", "TRUE", "true", "True"), ("0", "f", "F", "FALSE", "false", "False")
_MAX_OPTIONS = 3


class Options(NamedTuple):
    """``skip``: names of rules that are not wanted, ``experimental``: of those that are wanted besides; ``all`` means
    every one. ``error``: whether a warning fails the build."""

    skip: frozenset[str] = frozenset()
    experimental: frozenset[str] = frozenset()
    error: bool = False

    def wants(self, rule: Rule) -> bool:
        if rule.experimental:
            return bool(self.experimental & {"all", rule.name})
        return not self.skip & {"all", rule.name}


def parse_options(text: str) -> Options:
    """Raises ``DockerfileError`` for anything that is none of the three options."""
    given = Options()
    for part in text.split(";", _MAX_OPTIONS - 1) if text.strip() else ():
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if name == "error" and value in (*_TRUE, *_FALSE):
            given = given._replace(error=value in _TRUE)
        elif name == "skip" and equals:
            given = given._replace(skip=_names(value))
        elif name == "experimental" and equals:
            given = given._replace(experimental=_names(value))
        else:
            raise DockerfileError(
                f"check={text}: {part.strip()} is no option: use skip=RULE,..., error=true and experimental=RULE,..."
            )
    return given


def options_of(parsed: Parsed, arguments: Mapping[str, str], name: str) -> Options:
    """What the build argument says, else the directive. Raises ``DockerfileError``."""
    if BUILD_ARGUMENT in arguments:
        return parse_options(arguments[BUILD_ARGUMENT])
    value, line = parsed.directives.get("check", ("", 0))
    try:
        return parse_options(value)
    except DockerfileError as exc:
        raise DockerfileError(f"{name}:{line}: {exc}") from None


def comments_above(parsed: Parsed, instruction: Instruction) -> tuple[str, ...]:
    """The comments of an instruction, without the directives that stand above the first one."""
    if instruction is not parsed.instructions[0]:
        return instruction.comments
    directives = {(name, value) for name, (value, _) in parsed.directives.items()}
    return tuple(comment for comment in instruction.comments if _pair(comment) not in directives)


def wanted(warnings: Iterable[LintWarning], parsed: Parsed, options: Options) -> list[LintWarning]:
    """Those that nobody skips, each once, by line."""
    skipped = {found.start: names for found in parsed.instructions if (names := _skipped_here(parsed, found))}
    starts = {line: found.start for found in parsed.instructions for line in (found.start, found.end)}
    kept = {
        warning
        for warning in warnings
        if options.wants(warning.rule)
        and not skipped.get(starts.get(warning.start, 0), frozenset()) & {"all", warning.rule.name}
    }
    return sorted(kept, key=lambda warning: (warning.start, warning.rule.name, warning.message))


def _skipped_here(parsed: Parsed, instruction: Instruction) -> frozenset[str]:
    """``# check=skip=RULE // why`` right above an instruction is for that one alone."""
    names: frozenset[str] = frozenset()
    for comment in comments_above(parsed, instruction):
        name, value = _pair(comment)
        if name == "check":
            try:
                names |= parse_options(value.partition("//")[0]).skip
            except DockerfileError:
                continue  # a comment may say anything
    return names


def _names(text: str) -> frozenset[str]:
    return frozenset(name.strip() for name in text.split(",") if name.strip())


def _pair(comment: str) -> tuple[str, str]:
    name, _, value = comment.partition("=")
    return name.strip().lower(), value.strip()
