"""A committed snapshot that is gone or damaged while others are made of it: unpacked again and put in its place."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from fastlayer.errors import FastlayerError
from fastlayer.image.images import Images
from fastlayer.image.unpack import layers_of, unpack
from fastlayer.snapshot.snapshotter import Snapshotter

if TYPE_CHECKING:
    from fastlayer.image.unpack import LayerSource
    from fastlayer.store.store import Store


def restore(store: Store, driver: str, number: int, name: str) -> bool:
    """Whether the snapshot ``name`` (a chain id), whose number was ``number``, is there again.

    From the blobs of an image that has the layer. Only of the driver in use: any other has to be asked for.
    """
    layers = _layers(store, name)
    if layers is None or store.snapshotter.driver.name != driver:
        return False
    aside = f"lost-{number}"
    _rename(store, number, aside)
    try:
        with store.lease(f"restore {name}") as lease:
            unpack(store, lease, layers)
            new = store.snapshotter.number(name)[0]
            with store.database.write() as db:
                db.execute("UPDATE snapshots SET parent = ? WHERE parent = ?", (new, number))
                Snapshotter.mark_removed(db, [number], lease.id)
            store.snapshotter.finish_removal([number])
    except FastlayerError:
        with suppress(FastlayerError):  # the name is taken: somebody else has made it
            _rename(store, number, name)
        return False
    return True


def _layers(store: Store, name: str) -> list[LayerSource] | None:
    """Those of an image up to the one that is looked for."""
    for image in Images(store).all():
        chain = [str(link) for link in image.chain]
        if name in chain:
            return layers_of(store, image)[: chain.index(name) + 1]
    return None


def _rename(store: Store, number: int, key: str) -> None:
    with store.database.write() as db:
        db.execute("UPDATE OR IGNORE snapshots SET key = ? WHERE number = ? AND state = 'ready'", (key, number))
