"""What others say and where they are, as parts of one line that gives no secret away."""

from __future__ import annotations

from collections.abc import Iterable

_SHOWN = 300  # characters of what somebody else says


def one_line(text: str, secrets: Iterable[str] = ()) -> str:
    """What somebody else says; ``secrets`` in it are not shown."""
    for secret in secrets:
        if secret:
            text = text.replace(secret, "***")
    shown = "".join(char if char.isprintable() else " " for char in text[: 4 * _SHOWN])
    shown = " ".join(shown.split())
    return shown if len(shown) <= _SHOWN else shown[:_SHOWN] + "..."


def shown_url(url: str) -> str:
    """An address without user, password, query and fragment: signed addresses are keys to what they name."""
    from urllib.parse import urlsplit

    try:
        parts = urlsplit(url)
    except ValueError:
        return one_line(url.partition("?")[0].rpartition("@")[2])
    return one_line(f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}")


def host_of(url: str) -> str:
    """``HOST[:PORT]`` of an address, as people write it before the name of an image."""
    from urllib.parse import urlsplit

    try:
        return one_line(urlsplit(url).netloc.rpartition("@")[2])
    except ValueError:
        return one_line(url)
