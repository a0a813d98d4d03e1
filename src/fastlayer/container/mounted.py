"""The books of mounts: what of the store is mounted where.

A mount is written down before it is made (``announce``), in the transaction that looks whether its layer or its target
is taken, and completed afterwards (``complete``). Whether it is there, the kernel says: its sign (``mounts/signs.py``)
is looked for, so that it is found moved, copied and covered, too, and before it is forgotten in all mount namespaces
that can be seen (``search.py``). What is gone - the machine was started anew, someone used umount(8), its maker was
killed before - is forgotten when it is looked at. What cannot be told counts as there.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from fastlayer._values import NamedTuple
from fastlayer.container.search import Key, Place, key_of, places
from fastlayer.errors import InUseError, NotFoundError, show_path

if TYPE_CHECKING:
    import sqlite3

    from fastlayer.container.state import State
    from fastlayer.container.writable import Writable
    from fastlayer.metadata.leases import Lease
    from fastlayer.store.store import Store


_SELECT = "SELECT * FROM mounts WHERE driver = ? AND key = ?"


class Mounted(NamedTuple):
    """A mount of ours. ``writable``: the name of the layer that is written to, or None for a read-only one.

    ``here``: it can be seen in this mount namespace; otherwise ``process`` is one that sees it, or 0, and ``target``
    what it is called there. ``depth``: mounts on top of each other.
    """

    target: str
    driver: str
    key: str
    image: str
    writable: str | None
    created_ns: int
    depth: int
    here: bool
    process: int = 0


def all_mounts(store: Store) -> list[Mounted]:
    """All mounts, by target; those that are gone are forgotten."""
    with store.database.read() as db:
        rows = _rows(db)
    look = Look(store, rows)
    gone = [key_of(row) for row in rows if key_of(row) not in look.found and key_of(row) not in look.making]
    if gone:
        _forget(store, gone)
    return sorted(look.found.values())


def refuse_mounted(store: Store, layer: Writable) -> None:
    """Raises ``InUseError`` when the layer is mounted somewhere, or is that of a running container."""
    if is_running(store, layer):
        raise InUseError(f"{layer.name}: is the layer of a running container: `fastlayer stop {layer.name}` first")
    for found in all_mounts(store):
        if found.writable == layer.name:
            raise _in_use(found)


def is_running(store: Store, layer: Writable) -> bool:
    """Whether a container's program works on it, in a mount namespace of its own."""
    found = _state_of(store, layer)
    return found is not None and found.running


def running_root(store: Store, layer: Writable) -> str | None:
    """The root of the program that works on it, as this process can reach it; None when there is none."""
    found = _state_of(store, layer)
    return f"/proc/{found.pid}/root" if found is not None and found.pid > 0 else None


def _state_of(store: Store, layer: Writable) -> State | None:
    from fastlayer.container import containers, state

    if layer.container is None:
        return None
    return state.state_of(containers.directory_of(store, layer.container))


def announce(store: Store, lease: Lease, new: Mounted, sign: str) -> None:
    """Notes a mount that is going to be made under the lease. Its snapshot stays from now on, whoever made it.

    Raises ``InUseError`` when the snapshot is mounted or something of ours is at the target, ``NotFoundError`` when the
    layer is gone.
    """
    all_mounts(store)  # forgets what is gone
    with store.database.write() as db:
        if new.writable and not db.execute("SELECT 1 FROM writable WHERE name = ?", (new.writable,)).fetchone():
            raise NotFoundError(f"{new.writable}: has been removed meanwhile")
        rows = _rows(db)
        look = Look(store, rows, everywhere=False)
        for row in rows:
            found = look.found.get(key_of(row))
            if key_of(row) == (new.driver, new.key):
                raise _in_use(found or _of_row(row))
            there = found or (_of_row(row) if key_of(row) in look.making else None)
            if there is not None and there.here and there.target == new.target:
                place = show_path(new.target)
                raise InUseError(f"{place}: something of ours is mounted there already: `fastlayer umount` it first")
        _insert(db, new, sign, lease=lease.id)
        db.execute("UPDATE snapshots SET lease = NULL WHERE driver = ? AND key = ?", (new.driver, new.key))


def _stored(target: str) -> str | bytes:
    """SQLite takes no text that is not UTF-8; the column takes bytes as well."""
    raw = os.fsencode(target)
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw


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
            with store.database.write() as db:
                added = _insert(db, new, f"overlay:{tree}" if over else bound, number=entry.number)
            return new if added else None
    return None


def _insert(db: sqlite3.Connection, new: Mounted, sign: str, *, number: int = 0, lease: str | None = None) -> bool:
    """Whether the mount was not in the books yet."""
    added = db.execute(
        "INSERT OR IGNORE INTO mounts (target, driver, key, image, writable, created_ns, depth, mount_number, boot_id,"
        " mount_ns, sign, lease) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (_stored(new.target), *new[1:7], number, _boot_id(), _namespace(), sign, lease),
    )
    return added.rowcount == 1


def proposed(target: str, driver: str, key: str, image: str, layer: str | None, depth: int) -> Mounted:
    """A mount that is to be made now."""
    return Mounted(target, driver, key, image, layer, time.time_ns(), depth, True)


def find(store: Store, text: str) -> Mounted:
    """By its target - here, if one is mounted there - or by the name of its writable layer."""
    place = os.path.realpath(text) if text else ""
    found = [mount for mount in all_mounts(store) if mount.target == place or mount.writable == text]
    if not found:
        raise NotFoundError(f"{show_path(text)}: nothing of ours is mounted there: `fastlayer mounts` lists what is")
    return max(found, key=lambda mount: mount.here)


class Look:
    """One look at what the kernel has mounted of all ``rows``. ``found``: what is there, where it is now.

    ``making``: someone is about to mount them. ``everywhere``: as of ``search.places``.
    """

    def __init__(self, store: Store, rows: list[sqlite3.Row], *, everywhere: bool = True) -> None:
        boot_id = _boot_id()
        self.making = {key_of(row) for row in rows if row["lease"] is not None and store.leases.alive(row["lease"])}
        now = [row for row in rows if row["boot_id"] == boot_id]
        self._places = places(now, self.making, everywhere=everywhere)
        self.found = {key_of(row): _at(row, self._places[key_of(row)]) for row in now if key_of(row) in self._places}

    def number(self, key: Key) -> int:
        """Of the mount; 0 when it is not seen."""
        return self._places[key].number if key in self._places else 0


def is_on_top(store: Store, found: Mounted) -> bool:
    """Whether a path lookup ends at the mount: nobody has mounted something else over it."""
    from fastlayer.errors import OperandError
    from fastlayer.mounts.table import find as top_of

    with store.database.read() as db:
        look = Look(store, _rows(db), everywhere=False)
    try:
        top = top_of(found.target)
    except OperandError:
        return False
    return top is not None and top.number == look.number((found.driver, found.key))


def _in_use(found: Mounted) -> InUseError:
    name, place = found.writable or found.key, show_path(found.target)
    if found.here:
        return InUseError(f"{name}: is mounted at {place}: `fastlayer umount` it first")
    return InUseError(f"{name}: is mounted at {elsewhere(found)}")


def elsewhere(found: Mounted) -> str:
    """Where a mount of another namespace is, and what to do."""
    of = f" (process {found.process} is in it)" if found.process else ""
    return f"{show_path(found.target)}, in another mount namespace{of}: unmount it there, or end its processes"


def _at(row: sqlite3.Row, place: Place) -> Mounted:
    found = _of_row(row)
    depth = 1 if place.copy else found.depth
    return found._replace(target=place.target, here=place.here, process=place.process, depth=depth)


def _of_row(row: sqlite3.Row) -> Mounted:
    return Mounted(
        os.fsdecode(row["target"]),
        row["driver"],
        row["key"],
        row["image"],
        row["writable"],
        row["created_ns"],
        row["depth"],
        row["mount_ns"] == _namespace() and row["boot_id"] == _boot_id(),
    )


def _rows(db: sqlite3.Connection) -> list[sqlite3.Row]:
    return list(db.execute("SELECT * FROM mounts"))


def forget_if_gone(store: Store, found: Mounted) -> None:
    """After an unmount. A copy of the mount elsewhere keeps it in the books."""
    _forget(store, [(found.driver, found.key)])


def withdraw(store: Store, lease: Lease, new: Mounted) -> None:
    """The announced mount could not be made; its view is the lease's again, and goes with it."""
    with store.database.write() as db:
        db.execute("DELETE FROM mounts WHERE driver = ? AND key = ?", (new.driver, new.key))
        if new.writable is None:
            db.execute("UPDATE snapshots SET lease = ? WHERE driver = ? AND key = ?", (lease.id, new.driver, new.key))


def _forget(store: Store, gone: list[Key]) -> None:
    """These mounts are over; views made for them go, too, in the same transaction.

    They are looked for again within it: a maker may just have finished, and of several that look the same one must
    stay while any of them is somewhere.
    """
    if store.read_only:
        return
    from fastlayer.snapshot.snapshotter import Snapshotter

    views: dict[str, list[int]] = {}
    with store.lease("forget mounts") as lease:
        with store.database.write() as db:
            rows = _rows(db)
            look = Look(store, rows)
            for row in rows:
                key = key_of(row)
                if key not in gone or key in look.found or key in look.making:
                    continue
                db.execute("DELETE FROM mounts WHERE driver = ? AND key = ?", key)
                if row["writable"] is None:
                    views.setdefault(row["driver"], []).extend(_views(db, key))
            for numbers in views.values():
                Snapshotter.mark_removed(db, numbers, lease.id)
        for driver, numbers in views.items():
            store.snapshotter_of(driver).finish_removal(numbers)


def _views(db: sqlite3.Connection, key: Key) -> list[int]:
    found = db.execute("SELECT number FROM snapshots WHERE driver = ? AND key = ? AND state = 'ready'", key)
    return [int(row["number"]) for row in found]


def _boot_id() -> str:
    with open("/proc/sys/kernel/random/boot_id") as file:
        return file.read().strip()


def _namespace() -> int:
    from fastlayer.mounts.namespaces import current

    return current()
