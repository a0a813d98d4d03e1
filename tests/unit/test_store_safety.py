"""A store that lost something - its database, a driver's file system - and must not lose more."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from fastlayer.container import writable
from fastlayer.container.commit import commit
from fastlayer.container.mounting import mount_image, temporary, unmount
from fastlayer.drivers.vfs import Vfs
from fastlayer.errors import CorruptStoreError, DriverError, StorageError
from fastlayer.image.images import Images
from fastlayer.image.load import load
from fastlayer.maintenance.check import check
from fastlayer.store.collect import collect
from fastlayer.store.store import Store, open_store
from fastlayer.testing import snapshotter_suite as suite
from tests.filesystems import need_root
from tests.stores import Layout, imported, vfs_store


def with_layer(tmp_path: Path, driver: str = "vfs") -> Path:
    """A store with a writable layer ``w`` that something was written to; returns the layer's directory."""
    with open_store(tmp_path / "store", driver=driver) as store:
        writable.create(store, imported(store, tmp_path / "root"), "w")
        tree = tree_of(store, "w")
    (tree / "precious").write_text("data")
    return tree


def tree_of(store: Store, name: str) -> Path:
    number, _ = store.snapshotter.number(f"writable/{name}")
    tree = store.snapshotter.driver.own_tree(number)
    assert tree is not None
    return tree


def test_a_new_database_leaves_the_folders_of_the_old_one(tmp_path: Path) -> None:
    tree = with_layer(tmp_path)
    for path in (tmp_path / "store").glob("metadata.db*"):
        path.unlink()
    with vfs_store(tmp_path / "store") as store:
        writable.create(store, imported(store, tmp_path / "root"), "other")
        assert tree_of(store, "other").parent.name > tree.parent.name
    assert (tree / "precious").read_text() == "data"


def test_only_what_the_call_made_is_undone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with vfs_store(tmp_path / "store") as store:
        imported(store, tmp_path / "root")
        store.snapshotter.prepare("one")
        number, _ = store.snapshotter.number("one")
        foreign = store.snapshotter.driver.root / str(number + 1) / "tree"
        foreign.mkdir(parents=True)
        with pytest.raises(StorageError, match="exists"):
            store.snapshotter.prepare("two")
        assert foreign.is_dir() and not store.snapshotter.exists("two")
        create = Vfs.create

        def fail_in_the_end(*words: Any, **options: Any) -> None:
            create(*words, **options)
            raise ZeroDivisionError

        monkeypatch.setattr(Vfs, "create", fail_in_the_end)
        with pytest.raises(ZeroDivisionError):
            store.snapshotter.prepare("three")
        assert not (store.snapshotter.driver.root / str(number + 2)).exists()


@pytest.fixture(params=["overlay2", "vfs"])
def driver(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "overlay2":
        need_root()
    monkeypatch.setenv("FASTLAYER_DRIVER", request.param)
    return str(request.param)


def test_nothing_is_forgotten_while_the_file_system_is_away(tmp_path: Path, driver: str) -> None:
    root = tmp_path / "store"
    tree = with_layer(tmp_path, driver)
    for empty in (False, True):
        (root / driver).rename(root / "gone")
        if empty:
            (root / driver).mkdir()
        for work in (
            lambda store: check(store, repair=True),
            lambda store: writable.remove(store, "w"),
            lambda store: store.snapshotter,
        ):
            with open_store(root) as store, pytest.raises(DriverError, match="its file system is not there"):
                work(store)
        with open_store(root) as store:
            assert not collect(store).snapshots
        if empty:
            (root / driver).rmdir()
        (root / "gone").rename(root / driver)
        with open_store(root) as store:
            assert not check(store, repair=True).findings
    assert (tree / "precious").read_text() == "data"


def with_garbage(tmp_path: Path) -> tuple[Path, int, int]:
    """A store with three snapshots that nobody can reach, one of them on another, and the numbers of these two."""
    root = tmp_path / "store"
    with vfs_store(root) as store:
        imported(store, tmp_path / "root")
        for key in ("other", "lower"):
            store.snapshotter.prepare(key)
            store.snapshotter.commit(f"sha256:{key}", key)
        store.snapshotter.prepare("upper", "sha256:lower")
        store.snapshotter.commit("sha256:upper", "upper")
        upper, parents = store.snapshotter.number("sha256:upper")
    return root, parents[0], upper


def test_what_cannot_be_removed_keeps_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, lower, upper = with_garbage(tmp_path)
    remove = Vfs.remove

    def refused(driver: Vfs, number: int) -> None:
        if number == upper:
            raise StorageError(errno.EPERM, "cannot remove the snapshot")
        remove(driver, number)

    with monkeypatch.context() as patched, vfs_store(root) as store:
        patched.setattr(Vfs, "remove", refused)
        for gone in (1, 0):  # the second time it is what somebody else has left
            found = collect(store)
            assert found.snapshots == gone and [error.errno for error in found.failed] == [errno.EPERM]
            assert {lower, upper} <= store.snapshotter.driver.numbers(), "what lies below waits for it"
    with vfs_store(root) as store:
        assert not collect(store).failed
        assert not {lower, upper} & store.snapshotter.driver.numbers()
        assert not check(store).findings


def test_a_driver_that_is_away_keeps_nothing_of_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from fastlayer.cli.main import run

    root, *_ = with_garbage(tmp_path)
    with vfs_store(root) as store:
        image = imported(store, tmp_path / "second", "second")
        store.snapshotter.prepare("killed")
        with store.database.write() as db:  # others than these have nothing to do with what goes
            db.execute("UPDATE snapshots SET driver = 'btrfs' WHERE key IN ('sha256:other', 'killed')")
            db.execute("UPDATE snapshots SET lease = 'dead' WHERE key = 'killed'")
            db.execute("INSERT INTO driver_roots VALUES ('btrfs', 'of another file system')")
    monkeypatch.setenv("FASTLAYER_DRIVER", "vfs")
    assert run(["rmi", "second", "--root", str(root)]) == 1
    out, err = capsys.readouterr()
    assert f"Deleted: {image.id}" in out and "Traceback" not in err
    assert err and all("driver btrfs: its file system is not there" in line for line in err.splitlines()), err
    with vfs_store(root) as store:
        assert [info.key for info in store.snapshotter.walk()] == [str(Images(store).find("base:1").chain_id)]


def test_a_lost_file_system_is_given_up_on_demand(tmp_path: Path, driver: str) -> None:
    root = tmp_path / "store"
    with_layer(tmp_path, driver)
    identity = (root / driver / "identity").read_text()
    shutil.rmtree(root / driver)
    (root / driver).mkdir()
    (root / driver / "identity").write_text(identity)
    with open_store(root) as store:
        check(store, repair=True)
        assert not store.snapshotter.exists("writable/w")


@pytest.mark.parametrize("damage", ["changed", "missing", "extra", "link"])
def test_snapshots_are_what_their_layers_say(tmp_path: Path, driver: str, damage: str) -> None:
    layout = Layout(tmp_path / "layout")
    layout.image("app:1", [{"a": b"1", "d/b": b"2"}, {"c": b"3"}])
    with open_store(tmp_path / "store") as store:
        load(store, tmp_path / "layout")
        image = Images(store).find("app:1")
        layer = writable.create(store, image, "w")
        (tree_of(store, "w") / "mine").write_text("data")
        assert not check(store).findings
        for name in image.chain:  # vfs has whole trees
            place = store.snapshotter.driver.own_tree(store.snapshotter.number(str(name))[0])
            assert place is not None
            if not (place / "d/b").exists():
                continue
            if damage == "changed":
                (place / "d/b").write_bytes(b"x")
            elif damage == "extra":
                (place / "d/new").write_bytes(b"x")
            else:
                (place / "d/b").unlink()
                if damage == "link":
                    (place / "d/b").symlink_to("nowhere")
        (finding,) = check(store).findings
        assert finding.what == "image" and finding.why.startswith("/d/") and not finding.repaired
        assert check(store, repair=True).sound
        assert not check(store).findings
        with temporary(store, image) as path:
            assert (path / "d/b").read_bytes() == b"2" and sorted(os.listdir(path)) == ["a", "c", "d"]
        assert (tree_of(store, "w") / "mine").read_text() == "data"
        assert len(store.snapshotter.driver.numbers()) == 3, "the damaged ones are gone"
        commit(store, layer, "app:2")
        assert check(store).sound


def test_a_mounted_snapshot_is_not_exchanged(tmp_path: Path, driver: str) -> None:
    need_root()
    (tmp_path / "mnt").mkdir()
    layout = Layout(tmp_path / "layout")
    layout.image("app:1", [{"a": b"1"}, {"c": b"3"}])
    with open_store(tmp_path / "store") as store:
        load(store, tmp_path / "layout")
        image = Images(store).find("app:1")
        place = store.snapshotter.driver.own_tree(store.snapshotter.number(str(image.chain_id))[0])
        assert place is not None
        (place / "c").write_bytes(b"x")
        mount_image(store, image, tmp_path / "mnt")
        (finding,) = check(store, repair=True).findings
        assert "unmount" in finding.why and not finding.repaired
        unmount(store, str(tmp_path / "mnt"))
        assert check(store, repair=True).sound and not check(store).findings


def test_what_others_are_made_of_is_unpacked_again(tmp_path: Path, driver: str) -> None:
    """The lower two of three layers are gone from the disk; a writable layer is on top of the third."""
    layout = Layout(tmp_path / "layout")
    layout.image("app:1", [{"a": b"1"}, {"b": b"2"}, {"c": b"3"}])
    with open_store(tmp_path / "store") as store:
        load(store, tmp_path / "layout")
        image = Images(store).find("app:1")
        layer = writable.create(store, image, "w")
        (tree_of(store, "w") / "mine").write_text("data")
        for name in image.chain[:2]:
            number, _ = store.snapshotter.number(str(name))
            shutil.rmtree(store.snapshotter.driver.root / str(number))
        assert {finding.what for finding in check(store).findings} == {"snapshot"}
        assert not check(store).sound and "store check --repair" in check(store).findings[0].why
        report = check(store, repair=True)
        assert report.sound and len(report.findings) == 2
        assert not check(store).findings
        with temporary(store, image) as path:
            assert sorted(os.listdir(path)) == ["a", "b", "c"]
        with writable.changes(store, layer) as changes:
            assert [(change.kind, change.path) for change in changes if change.path != b""] == [("A", b"mine")]
        commit(store, layer, "app:2")
        with temporary(store, Images(store).find("app:2")) as path:
            assert sorted(os.listdir(path)) == ["a", "b", "c", "mine"]
        writable.remove(store, "w")
        assert check(store).sound


def test_without_its_blob_it_stays_lost(tmp_path: Path, driver: str) -> None:
    with_layer(tmp_path, driver)
    with open_store(tmp_path / "store") as store:
        (image,) = Images(store).all()
        number, _ = store.snapshotter.number(str(image.chain_id))
        shutil.rmtree(store.snapshotter.driver.root / str(number))
        for _ in range(2):
            report = check(store, repair=True)
            assert not report.sound
            assert store.snapshotter.exists(str(image.chain_id)) and store.snapshotter.exists("writable/w")


def test_a_lost_writable_layer_is_told_as_what_it_is(tmp_path: Path) -> None:
    """No image brings it back; --repair forgets it, and says what that means."""
    with vfs_store(tmp_path / "store") as store:
        layer = writable.create(store, imported(store, tmp_path / "root"), "work")
        shutil.rmtree(tree_of(store, layer.name).parent)
        for repair in (False, True):
            (finding,) = check(store, repair=repair).findings
            assert finding.why == "is not on disk, and with it what was written to the layer"
            assert finding.repaired is repair
        assert not writable.all_of(store) and not check(store).findings


def test_a_folder_nobody_knows_is_kept(tmp_path: Path, driver: str) -> None:
    with_layer(tmp_path, driver)
    for path in (tmp_path / "store").glob("metadata.db*"):
        path.unlink()
    with open_store(tmp_path / "store") as store:
        imported(store, tmp_path / "root")
        found = check(store, repair=True)
        assert found.sound and any("moved to" in finding.why for finding in found.findings)
        kept = list((tmp_path / "store" / driver / "lost+found").rglob("precious"))
        assert [path.read_text() for path in kept] == ["data"]
        assert len(Images(store).all()) == 2, "the layer of the old image is nowhere else: it is found by its digest"
        assert not check(store).findings


def test_a_damaged_database_says_what_stays(tmp_path: Path) -> None:
    with_layer(tmp_path)
    (tmp_path / "store/metadata.db").write_bytes(b"damaged" * 1000)
    with pytest.raises(CorruptStoreError, match=r"`fastlayer store check --repair` puts back the copy of 2"):
        vfs_store(tmp_path / "store").close()
    (tmp_path / "store/metadata.db.copy").unlink()
    with pytest.raises(CorruptStoreError, match=r"move it .* aside .*; writable layers stay on disk"):
        vfs_store(tmp_path / "store").close()


def test_a_copy_holds_what_its_layer_holds(tmp_path: Path, driver: str) -> None:
    need_root()
    with open_store(tmp_path / "store") as store:
        image = imported(store, tmp_path / "root")
        store.snapshotter.prepare("work", image.chain_id)
        with bench(store, tmp_path).mounted("work") as tree:
            (tree / "etc/hosts").unlink()
            deep = tree.joinpath(*("d" * 250 for _ in range(3)))
            deep.mkdir(parents=True)
            (deep / "link").symlink_to("nowhere")
            for path in (tree, tree / "etc", tree / "bin/tool", deep, deep / "link"):
                os.setxattr(path, "trusted.secret", b"1", follow_symlinks=False)
            os.setxattr(tree / "bin/tool", "user.note", b"2")
        store.snapshotter.duplicate("copy", "work")
        with bench(store, tmp_path).mounted("copy") as tree:
            assert not (tree / "etc/hosts").exists() and os.getxattr(tree / "bin/tool", "user.note") == b"2"
            for path in (tree, *tree.rglob("*")):
                assert "trusted.secret" not in os.listxattr(path, follow_symlinks=False), path
        with bench(store, tmp_path).mounted("work") as tree:
            assert os.getxattr(tree, "trusted.secret") == b"1"


def bench(store: Store, scratch: Path) -> suite.Bench:
    return suite.Bench(store.snapshotter, scratch)
