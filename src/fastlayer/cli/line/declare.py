"""What verbs take: commands, groups, options and arguments, said once, in click's words.

Nothing here reads or explains. ``reading`` makes values of a line, ``clicked`` makes click's commands of all this.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Collection, Mapping
from typing import Any, TypeVar

Function = Callable[..., Any]
F = TypeVar("F", bound=Function)
_DECLARED = "__declared__"
_TRUE, _FALSE = ("1", "true", "t", "yes", "y", "on"), ("0", "false", "f", "no", "n", "off")
VALUE, ON, OFF = "value", True, False  # what a flag does: takes a word, switches on, switches off
BARE = "bare"  # ... takes what is behind `=`, or nothing


class LineError(Exception):
    """The line is not what the verb takes: one line that says what to do. The exit code is 2, and 125 of ``run``."""


class Kind:
    """What a word has to be. ``name``: as help has it."""

    name = "text"

    def read(self, word: str) -> Any:
        """The value of a word. Raises ``ValueError`` with what is wrong about it."""
        raise NotImplementedError


class Choice(Kind):
    """One of several words."""

    def __init__(self, choices: Collection[str]) -> None:
        self.choices = tuple(choices)

    def read(self, word: str) -> str:
        if word not in self.choices:
            raise ValueError(word)
        return word


class IntRange(Kind):
    """A whole number, not below ``min``, not above ``max``."""

    def __init__(self, min: int | None = None, max: int | None = None) -> None:
        self.min, self.max = min, max

    def read(self, word: str) -> int:
        number = int(word)
        if (self.min is not None and number < self.min) or (self.max is not None and number > self.max):
            raise ValueError(word)
        return number


class Truth(Kind):
    """``true``, ``false``, and what else people write for them."""

    def read(self, word: str) -> bool:
        found = word.strip().lower()
        if found not in _TRUE and found not in _FALSE:
            raise ValueError(word)
        return found in _TRUE


BOOL = Truth()


class Option:
    """``flags`` and ``settings`` as of ``click.option``. ``bare``: its value where the flag stands alone; any other
    value is in the same word then, behind ``=``."""

    __slots__ = ("flags", "settings")

    def __init__(self, flags: tuple[str, ...], settings: dict[str, Any]) -> None:
        self.flags, self.settings = flags, settings

    @property
    def name(self) -> str:
        """The keyword by which the verb gets its value: the word without dashes, else the first of the long flags."""
        flags = [flag.partition("/")[0] for flag in self.flags]
        for flag in flags:
            if not flag.startswith("-"):
                return flag
        return max(flags, key=_dashes).lstrip("-").replace("-", "_").lower()

    def actions(self) -> dict[str, Any]:
        """Flag -> what it does."""
        found: dict[str, Any] = {}
        action = ON if self.is_switch else BARE if "bare" in self.settings else VALUE
        for flag in self.flags:
            on, slash, off = flag.partition("/")
            if on.startswith("-"):
                found[on] = action
            if slash:
                found[off] = OFF
        return found

    @property
    def is_switch(self) -> bool:
        """Takes no value; has an opposite if one of its flags is ``--this/--that``."""
        return bool(self.settings.get("is_flag")) or any("/" in flag for flag in self.flags)

    @property
    def default(self) -> Any:
        """Its value where the line has none, not yet read if it is a word."""
        found: dict[str, Any] = self.settings
        if "default" in found:
            return found["default"]
        if found.get("multiple"):
            return ()
        return False if self.is_switch else None


def _dashes(flag: str) -> int:
    return min(2, len(flag) - len(flag.lstrip("-")))


class Argument:
    """``name`` and ``settings`` as of ``click.argument``."""

    __slots__ = ("name", "settings")

    def __init__(self, name: str, settings: dict[str, Any]) -> None:
        self.name, self.settings = name, settings

    @property
    def many(self) -> bool:
        """Takes all that the others leave."""
        return bool(self.settings.get("nargs") == -1)

    @property
    def required(self) -> bool:
        return bool(self.settings.get("required", not self.many and "default" not in self.settings))


class Command:
    """A verb: ``callback`` is called with the values of its options and arguments as keywords.

    ``switches``: its flags may have a value, as in ``--rm=true``. ``program``: what follows its first argument is not
    its own, but a program's.
    """

    def __init__(self, name: str, callback: Function, settings: dict[str, Any]) -> None:
        self.name, self.callback = name, callback
        self.switches: bool = settings.pop("switches", False)
        self.program: bool = settings.pop("program", False)
        self.settings = settings
        self.parameters: list[Option | Argument] = getattr(callback, _DECLARED, [])[::-1]

    @property
    def options(self) -> list[Option]:
        """With --debug, which every verb has: where people put it when something has failed."""
        found = [one for one in self.parameters if isinstance(one, Option)]
        return found if any("--debug" in one.flags for one in found) else [*found, DEBUG]

    @property
    def arguments(self) -> list[Argument]:
        return [one for one in self.parameters if isinstance(one, Argument)]


class Group:
    """Verbs by their names. ``sections``: heading -> verb -> (where it is: module[:name] of ``cli``, line of help)."""

    def __init__(self, name: str, words: str, sections: Mapping[str, Mapping[str, tuple[str, str]]]) -> None:
        self.name, self.words, self.sections = name, words, sections
        self.verbs = {verb: place for section in sections.values() for verb, place in section.items()}

    def find(self, verb: str) -> Command | Group:
        """The verb, whose module is imported now."""
        module, _, name = self.verbs[verb][0].partition(":")
        found = getattr(importlib.import_module(f"fastlayer.cli.{module}"), name or "command")
        assert isinstance(found, (Command, Group))
        return found


DEBUG = Option(("-D", "--debug"), {"is_flag": True, "help": "Show the trace of an error."})


def command(name: str, **settings: Any) -> Callable[[Function], Command]:
    """A function as a verb. ``settings``: ``epilog``, ``hidden``, ``switches`` and ``program`` (see ``Command``)."""
    return lambda function: Command(name, function, settings)


def option(*flags: str, **settings: Any) -> Callable[[F], F]:
    """Gives the function below an option."""
    return lambda function: _declare(function, Option(flags, settings))


def argument(name: str, **settings: Any) -> Callable[[F], F]:
    """Gives the function below an argument."""
    return lambda function: _declare(function, Argument(name, settings))


def _declare(function: F, one: Option | Argument) -> F:
    function.__dict__.setdefault(_DECLARED, []).append(one)
    return function
