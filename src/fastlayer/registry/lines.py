"""What others say and where they are, as parts of one line that gives no secret away.

Whatever was sent to somebody may come back in what he says: passwords and tokens are noted here before they are sent,
and left out of every line about a registry.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable

from fastlayer.errors import FastlayerError

_SHOWN = 300  # characters of what somebody else says
_SHORTEST = 3  # characters of a secret: shorter ones are in every other word
_MANY = 256  # that are remembered: a process that runs for months gets a token every five minutes
_secrets: dict[str, None] = {}  # the latest last
_lock = threading.Lock()


def hide(secrets: Iterable[str]) -> None:
    """From now on they are in no line."""
    with _lock:
        for secret in secrets:
            if len(secret) >= _SHORTEST:
                _secrets.pop(secret, None)
                _secrets[secret] = None
        while len(_secrets) > _MANY:
            del _secrets[next(iter(_secrets))]


def without_secrets(text: str) -> str:
    """The text with stars in the place of each."""
    with _lock:
        known = sorted(_secrets, key=len, reverse=True)  # one may be a part of another
    for secret in known:
        text = text.replace(secret, "***")
    return text


def hide_in(error: BaseException | None) -> None:
    """Takes them out of what an error of ours says."""
    if isinstance(error, FastlayerError):
        error.args = tuple(without_secrets(part) if isinstance(part, str) else part for part in error.args)


def one_line(text: str) -> str:
    """What somebody else says."""
    text = without_secrets(text)
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
