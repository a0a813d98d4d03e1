"""Image manifests: OCI (image-spec manifest.md) and Docker schema 2, which say the same with other media types."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fastlayer.oci import jsontext, mediatypes
from fastlayer.oci.descriptor import Descriptor
from fastlayer.oci.document import TypedDocument

MAX_MANIFEST = 4 << 20  # bytes; distribution-spec: registries must take this many
_KNOWN = ("schemaVersion", "mediaType", "config", "layers", "annotations", "artifactType", "subject")
_FOREIGN_KEYS = ("manifests", "fsLayers", "signatures")  # of indexes and of schema 1 (CVE-2021-41190)


class Manifest(TypedDocument):
    """One image for one platform. ``raw``: the bytes it was read from or is written as; its digest is theirs."""

    __slots__ = ("config", "layers")
    config: Descriptor
    layers: tuple[Descriptor, ...]

    def __init__(
        self,
        raw: bytes,
        media_type: str,
        config: Descriptor,
        layers: tuple[Descriptor, ...],
        annotations: Mapping[str, str] | None = None,
        value: Mapping[str, Any] | None = None,
    ) -> None:
        self._fill(
            raw=raw,
            media_type=media_type,
            config=config,
            layers=layers,
            annotations=annotations or {},
            value=value or {},
        )

    @property
    def artifact_type(self) -> str:
        """What it is when it is no image; empty otherwise."""
        found = self.value.get("artifactType")
        return found if isinstance(found, str) else ""

    @property
    def is_image(self) -> bool:
        """Whether there is an image configuration: attestations and artifacts have another one."""
        return self.config.media_type in mediatypes.CONFIGS

    def require_image(self, what: str = "manifest", *, foreign: bool = False) -> None:
        """Raises ``ManifestError`` unless this is an image whose layers can be unpacked.

        ``foreign``: layers that are at addresses of their own can be had.
        """
        if not self.is_image:
            jsontext.refuse(what, f"is no image: its configuration is of type {self.config.media_type!a}")
        for number, layer in enumerate(self.layers, 1):
            if mediatypes.is_foreign(layer.media_type):
                if foreign:
                    continue
                jsontext.refuse(
                    what, f"layer {number} is not distributable ({layer.media_type}): build the image on another base"
                )
            if mediatypes.layer_compression(layer.media_type) is None:
                jsontext.refuse(what, f"layer {number} is of the unknown type {layer.media_type!a}")


def parse_manifest(data: bytes, media_type: str = "", what: str = "manifest") -> Manifest:
    """Reads a manifest. ``media_type``: what its descriptor says, if there is one.

    Raises ``ManifestError``: not a manifest, of an unknown or another type than promised, ambiguous, or too large.
    """
    value = jsontext.parse_object(data, what, MAX_MANIFEST)
    jsontext.check_spelling(value, _KNOWN, what)
    jsontext.schema_two(value, what)
    for key in _FOREIGN_KEYS:
        if key in value:
            jsontext.refuse(what, f"has {key}: it could be read as something else than a manifest")
    found = settle_media_type(value, media_type, mediatypes.MANIFESTS, mediatypes.MANIFEST, what)
    if not isinstance(value.get("config"), dict):
        jsontext.refuse(what, "has no config")
    config = read_descriptor(value["config"], f"{what}: config")
    layers = tuple(
        read_descriptor(layer, f"{what}: layer {number}")
        for number, layer in enumerate(jsontext.objects(value, "layers", what), 1)
    )
    annotations = jsontext.text_map(value, "annotations", what)
    return Manifest(data, found, config, layers, annotations, value)


def new_manifest(
    config: Descriptor,
    layers: Iterable[Descriptor],
    *,
    media_type: str = mediatypes.MANIFEST,
    annotations: Mapping[str, str] | None = None,
    more: Mapping[str, Any] | None = None,
) -> Manifest:
    """A manifest of these parts; the same parts always give the same bytes. ``more``: further properties."""
    stack = tuple(layers)
    value: dict[str, Any] = {"schemaVersion": 2, "mediaType": media_type, **(more or {})}
    value["config"] = config.to_dict()
    value["layers"] = [layer.to_dict() for layer in stack]
    if annotations:
        value["annotations"] = dict(annotations)
    return Manifest(jsontext.write(value), media_type, config, stack, dict(annotations or {}), value)


def read_descriptor(value: Mapping[str, Any], what: str) -> Descriptor:
    """``Descriptor.from_dict`` with a ``ManifestError``."""
    jsontext.check_spelling(value, ("mediaType", "digest", "size"), what)
    try:
        return Descriptor.from_dict(value)
    except ValueError as exc:
        jsontext.refuse(what, str(exc))


def settle_media_type(value: Mapping[str, Any], promised: str, known: frozenset[str], default: str, what: str) -> str:
    """The media type by the document and by its descriptor, which must not contradict each other."""
    own = jsontext.text(value, "mediaType", what)
    for media_type in (own, promised):
        if media_type in mediatypes.SCHEMA_1:
            jsontext.refuse(
                what, "is a Docker schema 1 manifest, which has been retired: pull or build the image again"
            )
        if media_type and media_type not in known:
            jsontext.refuse(what, f"is of the unknown type {media_type!a}")
    if own and promised and own != promised:
        jsontext.refuse(what, f"says it is {own}, but its descriptor says {promised}")
    return own or promised or default


def total_size(descriptors: Sequence[Descriptor]) -> int:
    """Bytes of the blobs, each counted once."""
    return sum({descriptor.digest: descriptor.size for descriptor in descriptors}.values())
