"""The books of mounts: what of the store is mounted where.

A mount is written down before it is made (``announce``), in the transaction that looks whether its layer or its target
is taken, and completed afterwards (``complete``). Whether it is there, the kernel says: its sign (``mounts/signs.py``)
is looked for among all mounts of its namespace, so that it is found moved, copied and covered, too. What is gone - the
machine was started anew, someone used umount(8), its maker was killed before - is forgotten when it is looked at. What
cannot be told counts as there.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from fastlayer.errors import InUseError, NotFoundError, show_path

if TYPE_CHECKING:
    import sqlite3

    from fastlayer.container.writable import Writable
    from fastlayer.metadata.leases import Lease
    from fastlayer.mounts.table import Entry
    from fastlayer.store.store import Store


_SELECT = "SELECT * FROM mounts WHERE driver = ? AND key = ?"


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
        rows = db.execute("SELECT * FROM mounts").fetchall()
    looked = Look(store)
    alive = []
    for row in rows:
        found = looked.at(row)
        if found is not None:
            alive.append(found)
        elif not looked.being_made(row):
            _forget(store, row)
    return sorted(alive)


def refuse_mounted(store: Store, layer: Writable) -> None:
    """Raises ``InUseError`` when the layer is mounted somewhere."""
    for found in all_mounts(store):
        if found.writable == layer.name:
            raise _in_use(found)


def announce(store: Store, lease: Lease, new: Mounted, sign: str) -> None:
    """Notes a mount that is going to be made under the lease. Its snapshot stays from now on, whoever made it.

    Raises ``InUseError`` when the snapshot is mounted or something of ours is at the target, ``NotFoundError`` when the
    layer is gone.
    """
    all_mounts(store)  # forgets what is gone
    with store.database.write() as db:
        if new.writable and not db.execute("SELECT 1 FROM writable WHERE name = ?", (new.writable,)).fetchone():
            raise NotFoundError(f"{new.writable}: has been removed meanwhile")
        looked = Look(store)
        for row in db.execute("SELECT * FROM mounts").fetchall():
            found = looked.at(row)
            if (row["driver"], row["key"]) == (new.driver, new.key):
                raise _in_use(found or _of_row(row))
            if (found or _of_row(row)).target == new.target and row["mount_ns"] == _namespace():
                place = show_path(new.target)
                raise InUseError(f"{place}: something of ours is mounted there already: `fastlayer umount` it first")
        db.execute(
            "INSERT INTO mounts (target, driver, key, image, writable, created_ns, depth, mount_number, boot_id,"
            " mount_ns, sign, lease) VALUES (?, ?, ?, ?, ?, ?, ?, 0, ?, ?, ?, ?)",
            (*new[:-1], _boot_id(), _namespace(), sign, lease.id),
        )
        db.execute("UPDATE snapshots SET lease = NULL WHERE driver = ? AND key = ?", (new.driver, new.key))


def complete(store: Store, new: Mounted) -> None:
    """The announced mount has been made."""
    from fastlayer.mounts.signs import confirmed
    from fastlayer.mounts.table import find as top_of

    top = top_of(new.target)
    with store.database.write() as db:
        sign = db.execute(_SELECT, (new.driver, new.key)).fetchone()["sign"]
        db.execute(
            "UPDATE mounts SET mount_number = ?, sign = ?, lease = NULL WHERE driver = ? AND key = ?",
            (0 if top is None else top.number, sign if top is None else confirmed(sign, top), new.driver, new.key),
        )


def note_again(store: Store, layer: Writable) -> Mounted | None:
    """A mount of the layer that is in this namespace and not in the books, after they were put back from a copy."""
    from fastlayer.mounts.mount import Mount
    from fastlayer.mounts.signs import matches, sign_of
    from fastlayer.mounts.table import entries

    snapshotter = store.snapshotter_of(layer.driver)
    tree = snapshotter.driver.own_tree(snapshotter.number(layer.key)[0])
    if tree is None:
        return None
    bound = sign_of([Mount("bind", os.fspath(tree))])
    for entry in entries():
        over = os.fsencode(f"upperdir={tree}") in entry.super_options  # in full: a relative one could be anybody's
        if over or (bound and matches(bound, entry)):
            new = proposed(os.fsdecode(entry.target), layer.driver, layer.key, layer.image, layer.name, 1)
            return new if _insert(store, new, f"overlay:{tree}" if over else bound, entry.number) else None
    return None


def _insert(store: Store, new: Mounted, sign: str, number: int) -> bool:
    with store.database.write() as db:
        added = db.execute(
            "INSERT OR IGNORE INTO mounts (target, driver, key, image, writable, created_ns, depth, mount_number,"
            " boot_id, mount_ns, sign, lease) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, NULL)",
            (*new[:-1], number, _boot_id(), _namespace(), sign),
        )
        return added.rowcount == 1


def proposed(target: str, driver: str, key: str, image: str, layer: str | None, depth: int) -> Mounted:
    """A mount that is to be made now."""
    return Mounted(target, driver, key, image, layer, time.time_ns(), depth, True)


def find(store: Store, text: str) -> Mounted:
    """By its target - here, if one is mounted there - or by the name of its writable layer."""
    place = os.path.realpath(text)
    found = [mount for mount in all_mounts(store) if mount.target == place or mount.writable == text]
    if not found:
        raise NotFoundError(f"{show_path(text)}: nothing of ours is mounted there: `fastlayer mounts` lists what is")
    return max(found, key=lambda mount: mount.here)


class Look:
    """One look at what the kernel has mounted; every namespace is read once."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._boot_id = _boot_id()
        self._seen: dict[int, list[Entry] | None] = {}

    def at(self, row: sqlite3.Row) -> Mounted | None:
        """The mount, where it is now; None when it is not there."""
        if row["boot_id"] != self._boot_id:
            return None
        entries = self._entries(row["mount_ns"])
        if entries is None:
            return _of_row(row)
        found = _entry_of(row, entries)
        return None if found is None else _of_row(row)._replace(target=os.fsdecode(found.target))

    def being_made(self, row: sqlite3.Row) -> bool:
        """Someone is about to mount it."""
        return row["lease"] is not None and self._store.leases.alive(row["lease"])

    def _entries(self, namespace: int) -> list[Entry] | None:
        from fastlayer.mounts.namespaces import entries_of

        if namespace not in self._seen:
            self._seen[namespace] = entries_of(namespace)
        return self._seen[namespace]


def _entry_of(row: sqlite3.Row, entries: Sequence[Entry]) -> Entry | None:
    """The mount itself if it is there, else a copy of it; a read-only one has no sign of its own, so no copies."""
    from fastlayer.mounts.signs import matches

    target = os.fsencode(row["target"])
    found = [entry for entry in reversed(entries) if matches(row["sign"], entry)]
    for entry in found:
        if entry.number == row["mount_number"] or (not row["mount_number"] and entry.target == target):
            return entry
    return found[0] if found and row["writable"] and row["sign"] else None


def is_on_top(store: Store, found: Mounted) -> bool:
    """Whether a path lookup ends at the mount: nobody has mounted something else over it."""
    from fastlayer.errors import OperandError
    from fastlayer.mounts.table import find as top_of

    row = _row(store, found)
    try:
        top = top_of(found.target)
    except OperandError:
        return False
    return row is not None and top is not None and _entry_of(row, [top]) is not None


def _in_use(found: Mounted) -> InUseError:
    name = found.writable or found.key
    where = "" if found.here else ", in another mount namespace"
    return InUseError(f"{name}: is mounted at {show_path(found.target)}{where}: `fastlayer umount` it first")


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


def _row(store: Store, found: Mounted) -> sqlite3.Row | None:
    with store.database.read() as db:
        row: sqlite3.Row | None = db.execute(_SELECT, (found.driver, found.key)).fetchone()
    return row


def forget_if_gone(store: Store, found: Mounted) -> None:
    """After an unmount. A copy of the mount elsewhere keeps it in the books."""
    row = _row(store, found)
    if row is not None:
        _forget(store, row)


def withdraw(store: Store, lease: Lease, new: Mounted) -> None:
    """The announced mount could not be made; its view is the lease's again, and goes with it."""
    with store.database.write() as db:
        db.execute("DELETE FROM mounts WHERE driver = ? AND key = ?", (new.driver, new.key))
        if new.writable is None:
            db.execute("UPDATE snapshots SET lease = ? WHERE driver = ? AND key = ?", (lease.id, new.driver, new.key))


def _forget(store: Store, row: sqlite3.Row) -> None:
    """The mount is over; a view made for it goes, too, in the same transaction.

    It is looked at again within it: its maker may just have finished.
    """
    place = (row["driver"], row["key"])
    with store.lease(f"forget {row['key']}") as lease:
        snapshotter = store.snapshotter_of(row["driver"])
        numbers: list[int] = []
        with store.database.write() as db:
            now, looked = db.execute(_SELECT, place).fetchone(), Look(store)
            if now is None or looked.being_made(now) or looked.at(now) is not None:
                return
            db.execute("DELETE FROM mounts WHERE driver = ? AND key = ?", place)
            if now["writable"] is None:
                views = "SELECT number FROM snapshots WHERE driver = ? AND key = ? AND state = 'ready'"
                numbers = [int(view["number"]) for view in db.execute(views, place)]
                snapshotter.mark_removed(db, numbers, lease.id)
        snapshotter.finish_removal(numbers)


def _boot_id() -> str:
    with open("/proc/sys/kernel/random/boot_id") as file:
        return file.read().strip()


def _namespace() -> int:
    from fastlayer.mounts.namespaces import current

    return current()
