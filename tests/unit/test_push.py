"""push: layers compressed while they go, what is there stays where it is, and everything that goes wrong on the way."""

from __future__ import annotations

import json
import random
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

import fastlayer
from fastlayer import _backend
from fastlayer.errors import (
    CorruptStoreError,
    DigestMismatchError,
    FastlayerError,
    ManifestError,
    NotFoundError,
    RegistryDeniedError,
    RegistryError,
    UsageError,
)
from fastlayer.image.images import Image, Images
from fastlayer.image.importing import import_image
from fastlayer.image.load import load
from fastlayer.image.materialize import materialize
from fastlayer.maintenance.discard import discard_blobs
from fastlayer.oci import mediatypes
from fastlayer.oci.platform import Platform
from fastlayer.store.collect import collect
from fastlayer.store.store import Store
from fastlayer.transfer import known
from fastlayer.transfer.copy import CopyOptions, copy
from fastlayer.transfer.ends import streaming
from fastlayer.transfer.pull import PullOptions, pull
from fastlayer.transfer.push import PushOptions, push, push_all_tags
from tests.registry_server import RegistryServer, digest, error
from tests.stores import LAYERS, Layout, imported, tree, vfs_store
from tests.transfers import QUICK, Witness, complete, layers_of, manifest_at

OPTIONS = PushOptions(wishes=QUICK)
SIZE = 6_000_000  # several pieces of whatever size


@pytest.fixture
def server() -> Iterator[RegistryServer]:
    with RegistryServer() as found:
        yield found


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with vfs_store(tmp_path / "store") as found:
        yield found


def large(store: Store, place: Path, name: str = "big:1", size: int = SIZE) -> Image:
    """An image whose layer does not shrink, and has no blob."""
    return import_image(store, tree(place, {"data": random.Random(size).randbytes(size), "etc/hosts": "x"}), name)


def there(server: RegistryServer, name: str = "a/b:1") -> str:
    return f"{server.host}/{name}"


def refused(store: Store, server: RegistryServer, kind: type[FastlayerError] = RegistryError, **more: object) -> str:
    """The one line; nothing has a name at the registry then."""
    with pytest.raises(kind) as caught:
        push(store, "big:1", there(server), OPTIONS._replace(**more))
    assert "\n" not in str(caught.value)
    assert not server.manifests
    return str(caught.value)


def not_again(*_: object) -> None:
    raise AssertionError("a layer is made again")


# ---- layers ----------------------------------------------------------------------------------------------------


def test_a_layer_is_made_while_it_goes(
    engine: _backend.Engine, server: RegistryServer, store: Store, tmp_path: Path
) -> None:
    image = imported(store, tmp_path / "tree", "app:1")
    seen = Witness()
    pushed = push(store, "app:1", there(server), OPTIONS, observe=seen)
    value = complete(server, "a/b", "1")
    assert [layer["mediaType"] for layer in value["layers"]] == [mediatypes.LAYER_GZIP]
    assert pushed.descriptor.digest == digest(server.manifests["a/b", "1"][0])
    assert pushed.name == f"docker://{there(server)}"
    assert (pushed.uploaded, pushed.mounted, pushed.present) == (2, 0, 0)
    assert pushed.sent == value["layers"][0]["size"] + value["config"]["size"]
    assert not store.content.has(image.layers[0].digest)
    assert not [one for one in store.content.digests() if one == layers_of(value)[0]]
    assert seen.ends() == ["done", "done"]
    assert seen.seen[0].doing == "compressing"
    assert Images(store).find("app:1").manifest == image.manifest != pushed.descriptor.digest


def test_what_is_there_is_neither_made_nor_sent(
    server: RegistryServer, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    imported(store, tmp_path / "tree", "app:1")
    first = push(store, "app:1", there(server), OPTIONS)
    monkeypatch.setattr("fastlayer.transfer.ends.store_source._Snapshot.write", not_again)
    server.seen.clear()
    seen = Witness()
    second = push(store, "app:1", there(server), OPTIONS, observe=seen)
    assert second.descriptor == first.descriptor and (second.sent, second.present) == (0, 2)
    assert seen.ends() == ["present", "present"]
    assert not server.calls("POST|PATCH") and len(server.calls("HEAD")) == 2


def test_another_repository_of_the_registry_gives_it(
    server: RegistryServer, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    imported(store, tmp_path / "tree", "app:1")
    push(store, "app:1", there(server), OPTIONS)
    monkeypatch.setattr("fastlayer.transfer.ends.store_source._Snapshot.write", not_again)
    pushed = push(store, "app:1", there(server, "c/d:2"), OPTIONS)
    assert (pushed.mounted, pushed.uploaded) == (1, 1)
    complete(server, "c/d", "2")
    with RegistryServer() as other, pytest.raises(AssertionError):  # another registry has to get it
        push(store, "app:1", there(other), OPTIONS)


def test_where_it_was_pulled_from_gives_it(server: RegistryServer, store: Store, tmp_path: Path) -> None:
    layout = Layout(tmp_path / "layout")
    layout.image("app:1", LAYERS)
    load(store, layout.path)
    push(store, "app:1", there(server), OPTIONS)
    with vfs_store(tmp_path / "second") as second:
        pull(second, f"{server.host}/a/b:1", PullOptions(wishes=QUICK))
        pushed = push(second, f"{server.host}/a/b:1", there(server, "c/d:2"), OPTIONS)
    assert (pushed.mounted, pushed.uploaded) == (len(LAYERS), 1)  # a configuration is no layer
    complete(server, "c/d", "2")


@pytest.mark.parametrize("how", ["no mounts", "lost", "forbidden"])
def test_a_mount_that_is_refused_is_an_upload(server: RegistryServer, store: Store, tmp_path: Path, how: str) -> None:
    imported(store, tmp_path / "tree", "app:1")
    push(store, "app:1", there(server), OPTIONS)
    if how == "no mounts":
        server.mounts = False
    elif how == "lost":
        server.blobs.clear()
    else:
        server.fail("POST .*mount=", status=403, body=error("DENIED", "no"))
    pushed = push(store, "app:1", there(server, "c/d:2"), OPTIONS)
    assert (pushed.mounted, pushed.uploaded) == (0, 2)
    complete(server, "c/d", "2")


def test_blobs_go_as_they_are(server: RegistryServer, store: Store, tmp_path: Path) -> None:
    layout = Layout(tmp_path / "layout")
    manifest = layout.image("app:1", LAYERS)
    load(store, layout.path)
    pushed = push(store, "app:1", there(server), OPTIONS)
    assert pushed.descriptor.digest == manifest.digest
    assert server.manifests["a/b", "1"][0] == manifest.raw
    assert layers_of(complete(server, "a/b", "1")) == [layer.digest for layer in manifest.layers]
    again = push(store, "app:1", there(server, "e/f:1"), OPTIONS._replace(compression="zstd"))
    assert again.descriptor == pushed.descriptor and again.mounted == 2


def test_blobs_are_compressed_anew_when_that_is_asked_for(
    engine: _backend.Engine, server: RegistryServer, store: Store, tmp_path: Path
) -> None:
    layout = Layout(tmp_path / "layout")
    manifest = layout.image("app:1", LAYERS)
    load(store, layout.path)
    options = OPTIONS._replace(compression="zstd", force=True, level=5)
    pushed = push(store, "app:1", there(server), options)
    value = complete(server, "a/b", "1")
    assert {layer["mediaType"] for layer in value["layers"]} == {mediatypes.LAYER_ZSTD}
    assert pushed.descriptor.digest != manifest.digest
    assert push(store, "app:1", there(server), options).sent == 0
    plain = push(store, "app:1", there(server, "a/b:2"), options._replace(compression="none", level=None))
    assert {layer["mediaType"] for layer in complete(server, "a/b", "2")["layers"]} == {mediatypes.LAYER}
    assert plain.uploaded == 2


@pytest.mark.parametrize("compression", ["zstd:chunked", "estargz"])
@pytest.mark.parametrize("blobs", [False, True])
def test_chunked_layers(server: RegistryServer, store: Store, tmp_path: Path, compression: str, blobs: bool) -> None:
    if blobs:
        layout = Layout(tmp_path / "layout")
        layout.image("app:1", LAYERS)
        load(store, layout.path)
    else:
        imported(store, tmp_path / "tree", "app:1")
    options = OPTIONS._replace(compression=compression, force=blobs)
    first = push(store, "app:1", there(server), options)
    value = complete(server, "a/b", "1")
    prefix = "io.github.containers.zstd-chunked." if compression == "zstd:chunked" else "containerd.io/snapshot/stargz/"
    assert all(any(key.startswith(prefix) for key in layer["annotations"]) for layer in value["layers"])
    same = value["config"]["digest"] == Images(store).find("app:1").id
    assert same == (compression == "zstd:chunked")  # the tar of an eStargz is another one
    second = push(store, "app:1", there(server), options)
    assert second.descriptor == first.descriptor and second.sent == 0
    with RegistryServer() as other:
        wanted = CopyOptions(source=QUICK, destination=QUICK, compression=options.compression, force=True)
        copied = copy(f"docker://{there(server)}", f"docker://{there(other)}", wanted)
        assert copied.descriptor == first.descriptor  # it is what is wanted already
        plain = wanted._replace(compression="gzip" if compression == "zstd:chunked" else "zstd")
        copy(f"docker://{there(server)}", f"docker://{there(other, 'p/q:1')}", plain)
        notes = [layer.get("annotations", {}) for layer in complete(other, "p/q", "1")["layers"]]
        assert notes == [{}] * len(notes)  # what they said was about the blobs that were


def test_chunks_that_would_take_all_memory(server: RegistryServer, store: Store, tmp_path: Path) -> None:
    imported(store, tmp_path / "tree", "app:1")
    server.smallest = 10**12
    with pytest.raises(RegistryError, match="wants chunks of 1000000000000 bytes at least"):
        push(store, "app:1", there(server), OPTIONS._replace(chunk=1 << 20))
    push(store, "app:1", there(server), OPTIONS)


@pytest.mark.parametrize("written", [False, True])
def test_without_compression_the_image_is_the_same(
    server: RegistryServer, store: Store, tmp_path: Path, written: bool
) -> None:
    image = imported(store, tmp_path / "tree", "app:1")
    if written:
        materialize(store, image)
    pushed = push(store, "app:1", there(server), OPTIONS._replace(compression="none"))
    assert pushed.descriptor.digest == image.manifest
    assert layers_of(complete(server, "a/b", "1")) == [image.layers[0].digest]
    assert store.content.has(image.layers[0].digest) == written
    assert push(store, "app:1", there(server), OPTIONS._replace(compression="none")).present == 2


def test_a_plain_blob_is_compressed_like_a_layer_without_one(
    server: RegistryServer, store: Store, tmp_path: Path
) -> None:
    image = imported(store, tmp_path / "tree", "app:1")
    first = push(store, "app:1", there(server), OPTIONS)
    materialize(store, image)
    with RegistryServer() as other:
        assert push(store, "app:1", there(other), OPTIONS).descriptor == first.descriptor
        complete(other, "a/b", "1")


def test_a_blob_that_was_discarded_is_made_again(
    engine: _backend.Engine, server: RegistryServer, store: Store, tmp_path: Path
) -> None:
    imported(store, tmp_path / "tree", "app:1")
    first = push(store, "app:1", there(server), OPTIONS)
    wanted = CopyOptions(source=QUICK, destination=QUICK)
    with vfs_store(tmp_path / "second") as second, RegistryServer() as other:
        copied = copy(f"docker://{there(server)}", "app:1", wanted, store=second)
        discard_blobs(second, [copied.descriptor])
        (layer,) = Images(second).find("app:1").layers
        assert layer.media_type == mediatypes.LAYER_GZIP and not second.content.has(layer.digest)
        assert push(second, "app:1", there(other), OPTIONS).descriptor == first.descriptor == copied.descriptor
        complete(other, "a/b", "1")
        zstd = OPTIONS._replace(compression="zstd", force=True)
        push(second, "app:1", there(other, "a/b:2"), zstd)
        complete(other, "a/b", "2")


def test_a_snapshot_that_has_changed(server: RegistryServer, store: Store, tmp_path: Path) -> None:
    large(store, tmp_path / "tree")
    (next((tmp_path / "store/vfs").rglob("etc/hosts"))).write_text("y")
    assert "store check" in refused(store, server, CorruptStoreError)
    assert not server.blobs and not server.uploads
    refused(store, server, CorruptStoreError, compression="none")


def test_a_damaged_blob(server: RegistryServer, store: Store, tmp_path: Path) -> None:
    materialize(store, large(store, tmp_path / "tree"))
    path = store.content.path_of(Images(store).find("big:1").layers[0].digest)
    path.chmod(0o600)
    with path.open("r+b") as file:
        file.seek(SIZE // 2)
        file.write(b"!!!!")
    refused(store, server, DigestMismatchError)
    refused(store, server, DigestMismatchError, compression="none")
    assert not server.blobs and not server.uploads


# ---- what goes wrong -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("eaten", [0, 1, 2, 100_000, 4_000_000])
@pytest.mark.parametrize("chunk", [0, 2 << 20])
def test_a_connection_that_breaks_goes_on_where_it_was(
    server: RegistryServer, store: Store, tmp_path: Path, eaten: int, chunk: int
) -> None:
    large(store, tmp_path / "tree")
    eaten = min(eaten, chunk // 3 if chunk else SIZE // 3)
    server.fail("PATCH", times=2, eat=eaten)
    push(store, "big:1", there(server), OPTIONS._replace(chunk=chunk))
    value = complete(server, "a/b", "1")
    patched = sum(len(one.body) for one in server.seen if one.method == "PATCH")
    whole = value["layers"][0]["size"] + (value["config"]["size"] if chunk else 0)
    kept = 2 * eaten if eaten > 1 else 0  # of so little nobody can tell whether it is there
    assert patched == whole - kept


def test_blobs_of_the_store_go_on_too(server: RegistryServer, store: Store, tmp_path: Path) -> None:
    materialize(store, large(store, tmp_path / "tree"))
    server.fail("PATCH", times=2, eat=1_000_000)
    push(store, "big:1", there(server), OPTIONS._replace(compression="none", chunk=4 << 20))
    complete(server, "a/b", "1")


def test_a_storm(server: RegistryServer, store: Store, tmp_path: Path) -> None:
    large(store, tmp_path / "tree")
    for pattern in ("HEAD", "POST", "PATCH", "PUT .*uploads", "PUT .*manifests"):
        server.fail(pattern, times=1, status=503, body=error("UNAVAILABLE", "not now"))
        server.fail(pattern, times=1, status=429, headers={"Retry-After": "0"})
    push(store, "big:1", there(server), OPTIONS)
    complete(server, "a/b", "1")


def test_an_upload_that_is_forgotten_begins_anew(server: RegistryServer, store: Store, tmp_path: Path) -> None:
    large(store, tmp_path / "tree")
    server.fail("PATCH", times=1, status=404, body=error("BLOB_UPLOAD_UNKNOWN"))
    server.fail("GET .*uploads", times=1, status=404, body=error("BLOB_UPLOAD_UNKNOWN"))
    push(store, "big:1", there(server), OPTIONS)
    complete(server, "a/b", "1")


def test_the_answer_to_the_last_request_is_lost(server: RegistryServer, store: Store, tmp_path: Path) -> None:
    large(store, tmp_path / "tree")
    server.fail("PUT .*uploads", times=1, drop=("Content-Length",), cut=0, reset=True)
    push(store, "big:1", there(server), OPTIONS)
    complete(server, "a/b", "1")


def test_a_login_that_runs_out_on_the_way(server: RegistryServer, store: Store, tmp_path: Path) -> None:
    large(store, tmp_path / "tree")
    server.fail("PATCH", times=1, status=401, body=error("UNAUTHORIZED", "token expired"))
    push(store, "big:1", there(server), OPTIONS)
    complete(server, "a/b", "1")


@pytest.mark.parametrize("written", [False, True])
def test_a_registry_that_takes_no_large_requests(
    server: RegistryServer, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: bool
) -> None:
    monkeypatch.setattr(streaming, "CHUNK", 1 << 20)
    monkeypatch.setattr("fastlayer.transfer.ends.registry_destination.CHUNK", 1 << 20)
    image = large(store, tmp_path / "tree")
    if written:
        materialize(store, image)
    server.fail("PUT .*digest" if written else "PATCH", times=1, status=413, body=b"<html>too large</html>")
    push(store, "big:1", there(server), OPTIONS._replace(compression="none"))
    complete(server, "a/b", "1")
    assert all(len(one.body) <= 1 << 20 for one in server.seen if "Content-Range" in one.headers)
    assert len(server.calls("PATCH")) >= 6


def test_a_registry_that_wants_chunks_of_a_size(server: RegistryServer, store: Store, tmp_path: Path) -> None:
    server.smallest = 2 << 20
    large(store, tmp_path / "tree")
    push(store, "big:1", there(server), OPTIONS._replace(chunk=1 << 20))
    complete(server, "a/b", "1")
    sizes = [len(one.body) for one in server.seen if one.method == "PATCH"][:-1]  # the last is the configuration
    assert sizes[:-1] == [2 << 20] * 2 and len(sizes) == 3


@pytest.mark.parametrize("call", ["HEAD", "POST", "PATCH", "PUT .*uploads", "PUT .*manifests"])
def test_what_the_registry_refuses(server: RegistryServer, store: Store, tmp_path: Path, call: str) -> None:
    large(store, tmp_path / "tree", size=20_000)
    wishes = QUICK._replace(policy=QUICK.policy._replace(tries=2))
    for status in (401, 403, 404, 500, 429):
        if (call, status) == ("HEAD", 404):
            continue
        server.faults.clear()
        server.fail(call, status=status, body=error("SOME_CODE", "for a reason"), headers={"Retry-After": "0"})
        kind = RegistryDeniedError if status in (401, 403) else RegistryError
        said = refused(store, server, kind, wishes=wishes)
        assert str(status) in said and ("for a reason" in said or call == "HEAD")


def test_a_registry_that_says_it_has_something_else(server: RegistryServer, store: Store, tmp_path: Path) -> None:
    large(store, tmp_path / "tree", size=200_000)
    server.fail("PUT .*uploads", extra={"Docker-Content-Digest": "sha256:" + "0" * 64})
    refused(store, server, DigestMismatchError)


def test_one_that_fails_ends_the_others(server: RegistryServer, store: Store, tmp_path: Path) -> None:
    layout = Layout(tmp_path / "layout")
    layout.image("big:1", [{"f": bytes([number]) * 1000} for number in range(10)])
    load(store, layout.path)
    server.fail("PUT .*uploads", times=1, status=400, body=error("SIZE_INVALID", "no"))
    assert "SIZE_INVALID" in refused(store, server)


def test_an_observer_that_raises_ends_it(server: RegistryServer, store: Store, tmp_path: Path) -> None:
    large(store, tmp_path / "tree")

    def observe(_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        push(store, "big:1", there(server), OPTIONS, observe=observe)
    assert not server.manifests


# ---- names, platforms, formats -----------------------------------------------------------------------------------


def index_image(store: Store, place: Path, name: str = "multi:1") -> dict[str, str]:
    """An index of two platforms; the digests of their manifests."""
    layout = Layout(place)
    found = {}
    for architecture in ("amd64", "arm64"):
        manifest = layout.image("", [{"arch": architecture.encode()}], Platform("linux", architecture), architecture)
        found[architecture] = manifest.descriptor._replace(platform=Platform("linux", architecture))
    from fastlayer.oci.image_index import new_index

    index = new_index(found.values())
    layout.blob(index.raw)
    layout.add(name, index.descriptor)
    load(store, place)
    return {"index": index.digest, **{key: one.digest for key, one in found.items()}}


def test_an_index_goes_whole_children_first(server: RegistryServer, store: Store, tmp_path: Path) -> None:
    digests = index_image(store, tmp_path / "layout")
    pushed = push(store, "multi:1", there(server), OPTIONS)
    assert pushed.descriptor.digest == digests["index"]
    puts = [one.rpartition("/")[2] for one in server.calls("PUT .*manifests")]
    assert puts[-1] == "1" and set(puts[:-1]) == {digests["amd64"], digests["arm64"]}


def test_one_platform_of_an_index(server: RegistryServer, store: Store, tmp_path: Path) -> None:
    digests = index_image(store, tmp_path / "layout")
    pushed = push(store, "multi:1", there(server), OPTIONS._replace(platform=Platform("linux", "arm64")))
    assert pushed.descriptor.digest == digests["arm64"]
    assert complete(server, "a/b", "1")
    with pytest.raises(NotFoundError):
        push(store, "multi:1", there(server), OPTIONS._replace(platform=Platform("linux", "s390x")))


def test_an_index_of_which_one_platform_is_here(server: RegistryServer, store: Store, tmp_path: Path) -> None:
    layout = tmp_path / "layout"
    digests = index_image_without(store, layout, "arm64")
    pushed = push(store, "multi:1", there(server), OPTIONS)
    assert pushed.descriptor.digest == digests["amd64"]
    assert "only its image for linux/amd64 is here" in pushed.warnings[0]


def index_image_without(store: Store, place: Path, gone: str) -> dict[str, str]:
    with vfs_store(place.with_name("other")) as other:
        digests = index_image(other, place)
    (place / "blobs/sha256" / digests[gone].partition(":")[2]).unlink()
    load(store, place)
    return digests


def test_an_index_whose_layers_are_made_is_written_anew(server: RegistryServer, store: Store, tmp_path: Path) -> None:
    digests = index_image(store, tmp_path / "layout")
    pushed = push(store, "multi:1", there(server), OPTIONS._replace(compression="zstd", force=True))
    assert pushed.descriptor.digest != digests["index"]
    index = manifest_at(server, "a/b", "1")
    assert [child["platform"]["architecture"] for child in index["manifests"]] == ["amd64", "arm64"]
    for child in index["manifests"]:
        assert complete(server, "a/b", child["digest"])["layers"][0]["mediaType"] == mediatypes.LAYER_ZSTD


def test_formats_of_manifests(server: RegistryServer, store: Store, tmp_path: Path) -> None:
    digests = index_image(store, tmp_path / "layout")
    push(store, "multi:1", there(server), OPTIONS._replace(manifest_format="v2s2"))
    data, media_type = server.manifests["a/b", "1"]
    index = json.loads(data)
    assert media_type == index["mediaType"] == mediatypes.DOCKER_INDEX
    for child in index["manifests"]:
        value = complete(server, "a/b", child["digest"])
        assert child["mediaType"] == value["mediaType"] == mediatypes.DOCKER_MANIFEST
        assert value["config"]["mediaType"] == mediatypes.DOCKER_CONFIG
        assert value["layers"][0]["mediaType"] == mediatypes.DOCKER_LAYER_GZIP
    oci = push(store, "multi:1", there(server, "a/b:2"), OPTIONS._replace(manifest_format="oci"))
    assert oci.descriptor.digest == digests["index"]
    with pytest.raises(ManifestError, match="keep the format"):
        options = OPTIONS._replace(manifest_format="v2s2", compression="zstd", force=True)
        push(store, "multi:1", there(server, "a/b:3"), options)
    assert ("a/b", "3") not in server.manifests


def test_names(server: RegistryServer, store: Store, tmp_path: Path) -> None:
    image = imported(store, tmp_path / "tree", there(server, "x/y:7"))
    assert push(store, there(server, "x/y:7"), options=OPTIONS).name.endswith("/x/y:7")
    assert push(store, image.id, there(server, "x/z"), OPTIONS).name.endswith("/x/z:latest")
    with pytest.raises(UsageError, match="an id does not say"):
        push(store, image.id, options=OPTIONS)
    with pytest.raises(NotFoundError):
        push(store, "nothing:1", there(server), OPTIONS)
    assert fastlayer.push is push


def test_all_tags(server: RegistryServer, store: Store, tmp_path: Path) -> None:
    for tag in ("1", "2"):
        imported(store, tmp_path / tag, f"app:{tag}")
    imported(store, tmp_path / "other", "other:3")
    found = push_all_tags(store, "app", there(server, "a/b"), OPTIONS)
    assert [one.name.rpartition(":")[2] for one in found] == ["1", "2"]
    assert {tag for name, tag in server.manifests if ":" not in tag} == {"1", "2"}
    with pytest.raises(UsageError, match="leave out the tag"):
        push_all_tags(store, "app:1", there(server, "a/b"), OPTIONS)
    with pytest.raises(NotFoundError):
        push_all_tags(store, "nothing", there(server, "a/b"), OPTIONS)


# ---- what is remembered ------------------------------------------------------------------------------------------


def test_what_is_remembered_goes_with_its_layer(server: RegistryServer, store: Store, tmp_path: Path) -> None:
    imported(store, tmp_path / "tree", "app:1")
    push(store, "app:1", there(server), OPTIONS)
    assert rows(store) == (1, 1)
    collect(store)
    assert rows(store) == (1, 1)
    Images(store).untag("app:1")
    collect(store)
    assert rows(store) == (0, 0)


def rows(store: Store) -> tuple[int, ...]:
    def count(db: sqlite3.Connection, table: str) -> int:
        return int(db.execute(f"SELECT count(*) FROM {table}").fetchone()[0])

    with store.database.read() as db:
        return count(db, "layer_forms"), count(db, "blob_sources")


def test_few_repositories_of_a_blob_are_remembered(store: Store) -> None:
    for number in range(9):
        with store.database.write() as db:
            known.remember(db, "sha256:1", "r.example", f"n{number}")
            known.remember(db, "sha256:1", "s.example", "other")
    with store.database.read() as db:
        assert known.repositories(db, "sha256:1", "r.example") == ["n8", "n7", "n6", "n5", "n4"]
        assert known.repositories(db, "sha256:1", "s.example") == ["other"]
        assert known.repositories(db, "sha256:2", "r.example") == []
