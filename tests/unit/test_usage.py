"""What a tree takes on the disk, on both backends, judged by du."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from fastlayer._backend import Engine
from fastlayer.drivers.usage import tree_usage
from fastlayer.errors import StorageError
from tests import trees


def du(path: Path) -> tuple[int, int]:
    """Allocated bytes and inodes, as coreutils count them."""

    def total(*options: str) -> int:
        done = subprocess.run(["du", "-s", *options, "--", path], capture_output=True, text=True, check=True)
        return int(done.stdout.split()[0])

    return total("--block-size=1"), total("--inodes")


def test_files_links_and_holes(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "d/e").mkdir(parents=True)
    (tmp_path / "d/file").write_bytes(bytes(70_000))
    for name in ("second", "d/e/third"):
        os.link(tmp_path / "d/file", tmp_path / name)
    (tmp_path / "link").symlink_to("/usr")
    os.mkfifo(tmp_path / "fifo")
    with open(tmp_path / "hole", "wb") as file:
        file.truncate(1 << 40)
    found = tree_usage(tmp_path)
    assert found[:2] == du(tmp_path)
    assert found.inodes == 7 and 70_000 <= found.bytes < 200_000


@pytest.mark.parametrize("seed", range(4))
def test_random_trees(engine: Engine, tmp_path: Path, seed: int) -> None:
    for number, tree in enumerate(trees.random_pair(seed, root=os.geteuid() == 0)):
        tree.make(tmp_path / str(number))
    assert tree_usage(tmp_path)[:2] == du(tmp_path)


def test_any_depth(engine: Engine, tmp_path: Path) -> None:
    """Beyond what fits into a path, with files and more than one directory on each level."""
    fd = os.open(tmp_path, os.O_RDONLY)
    for level in range(150):
        name = b"%03d" % level + b"x" * 200
        for inner in (name, b"side", b"other"):
            os.mkdir(inner, dir_fd=fd)
        os.close(os.open(b"file", os.O_CREAT | os.O_WRONLY, dir_fd=fd))
        below = os.open(name, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(fd)
    before = os.listdir("/proc/self/fd")
    assert tree_usage(tmp_path).inodes == 1 + 150 * 4
    assert os.listdir("/proc/self/fd") == before


def test_what_cannot_be_counted(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError):
        tree_usage(tmp_path / "file")
    with pytest.raises(OSError):
        tree_usage(tmp_path / "gone")
    with pytest.raises(StorageError, match="Bad file descriptor"):
        engine.usage.TreeUsage(999_999)


def test_an_abandoned_walk_leaves_no_descriptor(engine: Engine, tmp_path: Path) -> None:
    path = b"/".join([b"d" * 240] * 16)
    os.makedirs(os.fsencode(tmp_path) + b"/" + path)
    fd = os.open(os.fsencode(tmp_path) + b"/" + path, os.O_RDONLY)
    for number in range(2 * 4096):
        os.mkdir(b"%d" % number, dir_fd=fd)
    os.close(fd)
    fd = os.open(tmp_path, os.O_RDONLY)
    before = os.listdir("/proc/self/fd")
    walk = engine.usage.TreeUsage(fd)
    for _ in range(17 if engine.name == "baseline" else 1):
        assert walk.step()
    assert len(os.listdir("/proc/self/fd")) == len(before) + 1
    walk.close()
    assert os.listdir("/proc/self/fd") == before
    assert not walk.step()
    os.close(fd)
