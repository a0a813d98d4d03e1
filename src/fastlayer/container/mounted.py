"""The books of mounts: what of the store is mounted where.

A mount is remembered in the database until it is unmounted. What the kernel says goes first: a mount that is gone - the
machine was started anew, someone used umount(8) - is forgotten when it is looked at.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, NamedTuple

from fastlayer.errors import InUseError, NotFoundError, OperandError, show_path

if TYPE_CHECKING:
    import sqlite3

    from fastlayer.container.writable import Writable
    from fastlayer.store.store import Store


class Mounted(NamedTuple):
    """A mount of ours. ``writable``: the name of the layer that is written to, or None for a read-only one.

    ``here``: it can be seen in this mount namespace. ``depth``: mounts on top of each other.
    """

    target: str
    driver: str
    key: str
    image: str
    writable: str | None
    created_ns: int
    depth: int
    here: bool


def all_mounts(store: Store) -> list[Mounted]:
    """All mounts, by target; those that are gone are forgotten."""
    with store.database.read() as db:
        rows = db.execute("SELECT * FROM mounts ORDER BY target").fetchall()
    alive = []
    for row in rows:
        found = _of_row(row)
        if _is_gone(row):
            forget(store, found)
        else:
            alive.append(found)
    return alive


def refuse_mounted(store: Store, layer: Writable) -> None:
    """Raises ``InUseError`` when the layer is mounted somewhere."""
    for found in all_mounts(store):
        if found.writable == layer.name:
            raise InUseError(f"{layer.name}: is mounted at {show_path(found.target)}: `fastlayer umount` it first")


class Made(NamedTuple):
    """What the kernel was asked to mount: ``number`` of the top mount (``mounts.table``), ``depth`` mounts in all."""

    number: int
    depth: int


def remember(store: Store, target: str, driver: str, key: str, image: str, layer: str | None, made: Made) -> Mounted:
    """Notes a mount that has just been made; the snapshot stays from now on, whoever made it."""
    with store.database.write() as db:
        db.execute(
            "INSERT OR REPLACE INTO mounts"
            " (target, driver, key, image, writable, mount_number, depth, boot_id, mount_ns, created_ns)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (target, driver, key, image, layer, *made, _boot_id(), _namespace(), time.time_ns()),
        )
        db.execute("UPDATE snapshots SET lease = NULL WHERE driver = ? AND key = ?", (driver, key))
        return _of_row(db.execute("SELECT * FROM mounts WHERE target = ?", (target,)).fetchone())


def find(store: Store, text: str) -> Mounted:
    place = os.path.realpath(text)
    for found in all_mounts(store):
        if found.target == place or found.writable == text:
            return found
    raise NotFoundError(f"{show_path(text)}: nothing of ours is mounted there: `fastlayer mounts` lists what is")


def _of_row(row: sqlite3.Row) -> Mounted:
    return Mounted(
        row["target"],
        row["driver"],
        row["key"],
        row["image"],
        row["writable"],
        row["created_ns"],
        row["depth"],
        row["mount_ns"] == _namespace() and row["boot_id"] == _boot_id(),
    )


def _is_gone(row: sqlite3.Row) -> bool:
    """Not in the kernel any more. What is mounted in another namespace cannot be seen; it is taken to be there."""
    from fastlayer.mounts.table import identity

    if row["boot_id"] != _boot_id():
        return True
    if row["mount_ns"] != _namespace():
        return False
    try:
        top = identity(row["target"])
    except OperandError:
        return True  # not even the target is there
    if top is None or not row["mount_number"]:
        return False  # the kernel does not tell
    return not top.is_root or top.number != row["mount_number"]


def forget(store: Store, found: Mounted) -> None:
    """The mount is over; a view made for it goes, too."""
    with store.database.write() as db:
        db.execute("DELETE FROM mounts WHERE target = ? AND key = ?", (found.target, found.key))
    if found.writable is None:
        try:
            store.snapshotter_of(found.driver).remove(found.key)
        except NotFoundError:
            pass  # another process was faster


def _boot_id() -> str:
    with open("/proc/sys/kernel/random/boot_id") as file:
        return file.read().strip()


def _namespace() -> int:
    """The mount namespace this process is in (namespaces(7))."""
    return os.stat("/proc/self/ns/mnt").st_ino
