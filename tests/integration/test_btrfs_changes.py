"""Changes by generation are the changes of a walk, and their layers the same bytes: random trees, random edits."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import fastlayer
from fastlayer import _backend
from fastlayer.drivers.btrfs import Btrfs, subvolumes
from fastlayer.layer.diff import Changes
from tests.edits import Editor
from tests.filesystems import loop_fs, need_root
from tests.pairs import WHEN, put

DIRECTORY = ("", "/linked", "/sub", "/sub/y", "/x")
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
    for _ in edited(driver, seed, tmp_path):
        pass


def test_random_edits_long_after(filesystem: Path, engine: _backend.Engine, tmp_path: Path) -> None:
    """When the ctime of what was only read proves it. All seeds wait together."""
    drivers = {seed: Btrfs(filesystem / f"seed{seed}") for seed in SEEDS[::5]}
    for driver in drivers.values():
        driver.root.mkdir()
    left = [edited(driver, seed, tmp_path) for seed, driver in drivers.items()]
    while left := [edits for edits in left if next(edits, None)]:
        time.sleep(2.1)
    for driver in drivers.values():
        for number in sorted(driver.numbers(), reverse=True):
            driver.remove(number)
        shutil.rmtree(driver.root)


def edited(driver: Btrfs, seed: int, tmp_path: Path) -> Iterator[int]:
    """Edits at random, each looked at; gives the number of the next snapshot before it is made."""
    rng = random.Random(seed)
    driver.create(1, [], "active")
    editor(driver, 1, seed).edit(rng.randint(5, 60))
    driver.seal(1, [])
    for number in (2, 3, 4):
        yield number
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
            print("seed", seed, "edits:", " ".join(edits.log))
            raise


# ---- one thing at a time


def before(root: Path) -> None:
    for name in ("d/x", "d/sub/y", "e/z", "f", "g"):
        put(root / name, name.encode() * 5000)
    (root / "d/linked").hardlink_to(root / "f")
    (root / "e/linked").hardlink_to(root / "e/z")
    (root / "empty").mkdir()
    for path in (*root.rglob("*"), root):
        os.utime(path, ns=(WHEN, WHEN))  # an edit in the same tick would not show


def rename_a_directory_with_a_linked_file(root: Path) -> None:
    (root / "d").rename(root / "moved")


def rename_the_parent_of_that_directory(root: Path) -> None:
    (root / "e").rename(root / "d/sub/e")
    (root / "d").rename(root / "empty/d")


def exchange_directories(root: Path) -> None:
    (root / "d").rename(root / "t")
    (root / "e").rename(root / "d")
    (root / "t").rename(root / "e")


def replace_a_directory_by_one_that_holds_it(root: Path) -> None:
    (root / "t").mkdir()
    (root / "d").rename(root / "t/d")
    (root / "t").rename(root / "d")


def move_everything_into_a_new_directory_of_the_old_name(root: Path) -> None:
    (root / "d").rename(root / "old")
    (root / "d").mkdir()
    (root / "old/sub").rename(root / "d/sub")
    shutil.rmtree(root / "old")


def unlink_one_name(root: Path) -> None:
    (root / "d/linked").unlink()


def add_a_name(root: Path) -> None:
    (root / "e/more").hardlink_to(root / "f")


def link_to_a_file_that_was_alone(root: Path) -> None:
    (root / "e/more").hardlink_to(root / "g")


def remove_a_directory_and_replace_the_other_name(root: Path) -> None:
    shutil.rmtree(root / "d")
    (root / "f").unlink()
    (root / "f").write_bytes(b"f" * 5000)


def replace_a_name_by_another_group(root: Path) -> None:
    (root / "d/linked").unlink()
    (root / "d/linked").hardlink_to(root / "e/z")


def change_the_type_of_everything(root: Path) -> None:
    shutil.rmtree(root / "d")
    (root / "d").write_text("a file")
    (root / "f").unlink()
    (root / "f").mkdir()
    (root / "g").unlink()
    (root / "g").symlink_to("f")


def xattr_only(root: Path) -> None:
    when = (root / "d").stat().st_mtime_ns
    os.setxattr(root / "d", "user.x", b"1")
    os.setxattr(root / "g", "user.x", b"1")
    assert (root / "d").stat().st_mtime_ns == when


def truncate_and_extend(root: Path) -> None:
    os.truncate(root / "g", 1)
    os.truncate(root / "f", 1 << 22)


def same_size_and_time(root: Path) -> None:
    status = (root / "g").stat()
    with open(root / "g", "r+b") as file:
        file.write(b"G")
    os.utime(root / "g", ns=(status.st_atime_ns, status.st_mtime_ns))


def nothing_after_all(root: Path) -> None:
    status, above = (root / "g").stat(), root.stat()
    data = (root / "g").read_bytes()
    (root / "g").unlink()
    put(root / "g", data)
    os.utime(root / "g", ns=(status.st_atime_ns, status.st_mtime_ns))
    os.utime(root, ns=(above.st_atime_ns, above.st_mtime_ns))


def reflinks(root: Path) -> None:
    subprocess.run(["cp", "--reflink=always", root / "f", root / "d/copy"], check=True)
    subprocess.run(["cp", "--reflink=always", root / "g", root / "f"], check=True)


def a_subvolume_and_one_in_it(root: Path) -> None:
    subvolumes.create(root / "d/n")
    (root / "d/n/f").write_text("1")
    subvolumes.create(root / "d/n/deeper")
    (root / "d/n/deeper/f").write_text("1")
    (root / "d/n/g").hardlink_to(root / "d/n/f")


def a_subvolume_and_its_parent_moves(root: Path) -> None:
    a_subvolume_and_one_in_it(root)
    (root / "d").rename(root / "moved")


def a_snapshot_of_the_tree_inside_itself(root: Path) -> None:
    """Its inodes have the numbers of the outer ones."""
    subvolumes.snapshot(root, root / "empty/again")
    (root / "empty/again/f").unlink()


def names_beyond_one_item(root: Path) -> None:
    for number in range(60):
        (root / "empty" / ("l" * 200 + str(number))).hardlink_to(root / "f")


def many_entries(root: Path) -> None:
    for number in range(3000):
        (root / f"empty/{number}").write_text("x")


SCENARIOS: dict[Callable[[Path], None], set[str] | None] = {
    rename_a_directory_with_a_linked_file: {"C /", "D /d", "C /f", *(f"A /moved{n}" for n in DIRECTORY)},
    rename_the_parent_of_that_directory: None,
    exchange_directories: None,
    replace_a_directory_by_one_that_holds_it: None,
    move_everything_into_a_new_directory_of_the_old_name: None,
    unlink_one_name: {"C /d", "D /d/linked"},
    add_a_name: {"C /e", "A /e/more", "C /f", "C /d/linked"},
    link_to_a_file_that_was_alone: {"C /e", "A /e/more", "C /g"},
    remove_a_directory_and_replace_the_other_name: {"C /", "D /d", "C /f"},
    replace_a_name_by_another_group: {"C /d", "C /d/linked", "C /e/linked", "C /e/z", "C /f"},
    change_the_type_of_everything: {"C /", "C /d", "C /f", "C /g"},
    xattr_only: {"C /d", "C /g"},
    truncate_and_extend: {"C /f", "C /g", "C /d/linked"},
    same_size_and_time: {"C /g"},
    nothing_after_all: set(),
    reflinks: {"C /d", "A /d/copy", "C /f", "C /d/linked"},
    a_subvolume_and_one_in_it: {"C /d", "A /d/n", *(f"A /d/n/{n}" for n in ("deeper", "deeper/f", "f", "g"))},
    a_subvolume_and_its_parent_moves: None,
    a_snapshot_of_the_tree_inside_itself: None,
    names_beyond_one_item: None,
    many_entries: None,
}


@pytest.mark.parametrize("edit", SCENARIOS, ids=lambda edit: edit.__name__)
def test_one_edit(driver: Btrfs, engine: _backend.Engine, edit: Callable[[Path], None], tmp_path: Path) -> None:
    driver.create(1, [], "active")
    before(tree(driver, 1))
    driver.seal(1, [])
    driver.create(2, [1], "active")
    edit(tree(driver, 2))
    same_as_a_walk(driver, 2, 1, tmp_path)
    if (wanted := SCENARIOS[edit]) is not None:
        with driver.changes(2, [1]) as changes:
            assert {f"{change.kind} {change.name}" for change in changes} == wanted


def test_a_parent_with_a_subvolume_inside(driver: Btrfs, engine: _backend.Engine) -> None:
    """Its snapshot shows an empty directory there, without any entry having changed."""
    driver.create(1, [], "active")
    subvolumes.create(tree(driver, 1) / "d")
    (tree(driver, 1) / "d/f").write_text("1")
    with subvolumes.opened(tree(driver, 1)) as fd:
        engine.subvolume.set_readonly(fd, True)  # as another tool would, not seal
    driver.create(2, [1], "active")
    assert driver._keys(2, 1) == [b"", b"d", b"d/"]
    with driver.changes(2, [1]) as changes:  # the time of such a directory is always now
        assert [(change.kind, change.path) for change in changes] == [("C", b"d"), ("D", b"d/f")]


def test_what_was_only_read_is_no_candidate(driver: Btrfs, engine: _backend.Engine, tmp_path: Path) -> None:
    """Reading changes access times, and with them inodes."""
    driver.create(1, [], "active")
    before(tree(driver, 1))
    for path in tree(driver, 1).rglob("*"):
        os.utime(path, ns=(0, WHEN))  # relatime writes the time of the first read
    time.sleep(2.1)  # nearer to the fork the ctime proves nothing
    driver.create(2, [1], "active")
    driver.create(3, [1], "active")
    for path in sorted(tree(driver, 2).rglob("*")):
        list(path.iterdir()) if path.is_dir() else path.read_bytes()
    assert (tree(driver, 2) / "g").stat().st_atime_ns > WHEN
    assert driver._keys(2, 1) == [b""]
    driver.duplicate(4, [1], 2)
    assert driver._keys(4, 1) == [b""]
    same_size_and_time(tree(driver, 2))
    assert driver._keys(2, 1) == [b"", b"g"]
    assert same_as_a_walk(driver, 2, 1, tmp_path) == 1


def test_both_engines_say_the_same(driver: Btrfs) -> None:
    driver.create(1, [], "active")
    editor(driver, 1, 1).edit(60)
    driver.seal(1, [])
    driver.create(2, [1], "active")
    editor(driver, 2, 2).edit(40)
    subvolumes.create(tree(driver, 2) / "nested")
    names_beyond_one_item(with_empty(driver))
    answers = []
    with subvolumes.opened(tree(driver, 1)) as parent, subvolumes.opened(tree(driver, 2)) as child:
        for name in ("native", "baseline"):
            engine = _backend._load(name).subvolume
            engine.sync(child)
            own = engine.info(child)
            found: list[object] = [tuple(own), engine.nested(child, own.id), engine.usage(child, own.created)]
            found += [engine.usage(child, 0), changed := engine.changed(child, parent, own.created, own.created_sec)]
            for ino, is_directory in changed:
                found.append(engine.names(child, ino))
                if is_directory:
                    found.append(engine.compare_names(parent, child, ino))
            answers.append(found)
    assert answers[0] == answers[1]
    assert len(answers[0]) > 10


def with_empty(driver: Btrfs) -> Path:
    root = tree(driver, 2)
    (root / "empty").mkdir()
    put(root / "f", b"f")
    return root
