"""A store on a file system that has become read-only: what it holds can be looked at and saved, and nothing changes."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import fastlayer
from fastlayer.container import writable
from fastlayer.image.load import load
from fastlayer.image.materialize import materialize
from fastlayer.store.store import existing_store, open_store
from tests.filesystems import need_root
from tests.integration.command import COMMAND
from tests.stores import imported, vfs_store

CHANGES = "cannot change the store: Read-only file system: make its file system writable again, or `save` its images"


@pytest.fixture(params=["overlay2", "vfs"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A tmpfs with a store: two images, one of them with all its blobs, and a writable layer that was written to."""
    need_root()
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", disk], check=True)
    try:
        with open_store(disk / "store", driver=request.param) as store:
            image = imported(store, tmp_path / "tree")
            materialize(store, image)
            writable.create(store, image, "w")
            imported(store, tmp_path / "other", "lazy:1")
            number, _ = store.snapshotter.number("writable/w")
            tree = store.snapshotter.driver.own_tree(number)
            assert tree is not None
        (tree / "written").write_text("x")
        yield disk
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


def close(disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)


def killed(disk: Path, *, keep_shm: bool) -> None:
    """What a process that was killed leaves: the latest changes are in -wal."""
    code = f"""
import os
from pathlib import Path
from fastlayer.image.images import Images
from fastlayer.store.store import existing_store
store = existing_store(Path({os.fspath(disk / "store")!r}))
Images(store).tag("base:1", "late:1")
os._exit(0)
"""
    subprocess.run([sys.executable, "-c", code], check=True)
    assert (disk / "store/metadata.db-wal").stat().st_size
    if not keep_shm:
        (disk / "store/metadata.db-shm").unlink()


def state(disk: Path) -> dict[str, str]:
    return {
        os.path.relpath(path, disk): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(disk.rglob("*"))
        if path.is_file()
    }


def run(disk: Path, *words: object, code: int = 0) -> str:
    done = subprocess.run(
        [*COMMAND, *map(str, words), "--root", disk / "store"],
        capture_output=True,
        text=True,
        check=False,
        cwd=disk.parent,
    )
    assert done.returncode == code, done.stderr
    assert len(done.stderr.splitlines()) == (1 if code else 0), done.stderr
    return done.stderr if code else done.stdout


@pytest.mark.parametrize("left", ["nothing", "-wal and -shm", "-wal"])
def test_what_is_there_can_be_read(place: Path, tmp_path: Path, left: str) -> None:
    if left != "nothing":
        killed(place, keep_shm=left == "-wal and -shm")
    close(place)
    before = state(place)
    listed = run(place, "images", "--format", "{{.Repository}}").split()
    assert listed == (["base", "lazy"] if left == "nothing" else ["base", "late", "lazy"])
    name = "base:1" if left == "nothing" else "late:1"
    assert "imported from tree" in run(place, "history", name)
    assert '"Id"' in run(place, "inspect", name)
    assert "w" in run(place, "mounts")
    assert "base" in run(place, "system", "df", "-v")
    assert "sound" in run(place, "store", "check")
    assert run(place, "diff", "w") == "C /\nA /written\n"
    assert "C /bin/tool" in run(place, "diff", "base:1", "lazy:1")
    run(place, "save", name, "-o", tmp_path / "saved.tar")
    assert state(place) == before
    with vfs_store(tmp_path / "rescued") as store:
        (found,) = load(store, tmp_path / "saved.tar")
    assert found.names


def test_what_is_mounted_can_be_unmounted(place: Path, tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    run(place, "mount", "base:1", tmp_path / "m")
    close(place)
    assert str(tmp_path / "m") in run(place, "mounts")
    assert (tmp_path / "m/etc/passwd").read_text() == "root\n"
    run(place, "umount", tmp_path / "m")
    assert not os.path.ismount(tmp_path / "m") and str(tmp_path / "m") not in run(place, "mounts")


WRITERS: dict[str, Callable[[Path], list[object]]] = {
    "rmi": lambda tmp: ["rmi", "lazy:1"],
    "tag": lambda tmp: ["tag", "base:1", "new"],
    "rm": lambda tmp: ["rm", "w"],
    "commit": lambda tmp: ["commit", "w", "new"],
    "mount": lambda tmp: ["mount", "base:1", tmp],
    "mount --rw": lambda tmp: ["mount", "--rw", "base:1", tmp],
    "mount w": lambda tmp: ["mount", "--rw", "--name", "w", "base:1", tmp],
    "import": lambda tmp: ["import", tmp, "new"],
    "materialize": lambda tmp: ["image", "materialize", "lazy:1"],
    "save what has no blobs": lambda tmp: ["save", "lazy:1", "-o", tmp / "x.tar"],
    "system prune": lambda tmp: ["system", "prune", "-f", "-a"],
    "image prune": lambda tmp: ["image", "prune", "-f", "-a"],
    "gc": lambda tmp: ["store", "gc"],
    "load": lambda tmp: ["load", "-i", tmp.parent / "some.tar"],
}


@pytest.mark.parametrize("verb", WRITERS)
def test_what_would_change_it_says_that_it_is_read_only(place: Path, tmp_path: Path, verb: str) -> None:
    (tmp_path / "m").mkdir()
    run(place, "save", "base:1", "-o", tmp_path / "some.tar")
    close(place)
    before = state(place)
    said = run(place, *WRITERS[verb](tmp_path / "m"), code=1)
    assert CHANGES in said and "metadata.db" in said
    assert state(place) == before and not os.listdir(tmp_path / "m")


def test_copy_up_into_a_layer(place: Path) -> None:
    """With vfs the layer has all files already."""
    close(place)
    if (place / "store/overlay2").exists():
        said = run(place, "copy-up", "w", "etc/hosts", code=1)
        assert "Read-only file system: choose a place that can be written" in said
    else:
        run(place, "copy-up", "w", "etc/hosts")


def test_where_no_store_is_none_can_be_made(place: Path) -> None:
    shutil.rmtree(place / "store")
    close(place)
    assert "Read-only file system: choose a place that can be written" in run(place, "import", "tree", "x", code=1)


def test_a_store_that_is_writable_again(place: Path) -> None:
    close(place)
    with existing_store(place / "store") as store, pytest.raises(fastlayer.StorageError, match="Read-only"):
        assert store.read_only
        with store.database.write():
            pass
    subprocess.run(["mount", "-o", "remount,rw", place], check=True)
    with existing_store(place / "store") as store:
        assert not store.read_only
    run(place, "tag", "base:1", "new")
