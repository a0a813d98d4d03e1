"""The vfs driver passes the conformance suite: as root with bind mounts, and without any right to mount."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from fastlayer.drivers.vfs import Vfs
from fastlayer.metadata.database import Database
from fastlayer.metadata.leases import Leases
from fastlayer.snapshot.snapshotter import Snapshotter
from fastlayer.testing import snapshotter_suite as suite


def snapshotter(root: Path) -> Snapshotter:
    (root / "leases").mkdir(parents=True)
    (root / "vfs").mkdir()
    database = Database(root / "metadata.db")
    return Snapshotter(database, Leases(database, root / "leases"), Vfs(root / "vfs"))


@pytest.mark.parametrize("check", suite.CHECKS, ids=suite.name_of)
def test_conformance(check: Callable[[suite.Bench], None], tmp_path: Path) -> None:
    (tmp_path / "scratch").mkdir()
    check(suite.Bench(snapshotter(tmp_path / "store"), tmp_path / "scratch"))
