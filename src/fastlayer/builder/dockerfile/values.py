"""Small values in Dockerfiles: durations, sizes, names that were mistyped."""

from __future__ import annotations

import re
from collections.abc import Iterable

from fastlayer.errors import DockerfileError
from fastlayer.oci.duration import parse_duration

TRUE, FALSE = ("1", "t", "T", "TRUE", "true", "True"), ("0", "f", "F", "FALSE", "false", "False")  # as Go has them
_LEAST = 10**6  # nanoseconds of a time in a health check that is not 0: a millisecond (moby, MinimumDuration)
_SIZE = re.compile(r"(\d+(?:\.\d+)?) ?([kmgtp]?)(?:i?b)?", re.IGNORECASE | re.ASCII)


def duration(text: str, flag: str) -> int:
    """Nanoseconds of a Go duration (``1h5m``, ``2.5s``); empty is 0. Raises ``DockerfileError``."""
    try:
        value = parse_duration(text) if text else 0
    except ValueError as exc:
        raise DockerfileError(f"{flag}={text}: {exc}") from None
    if 0 < value < _LEAST:
        raise DockerfileError(f"{flag}={text}: less than 1ms: give more, or 0 for the default")
    return value


def size(text: str, what: str) -> int:
    """Bytes of ``64m``, ``1.5g``, ``10kib``: units are powers of 1,024. Raises ``DockerfileError``."""
    found = _SIZE.fullmatch(text)
    if found is None:
        raise DockerfileError(f"{what}={text}: use a size such as 64m or 1g")
    return int(float(found[1]) * (1 << 10 * " kmgtp".index(found[2].lower() or " ")))


def nearest(word: str, known: Iterable[str]) -> str:
    """What was meant perhaps, to be put behind a message."""
    import difflib  # takes longer to load than a build that has nothing to do may take

    close = difflib.get_close_matches(word.lower(), list(known), 1)
    return f": did you mean {close[0].upper() if word.isupper() else close[0]}?" if close else ""
