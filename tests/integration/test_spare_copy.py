"""The copy of a store's database: when it is made, and when it is not."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from fastlayer.errors import FastlayerError
from fastlayer.image.images import Images
from fastlayer.image.materialize import materialize
from fastlayer.maintenance.recover import check_store
from fastlayer.metadata import spare
from fastlayer.metadata.database import Database
from fastlayer.store.store import open_store
from tests.filesystems import need_root
from tests.integration.damaged import PAGE, Place, overwrite
from tests.stores import imported


@pytest.fixture(params=["overlay2", "vfs"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if request.param == "overlay2":
        need_root()
    return Place(tmp_path, request.param)


def test_a_damaged_database_is_never_copied(place: Place) -> None:
    good = place.copy.read_bytes()
    with place.open() as store, store.database.read() as db:
        page = db.execute("SELECT rootpage FROM sqlite_master WHERE name = 'blob_refs'").fetchone()[0]
    overwrite(place.path, (page - 1) * PAGE, os.urandom(PAGE))
    with place.open() as store, store.database.write() as db:
        db.execute("UPDATE layers SET payload = payload + 1")
    assert store.database.changed
    assert place.copy.read_bytes() == good


def test_readers_make_no_copy(place: Place) -> None:
    def stamp() -> tuple[int, int]:
        return place.copy.stat().st_ino, place.copy.stat().st_mtime_ns

    def run(*words: str) -> None:
        command = [sys.executable, "-m", "fastlayer", *words, "--root", str(place.root), "--driver", place.driver]
        assert subprocess.run(command, capture_output=True).returncode == 0, words

    run("system", "df")  # which remembers sizes
    before = stamp()
    for words in (
        ["images"],
        ["history", "app:1"],
        ["inspect", "app:1"],
        ["mounts"],
        ["system", "df"],
    ):
        run(*words)
        assert stamp() == before, words
    run("tag", "app:1", "app:3")
    assert stamp() != before
    assert not list(place.root.glob("metadata.db.copy.*")) and not list(place.root.glob("metadata.db.copy-*"))


def fill(path: Path) -> None:
    """Until nothing more can be written to its file system."""
    with open(path, "ab", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            pass


def test_a_full_disk_means_no_new_copy(tmp_path: Path) -> None:
    need_root()
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", small], check=True)
    try:
        with open_store(small / "store", driver="vfs") as store:
            materialize(store, imported(store, tmp_path / "tree"))
        copy = small / "store/metadata.db.copy"
        before = copy.stat().st_ino
        fill(small / "filler")
        with open_store(small / "store") as store:
            Images(store).tag("base:1", "other:1")
        assert copy.stat().st_ino == before and not copy.with_name("metadata.db.copy.new").exists()
        (small / "store/metadata.db").write_bytes(b"x" * 100)
        (small / "store/reserve").unlink(missing_ok=True)  # which repairing could give up
        fill(small / "filler")
        with pytest.raises(FastlayerError, match=r"No space left|full"):
            check_store(small / "store", repair=True)
        assert (small / "store/metadata.db").read_bytes() == b"x" * 100 and copy.stat().st_ino == before
        os.unlink(small / "filler")
        report = check_store(small / "store", repair=True)
        assert report.sound, report.findings
        with open_store(small / "store") as store:
            assert Images(store).find("base:1").id == Images(store).find("other:1").id
    finally:
        subprocess.run(["umount", "-l", small], check=True)


def test_a_large_database_is_copied_now_and_then(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spare, "_SMALL", 0)
    monkeypatch.setattr(spare, "_SPEED", 1)  # a byte a second: its copying takes days
    before = place.copy.stat().st_ino
    with place.open() as store:
        Images(store).tag("app:1", "x:1")
    assert place.copy.stat().st_ino == before
    os.utime(place.copy, (0, 0))
    with place.open() as store:
        Images(store).tag("app:1", "x:2")
    assert place.copy.stat().st_ino != before


def copied_names(place: Place) -> int:
    db = sqlite3.connect(f"file:{place.copy}?immutable=1", uri=True)
    try:
        return int(db.execute("SELECT count(*) FROM images").fetchone()[0])
    finally:
        db.close()


def test_many_at_once_leave_the_last_state(place: Place) -> None:
    """Who finds another one copying leaves it to that, and nothing is missing at the end."""
    pids = []
    for number in range(8):
        pid = os.fork()
        if not pid:
            status = 1
            try:
                for turn in range(5):
                    with place.open() as store:
                        Images(store).tag("app:1", f"n{number}:{turn}")
                status = 0
            finally:
                os._exit(status)
        pids.append(pid)
    assert [os.waitpid(pid, 0)[1] for pid in pids] == [0] * 8
    assert copied_names(place) == 43


def test_what_comes_while_a_copy_is_made_is_in_it(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    make = spare._make

    def interrupted(database: Database) -> int | None:
        monkeypatch.setattr(spare, "_make", make)
        seen = make(database)
        with place.open() as other:
            Images(other).tag("app:1", "other:1")
        return seen

    monkeypatch.setattr(spare, "_make", interrupted)
    with place.open() as store:
        Images(store).tag("app:1", "one:1")
    assert copied_names(place) == 5
