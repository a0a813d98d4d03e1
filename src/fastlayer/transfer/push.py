"""``push``: an image of the store goes to a registry, a layout, an archive or a directory."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING

from fastlayer._values import NamedTuple
from fastlayer.errors import NotFoundError, UsageError
from fastlayer.image.images import Images
from fastlayer.oci.descriptor import Descriptor
from fastlayer.oci.digest import Digest
from fastlayer.oci.image_index import parse_index
from fastlayer.oci.mediatypes import INDEXES
from fastlayer.oci.platform import Platform
from fastlayer.oci.reference import Reference, parse_reference
from fastlayer.registry.opening import Wishes
from fastlayer.registry.places import Place, parse_place
from fastlayer.transfer.ends.opening import narrowed, opened_destination
from fastlayer.transfer.ends.store_source import StoreSource, mounts_of, went_from
from fastlayer.transfer.events import Observer, silent
from fastlayer.transfer.forms import Compression, Form, form_of
from fastlayer.transfer.moving import Moved, Wanted, move
from fastlayer.transfer.rewriting import ManifestFormat, check_format

if TYPE_CHECKING:
    from fastlayer.image.images import Image
    from fastlayer.metadata.leases import Lease
    from fastlayer.store.store import Store


class PushOptions(NamedTuple):
    """How images are pushed.

    ``platform``: only that image of an index. ``compression``, ``level``: of layers that are not compressed; with
    ``force`` those that are compressed otherwise are compressed anew. ``manifest_format``: empty for that of the image;
    ``preserve_digests``: an error where the manifest would become another. ``chunk``: bytes of one request of an
    upload, 0 for all of a blob in one. ``jobs``: threads that compress.
    """

    platform: Platform | None = None
    compression: Compression = "gzip"
    level: int | None = None
    force: bool = False
    manifest_format: ManifestFormat = ""
    preserve_digests: bool = False
    chunk: int = 0
    jobs: int | None = None
    wishes: Wishes = Wishes()


DEFAULTS = PushOptions()


class Pushed(NamedTuple):
    """What was pushed. ``name``: where to, as skopeo spells it; ``descriptor``: of what the name names there.

    ``sent``: bytes of blobs; ``uploaded``, ``mounted``, ``present``: blobs that were sent, taken over from another
    repository, there already.
    """

    name: str
    descriptor: Descriptor
    sent: int
    uploaded: int
    mounted: int
    present: int
    warnings: tuple[str, ...] = ()


def push(
    store: Store,
    name: str,
    destination: str | None = None,
    options: PushOptions = DEFAULTS,
    *,
    observe: Observer = silent,
) -> Pushed:
    """Pushes the image ``name`` of the store to ``destination`` (default: where its name says).

    The image of the store stays what it is. Where layers are compressed on their way, what is pushed has a manifest of
    its own, and ``descriptor`` names that. Raises ``NotFoundError``, ``RegistryError``, ``ReferenceFormatError``,
    ``StorageError``; nothing that is not complete gets a name then.
    """
    place = _place(name, destination)
    wanted = _wanted(place, options)
    warnings: list[str] = []
    with store.lease(f"push {name}") as lease, ExitStack() as stack:
        root = _held(store, lease, name, options.platform, warnings.append)
        source = StoreSource(store, name, options.jobs)
        if place.transport == "docker-archive":  # which is for one platform
            root = narrowed(source, root, options.platform)
        target = stack.enter_context(
            opened_destination(
                place,
                options.wishes,
                warnings.append,
                chunk=options.chunk,
                mounts=partial(mounts_of, store),
                went=partial(went_from, store),
            )
        )
        moved = move(source, target, root, wanted, observe=observe)
    return summed(place, moved, warnings)


def _wanted(place: Place, options: PushOptions) -> Wanted:
    check_format(options.manifest_format)
    form: Form | None = form_of(options.compression, options.level)
    if place.transport == "docker-archive":  # has no manifest to say how its layers are compressed
        form = None
        if options.preserve_digests:
            raise UsageError(f"{place}: has no manifest, and so no digest: leave out --preserve-digests")
    if place.transport == "store":
        raise UsageError(f"{place}: is a name in the store: use `fastlayer tag`")
    return Wanted(form, options.force, options.manifest_format, options.preserve_digests)


def summed(place: Place, moved: Moved, warnings: list[str]) -> Pushed:
    """What is told of a push that is done."""
    counts = (moved.sent, moved.uploaded, moved.mounted, moved.present)
    return Pushed(str(place), moved.root, *counts, tuple(dict.fromkeys([*warnings, *moved.warnings])))


def push_all_tags(
    store: Store,
    name: str,
    destination: str | None = None,
    options: PushOptions = DEFAULTS,
    *,
    observe: Observer = silent,
    done: Callable[[Pushed], object] = lambda pushed: None,
) -> list[Pushed]:
    """Pushes every tag of the repository ``name``, each to the same tag of the repository ``destination``.

    ``done`` is told of each when it is there.
    """
    here, there = (_repository(text) for text in (name, _without_transport(destination or name)))
    found = []
    for one in _tags(store, here):
        pushed = push(store, str(one), f"docker://{there.with_tag(one.tag)}", options, observe=observe)
        done(pushed)
        found.append(pushed)
    return found


def _tags(store: Store, repository: Reference) -> list[Reference]:
    names = {text for image in Images(store).all() for text in image.names}
    found = sorted(one for one in map(parse_reference, names) if one.name == repository.name and one.tag)
    if not found:
        raise NotFoundError(f"{repository.familiar_name}: no image has this name with a tag: see `fastlayer images`")
    return found


def _repository(text: str) -> Reference:
    found = parse_reference(text)
    if found.tag or found.digest:
        raise UsageError(f"{text}: all tags are pushed of a repository: leave out the tag")
    return found


def _without_transport(text: str) -> str:
    if text.startswith("docker://"):
        return text.removeprefix("docker://")
    if text.partition(":")[0] in ("oci", "oci-archive", "docker-archive", "dir"):
        raise UsageError(f"{text}: all tags are pushed to a registry: give docker://HOST/NAME")
    return text


def _place(name: str, destination: str | None) -> Place:
    if destination is not None:
        return parse_place(destination, bare="docker")
    found = parse_place(name, bare="store")
    if found.reference is None:
        raise UsageError(f"{name}: an id does not say where to push it: give a destination, such as docker://HOST/NAME")
    if found.transport != "store":
        raise UsageError(f"{name}: is not in the store: copy it with `fastlayer copy`")
    if found.reference.digest and not found.reference.tag:
        raise UsageError(f"{name}: a digest is no name to push to: give a destination, such as docker://HOST/NAME:TAG")
    return Place("docker", reference=found.reference._replace(digest=""))


def _held(
    store: Store, lease: Lease, name: str, platform: Platform | None, warn: Callable[[str], object]
) -> Descriptor:
    """What is to be pushed, which stays in the store as long as the lease is held.

    Of an index of which one image only is here, that image.
    """
    images = Images(store)
    root, found = images.target_of(name)[0], images.platforms(name)
    if platform is not None:
        found = [images.find(name, platform)]
    elif root.media_type in INDEXES and len(found) == 1 and not _is_whole(store, root):
        warn(f"{name}: only its image for {found[0].platform} is here, so that is pushed, without the index")
        platform = found[0].platform
    hold(store, lease, (root.digest, *(image.manifest for image in found)), found)
    return root if platform is None else images.manifest(found[0]).descriptor


def _is_whole(store: Store, root: Descriptor) -> bool:
    index = parse_index(store.content.read(root.digest), root.media_type, str(root.digest))
    return all(store.content.has(child.digest) for child in index.manifests)


def hold(store: Store, lease: Lease, documents: Iterable[Digest], images: Iterable[Image]) -> None:
    """They stay in the store as long as the lease is held."""
    if store.read_only:
        return
    with store.database.write() as db:
        lease.add(db, "blob", documents)
        for image in images:
            lease.add(db, "snapshot", image.chain)
