"""Text that came with an image, on a terminal: what could steer one is shown, not sent."""

from __future__ import annotations


def printable(text: str) -> str:
    """``\\x1b`` for ESC, and so on for all that cannot be seen."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
