"""registries.conf, daemon.json and certs.d: which registry is asked for an image, and how."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastlayer.errors import FastlayerError, OperandError
from fastlayer.oci.reference import parse_reference
from fastlayer.registry.certificates import Certificates, find_certificates
from fastlayer.registry.settings import Location, Settings, pull_locations, push_location, read_settings

F = "@sha256:" + "f" * 64


class Machine:
    """An /etc and a user."""

    def __init__(self, root: Path) -> None:
        self.etc, self.own = root / "etc", root / "xdg"
        self.environ = {"HOME": str(root / "home"), "XDG_CONFIG_HOME": str(self.own)}

    def write(self, path: Path, text: str) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def system(self, text: str, name: str = "registries.conf") -> Path:
        return self.write(self.etc / "containers" / name, text)

    def user(self, text: str, name: str = "registries.conf") -> Path:
        return self.write(self.own / "containers" / name, text)

    def docker(self, **value: object) -> Path:
        return self.write(self.etc / "docker" / "daemon.json", json.dumps(value))

    def settings(self) -> Settings:
        return read_settings(self.environ, etc=self.etc)

    def pull(self, name: str) -> list[str]:
        return [shown(one) for one in pull_locations(self.settings(), parse_reference(name))]

    def push(self, name: str) -> str:
        return shown(push_location(self.settings(), parse_reference(name)))


def shown(endpoint: Location) -> str:
    """``[scheme://]NAME`` with a mark for each of its properties."""
    scheme = f"{endpoint.scheme}://" if endpoint.scheme else ""
    return scheme + str(endpoint.reference) + " insecure" * endpoint.insecure + " mirror" * endpoint.mirror


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_nothing_is_set_up(machine: Machine) -> None:
    assert machine.settings() == Settings()
    assert machine.pull("alpine:3") == ["docker.io/library/alpine:3"]
    endpoint = pull_locations(machine.settings(), parse_reference("alpine"))[0]
    assert endpoint.host == "registry-1.docker.io"
    assert pull_locations(machine.settings(), parse_reference("r.io:5/a"))[0].host == "r.io:5"


INSECURE = {
    "localhost/a": True,
    "localhost:5000/a": True,
    "127.0.0.1/a": True,
    "127.1.2.3:5000/a": True,
    "[::1]:5000/a": True,
    "128.0.0.1/a": False,
    "localhost.example.com/a": False,
    "r.io/a": False,
    "[::2]:5000/a": False,
}


@pytest.mark.parametrize("name", INSECURE)
def test_this_machine_may_speak_plainly(name: str) -> None:
    (endpoint,) = pull_locations(Settings(), parse_reference(name))
    assert endpoint.insecure == INSECURE[name]
    assert push_location(Settings(), parse_reference(name)) == endpoint


MIRRORS = """
unqualified-search-registries = ["quay.io", "docker.io"]
[[registry]]
prefix = "r.io/a"
location = "real.io/b"
[[registry.mirror]]
location = "m1.io/x"
insecure = true
[[registry.mirror]]
location = "m2.io"
pull-from-mirror = "digest-only"
[[registry.mirror]]
location = "m3.io"
pull-from-mirror = "tag-only"
[[registry]]
location = "r.io"
insecure = true
[[registry]]
prefix = "*.wild.io"
insecure = true
[[registry]]
prefix = "*.moved.io"
location = "there.io/w"
[[registry]]
prefix = "deep.wild.io"
[[registry]]
prefix = "digests.io"
mirror-by-digest-only = true
[[registry.mirror]]
location = "m4.io"
[[registry]]
prefix = "no.io"
blocked = true
[[registry]]
prefix = "no.io/yes"
[[registry]]
prefix = "docker.io"
[[registry.mirror]]
location = "hub.io/library-of/all"
[[registry]]
prefix = "one.io/a:1"
location = "other.io/b:2"
"""

PULLS = {  # name -> endpoints
    "r.io/a/c:1": ["m1.io/x/c:1 insecure mirror", "m3.io/c:1 mirror", "real.io/b/c:1"],
    "r.io/a/c" + F: [f"m1.io/x/c{F} insecure mirror", f"m2.io/c{F} mirror", f"real.io/b/c{F}"],
    "r.io/b": ["r.io/b insecure"],
    "r.io/ab:1": ["r.io/ab:1 insecure"],
    "r.io:5000/b": ["r.io:5000/b"],
    "xr.io/b": ["xr.io/b"],
    "a.wild.io/x": ["a.wild.io/x insecure"],
    "a.b.wild.io:5/x": ["a.b.wild.io:5/x insecure"],
    "wild.io/x": ["wild.io/x"],
    "evilwild.io/x": ["evilwild.io/x"],
    "h.io/a.wild.io/x": ["h.io/a.wild.io/x"],
    "deep.wild.io/x": ["deep.wild.io/x"],
    "a.moved.io/x:1": ["there.io/w/x:1"],
    "digests.io/x:1": ["digests.io/x:1"],
    "digests.io/x" + F: [f"m4.io/x{F} mirror", f"digests.io/x{F}"],
    "no.io/yes/a": ["no.io/yes/a"],
    "alpine:3": ["hub.io/library-of/all/library/alpine:3 mirror", "docker.io/library/alpine:3"],
    "me/app:3": ["hub.io/library-of/all/me/app:3 mirror", "docker.io/me/app:3"],
    "one.io/a:1": ["other.io/b:2"],
    "one.io/a:12": ["one.io/a:12"],
}


@pytest.mark.parametrize("name", PULLS)
def test_where_images_are_pulled_from(machine: Machine, name: str) -> None:
    machine.system(MIRRORS)
    assert machine.pull(name) == PULLS[name]


def test_images_are_pushed_where_they_are_named(machine: Machine) -> None:
    machine.system(MIRRORS)
    assert machine.push("r.io/a/c:1") == "r.io/a/c:1"
    assert machine.push("r.io/b:1") == "r.io/b:1 insecure"
    assert machine.push("alpine:3") == "docker.io/library/alpine:3"
    for call in (machine.pull, machine.push):
        with pytest.raises(OperandError, match=r"registries.conf: no.io/a: is blocked"):
            call("no.io/a")
    assert machine.settings().search == ("quay.io", "docker.io")


def test_which_files_count(machine: Machine) -> None:
    machine.system('[[registry]]\nlocation = "a.io"\ninsecure = true\n[[registry]]\nlocation = "b.io"\ninsecure = true')
    assert (machine.pull("a.io/x"), machine.pull("b.io/x")) == (["a.io/x insecure"], ["b.io/x insecure"])
    machine.system('[[registry]]\nlocation = "b.io"', "registries.conf.d/10.conf")
    machine.system('[[registry]]\nlocation = "c.io"', "registries.conf.d/20.conf")
    machine.system('[[registry]]\nlocation = "c.io"\ninsecure = true', "registries.conf.d/30.conf")
    machine.system('[[registry]]\nlocation = "c.io"', "registries.conf.d/40.txt")
    assert (machine.pull("b.io/x"), machine.pull("c.io/x")) == (["b.io/x"], ["c.io/x insecure"])
    machine.user('[[registry]]\nlocation = "b.io"\ninsecure = true', "registries.conf.d/00.conf")
    assert machine.pull("b.io/x") == ["b.io/x insecure"]
    machine.user("")
    assert (machine.pull("a.io/x"), machine.pull("c.io/x")) == (["a.io/x"], ["c.io/x"])
    named = machine.write(machine.etc / "n.conf", '[[registry]]\nlocation = "a.io"\nblocked = true')
    machine.environ["CONTAINERS_REGISTRIES_CONF"] = str(named)
    with pytest.raises(OperandError, match="blocked"):
        machine.pull("a.io/x")
    named.unlink()
    with pytest.raises(OperandError, match="mend CONTAINERS_REGISTRIES_CONF"):
        machine.settings()


def test_a_location_that_makes_no_name_is_one_line(machine: Machine) -> None:
    machine.system('[[registry]]\nprefix = "r.io"\nlocation = "a.io/UPPER"')
    with pytest.raises(OperandError) as caught:
        machine.pull("r.io/x")
    assert "registries.conf" in str(caught.value) and "\n" not in str(caught.value)


BROKEN = {
    "[[registry": "is not valid TOML",
    "a = 1\na = 2": "is not valid TOML",
    "x = " + "[" * 50_000: "is not valid TOML",
    "[registries.search]\nregistries = []": "version 1",
    "registry = 1": "write it as [[registry]]",
    "[registry]\nlocation = 'a'": "write it as [[registry]]",
    "[[registry]]": "without prefix and location",
    "[[registry]]\nlocation = 1": "location: is no text",
    "[[registry]]\nlocation = 'a.io'\ninsecure = 'yes'": "neither true nor false",
    "[[registry]]\nlocation = 'https://a.io'": "leave out the scheme",
    "[[registry]]\nlocation = 'a b'": "give HOST",
    "[[registry]]\nprefix = 'a.*.io'": "*.DOMAIN",
    "[[registry]]\nprefix = '*.a.io/x'": "*.DOMAIN",
    "[[registry]]\nprefix = '*.a.io:5'": "*.DOMAIN",
    "[[registry]]\nprefix = '*.'": "*.DOMAIN",
    "[[registry]]\nprefix = 'a.io'\nlocation = '*.b.io'": "for prefixes only",
    "[[registry]]\nlocation = 'a.io'\n[[registry.mirror]]": "mirror]] without location",
    "[[registry]]\nlocation = 'a.io'\n[[registry.mirror]]\nlocation = 'b'\npull-from-mirror = 'x'": "give one of",
    "[[registry]]\nlocation = 'a.io'\nmirror-by-digest-only = true\n[[registry.mirror]]\nlocation = 'b'\n"
    "pull-from-mirror = 'all'": "leave one out",
    "[[registry]]\nlocation = 'a.io'\n[[registry]]\nlocation = 'a.io'\nblocked = true": "two [[registry]] tables",
    "unqualified-search-registries = 'a'": "no array of texts",
}


@pytest.mark.parametrize("text", BROKEN, ids=range(len(BROKEN)))
def test_malformed_settings_are_one_line(machine: Machine, text: str) -> None:
    path = machine.system(text)
    with pytest.raises(OperandError) as caught:
        machine.settings()
    line = str(caught.value)
    assert BROKEN[text] in line and str(path) in line
    assert "\n" not in line and len(line) < 700


def test_settings_that_are_no_text(machine: Machine) -> None:
    path = machine.system("")
    path.write_bytes(b"a = '\xff'")
    with pytest.raises(OperandError, match="is not UTF-8 text"):
        machine.settings()
    path.unlink()
    path.mkdir()
    with pytest.raises(OperandError, match="cannot be read"):
        machine.settings()


def test_docker_daemon(machine: Machine) -> None:
    machine.docker(
        **{
            "registry-mirrors": ["https://mirror.io/", "http://10.0.0.1:5000"],
            "insecure-registries": ["10.0.0.0/8", "bad.io:5000", "http://worse.io", "2001:db8::/32"],
            "log-level": "debug",
        }
    )
    mirrors = ["https://mirror.io/library/a:1 mirror", "http://10.0.0.1:5000/library/a:1 insecure mirror"]
    assert machine.pull("a:1") == [*mirrors, "docker.io/library/a:1"]
    assert machine.push("a:1") == "docker.io/library/a:1"
    assert machine.pull("10.1.2.3:80/a") == ["10.1.2.3:80/a insecure"]
    assert machine.pull("11.1.2.3:80/a") == ["11.1.2.3:80/a"]
    assert machine.pull("bad.io:5000/a") == ["bad.io:5000/a insecure"]
    assert machine.pull("bad.io/a") == ["bad.io/a"]
    assert machine.pull("worse.io/a") == ["worse.io/a insecure"]
    assert machine.pull("[2001:db8::1]:5/a") == ["[2001:db8::1]:5/a insecure"]
    machine.system('[[registry]]\nprefix = "docker.io"\n[[registry.mirror]]\nlocation = "c.io"')
    assert machine.pull("a:1") == ["c.io/library/a:1 mirror", "docker.io/library/a:1"]


@pytest.mark.parametrize(
    "value",
    [
        {"registry-mirrors": "https://a"},
        {"registry-mirrors": ["a.io"]},
        {"registry-mirrors": ["https://user:sesame@a.io"]},
        {"registry-mirrors": ["https://a.io/path"]},
        {"registry-mirrors": ["https://a.io:99999"]},
        {"registry-mirrors": ["ftp://a.io"]},
        {"insecure-registries": ["a.io/b"]},
        {"insecure-registries": [1]},
        {"insecure-registries": [""]},
    ],
    ids=str,
)
def test_malformed_daemon_settings(machine: Machine, value: dict[str, object]) -> None:
    path = machine.docker(**value)
    with pytest.raises(OperandError) as caught:
        machine.settings()
    assert str(path) in str(caught.value) and "\n" not in str(caught.value) and "sesame" not in str(caught.value)


@given(st.text(max_size=20) | st.from_regex(r"[a-z*.]{1,6}\.io(:5)?(/[a-z]{1,3})?", fullmatch=True), st.booleans())
@settings(max_examples=150, deadline=None)
def test_any_prefix_is_used_or_refused(tmp_path_factory: pytest.TempPathFactory, text: str, moved: bool) -> None:
    machine = Machine(tmp_path_factory.mktemp("m"))
    quoted = json.dumps(text.encode("ascii", "ignore").decode().replace("\x7f", ""))
    machine.system(f"[[registry]]\nprefix = {quoted}\n" + 'location = "there.io/x"\n' * moved)
    try:
        for name in ("a.io/b:1", "a.b.io:5/c", "docker.io/d"):
            assert machine.pull(name)
    except FastlayerError as exc:
        assert "\n" not in str(exc)


def test_certificates(machine: Machine) -> None:
    def put(base: Path, *names: str) -> None:
        for name in names:
            machine.write(base / name, "")

    def find(host: str) -> Certificates:
        return find_certificates(host, environ=machine.environ, etc=machine.etc)

    docker = machine.etc / "docker" / "certs.d"
    system = machine.etc / "containers" / "certs.d"
    own = machine.own / "containers" / "certs.d"
    assert find("r.io") == Certificates()
    put(docker / "r.io:5000", "ca.crt", "b.cert", "b.key", "a.cert", "a.key", "readme")
    base = docker / "r.io:5000"
    pairs = ((f"{base}/a.cert", f"{base}/a.key"), (f"{base}/b.cert", f"{base}/b.key"))
    assert find("r.io:5000") == Certificates((f"{base}/ca.crt",), pairs)
    assert find("r.io") == Certificates()
    put(system / "r.io:5000", "x.crt", "y.crt")
    assert find("r.io:5000").authorities == (f"{system}/r.io:5000/x.crt", f"{system}/r.io:5000/y.crt")
    (own / "r.io:5000").mkdir(parents=True)
    assert find("r.io:5000") == Certificates()
    put(docker / "docker.io", "hub.crt")
    assert find("registry-1.docker.io").authorities == (f"{docker}/docker.io/hub.crt",)
    put(docker / "two.io", "c.cert")
    with pytest.raises(OperandError, match=r"c\.cert: has no key: put c\.key beside it"):
        find("two.io")
    put(docker / "three.io", "c.key")
    with pytest.raises(OperandError, match="has no certificate"):
        find("three.io")
    for host in ("", "..", "../..", "a/b"):
        assert find(host) == Certificates()


def test_a_named_directory_of_certificates(machine: Machine, tmp_path: Path) -> None:
    machine.write(tmp_path / "c" / "ca.crt", "")
    found = find_certificates("r.io", cert_dir=str(tmp_path / "c"), environ=machine.environ, etc=machine.etc)
    assert found.authorities == (str(tmp_path / "c" / "ca.crt"),)
    with pytest.raises(OperandError, match="no such directory"):
        find_certificates("r.io", cert_dir=str(tmp_path / "d"), environ=machine.environ, etc=machine.etc)
