"""Manifests and indexes of what has changed on its way: other layers, or Docker's media types instead of OCI's.

What is not concerned stays as it is, in its order; nothing is rewritten that has not changed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from fastlayer._checked import text
from fastlayer.errors import ManifestError, UsageError
from fastlayer.oci import jsontext, mediatypes
from fastlayer.oci.descriptor import Descriptor
from fastlayer.oci.digest import Digest
from fastlayer.oci.image_index import ImageIndex
from fastlayer.oci.manifest import Manifest

ManifestFormat = Literal["", "oci", "v2s2"]
_OWN = {"oci": "application/vnd.oci.", "v2s2": "application/vnd.docker."}
_TO_DOCKER = {
    mediatypes.MANIFEST: mediatypes.DOCKER_MANIFEST,
    mediatypes.INDEX: mediatypes.DOCKER_INDEX,
    mediatypes.CONFIG: mediatypes.DOCKER_CONFIG,
    mediatypes.LAYER: mediatypes.DOCKER_LAYER,
    mediatypes.LAYER_GZIP: mediatypes.DOCKER_LAYER_GZIP,
    "application/vnd.oci.image.layer.nondistributable.v1.tar": "application/vnd.docker.image.rootfs.foreign.diff.tar",
    "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip": (
        "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
    ),
}
_TO_OCI = {docker: oci for oci, docker in _TO_DOCKER.items()} | {mediatypes.DOCKER_LAYER_ZSTD: mediatypes.LAYER_ZSTD}
_REFERS = "vnd.docker.reference.digest"  # of BuildKit's attestations: the image manifest beside them


def is_docker(document: Manifest | ImageIndex) -> bool:
    """Whether a manifest or index is of Docker's kind."""
    return document.media_type in (mediatypes.DOCKER_MANIFEST, mediatypes.DOCKER_INDEX)


def wants(document: Manifest | ImageIndex, format: ManifestFormat) -> bool:
    """Whether a manifest or index has to change for a format. What is no image has none of Docker's."""
    if isinstance(document, Manifest) and not document.is_image:
        return False
    return bool(format) and is_docker(document) != (format == "v2s2")


def check_format(format: str) -> None:
    """Raises ``UsageError`` for what is no ``ManifestFormat``."""
    if text("manifest_format", format) not in ("", *_OWN):
        raise UsageError(f"manifest_format={format!r}: use oci, v2s2, or an empty text for that of the image")


def media_type_in(format: ManifestFormat, media_type: str, what: str) -> str:
    """A media type in the words of a format. Raises ``ManifestError`` where it has none."""
    if not format or media_type.startswith(_OWN[format]):
        return media_type
    found = (_TO_DOCKER if format == "v2s2" else _TO_OCI).get(media_type)
    if found is None:
        raise ManifestError(
            f"{what}: {media_type!a} has no other name in the manifest format {format}: keep the format"
        )
    return found


def rewritten_manifest(
    manifest: Manifest, config: Descriptor, layers: Sequence[Descriptor], format: ManifestFormat, what: str
) -> bytes:
    """The manifest of these parts, in a format (or its own). Docker's have no annotations."""
    own: ManifestFormat = "v2s2" if is_docker(manifest) else "oci"
    names = (format or own) if manifest.is_image else ""
    value = dict(manifest.value)
    value["mediaType"] = media_type_in(names, manifest.media_type, what)
    value["config"] = _renamed(config, names, what)
    value["layers"] = [_renamed(layer, names, what) for layer in layers]
    if names == "v2s2":
        value.pop("annotations", None)
    return jsontext.write(value)


def rewritten_index(
    index: ImageIndex, children: Mapping[Digest, Descriptor], format: ManifestFormat, what: str
) -> bytes:
    """The index with what its manifests have become."""
    value = dict(index.value)
    value["mediaType"] = media_type_in(format, index.media_type, what)
    value["manifests"] = [_child(child, children).to_dict() for child in index.manifests]
    if format == "v2s2":
        value.pop("annotations", None)
    return jsontext.write(value)


def _child(child: Descriptor, children: Mapping[Digest, Descriptor]) -> Descriptor:
    found = children.get(child.digest, child)
    annotations = dict(child.annotations)
    refers = annotations.get(_REFERS, "")
    for old, new in children.items():
        if refers == old:
            annotations[_REFERS] = new.digest
    return child._replace(media_type=found.media_type, digest=found.digest, size=found.size, annotations=annotations)


def _renamed(part: Descriptor, format: ManifestFormat, what: str) -> dict[str, Any]:
    found = part._replace(media_type=media_type_in(format, part.media_type, what))
    return (found._replace(annotations={}) if format == "v2s2" else found).to_dict()
