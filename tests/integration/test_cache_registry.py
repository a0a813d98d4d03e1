"""--cache-to and --cache-from with registries: a second machine that knows the name of the cache builds nothing."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from fastlayer.builder.options import Options
from fastlayer.builder.progress import Journal, Silent
from fastlayer.builder.sharing import inline, records
from fastlayer.builder.sharing.opening import imported
from fastlayer.builder.sharing.options import parse_cache_from
from fastlayer.oci import mediatypes
from fastlayer.registry.opening import Wishes
from fastlayer.registry.pauses import Policy
from tests.certificates import Authority
from tests.conftest import require
from tests.integration.dockerregistry import PASSWORD, USER, DockerRegistry, token_auth
from tests.integration.test_build import Builder, outcome
from tests.integration.test_cache_shared import DOCKERFILE, STEPS, cached, files, identity, sound, warnings
from tests.registry_server import RegistryServer, digest

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounts need root")


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DockerRegistry]:
    """One registry of the real kind; each test has its own repositories."""
    with DockerRegistry(tmp_path_factory.mktemp("registry")) as found:
        yield found


@pytest.fixture
def server() -> Iterator[RegistryServer]:
    with RegistryServer() as found:
        yield found


class Machines:
    """Stores that have nothing in common but a context."""

    def __init__(self, place: Path, root: Path) -> None:
        self.place = place
        self._root = root
        self.one = self.new("one")
        self.one.write(DOCKERFILE, **{"a.txt": "1\n", "d__x": "1\n"})

    def new(self, name: str = "") -> Builder:
        name = name or f"machine{len(list(self.place.iterdir()))}"
        (self.place / name).mkdir()
        made = Builder(self.place / name, self._root)
        if name != "one":
            made.context = self.one.context
        return made


@pytest.fixture
def machines(tmp_path: Path, root: Path) -> Machines:
    return Machines(tmp_path, root)


class Written(NamedTuple):
    """Machines of which the first has written a cache, and what is in the registry since then."""

    machines: Machines
    blobs: dict[tuple[str, str], bytes]
    manifests: dict[tuple[str, str], tuple[bytes, str]]


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory, root: Path) -> Written:
    machines = Machines(tmp_path_factory.mktemp("template"), root)
    with RegistryServer() as server:
        machines.one.build("--cache-to", to(f"{server.host}/cache", mode="max"))
        return Written(machines, dict(server.blobs), dict(server.manifests))


@pytest.fixture
def written(template: Written, server: RegistryServer) -> Machines:
    """``server`` has the cache; it may be spoiled."""
    server.blobs |= template.blobs
    server.manifests |= template.manifests
    return template.machines


def to(name: str, **more: str) -> str:
    return ",".join([f"type=registry,ref={name}", *(f"{key}={value}" for key, value in more.items())])


def skopeo(*words: str) -> bytes:
    require("skopeo")
    return subprocess.run(["skopeo", *words], check=True, capture_output=True).stdout


# ---- the real one ----------------------------------------------------------------------------------


@pytest.mark.parametrize("mode,compression", [("min", "gzip"), ("max", "zstd")])
def test_a_second_store_builds_nothing(machines: Machines, real: DockerRegistry, mode: str, compression: str) -> None:
    name = f"{real.host}/caches/{mode}:main"
    told = machines.one.build("--cache-to", to(name, mode=mode, compression=compression))
    assert outcome(told)[f"exporting cache to {name}"] == "DONE"
    two = machines.new("two")
    told = two.build("--cache-from", name)
    assert cached(told) == STEPS and not any("warning" in line for line in told)
    assert outcome(told)[f"importing cache manifest from {name}"] == "DONE"
    assert identity(two) == identity(machines.one)
    with files(two) as tree:
        assert (tree / "data/x").read_text() == "1\n" and len((tree / "chance").read_bytes()) == 8
    sound(two)


def test_only_what_changed_is_done_and_sent(machines: Machines, real: DockerRegistry) -> None:
    name = f"{real.host}/caches/changed"
    machines.one.build("--cache-to", to(name, mode="max"))
    (machines.one.context / "d/x").write_text("2\n")
    two = machines.new("two")
    told = two.build("--cache-from", name, "--cache-to", to(name, mode="max"), "--explain")
    found = outcome(told)
    assert found["[stage-1 2/5] RUN head -c 8 /dev/urandom > /chance"] == "CACHED"
    assert found["[build 2/4] WORKDIR /src"] == "CACHED" and found["[stage-1 4/5] COPY d /data/"] == "DONE"
    assert any("not cached: the content of d/x has changed" in line for line in told)
    assert cached(machines.one.build("--cache-from", name)) == STEPS
    assert identity(machines.one) == identity(two)


def test_a_copy_by_skopeo_and_one_in_a_directory(machines: Machines, real: DockerRegistry) -> None:
    """The same format wherever it lies."""
    name, copy = f"{real.host}/caches/origin", f"{real.host}/copies/cache:other"
    machines.one.build("--cache-to", to(name, mode="max"))
    tls = ("--src-tls-verify=false", "--dest-tls-verify=false")
    skopeo("copy", "-q", *tls, f"docker://{name}", f"docker://{copy}")
    skopeo("copy", "-q", tls[0], f"docker://{name}", f"oci:{machines.place / 'layout'}:latest")
    for number, source in enumerate((copy, str(machines.place / "layout"))):
        machine = machines.new(f"two{number}")
        assert cached(machine.build("--cache-from", source)) == STEPS
        assert identity(machine) == identity(machines.one)


def test_a_token_and_tls(machines: Machines, tmp_path: Path) -> None:
    """Who is known may write; everybody may read."""
    place = tmp_path / "auth"
    place.mkdir()
    with ExitStack() as stack:
        authority = Authority(place)
        auth, asked = stack.enter_context(token_auth(place, authority))
        registry = stack.enter_context(DockerRegistry(place, tls=authority.certificate("server"), auth=auth))
        certs = place / "certs"
        certs.mkdir()
        (certs / "ca.crt").write_bytes(authority.ca.read_bytes())
        name, trust = f"{registry.host}/team/cache:1", ("--cert-dir", str(certs), "--retry-times", "0")
        logins = place / "auth.json"
        words = ("login", "-u", USER, "--password-stdin", "--authfile", logins, *trust, registry.host)
        assert machines.one.run(*words, input=PASSWORD.encode()).returncode == 0
        login = ("--authfile", str(logins))
        denied = machines.one.run("build", "-q", *trust, "--cache-to", to(name), machines.one.context)
        assert denied.returncode == 1 and denied.stderr.decode().count("\n") == 1
        machines.one.build(*trust, *login, "--cache-to", to(name, mode="max"))
        two = machines.new("two")
        assert cached(two.build(*trust, *login, "--cache-from", name)) == STEPS
        assert identity(two) == identity(machines.one)
        three = machines.new("three")
        (warning,) = warnings(three.build("--tls-verify=true", "--retry-times", "0", "--cache-from", name))
        assert "certificate" in warning
        assert any("pull,push" in line or "push" in line for line in asked)
        for found in machines.place.rglob("*"):
            if found.is_file() and "store" in found.parts and found.stat().st_size < 1 << 20:
                assert PASSWORD.encode() not in found.read_bytes()


# ---- what goes over the wire -----------------------------------------------------------------------


def fetched(server: RegistryServer) -> list[str]:
    """Blobs that were asked for."""
    return [call.split("/blobs/")[1] for call in server.calls(r"^GET .*/blobs/sha256:")]


def sent(server: RegistryServer) -> list[str]:
    return server.calls(r"^(PUT|PATCH|POST) .*/blobs/uploads/[0-9a-f]+|^POST .*digest=")


def layers_of(server: RegistryServer, name: str, tag: str) -> list[str]:
    manifest = json.loads(server.manifests[name, tag][0])
    return [layer["digest"] for layer in manifest["layers"] if layer["mediaType"] != records.NODES]


def test_nothing_is_sent_or_fetched_twice(machines: Machines, server: RegistryServer) -> None:
    name = f"{server.host}/cache"
    machines.one.build("--cache-to", to(name, mode="max"))
    uploads = sent(server)
    manifest = server.manifests["cache", "latest"]
    server.seen.clear()
    machines.one.build("--cache-to", to(name, mode="max"))
    assert uploads and not sent(server) and not server.calls("^PUT") and server.manifests["cache", "latest"] == manifest
    server.seen.clear()
    two = machines.new("two")
    told = two.build("--cache-from", name)
    assert cached(told) == STEPS
    wanted = json.loads(manifest[0])["config"]["digest"]
    found = fetched(server)
    assert sorted(set(found)) == sorted(found) and found[0] == wanted
    result = set(layers_of(server, "cache", "latest")) & set(found)
    assert 0 < len(result) < len(layers_of(server, "cache", "latest"))  # those of the image, not of the other stage
    server.seen.clear()
    assert cached(two.build("--cache-from", name)) == STEPS
    assert all(digest == wanted for digest in fetched(server))


def test_blobs_are_mounted_from_another_repository(written: Machines, server: RegistryServer) -> None:
    """Those that nobody needs here do not come here for that."""
    two = written.new()
    two.build("--cache-from", f"{server.host}/cache", "--cache-to", to(f"{server.host}/second", mode="max"))
    layers = layers_of(server, "second", "latest")
    assert layers == layers_of(server, "cache", "latest")
    assert len(server.calls("^POST .*second.*mount=.*from=cache")) == len(layers) > len(fetched(server)) - 2


def test_from_one_registry_to_another(written: Machines, server: RegistryServer) -> None:
    with RegistryServer() as other:
        two = written.new()
        two.build("--cache-from", f"{server.host}/cache", "--cache-to", to(f"{other.host}/second", mode="max"))
        assert layers_of(other, "second", "latest") == layers_of(server, "cache", "latest")
        for name, blob in other.blobs:
            assert digest(other.blobs[name, blob]) == blob


def test_a_download_goes_on_where_it_broke(written: Machines, server: RegistryServer) -> None:
    for ranges in (True, False):
        server.ranges = ranges
        server.seen.clear()
        for layer in layers_of(server, "cache", "latest"):
            server.fail(f"GET .*{layer}", 1, cut=40)
        two = written.new()
        told = two.build("--cache-from", f"{server.host}/cache")
        assert cached(told) == STEPS and not warnings(told) and identity(two) == identity(written.one)
        assert any("Range" in seen.headers for seen in server.seen)


# ---- inline ----------------------------------------------------------------------------------------


def pushed(made: Builder, name: str) -> None:
    """The image, as another tool compresses and pushes it."""
    archive = made.root.parent / "image.tar"
    made.good("save", "-o", archive, "made")
    skopeo("copy", "-q", "--dest-tls-verify=false", f"docker-archive:{archive}", f"docker://{name}")
    archive.unlink()


def test_inline(machines: Machines, real: DockerRegistry) -> None:
    """It survives other tools, is found by the name of the image, and the image is the same again."""
    name = f"{real.host}/app:1"
    machines.one.build("--cache-to", "type=inline")
    again = identity(machines.one)
    machines.one.build("--build-arg", "BUILDKIT_INLINE_CACHE=1")
    assert identity(machines.one) == again
    pushed(machines.one, name)
    two = machines.new("two")
    told = two.build("--cache-from", name, "--cache-to", "type=inline")
    assert cached(told) == STEPS and not any("warning" in line for line in told)
    assert identity(two) == again
    with files(two) as tree:
        assert (tree / "data/x").read_text() == "1\n" and (tree / "app/a.txt").read_text() == "1\n"
    sound(two)
    assert cached(two.build("--cache-to", "type=inline", "--cache-from", name)) == STEPS and identity(two) == again


def test_what_changed_below_an_inline_cache(machines: Machines, real: DockerRegistry) -> None:
    machines.one.build("--cache-to", "type=inline")
    pushed(machines.one, f"{real.host}/app:2")
    (machines.one.context / "d/x").write_text("2\n")
    two = machines.new("two")
    found = outcome(two.build("--cache-from", f"{real.host}/app:2"))
    assert found["[stage-1 2/5] RUN head -c 8 /dev/urandom > /chance"] == "CACHED"
    assert found["[stage-1 4/5] COPY d /data/"] == "DONE"


def test_an_inline_cache_in_a_directory(machines: Machines) -> None:
    place = machines.place / "layout"
    machines.one.build("--cache-to", "type=inline", "-o", f"type=oci,tar=false,dest={place},name=latest")
    index = json.loads((place / "index.json").read_text())
    two = machines.new("two")
    told = two.build("--cache-from", f"type=local,src={place},digest={index['manifests'][0]['digest']}")
    assert cached(told) == STEPS and not warnings(told)


def test_an_image_for_several_platforms(machines: Machines, server: RegistryServer) -> None:
    machines.one.build("--cache-to", "type=inline", "-o", f"type=oci,tar=false,dest={machines.place / 'layout'}")
    manifest = put_image(server, machines.place / "layout", "app", lambda config: config)
    line = {
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "digest": digest(manifest),
        "size": len(manifest),
    }
    other = {"os": "linux", "architecture": "s390x"}
    (value,) = json.loads(machines.one.good("inspect", "made"))
    mine = {"os": value["Os"], "architecture": value["Architecture"]}
    lines = [{**line, "digest": "sha256:" + "0" * 64, "platform": other}, {**line, "platform": mine}]
    value = {"schemaVersion": 2, "mediaType": mediatypes.INDEX, "manifests": lines}
    server.add_manifest("app", "all", value, mediatypes.INDEX)
    two = machines.new("two")
    assert cached(two.build("--cache-from", f"{server.host}/app:all")) == STEPS
    machines.one.write("FROM scratch\nCOPY a.txt /\n")
    (warning,) = warnings(two.build("--platform", "linux/arm64", "--cache-from", f"{server.host}/app:all"))
    assert "has no image for linux/arm64" in warning


def put_image(server: RegistryServer, layout: Path, name: str, change: Callable[[Any], Any]) -> bytes:
    """The image of a layout, with a configuration that ``change`` makes of its own; its manifest."""
    index = json.loads((layout / "index.json").read_text())

    def blob(of: str) -> bytes:
        return (layout / "blobs/sha256" / of[7:]).read_bytes()

    manifest = json.loads(blob(index["manifests"][0]["digest"]))
    config = json.dumps(change(json.loads(blob(manifest["config"]["digest"])))).encode()
    manifest["config"] = {**manifest["config"], "digest": digest(config), "size": len(config)}
    server.add_blob(name, config)
    for layer in manifest["layers"]:
        server.add_blob(name, blob(layer["digest"]))
    server.add_manifest(name, "latest", manifest)
    return server.manifests[name, "latest"][0]


# ---- what goes wrong -------------------------------------------------------------------------------


def test_nobody_is_there_or_it_has_nothing(machines: Machines, server: RegistryServer) -> None:
    gone = RegistryServer()
    gone.close()
    told = machines.one.build("--cache-from", f"{gone.host}/cache", "--cache-from", f"{server.host}/nothing")
    one, two = warnings(told)
    assert gone.host in one and "nothing" in two and "unknown" in two
    done = machines.one.run("build", "-q", "--cache-to", to(f"{gone.host}/cache"), machines.one.context)
    assert done.returncode == 1 and done.stderr.decode().count("\n") == 1 and b"--cache-to" in done.stderr
    told = machines.one.build("--cache-to", to(f"{gone.host}/cache", **{"ignore-error": "true"}))
    assert any("warning: --cache-to" in line for line in told)


def config_digest(server: RegistryServer) -> str:
    found: str = json.loads(server.manifests["cache", "latest"][0])["config"]["digest"]
    return found


def changed_manifest(server: RegistryServer, **more: object) -> None:
    value = {**json.loads(server.manifests["cache", "latest"][0]), **more}
    server.add_manifest("cache", "latest", value)


def huge(server: RegistryServer) -> None:
    value = json.loads(server.manifests["cache", "latest"][0])
    changed_manifest(server, config={**value["config"], "size": 1 << 40})


def another_config(server: RegistryServer) -> None:
    server.blobs["cache", config_digest(server)] = b"{}" * 100


def foreign_steps(server: RegistryServer) -> None:
    """Records whose keys are not those of their inputs."""
    data = json.loads(server.blobs["cache", config_digest(server)])
    data["steps"][0]["inputs"]["step"] = "another"
    raw = json.dumps(data).encode()
    server.add_blob("cache", raw)
    value = json.loads(server.manifests["cache", "latest"][0])
    changed_manifest(server, config={**value["config"], "digest": digest(raw), "size": len(raw)})


HOSTILE: dict[str, Callable[[RegistryServer], object]] = {
    "no config": lambda server: server.blobs.pop(("cache", config_digest(server))),
    "another config": another_config,
    "a huge config": huge,
    "steps that are not what they say": foreign_steps,
    "an image without a cache": lambda server: changed_manifest(server, config={"mediaType": "a/b", "size": 2}),
    "HTML": lambda server: server.fail("GET .*/manifests/", status=200, body=b"<html>"),
    "a manifest of 5 MiB": lambda server: server.fail("GET .*/manifests/", status=200, body=b" " * (5 << 20)),
    "an index that leads nowhere": lambda server: server.add_manifest(
        "cache", "latest", {"schemaVersion": 2, "manifests": []}, mediatypes.INDEX
    ),
}


@pytest.mark.parametrize("harm", HOSTILE.values(), ids=HOSTILE)
@pytest.mark.usefixtures("written")
def test_a_cache_that_cannot_be_read_is_a_warning(
    server: RegistryServer, harm: Callable[[RegistryServer], object]
) -> None:
    harm(server)
    told: list[str] = []
    asked = Options(cache_from=(parse_cache_from(f"{server.host}/cache"),), wishes=Wishes(policy=Policy(tries=1)))
    with imported(asked, Journal(Silent()), told) as found:
        assert not found
    (warning,) = told
    assert warning.endswith("building without it") and "\n" not in warning and len(warning) < 400


@pytest.mark.parametrize("harm", ["spoiled", "gone", "longer"])
def test_damaged_layers_are_done_again(written: Machines, server: RegistryServer, harm: str) -> None:
    for layer in layers_of(server, "cache", "latest"):
        data = server.blobs["cache", layer]
        if harm == "spoiled":
            server.blobs["cache", layer] = data[:-9] + bytes([data[-9] ^ 1]) + data[-8:]
        elif harm == "gone":
            del server.blobs["cache", layer]
        else:
            server.blobs["cache", layer] = data + bytes(512)
    two = written.new()
    told = two.build("--retry-times", "0", "--cache-from", f"{server.host}/cache")
    assert warnings(told) and not any("Traceback" in line for line in told)
    with files(two) as tree:
        assert (tree / "data/x").read_text() == "1\n"
    sound(two)


def test_an_inline_cache_that_lies(machines: Machines, server: RegistryServer) -> None:
    """Positions must be those of the layers that the image has."""
    place = machines.place / "layout"
    machines.one.build("--cache-to", "type=inline", "-o", f"type=oci,tar=false,dest={place}")

    def turned(config: Any) -> Any:
        layers = [layer for layer in config[inline.KEY]["layers"] if layer["blob"] is not None]
        layers[0]["blob"], layers[1]["blob"] = layers[1]["blob"], layers[0]["blob"]
        return config

    put_image(server, place, "app", turned)
    two = machines.new("two")
    (warning,) = warnings(two.build("--cache-from", f"{server.host}/app"))
    assert "is not the layer that its build cache says it is" in warning
    sound(two)
