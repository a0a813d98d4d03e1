"""Checks the types of what callers pass, so that a mistake is one clear line and nothing has been done yet.

``check(jobs=(jobs, COUNT), progress=(progress, CALLBACK))`` raises ``UsageError`` for the first that is of no use.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

from fastlayer._values import NamedTuple
from fastlayer.errors import UsageError


class Kind(NamedTuple):
    """``accepts`` tells whether a value will do, ``wanted`` says what would."""

    accepts: Callable[[Any], bool]
    wanted: str


def check(**arguments: tuple[Any, Kind]) -> None:
    """Each argument by name: its value and what it has to be."""
    for name, (value, kind) in arguments.items():
        if not kind.accepts(value):
            raise UsageError(f"{name}={_short(value)}: give {kind.wanted}")


def _short(value: Any) -> str:
    import reprlib

    return " ".join(reprlib.repr(value).split())


def is_int(value: Any) -> bool:
    """A whole number; True and False are none."""
    return isinstance(value, int) and not isinstance(value, bool)


def _is_path(value: Any) -> bool:
    return isinstance(value, (str, bytes, os.PathLike))


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, (str, bytes, bytearray, memoryview))


def _is_triple(value: Any) -> bool:
    return _is_list(value) and len(value) == 3 and all(map(is_int, value))


def _is_limits(value: Any) -> bool:
    return hasattr(value, "_fields") and "max_entries" in value._fields and all(map(is_int, value))


def _optional(kind: Kind) -> Kind:
    return Kind(lambda value: value is None or kind.accepts(value), f"{kind.wanted}, or None")


def _one_or_more(accepts: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: accepts(value) or (_is_list(value) and all(map(accepts, value)))


PATH = Kind(_is_path, "a path")
DIRECTORY = Kind(lambda value: _is_path(value) or is_int(value), "a path or a descriptor")
DIRECTORIES = Kind(_one_or_more(DIRECTORY.accepts), "a path or a descriptor, or a sequence of them")
WORKDIR = _optional(DIRECTORY)
INTEGER = Kind(is_int, "a whole number")
NUMBER = _optional(INTEGER)
NAME = _optional(Kind(lambda value: isinstance(value, str), "a string"))
FLAG = Kind(lambda value: isinstance(value, bool), "True or False")
CALLBACK = _optional(Kind(callable, "a function"))
LIMITS = Kind(_is_limits, "fastlayer.Limits of whole numbers")
ID_MAP = _optional(
    Kind(lambda value: _is_list(value) and all(map(_is_triple, value)), "(inside, outside, count) triples")
)
DIGESTS = _optional(
    Kind(_one_or_more(lambda value: value is None or isinstance(value, str)), "a digest, or a sequence of them")
)
