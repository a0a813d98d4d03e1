"""An image from anywhere into the store, under a name of one's own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from fastlayer.errors import NotFoundError, UsageError
from fastlayer.image.formats.source import ArchivedImage
from fastlayer.image.images import Images, full_name
from fastlayer.image.load import Options, Passing, load_images
from fastlayer.oci.descriptor import Descriptor
from fastlayer.oci.platform import Platform
from fastlayer.oci.reference import parse_reference
from fastlayer.registry.opening import Wishes
from fastlayer.registry.places import Place
from fastlayer.transfer.ends.opening import Warn, narrowed, opened_source
from fastlayer.transfer.events import Observer
from fastlayer.transfer.pull import PullOptions, pull

if TYPE_CHECKING:
    from fastlayer.store.store import Store


class Bringing(Protocol):
    """What of ``CopyOptions`` concerns it."""

    @property
    def all(self) -> bool: ...
    @property
    def platform(self) -> Platform | None: ...
    @property
    def jobs(self) -> int | None: ...
    @property
    def source(self) -> Wishes: ...


def bring(
    store: Store, place: Place, name: str, options: Bringing, *, warn: Warn, observe: Observer
) -> tuple[Descriptor, int]:
    """Gives ``name`` to the image at a place, which comes into the store; what it names, and the bytes that came."""
    full = full_name(name)
    if place.is_registry:
        return _pulled(store, place, full, options, warn, observe)
    with opened_source(place, options.source, warn, options.jobs) as found, store.lease(f"copy {full}") as lease:
        if found.blobs is None:
            raise UsageError(f"{place}: cannot be read here")
        root = found.root if options.all else narrowed(found.source, found.root, options.platform)
        image = ArchivedImage((parse_reference(full),), root)
        wanted = Options(platform=options.platform, jobs=options.jobs)
        (loaded,) = load_images(store, lease, Passing(store, lease, found.blobs), [image], wanted)
    for line in loaded.warnings:
        warn(line)
    return loaded.target, 0


def _pulled(
    store: Store, place: Place, full: str, options: Bringing, warn: Warn, observe: Observer
) -> tuple[Descriptor, int]:
    images = Images(store)
    wanted = PullOptions(options.platform, options.all, jobs=options.jobs, wishes=options.source)
    before = _target(images, str(place.reference))
    found = pull(store, str(place), wanted, observe=observe)
    for line in found.warnings:
        warn(line)
    if found.name != full:
        images.tag(found.name, full)
        if before is None:
            images.untag(found.name)
    return found.target, found.received


def _target(images: Images, name: str) -> Descriptor | None:
    try:
        return images.target_of(name)[0]
    except NotFoundError:
        return None
