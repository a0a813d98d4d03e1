"""Ports as EXPOSE and image configurations write them: ``80``, ``53/udp``, ``8000-8002/tcp``."""

from __future__ import annotations

import re

_PORT = re.compile(r"(?P<first>[0-9]{1,5})(?:-(?P<last>[0-9]{1,5}))?(?:/(?P<protocol>tcp|udp|sctp))?", re.I | re.A)


def parse_ports(text: str) -> list[str]:
    """Each port of a range, with its protocol: ``8000/tcp``. Raises ``ValueError`` with what is expected."""
    found = _PORT.fullmatch(text)
    first, last = (int(found["first"]), int(found["last"] or found["first"])) if found else (0, 0)
    if found is None or not 1 <= first <= last <= 65535:
        raise ValueError("give PORT[-PORT][/tcp|udp|sctp], 1 to 65535")
    return [f"{port}/{(found['protocol'] or 'tcp').lower()}" for port in range(first, last + 1)]
