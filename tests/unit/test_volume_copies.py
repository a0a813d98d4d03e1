"""Copies of volumes, snapshots, volumes that are made of images, archives."""

from __future__ import annotations

import io
import os
import stat
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import fastlayer
from fastlayer import _backend
from fastlayer.errors import (
    AlreadyExistsError,
    InUseError,
    LayerError,
    NotFoundError,
    UsageError,
)
from fastlayer.maintenance.check import check
from fastlayer.store.store import Store
from fastlayer.volume import trees
from fastlayer.volume.volumes import Volumes, clear_dead
from tests.stores import imported, tree, vfs_store
from tests.trees import snapshot as picture
from tests.volumes import content, filled


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with vfs_store(tmp_path / "store") as store:
        yield store


@pytest.fixture
def volumes(store: Store) -> Volumes:
    return Volumes(store)


# ---- copies -----------------------------------------------------------------------------------------


def test_clone(volumes: Volumes, engine: _backend.Engine) -> None:
    volumes.create("data", labels={"a": "b"})
    place = volumes.acquire("data", "one")
    tree(place, {"a": "1", "dir/b": "22"})
    os.link(place / "a", place / "dir/a2")
    place.chmod(0o1777)
    made = volumes.clone("data", "copy")
    other = volumes.acquire("copy", "one")
    assert made.labels == {"a": "b"} and volumes.copied is not None
    assert picture(str(other)).keys() == picture(str(place)).keys()
    assert content(other) == content(place) and stat.S_IMODE(other.stat().st_mode) == 0o1777
    assert (other / "a").stat().st_ino == (other / "dir/a2").stat().st_ino != (place / "a").stat().st_ino
    (other / "a").write_text("changed")
    assert (place / "a").read_text() == "1"
    with pytest.raises(AlreadyExistsError, match="exists already"):
        volumes.clone("data", "copy")


def test_snapshots(volumes: Volumes) -> None:
    place = filled(volumes)
    before = content(place)
    volumes.snapshot("data", "first")
    (place / "a").write_text("changed")
    (place / "dir/b").unlink()
    volumes.snapshot("data", "second")
    after = content(place)
    assert [state.name for state in volumes.snapshots("data")] == ["first", "second"]
    assert volumes.details("data").status["Snapshots"] == ["first", "second"]
    with pytest.raises(AlreadyExistsError, match="first"):
        volumes.snapshot("data", "first")
    volumes.restore("data", "first")
    assert content(place) == before
    volumes.restore("data", "second")
    assert content(place) == after
    volumes.create("old", options={"snapshot": "data@first"})
    volumes.remove_snapshot("data", "first")
    with pytest.raises(NotFoundError, match="no snapshot first"):
        volumes.restore("data", "first")
    assert content(volumes.acquire("old", "one")) == before
    volumes.remove("data")
    assert not (volumes.store.root / "volumes/data").exists()


def test_a_snapshot_that_was_killed_goes(volumes: Volumes) -> None:
    place = filled(volumes)
    volumes.snapshot("data", "s1")
    left = place.parent / "snapshots/.new-0123456789abcdef"
    tree(left, {"half": "x"})
    unnoted = place.parent / "snapshots/s2"
    tree(unnoted, {"old": "x"})
    assert clear_dead(volumes.store) == 1
    assert not left.exists()
    volumes.snapshot("data", "s2")
    volumes.restore("data", "s2")
    assert "old" not in content(place) and "a" in content(place)


def test_a_volume_is_used_while_it_is_copied(volumes: Volumes, monkeypatch: pytest.MonkeyPatch) -> None:
    """What takes long keeps nobody from the volume, and nobody removes it or puts it back meanwhile."""
    filled(volumes)
    volumes.snapshot("data", "s0")
    copy = trees.copy
    seen: list[str] = []

    def slow(source: Path, place: Path, size: int | None = None) -> trees.Copied:
        volumes.acquire("data", "container")
        volumes.release("container")
        for call in (lambda: volumes.remove("data"), lambda: volumes.restore("data", "s0")):
            if not seen:
                with pytest.raises(InUseError):
                    call()
        seen.append(place.name)
        return copy(source, place, size)

    monkeypatch.setattr(trees, "copy", slow)
    volumes.snapshot("data", "s1")
    volumes.create("old", options={"snapshot": "data@s1"})
    assert len(seen) == 2 and volumes.in_use() == set()


def test_nobody_works_with_what_is_restored(volumes: Volumes) -> None:
    place = filled(volumes)
    volumes.snapshot("data", "s1")
    volumes.acquire("data", "one")
    with pytest.raises(InUseError, match="one works with its files"):
        volumes.restore("data", "s1")
    volumes.release("one", keep=True)
    (place / "a").write_text("changed")
    volumes.restore("data", "s1")
    assert (place / "a").read_text() == "1"


@pytest.mark.parametrize("text", ["data", "data@", "data@nothing", "nothing@s1"])
def test_snapshots_that_are_none(volumes: Volumes, text: str) -> None:
    filled(volumes)
    with pytest.raises((UsageError, NotFoundError)):
        volumes.create("new", options={"snapshot": text})
    assert [volume.name for volume in volumes.all()] == ["data"]


# ---- made of an image -------------------------------------------------------------------------------


def test_the_tree_of_an_image(volumes: Volumes, tmp_path: Path) -> None:
    imported(volumes.store, tmp_path / "image")
    made = volumes.create("root", options={"image": "base:1"})
    assert made.snapshot is not None
    place = volumes.acquire("root", "one")
    assert (place / "etc/passwd").read_text() == "root\n"
    (place / "etc/passwd").write_text("changed")
    other = volumes.acquire(volumes.create("second", options={"image": "base:1"}).name, "one")
    assert (other / "etc/passwd").read_text() == "root\n"
    volumes.snapshot("root", "s1")
    (place / "new").write_text("x")
    copy = volumes.acquire(volumes.clone("root", "copy").name, "one")
    assert content(copy).keys() == content(place).keys() and (copy / "new").read_text() == "x"
    old = volumes.acquire(volumes.create("old", options={"snapshot": "root@s1"}).name, "one")
    assert not (old / "new").exists() and (old / "etc/passwd").read_text() == "changed"
    volumes.release("one")
    volumes.restore("root", "s1")
    place = volumes.acquire("root", "one")
    assert not (place / "new").exists() and (place / "etc/passwd").read_text() == "changed"
    assert check(volumes.store).sound


def test_nothing_of_an_image_volume_stays(volumes: Volumes, tmp_path: Path) -> None:
    """Whatever is made of what, in whatever order it goes."""
    imported(volumes.store, tmp_path / "image")
    before = {info.key for info in volumes.store.snapshotter.walk()}
    volumes.create("root", options={"image": "base:1"})
    volumes.snapshot("root", "s1")
    volumes.clone("root", "copy")
    volumes.clone("copy", "copy2")
    volumes.create("old", options={"snapshot": "root@s1"})
    volumes.restore("root", "s1")
    volumes.remove_snapshot("root", "s1")
    for name in ("copy", "root", "old", "copy2"):
        volumes.remove(name)
    assert {info.key for info in volumes.store.snapshotter.walk()} == before
    assert check(volumes.store).sound


def test_an_image_that_is_none(volumes: Volumes) -> None:
    with pytest.raises(NotFoundError, match="nothing"):
        volumes.create("root", options={"image": "nothing:1"})
    assert volumes.all() == [] and not (volumes.store.root / "volumes/root").exists()


# ---- archives ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["v.tar", "v.tar.gz", "v.tar.zst", "oci", "oci:monday"])
def test_out_and_in_again(volumes: Volumes, tmp_path: Path, name: str, engine: _backend.Engine) -> None:
    volumes.create("data", labels={"a": "b"})
    place = volumes.acquire("data", "one")
    tree(place, {"a": "1", "dir/b": "22"})
    (place / "link").symlink_to("/etc/passwd")
    (place / "dir").chmod(0o700)
    volumes.release("one")
    target = f"oci:{tmp_path / 'layout'}" + name[3:] if name.startswith("oci") else str(tmp_path / name)
    volumes.export("data", target)
    made = volumes.import_archive("again", target)
    other = volumes.acquire("again", "one")
    assert content(other)["dir/b"] == "22" and os.readlink(other / "link") == "/etc/passwd"
    assert stat.S_IMODE((other / "dir").stat().st_mode) == 0o700
    assert made.labels == ({"a": "b"} if name.startswith("oci") else {})
    with pytest.raises(AlreadyExistsError):
        volumes.import_archive("again", target)


def test_an_artifact_is_one_for_others(volumes: Volumes, tmp_path: Path) -> None:
    import json

    filled(volumes)
    volumes.create("other")
    layout = tmp_path / "layout"
    volumes.export("data", f"oci:{layout}:one")
    volumes.export("other", f"oci:{layout}")
    index = json.loads((layout / "index.json").read_text())
    names = [entry["annotations"]["org.opencontainers.image.ref.name"] for entry in index["manifests"]]
    assert names == ["one", "other"]
    blob = layout / "blobs" / index["manifests"][0]["digest"].replace(":", "/")
    manifest = json.loads(blob.read_text())
    assert manifest["artifactType"] == "application/vnd.fastlayer.volume.v1"
    assert manifest["config"]["mediaType"] == "application/vnd.oci.empty.v1+json"
    with pytest.raises(UsageError, match="several volumes"):
        volumes.import_archive("again", f"oci:{layout}")
    with pytest.raises(NotFoundError, match="tag nothing"):
        volumes.import_archive("again", f"oci:{layout}:nothing")
    assert content(volumes.acquire(volumes.import_archive("again", f"oci:{layout}:one").name, "x1"))["a"] == "1"


def test_what_is_in_use_is_exported_from_a_clone(volumes: Volumes, tmp_path: Path) -> None:
    filled(volumes)
    volumes.acquire("data", "one")
    volumes.export("data", tmp_path / "v.tar")
    with tarfile.open(tmp_path / "v.tar") as tar:
        assert "dir/sub/c" in tar.getnames()
    assert [volume.name for volume in volumes.all()] == ["data"]


def test_an_archive_that_means_harm(volumes: Volumes, tmp_path: Path) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("good"))
        link = tarfile.TarInfo("out")
        link.type, link.linkname = tarfile.SYMTYPE, str(tmp_path)
        tar.addfile(link)
        tar.addfile(tarfile.TarInfo("out/escaped"))
        tar.addfile(tarfile.TarInfo("../../escaped"))
    (tmp_path / "bad.tar").write_bytes(out.getvalue())
    with pytest.raises(LayerError):
        volumes.import_archive("bad", tmp_path / "bad.tar")
    assert volumes.all() == [] and not (volumes.store.root / "volumes/bad").exists()
    assert not list(tmp_path.rglob("escaped"))


def test_what_an_archive_loses_is_told(volumes: Volumes, tmp_path: Path) -> None:
    """A file of that name in somebody else's tar is a whiteout for us."""
    with tarfile.open(tmp_path / "v.tar", "w") as archive:
        for name in ("a", ".wh.b", "d/.wh.c"):
            archive.addfile(tarfile.TarInfo(name))
    volumes.import_archive("data", tmp_path / "v.tar")
    assert volumes.copied is not None
    (warning,) = volumes.copied.warnings
    assert "2 whiteouts" in warning


def test_an_archive_that_is_cut_off(volumes: Volumes, tmp_path: Path) -> None:
    filled(volumes)
    volumes.export("data", tmp_path / "v.tar.gz")
    data = (tmp_path / "v.tar.gz").read_bytes()
    (tmp_path / "cut.tar.gz").write_bytes(data[: len(data) // 2])
    with pytest.raises(LayerError):
        volumes.import_archive("cut", tmp_path / "cut.tar.gz")
    layout = tmp_path / "layout"
    volumes.export("data", f"oci:{layout}")
    largest = max((layout / "blobs/sha256").iterdir(), key=lambda path: path.stat().st_size)
    largest.write_bytes(largest.read_bytes()[:-1] + b"x")
    with pytest.raises(fastlayer.FastlayerError):
        volumes.import_archive("cut", f"oci:{layout}")
    assert [volume.name for volume in volumes.all()] == ["data"]
