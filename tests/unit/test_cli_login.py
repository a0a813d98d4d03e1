"""``login`` and ``logout``: the registry is asked, the login is kept in the right place, and no secret is shown."""

from __future__ import annotations

import io
import json
import os
import sys
from base64 import b64encode
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import fastlayer
from fastlayer.cli.main import run as command
from fastlayer.errors import OperandError, RegistryDeniedError
from fastlayer.registry.credentials import HUB_KEY, Credential, find_credential
from fastlayer.registry.login import LoggedIn
from tests.registry_server import RegistryServer

PASSWORD = "s3cret-pa55"
SECRETS = (PASSWORD, "identity-t0ken", b64encode(f"jane:{PASSWORD}".encode()).decode())
HELPER = """#!/bin/sh
case $1 in
  store) cat > "$HELPER_DIR/kept" ;;
  get) cat > /dev/null; [ -f "$HELPER_DIR/kept" ] || { echo "credentials not found in native keychain"; exit 1; }
       cat "$HELPER_DIR/kept" ;;
  erase) cat > /dev/null; [ -f "$HELPER_DIR/kept" ] || { echo "credentials not found in native keychain"; exit 1; }
         rm "$HELPER_DIR/kept" ;;
esac
"""


class Done(NamedTuple):
    code: int
    out: str
    err: str


Run = Callable[..., Done]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user for whom nothing is set up."""
    for name in ("REGISTRY_AUTH_FILE", "DOCKER_AUTH_CONFIG", "DOCKER_CONFIG", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    run = tmp_path / "run"
    run.mkdir(mode=0o700)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(run))
    return tmp_path


@pytest.fixture
def auth(home: Path) -> Path:
    return home / "run/containers/auth.json"


@pytest.fixture
def server() -> Iterator[RegistryServer]:
    with RegistryServer() as made:
        made.auth = "token"
        yield made


@pytest.fixture
def run(home: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """The command; whatever it says, it says no secret."""

    def go(*words: str, typed: str | bytes | None = None, terminal: bool = False) -> Done:
        data = typed.encode() if isinstance(typed, str) else typed or b""
        stdin = io.TextIOWrapper(io.BytesIO(data))
        monkeypatch.setattr(sys, "stdin", stdin)
        monkeypatch.setattr(stdin, "isatty", lambda: terminal, raising=False)
        code = command(list(words))
        out, err = capfd.readouterr()
        assert not any(secret in out + err for secret in SECRETS), (out, err)
        return Done(code, out, err)

    return go


def kept(file: Path) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(file.read_text())
    return value


def test_a_password_is_asked_and_kept(server: RegistryServer, run: Run, auth: Path) -> None:
    """Basic authentication: the password is what there is to keep."""
    server.auth = "basic"
    done = run("login", "-v", "-u", "jane", "--password-stdin", server.host, typed=PASSWORD + "\n")
    assert (done.code, done.out) == (0, f"Used: {auth}\nLogin Succeeded\n")
    assert done.err == (
        f"fastlayer: warning: {auth}: keeps the password unencrypted: "
        "set up a credential helper there (credHelpers, credsStore)\n"
    )
    assert kept(auth)["auths"][server.host] == {"auth": SECRETS[2]}
    assert auth.stat().st_mode & 0o777 == 0o600
    assert run("login", "--get-login", server.host) == Done(0, "jane\n", "")
    out = run("logout", server.host)
    assert (out.code, out.out) == (0, f"Removed login credentials for {server.host}\n")
    assert kept(auth)["auths"] == {}


def test_a_token_is_kept_instead_of_the_password(server: RegistryServer, run: Run, auth: Path) -> None:
    """As docker login: what the token server gives for later can be withdrawn, and tells no password."""
    done = run("login", "-u", "jane", "--password-stdin", server.host, typed=PASSWORD)
    assert (done.code, done.out) == (0, "Login Succeeded\n") and "keeps the token unencrypted" in done.err
    entry = kept(auth)["auths"][server.host]
    assert entry["identitytoken"] == server.identity and entry["auth"] == b64encode(b"jane:").decode()
    found = find_credential(f"{server.host}/a").credential
    assert found and (found.username, found.password, found.identity_token) == ("jane", "", server.identity)
    assert "offline_token=true" in server.last("GET /token").path


@pytest.mark.parametrize("kind", ["basic", "token"])
@pytest.mark.parametrize("typed", ["wr0ng", "", PASSWORD + "x"])
def test_a_wrong_login_is_kept_nowhere(server: RegistryServer, run: Run, auth: Path, kind: str, typed: str) -> None:
    server.auth = kind
    done = run("login", "-u", "jane", "--password-stdin", server.host, typed=typed)
    assert done.code in (1, 2) and done.out == "" and done.err.count("\n") == 1
    if typed:
        assert f"{server.host}: does not take the login of jane" in done.err and typed not in done.err
        assert (
            "fastlayer login" not in done.err
            and "log in anew" not in done.err
            and "see how name and password are spelt" in done.err
        )
    assert not auth.exists()


def test_what_a_wrong_line_says(server: RegistryServer, run: Run) -> None:
    for words, reason in (
        (("-p", "x", "--password-stdin", "-u", "j"), "given twice"),
        (("-p", "x"), "no user"),
        (("--password-stdin",), "no user"),
        (("-u", "j"), "stdin is no terminal"),
        ((), "stdin is no terminal"),
        (("--get-login", "-u", "j"), "only looks"),
        (("-u", "", "-p", "x"), "empty"),
    ):
        done = run("login", *words, server.host)
        assert done.code == 2 and reason in done.err and done.err.count("\n") == 1, done
    assert run("login", "-u", "j", "--password-stdin", "h", typed=b"\xff").code == 2
    assert run("login", "-u", "j", "--password-stdin", "h", typed=b"a" * 70_000).code == 2
    assert run("login", "-u", "j", "--password-stdin", "h/A", typed="x").code == 2
    assert run("logout", "--all", "h").code == 2
    assert server.seen == []


def test_a_password_on_the_line_is_warned_of(server: RegistryServer, run: Run) -> None:
    done = run("login", "-u", "jane", "-p", PASSWORD, server.host)
    assert done.code == 0 and "shows the password to everybody on this machine: use --password-stdin" in done.err


def test_who_is_logged_in_is_not_asked_again(
    server: RegistryServer, run: Run, auth: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    monkeypatch.setattr("getpass.getpass", lambda prompt, stream: asked.append(prompt) or PASSWORD)
    done = run("login", server.host, typed="jane\n", terminal=True)
    assert done.code == 0 and "Username: " in done.err and asked == ["Password of jane: "]
    again = run("login", server.host, terminal=True)
    assert again.out == f"Login Succeeded, as jane: the login of {auth}\n" and len(asked) == 1
    server.identity = "another"
    assert run("login", server.host, typed="jane\n", terminal=True).code == 0 and len(asked) == 2
    assert run("login", server.host, typed="\n", terminal=True).code == 0  # the new one is there
    auth.unlink()
    assert run("login", server.host, typed="\n", terminal=True).code == 2


def test_a_file_that_others_may_read_is_warned_of(server: RegistryServer, run: Run, home: Path) -> None:
    file = home / "auth.json"
    file.write_text(json.dumps({"auths": {"other.example": {"auth": SECRETS[2]}}}))
    file.chmod(0o644)
    words = ("--authfile", str(file), server.host)
    assert "chmod 600" in run("login", "--get-login", "--authfile", str(file), "other.example").err
    done = run("login", "-u", "jane", "--password-stdin", *words, typed=PASSWORD)
    assert done.code == 0 and file.stat().st_mode & 0o777 == 0o600
    assert set(kept(file)["auths"]) == {"other.example", server.host}


def test_a_helper_keeps_it(
    server: RegistryServer, run: Run, home: Path, auth: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / "docker-credential-box").write_text(HELPER)
    (home / "docker-credential-box").chmod(0o755)
    monkeypatch.setenv("PATH", f"{home}:{os.environ['PATH']}")
    monkeypatch.setenv("HELPER_DIR", str(home))
    auth.parent.mkdir()
    auth.write_text(json.dumps({"credsStore": "box"}))
    server.auth = "basic"
    done = run("login", "-v", "-u", "jane", "--password-stdin", server.host, typed=PASSWORD)
    assert done == Done(0, "Used: docker-credential-box\nLogin Succeeded\n", "")
    assert kept(auth) == {"credsStore": "box", "auths": {server.host: {}}}
    assert json.loads((home / "kept").read_text())["Secret"] == PASSWORD
    assert run("login", "--get-login", server.host).out == "jane\n"
    assert run("logout", server.host).code == 0 and not (home / "kept").exists()


def test_logging_out_of_what_is_kept_elsewhere(server: RegistryServer, run: Run, home: Path) -> None:
    none = run("logout", server.host)
    assert none.code == 1 and f"{server.host}: not logged in" in none.err
    file = home / ".docker/config.json"
    file.parent.mkdir()
    file.write_text(json.dumps({"auths": {server.host: {"auth": SECRETS[2]}}}))
    file.chmod(0o600)
    done = run("logout", server.host)
    assert done.code == 1 and str(file) in done.err and "--authfile" in done.err
    assert run("logout", "--authfile", str(file), server.host).code == 0
    assert run("login", "--get-login", server.host).code == 1


def test_all_go(server: RegistryServer, run: Run, auth: Path) -> None:
    for name in (server.host, f"{server.host}/team"):
        assert run("login", "-u", "jane", "--password-stdin", name, typed=PASSWORD).code == 0
    done = run("logout", "--all")
    assert done.out == "".join(
        f"Removed login credentials for {name}\n" for name in (server.host, f"{server.host}/team")
    )
    assert kept(auth)["auths"] == {}


def test_a_registry_that_asks_nobody(server: RegistryServer, run: Run) -> None:
    """Nobody can say whether the login is right."""
    server.auth = ""
    done = run("login", "-u", "jane", "--password-stdin", server.host, typed="anything")
    assert done.code == 0 and f"{server.host}: lets everybody in" in done.err


def test_nobody_there_and_no_registry(run: Run, server: RegistryServer) -> None:
    server.fail("GET /v2/", status=200, body=b"<html>hello</html>", headers={"Content-Type": "text/html"})
    server.fail(".*", status=503)
    for host in ("127.0.0.1:1", "registry.invalid"):
        done = run("login", "-u", "jane", "--password-stdin", "--retry-times", "0", host, typed=PASSWORD)
        assert done.code == 1 and done.err.count("\n") == 1 and host in done.err


def test_the_python_functions(server: RegistryServer, auth: Path) -> None:
    done = fastlayer.login(server.host, "jane", PASSWORD)
    assert isinstance(done, LoggedIn)
    assert done[:5] == (server.host, "jane", str(auth), True, True) and PASSWORD not in repr(done)
    with pytest.raises(RegistryDeniedError, match="does not take the login of jane") as caught:
        fastlayer.login(server.host, "jane", "wr0ng", authfile=str(auth.parent / "other.json"))
    assert "wr0ng" not in str(caught.value) and not (auth.parent / "other.json").exists()
    assert fastlayer.logout(server.host).registries == (server.host,)
    with pytest.raises(OperandError, match="not logged in"):
        fastlayer.logout(server.host)


def test_docker_hub_is_the_default(monkeypatch: pytest.MonkeyPatch, auth: Path, run: Run) -> None:
    """Nothing is asked of the real one here."""
    hosts: list[str] = []

    def ask(key: str, credential: Credential, *_: object) -> tuple[str, bool]:
        hosts.append(key)
        return "", True

    monkeypatch.setattr("fastlayer.registry.login.ask", ask)
    file = auth.parent / "config.json"
    assert run("login", "-u", "jane", "--password-stdin", "--authfile", str(file), typed=PASSWORD).code == 0
    assert hosts == ["docker.io"] and set(kept(file)["auths"]) == {HUB_KEY}
