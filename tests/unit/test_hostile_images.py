"""Images that were made to do harm: refused in one line, and the store stays usable."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastlayer.errors import ManifestError
from fastlayer.image.images import Images
from fastlayer.image.load import load
from fastlayer.maintenance.check import check
from fastlayer.oci.config import parse_config
from fastlayer.oci.descriptor import Descriptor
from fastlayer.oci.manifest import new_manifest
from fastlayer.oci.mediatypes import CONFIG
from fastlayer.oci.platform import Platform, stored_platform
from fastlayer.store.store import Store
from tests.stores import Layout, imported, vfs_store


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
