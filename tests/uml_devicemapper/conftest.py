"""What runs here runs inside user-mode-linux only: tests/integration/test_devicemapper.py boots it."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest

from fastlayer.drivers.devicemapper import DeviceMapper
from fastlayer.drivers.devicemapper.options import Options
from fastlayer.errors import FastlayerError
from fastlayer.metadata.database import Database
from fastlayer.metadata.leases import Leases
from fastlayer.mounts.mount import Mount
from fastlayer.snapshot.snapshotter import Snapshotter

INSIDE = os.environ.get("FASTLAYER_UML") == "1"
collect_ignore_glob = [] if INSIDE else ["test_*.py"]
MIB = 1 << 20
EXT4 = Options(data_size=256 * MIB, metadata_size=8 * MIB, base_size=64 * MIB)
XFS = EXT4._replace(data_size=400 * MIB, base_size=320 * MIB, file_system="xfs")
_SIZES = ("data_size", "metadata_size", "base_size")


def environment(options: Options) -> dict[str, str]:
    """The variables of a command whose stores have such pools."""
    sizes = {f"FASTLAYER_DM_{name.upper()}": str(getattr(options, name)) for name in _SIZES}
    return {**sizes, "FASTLAYER_DM_FS": options.file_system, "FASTLAYER_DRIVER": "devicemapper"}


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(dir="/tmp"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="session")
def ext4() -> Iterator[Path]:
    """A file system with user xattrs, which the guest's tmpfs has not (Linux 6.6)."""
    image, where = Path("/tmp/ext4.image"), Path("/tmp/ext4")
    where.mkdir()
    with open(image, "wb") as file:
        file.truncate(300 * MIB)
    subprocess.run(["mkfs.ext4", "-q", "-F", "-b", "4096", "-I", "256", image], check=True)
    subprocess.run(["mount", "-o", "loop", image, where], check=True)
    yield where
    subprocess.run(["umount", where], check=True)
    image.unlink()


@pytest.fixture
def scratch(ext4: Path) -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(dir=ext4))
    yield path
    shutil.rmtree(path)


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    """The root of a driver; what is left of its pool goes afterwards, so that the next test has the memory."""
    path = tmp_path / "store" / "devicemapper"
    path.mkdir(parents=True)
    yield path
    try:
        DeviceMapper(path).stop()
    except FastlayerError as exc:
        print(f"left: {exc}")
        subprocess.run(["dmsetup", "remove_all", "--force"], check=False)


@pytest.fixture
def driver(root: Path) -> DeviceMapper:
    return DeviceMapper(root, EXT4)


def snapshotter_of(driver: DeviceMapper) -> Snapshotter:
    store = driver.root.parent
    (store / "leases").mkdir(exist_ok=True)
    database = Database(store / "metadata.db")
    return Snapshotter(database, Leases(database, store / "leases"), driver)


def ready(
    driver: DeviceMapper, number: int, parents: list[int], kind: Literal["active", "view", "committed"]
) -> list[Mount]:
    """The mounts of a snapshot, with the device they are of."""
    driver.make_ready(number, parents, kind)
    return driver.mounts(number, parents, kind)
