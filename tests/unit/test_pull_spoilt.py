"""Pulls of which something else comes than was asked for: other places are asked, and nothing more is received."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from fastlayer.errors import DigestMismatchError, LayerFormatError
from fastlayer.image.images import Images
from fastlayer.oci.manifest import Manifest
from fastlayer.registry.opening import Wishes
from fastlayer.registry.pauses import Policy
from fastlayer.store.store import Store
from fastlayer.transfer.pull import PullOptions, pull
from fastlayer.transfer.pulling.downloads import Downloads
from fastlayer.transfer.pulling.kept import KeptBlob
from tests.registry_server import RegistryServer
from tests.stores import Layout, content, vfs_store

FILES = {"file": Random(3).randbytes(100_000)}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with vfs_store(tmp_path / "store") as found:
        yield found


@pytest.fixture
def image(tmp_path: Path) -> tuple[Layout, Manifest]:
    layout = Layout(tmp_path / "layout")
    return layout, layout.image("", [FILES])


@pytest.fixture
def servers(image: tuple[Layout, Manifest]) -> Iterator[tuple[RegistryServer, RegistryServer]]:
    """A registry and its mirror, both with ``app:1``."""
    layout, manifest = image
    with RegistryServer() as server, RegistryServer() as mirror:
        for one in (server, mirror):
            for path in (layout.path / "blobs/sha256").iterdir():
                one.add_blob("app", path.read_bytes())
            one.manifests["app", "1"] = (manifest.raw, manifest.descriptor.media_type)
        yield server, mirror


@pytest.fixture
def options(tmp_path: Path, servers: tuple[RegistryServer, RegistryServer]) -> PullOptions:
    server, mirror = servers
    conf = tmp_path / "registries.conf"
    conf.write_text(
        f'[[registry]]\nlocation = "{server.host}"\ninsecure = true\n'
        f'[[registry.mirror]]\nlocation = "{mirror.host}"\ninsecure = true\n'
    )
    environ = {"CONTAINERS_REGISTRIES_CONF": str(conf), "HOME": str(tmp_path)}
    return PullOptions(wishes=Wishes(environ=environ, etc=tmp_path, policy=Policy(tries=1)))


@pytest.mark.parametrize("at", [0, 2_000, -1])  # no gzip at all, other contents, another checksum
def test_a_mirror_that_has_something_else(
    store: Store,
    servers: tuple[RegistryServer, RegistryServer],
    image: tuple[Layout, Manifest],
    options: PullOptions,
    at: int,
) -> None:
    server, mirror = servers
    digest = image[1].layers[0].digest
    spoilt = bytearray(mirror.blobs["app", digest])
    spoilt[at] ^= 0xFF
    mirror.blobs["app", digest] = bytes(spoilt)
    found = pull(store, f"{server.host}/app:1", options)
    assert found.source == server.host
    (line,) = found.warnings
    assert "\n" not in line and line.endswith(f"; trying {server.host}")
    assert content(store, found.name) == FILES


def test_nobody_has_the_right_bytes(
    store: Store, servers: tuple[RegistryServer, RegistryServer], image: tuple[Layout, Manifest], options: PullOptions
) -> None:
    digest = image[1].layers[0].digest
    for one in servers:
        one.blobs["app", digest] = one.blobs["app", digest][:-8] + bytes(8)
    with pytest.raises((DigestMismatchError, LayerFormatError)) as caught:
        pull(store, f"{servers[0].host}/app:1", options)
    assert "\n" not in str(caught.value)
    assert Images(store).all() == []


class _Endless:
    """A stream of more than anybody wants; after a while the reader has seen that it is something else."""

    offset, etag = 0, ""

    def __init__(self) -> None:
        self.reads = 0
        self.download: object = None

    def __enter__(self) -> _Endless:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def read(self, most: int) -> bytes:
        self.reads += 1
        if self.reads == 3:
            self.download.error = DigestMismatchError("something else")  # type: ignore[attr-defined]
        return bytes(min(most, 10))


def test_nothing_more_is_received_of_what_is_something_else(
    store: Store, image: tuple[Layout, Manifest], monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = image[1].layers[0]
    stream = _Endless()
    repository: object = None
    with KeptBlob(store, layer.digest, layer.size) as kept:
        assert kept.lock(lambda: False)
        downloads = Downloads(repository, connections=1, pause=lambda *_: None)  # type: ignore[arg-type]
        monkeypatch.setattr(downloads, "_grow", lambda: None)  # its thread is ours
        download = downloads.begin(layer, kept)
        stream.download = download
        monkeypatch.setattr(download, "opened", lambda *_: stream)
        downloads._fetch(download, 0, layer.size)
    assert stream.reads == 3
