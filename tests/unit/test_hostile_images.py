"""Images that were made to do harm: refused in one line, and the store stays usable."""

from __future__ import annotations

import gzip
import hashlib
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastlayer.errors import DigestMismatchError, LayerFormatError, ManifestError, ReferenceFormatError
from fastlayer.image.formats.oci import name_of
from fastlayer.image.images import Images
from fastlayer.image.load import Options, load
from fastlayer.maintenance.check import check
from fastlayer.oci.config import History, new_config, parse_config
from fastlayer.oci.descriptor import Descriptor
from fastlayer.oci.digest import Digest
from fastlayer.oci.manifest import new_manifest
from fastlayer.oci.mediatypes import CONFIG, LAYER_GZIP
from fastlayer.oci.platform import Platform, host_platform, stored_platform
from fastlayer.oci.reference import parse_reference
from fastlayer.store.store import Store
from tests.shell import Shell
from tests.stores import Layout, imported, layer_tar, vfs_store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with vfs_store(tmp_path / "store") as found:
        yield found


# ---- platforms -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "value"),
    [("os", "../.."), ("os", "li\nnux"), ("architecture", "\0"), ("architecture", "a/b"), ("variant", "\x1b[31m")],
)
def test_a_platform_that_is_none_is_refused(key: str, value: str) -> None:
    config = {"os": "linux", "architecture": "amd64", key: value}
    with pytest.raises(ManifestError, match=f"{key} is ") as caught:
        parse_config(json.dumps(config).encode())
    assert str(caught.value).isprintable()


def test_a_configuration_may_leave_its_platform_out() -> None:
    assert parse_config(b"{}").platform == Platform("", "")


def test_an_image_for_nowhere_does_not_come_in(store: Store, tmp_path: Path) -> None:
    layout = Layout(tmp_path / "layout")
    config = json.dumps({"os": "../..", "architecture": "\0", "rootfs": {"type": "layers", "diff_ids": []}}).encode()
    manifest = new_manifest(Descriptor(CONFIG, layout.blob(config), len(config)), [])
    layout.blob(manifest.raw)
    layout.add("bad:1", manifest.descriptor)
    with pytest.raises(ManifestError, match="os is"):
        load(store, layout.path)
    assert Images(store).all() == []


def test_a_bad_platform_in_the_database_is_shown(store: Store, tmp_path: Path) -> None:
    imported(store, tmp_path / "root")
    with store.database.write() as db:
        db.execute("UPDATE manifests SET platform = ?", ("../../\0",))
    (image,) = Images(store).all()
    assert str(image.platform) == "../../\\x00"
    check(store)


@pytest.mark.parametrize("text", ["unknown", "amigaos", "a/b/c/d", "\n"])
def test_reading_a_stored_platform_never_fails(text: str) -> None:
    assert str(stored_platform(text)).isprintable()
    assert str(stored_platform("linux/arm64")) == "linux/arm64"


# ---- layers that are not what they are said to be ------------------------------------------------------


def claim(path: Path, name: str, blob: bytes, diff_id: str, platform: Platform | None = None) -> Layout:
    """A layout with an image of one layer, whatever its blob is, that is said to be ``diff_id``."""
    layout = Layout(path)
    config = new_config(platform or host_platform(), [diff_id], created="2026-01-01T00:00:00Z")
    layout.blob(config.raw)
    manifest = new_manifest(config.descriptor(), [Descriptor(LAYER_GZIP, layout.blob(blob), len(blob))])
    layout.blob(manifest.raw)
    layout.add(name, manifest.descriptor)
    return layout


TAR = layer_tar({"file": b"contents" * 1000})
DIFF_ID = "sha256:" + hashlib.sha256(TAR).hexdigest()
OTHER = gzip.compress(layer_tar({"other": b"x"}), mtime=0)
BAD = {"garbage": b"no tar at all" * 99, "cut": gzip.compress(TAR, mtime=0)[:-20], "other": OTHER}


def as_archive(layout: Layout, place: Path) -> Path:
    with tarfile.open(place, "w:gz") as tar:
        tar.add(layout.path, ".")
    return place


@pytest.mark.parametrize("kind", BAD)
@pytest.mark.parametrize("unpack", [True, False])
@pytest.mark.parametrize("packed", [True, False])
def test_a_layer_that_lies_about_what_it_is_is_refused(
    store: Store, tmp_path: Path, kind: str, unpack: bool, packed: bool
) -> None:
    load(store, claim(tmp_path / "good", "good:1", gzip.compress(TAR, mtime=0), DIFF_ID).path)
    bad = claim(tmp_path / "bad", "bad:1", BAD[kind], DIFF_ID)
    source = as_archive(bad, tmp_path / "bad.tar.gz") if packed else bad.path
    with pytest.raises((DigestMismatchError, LayerFormatError), match="sha256:"):
        load(store, source, Options(unpack=unpack))
    assert [image.name for image in Images(store).all()] == ["docker.io/library/good:1"]


def test_a_layer_for_another_platform_is_verified_too(store: Store, tmp_path: Path) -> None:
    bad = claim(tmp_path / "bad", "bad:1", OTHER, DIFF_ID, Platform("plan9", "mips"))
    with pytest.raises(DigestMismatchError, match="do not use this image"):
        load(store, bad.path, Options(unpack=False))


def test_the_same_layer_in_another_compression_is_taken(store: Store, tmp_path: Path) -> None:
    load(store, claim(tmp_path / "one", "one:1", gzip.compress(TAR, mtime=0), DIFF_ID).path)
    load(store, claim(tmp_path / "two", "two:1", gzip.compress(TAR, 1, mtime=0), DIFF_ID).path)
    assert len(Images(store).all()) == 2
    assert not check(store).findings


def test_a_claim_without_the_blob_is_not_believed_later(store: Store, tmp_path: Path) -> None:
    load(store, claim(tmp_path / "good", "good:1", gzip.compress(TAR, mtime=0), DIFF_ID).path)
    bad = claim(tmp_path / "bad", "bad:1", OTHER, DIFF_ID)
    absent = tmp_path / "bad/blobs/sha256" / hashlib.sha256(OTHER).hexdigest()
    absent.unlink()
    load(store, bad.path, Options(unpack=False))
    absent.write_bytes(OTHER)
    with pytest.raises(DigestMismatchError):
        load(store, bad.path)


def test_an_archive_is_named_in_messages(store: Store, tmp_path: Path) -> None:
    bad = claim(tmp_path / "bad", "bad:1", BAD["cut"], DIFF_ID)
    plain = tmp_path / "plain.tar"
    with tarfile.open(plain, "w") as tar:
        tar.add(bad.path, ".")
    with pytest.raises(LayerFormatError, match=r"plain\.tar: sha256:[0-9a-f]{64}.*it ends too early") as caught:
        load(store, plain)
    assert "_Part" not in str(caught.value)


# ---- on a terminal -----------------------------------------------------------------------------------


def test_nothing_steers_a_terminal(tmp_path: Path) -> None:
    evil = "\x1b]0;owned\x07\x9b31m\u202e"
    layout = Layout(tmp_path / "layout")
    steps = [History(created_by=f"RUN {evil}", comment=evil, created=evil)]
    config = new_config(host_platform(), [DIFF_ID], history=steps, created=evil)
    layout.blob(config.raw)
    blob = gzip.compress(TAR, mtime=0)
    manifest = new_manifest(config.descriptor(), [Descriptor(LAYER_GZIP, layout.blob(blob), len(blob))])
    layout.blob(manifest.raw)
    layout.add("evil:1", manifest.descriptor)
    shell = Shell(tmp_path / "store")
    shell.good("load", "-q", "-i", layout.path)
    for words in (
        ["history", "evil:1"],
        ["history", "--no-trunc", "--no-human", "evil:1"],
        ["history", "--format", "{{.CreatedBy}} {{json .Comment}}", "evil:1"],
        ["images"],
        ["images", "--format", "{{.CreatedAt}}"],
        ["inspect", "evil:1"],
    ):
        assert shell.good(*words).replace("\n", "").isprintable()
    assert "\\x1b]0;owned\\x07\\x9b31m\\u202e" in shell.good("history", "evil:1")
    (row,) = shell.rows("history", "evil:1")
    assert row["Comment"] == evil
    assert json.loads(shell.good("history", "--format", "{{json .Comment}}", "evil:1")) == evil


# ---- names ---------------------------------------------------------------------------------------


def test_a_name_that_is_none_is_warned_of(tmp_path: Path) -> None:
    layout = claim(tmp_path / "layout", "../../etc:1", gzip.compress(TAR, mtime=0), DIFF_ID)
    shell = Shell(tmp_path / "store")
    done = shell.run("load", "--progress", "none", "-i", layout.path)
    assert done.returncode == 0 and done.stdout.startswith(b"Loaded image ID: sha256:")
    assert done.stderr == b"fastlayer: warning: ../../etc:1: no image name, so none is given: use `fastlayer tag`\n"
    assert shell.run("load", "-q", "-i", layout.path).stderr == b""


def test_containerds_name_that_is_none_is_warned_of() -> None:
    entry = Descriptor(CONFIG, Digest(DIFF_ID), 1, {"io.containerd.image.name": "../x"})
    assert name_of(entry) == (None, "../x")


@pytest.mark.parametrize("name", ["A B", "A/../B", "Ä"])
def test_no_name_is_suggested_that_is_none(name: str) -> None:
    with pytest.raises(ReferenceFormatError) as caught:
        parse_reference(name)
    assert "write" not in str(caught.value)


def test_images_by_a_pattern(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "layout")
    for name in ("cat:1", "cow:2", "dog:1", "me/cat:1"):
        layout.image(f"docker.io/{name}" if "/" in name else f"docker.io/library/{name}", [{"a": b"a"}], salt=name)
    shell = Shell(tmp_path / "store")
    shell.good("load", "-q", "-i", layout.path)
    for pattern, found in {
        "c*": ["cat:1", "cow:2"],
        "c*:1": ["cat:1"],
        "*/c*": ["me/cat:1"],
        "[cd]o?": ["cow:2", "dog:1"],
        "x*": [],
    }.items():
        assert shell.good("images", "--format", "{{.Repository}}:{{.Tag}}", pattern).split() == found
