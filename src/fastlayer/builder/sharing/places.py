"""Where caches are: what a build needs of a layout, or of a repository of a registry, to read one and to write one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from fastlayer.builder.sharing.options import CacheTo
    from fastlayer.builder.sharing.records import StoredLayer
    from fastlayer.image.images import LayerInfo
    from fastlayer.oci.descriptor import Descriptor
    from fastlayer.oci.digest import Digest
    from fastlayer.oci.manifest import Manifest


class Stream(Protocol):
    """The bytes of a blob from its beginning, which nobody has verified."""

    def readinto(self, buffer: Any, /) -> int: ...


class Source(Protocol):
    """One cache that is read; used by several threads. What fails is a ``FastlayerError`` of one line."""

    name: str
    """For messages."""

    def manifest(self) -> Manifest:
        """Of the cache, or of an image that may have one in its configuration."""
        ...

    def read(self, blob: Descriptor, limit: int) -> bytes:
        """A small blob, verified. Raises ``NotFoundError``, ``CorruptStoreError``, ``DigestMismatchError`` ..."""
        ...

    def open(self, blob: Descriptor) -> AbstractContextManager[Stream]:
        """A blob of any size. Raises ``NotFoundError``."""
        ...

    def close(self) -> None: ...


class Target(Protocol):
    """Where one cache is written; several threads put blobs there."""

    def known(self) -> Mapping[Digest, Sequence[StoredLayer]]:
        """Layers that caches have there, by diff id; whether their blobs are still there is not said."""
        ...

    def has(self, blob: Descriptor) -> bool:
        """Whether a blob is there, as long as it should be."""
        ...

    def put(self, data: bytes) -> None:
        """A small blob."""
        ...

    def copy(self, blob: Descriptor, source: Source) -> None:
        """A blob as another cache has it, verified. Raises ``NotFoundError``, ``DigestMismatchError``,
        ``CorruptStoreError`` when it cannot be had there."""
        ...

    def make(
        self, layers: Sequence[tuple[LayerInfo, Digest]], wanted: CacheTo, jobs: int | None
    ) -> Mapping[Digest, Descriptor]:
        """Layers of the store, each with the name of the snapshot that ends with it: compressed as it is wanted. Their
        blobs by diff id."""
        ...

    def finish(self, manifest: Manifest) -> None:
        """The manifest of what is there by now, under the name of the cache. Until then readers see the old one."""
        ...
