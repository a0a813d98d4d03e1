"""The pool: set up again after a reboot, full, grown, on block devices, damaged, with books that do not match."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastlayer.drivers.devicemapper import DeviceMapper, dmsetup
from fastlayer.drivers.devicemapper.books import Change
from fastlayer.drivers.devicemapper.options import Options
from fastlayer.errors import CorruptStoreError, DriverError, InUseError, NoSpaceError
from tests.uml_devicemapper.attaching import attach, attached, detach
from tests.uml_devicemapper.conftest import EXT4, MIB, ready

SMALL = EXT4._replace(data_size=48 * MIB, metadata_size=4 * MIB, base_size=128 * MIB)


def write(path: Path, size: int) -> None:
    """Random bytes, on disk when this returns."""
    with open(path, "wb") as file:
        for _ in range(size // MIB):
            file.write(os.urandom(MIB))
            file.flush()
            os.fsync(file.fileno())


def sealed(driver: DeviceMapper, number: int, parents: list[int], **files: bytes) -> int:
    driver.create(number, parents, "active")
    with driver.layer_target(number, parents) as target:
        for name, content in files.items():
            (target.path / name).write_bytes(content)
    driver.seal(number, parents)
    return number


def content(driver: DeviceMapper, number: int, where: Path) -> dict[str, bytes]:
    with attached(ready(driver, number, [], "committed")[0], where) as tree:
        return {path.name: path.read_bytes() for path in tree.iterdir()}


def devices() -> str:
    return dmsetup.run("ls")


def test_the_probe_leaves_nothing(root: Path) -> None:
    probe = DeviceMapper.probe(root)
    assert probe.works, probe
    assert not os.listdir(root) and "No devices" in devices()


def test_a_reboot_is_survived_by_any_process(driver: DeviceMapper, root: Path, tmp_path: Path) -> None:
    sealed(driver, 1, [], a=b"one")
    driver.create(2, [1], "active")
    with attached(ready(driver, 2, [1], "active")[0], tmp_path / "m") as tree:
        (tree / "b").write_bytes(b"two")
        with pytest.raises(InUseError, match="unmount"):
            driver.stop()
    driver.stop()
    assert "No devices" in devices()
    assert not subprocess.run(["losetup", "-j", root / "data"], capture_output=True, check=True).stdout
    again = DeviceMapper(root)  # a later process, which knows nothing but the directory
    with attached(ready(again, 2, [1], "active")[0], tmp_path / "m") as tree:
        assert (tree / "b").read_bytes() == b"two" and (tree / "a").read_bytes() == b"one"
    assert content(again, 1, tmp_path / "m") == {"a": b"one"}


def test_lost_and_found_is_no_part_of_a_snapshot(driver: DeviceMapper, tmp_path: Path) -> None:
    sealed(driver, 1, [])
    assert content(driver, 1, tmp_path / "m") == {}


def test_a_committed_snapshot_is_read_only_as_a_device(driver: DeviceMapper) -> None:
    sealed(driver, 1, [], a=b"one")
    (mount,) = ready(driver, 1, [], "committed")
    with pytest.raises(OSError) as caught, open(mount.source, "r+b", buffering=0) as device:
        device.write(bytes(4096))
    assert caught.value.errno in (errno.EACCES, errno.EROFS, errno.EPERM)


def test_sealing_refuses_what_is_mounted(driver: DeviceMapper, tmp_path: Path) -> None:
    driver.create(1, [], "active")
    with attached(ready(driver, 1, [], "active")[0], tmp_path / "m"):
        with pytest.raises(InUseError, match="unmount"):
            driver.seal(1, [])
        with pytest.raises(InUseError, match="unmount"):
            driver.remove(1)
    driver.seal(1, [])
    driver.seal(1, [])


def test_what_was_committed_but_not_sealed_is_sealed_when_it_is_used(driver: DeviceMapper, tmp_path: Path) -> None:
    driver.create(1, [], "active")
    with attached(ready(driver, 1, [], "active")[0], tmp_path / "m") as tree:
        (tree / "a").write_bytes(b"one")
    driver.create(2, [1], "active")  # the process that committed 1 was killed before seal
    with attached(ready(driver, 2, [1], "active")[0], tmp_path / "m") as tree:
        assert (tree / "a").read_bytes() == b"one"


def test_a_full_pool_is_an_error_not_a_wait(root: Path, tmp_path: Path) -> None:
    driver = DeviceMapper(root, SMALL)
    sealed(driver, 1, [], a=b"one" * 1000)
    driver.create(2, [1], "active")
    attach(ready(driver, 2, [1], "active")[0], tmp_path / "m")
    with pytest.raises(OSError) as caught:
        write(tmp_path / "m" / "big", 64 * MIB)
    assert caught.value.errno in (errno.ENOSPC, errno.EIO)
    detach(tmp_path / "m")
    assert driver.pool_status().mode == "out_of_data_space"
    with pytest.raises(NoSpaceError, match="grow the pool"):
        driver.create(3, [1], "active")
    with pytest.raises(NoSpaceError, match="ran full while snapshot 2"):
        driver.seal(2, [1])
    assert content(driver, 1, tmp_path / "m") == {"a": b"one" * 1000}
    driver.remove(2)
    driver.remove(3)
    assert driver.pool_status().mode == "rw"
    driver.create(4, [1], "active")
    assert driver.numbers() == {1, 4}


def test_a_full_pool_grows_in_use(root: Path, tmp_path: Path) -> None:
    driver = DeviceMapper(root, SMALL)
    sealed(driver, 1, [], a=b"one")
    driver.create(2, [1], "active")
    with attached(ready(driver, 2, [1], "active")[0], tmp_path / "m") as tree:
        with pytest.raises(OSError):
            write(tree / "big", 64 * MIB)
        before = driver.pool_status()
        after = driver.grow(data_size=160 * MIB)
        assert after.mode == "rw" and after.data_total > before.data_total
    driver.remove(2)
    sealed(driver, 3, [1], b=os.urandom(40 * MIB))
    driver.stop()
    assert len(content(DeviceMapper(root), 3, tmp_path / "m")["b"]) == 40 * MIB
    assert driver.pool_status().data_total == after.data_total
    with pytest.raises(DriverError, match="cannot shrink"):
        driver.grow(data_size=MIB)


def test_a_layer_that_does_not_fit_is_refused(root: Path) -> None:
    driver = DeviceMapper(root, SMALL)
    driver.create(1, [], "active")
    with pytest.raises(NoSpaceError, match="ran full"), driver.layer_target(1, []) as target:
        (target.path / "big").write_bytes(os.urandom(64 * MIB))  # what is written fits into memory
    driver.remove(1)
    assert not driver.numbers()


def test_the_low_water_mark_refuses_new_snapshots(root: Path) -> None:
    driver = DeviceMapper(root, SMALL._replace(low_water=60))
    sealed(driver, 1, [], a=os.urandom(10 * MIB))
    with pytest.raises(NoSpaceError, match="% of its data is used"):
        driver.create(2, [1], "active")
    driver.create(3, [1], "view")  # takes nothing


def test_removal_gives_space_back_to_the_file(driver: DeviceMapper, root: Path) -> None:
    sealed(driver, 1, [])
    before = (root / "data").stat().st_blocks
    sealed(driver, 2, [1], a=os.urandom(20 * MIB))
    used = driver.pool_status().data_used
    driver.remove(2)
    assert driver.pool_status().data_used < used - 300
    assert (root / "data").stat().st_blocks < before + 2048


def test_a_size_makes_the_file_system_larger(driver: DeviceMapper, tmp_path: Path) -> None:
    sealed(driver, 1, [], a=b"one")
    driver.create(2, [1], "active", size=200 * MIB)
    with attached(ready(driver, 2, [1], "active")[0], tmp_path / "m") as tree:
        found = os.statvfs(tree)
        assert found.f_blocks * found.f_frsize > 150 * MIB
        assert (tree / "a").read_bytes() == b"one"
    with pytest.raises(DriverError, match="cannot be smaller"):
        driver.create(3, [1], "active", size=10 * MIB)
    driver.remove(3)


def test_usage_without_thin_delta_is_close(driver: DeviceMapper, monkeypatch: pytest.MonkeyPatch) -> None:
    sealed(driver, 1, [])
    sealed(driver, 2, [1], a=os.urandom(8 * MIB))
    exact = driver.usage(2, [1]).bytes
    monkeypatch.setattr(shutil, "which", lambda *_args, **_keywords: None)
    assert 8 * MIB <= driver.usage(2, [1]).bytes <= exact < 9 * MIB


# ---- books and pool ------------------------------------------------------------------------------


def test_an_interrupted_duplicate_leaves_its_source_running(driver: DeviceMapper, tmp_path: Path) -> None:
    driver.create(1, [], "active")
    with attached(ready(driver, 1, [], "active")[0], tmp_path / "m") as tree:
        status, name = driver.pool_status(), driver._pool.name_of(1)
        driver._books.set_journal(Change(status.transaction + 1, "create", 2, name))
        dmsetup.suspend(name)
        assert driver.pool_status().transaction == status.transaction + 1
        (tree / "goes on").write_bytes(b"")
    driver.remove(2)


def test_a_device_that_the_books_do_not_know_is_replaced(driver: DeviceMapper, root: Path, tmp_path: Path) -> None:
    sealed(driver, 1, [], a=b"one")
    sealed(driver, 2, [1], b=b"two")
    (root / "snapshots" / "2").unlink()
    driver.stop()
    driver.create(2, [1], "active")
    driver.seal(2, [1])
    assert content(driver, 2, tmp_path / "m") == {"a": b"one"}


def test_a_pool_of_another_moment_is_refused(driver: DeviceMapper, root: Path) -> None:
    sealed(driver, 1, [])
    driver.stop()
    old = (root / "metadata").read_bytes()
    sealed(driver, 2, [1])
    sealed(driver, 3, [2])
    driver.stop()
    new = (root / "metadata").read_bytes()
    (root / "metadata").write_bytes(old)
    with pytest.raises(CorruptStoreError, match="the same moment"):
        driver.create(4, [1], "active")
    dmsetup.remove(driver._pool.name)
    (root / "metadata").write_bytes(bytes(len(new)))
    with pytest.raises(CorruptStoreError, match="the same moment"):
        driver.create(4, [1], "active")
    dmsetup.remove(driver._pool.name)
    (root / "metadata").write_bytes(new)
    driver.create(4, [3], "active")


def test_damage_is_one_line(driver: DeviceMapper, root: Path) -> None:
    sealed(driver, 1, [])
    driver.stop()
    metadata = (root / "metadata").read_bytes()
    (root / "metadata").write_bytes(os.urandom(len(metadata)))
    with pytest.raises(DriverError, match="thin_check") as caught:
        driver.create(2, [1], "active")
    assert "\n" not in str(caught.value)
    (root / "metadata").write_bytes(metadata)
    (root / "data").rename(root / "moved")
    with pytest.raises(CorruptStoreError, match="is gone"):
        driver.create(2, [1], "active")
    (root / "moved").rename(root / "data")
    (root / "pool.json").write_text("{")
    with pytest.raises(CorruptStoreError, match="damaged"):
        DeviceMapper(root).create(2, [1], "active")
    (root / "pool.json").unlink()


# ---- block devices -------------------------------------------------------------------------------


@pytest.fixture
def block_devices(tmp_path: Path) -> Iterator[list[str]]:
    found = []
    for name, size in (("data", 128 * MIB), ("metadata", 4 * MIB)):
        with open(tmp_path / name, "wb") as file:
            file.truncate(size)
        done = subprocess.run(
            ["losetup", "--find", "--show", tmp_path / name], capture_output=True, text=True, check=True
        )
        found.append(done.stdout.strip())
    yield found
    for device in found:
        subprocess.run(["losetup", "-d", device], check=True)


def test_block_devices(block_devices: list[str], root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTLAYER_DM_DATA", block_devices[0])
    monkeypatch.setenv("FASTLAYER_DM_METADATA", block_devices[1])
    monkeypatch.setenv("FASTLAYER_DM_BASE_SIZE", "64M")
    assert DeviceMapper.probe(root).works
    driver = DeviceMapper(root)
    sealed(driver, 1, [], a=b"one")
    driver.stop()
    assert content(DeviceMapper(root), 1, tmp_path / "m") == {"a": b"one"}
    driver.stop()
    other = tmp_path / "other"
    other.mkdir()
    with pytest.raises(DriverError, match="holds another thin pool"):
        DeviceMapper(other).create(1, [], "active")
    with pytest.raises(DriverError, match="grow /dev/loop"):
        driver.grow(data_size=1 << 30)
    os.truncate(tmp_path / "data", 160 * MIB)
    subprocess.run(["losetup", "-c", block_devices[0]], check=True)
    assert driver.grow().data_total == 160 * MIB // EXT4.block_size


def test_probing_says_what_is_missing(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTLAYER_DM_DATA", "/dev/null")
    assert "go together" in DeviceMapper.probe(root).why
    monkeypatch.setenv("FASTLAYER_DM_METADATA", "/dev/zero")
    assert "no block device" in DeviceMapper.probe(root).why
    with pytest.raises(DriverError, match="no block device"):
        DeviceMapper(root, Options(data="/dev/zero", metadata="/dev/null")).create(1, [], "active")
