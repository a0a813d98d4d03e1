"""A volume plugin for Docker: the volumes of a store over a unix socket.

Every request opens the store, does its work and closes it: the server knows nothing that is not in the store, so that
it can be killed and started again at any time; what was mounted is found mounted. A mount of Docker's is a user of the
volume, ``plugin-ID``, noted with the process that asked for it. When Docker asks to remove a volume it has no container
with it any more, so users of that process, and of one that is dead, are left over from a crash.

The options are those of the driver ``local``: ``docker volume create -d fastlayer -o image=debian:12 root``.
"""

from __future__ import annotations

import json
import os
import socket
import socketserver
import stat
import struct
import sys
import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastlayer.errors import FastlayerError, InUseError, StorageError, UsageError, show_path
from fastlayer.volume import books, use
from fastlayer.volume.books import CLIENT, LOCAL, Volume
from fastlayer.volume.plugin.protocol import ACTIVATE, DRIVER, KIND, MAX_REQUEST, MEDIA_TYPE
from fastlayer.volume.volumes import Volumes, clear_dead

if TYPE_CHECKING:
    from fastlayer.store.store import Store

OpenStore = Callable[[], "Store"]
Answer = Mapping[str, Any]

_AT_ONCE = 32  # connections that are served
_DISCARDED = 16 << 20  # bytes of a request that is too long
_SECONDS = 30.0  # for a request to arrive
_FIRST_SYSTEMD_FD = 3  # sd_listen_fds(3)


class _Request:
    """What was asked: fields of the right type, or ``UsageError``."""

    def __init__(self, value: Mapping[str, Any], owner: str) -> None:
        self._value = value
        self.owner = owner

    def text(self, key: str) -> str:
        found = self._value.get(key)
        if not isinstance(found, str) or not found:
            raise UsageError(f"the request has no {key}")
        return found

    def texts(self, key: str) -> dict[str, str]:
        found = self._value.get(key) or {}
        if not isinstance(found, dict) or not all(isinstance(item, str) for item in found.values()):
            raise UsageError(f"{key} of the request is no object of texts")
        return found


# ---- what can be asked ---------------------------------------------------------------------------------


def _create(volumes: Volumes, request: _Request) -> Answer:
    volumes.create(request.text("Name"), options=request.texts("Opts"))
    return {}


def _remove(volumes: Volumes, request: _Request) -> Answer:
    volume = _ours(volumes, request)
    for user in books.users_of(volumes.store, volume.name):
        left_over = user.owner == request.owner or not books.is_alive(user.owner)
        if user.user.startswith(CLIENT) and left_over:
            use.release(volumes.store, user.user, volume.name)
    volumes.remove(volume.name)
    return {}


def _mount(volumes: Volumes, request: _Request) -> Answer:
    volume = _ours(volumes, request)
    path = use.acquire(volumes.store, volume.name, CLIENT + request.text("ID"), owner=request.owner)
    return {"Mountpoint": os.fspath(path)}


def _unmount(volumes: Volumes, request: _Request) -> Answer:
    use.release(volumes.store, CLIENT + request.text("ID"), _ours(volumes, request).name)
    return {}


def _path(volumes: Volumes, request: _Request) -> Answer:
    return {"Mountpoint": str(volumes.path(_ours(volumes, request)) or "")}


def _get(volumes: Volumes, request: _Request) -> Answer:
    details = volumes.details(_ours(volumes, request).name)
    return {"Volume": {**_shown(volumes, details.volume), "Status": dict(details.status)}}


def _list(volumes: Volumes, _request: _Request) -> Answer:
    return {"Volumes": [_shown(volumes, volume) for volume in volumes.all() if volume.driver == LOCAL]}


def _ours(volumes: Volumes, request: _Request) -> Volume:
    """A volume of the driver ``local``: others are not passed on."""
    volume = volumes.find(request.text("Name"))
    if volume.driver != LOCAL:
        raise UsageError(f"volume {volume.name}: is one of the driver {volume.driver}: use that driver")
    return volume


def _shown(volumes: Volumes, volume: Volume) -> dict[str, Any]:
    from datetime import UTC, datetime

    created = datetime.fromtimestamp(volume.created_ns // 10**9, UTC).isoformat().replace("+00:00", "Z")
    return {"Name": volume.name, "Mountpoint": str(volumes.path(volume) or ""), "CreatedAt": created}


_METHODS: dict[str, Callable[[Volumes, _Request], Answer]] = {
    "Create": _create,
    "Remove": _remove,
    "Mount": _mount,
    "Unmount": _unmount,
    "Path": _path,
    "Get": _get,
    "List": _list,
}
_FIXED: dict[str, Answer] = {
    ACTIVATE: {"Implements": [KIND]},
    f"{DRIVER}Capabilities": {"Capabilities": {"Scope": "local"}},
}


# ---- HTTP ------------------------------------------------------------------------------------------------


class _Refused(Exception):
    """A request that is none: status and reason."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


class _Handler(BaseHTTPRequestHandler):
    """One request per connection."""

    server: PluginServer
    server_version = "fastlayer"
    sys_version = ""

    def setup(self) -> None:
        super().setup()
        self._timer = threading.Timer(_SECONDS, self._hang_up)
        self._timer.daemon = True
        self._timer.start()

    def finish(self) -> None:
        self._timer.cancel()
        try:
            super().finish()
        except OSError:
            pass  # nobody waits for the answer any more

    def _hang_up(self) -> None:
        try:
            self.connection.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass

    def do_POST(self) -> None:
        try:
            body = self._body()
            self._timer.cancel()  # mounting may take longer
            status, answer = 200, self._answer(body)
        except _Refused as exc:
            status, answer = exc.status, {"Err": str(exc)}
        except FastlayerError as exc:
            status, answer = 500, {"Err": " ".join(str(exc).split())}
        except Exception as exc:
            status, answer = 500, {"Err": f"internal error: {type(exc).__name__}: {exc}"}
            self.log_message("%s: %s", self.path, answer["Err"])
        self._send(status, answer)

    def _answer(self, body: bytes) -> Answer:
        if self.path in _FIXED:
            return _FIXED[self.path]
        method = _METHODS.get(self.path.removeprefix(DRIVER)) if self.path.startswith(DRIVER) else None
        if method is None:
            raise _Refused(404, f"{self.path[:200]!a}: there is no such call")
        try:
            value = json.loads(body) if body.strip() else {}
        except (ValueError, RecursionError):
            value = None
        if not isinstance(value, dict):
            raise _Refused(400, "the request is no JSON object")
        with self.server.open_store() as store:
            return method(Volumes(store), _Request(value, _peer(self.connection)))

    def _body(self) -> bytes:
        text = self.headers.get("Content-Length", "0")
        if self.headers.get("Transfer-Encoding") or not (text.isascii() and text.isdecimal()):
            raise _Refused(411, "the request does not say how long it is")
        if len(text) > 10 or int(text) > MAX_REQUEST:
            self._discard(int(text[:10]))
            raise _Refused(413, f"the request has more than {MAX_REQUEST} bytes")
        body = self.rfile.read(int(text))
        if len(body) < int(text):
            raise _Refused(400, "the request is cut off")
        return body

    def _discard(self, size: int) -> None:
        """Who is cut off while sending does not read why."""
        size = min(size, _DISCARDED)
        while size > 0 and (piece := self.rfile.read(min(size, MAX_REQUEST))):
            size -= len(piece)

    def _send(self, status: int, answer: Answer) -> None:
        data = json.dumps(answer).encode()
        try:
            self.send_response(status)
            self.send_header("Content-Type", MEDIA_TYPE)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)
        except OSError:
            pass  # nobody waits for it any more

    def address_string(self) -> str:
        return "plugin"

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Requests are not logged, failures of ours are."""

    def log_message(self, format: str, *args: Any) -> None:
        print(f"fastlayer: {' '.join((format % args).split())}", file=sys.stderr, flush=True)


class PluginServer(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """Serves the volumes of the store that ``open_store`` opens, at the socket ``path``; ``close`` ends it.

    With a socket of systemd (LISTEN_FDS) it serves that, and the path is not looked at. Raises ``InUseError`` when
    another server is there, ``UsageError``, ``StorageError``.
    """

    request_queue_size = 128
    block_on_close = True  # what has begun comes to its end

    def __init__(self, path: Path, open_store: OpenStore) -> None:
        self.open_store = open_store
        self.path: Path | None = None
        self._free = threading.BoundedSemaphore(_AT_ONCE)
        given = _given_socket()
        super().__init__(os.fspath(path), _Handler, bind_and_activate=False)
        if given is not None:
            self.socket.close()
            self.socket = given
            return
        try:
            _make_free(path)
            _bind(self.socket, path)
        except BaseException:
            self.socket.close()
            raise
        self.path = path
        self.server_activate()

    def process_request(self, request: Any, client_address: Any) -> None:
        self._free.acquire()
        try:
            super().process_request(request, client_address)
        except BaseException:
            self._free.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away in the middle: nothing to say."""

    def close(self) -> None:
        """Waits for what is being done; the socket goes."""
        self.server_close()
        if self.path is not None:
            self.path.unlink(missing_ok=True)


def recover(store: Store) -> None:
    """When a server starts: what killed processes left is cleared, and so are clients of an earlier boot."""
    clear_dead(store)
    for user in books.users_of(store):
        if user.user.startswith(CLIENT) and not user.mounted:
            use.release(store, user.user, user.volume)


def _make_free(path: Path) -> None:
    """A socket that nobody listens to is one of a server that was killed."""
    name = show_path(os.fspath(path))
    try:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        found = os.lstat(path)
    except FileNotFoundError:
        return
    except OSError as exc:
        raise StorageError(exc.errno or 0, "mkdir", os.fspath(path.parent)) from exc
    if not stat.S_ISSOCK(found.st_mode):
        raise UsageError(f"{name}: is there, and no socket: give another --socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(os.fspath(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            return
        except OSError as exc:
            raise InUseError(f"{name}: cannot be told to be free ({exc}): give another --socket") from exc
    raise InUseError(f"{name}: another server listens there: stop it, or give another --socket")


def _bind(listener: socket.socket, path: Path) -> None:
    """For its owner only: who may talk to a plugin may write to every volume."""
    before = os.umask(0o177)
    try:
        listener.bind(os.fspath(path))
    except OSError as exc:
        why = exc.strerror or str(exc)  # a path that is too long has no errno
        raise UsageError(f"{show_path(os.fspath(path))}: no socket can be made there: {why}: give another") from exc
    finally:
        os.umask(before)


def _given_socket() -> socket.socket | None:
    """The socket that systemd listens at for us."""
    if os.environ.get("LISTEN_PID") != str(os.getpid()) or os.environ.get("LISTEN_FDS") != "1":
        return None
    try:
        found = socket.socket(fileno=os.dup(_FIRST_SYSTEMD_FD))
    except OSError as exc:
        raise UsageError(f"descriptor {_FIRST_SYSTEMD_FD} (LISTEN_FDS) is no socket: {exc.strerror}") from exc
    if found.family != socket.AF_UNIX:
        raise UsageError("the socket of LISTEN_FDS is no unix socket: set ListenStream= to a path")
    return found


def _peer(connection: socket.socket) -> str:
    """The process at the other end; empty when it cannot be told."""
    data = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    pid = int(struct.unpack("3i", data)[0])
    return books.process_name(pid) if pid > 0 else ""
