"""Reading leaves no trace: no operation changes an access time of what it reads, where the caller may avoid it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

import fastlayer
from fastlayer import _backend

OLD = 1_000_000_001  # older than every mtime, so that relatime, too, would set it


@pytest.fixture
def place(tmp_path: Path) -> Path:
    for side in ("a", "b"):
        (tmp_path / side / "d" / "e").mkdir(parents=True)
        (tmp_path / side / "d" / "small").write_bytes(side.encode() * 100)
        (tmp_path / side / "d" / "e" / "large").write_bytes(side.encode() * 700_000)
        (tmp_path / side / "d" / "same").write_bytes(b"same")
    (tmp_path / "upper" / "d").mkdir(parents=True)
    (tmp_path / "upper" / "d" / "small").write_bytes(b"upper")
    fastlayer.diff(None, tmp_path / "a", tmp_path / "a.tar.gz")
    fastlayer.index(tmp_path / "a", tmp_path / "a.idx")
    return tmp_path


def everything(place: Path) -> list[str]:
    return [os.path.join(top, name) for top, dirs, files in os.walk(place) for name in dirs + files]


WORK: dict[str, Callable[[Path], object]] = {
    "diff": lambda p: list(fastlayer.diff(p / "a", p / "b")),
    "diff by content": lambda p: list(fastlayer.diff(p / "a", p / "b", compare="content")),
    "diff --stat": lambda p: fastlayer.diff(p / "a", p / "b").stat(),
    "diff -o": lambda p: fastlayer.diff(p / "a", p / "b", p / "out.tar"),
    "diff of a tar": lambda p: list(fastlayer.diff(p / "a.tar.gz", p / "b")),
    "diff with an index": lambda p: list(fastlayer.diff(p / "a.idx", p / "b")),
    "diff of an upper directory": lambda p: fastlayer.diff_upper(p / "upper", [p / "a"]).stat(),
    "index": lambda p: fastlayer.index(p / "a"),
    "chunks": lambda p: fastlayer.chunks(p / "a" / "d" / "e" / "large"),
    "clone": lambda p: fastlayer.clone(p / "a", p / "copy"),
    "copy_up": lambda p: fastlayer.copy_up(p / "a", p / "upper", "d/e/large"),
    "apply": lambda p: fastlayer.apply([p / "a.tar.gz"], p / "applied"),
}


@pytest.mark.parametrize("name", WORK)
def test_access_times_stay(engine: _backend.Engine, place: Path, name: str) -> None:
    paths = everything(place)
    for path in paths:
        os.utime(path, ns=(OLD, os.lstat(path).st_mtime_ns))
    WORK[name](place)
    assert {path for path in paths if os.lstat(path).st_atime_ns != OLD} == set()
