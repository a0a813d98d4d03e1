"""Round trips on real file systems: XFS, btrfs, ext4, tmpfs, and with the target on an overlay mount."""

from __future__ import annotations

import contextlib
import mmap
import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

import fastlayer
from fastlayer._backend import Engine
from tests import trees
from tests.conftest import needs_root, require
from tests.filesystems import loop_fs, overlay
from tests.integration import rootfs
from tests.pairs import directory

pytestmark = needs_root

SEEDS = range(300, 312)
BIG = 100_000  # beyond the size up to which files are simply read


@contextmanager
def tmpfs() -> Iterator[Path]:
    where = Path(tempfile.mkdtemp(prefix="fastlayer-fs-"))
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", where], check=True)
    try:
        yield where
    finally:
        subprocess.run(["umount", where], check=True)
        where.rmdir()


def mounted(kind: str) -> AbstractContextManager[Path]:
    return tmpfs() if kind == "tmpfs" else loop_fs(kind)


def _inside(disk: Path) -> Iterator[Path]:
    where = disk / "place"
    where.mkdir()
    yield where
    subprocess.run(["rm", "-rf", "--", where], check=True)


@pytest.fixture(scope="module", params=["tmpfs", "xfs", "btrfs", "ext4"])
def disk(request: pytest.FixtureRequest) -> Iterator[Path]:
    with mounted(request.param) as where:
        yield where


@pytest.fixture
def place(disk: Path) -> Iterator[Path]:
    """An empty directory on each file system in turn."""
    yield from _inside(disk)


@pytest.fixture(scope="module", params=["xfs", "btrfs"])
def sharing_disk(request: pytest.FixtureRequest) -> Iterator[Path]:
    with mounted(request.param) as where:
        yield where


@pytest.fixture
def sharing(sharing_disk: Path) -> Iterator[Path]:
    """The same where files can share blocks."""
    yield from _inside(sharing_disk)


def random_trees(seed: int, *, devices: bool = True) -> tuple[trees.Tree, trees.Tree]:
    """A pair that every file system can hold: XFS has 9 bits for a major, 18 for a minor, an overlay no device 0:0."""
    pair = trees.random_pair(seed, large=seed % 4 == 0)
    for node in (node for tree in pair for node in tree.values()):
        node.rdev = (511, 262_143) if node.rdev == (4095, 1_048_575) else node.rdev
        node.rdev = node.rdev if devices or node.rdev != (0, 0) else (1, 7)
    return pair


def check_round_trip(a: Path, b: Path, place: Path) -> None:
    """clone(A) is A; diff, applied to the clone, makes it B; the layer of all of B, applied to nothing, is B."""
    update, whole = place / "update.tar", place / "whole.tar"
    pictures = trees.snapshot(str(a)), trees.snapshot(str(b))
    assert fastlayer.diff(a, b, update).warnings == ()
    assert fastlayer.diff(None, b, whole).warnings == ()
    assert fastlayer.clone(a, place / "ours").warnings == ()
    trees.assert_same_tree(str(place / "ours"), pictures[0])
    assert fastlayer.apply(update, place / "ours").warnings == ()
    trees.assert_same_tree(str(place / "ours"), pictures[1])
    assert not fastlayer.diff(b, place / "ours", compare="content")
    assert not fastlayer.diff(b, place / "ours", compare="auto")
    fastlayer.apply(whole, place / "fresh")
    trees.assert_same_tree(str(place / "fresh"), pictures[1])
    fastlayer.index(b, place / "b.index")
    assert not fastlayer.diff(place / "b.index", place / "fresh")
    assert (trees.snapshot(str(a)), trees.snapshot(str(b))) == pictures, "an operand changed"


@pytest.mark.parametrize("seed", SEEDS)
def test_round_trip_of_random_trees(engine: Engine, place: Path, seed: int) -> None:
    a, b = random_trees(seed)
    a.make(str(place / "a"))
    b.make(str(place / "b"), linked_to=(a, str(place / "a")) if seed % 3 == 0 else None)
    check_round_trip(place / "a", place / "b", place)


def test_round_trip_of_root_file_systems(engine: Engine, place: Path) -> None:
    check_round_trip(*rootfs.pair(place), place)


@pytest.mark.parametrize("seed", SEEDS)
def test_target_on_an_overlay(engine: Engine, tmp_path: Path, seed: int) -> None:
    """What the mount shows after applying is B, and the lower directory, A, is as it was."""
    models = random_trees(seed, devices=False)
    (tmp_path / "lower").mkdir()
    a, b, layer = tmp_path / "lower/a", tmp_path / "b", tmp_path / "layer.tar"
    for path, model in zip((a, b), models, strict=True):
        model.make(str(path))
    fastlayer.diff(a, b, layer)
    before = trees.snapshot(str(a))
    with mounted("tmpfs") as disk:
        (disk / "upper").mkdir()
        (disk / "work").mkdir()
        with overlay(tmp_path / "lower", disk / "upper", disk / "work") as merged:
            fastlayer.apply(layer, merged / "a")
            trees.assert_same_tree(str(merged / "a"), str(b))
            assert not fastlayer.diff(b, merged / "a", compare="content")
            fastlayer.clone(b, merged / "clone")
            trees.assert_same_tree(str(merged / "clone"), str(b))
    trees.assert_same_tree(str(a), before)


# ---- what a file system shows of its own -------------------------------------------------------


def layer_keys(layer: Path) -> set[str]:
    with tarfile.open(layer) as tar:
        return {key for member in tar for key in member.pax_headers}


def test_second_names_of_acls_are_left_out(engine: Engine) -> None:
    """XFS lists an ACL as trusted.SGI_ACL_FILE, too."""
    with mounted("xfs") as disk:
        a, b = disk / "a", disk / "b"
        a.mkdir()
        b.mkdir()
        os.setxattr(b, "system.posix_acl_default", trees.ACLS[0])
        os.setxattr(b, "system.posix_acl_access", trees.ACLS[1])
        assert "trusted.SGI_ACL_FILE" in os.listxattr(b)
        assert fastlayer.diff(a, b, disk / "layer.tar").warnings == ()
        assert {key for key in layer_keys(disk / "layer.tar") if "SGI" in key} == set()
        assert fastlayer.apply(disk / "layer.tar", a).warnings == ()
        trees.assert_same_tree(str(a), str(b))


def test_acls_go_where_a_layer_has_none(engine: Engine) -> None:
    """Removing an ACL removes its second name; neither is tried twice."""
    with mounted("xfs") as disk:
        a, b = disk / "a", disk / "b"
        for tree in (a, b):
            (tree / "d").mkdir(parents=True)
        os.setxattr(a / "d", "system.posix_acl_default", trees.ACLS[0])
        os.setxattr(a / "d", "system.posix_acl_access", trees.ACLS[1])
        fastlayer.diff(a, b, disk / "layer.tar")
        assert fastlayer.apply(disk / "layer.tar", a).warnings == ()
        assert os.listxattr(a / "d") == []


def foreign_layer(path: Path, *keys: str) -> Path:
    """A directory and a file with xattrs that are not a layer's to set."""
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for name, kind in (("d", tarfile.DIRTYPE), ("f", tarfile.REGTYPE)):
            member = tarfile.TarInfo(name)
            member.type, member.mode = kind, 0o755
            member.pax_headers = {f"SCHILY.xattr.{key}": "zstd" for key in keys}
            tar.addfile(member)
    return path


def test_host_xattrs_are_never_set_from_a_layer(engine: Engine, place: Path) -> None:
    keys = ("trusted.SGI_ACL_FILE", "trusted.SGI_ACL_DEFAULT", "btrfs.compression", "trusted.overlay.opaque")
    done = fastlayer.apply(foreign_layer(place / "layer.tar", *keys), place / "out")
    assert [os.listxattr(place / "out" / name) for name in ("d", "f")] == [[], []]
    assert len(done.warnings) == 1


def test_properties_of_btrfs_belong_to_the_host(engine: Engine) -> None:
    with mounted("btrfs") as disk:
        a, b = disk / "a", disk / "b"
        for tree in (a, b):
            (tree / "d").mkdir(parents=True)
            (tree / "d/f").write_bytes(b"x")
            os.utime(tree / "d/f", (1, 1))
        os.setxattr(b / "d", "btrfs.compression", b"zstd")
        os.setxattr(b / "d/f", "btrfs.compression", b"zstd")
        for path in (b / "d", a / "d", a, b):
            os.utime(path, (2, 2))
        assert not fastlayer.diff(a, b)
        (a / "d").chmod(0o700)
        assert fastlayer.diff(b, a, disk / "layer.tar").warnings == ()
        assert not any("btrfs" in key for key in layer_keys(disk / "layer.tar"))
        fastlayer.apply(disk / "layer.tar", b)
        assert os.getxattr(b / "d", "btrfs.compression") == b"zstd"


# ---- shared extents ----------------------------------------------------------------------------


def compared(engine: Engine, a: Path, b: Path) -> tuple[list[tuple[str, bytes]], int]:
    """What ``auto`` finds, and how many bytes it read for it."""
    with directory(a) as a_fd, directory(b) as b_fd:
        differ = engine.changes.Differ(a_fd, b_fd, compare="auto")
        while differ.step():
            pass
        found = [(row.kind, row.path) for row in differ.finish().rows() if row.kind != "P"]
        return found, differ.bytes_compared


def big_files(root: Path) -> list[Path]:
    """Sizes on and off block borders, with holes, preallocated room and several extents."""
    root.mkdir()
    for size in (65_536, 65_537, BIG, 1 << 20, (3 << 20) + 5):
        (root / f"plain-{size}").write_bytes(os.urandom(size))
    with open(root / "holes", "wb") as file:
        for start in range(0, 4 << 20, 1 << 18):
            os.pwrite(file.fileno(), os.urandom(5000), start)
        file.truncate(5 << 20)
    with open(root / "preallocated", "wb") as file:
        os.posix_fallocate(file.fileno(), 0, 1 << 20)
        os.pwrite(file.fileno(), os.urandom(BIG), 4096)
    os.sync()
    return sorted(root.iterdir())


def reflink_copy(a: Path, b: Path) -> None:
    subprocess.run(["cp", "-a", "--reflink=always", a, b], check=True)


def test_a_reflinked_pair_is_proved_without_reading(sharing: Path) -> None:
    engine = fastlayer._backend._load("native")
    big_files(sharing / "a")
    reflink_copy(sharing / "a", sharing / "b")
    assert compared(engine, sharing / "a", sharing / "b") == ([], 0)
    fastlayer.clone(sharing / "a", sharing / "c")
    assert compared(engine, sharing / "a", sharing / "c") == ([], 0)


def test_a_snapshot_of_a_subvolume_is_proved_without_reading() -> None:
    """Its device number is another, its blocks are the same."""
    require("btrfs")
    engine = fastlayer._backend._load("native")
    with mounted("btrfs") as disk:
        subprocess.run(["btrfs", "-q", "subvolume", "create", disk / "a"], check=True)
        big_files(disk / "a/files")
        subprocess.run(["btrfs", "-q", "subvolume", "snapshot", disk / "a", disk / "b"], check=True)
        assert (disk / "a").stat().st_dev != (disk / "b").stat().st_dev
        assert compared(engine, disk / "a/files", disk / "b/files") == ([], 0)
        assert compared(engine, disk / "a", disk / "b") == ([], 0)


def overwrite(path: Path, at: int) -> None:
    with open(path, "r+b") as file:
        old = os.pread(file.fileno(), 1, at)
        os.pwrite(file.fileno(), bytes([old[0] ^ 0x80]), at)


def overwrite_mapped(path: Path, at: int) -> None:
    with open(path, "r+b") as file, mmap.mmap(file.fileno(), 0) as view:
        view[at] ^= 0x80


def overwrite_durably(path: Path, at: int) -> None:
    overwrite(path, at)
    os.sync()


@pytest.mark.parametrize("edit", [overwrite, overwrite_mapped, overwrite_durably])
@pytest.mark.parametrize("where", ["first", "middle", "last"])
def test_one_changed_byte_of_a_shared_file_is_found(
    engine: Engine, sharing: Path, edit: Callable[[Path, int], None], where: str
) -> None:
    """Same size, same times: also while the copy-on-write is still pending in memory."""
    files = big_files(sharing / "a")
    reflink_copy(sharing / "a", sharing / "b")
    for path in files:
        copy, status = sharing / "b" / path.name, path.stat()
        edit(copy, {"first": 0, "middle": status.st_size // 2, "last": status.st_size - 1}[where])
        os.utime(copy, ns=(status.st_atime_ns, status.st_mtime_ns))
    wanted = [("C", os.fsencode(path.name)) for path in files]
    assert compared(engine, sharing / "a", sharing / "b")[0] == wanted


@pytest.mark.parametrize("kind", ["xfs", "btrfs"])
def test_blocks_at_one_place_of_two_disks_prove_nothing(engine: Engine, kind: str) -> None:
    """A copy of a whole disk has its files where the first has them; one changed in place stays there."""
    with loop_fs(kind) as disk, contextlib.ExitStack() as stack:
        files = big_files(disk / "a")
        image, other = disk.parent / "image", disk.parent / "image-2"
        stack.callback(lambda: other.unlink())
        subprocess.run(["fsfreeze", "-f", disk], check=True)
        try:
            shutil.copyfile(image, other)
        finally:
            subprocess.run(["fsfreeze", "-u", disk], check=True)
        point = disk.parent / "mnt-2"
        point.mkdir()
        stack.callback(point.rmdir)
        options = "loop,nouuid" if kind == "xfs" else "loop"
        if subprocess.run(["mount", "-o", options, other, point], capture_output=True).returncode:
            pytest.skip(f"{kind}: this kernel mounts no second disk of the same identity")
        stack.callback(lambda: subprocess.run(["umount", point], check=True))
        assert compared(engine, disk / "a", point / "a")[0] == []
        for path in files:
            copy, status = point / "a" / path.name, path.stat()
            overwrite_durably(copy, 5000)
            os.utime(copy, ns=(status.st_atime_ns, status.st_mtime_ns))
        assert [path for _, path in compared(engine, disk / "a", point / "a")[0]] == [
            os.fsencode(path.name) for path in files
        ]
