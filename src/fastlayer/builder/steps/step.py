"""What all steps have in common: looking into the cache, doing the work, remembering what it came to."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from fastlayer._values import NamedTuple
from fastlayer.builder.cache import Inputs, Step, key_of
from fastlayer.builder.explain import why
from fastlayer.builder.state import check_text
from fastlayer.oci.chain import chain_ids

if TYPE_CHECKING:
    from fastlayer.builder.progress import Work
    from fastlayer.builder.state import State
    from fastlayer.builder.workshop import Workshop
    from fastlayer.image.images import LayerInfo


class Task(NamedTuple):
    """One step to be carried out on ``state``. ``what``: the instruction as it is written; ``history``: the text for
    the image's history; ``cached``: whether the cache may answer."""

    shop: Workshop
    state: State
    work: Work
    what: str
    history: str
    cached: bool


def carry_out(
    task: Task,
    inputs: Inputs,
    do: Callable[[], LayerInfo | None],
    *,
    closer: Callable[[], Inputs] | None = None,
) -> State:
    """The state after the step: from the cache, or done now and remembered.

    ``inputs``: what can be said without looking at any file of the stage, which has the stack of layers below.
    ``closer``: what is known when files are looked at: the layer may be the same on another stack, and is taken over.
    """
    check_text(task.history)  # before anything is done for it
    step = task.shop.cache.find(key_of(inputs)) if task.cached else None
    if step is None and closer is not None:
        step = _look_closer(task, inputs, closer(), do)
    elif step is None:
        step = _do(task, [inputs], do)
    else:
        _reuse(task, step, inputs)
    created = task.shop.moment(step.created_ns)
    return task.state.explained(task.history, layer=step.layer, created=created)


def _reuse(task: Task, step: Step, inputs: Inputs) -> None:
    task.work.cached()
    task.shop.took(step, task.what, inputs)
    task.shop.found(step)


def _look_closer(task: Task, inputs: Inputs, close: Inputs, do: Callable[[], LayerInfo | None]) -> Step:
    found = task.shop.cache.find(key_of(close)) if task.cached else None
    if found is None:
        return _do(task, [inputs, close], do)
    if found.layer is not None:
        task.shop.put_on(task.state, found)
    again = found._replace(key=key_of(inputs), chain=_chain(task.state, found.layer))
    _reuse(task, again, inputs)
    if again.imported:
        task.shop.took(found._replace(chain=again.chain), task.what, close)
    else:
        task.shop.cache.put(again, task.what, inputs)
    return again


def _do(task: Task, known_by: Sequence[Inputs], do: Callable[[], LayerInfo | None]) -> Step:
    """``known_by``: the inputs under which it is remembered, the last is the one that says most."""
    shop = task.shop
    shop.check()
    task.work.missed(_reason(task, known_by[-1]))
    started = time.monotonic_ns()
    layer = do()
    duration = time.monotonic_ns() - started
    moment = time.time_ns()
    for inputs in known_by:
        step = Step(key_of(inputs), layer, _chain(task.state, layer), moment, moment, duration)
        shop.cache.put(step, task.what, inputs)
    shop.made(step)
    return step


def _chain(state: State, layer: LayerInfo | None) -> str | None:
    return str(chain_ids([*state.diff_ids, layer.diff_id])[-1]) if layer is not None else state.chain


def _reason(task: Task, inputs: Inputs) -> str:
    """Only when somebody wants to know: it takes a look at what was."""
    if not task.shop.options.explain:
        return ""
    if not task.cached:
        return "the cache was not to be used"
    return why(inputs, task.shop.cache.like(task.what), task.shop.content_difference)
