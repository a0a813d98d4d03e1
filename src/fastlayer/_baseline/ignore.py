"""Compiled patterns of a ``.dockerignore``: the program is described in csrc/fl_ignore.h."""

from __future__ import annotations

import os
from collections.abc import Iterator

from fastlayer._baseline.tree import Entry, parent_of
from fastlayer._values import NamedTuple
from fastlayer.errors import UsageError

KEEP, PASS, OUT = 0, 1, 2  # PASS: a directory that is left out, but something below it may not be
_CHAR, _ONE, _CLASS, _STAR, _DIRS, _ALL = range(6)
_NEGATED = 1 << 23

_State = tuple[int, bool]  # number of a token, and whether the match is within it (DIRS only)


class _Token(NamedTuple):
    op: int
    value: int = 0
    negated: bool = False
    ranges: tuple[int, ...] = ()

    @property
    def is_one(self) -> bool:
        return self.op <= _CLASS

    def takes(self, char: int) -> bool:
        if self.op == _CLASS:
            within = any(low <= char <= high for low, high in zip(self.ranges[::2], self.ranges[1::2], strict=True))
            return within != self.negated
        return char == self.value if self.op == _CHAR else char != ord("/")


class _Pattern(NamedTuple):
    negated: bool
    tokens: tuple[_Token, ...]

    def matches(self, path: str) -> bool:
        return (len(self.tokens), False) in self._states(path)

    def may_match_below(self, path: str) -> bool:
        return any(number < len(self.tokens) for number, _ in self._states(path + "/"))

    def _states(self, path: str) -> set[_State]:
        """Where the match may be behind the path."""
        states = self._closed({(0, False)})
        for char in map(ord, path):
            states = self._closed({after for state in states for after in self._moved(state, char)})
        return states

    def _moved(self, state: _State, char: int) -> Iterator[_State]:
        number = state[0]
        if number == len(self.tokens):
            return
        token = self.tokens[number]
        if token.is_one:
            if token.takes(char):
                yield number + 1, False
        elif token.op == _ALL or (token.op == _STAR and char != ord("/")):
            yield number, False
        elif token.op == _DIRS:
            yield number, True
            if char == ord("/"):
                yield number + 1, False

    def _closed(self, states: set[_State]) -> set[_State]:
        """With those behind tokens that may match nothing."""
        for number, within in list(states):
            while not within and number < len(self.tokens) and not self.tokens[number].is_one:
                number += 1
                states.add((number, False))
        return states


class Program:
    """Asked about paths of a tree."""

    def __init__(self, data: bytes) -> None:
        self._patterns = _read(data)
        self._directories: dict[bytes, list[bool]] = {b"": [False] * len(self._patterns)}

    def look(self, path: bytes, *, is_dir: bool) -> int:
        """``KEEP``, ``PASS`` or ``OUT``."""
        if not path:
            return KEEP
        out, state = self._judge(path)
        if not out:
            return KEEP
        return PASS if is_dir and self._may_take_back(path, state) else OUT

    def enters(self, path: bytes) -> bool:
        return self.look(path, is_dir=True) != OUT

    def _judge(self, path: bytes) -> tuple[bool, list[bool]]:
        """Whether it is left out, and which patterns match it or a directory above."""
        above = self._state_of(parent_of(path))
        out, state = False, [False] * len(self._patterns)
        for number, pattern in enumerate(self._patterns):
            state[number] = above[number] or (pattern.negated == out and pattern.matches(os.fsdecode(path)))
            if state[number]:
                out = not pattern.negated
        return out, state

    def _state_of(self, directory: bytes) -> list[bool]:
        if directory not in self._directories:
            self._directories[directory] = self._judge(directory)[1]
        return self._directories[directory]

    def _may_take_back(self, path: bytes, state: list[bool]) -> bool:
        """Only a pattern behind the last one that left it out can."""
        for pattern, matched in zip(reversed(self._patterns), reversed(state), strict=True):
            if matched and not pattern.negated:
                return False
            if pattern.negated and pattern.may_match_below(os.fsdecode(path)):
                return True
        return False


def _read(data: bytes) -> list[_Pattern]:
    if len(data) % 4 or not data:
        raise _refused()
    words = list(memoryview(data).cast("I"))
    patterns, at = [], 1
    for _ in range(words[0]):
        if len(words) - at < 2 or words[at] > 1 or words[at + 1] > len(words) - at - 2:
            raise _refused()
        end = at + 2 + words[at + 1]
        patterns.append(_Pattern(words[at] == 1, tuple(_read_tokens(words[at + 2 : end]))))
        at = end
    if at != len(words):
        raise _refused()
    return patterns


def _read_tokens(words: list[int]) -> Iterator[_Token]:
    at = 0
    while at < len(words):
        op, value = words[at] >> 24, words[at] & 0xFFFFFF
        at += 1
        if op > _ALL or (op == _CHAR and value > 0x10FFFF):
            raise _refused()
        if op != _CLASS:
            yield _Token(op, value)
            continue
        count = value & ~_NEGATED
        if 2 * count > len(words) - at:
            raise _refused()
        yield _Token(op, count, bool(value & _NEGATED), tuple(words[at : at + 2 * count]))
        at += 2 * count


def _refused() -> UsageError:
    return UsageError("not a program of patterns")


def without_ignored(entries: Iterator[Entry], program: Program) -> Iterator[Entry]:
    """In path order. A directory that is left out stays when something below it does."""
    waiting: list[tuple[Entry, bool]] = []  # from the first directory on that is not decided; whether it is one
    for entry in entries:
        verdict = program.look(entry.path, is_dir=entry.is_dir)
        if verdict == OUT:
            continue
        waiting = list(_decided(waiting, entry.path, stays=verdict == KEEP))
        waiting.append((entry, verdict == PASS))
        while waiting and not waiting[0][1]:
            yield waiting.pop(0)[0]
    yield from (entry for entry, undecided in waiting if not undecided)


def _decided(waiting: list[tuple[Entry, bool]], path: bytes, *, stays: bool) -> Iterator[tuple[Entry, bool]]:
    """What the coming of ``path`` says about directories that wait."""
    for entry, undecided in waiting:
        below = entry.path + b"/"
        if not undecided:
            yield entry, False
        elif path.startswith(below):
            yield entry, not stays
        elif path < below:
            yield entry, True
