"""Fetching a file over http(s): limits, time-outs, redirects to http(s) only, proxies as the environment says."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from fastlayer._values import NamedTuple
from fastlayer.errors import LimitError, OperandError, StorageError, show_path

if TYPE_CHECKING:
    from urllib.request import OpenerDirector

MAX_BYTES = 64 << 30
TIMEOUT = 60.0  # seconds without a single byte
_STEP = 1 << 20
_KNOWN = 304


class Fetched(NamedTuple):
    """``url``: after redirects; ``size``: bytes written; ``headers``: names in lower case; ``known``: the server says
    that what ``etag`` or ``since`` named is still right, and nothing was written."""

    url: str
    size: int
    headers: dict[str, str]
    known: bool = False


def fetch(
    url: str,
    write: Callable[[bytes], object],
    *,
    etag: str = "",
    since: str = "",
    max_bytes: int = MAX_BYTES,
    timeout: float = TIMEOUT,
) -> Fetched:
    """Gives the body to ``write``, piece by piece.

    ``etag``, ``since``: of what is there already (If-None-Match, If-Modified-Since). Raises ``OperandError`` when the
    server does not give it, ``LimitError`` for more than ``max_bytes``, ``StorageError`` for connections that fail.
    """
    from http.client import HTTPException
    from urllib.error import HTTPError, URLError
    from urllib.request import Request

    name = without_password(url)
    wanted = {"If-None-Match": etag, "If-Modified-Since": since}
    headers = {key: value for key, value in wanted.items() if value}
    try:
        plain, login = _login(url)
        request = Request(plain, headers={"User-Agent": "fastlayer", "Accept-Encoding": "identity", **headers})
        if login:
            request.add_unredirected_header("Authorization", login)  # for this host only
        with _opener().open(request, timeout=timeout) as response:
            size = _copy(response, write, max_bytes, name)
            return Fetched(response.url, size, {key.lower(): value for key, value in response.headers.items()})
    except HTTPError as exc:
        if exc.code == _KNOWN and headers:
            return Fetched(url, 0, {key.lower(): value for key, value in exc.headers.items()}, known=True)
        raise OperandError(f"{name}: the server says {exc.code} {_reason(exc.reason)}: check the address") from exc
    except URLError as exc:
        raise OperandError(f"{name}: {_reason(exc.reason)}: check the address and the network") from exc
    except (HTTPException, ValueError) as exc:
        raise OperandError(f"{name}: {_reason(exc)}: check the address") from exc
    except StorageError:
        raise
    except OSError as exc:
        raise OperandError(f"{name}: {_reason(exc)}: try again") from exc


def _login(url: str) -> tuple[str, str]:
    """The address without ``user:password@``, and the header that says the same."""
    from base64 import b64encode
    from urllib.parse import unquote, urlsplit

    parts = urlsplit(url)
    user, sign, host = parts.netloc.rpartition("@")
    if not sign:
        return url, ""
    words = ":".join(map(unquote, user.split(":", 1)))
    return parts._replace(netloc=host).geturl(), "Basic " + b64encode(words.encode()).decode()


def _opener() -> OpenerDirector:
    """No file://, no ftp://, whatever a redirect says."""
    from urllib import request

    opener = request.OpenerDirector()
    for handler in (
        request.ProxyHandler,
        request.UnknownHandler,
        request.HTTPHandler,
        request.HTTPSHandler,
        request.HTTPDefaultErrorHandler,
        request.HTTPRedirectHandler,
        request.HTTPErrorProcessor,
    ):
        opener.add_handler(handler())
    return opener


def _copy(response: Any, write: Callable[[bytes], object], limit: int, name: str) -> int:
    done = 0
    while piece := response.read1(_STEP):
        done += len(piece)
        if done > limit:
            raise LimitError(f"{name}: more than {limit} bytes: fetch it yourself, or raise the limit")
        try:
            write(piece)
        except OSError as exc:
            raise StorageError(exc.errno or 0, "write what comes from", name) from exc
    length = response.headers.get("Content-Length", "")
    if length.isdigit() and int(length) != done:
        raise OperandError(f"{name}: {done} of {length} bytes came: try again")
    return done


def _reason(error: object) -> str:
    from ssl import SSLError  # whose numbers are none of the system's

    number = (error.errno or 0) if isinstance(error, OSError) and not isinstance(error, SSLError) else 0
    text = os.strerror(number) if number > 0 else str(error)
    return show_path(" ".join(text.split()) or type(error).__name__)


def without_password(url: str) -> str:
    """For messages."""
    head, sign, rest = url.partition("://")
    host, slash, path = rest.partition("/")
    return show_path(f"{head}{sign}{host.rpartition('@')[2]}{slash}{path}" if sign else url)
