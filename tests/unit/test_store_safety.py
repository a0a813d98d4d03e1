"""A store that lost something - its database, a driver's file system - and must not lose more."""

from __future__ import annotations

from pathlib import Path

import pytest

from fastlayer.container import writable
from fastlayer.drivers.vfs import Vfs
from fastlayer.errors import CorruptStoreError, StorageError
from fastlayer.store.store import Store
from tests.stores import imported, vfs_store


def with_layer(tmp_path: Path) -> Path:
    """A store with a writable layer ``w`` that something was written to; returns the layer's directory."""
    with vfs_store(tmp_path / "store") as store:
        writable.create(store, imported(store, tmp_path / "root"), "w")
        tree = tree_of(store, "w")
    (tree / "precious").write_text("data")
    return tree


def tree_of(store: Store, name: str) -> Path:
    number, _ = store.snapshotter.number(f"writable/{name}")
    tree = store.snapshotter.driver.own_tree(number)
    assert tree is not None
    return tree


def test_a_new_database_leaves_the_folders_of_the_old_one(tmp_path: Path) -> None:
    tree = with_layer(tmp_path)
    for path in (tmp_path / "store").glob("metadata.db*"):
        path.unlink()
    with vfs_store(tmp_path / "store") as store:
        writable.create(store, imported(store, tmp_path / "root"), "other")
        assert tree_of(store, "other").parent.name > tree.parent.name
    assert (tree / "precious").read_text() == "data"


def test_only_what_the_call_made_is_undone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with vfs_store(tmp_path / "store") as store:
        imported(store, tmp_path / "root")
        store.snapshotter.prepare("one")
        number, _ = store.snapshotter.number("one")
        foreign = store.snapshotter.driver.root / str(number + 1) / "tree"
        foreign.mkdir(parents=True)
        with pytest.raises(StorageError, match="exists"):
            store.snapshotter.prepare("two")
        assert foreign.is_dir() and not store.snapshotter.exists("two")
        monkeypatch.setattr(Vfs, "mounts", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            store.snapshotter.prepare("three")
        assert not (store.snapshotter.driver.root / str(number + 2)).exists()


def test_a_damaged_database_says_what_stays(tmp_path: Path) -> None:
    with_layer(tmp_path)
    (tmp_path / "store/metadata.db").write_bytes(b"damaged" * 1000)
    with pytest.raises(CorruptStoreError, match=r"move it .* aside .*; writable layers stay on disk"):
        vfs_store(tmp_path / "store").close()
