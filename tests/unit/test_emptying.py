"""``target.empty``: few names by plain calls, more by the engine, the same either way."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fastlayer import _backend
from fastlayer.errors import StorageError
from fastlayer.layer import target
from tests.conftest import needs_root
from tests.filesystems import loop_fs

pytestmark = pytest.mark.usefixtures("engine")


@contextmanager
def opened(path: Path) -> Iterator[int]:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    before = len(os.listdir("/proc/self/fd"))
    try:
        yield fd
        assert len(os.listdir("/proc/self/fd")) == before
    finally:
        os.close(fd)


def small(root: Path) -> Path:
    for name in ("a", "b/c", "b/d/e", "b/f/g"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    (root / "empty").mkdir()
    os.mkfifo(root / "fifo")
    (root / "link").symlink_to("/etc")
    (root / "b" / "dangling").symlink_to("nowhere")
    return root


def test_a_small_tree_needs_no_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = small(tmp_path / "root")
    with opened(root) as fd, monkeypatch.context() as patched:
        patched.setattr(_backend, "engine", lambda: pytest.fail("was asked"))
        target.empty(fd)
        assert os.listdir(root) == []
        target.empty(fd)
    assert Path("/etc/passwd").exists()


@needs_root
def test_names_that_came_after_the_descriptor_was_opened() -> None:
    """btrfs does not list them the first time."""
    with loop_fs("btrfs") as where, opened(where) as fd:
        small(where / "root")
        assert target.names_in(fd) == [b"root"]
        with opened(where / "root/empty") as empty:
            small(where / "root/empty/inner")
            target.empty(empty)
        assert os.listdir(where / "root/empty") == []


@pytest.mark.parametrize("count", [target._FEW - 1, target._FEW, target._FEW + 1, 300])
def test_many_names(tmp_path: Path, count: int) -> None:
    root = tmp_path / "root"
    (root / "d").mkdir(parents=True)
    for number in range(count - 1):
        (root / "d" / str(number)).write_text("")
    with opened(root) as fd:
        assert target._empty_of_few(fd) is (count <= target._FEW)
        target.empty(fd)
    assert os.listdir(root) == []


def test_a_deep_tree(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "/".join("d" * 200)).mkdir(parents=True)
    with opened(root) as fd:
        target.empty(fd)
    assert os.listdir(root) == []


@needs_root
@pytest.mark.parametrize("bind", [True, False])
def test_what_is_mounted_inside_is_not_touched(tmp_path: Path, bind: bool) -> None:
    root, other = small(tmp_path / "root"), tmp_path / "other"
    other.mkdir()
    (other / "file").write_text("kept")
    place = root / "b/d"
    words = ["--bind", other, place] if bind else ["-t", "tmpfs", "tmpfs", place]
    subprocess.run(["mount", *words], check=True)
    try:
        (place / "inside").write_text("kept")
        with opened(root) as fd, pytest.raises(StorageError):
            target.empty(fd)
        assert (place / "inside").read_text() == "kept"
    finally:
        subprocess.run(["umount", place], check=True)
    assert (other / "file").read_text() == "kept"


def test_directories_that_may_not_be_entered(tmp_path: Path) -> None:
    root = small(tmp_path / "root")
    (root / "b").chmod(0)
    with opened(root) as fd:
        target.empty(fd)
    assert os.listdir(root) == []
