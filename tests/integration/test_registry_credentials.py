"""Credential and settings of registries, judged by skopeo and podman: they read what we write, and we what they write.

The registry is one of the tests' own, which knows passwords and no images, and takes down what it is asked.
"""

from __future__ import annotations

import base64
import os
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from fastlayer.oci.reference import parse_reference
from fastlayer.registry.credentials import Credential, erase_credential, find_credential, store_credential
from fastlayer.registry.settings import pull_locations, read_settings
from tests.conftest import require

PASSWORD = "p:ä ss"


class Registry:
    """Says no to everything but a login; ``asked``: (path, user:password) of each request."""

    def __init__(self) -> None:
        asked: list[tuple[str, str]] = []

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                kind, _, word = self.headers.get("Authorization", "").partition(" ")
                pair = base64.b64decode(word).decode() if kind == "Basic" else ""
                asked.append((self.path, pair))
                self.send_response(404 if pair and self.path != "/v2/" else 200 if pair else 401)
                self.send_header("WWW-Authenticate", 'Basic realm="tests"')
                self.send_header("Content-Length", "0")
                self.end_headers()

            do_HEAD = do_GET

            def log_message(self, *words: object) -> None:
                pass

        self.asked = asked
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.host = f"localhost:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def pairs(self) -> set[str]:
        return {pair for path, pair in self.asked if "manifests" in path and pair}


@pytest.fixture
def registry() -> Iterator[Registry]:
    made = Registry()
    yield made
    made.server.shutdown()
    made.server.server_close()


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "run").mkdir(mode=0o700)
    return {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path / "run")}


def run(environ: dict[str, str], *words: str, typed: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, env=environ, input=typed, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("program", ["skopeo", "podman"])
def test_what_they_write_is_read(registry: Registry, environ: dict[str, str], tmp_path: Path, program: str) -> None:
    require(program)
    file = str(tmp_path / "auth.json")
    words = ("login", "--authfile", file, "--tls-verify=false", "-u", "me", "--password-stdin", registry.host)
    done = run(environ, program, *words, typed=PASSWORD)
    assert done.returncode == 0, done.stderr
    found = find_credential(f"{registry.host}/a", authfile=file, environ=environ)
    assert found.credential and (found.credential.username, found.credential.password) == ("me", PASSWORD)
    assert not found.warnings
    assert erase_credential(registry.host, authfile=file, environ=environ).registries == (registry.host,)
    assert run(environ, program, "logout", "--authfile", file, registry.host).returncode != 0


@pytest.mark.parametrize("named", [True, False])
def test_what_we_write_is_read(registry: Registry, environ: dict[str, str], tmp_path: Path, named: bool) -> None:
    require("skopeo")
    require("podman")
    file = str(tmp_path / "own" / "auth.json") if named else ""
    option = ["--authfile", file] if named else []
    for key, user in ((registry.host, "all"), (f"{registry.host}/a/b", "some"), ("", "hub")):
        store_credential(key, Credential(user, PASSWORD), authfile=file, environ=environ)
    for host, user in ((registry.host, "all"), ("docker.io", "hub")):
        done = run(environ, "podman", "login", *option, "--get-login", host)
        assert done.stdout.strip() == user, done.stderr
    for name in ("a/b/c", "a/b", "a/bc", "x"):
        registry.asked.clear()
        run(environ, "skopeo", "inspect", *option, "--tls-verify=false", f"docker://{registry.host}/{name}:1")
        found = find_credential(f"{registry.host}/{name}", authfile=file, environ=environ).credential
        assert found and registry.pairs() == {f"{found.username}:{found.password}"}
    done = run(environ, "skopeo", "logout", *option, registry.host)
    assert done.returncode == 0, done.stderr
    assert find_credential(f"{registry.host}/x", authfile=file, environ=environ).credential is None
    assert find_credential(f"{registry.host}/a/b", authfile=file, environ=environ).credential is not None


def test_they_ask_the_same_places(registry: Registry, environ: dict[str, str], tmp_path: Path) -> None:
    require("skopeo")
    conf = tmp_path / "registries.conf"
    host = registry.host
    conf.write_text(
        f"""
[[registry]]
prefix = "images.test/a"
location = "{host}/own"
insecure = true
[[registry.mirror]]
location = "{host}/first"
insecure = true
[[registry.mirror]]
location = "{host}/digests"
insecure = true
pull-from-mirror = "digest-only"
[[registry]]
prefix = "*.wild.test"
location = "{host}"
insecure = true
"""
    )
    store_credential(host, Credential("me", PASSWORD), environ=environ)
    settings = read_settings({**environ, "CONTAINERS_REGISTRIES_CONF": str(conf)}, etc=tmp_path / "no")
    for name in ("images.test/a/c:1", "images.test/a:1", "b.wild.test/c:1", "images.test/a/c@sha256:" + "a" * 64):
        registry.asked.clear()
        done = run(environ, "skopeo", "--registries-conf", str(conf), "inspect", f"docker://{name}")
        assert done.returncode != 0
        theirs = [path for path, pair in registry.asked if "manifests" in path and pair]
        ours = [one.reference for one in pull_locations(settings, parse_reference(name))]
        assert theirs == [f"/v2/{one.path}/manifests/{one.digest or one.tag}" for one in ours]
