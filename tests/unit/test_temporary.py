"""Temporary directories that are locked: made beside others who clear away, and known when their makers are dead."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import pytest

from fastlayer import _temporary
from fastlayer._temporary import make_locked, those_of_the_dead
from fastlayer.builder.context.scratch import Scratch
from fastlayer.layer import target


def test_one_that_is_cleared_away_before_it_is_locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Made anew: whether it went before it was opened, or between that and the lock."""
    made, locked = tempfile.mkdtemp, _temporary.fcntl.flock
    left = ["made", "opened"]

    def make(**given: Any) -> str:
        path = made(**given)
        if "made" in left:
            left.remove("made")
            os.rmdir(path)
        return path

    def lock(fd: int, how: int) -> None:
        if "opened" in left:
            left.remove("opened")
            os.rmdir(os.readlink(f"/proc/self/fd/{fd}"))
        locked(fd, how)

    monkeypatch.setattr(tempfile, "mkdtemp", make)
    monkeypatch.setattr(_temporary.fcntl, "flock", lock)
    path, fd = make_locked("test-", str(tmp_path))
    assert left == [] and os.listdir(tmp_path) == [os.path.basename(path)]
    assert list(those_of_the_dead("test-", str(tmp_path))) == []
    os.close(fd)
    assert [name for name, _ in those_of_the_dead("test-", str(tmp_path))] == [path]


def test_a_store_clears_away_what_killed_builds_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "cache" / "unpacked"
    with Scratch(tmp_path) as alive:
        for name in ("fastlayer-context-dead", "another"):
            (place / name).mkdir()
            (place / name / "file").write_text("")
        with Scratch(tmp_path) as other:
            assert {Path(alive.path).name, Path(other.path).name, "another"} == set(os.listdir(place))
    assert os.listdir(place) == ["another"]
    (place / "fastlayer-context-kept").mkdir()
    with monkeypatch.context() as patched:
        patched.setattr(target, "empty", lambda _: (_ for _ in ()).throw(OSError(16, "busy")))
        made = Scratch(tmp_path)
    assert {Path(made.path).name, "fastlayer-context-kept", "another"} == set(os.listdir(place))
    made.close()
