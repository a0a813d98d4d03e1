"""Durations as Go writes them: ``1h30m``, ``1.5s``, ``300ms``."""

from __future__ import annotations

import re

_UNITS = {
    "ns": 1,
    "us": 10**3,
    "µs": 10**3,  # U+00B5
    "μs": 10**3,  # U+03BC
    "ms": 10**6,
    "s": 10**9,
    "m": 60 * 10**9,
    "h": 3600 * 10**9,
}
_PART = r"(\d{1,18}(?:\.\d{0,18})?|\.\d{1,18})(ns|us|µs|μs|ms|s|m|h)"
_DURATION = re.compile(rf"(?:{_PART})+", re.ASCII)
_LONGEST = (1 << 63) - 1  # ns, as Go's time.Duration


def parse_duration(text: str) -> int:
    """Nanoseconds, never negative. Raises ``ValueError`` for what is no duration."""
    if text == "0":
        return 0
    if not _DURATION.fullmatch(text):
        raise ValueError(f"{text[:40]!a} is no duration: give hours, minutes and seconds, such as 1h30m or 10s")
    nanoseconds = sum(_nanoseconds(number, unit) for number, unit in re.findall(_PART, text, re.ASCII))
    if nanoseconds > _LONGEST:
        raise ValueError(f"{text[:40]!a} is too long a duration: give less than 292 years")
    return nanoseconds


def _nanoseconds(number: str, unit: str) -> int:
    whole, _, fraction = number.partition(".")
    part: int = int(fraction or "0") * _UNITS[unit] // 10 ** len(fraction)
    return int(whole or "0") * _UNITS[unit] + part
