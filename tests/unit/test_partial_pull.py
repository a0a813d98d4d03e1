"""Pulling in part: what moves, what comes of it, and everything that can be wrong with a chunked layer."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fastlayer.container.mounting import temporary
from fastlayer.image.images import Images
from fastlayer.store.store import Store
from tests.chunkedlayers import Layer, estargz, publish, zstd_chunked
from tests.conftest import needs_root
from tests.partialpulls import Pulled, pulled
from tests.registry_server import RegistryServer
from tests.stores import vfs_store

pytestmark = needs_root

_RANDOM = random.Random(6)
FILES = {
    "d/": b"",
    **{f"d/f{number}": _RANDOM.randbytes(3000 + 100 * number) for number in range(60)},
    "empty": b"",
    "big": _RANDOM.randbytes(400_000),
    "zeros": bytes(50_000),
}
NEWER = {**FILES, "d/f7": _RANDOM.randbytes(4000), "d/new": b"new"}

MAKERS: dict[str, Any] = {
    "zstd:chunked": zstd_chunked,
    "zstd:chunked without tar-split": lambda files, **more: zstd_chunked(files, split=False, **more),
    "eStargz": estargz,
}


@pytest.fixture
def server() -> Iterator[RegistryServer]:
    with RegistryServer() as found:
        yield found


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with vfs_store(tmp_path / "store") as found:
        yield found


def tree_of(store: Store, tag: str) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    with temporary(store, Images(store).find(f"localhost/app:{tag}")) as mounted:
        for parent, _, names in os.walk(mounted):
            for name in names:
                path = Path(parent) / name
                found[os.fspath(path.relative_to(mounted))] = path.read_bytes()
    return found


def files_of(files: dict[str, bytes]) -> dict[str, bytes]:
    return {path: body for path, body in files.items() if not path.endswith("/")}


def pull(store: Store, server: RegistryServer, tag: str, *layers: Layer) -> Pulled:
    publish(server, "app", tag, layers)
    return pulled(store, server, "app", tag)


def moved(server: RegistryServer, layer: Layer) -> float:
    return server.sent.get(str(layer.descriptor["digest"]), 0) / len(layer.blob)


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("many", [True, False], ids=["many ranges", "one range"])
def test_only_what_is_new_is_fetched(store: Store, server: RegistryServer, kind: str, many: bool) -> None:
    server.many_ranges = many
    first, second = MAKERS[kind](FILES, chunk=100_000), MAKERS[kind](NEWER, chunk=100_000)
    assert pull(store, server, "1", first) == ([None], [])
    (stats,), warnings = pull(store, server, "2", second)
    assert warnings == []
    assert stats is not None
    if many:
        assert stats.fetched == server.sent[str(second.descriptor["digest"])]
    expected = {"stargz.index.json": tree_of(store, "2").get("stargz.index.json", b"")} if kind == "eStargz" else {}
    assert tree_of(store, "2") == {**files_of(NEWER), **expected}
    if many:
        assert moved(server, second) < 0.1
    elif kind == "zstd:chunked":
        assert stats.fetched < 0.1 * len(second.blob)
    assert not store.content.has(second.descriptor["digest"])
