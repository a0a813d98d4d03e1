"""Writable layers: an active snapshot on an image, with a name of its own. What a container writes to."""

from __future__ import annotations

import json
import os
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from fastlayer.container.alone import alone, forget
from fastlayer.container.mounted import refuse_mounted
from fastlayer.errors import AlreadyExistsError, DriverError, InUseError, NotFoundError, UsageError
from fastlayer.image.images import Image
from fastlayer.oci.digest import Digest
from fastlayer.snapshot.driver import NO_OPTIONS, Options

if TYPE_CHECKING:
    import sqlite3

    from fastlayer.container.mounted import Mounted
    from fastlayer.layer.diff import Changes
    from fastlayer.snapshot.driver import Usage
    from fastlayer.snapshot.snapshotter import Snapshotter
    from fastlayer.store.store import Store

_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,127}", re.ASCII)  # as docker's container names


class Writable(NamedTuple):
    """A writable layer. ``image``: the name it was made with; ``manifest``: what that named then."""

    name: str
    driver: str
    key: str
    image: str
    manifest: Digest
    created_ns: int


def create(
    store: Store,
    image: Image,
    name: str | None = None,
    *,
    size: int | None = None,
    storage_options: Options = NO_OPTIONS,
) -> Writable:
    """A new writable layer on ``image``; ``size``: bytes it may take, where the driver can limit.

    ``storage_options``: how it is mounted, each time, in the driver's words: ``{"volatile": "on"}``.
    Raises ``UsageError`` for what is no name or no option of the driver, ``AlreadyExistsError`` when it is taken.
    """
    if size is not None and not 0 < size < 1 << 63:
        raise UsageError(f"size={size}: give 1 to 2^63 - 1 bytes, or leave it out")
    name = name or f"layer-{os.urandom(4).hex()}"
    if not _NAME.fullmatch(name):
        raise UsageError(f"{name!r}: not a name: letters, digits, `_`, `.` and `-`, at most 128")
    with store.database.read() as db:
        if _row(db, name) is not None:
            raise AlreadyExistsError(f"{name}: exists already: choose another name, or `fastlayer rm {name}`")
    snapshotter = store.snapshotter
    snapshotter.driver.check_options(storage_options, "active")
    layer = Writable(name, snapshotter.driver.name, f"writable/{name}", image.name, image.manifest, time.time_ns())
    if image.chain_id is not None and not snapshotter.exists(image.chain_id):
        from fastlayer.image.unpack import ensure_unpacked

        ensure_unpacked(store, image)
    with store.lease(f"create {name}") as lease:
        snapshotter.prepare(layer.key, image.chain_id, options=storage_options, size=size, lease=lease)
        with store.database.write() as db:
            db.execute(
                "INSERT INTO writable (name, driver, key, image, manifest, created_ns) VALUES (?, ?, ?, ?, ?, ?)", layer
            )
            db.execute("UPDATE snapshots SET lease = NULL WHERE driver = ? AND key = ?", (layer.driver, layer.key))
    return layer


def find(store: Store, name: str) -> Writable:
    """Raises ``NotFoundError``."""
    with store.database.read() as db:
        row = _row(db, name)
    if row is None:
        raise NotFoundError(f"{name}: no writable layer of that name: `fastlayer mounts` lists them")
    return row


def all_of(store: Store) -> list[Writable]:
    """All writable layers, by name."""
    with store.database.read() as db:
        return [_writable(row) for row in db.execute("SELECT * FROM writable ORDER BY name")]


def remove(store: Store, name: str) -> None:
    """Removes the layer with all that was written to it, nothing else. Raises ``InUseError`` while it is mounted."""
    layer = find(store, name)
    with alone(store, name), store.lease(f"remove {name}") as lease:
        refuse_mounted(store, layer)
        snapshotter = store.snapshotter_of(layer.driver)
        with store.database.write() as db:
            if _row(db, name) is None:
                raise NotFoundError(f"{name}: has been removed meanwhile")
            if db.execute("SELECT 1 FROM mounts WHERE writable = ?", (name,)).fetchone():
                raise InUseError(f"{name}: has been mounted meanwhile: `fastlayer umount` it first")
            numbers = [
                int(row[0])
                for row in db.execute(
                    "SELECT number FROM snapshots WHERE driver = ? AND key = ? AND state = 'ready'",
                    (layer.driver, layer.key),
                )
            ]
            snapshotter.mark_removed(db, numbers, lease.id)
            db.execute("DELETE FROM writable WHERE name = ?", (name,))
        snapshotter.finish_removal(numbers)
        forget(store, name)


def directory(store: Store, layer: Writable) -> Path:
    """Where its files lie in the store, to work in without mounting: of drivers that keep a whole tree (vfs, btrfs).

    Raises ``DriverError`` for the others.
    """
    snapshotter = snapshotter_of(store, layer)
    mounts = snapshotter.ready(layer.key)
    if len(mounts) != 1 or mounts[0].type != "bind":
        raise DriverError(
            f"driver {layer.driver}: shows a layer only when it is mounted: give a TARGET, or make it with --driver vfs"
        )
    return Path(mounts[0].source)


def changes(store: Store, layer: Writable) -> Changes:
    """What was written to it: its changes against the image. The caller closes the result."""
    return snapshotter_of(store, layer).changes(layer.key)


def usage(store: Store, layer: Writable) -> Usage:
    """What it takes on disk."""
    return snapshotter_of(store, layer).usage(layer.key)


def copy_up(store: Store, layer: Writable, paths: list[bytes]) -> int:
    """Prepares files of the image for writing; returns the bytes that are shared with it instead of copied.

    Raises ``InUseError`` while it is mounted: the kernel's view of an overlay must not change under it.
    """
    with alone(store, layer.name):
        refuse_mounted(store, layer)
        snapshotter = snapshotter_of(store, layer)
        number, parents = snapshotter.number(layer.key)
        return snapshotter.driver.copy_up(number, parents, paths)


def storage_options(store: Store, thing: Writable | Mounted) -> Options:
    """What a layer, or a read-only mount, was made with. No driver is asked."""
    from fastlayer.snapshot.snapshotter import options_in

    with store.database.read() as db:
        found = "SELECT labels FROM snapshots WHERE driver = ? AND key = ? AND state != 'removing'"
        row = db.execute(found, (thing.driver, thing.key)).fetchone()
    return NO_OPTIONS if row is None else options_in(json.loads(row["labels"]))


def snapshotter_of(store: Store, layer: Writable) -> Snapshotter:
    """The snapshots its own is one of."""
    return store.snapshotter_of(layer.driver)


def _row(db: sqlite3.Connection, name: str) -> Writable | None:
    row = db.execute("SELECT * FROM writable WHERE name = ?", (name,)).fetchone()
    return None if row is None else _writable(row)


def _writable(row: sqlite3.Row) -> Writable:
    return Writable(row["name"], row["driver"], row["key"], row["image"], Digest(row["manifest"]), row["created_ns"])
