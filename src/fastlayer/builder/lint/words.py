"""Which words of an instruction are filled in with variables, and what a mistyped name was meant to be."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from fastlayer.builder.dockerfile.instructions import (
    Add,
    Command,
    Copy,
    Env,
    Label,
    Run,
    StopSignal,
    User,
    Volume,
    Workdir,
)

_FAR = 3  # edits that make another name of it


def expanded_words(command: Command) -> Iterator[str]:
    """The words of all instructions but ARG and EXPOSE, which have rules of their own."""
    if isinstance(command, (Copy, Add)):
        yield from (*command.sources.paths, command.sources.target, command.chown, command.chmod, *command.exclude)
        if isinstance(command, Add):
            yield command.checksum
    elif isinstance(command, (Env, Label)):
        for name, value in command.values:
            yield name
            yield value
    elif isinstance(command, Run):
        yield from command.mounts
    elif isinstance(command, Workdir):
        yield command.path
    elif isinstance(command, User):
        yield command.user
    elif isinstance(command, Volume):
        yield from command.paths
    elif isinstance(command, StopSignal):
        yield command.signal


def expanded_contents(command: Command) -> Iterator[str]:
    """The here-documents that become files, those with variables in them."""
    if isinstance(command, (Copy, Add)):
        yield from (document.data for document in command.sources.contents if document.expand)


def similar(name: str, known: Iterable[str]) -> str:
    """The known name that is one edit away, else two, of equals the first by letters; empty when none is near."""
    candidates = sorted(known)
    if name in candidates:
        return ""
    for edits in range(1, _FAR):
        for candidate in candidates:
            if abs(len(candidate) - len(name)) <= edits and _within(name, candidate, edits):
                return candidate
    return ""


def _within(one: str, other: str, edits: int) -> bool:
    """Whether so many letters inserted, deleted or replaced make the one the other (Levenshtein)."""
    if one == other:
        return True
    if not edits:
        return False
    same = next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    one, other = one[same:], other[same:]
    rests = ((one[1:], other[1:]), (one[1:], other), (one, other[1:]))
    return any(_within(first, second, edits - 1) for first, second in rests)
