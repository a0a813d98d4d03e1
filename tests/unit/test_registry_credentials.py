"""Credential: which file, which entry, helpers, what is written, and that no secret gets out."""

from __future__ import annotations

import base64
import json
import os
import stat
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastlayer.errors import FastlayerError, OperandError, StorageError, UsageError
from fastlayer.registry import session
from fastlayer.registry.authfiles import AuthFile, Contents, auth_files, written_file
from fastlayer.registry.credentials import (
    HUB_KEY,
    Credential,
    Found,
    erase_all,
    erase_credential,
    find_credential,
    registry_key,
    store_credential,
)
from fastlayer.registry.helpers import Helper, HelperError, HelperMissingError

SECRET = "sesame-0pen"

# a helper that keeps a directory; NAME decides how it misbehaves
HELPER = r"""#!/bin/sh
verb=$1
dir=${HELPER_DIR:?}
echo "$verb" >> "$dir/.calls"
case ${0##*docker-credential-} in
  slow) exec sleep 30 ;;
  orphan) sleep 3 & exit 0 ;;
  garbage) cat > /dev/null; echo "not { json $SECRET_WORD"; exit 0 ;;
  list) cat > /dev/null; echo '["a"]'; exit 0 ;;
  numbers) cat > /dev/null; echo '{"Username": 1, "Secret": 2}'; exit 0 ;;
  deaf) exec <&-; echo "credentials not found in native keychain"; exit 1 ;;
  broken) cat > /dev/null; printf 'the keyring is locked\nmore\n'; exit 3 ;;
  echoing) cat; exit 1 ;;
  mute) cat > /dev/null; exit 4 ;;
  endless) yes ;;
  ecr) cat > /dev/null; echo '{"ServerURL": "x", "Username": "<token>", "Secret": "idtoken"}'; exit 0 ;;
esac
case $verb in
  get) name=$(tr '/:' '__'); [ -f "$dir/$name" ] || { echo "credentials not found in native keychain"; exit 1; }
       cat "$dir/$name" ;;
  store) data=$(cat); name=$(printf %s "$data" | sed 's/^{"ServerURL":"\([^"]*\)".*/\1/')
       printf %s "$data" > "$dir/$(printf %s "$name" | tr '/:' '__')"; printf '%s\n' "$name" >> "$dir/.servers" ;;
  erase) name=$(tr '/:' '__'); [ -f "$dir/$name" ] || { echo "credentials not found in native keychain"; exit 1; }
       rm "$dir/$name" ;;
  list) sep='{'; [ -f "$dir/.servers" ] || { echo '{}'; exit 0; }
       while read -r s; do printf '%s"%s":"u"' "$sep" "$s"; sep=,; done < "$dir/.servers"; echo '}' ;;
esac
"""


class Home:
    """A user with files, an environment and helpers."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.bin, self.kept = root / "bin", root / "kept"
        for directory in (self.bin, self.kept, root / "run", root / "home"):
            directory.mkdir()
        self.environ = {
            "HOME": str(root / "home"),
            "XDG_RUNTIME_DIR": str(root / "run"),
            "PATH": f"{self.bin}:/usr/bin:/bin",
            "HELPER_DIR": str(self.kept),
            "SECRET_WORD": SECRET,
        }
        self.session = root / "run" / "containers" / "auth.json"
        self.user = root / "home" / ".config" / "containers" / "auth.json"
        self.docker = root / "home" / ".docker" / "config.json"

    def helper(self, *names: str) -> None:
        for name in names:
            path = self.bin / f"docker-credential-{name}"
            path.write_text(HELPER)
            path.chmod(0o755)

    def write(self, path: Path, value: Any, mode: int = 0o600) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(value if isinstance(value, str) else json.dumps(value))
        path.chmod(mode)
        return path

    def find(self, name: str, **options: Any) -> Found:
        return find_credential(name, environ=self.environ, timeout=5.0, **options)

    def password(self, name: str, **options: Any) -> str | None:
        found = self.find(name, **options).credential
        return found.password if found else None

    def calls(self) -> list[str]:
        path = self.kept / ".calls"
        return path.read_text().split() if path.exists() else []


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


def entry(password: str, user: str = "u") -> dict[str, str]:
    return {"auth": base64.b64encode(f"{user}:{password}".encode()).decode()}


def auths(**entries: str) -> dict[str, Any]:
    return {"auths": {key: entry(value) for key, value in entries.items()}}


def test_files_are_asked_in_order(home: Home) -> None:
    home.write(home.root / "home" / ".dockercfg", {"r.io": entry("legacy")})
    assert home.password("r.io") == "legacy"
    home.write(home.docker, {"auths": {"r.io": entry("docker")}})
    assert home.password("r.io") == "docker"
    home.environ["DOCKER_CONFIG"] = str(home.root / "dc")
    assert home.password("r.io") == "legacy"
    home.write(home.root / "dc" / "config.json", {"auths": {"r.io": entry("docker config")}})
    assert home.password("r.io") == "docker config"
    home.write(home.user, {"auths": {"r.io": entry("user")}})
    assert home.password("r.io") == "user"
    home.environ["XDG_CONFIG_HOME"] = str(home.root / "xdg")
    assert home.password("r.io") == "docker config"
    home.write(home.root / "xdg" / "containers" / "auth.json", {"auths": {"r.io": entry("xdg")}})
    assert home.password("r.io") == "xdg"
    home.write(home.session, {"auths": {"r.io": entry("session")}})
    assert home.password("r.io") == "session"
    home.environ["DOCKER_AUTH_CONFIG"] = json.dumps({"auths": {"r.io": entry("variable")}})
    found = home.find("r.io").credential
    assert found and (found.password, found.source) == ("variable", "DOCKER_AUTH_CONFIG")
    home.environ["REGISTRY_AUTH_FILE"] = str(home.write(home.root / "raf", {"auths": {"r.io": entry("raf")}}))
    assert home.password("r.io") == "raf"
    given_file = home.write(home.root / "given", {"auths": {"r.io": entry("given")}})
    assert home.password("r.io", authfile=str(given_file)) == "given"


def test_a_named_file_is_the_only_one(home: Home) -> None:
    home.write(home.session, {"auths": {"r.io": entry("session")}})
    other = home.write(home.root / "other", "{}")
    assert home.password("r.io", authfile=str(other)) is None
    home.environ["REGISTRY_AUTH_FILE"] = str(home.root / "absent")
    assert home.password("r.io") is None
    with pytest.raises(OperandError, match=r"absent: no such file"):
        home.find("r.io", authfile=str(home.root / "absent"))


def test_without_a_session_its_usual_place(home: Home) -> None:
    del home.environ["XDG_RUNTIME_DIR"]
    assert auth_files(home.environ)[0].path == f"/run/containers/{os.getuid()}/auth.json"


def test_root_of_a_user_namespace_is_the_user_outside(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    del home.environ["XDG_RUNTIME_DIR"]
    monkeypatch.setattr(os, "getuid", lambda: 0)
    home.environ["_CONTAINERS_ROOTLESS_UID"] = "1234"
    assert auth_files(home.environ)[0].path == "/run/containers/1234/auth.json"
    assert written_file(home.environ).path == str(home.user)
    assert session.ids(home.environ) == (1234, 0)
    home.environ["_CONTAINERS_ROOTLESS_GID"] = "56"
    assert session.words_for("/bin/program", "get", home.environ)[-4:] == ["1234", "56", "/bin/program", "get"]
    for unfit in ("", "../1", "-1"):
        home.environ["_CONTAINERS_ROOTLESS_UID"] = unfit
        assert auth_files(home.environ)[0].path == "/run/containers/0/auth.json"
        assert session.words_for("/bin/program", "get", home.environ) == ["/bin/program", "get"]
    monkeypatch.setattr(os, "getuid", lambda: 99)
    home.environ["_CONTAINERS_ROOTLESS_UID"] = "1234"
    assert auth_files(home.environ)[0].path == "/run/containers/99/auth.json"


# keys of a file -> what is asked -> whose password is found
MATCHES: list[tuple[tuple[str, ...], str, str | None]] = [
    (("r.io", "r.io/a", "r.io/a/b"), "r.io/a/b", "r.io/a/b"),
    (("r.io", "r.io/a", "r.io/a/b"), "r.io/a/b/c/d", "r.io/a/b"),
    (("r.io", "r.io/a", "r.io/a/b"), "r.io/a", "r.io/a"),
    (("r.io", "r.io/a", "r.io/a/b"), "r.io/ab", "r.io"),
    (("r.io", "r.io/a"), "r.io", "r.io"),
    (("r.io/a",), "r.io", None),
    (("r.io/a",), "r.io/b", None),
    (("r.io",), "r.io:5000/a", None),
    (("r.io:5000",), "r.io:5000/a", "r.io:5000"),
    (("r.io:5000",), "r.io", None),
    (("https://r.io",), "r.io/a", "https://r.io"),
    (("https://r.io/v1/",), "r.io/a", "https://r.io/v1/"),
    (("http://r.io/v2",), "r.io/a", "http://r.io/v2"),
    (("http://r.io", "r.io"), "r.io/a", "r.io"),
    (("xr.io", "r.iox"), "r.io", None),
    (("docker.io",), "docker.io/library/a", "docker.io"),
    ((HUB_KEY,), "docker.io/library/a", HUB_KEY),
    (("index.docker.io",), "docker.io/a/b", "index.docker.io"),
    (("registry-1.docker.io",), "docker.io", "registry-1.docker.io"),
    ((HUB_KEY, "docker.io"), "docker.io/a/b", "docker.io"),
    ((HUB_KEY, "docker.io/a"), "docker.io/a/b", "docker.io/a"),
    ((), "r.io", None),
]


@pytest.mark.parametrize("keys,name,wanted", MATCHES)
def test_which_entry_is_meant(home: Home, keys: tuple[str, ...], name: str, wanted: str | None) -> None:
    home.write(home.session, {"auths": {key: entry(key) for key in keys}})
    assert home.password(name) == wanted


ENTRIES: list[tuple[Any, tuple[str, str, str, str] | None]] = [
    (entry("p:q", "a"), ("a", "p:q", "", "")),
    ({"auth": base64.b64encode(b"u:p\0\0").decode()}, ("u", "p", "", "")),
    ({"auth": base64.b64encode("ü:ß€".encode()).decode(), "email": "x"}, ("ü", "ß€", "", "")),
    ({"username": "a", "password": "b"}, ("a", "b", "", "")),
    ({"auth": entry("p")["auth"], "username": "no", "password": "no"}, ("u", "p", "", "")),
    ({"auth": base64.b64encode(b"u:").decode(), "identitytoken": "t"}, ("u", "", "t", "")),
    ({"identitytoken": "t"}, ("", "", "t", "")),
    ({"registrytoken": "r"}, ("", "", "", "r")),
    ({}, None),
    (None, None),
    ({"auth": ""}, None),
    ({"auth": base64.b64encode(b"u:").decode()}, None),
]


@pytest.mark.parametrize("value,wanted", ENTRIES)
def test_what_an_entry_says(home: Home, value: Any, wanted: tuple[str, str, str, str] | None) -> None:
    home.write(home.session, {"auths": {"r.io": value}})
    found = home.find("r.io").credential
    assert (found[:4] if found else None) == wanted


def test_an_entry_without_a_secret_leaves_it_to_the_next(home: Home) -> None:
    home.write(home.session, {"auths": {"r.io/a": {}, "r.io": {}}})
    home.write(home.docker, {"auths": {"r.io": entry("docker")}})
    assert home.password("r.io/a") == "docker"


def with_auth(auth: str) -> str:
    return json.dumps({"auths": {"r.io": {"auth": auth}}})


BROKEN = [
    "x",
    "[]",
    '"a"',
    "{",
    '{"auths": []}',
    '{"auths": {"r.io": []}}',
    '{"auths": {"r.io": {"auth": 1}}}',
    with_auth(SECRET + "!"),
    with_auth(base64.b64encode(SECRET.encode()).decode()),
    with_auth(base64.b64encode(b"\xff:\xff").decode()),
    with_auth(SECRET) + "x",
    with_auth(SECRET)[:-2] + '"x"}}',
    '{"auths": {}, "auths": {}}',
    '{"credHelpers": {"r.io": 1}}',
    '{"credHelpers": {"r.io": "../evil"}}',
    '{"credsStore": "a b"}',
    '{"credsStore": 1}',
    "[" * 100_000,
    "\ufeff{}",
]


@pytest.mark.parametrize("text", BROKEN, ids=range(len(BROKEN)))
def test_malformed_files_are_one_line(home: Home, text: str) -> None:
    home.write(home.session, text)
    with pytest.raises(OperandError) as caught:
        home.find("r.io")
    line = str(caught.value)
    assert "\n" not in line and len(line) < 600
    assert SECRET not in line and base64.b64encode(SECRET.encode()).decode() not in line
    assert "auth.json" in line or "credential helper" in line


def test_files_that_are_none(home: Home) -> None:
    home.session.mkdir(parents=True)
    with pytest.raises(OperandError, match="no plain file"):
        home.find("r.io")
    home.session.rmdir()
    home.write(home.session, "")
    assert home.find("r.io") == Found(None)
    home.session.unlink()
    os.mkfifo(home.session)
    assert home.find("r.io") == Found(None)  # nobody writes: nothing is waited for
    home.session.unlink()
    home.session.symlink_to(home.session)
    with pytest.raises(OperandError, match="cannot be read"):
        home.find("r.io")
    with pytest.raises(OperandError, match="cannot be read"):
        home.find("r.io", authfile="a\0b")


@pytest.mark.skipif(os.getuid() == 0, reason="root may read everything")
def test_files_that_may_not_be_read(home: Home) -> None:
    home.write(home.docker, {"auths": {"r.io": entry("x")}}, 0o000)
    found = home.find("r.io")
    assert found.credential is None
    assert "passed over" in found.warnings[0]
    with pytest.raises(StorageError):
        home.find("r.io", authfile=str(home.docker))


@pytest.mark.parametrize("mode,warned", [(0o600, False), (0o400, False), (0o640, True), (0o644, True), (0o602, True)])
def test_wide_permissions_are_warned_of(home: Home, mode: int, warned: bool) -> None:
    home.write(home.session, {"auths": {"r.io": entry(SECRET)}}, mode)
    found = home.find("r.io")
    assert bool(found.warnings) == warned
    assert SECRET not in repr(found)
    if warned:
        assert f"mode {mode:04o}" in found.warnings[0] and "chmod 600" in found.warnings[0]
    home.write(home.session, {"auths": {"r.io": {}}, "credsStore": ""}, mode)
    assert not home.find("r.io").warnings


def test_no_secret_is_shown() -> None:
    credential = Credential("user", SECRET, SECRET, SECRET, "/f")
    for thing in (credential, Found(credential), AuthFile("", SECRET), Contents({"a": SECRET}, {})):
        for text in (repr(thing), str(thing), f"{thing}"):
            assert SECRET not in text
    assert repr(Credential()) == "Credential()"


def test_helper_of_a_registry(home: Home) -> None:
    home.helper("ours")
    helper = Helper("ours", home.environ)
    helper.store("r.io", "u", SECRET)
    home.write(home.session, {"credHelpers": {"r.io": "ours"}, "auths": {"r.io": entry("no"), "r.io/a": entry("no")}})
    found = home.find("r.io/a/b").credential
    assert found and (found.username, found.password, found.source) == ("u", SECRET, "docker-credential-ours")
    assert home.password("other.io") is None
    assert helper.servers() == {"r.io": "u"}
    assert helper.erase("r.io") and not helper.erase("r.io")
    assert home.password("r.io") is None


def test_helper_of_all_registries(home: Home) -> None:
    home.helper("ours", "ecr")
    config = {"auths": {"r.io": entry("file"), "r.io/ns": entry("ns")}, "credsStore": "ours"}
    home.write(home.docker, config)
    assert home.password("r.io") == "file"
    Helper("ours", home.environ).store("r.io", "u", "store")
    assert home.password("r.io/x") == "store"
    assert home.password("r.io/ns/x") == "ns"
    Helper("ours", home.environ).store(HUB_KEY, "u", "hub")
    assert home.password("docker.io/library/alpine") == "hub"
    home.write(home.docker, {**config, "credHelpers": {"r.io": "ecr", "e.io": ""}})
    found = home.find("r.io").credential
    assert found and (found.identity_token, found.username, found.password) == ("idtoken", "", "")
    assert home.password("e.io") is None


def test_a_helper_that_is_not_there_is_told_of(home: Home) -> None:
    home.write(home.session, {"credsStore": "desktop", "auths": {"r.io": entry("file")}})
    found = home.find("r.io")
    assert found.credential and found.credential.password == "file"
    assert "docker-credential-desktop: not found on PATH" in found.warnings[0]
    with pytest.raises(HelperMissingError):
        Helper("desktop", home.environ).get("r.io")
    (home.bin / "docker-credential-odd").write_text("#!/nonexistent/interpreter\n")
    (home.bin / "docker-credential-odd").chmod(0o755)
    with pytest.raises(HelperError, match="cannot be started"):
        Helper("odd", home.environ).get("r.io")


FAULTS = {  # helper -> a part of the line
    "slow": "no answer in 0.3 seconds",
    "orphan": "no answer in 0.3 seconds",
    "garbage": "is no JSON object",
    "list": "is no JSON object",
    "numbers": "is no user name and secret",
    "broken": "failed with status 3: the keyring is locked",
    "mute": "failed with status 4: it says nothing",
    "endless": "is longer than",
}


@pytest.mark.parametrize("name", FAULTS)
def test_helpers_that_fail_are_one_line(home: Home, name: str) -> None:
    home.helper(name)
    timeout = 0.3 if "0.3" in FAULTS[name] else 10.0
    with pytest.raises(HelperError) as caught:
        Helper(name, home.environ, timeout=timeout).get("r.io")
    line = str(caught.value)
    assert FAULTS[name] in line and f"docker-credential-{name}" in line
    assert "\n" not in line and SECRET not in line


def test_a_helper_that_repeats_what_it_is_told(home: Home) -> None:
    home.helper("echoing", "deaf")
    with pytest.raises(HelperError) as caught:
        Helper("echoing", home.environ).store("r.io", "u", SECRET)
    assert SECRET not in str(caught.value)
    assert Helper("deaf", home.environ).get("r.io") is None
    with pytest.raises(HelperError, match="the limit"):
        Helper("deaf", home.environ).store("r.io", "u", "x" * 100_000)


@pytest.mark.parametrize("name", ["", "..", "../x", "a/b", "-x", "a b", "a\nb", "a\0", "é", "x" * 200])
def test_names_that_no_helper_has(name: str) -> None:
    with pytest.raises(HelperError) as caught:
        Helper(name)
    assert "\n" not in str(caught.value)


def test_storing_and_erasing(home: Home) -> None:
    stored = store_credential("r.io", Credential("u", SECRET), environ=home.environ)
    assert stored.where == str(home.session) and not stored.warnings
    assert stat.S_IMODE(home.session.stat().st_mode) == 0o600
    assert stat.S_IMODE(home.session.parent.stat().st_mode) == 0o700
    assert json.loads(home.session.read_text()) == {"auths": {"r.io": entry(SECRET)}}
    assert home.password("r.io/a") == SECRET
    store_credential("r.io/ns", Credential("u", "ns"), environ=home.environ)
    assert (home.password("r.io/ns/a"), home.password("r.io/a")) == ("ns", SECRET)
    erased = erase_credential("r.io", environ=home.environ)
    assert (erased.registries, erased.elsewhere) == (("r.io",), "")
    assert home.password("r.io/ns") == "ns"
    assert erase_credential("r.io", environ=home.environ).registries == ()
    assert os.listdir(home.session.parent) == ["auth.json"]


def test_where_is_written(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    home.environ["XDG_RUNTIME_DIR"] = str(home.root / "absent")
    with pytest.raises(OperandError, match=r"XDG_RUNTIME_DIR: .*absent: no directory"):
        store_credential("r.io", Credential("u", "p"), environ=home.environ)
    del home.environ["XDG_RUNTIME_DIR"]
    monkeypatch.setattr(os, "getuid", lambda: 1000)
    assert store_credential("r.io", Credential("u", "p"), environ=home.environ).where == str(home.user)
    assert home.password("r.io") == "p"
    monkeypatch.setattr(os, "getuid", lambda: 0)
    assert written_file(home.environ).path == "/run/containers/0/auth.json"
    home.environ["REGISTRY_AUTH_FILE"] = str(home.root / "f")
    assert store_credential("r.io", Credential("u", "q"), environ=home.environ).where == str(home.root / "f")


def test_what_others_wrote_stays(home: Home) -> None:
    before = {
        "zzz": [1, {"a": None}],
        "auths": {"b.io": {"email": "e", "auth": "old", "identitytoken": "t", "x": 1}, "a.io": {"auth": "???"}},
        "HttpHeaders": {"User-Agent": "ü"},
        "aaa": 1.5,
    }
    path = home.write(home.root / "f.json", before, 0o644)
    stored = store_credential("b.io", Credential("u", "p"), authfile=str(path), environ=home.environ)
    assert stored.where == str(path)
    after = json.loads(path.read_text())
    wanted = {**before, "auths": {"b.io": {**entry("p"), "email": "e", "x": 1}, "a.io": {"auth": "???"}}}
    assert after == wanted
    assert list(after) == list(before) and list(after["auths"]) == ["b.io", "a.io"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    erase_credential("b.io", authfile=str(path), environ=home.environ)
    assert json.loads(path.read_text()) == {**before, "auths": {"a.io": {"auth": "???"}}}


def test_a_file_behind_a_link_is_changed_there(home: Home) -> None:
    real = home.write(home.root / "real.json", "{}")
    link = home.root / "link.json"
    link.symlink_to(real)
    store_credential("r.io", Credential("u", "p"), authfile=str(link), environ=home.environ)
    assert link.is_symlink() and "r.io" in real.read_text()


def test_older_spellings_are_taken_over(home: Home) -> None:
    path = home.write(home.root / "f", {"auths": {"https://r.io/v1/": entry("a"), "http://r.io": entry("b")}})
    store_credential("r.io", Credential("u", "new"), authfile=str(path), environ=home.environ)
    assert json.loads(path.read_text())["auths"] == {"https://r.io/v1/": entry("new")}
    assert home.password("r.io", authfile=str(path)) == "new"


def test_docker_hub_is_written_as_its_readers_look_for_it(home: Home) -> None:
    store_credential("", Credential("u", "p"), environ=home.environ)
    assert list(json.loads(home.session.read_text())["auths"]) == ["docker.io"]
    store_credential("docker.io", Credential("u", "q"), authfile=str(home.docker), environ=home.environ)
    assert list(json.loads(home.docker.read_text())["auths"]) == [HUB_KEY]
    erased = erase_credential("index.docker.io", environ=home.environ)
    assert (erased.registries, erased.elsewhere) == (("docker.io",), str(home.docker))


def test_storing_through_a_helper(home: Home) -> None:
    home.helper("ours")
    config = {"credsStore": "ours", "auths": {"r.io": entry("plain")}}
    path = str(home.write(home.docker, config))
    stored = store_credential("r.io", Credential("u", SECRET), authfile=path, environ=home.environ)
    assert stored.where == "docker-credential-ours"
    assert json.loads(home.docker.read_text()) == {"credsStore": "ours", "auths": {"r.io": {}}}
    assert home.password("r.io", authfile=path) == SECRET
    store_credential("", Credential("u", "", "token"), authfile=path, environ=home.environ)
    found = home.find("docker.io", authfile=path).credential
    assert found and (found.identity_token, found.password) == ("token", "")
    assert erase_credential("r.io", authfile=path, environ=home.environ).registries == ("r.io",)
    assert home.password("r.io", authfile=path) is None
    erased = erase_all(authfile=path, environ=home.environ)
    assert erased.registries == ("docker.io",)
    assert json.loads(home.docker.read_text()) == {"credsStore": "ours", "auths": {}}
    assert home.find("docker.io", authfile=path) == Found(None)


def test_erasing_all(home: Home) -> None:
    home.helper("ours")
    value = {"auths": {"a.io": entry("a"), "b.io/n": entry("b")}, "credHelpers": {"c.io": "ours", "d.io": "none"}}
    path = str(home.write(home.root / "f", {**value, "other": 1}))
    Helper("ours", home.environ).store("c.io", "u", "p")
    erased = erase_all(authfile=path, environ=home.environ)
    assert erased.registries == ("a.io", "b.io/n", "c.io")
    assert "docker-credential-none" in erased.warnings[0]
    assert json.loads(Path(path).read_text()) == {**value, "auths": {}, "other": 1}
    assert erase_all(authfile=path, environ=home.environ).registries == ()


def test_many_at_once_lose_nothing(home: Home) -> None:
    def one(number: int) -> None:
        store_credential(f"r{number}.io", Credential("u", "p"), environ=home.environ)

    threads = [threading.Thread(target=one, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(json.loads(home.session.read_text())["auths"]) == 12


def test_a_malformed_file_is_not_written_over(home: Home) -> None:
    home.write(home.session, "{ not json")
    with pytest.raises(OperandError):
        store_credential("r.io", Credential("u", "p"), environ=home.environ)
    assert home.session.read_text() == "{ not json"


def test_a_failed_write_leaves_the_old_file(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    home.write(home.session, "{}")

    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="cannot keep credentials"):
        store_credential("r.io", Credential("u", SECRET), environ=home.environ)
    assert home.session.read_text() == "{}"
    assert os.listdir(home.session.parent) == ["auth.json"]


@pytest.mark.parametrize(
    "credential",
    [Credential("a:b", "p"), Credential("a", ""), Credential("a\0", "p"), Credential("a", "\udcff")],
    ids=range(4),
)
def test_what_cannot_be_kept(home: Home, credential: Credential) -> None:
    with pytest.raises(UsageError):
        store_credential("r.io", credential, environ=home.environ)
    assert not home.session.exists()


REGISTRIES: dict[str, str | None] = {
    "": "docker.io",
    "docker.io": "docker.io",
    "https://index.docker.io/v1/": "docker.io",
    "registry-1.docker.io": "docker.io",
    "r.io": "r.io",
    "r.io/": "r.io",
    "https://r.io/v2/": "r.io",
    "http://r.io:5000": "r.io:5000",
    "localhost": "localhost",
    "registry:5000": "registry:5000",
    "[::1]:5000": "[::1]:5000",
    "r.io/a/b": "r.io/a/b",
    "docker.io/me": "docker.io/me",
    "r.io/A": None,
    "r.io/a:tag": None,
    "r.io/a@sha256:" + "f" * 64: None,
    "r.io//a": None,
    "a b": None,
    "r.io\n": "r.io",
    "u:p@r.io": None,
    "-r": None,
    "é.io": None,
}


@pytest.mark.parametrize("text", REGISTRIES)
def test_registries_as_people_give_them(text: str) -> None:
    wanted = REGISTRIES[text]
    if wanted is not None:
        assert registry_key(text) == wanted
        return
    with pytest.raises(UsageError) as caught:
        registry_key(text)
    assert "\n" not in str(caught.value)


@given(
    st.text(min_size=1, max_size=40, alphabet=st.characters(exclude_categories=["Cs"], exclude_characters="\0:")),
    st.text(min_size=1, max_size=80, alphabet=st.characters(exclude_categories=["Cs"], exclude_characters="\0")),
)
@settings(max_examples=50, deadline=None)
def test_what_is_stored_is_found(tmp_path_factory: pytest.TempPathFactory, user: str, password: str) -> None:
    path = str(tmp_path_factory.mktemp("auth") / "auth.json")
    store_credential("r.io", Credential(user, password), authfile=path, environ={})
    found = find_credential("r.io/x", authfile=path, environ={}).credential
    assert found and found[:2] == (user, password)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=10),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["auths", "credHelpers", "credsStore", "r.io", "auth", "identitytoken"])
            | st.text(max_size=5),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(JSON)
@settings(max_examples=150, deadline=None)
def test_any_json_is_none_or_one_line(value: Any) -> None:
    nowhere = {"HOME": "/nonexistent", "XDG_RUNTIME_DIR": "/nonexistent", "PATH": ""}
    environ = {"DOCKER_AUTH_CONFIG": json.dumps(value), **nowhere}
    try:
        find_credential("r.io/a", environ=environ)
    except FastlayerError as exc:
        assert "\n" not in str(exc)
