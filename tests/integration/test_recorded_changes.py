"""Changes by a record of inodes and ctimes are those of reading everything, and their layers the same bytes."""

from __future__ import annotations

import ctypes
import mmap
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
from fastlayer.drivers.vfs import Vfs
from fastlayer.layer import recorded
from fastlayer.layer.diff import Changes
from tests.edits import Editor
from tests.filesystems import loop_fs, need_root
from tests.pairs import WHEN, put

SEEDS = range(int(os.environ.get("FASTLAYER_RECORD_SEEDS", "12")))


@pytest.fixture(scope="module", params=["ext4", "xfs"])
def filesystem(request: pytest.FixtureRequest) -> Iterator[Path]:
    """On disk: what is in memory is not recorded. XFS shares extents and tells times by nanoseconds."""
    need_root()
    with loop_fs(request.param, 400 << 20) as path:
        yield path


@pytest.fixture
def driver(filesystem: Path) -> Iterator[Vfs]:
    root = filesystem / "vfs"
    root.mkdir()
    yield Vfs(root)
    shutil.rmtree(root)


def tree(driver: Vfs, number: int) -> Path:
    return driver.root / str(number) / "tree"


def saved(driver: Vfs, number: int) -> Path:
    """Its record."""
    return driver.root / str(number) / f"record-{recorded.boot()}"


def made(driver: Vfs, number: int, parent: int | None = None) -> Path:
    """A snapshot that is ready to be written to; what is known of it is on record when it has a parent."""
    parents = [] if parent is None else [parent]
    driver.create(number, parents, "active")
    if parents:
        time.sleep(0.011)  # of a small tree the record would else be of the tick the tree was made in
    driver.make_ready(number, parents, "active")
    return tree(driver, number)


def rows(changes: Changes) -> list[object]:
    return list(_backend.iter_rows(changes._table))


def same_as_reading_all(driver: Vfs, number: int, parent: int, scratch: Path) -> int:
    """The number of changes."""
    assert saved(driver, number).exists(), "by a record, not by reading"
    with (
        driver.changes(number, [parent]) as found,
        fastlayer.diff(tree(driver, parent), tree(driver, number)) as read,
    ):
        assert rows(found) == rows(read)
        found.write(scratch / "found.tar")
        read.write(scratch / "read.tar")
        assert (scratch / "found.tar").read_bytes() == (scratch / "read.tar").read_bytes()
        return len(found)


@pytest.mark.parametrize("seed", SEEDS)
def test_random_edits(driver: Vfs, engine: _backend.Engine, seed: int, tmp_path: Path) -> None:
    rng = random.Random(seed)
    Editor(rng, made(driver, 1)).edit(rng.randint(5, 60))
    subprocess.run(["find", tree(driver, 1), "-type", "s", "-delete"], check=True)  # no layer has them, and no clone
    edits = Editor(random.Random(seed * 10), made(driver, 2, 1))
    assert same_as_reading_all(driver, 2, 1, tmp_path) == 0
    try:
        for times in (rng.randint(1, 6), rng.randint(1, 20), 2):
            edits.edit(times)
            same_as_reading_all(driver, 2, 1, tmp_path)
    except BaseException:
        print("edits:", " ".join(edits.log))
        raise


# ---- one thing at a time


def before(root: Path) -> None:
    for name in ("d/x", "d/sub/y", "e/z", "f", "g"):
        put(root / name, name.encode() * 5000)
    (root / "d/linked").hardlink_to(root / "f")
    (root / "e/linked").hardlink_to(root / "e/z")
    (root / "s").symlink_to("f")
    for path in (*root.rglob("*"), root):
        os.utime(path, ns=(WHEN, WHEN), follow_symlinks=False)


def times_kept(root: Path, change: Callable[[Path], object], path: Path) -> None:
    """As ``touch -d`` does it: of the file and of its directory."""
    kept = [(place, place.lstat().st_mtime_ns) for place in (path, path.parent)]
    change(path)
    for place, stamp in kept:
        os.utime(place, ns=(stamp, stamp), follow_symlinks=False)


def rewrite_in_place(root: Path) -> None:
    def change(path: Path) -> None:
        with open(path, "r+b") as file:
            file.write(b"other")

    times_kept(root, change, root / "g")


def rewrite_by_a_mapping(root: Path) -> None:
    def change(path: Path) -> None:
        with open(path, "r+b") as file, mmap.mmap(file.fileno(), 0) as mapped:
            assert mapped[3]
            mapped[3:8] = b"other"

    times_kept(root, change, root / "g")


def rename_over(root: Path) -> None:
    def change(path: Path) -> None:
        (root / "t").write_bytes(bytes(path.stat().st_size))
        (root / "t").chmod(path.stat().st_mode)
        (root / "t").rename(path)

    times_kept(root, change, root / "d/sub/y")


def exchange_two_of_a_size(root: Path) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    (root / "d/x").write_bytes(b"1" * 100)
    (root / "e/z").write_bytes(b"2" * 100)
    os.utime(root / "d/x", ns=(WHEN, WHEN))
    os.utime(root / "e/z", ns=(WHEN, WHEN))
    assert libc.renameat2(-100, bytes(root / "d/x"), -100, bytes(root / "e/z"), 2) == 0
    for path in (root / "d", root / "e"):
        os.utime(path, ns=(WHEN, WHEN))


def link_over(root: Path) -> None:
    (root / "e/linked").unlink()
    (root / "e/linked").hardlink_to(root / "g")


def unlink_one_name(root: Path) -> None:
    (root / "d/linked").unlink()


def split_a_link(root: Path) -> None:
    data = (root / "f").read_bytes()
    (root / "f").unlink()
    put(root / "f", data)
    os.utime(root / "f", ns=(WHEN, WHEN))


def remove_a_directory_with_a_linked_file(root: Path) -> None:
    shutil.rmtree(root / "d")


def replace_a_directory(root: Path) -> None:
    (root / "d").rename(root / "old")
    shutil.copytree(root / "old", root / "d", symlinks=True)
    shutil.rmtree(root / "old")


def exchange_directories(root: Path) -> None:
    (root / "d").rename(root / "t")
    (root / "e").rename(root / "d")
    (root / "t").rename(root / "e")


def an_attribute_alone(root: Path) -> None:
    for name in ("g", "d", "d/x"):
        os.setxattr(root / name, "user.note", b"1")


def modes_and_owners(root: Path) -> None:
    (root / "g").chmod(0o4711)
    os.chown(root / "d", 5, 6)
    os.chown(root / "s", 5, 6, follow_symlinks=False)


def a_file_becomes_a_directory(root: Path) -> None:
    (root / "g").unlink()
    (root / "g/h").mkdir(parents=True)


def a_directory_becomes_a_link(root: Path) -> None:
    shutil.rmtree(root / "d")
    (root / "d").symlink_to("e")


CHANGES = (
    rewrite_in_place,
    rewrite_by_a_mapping,
    rename_over,
    exchange_two_of_a_size,
    link_over,
    unlink_one_name,
    split_a_link,
    remove_a_directory_with_a_linked_file,
    replace_a_directory,
    exchange_directories,
    an_attribute_alone,
    modes_and_owners,
    a_file_becomes_a_directory,
    a_directory_becomes_a_link,
)


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_change_is_seen(driver: Vfs, engine: _backend.Engine, change: Callable[[Path], None], tmp_path: Path) -> None:
    before(made(driver, 1))
    change(made(driver, 2, 1))
    assert same_as_reading_all(driver, 2, 1, tmp_path) > 0


def test_there_and_back_is_no_change(driver: Vfs, engine: _backend.Engine, tmp_path: Path) -> None:
    before(made(driver, 1))
    root = made(driver, 2, 1)
    for path, mode in ((root / "g", 0o600), (root / "d", 0o700)):
        kept = path.stat().st_mode
        path.chmod(mode)
        path.chmod(kept)
    times_kept(root, lambda path: path.write_bytes(path.read_bytes()), root / "f")
    times_kept(root, lambda path: path.rename(root / "t").rename(path), root / "e/z")
    os.utime(root, ns=(WHEN, WHEN))
    assert same_as_reading_all(driver, 2, 1, tmp_path) == 0


def test_what_was_not_touched_is_not_read(driver: Vfs, engine: _backend.Engine) -> None:
    """A parent is sealed; that it is not looked at shows when it was changed all the same."""
    before(made(driver, 1))
    root = made(driver, 2, 1)
    times_kept(tree(driver, 1), lambda path: path.write_bytes(b"x" * path.stat().st_size), tree(driver, 1) / "g")
    (root / "f").write_text("new")
    with driver.changes(2, [1]) as found:
        assert [change.name for change in found] == ["/d/linked", "/f"]


# ---- when the record proves nothing


def test_changes_in_the_tick_of_the_record(filesystem: Path, engine: _backend.Engine) -> None:
    """git's racily clean entries: a rewrite right after the record that leaves size and time."""
    base = filesystem / "racy"
    for number in range(60):
        other, root = base / str(number) / "other", base / str(number) / "root"
        for place in (other, root):
            put(place / "f", b"1")
            os.utime(place / "f", ns=(WHEN, WHEN))
            os.utime(place, ns=(WHEN, WHEN))
        recorded.record(root, base / str(number) / "record")
        with open(root / "f", "r+b", buffering=0) as file:
            file.write(b"2")
        os.utime(root / "f", ns=(WHEN, WHEN))
        with recorded.diff_recorded(other, root, base / str(number) / "record") as found:
            assert [change.name for change in found] == ["/f"]
    shutil.rmtree(base)


def test_a_ctime_as_late_as_the_record_proves_nothing(driver: Vfs, engine: _backend.Engine, tmp_path: Path) -> None:
    before(made(driver, 1))
    root = made(driver, 2, 1)
    times_kept(tree(driver, 1), lambda path: path.write_bytes(b"x" * path.stat().st_size), tree(driver, 1) / "g")
    columns = recorded._open(saved(driver, 2))
    assert columns is not None
    late = (root / "g").stat().st_ctime_ns
    assert b"g" not in recorded._differing(columns._replace(racy_ns=late + 1), root)
    assert b"g" in recorded._differing(columns._replace(racy_ns=late), root)


@pytest.mark.parametrize("damage", ["missing", "cut", "flipped", "empty"])
def test_a_record_that_is_damaged_is_not_used(
    driver: Vfs, engine: _backend.Engine, damage: str, tmp_path: Path
) -> None:
    before(made(driver, 1))
    root = made(driver, 2, 1)
    record = saved(driver, 2)
    data = bytearray(record.read_bytes())
    data[len(data) // 2] ^= 0xFF
    pieces = {"cut": data[:700], "flipped": data, "empty": b""}
    record.unlink()
    if damage in pieces:
        record.write_bytes(pieces[damage])
    (root / "new").write_text("1")
    with driver.changes(2, [1]) as found:
        assert [change.name for change in found] == ["/", "/new"]


@pytest.mark.parametrize("name", ["another", ""])
def test_a_record_of_another_start_is_not_used(
    driver: Vfs, engine: _backend.Engine, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """A power cut can leave new bytes under an old ctime: here the parent has them."""
    before(made(driver, 1))
    made(driver, 2, 1)
    times_kept(tree(driver, 1), lambda path: path.write_bytes(b"x" * path.stat().st_size), tree(driver, 1) / "g")
    with driver.changes(2, [1]) as found:
        assert not found
    monkeypatch.setattr(recorded, "boot", lambda: name)
    with driver.changes(2, [1]) as found:
        assert [change.name for change in found] == ["/g"]
    made(driver, 3, 1)
    assert bool(list((driver.root / "3").glob("record*"))) == bool(name)


def test_only_what_was_never_written_to_is_recorded(driver: Vfs, engine: _backend.Engine) -> None:
    """Neither a snapshot that a layer was extracted into, nor one that was mounted before."""
    before(made(driver, 1))
    driver.create(2, [1], "active")
    with driver.layer_target(2, [1]) as target:
        (target.path / "layer").write_text("1")
    driver.make_ready(2, [1], "active")
    assert not saved(driver, 2).exists()
    root = made(driver, 3, 1)
    first = saved(driver, 3).read_bytes()
    (root / "new").write_text("1")
    driver.make_ready(3, [1], "active")
    assert saved(driver, 3).read_bytes() == first
    driver.make_ready(3, [1], "committed")


def test_memory_is_not_recorded(engine: _backend.Engine, filesystem: Path, tmp_path: Path) -> None:
    """tmpfs does not notice what is written through a mapping that was read before; the layer has it all the same."""
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", tmp_path], check=True)
    try:
        assert recorded_on(tmp_path) is False and recorded_on(filesystem) is True
        driver = Vfs(tmp_path)
        before(made(driver, 1))
        rewrite_by_a_mapping(made(driver, 2, 1))
        with driver.changes(2, [1]) as found:
            assert [change.name for change in found] == ["/g"]
    finally:
        subprocess.run(["umount", "-l", tmp_path], check=True)


def recorded_on(place: Path) -> bool:
    probe = place / "probe"
    probe.write_bytes(b"1")
    time.sleep(0.011)
    return recorded.notices_mapped_writes(probe)
