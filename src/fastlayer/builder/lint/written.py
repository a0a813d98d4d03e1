"""What is to be said of an instruction as it was written, whatever it does."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from fastlayer.builder.dockerfile import text
from fastlayer.builder.dockerfile.instructions import From, understand
from fastlayer.builder.dockerfile.parser import Instruction, Parsed
from fastlayer.builder.lint import rules
from fastlayer.builder.lint.options import comments_above
from fastlayer.builder.lint.rules import LintWarning, Rule

_RESERVED = ("context", "scratch")
_WITH_AS = 3  # FROM base AS name


def keyword(found: Instruction) -> str:
    """As it is in the file."""
    return text.split_first(found.original.strip(text.SPACES))[0]


def about(rule: Rule, found: Instruction, message: str) -> LintWarning:
    return LintWarning(rule, message, found.start, found.end)


def of_parsed(parsed: Parsed, instructions: Sequence[Instruction]) -> Iterator[LintWarning]:
    """Of the first instructions, which are all that mean something."""
    yield from _empty_continuations(parsed, instructions)
    for found in instructions:
        if found.keyword == "from":
            yield from _from_casing(found)
        elif found.keyword == "maintainer":
            yield about(
                rules.MAINTAINER_DEPRECATED, found, "Maintainer instruction is deprecated in favor of using label"
            )
        yield from _description(parsed, found)


def of_whole(instructions: Sequence[Instruction]) -> Iterator[LintWarning]:
    """Of a file without errors."""
    yield from _stage_names(instructions)
    yield from _casing(instructions)


def _empty_continuations(parsed: Parsed, instructions: Sequence[Instruction]) -> Iterator[LintWarning]:
    """Said of the last line of the instruction, before its here-documents."""
    if not parsed.blank_lines:
        return
    for found in instructions:
        inner = found.trigger or found
        end = found.end - sum(document.content.count("\n") + 1 for document in inner.heredocs)
        if any(found.start < line <= end for line in parsed.blank_lines):
            yield LintWarning(rules.NO_EMPTY_CONTINUATION, "Empty continuation line", end, end)


def _from_casing(found: Instruction) -> Iterator[LintWarning]:
    words = found.args
    if len(words) != _WITH_AS:
        return
    written, join, name = keyword(found), words[1], words[2]
    if name != name.lower():
        yield about(rules.STAGE_NAME_CASING, found, f"Stage name '{name}' should be lowercase")
    if written in (written.lower(), written.upper()):
        wanted = join.lower() if written == written.lower() else join.upper()
        if join != wanted:
            yield about(rules.FROM_AS_CASING, found, f"'{join}' and '{written}' keywords' casing do not match")


def _description(parsed: Parsed, found: Instruction) -> Iterator[LintWarning]:
    """The last comment above FROM and ARG is taken for their description."""
    if found.keyword not in ("from", "arg") or not found.comments:
        return
    comments = comments_above(parsed, found)
    if found.keyword == "arg":
        names = [word.partition("=")[0] for word in found.args]
    else:
        stage = understand(found)
        names = [stage.name] if isinstance(stage, From) and stage.name else []
    if comments and names and comments[-1].split(" ")[0] not in names:
        example = names[0] if len(names) == 1 else "<arg_key>"
        yield about(
            rules.INVALID_DEFINITION_DESCRIPTION,
            found,
            f"Comment for {found.keyword.upper()} should follow the format: `# {example} <description>`",
        )


def _stage_names(instructions: Sequence[Instruction]) -> Iterator[LintWarning]:
    seen: set[str] = set()
    for found in instructions:
        if found.keyword != "from" or len(found.args) != _WITH_AS:
            continue
        name = found.args[2].lower()
        if name in _RESERVED:
            yield about(
                rules.RESERVED_STAGE_NAME, found, f'Stage name should not use the same name as reserved stage "{name}"'
            )
        if name in seen:
            yield about(
                rules.DUPLICATE_STAGE_NAME, found, f'Duplicate stage name "{name}", stage names should be unique'
            )
        seen.add(name)


def _casing(instructions: Sequence[Instruction]) -> Iterator[LintWarning]:
    """The majority decides; in a tie, capitals. The ARGs before the first stage do not count."""
    first = next((number for number, found in enumerate(instructions) if found.keyword == "from"), 0)
    written = [(found, keyword(found)) for found in instructions[first:]]
    votes = Counter("lower" if word == word.lower() else "upper" for _, word in written if not _mixed(word))
    majority = "lowercase" if votes["lower"] > votes["upper"] else "uppercase"
    for found, word in written:
        if word != (word.lower() if majority == "lowercase" else word.upper()):
            yield about(
                rules.CONSISTENT_INSTRUCTION_CASING,
                found,
                f"Command '{word}' should match the case of the command majority ({majority})",
            )


def _mixed(word: str) -> bool:
    return word not in (word.lower(), word.upper())
