"""What manifests, indexes and configurations have in common: each is the bytes it was read from or is written as."""

from __future__ import annotations

import hashlib

from fastlayer.oci.descriptor import Descriptor
from fastlayer.oci.digest import Digest, sha256_digest


class Document:
    """A JSON document named by the digest of its bytes, ``raw``."""

    __slots__ = ()
    raw: bytes

    @property
    def digest(self) -> Digest:
        return sha256_digest(hashlib.sha256(self.raw).hexdigest())

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
