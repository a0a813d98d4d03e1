"""Writable layers: an active snapshot on an image, with a name of its own. What a container writes to."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from fastlayer._values import NamedTuple
from fastlayer.container.alone import alone, forget
from fastlayer.container.mounted import refuse_mounted
from fastlayer.errors import AlreadyExistsError, DriverError, InUseError, NotFoundError, UsageError
from fastlayer.image.images import Image
from fastlayer.oci.digest import Digest
from fastlayer.snapshot.driver import NO_OPTIONS, Options

if TYPE_CHECKING:
    import sqlite3

    from fastlayer.container.mounted import Mounted
    from fastlayer.layer.diff import Change, Changes
    from fastlayer.snapshot.driver import Usage
    from fastlayer.snapshot.snapshotter import Snapshotter
    from fastlayer.store.store import Store

NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,127}", re.ASCII)  # as docker's container names
_ID = re.compile(r"[0-9a-f]{1,64}")


class Writable(NamedTuple):
    """A writable layer. ``image``: the name it was made with; ``manifest``: what that named then."""

    name: str
    driver: str
    key: str
    image: str
    manifest: Digest
    created_ns: int

    @property
    def container(self) -> str | None:
        """The id of the container whose layer it is (``containers.layer_key``); None for one that was made alone."""
        kind, _, identity = self.key.partition("/")
        return identity if kind == "container" else None


def create(
    store: Store,
    image: Image,
    name: str | None = None,
    *,
    size: int | None = None,
    storage_options: Options = NO_OPTIONS,
    warnings: list[str] | None = None,
    key: str | None = None,
    readonly: bool = False,
    note: Callable[[sqlite3.Connection], None] = lambda _db: None,
) -> Writable:
    """A new writable layer on ``image``; ``size``: bytes it may take, where the driver can limit.

    ``storage_options``: how it is mounted, each time, in the driver's words: ``{"volatile": "on"}``. What unpacking the
    image had to leave out is added to ``warnings``. ``key``: of its snapshot, when that is not called after the name.
    ``readonly``: nothing can be written to it, and nothing is made on disk: it is the image.
    ``note``: what else becomes true in the transaction that makes it exist.
    Raises ``UsageError`` for what is no name or no option of the driver, ``AlreadyExistsError`` when it is taken.
    """
    if size is not None and not 0 < size < 1 << 63:
        raise UsageError(f"size={size}: give 1 to 2^63 - 1 bytes, or leave it out")
    name = name or f"layer-{os.urandom(4).hex()}"
    check_name(name)
    refuse_taken(store, name)
    snapshotter = store.snapshotter
    if readonly and size is not None:
        raise UsageError(f"{name}: has no writable layer that could have a size: leave out the one or the other")
    snapshotter.driver.check_options(storage_options, "view" if readonly else "active")
    layer = Writable(name, snapshotter.driver.name, key or _key_of(name), image.name, image.manifest, time.time_ns())
    if image.chain_id is not None and not snapshotter.exists(image.chain_id):
        from fastlayer.image.unpack import ensure_unpacked

        lost: list[str] = [] if warnings is None else warnings
        lost += ensure_unpacked(store, image)
    with store.lease(f"create {name}") as lease:
        if readonly:
            snapshotter.view(layer.key, str(image.chain_id), options=storage_options, lease=lease)
        else:
            snapshotter.prepare(layer.key, image.chain_id, options=storage_options, size=size, lease=lease)
        enter(store, layer, note)
    return layer


def refuse_readonly(store: Store, layer: Writable) -> None:
    """Raises ``UsageError`` for a container on the bare image."""
    if snapshotter_of(store, layer).stat(layer.key).kind == "view":
        raise UsageError(f"{layer.name}: has no writable layer: it was made with --readonly-image")


def check_name(name: str) -> None:
    """Raises ``UsageError``."""
    if not NAME.fullmatch(name):
        raise UsageError(f"{name!r}: not a name: letters, digits, `_`, `.` and `-`, at most 128")


def refuse_taken(store: Store, name: str) -> None:
    """Raises ``AlreadyExistsError`` when there is a layer of that name."""
    with store.database.read() as db:
        if _row(db, name) is not None:
            raise AlreadyExistsError(f"{name}: exists already: choose another name, or `fastlayer rm {name}`")


def named(layer: Writable, name: str) -> Writable:
    """As ``layer``, under another name, made now."""
    return layer._replace(name=name, key=_key_of(name), created_ns=time.time_ns())


def enter(store: Store, layer: Writable, note: Callable[[sqlite3.Connection], None] = lambda _db: None) -> None:
    """The snapshot is there: from now on it is a layer. Raises ``AlreadyExistsError``.

    ``note``: what else becomes true in the same transaction.
    """
    with store.database.write() as db:
        if _row(db, layer.name) is not None:
            raise AlreadyExistsError(f"{layer.name}: has been made meanwhile: choose another name")
        note(db)
        db.execute(
            "INSERT INTO writable (name, driver, key, image, manifest, created_ns) VALUES (?, ?, ?, ?, ?, ?)", layer
        )
        db.execute("UPDATE snapshots SET lease = NULL WHERE driver = ? AND key = ?", (layer.driver, layer.key))


def rename(db: sqlite3.Connection, old: str, new: str) -> None:
    """Within a write transaction: another name for the layer and its checkpoints; its snapshot keeps its key."""
    db.execute("UPDATE writable SET name = ? WHERE name = ?", (new, old))
    db.execute("UPDATE mounts SET writable = ? WHERE writable = ?", (new, old))
    before, after = checkpoint_key(old, ""), checkpoint_key(new, "")
    db.execute(
        "UPDATE snapshots SET key = ? || substr(key, ?) WHERE substr(key, 1, ?) = ?",
        (after, len(before) + 1, len(before), before),
    )


def tell_changed(count: int, warnings: list[str] | None) -> None:
    """Of a copy of what is written to meanwhile: a warning, when there are files that changed."""
    if count and warnings is not None:
        warnings.append(f"{count} files changed while they were copied: each is as it was read")


def checkpoint_key(layer: str, name: str) -> str:
    """The snapshot of a checkpoint (``container/checkpoints.py``). No name of a layer has a slash."""
    return f"checkpoint/{layer}/{name}"


def _key_of(name: str) -> str:
    return f"writable/{name}"


def find(store: Store, name: str) -> Writable:
    """By its name; that of a container by the beginning of its id, too. Raises ``NotFoundError``."""
    with store.database.read() as db:
        row = _row(db, name) or _of_container(db, name)
    if row is None:
        raise NotFoundError(f"{name}: no writable layer of that name: `fastlayer mounts` lists them")
    return row


def of_container(store: Store, identity: str) -> Writable:
    """That of a container, whatever it is called by now. Raises ``NotFoundError``."""
    with store.database.read() as db:
        found = _of_container(db, identity)
    if found is None:
        raise NotFoundError(f"{identity[:12]}: there is no such container, or it has lost its layer")
    return found


def all_of(store: Store) -> list[Writable]:
    """All writable layers, by name."""
    with store.database.read() as db:
        return [_writable(row) for row in db.execute("SELECT * FROM writable ORDER BY name")]


def remove(store: Store, name: str) -> None:
    """Removes the layer with all that was written to it and its checkpoints, nothing else.

    Raises ``InUseError`` while it is mounted, and for the layer of a container.
    """
    remove_layer(store, find(store, name))


def remove_layer(store: Store, layer: Writable, *, note: Callable[[sqlite3.Connection], None] | None = None) -> None:
    """The same of one that was found. ``note``: what else is true no more in the same transaction; a container's layer
    goes with it only. Raises ``NotFoundError`` when it has got another name meanwhile, too.
    """
    name = layer.name
    with alone(store, name), store.lease(f"remove {name}") as lease:
        refuse_mounted(store, layer)
        snapshotter = store.snapshotter_of(layer.driver)
        with store.database.write() as db:
            there = _row(db, name)
            if there is None or there.key != layer.key:
                raise NotFoundError(f"{name}: has been removed meanwhile")
            if db.execute("SELECT 1 FROM mounts WHERE writable = ?", (name,)).fetchone():
                raise InUseError(f"{name}: has been mounted meanwhile: `fastlayer umount` it first")
            if note is not None:
                note(db)
            elif db.execute("SELECT 1 FROM containers WHERE name = ?", (name,)).fetchone():
                raise InUseError(f"{name}: is the layer of a container: `fastlayer rm {name}` removes both")
            prefix = checkpoint_key(name, "")
            numbers = [
                int(row[0])
                for row in db.execute(
                    "SELECT number FROM snapshots WHERE driver = ? AND (key = ? OR substr(key, 1, ?) = ?)"
                    " AND state = 'ready'",
                    (layer.driver, layer.key, len(prefix), prefix),
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
    if not has_directory(store, layer):
        raise DriverError(
            f"driver {layer.driver}: shows a layer only when it is mounted: give a TARGET, or make it with --driver vfs"
        )
    (mount,) = snapshotter_of(store, layer).ready(layer.key)
    return Path(mount.source)


def has_directory(store: Store, layer: Writable) -> bool:
    """Whether its files lie in a directory of the store: without a mount others may work in it, too."""
    return [mount.type for mount in snapshotter_of(store, layer).mounts(layer.key)] == ["bind"]


def changes(store: Store, layer: Writable) -> Changes:
    """What was written to it: its changes against the image. The caller closes the result."""
    return snapshotter_of(store, layer).changes(layer.key)


def size(store: Store, layer: Writable) -> int:
    """Bytes in the files that were written to it, as Docker counts a container's size: hard links once, and what a
    link says; read are its changes only."""
    with changes(store, layer) as found:
        return sum(_size_of(change) for change in found)


def _size_of(change: Change) -> int:
    if change.kind == "D" or change.hardlink is not None:
        return 0
    return change.size + len(change.link)


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


def _of_container(db: sqlite3.Connection, prefix: str) -> Writable | None:
    if not _ID.fullmatch(prefix):
        return None
    found = db.execute(
        "SELECT name FROM containers WHERE id >= ? AND id < ? LIMIT 2", (prefix, prefix + "g")
    ).fetchall()
    return _row(db, found[0]["name"]) if len(found) == 1 else None


def _row(db: sqlite3.Connection, name: str) -> Writable | None:
    row = db.execute("SELECT * FROM writable WHERE name = ?", (name,)).fetchone()
    return None if row is None else _writable(row)


def _writable(row: sqlite3.Row) -> Writable:
    return Writable(row["name"], row["driver"], row["key"], row["image"], Digest(row["manifest"]), row["created_ns"])
