"""Parts of volumes, whatever is exchanged in them meanwhile; what an image has goes into a new one."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastlayer import _backend
from fastlayer.errors import (
    NotFoundError,
    UsageError,
)
from fastlayer.store.store import Store
from fastlayer.volume import books
from fastlayer.volume import subpath as parts
from fastlayer.volume.volumes import Volumes, clear_dead
from tests.conftest import needs_root
from tests.stores import tree, vfs_store
from tests.volumes import content, filled


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with vfs_store(tmp_path / "store") as store:
        yield store


@pytest.fixture
def volumes(store: Store) -> Volumes:
    return Volumes(store)


# ---- parts of volumes -------------------------------------------------------------------------------


@needs_root
def test_a_part_and_read_only(volumes: Volumes) -> None:
    place = filled(volumes)
    part = volumes.acquire("data", "one", subpath="dir", read_only=True)
    assert content(part) == {"b": "22", "sub/c": "333"}
    assert volumes.acquire("data", "one", subpath="dir", read_only=True) == part
    with pytest.raises(OSError, match="Read-only"):
        (part / "b").write_text("x")
    other = volumes.acquire("data", "one", subpath="dir")
    assert other != part
    (other / "new").write_text("x")
    assert (place / "dir/new").read_text() == "x"
    single = volumes.acquire("data", "one", subpath="a")
    assert single.read_text() == "1"
    volumes.release("one")
    assert not part.exists() and not single.exists()
    assert list((volumes.store.root / "volumes/.binds").iterdir()) == []


@pytest.mark.parametrize("subpath", ["/etc", "..", "dir/../../x", "a\0b"])
def test_parts_are_relative(volumes: Volumes, subpath: str) -> None:
    volumes.create("data")
    with pytest.raises(UsageError, match="relative path"):
        volumes.acquire("data", "one", subpath=subpath)
    assert volumes.in_use() == set()


@pytest.fixture(params=["openat2", "walk"])
def resolver(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """With the kernel's resolution, and without."""
    if request.param == "walk":

        def missing(_root: int, _path: bytes) -> int:
            raise OSError(38, "Function not implemented")

        monkeypatch.setattr(parts, "_openat2", missing)
    return str(request.param)


@needs_root
def test_links_lead_nowhere_out(volumes: Volumes, tmp_path: Path, resolver: str) -> None:
    """CVE-2021-25741 and its like: absolute links are taken from the volume, `..` stops at it."""
    tree(tmp_path / "outside", {"secret": "s"})
    place = filled(volumes)
    (place / "absolute").symlink_to(tmp_path / "outside")
    (place / "up").symlink_to("../../../../../../../../" + str(tmp_path / "outside"))
    (place / "inside").symlink_to("/dir")
    (place / "self").symlink_to("self")
    for bad in ("absolute", "up", "self", "missing", "a/b"):
        with pytest.raises(NotFoundError, match=f"subpath {bad}"):
            volumes.acquire("data", "one", subpath=bad)
    assert content(volumes.acquire("data", "one", subpath="inside")) == {"b": "22", "sub/c": "333"}
    volumes.release("one")


@needs_root
def test_a_link_exchanged_meanwhile(volumes: Volumes, tmp_path: Path, resolver: str) -> None:
    """Somebody swaps a directory and a link to the outside without pause: what is bound is always of the volume."""
    tree(tmp_path / "outside", {"secret": "s"})
    place = filled(volumes)
    tree(place / "x", {"own": "1"})
    (place / "link").symlink_to(tmp_path / "outside")
    stop = threading.Event()

    def swap() -> None:
        directory = os.open(place, os.O_RDONLY)
        from fastlayer.layer import libc

        while not stop.is_set():
            libc.exchange(directory, b"x", b"link")
        os.close(directory)

    thread = threading.Thread(target=swap)
    thread.start()
    seen = 0
    try:
        for _ in range(60):
            try:
                part = volumes.acquire("data", "one", subpath="x")
            except NotFoundError:
                continue
            seen += 1
            assert content(part) == {"own": "1"}
            volumes.release("one")
    finally:
        stop.set()
        thread.join()
        volumes.release("one")
    assert seen


@needs_root
def test_neither_directory_nor_file(volumes: Volumes) -> None:
    place = filled(volumes)
    os.mkfifo(place / "fifo")
    with pytest.raises(UsageError, match="neither"):
        volumes.acquire("data", "one", subpath="fifo")


@needs_root
def test_binds_of_the_dead_are_swept(volumes: Volumes) -> None:
    filled(volumes)
    part = volumes.acquire("data", "one", subpath="dir")
    kept = volumes.acquire("data", "two", subpath="dir")
    books.drop_user(volumes.store, "data", "one")
    clear_dead(volumes.store)
    assert not part.exists()
    assert content(kept) == {"b": "22", "sub/c": "333"}
    volumes.release("two")


# ---- an image's files -------------------------------------------------------------------------------


@needs_root
def test_an_empty_volume_gets_what_the_image_has(volumes: Volumes, tmp_path: Path, engine: _backend.Engine) -> None:
    image = tree(tmp_path / "image", {"var/lib/db/f": "1", "var/lib/db/sub/g": "2", "file": "x"})
    os.chown(image / "var/lib/db", 70, 71)
    (image / "var/lib/db").chmod(0o2750)
    (image / "data").symlink_to("/var/lib/db")
    volumes.create("data")
    assert not volumes.populate("data", image, "/var/lib/db", nocopy=True)
    assert volumes.populate("data", image, "/data")
    place = volumes.acquire("data", "one")
    assert content(place) == {"f": "1", "sub/g": "2"}
    found = place.stat()
    assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (70, 71, 0o2750)
    (image / "var/lib/db/new").write_text("3")
    assert not volumes.populate("data", image, "/var/lib/db")
    assert "new" not in content(place)


def test_nothing_to_copy(volumes: Volumes, tmp_path: Path) -> None:
    image = tree(tmp_path / "image", {"file": "x"})
    (image / "out").symlink_to("/../../etc")
    volumes.create("data")
    for path in ("/missing", "/file", "/out", "/file/x"):
        assert not volumes.populate("data", image, path)
    assert content(volumes.acquire("data", "one")) == {}


def test_filling_that_was_killed_begins_again(volumes: Volumes, tmp_path: Path) -> None:
    image = tree(tmp_path / "image", {"d/one": "1", "d/two": "2"})
    volumes.create("data")
    place = volumes.acquire("data", "one")
    (place / "one").write_text("ha")
    books.set_filling(volumes.store, "data", "0123456789abcdef")
    assert volumes.populate("data", image, "/d")
    assert content(place) == {"one": "1", "two": "2"}
    assert not volumes.populate("data", image, "/d")
