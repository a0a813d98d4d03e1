"""An image more costs little, however many there are."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from types import FrameType
from unittest import mock

from fastlayer.image import images
from fastlayer.image.images import LayerInfo
from fastlayer.image.record import record
from fastlayer.metadata.leases import Lease
from fastlayer.oci.config import new_config
from fastlayer.oci.digest import Digest
from fastlayer.oci.mediatypes import LAYER
from fastlayer.oci.platform import host_platform
from fastlayer.store.store import Store
from tests.stores import vfs_store


def layer(name: str, *, present: bool) -> LayerInfo:
    digest, diff_id = (Digest("sha256:" + hashlib.sha256(f"{name} {what}".encode()).hexdigest()) for what in "dt")
    return LayerInfo(digest, diff_id, LAYER, 5, 10, 5, present)


SHARED = [layer(f"shared {number}", present=True) for number in range(8)]


def one(store: Store, lease: Lease, number: int, *, present: bool = False) -> None:
    layers = [*SHARED, layer(str(number), present=present)]
    config = new_config(host_platform(), [found.diff_id for found in layers])
    record(store, lease, f"docker.io/library/i{number}:1", config, layers)


def work(store: Store, lease: Lease, number: int) -> tuple[int, int]:
    """What recording one image takes: instructions of SQLite's machine, and calls of functions."""
    counts = [0, 0]

    def of_sqlite() -> int:
        counts[0] += 10
        return 0

    def of_python(frame: FrameType, event: str, argument: object) -> None:
        counts[1] += event in ("call", "c_call") and frame.f_code is not of_sqlite.__code__

    with store.database.read() as db:
        db.set_progress_handler(of_sqlite, 10)
    sys.setprofile(of_python)
    try:
        one(store, lease, number)
    finally:
        sys.setprofile(None)
        db.set_progress_handler(None, 0)
    return counts[0], counts[1]


def test_recording_among_a_thousand(tmp_path: Path) -> None:
    with vfs_store(tmp_path / "store") as store, store.lease("test") as lease:
        with mock.patch.object(images, "_write_index"):
            for number in range(50):
                one(store, lease, number)
        few = work(store, lease, 50)
        with mock.patch.object(images, "_write_index"):
            for number in range(51, 1000):
                one(store, lease, number)
        many = work(store, lease, 1000)
        assert few[0] and few[1]
        # That each image has blobs which are not there is found by an index; a search for every blob takes far more.
        assert many[0] - few[0] < 950 * 600, "instructions of SQLite per image"
        assert many[1] - few[1] < 950, "calls per image"
        one(store, lease, 2000, present=True)
        index = json.loads((store.content.path / "index.json").read_bytes())
        names = [entry["annotations"]["io.containerd.image.name"] for entry in index["manifests"]]
        assert names == ["docker.io/library/i2000:1"], "those whose blobs are not there are left out"
