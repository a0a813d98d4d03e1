"""Two versions of an image in Debian's docker-registry, of which one percent of the files differ: what moves."""

from __future__ import annotations

import json
import os
import random
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import fastlayer
from fastlayer.container.mounting import temporary
from fastlayer.image.images import Images
from fastlayer.image.importing import import_image
from fastlayer.image.save import save
from fastlayer.maintenance.check import check
from fastlayer.oci import mediatypes
from fastlayer.oci.digest import digest_of
from fastlayer.registry.client import Registry
from fastlayer.registry.http import Endpoint
from fastlayer.registry.opening import Wishes
from fastlayer.store.store import Store, open_store
from fastlayer.transfer.pull import PullOptions, pull
from tests.conftest import needs_root, require
from tests.filesystems import loop_fs
from tests.integration.dockerregistry import DockerRegistry

pytestmark = needs_root

_FILES = 200


class Wire:
    """A way to a port on which bytes are counted. ``received``: by the client."""

    def __init__(self, port: int) -> None:
        self.received = 0
        self._port = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.host = f"localhost:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", self._port))
            for one, other, counts in ((client, server, False), (server, client, True)):
                threading.Thread(target=self._pump, args=(one, other, counts), daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket, counts: bool) -> None:
        try:
            while data := source.recv(1 << 16):
                self.received += len(data) if counts else 0
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def close(self) -> None:
        self._listener.close()


@pytest.fixture(scope="module")
def trees(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Files as programs have them: some text, some that cannot be compressed; two of them change."""
    base = tmp_path_factory.mktemp("trees")
    source = random.Random(7)
    bodies = {}
    for number in range(_FILES):
        size = source.randrange(2_000, 60_000)
        words = b" ".join(b"%x" % source.getrandbits(20) for _ in range(size // 12))
        bodies[f"usr/d{number % 20}/f{number}"] = words + source.randbytes(size // 2)
    bodies["usr/lib/large"] = source.randbytes(2 << 20) + b" ".join(b"%d" % (n * n) for n in range(100_000))
    found = {}
    for version in ("1", "2"):
        if version == "2":
            for number in (11, 150):
                bodies[f"usr/d{number % 20}/f{number}"] += b"changed"
        found[version] = base / version
        for path, body in bodies.items():
            place = found[version] / path
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(body)
        os.link(found[version] / "usr/lib/large", found[version] / "usr/lib/linked")
        (found[version] / "usr/lib/link").symlink_to("large")
        for path in sorted(found[version].rglob("*")):
            os.utime(path, ns=(10**18, 10**18), follow_symlinks=False)
    return found


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[DockerRegistry]:
    (tmp_path / "registry").mkdir()
    with DockerRegistry(tmp_path / "registry") as found:
        yield found


def push_by_skopeo(registry: DockerRegistry, trees: dict[str, Path], place: Path) -> None:
    """skopeo compresses: zstd:chunked of its version, without a tar-split."""
    require("skopeo")
    with open_store(place / "origin", driver="vfs") as store:
        for version, tree in trees.items():
            import_image(store, tree, f"app:{version}")
            save(store, [f"app:{version}"], str(place / f"layout{version}"), format="oci-dir")
    for version in trees:
        subprocess.run(
            [
                *("skopeo", "copy", "-q", "--dest-tls-verify=false", "--dest-compress-format", "zstd:chunked"),
                *(f"oci:{place}/layout{version}", f"docker://{registry.host}/app:{version}"),
            ],
            check=True,
        )


def push_ours(registry: DockerRegistry, trees: dict[str, Path], place: Path, compression: Any) -> None:
    with Registry(Endpoint(registry.url)) as client:
        repository = client.repository("app")
        for version, tree in trees.items():
            layer = fastlayer.diff(None, tree, output=str(place / version), compression=compression)
            config = {
                "architecture": "amd64",
                "os": "linux",
                "config": {},
                "rootfs": {"type": "layers", "diff_ids": [layer.diff_id]},
            }
            raw = json.dumps(config).encode()
            repository.push_bytes(raw)
            repository.push_bytes((place / version).read_bytes())
            manifest = {
                "schemaVersion": 2,
                "mediaType": mediatypes.MANIFEST,
                "config": {"mediaType": mediatypes.CONFIG, "digest": digest_of(raw), "size": len(raw)},
                "layers": [
                    {
                        "mediaType": layer.media_type,
                        "digest": layer.digest,
                        "size": layer.size,
                        "annotations": dict(layer.annotations),
                    }
                ],
            }
            repository.put_manifest(json.dumps(manifest).encode(), mediatypes.MANIFEST, version)


def pulled(store: Store, host: str, version: str, *, whole: bool = False) -> Any:
    options = PullOptions(whole=whole, wishes=Wishes(verify=False))
    return pull(store, f"{host}/app:{version}", options)


def assert_is(store: Store, name: str, tree: Path) -> None:
    """By fastlayer's own differ, which compares everything but times of directories above what is there."""
    with temporary(store, Images(store).find(name)) as mounted:
        found = fastlayer.diff(tree, mounted)
        names = {os.fsdecode(change.path) for change in found}
    assert names <= {"", ".", "stargz.index.json", ".no.prefetch.landmark"}, names


@pytest.mark.parametrize("kind", ["skopeo", "zstd:chunked", "estargz"])
def test_one_percent_of_the_files(registry: DockerRegistry, trees: dict[str, Path], tmp_path: Path, kind: str) -> None:
    (tmp_path / "made").mkdir()
    if kind == "skopeo":
        push_by_skopeo(registry, trees, tmp_path / "made")
    else:
        push_ours(registry, trees, tmp_path / "made", kind)
    wire = Wire(registry.port)
    with open_store(tmp_path / "store", driver="overlay2") as store:
        pulled(store, wire.host, "1")
        before = wire.received
        second = pulled(store, wire.host, "2")
        moved = wire.received - before
        assert second.warnings == ()
        assert_is(store, second.name, trees["2"])
        (layer,) = Images(store).find(second.name).layers
        assert moved <= 0.05 * layer.size, f"{moved} of {layer.size}"
        assert store.content.has(layer.digest)
        assert check(store).sound
    wire.close()


def test_without_its_blob(registry: DockerRegistry, trees: dict[str, Path], tmp_path: Path) -> None:
    """Compressed by another level: no frame is the same. What needs the blob says so, and a whole pull brings it."""
    with open_store(tmp_path / "store", driver="overlay2") as store:
        (tmp_path / "one").mkdir()
        push_ours(registry, {"1": trees["1"]}, tmp_path / "one", "zstd:chunked")
        pulled(store, registry.host, "1")
        push_by_skopeo(registry, {"2": trees["2"]}, tmp_path / "one")
        found = pulled(store, registry.host, "2")
        (layer,) = Images(store).find(found.name).layers
        assert not store.content.has(layer.digest)
        assert check(store).sound
        with pytest.raises(fastlayer.errors.NotFoundError, match="pull --whole"):
            save(store, [found.name], str(tmp_path / "saved.tar"))
        assert pulled(store, registry.host, "2", whole=True).received >= layer.size
        save(store, [found.name], str(tmp_path / "saved.tar"))


def test_extents_are_shared(registry: DockerRegistry, trees: dict[str, Path], tmp_path: Path) -> None:
    push_ours(registry, trees, tmp_path, "zstd:chunked")
    with loop_fs("xfs") as place, open_store(place / "store", driver="overlay2") as store:
        pulled(store, registry.host, "1")
        os.sync()
        before = os.statvfs(place).f_bfree * os.statvfs(place).f_frsize
        found = pulled(store, registry.host, "2")
        os.sync()
        taken = before - os.statvfs(place).f_bfree * os.statvfs(place).f_frsize
        assert_is(store, found.name, trees["2"])
        (layer,) = Images(store).find(found.name).layers
        assert taken < layer.size + 0.3 * layer.payload  # the blob, and not much more
