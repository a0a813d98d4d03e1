"""The manifest or index of an image, wherever that is, and the small things below it: looked at, not moved."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from fastlayer._values import NamedTuple
from fastlayer.errors import DigestMismatchError, NotFoundError, OperandError, UsageError, show_path
from fastlayer.image.formats.archive import open_images
from fastlayer.image.formats.source import ArchivedImage
from fastlayer.image.images import Images
from fastlayer.oci import jsontext, mediatypes
from fastlayer.oci.config import MAX_CONFIG
from fastlayer.oci.descriptor import Descriptor
from fastlayer.oci.digest import digest_of
from fastlayer.oci.image_index import ImageIndex, Read, parse_document, parse_index
from fastlayer.oci.manifest import MAX_MANIFEST, Manifest
from fastlayer.oci.platform import Platform, host_platform
from fastlayer.oci.reference import Reference
from fastlayer.registry.client import Repository
from fastlayer.registry.looking import Warn, first_with, silent
from fastlayer.registry.opening import Wishes
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
        document = self.document
        if isinstance(document, Manifest):
            return document
        wanted = platform or host_platform()
        for entry in document.candidates(wanted):
            found = parse_document(entry, self.read(entry, MAX_MANIFEST))
            return (
                found
                if isinstance(found, Manifest)
                else Documents(self.name, entry, found.raw, self.read).manifest(wanted)
            )
        there = ", ".join(sorted({str(entry.platform) for entry in document.manifests if entry.platform}))
        raise NotFoundError(f"{self.name}: not for {wanted}: it is there for {there or 'nothing that is known'}")

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
    if place.transport == "docker":
        own = None if store is None or text.startswith("docker://") else index_of_store(store, text)
        return work(own) if own is not None else _in_registry(place, work, wishes, warn)
    if place.transport == "dir":
        return work(_in_directory(place))
    with open_images(place.path) as source:
        image = chosen(source.images, place).descriptor
        data = source.read(image.digest, MAX_MANIFEST)
        return work(Documents(str(place), image, data, lambda one, limit: source.read(one.digest, limit)))


def index_of_store(store: Store, text: str) -> Documents | None:
    """The index that the store has under a name, None for none."""
    try:
        target, _ = Images(store).target_of(text)
    except NotFoundError:
        return None
    if target.media_type not in mediatypes.INDEXES:
        return None
    content = store.content
    data = content.read(target.digest)
    return Documents(text, target, data, lambda one, limit: content.read(one.digest, limit))


def of_repository(there: Repository, name: Reference, shown: Reference) -> Documents:
    """The documents of an image of a registry, as long as the repository is open."""
    raw = there.manifest(name.digest or name.tag)

    def read(one: Descriptor, limit: int) -> bytes:
        if one.media_type in mediatypes.MANIFESTS or one.media_type in mediatypes.INDEXES:
            return there.manifest(one.digest).data
        return there.read_blob(one, limit)

    return Documents(shown.familiar_name, raw.descriptor, raw.data, read)


def _in_registry(place: Place, work: Callable[[Documents], T], wishes: Wishes, warn: Warn) -> T:
    reference = place.reference
    assert reference is not None
    return first_with(reference, wishes, lambda there, name: work(of_repository(there, name, reference)), warn)


def chosen(images: tuple[ArchivedImage, ...], place: Place) -> ArchivedImage:
    """The image of a layout or archive that a place names. Raises ``NotFoundError``, ``UsageError``."""
    if place.number >= 0:
        found = images[place.number : place.number + 1]
    elif place.reference or place.name:
        wanted = str(place.reference or place.name)
        found = tuple(one for one in images if wanted in one.labels or wanted in map(str, one.names))
    else:
        found = images
    if len(found) == 1:
        return found[0]
    names = sorted(name for one in images for name in (*map(str, one.names), *one.labels))
    listed = f": it has {', '.join(names[:10])}" if names else ""
    if found or not (place.reference or place.name or place.number >= 0):
        raise UsageError(f"{place}: {len(found)} images: name one, as in {place.transport}:PATH:NAME or :@N{listed}")
    raise NotFoundError(f"{place}: no such image{listed}")


def _in_directory(place: Place) -> Documents:
    """``dir:``: manifest.json, and beside it blobs by the digits of their digests (containers-transports(5))."""
    base = Path(place.path)
    data = _file(base / "manifest.json", MAX_MANIFEST)
    value = jsontext.parse_object(data, show_path(os.fspath(base / "manifest.json")), MAX_MANIFEST)
    kind = value.get("mediaType")
    if not isinstance(kind, str) or not kind:
        kind = mediatypes.INDEX if "manifests" in value else mediatypes.MANIFEST

    def read(one: Descriptor, limit: int) -> bytes:
        manifest = one.media_type in mediatypes.MANIFESTS or one.media_type in mediatypes.INDEXES
        path = base / (one.digest.encoded + (".manifest.json" if manifest else ""))
        found = _file(path, limit)
        if digest_of(found) != one.digest:
            raise DigestMismatchError(f"{show_path(os.fspath(path))}: is {digest_of(found)}: write the directory again")
        return found

    return Documents(str(place), Descriptor(kind, digest_of(data), len(data)), data, read)


def _file(path: Path, limit: int) -> bytes:
    shown = show_path(os.fspath(path))
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
        with open(fd, "rb") as file:
            data = file.read(limit + 1)
    except OSError as exc:
        raise OperandError(f"{shown}: {exc.strerror}: give a directory that skopeo or push has written") from None
    if len(data) > limit:
        raise OperandError(f"{shown}: more than {limit} bytes: no manifest or configuration")
    return data


def children(documents: Documents) -> list[Descriptor]:
    """What an index names; of a manifest nothing."""
    if documents.root.media_type not in mediatypes.INDEXES:
        return []
    return list(parse_index(documents.data, documents.root.media_type, documents.name).manifests)
