"""Rows of a planned layer become a layer: a snapshot on the stack below, and its digest."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from fastlayer import _backend
from fastlayer.builder.repeats import keep_placed
from fastlayer.builder.steps.written import named

if TYPE_CHECKING:
    from fastlayer.builder.state import State
    from fastlayer.builder.workshop import Workshop
    from fastlayer.image.images import LayerInfo
    from fastlayer.layer.diff import Changes

_ROOT = ("A", b"", 0o40755, 0, 0, 0, 0, (0, 0), b"", (), 0, b"", 0, 0)  # as builder/copying/rows.py has rows


def lay(
    shop: Workshop,
    state: State,
    batches: Iterable[Sequence[tuple[Any, ...]]],
    roots: Sequence[int],
    about: str,
    *,
    repeats: bool = True,
) -> LayerInfo | None:
    """The layer of ``batches`` of rows (``_backend.TableBuilder``), placed on ``state``; None when there are none.

    ``roots``: descriptors of the trees that files come from. Each file is read once for the digest and copied once, or
    shared. ``repeats``: something of it may be there already, just the same. Raises ``FileChangedError`` for a file
    that is not what it was when it was looked at.
    """
    builder = _backend.engine().changes.TableBuilder()
    empty = True
    for batch in batches:
        shop.check()
        builder.add(batch)
        empty = empty and not batch
    if empty:
        return None
    if state.chain is None:  # a snapshot that lies on nothing says that it has a root
        builder.add([_ROOT])
    return _lay(shop, state, builder.finish(), roots, about, repeats=repeats)


def lay_changes(shop: Workshop, state: State, changes: Changes, about: str) -> LayerInfo | None:
    """The layer of what a diff found, on ``state``."""
    return _lay(shop, state, changes.table, changes.roots(), about, repeats=True) if changes else None


def _lay(
    shop: Workshop, state: State, table: _backend.ChangeTable, roots: Sequence[int], about: str, *, repeats: bool
) -> LayerInfo | None:
    from fastlayer.image.placed import placed_layer
    from fastlayer.store.store import may_make_devices, may_own_all

    key, parent = shop.new_key(), shop.ensure(state)
    owns = may_own_all()
    written = placed_layer(
        shop.snapshotter,
        shop.lease,
        key,
        parent,
        table,
        roots,
        source_date_epoch=shop.options.epoch,
        jobs=shop.options.jobs,
        about=about,
        ignore_chown=not owns,
        skip_devices=not may_make_devices(),
    )
    shop.warnings += [warning for warning in written.warnings if warning not in shop.warnings]
    if not owns or (repeats and parent is not None):
        keep_placed(shop, key, table, roots, written, always=not owns)
    return named(shop, state, key, written)


def created_ns(shop: Workshop) -> int:
    """The time of what a step makes: SOURCE_DATE_EPOCH, or now."""
    epoch = shop.options.epoch
    return time.time_ns() if epoch is None else epoch * 10**9
