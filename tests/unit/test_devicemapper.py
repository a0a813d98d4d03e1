"""What devicemapper reads and refuses, without a kernel that has it: status lines, errors, options, books."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from fastlayer.drivers.devicemapper import dmsetup
from fastlayer.drivers.devicemapper.books import Books, Change, SnapshotBook
from fastlayer.drivers.devicemapper.deltas import count
from fastlayer.drivers.devicemapper.options import Options, check, from_environment, parse_size
from fastlayer.errors import CorruptStoreError, DriverError
from fastlayer.mounts.mount import Mount

POOL = "0 409600 thin-pool 4 120/1024 281/3200 - rw discard_passdown error_if_no_space - 256"


@pytest.mark.parametrize(
    "line,wanted",
    [
        (POOL, (4, 120, 1024, 281, 3200, "rw", False)),
        (POOL.replace(" rw ", " out_of_data_space "), (4, 120, 1024, 281, 3200, "out_of_data_space", False)),
        (POOL.replace("- rw", "77 ro").replace(" - 256", " needs_check 256"), (4, 120, 1024, 281, 3200, "ro", True)),
        ("0 409600 thin-pool Fail", (0, 0, 0, 0, 0, "Fail", True)),
        ("0 409600 thin-pool Error", (0, 0, 0, 0, 0, "Fail", True)),
    ],
)
def test_the_status_of_a_pool(line: str, wanted: tuple[object, ...]) -> None:
    assert dmsetup.pool_status(line.split()[1:], "pool") == wanted


@pytest.mark.parametrize(
    "line", ["", "0 8 linear", "0 8 thin-pool", POOL.replace("120/1024", "120"), "0 8 thin-pool x"]
)
def test_what_is_no_status_of_a_pool(line: str) -> None:
    with pytest.raises(DriverError, match="no status of a thin pool"):
        dmsetup.pool_status(line.split()[1:], "pool")


def test_the_status_of_a_thin_device() -> None:
    assert dmsetup.mapped_sectors(["131072", "thin", "34816", "131071"], "d") == 34816
    assert dmsetup.mapped_sectors(["131072", "thin", "0", "-"], "d") == 0
    for line in ("131072 thin Fail", "131072 linear 1", ""):
        with pytest.raises(DriverError, match="no status of a thin device"):
            dmsetup.mapped_sectors(line.split(), "d")


@pytest.fixture
def fake_dmsetup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A dmsetup that says what the file ``says`` beside it holds, and fails."""
    program = tmp_path / "dmsetup"
    program.write_text(f"#!/bin/sh\ncat {tmp_path}/says >&2\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return tmp_path / "says"


@pytest.mark.parametrize(
    "says,number,text",
    [
        ("device-mapper: message ioctl on pool  failed: File exists\nCommand failed.\n", errno.EEXIST, "File exists"),
        ("device-mapper: remove ioctl on x  failed: Device or resource busy\n", errno.EBUSY, "busy"),
        ("Device x not found\nCommand failed.\n", errno.ENXIO, "no such device"),
        ("Device does not exist.\nCommand failed.\n", errno.ENXIO, "no such device"),
        ("device-mapper: create ioctl on x  failed: No data available\n", errno.ENODATA, "No data available"),
        ("Something else\nCommand failed.\n", errno.EIO, "Something else"),
        ("", errno.EIO, "failed without a word"),
    ],
)
def test_errors_have_a_number(fake_dmsetup: Path, says: str, number: int, text: str) -> None:
    fake_dmsetup.write_text(says)
    with pytest.raises(dmsetup.DmError) as caught:
        dmsetup.message("x", "delete", "1")
    assert caught.value.errno == number and text in str(caught.value) and "\n" not in str(caught.value)


def test_without_dmsetup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_args: object, **_keywords: object) -> None:
        raise FileNotFoundError

    monkeypatch.setattr("subprocess.run", missing)
    with pytest.raises(DriverError, match="install the package dmsetup"):
        dmsetup.targets()


@pytest.mark.parametrize(
    "text,size", [("1", 1), ("64K", 65536), ("10g", 10 << 30), ("2MiB", 2 << 20), (" 1T ", 1 << 40)]
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text, "X") == size


@pytest.mark.parametrize("text", ["", "0", "-1", "1.5G", "G", "ten", "1P"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(DriverError, match="is no size"):
        parse_size(text, "X")


def test_the_environment() -> None:
    assert from_environment({}) == Options()
    found = from_environment({"FASTLAYER_DM_FS": "xfs", "FASTLAYER_DM_LOW_WATER": "7%", "FASTLAYER_DM_DATA_SIZE": "1T"})
    assert found == Options(file_system="xfs", low_water=7, data_size=1 << 40)
    assert from_environment({"FASTLAYER_DM_DATA": "/dev/a", "FASTLAYER_DM_METADATA": "/dev/b"}).data == "/dev/a"


@pytest.mark.parametrize(
    "options,why",
    [
        (Options(data="/dev/a"), "go together"),
        (Options(data="/dev/a", metadata="/dev/a"), "a block device each"),
        (Options(block_size=4096), "multiple of 64K"),
        (Options(block_size=100 << 10), "multiple of 64K"),
        (Options(low_water=95), "0 to 90"),
        (Options(file_system="btrfs"), "use ext4 or xfs"),
        (Options(file_system="xfs", base_size=100 << 20), "needs 300M"),
    ],
)
def test_options_that_cannot_be_meant(options: Options, why: str) -> None:
    with pytest.raises(DriverError, match=why):
        check(options)


def test_books_come_back(tmp_path: Path) -> None:
    books = Books(tmp_path)
    assert books.pool() is None and books.journal() is None and not books.numbers()
    made = books.make_pool(Options(low_water=3))
    books.set_snapshot(7, SnapshotBook(7, 1 << 20))
    books.set_journal(Change(3, "create", 7, "source"))
    again = Books(tmp_path)
    assert again.pool() == made and again.numbers() == {7}
    assert again.snapshot(7) == SnapshotBook(7, 1 << 20) and again.journal() == Change(3, "create", 7, "source")
    again.drop_snapshot(7)
    again.drop_snapshot(7)
    assert again.snapshot(7) is None


@pytest.mark.parametrize("text", ["", "[]", '{"x": 1}', "\0" * 60])
def test_damaged_books(tmp_path: Path, text: str) -> None:
    books = Books(tmp_path)
    books.make_pool(Options())
    for path in (tmp_path / "pool.json", tmp_path / "journal", tmp_path / "snapshots" / "1"):
        path.write_text(text)
    for read in (books.pool, books.journal, lambda: books.snapshot(1)):
        with pytest.raises(CorruptStoreError, match="damaged"):
            read()


def test_the_lock_is_inherited_by_programs(tmp_path: Path) -> None:
    books = Books(tmp_path)
    assert dmsetup.lock_descriptors() == ()
    with books.lock():
        (fd,) = dmsetup.lock_descriptors()
        assert os.path.samestat(os.fstat(fd), os.stat(tmp_path / "lock"))
    assert dmsetup.lock_descriptors() == ()


def test_own_blocks_of_a_delta() -> None:
    xml = """<superblock uuid="" time="3" transaction="5" data_block_size="128"><diff left="1" right="2">
      <different begin="0" length="2"/><same begin="2" length="30"/><left_only begin="40" length="5"/>
      <right_only begin="50" length="7"/></diff></superblock>"""
    assert count(xml) == 9


def test_a_mount_with_a_subdirectory() -> None:
    mount = Mount("ext4", "/dev/mapper/x", ("ro",), subdirectory="rootfs")
    assert mount.to_dict() == {"type": "ext4", "source": "/dev/mapper/x", "options": ["ro"], "subdirectory": "rootfs"}
    assert "subdirectory" not in Mount("bind", "/x").to_dict()
