"""Text of lists and templates. What came with an image could steer a terminal: it is shown, not sent."""

from __future__ import annotations

from collections.abc import Mapping


def printable(text: str) -> str:
    """``\\x1b`` for ESC, and so on for all that cannot be seen."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


class Labels(str):
    """``KEY=VALUE,...`` as lists show it; ``values``: what it was made of."""

    values: Mapping[str, str]

    def __new__(cls, values: Mapping[str, str]) -> Labels:
        found = super().__new__(cls, ",".join(f"{key}={value}" for key, value in sorted(values.items())))
        found.values = values
        return found
