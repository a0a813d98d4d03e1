"""``fastlayer.clone``: exact copies, on tmpfs and on real file systems."""

from __future__ import annotations

import os
import random
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import fastlayer
from fastlayer import _backend
from fastlayer.errors import FileChangedError, OperandError, StorageError, UsageError
from tests import trees
from tests.conftest import needs_root
from tests.filesystems import loop_fs

MIB = 1 << 20


@pytest.fixture
def src(tmp_path: Path) -> Path:
    path = tmp_path / "src"
    path.mkdir()
    (path / "dir").mkdir()
    (path / "dir" / "file").write_bytes(b"content")
    (path / "link").symlink_to("dir/file")
    return path


@pytest.fixture(scope="module", params=["xfs", "btrfs", "ext4"])
def real_fs(request: pytest.FixtureRequest) -> Iterator[Path]:
    with loop_fs(request.param) as path:
        yield path


def litter(path: Path) -> list[str]:
    return [name for name in os.listdir(path) if "fastlayer" in name]


def times(path: Path) -> tuple[int, int]:
    status = path.lstat()
    return status.st_atime_ns, status.st_mtime_ns


@needs_root
@pytest.mark.parametrize("seed", range(6))
def test_a_random_tree_is_copied_exactly(engine: _backend.Engine, tmp_path: Path, seed: int) -> None:
    for number, tree in enumerate(trees.random_pair(seed, size=60)):
        src, dst = tmp_path / f"src{number}", tmp_path / f"dst{number}"
        tree.make(src)
        before = trees.snapshot(src)
        stats = fastlayer.clone(src, dst)
        trees.assert_same_tree(before, dst)
        trees.assert_same_tree(before, src)
        assert stats.entries == len(before) - 1
        assert stats.warnings == ()
        assert litter(tmp_path) == []


@needs_root
def test_a_random_tree_is_copied_exactly_on(engine: _backend.Engine, real_fs: Path) -> None:
    for seed in range(2):
        where = real_fs / f"{engine.name}-{seed}"
        where.mkdir()
        tree = trees.random_pair(seed, size=60)[1]
        for node in tree.values():  # what XFS (minor numbers) and ext4 (xattr space) cannot hold
            node.rdev = (node.rdev[0] % 256, node.rdev[1] % 256)
            node.xattrs.pop(b"user.big", None)
        tree.make(where / "src")
        stats = fastlayer.clone(where / "src", where / "dst")
        trees.assert_same_tree(where / "src", where / "dst")
        assert stats.shared_bytes + stats.copied_bytes <= stats.bytes


@needs_root
@pytest.mark.parametrize("kind", ["xfs", "btrfs"])
def test_extents_are_shared_where_the_file_system_can(engine: _backend.Engine, kind: str, tmp_path: Path) -> None:
    with loop_fs(kind) as where:
        (where / "src").mkdir()
        (where / "src" / "file").write_bytes(random.Random(1).randbytes(3 * MIB + 5))
        stats = fastlayer.clone(where / "src", where / "dst")
        assert (stats.bytes, stats.shared_bytes, stats.copied_bytes) == (3 * MIB + 5, 3 * MIB + 5, 0)
        away = fastlayer.clone(where / "src", tmp_path / "away")  # another file system: no sharing
        assert (away.shared_bytes, away.copied_bytes) == (0, 3 * MIB + 5)
        trees.assert_same_tree(where / "src", where / "dst")
        trees.assert_same_tree(where / "src", tmp_path / "away")


def test_holes_stay_holes(engine: _backend.Engine, src: Path, tmp_path: Path) -> None:
    with open(src / "sparse", "wb") as file:
        file.truncate(64 * MIB)
        file.seek(16 * MIB)
        file.write(b"x" * 4096)
    stats = fastlayer.clone(src, tmp_path / "dst")
    copy = tmp_path / "dst" / "sparse"
    assert copy.stat().st_size == 64 * MIB
    assert copy.stat().st_blocks * 512 < MIB
    assert stats.copied_bytes + stats.shared_bytes < MIB
    trees.assert_same_tree(src, tmp_path / "dst")


@needs_root
def test_holes_are_neither_shared_nor_copied(engine: _backend.Engine, real_fs: Path, tmp_path: Path) -> None:
    """With and without reflinks, and with room reserved beyond the end, which hides the holes from st_blocks."""
    src = real_fs / f"holes-{engine.name}"
    src.mkdir()
    for name, size, reserved in (("sparse", 100 * MIB, 0), ("reserved", MIB, 2 * MIB), ("empty", MIB, 2 * MIB)):
        with open(src / name, "wb") as file:
            file.truncate(size)
            if name != "empty":
                os.pwrite(file.fileno(), b"x" * 4096, 64 * 1024)
            if reserved:
                subprocess.run(["fallocate", "-n", "-o", str(size), "-l", str(reserved), src / name], check=True)
            os.fsync(file.fileno())
    stats = fastlayer.clone(src, real_fs / f"holes-{engine.name}-copy")
    assert stats.bytes == 102 * MIB
    assert stats.shared_bytes + stats.copied_bytes == 2 * 4096
    away = fastlayer.clone(src, tmp_path / "dst")
    assert (away.shared_bytes, away.copied_bytes) == (0, 2 * 4096)
    for name in ("sparse", "reserved", "empty"):
        assert (tmp_path / "dst" / name).stat().st_blocks * 512 <= 64 * 1024
    trees.assert_same_tree(src, real_fs / f"holes-{engine.name}-copy")


def test_access_times_are_copied_and_left_alone(engine: _backend.Engine, src: Path, tmp_path: Path) -> None:
    for path in (src / "dir" / "file", src / "link", src / "dir", src):
        os.utime(path, ns=(1_000_000_001, 2_000_000_002), follow_symlinks=False)
    fastlayer.clone(src, tmp_path / "dst")
    for name in ("dir/file", "link", "dir", "."):
        assert times(tmp_path / "dst" / name) == (1_000_000_001, 2_000_000_002)
    for name in ("dir/file", "dir", "."):  # reading a symbolic link touches it, whoever does it
        assert times(src / name) == (1_000_000_001, 2_000_000_002)


@needs_root
def test_hard_links_across_directories(engine: _backend.Engine, src: Path, tmp_path: Path) -> None:
    for number in range(30):
        (src / f"d{number}").mkdir()
        os.link(src / "dir" / "file", src / f"d{number}" / "name")
        os.link(src / "link", src / f"d{number}" / "link", follow_symlinks=False)
    os.link(src / "dir" / "file", tmp_path / "outside")
    stats = fastlayer.clone(src, tmp_path / "dst")
    trees.assert_same_tree(src, tmp_path / "dst")
    assert (tmp_path / "dst" / "dir" / "file").stat().st_nlink == 31
    assert stats.bytes == 7


@needs_root
def test_old_privileges_survive_a_change_of_owner(engine: _backend.Engine, src: Path, tmp_path: Path) -> None:
    file = src / "dir" / "file"
    os.chown(file, 1000, 1001)
    file.chmod(0o6755)
    os.setxattr(file, "security.capability", trees.CAPABILITIES[0])
    fastlayer.clone(src, tmp_path / "dst")
    trees.assert_same_tree(src, tmp_path / "dst")
    assert stat.S_IMODE((tmp_path / "dst/dir/file").stat().st_mode) == 0o6755


@needs_root
def test_a_setgid_parent_and_a_default_acl_do_not_show(engine: _backend.Engine, src: Path, tmp_path: Path) -> None:
    parent = tmp_path / "parent"
    parent.mkdir()
    os.chown(parent, 0, 4321)
    parent.chmod(0o2775)
    os.setxattr(parent, "system.posix_acl_default", trees.acl((0x02, 4242, 7)))
    fastlayer.clone(src, parent / "dst")
    trees.assert_same_tree(src, parent / "dst")


@needs_root
def test_default_acls_of_the_source_are_kept(engine: _backend.Engine, src: Path, tmp_path: Path) -> None:
    os.setxattr(src / "dir", "system.posix_acl_default", trees.acl((0x02, 4242, 7)))
    os.setxattr(src / "dir" / "file", "system.posix_acl_access", trees.acl((0x02, 4242, 6)))
    fastlayer.clone(src, tmp_path / "dst")
    trees.assert_same_tree(src, tmp_path / "dst")


@pytest.mark.parametrize("umask", [0o000, 0o077, 0o277, 0o777])
def test_the_umask_does_not_matter(src: Path, tmp_path: Path, umask: int) -> None:
    (src / "dir" / "file").chmod(0o666)
    code = f"import os, fastlayer; os.umask({umask}); fastlayer.clone({str(src)!r}, {str(tmp_path / 'dst')!r})"
    for backend in ("native", "baseline"):
        subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "FASTLAYER_BACKEND": backend})
        trees.assert_same_tree(src, tmp_path / "dst")
        (tmp_path / "dst").rename(tmp_path / backend)


def test_paths_longer_than_path_max(engine: _backend.Engine, src: Path, tmp_path: Path) -> None:
    fd = os.open(src, os.O_RDONLY)
    for _ in range(30):
        os.mkdir("n" * 200, dir_fd=fd)
        inner = os.open("n" * 200, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = inner
    os.close(os.open("deep", os.O_WRONLY | os.O_CREAT, 0o600, dir_fd=fd))
    os.link("deep", "deeper", src_dir_fd=fd, dst_dir_fd=fd)
    os.close(fd)
    fastlayer.clone(src, tmp_path / "dst")
    trees.assert_same_tree(src, tmp_path / "dst")


def test_without_openat2(src: Path, tmp_path: Path) -> None:
    code = f"import fastlayer; fastlayer.clone({str(src)!r}, {str(tmp_path / 'dst')!r})"
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "FASTLAYER_NO_OPENAT2": "1"})
    trees.assert_same_tree(src, tmp_path / "dst")


def test_sockets_are_skipped_with_a_warning(engine: _backend.Engine, src: Path, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(src / "dir" / "s"))
        stats = fastlayer.clone(src, tmp_path / "dst")
    assert not (tmp_path / "dst" / "dir" / "s").exists()
    assert stats.entries == 3
    assert len(stats.warnings) == 1
    assert stats.warnings[0].startswith("1 sockets skipped")


def test_descriptors_and_an_empty_directory(engine: _backend.Engine, src: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "place").mkdir()
    source, place = os.open(src, os.O_RDONLY), os.open(tmp_path / "place", os.O_RDONLY)
    try:
        fastlayer.clone(source, tmp_path / "empty")
        fastlayer.clone(source, place)
    finally:
        os.close(source)
        os.close(place)
    trees.assert_same_tree(src, tmp_path / "empty")
    trees.assert_same_tree(src, tmp_path / "place")


@needs_root
def test_into_an_empty_mount_point(engine: _backend.Engine, src: Path) -> None:
    with loop_fs("btrfs") as where:
        fastlayer.clone(src, where)
        trees.assert_same_tree(src, where)


def test_a_taken_name_is_refused_before_anything_is_read(engine: _backend.Engine, src: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "dangling").symlink_to("nowhere")
    for name in ("file", "src", "dangling"):
        with pytest.raises(OperandError, match=name):
            fastlayer.clone(src, tmp_path / name)
    with pytest.raises(OperandError, match="missing"):
        fastlayer.clone(src, tmp_path / "missing" / "dst")
    with pytest.raises(OperandError, match="missing"):
        fastlayer.clone(tmp_path / "missing", tmp_path / "dst")
    assert sorted(os.listdir(tmp_path)) == ["dangling", "file", "src"]


def test_a_tree_is_not_copied_into_itself(engine: _backend.Engine, src: Path, tmp_path: Path) -> None:
    with pytest.raises(OperandError, match="lies inside"):
        fastlayer.clone(src, src / "dir" / "dst")
    with pytest.raises(OperandError, match="lies inside"):
        fastlayer.clone(src, src / "dst")
    assert sorted(os.listdir(src)) == ["dir", "link"]


def test_a_failure_leaves_nothing(
    engine: _backend.Engine, src: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(report: fastlayer.Progress) -> None:
        raise KeyboardInterrupt

    (tmp_path / "empty").mkdir(mode=0o751)
    fd = os.open(tmp_path / "empty", os.O_RDONLY)
    for target in (tmp_path / "dst", fd):
        with pytest.raises(KeyboardInterrupt):
            fastlayer.clone(src, target, progress=fail)
    os.close(fd)
    assert sorted(os.listdir(tmp_path)) == ["empty", "src"]
    assert os.listdir(tmp_path / "empty") == []
    assert stat.S_IMODE((tmp_path / "empty").stat().st_mode) == 0o751


@needs_root
def test_a_full_disk_is_a_storage_error_and_leaves_nothing(engine: _backend.Engine, src: Path) -> None:
    (src / "dir" / "big").write_bytes(random.Random(1).randbytes(2 * MIB) * 10)
    with loop_fs("ext4", 16 * MIB) as where:
        with pytest.raises(StorageError, match=r"(?s)dir/big.*No space left"):
            fastlayer.clone(src, where / "dst")
        assert os.listdir(where) == []


def test_an_interrupt_stops_at_once(tmp_path: Path) -> None:
    src = tmp_path / "src"
    src.mkdir()
    with open(src / "big", "wb") as file:
        for _ in range(64):
            file.write(b"x" * (16 * MIB))
    code = f"import fastlayer; fastlayer.clone({str(src)!r}, {str(tmp_path / 'dst')!r})"
    child = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)
    while child.poll() is None and not litter(tmp_path):
        time.sleep(0.01)
    started = time.monotonic()
    child.send_signal(2)
    error = child.communicate()[1]
    assert time.monotonic() - started < 20
    assert child.returncode != 0
    assert "KeyboardInterrupt" in error
    assert os.listdir(tmp_path) == ["src"]


def test_progress_is_reported(engine: _backend.Engine, src: Path, tmp_path: Path) -> None:
    reports: list[fastlayer.Progress] = []
    fastlayer.clone(src, tmp_path / "dst", progress=reports.append)
    assert (reports[-1].stage, reports[-1].entries, reports[-1].bytes) == ("clone", 3, 7)


def test_a_file_that_changes_is_named(engine: _backend.Engine, src: Path, tmp_path: Path) -> None:
    file = src / "dir" / "growing"
    file.write_bytes(bytes(64 * MIB))
    stop = threading.Event()

    def grow() -> None:
        with open(file, "ab", buffering=0) as opened:
            while not stop.is_set():
                opened.write(b"x")

    writer = threading.Thread(target=grow)
    writer.start()
    try:
        with pytest.raises(FileChangedError, match="growing"):
            fastlayer.clone(src, tmp_path / "dst")
    finally:
        stop.set()
        writer.join()
    assert not (tmp_path / "dst").exists()


def test_a_file_that_grows_is_taken_as_it_was(engine: _backend.Engine, src: Path, tmp_path: Path) -> None:
    file = src / "dir" / "growing"
    file.write_bytes(bytes(32 * MIB))
    stop = threading.Event()

    def grow() -> None:
        with open(file, "ab", buffering=0) as opened:
            while not stop.is_set():
                opened.write(b"x")

    writer = threading.Thread(target=grow)
    writer.start()
    try:
        stats = fastlayer.clone(src, tmp_path / "dst", live=True)
    finally:
        stop.set()
        writer.join()
    copy = (tmp_path / "dst/dir/growing").read_bytes()
    assert stats.changed == 1 and copy.rstrip(b"x") == bytes(32 * MIB) and len(copy) <= file.stat().st_size


def test_a_file_that_shrinks_is_taken_to_its_end(engine: _backend.Engine, src: Path, tmp_path: Path) -> None:
    file = src / "dir" / "shrinking"
    whole = os.urandom(MIB) * 32
    file.write_bytes(whole)
    stop = threading.Event()

    def shrink() -> None:
        size = len(whole)
        while not stop.is_set() and size > MIB:
            size -= 4096
            os.truncate(file, size)

    writer = threading.Thread(target=shrink)
    writer.start()
    try:
        stats = fastlayer.clone(src, tmp_path / "dst", live=True)
    finally:
        stop.set()
        writer.join()
    copy = (tmp_path / "dst/dir/shrinking").read_bytes()
    assert copy == whole[: len(copy)] and stats.changed <= 1 and stats.warnings == ()


def test_threads_do_not_change_the_result(engine: _backend.Engine, src: Path, tmp_path: Path) -> None:
    for number in range(200):
        (src / f"d{number % 20}" / f"e{number}").mkdir(parents=True)
        (src / f"d{number % 20}" / f"e{number}" / "f").write_bytes(b"%d" % number)
    source = os.open(src, os.O_RDONLY)
    for jobs in (1, 3, 16):
        where = tmp_path / f"jobs{jobs}"
        where.mkdir()
        target = os.open(where, os.O_RDONLY)
        copier = engine.clone.TreeCloner(source, target, jobs=jobs)
        while copier.step():
            pass
        counts = _backend.CopyCounts(*copier.stats())
        assert counts.entries == 3 + 20 + 400
        os.close(target)
        trees.assert_same_tree(src, where)
    os.close(source)


def test_closed_directories_are_finished_in_steps(engine: _backend.Engine, tmp_path: Path) -> None:
    """What comes after the last name is work, too, and a signal must not wait for all of it."""
    src, dst = tmp_path / "src", tmp_path / "dst"
    src.mkdir()
    dst.mkdir()
    for number in range(3000):
        (src / f"d{number:04}" / "inner").mkdir(parents=True)
        (src / f"d{number:04}" / "inner").chmod(0o500)
        (src / f"d{number:04}").chmod(0o555)
    source, target = os.open(src, os.O_RDONLY), os.open(dst, os.O_RDONLY)
    try:
        copier = engine.clone.TreeCloner(source, target)
        steps = 0
        while copier.step():
            steps += copier.stats()[0] == 6000
        assert steps >= 5
        copier.abort()
    finally:
        os.close(source)
        os.close(target)
    trees.assert_same_tree(src, dst)


def test_an_aborted_clone_says_so(engine: _backend.Engine, src: Path, tmp_path: Path) -> None:
    (tmp_path / "dst").mkdir()
    source, target = os.open(src, os.O_RDONLY), os.open(tmp_path / "dst", os.O_RDONLY)
    try:
        copier = engine.clone.TreeCloner(source, target)
        copier.abort()
        with pytest.raises(UsageError, match="aborted"):
            copier.step()
        with pytest.raises(UsageError, match="jobs"):
            engine.clone.TreeCloner(source, target, jobs=0)
    finally:
        os.close(source)
        os.close(target)


@needs_root
@pytest.mark.parametrize("backend", ["native", "baseline"])
def test_without_privileges_what_is_lost_is_told(src: Path, tmp_path: Path, backend: str) -> None:
    (src / "dir" / "closed").mkdir()
    (src / "dir" / "read-only").write_bytes(b"x")
    for name, mode in (("closed", 0o555), ("read-only", 0o444)):
        os.setxattr(src / "dir" / name, "user.kept", b"2")
        (src / "dir" / name).chmod(mode)
    (src / "dir" / "file").chmod(0o4755)
    os.setxattr(src / "dir" / "file", "user.kept", b"1")
    os.setxattr(src / "dir" / "file", "security.lost", b"1")
    tmp_path.chmod(0o777)
    for parent in tmp_path.parents:
        if parent != Path("/") and not parent.stat().st_mode & 0o001:
            parent.chmod(parent.stat().st_mode | 0o111)
    code = (
        "import ctypes, os, fastlayer, fastlayer._backend; fastlayer.clone, fastlayer._backend.engine().clone; "
        "os.setgid(65534); os.setuid(65534); "  # modules are loaded: the user may not see where they are
        f"print(fastlayer.clone({str(src)!r}, {str(tmp_path / 'dst')!r}).warnings)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, "FASTLAYER_BACKEND": backend}
    )
    assert done.returncode == 0, done.stderr
    assert "owners not kept" in done.stdout
    assert "1 xattrs not kept" in done.stdout
    copy = tmp_path / "dst" / "dir" / "file"
    assert stat.S_IMODE(copy.stat().st_mode) == 0o755  # setuid of another owner would be a gift
    assert os.getxattr(copy, "user.kept") == b"1"
    for name, mode in (("closed", 0o555), ("read-only", 0o444)):
        assert stat.S_IMODE((tmp_path / "dst" / "dir" / name).stat().st_mode) == mode
        assert os.getxattr(tmp_path / "dst" / "dir" / name, "user.kept") == b"2"


def test_an_interrupt_after_the_rename_keeps_the_tree(
    engine: _backend.Engine, src: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fastlayer.layer import libc

    rename = libc.rename_new

    def interrupted(*names: Any) -> None:
        rename(*names)
        raise KeyboardInterrupt

    monkeypatch.setattr(libc, "rename_new", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fastlayer.clone(src, tmp_path / "copy")
    assert not list(fastlayer.diff(src, tmp_path / "copy"))
    assert not litter(tmp_path)
