"""A repository by the name of an image: endpoints, certificates, mirrors and logins as they are set up."""

from __future__ import annotations

import json
from base64 import b64encode
from pathlib import Path
from typing import Any

import pytest

from fastlayer.errors import OperandError, RegistryDeniedError, RegistryError
from fastlayer.oci.reference import parse_reference
from fastlayer.registry.answers import Timeouts
from fastlayer.registry.credential import Credential
from fastlayer.registry.http import Endpoint
from fastlayer.registry.opening import Wishes, destination, endpoints, opened, pause_of, sources
from fastlayer.registry.pauses import Policy
from fastlayer.registry.settings import Location
from tests.registry_server import RegistryServer

BLOB = b"some bytes"
FAST = Timeouts(connect=2.0, read=2.0, finish=2.0)


@pytest.fixture
def wishes(tmp_path: Path) -> Wishes:
    """On a machine where nothing is set up."""
    (tmp_path / "etc").mkdir()
    return Wishes(
        environ={"HOME": str(tmp_path)}, etc=tmp_path / "etc", timeouts=FAST, policy=Policy(tries=2, first=0.01)
    )


def located(text: str, **more: Any) -> Location:
    return Location(parse_reference(text), **more)


@pytest.mark.parametrize(
    ("location", "verify", "urls"),
    [
        (located("alpine"), None, ["https://registry-1.docker.io"]),
        (located("r.io:5000/a"), None, ["https://r.io:5000"]),
        (located("r.io/a", insecure=True), None, ["https://r.io", "http://r.io"]),
        (located("r.io/a", insecure=True), True, ["https://r.io"]),
        (located("r.io/a"), False, ["https://r.io", "http://r.io"]),
        (located("r.io/a", insecure=True, scheme="http"), None, ["http://r.io"]),
    ],
)
def test_how_it_is_reached(location: Location, verify: bool | None, urls: list[str], wishes: Wishes) -> None:
    found = endpoints(location, wishes._replace(verify=verify))
    assert [one.url for one in found] == urls
    assert {one.insecure for one in found} == {len(urls) > 1 or bool(location.scheme)}


def test_certificates_are_of_the_host(wishes: Wishes) -> None:
    place = wishes.etc / "containers/certs.d/r.io"
    place.mkdir(parents=True)
    for name in ("ca.crt", "me.cert", "me.key"):
        (place / name).touch()
    (found,) = endpoints(located("r.io/a"), wishes)
    client = (str(place / "me.cert"), str(place / "me.key"))
    assert found == Endpoint("https://r.io", False, (str(place / "ca.crt"),), client)
    assert endpoints(located("other.io/a"), wishes)[0].ca_files == ()
    for name in ("you.cert", "you.key"):
        (place / name).touch()
    with pytest.raises(OperandError, match=r"several client certificates are set up \(me\.cert, you\.cert\)"):
        endpoints(located("r.io/a"), wishes)


def test_plain_http_on_this_machine_with_the_login_of_a_file(wishes: Wishes, tmp_path: Path) -> None:
    """https is tried first; the login is looked for when the registry asks, and a file for everybody warned of."""
    with RegistryServer() as server:
        server.auth = "token"
        host = server.url.removeprefix("http://")
        file = tmp_path / "auth.json"
        login = b64encode(b"jane:s3cret-pa55").decode()
        file.write_text(json.dumps({"auths": {host: {"auth": login}}}))
        file.chmod(0o644)
        (location,) = sources(parse_reference(f"{host}/a/b"), wishes)
        assert location == destination(parse_reference(f"{host}/a/b"), wishes)
        warnings: list[str] = []
        named = wishes._replace(authfile=str(file))
        with opened(location, named, warn=warnings.append) as repository:
            digest = repository.push_bytes(BLOB)
            assert repository.blob(digest).read() == BLOB
            assert repository.name == "a/b"
        assert len(warnings) == 1 and str(file) in warnings[0] and "s3cret" not in warnings[0]
        with (
            opened(location, wishes) as repository,
            pytest.raises(RegistryDeniedError, match=f"fastlayer login {host}"),
        ):
            repository.push_bytes(BLOB)
        given = wishes._replace(credential=Credential("jane", "s3cret-pa55"))
        with opened(location, given) as repository:
            assert repository.blob_size(digest) == len(BLOB)


def test_mirrors_come_first(wishes: Wishes) -> None:
    with RegistryServer() as server:
        host = server.url.removeprefix("http://")
        (wishes.etc / "containers").mkdir()
        (wishes.etc / "containers/registries.conf").write_text(
            f'[[registry]]\nlocation = "r.invalid"\n[[registry.mirror]]\nlocation = "{host}/copy"\ninsecure = true\n'
        )
        first, last = sources(parse_reference("r.invalid/a:1"), wishes)
        assert (first.host, first.mirror, last.host, last.mirror) == (host, True, "r.invalid", False)
        with opened(first, wishes) as repository:
            assert repository.name == "copy/a"
        assert destination(parse_reference("r.invalid/a:1"), wishes).host == "r.invalid"


def test_nobody_is_there(wishes: Wishes) -> None:
    with RegistryServer() as server:
        host = server.url.removeprefix("http://")
    with pytest.raises(RegistryError, match=host), opened(located(f"{host}/a", insecure=True), wishes):
        raise AssertionError("unreachable")


def test_pauses_of_calls() -> None:
    pause = pause_of(Policy(tries=3, first=1.0, asked=60.0), chance=lambda: 1.0)
    assert [pause(attempt, 503, {}) for attempt in range(3)] == [1.0, 2.0, None]
    assert pause(0, 0, {}) == 1.0 and pause(0, 404, {}) is None
    assert pause(0, 429, {"retry-after": "30"}) == 31.0 and pause(0, 429, {"retry-after": "61"}) is None
