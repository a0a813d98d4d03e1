"""Writing layouts and archives: what comes back is what went in, and the bytes are always the same."""

from __future__ import annotations

import gzip
import io
import json
import os
import tarfile
from pathlib import Path
from typing import Any

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fastlayer import _backend
from fastlayer.content.store import ContentStore
from fastlayer.errors import CorruptStoreError, ManifestError, NotFoundError, OperandError, StorageError
from fastlayer.image.formats.archive import open_images, save_oci_archive
from fastlayer.image.formats.docker import save_docker_archive
from fastlayer.image.formats.oci import OciLayout, save_oci_layout
from fastlayer.image.formats.scan import StoreSink, scan
from fastlayer.image.formats.source import ArchivedImage
from fastlayer.image.formats.tarwriter import _header
from fastlayer.oci import Descriptor, Digest
from fastlayer.oci.image_index import new_index
from fastlayer.oci.manifest import new_manifest, parse_manifest
from fastlayer.oci.platform import Platform
from fastlayer.oci.reference import parse_reference
from tests.images import (
    OCI_CONFIG,
    OCI_MANIFEST,
    Image,
    descriptor,
    digest,
    layer_tar,
    make_image,
    make_tar,
    oci_members,
    write_layout,
)

BASE = layer_tar({"base": b"b" * 3000})
ONE = make_image(BASE, layer_tar({"one": b"1"}), names=["docker.io/library/one:latest", "docker.io/library/one:1"])
TWO = make_image(BASE, layer_tar({"two": b"2" * (2 << 20)}), names=["docker.io/me/two:v2"])
SAVERS = {"oci": save_oci_archive, "docker": save_docker_archive}


@pytest.fixture
def store(tmp_path: Path) -> ContentStore:
    return ContentStore(tmp_path / "store")


def keep(store: ContentStore, *images: Image) -> list[ArchivedImage]:
    return list(scan(io.BytesIO(make_tar(oci_members(*images))), StoreSink(store, "test")).images)


def save(kind: str, images: Any, blobs: Any, **options: Any) -> bytes:
    out = io.BytesIO()
    SAVERS[kind](out, images, blobs, **options)
    return out.getvalue()


def members(data: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        names = tar.getnames()
        assert len(names) == len(set(names))
        assert all((m.mtime, m.uid, m.gid, m.uname) == (0, 0, 0, "") for m in tar)
        return {m.name: tar.extractfile(m).read() for m in tar if m.isfile()}  # type: ignore[union-attr]


@pytest.mark.parametrize("kind", SAVERS)
def test_round_trip(store: ContentStore, tmp_path: Path, kind: str) -> None:
    images = keep(store, ONE, TWO)
    data = save(kind, images, store)
    other = ContentStore(tmp_path / "other")
    found = scan(io.BytesIO(data), StoreSink(other, "test"))
    assert found.unused == ()
    assert sorted(i.names for i in found.images) == sorted(i.names for i in images)
    if kind == "oci":
        assert {i.descriptor for i in map(_bare, found.images)} == {i.descriptor for i in map(_bare, images)}
    for image in found.images:
        manifest = parse_manifest(other.read(image.descriptor.digest))
        for part in (manifest.config, *manifest.layers):
            other.check(part.digest)
    assert {digest(ONE.config), digest(TWO.config), *map(digest, (*ONE.layers, *TWO.layers))} <= set(other.digests())


def _bare(image: ArchivedImage) -> Any:
    return image._replace(descriptor=image.descriptor[:3])  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", SAVERS)
def test_bytes_depend_on_the_images_only(store: ContentStore, tmp_path: Path, kind: str) -> None:
    images = keep(store, ONE, TWO)
    data = save(kind, images, store)
    assert save(kind, images, store) == data
    with open_images(write_layout(tmp_path / "layout", ONE, TWO)) as source:
        assert save(kind, images, source) == data
    SAVERS[kind](tmp_path / "file.tar", images, store)
    assert (tmp_path / "file.tar").read_bytes() == data
    fd = os.open(tmp_path / "by-fd", os.O_WRONLY | os.O_CREAT)
    SAVERS[kind](fd, images, store)
    os.close(fd)
    assert (tmp_path / "by-fd").read_bytes() == data


@pytest.mark.parametrize("kind", SAVERS)
def test_what_is_shared_is_there_once(store: ContentStore, kind: str) -> None:
    data = members(save(kind, keep(store, ONE, TWO), store))
    assert list(data.values()).count(BASE) == 1


def test_docker_archive_members(store: ContentStore) -> None:
    data = members(save("docker", keep(store, ONE, TWO), store))
    entries = {entry["Config"]: entry for entry in json.loads(data["manifest.json"])}
    one = entries[digest(ONE.config)[7:] + ".json"]
    assert one["RepoTags"] == ["docker.io/library/one:1", "docker.io/library/one:latest"]
    assert [data[name] for name in one["Layers"]] == list(ONE.tars)
    assert data[one["Config"]] == ONE.config
    top = digest(ONE.tars[-1])[7:]
    assert json.loads(data["repositories"]) == {
        "me/two": {"v2": digest(TWO.tars[-1])[7:]},
        "one": {"1": top, "latest": top},
    }


def test_oci_archive_members(store: ContentStore) -> None:
    data = members(save("oci", keep(store, ONE), store))
    assert [name for name in data if not name.startswith("blobs/")] == ["oci-layout", "index.json", "manifest.json"]
    assert {name: data[f"blobs/sha256/{name[7:]}"] for name in ONE.blobs} == ONE.blobs
    entry = json.loads(data["manifest.json"])[0]
    assert data[entry["Config"]] == ONE.config and [data[name] for name in entry["Layers"]] == list(ONE.layers)
    assert "manifest.json" not in members(save("oci", keep(store, ONE), store, compatible=False))


@pytest.mark.parametrize("codec", ["gzip", "zstd"])
def test_compressed_layers_in_a_docker_archive(store: ContentStore, codec: str) -> None:
    pack = zstandard.ZstdCompressor().compress if codec == "zstd" else lambda data: gzip.compress(data, mtime=0)
    layer = store.put(pack(TWO.tars[1]), "test")
    config = store.put(make_image(TWO.tars[1]).config, "test")
    manifest = new_manifest(
        Descriptor(OCI_CONFIG, config.digest, config.size),
        [Descriptor(f"application/vnd.oci.image.layer.v1.tar+{codec}", layer.digest, layer.size)],
    )
    store.put(manifest.raw, "test")
    image = ArchivedImage((parse_reference("x:1"),), manifest.descriptor)
    stored = members(save("docker", [image], store))
    plain = members(save("docker", [image], store, expand="all"))
    name = json.loads(plain["manifest.json"])[0]["Layers"][0]
    assert plain[name] == TWO.tars[1]
    assert stored[name] == (TWO.tars[1] if codec == "zstd" else store.read(layer.digest))


def test_a_tar_that_is_not_what_the_configuration_says(store: ContentStore) -> None:
    layer = store.put(gzip.compress(BASE), "test")
    config = store.put(make_image(TWO.tars[1]).config, "test")
    manifest = new_manifest(
        Descriptor(OCI_CONFIG, config.digest, config.size),
        [Descriptor("application/vnd.oci.image.layer.v1.tar+gzip", layer.digest, layer.size)],
    )
    store.put(manifest.raw, "test")
    with pytest.raises(CorruptStoreError, match="instead of"):
        save("docker", [ArchivedImage((), manifest.descriptor)], store, expand="all")


# ---- several platforms


def several(store: ContentStore, *, leave_out: str = "") -> ArchivedImage:
    entries = []
    for architecture in ("amd64", "arm64", "s390x"):
        image = make_image(BASE, layer_tar({"arch": architecture.encode()}), architecture=architecture)
        if architecture != leave_out:
            for data in image.blobs.values():
                store.put(data, "test")
        entry = Descriptor.from_dict(descriptor(image.manifest, OCI_MANIFEST))
        entries.append(entry._replace(platform=Platform("linux", architecture)))
    index = new_index(entries)
    store.put(index.raw, "test")
    return ArchivedImage((parse_reference("many:1"),), index.descriptor)


def test_all_platforms_in_an_oci_archive(store: ContentStore, tmp_path: Path) -> None:
    image = several(store)
    found = scan(io.BytesIO(save("oci", [image], store)), StoreSink(ContentStore(tmp_path / "o"), "test"))
    assert found.images[0].descriptor == image.descriptor
    assert set(ContentStore(tmp_path / "o").digests()) == set(store.digests())


def test_one_platform_in_a_docker_archive(store: ContentStore) -> None:
    image = several(store)
    for architecture in ("amd64", "s390x"):
        data = members(save("docker", [image], store, platform=Platform("linux", architecture)))
        config = json.loads(data[json.loads(data["manifest.json"])[0]["Config"]])
        assert config["architecture"] == architecture
    with pytest.raises(ManifestError, match="no image for linux/riscv64; there are: linux/amd64, linux/arm64"):
        save("docker", [image], store, platform=Platform("linux", "riscv64"))


def test_platforms_that_were_not_fetched_are_left_out(store: ContentStore, tmp_path: Path) -> None:
    image = several(store, leave_out="arm64")
    other = ContentStore(tmp_path / "o")
    found = scan(io.BytesIO(save("oci", [image], store)), StoreSink(other, "test"))
    assert found.images[0].descriptor == image.descriptor  # the index itself never changes


# ---- directories


def test_layout_directory(store: ContentStore, tmp_path: Path) -> None:
    images = keep(store, ONE, TWO)
    save_oci_layout(tmp_path / "out", images, store)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["blobs", "index.json", "oci-layout"]
    layout = OciLayout(tmp_path / "out")
    assert sorted(layout.images) == sorted(images)
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_a_layout_that_exists_keeps_its_images(store: ContentStore, tmp_path: Path) -> None:
    one, two = keep(store, ONE, TWO)
    save_oci_layout(tmp_path / "out", [one], store)
    save_oci_layout(tmp_path / "out", [two], store)
    save_oci_layout(tmp_path / "out", [two], store)
    assert sorted(OciLayout(tmp_path / "out").images) == sorted([one, two])
    moved = two._replace(names=one.names)
    save_oci_layout(tmp_path / "out", [moved], store)
    names = {i.descriptor.digest: i.names for i in OciLayout(tmp_path / "out").images}
    assert names == {two.descriptor.digest: tuple(sorted({*one.names, *two.names}))}


def test_images_without_a_name_stay(store: ContentStore, tmp_path: Path) -> None:
    one, two = (image._replace(names=()) for image in keep(store, ONE, TWO))
    for image in (one, two, one):
        save_oci_layout(tmp_path / "out", [image], store)
    assert len(OciLayout(tmp_path / "out").images) == 2


# ---- refusals


@pytest.mark.parametrize("kind", [*SAVERS, "layout"])
@pytest.mark.parametrize("what", ["manifest", "config", "layer"])
def test_a_missing_blob_leaves_no_file(store: ContentStore, tmp_path: Path, kind: str, what: str) -> None:
    images = keep(store, ONE)
    store.remove(digest({"manifest": ONE.manifest, "config": ONE.config, "layer": ONE.layers[1]}[what]))
    call = save_oci_layout if kind == "layout" else SAVERS[kind]
    with pytest.raises(NotFoundError, match="no such blob"):
        call(tmp_path / "out", images, store)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["store"]


@pytest.mark.parametrize("kind", SAVERS)
def test_a_blob_of_another_length(store: ContentStore, tmp_path: Path, kind: str) -> None:
    images = keep(store, ONE)
    with open(store.path_of(digest(ONE.layers[1])), "ab") as file:
        file.write(b"more")
    with pytest.raises(CorruptStoreError):
        SAVERS[kind](tmp_path / "out.tar", images, store)
    assert not (tmp_path / "out.tar").exists()


@pytest.mark.parametrize("kind", SAVERS)
def test_outputs_that_cannot_be(store: ContentStore, tmp_path: Path, kind: str) -> None:
    images = keep(store, ONE)
    with pytest.raises(OperandError, match="is a directory"):
        SAVERS[kind](tmp_path, images, store)
    with pytest.raises(StorageError):
        SAVERS[kind](tmp_path / "none/out.tar", images, store)
    with pytest.raises(StorageError):
        SAVERS[kind]("/dev/full", images, store)


def test_foreign_layers_are_refused_by_name(store: ContentStore) -> None:
    foreign = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
    config = store.put(make_image(BASE).config, "test")
    manifest = new_manifest(
        Descriptor(OCI_CONFIG, config.digest, config.size), [Descriptor(foreign, Digest(digest(b"far")), 3)]
    )
    store.put(manifest.raw, "test")
    with pytest.raises(ManifestError, match="not distributable"):
        save("docker", [ArchivedImage((), manifest.descriptor)], store)


def test_a_member_beyond_8_gib_has_its_size() -> None:
    events = _backend.engine().tarread.TarScanner().feed(_header("x", 9 << 30))
    assert events[0][1].size == 9 << 30


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(
            st.lists(st.binary(max_size=600), max_size=4),
            st.sets(st.sampled_from(["a:1", "b:2", "ghcr.io/x/y:z", "localhost:5000/c:latest"]), max_size=2),
            st.booleans(),
        ),
        min_size=1,
        max_size=3,
    ),
    st.sampled_from(sorted(SAVERS)),
)
def test_any_images_come_back(tmp_path: Path, spec: list[Any], kind: str) -> None:
    """Random stacks with shared layers and names, through a save and a load."""
    import tempfile

    taken: set[str] = set()
    images = []
    for contents, names, compress in spec:
        mine = [str(parse_reference(name)) for name in sorted(names - taken)]
        taken |= names
        tars = [layer_tar({"f": content}) for content in contents]
        images.append(make_image(*tars, names=mine, compress=compress))
    with tempfile.TemporaryDirectory(dir=tmp_path) as work:
        store, other = ContentStore(f"{work}/a"), ContentStore(f"{work}/b")
        kept = keep(store, *images)
        found = scan(io.BytesIO(save(kind, kept, store)), StoreSink(other, "test")).images
        configs = lambda listed, blobs: {  # noqa: E731
            (parse_manifest(blobs.read(i.descriptor.digest)).config.digest, name) for i in listed for name in i.names
        }
        assert configs(found, other) == configs(kept, store)
        for name in store.digests():
            assert kind == "docker" or other.has(name)
