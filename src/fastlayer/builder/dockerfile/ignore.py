"""``.dockerignore``: which paths of a context are left out (Dockerfile reference, ".dockerignore file").

A line is a pattern; ``!`` takes back what earlier lines left out; what is left out takes everything below it along, and
the last line that matches decides. ``*`` and ``?`` stop at ``/``, ``**`` does not. Odd patterns mean what they mean to
Docker (moby/patternmatcher), whose cases the tests have.
"""

from __future__ import annotations

import posixpath
import re
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache

from fastlayer._values import NamedTuple
from fastlayer.builder.dockerfile.text import SPACES
from fastlayer.errors import DockerfileError

MAX_SIZE = 16 << 20  # bytes of the file
_OP_ONE, _OP_CLASS = 1, 2  # csrc/fl_ignore.h, enum fl_ignore_op; a character is 0
_OPS = {"star": 3, "dirs": 4, "all": 5}
_FEW = 3  # stars that a regular expression may go back over


class _Pattern(NamedTuple):
    text: str
    negated: bool
    matches: Callable[[str], object]


def read_patterns(data: bytes, name: str = ".dockerignore") -> list[str]:
    """The patterns of the file, cleaned. Raises ``DockerfileError`` for one that is far too large."""
    if len(data) > MAX_SIZE:
        raise DockerfileError(f"{name}: {len(data)} bytes are too many for patterns: the limit is {MAX_SIZE}")
    found = []
    for line in data.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "surrogateescape").split("\n"):
        if line.startswith("#"):
            continue
        pattern = line.strip(SPACES)
        negated = pattern.startswith("!")
        pattern = pattern[1:].strip(SPACES) if negated else pattern
        if pattern:
            pattern = _clean(pattern)
            pattern = pattern[1:] if len(pattern) > 1 and pattern.startswith("/") else pattern
        if pattern or negated:
            found.append("!" + pattern if negated else pattern)
    return found


class Matcher:
    """Patterns that are asked about paths relative to the context, with ``/``.

    Raises ``DockerfileError`` for a pattern that means nothing, naming it.
    """

    def __init__(self, patterns: Iterable[str]) -> None:
        self._patterns = [_compiled(pattern) for pattern in patterns if pattern.strip(SPACES)]
        self.takes_back = any(pattern.negated for pattern in self._patterns)

    def __bool__(self) -> bool:
        return bool(self._patterns)

    def excludes(self, path: str) -> bool:
        """Whether the path is left out, for its own sake or with a directory above it."""
        state: Sequence[bool] = ()
        parts = path.split("/")
        for number in range(1, len(parts) + 1):
            left_out, state = self.descend("/".join(parts[:number]), state)
        return left_out

    def descend(self, path: str, above: Sequence[bool] = ()) -> tuple[bool, list[bool]]:
        """Whether the path is left out, and which patterns match it: to be given for the paths right below it.

        ``above``: what this returned for its directory; nothing for those at the top.
        """
        left_out = False
        state = [False] * len(self._patterns)
        for number, pattern in enumerate(self._patterns):
            matched = bool(above) and above[number]
            if not matched:
                if pattern.negated != left_out:
                    continue
                matched = bool(pattern.matches(path))
            state[number] = matched
            if matched:
                left_out = not pattern.negated
        return left_out, state


def program(patterns: Iterable[str]) -> bytes:
    """The patterns for ``scan.Scanner(ignore=)`` of both engines, to whom they mean what they mean to ``Matcher``.

    The format is that of csrc/fl_ignore.h. Raises ``DockerfileError`` as ``Matcher`` does.
    """
    words = [0]
    for given in patterns:
        if not given.strip(SPACES):
            continue
        pattern = _compiled(given)
        try:
            tokens = list(_words(_engine_tokens(pattern.text)))
        except re.error as exc:
            raise DockerfileError(f"pattern {pattern.text!r}: {exc.msg}") from None
        words += (int(pattern.negated), len(tokens), *tokens)
        words[0] += 1
    return struct.pack(f"={len(words)}I", *words)


def _engine_tokens(pattern: str) -> Iterator[tuple[str, str]]:
    """Of a ``**`` before plain text, what ``_matcher`` makes of it: no slash is needed between them."""
    if not (pattern.startswith("**") and _is_plain(pattern[2:])):
        yield from _tokens(pattern)
        return
    end = pattern[2:]
    yield ("dirs" if end.startswith("/") else "all"), ""
    yield from _tokens(end.removeprefix("/"))


def _words(tokens: Iterable[tuple[str, str]]) -> Iterator[int]:
    for kind, text in tokens:
        if kind != "one":
            yield _OPS[kind] << 24
        elif text == "[^/]":
            yield _OP_ONE << 24
        elif text.startswith("["):
            negated, ranges = _ranges(text[1:-1])
            yield _OP_CLASS << 24 | negated << 23 | len(ranges)
            for first, last in ranges:
                yield from (first, last)
        else:
            yield ord(text[-1])  # a character, or one behind the backslash of re.escape


def _ranges(body: str) -> tuple[bool, list[tuple[int, int]]]:
    """The first and last characters of a class of a regular expression, given without its brackets."""
    negated = body.startswith("^")
    body = body[negated:]
    if re.search(r"\\[0-9A-Za-z]", body):
        return negated, _ranges_of_set(body)
    items = re.findall(r"\\?(.)(?:-\\?(.))?", body, re.DOTALL)
    found = [(ord(first), ord(last or first)) for first, last in items]
    if any(first > last for first, last in found):
        raise re.error("bad character range")
    return negated, found


@lru_cache(maxsize=64)
def _ranges_of_set(body: str) -> list[tuple[int, int]]:
    """Of a class with a name in it, like ``\\d``: every character is tried."""
    every = "".join(map(chr, range(0x110000)))
    return [(found.start(), found.end() - 1) for found in re.finditer(f"[{body}]+", every)]


def _clean(path: str) -> str:
    """As Go's filepath.Clean: one slash at the beginning at most."""
    cleaned = posixpath.normpath(path)
    return "/" + cleaned.lstrip("/") if cleaned.startswith("//") else cleaned


def _compiled(given: str) -> _Pattern:
    pattern = _clean(given.strip(SPACES))
    negated = pattern.startswith("!")
    if negated:
        pattern = pattern[1:]
        if not pattern:
            raise DockerfileError("the pattern `!` alone takes nothing back: name what it should")
    _check(pattern)
    return _Pattern(pattern, negated, _matcher(pattern))


def _check(pattern: str) -> None:
    """What Go's filepath.Match finds wrong; it stops looking at the first part that cannot match."""
    at = 0
    while at < len(pattern):
        char = pattern[at]
        at += 1
        if char == "\\":
            if at == len(pattern):
                raise DockerfileError(f"pattern {pattern!r}: nothing follows the last backslash")
            at += 1
        elif char == "[":
            at = _end_of_class(pattern, at)


def _end_of_class(pattern: str, at: int) -> int:
    first = True
    at += pattern.startswith("^", at)
    while at < len(pattern):
        if pattern[at] == "]" and not first:
            return at + 1
        for _ in range(2):
            if pattern[at : at + 1] == "\\":
                at += 1
            if at >= len(pattern) or (pattern[at] in "-]" and pattern[at - 1 : at] != "\\"):
                raise DockerfileError(f"pattern {pattern!r}: a class of characters in [] that means nothing")
            at += 1
            if pattern[at : at + 1] != "-":
                break
            at += 1
        first = False
    raise DockerfileError(f"pattern {pattern!r}: the `]` is missing")


def _matcher(pattern: str) -> Callable[[str], object]:
    if _is_plain(pattern):
        return pattern.__eq__
    if pattern.startswith("**") and _is_plain(pattern[2:]):
        end = pattern[2:]
        return lambda path: path.endswith(end) or (end.startswith("/") and path == end[1:]) or not end
    if pattern.endswith("**") and _is_plain(pattern[:-2]):
        return lambda path: path.startswith(pattern[:-2])
    tokens = list(_tokens(pattern))
    if sum(kind in ("star", "dirs", "all") for kind, _ in tokens) > _FEW:
        return lambda path: _simulated(tokens, path)
    try:
        return re.compile("(?s:" + "".join(text for _, text in tokens) + ")").fullmatch
    except re.error as exc:
        raise DockerfileError(f"pattern {pattern!r}: {exc.msg}") from None


def _is_plain(text: str) -> bool:
    return not set(text) & set("*?[]\\")


def _tokens(pattern: str) -> Iterator[tuple[str, str]]:
    """Kind and regular expression; all but ``star``, ``dirs`` and ``all`` match one character."""
    at = 0
    while at < len(pattern):
        char = pattern[at]
        at += 1
        if pattern.startswith("**", at - 1):
            at += 1
            at += pattern.startswith("/", at)
            yield ("all", ".*") if at == len(pattern) else ("dirs", "(?:.*/)?")
        elif char == "*":
            yield "star", "[^/]*"
        elif char == "?":
            yield "one", "[^/]"
        elif char == "\\":
            yield "one", re.escape(pattern[at])
            at += 1
        elif char == "[":
            end = _end_of_class(pattern, at)
            yield "one", "[" + pattern[at : end - 1].replace("[", "\\[") + "]"
            at = end
        else:
            yield "one", re.escape(char)


def _simulated(tokens: Sequence[tuple[str, str]], path: str) -> bool:
    """In time linear in the path for each token. A state: the number of a token, and whether ``dirs`` is within one."""
    ones = [re.compile(text, re.DOTALL) if kind == "one" else None for kind, text in tokens]
    states = _reached({(0, False)}, tokens)
    for char in path:
        moved: set[tuple[int, bool]] = set()
        for number, _ in states:
            if number == len(tokens):
                continue
            kind, one = tokens[number][0], ones[number]
            if one is not None:
                if one.fullmatch(char):
                    moved.add((number + 1, False))
            elif kind == "all" or (kind == "star" and char != "/"):
                moved.add((number, False))
            elif kind == "dirs":
                moved.add((number, True))
                if char == "/":
                    moved.add((number + 1, False))
        states = _reached(moved, tokens)
    return (len(tokens), False) in states


def _reached(states: set[tuple[int, bool]], tokens: Sequence[tuple[str, str]]) -> set[tuple[int, bool]]:
    """With those behind what may match nothing."""
    waiting = list(states)
    while waiting:
        number, within = waiting.pop()
        after = (number + 1, False)
        if number < len(tokens) and tokens[number][0] != "one" and not within and after not in states:
            states.add(after)
            waiting.append(after)
    return states
