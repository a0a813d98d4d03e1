"""Caches that others wrote, looked into by a build: records at once, layers when somebody needs their files.

A step that such a cache knows is as good as one of the store, and its layer has no files yet. They are brought in, as a
blob of the store that was verified on the way, when a later step is done on top of it, or when the layer is part of the
result. What turns out to be missing or damaged then is ``CacheGoneError``: the build begins again without it.
"""

from __future__ import annotations

import io
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from fastlayer.builder.cache import Inputs, Step
from fastlayer.builder.sharing import records
from fastlayer.builder.sharing.records import Bundle, Record, StoredLayer
from fastlayer.errors import (
    BuildError,
    CorruptStoreError,
    DigestMismatchError,
    FastlayerError,
    LayerError,
    NotFoundError,
    RegistryError,
    StoreError,
)
from fastlayer.image.images import LayerInfo, insert_layers
from fastlayer.oci import mediatypes
from fastlayer.oci.chain import chain_ids
from fastlayer.oci.digest import Digest

if TYPE_CHECKING:
    from fastlayer.builder.sharing import places
    from fastlayer.metadata.leases import Lease
    from fastlayer.oci.descriptor import Descriptor
    from fastlayer.store.store import Store


class CacheGoneError(BuildError):
    """A layer that a cache knows cannot be had from it: the build can be done without, and begins again. ``damaged``:
    it should have been there."""

    def __init__(self, message: str, *, damaged: bool) -> None:
        super().__init__(message)
        self.damaged = damaged


class Import:
    """One cache. Used by the threads of all stages. Raises ``ManifestError`` and others when it cannot be read."""

    def __init__(self, source: places.Source) -> None:
        self.source = source
        self.bundle = _bundle(source)
        self.damaged: set[Digest] = set()
        """Blobs that are not what they should be."""
        self._by_key = {record.key: record for record in self.bundle.records}
        self._nodes: dict[bytes, bytes] | None = None
        self._lock = threading.Lock()

    def find(self, key: str) -> Step | None:
        """The step of that key."""
        record = self._by_key.get(key)
        return None if record is None else self._step(record)

    def _step(self, record: Record) -> Step:
        layer = self.info(record.layer)
        return Step(record.key, layer, _chain(record), record.created_ns, record.created_ns, record.duration_ns, True)

    def info(self, diff_id: Digest | None) -> LayerInfo | None:
        """A layer as it is in a store: a plain tar."""
        found = self.bundle.layers.get(diff_id) if diff_id is not None else None
        if found is None:
            return None
        diff_id = found.diff_id
        return LayerInfo(diff_id, diff_id, mediatypes.LAYER, found.size, found.size, found.payload, False)

    def record(self, key: str) -> Record | None:
        """What is said of a step."""
        return self._by_key.get(key)

    def same_as(self, record: Record) -> list[Record]:
        """All keys under which the same step is known."""
        mark = record.what, record.layer, record.created_ns
        return [found for found in self._by_key.values() if (found.what, found.layer, found.created_ns) == mark]

    def like(self, what: str) -> list[Inputs]:
        """The inputs of steps with the same instruction, the latest first."""
        found = [record for record in self.bundle.records if record.what == what]
        return [record.inputs for record in sorted(found, key=lambda record: -record.created_ns)]

    def node(self, digest: bytes) -> bytes | None:
        """A Merkle node; read when the first is asked for."""
        from fastlayer.builder.sharing.nodes import MAX_PACKED, unpack

        with self._lock:
            if self._nodes is None:
                blob = self.bundle.nodes
                try:
                    packed = b"" if blob is None else self.source.read(blob, MAX_PACKED)
                    self._nodes = unpack(packed, self.source.name) if packed else {}
                except FastlayerError:  # what differs is told less exactly then
                    self._nodes = {}
        return self._nodes.get(digest)

    def stored(self, diff_id: str) -> StoredLayer | None:
        """A layer whose bytes it says it has."""
        found = self.bundle.layers.get(Digest(diff_id))
        return found if found is not None and found.blob is not None else None

    def forget(self, diff_id: Digest, *, hollow: bool) -> None:
        """Steps with that layer are unknown from now on; ``hollow``: all whose layers are not with the cache, too."""

        def gone(layer: Digest | None) -> bool:
            return layer == diff_id or (hollow and layer is not None and self.stored(layer) is None)

        self._by_key = {key: record for key, record in self._by_key.items() if not gone(record.layer)}

    def bring(self, store: Store, lease: Lease, layer: StoredLayer, jobs: int | None) -> None:
        """Puts the tar of a layer into the store, as a blob that is there when all of it has been verified."""
        from fastlayer.layer.expand import Expansion
        from fastlayer.layer.limits import MAX_RATIO
        from fastlayer.layer.pipeline import default_jobs
        from fastlayer.layer.source import Source

        assert layer.blob is not None
        with (
            self.source.open(layer.blob) as file,
            store.content.ingest(lease.id, digest=layer.diff_id, size=layer.size, trusted=True) as writer,
        ):
            source = Source(file.fileno() if isinstance(file, io.FileIO) else file)
            if source.size not in (None, layer.blob.size):
                raise DigestMismatchError(f"{layer.blob.digest}: has {source.size} bytes, not {layer.blob.size}")
            expansion = Expansion(source, jobs=default_jobs(jobs), max_ratio=MAX_RATIO)
            expansion.run(writer.write)
            check_digests(layer.blob, layer.diff_id, expansion)
            writer.commit()
        with store.database.write() as db:
            info = self.info(layer.diff_id)
            assert info is not None
            insert_layers(db, [info._replace(present=True)])

    def copy_to(self, target: places.Target, layer: StoredLayer) -> None:
        """A layer's blob as it is. Raises ``NotFoundError``, also for one that is damaged."""
        assert layer.blob is not None
        try:
            target.copy(layer.blob, self.source)
        except (DigestMismatchError, CorruptStoreError) as exc:
            self.damaged.add(layer.blob.digest)
            raise NotFoundError(f"{self.source.name}: {exc}") from exc


def _bundle(source: places.Source) -> Bundle:
    """The records: of a cache, or of an image."""
    from fastlayer.builder.sharing import inline

    manifest = source.manifest()
    if records.is_cache(manifest):
        return records.from_documents(manifest, source.read(manifest.config, records.MAX_RECORDS), source.name)
    return inline.read(manifest, source)


def _chain(record: Record) -> str | None:
    """The stack with the step, where its inputs tell what is below it."""
    parent = record.inputs.get("parent")
    if record.layer is None:
        return parent
    if "parent" not in record.inputs:
        return None
    return str(chain_ids([parent, record.layer] if parent else [record.layer])[-1])


def check_digests(blob: Descriptor, diff_id: Digest, found: Any) -> None:
    """Raises ``DigestMismatchError`` unless an ``Expansion`` has seen what it should have."""
    if found.digest != blob.digest:
        raise DigestMismatchError(f"{blob.digest}: the bytes hash to {found.digest}")
    if found.diff_id != diff_id:
        raise DigestMismatchError(f"{blob.digest}: holds the layer {found.diff_id}, not {diff_id}")


class Imports:
    """All caches of a build, in the order in which they were given."""

    def __init__(self, imports: Sequence[Import] = ()) -> None:
        self.all = list(imports)

    def __bool__(self) -> bool:
        return bool(self.all)

    def find(self, key: str) -> Step | None:
        """The step of that key in the first cache that knows it."""
        return next((step for found in self.all if (step := found.find(key)) is not None), None)

    def info(self, diff_id: Digest | None) -> LayerInfo | None:
        """A layer that one of them knows."""
        return next((info for found in self.all if (info := found.info(diff_id)) is not None), None)

    @property
    def damaged(self) -> set[Digest]:
        """Blobs that were not what they should be."""
        return {digest for found in self.all for digest in found.damaged}

    def like(self, what: str) -> list[Inputs]:
        """The inputs of steps with the same instruction."""
        return [inputs for found in self.all for inputs in found.like(what)]

    def node(self, digest: bytes) -> bytes | None:
        """A Merkle node."""
        return next((data for found in self.all if (data := found.node(digest)) is not None), None)

    def bring(self, store: Store, lease: Lease, diff_id: Digest, jobs: int | None) -> None:
        """The bytes of a layer come into the store, from the first cache that gives them.

        Raises ``CacheGoneError`` when none does; then none of them knows steps with that layer any more.
        """
        failed = ""
        for found in self.all:
            layer = found.stored(diff_id)
            if layer is None or layer.blob is None or layer.blob.digest in found.damaged:
                continue
            try:
                found.bring(store, lease, layer, jobs)
                return
            except (LayerError, StoreError, RegistryError) as exc:
                failed = failed or f"{found.source.name}: {layer.blob.digest}: {exc}"
                found.damaged.add(layer.blob.digest)
        for found in self.all:
            found.forget(diff_id, hollow=not failed)
        raise CacheGoneError(failed or "its layer is not with the cache: done again", damaged=bool(failed))

    def close(self) -> None:
        """Lets go of the places."""
        for found in self.all:
            found.source.close()
