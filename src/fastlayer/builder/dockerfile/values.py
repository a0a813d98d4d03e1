"""Small values in Dockerfiles: durations, sizes, names that were mistyped."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

from fastlayer.errors import DockerfileError

_UNITS = {"ns": 1, "us": 10**3, "µs": 10**3, "μs": 10**3, "ms": 10**6, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9}
_PART = re.compile(r"(\d+\.?\d*|\.\d+)(ns|us|µs|μs|ms|s|m|h)", re.ASCII)
_LEAST = 10**6  # nanoseconds of a time in a health check that is not 0: a millisecond (moby, MinimumDuration)
_MOST = (1 << 63) - 1
_SIZE = re.compile(r"(\d+(?:\.\d+)?) ?([kmgtp]?)(?:i?b)?", re.IGNORECASE | re.ASCII)


def duration(text: str, flag: str) -> int:
    """Nanoseconds of a Go duration (``1h5m``, ``2.5s``); empty is 0. Raises ``DockerfileError``."""
    if text in ("", "0", "+0", "-0"):
        return 0
    body = text.removeprefix("+")
    parts = _PART.findall(body)
    if not parts or "".join(number + unit for number, unit in parts) != body:
        raise DockerfileError(f"{flag}={text}: use a time such as 30s, 1m30s or 500ms")
    value = sum(_scaled(number, _UNITS[unit]) for number, unit in parts)
    if value > _MOST or 0 < value < _LEAST:
        raise DockerfileError(f"{flag}={text}: use 0, or 1ms to 292 years")
    return value


def _scaled(number: str, unit: int) -> int:
    whole, _, fraction = number.partition(".")
    return int(whole or 0) * unit + int(fraction or 0) * unit // int(10 ** len(fraction))


def size(text: str, what: str) -> int:
    """Bytes of ``64m``, ``1.5g``, ``10kib``: units are powers of 1,024. Raises ``DockerfileError``."""
    found = _SIZE.fullmatch(text)
    if found is None:
        raise DockerfileError(f"{what}={text}: use a size such as 64m or 1g")
    return int(float(found[1]) * (1 << 10 * " kmgtp".index(found[2].lower() or " ")))


def nearest(word: str, known: Iterable[str]) -> str:
    """What was meant perhaps, to be put behind a message."""
    close = difflib.get_close_matches(word.lower(), list(known), 1)
    return f": did you mean {close[0].upper() if word.isupper() else close[0]}?" if close else ""
