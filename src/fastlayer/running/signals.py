"""Signals by name or number, as Docker takes them."""

from __future__ import annotations

import re
import signal

from fastlayer.errors import UsageError

_LAST = 64  # SIGRTMAX
_ABOVE = re.compile(r"RTMIN\+([1-9]|1[0-5])", re.ASCII)
_BELOW = re.compile(r"RTMAX-([1-9]|1[0-4])", re.ASCII)


def parse_signal(text: str) -> int:
    """``SIGTERM``, ``term``, ``15``, ``RTMIN+3``. Raises ``UsageError``."""
    found = number_of(text)
    if found is None:
        raise UsageError(f"Invalid signal: {text}: use a name as in signal(7), or a number")
    return found


def number_of(text: str) -> int | None:
    """None for what is no signal: a number from 1 is one, a name with or without SIG, RTMIN+n and RTMAX-n."""
    if text.isascii() and text.isdecimal():
        number = int(text[:4])
        return number if 0 < number <= _LAST else None
    name = text.upper().removeprefix("SIG")
    if above := _ABOVE.fullmatch(name):
        return int(signal.SIGRTMIN) + int(above[1])
    if below := _BELOW.fullmatch(name):
        return int(signal.SIGRTMAX) - int(below[1])
    found = getattr(signal.Signals, f"SIG{name}", None)
    return None if found is None else int(found)
