"""Small images by hand, and archives of them in every dialect, made without fastlayer's writers."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"


def digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def descriptor(data: bytes, media_type: str, **more: Any) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": digest(data), "size": len(data), **more}


def layer_tar(files: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


class Image(NamedTuple):
    """An image: its blobs by digest, and the bytes that matter."""

    manifest: bytes
    config: bytes
    layers: tuple[bytes, ...]  # as stored
    tars: tuple[bytes, ...]
    names: tuple[str, ...]

    @property
    def blobs(self) -> dict[str, bytes]:
        return {digest(data): data for data in (self.manifest, self.config, *self.layers)}

    @property
    def entry(self) -> dict[str, Any]:
        return descriptor(self.manifest, OCI_MANIFEST)


def make_image(*tars: bytes, names: Iterable[str] = (), compress: bool = False, architecture: str = "amd64") -> Image:
    layers = tuple(gzip.compress(tar, mtime=0) if compress else tar for tar in tars)
    config = {
        "architecture": architecture,
        "os": "linux",
        "config": {"Cmd": ["sh"]},
        "rootfs": {"type": "layers", "diff_ids": [digest(tar) for tar in tars]},
        "history": [{"created_by": f"step {n}"} for n in range(len(tars))],
    }
    config_data = json.dumps(config).encode()
    manifest = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": descriptor(config_data, OCI_CONFIG),
        "layers": [descriptor(layer, OCI_LAYER + ("+gzip" if compress else "")) for layer in layers],
    }
    return Image(json.dumps(manifest).encode(), config_data, layers, tars, tuple(names))


def make_tar(members: Iterable[tuple[str, bytes | tarfile.TarInfo]], *, format: int = tarfile.GNU_FORMAT) -> bytes:
    """Bytes become files; a ``TarInfo`` goes in as it is."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format) as tar:
        for name, data in members:
            if isinstance(data, tarfile.TarInfo):
                data.name = name
                tar.addfile(data)
                continue
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def link(target: str, kind: bytes = tarfile.SYMTYPE) -> tarfile.TarInfo:
    info = tarfile.TarInfo()
    info.type, info.linkname = kind, target
    return info


def blob_path(name: str) -> str:
    return "blobs/" + name.replace(":", "/")


def index_of(*images: Image) -> bytes:
    lines = []
    for image in images:
        for name in image.names or ("",):
            notes = {"io.containerd.image.name": name, "org.opencontainers.image.ref.name": name.rpartition(":")[2]}
            lines.append({**image.entry, **({"annotations": notes} if name else {})})
    return json.dumps({"schemaVersion": 2, "manifests": lines}).encode()


def oci_members(*images: Image) -> list[tuple[str, bytes]]:
    blobs = {name: data for image in images for name, data in image.blobs.items()}
    return [
        ("oci-layout", b'{"imageLayoutVersion":"1.0.0"}'),
        ("index.json", index_of(*images)),
        *((blob_path(name), data) for name, data in blobs.items()),
    ]


def docker_members(*images: Image) -> list[tuple[str, bytes | tarfile.TarInfo]]:
    """As Docker 20.10 and podman write it: layers in folders, those that are there already as links."""
    members: list[tuple[str, bytes | tarfile.TarInfo]] = []
    written: dict[str, str] = {}
    entries = []
    for number, image in enumerate(images):
        names = []
        for position, tar in enumerate(image.tars):
            folder = hashlib.sha256(f"{number}/{position}".encode()).hexdigest()
            names.append(f"{folder}/layer.tar")
            members += [(f"{folder}/VERSION", b"1.0"), (f"{folder}/json", b"{}")]
            if digest(tar) in written:
                members.append((names[-1], link("../" + written[digest(tar)])))
            else:
                members.append((names[-1], tar))
            written.setdefault(digest(tar), names[-1])
        config = digest(image.config).partition(":")[2] + ".json"
        members.append((config, image.config))
        entries.append({"Config": config, "RepoTags": list(image.names) or None, "Layers": names})
    members.append(("manifest.json", json.dumps(entries).encode()))
    members.append(("repositories", b"{}"))
    return members


def write_layout(path: Path, *images: Image) -> Path:
    for name, data in oci_members(*images):
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return path
