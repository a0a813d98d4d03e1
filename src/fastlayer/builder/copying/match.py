"""The wildcards in the sources of COPY and ADD: Go's ``filepath.Match``, one component of a path at a time.

``*`` any characters, ``?`` one, ``[a-z]`` and ``[^a-z]`` one of a class, a backslash takes the next one as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

from fastlayer.errors import DockerfileError

_ANY = None  # a star


def has_wildcards(text: str) -> bool:
    """Whether there is a ``*``, ``?`` or ``[`` that no backslash escapes."""
    at = 0
    while at < len(text):
        if text[at] in "*?[":
            return True
        at += 2 if text[at] == "\\" else 1
    return False


def unescaped(text: str) -> str:
    """What a component without wildcards names."""
    kept, at = [], 0
    while at < len(text):
        at += text[at] == "\\" and at + 1 < len(text)
        kept.append(text[at])
        at += 1
    return "".join(kept)


Test = Callable[[str], bool]


def matcher(pattern: str) -> Test:
    """Whether a name matches, in time linear in both. Raises ``DockerfileError`` for a pattern that means nothing."""
    tests = _compiled(pattern)
    stars = [number for number, test in enumerate(tests) if test is _ANY]
    if not stars:
        return lambda name: len(name) == len(tests) and _fits(tests, name, 0)
    head, tail = tests[: stars[0]], tests[stars[-1] + 1 :]
    middle = [tests[a + 1 : b] for a, b in pairwise(stars)]

    def matches(name: str) -> bool:
        end = len(name) - len(tail)
        if len(head) > end or not _fits(head, name, 0) or not _fits(tail, name, end):
            return False
        at = len(head)
        for piece in middle:  # the first place is as good as any later one
            while at + len(piece) <= end and not _fits(piece, name, at):
                at += 1
            at += len(piece)
            if at > end:
                return False
        return True

    return matches


def _fits(tests: list[Test | None], name: str, at: int) -> bool:
    return all(test is not None and test(name[at + number]) for number, test in enumerate(tests))


def _compiled(pattern: str) -> list[Test | None]:
    tests: list[Test | None] = []
    at = 0
    while at < len(pattern):
        char = pattern[at]
        at += 1
        if char == "*":
            if not tests or tests[-1] is not _ANY:
                tests.append(_ANY)
        elif char == "?":
            tests.append(lambda _: True)
        elif char == "[":
            test, at = _class(pattern, at)
            tests.append(test)
        else:
            if char == "\\":
                if at == len(pattern):
                    raise DockerfileError(f"pattern {pattern!r}: nothing follows the last backslash")
                char = pattern[at]
                at += 1
            tests.append(char.__eq__)
    return tests


def _class(pattern: str, at: int) -> tuple[Test, int]:
    negated = pattern.startswith("^", at)
    at += negated
    ranges: list[tuple[str, str]] = []
    while not (pattern.startswith("]", at) and ranges):
        low, at = _member(pattern, at)
        high = low
        if pattern.startswith("-", at):
            high, at = _member(pattern, at + 1)
        ranges.append((low, high))
    return lambda char: any(low <= char <= high for low, high in ranges) != negated, at + 1


def _member(pattern: str, at: int) -> tuple[str, int]:
    if at >= len(pattern):
        raise DockerfileError(f"pattern {pattern!r}: the `]` is missing: write `[[]` for a `[` in a name")
    char = pattern[at]
    if char in "-]":
        raise DockerfileError(f"pattern {pattern!r}: a class of characters in [] that means nothing")
    if char == "\\":
        at += 1
        if at >= len(pattern):
            raise DockerfileError(f"pattern {pattern!r}: nothing follows the last backslash")
        char = pattern[at]
    return char, at + 1
