"""Options that are comma-separated fields, as Docker reads them: ``type=local,dest="a,b"``."""

from __future__ import annotations

from fastlayer.errors import UsageError, show_path

_TRUE, _FALSE = ("1", "t", "T", "TRUE", "true", "True", ""), ("0", "f", "F", "FALSE", "false", "False")


def fields_of(option: str, text: str) -> list[str]:
    """The fields of one value, at least one. Raises ``UsageError`` for quotes that do not match."""
    import csv

    try:
        rows = list(csv.reader([text], strict=True))
    except csv.Error as exc:
        raise UsageError(f"{option} {show_path(text)}: {exc}") from None
    return (rows and rows[0]) or [""]


def values_of(option: str, text: str) -> dict[str, str]:
    """The fields as NAME=VALUE, names in lower case. Raises ``UsageError`` for a field without ``=``."""
    values: dict[str, str] = {}
    for field in fields_of(option, text):
        name, equals, value = field.partition("=")
        if not equals:
            raise UsageError(f"{option} {show_path(text)}: {show_path(field)} has no `=`: write NAME=VALUE")
        values[name.strip().lower()] = value
    return values


def truth(text: str) -> bool | None:
    """A truth value as Go reads it, an empty one is true; None: it is none."""
    return True if text in _TRUE else False if text in _FALSE else None
