"""The end of a build: what its target has come to becomes an image with names."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from fastlayer.builder.cache import Step, key_of
from fastlayer.errors import NotFoundError
from fastlayer.image.images import Image, Images
from fastlayer.image.record import descriptor_of, record
from fastlayer.oci.chain import chain_ids
from fastlayer.oci.config import History, ImageConfig, new_config
from fastlayer.oci.manifest import Manifest, new_manifest

if TYPE_CHECKING:
    import sqlite3

    from fastlayer.builder.state import State
    from fastlayer.builder.workshop import Workshop
    from fastlayer.image.images import LayerInfo

_WHAT = "image"  # of the steps that remember when an image was made first


def finish(shop: Workshop, state: State, names: Sequence[str]) -> Image:
    """The image, under all names (in full). One that is there already, and has the names, costs no writing."""
    state = state.with_run(labels={**state.run.labels, **shop.options.labels})
    config = _with_cache(shop, _config(state, _created(shop, state)))
    manifest = new_manifest(config.descriptor(), list(map(descriptor_of, state.layers)))
    if not _is_there(shop, manifest, names):
        shop.bring(state.layers)
        _claim(shop, state)
        for name in names or (None,):
            record(shop.store, shop.lease, name, config, state.layers)
    return Images(shop.store).by_target(manifest.descriptor, names)


def _with_cache(shop: Workshop, config: ImageConfig) -> ImageConfig:
    """With the steps of the build in it, where that is wanted: ``--cache-to type=inline``."""
    if all(wanted.kind != "inline" for wanted in shop.options.cache_to):
        return config
    from fastlayer.builder.sharing import inline
    from fastlayer.builder.sharing.export import gather

    found = inline.with_records(config, gather(shop, frozenset(config.diff_ids)))
    if found is None:
        shop.warnings.append(
            f"--cache-to type=inline: the steps are more than the {inline.MAX_INLINE >> 10} KiB that an image may have "
            "of them: use type=registry"
        )
    return found or config


def _created(shop: Workshop, state: State) -> str:
    """When an image was made that says and holds the same: building it again gives the same image."""
    if shop.options.epoch is not None:
        return shop.moment(0)
    inputs = {"step": _WHAT, "config": str(_config(state, "").digest)}
    known = shop.cache.find(key_of(inputs))
    if known is None:
        moment = time.time_ns()
        known = Step(key_of(inputs), None, None, moment, moment, 0)
        shop.cache.put(known, _WHAT, inputs)
    shop.took(known, _WHAT, inputs)
    shop.used.append(known)
    return shop.moment(known.created_ns)


def _config(state: State, created: str) -> ImageConfig:
    """Steps that changed no file have the time of the image."""
    history = [step if step.created or step == History() else step._replace(created=created) for step in state.history]
    return new_config(
        state.platform, state.diff_ids, run=state.run, history=history, created=created, author=state.author
    )


def _is_there(shop: Workshop, manifest: Manifest, names: Sequence[str]) -> bool:
    digest = str(manifest.digest)
    with shop.store.database.read() as db:
        known = db.execute("SELECT 1 FROM manifests WHERE digest = ?", (digest,)).fetchone()
        return known is not None and all(_names(db, name) == digest for name in names or (digest,))


def _names(db: sqlite3.Connection, name: str) -> str | None:
    row = db.execute("SELECT digest FROM images WHERE name = ?", (name,)).fetchone()
    return row[0] if row else None


def _claim(shop: Workshop, state: State) -> None:
    """From now on nobody can collect the layers; somebody may have, since the cache had them."""
    lease = shop.lease  # which begins with a transaction of its own
    chain = [str(name) for name in chain_ids(state.diff_ids)]
    with shop.store.database.write() as db:
        lease.add(db, "snapshot", chain)
        lease.add(db, "blob", [layer.digest for layer in state.layers])
        there = [_is_kept(db, layer, name) for layer, name in zip(state.layers, chain, strict=True)]
    if not all(there):
        raise NotFoundError("layers were pruned while they were used: build again")


def _is_kept(db: sqlite3.Connection, layer: LayerInfo, name: str) -> bool:
    """Whether a layer has a blob or a snapshot. One that has never had a blob may have been forgotten meanwhile."""
    blob, snapshot = db.execute(
        "SELECT (SELECT present FROM layers WHERE digest = ?),"
        " EXISTS (SELECT 1 FROM snapshots WHERE key = ? AND state = 'ready' AND kind = 'committed')",
        (layer.digest, name),
    ).fetchone()
    return bool(blob) or (bool(snapshot) and (blob is not None or not layer.present))
