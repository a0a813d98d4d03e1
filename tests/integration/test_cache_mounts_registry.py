"""Cache mounts in registries: what goes over the wire, and what a second machine has."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fastlayer.builder.cachemounts import Access, all_mounts, data_of, use
from fastlayer.builder.mountarchive import repository
from fastlayer.builder.mountarchive.exporting import Export, export
from fastlayer.builder.mountarchive.importing import import_mounts
from fastlayer.errors import FastlayerError
from fastlayer.oci.reference import parse_reference
from fastlayer.registry.opening import Wishes
from fastlayer.registry.pauses import Policy
from fastlayer.store.store import Store, open_store
from tests.buildroot import make_root
from tests.integration.dockerregistry import DockerRegistry
from tests.integration.test_build import Builder, outcome
from tests.integration.test_cache_shared import files
from tests.registry_server import RegistryServer, digest
from tests.shell import Shell

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="files of anybody")
PIP = "/root/.cache/pip"


@pytest.fixture
def stores(tmp_path: Path) -> Iterator[tuple[Store, Store]]:
    with open_store(tmp_path / "one", driver="vfs") as one, open_store(tmp_path / "two", driver="vfs") as two:
        yield one, two


@pytest.fixture
def server() -> Iterator[RegistryServer]:
    with RegistryServer() as found:
        yield found


def made(store: Store, identity: str = PIP) -> Path:
    with use(store, identity, "shared", Access(), lambda: None) as place:
        return place


def there(store: Store, identity: str = PIP) -> Path:
    (mount,) = [mount for mount in all_mounts(store) if mount.id == identity]
    return Path(os.fsdecode(data_of(store, mount)))


def write(store: Store, host: str, *ids: str) -> Export:
    with repository.target(parse_reference(f"{host}/mounts:main"), WISHES, print) as target:
        return export(store, target, ids=ids)


def read(store: Store, host: str, *ids: str) -> None:
    with repository.source(store, parse_reference(f"{host}/mounts:main"), WISHES, print) as source:
        import_mounts(store, source, ids=ids)


WISHES = Wishes(policy=Policy(tries=3, first=0.01))


def filled(place: Path, seed: int, files: int = 12) -> dict[str, bytes]:
    """Some MiB that no compression makes less."""
    found = {f"f{number}": random.Random(seed * 1000 + number).randbytes(2 << 20) for number in range(files)}
    for name, data in found.items():
        (place / name).write_bytes(data)
    return found


def contents(place: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in place.iterdir()}


def packs(server: RegistryServer) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(server.manifests["mounts", "main"][0])["layers"]
    return found


def sent(server: RegistryServer) -> int:
    return sum(len(seen.body) for seen in server.seen if "/blobs/uploads/" in seen.path)


def test_the_other_side_has_it_and_nothing_goes_twice(stores: tuple[Store, Store], server: RegistryServer) -> None:
    one, two = stores
    data = filled(made(one), 1)
    write(one, server.host)
    assert len(packs(server)) == 3 and sent(server) > 24 << 20
    server.seen.clear()
    write(one, server.host)
    assert not server.calls("^(PUT|POST|PATCH)")
    server.seen.clear()
    read(two, server.host)
    assert contents(there(two)) == data
    fetched = server.calls("^GET .*/blobs/")
    assert len(set(fetched)) == len(fetched) == 4  # what there is, and the packs
    (made(one) / "f3").write_bytes(data["f3"][:100] + b"!" + data["f3"][101:])
    server.seen.clear()
    write(one, server.host)
    assert 0 < sent(server) < 2 << 20
    server.seen.clear()
    read(two, server.host)
    assert contents(there(two)) == contents(there(one))
    assert len(server.calls("^GET .*/blobs/")) <= 4  # those that hold what is needed


def test_packs_of_little_use_give_way(stores: tuple[Store, Store], server: RegistryServer) -> None:
    one, two = stores
    data = filled(made(one), 1)
    write(one, server.host)
    for name in sorted(data)[: len(data) - 2]:
        (made(one) / name).unlink()
    before = sum(pack["size"] for pack in packs(server))
    done = write(one, server.host)
    assert done.removed > 10 and sum(pack["size"] for pack in packs(server)) < before / 2
    read(two, server.host)
    assert contents(there(two)) == contents(there(one))


def test_one_of_several(stores: tuple[Store, Store], server: RegistryServer) -> None:
    one, two = stores
    first, second = filled(made(one), 1, 2), filled(made(one, "other"), 2, 2)
    write(one, server.host)
    filled(made(one), 3, 2)
    write(one, server.host, "other")
    read(two, server.host, PIP)
    assert contents(there(two)) == first and len(all_mounts(two)) == 1
    read(two, server.host)
    assert contents(there(two, "other")) == second


def test_a_broken_connection_is_no_failure(stores: tuple[Store, Store], server: RegistryServer) -> None:
    one, two = stores
    data = filled(made(one), 1, 3)
    server.fail("P(UT|ATCH) .*/blobs/uploads/", 1, eat=1000)
    write(one, server.host)
    server.fail("GET .*/blobs/", 2, cut=1000)
    read(two, server.host)
    assert contents(there(two)) == data


def no_pack(server: RegistryServer) -> None:
    del server.blobs["mounts", packs(server)[0]["digest"]]


def spoiled(server: RegistryServer) -> None:
    key = "mounts", packs(server)[0]["digest"]
    server.blobs[key] = server.blobs[key][:-1] + bytes([server.blobs[key][-1] ^ 1])


def other_config(server: RegistryServer, change: Callable[[Any], None]) -> None:
    value = json.loads(server.manifests["mounts", "main"][0])
    config = json.loads(server.blobs["mounts", value["config"]["digest"]])
    change(config)
    raw = json.dumps(config).encode()
    server.add_blob("mounts", raw)
    value["config"] |= {"digest": digest(raw), "size": len(raw)}
    server.add_manifest("mounts", "main", value)


def huge(server: RegistryServer) -> None:
    value = json.loads(server.manifests["mounts", "main"][0])
    value["layers"][0]["size"] = 1 << 40
    server.add_manifest("mounts", "main", value)


HOSTILE: dict[str, Callable[[RegistryServer], object]] = {
    "no pack": no_pack,
    "a pack that is another": spoiled,
    "a pack of a TiB": huge,
    "nothing about packs": lambda server: other_config(server, lambda config: config.pop("packs")),
    "chunks in no order": lambda server: other_config(server, lambda config: config["packs"][0].reverse()),
    "longer chunks": lambda server: other_config(server, lambda config: config["packs"][0][0].__setitem__(1, 1)),
    "no chunk of that name": lambda server: other_config(
        server, lambda config: config["packs"][0][0].__setitem__(0, "0" * 64)
    ),
    "an image": lambda server: server.add_manifest(
        "mounts", "main", {"schemaVersion": 2, "config": packs(server)[0], "layers": []}
    ),
    "nothing": lambda server: server.manifests.clear(),
    "HTML": lambda server: server.fail("GET .*/manifests/", status=200, body=b"<html>"),
}


@pytest.mark.parametrize("harm", HOSTILE.values(), ids=HOSTILE)
def test_hostile_artifacts_change_nothing(
    stores: tuple[Store, Store], server: RegistryServer, harm: Callable[[RegistryServer], object]
) -> None:
    one, two = stores
    filled(made(one), 1, 1)
    write(one, server.host)
    (made(two) / "mine").write_bytes(b"1")
    harm(server)
    with pytest.raises(FastlayerError) as caught:
        read(two, server.host)
    assert "\n" not in str(caught.value)
    assert contents(there(two)) == {"mine": b"1"}
    assert not list((two.root / "cache/work").glob("*/*"))


def test_as_it_is_typed(tmp_path: Path) -> None:
    """With the real registry, and nothing at all in the first run of a pipeline."""
    with DockerRegistry(tmp_path) as real:
        name = f"docker://{real.host}/team/mounts:main"
        one, two = Shell(tmp_path / "one"), Shell(tmp_path / "two")
        assert one.good("cache", "import", "--if-exists", name) == ""
        assert "unknown" in one.refused("cache", "import", name)
        with open_store(tmp_path / "one") as store:
            data = filled(made(store), 1, 5)
        assert PIP in one.good("cache", "export", name)
        assert "under a digest" in one.refused("cache", "export", f"{name}@sha256:{'0' * 64}", code=2)
        assert PIP in two.good("cache", "import", "--if-exists", name)
        with open_store(tmp_path / "two") as store:
            assert contents(there(store)) == data
    lost = one.refused("cache", "import", "--retry-times", "0", "--if-exists", name)
    assert real.host in lost


COUNTING = """
FROM busybox
ARG N
RUN --mount=type=cache,target=/c echo $N >> /c/log && cp /c/log /log
"""


def test_with_the_cache_of_a_build(tmp_path: Path, server: RegistryServer) -> None:
    """Another machine goes on with what the first had in its mounts; one that finds all its steps asks for none."""
    root = make_root(tmp_path / "root")
    machines = []
    for name in ("one", "two", "three", "four"):
        (tmp_path / name).mkdir()
        machines.append(Builder(tmp_path / name, root))
    one, two, three, four = machines
    for machine in machines:
        machine.write(COUNTING)
    cache = f"type=registry,ref={server.host}/cache,mounts=true"
    told = one.build("--build-arg", "N=1", "--cache-from", cache, "--cache-to", cache)
    assert outcome(told)[f"exporting cache mounts to {server.host}/cache:latest.mounts"] == "DONE"
    two.build("--build-arg", "N=2", "--cache-from", cache, "--cache-to", cache)
    with files(two) as tree:
        assert (tree / "log").read_text() == "1\n2\n"
    server.seen.clear()
    again = three.build("--build-arg", "N=2", "--cache-from", cache, "--cache-to", cache)
    assert any("1 of 1 steps" in line for line in again) and not server.calls("mounts")
    server.fail("GET .*latest.mounts", status=403)
    words = ("--retry-times", "0", "--cache-from", cache)
    assert any("without its cache mounts" in line for line in four.build("--build-arg", "N=4", *words))
    with files(four) as tree:
        assert (tree / "log").read_text() == "4\n"
