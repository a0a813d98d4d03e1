"""Data shared with the files behind those of an overlay, and that nothing else is taken for these. Both engines."""

from __future__ import annotations

import itertools
import mmap
import os
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

import fastlayer
from fastlayer import _backend
from fastlayer.container.cp.behind import Sides
from fastlayer.container.cp.copying import copy
from fastlayer.container.cp.spot import Side
from fastlayer.errors import FastlayerError
from fastlayer.layer.clone import CloneStats, copy_tree
from tests import trees
from tests.conftest import needs_root
from tests.filesystems import extents, loop_fs, overlay
from tests.stores import tree

pytestmark = needs_root
OPTIONS = ("redirect_dir=on", "metacopy=on", "index=on", "xino=off")
DATA = bytes(range(256)) * 256
OTHER = DATA[::-1]
_numbers = itertools.count()


class Place:
    """Below a directory of an XFS: the layers of an overlay, and ``outside``, which is none of them."""

    def __init__(self, root: Path) -> None:
        self.lowers = [tree(root / name, {"shown/": ""}) for name in ("high", "low")]
        self.upper, self.work, self.outside = (tree(root / name, {}) for name in ("upper", "work", "outside"))
        self.merged = root

    @contextmanager
    def mounted(self) -> Iterator[None]:
        with overlay(self.lowers, self.upper, self.work, *OPTIONS) as self.merged:
            yield

    @contextmanager
    def sides(self) -> Iterator[tuple[Side, Side]]:
        """Of the overlay, and outside; both without a path."""
        with ExitStack() as stack:
            layers = tuple(_descriptor(stack, place) for place in (self.upper, *self.lowers))
            inside = Side(_descriptor(stack, self.merged), b"/", "c:", layers)
            yield inside, Side(_descriptor(stack, self.outside), b"/", "")

    def into(self, source: str, dest: str) -> None:
        with self.sides() as (inside, outside):
            copy(outside._replace(path=source.encode()), inside._replace(path=dest.encode()))

    def out(self, source: str, dest: str) -> None:
        with self.sides() as (inside, outside):
            copy(inside._replace(path=source.encode()), outside._replace(path=dest.encode()))

    def clone_into(self, source: Path, dest: Path) -> CloneStats:
        with self.sides() as (inside, outside):
            return clone(Sides(outside, inside), source, dest)

    def clone_out(self, source: Path, dest: Path) -> CloneStats:
        with self.sides() as (inside, outside):
            return clone(Sides(inside, outside), source, dest)


def clone(sides: Sides, source: Path, dest: Path) -> CloneStats:
    dest.mkdir()
    with ExitStack() as stack:
        fds = [_descriptor(stack, place) for place in (source, dest)]
        behind = stack.enter_context(sides.behind(*fds))
        return copy_tree(*fds, behind=behind)


def _descriptor(stack: ExitStack, place: Path) -> int:
    fd = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
    stack.callback(os.close, fd)
    return fd


@pytest.fixture(scope="module")
def xfs() -> Iterator[Path]:
    with loop_fs("xfs") as path:
        yield path


@pytest.fixture
def place(xfs: Path, engine: _backend.Engine) -> Iterator[Place]:
    root = xfs / str(next(_numbers))
    root.mkdir()
    yield Place(root)
    shutil.rmtree(root)


@pytest.fixture
def mounted(place: Place) -> Iterator[Place]:
    with place.mounted():
        yield place


# ---- everything is kept, nothing is copied ---------------------------------------------------------


def odd_tree(where: Path, seed: int) -> None:
    found = trees.random_pair(seed, size=60)[1]
    for node in found.values():  # what XFS and overlays do not take
        node.rdev = (node.rdev[0] % 256, node.rdev[1] % 256)
        node.xattrs.pop(b"trusted.overlay.opaque", None)
    found.make(where)
    (where / "big").write_bytes(os.urandom(3 << 20))
    os.link(where / "big", where / "again")
    with open(where / "sparse", "wb") as file:
        file.truncate(10 << 20)
        os.pwrite(file.fileno(), DATA, 5 << 20)


@pytest.mark.parametrize("seed", range(2))
def test_a_tree_goes_in_and_comes_out_without_its_data(mounted: Place, seed: int) -> None:
    outside, inside = mounted.outside / "tree", mounted.merged / "tree"
    odd_tree(outside, seed)
    wanted = fastlayer.clone(outside, mounted.outside / "plain")
    assert wanted.copied_bytes == 0 < wanted.shared_bytes
    assert mounted.clone_into(outside, inside) == wanted
    trees.assert_same_tree(outside, inside)
    assert mounted.clone_out(inside, mounted.outside / "back") == wanted
    trees.assert_same_tree(outside, mounted.outside / "back")
    with mounted.sides() as (side, _):
        assert clone(Sides(side, side), inside, mounted.merged / "beside") == wanted
    trees.assert_same_tree(outside, mounted.merged / "beside")
    assert extents(outside / "big") == extents(mounted.upper / "tree/big") == extents(mounted.outside / "back/big")


def test_one_file_goes_in_and_comes_out_without_its_data(mounted: Place) -> None:
    (mounted.outside / "f").write_bytes(DATA)
    mounted.into("/f", "/shown/f")
    mounted.out("/shown/f", "/back")
    assert (mounted.merged / "shown/f").read_bytes() == (mounted.outside / "back").read_bytes() == DATA
    assert extents(mounted.outside / "f") == extents(mounted.upper / "shown/f") == extents(mounted.outside / "back")


def test_the_overlay_knows_what_is_in_the_file(mounted: Place) -> None:
    """Also its own idea of the size, which copy_file_range goes by, and what another descriptor had open before."""
    (mounted.merged / "d").mkdir()
    (mounted.outside / "f").write_bytes(DATA)
    mounted.into("/f", "/d/f")
    path = mounted.merged / "d/f"
    with open(path, "r+b") as file, open(mounted.merged / "copy", "wb") as other:
        assert os.copy_file_range(file.fileno(), other.fileno(), len(DATA) + 1) == len(DATA)
        assert os.lseek(file.fileno(), 0, os.SEEK_END) == len(DATA)
        with mmap.mmap(file.fileno(), 0) as seen:
            assert seen[:] == DATA
            seen[:3] = b"new"
    with open(path, "ab") as file:
        assert file.tell() == len(DATA)
        file.write(b"end")
    assert path.read_bytes() == b"new" + DATA[3:] + b"end"
    assert (mounted.outside / "f").read_bytes() == DATA  # blocks are shared, not the file


# ---- what is behind --------------------------------------------------------------------------------


def test_every_way_an_overlay_has_to_show_something_else(place: Place) -> None:
    """What was copied up, changed with the old size and time put back, moved, or has its data in a lower layer."""
    names = ("plain", "changed", "meta", "one", "two", "gone", "old/f", "opaque/f", "stays/f")
    tree(place.lowers[1], {f"shown/{name}": DATA for name in names})
    tree(place.lowers[0], {"shown/both": DATA, "shown/new/f": DATA})
    tree(place.lowers[1], {"shown/both": OTHER})
    (place.lowers[1] / "shown/one").unlink()
    os.link(place.lowers[1] / "shown/two", place.lowers[1] / "shown/one")
    with place.mounted():
        shown = place.merged / "shown"
        for name in ("changed", "one"):  # "two" is the same file as "one": index=on
            before = (shown / name).stat()
            with open(shown / name, "r+b") as file:
                file.write(OTHER)
            os.utime(shown / name, ns=(before.st_atime_ns, before.st_mtime_ns))
        (shown / "meta").chmod(0o600)
        (shown / "gone").unlink()
        shutil.rmtree(shown / "new")
        (shown / "old").rename(shown / "new")
        shutil.rmtree(shown / "opaque")
        tree(shown / "opaque", {"f": OTHER})
        stats = place.clone_out(shown, place.outside / "out")
        trees.assert_same_tree(shown, place.outside / "out", ignore=("mtime_ns",))
    assert (place.outside / "out/two").read_bytes() == (place.outside / "out/changed").read_bytes() == OTHER
    assert extents(place.outside / "out/plain") == extents(place.lowers[1] / "shown/plain")
    assert extents(place.outside / "out/both") == extents(place.lowers[0] / "shown/both")
    assert stats.shared_bytes >= 4 * len(DATA)  # plain, both, opaque/f, stays/f


def test_a_mount_inside_is_not_of_the_overlay(mounted: Place, tmp_path: Path) -> None:
    """What the layers have below a mount point is hidden: neither read nor written."""
    tree(mounted.merged, {"shown/vol/f": OTHER})
    tree(mounted.outside, {"vol/f": DATA, "d/g": DATA})
    lower = tree(tmp_path / "lower", {"f": DATA, "h": DATA})
    with overlay([lower, tree(tmp_path / "second", {})]) as other, bound(other, mounted.merged / "shown/vol"):
        mounted.out("/shown/vol/f", "/back")
        mounted.out("/shown/.", "/all")
    with bound(mounted.outside / "vol", mounted.merged / "shown/vol"):
        mounted.into("/d", "/shown/vol")
    assert (mounted.outside / "back").read_bytes() == (mounted.outside / "all/vol/f").read_bytes() == DATA
    assert sorted(os.listdir(mounted.outside / "all/vol")) == ["f", "h"]
    assert os.listdir(mounted.upper / "shown/vol") == ["f"]
    assert (mounted.outside / "vol/d/g").read_bytes() == DATA


@contextmanager
def bound(source: Path, target: Path) -> Iterator[None]:
    from fastlayer.mounts.mount import Mount
    from fastlayer.mounts.mounting import mount, umount

    mount([Mount("bind", str(source))], target)
    try:
        yield
    finally:
        umount(target)


# ---- wrong guesses ---------------------------------------------------------------------------------


@pytest.mark.parametrize("decoy", ["empty", "link", "fifo", "device", "full", "nothing"])
def test_files_that_only_have_the_name_are_left_alone(mounted: Place, engine: _backend.Engine, decoy: str) -> None:
    """Whatever the real directories are said to be, nothing is read from what is there and nothing is written to it."""
    inside, outside = (tree(root / "src", {"f": DATA}) for root in (mounted.merged, mounted.outside))
    wrong = tree(mounted.outside / "wrong", {"victim": ""})
    if decoy == "link":
        (wrong / "f").symlink_to("victim")
    elif decoy == "fifo":
        os.mkfifo(wrong / "f")
    elif decoy == "device":
        os.mknod(wrong / "f", 0o600 | 0o060000, os.makedev(7, 255))
    elif decoy != "nothing":
        (wrong / "f").write_bytes(b"" if decoy == "empty" else OTHER)
    if decoy == "full":
        shutil.copystat(inside / "f", wrong / "f")
    before = trees.snapshot(wrong)
    with ExitStack() as stack:
        guess = _descriptor(stack, wrong)
        for source, root, behind in (
            (inside, mounted.outside, _backend.Behind((guess,))),
            (outside, mounted.merged, _backend.Behind(target=guess)),
        ):
            (root / "dst").mkdir()
            stats = copy_tree(_descriptor(stack, source), _descriptor(stack, root / "dst"), behind=behind)
            assert (stats.shared_bytes, stats.copied_bytes) == (0, len(DATA))
            trees.assert_same_tree(source, root / "dst")
    trees.assert_same_tree(before, wrong)


def test_too_many_layers_are_refused(place: Place, engine: _backend.Engine) -> None:
    with ExitStack() as stack:
        fd = _descriptor(stack, place.outside)
        with pytest.raises(fastlayer.UsageError, match="33 layers"):
            engine.clone.TreeCloner(fd, fd, behind=_backend.Behind((fd,) * 33))


# ---- while others rename ---------------------------------------------------------------------------


def test_who_renames_meanwhile_gets_nothing_written_elsewhere(mounted: Place) -> None:
    """A container's root moves what is being made, and puts empty files of its own, and links, in its places."""
    tree(mounted.outside, {f"src/d{number}/f": DATA for number in range(8)})
    victims = tree(mounted.merged / "victims", {f"v{number}": "" for number in range(8)})
    stop, end = threading.Event(), time.monotonic() + 0.7
    attacker = threading.Thread(target=_swap, args=(mounted.merged, stop))
    attacker.start()
    try:
        done = failed = 0
        while time.monotonic() < end:
            try:
                mounted.into("/src", f"/copy{done}")
                done += 1
            except (FastlayerError, OSError):
                failed += 1
    finally:
        stop.set()
        attacker.join()
    assert done + failed > 0
    assert [path.stat().st_size for path in victims.iterdir()] == [0] * 8
    assert all((mounted.outside / f"src/d{number}/f").read_bytes() == DATA for number in range(8))
    assert sorted(os.listdir(mounted.outside)) == ["src"]


def _swap(root: Path, stop: threading.Event) -> None:
    for number in itertools.count():
        if stop.is_set():
            return
        with suppress(OSError):
            for stage in (*root.glob("copy*/.fastlayer-cp-*/tree/d*"), *root.glob(".fastlayer-cp-*/tree/d*")):
                _attack(root, stage, number)


def _attack(root: Path, directory: Path, number: int) -> None:
    if number % 3 == 1:
        os.unlink(directory / "f")
        os.link(root / f"victims/v{number % 8}", directory / "f")
        return
    directory.rename(root / f"moved{number}")
    if number % 3 == 2:
        directory.symlink_to(root / "victims")
