"""What goes wrong on the way to a server, as one line: the cause, and what to do."""

from __future__ import annotations

import os
from collections.abc import Iterator

from fastlayer.errors import RegistryError
from fastlayer.registry.lines import host_of, one_line

_CHAIN = 10  # exceptions within each other


def failure(exc: BaseException, url: str, doing: str = "", *, seconds: float = 0.0, proxy: str = "") -> RegistryError:
    """The error for what urllib3 raised on the way to ``url``.

    ``doing``: what was interrupted, for the line; ``seconds``: the limit when it was too long; ``proxy``: its address.
    """
    import urllib3.exceptions as known

    host = host_of(url)
    where = f"{host}: {doing}" if doing else host
    kinds = list(_chain(exc))
    if any(isinstance(one, known.ProxyError) for one in kinds):
        where = f"{host}: proxy {host_of(proxy)}"
    if (refusal := _tls(where, host, kinds)) is not None:
        return refusal
    return RegistryError(f"{where}: {_why(kinds, seconds)}", transient=True)


def _why(kinds: list[BaseException], seconds: float) -> str:
    import urllib3.exceptions as known

    for one in kinds:
        if isinstance(one, known.NameResolutionError):
            return "no such host: see its name, and whether there is a network"
        if isinstance(one, known.ConnectTimeoutError) and not isinstance(one, known.NewConnectionError):
            return f"no connection within {seconds:g} s: see whether it runs"
        if isinstance(one, known.ReadTimeoutError | TimeoutError):
            return f"nothing came for {seconds:g} s: try again"
        if isinstance(one, known.IncompleteRead):
            return f"cut off after {one.partial} bytes: try again"
    return f"{_cause(kinds)}: see whether it runs, and try again"


def _cause(kinds: list[BaseException]) -> str:
    import ssl

    for one in kinds:
        if isinstance(one, ssl.SSLError):  # its number is none of the system's
            return "the connection was ended in the middle of TLS"
        if isinstance(one, OSError) and one.errno:
            return os.strerror(one.errno) if one.errno > 0 else one_line(str(one))
    last = kinds[-1]
    return one_line(str(last) or type(last).__name__)


def _tls(where: str, host: str, kinds: list[BaseException]) -> RegistryError | None:
    import ssl

    for one in kinds:
        if isinstance(one, ssl.SSLCertVerificationError):
            return RegistryError(
                f"{where}: its certificate is not to be trusted: {one_line(one.verify_message)}: give the file of its"
                f" authority (certs.d/{host}/ca.crt), or make it known as insecure"
            )
        if isinstance(one, ssl.SSLError) and not isinstance(one, ssl.SSLEOFError | ssl.SSLZeroReturnError):
            return _tls_talk(where, host, one.reason or str(one))
    return None


def _tls_talk(where: str, host: str, reason: str) -> RegistryError:
    if reason in ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE"):
        return RegistryError(f"{where}: speaks no TLS: if it is plain HTTP on purpose, make it known as insecure")
    if "CERTIFICATE_REQUIRED" in reason or "HANDSHAKE_FAILURE" in reason or "BAD_CERTIFICATE" in reason:
        return RegistryError(
            f"{where}: TLS: {one_line(reason)}: it may want a client certificate (certs.d/{host}/client.cert, .key)"
        )
    return RegistryError(f"{where}: TLS: {one_line(reason)}: see whether it is a registry", transient=True)


def _chain(exc: BaseException) -> Iterator[BaseException]:
    """The exception and what it was made of, wherever urllib3 keeps that."""
    seen: list[BaseException] = []
    waiting: list[BaseException] = [exc]
    while waiting and len(seen) < _CHAIN:
        one = waiting.pop(0)
        if any(one is other for other in seen):
            continue
        seen.append(one)
        yield one
        inner = [part for part in one.args if isinstance(part, BaseException)]
        inner += [part for part in (getattr(one, "original_error", None), getattr(one, "reason", None)) if part]
        waiting += [part for part in (*inner, one.__cause__, one.__context__) if isinstance(part, BaseException)]
