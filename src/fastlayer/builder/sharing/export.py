"""Writing the steps of a build, and the layers they came to, for other stores: ``--cache-to``."""

from __future__ import annotations

import json
from collections.abc import Container, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from fastlayer._values import NamedTuple
from fastlayer.builder.sharing import nodes, records
from fastlayer.builder.sharing.records import Bundle, Record, StoredLayer
from fastlayer.errors import NotFoundError
from fastlayer.image.holders import holders
from fastlayer.image.images import LayerInfo, layer_of
from fastlayer.layer.pipeline import map_ordered
from fastlayer.oci.descriptor import Descriptor
from fastlayer.oci.digest import Digest, digest_of
from fastlayer.oci.mediatypes import layer_compression

if TYPE_CHECKING:
    import sqlite3

    from fastlayer.builder.progress import Work
    from fastlayer.builder.sharing.options import CacheTo
    from fastlayer.builder.sharing.places import Target
    from fastlayer.builder.workshop import Workshop

_BATCH = 500  # keys in one question
_ASKED = 8  # layers that the target is asked for at once


class Made(NamedTuple):
    """A layer of a step: ``name``: of the snapshot that ends with it, None where only another cache has it."""

    info: LayerInfo
    name: str | None


class Gathered(NamedTuple):
    """``layers``: by diff id; ``results``: those that the result of the build is made of."""

    records: tuple[Record, ...]
    layers: Mapping[Digest, Made]
    results: frozenset[Digest]


def export(shop: Workshop, wanted: CacheTo, results: Iterable[Digest]) -> None:
    """Writes one ``--cache-to``: what is there is not written again. ``results``: the layers of the result.

    Raises ``OperandError``, ``StorageError``, ``CorruptStoreError``, ``RegistryError``.
    """
    with shop.journal.vertex(f"exporting cache to {wanted}") as work:
        found = gather(shop, frozenset(results))
        with _target(shop, wanted) as target:
            _Export(shop, wanted, target, work).write(found)


def _target(shop: Workshop, wanted: CacheTo) -> AbstractContextManager[Target]:
    if wanted.kind == "local":
        from fastlayer.builder.sharing import layout

        return layout.written(shop.store, wanted)
    from fastlayer.builder.sharing import repository

    return repository.written(shop.store, wanted, shop.options.wishes, shop.late.append)


# ---- what there is to be written -------------------------------------------------------------------


def gather(shop: Workshop, results: frozenset[Digest]) -> Gathered:
    """All steps of a build, under every key by which they are known."""
    keys = dict.fromkeys(step.key for step in (*(step for step, _ in shop.steps), *shop.used))
    found: dict[str, Record] = {}
    layers: dict[Digest, Made] = {}
    with shop.store.database.read() as db:
        for row in _rows(db, list(keys)):
            record = _of_row(db, row, layers)
            if record is not None:
                found[record.key] = record
    for record in _taken(shop, found.keys()):
        found[record.key] = record
        info = shop.imports.info(record.layer)
        if record.layer is not None and info is not None:
            layers.setdefault(record.layer, Made(info, None))
    kept = [record for each in found.values() if (record := records.presentable(each)) is not None]
    return Gathered(tuple(kept), layers, results)


def _rows(db: sqlite3.Connection, keys: Sequence[str]) -> Iterable[sqlite3.Row]:
    """The steps of these keys, and what the same steps are known by on any base."""
    for start in range(0, len(keys), _BATCH):
        some = keys[start : start + _BATCH]
        marks = ",".join("?" * len(some))
        yield from db.execute(f"SELECT * FROM build_steps WHERE key IN ({marks})", some).fetchall()
        yield from db.execute(
            "SELECT other.* FROM build_steps AS own JOIN build_steps AS other"
            " ON other.what = own.what AND other.layer IS own.layer AND other.created_ns = own.created_ns"
            f" WHERE own.key IN ({marks}) AND other.key != own.key"
            " AND (other.chain IS own.chain OR other.inputs LIKE '%\"facts\":%')",
            some,
        ).fetchall()


def _of_row(db: sqlite3.Connection, row: sqlite3.Row, layers: dict[Digest, Made]) -> Record | None:
    """None for a step whose layer is not one of ours: a plain tar."""
    info = layer_of(db, row["layer"]) if row["layer"] else None
    if row["layer"]:
        if info is None or info.digest != info.diff_id:
            return None
        layers.setdefault(info.diff_id, Made(info, row["chain"]))
    inputs = json.loads(row["inputs"])
    diff_id = info.diff_id if info is not None else None
    return Record(row["key"], row["what"], inputs, diff_id, row["created_ns"], row["duration_ns"])


def _taken(shop: Workshop, known: Container[str]) -> Iterable[Record]:
    """Steps of other caches that this store does not remember, under every key that those know."""
    for step, what, inputs in shop.taken:
        if step.key in known:
            continue
        diff_id = step.layer.diff_id if step.layer is not None else None
        yield Record(step.key, what, inputs, diff_id, step.created_ns, step.duration_ns)
        for found in shop.imports.all:
            record = found.record(step.key)
            yield from found.same_as(record) if record is not None else ()


# ---- writing ---------------------------------------------------------------------------------------


class _Export:
    def __init__(self, shop: Workshop, wanted: CacheTo, target: Target, work: Work) -> None:
        self._shop = shop
        self._wanted = wanted
        self._target = target
        self._work = work

    def write(self, found: Gathered) -> None:
        """Blobs first, the name last: whoever reads meanwhile sees the old cache, or the new one."""
        blobs = self._blobs(found)
        layers = {
            diff_id: StoredLayer(diff_id, made.info.tar_size or made.info.size, made.info.payload, blobs.get(diff_id))
            for diff_id, made in found.layers.items()
        }
        bundle = Bundle(found.records, layers, self._nodes(found.records))
        config, manifest = records.to_documents(bundle)
        self._target.put(config)
        self._target.finish(manifest)
        self._work.note(f"{len(bundle.records)} records, {len(blobs)} layers: {manifest.digest}")

    def _blobs(self, found: Gathered) -> dict[Digest, Descriptor]:
        """The layers that belong there, as blobs that are there now."""
        chosen = [diff_id for diff_id in found.layers if self._wanted.mode == "max" or diff_id in found.results]
        known = self._target.known()
        layers = [(found.layers[diff_id], known.get(diff_id, ())) for diff_id in sorted(chosen)]
        there = list(map_ordered(lambda layer: self._there(*layer), layers, min(_ASKED, max(1, len(layers)))))
        blobs: dict[Digest, Descriptor] = {}
        own: list[tuple[LayerInfo, Digest]] = []
        for (made, _), blob in zip(layers, there, strict=True):
            if blob is not None:
                blobs[made.info.diff_id] = blob
            elif self._is_here(made):
                own.append((made.info, Digest(made.name or made.info.diff_id)))
        for info, _ in own:
            self._work.note(f"writing layer {info.diff_id}")
        blobs.update(self._target.make(own, self._wanted, self._shop.options.jobs))
        return blobs

    def _there(self, made: Made, known: Iterable[StoredLayer]) -> Descriptor | None:
        """A blob of the layer that is in the target, or has been copied there now; None: it has to be made."""
        return self._usable(known) or self._copied(made.info.diff_id, other=not self._is_here(made))

    def _usable(self, known: Iterable[StoredLayer]) -> Descriptor | None:
        """A blob that is there and will do."""
        for layer in known:
            if layer.blob is None or layer.blob.digest in self._shop.imports.damaged:
                continue
            same = self._wanted.compression in (None, layer_compression(layer.blob.media_type))
            if (same or not self._wanted.force) and self._target.has(layer.blob):
                return layer.blob
        return None

    def _is_here(self, made: Made) -> bool:
        """Whether this store can give the layer."""
        store = self._shop.store
        return store.content.has(made.info.digest) or (made.name is not None and bool(holders(store, made.name)))

    def _copied(self, diff_id: Digest, *, other: bool) -> Descriptor | None:
        """A layer as another cache has it, which costs less than to compress it; None when it cannot be had from one.

        ``other``: also compressed otherwise than was asked for.
        """
        for found in self._shop.imports.all:
            layer = found.stored(diff_id)
            if layer is None or layer.blob is None or layer.blob.digest in found.damaged:
                continue
            if not other and self._wanted.compression not in (None, layer_compression(layer.blob.media_type)):
                continue
            try:
                self._work.note(f"copying layer {diff_id}")
                found.copy_to(self._target, layer)
            except NotFoundError:
                continue
            return layer.blob
        return None

    def _nodes(self, kept: Iterable[Record]) -> Descriptor | None:
        """Those that name the first difference in what was copied."""
        from fastlayer.builder.context.merkle import either, nodes_of

        with self._shop.store.database.read() as db:
            roots = nodes.roots_of(record.inputs for record in kept)
            found = nodes.below(roots, either(nodes_of(db), self._shop.imports.node))
        packed = nodes.pack(found)
        if packed is None:
            return None
        self._target.put(packed)
        return Descriptor(records.NODES, digest_of(packed), len(packed))
