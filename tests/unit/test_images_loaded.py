"""Images of a store: load and save."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import shutil
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fastlayer.container import writable
from fastlayer.container.mounting import temporary
from fastlayer.errors import (
    CorruptStoreError,
    DigestMismatchError,
    LayerFormatError,
    ManifestError,
    NotFoundError,
    OperandError,
)
from fastlayer.image.history import history
from fastlayer.image.images import Images
from fastlayer.image.load import Options, load
from fastlayer.image.materialize import materialize
from fastlayer.image.save import save
from fastlayer.image.unpack import ensure_unpacked
from fastlayer.maintenance.check import check
from fastlayer.maintenance.discard import discard_blobs
from fastlayer.maintenance.prune import prune
from fastlayer.oci.image_index import new_index
from fastlayer.oci.platform import Platform
from fastlayer.store.collect import collect
from fastlayer.store.store import Store
from tests.stores import LAYERS, Layout, content, imported, sound, vfs_store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with vfs_store(tmp_path / "store") as found:
        yield found


def test_loading_a_layout(store: Store, tmp_path: Path) -> None:
    manifest = Layout(tmp_path / "layout").image("app:1", LAYERS)
    (loaded,) = load(store, tmp_path / "layout")
    assert loaded.names == ("docker.io/library/app:1",)
    image = Images(store).find("app:1")
    assert image.manifest == manifest.digest and image.id == manifest.config.digest
    assert content(store, "app:1") == {"a": b"1", "dir/c": b"333"}
    assert [layer.payload for layer in image.layers] == [3, 3]
    assert [step.size for step in history(Images(store), image)] == [0, 3, 3]
    sound(store)


@pytest.mark.parametrize("format_", ["oci-archive", "oci-dir", "docker-archive"])
def test_what_is_saved_can_be_loaded(store: Store, tmp_path: Path, format_: str) -> None:
    layout = Layout(tmp_path / "layout")
    layout.image("app:1", LAYERS)
    layout.image("app:2", [*LAYERS, {"more": b"x"}])
    load(store, tmp_path / "layout")
    image = imported(store, tmp_path / "root", "ours")
    target = tmp_path / "saved"
    save(store, ["app:1", "app:2", "ours"], target, format=format_)  # type: ignore[arg-type]
    with vfs_store(tmp_path / "other") as other:
        load(other, target)
        for name in ("app:1", "app:2", "ours"):
            assert content(other, name) == content(store, name)
        assert Images(other).find("ours").id == image.id
        blobs = len(list(other.content.digests()))
        assert blobs == 3 + 3 + 4, "shared layers are there once"
        sound(other)


@pytest.mark.parametrize("format_", ["oci-archive", "oci-dir", "docker-archive"])
def test_no_damaged_blob_is_saved(store: Store, tmp_path: Path, format_: str) -> None:
    """One that its snapshot gives again is made anew; of one that came as it is only the error can be told."""
    ours = imported(store, tmp_path / "root", "ours")
    materialize(store, ours)
    Layout(tmp_path / "layout").image("theirs:1", [{"a": b"1" * 50_000}])
    load(store, tmp_path / "layout")
    theirs = Images(store).find("theirs:1")
    for image in (ours, theirs):
        path = store.content.path_of(image.layers[0].digest)
        path.chmod(0o644)
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    with pytest.raises(CorruptStoreError, match=str(theirs.layers[0].digest)):
        save(store, ["ours", "theirs:1"], tmp_path / "bad", format=format_)  # type: ignore[arg-type]
    assert not (tmp_path / "bad").exists()
    save(store, ["ours"], tmp_path / "good", format=format_)  # type: ignore[arg-type]
    with vfs_store(tmp_path / "other") as other:
        load(other, tmp_path / "good")
        sound(other)


def test_a_layer_without_a_blob_is_hashed_by_check(store: Store, tmp_path: Path) -> None:
    image = imported(store, tmp_path / "root", "ours")
    sound(store)
    place = store.snapshotter.driver.own_tree(store.snapshotter.number(str(image.chain_id))[0])
    assert place is not None
    (place / "bin/tool").write_bytes(b"y" * 5000)
    (finding,) = check(store, repair=True).findings
    assert "is not what it was" in finding.why and not finding.repaired


def test_loading_from_a_stream(store: Store, tmp_path: Path) -> None:
    Layout(tmp_path / "layout").image("app:1", LAYERS)
    load(store, tmp_path / "layout")
    save(store, ["app:1"], tmp_path / "saved.tar")
    with vfs_store(tmp_path / "other") as other, open(tmp_path / "saved.tar", "rb") as file:
        load(other, file)
        assert content(other, "app:1") == {"a": b"1", "dir/c": b"333"}
        sound(other)


@pytest.mark.parametrize("format_", ["oci-archive", "docker-archive"])
@pytest.mark.parametrize("pack", [lzma.compress, bz2.compress, gzip.compress], ids=["xz", "bzip2", "gzip"])
def test_loading_a_compressed_archive(
    store: Store, tmp_path: Path, pack: Callable[[bytes], bytes], format_: str
) -> None:
    Layout(tmp_path / "layout").image("app:1", LAYERS)
    load(store, tmp_path / "layout")
    save(store, ["app:1"], tmp_path / "saved.tar", format=format_)  # type: ignore[arg-type]
    (tmp_path / "packed").write_bytes(pack((tmp_path / "saved.tar").read_bytes()))
    with vfs_store(tmp_path / "other") as other:
        load(other, tmp_path / "packed")
        assert content(other, "app:1") == {"a": b"1", "dir/c": b"333"}
        sound(other)


def test_a_docker_archive_with_a_layer_of_xz(store: Store, tmp_path: Path) -> None:
    layout = Layout(tmp_path / "layout")
    layout.image("app:1", LAYERS)
    load(store, tmp_path / "layout")
    save(store, ["app:1"], tmp_path / "saved.tar", format="docker-archive")
    with tarfile.open(tmp_path / "saved.tar") as given, tarfile.open(tmp_path / "bad.tar", "w") as made:
        layers = json.load(given.extractfile("manifest.json"))[0]["Layers"]  # type: ignore[arg-type]
        for member in given.getmembers():
            data = given.extractfile(member).read() if member.isreg() else b""  # type: ignore[union-attr]
            if member.name in layers:
                data = lzma.compress(data)
            member.size = len(data)
            made.addfile(member, io.BytesIO(data))
    with vfs_store(tmp_path / "other") as other:
        with pytest.raises(ManifestError, match="x-xz, which no layer may be"):
            load(other, tmp_path / "bad.tar")
        assert not Images(other).all()
        sound(other)


def test_several_platforms(store: Store, tmp_path: Path) -> None:
    layout = Layout(tmp_path / "layout")
    mine = layout.image("", [{"a": b"amd"}], Platform("linux", "amd64"))
    other = layout.image("", [{"a": b"arm"}], Platform("linux", "arm64"))
    index = new_index(
        [
            mine.descriptor._replace(platform=Platform("linux", "amd64")),
            other.descriptor._replace(platform=Platform("linux", "arm64")),
        ]
    )
    layout.blob(index.raw)
    layout.add("multi:latest", index.descriptor)
    wanted = Options(platform=Platform("linux", "amd64"), repository="multi")
    (loaded,) = load(store, tmp_path / "layout", wanted)
    assert loaded.unpacked == (mine.digest,)
    assert Images(store).find("multi", Platform("linux", "arm64")).manifest == other.digest
    assert len(Images(store).all()) == 2
    with temporary(store, Images(store).find("multi", Platform("linux", "arm64"))) as path:
        assert (path / "a").read_bytes() == b"arm", "unpacked when it is first used"
    with pytest.raises(NotFoundError, match="linux/s390x"):
        Images(store).find("multi", Platform("linux", "s390x"))
    save(store, ["multi"], tmp_path / "saved.tar")
    with vfs_store(tmp_path / "copy") as copy:
        load(copy, tmp_path / "saved.tar")
        assert Images(copy).target_of("multi")[0].digest == index.digest
        sound(copy)
    sound(store)


def test_a_layer_with_a_wrong_diff_id_is_refused(store: Store, tmp_path: Path) -> None:
    layout = Layout(tmp_path / "layout")
    manifest = layout.image("", LAYERS)
    config = json.loads((layout.path / "blobs/sha256" / manifest.config.digest.encoded).read_bytes())
    config["rootfs"]["diff_ids"][1] = "sha256:" + "1" * 64
    bad = json.dumps(config).encode()
    from fastlayer.oci.config import parse_config
    from fastlayer.oci.manifest import new_manifest

    layout.blob(bad)
    wrong = new_manifest(parse_config(bad).descriptor(), manifest.layers)
    layout.blob(wrong.raw)
    layout.add("bad", wrong.descriptor)
    with pytest.raises(DigestMismatchError, match="diff_id"):
        load(store, tmp_path / "layout")
    assert not Images(store).all()
    assert [info.kind for info in store.snapshotter.walk()] == ["committed"], "what was complete is used the next time"
    collect(store)
    assert not list(store.snapshotter.walk()) and not list(store.content.digests())


def test_a_damaged_layer_is_refused(store: Store, tmp_path: Path) -> None:
    layout = Layout(tmp_path / "layout")
    manifest = layout.image("app:latest", LAYERS)
    blob = layout.path / "blobs/sha256" / manifest.layers[0].digest.encoded
    data = bytearray(blob.read_bytes())
    data[len(data) // 2] ^= 1
    blob.write_bytes(data)
    with pytest.raises(Exception, match=r"gzip|digest"):
        load(store, tmp_path / "layout")
    assert not Images(store).all() and not store.content.has(manifest.layers[0].digest)


def test_a_missing_layer_is_named(store: Store, tmp_path: Path) -> None:
    layout = Layout(tmp_path / "layout")
    manifest = layout.image("app:latest", LAYERS)
    (layout.path / "blobs/sha256" / manifest.layers[1].digest.encoded).unlink()
    with pytest.raises((NotFoundError, ManifestError), match=manifest.layers[1].digest.encoded[:12]):
        load(store, tmp_path / "layout")
    assert not Images(store).all()


def test_discarded_blobs_are_made_again(store: Store, tmp_path: Path) -> None:
    image = imported(store, tmp_path / "root", "ours")
    materialize(store, image)
    save(store, ["ours"], tmp_path / "saved.tar")
    Layout(tmp_path / "layout").image("foreign:latest", LAYERS)
    with vfs_store(tmp_path / "other") as other:
        targets = [loaded.target for source in ("saved.tar", "layout") for loaded in load(other, tmp_path / source)]
        assert discard_blobs(other, targets) == [image.layers[0].digest], "only what can be made again"
        assert not other.content.has(image.layers[0].digest)
        sound(other)
        materialize(other, Images(other).find("ours"))
        other.content.check(image.layers[0].digest)
        sound(other)


def test_a_blob_that_is_a_link_is_named(store: Store, tmp_path: Path) -> None:
    layout = Layout(tmp_path / "layout")
    manifest = layout.image("linked:1", [{"a": b"1"}])
    blob = layout.path / "blobs/sha256" / manifest.layers[0].digest.encoded
    blob.rename(tmp_path / "elsewhere")
    blob.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CorruptStoreError, match=f"{blob.name}: is a symbolic link, .*cp -rL"):
        load(store, layout.path)
    assert not Images(store).all()
    shutil.copytree(layout.path, tmp_path / "copy")
    load(store, tmp_path / "copy")
    sound(store)


@pytest.mark.parametrize("stream", [False, True])
def test_what_is_no_archive_at_all(store: Store, tmp_path: Path, stream: bool) -> None:
    (tmp_path / "index.json").write_text('{"schemaVersion": 2}' * 100)
    with (
        open(tmp_path / "index.json", "rb") as file,
        pytest.raises(LayerFormatError, match="json: is no archive: give"),
    ):
        load(store, file if stream else tmp_path / "index.json")


def test_a_file_is_not_named_like_a_directory(store: Store, tmp_path: Path) -> None:
    imported(store, tmp_path / "root", "base")
    with pytest.raises(OperandError, match="d/: is the name of a directory: name a file"):
        save(store, ["base"], f"{tmp_path}/d/")
    assert not (tmp_path / "d").exists()


def test_an_image_for_several_platforms_goes_as_a_whole(store: Store, tmp_path: Path) -> None:
    """As long as one of its platforms is used it keeps its name; what goes is told once."""
    layout = Layout(tmp_path / "layout")
    found = [layout.image("", [{"a": name.encode()}], Platform("linux", name)) for name in ("amd64", "arm64")]
    both = zip(found, ("amd64", "arm64"), strict=True)
    index = new_index([one.descriptor._replace(platform=Platform("linux", name)) for one, name in both])
    layout.blob(index.raw)
    layout.add("multi:latest", index.descriptor)
    load(store, layout.path, Options(repository="multi"))
    view = Images(store).find("multi", Platform("linux", "arm64"))
    ensure_unpacked(store, view)
    assert prune(store, named=True, dry_run=True).names == ("docker.io/library/multi:latest",)
    layer = writable.create(store, view, "w")
    assert prune(store, named=True, dry_run=True).names == ()
    assert prune(store, named=True).names == () and len(Images(store).all()) == 2
    writable.remove(store, layer.name)
    assert prune(store, named=True).names == ("docker.io/library/multi:latest",)
    assert not Images(store).all()
