"""What manifests, indexes and configurations have in common: each is the bytes it was read from or is written as."""

from __future__ import annotations

from fastlayer.oci.descriptor import Descriptor
from fastlayer.oci.digest import Digest, digest_of


class Document:
    """A JSON document named by the digest of its bytes, ``raw``."""

    __slots__ = ()
    raw: bytes

    @property
    def digest(self) -> Digest:
        return digest_of(self.raw)

    def to_bytes(self) -> bytes:
        return self.raw


class TypedDocument(Document):
    """One that says of which media type it is: a manifest or an index."""

    __slots__ = ()
    media_type: str

    @property
    def descriptor(self) -> Descriptor:
        """Names the document itself."""
        return Descriptor(self.media_type, self.digest, len(self.raw))
