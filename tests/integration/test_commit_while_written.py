"""Commits of a mounted layer in which a service goes on writing: logs grow, files come and go."""

from __future__ import annotations

import errno
import subprocess
import sys
from pathlib import Path

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
import os, sys
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


def test_what_never_holds_still_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    need_root()
    (tmp_path / "mnt").mkdir()
    with open_store(tmp_path / "store", driver="overlay2") as store:
        layer = writable.create(store, imported(store, tmp_path / "root"), "w")
        mount_writable(store, layer, tmp_path / "mnt")
        (tmp_path / "mnt/file").write_bytes(b"x")
        tries = []

        def vanishing(self: Snapshotter, *_words: object, **_options: object) -> None:
            tries.append(1)
            raise StorageError(errno.ENOENT, "open", b"file")

        monkeypatch.setattr(Snapshotter, "duplicate", vanishing)
        with pytest.raises(InUseError, match="faster than they can be copied"):
            commit(store, layer, "never:1")
        assert len(tries) > 3
        unmount(store, "w")
        assert check(store).sound
