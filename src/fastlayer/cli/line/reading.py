"""From the words of a line to the values that a verb is called with; only of lines that are right.

Reads what click reads (its documentation, "Advanced patterns", and POSIX's conventions for utilities): options up to
``--``, clusters of short flags, values in the next word, in the same word or after ``=``. Where something is wrong, or
help is asked for, there is no reading: click says what is to be said.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from fastlayer.cli.line.declare import BARE, DEBUG, OFF, ON, VALUE, Argument, Command, Group, Kind, LineError, Option

_TRUE, _FALSE = ("1", "t", "true"), ("0", "f", "false")


class Line:
    """A line that was read: call ``command`` with ``given``. ``path``: the words that led to it."""

    __slots__ = ("command", "debug", "given", "path")

    def __init__(self, command: Command, path: str, given: dict[str, Any], debug: bool) -> None:
        self.command, self.path, self.given, self.debug = command, path, given, debug


class Unread(Exception):
    """Something about a line is wrong."""


def read(group: Group, words: list[str]) -> Line | None:
    """The line as values; None where click has to look at it. Raises what the verb's import raises."""
    found: Command | Group = group
    path, debug = [group.name], False
    while isinstance(found, Group):
        while words[:1] in (["-D"], ["--debug"]):
            debug, words = True, words[1:]
        if not words or words[0] not in found.verbs:
            return None
        path.append(words[0])
        found, words = found.find(words[0]), words[1:]
    try:
        given, asked = values(found, words)
    except (Unread, LineError, ValueError):
        return None
    return Line(found, " ".join(path), given, debug or asked)


def path_of(group: Group, words: list[str]) -> str:
    """The words of the line that name its verb, as far as there is one: ``fastlayer container run``."""
    found: Command | Group = group
    path = [group.name]
    for word in words:
        if not isinstance(found, Group) or (word not in found.verbs and not word.startswith("-")):
            break
        if word in found.verbs:
            path.append(word)
            found = found.find(word)
    return " ".join(path)


def values(command: Command, words: list[str]) -> tuple[dict[str, Any], bool]:
    """(name -> value of all that the verb takes; whether the trace of an error is wanted).

    Raises ``Unread``, ``LineError`` or ``ValueError`` for lines that are not right.
    """
    options = command.options
    flags = flags_of(options)
    spoken, operands = _sorted(command, flags, plain_switches(command, words, flags))
    found = [(one, _value(one, spoken.get(one))) for one in options]
    given = {one.name: value for one, value in found if one.settings.get("expose_value", True)}
    given.update(_operands(command.arguments, operands))
    return given, given.pop(DEBUG.name, False)


Flags = dict[str, tuple[Option, Any]]  # flag -> the option, and what the flag does to it


def flags_of(options: list[Option]) -> Flags:
    """All flags of a verb."""
    return {flag: (one, action) for one in options for flag, action in one.actions().items()}


def _sorted(command: Command, flags: Flags, words: list[str]) -> tuple[dict[Option, list[Any]], list[str]]:
    """(option -> words and truths, in their order; what is no option)."""
    spoken: dict[Option, list[Any]] = {}
    operands: list[str] = []
    rest = words[::-1]
    while rest:
        word = rest.pop()
        if word == "--":
            break
        if len(word) > 1 and word[0] == "-":
            (_long if word[1] == "-" else _cluster)(word, rest, flags, spoken)
            continue
        operands.append(word)
        if command.program:
            break
    return spoken, operands + rest[::-1]


def _long(word: str, rest: list[str], flags: Flags, spoken: dict[Option, list[Any]]) -> None:
    flag, equals, value = word.partition("=")
    option, action = _known(flags, flag)
    if action is BARE:
        spoken.setdefault(option, []).append(value if equals else option.settings["bare"])
    elif action is not VALUE:
        if equals:
            raise Unread(word)
        spoken.setdefault(option, []).append(action)
    else:
        spoken.setdefault(option, []).append(value if equals else _next(rest))


def _cluster(word: str, rest: list[str], flags: Flags, spoken: dict[Option, list[Any]]) -> None:
    for at, letter in enumerate(word[1:], 2):
        option, action = _known(flags, f"-{letter}")
        if action is VALUE:
            spoken.setdefault(option, []).append(word[at:] or _next(rest))
            return
        spoken.setdefault(option, []).append(action)


def _known(flags: Flags, flag: str) -> tuple[Option, Any]:
    if flag not in flags:
        raise Unread(flag)
    return flags[flag]


def _next(rest: list[str]) -> str:
    if not rest:
        raise Unread
    return rest.pop()


def _value(option: Option, spoken: list[Any] | None) -> Any:
    settings = option.settings
    read = _reader(settings.get("type"))
    if spoken is None:
        value = os.environ.get(settings.get("envvar", "")) or option.default
        if value is None and settings.get("required"):
            raise Unread(option.name)
        if isinstance(value, str):
            value = read(value)
    elif settings.get("multiple"):
        value = tuple(map(read, spoken))
    else:
        value = spoken[-1]
        if isinstance(value, str):
            value = read(value)
    callback = settings.get("callback")
    return value if callback is None else callback(value)


def _reader(kind: Any) -> Callable[[str], Any]:
    if kind is None:
        return str
    return kind.read if isinstance(kind, Kind) else kind  # else int or float


def _operands(arguments: list[Argument], words: list[str]) -> dict[str, Any]:
    """Each its word; one that takes many gets what the others leave."""
    given: dict[str, Any] = {}
    many = next((at for at, one in enumerate(arguments) if one.many), None)
    before = arguments if many is None else arguments[:many]
    after = [] if many is None else arguments[many + 1 :]
    queue = words[::-1]
    for one in before:
        given[one.name] = _operand(one, queue.pop() if queue else None)
    queue.reverse()
    for one in reversed(after):
        given[one.name] = _operand(one, queue.pop() if queue else None)
    if many is not None:
        if arguments[many].required and not queue:
            raise Unread
        given[arguments[many].name] = tuple(map(_reader(arguments[many].settings.get("type")), queue))
    elif queue:
        raise Unread
    return given


def _operand(argument: Argument, word: str | None) -> Any:
    if word is None:
        if argument.required:
            raise Unread(argument.name)
        word = argument.settings.get("default")
    return None if word is None else _reader(argument.settings.get("type"))(word)


# ---- switches with values ----------------------------------------------------------------------------


def plain_switches(command: Command, words: list[str], flags: Flags) -> list[str]:
    """Docker's ``--flag=true`` as ``--flag``; ``--flag=false`` as its opposite, where it has one, or as nothing."""
    if not command.switches:
        return words
    found: list[str] = []
    rest = words[::-1]
    while rest:
        word = rest.pop()
        if word == "--" or not (word.startswith("-") and len(word) > 1):
            found.append(word)
            if word == "--" or command.program:
                break  # what follows is the program's
            continue
        before, equals, value = word.partition("=")
        last = before if before.startswith("--") else f"-{before[-1]}"  # of a cluster, as in -itd=false
        option, action = flags.get(last, (None, VALUE))
        if option is not None and action is ON and equals and value.lower() in (*_TRUE, *_FALSE):
            others = [before[:-1]] if last != before and len(before) > 2 else []
            if all(flags.get(f"-{letter}", (None, VALUE))[1] is ON for word in others for letter in word[1:]):
                found += [before] if value.lower() in _TRUE else [*others, *_opposite(option)]
                continue
        found.append(word)
        if rest and _needs_next(word, flags):
            found.append(rest.pop())
    return found + rest[::-1]


def spelled_out(words: list[str], flags: Flags) -> list[str]:
    """``--pull`` as ``--pull=VALUE``, for whom a value would be the next word."""
    found: list[str] = []
    rest = words[::-1]
    while rest:
        word = rest.pop()
        option, action = flags.get(word, (None, VALUE))
        found.append(f"{word}={option.settings['bare']}" if option is not None and action is BARE else word)
        if word == "--":
            break
        if len(word) > 1 and word[0] == "-" and rest and _needs_next(word, flags):
            found.append(rest.pop())
    return found + rest[::-1]


def _opposite(option: Option) -> list[str]:
    return [flag for flag, action in option.actions().items() if action is OFF][:1]


def _needs_next(word: str, flags: Flags) -> bool:
    """Whether the value of the option is the next word: ``--name NAME``, ``-e X=1``, ``-ite X=1``."""
    if word.startswith("--"):
        return word in flags and flags[word][1] is VALUE
    for at, letter in enumerate(word[1:], 1):
        if f"-{letter}" in flags and flags[f"-{letter}"][1] is VALUE:
            return at == len(word) - 1
    return False
