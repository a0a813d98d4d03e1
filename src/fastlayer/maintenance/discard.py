"""``--discard-blobs``: a layer that is unpacked and can be made again, byte by byte, needs no blob."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from fastlayer.image.holders import holders
from fastlayer.image.images import Images
from fastlayer.image.materialize import gives_the_same
from fastlayer.oci.digest import Digest
from fastlayer.store.layout_index import write_index

if TYPE_CHECKING:
    from fastlayer.oci.descriptor import Descriptor
    from fastlayer.store.store import Store


def discard_blobs(store: Store, targets: Iterable[Descriptor], *, jobs: int | None = None) -> list[Digest]:
    """Removes the layer blobs of images for which it has been tried that they can be made again; returns them."""
    from fastlayer.store.store import sees_true_owners

    gone: list[Digest] = []
    if not sees_true_owners():
        return gone  # who looks at the snapshots next may see other owners
    images = Images(store)
    for target in targets:
        image = images.by_target(target)
        for layer, name in zip(image.layers, image.chain, strict=True):
            if not store.content.has(layer.digest) or not holders(store, str(name)):
                continue
            if gives_the_same(store, layer, name, jobs=jobs):
                _discard(store, layer.digest)
                gone.append(layer.digest)
    return gone


def _discard(store: Store, digest: Digest) -> None:
    """The note first: a process that is killed between leaves a blob that is noted as missing, which harms nobody."""
    with store.lease(f"discard {digest}") as lease, store.database.write() as db:
        db.execute("UPDATE layers SET present = 0 WHERE digest = ?", (digest,))
        write_index(store, db, lease)
        store.content.remove(digest)
