"""Images of a store: import, names, history, removal, garbage."""

from __future__ import annotations

import bz2
import lzma
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from fastlayer.container import writable
from fastlayer.container.commit import commit
from fastlayer.container.mounting import temporary
from fastlayer.content.files import write_all
from fastlayer.errors import (
    InUseError,
    LayerFormatError,
    NotFoundError,
    OperandError,
    ReferenceFormatError,
    StoreError,
    UsageError,
)
from fastlayer.image.history import history
from fastlayer.image.images import Images
from fastlayer.image.load import Options, load
from fastlayer.image.materialize import materialize
from fastlayer.image.pipe import piped
from fastlayer.maintenance.check import check
from fastlayer.maintenance.disk import disk_usage
from fastlayer.oci.mediatypes import LAYER
from fastlayer.store.collect import collect
from fastlayer.store.store import Store, existing_store, open_store
from fastlayer.testing.dump import dump
from tests.stores import LAYERS, Layout, content, imported, sound, tree, vfs_store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with vfs_store(tmp_path / "store") as found:
        yield found


# ---- import --------------------------------------------------------------------------------------


def test_an_imported_directory_is_an_image(store: Store, tmp_path: Path) -> None:
    image = imported(store, tmp_path / "root")
    assert image.names == ("docker.io/library/base:1",)
    assert image.size == 5000 + len("root\nlocalhost\n")
    with temporary(store, image) as path:
        ours, theirs = dump(path), dump(tmp_path / "root")
    for found in (ours, theirs):
        found["."].pop("mtime_ns")  # a layer does not carry the root
    assert ours == theirs
    sound(store)


def test_an_imported_tar_keeps_its_blob(store: Store, tmp_path: Path) -> None:
    import fastlayer
    from fastlayer.image.importing import import_image

    (tmp_path / "empty").mkdir()
    made = fastlayer.diff(tmp_path / "empty", tree(tmp_path / "root", {"a": "1", "b/c": "2"}), tmp_path / "l.tar.gz")
    image = import_image(store, tmp_path / "l.tar.gz", "from-tar")
    assert image.layers[0].digest == made.digest and image.layers[0].diff_id == made.diff_id
    assert store.content.path_of(made.digest).read_bytes() == (tmp_path / "l.tar.gz").read_bytes()
    assert content(store, "from-tar") == {"a": b"1", "b/c": b"2"}
    with open(tmp_path / "l.tar.gz", "rb") as file:
        assert import_image(store, file, "again").layers[0].digest == made.digest
    sound(store)


@pytest.mark.parametrize("form", ["path", "file", "pipe"])
@pytest.mark.parametrize("pack", [lzma.compress, bz2.compress], ids=["xz", "bzip2"])
def test_an_imported_xz_is_kept_expanded(
    store: Store, tmp_path: Path, pack: Callable[[bytes], bytes], form: str
) -> None:
    """No image may have a layer that is compressed with it."""
    import fastlayer
    from fastlayer.image.importing import import_image

    (tmp_path / "empty").mkdir()
    tar = tmp_path / "l.tar"
    made = fastlayer.diff(tmp_path / "empty", tree(tmp_path / "root", {"a": "1" * 3_000_000, "b/c": "2"}), tar)
    packed = tmp_path / "rootfs"
    packed.write_bytes(pack(tar.read_bytes()))
    with ExitStack() as stack:
        source: Any = packed
        if form == "file":
            source = stack.enter_context(open(packed, "rb"))
        elif form == "pipe":
            source = stack.enter_context(piped(lambda sink: write_all(sink, packed.read_bytes())))
        image = import_image(store, source, "from-xz")
    assert image.layers[0].digest == image.layers[0].diff_id == made.diff_id and image.layers[0].media_type == LAYER
    assert store.content.path_of(made.diff_id).read_bytes() == tar.read_bytes()
    assert content(store, "from-xz") == {"a": b"1" * 3_000_000, "b/c": b"2"}
    sound(store)
    packed.write_bytes(packed.read_bytes()[:-40])
    with pytest.raises(LayerFormatError, match=r"rootfs: .* too early"):
        import_image(store, packed, "cut")
    packed.write_bytes(pack(b"no tar" * 1000))
    with pytest.raises(LayerFormatError, match="rootfs: is no layer"):
        import_image(store, packed, "junk")
    assert len(Images(store).all()) == 1
    sound(store)


def test_the_same_import_is_the_same_image(tmp_path: Path) -> None:
    from fastlayer.image.importing import import_image

    root = tree(tmp_path / "root", {"a": "1"})
    ids = set()
    for number in range(2):
        with vfs_store(tmp_path / f"store{number}") as store:
            ids.add(import_image(store, root, "x", source_date_epoch=1_000_000).id)
    assert len(ids) == 1


def test_a_failed_import_leaves_nothing(store: Store, tmp_path: Path) -> None:
    from fastlayer.image.importing import import_image

    (tmp_path / "bad.tar").write_bytes(b"no tar at all" * 100)
    with pytest.raises(Exception, match=r"bad\.tar"):
        import_image(store, tmp_path / "bad.tar", "bad")
    with pytest.raises(ReferenceFormatError):
        import_image(store, tmp_path, "Bad Name")
    assert not Images(store).all() and not list(store.content.digests()) and not list(store.snapshotter.walk())
    sound(store)


# ---- names ---------------------------------------------------------------------------------------


def test_finding_by_name_id_and_digest(store: Store, tmp_path: Path) -> None:
    image = imported(store, tmp_path / "root", "example.com/team/app:v1")
    images = Images(store)
    images.tag("example.com/team/app:v1", "app")
    for text in ("app", "app:latest", "docker.io/library/app", image.id, image.id[7:19], image.manifest, image.id[7:]):
        assert images.find(str(text)).id == image.id
    assert images.find(f"example.com/team/app@{image.target.digest}").id == image.id
    assert images.find("app").names == ("docker.io/library/app:latest", "example.com/team/app:v1")
    for text in ("nothing", "app:v2", "ffffffffffff", "sha256:" + "0" * 64):
        with pytest.raises(NotFoundError, match="no such image"):
            images.find(text)
    with pytest.raises(ReferenceFormatError):
        images.find("App:v1")


def test_an_id_that_could_be_several(store: Store, tmp_path: Path) -> None:
    seen: set[str] = set()
    for number in range(257):  # one more than there are beginnings of two digits
        double = str(imported(store, tmp_path / f"root{number}", f"i:{number}").id)[7:9]
        if double in seen:
            break
        seen.add(double)
    with pytest.raises(StoreError, match="could be"):
        Images(store).find(double)


def test_a_name_moves(store: Store, tmp_path: Path) -> None:
    first, second = imported(store, tmp_path / "a", "x"), imported(store, tmp_path / "b", "x")
    assert first.id != second.id and Images(store).find("x").id == second.id
    assert Images(store).find(str(first.id)).names == ()
    assert not collect(store).blobs, "an image without a name stays until it is pruned"
    assert [target.digest for target in Images(store).nameless()] == [first.target.digest]
    Images(store).untag(str(first.id))
    gone = collect(store)
    assert str(first.id) in gone.blobs and gone.snapshots == 1
    sound(store)


def test_removal_keeps_what_others_use(store: Store, tmp_path: Path) -> None:
    base = imported(store, tmp_path / "root", "base")
    layer = writable.create(store, base, "work")
    with pytest.raises(InUseError, match="work"):
        Images(store).untag("base")
    child = commit(store, layer, "child")
    assert [info.digest for info in child.layers][:1] == [base.layers[0].digest]
    writable.remove(store, "work")
    assert Images(store).untag("base") == ["docker.io/library/base:latest"]
    collect(store)
    assert content(store, "child")["etc/passwd"] == b"root\n"
    Images(store).untag("child")
    collect(store)
    assert not list(store.content.digests()) and not list(store.snapshotter.walk())
    assert not store.snapshotter.driver.numbers()
    sound(store)


def test_an_id_with_several_names_needs_force(store: Store, tmp_path: Path) -> None:
    image = imported(store, tmp_path / "root", "one")
    Images(store).tag("one", "two")
    with pytest.raises(InUseError, match="2 names"):
        Images(store).untag(str(image.id))
    assert len(Images(store).untag(str(image.id), force=True)) == 2


# ---- commit and history --------------------------------------------------------------------------


def changed(store: Store, name: str, files: dict[str, str]) -> writable.Writable:
    layer = writable.find(store, name)
    number, _ = store.snapshotter.number(layer.key)
    place = store.snapshotter.driver.own_tree(number)
    assert place is not None
    tree(place, files)
    return layer


def test_commit_and_history(store: Store, tmp_path: Path) -> None:
    image = imported(store, tmp_path / "root", "base")
    writable.create(store, image, "work")
    layer = changed(store, "work", {"etc/new": "12345", "etc/hosts": "x"})
    found = [(str(change.kind), change.name) for change in writable.changes(store, layer)]
    assert found == [("C", "/etc"), ("C", "/etc/hosts"), ("A", "/etc/new")] or found == [
        ("C", "etc"),
        ("C", "etc/hosts"),
        ("A", "etc/new"),
    ]
    second = commit(store, layer, "second", message="new and hosts", author="me")
    steps = history(Images(store), second)
    assert [(step.size, step.comment) for step in steps] == [(6, "new and hosts"), (image.size, "imported from root")]
    assert steps[0].id == second.id and steps[1].id is None
    assert content(store, "second")["etc/new"] == b"12345"
    assert Images(store).config(second).author == "me"
    assert [str(c.kind) for c in writable.changes(store, layer)], "the layer stays as it is"
    sound(store)


def test_a_committed_layer_gets_its_blob_when_it_is_needed(store: Store, tmp_path: Path) -> None:
    image = imported(store, tmp_path / "root", "base")
    names = {entry.annotations["org.opencontainers.image.ref.name"] for entry in store.content.read_index().manifests}
    assert not names and not image.layers[0].present
    made = materialize(store, image)
    assert made == [image.layers[0].digest]
    store.content.check(made[0])
    names = {entry.annotations["org.opencontainers.image.ref.name"] for entry in store.content.read_index().manifests}
    assert names == {"docker.io/library/base:latest"}
    assert not materialize(store, Images(store).find("base"))
    sound(store)


def test_a_clamped_commit_can_be_made_again(store: Store, tmp_path: Path) -> None:
    image = imported(store, tmp_path / "root", "base")
    writable.create(store, image, "work")
    layer = changed(store, "work", {"etc/new": "1"})
    second = commit(store, layer, "second", source_date_epoch=1_000_000)
    assert materialize(store, second)[-1] == second.layers[-1].digest
    with temporary(store, second) as path:
        assert (path / "etc/new").stat().st_mtime == 1_000_000


def test_removing_a_writable_layer_removes_its_changes_only(store: Store, tmp_path: Path) -> None:
    image = imported(store, tmp_path / "root", "base")
    before = content(store, "base")
    for name in ("one", "two"):
        writable.create(store, image, name)
    changed(store, "one", {"etc/passwd": "changed"})
    writable.remove(store, "one")
    assert content(store, "base") == before
    assert [layer.name for layer in writable.all_of(store)] == ["two"]
    with pytest.raises(NotFoundError):
        writable.remove(store, "one")
    sound(store)


# ---- the store -----------------------------------------------------------------------------------


def test_no_store(tmp_path: Path) -> None:
    with pytest.raises(OperandError, match="no store there"):
        existing_store(tmp_path / "nothing")
    (tmp_path / "file").write_text("x")
    with pytest.raises(Exception, match="file"):
        open_store(tmp_path / "file")


def test_a_store_of_a_newer_version_is_refused(store: Store) -> None:
    with store.database.write() as db:
        db.execute("PRAGMA user_version = 99")
    with pytest.raises(StoreError, match="newer fastlayer"):
        open_store(store.root)


def test_a_damaged_database_is_one_line(tmp_path: Path) -> None:
    vfs_store(tmp_path / "store").close()
    (tmp_path / "store/metadata.db").write_bytes(b"not a database, by far" * 100)
    with pytest.raises(StoreError, match=r"metadata\.db") as caught:
        open_store(tmp_path / "store")
    assert "\n" not in str(caught.value)


def test_check_finds_and_repairs(store: Store, tmp_path: Path) -> None:
    manifest = Layout(tmp_path / "layout").image("app:latest", LAYERS)
    load(store, tmp_path / "layout")
    ours = imported(store, tmp_path / "root", "ours")
    materialize(store, ours)
    sound(store)
    driver = store.snapshotter.driver
    store.content.path_of(ours.layers[0].digest).write_bytes(b"damaged")
    (store.content.path / "index.json").write_text("{}")
    (driver.root / "4711/tree").mkdir(parents=True)
    number, _ = store.snapshotter.number(str(Images(store).find("app").chain_id))
    shutil.rmtree(driver.root / str(number))
    (store.content.path / "ingest/deadbeefdeadbeef-0011").write_bytes(b"half")
    found = check(store)
    whats = sorted(finding.what for finding in found.findings)
    assert whats == ["blob", "blob", "index.json", "snapshot", "snapshot"] and not found.sound
    assert check(store, repair=True).findings
    again = check(store, repair=True)
    assert again.sound
    sound(store)
    assert content(store, "app") == {"a": b"1", "dir/c": b"333"}
    materialize(store, Images(store).find("ours"))
    store.content.check(ours.layers[0].digest)
    assert manifest.digest in set(store.content.digests())


def test_check_tells_what_cannot_be_repaired(store: Store, tmp_path: Path) -> None:
    manifest = Layout(tmp_path / "layout").image("app:latest", LAYERS)
    load(store, tmp_path / "layout", Options(unpack=False))
    store.content.remove(manifest.layers[0].digest)
    report = check(store, repair=True)
    assert not report.sound and any("load the image again" in finding.why for finding in report.findings)


def test_disk_usage_counts_shared_layers_once(store: Store, tmp_path: Path) -> None:
    layout = Layout(tmp_path / "layout")
    big = {"big": os.urandom(1 << 20)}
    layout.image("one:latest", [big, {"x": b"1"}])
    layout.image("two:latest", [big, {"y": b"2"}])
    load(store, tmp_path / "layout")
    usage = disk_usage(store)
    images = usage.lines[0]
    assert images.total == 2 and images.active == 0 and images.reclaimable == images.size
    rows = {row.image.names[0]: row for row in usage.images}
    for row in rows.values():
        assert row.shared > 1 << 20 and row.size == row.shared + row.unique
    assert images.size == sum(row.unique for row in rows.values()) + next(iter(rows.values())).shared
    writable.create(store, Images(store).find("one"), "work")
    assert disk_usage(store).lines[0].active == 1
    assert disk_usage(store).lines[1].total == 1


def test_what_a_killed_process_left_goes(store: Store, tmp_path: Path) -> None:
    import subprocess
    import sys

    imported(store, tmp_path / "root", "base")
    code = f"""
import os, sys
from fastlayer.store.store import open_store
store = open_store({str(store.root)!r}, driver="vfs")
with store.leases.hold("to be killed") as lease:
    store.snapshotter.prepare("temporary", store.snapshotter.walk().__next__().key, lease=lease)
    with store.database.write() as db:
        lease.add(db, "blob", ["sha256:" + "0" * 64])
    store.content.ingest(lease.id).write(b"half")
    os.kill(os.getpid(), 9)
"""
    assert subprocess.run([sys.executable, "-c", code]).returncode == -9
    report = check(store)
    assert {finding.what for finding in report.findings} == {"lease", "blob"}
    assert report.sound and all(finding.note for finding in report.findings)
    collect(store)
    assert not store.snapshotter.exists("temporary")
    sound(store)
    assert content(store, "base")["etc/passwd"] == b"root\n"


def test_usage_errors(store: Store, tmp_path: Path) -> None:
    image = imported(store, tmp_path / "root", "base")
    with pytest.raises(UsageError):
        writable.create(store, image, "bad name")
    writable.create(store, image, "taken")
    with pytest.raises(StoreError, match="exists already"):
        writable.create(store, image, "taken")
    with pytest.raises(UsageError, match="digest"):
        from fastlayer.image.record import new_name

        new_name(f"x@{image.id}")


def test_a_parent_stays_while_another_process_removes_its_child(store: Store, tmp_path: Path) -> None:
    layer = writable.create(store, imported(store, tmp_path / "root", "base"), "work")
    child = commit(store, layer, "child")
    writable.remove(store, "work")
    for name in ("base", "child"):
        Images(store).untag(name)
    snapshots = store.snapshotter
    number = snapshots.number(str(child.chain_id))[0]
    with store.lease("the other process") as lease:
        with store.database.write() as db:
            snapshots.mark_removed(db, [number], lease.id)
        assert collect(store).snapshots == 0
        snapshots.finish_removal([number])
    assert collect(store).snapshots == 1
    assert not snapshots.driver.numbers()
