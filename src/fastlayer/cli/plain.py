"""Text that came with an image, on a terminal: what could steer one is shown, not sent."""

from __future__ import annotations

import re

from fastlayer.cli import rows

_ACTIONS = re.compile(r"\{\{\s*(json\b)?.*?\}\}", re.DOTALL)


def row(found: rows.Row, format_: str) -> rows.Row:
    """The row for a table or template, escaped. For JSON as it is: there json.dumps escapes."""
    if format_ == "json" or _only_json(format_):
        return found
    return {key: printable(item) if isinstance(item, str) else item for key, item in found.items()}


def printable(text: str) -> str:
    """``\\x1b`` for ESC, and so on for all that cannot be seen."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def _only_json(format_: str) -> bool:
    actions = _ACTIONS.findall(format_)
    return bool(actions) and all(actions)
