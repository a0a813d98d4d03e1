"""Images and stacks of lower layers by their chain ids."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastlayer.container.mounting import temporary
from fastlayer.errors import NotFoundError
from fastlayer.image.images import Images
from fastlayer.image.load import load
from fastlayer.oci.chain import chain_id
from fastlayer.oci.platform import Platform
from fastlayer.store.store import Store
from tests.conftest import needs_root
from tests.shell import Shell
from tests.stores import Layout, vfs_store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    layout = Layout(tmp_path / "layout")
    lower: list[dict[str, bytes]] = [{"one": b"1"}, {"two": b"2"}]
    layout.image("app:1", [*lower, {"three": b"3"}])
    layout.image("app:2", [*lower, {"three": b"3"}], salt="again")
    with vfs_store(tmp_path / "store") as found:
        load(found, layout.path)
        yield found


@pytest.mark.parametrize("length", [64 + 7, 12 + 7])
@pytest.mark.parametrize("scheme", ["sha256:", ""])
def test_an_image_by_its_chain_id(store: Store, length: int, scheme: str) -> None:
    images = Images(store)
    image = images.find("app:1")
    text = str(image.chain_id)[:length].removeprefix("sha256:")
    found = images.find(scheme + text)
    assert found.chain_id == image.chain_id and found.names
    with pytest.raises(NotFoundError):
        images.find(scheme + text[:11])
    with pytest.raises(NotFoundError, match="not for plan9"):
        images.find(scheme + text, Platform("plan9", "mips"))


def test_nothing_is_removed_by_a_chain_id(store: Store) -> None:
    images = Images(store)
    with pytest.raises(NotFoundError):
        images.untag(str(images.find("app:1").chain_id))


def test_lower_layers_by_their_chain_id(store: Store) -> None:
    images = Images(store)
    lower = str(chain_id([layer.diff_id for layer in images.find("app:1").layers[:2]]))
    with pytest.raises(NotFoundError, match="no such image"):
        images.find(lower)
    stack = images.find_stack(lower)
    assert (stack.name, len(stack.layers)) == (lower, 2)
    with temporary(store, stack) as path:
        assert sorted(file.name for file in path.iterdir()) == ["one", "two"]
    assert images.find_stack("app:1") == images.find("app:1")
    with pytest.raises(NotFoundError):
        images.find_stack("sha256:" + "0" * 64)


@needs_root
def test_mounted_by_chain_ids(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "layout")
    layout.image("app:1", [{"one": b"1"}, {"two": b"2"}])
    shell = Shell(tmp_path / "store", "overlay2")
    shell.good("load", "-q", "-i", layout.path)
    (found,) = json.loads(shell.good("inspect", "app:1"))
    place = tmp_path / "mnt"
    place.mkdir()
    for chain, names in ((found["ChainId"], ["one", "two"]), (found["RootFS"]["Layers"][0], ["one"])):
        shell.good("mount", chain, place)
        try:
            assert sorted(file.name for file in place.iterdir()) == names
        finally:
            shell.good("umount", place)
    shell.refused("mount", "--rw", "--name", "w", found["RootFS"]["Layers"][0], place)
