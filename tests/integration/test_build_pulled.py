"""FROM, COPY --from and RUN --mount of images that are in a registry: when it is asked, and when not."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastlayer.oci import mediatypes
from tests.conftest import require
from tests.integration.dockerregistry import DockerRegistry
from tests.integration.test_build import Builder, outcome
from tests.registry_server import RegistryServer, digest

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounts need root")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory, root: Path) -> dict[str, Path]:
    """Archives of ``base`` and a later one of that name."""
    place = tmp_path_factory.mktemp("images")
    made = Builder(place, root)
    found = {}
    for number in (1, 2):
        made.write(f"FROM busybox\nRUN echo {number} > /version\n")
        made.build()
        found[str(number)] = place / f"base{number}.tar"
        made.good("save", "-o", found[str(number)], "made")
    return found


@pytest.fixture
def server() -> Iterator[RegistryServer]:
    with RegistryServer() as found:
        yield found


@pytest.fixture
def made(tmp_path: Path, root: Path) -> Builder:
    found = Builder(tmp_path, root)
    found.good("rmi", "busybox")
    found.env.pop("FASTLAYER_PULL")
    return found


def push(archive: Path, name: str) -> None:
    require("skopeo")
    words = ["skopeo", "copy", "-q", "--dest-tls-verify=false", f"docker-archive:{archive}", f"docker://{name}"]
    subprocess.run(words, check=True, capture_output=True)


def failure(made: Builder, *words: str) -> str:
    return made.build(*words, "--retry-times", "0", code=1)[-1]


MANY = """
FROM {host}/base AS one
RUN cat /version > /one
FROM {host}/base:latest AS two
RUN --mount=from={host}/tools,target=/t cat /t/version > /two
FROM scratch
COPY --from=one /one /
COPY --from=two /two /
COPY --from={host}/tools /version /tool
"""


def test_it_comes_once_and_is_not_asked_for_again(
    made: Builder, server: RegistryServer, images: dict[str, Path], tmp_path: Path
) -> None:
    push(images["1"], f"{server.host}/base")
    push(images["2"], f"{server.host}/tools")
    server.seen.clear()
    made.write(MANY.format(host=server.host))
    told = made.build()
    assert outcome(told)[f"pulling {server.host}/base:latest"] == "DONE"
    assert len(server.calls("^GET .*/base/manifests/")) == len(server.calls("^GET .*/tools/manifests/")) == 1
    fetched = server.calls("^GET .*/blobs/")
    assert len(set(fetched)) == len(fetched)
    server.seen.clear()
    assert not any("pulling" in line for line in made.build())
    made.write(MANY.format(host=server.host) + "COPY --from=two /two /more\n")
    made.build("--pull=never")
    tree = made.tree(tmp_path)
    assert [(tree / name).read_text() for name in ("one", "two", "tool", "more")] == ["1\n", "2\n", "2\n", "2\n"]
    assert not server.seen


def test_policies(made: Builder, server: RegistryServer, images: dict[str, Path], tmp_path: Path) -> None:
    push(images["1"], f"{server.host}/base")
    made.write(f"# a comment\nFROM {server.host}/base\nRUN cat /version > /x\n")
    assert f"Dockerfile:2: FROM {server.host}/base: " in failure(made, "--pull=never") and not server.calls("-v")
    made.build("--pull=newer")
    server.seen.clear()
    told = outcome(made.build("--pull"))
    assert told["[2/2] RUN cat /version > /x"] == "CACHED" == told[f"pulling {server.host}/base:latest"]
    assert server.calls("^HEAD .*/manifests/latest") and not server.calls("^GET .*/(blobs|manifests)/")
    push(images["2"], f"{server.host}/base")
    assert outcome(made.build())["[2/2] RUN cat /version > /x"] == "CACHED"
    assert outcome(made.build("--pull=always"))["[2/2] RUN cat /version > /x"] == "DONE"
    assert (made.tree(tmp_path) / "x").read_text() == "2\n"
    server.close()
    assert f"Dockerfile:2: FROM {server.host}/base: " in failure(made, "--pull")
    told = made.build("--pull=newer", "--retry-times", "0")
    assert any("warning" in line and server.host in line for line in told)
    assert not any("warning" in line for line in made.build("--pull=missing"))
    assert "use always, missing, newer or never" in made.refused("build", "--pull=often", made.context, code=2)


def test_by_digest_and_as_a_named_context(made: Builder, server: RegistryServer, images: dict[str, Path]) -> None:
    push(images["1"], f"{server.host}/base:1")
    name = f"{server.host}/base@{digest(server.manifests['base', '1'][0])}"
    made.write(f"FROM {name}\nRUN true\n")
    made.build()
    made.write(f"FROM {server.host}/base:other@{name.partition('@')[2]}\nRUN true\n")
    server.seen.clear()
    assert outcome(made.build())["[2/2] RUN true"] == "CACHED"
    made.write("FROM base\nRUN cat /version\nCOPY --from=base /version /v\n")
    made.build("--build-context", f"base=docker-image://{server.host}/base:1")
    assert len(server.calls("^(GET|HEAD) .*/manifests/1")) <= 2 and not server.calls("^GET .*/blobs/")


def test_the_platform_of_the_stage(
    made: Builder, server: RegistryServer, images: dict[str, Path], tmp_path: Path
) -> None:
    for number, architecture in (("1", "amd64"), ("2", "arm64")):
        push(images[number], f"{server.host}/base:{architecture}")
        value = json.loads(server.manifests["base", architecture][0])
        config = json.loads(server.blobs["base", value["config"]["digest"]])
        raw = json.dumps({**config, "architecture": architecture}).encode()
        server.add_blob("base", raw)
        value["config"] |= {"digest": digest(raw), "size": len(raw)}
        server.add_manifest("base", architecture, value, mediatypes.DOCKER_MANIFEST)
    lines = [
        {
            "mediaType": mediatypes.DOCKER_MANIFEST,
            "digest": digest(server.manifests["base", one][0]),
            "size": len(server.manifests["base", one][0]),
            "platform": {"os": "linux", "architecture": one},
        }
        for one in ("amd64", "arm64")
    ]
    index = {"schemaVersion": 2, "mediaType": mediatypes.INDEX, "manifests": lines}
    server.add_manifest("base", "latest", index, mediatypes.INDEX)
    made.write(
        f"FROM --platform=linux/amd64 {server.host}/base AS a\n"
        f"FROM --platform=linux/arm64 {server.host}/base AS b\n"
        "FROM scratch\nCOPY --from=a /version /a\nCOPY --from=b /version /b\n"
    )
    made.build()
    tree = made.tree(tmp_path)
    assert ((tree / "a").read_text(), (tree / "b").read_text()) == ("1\n", "2\n")
    made.write(f"FROM --platform=linux/s390x {server.host}/base\n")
    assert "not for linux/s390x: it is there for" in failure(made) and "Dockerfile:1: FROM" in failure(made)


def test_what_goes_wrong_names_the_line(made: Builder, server: RegistryServer) -> None:
    made.write(f"FROM scratch\nCOPY --from={server.host}/nothing /x /y\n")
    assert failure(made).startswith("fastlayer: Dockerfile:2: COPY: ") and "unknown" in failure(made)
    server.fail("GET .*/manifests/", status=500)
    made.write(f"FROM scratch\nRUN --mount=from={server.host}/broken,target=/x true\n")
    assert failure(made).startswith("fastlayer: Dockerfile:2: RUN: ") and "500" in failure(made)
    server.fail("GET .*/html/manifests/", status=200, body=b"<html>")
    made.write(f"FROM {server.host}/html\n")
    assert failure(made).startswith("fastlayer: Dockerfile:1: FROM ")


def test_nothing_of_registries_is_loaded_for_what_is_here(
    made: Builder, server: RegistryServer, images: dict[str, Path]
) -> None:
    push(images["1"], f"{server.host}/base")
    made.write(f"FROM {server.host}/base\nRUN true\n")
    made.build()
    for words in ([], ["--label", "a=b"]):  # as it was, and another image of the same steps
        command = [sys.executable, "-X", "importtime", "-m", "fastlayer", "build", *words, str(made.context)]
        done = subprocess.run(command, env=made.env, capture_output=True, check=True)
        assert b"fastlayer.builder" in done.stderr
        assert b"urllib3" not in done.stderr and b"fastlayer.registry" not in done.stderr


@pytest.mark.parametrize("of", ["base", "cache"])
def test_a_build_that_is_over_waits_for_no_registry(
    made: Builder, server: RegistryServer, images: dict[str, Path], of: str
) -> None:
    """Whatever comes from there, and does not come."""
    push(images["1"], f"{server.host}/base")
    text = f"FROM {server.host}/base AS one\nCOPY a /\nFROM {server.host}/base\nCOPY --from=one /a /b\n"
    made.write(text, a="1")
    silent = "GET .*/base/blobs/"
    if of == "cache":
        made.build("--cache-to", f"type=registry,ref={server.host}/cache,mode=max")
        made.write(text + "RUN cat /b\n")
        made.good("cache", "prune", "--all", "--force")
        made.good("rmi", "made")
        layers = json.loads(server.manifests["cache", "latest"][0])["layers"]
        silent = "GET .*(" + "|".join(layer["digest"] for layer in layers) + ")"
    server.fail(silent, wait=60)
    server.seen.clear()
    command = [sys.executable, "-m", "fastlayer", "build", "--cache-from", f"{server.host}/cache", str(made.context)]
    with subprocess.Popen(command, env=made.env, stderr=subprocess.PIPE) as process:
        while not server.calls(silent):
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        assert process.wait(40) == 130


# ---- and pushed ------------------------------------------------------------------------------------


def sent(server: RegistryServer) -> list[str]:
    return [call for call in server.calls("^(PUT|PATCH) ") if "/blobs/uploads/" in call]


def test_what_was_built_is_pushed(made: Builder, server: RegistryServer, tmp_path: Path) -> None:
    """Under all its names; a layer that a cache or an earlier push has there is not sent again."""
    made.write("FROM scratch\nCOPY a b /\n", a="1" * 100_000, b="2")
    names = (f"{server.host}/app:1", f"{server.host}/app:2")
    words = ("-q", "--metadata-file", tmp_path / "told", "-t", names[0], "-t", names[1], made.context)
    made.good("build", "--push", "--cache-to", f"{server.host}/cache", *words)
    assert server.manifests["app", "1"] == server.manifests["app", "2"]
    told = json.loads((tmp_path / "told").read_text())
    assert told["containerimage.digest"] == digest(server.manifests["app", "1"][0])
    (layer,) = json.loads(server.manifests["app", "1"][0])["layers"]
    assert layer["mediaType"] == mediatypes.LAYER_GZIP and server.calls(f"^POST .*app.*mount={layer['digest']}")
    server.seen.clear()
    made.good("build", "--push", *words)
    made.good("build", "-q", "-o", "type=image,push=false", "-t", names[0], made.context)
    made.good("build", "-q", "--push", "--no-push", "-t", names[0], made.context)
    assert not sent(server)
    output = f"type=registry,name={server.host}/other,compression=zstd,force-compression=true"
    made.good("build", "-q", "-o", output, made.context)
    (layer,) = json.loads(server.manifests["other", "latest"][0])["layers"]
    assert layer["mediaType"] == mediatypes.LAYER_ZSTD


def test_two_machines_and_a_registry(tmp_path: Path, root: Path, images: dict[str, Path]) -> None:
    """They have nothing in common but the context and the registry: the second builds nothing, and sends nothing."""
    (tmp_path / "registry").mkdir()
    digests = []
    with DockerRegistry(tmp_path / "registry") as registry:
        push(images["1"], f"{registry.host}/base")
        words = ["--push", "--cache-from", f"{registry.host}/app:cache", "-t", f"{registry.host}/app:1"]
        words += ["--cache-to", f"type=registry,ref={registry.host}/app:cache,mode=max"]
        for name in ("one", "two"):
            (tmp_path / name).mkdir()
            machine = Builder(tmp_path / name, root)
            machine.good("rmi", "busybox")
            machine.env.pop("FASTLAYER_PULL")
            machine.write(
                f"FROM {registry.host}/base AS one\nRUN head -c 9 /dev/urandom > /x\n"
                f"FROM {registry.host}/base\nCOPY --from=one /x /y\nCOPY a /\n",
                a="1",
            )
            done = machine.run(
                "build", "--metadata-file", tmp_path / "told", "--progress", "plain", *words, machine.context
            )
            assert done.returncode == 0, done.stderr.decode()
            told = done.stderr.decode().splitlines()
            digests.append(json.loads((tmp_path / "told").read_text())["containerimage.digest"])
        assert any("Cache: 3 of 3 steps" in line for line in told)
        assert not any("Compressing" in line or ": Done" in line for line in told)
    assert digests[0] == digests[1]


def test_what_cannot_be_pushed(made: Builder, server: RegistryServer) -> None:
    made.write("FROM scratch\nCOPY a /\n", a="1")
    assert "give -t HOST/NAME[:TAG]" in made.refused("build", "-q", "--push", made.context, code=2)
    server.fail("(PUT|POST|PATCH) ", status=403)
    words = ("build", "-q", "--push", "--retry-times", "0", "-t", f"{server.host}/app:1", made.context)
    assert server.host in made.refused(*words)
