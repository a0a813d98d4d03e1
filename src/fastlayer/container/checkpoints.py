"""Named states of a writable layer: taken while it is in use, gone back to, and begun with under another name.

A checkpoint is a committed snapshot beside the layer, on the same image; no image is made of it. What it costs is what
the driver's copies cost: nothing but metadata where the file system shares blocks. It goes with the layer.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from fastlayer._values import NamedTuple
from fastlayer.container import kept, writable
from fastlayer.container.alone import alone
from fastlayer.container.containers import directory_of
from fastlayer.container.mounted import refuse_mounted
from fastlayer.container.writable import Writable
from fastlayer.errors import AlreadyExistsError, InUseError, NotFoundError

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable

    from fastlayer.store.store import Store


class Checkpoint(NamedTuple):
    """``size``: bytes it takes for itself; ``shared`` of them are others', too."""

    name: str
    created_ns: int
    size: int
    shared: int


def save(store: Store, layer: Writable, name: str, *, warnings: list[str] | None = None) -> None:
    """Keeps what the layer holds now, mounted or not. Files that change meanwhile are taken as they are read.

    Raises ``AlreadyExistsError``, ``UsageError`` for what is no name.
    """
    writable.check_name(name)
    writable.refuse_readonly(store, layer)
    snapshotter = writable.snapshotter_of(store, layer)
    key = writable.checkpoint_key(layer.name, name)
    if snapshotter.exists(key):
        raise AlreadyExistsError(f"{layer.name}: has a checkpoint {name} already: choose another name, or remove it")
    with alone(store, layer.name, shared=True):
        changed = snapshotter.duplicate(key, layer.key, live=True, with_options=True)
    writable.tell_changed(changed, warnings)


def all_of(store: Store, layer: Writable) -> list[Checkpoint]:
    """The oldest first."""
    snapshotter = writable.snapshotter_of(store, layer)
    found = []
    for name, key, created_ns in _rows(store, layer):
        usage = snapshotter.usage(key)
        found.append(Checkpoint(name, created_ns, usage.bytes, usage.shared))
    return found


def remove(store: Store, layer: Writable, name: str) -> None:
    """Raises ``NotFoundError``."""
    key = _key(store, layer, name)
    writable.snapshotter_of(store, layer).remove(key)


def rollback(store: Store, layer: Writable, name: str) -> None:
    """What was written to the layer since then is lost; the checkpoint stays. Complete, or as if it had not been begun.

    Raises ``NotFoundError``; ``InUseError`` while the layer is mounted.
    """
    key = _key(store, layer, name)
    snapshotter = writable.snapshotter_of(store, layer)
    fresh = f"rollback-{os.urandom(8).hex()}"
    with alone(store, layer.name), store.lease(f"roll back {layer.name}") as lease:
        refuse_mounted(store, layer)
        snapshotter.fork(fresh, key, lease=lease)
        with store.database.write() as db:
            if db.execute("SELECT 1 FROM mounts WHERE writable = ?", (layer.name,)).fetchone():
                raise InUseError(f"{layer.name}: has been mounted meanwhile: `fastlayer umount` it first")
            old = _number(db, layer.driver, layer.key)
            snapshotter.mark_removed(db, [old], lease.id)
            db.execute(
                "UPDATE snapshots SET key = ?, lease = NULL WHERE driver = ? AND key = ? AND state = 'ready'",
                (layer.key, layer.driver, fresh),
            )
            if layer.container is not None:
                kept.change(directory_of(store, layer.container), number=_number(db, layer.driver, layer.key))
        snapshotter.finish_removal([old])


def fork(
    store: Store,
    layer: Writable,
    new: str,
    *,
    checkpoint: str | None = None,
    warnings: list[str] | None = None,
    key: str | None = None,
    note: Callable[[sqlite3.Connection], None] = lambda _db: None,
) -> Writable:
    """A new writable layer on the same image with all that ``layer``, or a checkpoint of it, holds.

    The layer may be in use. ``key``, ``note``: as of ``writable.create``; of a container see ``forking.fork``.
    Raises ``AlreadyExistsError``, ``NotFoundError``, ``UsageError``.
    """
    writable.check_name(new)
    writable.refuse_readonly(store, layer)
    source = layer.key if checkpoint is None else _key(store, layer, checkpoint)
    writable.refuse_taken(store, new)
    snapshotter = writable.snapshotter_of(store, layer)
    made = writable.named(layer, new)
    made = made._replace(key=key or made.key)
    with store.lease(f"fork {layer.name}") as lease:
        with alone(store, layer.name, shared=True):
            changed = snapshotter.fork(made.key, source, live=True, lease=lease)
        writable.enter(store, made, note)
    writable.tell_changed(changed, warnings)
    return made


def _key(store: Store, layer: Writable, name: str) -> str:
    key = writable.checkpoint_key(layer.name, name)
    if not writable.snapshotter_of(store, layer).exists(key):
        known = ", ".join(row[0] for row in _rows(store, layer)) or "none"
        raise NotFoundError(f"{layer.name}: has no checkpoint {name}: there are {known}")
    return key


def _rows(store: Store, layer: Writable) -> list[tuple[str, str, int]]:
    prefix = writable.checkpoint_key(layer.name, "")
    with store.database.read() as db:
        rows = db.execute(
            "SELECT key, created_ns FROM snapshots WHERE driver = ? AND substr(key, 1, ?) = ? AND state = 'ready'"
            " ORDER BY number",
            (layer.driver, len(prefix), prefix),
        ).fetchall()
    return [(row["key"][len(prefix) :], row["key"], row["created_ns"]) for row in rows]


def _number(db: sqlite3.Connection, driver: str, key: str) -> int:
    row = db.execute(
        "SELECT number FROM snapshots WHERE driver = ? AND key = ? AND state = 'ready'", (driver, key)
    ).fetchone()
    if row is None:
        raise NotFoundError(f"{key}: has been removed meanwhile")
    return int(row[0])
