"""Quotes, escapes and variables in the words of an instruction (Dockerfile reference, "Environment replacement").

``$name``, ``${name}``, ``${name:-word}``, ``:+``, ``:?``, the three without the colon, ``${name#pattern}``, ``##``,
``%``, ``%%``, ``${name/pattern/replacement}`` and ``//``. Words and patterns may hold variables themselves.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from fastlayer._values import NamedTuple
from fastlayer.builder.dockerfile.pattern import Pattern
from fastlayer.builder.dockerfile.text import SPACES
from fastlayer.errors import DockerfileError

_SPECIAL = "@*#?-$!0"  # parameters of a shell, which a Dockerfile has not
_SPACE = re.compile(f"[{re.escape(SPACES)}]")
_MAX_DEPTH = 100  # of ${a:-${b:-...}}
_SHOWN = 200  # characters of a text in a message
MAX_VALUE = 1 << 20  # characters that variables come to in one text
MAX_ALL = 32 << 20  # characters of all texts that one build makes


class Expansion(NamedTuple):
    """``text``: the whole, quotes and escapes removed; ``words``: split at white space that was neither quoted nor
    escaped; ``used`` and ``missing``: names of variables that were asked for."""

    text: str
    words: tuple[str, ...]
    used: frozenset[str]
    missing: frozenset[str]


class Budget:
    """How much text variables may still come to: ``ENV A=$A$A`` doubles with every line.

    Used by the threads of all stages; not to the character.
    """

    def __init__(self, characters: int = MAX_ALL) -> None:
        self._left = characters

    def take(self, *texts: str) -> None:
        """Raises ``DockerfileError`` when there is no more."""
        self._left -= sum(map(len, texts))
        if self._left < 0:
            raise DockerfileError(f"variables and texts come to more than {MAX_ALL} characters: make them shorter")


class Lexer:
    """``raw_quotes``, ``raw_escapes``: these stay in the result; ``plain_quotes``: they mean nothing; ``keep_unset``:
    what asks for a variable that is not set stays as it is; ``budget``: what all texts together may come to."""

    def __init__(
        self,
        escape: str,
        *,
        raw_quotes: bool = False,
        raw_escapes: bool = False,
        plain_quotes: bool = False,
        keep_unset: bool = False,
        budget: Budget | None = None,
    ) -> None:
        self.escape = escape
        self.raw_quotes = raw_quotes
        self.raw_escapes = raw_escapes
        self.plain_quotes = plain_quotes
        self.keep_unset = keep_unset
        self.budget = budget

    def expand(self, text: str, env: Mapping[str, str]) -> Expansion:
        """Raises ``DockerfileError`` for quotes that do not end, a bad ``${...}``, a ``:?`` that is not met."""
        scan = _Scan(self, text, env)
        try:
            if self.budget is not None:
                self.budget.take()  # where there is nothing left no work is done
            whole, words = scan.until("", self.raw_escapes)
            if self.budget is not None:
                self.budget.take(whole)
        except DockerfileError as exc:
            raise DockerfileError(f"{_shown(text)}: {exc}") from None
        return Expansion(whole, tuple(words), frozenset(scan.used), frozenset(scan.missing))

    def word(self, text: str, env: Mapping[str, str]) -> str:
        """The whole text."""
        return self.expand(text, env).text

    def words(self, text: str, env: Mapping[str, str]) -> list[str]:
        """The words of it."""
        return list(self.expand(text, env).words)


def _shown(text: str) -> str:
    return repr(text if len(text) <= _SHOWN else text[:_SHOWN] + "...")


class _Words:
    """Collects characters into words."""

    def __init__(self) -> None:
        self._done: list[str] = []
        self._word: list[str] = []

    def add(self, text: str) -> None:
        for number, piece in enumerate(_SPACE.split(text)):
            if number and self._word:
                self._done.append("".join(self._word))
                self._word.clear()
            if piece:
                self._word.append(piece)

    def add_raw(self, text: str) -> None:
        if text:
            self._word.append(text)

    def all(self) -> list[str]:
        return [*self._done, "".join(self._word)] if self._word else self._done


class _Scan:
    def __init__(self, lexer: Lexer, text: str, env: Mapping[str, str]) -> None:
        self.used: set[str] = set()
        self.missing: set[str] = set()
        self._lexer = lexer
        self._escape = lexer.escape
        self._text = text
        self._env = env
        self._at = 0
        self._depth = 0
        self._filled = 0  # characters that variables came to
        self._raw_escapes = lexer.raw_escapes

    def _peek(self) -> str:
        return self._text[self._at : self._at + 1]

    def _next(self) -> str:
        char = self._text[self._at : self._at + 1]
        self._at += 1
        return char

    def until(self, stop: str, raw_escapes: bool) -> tuple[str, list[str]]:
        """Everything before ``stop``, which is taken, or before the end of the text."""
        before, self._raw_escapes = self._raw_escapes, raw_escapes
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise DockerfileError(f"more than {_MAX_DEPTH} substitutions in each other")
        whole: list[str] = []
        words = _Words()
        while True:
            char = self._peek()
            if not char:
                if stop:
                    raise DockerfileError(f"`{stop}` is missing")
                break
            if char == stop:
                self._at += 1
                break
            whole.append(self._piece(char, words))
        self._raw_escapes = before
        self._depth -= 1
        return "".join(whole), words.all()

    def _piece(self, char: str, words: _Words) -> str:
        if char == "$":
            found = self._variable()
            words.add(found)
            return found
        if char in "'\"" and not self._lexer.plain_quotes:
            found = self._single() if char == "'" else self._double()
            words.add_raw(found)
            return found
        self._at += 1
        if char != self._escape:
            words.add(char)
            return char
        found = (char if self._raw_escapes else "") + self._next()
        words.add_raw(found)
        return found

    def _single(self) -> str:
        end = self._text.find("'", self._at + 1)
        if end < 0:
            raise DockerfileError("the second ' is missing")
        found = self._text[self._at : end + 1]
        self._at = end + 1
        return found if self._lexer.raw_quotes else found[1:-1]

    def _double(self) -> str:
        quote = '"' if self._lexer.raw_quotes else ""
        self._at += 1
        found = [quote]
        while True:
            char = self._peek()
            if not char:
                raise DockerfileError('the second " is missing')
            if char == '"':
                self._at += 1
                return "".join([*found, quote])
            if char == "$":
                found.append(self._variable())
                continue
            self._at += 1
            if char == self._escape:
                found.append(char if self._raw_escapes else "")
                after = self._peek()
                if not after:
                    continue
                if after in ('"', "$", self._escape):
                    char = self._next()
            found.append(char)

    # ---- variables ---------------------------------------------------------------------------

    def _variable(self) -> str:
        found = self._dollar()
        self._filled += len(found)
        if self._filled > MAX_VALUE:
            raise DockerfileError(f"its variables come to more than {MAX_VALUE} characters")
        return found

    def _dollar(self) -> str:
        self._at += 1
        if self._peek() != "{":
            name = self._name()
            value = self._value(name) if name else "$"
            return f"${name}" if value is None and self._lexer.keep_unset else value or ""
        self._at += 1
        if not self._peek():
            raise DockerfileError("`}` is missing")
        if self._peek() in "{}:":
            raise DockerfileError("bad substitution")
        return self._braced(self._name())

    def _braced(self, name: str) -> str:
        kind = self._next()
        if not kind:
            raise DockerfileError("`}` is missing")
        if kind == "}":
            value = self._value(name)
            return f"${{{name}}}" if value is None and self._lexer.keep_unset else value or ""
        if kind == "/":
            return self._replaced(name)
        written = kind
        if kind == ":":
            kind = self._next()
            written += kind
        if kind not in ("+", "-", "?", "#", "%") or not kind:
            raise DockerfileError(f"unsupported modifier ({written}) in substitution")
        word, _ = self.until("}", kind in "#%")
        value = self._value(name)
        if value is None and self._lexer.keep_unset:
            return f"${{{name}{written}{word}}}"
        if kind in "#%":
            return _trimmed(value or "", kind, word)
        return self._chosen(name, value, kind, word, empty_too=len(written) == 2)

    def _chosen(self, name: str, value: str | None, kind: str, word: str, *, empty_too: bool) -> str:
        unset = value is None or (empty_too and not value)
        if kind == "-":
            return word if unset else value or ""
        if kind == "+":
            return "" if unset else word
        if unset:
            raise DockerfileError(f"{name}: {word or 'must be set' + (' and not empty' if empty_too else '')}")
        return value or ""

    def _replaced(self, name: str) -> str:
        everywhere = self._peek() == "/"
        self._at += everywhere
        pattern, _ = self.until("/", True)
        replacement, _ = self.until("}", True)
        value = self._value(name)
        if value is None and self._lexer.keep_unset:
            return f"${{{name}/{pattern}/{replacement}}}"
        return Pattern(pattern).replaced(value or "", replacement, everywhere=everywhere, most=MAX_VALUE)

    def _name(self) -> str:
        """Letters, digits and ``_``; digits alone, or one special character, are the parameters of a shell."""
        start = self._at
        first = self._peek()
        if first.isdecimal():
            while self._peek().isdecimal():
                self._at += 1
        elif first and first in _SPECIAL:
            self._at += 1
        else:
            while (char := self._peek()) and (char.isalpha() or char.isdecimal() or char == "_"):
                self._at += 1
        return self._text[start : self._at]

    def _value(self, name: str) -> str | None:
        value = self._env.get(name)
        (self.missing if value is None else self.used).add(name)
        return value


def _trimmed(value: str, kind: str, word: str) -> str:
    greedy = word.startswith(kind)
    pattern = Pattern(word[1:] if greedy else word)
    return pattern.without_prefix(value, greedy) if kind == "#" else pattern.without_suffix(value, greedy)
