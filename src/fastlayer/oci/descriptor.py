"""Content descriptors (image-spec descriptor.md)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from fastlayer.oci.digest import Digest


class Descriptor(NamedTuple):
    """What a blob is, how long it is (bytes) and what it hashes to."""

    media_type: str
    digest: Digest
    size: int
    annotations: Mapping[str, str] = {}

    def to_dict(self) -> dict[str, Any]:
        """The JSON object of the specification, keys in its order."""
        value: dict[str, Any] = {"mediaType": self.media_type, "digest": str(self.digest), "size": self.size}
        if self.annotations:
            value["annotations"] = dict(self.annotations)
        return value

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Descriptor:
        """Reads the JSON object; raises ``ValueError`` when a required property is missing or of the wrong type."""
        media_type, size = value.get("mediaType"), value.get("size")
        if not isinstance(media_type, str) or not media_type:
            raise ValueError("descriptor without mediaType")
        if not isinstance(size, int) or isinstance(size, bool) or size < 0:
            raise ValueError("descriptor without a size in bytes")
        annotations = value.get("annotations") or {}
        if not isinstance(annotations, Mapping) or not all(isinstance(v, str) for v in annotations.values()):
            raise ValueError("descriptor annotations must map strings to strings")
        return cls(media_type, Digest(str(value.get("digest"))), size, dict(annotations))
