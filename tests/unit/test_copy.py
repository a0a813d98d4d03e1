"""copy: the same bytes from any transport to any other, and nothing half-written anywhere."""

from __future__ import annotations

import gzip
import io
import json
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import fastlayer
from fastlayer import _backend
from fastlayer.errors import (
    DigestMismatchError,
    FastlayerError,
    ManifestError,
    NotFoundError,
    OperandError,
    RegistryError,
    UsageError,
)
from fastlayer.image.formats.archive import open_images
from fastlayer.image.images import Images
from fastlayer.oci import mediatypes
from fastlayer.oci.descriptor import Descriptor
from fastlayer.oci.digest import Digest, digest_of
from fastlayer.oci.image_index import new_index
from fastlayer.oci.manifest import Manifest, new_manifest
from fastlayer.oci.platform import Platform, host_platform
from fastlayer.transfer.copy import Copied, CopyOptions, copy
from tests.registry_server import RegistryServer, error
from tests.stores import LAYERS, Layout, content, imported, vfs_store
from tests.transfers import QUICK, complete, manifest_at

OPTIONS = CopyOptions(source=QUICK, destination=QUICK)
LARGE = [{"data": os.urandom(900_000)}, {"more": os.urandom(700_000)}]


@pytest.fixture
def server() -> Iterator[RegistryServer]:
    with RegistryServer() as found:
        yield found


def at(server: RegistryServer, name: str = "a/b:1") -> str:
    return f"docker://{server.host}/{name}"


def run(source: str, destination: str, **more: object) -> Copied:
    return copy(source, destination, OPTIONS._replace(**more))


def refused(source: str, destination: str, kind: type[FastlayerError], **more: object) -> str:
    with pytest.raises(kind) as caught:
        run(source, destination, **more)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def offered(server: RegistryServer, layout: Layout, name: str, root: Descriptor) -> None:
    """What a layout has, in a registry."""
    blobs = layout.path / "blobs/sha256"
    for path in blobs.iterdir():
        data = path.read_bytes()
        server.add_blob(name, data)
        if data.startswith(b'{"schemaVersion"'):
            server.manifests[name, digest_of(data)] = (data, json.loads(data)["mediaType"])
    server.manifests[name, "1"] = server.manifests[name, root.digest]


@pytest.fixture
def image(server: RegistryServer, tmp_path: Path) -> Manifest:
    """In the registry as a/b:1 and in the layout at ``source`` as v1."""
    layout = Layout(tmp_path / "source")
    manifest = layout.image("v1", LARGE)
    offered(server, layout, "a/b", manifest.descriptor)
    return manifest


def multi(server: RegistryServer, place: Path) -> tuple[Descriptor, list[Descriptor]]:
    layout = Layout(place)
    found = []
    for architecture in ("amd64", "arm64"):
        platform = Platform("linux", architecture)
        one = layout.image("", [{"arch": architecture.encode()}], platform, architecture)
        found.append(one.descriptor._replace(platform=platform))
    index = new_index(found)
    layout.blob(index.raw)
    layout.add("multi", index.descriptor)
    offered(server, layout, "multi", index.descriptor)
    return index.descriptor, found


# ---- every way ---------------------------------------------------------------------------------------------------

PLACES = ["docker://{host}/x/y:1", "oci:{place}/out:v1", "oci-archive:{place}/out.tar:v1", "dir:{place}/out"]


@pytest.mark.parametrize("way", PLACES)
def test_digests_are_kept_there_and_back(
    engine: _backend.Engine, server: RegistryServer, tmp_path: Path, image: Manifest, way: str
) -> None:
    there = way.format(host=server.host, place=tmp_path)
    copied = run(at(server), there)
    assert copied.descriptor.digest == image.digest
    assert (copied.uploaded, copied.present) == ((3, 0) if "docker:" not in way else (0, 0))
    assert copied.sent == (sum(one.size for one in (image.config, *image.layers)) if copied.uploaded else 0)
    with RegistryServer() as other:
        back = run(there, at(other, "back:1"))
        assert back.descriptor.digest == image.digest
        assert other.manifests["back", "1"][0] == image.raw
        complete(other, "back", "1")
    assert run(there, f"oci:{tmp_path}/last:v1").descriptor.digest == image.digest


@pytest.mark.parametrize("way", PLACES[:2] + PLACES[3:])
def test_what_is_there_is_not_sent(server: RegistryServer, tmp_path: Path, image: Manifest, way: str) -> None:
    there = way.format(host=server.host, place=tmp_path)
    run(at(server), there)
    server.seen.clear()
    copied = run(at(server), there)
    assert (copied.sent, copied.present) == (0, 3)
    assert not server.calls("GET .*blobs/" + str(image.layers[0].digest))


def test_within_a_registry_nothing_moves(server: RegistryServer, image: Manifest) -> None:
    copied = run(at(server), at(server, "x/y:2"))
    assert (copied.mounted, copied.sent) == (3, 0)
    complete(server, "x/y", "2")
    server.mounts = False
    assert run(at(server), at(server, "x/z:2")).uploaded == 3


def test_docker_archives(server: RegistryServer, tmp_path: Path, image: Manifest) -> None:
    archive = tmp_path / "out.tar"
    run(at(server), f"docker-archive:{archive}:app:2")
    with tarfile.open(archive) as tar:
        (entry,) = json.load(tar.extractfile("manifest.json") or pytest.fail())
        assert entry["RepoTags"] == ["docker.io/library/app:2"]
        diff_ids = [digest_of((tar.extractfile(name) or pytest.fail()).read()) for name in entry["Layers"]]
        config = (tar.extractfile(entry["Config"]) or pytest.fail()).read()
    assert digest_of(config) == image.config.digest
    assert diff_ids == json.loads(config)["rootfs"]["diff_ids"]
    for name in (":app:2", ":@0", ""):
        found = run(f"docker-archive:{archive}{name}", at(server, "from/docker:1"))
        value = complete(server, "from/docker", "1")
        assert value["config"]["digest"] == image.config.digest
        assert found.descriptor.digest == digest_of(server.manifests["from/docker", "1"][0])
    assert "no image of that name: there are" in refused(f"docker-archive:{archive}:app:3", at(server), NotFoundError)


def tar_of(members: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, data in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return out.getvalue()


@pytest.mark.parametrize("what", ["layer", "compressed layer", "configuration"])
@pytest.mark.parametrize("way", [*PLACES, "docker-archive:{place}/out.docker.tar"])
def test_a_damaged_docker_archive_goes_nowhere(server: RegistryServer, tmp_path: Path, what: str, way: str) -> None:
    """It has no digests of its layers: the configuration has."""
    tar = tar_of({"name": b"contents"})
    config = json.dumps(
        {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": [str(digest_of(tar))]}}
    ).encode()
    name = digest_of(config).encoded
    if what == "configuration":
        config = config.replace(b"linux", b"plan9")
    else:
        tar = tar.replace(b"contents", b"CONTENTS")
    layer = gzip.compress(tar) if what == "compressed layer" else tar
    listed = json.dumps([{"Config": f"{name}.json", "RepoTags": ["app:1"], "Layers": ["l/layer.tar"]}]).encode()
    members = {f"{name}.json": config, "l/layer.tar": layer, "manifest.json": listed}
    (tmp_path / "archive.tar").write_bytes(tar_of(members))
    there = way.format(host=server.host, place=tmp_path)
    line = refused(f"docker-archive:{tmp_path}/archive.tar", there, DigestMismatchError)
    assert "hashes to" in line if what == "configuration" else "diff_id is" in line
    assert not server.manifests and not list(tmp_path.glob("out*"))


def test_a_digest_that_a_docker_archive_cannot_keep(server: RegistryServer, tmp_path: Path, image: Manifest) -> None:
    line = refused(at(server), f"docker-archive:{tmp_path}/d.tar:app:2", UsageError, preserve_digests=True)
    assert "leave out --preserve-digests" in line and not (tmp_path / "d.tar").exists()


def test_what_has_no_manifest_is_compressed_into_a_registry(server: RegistryServer, tmp_path: Path) -> None:
    """As a push does it, from the store and from docker-archives."""
    with vfs_store(tmp_path / "store") as store:
        imported(store, tmp_path / "tree", "app:1")
        options = OPTIONS._replace(compression=None)
        copy("app:1", f"docker-archive:{tmp_path}/d.tar:app:1", options, store=store)
        for number, source in enumerate(("app:1", f"docker-archive:{tmp_path}/d.tar")):
            copied = copy(source, at(server, f"from/{number}:1"), options, store=store)
            (layer,) = complete(server, f"from/{number}", "1")["layers"]
            assert layer["mediaType"] == mediatypes.LAYER_GZIP and copied.sent < 9_000
        plain = copy("app:1", at(server, "plain:1"), options._replace(preserve_digests=True), store=store)
        assert plain.descriptor == Images(store).find("app:1").target


def test_layers_are_compressed_on_their_way(
    engine: _backend.Engine, server: RegistryServer, tmp_path: Path, image: Manifest
) -> None:
    for number, way in enumerate(PLACES):
        there = way.format(host=server.host, place=tmp_path / str(number))
        (tmp_path / str(number)).mkdir()
        copied = run(at(server), there, compression="zstd", force=True)
        assert copied.descriptor.digest != image.digest
        run(there, at(server, f"check:{number}"))
        assert manifest_at(server, "check", str(number)) == complete(server, "check", str(number))
        layers = manifest_at(server, "check", str(number))["layers"]
        assert {layer["mediaType"] for layer in layers} == {mediatypes.LAYER_ZSTD}
    refused(at(server), at(server, "x:1"), UsageError, compression="zstd", force=True, preserve_digests=True)
    assert run(at(server), at(server, "x:1"), compression="zstd").descriptor.digest == image.digest


def test_formats_of_manifests(server: RegistryServer, tmp_path: Path, image: Manifest) -> None:
    run(at(server), f"dir:{tmp_path}/docker", manifest_format="v2s2")
    value = json.loads((tmp_path / "docker/manifest.json").read_bytes())
    assert value["mediaType"] == mediatypes.DOCKER_MANIFEST
    assert {layer["mediaType"] for layer in value["layers"]} == {mediatypes.DOCKER_LAYER_GZIP}
    back = run(f"dir:{tmp_path}/docker", at(server, "back:1"), manifest_format="oci")
    assert back.descriptor.digest == image.digest
    zstd = run(f"dir:{tmp_path}/docker", at(server, "z:1"), compression="zstd", force=True)
    assert zstd.descriptor.media_type == mediatypes.MANIFEST  # for Docker's knows no zstd


# ---- platforms -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", PLACES)
def test_all_platforms(server: RegistryServer, tmp_path: Path, way: str) -> None:
    index, children = multi(server, tmp_path / "multi")
    there = way.format(host=server.host, place=tmp_path)
    assert run(at(server, "multi:1"), there, all=True).descriptor.digest == index.digest
    with RegistryServer() as other:
        run(there, at(other, "back:1"), all=True)
        assert other.manifests["back", "1"][0] == server.manifests["multi", "1"][0]
        for child in children:
            complete(other, "back", child.digest)
        run(there, at(other, "back:2"), platform=Platform("linux", "arm64"))
        assert digest_of(other.manifests["back", "2"][0]) == children[1].digest


def test_one_platform(server: RegistryServer, tmp_path: Path) -> None:
    _, children = multi(server, tmp_path / "multi")
    by_name = {child.platform.architecture: child.digest for child in children if child.platform}
    host = run(at(server, "multi:1"), f"dir:{tmp_path}/host")
    assert host.descriptor.digest == by_name[host_platform().architecture]
    there = refused(at(server, "multi:1"), f"dir:{tmp_path}/no", NotFoundError, platform=Platform("linux", "s390x"))
    assert "linux/amd64, linux/arm64" in there
    assert not (tmp_path / "no").exists()
    archive = f"docker-archive:{tmp_path}/d.tar"
    refused(at(server, "multi:1"), archive, UsageError, all=True)
    run(at(server, "multi:1"), archive, platform=Platform("linux", "arm64"))


# ---- what refers to it ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("api", [True, False])
def test_referrers(server: RegistryServer, tmp_path: Path, image: Manifest, api: bool) -> None:
    def refer(subject: Descriptor, kind: str) -> Descriptor:
        blob = server.add_blob("a/b", kind.encode())
        config = Descriptor(mediatypes.EMPTY, server.add_blob("a/b", b"{}"), 2)
        more = {"artifactType": kind, "subject": subject.to_dict()}
        found = new_manifest(config, [Descriptor("text/plain", blob, len(kind))], more=more)
        server.manifests["a/b", found.digest] = (found.raw, found.media_type)
        return found.descriptor

    signature = refer(image.descriptor, "example/signature")
    second = refer(signature, "example/of-signature")
    with RegistryServer() as other:
        other.referrers_api = api
        copied = run(at(server), at(other, "x:1"), referrers=True)
        assert copied.referrers == (signature.digest, second.digest)
        assert ("x", signature.digest) in other.manifests and ("x", second.digest) in other.manifests
        assert (("x", f"sha256-{image.digest.encoded}") in other.manifests) == (not api)
        layout = f"oci:{tmp_path}/layout:v1"
        assert run(at(other, "x:1"), layout, referrers=True).referrers == copied.referrers
        assert run(layout, at(server, "back:1"), referrers=True).referrers == copied.referrers
    assert not run(at(server), f"oci:{tmp_path}/plain").referrers
    refused(at(server), f"dir:{tmp_path}/d", UsageError, referrers=True)
    refused(at(server), at(server, "q:1"), UsageError, referrers=True, compression="zstd", force=True)


# ---- the store -----------------------------------------------------------------------------------------------------


def test_the_store_is_a_place_too(server: RegistryServer, tmp_path: Path, image: Manifest) -> None:
    with vfs_store(tmp_path / "store") as store:
        for number, way in enumerate((*PLACES, "docker-archive:{place}/out.docker.tar")):
            (tmp_path / str(number)).mkdir()
            there = way.format(host=server.host, place=tmp_path / str(number))
            run(at(server), there)
            copied = copy(there, f"app:{number}", OPTIONS, store=store)
            assert "docker-archive" in way or copied.descriptor.digest == image.digest
            assert content(store, f"app:{number}") == LARGE[0] | LARGE[1]
        assert {name for found in Images(store).all() for name in found.names} == {
            f"docker.io/library/app:{number}" for number in range(5)
        }
        assert copy("app:0", f"oci:{tmp_path}/again", OPTIONS, store=store).descriptor.digest == image.digest
        made = imported(store, tmp_path / "tree", "made:1")
        assert copy("made:1", f"oci:{tmp_path}/made:1", OPTIONS, store=store).descriptor.digest == made.manifest
        assert copy("made:1", "made:2", OPTIONS, store=store).descriptor.digest == made.manifest
        with pytest.raises(UsageError, match="as it is"):
            copy(at(server), "x:1", OPTIONS._replace(compression="zstd"), store=store)
    refused("app:0", f"oci:{tmp_path}/x", UsageError)
    assert fastlayer.copy is copy


# ---- what goes wrong -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cut", [0, 1, 300_000])
@pytest.mark.parametrize("ranges", [True, False])
def test_a_download_that_breaks_goes_on(
    server: RegistryServer, tmp_path: Path, image: Manifest, cut: int, ranges: bool
) -> None:
    server.ranges = ranges
    server.fail("GET .*/blobs/sha256", times=2, cut=cut, reset=cut == 1)
    with RegistryServer() as other:
        assert run(at(server), at(other, "x:1")).descriptor.digest == image.digest
        complete(other, "x", "1")


def test_both_ends_break(server: RegistryServer, image: Manifest) -> None:
    server.fail("GET .*/blobs/sha256", times=3, cut=200_000)
    with RegistryServer() as other:
        other.fail("PATCH", times=3, eat=150_000)
        assert run(at(server), at(other, "x:1"), chunk=256 << 10).descriptor.digest == image.digest
        complete(other, "x", "1")


@pytest.mark.parametrize("way", [*PLACES, "docker-archive:{place}/out.docker.tar"])
def test_what_comes_is_something_else(server: RegistryServer, tmp_path: Path, image: Manifest, way: str) -> None:
    server.fail(f"GET .*/blobs/{image.layers[1].digest}", spoil=True)
    with RegistryServer() as other:
        there = way.format(host=other.host, place=tmp_path)
        refused(at(server), there, FastlayerError)
        assert not other.manifests and ("x/y", image.layers[1].digest) not in other.blobs
    if way.startswith("oci:"):
        assert not open_images(tmp_path / "out").images
    else:
        assert not (tmp_path / "out.tar").exists() and not (tmp_path / "out.docker.tar").exists()
        assert not (tmp_path / "out/manifest.json").exists()
    assert not [name for name in os.listdir(tmp_path) if name.startswith(".")]
    server.faults.clear()
    if "docker:" not in way:
        run(at(server), there)


@pytest.mark.parametrize("way", PLACES[1:])
def test_nothing_is_made_of_nothing(server: RegistryServer, tmp_path: Path, way: str) -> None:
    there = way.format(host=server.host, place=tmp_path)
    refused(at(server, "missing:1"), there, RegistryError)
    assert not os.listdir(tmp_path)


def test_a_failed_copy_leaves_a_layout_as_it_was(server: RegistryServer, tmp_path: Path, image: Manifest) -> None:
    Layout(tmp_path / "out").image("v1", LAYERS)
    before = (tmp_path / "out/index.json").read_bytes()
    server.fail(f"GET .*/blobs/{image.layers[1].digest}", status=403, body=error("DENIED", "not for you"))
    assert "not for you" in refused(at(server), f"oci:{tmp_path}/out:v1", RegistryError)
    assert (tmp_path / "out/index.json").read_bytes() == before
    assert (tmp_path / "out/blobs/sha256" / image.layers[0].digest.encoded).exists()
    server.faults.clear()
    copied = run(at(server), f"oci:{tmp_path}/out:v1")
    assert copied.present >= 1
    (entry,) = json.loads((tmp_path / "out/index.json").read_bytes())["manifests"]
    assert entry["digest"] == image.digest and sorted(os.listdir(tmp_path / "out")) == [
        "blobs",
        "index.json",
        "oci-layout",
    ]


def test_names_in_a_layout(server: RegistryServer, tmp_path: Path, image: Manifest) -> None:
    for name in ("v1", "alpine:3", "v1", ""):
        run(at(server), f"oci:{tmp_path}/out" + (f":{name}" if name else ""))
    lines = json.loads((tmp_path / "out/index.json").read_bytes())["manifests"]
    names = [line.get("annotations", {}).get("org.opencontainers.image.ref.name", "") for line in lines]
    assert names == ["", "alpine:3", "v1"]
    assert run(f"oci:{tmp_path}/out:alpine:3", at(server, "q:1")).descriptor.digest == image.digest


def test_a_directory_is_taken_over_only_if_it_is_one(server: RegistryServer, tmp_path: Path, image: Manifest) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes").write_text("x")
    refused(at(server), f"dir:{tmp_path}/mine", OperandError)
    refused(at(server), f"oci:{tmp_path}/mine", NotFoundError)
    assert os.listdir(tmp_path / "mine") == ["notes"]
    run(at(server), f"dir:{tmp_path}/out")
    layout = Layout(tmp_path / "second")
    other = layout.image("v1", LAYERS)
    run(f"oci:{layout.path}", f"dir:{tmp_path}/out")
    blobs = {one.digest.encoded for one in (other.config, *other.layers)}
    assert set(os.listdir(tmp_path / "out")) == {"version", "manifest.json"} | blobs
    assert (tmp_path / "out/version").read_bytes() == b"Directory Transport Version: 1.1\n"


def test_hostile_directories(server: RegistryServer, tmp_path: Path, image: Manifest) -> None:
    refused(f"dir:{tmp_path}/none", at(server, "x:1"), NotFoundError)
    place = tmp_path / "out"
    run(at(server), f"dir:{place}")
    manifest = (place / "manifest.json").read_bytes()
    for bad in (b"", b"[]", b"<html>", b"{}", manifest[:-10]):
        (place / "manifest.json").write_bytes(bad)
        refused(f"dir:{place}", at(server, "x:1"), FastlayerError)
    (place / "manifest.json").write_bytes(manifest)
    blob = place / image.layers[0].digest.encoded
    blob.rename(tmp_path / "elsewhere")
    refused(f"dir:{place}", at(server, "new:1"), FastlayerError)
    os.mkfifo(blob)
    refused(f"dir:{place}", f"oci:{tmp_path}/fifo", FastlayerError)
    assert ("x", "1") not in server.manifests and ("new", "1") not in server.manifests


def test_links_in_a_directory_are_not_written_through(server: RegistryServer, tmp_path: Path, image: Manifest) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine")
    place = tmp_path / "out"
    run(at(server), f"dir:{place}")
    names = ["manifest.json", image.layers[0].digest.encoded, image.config.digest.encoded]
    for name in names:
        (place / name).unlink()
        (place / name).symlink_to(victim)
    run(at(server), f"dir:{place}")
    assert victim.read_text() == "mine"
    assert not any((place / name).is_symlink() for name in names)
    assert (place / "manifest.json").read_bytes() == image.raw


def test_what_cannot_be_meant(server: RegistryServer, tmp_path: Path, image: Manifest) -> None:
    refused(at(server), f"oci:{tmp_path}/x:@0", UsageError)
    refused(at(server), f"oci:{tmp_path}/x", UsageError, all=True, platform=Platform("linux", "arm64"))
    refused(at(server), f"oci:{tmp_path}/x", UsageError, force=True)
    assert not (tmp_path / "x").exists()
    layout = Layout(tmp_path / "two")
    for name in ("a", "b"):
        layout.image(name, LAYERS, salt=name)
    assert "there are a, b" in refused(f"oci:{tmp_path}/two", at(server, "x:1"), UsageError)
    assert run(f"oci:{tmp_path}/two:@1", at(server, "x:1"))


def test_manifests_that_are_none(server: RegistryServer, tmp_path: Path) -> None:
    server.manifests["a/b", "1"] = (b'{"schemaVersion": 1, "fsLayers": []}', min(mediatypes.SCHEMA_1))
    assert "schema 1" in refused(at(server), f"dir:{tmp_path}/x", ManifestError)
    value = {"schemaVersion": 2, "mediaType": mediatypes.INDEX}
    deep = Digest("sha256:" + "0" * 64)
    for _ in range(12):
        child = {"mediaType": mediatypes.INDEX, "digest": deep, "size": 500}
        deep = server.add_manifest("a/b", "1", {**value, "manifests": [child]}, mediatypes.INDEX)
    refused(at(server), f"dir:{tmp_path}/x", FastlayerError, all=True)
    assert not os.listdir(tmp_path)


def test_damage_is_told(tmp_path: Path, server: RegistryServer, image: Manifest) -> None:
    path = tmp_path / "source/blobs/sha256" / image.layers[0].digest.encoded
    path.write_bytes(path.read_bytes()[:-1])
    for there in (at(server, "x:1"), f"oci:{tmp_path}/x", f"dir:{tmp_path}/y", f"oci-archive:{tmp_path}/z"):
        refused(f"oci:{tmp_path}/source", there, DigestMismatchError)
    assert not (tmp_path / "z").exists() and ("x", "1") not in server.manifests


@pytest.mark.parametrize("transport", ["oci", "oci-archive"])
def test_a_layout_of_dockers_kind_is_warned_of(
    server: RegistryServer, tmp_path: Path, image: Manifest, transport: str
) -> None:
    """Which skopeo and podman do not find by its name."""
    there = f"{transport}:{tmp_path}/out"
    assert "-f oci" in run(at(server), f"{there}1:1", manifest_format="v2s2").warnings[0]
    assert run(at(server), f"{there}2:1", manifest_format="oci").warnings == ()
