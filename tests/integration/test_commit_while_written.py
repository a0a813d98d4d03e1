"""Commits of a mounted layer in which a service goes on writing: logs grow, files come and go."""

from __future__ import annotations

import errno
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from fastlayer.container import writable
from fastlayer.container.commit import commit
from fastlayer.container.mounting import mount_writable, temporary, unmount
from fastlayer.errors import InUseError, StorageError
from fastlayer.image.images import Images
from fastlayer.maintenance.check import check
from fastlayer.snapshot.snapshotter import Snapshotter
from fastlayer.store.store import open_store
from tests.filesystems import need_root
from tests.stores import imported

SERVICE = """
import os, sys, time
os.chdir(sys.argv[1])
log = open("log", "ab", buffering=0)
print("ready", flush=True)
number = 0
while True:
    number += 1
    log.write(b"line %d\\n" % number)
    open(f"file{number % 50}", "w").write("x" * number)
    if number > 25:
        os.unlink(f"file{(number - 25) % 50}")
    time.sleep(0.003)
"""


@pytest.mark.parametrize("driver", ["overlay2", "vfs"])
def test_a_service_that_writes(tmp_path: Path, driver: str) -> None:
    need_root()
    (tmp_path / "mnt").mkdir()
    with open_store(tmp_path / "store", driver=driver) as store:
        layer = writable.create(store, imported(store, tmp_path / "root"), "w")
        mount_writable(store, layer, tmp_path / "mnt")
        with subprocess.Popen([sys.executable, "-c", SERVICE, tmp_path / "mnt"], stdout=subprocess.PIPE) as service:
            try:
                assert service.stdout is not None and service.stdout.readline() == b"ready\n"
                for number in range(12):
                    commit(store, layer, f"live:{number}")
            finally:
                service.kill()
        unmount(store, "w")
        report = check(store)
        assert report.sound and report.images == 13
        with temporary(store, Images(store).find("live:5")) as path:
            lines = (path / "log").read_bytes().split(b"\n")
        assert [line for line in lines[:-1] if line] == [b"line %d" % (number + 1) for number in range(len(lines) - 1)]


LOG = """
import os, sys
log = open(sys.argv[1], "ab", buffering=0)
print("ready", flush=True)
while True:
    log.write(b"0123456789abcde\\n")
"""


@pytest.mark.parametrize("driver", ["overlay2", "vfs"])
@pytest.mark.parametrize("clamp", [None, 2_000_000_000])
def test_a_file_that_never_holds_still(tmp_path: Path, driver: str, clamp: int | None) -> None:
    """It is what it was at one moment, and what the image says is what its snapshot holds."""
    need_root()
    (tmp_path / "mnt").mkdir()
    with open_store(tmp_path / "store", driver=driver) as store:
        layer = writable.create(store, imported(store, tmp_path / "root"), "w")
        mount_writable(store, layer, tmp_path / "mnt")
        (tmp_path / "mnt/log").write_bytes(b"0123456789abcde\n" * (4 << 20))
        words = [sys.executable, "-c", LOG, tmp_path / "mnt/log"]
        warnings: list[str] = []
        with subprocess.Popen(words, stdout=subprocess.PIPE) as service:
            try:
                assert service.stdout is not None and service.stdout.readline() == b"ready\n"
                commit(store, layer, "live:1", source_date_epoch=clamp, warnings=warnings)
            finally:
                service.kill()
        unmount(store, "w")
        assert warnings == ["1 files changed while they were copied: each is as it was read"]
        assert check(store).sound
        with temporary(store, Images(store).find("live:1")) as path:
            lines = (path / "log").read_bytes()
        assert len(lines) >= 64 << 20 and lines == b"0123456789abcde\n" * (len(lines) // 16)
        assert {info.kind for info in store.snapshotter.walk()} == {"committed", "active"}


def test_a_directory_that_is_worked_in_without_a_mount(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody can tell whether somebody writes there, so what is hashed is the copy."""
    with open_store(tmp_path / "store", driver="vfs") as store:
        layer = writable.create(store, imported(store, tmp_path / "root"), "w")
        place = writable.directory(store, layer)
        (place / "file").write_bytes(b"before")
        real = Snapshotter.duplicate

        def duplicate(self: Snapshotter, name: str, key: str, **options: Any) -> int:
            time.sleep(0.5)  # who hashes the layer itself has done so by now
            (place / "file").write_bytes(b"after")
            return real(self, name, key, **options)

        monkeypatch.setattr(Snapshotter, "duplicate", duplicate)
        commit(store, layer, "live:1")
        assert check(store).sound
        with temporary(store, Images(store).find("live:1")) as path:
            assert (path / "file").read_bytes() == b"after"


def test_what_never_holds_still_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    need_root()
    (tmp_path / "mnt").mkdir()
    with open_store(tmp_path / "store", driver="overlay2") as store:
        layer = writable.create(store, imported(store, tmp_path / "root"), "w")
        mount_writable(store, layer, tmp_path / "mnt")
        (tmp_path / "mnt/file").write_bytes(b"x")
        tries = []

        def vanishing(self: Snapshotter, *_words: object, **_options: object) -> int:
            tries.append(1)
            raise StorageError(errno.ENOENT, "open", b"file")  # of one that goes

        monkeypatch.setattr(Snapshotter, "duplicate", vanishing)
        with pytest.raises(InUseError, match="files go faster than they can be copied"):
            commit(store, layer, "never:1")
        assert len(tries) > 3
        unmount(store, "w")
        assert check(store).sound
