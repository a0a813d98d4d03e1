"""The patterns of ``${name#pattern}`` and ``${name/pattern/...}``: ``*``, ``?``, escapes (POSIX 2.13 without brackets).

Matched in time linear in the text for each character of the pattern, however many stars it has.
"""

from __future__ import annotations

from fastlayer.errors import DockerfileError

_ANY, _STAR = "?", "*"
_MAX_WORK = 1 << 25  # characters of a value times those of a pattern


class Pattern:
    """Neither ``*`` nor ``?`` matches a newline."""

    def __init__(self, text: str) -> None:
        self._tokens: list[tuple[str, bool]] = []  # character, whether it is a wildcard
        at = 0
        while at < len(text):
            char = text[at]
            at += 1
            if char != "\\":
                self._tokens.append((char, char in (_ANY, _STAR)))
                continue
            char = text[at : at + 1]
            at += 1
            if char not in ("*", "?", "\\", "}", "/") or not char:
                raise DockerfileError(f"pattern {text!r}: `\\{char}` means nothing: escape only * ? \\ / and }}")
            self._tokens.append((char, False))

    def without_prefix(self, value: str, greedy: bool) -> str:
        """The value after the shortest or longest beginning that matches; all of it when none does."""
        self._check_work(value)
        ends = self._ends(self._tokens, value, 0)[0]
        return value[(max(ends) if greedy else min(ends)) :] if ends else value

    def without_suffix(self, value: str, greedy: bool) -> str:
        """The same from the end."""
        self._check_work(value)
        backwards = value[::-1]
        ends = self._ends(self._tokens[::-1], backwards, 0)[0]
        return backwards[(max(ends) if greedy else min(ends)) :][::-1] if ends else value

    def replaced(self, value: str, replacement: str, *, everywhere: bool, most: int = 1 << 20) -> str:
        """The first match, or all of them, replaced; at each place the longest one.

        Raises ``DockerfileError`` when it comes to more than ``most`` characters.
        """
        self._check_work(value)
        done: list[str] = []
        at = copied = 0
        while at <= len(value):
            ends, hopeless = self._ends(self._tokens, value, at)
            if not ends:
                at = max(at + 1, hopeless)
                continue
            end = max(ends)
            if end == at and copied == at and done:  # an empty match right behind another one
                at += 1
                continue
            done += (value[copied:at], replacement)
            if len(done) // 2 * len(replacement) > most:
                raise DockerfileError(f"its replacements come to more than {most} characters")
            copied = end
            at = end if end > at else at + 1
            if not everywhere:
                break
        return "".join([*done, value[copied:]])

    def _check_work(self, value: str) -> None:
        if len(value) * len(self._tokens) > _MAX_WORK:
            raise DockerfileError(
                f"a pattern of {len(self._tokens)} characters in a value of {len(value)} takes too long: shorten one"
            )

    def _ends(self, tokens: list[tuple[str, bool]], value: str, start: int) -> tuple[list[int], int]:
        """Where matches from ``start`` end; and, when there are none, where one could begin at the earliest."""
        final = len(tokens)
        states = self._closed({0}, tokens)
        ends, at, starred = [], start, False
        while states:
            if final in states:
                ends.append(at)
            starred = starred or any(state < final and tokens[state] == (_STAR, True) for state in states)
            if at == len(value):
                break
            char = value[at]
            at += 1
            moved = set()
            for state in states:
                if state == final:
                    continue
                token, wild = tokens[state]
                if wild and char == "\n":
                    continue
                if wild and token == _STAR:
                    moved.add(state)
                elif wild or token == char:
                    moved.add(state + 1)
            states = self._closed(moved, tokens)
        return ends, at if starred else start + 1  # behind a star everything was tried to the end of the line

    @staticmethod
    def _closed(states: set[int], tokens: list[tuple[str, bool]]) -> set[int]:
        """With those that are reached by a star that matches nothing."""
        waiting = list(states)
        while waiting:
            state = waiting.pop()
            if state < len(tokens) and tokens[state] == (_STAR, True) and state + 1 not in states:
                states.add(state + 1)
                waiting.append(state + 1)
        return states
