"""What manifests, indexes and configurations have in common: each is the bytes it was read from or is written as."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn

from fastlayer.oci.descriptor import Descriptor
from fastlayer.oci.digest import Digest, digest_of


class Document:
    """A JSON document named by the digest of its bytes, ``raw``: equal when they are. It never changes.

    A class of dataclasses would be shorter, and take a millisecond of every command.
    """

    __slots__ = ("raw",)
    raw: bytes

    def _fill(self, **values: Any) -> None:
        for name, value in values.items():
            object.__setattr__(self, name, value)

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"{type(self).__name__}.{name} cannot be set: a document is the bytes it was read from")

    def __delattr__(self, name: str) -> NoReturn:
        self.__setattr__(name, None)

    def __eq__(self, other: object) -> bool:
        return self.raw == other.raw if type(other) is type(self) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.raw)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.raw!r})"

    @property
    def digest(self) -> Digest:
        return digest_of(self.raw)

    def to_bytes(self) -> bytes:
        return self.raw


class TypedDocument(Document):
    """One that says of which media type it is: a manifest or an index. ``value``: the whole JSON object, with what is
    unknown here."""

    __slots__ = ("annotations", "media_type", "value")
    media_type: str
    annotations: Mapping[str, str]
    value: Mapping[str, Any]

    @property
    def descriptor(self) -> Descriptor:
        """Names the document itself."""
        return Descriptor(self.media_type, self.digest, len(self.raw))
