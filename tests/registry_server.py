"""A registry of the tests' own, in memory: what the distribution specification says, token and basic authentication,
redirects, and faults on order."""

from __future__ import annotations

import base64
import http.server
import json
import re
import secrets
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from hashlib import sha256
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

from fastlayer.oci import mediatypes
from fastlayer.oci.digest import Digest, sha256_digest


class Seen(NamedTuple):
    """A request that came in."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


class Fault:
    """What goes wrong with requests of ``METHOD PATH`` that match a pattern, the first ``times`` (all by default)."""

    def __init__(self, pattern: str, times: int = 1 << 30, **what: Any) -> None:
        self.pattern = re.compile(pattern)
        self.left = times
        self.status: int = what.pop("status", 0)  # answered instead
        self.body: bytes = what.pop("body", b"")
        self.headers: dict[str, str] = what.pop("headers", {})
        self.cut: int | None = what.pop("cut", None)  # bytes of the answer's body, then the connection ends
        self.reset: bool = what.pop("reset", False)  # ... with a reset
        self.eat: int | None = what.pop("eat", None)  # bytes of the request's body, then the connection ends
        self.drip: float = what.pop("drip", 0.0)  # seconds between the bytes of the answer's body
        self.wait: float = what.pop("wait", 0.0)  # seconds before the answer
        self.spoil: bool = what.pop("spoil", False)  # the first byte of the body is another one
        self.drop: tuple[str, ...] = what.pop("drop", ())  # headers that are not sent
        self.extra: dict[str, str] = what.pop("extra", {})  # headers that are
        assert not what, what

    def hits(self, text: str) -> bool:
        if self.left <= 0 or not self.pattern.search(text):
            return False
        self.left -= 1
        return True


def digest(data: bytes) -> Digest:
    return sha256_digest(sha256(data).hexdigest())


def error(code: str, message: str = "", detail: Any = None) -> bytes:
    return json.dumps({"errors": [{"code": code, "message": message, "detail": detail}]}).encode()


class RegistryServer:
    """``url`` to talk to; the attributes say how it behaves."""

    def __init__(self, *, tls: ssl.SSLContext | None = None, host: str = "127.0.0.1") -> None:
        self.blobs: dict[tuple[str, str], bytes] = {}
        self.manifests: dict[tuple[str, str], tuple[bytes, str]] = {}
        self.uploads: dict[str, bytearray] = {}
        self.faults: list[Fault] = []
        self.seen: list[Seen] = []
        self.auth = ""  # "", "basic", "token"
        self.users = {"jane": "s3cret-pa55"}
        self.identity = "identity-t0ken"
        self.expires_in: Any = 300
        self.anonymous = ("pull",)  # what tokens without a login allow
        self.realm = ""
        self.tokens: dict[str, list[str]] = {}
        self.post_tokens = True
        self.ranges = True
        self.many_ranges = True
        self.sent: dict[str, int] = {}  # bytes of bodies, by the last part of the path
        self.blobs_at = ""  # another server that has the blobs
        self.mounts = True
        self.single_post = False
        self.referrers_api = True
        self.page = 1000
        self.smallest = 0
        self.etag = True
        self.lock = threading.Lock()
        self.connections = 0
        self.closing = threading.Event()  # nothing is waited for any more
        server = self

        class Handler(_Handler):
            registry = server

        self._http = _Http((host, 0), Handler)
        scheme = "http"
        if tls is not None:
            self._http.tls, scheme = tls, "https"
        self.host = f"{'localhost' if tls else host}:{self._http.server_address[1]}"
        self.url = f"{scheme}://{self.host}"
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        self.closing.set()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    def __enter__(self) -> RegistryServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ---- for tests -------------------------------------------------------------------------------------------

    def add_blob(self, name: str, data: bytes) -> Digest:
        self.blobs[name, digest(data)] = data
        return digest(data)

    def add_manifest(
        self, name: str, tag: str, value: Mapping[str, Any], media_type: str = mediatypes.MANIFEST
    ) -> Digest:
        data = json.dumps(value).encode()
        for reference in (tag, digest(data)):
            self.manifests[name, reference] = (data, media_type)
        return digest(data)

    def fail(self, pattern: str, times: int = 1 << 30, **what: Any) -> None:
        self.faults.append(Fault(pattern, times, **what))

    def calls(self, pattern: str = "") -> list[str]:
        return [f"{one.method} {one.path}" for one in self.seen if re.search(pattern, f"{one.method} {one.path}")]

    def last(self, pattern: str) -> Seen:
        return [one for one in self.seen if re.search(pattern, f"{one.method} {one.path}")][-1]

    def new_token(self, scopes: list[str]) -> str:
        token = secrets.token_hex(12)
        self.tokens[token] = scopes
        return token

    def revoke(self) -> None:
        self.tokens.clear()


class _Http(http.server.ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128
    tls: ssl.SSLContext | None = None

    def finish_request(self, request: Any, client_address: Any) -> None:
        if self.tls is not None:
            try:
                request = self.tls.wrap_socket(request, server_side=True)
            except (OSError, ValueError):
                return
        super().finish_request(request, client_address)
        if self.tls is not None:
            with suppress(OSError):
                request.close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that go away are no news."""


class _Handler(http.server.BaseHTTPRequestHandler):
    registry: RegistryServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = 1 << 16

    def setup(self) -> None:
        super().setup()
        self.registry.connections += 1

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def _serve(self) -> None:
        self.fault: Fault | None = None
        path = urlsplit(self.path)
        self.query = {name: values[0] for name, values in parse_qs(path.query).items()}
        with self.registry.lock:
            text = f"{self.command} {self.path}"
            self.fault = next((fault for fault in self.registry.faults if fault.hits(text)), None)
        if not self._take_body():
            return
        self.registry.seen.append(Seen(self.command, self.path, dict(self.headers.items()), self.body))
        if self.fault is not None and self.fault.wait:
            self.registry.closing.wait(self.fault.wait)
        if self.fault is not None and self.fault.status:
            self._answer(self.fault.status, self.fault.body, self.fault.headers)
        elif path.path == "/token":
            self._token()
        elif self._let_in(path.path):
            self._route(path.path)

    do_GET = do_HEAD = do_PUT = do_POST = do_PATCH = do_DELETE = _serve

    # ---- bytes -----------------------------------------------------------------------------------------------

    def _take_body(self) -> bool:
        limit = self.fault.eat if self.fault is not None else None
        parts = bytearray()
        for data in self._pieces(limit):
            parts += data
            if limit is not None and len(parts) >= limit:
                break
        self.body = bytes(parts)
        if limit is None:
            return True
        self._partial(bytes(parts[:limit]))
        self._break(reset=True)
        return False

    def _pieces(self, limit: int | None) -> Iterator[bytes]:
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            while size := int(self.rfile.readline().split(b";")[0], 16):
                yield self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return
        left = int(self.headers.get("Content-Length") or 0)
        while left:
            data = self.rfile.read(min(left, 1 << 16 if limit is None else max(1, limit)))
            if not data:
                return
            left -= len(data)
            yield data

    def _partial(self, data: bytes) -> None:
        """What came of a chunk before the connection broke is kept, as registries do."""
        found = re.fullmatch(r"/v2/.+/blobs/uploads/([0-9a-f]+)", urlsplit(self.path).path)
        if found and self.command == "PATCH":
            self.registry.uploads[found[1]] += data

    def _answer(self, status: int, data: bytes = b"", headers: Mapping[str, str] | None = None) -> None:
        fault = self.fault
        named = {"Content-Length": str(len(data)), "Content-Type": "application/json", **(headers or {})}
        if fault is not None:
            named = {name: value for name, value in {**named, **fault.extra}.items() if name not in fault.drop}
        self.send_response(status)
        for name, value in named.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD" or status in (204, 304):
            return
        with self.registry.lock:
            last = urlsplit(self.path).path.rpartition("/")[2]
            self.registry.sent[last] = self.registry.sent.get(last, 0) + len(data)
        if fault is not None and fault.spoil and data:
            data = bytes([data[0] ^ 1]) + data[1:]
        if fault is not None and fault.cut is not None:
            self.wfile.write(data[: fault.cut])
            self._break(reset=fault.reset)
        elif fault is not None and fault.drip:
            self._drip(data, fault.drip)
        else:
            self.wfile.write(data)

    def _drip(self, data: bytes, seconds: float) -> None:
        for at in range(len(data)):
            self.wfile.write(data[at : at + 1])
            self.wfile.flush()
            time.sleep(seconds)

    def _break(self, *, reset: bool) -> None:
        with suppress(OSError):
            self.wfile.flush()
            if reset:
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.rfile.close()
                self.wfile.close()
                self.connection.close()
            else:
                self.connection.shutdown(socket.SHUT_RDWR)
        self.close_connection = True

    # ---- being let in ----------------------------------------------------------------------------------------

    def _let_in(self, path: str) -> bool:
        auth = self.registry.auth
        given = self.headers.get("Authorization", "")
        if not auth or (auth == "basic" and self._user(given)):
            return True
        if auth == "basic":
            self._challenge('Basic realm="the registry"')
            return False
        wanted = self._wanted(path)
        have = self.registry.tokens.get(given.removeprefix("Bearer "))
        if have is not None and all(one in have for one in wanted):
            return True
        scope = _joined(wanted)
        realm = self.registry.realm or self.registry.url + "/token"
        challenge = f'Bearer realm="{realm}",service="the, registry"' + (f',scope="{scope}"' if scope else "")
        self._challenge(challenge + (',error="insufficient_scope"' if have is not None else ""))
        return False

    def _wanted(self, path: str) -> list[str]:
        if path == "/v2/_catalog":
            return ["registry:catalog:*"]
        found = re.match(r"/v2/(.+)/(?:manifests|blobs|tags|referrers)/", path)
        if found is None:
            return []
        action = {"GET": "pull", "HEAD": "pull", "DELETE": "delete"}.get(self.command, "push")
        wanted = [f"repository:{found[1]}:{action}"]
        return wanted + ([f"repository:{self.query['from']}:pull"] if "from" in self.query else [])

    def _user(self, given: str) -> str:
        with suppress(ValueError):
            user, _, password = base64.b64decode(given.removeprefix("Basic ")).decode().partition(":")
            if self.registry.users.get(user) == password:
                return user
        return ""

    def _challenge(self, text: str) -> None:
        self._answer(401, error("UNAUTHORIZED", "authentication required"), {"WWW-Authenticate": text})

    def _token(self) -> None:
        registry = self.registry
        if self.command == "POST" and not registry.post_tokens:
            self._answer(405)
            return
        form = {name: values[0] for name, values in parse_qs(self.body.decode()).items()}
        scopes = form.get("scope", "").split() or parse_qs(urlsplit(self.path).query).get("scope", [])
        given = self.headers.get("Authorization", "")
        known = bool(self._user(given)) or form.get("refresh_token") == registry.identity
        if (given or form) and not known:
            self._answer(401, json.dumps({"details": f"incorrect username or password {given}"}).encode())
            return
        flat = [f"{thing}:{one}" for thing, _, acts in (s.rpartition(":") for s in scopes) for one in acts.split(",")]
        allowed = [one for one in flat if known or one.rpartition(":")[2] in registry.anonymous]
        value = {"token": registry.new_token(allowed), "expires_in": registry.expires_in}
        if "offline_token" in self.query or form.get("access_type") == "offline":
            value["refresh_token"] = registry.identity
        self._answer(200, json.dumps(value).encode())

    # ---- the API ---------------------------------------------------------------------------------------------

    def _route(self, path: str) -> None:
        routes: list[tuple[str, Callable[..., None]]] = [
            (r"/v2/", self._base),
            (r"/v2/_catalog", self._catalog),
            (r"/v2/(.+)/tags/list", self._tags),
            (r"/v2/(.+)/manifests/([^/]+)", self._manifest),
            (r"/v2/(.+)/referrers/([^/]+)", self._referrers),
            (r"/v2/(.+)/blobs/uploads/", self._start),
            (r"/v2/(.+)/blobs/uploads/([0-9a-f]+)", self._upload),
            (r"/v2/(.+)/blobs/(sha256:[0-9a-f]+)", self._blob),
        ]
        for pattern, serve in routes:
            if found := re.fullmatch(pattern, path):
                serve(*found.groups())
                return
        self._answer(404, b"404 page not found", {"Content-Type": "text/plain"})

    def _base(self) -> None:
        self._answer(200, b"{}", {"Docker-Distribution-API-Version": "registry/2.0"})

    def _catalog(self) -> None:
        self._page("repositories", sorted({name for name, _ in self.registry.manifests}))

    def _tags(self, name: str) -> None:
        tags = sorted(ref for place, ref in self.registry.manifests if place == name and ":" not in ref)
        if not tags:
            self._answer(404, error("NAME_UNKNOWN", "repository name not known to registry", {"name": name}))
            return
        self._page("tags", tags, name=name)

    def _page(self, key: str, names: list[str], **more: Any) -> None:
        count = min(int(self.query.get("n", 1000)), self.registry.page)
        rest = [one for one in names if one > self.query.get("last", "")]
        headers = {}
        if len(rest) > count:
            link = f"{urlsplit(self.path).path}?n={count}&last={rest[count - 1]}"
            headers["Link"] = f'<{link}>; rel="next"'
        self._answer(200, json.dumps({**more, key: rest[:count]}).encode(), headers)

    def _manifest(self, name: str, reference: str) -> None:
        key = (name, reference)
        if self.command == "PUT":
            self._put_manifest(name, reference)
        elif key not in self.registry.manifests:
            self._answer(404, error("MANIFEST_UNKNOWN", "manifest unknown", {"Tag": reference}))
        elif self.command == "DELETE":
            del self.registry.manifests[key]
            self._answer(202)
        else:
            data, media_type = self.registry.manifests[key]
            self._answer(200, data, {"Content-Type": media_type, "Docker-Content-Digest": digest(data)})

    def _put_manifest(self, name: str, reference: str) -> None:
        kept = (self.body, self.headers.get("Content-Type", ""))
        self.registry.manifests[name, digest(self.body)] = self.registry.manifests[name, reference] = kept
        headers = {"Location": f"/v2/{name}/manifests/{digest(self.body)}", "Docker-Content-Digest": digest(self.body)}
        subject = json.loads(self.body).get("subject")
        if subject and self.registry.referrers_api:
            headers["OCI-Subject"] = subject["digest"]
        self._answer(201, b"", headers)

    def _referrers(self, name: str, wanted: str) -> None:
        if not self.registry.referrers_api:
            self._answer(404, b"404 page not found", {"Content-Type": "text/plain"})
            return
        found = {}
        for (place, _), (data, media_type) in self.registry.manifests.items():
            value = json.loads(data)
            if place == name and (value.get("subject") or {}).get("digest") == wanted:
                item = {"mediaType": media_type, "digest": digest(data), "size": len(data)}
                found[digest(data)] = {**item, "artifactType": value.get("artifactType", "")}
        index = {"schemaVersion": 2, "mediaType": mediatypes.INDEX, "manifests": list(found.values())}
        self._answer(200, json.dumps(index).encode(), {"Content-Type": mediatypes.INDEX})

    def _blob(self, name: str, wanted: str) -> None:
        data = self.registry.blobs.get((name, wanted))
        if data is None:
            self._answer(404, error("BLOB_UNKNOWN", "blob unknown to registry", {"digest": wanted}))
            return
        if self.command == "DELETE":
            del self.registry.blobs[name, wanted]
            self._answer(202)
            return
        if self.registry.blobs_at and self.command == "GET":
            self._answer(307, b"", {"Location": f"{self.registry.blobs_at}{self.path}?sig=s1gnature"})
            return
        headers = {"Content-Type": "application/octet-stream", "Docker-Content-Digest": wanted}
        if self.registry.etag:
            headers["ETag"] = f'"{wanted}"'
        span = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")) if self.registry.ranges else None
        many = re.fullmatch(r"bytes=(\d+-\d+(?:,\d+-\d+)+)", self.headers.get("Range", ""))
        if many is not None and self.registry.ranges and self.registry.many_ranges:
            self._answer(*_many_parts(data, many[1], headers))
            return
        if span is None or self.headers.get("If-Range", headers.get("ETag")) != headers.get("ETag"):
            self._answer(200, data, headers)
            return
        first, last = int(span[1]), min(int(span[2] or len(data)), len(data) - 1)
        if first >= len(data):
            self._answer(416, b"", {"Content-Range": f"bytes */{len(data)}"})
            return
        headers["Content-Range"] = f"bytes {first}-{last}/{len(data)}"
        self._answer(206, data[first : last + 1], headers)

    def _start(self, name: str) -> None:
        mount, source = self.query.get("mount", ""), self.query.get("from", "")
        if mount and self.registry.mounts and (source, mount) in self.registry.blobs:
            self.registry.blobs[name, mount] = self.registry.blobs[source, mount]
            self._answer(201, b"", {"Location": f"/v2/{name}/blobs/{mount}", "Docker-Content-Digest": mount})
            return
        if self.registry.single_post and self.query.get("digest") == digest(self.body):
            self.registry.add_blob(name, self.body)
            self._answer(201, b"", {"Location": f"/v2/{name}/blobs/{digest(self.body)}"})
            return
        number = secrets.token_hex(8)
        self.registry.uploads[number] = bytearray()
        headers = self._where(name, number)
        if self.registry.smallest:
            headers["OCI-Chunk-Min-Length"] = str(self.registry.smallest)
        self._answer(202, b"", headers)

    def _where(self, name: str, number: str) -> dict[str, str]:
        size = len(self.registry.uploads[number])
        state = secrets.token_hex(4)
        return {"Location": f"/v2/{name}/blobs/uploads/{number}?_state={state}", "Range": f"0-{max(0, size - 1)}"}

    def _upload(self, name: str, number: str) -> None:
        held = self.registry.uploads.get(number)
        if held is None:
            self._answer(404, error("BLOB_UPLOAD_UNKNOWN", "blob upload unknown to registry"))
        elif self.command == "DELETE":
            del self.registry.uploads[number]
            self._answer(204)
        elif self.command == "GET":
            self._answer(204, b"", self._where(name, number))
        elif self.command == "PATCH":
            span = self.headers.get("Content-Range")
            if span and span != f"{len(held)}-{len(held) + len(self.body) - 1}":
                self._answer(416, b"", self._where(name, number))
                return
            held += self.body
            self._answer(202, b"", self._where(name, number))
        else:
            self._finish(name, number)

    def _finish(self, name: str, number: str) -> None:
        data = bytes(self.registry.uploads.pop(number)) + self.body
        if digest(data) != self.query.get("digest"):
            self._answer(400, error("DIGEST_INVALID", "provided digest did not match uploaded content"))
            return
        self.registry.add_blob(name, data)
        headers = {"Location": f"/v2/{name}/blobs/{digest(data)}", "Docker-Content-Digest": digest(data)}
        self._answer(201, b"", headers)


def _many_parts(data: bytes, spans: str, headers: Mapping[str, str]) -> tuple[int, bytes, dict[str, str]]:
    """The answer to a request for many ranges, as Go's net/http gives it."""
    body = b""
    for span in spans.split(","):
        first, last = (int(number) for number in span.split("-"))
        head = f"--b0undary\r\nContent-Range: bytes {first}-{last}/{len(data)}\r\nContent-Type: a/b\r\n\r\n"
        body += (b"\r\n" if body else b"") + head.encode() + data[first : last + 1]
    body += b"\r\n--b0undary--\r\n"
    return 206, body, {**headers, "Content-Type": "multipart/byteranges; boundary=b0undary"}


def _joined(scopes: list[str]) -> str:
    """Scopes of one action each, as a challenge writes them."""
    actions: dict[str, list[str]] = {}
    for scope in scopes:
        thing, _, action = scope.rpartition(":")
        actions.setdefault(thing, []).append(action)
    return " ".join(f"{thing}:{','.join(acts)}" for thing, acts in actions.items())


@contextmanager
def forward_proxy(target: str) -> Iterator[tuple[str, list[str]]]:
    """A proxy that leads every name to ``target`` (HOST:PORT); its address, and the first lines of what came."""
    seen: list[str] = []
    host, _, port = target.rpartition(":")
    listener = socket.create_server(("127.0.0.1", 0))

    def serve(client: socket.socket) -> None:
        with client, socket.create_connection((host, int(port))) as server, client.makefile("rb") as lines:
            head = [lines.readline()]
            while (line := lines.readline()).strip():
                head.append(line)
            seen.append(b"".join(head).decode())
            if head[0].startswith(b"CONNECT"):
                client.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            else:
                method, url, version = head[0].split()
                head[0] = b" ".join((method, re.sub(rb"^http://[^/]+", b"", url), version)) + b"\r\n"
                server.sendall(b"".join(head) + b"Connection: close\r\n\r\n")
            back = threading.Thread(target=_pump, args=(server, client), daemon=True)
            back.start()
            _pump(client, server)
            back.join()

    def accept() -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    with listener:
        yield f"http://user:pr0xy-pass@127.0.0.1:{listener.getsockname()[1]}", seen


def _pump(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(1 << 16):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
