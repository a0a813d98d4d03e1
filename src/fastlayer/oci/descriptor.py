"""Content descriptors (image-spec descriptor.md)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastlayer._values import NamedTuple
from fastlayer.oci.digest import Digest
from fastlayer.oci.platform import Platform

_LARGEST = (1 << 63) - 1  # what Go's readers take for a size
_KNOWN = frozenset({"mediaType", "digest", "size", "annotations", "platform"})


class Descriptor(NamedTuple):
    """What a blob is, how long it is (bytes) and what it hashes to.

    ``platform``: what it is for, in an index. ``extra``: other properties (urls, data, artifactType, ...), kept.
    """

    media_type: str
    digest: Digest
    size: int
    annotations: Mapping[str, str] = {}
    platform: Platform | None = None
    extra: Mapping[str, Any] = {}

    def to_dict(self) -> dict[str, Any]:
        """The JSON object of the specification, keys in its order."""
        value: dict[str, Any] = {"mediaType": self.media_type, "digest": str(self.digest), "size": self.size}
        if self.annotations:
            value["annotations"] = dict(self.annotations)
        if self.platform is not None:
            value["platform"] = self.platform.to_dict()
        value.update(self.extra)
        return value

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Descriptor:
        """Reads the JSON object; raises ``ValueError`` when a required property is missing or of the wrong type."""
        media_type, size = value.get("mediaType"), value.get("size")
        if not isinstance(media_type, str) or not media_type:
            raise ValueError("descriptor without mediaType")
        if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= _LARGEST:
            raise ValueError("descriptor without a size in bytes")
        annotations = value.get("annotations") or {}
        if not isinstance(annotations, Mapping) or not all(isinstance(v, str) for v in annotations.values()):
            raise ValueError("descriptor annotations must map strings to strings")
        platform = Platform.from_dict(value["platform"]) if value.get("platform") is not None else None
        extra = {key: item for key, item in value.items() if key not in _KNOWN}
        return cls(media_type, Digest(str(value.get("digest"))), size, dict(annotations), platform, extra)
