"""Snapshots: trees that are made of each other (the words are containerd's, ``core/snapshots/snapshotter.go``).

* A *committed* snapshot has a ``name``, never changes again and may be the *parent* of others. The layers of an image
  are committed snapshots named by their chain ids.
* An *active* snapshot has a ``key``; it looks like its parent when it is made and can be written to.
* A *view* has a ``key``, too; it looks like its parent and cannot be written to.

A life::

    prepare(key, parent)
    ready(key)             -> mounts: mount them, write
    commit(name, key)      the active snapshot becomes the committed one `name`; `key` is free again
    view(key2, name)       then ready(key2) -> mounts to look at it
    remove(key2)           then remove(name), once nothing has it as its parent

The snapshotter keeps the books of one driver (``snapshot/driver.py``) in the database and is safe for any number of
processes and threads. Every change is: a row that says what is going to happen and under which lease - the driver's
work - the row says that it has happened. Whoever is killed in between leaves a row of a dead lease; ``clear_dead``
undoes it.
"""

from __future__ import annotations

import errno
import json
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import nullcontext
from functools import cached_property
from typing import TYPE_CHECKING, cast

from fastlayer._values import NamedTuple
from fastlayer.errors import AlreadyExistsError, FastlayerError, InUseError, NotFoundError, UsageError
from fastlayer.snapshot.driver import NO_OPTIONS, Driver, Kind, Options, State, Usage

if TYPE_CHECKING:
    import sqlite3

    from fastlayer.layer.diff import Changes
    from fastlayer.metadata.database import Database
    from fastlayer.metadata.leases import Lease, Leases
    from fastlayer.mounts.mount import Mount

_MAX_KEY = 1024  # characters
_OPTION = "storage-opt."  # begins the labels that hold options


class Info(NamedTuple):
    """A snapshot as others see it. ``key`` is the name of a committed one; ``parent`` a name, or None at the bottom."""

    number: int
    key: str
    kind: State
    parent: str | None
    labels: Mapping[str, str]
    created_ns: int

    @property
    def options(self) -> Options:
        """How it is mounted: what it was made with; a committed one has none, they were for writing to it."""
        return NO_OPTIONS if self.kind == "committed" else options_in(self.labels)


class Snapshotter:
    """The snapshots of one driver in one store."""

    def __init__(self, database: Database, leases: Leases, driver: Driver) -> None:
        self.driver = driver
        self.database = database
        self.leases = leases

    # ---- making ------------------------------------------------------------------------------

    def prepare(
        self,
        key: str,
        parent: str | None = None,
        *,
        labels: Mapping[str, str] | None = None,
        options: Options = NO_OPTIONS,
        size: int | None = None,
        lease: Lease | None = None,
    ) -> None:
        """Makes the active snapshot ``key`` on the committed ``parent`` (None: an empty tree).

        ``options``: how it is mounted, each time, in the driver's words (``Driver.check_options``). ``size``: bytes it
        may take for itself, where the driver can limit. ``lease``: until it is committed the snapshot lives no longer
        than its holder. Raises ``AlreadyExistsError``, ``NotFoundError`` for the parent, and what the driver raises;
        then nothing is left.
        """
        self._make(key, parent, "active", labels or {}, options, size, lease)

    def view(
        self,
        key: str,
        parent: str,
        *,
        labels: Mapping[str, str] | None = None,
        options: Options = NO_OPTIONS,
        lease: Lease | None = None,
    ) -> None:
        """Makes the read-only snapshot ``key`` of the committed ``parent``."""
        self._make(key, parent, "view", labels or {}, options, None, lease)

    def _make(
        self,
        key: str,
        parent: str | None,
        kind: Kind,
        labels: Mapping[str, str],
        options: Options,
        size: int | None,
        keeper: Lease | None,
    ) -> None:
        _check_key(key)
        self.driver.check_options(options, kind)
        labels = {**labels, **{_OPTION + name: value for name, value in options.items()}}
        floor = self._floor
        with nullcontext(keeper) if keeper else self.leases.hold(f"{kind} snapshot {key}") as lease:
            with self.database.write() as db:
                self._refuse_taken(db, key)
                above = None if parent is None else self._committed(db, parent)
                number = self._insert(db, key, kind, above, lease.id, labels, size, floor)
                parents = [] if above is None else [above, *_ancestors(db, above)]
            with self._undone_on_failure(number):
                self.driver.create(number, parents, kind, size=size)
                self._finish(number, keeper)

    def _finish(self, number: int, keeper: Lease | None = None) -> None:
        with self.database.write() as db:
            db.execute(
                "UPDATE snapshots SET state = 'ready', lease = ? WHERE number = ?",
                (keeper.id if keeper else None, number),
            )

    def _insert(
        self,
        db: sqlite3.Connection,
        key: str,
        kind: str,
        parent: int | None,
        lease: str,
        labels: Mapping[str, str],
        size: int | None,
        floor: int,
    ) -> int:
        last = db.execute("SELECT seq FROM sqlite_sequence WHERE name = 'snapshots'").fetchone()
        number = floor + 1 if floor > (last[0] if last else 0) else None  # None: SQLite's next
        cursor = db.execute(
            "INSERT INTO snapshots (number, driver, key, kind, state, parent, lease, labels, size_limit, created_ns) "
            "VALUES (?, ?, ?, ?, 'making', ?, ?, ?, ?, ?)",
            (number, self.driver.name, key, kind, parent, lease, json.dumps(dict(labels)), size, time.time_ns()),
        )
        return int(cursor.lastrowid or 0)

    @cached_property
    def _floor(self) -> int:
        """The highest number on disk: a database that was made anew or restored may know less than there is."""
        return max(self.driver.numbers(), default=0)

    # ---- using -------------------------------------------------------------------------------

    def mounts(self, key: str) -> list[Mount]:
        """How the snapshot is mounted; a committed one read-only. To look at, also while it is mounted."""
        number, parents, row = self._place(key)
        return self.driver.mounts(number, parents, row["kind"], _info(row).options)

    def ready(self, key: str) -> list[Mount]:
        """The mounts, to be mounted now. Nobody has an active snapshot mounted, or is about to.

        Raises ``DriverError`` when it must not be used any more.
        """
        number, parents, row = self._place(key)
        self.driver.make_ready(number, parents, row["kind"], _info(row).options)
        return self.driver.mounts(number, parents, row["kind"], _info(row).options)

    def sync(self, key: str) -> None:
        """What an active snapshot holds, and copies of it, can be relied on: see ``Driver.sync``."""
        self.driver.sync(self.number(key)[0])

    def stat(self, key: str) -> Info:
        """Raises ``NotFoundError``."""
        with self.database.read() as db:
            return _info(self._row(db, key))

    def exists(self, key: str) -> bool:
        """Whether there is a finished snapshot of that key or name."""
        with self.database.read() as db:
            return self._find(db, key) is not None

    def walk(self) -> Iterator[Info]:
        """All snapshots, oldest first."""
        with self.database.read() as db:
            rows = db.execute(
                f"{_SELECT} WHERE s.driver = ? AND s.state = 'ready' ORDER BY s.number", (self.driver.name,)
            ).fetchall()
        return map(_info, rows)

    def usage(self, key: str) -> Usage:
        """What the snapshot takes for itself. That of a committed one is measured once and remembered."""
        number, parents, row = self._place(key)
        if row["kind"] == "committed" and row["bytes"] is not None:
            return Usage(row["bytes"], row["inodes"], row["shared"])
        found = self.driver.usage(number, parents)
        if row["kind"] == "committed" and not self.database.read_only:
            with self.database.write() as db:
                db.execute("UPDATE snapshots SET bytes = ?, inodes = ?, shared = ? WHERE number = ?", (*found, number))
        return found

    def changes(self, key: str) -> Changes:
        """What the snapshot changes in its parent; the caller closes the result."""
        number, parents, _ = self._place(key)
        return self.driver.changes(number, parents)

    def number(self, key: str) -> tuple[int, list[int]]:
        """For callers that work with the driver itself: the number of a snapshot and of those below it."""
        number, parents, _ = self._place(key)
        return number, parents

    def _place(self, key: str) -> tuple[int, list[int], sqlite3.Row]:
        with self.database.read() as db:
            row = self._row(db, key)
            return row["number"], _ancestors(db, row["number"]), row

    # ---- committing --------------------------------------------------------------------------

    def commit(self, name: str, key: str, *, parent: str | None = None, lease: Lease | None = None) -> None:
        """The active snapshot ``key`` becomes the committed one ``name``. Nobody has it mounted.

        ``lease``: until it is renamed it lives no longer than its holder.
        ``parent``: what it lies on from now on, for a snapshot that was made without a parent by an independent driver.
        Raises ``AlreadyExistsError`` when the name is taken, and what the driver raises; it stays active then.
        """
        _check_key(name)
        self.sync(key)
        with self.leases.hold(f"commit snapshot {name}") as sealer:
            with self.database.write() as db:
                row = self._active(db, key)
                self._refuse_taken(db, name)
                above = row["parent"]
                if parent is not None:
                    if above is not None or not self.driver.independent:
                        raise UsageError(f"snapshot {key}: its parent is given when it is made")
                    above = self._committed(db, parent)
                db.execute(
                    "UPDATE snapshots SET key = ?, kind = 'committed', parent = ?, lease = ?, sealing = ? "
                    "WHERE number = ?",
                    (name, above, lease.id if lease else None, sealer.id, row["number"]),
                )
            try:
                self._seal(row["number"])
            except (FastlayerError, OSError):
                self._take_back(row, key)
                raise

    def _take_back(self, row: sqlite3.Row, key: str) -> None:
        """A commit that the driver refused: the snapshot is active, as before."""
        with self.database.write() as db:
            db.execute(
                "UPDATE snapshots SET key = ?, kind = 'active', parent = ?, lease = ?, sealing = NULL WHERE number = ?",
                (key, row["parent"], row["lease"], row["number"]),
            )

    def _seal(self, number: int) -> None:
        with self.database.read() as db:
            parents = _ancestors(db, number)
        self.driver.seal(number, parents)
        with self.database.write() as db:
            db.execute("UPDATE snapshots SET sealing = NULL WHERE number = ?", (number,))

    def duplicate(
        self, name: str, key: str, *, live: bool = False, with_options: bool = False, lease: Lease | None = None
    ) -> int:
        """Makes the committed snapshot ``name`` of what the active ``key`` holds now; ``key`` stays in use.

        ``with_options``: it remembers the options and the limit of ``key``, for a ``fork`` of it.
        ``live``, and what is returned: as of ``Driver.duplicate``. ``lease``: until it is renamed the new one lives no
        longer than its holder.
        """
        _check_key(name)
        floor = self._floor
        with nullcontext(lease) if lease else self.leases.hold(f"commit {key}") as holder:
            with self.database.write() as db:
                row = self._active(db, key)
                self._refuse_taken(db, name)
                parents = _ancestors(db, row["number"])
                labels = json.loads(row["labels"]) if with_options else {}
                size = row["size_limit"] if with_options else None
                number = self._insert(db, name, "committed", row["parent"], holder.id, labels, size, floor)
            with self._undone_on_failure(number):
                changed = self.driver.duplicate(number, parents, row["number"], live=live)
                self.driver.sync(row["number"])
                self._finish(number, lease)
        return changed

    def fork(self, key: str, source: str, *, live: bool = False, lease: Lease | None = None) -> int:
        """Makes the active snapshot ``key`` of what ``source`` - active, or a duplicate of such - holds now, with the
        same parent, options and limit; it may be of a name that is ``source``'s when that has been removed.

        ``live``, and what is returned: as of ``Driver.duplicate``; ``lease`` as of ``prepare``.
        """
        _check_key(key)
        floor = self._floor
        with nullcontext(lease) if lease else self.leases.hold(f"fork {source}") as holder:
            with self.database.write() as db:
                row = self._row(db, source)
                if row["kind"] == "view":
                    raise UsageError(f"snapshot {source}: is a view: prepare a snapshot on what it shows instead")
                self._refuse_taken(db, key)
                parents, size = _ancestors(db, row["number"]), row["size_limit"]
                labels = json.loads(row["labels"])
                number = self._insert(db, key, "active", row["parent"], holder.id, labels, size, floor)
            with self._undone_on_failure(number):
                changed = self.driver.fork(number, parents, row["number"], size=size, live=live)
                self._finish(number, lease)
        return changed

    def adopt(self, name: str, number: int, parents: list[int]) -> None:
        """A snapshot on disk that no row speaks of is the committed one ``name`` on the nearest of ``parents``.

        Whoever says so has looked what it holds. Raises ``AlreadyExistsError``, and what the driver raises.
        """
        _check_key(name)
        self.driver.seal(number, parents)
        with self.database.write() as db:
            self._refuse_taken(db, name)
            db.execute(
                "INSERT INTO snapshots (number, driver, key, kind, state, parent, created_ns) "
                "VALUES (?, ?, ?, 'committed', 'ready', ?, ?)",
                (number, self.driver.name, name, parents[0] if parents else None, time.time_ns()),
            )

    def label(self, key: str, name: str, value: str) -> None:
        """Gives the active snapshot ``key`` a label, or another value of one."""
        with self.database.write() as db:
            row = self._active(db, key)
            labels = json.dumps({**json.loads(row["labels"]), name: value})
            db.execute("UPDATE snapshots SET labels = ? WHERE number = ?", (labels, row["number"]))

    def inherit(self, key: str, label: str, values: Collection[str], lease: Lease) -> bool:
        """The latest active snapshot of a dead lease that has one of these ``values`` for a ``label`` becomes ``key``,
        of this one. Whether there is any."""
        _check_key(key)
        with self.database.read() as db:
            rows = db.execute(
                "SELECT number, lease, labels FROM snapshots WHERE driver = ? AND kind = 'active' AND state = 'ready'"
                " AND lease IS NOT NULL AND labels != '{}' ORDER BY number DESC",
                (self.driver.name,),
            ).fetchall()
        for row in rows:
            if json.loads(row["labels"]).get(label) not in values or self.leases.alive(row["lease"]):
                continue
            with self.database.write() as db:
                taken = db.execute(
                    "UPDATE snapshots SET key = ?, lease = ? WHERE number = ? AND lease = ? AND state = 'ready'",
                    (key, lease.id, row["number"], row["lease"]),
                )
                if taken.rowcount:
                    return True
        return False

    def rename(self, name: str, key: str) -> None:
        """Gives a committed snapshot another name. Raises ``AlreadyExistsError``."""
        _check_key(name)
        with self.database.write() as db:
            row = self._row(db, key)
            self._refuse_taken(db, name)
            db.execute("UPDATE snapshots SET key = ?, lease = NULL WHERE number = ?", (name, row["number"]))

    # ---- removing ----------------------------------------------------------------------------

    def remove(self, key: str) -> None:
        """Removes the snapshot. Raises ``InUseError`` while others are made of it, or the driver sees it mounted."""
        with self.leases.hold(f"remove snapshot {key}") as lease:
            with self.database.write() as db:
                row = self._row(db, key)
                child = db.execute("SELECT key FROM snapshots WHERE parent = ? LIMIT 1", (row["number"],)).fetchone()
                if child is not None:
                    raise InUseError(f"snapshot {key}: {child[0]} is made of it: remove that first")
                self.mark_removed(db, [row["number"]], lease.id)
            try:
                self.finish_removal([row["number"]])
            except InUseError:
                with self.database.write() as db:
                    db.execute(
                        "UPDATE snapshots SET state = 'ready', lease = ? WHERE number = ?",
                        (row["lease"], row["number"]),
                    )
                raise

    @staticmethod
    def mark_removed(db: sqlite3.Connection, numbers: list[int], lease: str) -> None:
        """Within a write transaction: from now on the snapshots are gone for everyone; ``finish_removal`` follows."""
        db.executemany(
            "UPDATE snapshots SET state = 'removing', lease = ? WHERE number = ?", [(lease, n) for n in numbers]
        )

    def clear_dead(self) -> int:
        """Undoes what the dead were making or removing, finishes what they were committing; returns how many went.

        What is found dead is looked at again under the write lock: its holder may just have finished.
        """
        found = (
            "SELECT number, parent, lease, sealing FROM snapshots "
            "WHERE driver = ? AND (lease IS NOT NULL OR sealing IS NOT NULL)"
        )
        with self.database.read() as db:
            rows = db.execute(found, (self.driver.name,)).fetchall()
        leases = {str(lease) for row in rows for lease in (row["lease"], row["sealing"]) if lease is not None}
        dead = {lease for lease in leases if not self.leases.alive(lease)}
        if not dead:
            return 0
        with self.leases.hold("clear what the dead left") as lease:
            with self.database.write() as db:
                rows = db.execute(found, (self.driver.name,)).fetchall()
                gone = children_first({int(r["number"]): r["parent"] for r in rows if r["lease"] in dead})
                unsealed = [int(r["number"]) for r in rows if r["sealing"] in dead and r["number"] not in gone]
                self.mark_removed(db, gone, lease.id)
                db.executemany("UPDATE snapshots SET sealing = ? WHERE number = ?", [(lease.id, n) for n in unsealed])
            try:
                self.finish_removal(gone)
            finally:
                for number in unsealed:
                    self._seal(number)
        return len(gone)

    def finish_removal(self, numbers: list[int]) -> None:
        """Clears away snapshots that were marked, children before parents.

        One that cannot go keeps those below it and no others; it stays marked, for ``clear_dead``. Raises, after all
        the rest, what kept the first of them.
        """
        failed: Exception | None = None
        for number in numbers:
            try:
                if failed is None or not self._has_children(number):
                    self.driver.remove(number)
                    self._forget(number)
            except (FastlayerError, OSError) as exc:
                failed = failed or exc
        if failed is not None:
            raise failed

    def _has_children(self, number: int) -> bool:
        with self.database.read() as db:
            return db.execute("SELECT 1 FROM snapshots WHERE parent = ? LIMIT 1", (number,)).fetchone() is not None

    def _forget(self, number: int) -> None:
        with self.database.write() as db:
            db.execute("DELETE FROM snapshots WHERE number = ?", (number,))

    def undo(self, number: int, cause: BaseException | None) -> None:
        """Making a snapshot failed: it goes. What was there before it is not ours and stays."""
        if isinstance(cause, OSError) and cause.errno == errno.EEXIST:
            self._forget(number)
        else:
            self.finish_removal([number])

    # ---- rows --------------------------------------------------------------------------------

    def _undone_on_failure(self, number: int) -> _Undo:
        return _Undo(self, number)

    def _refuse_taken(self, db: sqlite3.Connection, key: str) -> None:
        taken = db.execute(
            "SELECT 1 FROM snapshots WHERE driver = ? AND key = ? AND state != 'removing'", (self.driver.name, key)
        ).fetchone()
        if taken is not None:
            raise AlreadyExistsError(f"snapshot {key}: exists already: use another name, or remove it")

    def _find(self, db: sqlite3.Connection, key: str) -> sqlite3.Row | None:
        row = db.execute(
            f"{_SELECT} WHERE s.driver = ? AND s.key = ? AND s.state = 'ready'", (self.driver.name, key)
        ).fetchone()
        return cast("sqlite3.Row | None", row)

    def _row(self, db: sqlite3.Connection, key: str) -> sqlite3.Row:
        row = self._find(db, key)
        if row is None:
            raise NotFoundError(f"snapshot {key}: there is none with the driver {self.driver.name}")
        return row

    def _committed(self, db: sqlite3.Connection, name: str) -> int:
        row = self._row(db, name)
        if row["kind"] != "committed":
            raise UsageError(f"snapshot {name}: is not committed, so nothing can be made of it")
        return int(row["number"])

    def _active(self, db: sqlite3.Connection, key: str) -> sqlite3.Row:
        row = self._row(db, key)
        if row["kind"] != "active":
            raise UsageError(f"snapshot {key}: is {row['kind']}, only an active one can be committed")
        return row


class _Undo:
    """Clears the snapshot away when the block fails."""

    def __init__(self, snapshotter: Snapshotter, number: int) -> None:
        self._snapshotter = snapshotter
        self._number = number

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, cause: BaseException | None, *_rest: object) -> None:
        if kind is not None:
            self._snapshotter.undo(self._number, cause)


_SELECT = (
    "SELECT s.number, s.key, s.kind, s.parent, p.key AS parent_key, s.labels, s.created_ns, s.bytes, s.inodes, "
    "s.shared, s.lease, s.size_limit "
    "FROM snapshots s LEFT JOIN snapshots p ON p.number = s.parent"
)


def children_first(parents: Mapping[int, int | None]) -> list[int]:
    """Numbers in an order in which they can be removed. ``parents``: number -> the one below it."""
    order: list[int] = []
    left = dict(parents)
    while left:
        needed = set(left.values())
        leaves = sorted((number for number in left if number not in needed), reverse=True)
        order += leaves
        for number in leaves:
            del left[number]
    return order


def _ancestors(db: sqlite3.Connection, number: int) -> list[int]:
    """The numbers below a snapshot, nearest first."""
    rows = db.execute(
        "WITH RECURSIVE below(number, depth) AS ("
        " SELECT parent, 1 FROM snapshots WHERE number = ? AND parent IS NOT NULL"
        " UNION ALL SELECT s.parent, depth + 1 FROM snapshots s JOIN below b ON s.number = b.number"
        " WHERE s.parent IS NOT NULL) SELECT number FROM below ORDER BY depth",
        (number,),
    )
    return [int(row[0]) for row in rows]


def _info(row: sqlite3.Row) -> Info:
    return Info(row["number"], row["key"], row["kind"], row["parent_key"], json.loads(row["labels"]), row["created_ns"])


def options_in(labels: Mapping[str, str]) -> Options:
    """The options among the labels of a snapshot."""
    return {name.removeprefix(_OPTION): value for name, value in labels.items() if name.startswith(_OPTION)}


def _check_key(key: str) -> None:
    if not key or len(key) > _MAX_KEY or not key.isprintable():
        raise UsageError(f"{key!r} is not the name of a snapshot: give 1 to {_MAX_KEY} printable characters")
