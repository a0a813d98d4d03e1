"""What is made beside an output until it is complete goes whenever an interrupt comes, be it as soon as it is made."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from fastlayer.errors import StorageError
from fastlayer.layer import clone, output, target
from fastlayer.layer.output import Output
from fastlayer.layer.target import Target
from tests.conftest import needs_root

CALLS = ("mkdir", "open", "link")


class _InterruptedError(BaseException):
    pass


def interrupted(monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    """The system call ``at`` of those that make something is the last; it has done its work."""
    left = [at]

    def patched(call: Callable[..., Any]) -> Callable[..., Any]:
        def run(*words: Any, **more: Any) -> Any:
            found = call(*words, **more)
            left[0] -= 1
            if not left[0]:
                raise _InterruptedError
            return found

        return run

    for name in CALLS:
        monkeypatch.setattr(os, name, patched(getattr(os, name)))


@pytest.mark.parametrize("at", range(1, 8))
def test_a_new_target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    made = None
    with monkeypatch.context() as patched:
        interrupted(patched, at)
        with suppress(_InterruptedError):
            made = Target(tmp_path / "new")
    if made is not None:
        made.__exit__()
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("at", range(1, 8))
def test_a_clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    (tmp_path / "tree").mkdir()
    made = None
    with monkeypatch.context() as patched:
        interrupted(patched, at)
        with suppress(_InterruptedError):
            made = clone._Destination(tmp_path / "new")
    if made is not None:
        made.__exit__()
    assert os.listdir(tmp_path) == ["tree"]


@pytest.mark.parametrize("nameless", [True, False])
@pytest.mark.parametrize("at", range(1, 4))
def test_an_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int, nameless: bool) -> None:
    if not nameless:
        monkeypatch.setattr(output.os, "O_TMPFILE", os.O_DIRECTORY | os.O_WRONLY)  # which is EISDIR
    with monkeypatch.context() as patched:
        interrupted(patched, at)
        with suppress(_InterruptedError), Output(tmp_path / "file") as file:
            file.write(b"x")
            file.commit()
    assert os.listdir(tmp_path) in ([], ["file"])


def test_a_target_whose_block_is_never_entered(tmp_path: Path) -> None:
    made = Target(tmp_path / "new")
    assert len(os.listdir(tmp_path)) == 1
    del made
    assert os.listdir(tmp_path) == []


def test_a_target_that_cannot_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(target.os, "mkdir", refused)
    for make in (lambda: Target(tmp_path / "new"), lambda: clone._Destination(tmp_path / "new")):
        with pytest.raises(OSError, match="Permission denied"):
            make()
    assert os.listdir(tmp_path) == []


@needs_root
def test_a_file_system_that_nothing_can_be_made_on(tmp_path: Path) -> None:
    """There the system refuses to remove what is not there in the same words, and the first one is told."""
    place = tmp_path / "mount"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "none", place], check=True)
    try:
        for make in (Target, clone._Destination):
            with pytest.raises(StorageError, match="mount/new: mkdir: Read-only file system") as caught:
                make(place / "new")
            assert caught.value.errno == errno.EROFS
    finally:
        subprocess.run(["umount", place], check=True)
