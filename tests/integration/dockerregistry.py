"""Debian's docker-registry, started as a test wants it: plain or with TLS, with basic or token authentication."""

from __future__ import annotations

import base64
import http.server
import json
import secrets
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.certificates import Authority
from tests.conftest import require

USER, PASSWORD = "jane", "s3cret-pa55"
_HTPASSWD = f"{USER}:$2y$04$abcdefghijklmnopqrstuu8gPP2yRqExh/lIRca35HYwnrIzN4MVu\n"  # bcrypt
SERVICE, ISSUER = "the registry", "the tests"


class DockerRegistry:
    """``host``: localhost:PORT; ``url``: with its scheme; ``storage``: its files."""

    def __init__(
        self,
        place: Path,
        *,
        tls: tuple[Path, Path] | None = None,
        auth: dict[str, Any] | None = None,
        deletes: bool = True,
    ) -> None:
        require("docker-registry")
        self.storage = place / "storage"
        self.port = free_port()
        self.host = f"localhost:{self.port}"
        self.url = f"{'https' if tls else 'http'}://{self.host}"
        settings: dict[str, Any] = {
            "version": 0.1,
            "log": {"level": "error", "accesslog": {"disabled": True}},
            "storage": {"filesystem": {"rootdirectory": str(self.storage)}, "delete": {"enabled": deletes}},
            "http": {"addr": f"127.0.0.1:{self.port}", "secret": secrets.token_hex(8)},
        }
        if tls is not None:
            settings["http"]["tls"] = {"certificate": str(tls[0]), "key": str(tls[1])}
        if auth is not None:
            settings["auth"] = auth
        config = place / "config.yml"
        config.write_text(json.dumps(settings))  # which is YAML
        self._log = (place / "log").open("wb")
        self._process = subprocess.Popen(
            ["docker-registry", "serve", config], stdout=self._log, stderr=subprocess.STDOUT
        )
        self._wait(place / "log")

    def _wait(self, log: Path) -> None:
        for _ in range(400):
            try:
                socket.create_connection(("127.0.0.1", self.port)).close()
                return
            except OSError:
                assert self._process.poll() is None, log.read_text()
                time.sleep(0.05)
        raise AssertionError(log.read_text())

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(30)
        self._log.close()

    def __enter__(self) -> DockerRegistry:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def basic_auth(place: Path) -> dict[str, Any]:
    """The registry's setting for USER and PASSWORD."""
    (place / "htpasswd").write_text(_HTPASSWD)
    return {"htpasswd": {"realm": "the registry", "path": str(place / "htpasswd")}}


@contextmanager
def token_auth(place: Path, authority: Authority) -> Iterator[tuple[dict[str, Any], list[str]]]:
    """A token server, as Docker's specification has it: the registry's setting, and what was asked for."""
    certificate, key = rsa_certificate(authority)
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: Any) -> None:
            pass

        def do_GET(self) -> None:
            asked.append(self.path)
            given = self.headers.get("Authorization", "")
            known = given == "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
            scopes = parse_qs(urlsplit(self.path).query).get("scope", [])
            status = 401 if given and not known else 200
            value = {"token": token(place, certificate, key, scopes, known), "expires_in": 300}
            data = json.dumps(value if status == 200 else {"details": "incorrect username or password"}).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        realm = f"http://localhost:{server.server_address[1]}/token"
        setting = {"realm": realm, "service": SERVICE, "issuer": ISSUER, "rootcertbundle": str(certificate)}
        yield {"token": setting}, asked
    finally:
        server.shutdown()
        server.server_close()


def rsa_certificate(authority: Authority) -> tuple[Path, Path]:
    certificate, key = authority.place / "token.crt", authority.place / "token.key"
    words = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", certificate]
    subprocess.run(["openssl", *words, "-subj", "/CN=tokens", "-days", "2"], check=True, capture_output=True)
    return certificate, key


def token(place: Path, certificate: Path, key: Path, scopes: list[str], known: bool) -> str:
    """A signed JWT; who is not known may pull."""
    now = int(time.time())
    access = []
    for scope in scopes:
        kind, _, rest = scope.partition(":")
        name, _, actions = rest.rpartition(":")
        allowed = [one for one in actions.split(",") if known or one == "pull"]
        access.append({"type": kind, "name": name, "actions": allowed})
    der = "".join(line for line in certificate.read_text().splitlines() if "-" not in line[:5])
    head = {"typ": "JWT", "alg": "RS256", "x5c": [der]}
    claims = {"iss": ISSUER, "sub": USER if known else "", "aud": SERVICE, "exp": now + 300, "nbf": now - 10}
    claims |= {"iat": now, "jti": secrets.token_hex(8), "access": access}
    signed = ".".join(_base64(json.dumps(part).encode()) for part in (head, claims))
    words = ["openssl", "dgst", "-sha256", "-sign", key]
    return f"{signed}.{_base64(subprocess.run(words, input=signed.encode(), check=True, capture_output=True).stdout)}"


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")
