"""Reading logs while they are written and rotated."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest

from fastlayer.container import logs


class Writer:
    """What a monitor does to the files of a log."""

    def __init__(self, directory: Path, files: int) -> None:
        self.directory, self.files = directory, files
        self.held = os.open(directory / "lock", os.O_RDWR | os.O_CREAT)
        fcntl.flock(self.held, fcntl.LOCK_EX)
        self.number = 0

    def write(self, count: int = 1) -> None:
        with (self.directory / "log.json").open("a") as file:
            for _ in range(count):
                entry = {"log": f"{self.number}\n", "stream": "stdout", "time": "2024-01-01T00:00:00.000000000Z"}
                file.write(json.dumps(entry) + "\n")
                self.number += 1

    def rotate(self) -> None:
        names = ["log.json", *(f"log.json.{number}" for number in range(1, self.files))]
        for older, newer in zip(names[:0:-1], names[-2::-1], strict=True):
            if (self.directory / newer).exists():
                (self.directory / newer).rename(self.directory / older)
        (self.directory / "log.json").write_bytes(b"")

    def end(self) -> None:
        os.close(self.held)


def numbers(lines: Iterator[logs.Line]) -> list[int]:
    return [int(line.text) for line in lines]


@pytest.fixture
def writer(tmp_path: Path) -> Writer:
    found = Writer(tmp_path, files=5)
    found.write(2)
    return found


def test_what_is_written_before_a_rotation_is_not_lost(writer: Writer) -> None:
    lines = logs.read(writer.directory, follow=True)
    assert numbers(islice(lines, 2)) == [0, 1]
    writer.write(2)
    writer.rotate()
    writer.write()
    writer.end()
    assert numbers(lines) == [2, 3, 4]


def test_several_rotations_between_two_looks(writer: Writer) -> None:
    lines = logs.read(writer.directory, follow=True)
    assert numbers(islice(lines, 2)) == [0, 1]
    for _ in range(3):
        writer.write(2)
        writer.rotate()
    writer.write(2)
    assert numbers(islice(lines, 7)) == [2, 3, 4, 5, 6, 7, 8]
    writer.rotate()
    writer.write()
    writer.end()
    assert numbers(lines) == [9, 10]


def test_rotation_while_the_older_files_are_read(writer: Writer) -> None:
    for _ in range(3):
        writer.rotate()
        writer.write(2)
    lines = logs.read(writer.directory)
    assert numbers(islice(lines, 1)) == [0]
    writer.rotate()
    writer.rotate()
    writer.write()
    assert numbers(lines) == [1, 2, 3, 4, 5, 6, 7]


def test_the_only_file_is_begun_anew(tmp_path: Path) -> None:
    writer = Writer(tmp_path, files=1)
    writer.write(5)
    lines = logs.read(tmp_path, follow=True)
    assert numbers(islice(lines, 5)) == [0, 1, 2, 3, 4]
    writer.rotate()
    writer.write()
    writer.end()
    assert numbers(lines) == [5]


def test_damaged_lines_are_passed_over(writer: Writer) -> None:
    with (writer.directory / "log.json").open("ab") as file:
        file.write(b'{"log":"cut off\n[1]\nnull\n' + b"[" * 100000 + b"\n\xff\n")
    writer.write()
    assert numbers(logs.read(writer.directory)) == [0, 1, 2]


def test_no_log_yet(tmp_path: Path) -> None:
    assert list(logs.read(tmp_path)) == []
    assert list(logs.read(tmp_path, follow=True)) == []
