"""The manifest or index of an image, wherever that is, and the small things below it: looked at, not moved."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

from fastlayer._values import NamedTuple
from fastlayer.errors import NotFoundError
from fastlayer.image.images import Images
from fastlayer.oci import mediatypes
from fastlayer.oci.config import MAX_CONFIG
from fastlayer.oci.descriptor import Descriptor
from fastlayer.oci.image_index import ImageIndex, Read, parse_document, parse_index, way_to
from fastlayer.oci.manifest import MAX_MANIFEST, Manifest, parse_manifest
from fastlayer.oci.platform import Platform, host_platform, parse_platform
from fastlayer.registry.looking import Warn, silent
from fastlayer.registry.opening import AS_SET_UP, Wishes
from fastlayer.registry.places import Place, parse_place

if TYPE_CHECKING:
    from fastlayer.store.store import Store

T = TypeVar("T")


class Documents(NamedTuple):
    """``root``: the descriptor of what the name names, ``data`` its bytes, verified; ``read``: what is below it.

    ``name``: for people, without tag and digest where it is in a registry.
    """

    name: str
    root: Descriptor
    data: bytes
    read: Read

    @property
    def document(self) -> Manifest | ImageIndex:
        """Raises ``ManifestError``."""
        return parse_document(self.root, self.data)

    def manifest(self, platform: Platform | None = None) -> Manifest:
        """That of the platform, by default this machine's. Raises ``NotFoundError``, ``ManifestError``."""

        def read(one: Descriptor) -> bytes:
            return self.data if one is self.root else self.read(one, MAX_MANIFEST)

        way = way_to(platform or host_platform(), self.root, read, self.name)
        found = way[-1] if way else self.root
        return parse_manifest(read(found), found.media_type, str(found.digest))

    def raw(self, platform: Platform | None) -> bytes:
        """What the name names, or the manifest of a platform."""
        return self.data if platform is None else self.manifest(platform).raw

    def config(self, platform: Platform | None) -> bytes:
        """The configuration of an image. Raises likewise."""
        return self.read(self.manifest(platform).config, MAX_CONFIG)


def look_at(
    text: str, work: Callable[[Documents], T], wishes: Wishes, *, store: Store | None = None, warn: Warn = silent
) -> T:
    """What ``work`` makes of the documents of an image, by its place in skopeo's words.

    A name without a transport is that of an index of the ``store`` where it has one, else of a registry. Raises
    ``ReferenceFormatError``, ``RegistryError``, ``OperandError``, ``ManifestError``.
    """
    place = parse_place(text)
    if place.is_registry and store is not None and not text.startswith("docker://"):
        own = index_of_store(store, text)
        if own is not None:
            return work(own)
    with opened_documents(place, wishes, warn) as found:
        return work(found)


def read_manifest(
    name: str, wishes: Wishes = AS_SET_UP, *, platform: str | Platform | None = None, store: Store | None = None
) -> bytes:
    """The manifest or index of an image, as it is: its sha256 is its digest. Nothing is pulled.

    ``name``: of a registry, or in skopeo's words; an index of the ``store`` where that has one of it. ``platform``: the
    manifest of that image of an index. Raises as ``look_at``, ``NotFoundError`` where it is not for the platform.
    """
    wanted = parse_platform(platform) if isinstance(platform, str) else platform
    return look_at(name, lambda found: found.raw(wanted), wishes, store=store)


@contextmanager
def opened_documents(place: Place, wishes: Wishes, warn: Warn = silent) -> Iterator[Documents]:
    """Those of an image that is not in the store, for the block."""
    from fastlayer.transfer.ends.opening import opened_source

    name = place.reference.familiar_name if place.is_registry and place.reference is not None else str(place)
    with opened_source(place, wishes, warn) as found:
        yield Documents(name, found.root, found.source.read(found.root, MAX_MANIFEST), found.source.read)


def index_of_store(store: Store, text: str) -> Documents | None:
    """The index that the store has under a name, None for none."""
    try:
        target, _ = Images(store).target_of(text)
    except NotFoundError:
        return None
    return of_store(store, text, target) if target.media_type in mediatypes.INDEXES else None


def of_store(store: Store, name: str, target: Descriptor) -> Documents:
    """The documents of an image of the store."""
    content = store.content
    return Documents(name, target, content.read(target.digest), lambda one, limit: content.read(one.digest, limit))


def children(documents: Documents) -> list[Descriptor]:
    """What an index names; of a manifest nothing."""
    if documents.root.media_type not in mediatypes.INDEXES:
        return []
    return list(parse_index(documents.data, documents.root.media_type, documents.name).manifests)
