"""Layers that come from pipes and file objects: "nothing yet" is never the end."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import fastlayer
from fastlayer._backend import Engine
from fastlayer.errors import OperandError
from tests.unit.test_apply_api import LARGE, PACKS, names


class OnlyRead:
    """A file object with nothing but ``read`` and ``fileno``."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def read(self, size: int) -> bytes | None:
        try:
            return os.read(self._fd, size)
        except BlockingIOError:
            return None

    def fileno(self) -> int:
        return self._fd


class NeverReady:
    """A raw file object without a descriptor that has nothing yet."""

    def readinto(self, buffer: Any) -> int | None:
        return None


WAYS: dict[str, Callable[[int], Any]] = {
    "descriptor": lambda fd: fd,
    "raw": lambda fd: os.fdopen(fd, "rb", buffering=0, closefd=False),
    "buffered": lambda fd: os.fdopen(fd, "rb", closefd=False),
    "read": OnlyRead,
}


@contextmanager
def slow_pipe(data: bytes) -> Iterator[int]:
    """A pipe that does not wait, filled with pauses: its reader is told "nothing yet" again and again."""
    reading, writing = os.pipe()
    os.set_blocking(reading, False)

    def fill() -> None:
        with os.fdopen(writing, "wb", buffering=0) as file:
            for start in range(0, len(data), len(data) // 5 + 1):
                time.sleep(0.02)
                view = memoryview(data)[start : start + len(data) // 5 + 1]
                while view:
                    view = view[file.write(view) :]

    writer = threading.Thread(target=fill)
    writer.start()
    try:
        yield reading
    finally:
        os.close(reading)
        writer.join(10)


@PACKS
@pytest.mark.parametrize("way", WAYS)
def test_nothing_yet_is_not_the_end(engine: Engine, tmp_path: Path, way: str, pack: Any) -> None:
    with slow_pipe(pack(LARGE)) as fd:
        source = WAYS[way](fd)
        stats = fastlayer.apply(source, tmp_path / "t")
    assert stats.layers[0].size == len(pack(LARGE))
    assert names(tmp_path / "t") == {f"f{number}" for number in range(6)}


def test_a_stack_operand_waits_too(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with slow_pipe(LARGE) as fd, os.fdopen(fd, "rb", buffering=0, closefd=False) as source:
        found = [change.path for change in fastlayer.diff(tmp_path / "empty", [source])]
    assert len([path for path in found if path]) == 6


def test_nothing_yet_and_nothing_to_wait_for_is_refused(engine: Engine, tmp_path: Path) -> None:
    with pytest.raises(OperandError, match="give a file that waits"):
        fastlayer.apply(NeverReady(), tmp_path / "t")
    assert names(tmp_path) == set()


def test_waiting_for_a_file_object_can_be_interrupted(engine: Engine, tmp_path: Path) -> None:
    """The writer stays silent for ever."""
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    timer = threading.Timer(0.2, os.kill, [os.getpid(), 2])
    timer.start()
    started = time.monotonic()
    try:
        with os.fdopen(reading, "rb", buffering=0) as source, pytest.raises(KeyboardInterrupt):
            fastlayer.apply(source, tmp_path / "t")
    finally:
        timer.join()
        os.close(writing)
    assert time.monotonic() - started < 20
    assert names(tmp_path) == set()
