"""What tests of transfers have in common: registries of the tests' own, images, and no waiting."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

from fastlayer.oci.digest import Digest, digest_of
from fastlayer.registry.answers import Timeouts
from fastlayer.registry.opening import Wishes
from fastlayer.registry.pauses import Policy
from fastlayer.transfer.events import BlobProgress
from tests.registry_server import RegistryServer

QUICK = Wishes(
    verify=False,
    policy=Policy(tries=6, first=0.0, longest=0.001),
    timeouts=Timeouts(connect=5.0, read=5.0, finish=10.0),
    environ={"HOME": "/nonexistent"},
    etc=Path("/nonexistent"),
)


class Witness:
    """An observer that remembers."""

    def __init__(self) -> None:
        self.seen: list[BlobProgress] = []

    def __call__(self, blob: BlobProgress) -> None:
        self.seen.append(blob)

    def ends(self) -> list[str]:
        return [one.doing for one in self.seen if one.ended]


def manifest_at(server: RegistryServer, name: str, reference: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(server.manifests[name, reference][0])
    return found


def complete(server: RegistryServer, name: str, reference: str) -> dict[str, Any]:
    """The manifest, all of whose blobs are there; tars have the diff ids of the configuration."""
    value = manifest_at(server, name, reference)
    config = json.loads(server.blobs[name, value["config"]["digest"]])
    for layer, diff_id in zip(value["layers"], config["rootfs"]["diff_ids"], strict=True):
        data = server.blobs[name, layer["digest"]]
        assert len(data) == layer["size"]
        assert digest_of(expanded(data)) == diff_id
    return value


def expanded(data: bytes) -> bytes:
    if data.startswith(b"\x28\xb5\x2f\xfd"):
        import zstandard

        return zstandard.ZstdDecompressor().stream_reader(data, read_across_frames=True).read()
    return gzip.decompress(data) if data.startswith(b"\x1f\x8b") else data


def layers_of(value: dict[str, Any]) -> list[Digest]:
    return [Digest(layer["digest"]) for layer in value["layers"]]
