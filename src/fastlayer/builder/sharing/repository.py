"""``type=registry``: a cache under a tag of a repository, and image configurations that have one in them.

Of a cache that is read only the manifest and the records come at once; a layer when it is asked for. Of one that is
written nothing goes that the repository has: blobs are asked for first, and mounted from other repositories of the same
registry where these have them. New layers are compressed while they are sent.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from fastlayer.builder.repositories import find, wishes_of
from fastlayer.builder.sharing import records
from fastlayer.errors import DigestMismatchError, ManifestError, NotFoundError, RegistryMissingError
from fastlayer.layer.pipeline import map_ordered
from fastlayer.oci import mediatypes
from fastlayer.oci.descriptor import Descriptor
from fastlayer.oci.digest import digest_of
from fastlayer.oci.image_index import parse_index
from fastlayer.oci.manifest import Manifest, parse_manifest
from fastlayer.oci.platform import host_platform
from fastlayer.oci.reference import parse_reference
from fastlayer.registry.opening import destination, opened
from fastlayer.transfer import known
from fastlayer.transfer.ends.protocols import LayerOf
from fastlayer.transfer.ends.registry_destination import RegistryDestination
from fastlayer.transfer.ends.steady import steady
from fastlayer.transfer.ends.store_source import StoreSource, mounts_of, went_from
from fastlayer.transfer.ends.verified import Verified
from fastlayer.transfer.forms import MAKERS, Made, Pieces, form_of

if TYPE_CHECKING:
    from fastlayer.builder.repositories import Warn
    from fastlayer.builder.sharing.options import CacheFrom, CacheTo
    from fastlayer.builder.sharing.places import Source
    from fastlayer.image.images import LayerInfo
    from fastlayer.oci.digest import Digest
    from fastlayer.oci.platform import Platform
    from fastlayer.oci.reference import Reference
    from fastlayer.registry.client import Repository
    from fastlayer.registry.opening import Wishes
    from fastlayer.store.store import Store
    from fastlayer.transfer.forms import Form

_PIECE = 1 << 20


# ---- reading ---------------------------------------------------------------------------------------


class RepositorySource:
    """A tag or digest of a repository. Raises ``RegistryError`` when there is none at any place where it may be."""

    def __init__(self, wanted: CacheFrom, wished: Wishes | None, platform: Platform | None, warn: Warn) -> None:
        self.name = wanted.src
        self._platform = platform or host_platform()
        self._ends = ExitStack()
        wishes = wishes_of(wished, wanted.insecure)
        self.repository, self._found = find(self._ends, parse_reference(wanted.src), wishes, warn)

    def manifest(self) -> Manifest:
        found = self._found
        if found.media_type in mediatypes.INDEXES:
            candidates = parse_index(found.data, found.media_type, self.name).candidates(self._platform)
            if not candidates:
                raise NotFoundError(f"{self.name}: has no image for {self._platform}")
            found = self.repository.manifest(candidates[0].digest)
        return parse_manifest(found.data, found.media_type, self.name)

    def read(self, blob: Descriptor, limit: int) -> bytes:
        return self.repository.read_blob(blob, limit)

    def open(self, blob: Descriptor) -> Pieces:
        return Pieces(steady(self.repository, blob), self.name)

    def took(self, store: Store, layer: records.StoredLayer) -> None:
        """A push to this registry need neither compress nor send it: its blob is here."""
        blob = layer.blob
        compression = mediatypes.layer_compression(blob.media_type) if blob is not None else None
        if blob is None or compression not in ("none", "gzip", "zstd"):
            return
        form = form_of(compression, None)
        with store.database.write() as db:
            if known.form_of(db, layer.diff_id, form) is None:
                made = Made(form.media_type, blob.digest, blob.size, layer.diff_id, layer.diff_id)
                known.remember_form(db, form, made)
            known.remember(db, blob.digest, self.repository.registry, self.repository.name)

    def close(self) -> None:
        self._ends.close()


# ---- writing ---------------------------------------------------------------------------------------


@contextmanager
def written(store: Store, wanted: CacheTo, wished: Wishes | None, warn: Warn) -> Iterator[RepositoryTarget]:
    """A tag to be written."""
    wishes = wishes_of(wished, wanted.insecure)
    location = destination(parse_reference(wanted.dest), wishes)
    with opened(location, wishes, warn=warn) as repository:
        try:
            yield RepositoryTarget(store, repository, location.reference, wanted.dest)
        except BaseException:
            repository.give_up()
            raise


class RepositoryTarget:
    """See ``places.Target``. What layers came to is remembered with the store, as by a push: a push of the image takes
    them over from here, and the other way round."""

    def __init__(self, store: Store, repository: Repository, reference: Reference, name: str) -> None:
        self.name = name
        self._store = store
        self._repository = repository
        self._reference = reference
        self._sent = RegistryDestination(
            repository,
            reference.tag,
            mounts=mounts_of(store, reference.domain, reference.path),
            went=went_from(store, reference.domain, reference.path),
        )

    def known(self) -> dict[Digest, list[records.StoredLayer]]:
        """Those of the cache that has the tag now."""
        try:
            found = self._repository.manifest(self._reference.tag)
            manifest = parse_manifest(found.data, found.media_type, self.name)
            if not records.is_cache(manifest):
                return {}
            config = self._repository.read_blob(manifest.config, records.MAX_RECORDS)
            bundle = records.from_documents(manifest, config, self.name)
        except (RegistryMissingError, ManifestError, DigestMismatchError):
            return {}  # there is none, or it is no use to us
        return {layer.diff_id: [layer] for layer in bundle.layers.values()}

    def has(self, blob: Descriptor) -> bool:
        return self._repository.blob_size(blob.digest) in (blob.size, 0)  # 0: it does not say

    def put(self, data: bytes) -> None:
        if self._repository.blob_size(digest_of(data)) is None:
            self._repository.push_bytes(data)

    def copy(self, blob: Descriptor, source: Source) -> None:
        mounts = []
        if isinstance(source, RepositorySource) and _endpoint(source.repository) == _endpoint(self._repository):
            mounts = [source.repository.name] * (source.repository.name != self._repository.name)
        data = Verified(blob, lambda offset: _pieces(source, blob, offset), lambda _: None)
        self._repository.push_blob(blob.digest, blob.size, data, mounts=mounts)

    def make(
        self, layers: Sequence[tuple[LayerInfo, Digest]], wanted: CacheTo, jobs: int | None
    ) -> dict[Digest, Descriptor]:
        """Layers are compressed while they are sent, some at once."""
        form = form_of(wanted.compression or "gzip", wanted.level)
        source = StoreSource(self._store, self.name, jobs)

        def one(pair: tuple[LayerInfo, Digest]) -> Descriptor:
            info, chain = pair
            blob = Descriptor(info.media_type, info.digest, info.size)
            return self._made(source, LayerOf(blob, info.diff_id, chain), form)

        made = map_ordered(one, layers, min(MAKERS, max(1, len(layers))))
        return {info.diff_id: blob for (info, _), blob in zip(layers, made, strict=True)}

    def _made(self, source: StoreSource, layer: LayerOf, form: Form) -> Descriptor:
        there = source.known_form(layer, form)
        if there is not None and (self._sent.has(there.descriptor) or self._sent.mount(there.descriptor)):
            return there.descriptor
        write = source.writer(layer, form)
        assert write is not None  # only blobs that stay as they are have none
        made = self._sent.put_made(layer, write, lambda _: None)
        source.note_form(layer, form, made)
        return made.descriptor

    def finish(self, manifest: Manifest) -> None:
        there = self._repository.head_manifest(self._reference.tag)
        if there is None or there.digest != manifest.digest:
            self._repository.put_manifest(manifest.raw, manifest.media_type, self._reference.tag)


def _endpoint(repository: Repository) -> str:
    return repository.calls.calls.base


def _pieces(source: Source, blob: Descriptor, offset: int) -> Iterator[memoryview]:
    """The bytes of a blob from an offset on."""
    buffer = memoryview(bytearray(_PIECE))
    with source.open(blob) as stream:
        while count := stream.readinto(buffer):
            skipped, offset = min(offset, count), max(0, offset - count)
            if skipped < count:
                yield buffer[skipped:count]
