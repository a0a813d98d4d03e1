"""An image more costs little, however many there are."""

from __future__ import annotations

import hashlib
import json
import time
from pathlib import Path
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

BOUND = 0.15  # seconds of CPU; about 0.015 where nothing else runs, and seconds when each blob is searched for


def layer(name: str, *, present: bool) -> LayerInfo:
    digest, diff_id = (Digest("sha256:" + hashlib.sha256(f"{name} {what}".encode()).hexdigest()) for what in "dt")
    return LayerInfo(digest, diff_id, LAYER, 5, 10, 5, present)


SHARED = [layer(f"shared {number}", present=True) for number in range(8)]


def one(store: Store, lease: Lease, number: int, *, present: bool = False) -> None:
    layers = [*SHARED, layer(str(number), present=present)]
    config = new_config(host_platform(), [found.diff_id for found in layers])
    record(store, lease, f"docker.io/library/i{number}:1", config, layers)


def test_recording_among_a_thousand(tmp_path: Path) -> None:
    with vfs_store(tmp_path / "store") as store, store.lease("test") as lease:
        with mock.patch.object(images, "write_index"):
            for number in range(1000):
                one(store, lease, number)
        costs = []
        for number in range(1000, 1003):
            begin = time.process_time()
            one(store, lease, number)
            costs.append(time.process_time() - begin)
        assert min(costs) < BOUND
        one(store, lease, 2000, present=True)
        index = json.loads((store.content.path / "index.json").read_bytes())
        names = [entry["annotations"]["io.containerd.image.name"] for entry in index["manifests"]]
        assert names == ["docker.io/library/i2000:1"], "those whose blobs are not there are left out"
