"""``load``: images from layouts and archives come into the store, unpacked while they are read.

A blob is read once: what goes into the content store goes through ``apply`` at the same time, layers in parallel where
the driver can. Names are given when everything below them is complete, in one transaction; a load that fails or is
killed leaves finished layers, which the next one finds, and nothing that has a name.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

from fastlayer._values import NamedTuple
from fastlayer.errors import ManifestError, NotFoundError, ReferenceFormatError, show_path
from fastlayer.image.formats import oci
from fastlayer.image.formats.archive import open_images
from fastlayer.image.formats.scan import StoreSink, scan
from fastlayer.image.formats.source import Documents
from fastlayer.image.images import Images, LayerInfo, full_name, looks_like_id
from fastlayer.image.record import of_applied
from fastlayer.image.tee import Tee
from fastlayer.image.unpack import LayerSource, of_blob, unpack
from fastlayer.image.verify import is_known, is_tar, verify
from fastlayer.layer.pipeline import map_ordered
from fastlayer.layer.source import Source
from fastlayer.oci.chain import chain_ids
from fastlayer.oci.config import MAX_CONFIG, ImageConfig, check_consistent, parse_config
from fastlayer.oci.descriptor import Descriptor
from fastlayer.oci.digest import Digest
from fastlayer.oci.manifest import Manifest
from fastlayer.oci.mediatypes import is_foreign
from fastlayer.oci.platform import Platform, choose, host_platform
from fastlayer.oci.reference import is_tag
from fastlayer.store.collect import claim_blobs

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from fastlayer.image.formats.source import ArchivedImage, Blobs
    from fastlayer.layer.progress import ProgressCallback
    from fastlayer.metadata.leases import Lease
    from fastlayer.store.store import Store


class Loaded(NamedTuple):
    """An image that was loaded. ``names``: those it has got; ``unpacked``: manifests whose layers are snapshots now."""

    names: tuple[str, ...]
    target: Descriptor
    unpacked: tuple[Digest, ...]
    warnings: tuple[str, ...]


class Options(NamedTuple):
    """How images are loaded. ``unpack``: at once, for ``platform`` (this machine's), not when they are first used.

    ``repository``: for images of a layout that have a tag and no name; by default the name of its directory.
    ``nameless``: they get no names. ``only``: those of this tag, name or digest; empty: all.
    """

    unpack: bool = True
    platform: Platform | None = None
    repository: str = ""
    ignore_chown: bool = False
    jobs: int | None = None
    nameless: bool = False
    only: str = ""


DEFAULTS = Options()
_LOOKING = 4  # layers at a time, of which it is found out whether a part will do


class Arrivals(Documents, Protocol):
    """Where the blobs of images come from. ``costly``: what the store can make again is better not taken."""

    costly: bool

    def expect(self, blobs: Sequence[Descriptor]) -> None:
        """These will be taken soon, most of them in this order."""
        ...

    def in_part(self, layer: Descriptor, diff_id: Digest, chain: Digest, whole: LayerSource) -> LayerSource | None:
        """How to extract the layer ``chain`` without all of its blob; None: it has to be taken, as ``whole`` does."""
        ...

    def taking(self, blob: Descriptor, *, trusted: bool = False) -> AbstractContextManager[Any]:
        """A blob for the block, as ``fastlayer.apply`` takes it, which reads it to its end; then it is in the store.

        ``trusted``: the block verifies its digest.
        """
        ...


def load(
    store: Store, source: Any, options: Options = DEFAULTS, *, progress: ProgressCallback | None = None
) -> list[Loaded]:
    """Loads all images of ``source``: a layout directory, an archive, or a stream of one (a descriptor or file object).

    Raises ``ManifestError``, ``LayerError``, ``DigestMismatchError`` for what is wrong with it, ``StorageError``; what
    was complete before stays.
    """
    with store.lease("load") as lease:
        if not _stays(source):
            archive = scan(source, StoreSink(store.content, lease.id))
            return load_images(store, lease, Passing(store, lease, store.content), archive.images, options, progress)
        if not options.repository:
            options = options._replace(
                repository=os.path.basename(os.path.abspath(os.fsdecode(source))).partition(".")[0]
            )
        with _opened(source) as found:
            return load_images(store, lease, Passing(store, lease, found), found.images, options, progress)


def load_images(
    store: Store,
    lease: Lease,
    arrivals: Arrivals,
    images: Sequence[ArchivedImage],
    options: Options,
    progress: ProgressCallback | None = None,
) -> list[Loaded]:
    """Loads images from wherever their blobs come from; see ``load``."""
    return _Loading(store, lease, arrivals, options, progress).all(images)


def _stays(source: Any) -> bool:
    """Whether blobs can be read where they are: a directory, or a plain archive file that is not compressed."""
    from fastlayer.layer.compression import MAGIC_LENGTH, detect

    if not isinstance(source, (str, bytes, os.PathLike)):
        return False
    try:
        mode = os.stat(source).st_mode
        if not stat.S_ISREG(mode):
            return stat.S_ISDIR(mode)
        with open(source, "rb") as file:
            return detect(file.read(MAGIC_LENGTH)) == "none"
    except OSError:
        return True  # opening it says what is wrong


@contextmanager
def _opened(source: Any) -> Iterator[Any]:
    found = open_images(os.fsdecode(source))
    try:
        yield found
    finally:
        found.close()


class _Loading:
    def __init__(
        self, store: Store, lease: Lease, blobs: Arrivals, options: Options, progress: ProgressCallback | None
    ) -> None:
        self._store = store
        self._lease = lease
        self._blobs = blobs
        self._options = options
        self._progress = progress
        self._known: dict[str, LayerInfo] = {}
        self._verified: set[tuple[Digest, Digest]] = set()

    def all(self, images: Sequence[ArchivedImage]) -> list[Loaded]:
        loaded = []
        for image in filter(self._is_wanted, images):
            found = self._one(image)
            names, warnings = ([], []) if self._options.nameless else self._names(image)
            with self._store.database.write() as db:
                self._lease.add(db, "blob", [image.descriptor.digest])
            Images(self._store).put(names, found.target, self._known.values(), lease=self._lease)
            loaded.append(found._replace(names=tuple(names), warnings=(*found.warnings, *warnings)))
        return loaded

    def _is_wanted(self, image: ArchivedImage) -> bool:
        only = self._options.only
        names = {text for name in image.names for text in (str(name), name.familiar, name.tag)}
        return not only or only in {*names, *image.labels, str(image.descriptor.digest)}

    def _names(self, image: ArchivedImage) -> tuple[list[str], list[str]]:
        """Its own; a layout that knows only a tag is the repository: ``skopeo copy ... oci:app:1`` makes ``app:1``.

        With warnings for those that are neither names nor tags.
        """
        names = [str(name.with_default_tag()) for name in image.names if not looks_like_id(name)]
        bad = [name.familiar for name in image.names if looks_like_id(name)]
        bad += [label for label in image.labels if not is_tag(label)]
        if not image.names:
            for label in image.labels:
                if label not in bad:
                    names += self._tagged(label)
        return names, [f"{show_path(label)}: no image name, so none is given: use `fastlayer tag`" for label in bad]

    def _tagged(self, tag: str) -> list[str]:
        try:
            return [full_name(f"{self._options.repository}:{tag}")]
        except ReferenceFormatError:
            return []

    def _one(self, image: ArchivedImage) -> Loaded:
        nodes = oci.nodes(image.descriptor, self._blobs)
        manifests = [node.document for node in nodes if isinstance(node.document, Manifest)]
        wanted = self._wanted(manifests)
        warnings: list[str] = []
        for manifest in manifests:
            config = self._config(manifest)
            if config is not None and manifest.digest in wanted:
                warnings += self._unpack(manifest, config)
            else:
                self._keep(manifest)
            if config is not None:
                self._keep_small(manifest.config.digest, config.raw)
        for node in nodes:
            if node.document is not None:
                self._keep_small(node.descriptor.digest, node.document.raw)
        return Loaded((), image.descriptor, tuple(sorted(wanted)), tuple(warnings))

    def _wanted(self, manifests: Sequence[Manifest]) -> set[Digest]:
        """The manifests to unpack: the one for the platform; the only one, whatever it is for."""
        if not self._options.unpack:
            return set()
        images = [(config.platform, manifest.digest) for manifest in manifests if (config := self._config(manifest))]
        if len(images) == 1 and self._options.platform is None:
            return {images[0][1]}
        platform = self._options.platform or host_platform()
        found = choose(platform, images)
        if not found and self._options.platform is not None:
            there = ", ".join(sorted(str(other) for other, _ in images)) or "nothing that can run"
            raise ManifestError(f"no image for {platform}: the archive has {there}")
        return set(found[:1])

    def _config(self, manifest: Manifest) -> ImageConfig | None:
        """None for what is no image: an attestation, an artifact."""
        if not manifest.is_image:
            return None
        config = parse_config(self._blobs.read(manifest.config.digest, MAX_CONFIG), str(manifest.digest))
        check_consistent(manifest, config, str(manifest.digest))
        return config

    def _unpack(self, manifest: Manifest, config: ImageConfig) -> tuple[str, ...]:
        manifest.require_image(str(manifest.digest), foreign=True)
        digests = [layer.digest for layer in manifest.layers]
        present = claim_blobs(self._store, self._lease, digests)
        sources = self._sources(manifest, config, present)
        found = unpack(
            self._store,
            self._lease,
            sources,
            jobs=self._options.jobs,
            ignore_chown=self._options.ignore_chown,
            progress=self._progress,
        )
        for layer, diff_id, applied in zip(manifest.layers, config.diff_ids, found.layers, strict=True):
            if applied is None and not (self._blobs.costly and is_known(self._store, layer.digest, diff_id)):
                self._keep_layer(layer, diff_id)  # its snapshot was there already
            present_now = self._store.content.has(layer.digest)
            if applied is not None:
                self._known[layer.digest] = of_applied(applied, layer.media_type, present=present_now)
            else:
                self._known.setdefault(layer.digest, self._remembered(layer, diff_id, present=present_now))
        return found.warnings

    def _sources(self, manifest: Manifest, config: ImageConfig, present: set[str]) -> list[LayerSource]:
        """Of all layers. Those that are going to be extracted, and have to be taken for that, are expected."""
        names = chain_ids(config.diff_ids)
        exists = self._store.snapshotter.exists
        first = max((number + 1 for number, name in enumerate(names) if exists(str(name))), default=0)
        wholes = [
            self._source(layer, diff_id, present)
            for layer, diff_id in zip(manifest.layers, config.diff_ids, strict=True)
        ]

        def in_part(number: int) -> LayerSource | None:
            layer, whole = manifest.layers[number], wholes[number]
            if number < first or layer.digest in present:
                return None
            return self._blobs.in_part(layer, whole.diff_id, names[number], whole)

        parts = list(map_ordered(in_part, range(len(wholes)), min(len(wholes), _LOOKING)))
        self._blobs.expect(
            [
                layer
                for number, layer in enumerate(manifest.layers)
                if number >= first and layer.digest not in present and parts[number] is None
            ]
        )
        return [part or whole for part, whole in zip(parts, wholes, strict=True)]

    def _source(self, layer: Descriptor, diff_id: Digest, present: set[str]) -> LayerSource:
        if layer.digest in present:
            return of_blob(self._store, diff_id, layer.digest, layer.size)
        return LayerSource(diff_id, layer.digest, layer.size, lambda: self._blobs.taking(layer, trusted=True))

    def _remembered(self, layer: Descriptor, diff_id: Digest, *, present: bool) -> LayerInfo:
        """What is known of a layer whose snapshot was there: from another image, perhaps compressed in another way."""
        with self._store.database.read() as db:
            row = db.execute(
                "SELECT tar_size, payload FROM layers WHERE diff_id = ? ORDER BY tar_size DESC", (diff_id,)
            ).fetchone()
        tar_size, payload = (row["tar_size"], row["payload"]) if row and present else (0, layer.size)
        return LayerInfo(layer.digest, diff_id, layer.media_type, layer.size, tar_size, payload, present)

    def _keep(self, manifest: Manifest) -> None:
        """The blobs of what is not unpacked: an image for another platform, an attestation."""
        named = (manifest.config, *manifest.layers)
        present = claim_blobs(self._store, self._lease, [part.digest for part in named])
        parts = [part for part in named if part.digest in present or self._blobs.has(part.digest)]
        self._blobs.expect([part for part in parts if part.digest not in present])
        config = self._config(manifest)
        pairs = list(zip(manifest.layers, config.diff_ids, strict=True)) if config else []
        tars = [(layer, diff_id) for layer, diff_id in pairs if is_tar(layer)]
        for layer, diff_id in tars:
            if layer in parts:
                self._keep_layer(layer, diff_id)
        for part in parts:
            self._keep_blob(part)
        for layer, diff_id in tars:
            there = layer in parts and self._store.content.has(layer.digest)
            self._known.setdefault(layer.digest, self._remembered(layer, diff_id, present=there))

    def _keep_layer(self, layer: Descriptor, diff_id: Digest) -> None:
        """Keeps the blob of a layer that is not extracted, but only if it is what the configuration says."""
        if (layer.digest, diff_id) in self._verified or is_known(self._store, layer.digest, diff_id):
            self._keep_blob(layer)
        elif self._store.content.has(layer.digest):
            verify(self._store.content.path_of(layer.digest), layer.digest, diff_id, self._options.jobs)
        else:
            with self._blobs.taking(layer) as blob:
                verify(blob, layer.digest, diff_id, self._options.jobs)
        self._verified.add((layer.digest, diff_id))

    def _keep_blob(self, part: Descriptor) -> None:
        if self._store.content.has(part.digest):
            return
        with self._blobs.taking(part) as blob, Source(blob) as source:
            buffer = memoryview(bytearray(1 << 20))
            while source.readinto(buffer):
                pass

    def _keep_small(self, digest: Digest, data: bytes) -> None:
        claim_blobs(self._store, self._lease, [digest])
        self._store.content.put(data, self._lease.id, digest=digest)


class Passing:
    """The blobs of an archive or layout: each is read once and written into the store meanwhile."""

    costly = False

    def __init__(self, store: Store, lease: Lease, blobs: Blobs) -> None:
        self._store = store
        self._lease = lease
        self._blobs = blobs
        self.has, self.read = blobs.has, blobs.read

    def expect(self, blobs: Sequence[Descriptor]) -> None:
        """They are here."""

    def in_part(self, layer: Descriptor, diff_id: Digest, chain: Digest, whole: LayerSource) -> LayerSource | None:
        return None

    @contextmanager
    def taking(self, blob: Descriptor, *, trusted: bool = False) -> Iterator[Tee]:
        if not self._blobs.has(blob.digest):
            where = "the archive: it is incomplete"
            if is_foreign(blob.media_type):
                where = "the archive, but where its descriptor says: pull the image"
            raise NotFoundError(f"{blob.digest}: the layer is not in {where}")
        with (
            self._blobs.open(blob.digest) as file,
            self._store.content.ingest(self._lease.id, digest=blob.digest, size=blob.size, trusted=trusted) as written,
            Tee(file, written) as tee,
        ):
            yield tee
            written.commit()
