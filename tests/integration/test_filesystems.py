"""Round trips on real file systems: XFS, btrfs, ext4, tmpfs, and a target on overlayfs."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

import fastlayer
from fastlayer._backend import Engine
from tests import trees
from tests.conftest import needs_root
from tests.filesystems import loop_fs, overlay
from tests.integration import rootfs
from tests.pairs import directory, table_of

pytestmark = needs_root

KINDS = ("tmpfs", "xfs", "btrfs", "ext4")
FICLONE = 0x40049409
LINUX_TIMES = {"xfs": (-(1 << 31), 16_299_260_424)}  # bigtime


@contextmanager
def tmpfs() -> Iterator[Path]:
    where = Path(tempfile.mkdtemp(prefix="fastlayer-fs-"))
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", where], check=True)
    try:
        yield where
    finally:
        subprocess.run(["umount", where], check=True)
        where.rmdir()


def mounted(kind: str) -> contextmanager[Path]:
    return tmpfs() if kind == "tmpfs" else loop_fs(kind)


@pytest.fixture(scope="module", params=KINDS)
def disk(request: pytest.FixtureRequest) -> Iterator[Path]:
    with mounted(request.param) as where:
        yield where


@pytest.fixture
def place(disk: Path) -> Iterator[Path]:
    """An empty directory on each file system in turn."""
    where = disk / "place"
    where.mkdir()
    yield where
    subprocess.run(["rm", "-rf", "--", where], check=True)
