"""One call of a plugin: a request, and an answer in time and of a bounded size, or one clear line."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from typing import TYPE_CHECKING, Any, NoReturn

from fastlayer.errors import DriverError, UsageError
from fastlayer.volume.plugin.discovery import Plugin, TlsFiles
from fastlayer.volume.plugin.protocol import MAX_ANSWER, MEDIA_TYPE

if TYPE_CHECKING:
    from http.client import HTTPConnection

_SECONDS = 30.0  # as long as Docker waits
_MAX_SECONDS = 3600.0
_SHOWN = 300  # characters of what a plugin says
_MANY = 20_000  # values in an answer


class PluginError(DriverError):
    """The plugin itself refused; ``said``: its words."""

    def __init__(self, plugin: Plugin, said: str) -> None:
        super().__init__(f"{plugin}: {said}")
        self.said = said


def call(plugin: Plugin, path: str, value: Mapping[str, Any], *, seconds: float | None = None) -> dict[str, Any]:
    """Posts ``value`` and returns the object that comes back.

    ``seconds``: for all of it, however slowly it comes (default: ``FASTLAYER_PLUGIN_TIMEOUT``, or 30). Raises
    ``PluginError`` when the plugin says that it cannot (``Err``), ``DriverError`` when it is not there, does not answer
    in time, or answers what is no answer.
    """
    limit = timeout() if seconds is None else seconds
    body = json.dumps(value).encode()
    connection = _connection(plugin, limit)
    with closing(connection), _deadline(connection, limit) as late:
        _connect(plugin, connection, limit, late)
        try:
            headers = {"Accept": MEDIA_TYPE, "Content-Type": MEDIA_TYPE}
            with suppress(BrokenPipeError):  # one that does not read to the end may have said why
                connection.request("POST", path, body, headers)
            response = connection.getresponse()
            data = response.read(MAX_ANSWER + 1)
        except Exception as exc:  # http.client has many kinds for a peer that talks nonsense
            _refuse(plugin, path, exc, late.is_set(), limit)
        if late.is_set():
            _refuse(plugin, path, TimeoutError(), True, limit)
        status = response.status
    return _answer(plugin, path, status, data)


def timeout() -> float:
    """Seconds a plugin has for an answer. Raises ``UsageError``."""
    text = os.environ.get("FASTLAYER_PLUGIN_TIMEOUT") or str(_SECONDS)
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= _MAX_SECONDS:
        raise UsageError(f"FASTLAYER_PLUGIN_TIMEOUT={text!a}: give seconds, at most {_MAX_SECONDS:.0f}")
    return seconds


def _refuse(plugin: Plugin, path: str, exc: Exception, late: bool, limit: float) -> NoReturn:
    if late or isinstance(exc, TimeoutError):
        raise DriverError(f"{plugin}: no answer to {path[1:]} within {limit:g} s: see whether it is well") from exc
    why = getattr(exc, "strerror", None) or _line(f"{type(exc).__name__}: {exc}")
    raise DriverError(f"{plugin}: {path[1:]}: {why}: see whether it is a volume plugin, and well") from exc


def _answer(plugin: Plugin, path: str, status: int, data: bytes) -> dict[str, Any]:
    if len(data) > MAX_ANSWER:
        raise DriverError(f"{plugin}: answers {path[1:]} with more than {MAX_ANSWER >> 20} MiB: it is no volume plugin")
    try:
        value = json.loads(data) if data.strip() else {}
    except (ValueError, RecursionError):
        value = None
    said = value.get("Err") if isinstance(value, dict) else None
    if isinstance(said, str) and said:
        raise PluginError(plugin, _line(said))
    if status != 200:
        words = "" if isinstance(value, dict) else _line(data.decode("utf-8", "replace"))
        raise PluginError(plugin, f"{path[1:]}: status {status}" + (f": {words}" if words else ""))
    if not isinstance(value, dict) or len(value) > _MANY:
        raise DriverError(
            f"{plugin}: answers {path[1:]} with something else than a JSON object: it is no volume plugin"
        )
    return value


def _line(text: str) -> str:
    """What somebody else says, as a part of one line."""
    shown = "".join(char if char.isprintable() else " " for char in text[: 4 * _SHOWN])
    shown = " ".join(shown.split())
    return shown if len(shown) <= _SHOWN else shown[:_SHOWN] + "..."


# ---- connections -------------------------------------------------------------------------------------------


def _connect(plugin: Plugin, connection: HTTPConnection, limit: float, late: threading.Event) -> None:
    try:
        connection.connect()
    except (OSError, ValueError) as exc:
        if late.is_set() or isinstance(exc, TimeoutError):
            raise DriverError(f"{plugin}: cannot be reached within {limit:g} s: see whether it runs") from exc
        why = getattr(exc, "strerror", None) or exc
        raise DriverError(f"{plugin}: cannot be reached: {why}: see whether it runs") from exc


def _connection(plugin: Plugin, limit: float) -> HTTPConnection:
    from http.client import HTTPConnection

    if plugin.scheme == "unix":
        return _unix_connection(plugin.address, limit)
    if plugin.tls is not None:
        return _tls_connection(plugin.address, limit, _context(plugin, plugin.tls))
    return HTTPConnection(plugin.address, timeout=limit)


def _tls_connection(address: str, limit: float, context: Any) -> HTTPConnection:
    """The handshake is done when the socket is known, so that it can be ended in time."""
    from http.client import HTTPConnection, HTTPSConnection

    class Tls(HTTPSConnection):
        def connect(self) -> None:
            HTTPConnection.connect(self)
            self.sock = context.wrap_socket(self.sock, server_hostname=self.host, do_handshake_on_connect=False)
            self.sock.do_handshake()

    return Tls(address, timeout=limit, context=context)


def _unix_connection(path: str, limit: float) -> HTTPConnection:
    from http.client import HTTPConnection

    class Unix(HTTPConnection):
        def connect(self) -> None:
            self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self.sock.settimeout(limit)
            self.sock.connect(path)

    return Unix("plugin", timeout=limit)


def _context(plugin: Plugin, files: TlsFiles) -> Any:
    import ssl

    try:
        context = ssl.create_default_context(cafile=files.ca or None)
        if files.certificate or files.key:
            context.load_cert_chain(files.certificate, files.key or None)
    except (OSError, ssl.SSLError, ValueError) as exc:
        raise DriverError(f"{plugin}: its certificates cannot be used: {exc}: see its TLSConfig") from exc
    if files.insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


@contextmanager
def _deadline(connection: HTTPConnection, limit: float) -> Iterator[threading.Event]:
    """Ends the conversation when the time is over: with each byte a socket's own time-out begins anew."""
    late = threading.Event()

    def end() -> None:
        late.set()
        try:
            if connection.sock is not None:
                connection.sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # it has just ended

    timer = threading.Timer(limit, end)
    timer.daemon = True
    timer.start()
    try:
        yield late
    finally:
        timer.cancel()
