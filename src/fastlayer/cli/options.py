"""Options that several verbs share, and the environment they default to."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from fastlayer._checked import seconds
from fastlayer.cli.line import declare

F = TypeVar("F", bound=Callable[..., Any])

_MAX_SIZE = (1 << 63) - 1  # what the kernel, and the database, can count


class _Path(declare.Kind):
    """A path, as bytes. An empty one would mean the current directory, which a script with an unset variable does not.

    The library opens what it is given and says what is wrong.
    """

    name = "path"

    def read(self, word: str) -> bytes:
        if not word:
            raise ValueError("it is empty: give a name (`.` is the current directory)")
        return os.fsencode(word)


class _Word(declare.Kind):
    """The same for what is a name, or a path that is passed on as it is."""

    def read(self, word: str) -> str:
        if not word:
            raise ValueError("it is empty: give a name")
        return word


PATH = _Path()
WORD = _Word()
PROGRESS = declare.Choice(["auto", "plain", "tty", "rawjson", "quiet", "none"])


def progress_option(function: F) -> F:
    """--progress and --quiet."""
    function = declare.option(
        "--progress",
        type=PROGRESS,
        default="auto",
        help="auto: a bar on a terminal; tty: a bar; plain: a line every 10 s; rawjson: an object a second; quiet.",
    )(function)
    return declare.option("-q", "--quiet", is_flag=True, help="No progress and no warnings on stderr.")(function)


def xattrs_option(function: F) -> F:
    """--xattrs."""
    return declare.option(
        "--xattrs",
        type=declare.Choice(["all", "docker", "none"]),
        default="all",
        show_default=True,
        help="all: every attribute that travels; docker: security.capability only; none.",
    )(function)


def jobs_option(function: F) -> F:
    """--jobs."""
    return declare.option(
        "-j",
        "--jobs",
        type=declare.IntRange(1, 256),
        envvar="FASTLAYER_JOBS",
        help="Threads for each kind of work (default: one per processor). Never changes the result.",
    )(function)


_LIMITS = (
    ("--max-entries", 0, None, "Refuse a layer with more entries."),
    ("--max-size", 0, "BYTES", "Refuse a layer that expands to more."),
    ("--max-file-size", 0, "BYTES", "Refuse a larger file."),
    ("--max-ratio", 0, None, "Refuse a higher expansion ratio (0: any)."),
    ("--max-pax", 512, "BYTES", "Refuse longer extended headers."),
)


def limits_options(function: F) -> F:
    """--max-entries and its like, for layers that are read."""
    for name, lowest, metavar, words in reversed(_LIMITS):
        function = declare.option(name, type=declare.IntRange(min=lowest), metavar=metavar, help=words)(function)
    return function


def limits(given: dict[str, Any]) -> Any:
    """``fastlayer.Limits`` of these options."""
    import fastlayer

    names = [name.removeprefix("--").replace("-", "_") for name, *_ in _LIMITS]
    return fastlayer.Limits(**{name: given[name] for name in names if given[name] is not None})


def source_date_epoch(value: int | None) -> int | None:
    """The option if given, else SOURCE_DATE_EPOCH of the environment (seconds since 1970). Raises ``UsageError``."""
    if value is not None:
        return seconds("--source-date-epoch", value)
    text = os.environ.get("SOURCE_DATE_EPOCH", "")
    if not text:
        return None
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        raise declare.LineError(f"SOURCE_DATE_EPOCH={text!r} is not a number of seconds: set it to one or unset it")
    return seconds("SOURCE_DATE_EPOCH", int(text))


_UNITS = {
    "": 1,
    "b": 1,
    "k": 10**3,
    "m": 10**6,
    "g": 10**9,
    "t": 10**12,
    "kib": 1 << 10,
    "mib": 1 << 20,
    "gib": 1 << 30,
}
_MEMORY = re.compile(r"([0-9]{1,20}(?:\.[0-9]{1,20})?) ?([kmgtp]?)i?b?", re.ASCII | re.IGNORECASE)


def size(text: str | None) -> int | None:
    """``512m``, ``2GB``, ``1gib`` in bytes; decimal units as in all of our output."""
    if text is None:
        return None
    number = text.rstrip("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
    unit = text[len(number) :].lower()
    unit = unit if unit in _UNITS else unit.removesuffix("b")
    digits = number.lstrip("0")
    if not (number.isascii() and number.isdecimal()) or unit not in _UNITS or not digits:
        raise declare.LineError(f"{text!r} is not a size: give bytes, or a number with k, m, g, t (or kib, mib, gib)")
    if len(digits) > 19 or int(digits) * _UNITS[unit] > _MAX_SIZE:
        raise declare.LineError(f"{text!r} is too large a size: give less than 8 EiB (2^63 bytes)")
    return int(digits) * _UNITS[unit]


def memory(option: str, text: str | None) -> int | None:
    """``64m``, ``1.5g`` of memory in bytes: units are powers of 1024, as in Docker (go-units, RAMInBytes)."""
    if text is None:
        return None
    found = _MEMORY.fullmatch(text)
    if found is None:
        raise declare.LineError(f"{option} {text!r} is not a size: give bytes, or a number with k, m, g, t")
    number, unit = found[1], found[2].lower()
    factor = 1024 ** "bkmgtp".index(unit or "b")
    value = int(float(number) * factor) if "." in number else int(number) * factor
    if value > _MAX_SIZE:
        raise declare.LineError(f"{option} {text!r} is too large a size: give less than 8 EiB (2^63 bytes)")
    return value


def pairs(option: str, words: Iterable[str]) -> dict[str, str]:
    """``KEY=VALUE`` words of a repeatable option."""
    found: dict[str, str] = {}
    for word in words:
        key, sign, value = word.partition("=")
        if not (key and sign):
            raise declare.LineError(f"{option} {word!r}: give KEY=VALUE")
        if key in found:
            raise declare.LineError(f"{option} {key!r}: is given twice")
        found[key] = value
    return found
