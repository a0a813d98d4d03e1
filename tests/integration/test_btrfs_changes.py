"""Changes by generation are the changes of a walk, and their layers the same bytes: random trees, random edits."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

import fastlayer
from fastlayer import _backend
from fastlayer.drivers.btrfs import Btrfs, subvolumes
from fastlayer.layer.diff import Changes
from tests.edits import Editor
from tests.filesystems import loop_fs, need_root

SEEDS = range(int(os.environ.get("FASTLAYER_BTRFS_SEEDS", "40")))


@pytest.fixture(scope="module")
def filesystem() -> Iterator[Path]:
    need_root()
    with loop_fs("btrfs", 1 << 30) as path:
        yield path


@pytest.fixture
def driver(filesystem: Path) -> Iterator[Btrfs]:
    driver = Btrfs(filesystem)
    yield driver
    for number in sorted(driver.numbers(), reverse=True):
        driver.remove(number)


def tree(driver: Btrfs, number: int) -> Path:
    return Path(driver.mounts(number, [], "active")[0].source)


def editor(driver: Btrfs, number: int, seed: int) -> Editor:
    return Editor(random.Random(seed), tree(driver, number), nested=lambda p: subvolumes.create(Path(os.fsdecode(p))))


def rows(changes: Changes) -> list[object]:
    return list(_backend.iter_rows(changes._table))


def same_as_a_walk(driver: Btrfs, number: int, parent: int, scratch: Path) -> int:
    """The number of changes."""
    assert driver._keys(number, parent) is not None, "by generation, not by a walk"
    with (
        driver.changes(number, [parent]) as found,
        fastlayer.diff(tree(driver, parent), tree(driver, number)) as walked,
    ):
        assert rows(found) == rows(walked)
        found.write(scratch / "found.tar")
        walked.write(scratch / "walked.tar")
        assert (scratch / "found.tar").read_bytes() == (scratch / "walked.tar").read_bytes()
        return len(found)


@pytest.mark.parametrize("seed", SEEDS)
def test_random_edits(driver: Btrfs, engine: _backend.Engine, seed: int, tmp_path: Path) -> None:
    rng = random.Random(seed)
    driver.create(1, [], "active")
    editor(driver, 1, seed).edit(rng.randint(5, 60))
    driver.seal(1, [])
    for number in (2, 3, 4):
        driver.create(number, [number - 1], "active")
        assert same_as_a_walk(driver, number, number - 1, tmp_path) == 0
        edits = editor(driver, number, seed * 10 + number)
        edits.edit(rng.randint(1, 6))
        try:
            same_as_a_walk(driver, number, number - 1, tmp_path)
            edits.edit(rng.randint(1, 20))
            driver.duplicate(10 + number, [number - 1], number)
            same_as_a_walk(driver, 10 + number, number - 1, tmp_path)
            edits.edit(2)
            same_as_a_walk(driver, number, number - 1, tmp_path)
            same_as_a_walk(driver, 10 + number, number - 1, tmp_path)
            driver.seal(number, [number - 1])
            same_as_a_walk(driver, number, number - 1, tmp_path)
        except BaseException:
            print("edits:", " ".join(edits.log))
            raise
