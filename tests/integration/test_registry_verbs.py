"""login, logout, search, manifest, rmi --remote and Debian's docker-registry; skopeo and podman are the judges."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from fastlayer.cli.main import run as command
from fastlayer.image.load import load
from fastlayer.oci.digest import digest_of
from fastlayer.oci.platform import Platform
from tests.certificates import Authority
from tests.conftest import require
from tests.integration.dockerregistry import PASSWORD, USER, DockerRegistry, basic_auth, token_auth
from tests.stores import Layout, vfs_store

KINDS = ("basic", "token")  # with TLS, and without


class Place:
    """A registry, a store with ``one:amd`` and ``one:arm``, and the command in both."""

    def __init__(self, place: Path, kind: str, stack: ExitStack, capfd: pytest.CaptureFixture[str]) -> None:
        self.place, self.kind, self.capfd = place, kind, capfd
        authority = Authority(place)
        if kind == "basic":
            tls, auth = authority.certificate("server"), basic_auth(place)
        else:
            tls, (auth, _) = None, stack.enter_context(token_auth(place, authority))
        self.server = stack.enter_context(DockerRegistry(place, tls=tls, auth=auth))
        self.host = self.server.host
        self.certs = place / "certs"
        self.certs.mkdir()
        (self.certs / "ca.crt").write_bytes(authority.ca.read_bytes())
        self.auth = place / "run/containers/auth.json"
        layout = Layout(place / "layout")
        for name in ("amd64", "arm64"):
            layout.image(f"one:{name[:3]}", [{"a": name.encode() * 1000}], Platform("linux", name))
        with vfs_store(place / "store") as store:
            load(store, place / "layout")

    def run(self, *words: str, typed: str = "") -> tuple[int, str, str]:
        stdin, sys.stdin = sys.stdin, io.TextIOWrapper(io.BytesIO(typed.encode()))
        try:
            code = command(list(words))
        finally:
            sys.stdin = stdin
        out, err = self.capfd.readouterr()
        assert PASSWORD not in out + err
        return code, out, err

    def good(self, *words: str, typed: str = "") -> str:
        code, out, err = self.run(*words, typed=typed)
        assert code == 0, err
        return out

    @property
    def options(self) -> list[str]:
        return ["--cert-dir", str(self.certs)] if self.kind == "basic" else []

    def login(self) -> None:
        self.good("login", *self.options, "-u", USER, "--password-stdin", self.host, typed=PASSWORD)

    def judge(self, *words: str, fails: bool = False) -> bytes:
        conf = self.place / "registries.conf"
        conf.write_text(f'[[registry]]\nlocation = "{self.host}"\ninsecure = {str(self.kind == "token").lower()}\n')
        env = {**os.environ, "CONTAINERS_REGISTRIES_CONF": str(conf)}
        done = subprocess.run(words, capture_output=True, timeout=60, env=env)
        assert (done.returncode != 0) == fails, done.stderr.decode()
        return done.stdout

    def skopeo(self, verb: str, *words: str, side: str = "") -> bytes:
        tls = f"--{side}cert-dir={self.certs}" if self.kind == "basic" else f"--{side}tls-verify=false"
        return self.judge("skopeo", verb, tls, *words)


@pytest.fixture(params=KINDS)
def place(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> Iterator[Place]:
    require("docker-registry", "skopeo", "podman", "openssl")
    (tmp_path / "run").mkdir(mode=0o700)
    for name in ("REGISTRY_AUTH_FILE", "DOCKER_AUTH_CONFIG", "DOCKER_CONFIG", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in (
        ("HOME", tmp_path),
        ("XDG_RUNTIME_DIR", tmp_path / "run"),
        ("FASTLAYER_ROOT", tmp_path / "store"),
        ("FASTLAYER_DRIVER", "vfs"),
    ):
        monkeypatch.setenv(name, str(value))
    with ExitStack() as stack:
        yield Place(tmp_path, request.param, stack, capfd)


def test_our_login_is_theirs_and_theirs_ours(place: Place) -> None:
    wrong, out, err = place.run("login", *place.options, "-u", USER, "--password-stdin", place.host, typed="wr0ng")
    assert (wrong, out) == (1, "") and f"{place.host}: does not take the login of {USER}" in err
    assert err.count("\n") == 1 and "wr0ng" not in err and not place.auth.exists()
    place.login()
    assert place.judge("podman", "login", "--get-login", place.host).decode().strip() == USER
    layout = f"oci:{place.place / 'layout'}:one:amd"
    place.skopeo("copy", layout, f"docker://{place.host}/theirs:1", side="dest-")
    assert place.good("search", "tags", *place.options, "-q", f"{place.host}/theirs") == "1\n"
    assert place.good("logout", place.host) == f"Removed login credentials for {place.host}\n"
    place.judge("podman", "login", "--get-login", place.host, fails=True)
    code, _, err = place.run("search", "tags", *place.options, f"{place.host}/none")
    assert code == 1 and ("NAME_UNKNOWN" if place.kind == "token" else f"fastlayer login {place.host}") in err
    tls = "--tls-verify=false" if place.kind == "token" else f"--cert-dir={place.certs}"
    place.judge("skopeo", "login", tls, "-u", USER, "-p", PASSWORD, place.host)
    assert place.good("login", "--get-login", place.host) == f"{USER}\n"
    assert place.good("search", "tags", *place.options, "-q", f"{place.host}/theirs") == "1\n"


def test_an_index_that_others_read(place: Place) -> None:
    """Of an image of the store and one that skopeo has pushed; skopeo, podman and docker see what was meant."""
    place.login()
    remote = f"{place.host}/theirs:arm"
    place.skopeo("copy", f"oci:{place.place / 'layout'}:one:arm", f"docker://{remote}", side="dest-")
    name = f"{place.host}/app:1"
    place.good("manifest", "create", *place.options, name, "one:amd", remote)
    place.good("manifest", "annotate", "--variant", "v8", "--annotation", "team=web", name, remote)
    digest = place.good("manifest", "push", "-q", *place.options, name).strip()
    raw = place.skopeo("inspect", "--raw", f"docker://{name}")
    assert (
        digest_of(raw) == digest
        and raw == place.good("manifest", "inspect", "--raw", *place.options, f"docker://{name}").encode()
    )
    amd, arm = json.loads(raw)["manifests"]
    assert arm["platform"] == {"architecture": "arm64", "os": "linux", "variant": "v8"}
    assert arm["annotations"] == {"team": "web"} and "annotations" not in amd
    assert arm["digest"] == digest_of(place.skopeo("inspect", "--raw", f"docker://{remote}"))
    config = place.skopeo(
        "inspect", "--config", "--raw", "--override-arch=arm64", "--override-variant=v8", f"docker://{name}"
    )
    ours = place.good(
        "manifest", "inspect", "--config", "--raw", "--platform", "linux/arm64", *place.options, f"docker://{name}"
    )
    assert ours.encode() == config and json.loads(config)["architecture"] == "arm64"
    place.skopeo("copy", "--all", f"docker://{name}", f"dir:{place.place / 'all'}", side="src-")
    assert (place.place / "all/manifest.json").read_bytes() == raw
    for words in (("inspect", "--raw"), ("inspect", "--raw", "--platform", "linux/amd64")):
        found = place.good("manifest", *words, f"dir:{place.place / 'all'}").encode()
        assert digest_of(found) in (digest, amd["digest"])
    if place.kind == "token":  # what podman takes no --cert-dir for
        seen = json.loads(place.judge("podman", *podman(place), "manifest", "inspect", name))
        assert [one["digest"] for one in seen["manifests"]] == [amd["digest"], arm["digest"]]
    verbose = json.loads(place.good("manifest", "inspect", "-v", *place.options, f"docker://{name}"))
    assert [one["Descriptor"] for one in verbose] == [amd, arm]
    again = place.good("manifest", "push", "-q", *place.options, "--purge", name, f"{place.host}/moved:2").strip()
    assert again == digest and place.skopeo("inspect", "--raw", f"docker://{place.host}/moved:2") == raw


def podman(place: Place) -> list[str]:
    return [f"--root={place.place / 'podman'}", f"--runroot={place.place / 'podrun'}", "--storage-driver=vfs"]


def test_deleting_and_listing(place: Place) -> None:
    place.login()
    for tag in ("v1", "v2", "v3"):
        image = "one:amd" if tag != "v3" else "one:arm"
        place.skopeo("copy", f"oci:{place.place / 'layout'}:{image}", f"docker://{place.host}/app:{tag}", side="dest-")
    tags = json.loads(place.skopeo("list-tags", f"docker://{place.host}/app"))["Tags"]
    assert place.good("search", "tags", *place.options, "-q", f"{place.host}/app").split() == tags
    digest = digest_of(place.skopeo("inspect", "--raw", f"docker://{place.host}/app:v1"))
    if place.kind == "token":  # of basic authentication everybody may do everything
        code, _, err = place.run("rmi", "--remote", "--creds", f"{USER}:no", f"{place.host}/app:v1")
        assert code == 1 and err.count("\n") == 1 and f"fastlayer login {place.host}" in err
    out = place.good("rmi", "--remote", *place.options, f"{place.host}/app:v1")
    assert out == f"Deleted: {place.host}/app@{digest}\n"
    left = place.good("search", "tags", *place.options, "-q", f"{place.host}/app").split()
    assert set(left) - {"v1", "v2"} == {"v3"}
    assert place.good("manifest", "inspect", "--raw", *place.options, f"{place.host}/app:v3")
    code, _, err = place.run("rmi", "--remote", *place.options, f"{place.host}/app@{digest}")
    assert code == 1 and "MANIFEST_UNKNOWN" in err and err.count("\n") == 1


def test_a_registry_that_deletes_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    require("docker-registry", "skopeo")
    layout = Layout(tmp_path / "layout")
    layout.image("one:1", [{"a": b"1"}])
    with DockerRegistry(tmp_path, deletes=False) as server:
        words = ["skopeo", "copy", "--dest-tls-verify=false", f"oci:{tmp_path / 'layout'}:one:1"]
        subprocess.run([*words, f"docker://{server.host}/app:1"], check=True, capture_output=True)
        assert command(["rmi", "--remote", f"{server.host}/app:1"]) == 1
        out, err = capfd.readouterr()
        assert out == "" and err.count("\n") == 1
        assert "UNSUPPORTED" in err and f"{server.host} lets nobody delete: ask whoever runs it" in err
