"""What all formats of image archives have in common: images with names, and blobs by digest."""

from __future__ import annotations

from typing import Any, BinaryIO, Literal, Protocol

from fastlayer._values import NamedTuple
from fastlayer.oci.descriptor import Descriptor
from fastlayer.oci.digest import Digest
from fastlayer.oci.reference import Reference

Format = Literal["oci-layout", "oci-archive", "docker-archive"]


class ArchivedImage(NamedTuple):
    """An image in an archive. ``descriptor`` names its manifest, or its index when it is for several platforms.

    ``names``: in their full form, sorted. ``labels``: what an OCI layout calls it where that is no name (a mere tag).
    """

    names: tuple[Reference, ...]
    descriptor: Descriptor
    labels: tuple[str, ...] = ()


class Documents(Protocol):
    """Manifests, indexes and configurations by digest."""

    def has(self, digest: str) -> bool: ...

    def read(self, digest: str, limit: int = ...) -> bytes:
        """A small blob, verified. Raises ``NotFoundError``, ``CorruptStoreError``, ``DigestMismatchError``."""
        ...


class Blobs(Documents, Protocol):
    """Blobs by digest; a ``ContentStore`` is one."""

    def size(self, digest: str) -> int:
        """Bytes. Raises ``NotFoundError``."""
        ...

    def open(self, digest: str) -> BinaryIO:
        """For reading, from its beginning, any number of times. Raises ``NotFoundError``."""
        ...


class ImageSource(Blobs, Protocol):
    """Images that can be looked at in any order, any number of times; a context manager."""

    format: Format
    images: tuple[ArchivedImage, ...]

    def close(self) -> None: ...
    def __enter__(self) -> ImageSource: ...
    def __exit__(self, *_exc: object) -> None: ...


class Stored(NamedTuple):
    """What became of a blob: its digest and its bytes."""

    digest: Digest
    size: int


class Writer(Protocol):
    """Takes one blob. ``content.ingest.Ingest`` is one."""

    def write(self, data: Any) -> None: ...

    def commit(self) -> tuple[Digest, int]:
        """The blob is complete: its digest and size. Raises ``DigestMismatchError`` when it is not what was said."""
        ...

    def abort(self) -> None: ...


class Sink(Protocol):
    """Where the blobs of an archive go that passes by once."""

    def begin(self, size: int, digest: Digest | None, offset: int | None) -> Writer | None:
        """A blob of ``size`` bytes comes. ``digest``: what it claims to be; the writer has to verify that.

        None: it is not wanted because it is there already (only where ``digest`` is known). ``offset``: where its bytes
        stand in the archive file, when that is a plain file.
        """
        ...

    def read(self, digest: str, limit: int) -> bytes:
        """A small blob that was taken before, verified."""
        ...
