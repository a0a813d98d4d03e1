"""``--squash``: all layers of a build become one, on those of its base image (docker build, "--squash")."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from fastlayer.builder.cache import Inputs, Step, key_of
from fastlayer.builder.state import COMMENT, State
from fastlayer.oci.config import History

if TYPE_CHECKING:
    from fastlayer.builder.workshop import Workshop
    from fastlayer.image.images import LayerInfo

_WHAT = "--squash"


def squash(shop: Workshop, state: State) -> State:
    """What the layers of the build change in the base image, as one layer: what one of them made and another removed is
    in none. The steps stay in the history."""
    own = state.layers[state.base_layers :]
    if len(own) < 2:
        return state
    below = state._replace(layers=state.layers[: state.base_layers])
    with shop.journal.vertex(f"squashing {len(own)} layers") as work:
        inputs = {"step": "squash", "parent": below.chain, "layers": [str(layer.diff_id) for layer in own]}
        step = None if shop.options.no_cache else shop.cache.find(key_of(inputs))
        if step is None:
            step = _step(shop, state, below, inputs)
        else:
            work.cached()
            shop.took(step, _WHAT, inputs)
        shop.used.append(step)
    return _with_history(shop, state, below, step)


def _step(shop: Workshop, state: State, below: State, inputs: Inputs) -> Step:
    import time

    layer = _merged(shop, state, below)
    moment = time.time_ns()
    chain = below._replace(layers=(*below.layers, layer)).chain if layer is not None else below.chain
    step = Step(key_of(inputs), layer, chain, moment, moment, 0)
    shop.cache.put(step, _WHAT, inputs)
    return step


def _merged(shop: Workshop, state: State, below: State) -> LayerInfo | None:
    from fastlayer.builder.steps.layers import lay_changes
    from fastlayer.layer.diff import diff

    with (
        shop.tree(below) as old,
        shop.tree(state) as new,
        diff(os.fspath(old), os.fspath(new), xattrs="all") as changes,
    ):
        return lay_changes(shop, below, changes, _WHAT)


def _with_history(shop: Workshop, state: State, below: State, step: Step) -> State:
    kept, layers = [], 0
    for old in state.history:
        layers += not old.empty_layer
        kept.append(old if layers <= state.base_layers or old.empty_layer else old._replace(empty_layer=True))
    if step.layer is None:
        return below._replace(history=tuple(kept))
    merged = History(created=shop.moment(step.created_ns), created_by=_WHAT, comment=COMMENT)
    return below._replace(history=(*kept, merged), layers=(*below.layers, step.layer))
