"""Limits of a program's resources (setrlimit(2)), as Docker's ``--ulimit`` gives them."""

from __future__ import annotations

from fastlayer._values import NamedTuple
from fastlayer.errors import UsageError

# RLIMIT_*: the numbers of all architectures but alpha, mips and sparc
_NAMES = "cpu fsize data stack core rss nproc nofile memlock as locks sigpending msgqueue nice rtprio rttime"
NUMBERS = {name: number for number, name in enumerate(_NAMES.split())}
_DOCKERS = tuple(sorted(name for name in NUMBERS if name != "as"))  # what Docker takes
NONE = -1
_MOST = (1 << 63) - 1


class Limit(NamedTuple):
    """``soft`` and ``hard``: -1: none."""

    name: str
    soft: int
    hard: int

    @property
    def number(self) -> int:
        return NUMBERS[self.name]

    def __str__(self) -> str:
        return f"{self.name}={self.soft}:{self.hard}"


def parse_limit(text: str) -> Limit:
    """``NAME=SOFT[:HARD]``: HARD is SOFT when it is missing, -1 is none. Raises ``UsageError``."""
    name, equals, values = text.partition("=")
    if not equals or name not in _DOCKERS:
        raise UsageError(f"ulimit {text!r}: give NAME=SOFT[:HARD], NAME one of {', '.join(_DOCKERS)}")
    soft, colon, hard = values.partition(":")
    found = Limit(name, _number(text, soft), _number(text, hard if colon else soft))
    if found.hard != NONE and (found.soft == NONE or found.soft > found.hard):
        raise UsageError(f"ulimit {text!r}: the soft limit is above the hard one")
    return found


def parse_limits(texts: tuple[str, ...]) -> tuple[Limit, ...]:
    """Of each name the last counts."""
    return tuple({limit.name: limit for limit in map(parse_limit, texts)}.values())


def _number(text: str, value: str) -> int:
    if value == "-1" or value == "unlimited":
        return NONE
    if not (value.isascii() and value.isdecimal() and len(value) < 20 and int(value) <= _MOST):
        raise UsageError(f"ulimit {text!r}: {value!r} is no number: use 0 or more, or -1 for none")
    return int(value)
