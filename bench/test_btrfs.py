"""One change among the files of the "many" tree on btrfs: by generation, against a walk of both trees."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.conftest import Measure, _mounted

DIRECTORIES, FILES = 1000, 1000
CODE = """
import sys
from pathlib import Path
from fastlayer.drivers.btrfs import Btrfs
with Btrfs(Path(sys.argv[1])).changes(2, [1]) as changes:
    found = [(change.kind, change.path) for change in changes]
assert found == [("C", b"d0500/f0500")], found
"""


@pytest.fixture(scope="module")
def store() -> Iterator[Path]:
    from fastlayer.drivers.btrfs import Btrfs

    for place in _mounted("btrfs", "8G"):
        driver = Btrfs(place)
        driver.create(1, [], "active")
        fill(Path(driver.mounts(1, [], "active")[0].source))
        driver.seal(1, [])
        driver.create(2, [1], "active")
        yield place


def fill(tree: Path) -> None:
    for folder in range(DIRECTORIES):
        os.mkdir(tree / f"d{folder:04}")
        fd = os.open(tree / f"d{folder:04}", os.O_RDONLY)
        for number in range(FILES):
            os.close(os.open(f"f{number:04}", os.O_CREAT | os.O_WRONLY, 0o644, dir_fd=fd))
        os.close(fd)


@pytest.mark.parametrize("tool", ["by generation", "walk"])
def test_one_change_in_a_million(measure: Measure, fastlayer: list[str], store: Path, tool: str) -> None:
    parent, child = store / "subvolumes/1", store / "subvolumes/2"
    command: list[str | Path] = [sys.executable, "-c", CODE, store]
    if tool == "walk":
        command = [*fastlayer, "diff", parent, child, "--progress", "none"]
    lengths = iter(range(1, 1000))

    def change() -> None:
        """Not written out yet: that is part of the work."""
        (child / "d0500/f0500").write_bytes(b"x" * next(lengths))

    measure("diff many, one change", tool, "btrfs", command, before=change, rounds=1 if tool == "walk" else 5)
