"""A store's snapshots for tests: a snapshotter over a real database, and layers to put into it."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

import fastlayer
from fastlayer.drivers.overlay2 import Overlay2
from fastlayer.metadata.database import Database
from fastlayer.metadata.leases import Leases
from fastlayer.mounts import mounting
from fastlayer.snapshot.driver import Driver
from fastlayer.snapshot.snapshotter import Snapshotter

Content = Mapping[str, bytes | str | None]
"""Name -> bytes of a file, target of a link, None for a directory (names with a slash at the end) or a whiteout."""


@contextmanager
def snapshots(root: Path, driver: Driver | None = None) -> Iterator[Snapshotter]:
    """A snapshotter in the directory ``root``; a second one of the same root sees the same snapshots."""
    for name in ("leases", "overlay2"):
        (root / name).mkdir(exist_ok=True)
    database = Database(root / "metadata.db")
    try:
        yield Snapshotter(database, Leases(database, root / "leases"), driver or Overlay2(root / "overlay2"))
    finally:
        database.close()


def layer(content: Content) -> io.BytesIO:
    """A layer tar of that content."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, value in content.items():
            entry = tarfile.TarInfo(name)
            entry.uid, entry.gid = os.geteuid(), os.getegid()
            entry.mtime, entry.mode = 1_000_000, 0o644
            if name.endswith("/"):
                entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            if isinstance(value, str):
                entry.type, entry.linkname = tarfile.SYMTYPE, value
            data = value if isinstance(value, bytes) else b""
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    file.seek(0)
    return file


def commit_layer(found: Snapshotter, name: str, content: Content, parent: str | None = None) -> None:
    """As an image's layer is unpacked: extracted by itself if the driver can, then put on its parent."""
    key = f"extract {name}"
    below = None if found.driver.independent else parent
    found.prepare(key, below)
    number, parents = found.number(key)
    with found.driver.layer_target(number, parents) as target:
        fastlayer.apply(layer(content), target.path, format=target.format)
    found.commit(name, key, parent=None if below == parent else parent)


@contextmanager
def mounted(found: Snapshotter, key: str) -> Iterator[Path]:
    with mounting.temporary(found.ready(key)) as where:
        yield where


def can_mount() -> bool:
    """As root, or as one whom a user namespace makes root."""
    return os.geteuid() == 0


needs_mounts = pytest.mark.skipif(not can_mount(), reason="needs root, of a user namespace at least: mounts")
