"""A store that fills its file system can still be cleared."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastlayer.container import writable
from fastlayer.container.mounted import all_mounts
from fastlayer.errors import NoSpaceError
from fastlayer.image.images import Images
from fastlayer.store.store import Store, open_store
from tests.filesystems import need_root
from tests.stores import imported, vfs_store


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A tmpfs of 12 MiB."""
    need_root()
    place = tmp_path / "small"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", place], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", place], check=True)


def fill(place: Path) -> None:
    with open(place / "filler", "ab", buffering=0) as file:
        try:
            while True:
                file.write(b"x" * 4096)
        except OSError:
            pass


def filled(small: Path, tmp_path: Path) -> Path:
    with vfs_store(small / "store") as store:
        writable.create(store, imported(store, tmp_path / "root"), "w")
    assert (small / "store/reserve").stat().st_blocks * 512 >= 1 << 20
    fill(small)
    return small / "store"


def test_removing_works_on_a_full_file_system(small: Path, tmp_path: Path) -> None:
    root = filled(small, tmp_path)
    with open_store(root) as store:
        assert not (root / "reserve").exists() and not all_mounts(store)
        writable.remove(store, "w")
        Images(store).untag("base:1")
    os.unlink(small / "filler")
    open_store(root).close()
    assert (root / "reserve").exists()


def test_a_full_file_system_is_named(small: Path, tmp_path: Path) -> None:
    root = filled(small, tmp_path)
    os.unlink(root / "reserve")
    fill(small)
    with pytest.raises(NoSpaceError, match=r"metadata\.db: write: No space left on device: make room"):
        Store(root)
