"""Image archives of every dialect, read in one pass: into a store, and where they are."""

from __future__ import annotations

import gzip
import io
import json
import os
import random
import tarfile
import threading
import zlib
from pathlib import Path
from typing import Any

import pytest

from fastlayer import _backend
from fastlayer.content.store import ContentStore
from fastlayer.errors import (
    DigestMismatchError,
    FastlayerError,
    LayerFormatError,
    LimitError,
    ManifestError,
    NotFoundError,
    OperandError,
    UnsafeEntryError,
)
from fastlayer.image.formats.archive import ArchiveFile, open_images
from fastlayer.image.formats.load import load_blobs
from fastlayer.image.formats.oci import OciLayout
from fastlayer.image.formats.scan import Archive, StoreSink, scan
from fastlayer.image.formats.source import ArchivedImage, Blobs
from fastlayer.oci.digest import Digest
from fastlayer.oci.manifest import parse_manifest
from tests.corpus.tarparts import END, header, member
from tests.images import (
    Image,
    blob_path,
    digest,
    docker_members,
    index_of,
    layer_tar,
    link,
    make_image,
    make_tar,
    oci_members,
    write_layout,
)

BASE = layer_tar({"base": b"b" * 3000})
ONE = make_image(BASE, layer_tar({"one": b"1"}), names=["docker.io/library/one:latest", "docker.io/library/one:1"])
TWO = make_image(BASE, layer_tar({"two": b"2" * (3 << 20)}), names=["docker.io/me/two:v2"])
ZIPPED = make_image(BASE, names=["docker.io/library/zipped:latest"], compress=True)
LEASE = "lease0"


@pytest.fixture
def store(tmp_path: Path) -> ContentStore:
    return ContentStore(tmp_path / "store")


def read(store: ContentStore, data: Any, **options: Any) -> Archive:
    value = io.BytesIO(data) if isinstance(data, bytes) else data
    return scan(value, StoreSink(store, LEASE), **options)


def names_of(images: tuple[ArchivedImage, ...]) -> list[list[str]]:
    return [[str(name) for name in image.names] for image in images]


def check_image(image: ArchivedImage, wanted: Image, blobs: Blobs) -> None:
    """The same configuration and the same layers, whatever the manifest looks like."""
    manifest = parse_manifest(blobs.read(image.descriptor.digest), image.descriptor.media_type)
    assert len(manifest.raw) == image.descriptor.size
    assert blobs.read(manifest.config.digest) == wanted.config
    for layer, data in zip(manifest.layers, wanted.layers, strict=True):
        with blobs.open(layer.digest) as file:
            assert file.read() == data
        assert blobs.size(layer.digest) == layer.size


def test_oci_archive(store: ContentStore, engine: _backend.Engine) -> None:
    archive = read(store, make_tar(oci_members(ONE, TWO)))
    assert archive.format == "oci-archive" and archive.unused == ()
    assert names_of(archive.images) == [sorted(ONE.names), ["docker.io/me/two:v2"]]
    assert [image.descriptor.digest for image in archive.images] == [digest(ONE.manifest), digest(TWO.manifest)]
    check_image(archive.images[0], ONE, store)
    check_image(archive.images[1], TWO, store)
    assert set(store.digests()) == {*ONE.blobs, *TWO.blobs} and store.leftovers() == []


def test_docker_archive(store: ContentStore, engine: _backend.Engine) -> None:
    archive = read(store, make_tar(docker_members(ONE, TWO)))
    assert archive.format == "docker-archive" and archive.unused == ()
    assert names_of(archive.images) == [sorted(ONE.names), ["docker.io/me/two:v2"]]
    check_image(archive.images[0], ONE, store)
    check_image(archive.images[1], TWO, store)
    again = read(store, make_tar(docker_members(ONE, TWO)))
    assert again == archive  # the manifests that were made are the same


def test_any_order_of_members(store: ContentStore) -> None:
    members = [*oci_members(ONE, TWO)]
    wanted = read(store, make_tar(members)).images
    docker = docker_members(ONE, TWO)
    docker_wanted = read(store, make_tar(docker)).images
    for seed in range(8):
        chance = random.Random(seed)
        chance.shuffle(members)
        chance.shuffle(docker)
        assert read(store, make_tar(members)).images == wanted
        assert read(store, make_tar(docker)).images == docker_wanted


def test_the_newer_docker_archive_is_both(store: ContentStore) -> None:
    tags = {
        "Config": blob_path(digest(ONE.config)),
        "RepoTags": ["one:latest"],
        "Layers": [blob_path(digest(layer)) for layer in ONE.layers],
    }
    document = ("manifest.json", json.dumps([tags]).encode())
    members = oci_members(ONE)
    assert read(store, make_tar([*members, document])).images[0].descriptor.digest == digest(ONE.manifest)
    plain = [m for m in members if m[0] not in ("index.json", "oci-layout")]
    archive = read(store, make_tar([*plain, document]))
    assert archive.format == "docker-archive" and names_of(archive.images) == [["docker.io/library/one:latest"]]
    check_image(archive.images[0], ONE, store)


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE])
def test_links_between_layers(store: ContentStore, kind: bytes) -> None:
    target = "../layers/base.tar" if kind == tarfile.SYMTYPE else "./layers/base.tar"
    entry = {"Config": "c.json", "RepoTags": ["x"], "Layers": ["a/layer.tar"]}
    image = make_image(BASE)
    archive = make_tar(
        [("a/layer.tar", link(target, kind)), ("c.json", image.config), ("./layers//base.tar", BASE),
         ("manifest.json", json.dumps([entry]).encode())]
    )  # fmt: skip
    check_image(read(store, archive).images[0], image, store)


def test_compressed_layers_in_a_docker_archive(store: ContentStore) -> None:
    members = [(name, ZIPPED.layers[0] if data == BASE else data) for name, data in docker_members(ZIPPED)]
    archive = read(store, make_tar(members))
    check_image(archive.images[0], ZIPPED, store)
    manifest = parse_manifest(store.read(archive.images[0].descriptor.digest))
    assert manifest.layers[0].media_type.endswith("+gzip")


@pytest.mark.parametrize("codec", ["gzip", "zstd"])
def test_compressed_archives(store: ContentStore, codec: str) -> None:
    import zstandard

    data = make_tar(oci_members(ONE, TWO))
    packed = gzip.compress(data) if codec == "gzip" else zstandard.ZstdCompressor().compress(data)
    assert len(read(store, packed).images) == 2
    check_image(read(store, packed).images[1], TWO, store)


def test_from_path_descriptor_and_pipe(store: ContentStore, tmp_path: Path) -> None:
    data = make_tar(docker_members(TWO))
    (tmp_path / "f.tar").write_bytes(data)
    wanted = read(store, data).images
    assert read(store, tmp_path / "f.tar").images == wanted
    with open(tmp_path / "f.tar", "rb") as file:
        assert read(store, file.fileno()).images == wanted
    inlet, outlet = os.pipe()

    def fill() -> None:
        with open(outlet, "wb") as file:
            file.write(data)

    thread = threading.Thread(target=fill)
    thread.start()
    with open(inlet, "rb") as file:
        assert read(store, file.fileno()).images == wanted
    thread.join()


def test_a_descriptor_is_read_from_where_it_stands(store: ContentStore, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"x" * 1000 + make_tar(oci_members(TWO)))
    with open(tmp_path / "f", "rb") as file:
        os.lseek(file.fileno(), 1000, os.SEEK_SET)
        assert len(read(store, file.fileno()).images) == 1
    check_image(read(store, make_tar(oci_members(TWO))).images[0], TWO, store)


def test_what_is_there_already_is_not_read_again(tmp_path: Path, engine: _backend.Engine) -> None:
    """Large bodies are jumped over in a plain file; what follows them is still found."""
    big = make_image(os.urandom(40 << 20), names=["docker.io/library/big:latest"])
    path = tmp_path / "a.tar"
    path.write_bytes(make_tar([*oci_members(big)[::-1]]))
    store = ContentStore(tmp_path / "store")
    first = read(store, path)
    with ArchiveFile(path) as source:
        assert source.images == first.images
        check_image(source.images[0], big, source)
    with open(path, "r+b") as file:  # nobody looks at it
        file.seek(20 << 20)
        file.write(b"damage")
    assert read(store, path) == first


def test_labels_that_are_no_names(store: ContentStore) -> None:
    for label, names, labels in [
        ("v1", [], ("v1",)),
        ("latest", [], ("latest",)),
        ("alpine:3", ["docker.io/library/alpine:3"], ()),
        ("ghcr.io/a/b:c", ["ghcr.io/a/b:c"], ()),
        ("ghcr.io/a/b", ["ghcr.io/a/b:latest"], ()),
        ("Any Text: at/all", [], ("Any Text: at/all",)),
    ]:
        entry = {**ONE.entry, "annotations": {"org.opencontainers.image.ref.name": label}}
        index = json.dumps({"schemaVersion": 2, "manifests": [entry]}).encode()
        members = [(name, index if name == "index.json" else data) for name, data in oci_members(ONE)]
        image = read(store, make_tar(members)).images[0]
        assert ([str(name) for name in image.names], image.labels) == (names, labels)


@pytest.mark.parametrize("members", [oci_members, docker_members])
def test_a_lease_hears_of_each_blob_before_it_can_be_collected(store: ContentStore, members: Any) -> None:
    heard: dict[Digest, bool] = {}
    sink = StoreSink(store, LEASE, lambda digest: heard.setdefault(digest, store.has(digest)))
    scan(io.BytesIO(make_tar(members(ONE))), sink)
    assert set(heard) == set(store.digests()) and not any(heard.values())


def test_blobs_that_nobody_names_are_told(store: ContentStore) -> None:
    archive = read(store, make_tar([*docker_members(ONE), ("README", b"hello")]))
    assert archive.unused == (digest(b"hello"),)


def test_a_layout_directory_into_a_store(store: ContentStore, tmp_path: Path) -> None:
    layout = write_layout(tmp_path / "layout", ONE, TWO)
    (layout / "blobs/sha256" / ("0" * 64)).write_bytes(b"belongs to nothing")
    heard: set[Digest] = set()
    archive = load_blobs(layout, store, LEASE, keep=heard.add)
    assert archive == Archive("oci-layout", OciLayout(layout).images, ())
    assert heard == set(store.digests()) == {*ONE.blobs, *TWO.blobs}
    assert load_blobs(layout, store, LEASE) == archive
    (tmp_path / "a.tar").write_bytes(make_tar(oci_members(ONE)))
    assert load_blobs(tmp_path / "a.tar", store, LEASE).format == "oci-archive"
    store.remove(digest(BASE))
    (layout / blob_path(digest(BASE))).write_bytes(BASE[:-1] + b"x")
    with pytest.raises(DigestMismatchError):
        load_blobs(layout, store, LEASE)
    (layout / blob_path(digest(BASE))).unlink()
    with pytest.raises(NotFoundError):
        load_blobs(layout, store, LEASE)
    with pytest.raises(NotFoundError, match="no OCI image layout"):
        load_blobs(tmp_path, store, LEASE)


def test_descriptors_that_lie_about_sizes(store: ContentStore, tmp_path: Path) -> None:
    manifest = json.loads(ONE.manifest)
    manifest["layers"][0]["size"] += 1
    lying = ONE._replace(manifest=json.dumps(manifest).encode())
    refused(store, make_tar(oci_members(lying)), ManifestError, "not as long as its descriptor says")
    with pytest.raises(ManifestError, match="not as long as its descriptor says"):
        load_blobs(write_layout(tmp_path / "layout", lying), store, LEASE)


# ---- where they are


def test_a_layout_directory(tmp_path: Path) -> None:
    with open_images(write_layout(tmp_path / "layout", ONE, TWO)) as source:
        assert source.format == "oci-layout" and len(source.images) == 2
        check_image(source.images[0], ONE, source)
        assert source.has(digest(BASE)) and not source.has(digest(b"x"))
        with pytest.raises(NotFoundError):
            source.open(digest(b"x"))


@pytest.mark.parametrize("members", [oci_members, docker_members])
def test_an_archive_file_in_place(tmp_path: Path, members: Any, engine: _backend.Engine) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(make_tar(members(ONE, TWO)))
    with open_images(path) as source:
        for image, wanted in zip(source.images, (ONE, TWO), strict=True):
            check_image(image, wanted, source)
            check_image(image, wanted, source)
        with pytest.raises(NotFoundError):
            source.size(digest(b"x"))
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress(path.read_bytes()))
    with pytest.raises(OperandError, match="decompress it first"):
        open_images(tmp_path / "a.tar.gz")
    with pytest.raises(OperandError):
        open_images(tmp_path / "none")


def test_a_lying_blob_in_place_is_found_when_read(tmp_path: Path) -> None:
    members = [(name, b"x" * len(data) if data == ONE.config else data) for name, data in oci_members(ONE)]
    (tmp_path / "a.tar").write_bytes(make_tar(members))
    with open_images(tmp_path / "a.tar") as source, pytest.raises(DigestMismatchError):
        source.read(digest(ONE.config))


# ---- hostile ones


def refused(store: ContentStore, data: Any, error: type[Exception], words: str, **options: Any) -> None:
    with pytest.raises(error, match=words) as caught:
        read(store, data, **options)
    assert isinstance(caught.value, FastlayerError) and str(caught.value).isprintable()
    assert store.leftovers() == []


def changed(image: Image, **documents: bytes | None) -> bytes:
    names = {"index": "index.json", "layout": "oci-layout", "manifest": "manifest.json"}
    given = {names[key]: value for key, value in documents.items()}
    source = docker_members(image) if "manifest" in documents else oci_members(image)
    kept = [(name, given.get(name, data)) for name, data in source]
    return make_tar([(name, data) for name, data in kept if data is not None])


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "blobs/sha256/../../../x", "a/../b", ".."])
def test_names_that_lead_out(store: ContentStore, name: str) -> None:
    refused(store, member(name.encode(), body=b"x") + END, UnsafeEntryError, "leads out of the archive")


@pytest.mark.parametrize("target", ["/etc/passwd", "../../x", "../..", "a/../../../x"])
def test_links_that_lead_out(store: ContentStore, target: str) -> None:
    refused(store, make_tar([("d/layer.tar", link(target))]), UnsafeEntryError, "link out of the archive")


def test_links_in_circles_and_to_nothing(store: ContentStore) -> None:
    entry = {"Config": "a", "RepoTags": None, "Layers": []}
    document = ("manifest.json", json.dumps([entry]).encode())
    refused(store, make_tar([("a", link("b")), ("b", link("a")), document]), UnsafeEntryError, "too many links")
    refused(store, make_tar([("a", link("b")), document]), LayerFormatError, "a is missing in the archive")


def test_devices_have_no_place(store: ContentStore) -> None:
    for kind in (b"3", b"4", b"6"):
        refused(store, header(b"dev", kind) + END, UnsafeEntryError, "no place in an image archive")


def test_twice_and_different(store: ContentStore) -> None:
    for first, second in [
        (("x", b"1"), ("x", b"2")),
        (("x", b"1"), ("./x", b"2")),
        (("x", b"1"), ("x", link("y"))),
        (("x", link("y")), ("x", link("z"))),
        (("index.json", b"{}"), ("index.json", b"[]")),
        (("index.json", b"{}"), ("index.json", link("x"))),
    ]:
        refused(store, make_tar([first, second]), LayerFormatError, "is there twice")
    same = [*oci_members(ONE), *oci_members(ONE)]
    assert len(read(store, make_tar(same)).images) == 1


def test_blobs_that_are_not_what_they_say(store: ContentStore) -> None:
    members = [(name, data + b"x" if data == ONE.config else data) for name, data in oci_members(ONE)]
    refused(store, make_tar(members), DigestMismatchError, "hash to")
    assert not store.has(digest(ONE.config))


def test_sizes_that_lie(store: ContentStore, tmp_path: Path) -> None:
    for size in (1 << 40, (1 << 63) - 1):
        data = b"".join([header(b"blobs/sha256/" + b"0" * 64, size=b"\x80" + size.to_bytes(11, "big")), b"x" * 5000])
        refused(store, data, LayerFormatError, "cut")
        (tmp_path / "f").write_bytes(data)
        refused(store, tmp_path / "f", LayerFormatError, "cut")
    refused(store, header(b"index.json", size=1 << 30) + b"x" * 512, LimitError, "the limit is")


def test_cut_archives(store: ContentStore, tmp_path: Path) -> None:
    whole = make_tar(oci_members(ONE))
    for length in [*range(1, 2000, 97), *range(2000, len(whole) - 12_000, 3001)]:
        (tmp_path / "cut").write_bytes(whole[:length])
        for value in (whole[:length], tmp_path / "cut"):
            with pytest.raises(FastlayerError):
                read(store, value)
    assert store.leftovers() == []


class Endless(io.RawIOBase):
    """A gzip stream whose one member has no end."""

    def __init__(self) -> None:
        packer = zlib.compressobj(9, zlib.DEFLATED, -15)
        head = header(b"x", size=b"\x80" + (1 << 60).to_bytes(11, "big"))
        self._queue = b"\x1f\x8b\x08\0\0\0\0\0\0\xff" + packer.compress(head) + packer.flush(zlib.Z_FULL_FLUSH)
        self._more = packer.compress(bytes(16 << 20)) + packer.flush(zlib.Z_FULL_FLUSH)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._queue = self._queue or self._more
        piece, self._queue = self._queue[: len(buffer)], self._queue[len(buffer) :]
        buffer[: len(piece)] = piece
        return len(piece)


class Nowhere:
    """A sink and a writer that keep nothing."""

    def begin(self, size: int, digest: Digest | None, offset: int | None) -> Any:
        return self

    def write(self, data: Any) -> None: ...

    def commit(self) -> Any:
        raise AssertionError("a blob without end was complete")

    def abort(self) -> None: ...

    def read(self, digest: str, limit: int) -> bytes:
        raise AssertionError


def test_a_bomb_is_stopped(store: ContentStore) -> None:
    refused(store, gzip.compress(header(b"x", size=3 << 30) + bytes(1 << 20)), LayerFormatError, "cut")
    with pytest.raises(LimitError, match="raise max_ratio"):
        scan(Endless(), Nowhere())


BROKEN_INDEXES = [
    b"",
    b"[]",
    b"{}",
    b'{"schemaVersion": 2, "manifests": [{"mediaType": "text/plain", "digest": "x", "size": 1}]}',
    json.dumps({"schemaVersion": 2, "manifests": [{**ONE.entry, "mediaType": "text/plain"}]}).encode(),
    json.dumps({"schemaVersion": 2, "manifests": [{**ONE.entry, "size": 5}]}).encode(),
    json.dumps({"schemaVersion": 2, "manifests": [{**ONE.entry, "digest": digest(b"gone")}]}).encode(),
    json.dumps({"schemaVersion": 2, "layers": [], "manifests": []}).encode(),
    b'{"schemaVersion": 2, "manifests": []}',
]


@pytest.mark.parametrize("index", BROKEN_INDEXES, ids=range(len(BROKEN_INDEXES)))
def test_broken_indexes(store: ContentStore, index: bytes) -> None:
    refused(store, changed(ONE, index=index), ManifestError, ".")


BROKEN_MANIFESTS: list[Any] = [
    b"",
    b"{}",
    b"[]",
    b'[{}],"x":[{}]',
    b"[1]",
    b"[[]]",
    [{"Config": "none.json", "Layers": []}],
    [{"Config": "../../etc/passwd", "Layers": []}],
    [{"Config": "/etc/passwd", "Layers": []}],
    [{"Config": 1, "Layers": []}],
    [{"Config": "c.json", "Layers": "x"}],
    [{"config": "c.json", "Layers": []}],
    [{"Layers": []}],
]


@pytest.mark.parametrize("value", BROKEN_MANIFESTS, ids=range(len(BROKEN_MANIFESTS)))
def test_broken_docker_manifests(store: ContentStore, value: Any) -> None:
    document = value if isinstance(value, bytes) else json.dumps(value).encode()
    refused(store, changed(ONE, manifest=document), FastlayerError, ".")


def test_a_docker_manifest_that_contradicts_its_configuration(store: ContentStore) -> None:
    document = json.loads(dict(docker_members(ONE))["manifest.json"])  # type: ignore[arg-type]
    for change, words in [({"Layers": document[0]["Layers"][:1]}, "1 layers"), ({"RepoTags": ["Bad:"]}, "capitals")]:
        value = json.dumps([{**document[0], **change}]).encode()
        refused(store, changed(ONE, manifest=value), ManifestError, words)


def test_what_is_no_image_archive(store: ContentStore) -> None:
    refused(store, layer_tar({"etc/passwd": b""}), LayerFormatError, "a root file system is imported")
    refused(store, b"", LayerFormatError, "no image archive")
    refused(store, b"hello " * 1000, LayerFormatError, ".")
    refused(store, make_tar([("repositories", b"{}")]), LayerFormatError, "before 1.10")
    refused(store, changed(ONE, layout=None), LayerFormatError, "incomplete image layout")
    refused(store, changed(ONE, layout=b'{"imageLayoutVersion":"9"}'), ManifestError, "another version")


def test_sparse_members_are_refused(store: ContentStore) -> None:
    from tests.corpus.tarparts import gnu_sparse

    refused(store, gnu_sparse([(0, 512)], b"x" * 512, 1 << 30, name=b"x") + END, LayerFormatError, "sparse")


def test_nothing_outside_is_touched(tmp_path: Path) -> None:
    store = ContentStore(tmp_path / "store")
    (tmp_path / "victim").write_text("safe")
    hostile = make_tar([("a", link("../victim")), ("a/b", b"evil")])
    with pytest.raises(FastlayerError):
        read(store, hostile)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["store", "victim"]
    assert (tmp_path / "victim").read_text() == "safe"


def test_index_names_are_joined(store: ContentStore) -> None:
    assert json.loads(index_of(ONE))["manifests"][0]["digest"] == digest(ONE.manifest)
    assert len(read(store, make_tar(oci_members(ONE))).images[0].names) == 2
