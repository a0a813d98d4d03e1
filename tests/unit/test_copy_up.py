"""``fastlayer.copy_up``: one path to an upper directory, judged by what the kernel's overlayfs does."""

from __future__ import annotations

import os
import random
import shutil
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

import fastlayer
from fastlayer import _backend
from fastlayer.errors import OperandError, StorageError, UnsafeEntryError, UsageError
from tests import trees
from tests.conftest import needs_root
from tests.filesystems import loop_fs, overlay

MIB = 1 << 20
OLD = 1_000_000_000_123_456_789


@pytest.fixture
def lower(tmp_path: Path) -> Path:
    path = tmp_path / "lower"
    (path / "a" / "b" / "c").mkdir(parents=True)
    (path / "a" / "b" / "file").write_bytes(b"content")
    (path / "a" / "b" / "other").write_bytes(b"other")
    (path / "a" / "link").symlink_to("b")
    os.mkfifo(path / "a" / "fifo")
    (path / "a").chmod(0o750)
    (path / "a" / "b").chmod(0o711)
    os.setxattr(path / "a", "user.parent", b"kept")
    os.setxattr(path / "a" / "b" / "file", "user.file", b"kept")
    for name in ("a/b/file", "a/b/c", "a/link", "a/fifo", "a/b", "a", "."):
        os.utime(path / name, ns=(OLD, OLD), follow_symlinks=False)
    return path


@pytest.fixture
def upper(tmp_path: Path) -> Path:
    path = tmp_path / "upper"
    path.mkdir()
    os.utime(path, ns=(OLD, OLD))
    return path


def pictures(path: Path) -> dict[bytes, trees.Picture]:
    """Without overlayfs' own xattrs, which only the kernel needs."""
    return {
        name: picture._replace(xattrs=tuple(pair for pair in picture.xattrs if b".overlay." not in pair[0]))
        for name, picture in trees.snapshot(path).items()
    }


def below(picture: dict[bytes, trees.Picture], *names: bytes) -> dict[bytes, trees.Picture]:
    return {name: picture[name] for name in names}


def test_a_file_brings_its_parents(engine: _backend.Engine, lower: Path, upper: Path, tmp_path: Path) -> None:
    stats = fastlayer.copy_up(lower, upper, "a/b/file")
    assert (stats.entries, stats.bytes, stats.warnings) == (3, 7, ())
    made = trees.snapshot(upper)
    assert set(made) == {b"", b"a", b"a/b", b"a/b/file"}
    trees.assert_same_tree(
        below(trees.snapshot(lower), b"a", b"a/b", b"a/b/file"), below(made, b"a", b"a/b", b"a/b/file")
    )
    assert upper.stat().st_mtime_ns == OLD  # the upper parent keeps its times
    assert sorted(os.listdir(tmp_path)) == ["lower", "upper"]


def test_what_the_upper_directory_has_stays(engine: _backend.Engine, lower: Path, upper: Path) -> None:
    (upper / "a" / "b").mkdir(parents=True)
    (upper / "a" / "b" / "file").write_bytes(b"newer")
    before = trees.snapshot(upper)
    assert fastlayer.copy_up(lower, upper, "a/b/file").entries == 0
    assert fastlayer.copy_up(lower, upper, "a/b").entries == 0
    assert fastlayer.copy_up(lower, upper, "/").entries == 0
    trees.assert_same_tree(before, upper)
    assert fastlayer.copy_up(lower, upper, "/a//./b/other").entries == 1
    assert (upper / "a" / "b" / "file").read_bytes() == b"newer"


def test_a_directory_comes_alone(engine: _backend.Engine, lower: Path, upper: Path) -> None:
    assert fastlayer.copy_up(lower, upper, b"a/b").entries == 2
    assert os.listdir(upper / "a" / "b") == []
    assert stat.S_IMODE((upper / "a" / "b").stat().st_mode) == 0o711
    assert (upper / "a" / "b").stat().st_mtime_ns == OLD


def test_links_fifos_and_hard_links(engine: _backend.Engine, lower: Path, upper: Path) -> None:
    os.link(lower / "a" / "b" / "other", lower / "second")
    for name in ("a/link", "a/fifo", "second"):
        fastlayer.copy_up(lower, upper, name)
    assert os.readlink(upper / "a" / "link") == "b"
    assert (upper / "a" / "link").lstat().st_mtime_ns == OLD
    assert stat.S_ISFIFO((upper / "a" / "fifo").lstat().st_mode)
    assert (upper / "second").stat().st_nlink == 1


@needs_root
@pytest.mark.parametrize("seed", range(3))
def test_every_path_as_the_kernel_copies_it(engine: _backend.Engine, tmp_path: Path, seed: int) -> None:
    tree = trees.random_pair(seed, size=30)[0]
    for path in [path for path, node in tree.items() if node.rdev == (0, 0) and node.kind in ("char", "block")]:
        tree.remove(path)  # a whiteout hides itself
    for node in tree.values():
        node.xattrs.pop(b"trusted.overlay.opaque", None)
    lower = tmp_path / "lower"
    tree.make(lower)
    for name in ("kernel", "work", "ours"):
        (tmp_path / name).mkdir()
        os.utime(tmp_path / name, (1, 1))  # neither changes its root
    paths = random.Random(seed).sample(sorted(path for path in tree if path), k=min(8, len(tree) - 1))
    with overlay(lower, tmp_path / "kernel", tmp_path / "work") as merged:
        for path in paths:
            where = os.fsencode(merged) + b"/" + path
            status = os.lstat(where)
            os.chown(where, status.st_uid, -1, follow_symlinks=False)  # copies up, changes nothing
            if not stat.S_ISLNK(status.st_mode):
                os.chmod(where, stat.S_IMODE(status.st_mode))  # chown has cleared setuid
    for path in paths:
        fastlayer.copy_up(lower, tmp_path / "ours", path)
    capabilities = {p for p in paths if b"security.capability" in dict(trees.snapshot(lower)[p].xattrs)}
    ours, kernel = pictures(tmp_path / "ours"), pictures(tmp_path / "kernel")
    for path in capabilities:  # chown has cleared these, too
        ours.pop(path), kernel.pop(path)
    trees.assert_same_tree(ours, kernel, ignore=("names",))
    lowers = trees.snapshot(lower)
    trees.assert_same_tree(
        below(pictures(lower), *ours.keys() - {b""}), below(ours, *ours.keys() - {b""}), ignore=("names",)
    )
    assert lowers == trees.snapshot(lower)


@needs_root
def test_the_kernel_takes_over_what_was_copied(
    engine: _backend.Engine, lower: Path, upper: Path, tmp_path: Path
) -> None:
    work = tmp_path / "work"
    work.mkdir()
    fastlayer.copy_up(lower, upper, "a/b/file", workdir=work)
    assert os.listdir(work) == []
    with overlay(lower, upper, work) as merged:
        trees.assert_same_tree(
            {k: v for k, v in trees.snapshot(lower).items() if k}, {k: v for k, v in pictures(merged).items() if k}
        )


@needs_root
def test_whiteouts_and_opaque_parents_hide_the_lower_path(engine: _backend.Engine, lower: Path, upper: Path) -> None:
    os.mknod(upper / "a", stat.S_IFCHR, 0)
    with pytest.raises(StorageError, match="No such file"):
        fastlayer.copy_up(lower, upper, "a")
    with pytest.raises(StorageError, match="a/b/file"):
        fastlayer.copy_up(lower, upper, "a/b/file")
    (upper / "a").unlink()
    (upper / "a").mkdir()
    for key in ("trusted.overlay.opaque", "user.overlay.opaque"):
        os.setxattr(upper / "a", key, b"y")
        with pytest.raises(StorageError, match="No such file"):
            fastlayer.copy_up(lower, upper, "a/b/file")
        os.removexattr(upper / "a", key)
    (upper / "a" / "b").write_bytes(b"")
    os.setxattr(upper / "a" / "b", "trusted.overlay.whiteout", b"")
    with pytest.raises(StorageError, match="No such file"):
        fastlayer.copy_up(lower, upper, "a/b/file")
    os.mknod(lower / "gone", stat.S_IFCHR, 0)
    with pytest.raises(StorageError, match="No such file"):
        fastlayer.copy_up(lower, upper, "gone")


def test_links_and_files_as_parents_are_refused(
    engine: _backend.Engine, lower: Path, upper: Path, tmp_path: Path
) -> None:
    with pytest.raises(UnsafeEntryError, match="symbolic link"):
        fastlayer.copy_up(lower, upper, "a/link/file")
    shutil.rmtree(upper / "a")
    (tmp_path / "outside").mkdir()
    (upper / "a").symlink_to("../outside")
    with pytest.raises(UnsafeEntryError, match="symbolic link"):
        fastlayer.copy_up(lower, upper, "a/b/file")
    assert os.listdir(tmp_path / "outside") == []
    (upper / "a").unlink()
    with pytest.raises(StorageError, match="Not a directory"):
        fastlayer.copy_up(lower, upper, "a/b/file/below")
    for path in ("../lower", "a/../a", ".."):
        with pytest.raises(UnsafeEntryError):
            fastlayer.copy_up(lower, upper, path)
    with pytest.raises(UsageError):
        fastlayer.copy_up(lower, upper, "a\0b")


def test_a_path_only_above_or_nowhere(engine: _backend.Engine, lower: Path, upper: Path) -> None:
    (upper / "new").mkdir()
    (upper / "new" / "file").write_bytes(b"")
    assert fastlayer.copy_up(lower, upper, "new/file").entries == 0
    for path in ("new/other", "missing", "a/missing"):
        with pytest.raises(StorageError, match="No such file"):
            fastlayer.copy_up(lower, upper, path)


def test_descriptors_need_a_work_directory(engine: _backend.Engine, lower: Path, upper: Path, tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    fds = [os.open(path, os.O_RDONLY) for path in (lower, upper, tmp_path / "work")]
    try:
        with pytest.raises(UsageError, match="workdir"):
            fastlayer.copy_up(fds[0], fds[1], "a")
        assert fastlayer.copy_up(fds[0], fds[1], "a", workdir=fds[2]).entries == 1
    finally:
        for fd in fds:
            os.close(fd)
    with pytest.raises(OperandError, match="missing"):
        fastlayer.copy_up(tmp_path / "missing", upper, "a")


@needs_root
def test_overlay_xattrs_of_the_lower_directory_stay_behind(engine: _backend.Engine, lower: Path, upper: Path) -> None:
    os.setxattr(lower / "a", "trusted.overlay.origin", b"x")
    os.setxattr(lower / "a", "trusted.mine", b"x")
    fastlayer.copy_up(lower, upper, "a")
    assert "trusted.overlay.origin" not in os.listxattr(upper / "a")
    assert os.getxattr(upper / "a", "trusted.mine") == b"x"


@needs_root
def test_a_work_directory_with_default_acl_does_not_show(
    engine: _backend.Engine, lower: Path, upper: Path, tmp_path: Path
) -> None:
    work = tmp_path / "work"
    work.mkdir()
    os.chown(work, 0, 4321)
    work.chmod(0o2777)
    os.setxattr(work, "system.posix_acl_default", trees.acl((0x02, 4242, 7)))
    fastlayer.copy_up(lower, upper, "a/b/file", workdir=work)
    names = (b"a", b"a/b", b"a/b/file")
    trees.assert_same_tree(below(trees.snapshot(lower), *names), below(trees.snapshot(upper), *names))


@needs_root
def test_extents_are_shared(engine: _backend.Engine) -> None:
    with loop_fs("xfs") as where:
        for name in ("lower", "upper"):
            (where / name).mkdir()
        (where / "lower" / "big").write_bytes(random.Random(1).randbytes(5 * MIB))
        stats = fastlayer.copy_up(where / "lower", where / "upper", "big")
        assert (stats.bytes, stats.shared_bytes, stats.copied_bytes) == (5 * MIB, 5 * MIB, 0)
        assert (where / "upper" / "big").read_bytes() == (where / "lower" / "big").read_bytes()


@needs_root
def test_a_full_disk_leaves_nothing(engine: _backend.Engine, lower: Path) -> None:
    (lower / "big").write_bytes(random.Random(1).randbytes(MIB) * 20)
    with loop_fs("ext4", 16 * MIB) as where:
        (where / "upper").mkdir()
        with pytest.raises(StorageError, match=r"big.*No space left"):
            fastlayer.copy_up(lower, where / "upper", "big")
        assert os.listdir(where) == ["upper"]
        assert os.listdir(where / "upper") == []


def test_a_crash_leaves_only_litter_in_the_work_directory(lower: Path, upper: Path, tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    with open(lower / "a" / "big", "wb") as file:
        for _ in range(32):
            file.write(b"x" * (16 * MIB))
    code = f"import fastlayer; fastlayer.copy_up({str(lower)!r}, {str(upper)!r}, 'a/big', workdir={str(work)!r})"
    for name, number in (("kill", 9), ("interrupt", 2)):
        child = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
        while child.poll() is None and not any(work.glob("*/new")):
            time.sleep(0.001)
        started = time.monotonic()
        child.send_signal(number)
        assert child.wait() != 0
        assert time.monotonic() - started < 20
        assert not (upper / "a" / "big").exists()
        assert bool(os.listdir(work)) == (name == "kill")
        for left in work.iterdir():
            shutil.rmtree(left)
    fastlayer.copy_up(lower, upper, "a/big", workdir=work)
    assert (upper / "a" / "big").stat().st_size == 512 * MIB
