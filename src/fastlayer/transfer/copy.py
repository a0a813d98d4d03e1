"""``copy``: an image from anywhere to anywhere else; blobs pass by, and nothing is kept between.

Manifests keep their bytes, and so their digests, unless something else is asked for, or the destination knows no
manifests (``docker-archive:``). What the destination has stays; blobs are verified on their way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING

from fastlayer._values import NamedTuple
from fastlayer.errors import NotFoundError, UsageError
from fastlayer.oci import mediatypes
from fastlayer.oci.descriptor import Descriptor
from fastlayer.oci.digest import Digest
from fastlayer.oci.platform import Platform
from fastlayer.registry.opening import Wishes
from fastlayer.registry.places import Place, parse_place
from fastlayer.transfer.ends.opening import Opened, narrowed, opened_destination, opened_source
from fastlayer.transfer.ends.protocols import Destination
from fastlayer.transfer.ends.sources import BlobsSource, RegistrySource
from fastlayer.transfer.events import Observer, silent
from fastlayer.transfer.forms import Compression, form_of
from fastlayer.transfer.moving import Moved, Wanted, move
from fastlayer.transfer.rewriting import ManifestFormat, check_format

if TYPE_CHECKING:
    from fastlayer.store.store import Store

_DEEPEST = 4  # signatures of bills of materials of images
_KEEPS_REFERRERS = ("docker", "oci")


class CopyOptions(NamedTuple):
    """How an image is copied.

    ``all``: an index with all its images, else the one for ``platform`` (None: this machine's). ``compression``,
    ``level``, ``force``: as of a push; None: layers stay as they are. ``preserve_digests``: an error where they would
    not be the same. ``referrers``: what refers to the image goes with it, such as signatures. ``source``,
    ``destination``: what is wished of their registries.
    """

    all: bool = False
    platform: Platform | None = None
    compression: Compression | None = None
    level: int | None = None
    force: bool = False
    manifest_format: ManifestFormat = ""
    preserve_digests: bool = False
    referrers: bool = False
    chunk: int = 0
    jobs: int | None = None
    source: Wishes = Wishes()
    destination: Wishes = Wishes()


DEFAULTS = CopyOptions()
_DOCKERS = (mediatypes.DOCKER_MANIFEST, mediatypes.DOCKER_INDEX)


class Copied(NamedTuple):
    """What was copied. ``source``, ``name``: from where and to where, as skopeo spells them; ``descriptor``: of what is
    there now; the numbers are those of ``Pushed``; ``referrers``: of what went with it."""

    source: str
    name: str
    descriptor: Descriptor
    sent: int
    uploaded: int
    mounted: int
    present: int
    referrers: tuple[Digest, ...] = ()
    warnings: tuple[str, ...] = ()


def copy(
    source: str,
    destination: str,
    options: CopyOptions = DEFAULTS,
    *,
    store: Store | None = None,
    observe: Observer = silent,
) -> Copied:
    """Copies the image at ``source`` to ``destination``: ``docker://``, ``oci:``, ``oci-archive:``,
    ``docker-archive:``, ``dir:``, or a name in the ``store``.

    Raises ``RegistryError``, ``NotFoundError``, ``OperandError``, ``ManifestError``, ``DigestMismatchError``,
    ``StorageError``, ``UsageError``; nothing that is not complete gets a name then.
    """
    here, there = parse_place(source, bare="store"), parse_place(destination, bare="store")
    _check(here, there, options)
    return _Copy(here, there, options, store, observe).run()


def _check(here: Place, there: Place, options: CopyOptions) -> None:
    check_format(options.manifest_format)
    if options.all and options.platform is not None:
        raise UsageError("all platforms, and one of them: choose")
    if there.transport == "docker-archive" and options.all:
        raise UsageError(f"{there}: takes an image for one platform: leave out --all")
    if options.preserve_digests and there.transport == "docker-archive" and here.transport != "docker-archive":
        raise UsageError(f"{there}: has no manifest, and so no digest: leave out --preserve-digests")
    if options.referrers and there.transport not in _KEEPS_REFERRERS:
        raise UsageError(f"{there}: has no place for what refers to an image: copy to a registry or a layout")
    if options.referrers and not here.is_registry and here.transport != "oci":
        raise UsageError(f"{here}: does not tell what refers to an image: copy from a registry or a layout")
    if options.compression is None and (options.level is not None or options.force):
        raise UsageError("a level, or force, without a compression means nothing: choose gzip or zstd")


class _Copy:
    def __init__(self, here: Place, there: Place, options: CopyOptions, store: Store | None, observe: Observer) -> None:
        self._here, self._there = here, there
        self._options = options
        self._store = store
        self._observe = observe
        self._warnings: list[str] = []

    def run(self) -> Copied:
        if self._here.transport == "store":
            return self._out_of_store()
        if self._there.transport == "store":
            return self._into_store()
        options = self._options
        with ExitStack() as stack:
            found = stack.enter_context(opened_source(self._here, options.source, self._warn, options.jobs))
            root = found.root if options.all else narrowed(found.source, found.root, options.platform)
            target = stack.enter_context(
                opened_destination(
                    self._there,
                    options.destination,
                    self._warn,
                    chunk=options.chunk,
                    mounts=lambda registry, path: self._mounts(found, registry, path),
                )
            )
            moved = move(found.source, target, root, self._wanted(), observe=self._observe)
            referrers = tuple(self._referrers(found, target, moved.root)) if options.referrers else ()
        return self._copied(moved, referrers)

    def _warn(self, line: str) -> None:
        self._warnings.append(line)

    def _wanted(self) -> Wanted:
        options = self._options
        docker = self._there.transport == "docker-archive"
        compression = self._compression()
        form = None if compression is None or docker else form_of(compression, options.level)
        return Wanted(form, options.force, options.manifest_format, options.preserve_digests or options.referrers)

    def _compression(self) -> Compression | None:
        """Into a registry as a push does it, from where no manifest says how the layers are."""
        options = self._options
        if options.compression is not None or options.preserve_digests or not self._there.is_registry:
            return options.compression
        return "gzip" if self._here.transport in ("store", "docker-archive") else None

    def _mounts(self, found: Opened, registry: str, repository: str) -> Callable[[Digest], list[str]]:
        """Within one registry blobs need not move at all."""
        same = found.registry == registry and found.repository != repository
        return lambda digest: [found.repository] if same else []

    def _copied(self, moved: Moved, referrers: tuple[Digest, ...] = ()) -> Copied:
        self._warnings += moved.warnings
        if self._there.transport in ("oci", "oci-archive") and moved.root.media_type in _DOCKERS:
            self._warn(f"{self._there}: of Docker's kind, which skopeo and podman do not find in a layout: see -f oci")
        counts = (moved.sent, moved.uploaded, moved.mounted, moved.present)
        return Copied(str(self._here), str(self._there), moved.root, *counts, referrers, self._warned())

    def _warned(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(self._warnings))

    # ---- what refers to it ----------------------------------------------------------------------------------

    def _referrers(self, found: Opened, target: Destination, root: Descriptor) -> Iterator[Digest]:
        assert isinstance(found.source, RegistrySource | BlobsSource)
        todo, seen = [(digest, 0) for digest in _below(found, root)], {root.digest}
        while todo:
            subject, depth = todo.pop()
            for one in found.source.referrers(subject) if depth < _DEEPEST else ():
                if one.digest not in seen:
                    seen.add(one.digest)
                    bare = Descriptor(one.media_type, one.digest, one.size)
                    move(found.source, target, bare, Wanted(preserve=True), observe=self._observe, named=False)
                    todo.append((one.digest, depth + 1))
                    yield one.digest

    # ---- the store ------------------------------------------------------------------------------------------

    def _need_store(self) -> Store:
        if self._store is None:
            raise UsageError(f"{self._here} to {self._there}: a name without a transport needs a store")
        return self._store

    def _out_of_store(self) -> Copied:
        from fastlayer.transfer.push import PushOptions, push

        options, store = self._options, self._need_store()
        if self._there.transport == "store":
            return self._renamed(store)
        pushed = push(
            store,
            str(self._here),
            str(self._there),
            PushOptions(
                platform=self._platform_of_store(store),
                compression=self._compression() or "none",
                level=options.level,
                force=options.force,
                manifest_format=options.manifest_format,
                preserve_digests=options.preserve_digests,
                chunk=options.chunk,
                jobs=options.jobs,
                wishes=options.destination,
            ),
            observe=self._observe,
        )
        counts = (pushed.sent, pushed.uploaded, pushed.mounted, pushed.present)
        return Copied(str(self._here), pushed.name, pushed.descriptor, *counts, (), pushed.warnings)

    def _platform_of_store(self, store: Store) -> Platform | None:
        """That of the image that a name stands for here, unless all are to go."""
        from fastlayer.image.images import Images

        if self._options.all:
            return None
        return self._options.platform or Images(store).find(str(self._here)).platform

    def _renamed(self, store: Store) -> Copied:
        from fastlayer.image.images import Images

        Images(store).tag(str(self._here), str(self._there))
        target = Images(store).target_of(str(self._there))[0]
        return Copied(str(self._here), str(self._there), target, 0, 0, 0, 0)

    def _into_store(self) -> Copied:
        from fastlayer.transfer.bringing import bring

        options, store = self._options, self._need_store()
        if options.compression or options.manifest_format:
            raise UsageError(f"{self._there}: an image comes into the store as it is: leave out compression and format")
        target, received = bring(store, self._here, str(self._there), options, warn=self._warn, observe=self._observe)
        return Copied(str(self._here), str(self._there), target, received, 0, 0, 0, (), self._warned())


def _below(found: Opened, root: Descriptor) -> list[Digest]:
    """The manifests and indexes of what has been copied, all of which something may refer to."""
    from fastlayer.oci.image_index import walk

    try:
        nodes = walk(root, lambda one, limit: found.source.read(one, limit), lambda one: False)
        return [node.descriptor.digest for node in nodes if node.document is not None]
    except NotFoundError:
        return [root.digest]
