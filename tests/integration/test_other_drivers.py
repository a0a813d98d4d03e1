"""An image that was committed under one driver is used under another: its top layer has no blob, only a snapshot."""

from __future__ import annotations

import gc
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from fastlayer.container import writable
from fastlayer.container.commit import commit
from fastlayer.container.mounting import mount_image, temporary, unmount
from fastlayer.errors import CorruptStoreError, DriverError
from fastlayer.image.holders import holders, tar_of
from fastlayer.image.images import Image, Images
from fastlayer.image.importing import import_image
from fastlayer.image.materialize import materialize
from fastlayer.image.save import save
from fastlayer.image.unpack import ensure_unpacked
from fastlayer.maintenance.check import check
from fastlayer.store.collect import collect
from fastlayer.store.store import Store, open_store
from fastlayer.testing import snapshotter_suite as suite
from fastlayer.testing.dump import difference, dump
from tests.conftest import needs_root
from tests.filesystems import loop_fs
from tests.snapshots import mounted

pytestmark = needs_root
PAIRS = [
    pytest.param("tmpfs", "overlay2", "vfs", id="overlay2-vfs"),
    pytest.param("tmpfs", "vfs", "overlay2", id="vfs-overlay2"),
    pytest.param("btrfs", "btrfs", "overlay2", id="btrfs-overlay2"),
    pytest.param("btrfs", "overlay2", "btrfs", id="overlay2-btrfs"),
    pytest.param("btrfs", "btrfs", "vfs", id="btrfs-vfs"),
    pytest.param("btrfs", "vfs", "btrfs", id="vfs-btrfs"),
]


@pytest.fixture
def place(request: pytest.FixtureRequest) -> Iterator[Path]:
    """A directory on a file system on which the drivers work."""
    from tests.integration.test_filesystems import tmpfs

    kind = getattr(request, "param", "tmpfs")
    with loop_fs("btrfs", 512 << 20) if kind == "btrfs" else tmpfs() as where:
        yield where
        gc.collect()  # a dead traceback may hold a file open


def committed(place: Path, driver: str) -> tuple[Image, dict[str, Any]]:
    """The image ``app``: imported, changed and committed twice under the driver. And its tree."""
    origin = place / "origin"
    origin.mkdir()
    suite.base(origin)
    with open_store(place / "store", driver=driver) as store:
        image = import_image(store, origin, "base")
        for number in range(2):
            layer = writable.create(store, image, f"work{number}")
            with mounted(store.snapshotter, layer.key) as tree:
                if number == 0:
                    suite.edit(tree)
                (tree / f"round{number}").write_bytes(os.urandom(100_000))
            image = commit(store, layer, "app" if number else "between")
        with temporary(store, image) as tree:
            return image, dump(tree)


@contextmanager
def opened(place: Path, driver: str) -> Iterator[Store]:
    with open_store(place / "store", driver=driver) as store:
        yield store


def command(place: Path, driver: str, *words: str | Path, code: int = 0) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "fastlayer", *words, "--root", place / "store", "--driver", driver],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == code, done.stderr
    assert len(done.stderr.splitlines()) == (code != 0), done.stderr
    return done.stderr if code else done.stdout


@pytest.mark.parametrize("place, first, second", PAIRS, indirect=["place"])
def test_the_other_driver_shows_the_same_tree(place: Path, first: str, second: str) -> None:
    image, wanted = committed(place, first)
    with opened(place, second) as store:
        found = Images(store).find("app")
        assert found == image and not any(layer.present for layer in found.layers)
        with temporary(store, found) as tree:
            assert not difference(wanted, dump(tree)), difference(wanted, dump(tree))
        assert holders(store, str(found.chain_id)) == [first, second]
        assert not any(store.content.has(layer.digest) for layer in found.layers), "no blob was needed"
        assert not check(store).findings
        collect(store)
        assert holders(store, str(found.chain_id)) == [first, second]


@pytest.mark.parametrize("place, first, second", PAIRS, indirect=["place"])
def test_layers_go_on_under_the_other_driver(place: Path, first: str, second: str) -> None:
    """Writable layer, commit, save and the blobs, and back again; the digests stay what they are."""
    image, _ = committed(place, first)
    with opened(place, second) as store:
        layer = writable.create(store, image, "more")
        with mounted(store.snapshotter, layer.key) as tree:
            (tree / "more").write_text("more")
            (tree / "round0").unlink()
        third = commit(store, layer, "third")
        assert [layer.digest for layer in third.layers[:-1]] == [layer.digest for layer in image.layers]
        with temporary(store, third) as tree:
            wanted = dump(tree)
    with opened(place, first) as store:
        with temporary(store, third) as tree:
            assert not difference(wanted, dump(tree)), difference(wanted, dump(tree))
        save(store, ["third"], place / "third.tar")
        for info in third.layers:
            store.content.check(info.digest)
        assert not check(store).findings


def test_blobs_are_made_of_another_drivers_snapshot(place: Path) -> None:
    image, _ = committed(place, "overlay2")
    with opened(place, "vfs") as store:
        assert materialize(store, image) == [layer.digest for layer in image.layers]
        assert holders(store, str(image.chain_id)) == ["overlay2"], "nothing was unpacked for it"
        for layer in image.layers:
            store.content.check(layer.digest)


def test_the_commands(place: Path) -> None:
    image, wanted = committed(place, "overlay2")
    target = place / "target"
    target.mkdir()
    command(place, "vfs", "mount", "app", target)
    try:
        assert not difference(wanted, dump(target))
    finally:
        command(place, "vfs", "umount", target)
    assert "round1" in command(place, "vfs", "diff", "between", "app")
    with opened(place, "vfs") as store:
        assert holders(store, str(image.chain_id)) == ["overlay2", "vfs"]
    with open_store(place / "store") as store:
        assert store.snapshotter.driver.name == "overlay2", "the store goes on with the driver it began with"


def test_a_store_goes_on_with_the_driver_it_began_with(place: Path) -> None:
    image, _ = committed(place, "vfs")
    with opened(place, "overlay2") as store:
        ensure_unpacked(store, image)
    with open_store(place / "store") as store:
        assert store.snapshotter.driver.name == "vfs"


def test_a_mount_under_the_driver_of_the_environment(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, wanted = committed(place, "vfs")
    target = place / "target"
    target.mkdir()
    monkeypatch.setenv("FASTLAYER_DRIVER", "overlay2")
    with open_store(place / "store") as store:
        found = mount_image(store, Images(store).find("app"), target)
        try:
            assert found.driver == "overlay2"
            assert not difference(wanted, dump(target))
        finally:
            unmount(store, str(target))


@pytest.mark.parametrize("driver, other", [("overlay2", "vfs"), ("vfs", "overlay2")])
def test_a_snapshot_that_gives_another_layer_is_refused(place: Path, driver: str, other: str) -> None:
    image, _ = committed(place, driver)
    with opened(place, other) as store:  # by itself: layers that are made at the same time end with the one that fails
        ensure_unpacked(store, Images(store).find("between"))
    with opened(place, driver) as store:
        number, _ = store.snapshotter.number(str(image.chain_id))
        own = store.snapshotter.driver.own_tree(number)
        assert own is not None
        (own / "round1").write_bytes(b"damaged")
    with opened(place, other) as store:
        with pytest.raises(CorruptStoreError, match=f"the driver {driver} does not give the layer"):
            ensure_unpacked(store, image)
        assert holders(store, str(image.chain_id)) == [driver]
        below = store.snapshotter.stat(str(Images(store).find("between").chain_id))
        assert below.kind == "committed", "what was complete stays"
        assert [info.kind for info in store.snapshotter.walk()] == ["committed", "committed"]


@pytest.mark.parametrize("place", ["btrfs"], indirect=True)
@pytest.mark.parametrize("damage", ["another file", "nothing there"])
def test_the_other_holder_is_asked(place: Path, damage: str) -> None:
    """Two drivers have the layer; the first one's is damaged."""
    image, wanted = committed(place, "overlay2")
    with opened(place, "vfs") as store:
        ensure_unpacked(store, image)
    with opened(place, "overlay2") as store:
        own = store.snapshotter.driver.own_tree(store.snapshotter.number(str(image.chain_id))[0])
        assert own is not None
        if damage == "another file":
            (own / "round1").write_bytes(b"damaged")
        else:
            shutil.rmtree(own.parent)
    with opened(place, "btrfs") as store:
        with temporary(store, image) as tree:
            assert not difference(wanted, dump(tree))
        materialize(store, image)
        store.content.check(image.layers[-1].digest)


@pytest.mark.parametrize("place", ["btrfs"], indirect=True)
def test_a_driver_whose_file_system_is_away(place: Path, tmp_path: Path) -> None:
    image, _ = committed(place, "btrfs")
    away = place / "away"
    (place / "store/btrfs").rename(away)
    for words in (["diff", "app", str(tmp_path)], ["save", "app", "-o", str(tmp_path / "x.tar")]):
        line = command(place, "vfs", *words, code=1)
        assert "driver btrfs: its file system is not there" in line and "mount it again" in line
        assert image.layers[0].digest in line
    assert not (tmp_path / "x.tar").exists()
    away.rename(place / "store/btrfs")
    command(place, "vfs", "diff", "app", str(tmp_path))


def test_the_readers_error_is_the_one_that_is_told(place: Path) -> None:
    """... not the closed pipe that the writer sees because of it."""
    image, _ = committed(place, "overlay2")
    top = image.layers[-1]
    with (
        opened(place, "overlay2") as store,
        pytest.raises(DriverError, match="of the reader"),
        tar_of(store, top.digest, top.diff_id, str(image.chain_id)),
    ):
        raise DriverError("of the reader")


# A reader that stops after the first layers, as if killed in the middle of the last.
_KILLED = """
import os, signal, sys
from fastlayer.image import unpack
from fastlayer.image.images import Images
from fastlayer.store.store import open_store
real = unpack.tar_of
def tar_of(store, digest, diff_id, name):
    if name == sys.argv[3]:
        real_open = real(store, digest, diff_id, name)
        source = real_open.__enter__()
        os.read(source, 512)
        os.kill(os.getpid(), signal.SIGKILL)
    return real(store, digest, diff_id, name)
unpack.tar_of = tar_of
with open_store(sys.argv[1], driver=sys.argv[2]) as store:
    unpack.ensure_unpacked(store, Images(store).find("app"))
"""


@pytest.mark.parametrize("first, second", [("overlay2", "vfs"), ("vfs", "overlay2")])
def test_killed_while_it_is_made(place: Path, first: str, second: str) -> None:
    image, wanted = committed(place, first)
    killed = subprocess.run(
        [sys.executable, "-c", _KILLED, place / "store", second, str(image.chain_id)], timeout=60, check=False
    )
    assert killed.returncode == -signal.SIGKILL
    with opened(place, second) as store:
        assert holders(store, str(image.chain_id)) == [first], "what is not complete is not named"
        with temporary(store, image) as tree:
            assert not difference(wanted, dump(tree))
        collect(store)
        assert not check(store).findings
        assert len(list(store.snapshotter.walk())) == 3


def test_what_is_being_read_is_not_collected(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The image loses its name meanwhile, and someone collects garbage."""
    from fastlayer.image import unpack

    image, wanted = committed(place, "overlay2")
    real = unpack.tar_of

    def tar_of(store: Store, *given: Any) -> Any:
        with opened(place, "overlay2") as other:
            for name in ("app", "between", "base"):
                with other.database.write() as db:
                    db.execute("DELETE FROM images WHERE name LIKE ?", (f"%/{name}:%",))
            for name in ("work0", "work1"):
                with other.database.write() as db:
                    exists = db.execute("SELECT 1 FROM writable WHERE name = ?", (name,)).fetchone()
                if exists:
                    writable.remove(other, name)
            collect(other)
        return real(store, *given)

    monkeypatch.setattr(unpack, "tar_of", tar_of)
    with opened(place, "vfs") as store:
        ensure_unpacked(store, image)
        assert len(list(store.snapshotter.walk())) == 3
        with temporary(store, image) as tree:
            assert not difference(wanted, dump(tree))
