"""Layers that repeat what is below them.

COPY puts a file into its layer even when the same file is there already, as Docker does, so that the layer can go onto
another stack. Its snapshot shows no change there, and cannot give the layer's tar again: then that stays as a blob.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from fastlayer.errors import CorruptStoreError, FileChangedError

if TYPE_CHECKING:
    from fastlayer import _backend
    from fastlayer.builder.workshop import Workshop
    from fastlayer.content.ingest import Ingest
    from fastlayer.image.images import LayerInfo
    from fastlayer.layer.writer import Layer


def keep_placed(
    shop: Workshop,
    key: str,
    table: _backend.ChangeTable,
    roots: Sequence[int],
    written: Layer,
    *,
    always: bool = False,
) -> None:
    """Of a layer that was placed just now as the snapshot ``key``. ``always``: not all owners could be given to it.

    Raises ``FileChangedError`` when the files are not what they were a moment ago.
    """
    with shop.snapshotter.changes(key) as changes:
        if len(changes.table) == len(table) and not always:
            return
    from fastlayer.layer.compression import codec
    from fastlayer.layer.output import Output
    from fastlayer.layer.pipeline import default_jobs
    from fastlayer.layer.progress import Reporter
    from fastlayer.layer.writer import write_layer

    with _blob(shop, written.digest, written.size) as blob:
        again = write_layer(
            table,
            roots,
            Output(blob),
            codec("none"),
            clamp_mtime=shop.options.epoch,
            jobs=default_jobs(shop.options.jobs),
            report=Reporter(None),
        )
        if again.digest != written.digest:
            raise FileChangedError("files changed while they were copied: build again")
        blob.commit()


def keep_moved(shop: Workshop, layer: LayerInfo, made: str, here: str) -> None:
    """Of a layer of the snapshot ``made`` that lies on another stack now, as the snapshot ``here``."""
    from fastlayer.image.holders import holding

    if shop.store.content.has(layer.digest):
        return
    maker = holding(shop.store, layer.digest, made)[0]
    with maker.changes(made) as changes:
        with shop.snapshotter.changes(here) as again:
            if len(changes.table) == len(again.table):
                return
        with _blob(shop, layer.digest, layer.size) as blob:
            written = changes.write(blob, compression="none", jobs=shop.options.jobs)
            if written.digest != layer.digest:
                raise CorruptStoreError(
                    f"{layer.digest}: its snapshot gives another layer: run `fastlayer store check`"
                )
            blob.commit()


def _blob(shop: Workshop, digest: str, size: int) -> Ingest:
    with shop.store.database.write() as db:
        shop.lease.add(db, "blob", [digest])
    return shop.store.content.ingest(shop.lease.id, digest=digest, size=size, trusted=True)
