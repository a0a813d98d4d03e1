"""Arguments of the public functions: of their kind, or refused in one line that says what to give.

A word where a list of them belongs, or a size in text, is what people who come from other libraries write.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fastlayer.errors import UsageError

_TEN_THOUSAND = 253_402_300_800  # the first second of that year


def text(name: str, value: Any) -> str:
    """A text. Raises ``UsageError``, as all of these do; ``name``: of the argument."""
    if not isinstance(value, str):
        raise UsageError(f"{name}: {value!r} is not a text")
    return value


def secret(name: str, value: Any) -> str:
    """A text that no message shows."""
    if not isinstance(value, str):
        raise UsageError(f"{name}: not a text, but of the type {type(value).__name__}")
    return value


def text_or_none(name: str, value: Any) -> str | None:
    """A text, or None."""
    return None if value is None else text(name, value)


def words(name: str, value: Any) -> tuple[str, ...]:
    """A list of texts."""
    if isinstance(value, str | bytes) or not isinstance(value, Sequence | set | frozenset):
        raise UsageError(f"{name}: {value!r} is no list of words: give [{str(value)!r}]")
    return tuple(text(name, one) for one in value)


def mapping(name: str, value: Any) -> dict[str, str]:
    """Texts by texts."""
    if not isinstance(value, Mapping):
        raise UsageError(f"{name}: {value!r} is no mapping: give {{'KEY': 'value'}}")
    return {text(name, key): text(name, one) for key, one in value.items()}


def whole(name: str, value: Any) -> int:
    """A whole number; a truth is none."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise UsageError(f"{name}: {value!r} is not a whole number (sizes are bytes)")
    return value


def seconds(name: str, value: Any) -> int:
    """A time in whole seconds since 1970, of a year that RFC 3339 can write."""
    if not 0 <= whole(name, value) < _TEN_THOUSAND:
        raise UsageError(f"{name}={value} is no time: give seconds since 1970, and none after the year 9999")
    return int(value)


def number(name: str, value: Any) -> int | float:
    """A number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UsageError(f"{name}: {value!r} is not a number")
    return value


def truth(name: str, value: Any) -> bool:
    """True or False; nothing else that counts as one of them."""
    if not isinstance(value, bool):
        raise UsageError(f"{name}: {value!r} is neither True nor False")
    return value
