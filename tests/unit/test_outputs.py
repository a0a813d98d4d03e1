"""Images that leave the store: layers compressed anew, archives, layouts, directories, tars, notes."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import tarfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import zstandard

from fastlayer import _backend
from fastlayer.builder.outputs import layers as output_layers
from fastlayer.builder.outputs import trees
from fastlayer.builder.outputs.notes import Built, Notes, forget_notes, metadata, write_notes
from fastlayer.builder.outputs.options import Export, parse_output
from fastlayer.builder.outputs.write import write_output
from fastlayer.container.commit import commit
from fastlayer.container.mounting import layer_in_place
from fastlayer.errors import (
    CorruptStoreError,
    DriverError,
    NotFoundError,
    OperandError,
    ReferenceFormatError,
    StorageError,
    UsageError,
)
from fastlayer.image.formats.archive import open_images
from fastlayer.image.formats.oci import OciLayout
from fastlayer.image.images import Image, Images
from fastlayer.image.load import load
from fastlayer.oci.config import parse_config
from fastlayer.oci.manifest import Manifest, parse_manifest
from fastlayer.store.store import Store
from tests.chunkedblobs import check_estargz, check_zstd_chunked
from tests.stores import LAYERS, Layout, content, sound, vfs_store

NAME = "app:1"
FULL = "docker.io/library/app:1"
OCI, DOCKER = "application/vnd.oci.image.layer.v1.tar", "application/vnd.docker.image.rootfs.diff.tar"
FILES = {"a": b"1", "dir/c": b"333", "new": b"n" * 3000, "big": bytes(range(256)) * 12_000}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with vfs_store(tmp_path / "store") as opened:
        yield opened


@pytest.fixture
def image(store: Store, tmp_path: Path) -> Image:
    """Two layers that came as gzip blobs, and one that was made here and is no blob."""
    layout = Layout(tmp_path / "base")
    layout.image("base:1", LAYERS)
    load(store, layout.path)
    return made_on(store, "base:1", {name: FILES[name] for name in ("new", "big")}, NAME)


def made_on(store: Store, base: str, files: Mapping[str, bytes], name: str) -> Image:
    layer, place = layer_in_place(store, base, None)
    for path, data in files.items():
        (place / path).write_bytes(data)
        os.utime(place / path, (2_000_000_000, 2_000_000_000))
    return commit(store, layer, name, source_date_epoch=2_000_000_000)


def written(store: Store, image: Image, text: str, **given: Any) -> Manifest:
    """The manifest in what was written, which holds together."""
    export = parse_output(text)
    result = write_output(store, image, export, names=given.pop("names", [NAME]), **given)
    with open_images(export.dest) as found:
        (archived,) = found.images
        manifest = parse_manifest(found.read(archived.descriptor.digest))
        assert (manifest.digest, manifest.config.digest) == (result.built.manifest.digest, result.built.config)
        config = parse_config(found.read(manifest.config.digest))
        for layer, diff_id in zip(manifest.layers, config.diff_ids, strict=True):
            with found.open(layer.digest) as file:
                data = file.read()
            assert "sha256:" + hashlib.sha256(data).hexdigest() == layer.digest and len(data) == layer.size
            assert "sha256:" + hashlib.sha256(expanded(data)).hexdigest() == diff_id
    return manifest


def expanded(data: bytes) -> bytes:
    if data.startswith(b"\x1f\x8b"):
        return gzip.decompress(data)
    if data.startswith(b"\x28\xb5\x2f\xfd"):
        return zstandard.ZstdDecompressor().stream_reader(io.BytesIO(data), read_across_frames=True).read()
    return data


def kinds(manifest: Manifest) -> list[str]:
    return [layer.media_type.removeprefix(OCI).removeprefix(DOCKER) for layer in manifest.layers]


def nothing_beside(path: Path) -> None:
    assert sorted(entry.name for entry in path.iterdir()) == ["base", "store"]


# ---- compression -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options,expected",
    [
        ("", ["+gzip", "+gzip", "+gzip"]),
        (",compression=gzip", ["+gzip", "+gzip", "+gzip"]),
        (",compression=zstd", ["+gzip", "+gzip", "+zstd"]),
        (",compression=uncompressed", ["+gzip", "+gzip", ""]),
        (",compression=zstd,force-compression=true", ["+zstd", "+zstd", "+zstd"]),
        (",compression=uncompressed,force-compression=true", ["", "", ""]),
        (",compression=gzip,compression-level=9,force-compression=true", ["+gzip", "+gzip", "+gzip"]),
    ],
)
@pytest.mark.parametrize("form", ["", ",tar=false"])
def test_layers_are_compressed_as_wanted(
    store: Store, image: Image, tmp_path: Path, options: str, expected: list[str], form: str, engine: _backend.Engine
) -> None:
    manifest = written(store, image, f"type=oci,dest={tmp_path / 'out'}{form}{options}")
    assert kinds(manifest) == expected
    assert manifest.config.digest == image.id  # the image is the same one
    base = Images(store).find("base:1")
    kept = [layer.digest for layer in manifest.layers[:2]] == [layer.digest for layer in base.layers]
    assert kept == ("force" not in options)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["base", "out", "store"]


@pytest.mark.parametrize("name,check", [("zstd:chunked", check_zstd_chunked), ("estargz", check_estargz)])
@pytest.mark.parametrize("force", [False, True])
def test_layers_whose_files_can_be_fetched_one_by_one(
    store: Store, image: Image, tmp_path: Path, name: str, check: Callable[..., Any], force: bool
) -> None:
    """Those of snapshots and, where that is forced, of blobs; an eStargz is another tar and so another image."""
    options = f"compression={name},force-compression={str(force).lower()}"
    manifest = written(store, image, f"type=oci,tar=false,dest={tmp_path / 'out'},{options}")
    assert [bool(layer.annotations) for layer in manifest.layers] == [force, force, True]
    for layer in manifest.layers[0 if force else 2 :]:
        check((tmp_path / "out/blobs/sha256" / layer.digest.split(":")[1]).read_bytes(), layer.annotations)
    assert (manifest.config.digest == image.id) == (name == "zstd:chunked")
    with vfs_store(tmp_path / "other") as other:
        load(other, tmp_path / "out")
        assert len(Images(other).find(NAME).layers) == 3


def test_gzip_again_where_a_level_is_forced(store: Store, image: Image, tmp_path: Path) -> None:
    plain = written(store, image, f"type=oci,dest={tmp_path / 'a'},compression=gzip,force-compression=true")
    level = written(
        store, image, f"type=oci,dest={tmp_path / 'b'},compression=gzip,compression-level=9,force-compression=true"
    )
    assert plain.layers[2].size > level.layers[2].size
    assert plain.layers[0] != level.layers[0] or plain.layers[2] != level.layers[2]


def test_docker_types(store: Store, image: Image, tmp_path: Path) -> None:
    manifest = written(store, image, f"type=docker,dest={tmp_path / 'out'}")
    assert manifest.media_type == "application/vnd.docker.distribution.manifest.v2+json"
    assert manifest.config.media_type == "application/vnd.docker.container.image.v1+json"
    assert {layer.media_type for layer in manifest.layers} == {DOCKER + ".gzip"}
    members = tarfile.open(tmp_path / "out").getnames()
    assert "manifest.json" in members and "index.json" in members
    oci = written(store, image, f"type=docker,oci-mediatypes=true,dest={tmp_path / 'oci'}")
    assert {layer.media_type for layer in oci.layers} == {OCI + "+gzip"}


def test_docker_gets_no_zstd(store: Store, image: Image, tmp_path: Path) -> None:
    written(store, image, f"type=oci,dest={tmp_path / 'out'},compression=zstd,force-compression=true")
    with vfs_store(tmp_path / "other") as other:
        load(other, tmp_path / "out")
        manifest = written(other, Images(other).find(NAME), f"type=docker,dest={tmp_path / 'out'}")
    assert {layer.media_type for layer in manifest.layers} == {DOCKER + ".gzip"}


def test_bytes_do_not_depend_on_threads(store: Store, image: Image, tmp_path: Path) -> None:
    outputs = []
    for jobs in (1, 2, 5):
        for _ in range(2):
            written(store, image, f"type=oci,dest={tmp_path / 'out'}", jobs=jobs)
            outputs.append((tmp_path / "out").read_bytes())
    assert len(set(outputs)) == 1


def test_nothing_is_left_in_the_store(store: Store, image: Image, tmp_path: Path) -> None:
    before = set(store.content.digests())
    written(store, image, f"type=oci,dest={tmp_path / 'out'}")
    assert set(store.content.digests()) == before
    assert not store.content.has(image.layers[2].digest)
    sound(store)


# ---- names and annotations ---------------------------------------------------------------------------


def test_names(store: Store, image: Image, tmp_path: Path) -> None:
    written(store, image, f"type=oci,dest={tmp_path / 'out'}", names=["b", "a:2"])
    with open_images(tmp_path / "out") as found:
        assert [str(name) for name in found.images[0].names] == [
            "docker.io/library/a:2",
            "docker.io/library/b:latest",
        ]
    written(store, image, f"type=oci,dest={tmp_path / 'out'},name=c:3")
    with open_images(tmp_path / "out") as found:
        assert [str(name) for name in found.images[0].names] == ["docker.io/library/c:3"]
    written(store, image, f"type=oci,dest={tmp_path / 'out'}", names=[])
    with open_images(tmp_path / "out") as found:
        assert found.images[0].names == ()


def test_names_that_are_none(store: Store, image: Image, tmp_path: Path) -> None:
    for name, kind in (("a@sha256:" + "0" * 64, UsageError), ("A:1", ReferenceFormatError)):
        with pytest.raises(kind):
            write_output(store, image, Export("oci", str(tmp_path / "out")), names=[name])
    nothing_beside(tmp_path)


def test_annotations(store: Store, image: Image, tmp_path: Path) -> None:
    text = (
        f"type=oci,dest={tmp_path / 'out'},tar=false,annotation.b=1,annotation.a=2,annotation-manifest-descriptor.c=3"
    )
    manifest = written(store, image, text)
    assert list(manifest.annotations.items()) == [("a", "2"), ("b", "1")]
    (line,) = json.loads((tmp_path / "out/index.json").read_bytes())["manifests"]
    assert line["annotations"]["c"] == "3" and "org.opencontainers.image.ref.name" in line["annotations"]


def test_times_are_rewritten_but_in_the_base(store: Store, image: Image, tmp_path: Path) -> None:
    text = f"type=oci,dest={tmp_path / 'out'},rewrite-timestamp=true"
    manifest = written(store, image, text, source_date_epoch=1_500_000_000, base_layers=2)
    assert manifest.config.digest != image.id
    with open_images(tmp_path / "out") as found:
        config = parse_config(found.read(manifest.config.digest))
        with found.open(manifest.layers[2].digest) as file:
            times = {member.mtime for member in tarfile.open(fileobj=io.BytesIO(gzip.decompress(file.read())))}
    assert max(times) == 1_500_000_000
    assert config.diff_ids[:2] == tuple(layer.diff_id for layer in image.layers[:2])
    assert config.diff_ids[2] != image.layers[2].diff_id
    assert config.created == "2017-07-14T02:40:00Z" and config.history[-1].created == "2017-07-14T02:40:00Z"
    assert config.run == Images(store).config(image).run


# ---- round trips -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["oci", "docker"])
@pytest.mark.parametrize("form", ["", ",tar=false"])
def test_load_takes_it_back(store: Store, image: Image, tmp_path: Path, kind: str, form: str) -> None:
    written(store, image, f"type={kind},dest={tmp_path / 'out'}{form}")
    with vfs_store(tmp_path / "other") as other:
        (loaded,) = load(other, tmp_path / "out")
        assert loaded.names == (FULL,)
        assert content(other, NAME) == FILES
        assert Images(other).find(NAME).id == image.id
        sound(other)


def test_a_layout_keeps_its_images(store: Store, image: Image, tmp_path: Path) -> None:
    text = f"type=oci,dest={tmp_path / 'out'},tar=false"
    first = written(store, image, text)
    other = made_on(store, "base:1", {"other": b"o"}, "other:1")
    write_output(store, other, parse_output(text), names=["other:1"])
    layout = OciLayout(tmp_path / "out")
    assert {str(image.names[0]): image.descriptor.digest for image in layout.images}[FULL] == first.digest
    assert len(layout.images) == 2 and not (tmp_path / "out/ingest").exists()


def test_to_stdout(store: Store, image: Image, tmp_path: Path) -> None:
    written(store, image, f"type=oci,dest={tmp_path / 'out'}")
    stream = io.BytesIO()
    write_output(store, image, parse_output("type=oci"), names=[NAME], stdout=stream)
    assert stream.getvalue() == (tmp_path / "out").read_bytes()


def test_an_image_without_layers(store: Store, tmp_path: Path) -> None:
    layout = Layout(tmp_path / "base")
    layout.image("empty:1", [])
    load(store, layout.path)
    image = Images(store).find("empty:1")
    assert written(store, image, f"type=oci,dest={tmp_path / 'out'}").layers == ()
    write_output(store, image, Export("local", str(tmp_path / "tree")))
    assert list((tmp_path / "tree").iterdir()) == []
    stream = io.BytesIO()
    write_output(store, image, Export("tar"), stdout=stream)
    assert tarfile.open(fileobj=io.BytesIO(stream.getvalue())).getnames() in ([], ["."], [""])


def test_what_is_in_the_store_already(store: Store, image: Image) -> None:
    for text in ("type=image", "type=cacheonly"):
        result = write_output(store, image, parse_output(text), names=[NAME])
        assert result.built == Built(Images(store).manifest(image).descriptor, image.id, (FULL,), image.platform)


BUILT = """FROM scratch AS base
WORKDIR /w
COPY a b sub/
FROM scratch
COPY --from=base / /
COPY --link a /x/y/z/
COPY --chmod=600 <<X /x/here
text
X
ADD . /all/
COPY a /w/sub/a
COPY --link a /w/sub/a
COPY a b /w/sub/
COPY empty /x/
COPY empty /x/
COPY . /all
ADD a /fresh/
"""


@pytest.mark.parametrize("epoch", [None, 1_500_000_000])
def test_what_was_built_can_be_put_out(tmp_path: Path, epoch: int | None) -> None:
    import fastlayer

    for name, text in (("Dockerfile", BUILT), ("a", "1"), ("b", "2")):
        (tmp_path / "context").mkdir(exist_ok=True)
        (tmp_path / "context" / name).write_text(text)
    (tmp_path / "context/empty").mkdir()
    root = tmp_path / "store"
    built = fastlayer.build(tmp_path / "context", tags=["app:1"], root=root, driver="vfs", source_date_epoch=epoch)
    with vfs_store(root) as store:
        sound(store)
        written(store, built.image, f"type=oci,dest={tmp_path / 'out'}")
        write_output(store, built.image, Export("local", str(tmp_path / "tree")))
    assert files_of(tmp_path / "tree")["w/sub/a"] == b"1" and files_of(tmp_path / "tree")["all/b"] == b"2"


# ---- directories and tars ----------------------------------------------------------------------------


def files_of(tree: Path) -> dict[str, bytes]:
    return {str(file.relative_to(tree)): file.read_bytes() for file in tree.rglob("*") if file.is_file()}


@pytest.mark.parametrize("there", [False, True])
def test_a_directory(store: Store, image: Image, tmp_path: Path, there: bool, engine: _backend.Engine) -> None:
    if there:
        (tmp_path / "out").mkdir()
    write_output(store, image, Export("local", str(tmp_path / "out")))
    assert files_of(tmp_path / "out") == FILES
    assert (tmp_path / "out/new").stat().st_mtime == 2_000_000_000
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["base", "out", "store"]


def test_parents_of_a_directory_are_made(store: Store, image: Image, tmp_path: Path) -> None:
    write_output(store, image, Export("local", str(tmp_path / "x/y/out") + "/"))
    assert files_of(tmp_path / "x/y/out") == FILES


def test_a_directory_with_files_keeps_them(store: Store, image: Image, tmp_path: Path) -> None:
    out, outside = tmp_path / "out", tmp_path / "outside"
    outside.mkdir()
    (out / "big/sub").mkdir(parents=True)  # a directory where the image has a file
    (out / "mine").write_text("mine")
    (out / "a").symlink_to(outside / "a")
    (out / "dir").symlink_to(outside)
    (outside / "c").write_text("theirs")
    write_output(store, image, Export("local", str(out)))
    assert files_of(out) == {**FILES, "mine": b"mine"}
    assert not (out / "dir").is_symlink() and not (out / "a").is_symlink()
    assert files_of(outside) == {"c": b"theirs"}


@pytest.mark.parametrize("filled", [False, True])
def test_a_directory_stays_its_owners(store: Store, image: Image, tmp_path: Path, filled: bool) -> None:
    out = tmp_path / "out"
    out.mkdir(mode=0o700)
    out.chmod(0o2750)
    os.setxattr(out, "user.mine", b"1")
    if filled:
        (out / "mine").write_text("x")
    if os.geteuid() == 0:
        os.chown(out, 12, 34)
    before = out.stat()
    write_output(store, image, Export("local", str(out)))
    assert (out / "dir/c").exists()
    assert (out.stat().st_mode, out.stat().st_uid, out.stat().st_gid) == (
        before.st_mode,
        before.st_uid,
        before.st_gid,
    )
    assert os.listxattr(out) == ["user.mine"]


def test_a_directory_that_is_none(store: Store, image: Image, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("x")
    with pytest.raises(OperandError, match="is not a directory"):
        write_output(store, image, Export("local", str(tmp_path / "out")))
    for root in ("/", "/..", str(tmp_path / "root")):
        (tmp_path / "root").exists() or (tmp_path / "root").symlink_to("/")
        with pytest.raises(OperandError, match="root of this machine"):
            write_output(store, image, Export("local", root))
    with pytest.raises(StorageError, match="mkdir"):
        write_output(store, image, Export("local", str(tmp_path / "out/below/it")))
    assert (tmp_path / "out").read_text() == "x"


@pytest.mark.parametrize("to_file", [False, True])
def test_a_tar(store: Store, image: Image, tmp_path: Path, to_file: bool, engine: _backend.Engine) -> None:
    stream = io.BytesIO()
    dest = str(tmp_path / "out.tar.gz") if to_file else "-"  # a tar whatever it is called
    write_output(store, image, Export("tar", dest), stdout=stream, source_date_epoch=1_500_000_000)
    data = Path(dest).read_bytes() if to_file else stream.getvalue()
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as tar:
        found = {member.name: member for member in tar}
        contents = {name: tar.extractfile(member).read() for name, member in found.items() if member.isfile()}  # type: ignore[union-attr]
    assert contents == FILES
    assert max(member.mtime for member in found.values()) == 1_500_000_000


def test_where_nobody_may_mount(store: Store, image: Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any) -> Any:
        raise DriverError("mounting is not permitted")

    monkeypatch.setattr(trees, "_viewed", refused)
    write_output(store, image, Export("local", str(tmp_path / "out")))
    assert files_of(tmp_path / "out") == FILES
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["base", "out", "store"]


# ---- failures ----------------------------------------------------------------------------------------


EXPORTS = ["type=oci,dest={}", "type=docker,dest={}", "type=oci,tar=false,dest={}", "type=local,dest={}"]


def broken_snapshot(store: Store, image: Image) -> None:
    number, _ = store.snapshotter.number(str(image.chain_id))
    tree = store.snapshotter.driver.own_tree(number)
    assert tree is not None
    (tree / "new").write_bytes(b"other")


def broken_blob(store: Store, image: Image) -> None:
    path = store.content.path_of(image.layers[0].digest)
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-3] + b"abc")


@pytest.mark.parametrize("text", EXPORTS[:3])
@pytest.mark.parametrize("breaks", [broken_snapshot, broken_blob])
@pytest.mark.parametrize("options", ["", ",compression=none,force-compression=true"])
def test_damage_leaves_nothing(
    store: Store,
    image: Image,
    tmp_path: Path,
    text: str,
    breaks: Callable[[Store, Image], None],
    options: str,
) -> None:
    breaks(store, image)
    with pytest.raises(CorruptStoreError, match="store check"):
        write_output(store, image, parse_output(text.format(tmp_path / "out") + options), names=[NAME])
    nothing_beside(tmp_path)
    (tmp_path / "out").mkdir()
    if "tar=false" in text:
        with pytest.raises(CorruptStoreError):
            write_output(store, image, parse_output(text.format(tmp_path / "out") + options), names=[NAME])
    assert list((tmp_path / "out").iterdir()) == []


def test_a_layout_loses_what_was_written_in_vain(store: Store, image: Image, tmp_path: Path) -> None:
    text = f"type=oci,tar=false,dest={tmp_path / 'out'}"
    other = made_on(store, "base:1", {"other": b"o"}, "other:1")
    write_output(store, other, parse_output(text), names=["other:1"])
    before = files_of(tmp_path / "out")
    broken_snapshot(store, image)
    with pytest.raises(CorruptStoreError):
        write_output(store, image, parse_output(text), names=[NAME])
    assert files_of(tmp_path / "out") == before


def test_places_that_cannot_be(store: Store, image: Image, tmp_path: Path) -> None:
    (tmp_path / "dir").mkdir()
    (tmp_path / "dir/file").write_text("x")
    with pytest.raises(OperandError, match="is a directory"):
        write_output(store, image, parse_output(f"type=oci,dest={tmp_path / 'dir'}"))
    with pytest.raises(NotFoundError, match="no OCI image layout"):
        write_output(store, image, parse_output(f"type=oci,tar=false,dest={tmp_path / 'dir'}"))
    for text in ("type=oci,dest={}", "type=docker,dest={}", "type=tar,dest={}"):
        with pytest.raises(OperandError, match="none/out: its directory is not there"):
            write_output(store, image, parse_output(text.format(tmp_path / "none/out")))
    assert files_of(tmp_path / "dir") == {"file": b"x"}


def test_a_failing_layer_stops_the_others(
    store: Store, image: Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failed(*_: Any) -> Any:
        raise StorageError(28, "write", "somewhere")

    monkeypatch.setattr(output_layers._Work, "_as_it_is", failed)
    with pytest.raises(StorageError, match="No space left"):
        write_output(store, image, parse_output(f"type=oci,dest={tmp_path / 'out'}"), jobs=2)
    nothing_beside(tmp_path)


# ---- notes -------------------------------------------------------------------------------------------


def test_notes(store: Store, image: Image, tmp_path: Path) -> None:
    names = ("iid", "meta.json", "digest", "name", "tag")
    notes = Notes(*(str(tmp_path / name) for name in names))
    built = write_output(store, image, parse_output("type=image"), names=["app:1", "host:5/b:2"]).built
    write_notes(notes, built)
    iid, _, digest, name, tag = ((tmp_path / name).read_text() for name in names)
    assert iid == image.id and digest == image.manifest
    assert name == f"docker.io/library/app@{digest}\nhost:5/b@{digest}"
    assert tag == f"docker.io/library/app:1@{digest}\nhost:5/b:2@{digest}"
    value = json.loads((tmp_path / "meta.json").read_bytes())
    assert value == metadata(built)
    assert value["containerimage.digest"] == digest and value["containerimage.config.digest"] == iid
    assert value["image.name"] == "docker.io/library/app:1,host:5/b:2"
    assert value["containerimage.descriptor"] == {
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "digest": digest,
        "size": built.manifest.size,
        "platform": image.platform.to_dict(),
    }
    forget_notes(notes)
    assert not any((tmp_path / name).exists() for name in names)


def test_notes_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(OperandError, match="is a directory"):
        forget_notes(Notes(iidfile=str(tmp_path)))
    with pytest.raises(OperandError, match="its directory is not there"):
        forget_notes(Notes(digest_file=str(tmp_path / "no/digest")))
    forget_notes(Notes(iidfile="/dev/null"))
    assert Path("/dev/null").is_char_device()
