"""The ends of a transfer by what people call them: skopeo's transports, and the store."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from fastlayer._values import NamedTuple
from fastlayer.errors import NotFoundError, RegistryError, UsageError
from fastlayer.image.formats.archive import open_images
from fastlayer.image.formats.source import ArchivedImage, Blobs
from fastlayer.image.verify import verify
from fastlayer.oci import jsontext, mediatypes
from fastlayer.oci.config import MAX_CONFIG, parse_config
from fastlayer.oci.descriptor import Descriptor
from fastlayer.oci.digest import Digest, digest_of
from fastlayer.oci.image_index import way_to
from fastlayer.oci.manifest import MAX_MANIFEST, parse_manifest
from fastlayer.oci.platform import Platform, host_platform
from fastlayer.registry.http import Budget
from fastlayer.registry.opening import Wishes, opened, sources
from fastlayer.registry.opening import destination as location_of
from fastlayer.registry.places import Place
from fastlayer.transfer.ends.protocols import Source
from fastlayer.transfer.ends.registry_destination import RegistryDestination, nowhere
from fastlayer.transfer.ends.sources import BlobsSource, RegistrySource

if TYPE_CHECKING:
    from fastlayer.transfer.ends.protocols import Destination

CONNECTIONS = 8  # to a registry, at the same time
_MOST_NAMES = 10  # of an archive, in a message

Warn = Callable[[str], object]
Mounts = Callable[[Digest], Iterable[str]]


class Opened(NamedTuple):
    """A source. ``root``: what the name names there; ``blobs``: of what is on this machine; ``registry``,
    ``repository``: of what is not."""

    source: Source
    root: Descriptor
    blobs: Blobs | None = None
    registry: str = ""
    repository: str = ""


# ---- sources -------------------------------------------------------------------------------------------------


@contextmanager
def opened_source(place: Place, wishes: Wishes, warn: Warn, jobs: int | None = None) -> Iterator[Opened]:
    """Whatever is at a place outside of the store, for the block.

    Raises ``NotFoundError``, ``RegistryError``, ``OperandError``, ``ManifestError``.
    """
    with ExitStack() as stack:
        if place.is_registry:
            yield _in_registry(stack, place, wishes, warn, jobs)
        elif place.transport == "dir":
            yield _in_directory(place, jobs)
        else:
            yield _in_archive(stack, place, jobs)


def _in_registry(stack: ExitStack, place: Place, wishes: Wishes, warn: Warn, jobs: int | None) -> Opened:
    """Of the first mirror that has it, or the registry itself."""
    assert place.reference is not None
    error: RegistryError | None = None
    for location in sources(place.reference, wishes):
        reference = location.reference
        with ExitStack() as inner:
            try:
                repository = inner.enter_context(opened(location, wishes, budget=Budget(CONNECTIONS), warn=warn))
                root = repository.manifest(reference.digest or reference.tag)
            except RegistryError as exc:
                error = exc
                continue
            stack.enter_context(inner.pop_all())
        found = RegistrySource(repository, str(place), root, jobs)
        return Opened(found, root.descriptor, registry=reference.domain, repository=reference.path)
    raise error or RegistryError(f"{place}: no place is set up for its registry: see registries.conf")


def _in_directory(place: Place, jobs: int | None) -> Opened:
    from fastlayer.transfer.ends.directory import DirectoryBlobs

    blobs = DirectoryBlobs(place.path)
    data = blobs.root()
    value = jsontext.parse_object(data, str(place), MAX_MANIFEST)
    media_type = value.get("mediaType") or (mediatypes.INDEX if "manifests" in value else mediatypes.MANIFEST)
    root = Descriptor(str(media_type), digest_of(data), len(data))
    found = _Rooted(blobs, root, data)
    return Opened(BlobsSource(found, str(place), jobs=jobs), root, found)


class _Rooted:
    """The files of a directory, and manifest.json by its digest."""

    def __init__(self, blobs: Any, root: Descriptor, data: bytes) -> None:
        self.size, self.open = blobs.size, blobs.open
        self._blobs, self._root, self._data = blobs, root, data

    def has(self, digest: str) -> bool:
        return digest == self._root.digest or bool(self._blobs.has(digest))

    def read(self, digest: str, limit: int = MAX_MANIFEST) -> bytes:
        if digest == self._root.digest:
            return self._data
        found: bytes = self._blobs.read(digest, limit)
        return found


def _in_archive(stack: ExitStack, place: Place, jobs: int | None) -> Opened:
    images = stack.enter_context(open_images(place.path))
    image = chosen(images.images, place)
    if images.format == "docker-archive":
        _check_layers(images, image.descriptor, jobs)
    entries = tuple(one.descriptor for one in images.images)
    return Opened(BlobsSource(images, str(place), entries, jobs), image.descriptor, images)


def _check_layers(blobs: Blobs, root: Descriptor, jobs: int | None) -> None:
    """A docker-archive has no digests of compressed layers: only what they expand to has one, in the configuration."""
    manifest = parse_manifest(blobs.read(root.digest, MAX_MANIFEST), root.media_type)
    config = parse_config(blobs.read(manifest.config.digest, MAX_CONFIG))
    for layer, diff_id in zip(manifest.layers, config.diff_ids, strict=True):
        if mediatypes.layer_compression(layer.media_type) != "none":
            with blobs.open(layer.digest) as file:
                verify(file, layer.digest, diff_id, jobs)


def chosen(images: tuple[ArchivedImage, ...], place: Place) -> ArchivedImage:
    """The image of a layout or archive that a place names. Raises ``NotFoundError``, ``UsageError``."""
    wanted = str(place.reference or place.name)
    if place.number >= 0:
        found = images[place.number : place.number + 1]
    elif wanted:
        found = tuple(one for one in images if wanted in names_of(one))
    else:
        found = images
    if len(found) == 1:
        return found[0]
    names = sorted({name for one in images for name in names_of(one)})
    listed = f": there are {', '.join(names[:_MOST_NAMES])}" if names else ""
    if wanted or place.number >= 0:
        raise NotFoundError(f"{place}: {'several images' if found else 'no image'} of that name{listed}")
    raise UsageError(f"{place}: has {len(images)} images: say which one, by its name or as :@NUMBER{listed}")


def names_of(image: ArchivedImage) -> set[str]:
    """What an image may be called: names in full and as people write them, labels."""
    return {text for name in image.names for text in (str(name), name.familiar)} | set(image.labels)


def narrowed(source: Source, root: Descriptor, platform: Platform | None) -> Descriptor:
    """The manifest for a platform, this machine's by default, of an index; what is no index as it is.

    Raises ``NotFoundError`` where there is none for it.
    """
    way = way_to(platform or host_platform(), root, lambda one: source.read(one, MAX_MANIFEST), source.name)
    return way[-1]._replace(annotations={}, platform=None, extra={}) if way else root


# ---- destinations --------------------------------------------------------------------------------------------


@contextmanager
def opened_destination(
    place: Place,
    wishes: Wishes,
    warn: Warn,
    *,
    chunk: int = 0,
    mounts: Callable[[str, str], Mounts] = lambda registry, repository: nowhere,
    went: Callable[[str, str], Callable[[Digest], object]] = lambda registry, repository: lambda digest: None,
) -> Iterator[Destination]:
    """A place outside of the store to write to, for the block.

    ``mounts``: for a registry and a repository of it, from where else blobs can be taken; ``went``: likewise, what
    is told of each layer that is there now.
    """
    if not place.is_registry:
        with _opened_file(place) as found:
            yield found
        return
    assert place.reference is not None
    location = location_of(place.reference, wishes)
    registry, path = location.reference.domain, location.reference.path
    with opened(location, wishes, budget=Budget(CONNECTIONS), warn=warn) as repository:
        yield RegistryDestination(
            repository,
            location.reference.digest or location.reference.tag,
            chunk=chunk,
            mounts=mounts(registry, path),
            went=went(registry, path),
        )


@contextmanager
def _opened_file(place: Place) -> Iterator[Destination]:
    from fastlayer.transfer.ends.archive_destination import opened_docker_archive, opened_oci_archive
    from fastlayer.transfer.ends.directory import opened_directory
    from fastlayer.transfer.ends.layout_destination import opened_layout

    if place.number >= 0:
        raise UsageError(f"{place}: a number says which image is read: give a name for one that is written")
    with ExitStack() as stack:
        if place.transport == "oci":
            yield stack.enter_context(opened_layout(place.path, place.name))
        elif place.transport == "oci-archive":
            yield stack.enter_context(opened_oci_archive(place.path, place.name))
        elif place.transport == "docker-archive":
            yield stack.enter_context(opened_docker_archive(place.path, place.reference))
        else:
            yield stack.enter_context(opened_directory(place.path))
