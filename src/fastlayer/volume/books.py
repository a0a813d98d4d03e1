"""The books of volumes: tables ``volumes``, ``volume_users`` and ``volume_snapshots`` of the database.

A volume that is being made or removed has a lease in its row; when its holder is dead, what it did is undone or
finished (``volumes.clear_dead``). A user of an earlier boot has nothing mounted any more, but still has the volume.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from fastlayer._values import NamedTuple
from fastlayer.errors import AlreadyExistsError, InUseError, NotFoundError, show_path
from fastlayer.volume.names import is_anonymous

if TYPE_CHECKING:
    import sqlite3

    from fastlayer.metadata.leases import Lease
    from fastlayer.store.store import Store

LOCAL = "local"  # the driver that is always there
CLIENT = "plugin-"  # begins users that are mounts of a client of our plugin


class Volume(NamedTuple):
    """A volume. ``options``: of its driver, as they were given; ``snapshot``: (driver, key) of its active snapshot when
    it is made of an image."""

    name: str
    driver: str
    options: Mapping[str, str]
    labels: Mapping[str, str]
    created_ns: int
    snapshot: tuple[str, str] | None = None

    @property
    def anonymous(self) -> bool:
        """Whether nobody has named it."""
        return is_anonymous(self.labels)


class User(NamedTuple):
    """Who has a volume. ``mounted``: needs its files now. ``owner``: the process that asked (``process_name``)."""

    volume: str
    user: str
    mounted: bool
    mount_ns: int
    owner: str


class Snapshot(NamedTuple):
    """A named state of a volume. ``key``: the committed snapshot, of a volume that is made of an image."""

    volume: str
    name: str
    key: str | None
    created_ns: int


class Unfinished(NamedTuple):
    """A volume that is being made or removed (``state``) under a lease."""

    volume: Volume
    state: str
    lease: str


# ---- volumes -----------------------------------------------------------------------------------------


def find(store: Store, name: str) -> Volume:
    """Raises ``NotFoundError``."""
    with store.database.read() as db:
        row = db.execute("SELECT * FROM volumes WHERE name = ? AND state = 'ready'", (name,)).fetchone()
    if row is None:
        raise NotFoundError(f"{show_path(name)}: no such volume: `fastlayer volume ls` lists them")
    return _volume(row)


def is_known(store: Store, name: str) -> bool:
    """Whether there is a volume of that name, in whatever state."""
    with store.database.read() as db:
        return db.execute("SELECT 1 FROM volumes WHERE name = ?", (name,)).fetchone() is not None


def all_of(store: Store) -> list[Volume]:
    """All volumes, by name."""
    with store.database.read() as db:
        return [_volume(row) for row in db.execute("SELECT * FROM volumes WHERE state = 'ready' ORDER BY name")]


def begin(store: Store, lease: Lease, new: Volume) -> None:
    """Notes that a volume is going to be made. Raises ``AlreadyExistsError``."""
    with store.database.write() as db:
        if db.execute("SELECT 1 FROM volumes WHERE name = ?", (new.name,)).fetchone():
            raise AlreadyExistsError(f"volume {new.name}: is being made or removed by another process: try again")
        _insert(db, new, "making", lease.id)


def adopt(store: Store, new: Volume) -> None:
    """Notes a volume whose data is there. Raises ``AlreadyExistsError``."""
    with store.database.write() as db:
        if db.execute("SELECT 1 FROM volumes WHERE name = ?", (new.name,)).fetchone():
            raise AlreadyExistsError(f"volume {new.name}: exists already")
        _insert(db, new, "ready", None)


def _insert(db: sqlite3.Connection, new: Volume, state: str, lease: str | None) -> None:
    db.execute(
        "INSERT INTO volumes (name, driver, options, labels, state, lease, created_ns) VALUES (?, ?, ?, ?, ?, ?, ?)",
        (
            new.name,
            new.driver,
            json.dumps(dict(new.options)),
            json.dumps(dict(new.labels)),
            state,
            lease,
            new.created_ns,
        ),
    )


def finish(store: Store, name: str) -> None:
    """The volume has been made."""
    with store.database.write() as db:
        db.execute("UPDATE volumes SET state = 'ready', lease = NULL WHERE name = ?", (name,))


def set_snapshot(store: Store, name: str, driver: str, key: str) -> None:
    """The volume is this active snapshot from now on, which lives as long as it does."""
    with store.database.write() as db:
        db.execute("UPDATE volumes SET snapshot_driver = ?, snapshot_key = ? WHERE name = ?", (driver, key, name))
        db.execute("UPDATE snapshots SET lease = NULL WHERE driver = ? AND key = ?", (driver, key))


def doom(store: Store, lease: Lease, name: str) -> None:
    """From now on the volume is gone for everyone; ``forget`` follows. Raises ``InUseError``, ``NotFoundError``."""
    with store.database.write() as db:
        row = db.execute("SELECT state FROM volumes WHERE name = ?", (name,)).fetchone()
        if row is None or row["state"] == "removing":
            raise NotFoundError(f"volume {name}: has been removed meanwhile")
        _refuse_used(db, name)
        db.execute("UPDATE volumes SET state = 'removing', lease = ? WHERE name = ?", (lease.id, name))


def _refuse_used(db: sqlite3.Connection, name: str) -> None:
    users = [str(row[0]) for row in db.execute("SELECT user FROM volume_users WHERE volume = ? LIMIT 4", (name,))]
    if users:
        shown = ", ".join(users[:3]) + (", ..." if len(users) > 3 else "")
        raise InUseError(f"volume {name}: is in use ({shown}): remove what uses it first")


def forget(store: Store, name: str) -> None:
    """The volume is not there any more."""
    with store.database.write() as db:
        db.execute("DELETE FROM volumes WHERE name = ?", (name,))


def in_work(store: Store) -> list[Unfinished]:
    """What is being made or removed."""
    with store.database.read() as db:
        rows = db.execute("SELECT * FROM volumes WHERE state != 'ready'").fetchall()
    return [Unfinished(_volume(row), row["state"], row["lease"] or "") for row in rows]


def left_by_the_dead(store: Store) -> list[Unfinished]:
    """What was being made or removed by processes that were killed."""
    return [entry for entry in in_work(store) if not store.leases.alive(entry.lease)]


def take_over(store: Store, lease: Lease, entry: Unfinished) -> bool:
    """Whether the work of a killed process is now the lease's: nobody else was faster."""
    with store.database.write() as db:
        done = db.execute(
            "UPDATE volumes SET state = 'removing', lease = ? WHERE name = ? AND lease IS ? AND state != 'ready'",
            (lease.id, entry.volume.name, entry.lease or None),
        )
        return done.rowcount == 1


def _volume(row: sqlite3.Row) -> Volume:
    snapshot = (row["snapshot_driver"], row["snapshot_key"]) if row["snapshot_key"] else None
    return Volume(
        row["name"],
        row["driver"],
        json.loads(row["options"]),
        json.loads(row["labels"]),
        row["created_ns"],
        snapshot,
    )


# ---- who fills one -------------------------------------------------------------------------------------


def set_filling(store: Store, name: str, lease: str | None) -> None:
    """Who copies an image's files into the volume now; None: it has all of them, or none."""
    with store.database.write() as db:
        db.execute("UPDATE volumes SET filling = ? WHERE name = ?", (lease, name))


def half_filled(store: Store, name: str) -> bool:
    """Whether who filled it was killed before it had all."""
    with store.database.read() as db:
        row = db.execute("SELECT filling FROM volumes WHERE name = ?", (name,)).fetchone()
    return row is not None and row["filling"] is not None and not store.leases.alive(row["filling"])


# ---- users -----------------------------------------------------------------------------------------------


def users_of(store: Store, name: str | None = None) -> list[User]:
    """Who has the volume, or any."""
    boot = boot_id()
    with store.database.read() as db:
        rows = db.execute("SELECT * FROM volume_users WHERE volume = ? OR ? IS NULL ORDER BY user", (name, name))
        return [_user(row, boot) for row in rows]


def uses_of(store: Store, user: str) -> list[User]:
    """What a user has."""
    boot = boot_id()
    with store.database.read() as db:
        rows = db.execute("SELECT * FROM volume_users WHERE user = ? ORDER BY volume", (user,))
        return [_user(row, boot) for row in rows]


def note_user(store: Store, name: str, user: str, *, mounted: bool, owner: str = "") -> bool:
    """Notes that ``user`` has the volume, and whether it needs its files; tells whether it is new.

    Raises ``NotFoundError`` when the volume has been removed meanwhile.
    """
    from fastlayer.mounts.namespaces import current

    with store.database.write() as db:
        if not db.execute("SELECT 1 FROM volumes WHERE name = ? AND state = 'ready'", (name,)).fetchone():
            raise NotFoundError(f"volume {name}: has been removed meanwhile")
        known = db.execute("SELECT 1 FROM volume_users WHERE volume = ? AND user = ?", (name, user)).fetchone()
        db.execute(
            "INSERT OR REPLACE INTO volume_users (volume, user, mounted, boot_id, mount_ns, owner) "
            "VALUES (?, ?, ?, ?, ?, ?)",
            (name, user, mounted, boot_id(), current(), owner),
        )
        return known is None


def settle(db: sqlite3.Connection, user: str) -> None:
    """What the user has is no process's any more: it stays until it is given back. Part of the caller's transaction."""
    db.execute("UPDATE volume_users SET owner = '' WHERE user = ?", (user,))


def drop_user(store: Store, name: str, user: str, *, keep: bool = False) -> None:
    """The user needs the files no more; without ``keep`` it has the volume no more, either."""
    with store.database.write() as db:
        if keep:
            db.execute("UPDATE volume_users SET mounted = 0 WHERE volume = ? AND user = ?", (name, user))
        else:
            db.execute("DELETE FROM volume_users WHERE volume = ? AND user = ?", (name, user))


def _user(row: sqlite3.Row, boot: str) -> User:
    mounted = bool(row["mounted"]) and row["boot_id"] == boot
    return User(row["volume"], row["user"], mounted, row["mount_ns"], row["owner"])


def boot_id() -> str:
    """Another text each time the machine is started."""
    with open("/proc/sys/kernel/random/boot_id") as file:
        return file.read().strip()


def process_name(pid: int) -> str:
    """A process as users note it; empty when it has ended. Its number alone may be another's later."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return ""
    return f"{pid} {fields[19].decode()}"


def is_alive(owner: str) -> bool:
    """Whether the process still runs."""
    pid = owner.partition(" ")[0]
    return pid.isdecimal() and process_name(int(pid)) == owner


# ---- snapshots ---------------------------------------------------------------------------------------------


def snapshots_of(store: Store, name: str) -> list[Snapshot]:
    """The named states of a volume, oldest first."""
    with store.database.read() as db:
        rows = db.execute("SELECT * FROM volume_snapshots WHERE volume = ? ORDER BY created_ns, name", (name,))
        return [Snapshot(row["volume"], row["name"], row["key"], row["created_ns"]) for row in rows]


def find_snapshot(store: Store, volume: str, name: str) -> Snapshot:
    """Raises ``NotFoundError``."""
    for found in snapshots_of(store, volume):
        if found.name == name:
            return found
    raise NotFoundError(
        f"{volume}: has no snapshot {show_path(name)}: `fastlayer volume snapshots ls {volume}` lists them"
    )


def refuse_state(store: Store, volume: str, name: str) -> None:
    """Raises ``AlreadyExistsError`` when the volume has a snapshot of that name."""
    with store.database.read() as db:
        if db.execute("SELECT 1 FROM volume_snapshots WHERE volume = ? AND name = ?", (volume, name)).fetchone():
            raise AlreadyExistsError(
                f"{volume}: has a snapshot {name} already: choose another name, or "
                f"`fastlayer volume snapshots rm {volume} {name}`"
            )


def add_snapshot(store: Store, volume: str, name: str, key: str | None) -> Snapshot:
    """Notes a state that has been made. Its committed snapshot, if it is one, lives as long.

    Raises ``AlreadyExistsError``.
    """
    found = Snapshot(volume, name, key, time.time_ns())
    with store.database.write() as db:
        refuse_state(store, volume, name)
        db.execute("INSERT INTO volume_snapshots (volume, name, key, created_ns) VALUES (?, ?, ?, ?)", found)
        if key is not None:
            db.execute("UPDATE snapshots SET lease = NULL WHERE key = ?", (key,))
    return found


def drop_snapshot(store: Store, volume: str, name: str) -> None:
    with store.database.write() as db:
        db.execute("DELETE FROM volume_snapshots WHERE volume = ? AND name = ?", (volume, name))


def random_key() -> str:
    """A part of a name that nobody else has."""
    return os.urandom(8).hex()
