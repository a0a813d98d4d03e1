"""Stores and images for tests."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Mapping
from pathlib import Path

from fastlayer.container.mounting import temporary
from fastlayer.image.images import Image, Images
from fastlayer.image.importing import import_image
from fastlayer.maintenance.check import check
from fastlayer.oci.config import History, new_config
from fastlayer.oci.descriptor import Descriptor
from fastlayer.oci.digest import Digest, sha256_digest
from fastlayer.oci.manifest import Manifest, new_manifest
from fastlayer.oci.mediatypes import LAYER_GZIP
from fastlayer.oci.platform import Platform, host_platform
from fastlayer.store.store import Store, open_store


def tree(place: Path, files: Mapping[str, bytes | str]) -> Path:
    """A directory with files; names that end with a slash are directories."""
    place.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        path = place / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith("/"):
            path.mkdir(exist_ok=True)
        else:
            path.write_bytes(content.encode() if isinstance(content, str) else content)
    return place


def vfs_store(root: Path) -> Store:
    """A store that needs no privileges."""
    return open_store(root, driver="vfs")


def imported(store: Store, place: Path, name: str = "base:1") -> Image:
    """A small image."""
    return import_image(
        store, tree(place, {"etc/passwd": "root\n", "etc/hosts": "localhost\n", "bin/tool": os.urandom(5000)}), name
    )


def layer_tar(files: Mapping[str, bytes]) -> bytes:
    """A layer by Python's own tarfile."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            info.mode = 0o644
            tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


class Layout:
    """An OCI layout directory that is made by hand."""

    def __init__(self, path: Path) -> None:
        self.path = path
        (path / "blobs/sha256").mkdir(parents=True)
        (path / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
        self._entries: list[Descriptor] = []

    def blob(self, data: bytes) -> Digest:
        import hashlib

        digest = sha256_digest(hashlib.sha256(data).hexdigest())
        (self.path / "blobs/sha256" / digest.encoded).write_bytes(data)
        return digest

    def image(
        self, name: str, layers: list[Mapping[str, bytes]], platform: Platform | None = None, salt: str = ""
    ) -> Manifest:
        """An image of gzip layers, with a metadata-only step on top."""
        import gzip
        import hashlib

        descriptors, diff_ids = [], []
        for files in layers:
            tar = layer_tar(files)
            packed = gzip.compress(tar, mtime=0)
            diff_ids.append("sha256:" + hashlib.sha256(tar).hexdigest())
            descriptors.append(Descriptor(LAYER_GZIP, self.blob(packed), len(packed)))
        steps = [History(created_by=f"RUN step {number} {salt}") for number in range(len(layers))]
        steps.append(History(created_by='CMD ["sh"]', empty_layer=True))
        config = new_config(platform or host_platform(), diff_ids, history=steps, created="2026-01-01T00:00:00Z")
        self.blob(config.raw)
        manifest = new_manifest(config.descriptor(), descriptors)
        self.blob(manifest.raw)
        if name:
            self.add(name, manifest.descriptor)
        return manifest

    def image_of_files(self, name: str, layers: list[Path]) -> Manifest:
        """An image of layer files (tar.gz)."""
        import gzip
        import hashlib

        descriptors, diff_ids = [], []
        for path in layers:
            packed = path.read_bytes()
            diff_ids.append("sha256:" + hashlib.sha256(gzip.decompress(packed)).hexdigest())
            descriptors.append(Descriptor(LAYER_GZIP, self.blob(packed), len(packed)))
        config = new_config(host_platform(), diff_ids, created="2026-01-01T00:00:00Z")
        self.blob(config.raw)
        manifest = new_manifest(config.descriptor(), descriptors)
        self.blob(manifest.raw)
        self.add(name, manifest.descriptor)
        return manifest

    def add(self, name: str, descriptor: Descriptor) -> None:
        from fastlayer.oci.image_index import new_index

        annotations = {"org.opencontainers.image.ref.name": name}
        self._entries.append(descriptor._replace(annotations=annotations))
        (self.path / "index.json").write_bytes(new_index(self._entries).raw)


LAYERS: list[Mapping[str, bytes]] = [{"a": b"1", "dir/b": b"22"}, {"dir/.wh.b": b"", "dir/c": b"333"}]


def content(store: Store, name: str) -> dict[str, bytes]:
    """The regular files of an image."""
    with temporary(store, Images(store).find(name)) as path:
        return {
            os.fspath(file.relative_to(path)): file.read_bytes()
            for file in sorted(path.rglob("*"))
            if file.is_file() and not file.is_symlink()
        }


def sound(store: Store) -> None:
    report = check(store)
    assert not report.findings, report.findings
