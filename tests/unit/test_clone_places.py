"""Where ``fastlayer.clone`` and ``copy_up`` can put things: every kind of destination, and the mounts around it."""

from __future__ import annotations

import os
import stat
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import fastlayer
from fastlayer import _backend
from fastlayer.errors import OperandError, StorageError
from tests import trees
from tests.conftest import needs_root


@pytest.fixture
def src(tmp_path: Path) -> Path:
    path = tmp_path / "src"
    (path / "dir").mkdir(parents=True)
    (path / "dir" / "file").write_bytes(b"content")
    path.chmod(0o751)
    return path


@contextmanager
def mounted(where: Path, *options: str) -> Iterator[Path]:
    subprocess.run(["mount", *options, where], check=True)
    try:
        yield where
    finally:
        subprocess.run(["umount", where], check=True)


@pytest.mark.parametrize("spelling", ["link", "link/", "link//", "link/."])
def test_a_link_to_an_empty_directory(engine: _backend.Engine, src: Path, tmp_path: Path, spelling: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to("empty")
    fastlayer.clone(src, f"{tmp_path}/{spelling}")
    trees.assert_same_tree(src, tmp_path / "empty")
    assert (tmp_path / "link").is_symlink()
    assert sorted(os.listdir(tmp_path)) == ["empty", "link", "src"]


@pytest.mark.parametrize("spelling", [".", "./", "../empty/."])
def test_the_current_directory(
    engine: _backend.Engine, src: Path, tmp_path: Path, spelling: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    fastlayer.clone("../src", spelling)
    trees.assert_same_tree(src, tmp_path / "empty")
    assert os.listdir(".") == ["dir"]  # still the directory that the caller is in


def test_the_parent_of_the_current_directory_is_not_empty(
    engine: _backend.Engine, src: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "outer" / "inner").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "outer" / "inner")
    with pytest.raises(OperandError, match="not empty"):
        fastlayer.clone(src, "..")


@needs_root
def test_a_directory_that_is_bound_to_itself(engine: _backend.Engine, src: Path, tmp_path: Path) -> None:
    """Its device is that of its parent, but nothing can be renamed over a mount point."""
    (tmp_path / "bound").mkdir()
    with mounted(tmp_path / "bound", "--bind", str(tmp_path / "bound")):
        fastlayer.clone(src, tmp_path / "bound")
        trees.assert_same_tree(src, tmp_path / "bound")
        assert sorted(os.listdir(tmp_path)) == ["bound", "src"]


@needs_root
def test_a_read_only_mount_is_named(engine: _backend.Engine, src: Path, tmp_path: Path) -> None:
    (tmp_path / "mount").mkdir()
    with mounted(tmp_path / "mount", "-t", "tmpfs", "-o", "ro", "none"):
        for target in (tmp_path / "mount", tmp_path / "mount" / "new"):
            with pytest.raises(StorageError, match=r"mount.*Read-only file system") as caught:
                fastlayer.clone(src, target)
            assert "\n" not in str(caught.value)


@needs_root
def test_copy_up_into_a_mount_says_how(engine: _backend.Engine, src: Path, tmp_path: Path) -> None:
    """Beside a mount point is another file system, or looks like one: nothing can be renamed from there."""
    (tmp_path / "upper").mkdir()
    for options in (("-t", "tmpfs", "none"), ("--bind", str(tmp_path / "upper"))):
        with mounted(tmp_path / "upper", *options):
            with pytest.raises(OperandError, match=r"upper: .*workdir"):
                fastlayer.copy_up(src, tmp_path / "upper", "dir/file")
            assert os.listdir(tmp_path / "upper") == []
            for place in ("up", "work"):
                (tmp_path / "upper" / place).mkdir()
            fastlayer.copy_up(src, tmp_path / "upper" / "up", "dir/file")
            fastlayer.copy_up(src, tmp_path / "upper" / "up", "dir", workdir=tmp_path / "upper" / "work")
            trees.assert_same_tree(src / "dir", tmp_path / "upper" / "up" / "dir")
            with pytest.raises(OperandError, match=r"upper/up: .*workdir"):
                fastlayer.copy_up(src, tmp_path / "upper" / "up", "dir", workdir=tmp_path)
            subprocess.run(["rm", "-r", tmp_path / "upper" / "up", tmp_path / "upper" / "work"], check=True)
    assert sorted(os.listdir(tmp_path)) == ["src", "upper"]


def test_a_failure_in_place_restores_the_mode(
    engine: _backend.Engine, src: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_report: fastlayer.Progress) -> None:
        raise KeyboardInterrupt

    (tmp_path / "empty").mkdir(mode=0o755)
    monkeypatch.chdir(tmp_path / "empty")
    with pytest.raises(KeyboardInterrupt):
        fastlayer.clone(src, ".", progress=fail)
    assert os.listdir(".") == []
    assert stat.S_IMODE(os.stat(".").st_mode) == 0o755
