"""An active snapshot that a step wrote to becomes a layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastlayer.image.materialize import of_snapshot
from fastlayer.image.record import name_snapshot
from fastlayer.oci.chain import chain_ids

if TYPE_CHECKING:
    from fastlayer.builder.state import State
    from fastlayer.builder.workshop import Workshop
    from fastlayer.image.images import LayerInfo
    from fastlayer.layer.writer import Layer


def freeze(shop: Workshop, state: State, key: str) -> LayerInfo | None:
    """The layer of what was written to the snapshot ``key`` on ``state``, which is committed and named by its chain id.

    None when nothing was: then the snapshot is gone. Times are clamped in the snapshot itself, which must give the same
    bytes again.
    """
    snapshotter = shop.snapshotter
    written = _digest(shop, key)
    if written is None:
        snapshotter.remove(key)
        return None
    done = f"{key}-done"
    snapshotter.commit(done, key, lease=shop.lease)
    return named(shop, state, done, written)


def named(shop: Workshop, state: State, key: str, written: Layer) -> LayerInfo:
    """The committed snapshot ``key`` on ``state`` gets its name."""
    chain = str(chain_ids([*state.diff_ids, written.diff_id])[-1])
    name_snapshot(shop.store, shop.snapshotter, shop.lease, chain, key)
    return of_snapshot(shop.store, shop.lease, written, chain, jobs=shop.options.jobs)


def _digest(shop: Workshop, key: str) -> Layer | None:
    """No tar is written: the digest of the layer is known when it has streamed by."""
    from fastlayer.image.holders import Nowhere

    epoch = shop.options.epoch
    if epoch is not None:
        _clamp(shop, key, epoch)
    with shop.snapshotter.changes(key) as changes:
        if not changes:
            return None
        return changes.write(Nowhere(), compression="none", jobs=shop.options.jobs)


def _clamp(shop: Workshop, key: str, epoch: int) -> None:
    from fastlayer.layer.clamp import clamp_times

    with shop.snapshotter.changes(key) as changes:
        late = changes.later_than(epoch)
    if late:
        number, parents = shop.snapshotter.number(key)
        with shop.snapshotter.driver.layer_target(number, parents) as target:
            clamp_times(target.path, late, epoch)
