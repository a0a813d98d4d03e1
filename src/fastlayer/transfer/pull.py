"""``pull``: an image of a registry comes into the store, unpacked while it arrives.

The places that are set up for its registry are tried in order, mirrors first, until one gives the right bytes. What has
come of a layer stays when something fails or somebody kills us (``pulling/kept.py``), so the next try, here or in
another process, goes on from there. Bytes that were left over and turn out to be something else are fetched once more.
Names are given when everything below them is complete and verified.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import closing
from typing import TYPE_CHECKING

from fastlayer._values import NamedTuple
from fastlayer.errors import (
    DigestMismatchError,
    LayerError,
    LayerFormatError,
    NotFoundError,
    RegistryError,
    UsageError,
)
from fastlayer.image.formats.source import ArchivedImage
from fastlayer.image.images import Image, Images
from fastlayer.image.load import Options as LoadOptions
from fastlayer.image.load import load_images
from fastlayer.image.unpack import ensure_unpacked
from fastlayer.oci.descriptor import Descriptor
from fastlayer.oci.digest import Digest
from fastlayer.oci.image_index import way_to
from fastlayer.oci.platform import Platform, host_platform
from fastlayer.oci.reference import Reference
from fastlayer.registry.http import Budget
from fastlayer.registry.looking import bounded
from fastlayer.registry.opening import Wishes, opened, pause_of, sources
from fastlayer.registry.places import Place, parse_place
from fastlayer.transfer import known
from fastlayer.transfer.ends.opening import CONNECTIONS
from fastlayer.transfer.events import Observer, silent
from fastlayer.transfer.policies import Policy, parse_policy
from fastlayer.transfer.pulling.downloads import Downloads
from fastlayer.transfer.pulling.remote import Remote

if TYPE_CHECKING:
    from fastlayer.registry.client import Repository
    from fastlayer.registry.manifests import RawManifest
    from fastlayer.registry.settings import Location
    from fastlayer.store.store import Store


class PullOptions(NamedTuple):
    """How an image is pulled.

    ``platform``: which of several (None: this machine's); ``all_platforms``: all of them, that one being unpacked.
    ``unpack``: at once, not when it is first used. ``policy``: see ``policies``.
    ``connections``: at most so many at once. ``whole``: all of every blob, also of layers of which a part would do.
    """

    platform: Platform | None = None
    all_platforms: bool = False
    unpack: bool = True
    policy: Policy = "always"
    ignore_chown: bool = False
    jobs: int | None = None
    connections: int = CONNECTIONS
    whole: bool = False
    wishes: Wishes = Wishes()


DEFAULTS = PullOptions()


class Pulled(NamedTuple):
    """An image that is in the store now. ``name``: in full; ``target``: the manifest or index that it names.

    ``unpacked``: manifests whose layers are snapshots now; ``received``: bytes of layers that came over the wire;
    ``changed``: whether the name was given anew; ``source``: where it came from, empty if nothing was asked for.
    """

    name: str
    target: Descriptor
    unpacked: tuple[Digest, ...] = ()
    warnings: tuple[str, ...] = ()
    received: int = 0
    changed: bool = False
    source: str = ""


def pull(store: Store, reference: str, options: PullOptions = DEFAULTS, *, observe: Observer = silent) -> Pulled:
    """Pulls ``[docker://]NAME[:TAG][@DIGEST]`` into the store.

    Raises ``ReferenceFormatError``; ``RegistryError`` of the last place that was tried; ``NotFoundError`` with the
    policy ``never``; ``ManifestError``, ``LayerError``, ``DigestMismatchError`` for what is wrong with the image;
    ``StorageError``. What was complete before stays.
    """
    wanted = _named(reference)
    parse_policy(options.policy, "policy")
    if options.connections < 1:
        raise UsageError(f"connections={options.connections}: give at least 1")
    there = _in_store(store, wanted, options)
    if there is not None and options.policy in ("missing", "never"):
        return Pulled(str(wanted), there.target)
    if options.policy == "never":
        raise NotFoundError(f"{wanted.familiar}: no such image in the store, and it may not be pulled (--policy never)")
    try:
        return _from_anywhere(store, wanted, there, options, observe)
    except RegistryError as exc:
        if there is None or options.policy != "newer":
            raise
        return Pulled(str(wanted), there.target, warnings=(f"{exc}; the image that is here is used",))


def tagged(text: str, options: PullOptions = DEFAULTS) -> list[str]:
    """The names of all images of a repository, in order. Raises ``RegistryError``, ``UsageError`` for a tag."""
    place = parse_place(text)
    if place.reference is None or place.reference.digest or text.removeprefix("docker://").endswith(_suffix(place)):
        raise UsageError(f"{text}: all tags are wanted: give the name without one")
    error: RegistryError | None = None
    for location in sources(place.reference, options.wishes):
        try:
            with opened(location, options.wishes) as repository:
                return [
                    str(place.reference.with_tag(tag)) for tag in sorted(bounded(repository.tags(), 0, location.host))
                ]
        except RegistryError as exc:
            error = exc
    raise error or RegistryError(f"{text}: no place is set up for its registry: see registries.conf")


def _suffix(place: Place) -> str:
    return f":{place.reference.tag}" if place.reference is not None and place.reference.tag else "\0"


def _named(text: str) -> Reference:
    """What is pulled is called by its tag or, if there is one, by its digest."""
    place: Place = parse_place(text)
    if place.reference is None or not place.is_registry:
        raise UsageError(f"{text}: is no image of a registry: bring it in with `fastlayer copy {text} NAME`")
    found = place.reference.with_default_tag()
    return found._replace(tag="") if found.digest else found


def _in_store(store: Store, wanted: Reference, options: PullOptions) -> Image | None:
    """What has the name now, if that is complete."""
    images = Images(store)
    try:
        found = images.find(str(wanted), options.platform)
        if options.all_platforms and not _has_all(store, found.target):
            return None
        return found
    except NotFoundError:
        return None


def _has_all(store: Store, target: Descriptor) -> bool:
    from fastlayer.oci.image_index import walk

    has = store.content.has
    nodes = walk(target, lambda d, limit: store.content.read(d.digest, limit), lambda d: not has(d.digest))
    return all(node.document is not None for node in nodes)


def _has_blobs(store: Store, image: Image) -> bool:
    return all(store.content.has(layer.digest) for layer in image.layers)


def _from_anywhere(
    store: Store, wanted: Reference, there: Image | None, options: PullOptions, observe: Observer
) -> Pulled:
    error: RegistryError | LayerError | None = None
    warnings: list[str] = []
    for location in sources(wanted, options.wishes):
        if error is not None:
            warnings.append(f"{error}; trying {location.host}")
        try:
            found = _Pull(store, wanted, location, options, observe).run(there)
        except (RegistryError, DigestMismatchError, LayerFormatError) as exc:  # a mirror may have something else
            error = exc
            continue
        return found._replace(warnings=(*warnings, *found.warnings))
    raise error or RegistryError(f"{wanted.familiar}: no place is set up for its registry: see registries.conf")


class _SpoiltError(Exception):
    """What was left over from before is something else, and has been thrown away."""


class _Pull:
    """From one place."""

    def __init__(
        self, store: Store, wanted: Reference, location: Location, options: PullOptions, observe: Observer
    ) -> None:
        self._store = store
        self._wanted = wanted
        self._location = location
        self._options = options
        self._observe = observe
        self._warnings: list[str] = []

    def run(self, there: Image | None) -> Pulled:
        """Once more where bytes that were left over were the reason why it failed."""
        try:
            return self._once(there)
        except _SpoiltError:
            return self._once(there, again=True)

    def _once(self, there: Image | None, *, again: bool = False) -> Pulled:
        wishes = self._options.wishes
        budget = Budget(self._options.connections + 1)  # one for manifests
        with opened(self._location, wishes, budget=budget, warn=self._warnings.append) as repository:
            lacks = self._options.whole and there is not None and not _has_blobs(self._store, there)
            if there is not None and not lacks and self._is_current(repository, there):
                self._warnings += self._unpacked(there)
                return self._result(there.target)
            name = self._location.reference.digest or self._location.reference.tag
            root = repository.manifest(name)
            wanted = None if self._options.all_platforms else self._choose(repository, root)
            return self._take(repository, root, wanted, again=again)

    def _is_current(self, repository: Repository, there: Image) -> bool:
        """Asked by HEAD, which registries that count pulls do not count."""
        name = self._location.reference.digest or self._location.reference.tag
        found = repository.head_manifest(name)
        return found is not None and found.digest == there.target.digest

    def _unpacked(self, there: Image) -> Iterable[str]:
        if not self._options.unpack:
            return ()
        return ensure_unpacked(self._store, there, ignore_chown=self._options.ignore_chown)

    def _choose(self, repository: Repository, root: RawManifest) -> set[Digest] | None:
        """The manifests below an index that lead to the image for the platform; None: it is no index."""

        def read(one: Descriptor) -> bytes:
            return root.data if one is root.descriptor else repository.manifest(str(one.digest)).data

        platform = self._options.platform or host_platform()
        return {one.digest for one in way_to(platform, root.descriptor, read, self._wanted.familiar)} or None

    def _take(self, repository: Repository, root: RawManifest, wanted: set[Digest] | None, *, again: bool) -> Pulled:
        options = self._options
        loading = LoadOptions(options.unpack, options.platform, ignore_chown=options.ignore_chown, jobs=options.jobs)
        pause = pause_of(options.wishes.policy)
        with (
            self._store.lease(f"pull {self._wanted.familiar}") as lease,
            Downloads(repository, connections=options.connections, pause=pause, observe=self._observe) as downloads,
            closing(Remote(self._store, lease, repository, downloads, root, wanted, whole=options.whole)) as remote,
        ):
            image = ArchivedImage((self._wanted,), root.descriptor)
            try:
                (loaded,) = load_images(self._store, lease, remote, [image], loading)
            except (DigestMismatchError, LayerFormatError) as exc:
                if again or not remote.resumed:
                    raise
                raise _SpoiltError from exc
            self._warnings += (*remote.warnings, *loaded.warnings)
            there = self._location.reference
            known.remember_all(self._store, remote.layers, there.domain, there.path)
            received = downloads.received + remote.received
            return self._result(loaded.target, loaded.unpacked, received, changed=True)

    def _result(
        self, target: Descriptor, unpacked: tuple[Digest, ...] = (), received: int = 0, *, changed: bool = False
    ) -> Pulled:
        warnings = tuple(dict.fromkeys(self._warnings))
        return Pulled(str(self._wanted), target, unpacked, warnings, received, changed, self._location.host)
