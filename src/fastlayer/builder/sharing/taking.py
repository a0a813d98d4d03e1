"""What a build takes from other caches into its store: layers when they are needed, and at the end its steps."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from fastlayer.builder.cache import Inputs, Step
from fastlayer.builder.context.waiting import beside
from fastlayer.image.holders import holders
from fastlayer.image.images import LayerInfo, layer_of
from fastlayer.layer.pipeline import default_jobs, map_ordered
from fastlayer.oci.chain import chain_ids

if TYPE_CHECKING:
    from fastlayer.builder.context.waiting import Check
    from fastlayer.builder.workshop import Workshop

_AT_ONCE = 2  # layers: each is expanded by several threads, and their hashes go through the processor in pairs


def bring(shop: Workshop, layers: Sequence[LayerInfo]) -> None:
    """The layers of a stack that have neither a blob nor a snapshot here. Raises ``CacheGoneError``."""
    store = shop.store
    stack = [(layer, str(name)) for layer, name in zip(layers, chain_ids(one.diff_id for one in layers), strict=True)]
    lease = shop.lease
    with store.database.write() as db:
        lease.add(db, "snapshot", [name for _, name in stack])
        lease.add(db, "blob", [layer.digest for layer in layers])
    missing = {layer.diff_id: layer for layer, name in stack if not is_here(shop, layer, name)}

    def fetch(check: Check) -> None:
        def one(layer: LayerInfo) -> None:
            check()
            shop.imports.bring(store, lease, layer.diff_id, shop.options.jobs)

        for _ in map_ordered(one, list(missing.values()), min(_AT_ONCE, default_jobs(shop.options.jobs))):
            pass

    if missing:
        beside(fetch, shop.check)  # a build that is over waits for no registry


def is_here(shop: Workshop, layer: LayerInfo, name: str | None) -> bool:
    """Whether the store can give a layer: it has the blob, or made the snapshot that ends with it of that very blob.

    A snapshot that another blob was unpacked to need not give this one again.
    """
    if shop.store.content.has(layer.digest):
        return True
    with shop.store.database.read() as db:
        known = layer_of(db, layer.digest) is not None
    return known and name is not None and bool(holders(shop.store, name))


def keep(shop: Workshop) -> None:
    """The steps that other caches knew are remembered here, under all their keys, when their layers are here now.

    As of now: whoever prunes by age asks when they were of use here.
    """
    for step, what, inputs in shop.taken:
        if step.layer is None or is_here(shop, step.layer, step.chain):
            _keep(shop, step, what, inputs)
        else:
            shop.elsewhere.add(step.key)


def _keep(shop: Workshop, step: Step, what: str, inputs: Inputs) -> None:
    from fastlayer.builder.cache import key_of

    known = {step.key: inputs}
    for found in shop.imports.all:
        record = found.record(step.key)
        for same in found.same_as(record) if record is not None else ():
            if "facts" in same.inputs:
                known.setdefault(key_of(same.inputs), same.inputs)
    moment = time.time_ns()
    for key, about in known.items():
        shop.cache.put(step._replace(key=key, used_ns=moment), what, about)
    _keep_nodes(shop, list(known.values()))


def _keep_nodes(shop: Workshop, inputs: Sequence[Inputs]) -> None:
    """What names the first difference when a later build misses."""
    from fastlayer.builder.context.merkle import nodes_of, put_nodes
    from fastlayer.builder.sharing.nodes import below, is_whole, roots_of

    with shop.store.database.read() as db:
        own = nodes_of(db)
        missing = [root for root in roots_of(inputs) if own(root) is None]
    found = below(missing, shop.imports.node)
    if is_whole(found):
        put_nodes(shop.store.database, found)
