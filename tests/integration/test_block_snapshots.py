"""Two moments of one file system: what inode and ctime prove is not read, and nothing that changed is missed."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastlayer import _backend
from fastlayer.layer.diff import diff_snapshots
from tests.filesystems import need_root
from tests.pairs import directory

MIB = 1 << 20


@pytest.fixture
def moments(tmp_path: Path) -> Iterator[tuple[Path, Path, int]]:
    """An ext4 with two files; a copy of its blocks, to be changed; and the moment until which they were the same."""
    need_root()
    images = [tmp_path / "a.image", tmp_path / "b.image"]
    with open(images[0], "wb") as file:
        file.truncate(32 * MIB)
    subprocess.run(["mkfs.ext4", "-q", "-F", "-I", "256", images[0]], check=True)
    mounted: list[Path] = []

    def mount(image: Path) -> Path:
        where = image.with_suffix(".mnt")
        where.mkdir(exist_ok=True)
        subprocess.run(["mount", "-o", "loop", image, where], check=True)
        mounted.append(where)
        return where

    try:
        a = mount(images[0])
        (a / "same").write_bytes(b"s" * MIB)
        (a / "changed").write_bytes(b"c" * 1000)
        subprocess.run(["umount", mounted.pop()], check=True)
        time.sleep(0.05)
        shutil.copyfile(images[0], images[1])
        moment = time.time_ns()
        time.sleep(0.05)
        yield mount(images[0]), mount(images[1]), moment
    finally:
        for where in mounted:
            subprocess.run(["umount", where], check=True)


def change_in_secret(path: Path) -> None:
    """Other bytes; size and mtime as they were."""
    before = path.stat()
    path.write_bytes(b"x" * before.st_size)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_unchanged_files_are_not_read(engine: _backend.Engine, moments: tuple[Path, Path, int]) -> None:
    a, b, moment = moments
    change_in_secret(b / "changed")
    for shared_until_ns, read in ((moment, 1000), (0, MIB + 1000)):
        with directory(a) as left, directory(b) as right:
            differ = engine.changes.Differ(left, right, shared_until_ns=shared_until_ns)
            while differ.step():
                pass
            rows = [(row.kind, row.path) for row in _backend.iter_rows(differ.finish(), 64) if row.kind != "P"]
        assert rows == [("C", b"changed")]
        assert differ.bytes_compared <= read and (shared_until_ns or differ.bytes_compared >= MIB)


def test_content_means_content(engine: _backend.Engine, moments: tuple[Path, Path, int]) -> None:
    a, b, moment = moments
    with directory(a) as left, directory(b) as right:
        differ = engine.changes.Differ(left, right, compare="content", shared_until_ns=moment)
        while differ.step():
            pass
        assert differ.bytes_compared >= MIB


def test_the_clock_tick_of_the_snapshot_proves_nothing(
    engine: _backend.Engine, moments: tuple[Path, Path, int]
) -> None:
    a, b, _ = moments
    ctime = (a / "same").stat().st_ctime_ns
    for shared_until_ns, proven in ((ctime, False), (ctime + 1, True)):
        with directory(a) as left, directory(b) as right:
            differ = engine.changes.Differ(left, right, shared_until_ns=shared_until_ns)
            while differ.step():
                pass
            assert (differ.bytes_compared < MIB) == proven
    change_in_secret(b / "changed")
    with diff_snapshots(a, b, shared_until_ns=ctime) as changes:
        assert [(change.kind, change.path, change.what) for change in changes] == [("C", b"changed", ("content",))]
