"""Blobs that were never written: made again, byte by byte, from the snapshot of their layer when someone needs them.

A layer that was committed or imported from a directory here is a plain tar; its digest was computed while it streamed
by. Its snapshot never changes, and the encoder gives the same bytes for the same tree, so the tar can wait - but for
those to whom owners look different at other times (``store.sees_true_owners``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastlayer.errors import CorruptStoreError, DigestMismatchError, FastlayerError
from fastlayer.image.holders import Nowhere, holders, holding
from fastlayer.image.images import Image, LayerInfo
from fastlayer.image.record import of_written
from fastlayer.oci.digest import Digest
from fastlayer.oci.mediatypes import layer_compression
from fastlayer.store.layout_index import write_index

if TYPE_CHECKING:
    from fastlayer.layer.writer import Layer
    from fastlayer.metadata.leases import Lease
    from fastlayer.snapshot.snapshotter import Snapshotter
    from fastlayer.store.store import Store


def materialize(store: Store, image: Image, *, jobs: int | None = None) -> list[Digest]:
    """Makes the blobs that an image has not got yet; returns their digests.

    Raises ``CorruptStoreError`` when a snapshot does not give the digest that was recorded.
    """
    made: list[Digest] = []
    if store.read_only and all(store.content.has(layer.digest) for layer in image.layers):
        return made
    with store.lease(f"materialize {image.name}") as lease:
        with store.database.write() as db:
            lease.add(db, "blob", [layer.digest for layer in image.layers])
            lease.add(db, "snapshot", image.chain)
        for layer, name in zip(image.layers, image.chain, strict=True):
            if not store.content.has(layer.digest):
                _make(store, lease, layer, name, jobs)
                made.append(layer.digest)
        with store.database.write() as db:
            db.executemany(
                "UPDATE layers SET present = 1 WHERE digest = ?", [(layer.digest,) for layer in image.layers]
            )
            write_index(store, db, lease)
    return made


def remake(store: Store, image: Image, digest: Digest, *, jobs: int | None = None) -> bool:
    """Puts a damaged blob right when it is a layer of the image whose snapshot gives it again."""
    for layer, name in zip(image.layers, image.chain, strict=True):
        if layer.digest == digest and holders(store, str(name)) and gives_the_same(store, layer, name, jobs=jobs):
            store.content.remove(digest)
            materialize(store, image, jobs=jobs)
            return True
    return False


def gives_the_same(store: Store, layer: LayerInfo, name: Digest, *, jobs: int | None = None) -> bool:
    """Whether the blob of a layer can be made again from a snapshot of it, byte by byte.

    Raises what kept a snapshot from being read, when no other gives it.
    """
    failed: FastlayerError | None = None
    for found in holding(store, layer.digest, str(name)):
        try:
            if _write(found, layer, name, Nowhere(), jobs) == layer.digest:
                return True
        except FastlayerError as exc:
            failed = exc
    if failed is not None:
        raise failed
    return False


def of_snapshot(store: Store, lease: Lease, written: Layer, name: str, *, jobs: int | None = None) -> LayerInfo:
    """The layer that was written of what the snapshot ``name`` is by now, with its blob where that cannot wait."""
    from fastlayer.store.store import sees_true_owners

    layer = of_written(written, present=store.content.has(written.digest))
    if layer.present or sees_true_owners():
        return layer
    with store.database.write() as db:
        lease.add(db, "blob", [layer.digest])
    _make(store, lease, layer, Digest(name), jobs)
    return layer._replace(present=True)


def _make(store: Store, lease: Lease, layer: LayerInfo, name: Digest, jobs: int | None) -> None:
    """From the first snapshot that gives it, where several drivers have one."""
    given, failed = "", None
    for found in holding(store, layer.digest, str(name)):
        with store.content.ingest(lease.id, digest=layer.digest, size=layer.size, trusted=True) as writer:
            try:
                given = _write(found, layer, name, writer, jobs)
            except DigestMismatchError:
                given = "a longer layer"
            except FastlayerError as exc:
                failed = failed or exc
                continue
            if given == layer.digest:
                writer.commit()
                return
    if failed is not None:
        raise failed
    raise CorruptStoreError(f"{layer.digest}: its snapshot gives {given} instead: {_advice()}")


def _advice() -> str:
    from fastlayer.store.store import sees_true_owners

    here = "run `fastlayer store check`"
    return here if sees_true_owners() else f"{here}, or try it where the image was made (in `unshare -Urm`, or outside)"


def _write(snapshotter: Snapshotter, layer: LayerInfo, name: Digest, out: Any, jobs: int | None) -> Digest:
    with snapshotter.changes(str(name)) as changes:
        return changes.write(out, compression=layer_compression(layer.media_type), jobs=jobs).digest
