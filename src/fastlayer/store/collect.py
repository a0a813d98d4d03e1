"""Garbage collection: what nobody can reach any more goes.

Kept are: images (names), with the manifests, configurations, layer blobs and snapshots they are made of; what the build
cache remembers; active snapshots and views, and what is just being made or removed, with those below them; committed
snapshots that were named by a person (not by a chain id); what living leases hold. Deciding and forgetting is one write
transaction, so that nothing that is being claimed at the same time can go; claiming is a write transaction, too
(``claim_blobs``).
"""

from __future__ import annotations

import json
import os
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from fastlayer._values import NamedTuple
from fastlayer.errors import FastlayerError
from fastlayer.oci.chain import chain_ids
from fastlayer.oci.digest import Digest
from fastlayer.snapshot.snapshotter import Snapshotter, children_first
from fastlayer.store import downloads
from fastlayer.store.layout_index import write_index

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from fastlayer.metadata.leases import Lease
    from fastlayer.store.store import Store

_RECENT = 3600  # seconds
_REACHABLE_BLOBS = """
WITH RECURSIVE reachable(digest) AS (
    SELECT digest FROM images
    UNION SELECT ref FROM lease_refs WHERE kind = 'blob'
    UNION SELECT manifest FROM writable
    UNION SELECT layer FROM build_steps WHERE layer IS NOT NULL
    UNION SELECT child FROM blob_refs JOIN reachable ON parent = reachable.digest
) SELECT digest FROM reachable
"""
_KEPT_SNAPSHOTS = """
WITH RECURSIVE kept(number) AS (
    SELECT number FROM snapshots WHERE kind != 'committed' OR state != 'ready' OR key NOT LIKE 'sha256:%'
    UNION SELECT number FROM snapshots WHERE key IN (
        SELECT chain_id FROM manifests WHERE digest IN temp.reachable_blobs
        UNION SELECT name FROM temp.lower_stacks
        UNION SELECT ref FROM lease_refs WHERE kind = 'snapshot'
        UNION SELECT chain FROM build_steps WHERE chain IS NOT NULL)
    UNION SELECT parent FROM snapshots JOIN kept ON snapshots.number = kept.number WHERE parent IS NOT NULL
) SELECT number FROM kept
"""


class Collected(NamedTuple):
    """What went: blobs, their bytes, and snapshots. ``failed``: why others are still there."""

    blobs: tuple[str, ...]
    bytes: int
    snapshots: int
    failed: tuple[FastlayerError, ...] = ()


def claim_blobs(store: Store, lease: Lease, digests: Iterable[str]) -> set[str]:
    """Keeps blobs for the lease from now on, and tells which of them are there."""
    wanted = [str(digest) for digest in digests]
    with store.database.write() as db:
        lease.add(db, "blob", wanted)
        return {digest for digest in wanted if store.content.has(Digest(digest))}


def claim_snapshots(store: Store, lease: Lease, driver: str, names: Iterable[str]) -> set[str]:
    """The same for committed snapshots of a driver."""
    wanted = list(names)
    with store.database.write() as db:
        lease.add(db, "snapshot", wanted)
        return {
            name
            for name in wanted
            if db.execute(
                "SELECT 1 FROM snapshots WHERE driver = ? AND key = ? AND state = 'ready' AND kind = 'committed'",
                (driver, name),
            ).fetchone()
        }


def clear_dead(store: Store) -> int:
    """Undoes what killed processes left behind; returns how many leases, snapshots and half-written blobs went.

    A driver in whose snapshots nobody was at work is not looked for. Raises, after all the rest, what kept one.
    """
    failed: list[FastlayerError] = []
    cleared = 0
    for driver in _drivers_at_work(store):
        with _noted(failed):
            cleared += store.snapshotter_of(driver).clear_dead()
    cleared += store.content.sweep(store.leases.alive)
    cleared += _clear_work(store)
    cleared += downloads.sweep(store.root)[0]
    cleared += store.leases.sweep()
    for error in failed:
        raise error
    return cleared


def _drivers_at_work(store: Store) -> list[str]:
    with store.database.read() as db:
        rows = db.execute("SELECT DISTINCT driver FROM snapshots WHERE lease IS NOT NULL OR sealing IS NOT NULL")
        return sorted(str(row[0]) for row in rows)


@contextmanager
def _noted(failed: list[FastlayerError]) -> Iterator[None]:
    """What cannot be removed - its driver's file system is away, it is somebody else's - keeps nothing else."""
    try:
        yield
    except FastlayerError as exc:
        failed.append(exc)


def work_place(root: Path) -> Path:
    """Where builds keep what ends with them, in a directory named after their lease."""
    return root / "cache" / "work"


def contents_place(root: Path) -> Path:
    """Where lists of what snapshots have are, each named after its snapshot (``image/contents.py``)."""
    return root / "cache" / "contents"


def _clear_contents(store: Store) -> None:
    """Removes those of snapshots that are gone; a new one may belong to one that gets its name in a moment."""
    place = contents_place(store.root)
    if not place.is_dir():
        return
    with store.database.read() as db:
        rows = db.execute("SELECT key FROM snapshots WHERE kind = 'committed'")
        kept = {str(row[0]).rpartition(":")[2] for row in rows}
    for path in place.iterdir():
        with suppress(FileNotFoundError):
            if path.name not in kept and time.time() - path.stat().st_mtime > _RECENT:
                path.unlink()


def _clear_work(store: Store) -> int:
    from shutil import rmtree

    place = work_place(store.root)
    dead = [name for name in os.listdir(place) if not store.leases.alive(name)] if place.is_dir() else []
    for name in dead:
        rmtree(place / name, ignore_errors=True)
    return len(dead)


def collect(
    store: Store, *, dry_run: bool = False, as_if_gone: tuple[Sequence[str], Sequence[str]] = ((), ())
) -> Collected:
    """Removes everything nobody can reach; with ``dry_run`` only tells what would go.

    What cannot go keeps nothing else: see ``Collected.failed``.
    ``as_if_gone``: with ``dry_run``: names of images and of writable layers that would be gone by then.
    """
    if dry_run:
        return _what_would_go(store, *as_if_gone)
    failed: list[FastlayerError] = []
    with _noted(failed):
        clear_dead(store)
    with store.leases.hold("garbage collection") as lease:
        with store.database.write() as db:
            blobs = _unreachable_blobs(store, db)
            doomed = _unreachable_snapshots(db)
            sizes = sum(store.content.size(digest) for digest in blobs)
            _forget(store, db, blobs)
            note_blobs(store, db)
            write_index(store, db, lease)
            Snapshotter.mark_removed(db, [number for _, number in doomed], lease.id)
        for driver in sorted({driver for driver, _ in doomed}):
            numbers = [number for name, number in doomed if name == driver]
            with _noted(failed):
                store.snapshotter_of(driver).finish_removal(numbers)
        with store.database.read() as db:
            left = db.execute("SELECT count(*) FROM snapshots WHERE lease = ?", (lease.id,)).fetchone()[0]
    _clear_contents(store)
    return Collected(tuple(str(digest) for digest in blobs), sizes, len(doomed) - left, tuple(failed))


class _Undone(Exception):
    """Ends a transaction that was only tried."""


def _what_would_go(store: Store, images: Sequence[str], layers: Sequence[str]) -> Collected:
    """The same decisions in a transaction that is undone."""
    found = Collected((), 0, 0)
    try:
        with store.database.write() as db:
            db.executemany("DELETE FROM images WHERE name = ?", [(name,) for name in images])
            db.executemany(
                "DELETE FROM snapshots WHERE (driver, key) IN (SELECT driver, key FROM writable WHERE name = ?)"
                " OR substr(key, 1, 12 + length(?)) = 'checkpoint/' || ? || '/'",
                [(name, name, name) for name in layers],
            )
            db.executemany("DELETE FROM writable WHERE name = ?", [(name,) for name in layers])
            blobs = _unreachable_blobs(store, db)
            sizes = sum(store.content.size(digest) for digest in blobs)
            found = Collected(tuple(map(str, blobs)), sizes, len(_unreachable_snapshots(db)))
            raise _Undone
    except _Undone:
        return found


def reachable_blobs(db: sqlite3.Connection) -> set[str]:
    """What images, writable layers and leases keep."""
    return {str(row[0]) for row in db.execute(_REACHABLE_BLOBS)}


def _unreachable_blobs(store: Store, db: sqlite3.Connection) -> list[Digest]:
    db.execute("DROP TABLE IF EXISTS temp.reachable_blobs")
    db.execute(f"CREATE TEMP TABLE reachable_blobs AS {_REACHABLE_BLOBS}")
    reachable = {str(row[0]) for row in db.execute("SELECT digest FROM temp.reachable_blobs")}
    return sorted(digest for digest in store.content.digests() if str(digest) not in reachable)


def _unreachable_snapshots(db: sqlite3.Connection) -> list[tuple[str, int]]:
    """(driver, number), children before parents."""
    _note_lower_stacks(db)
    kept = {int(row[0]) for row in db.execute(_KEPT_SNAPSHOTS)}
    rows = db.execute("SELECT driver, number, parent FROM snapshots WHERE state = 'ready'").fetchall()
    doomed = {int(row["number"]): row for row in rows if row["number"] not in kept}
    order = children_first({number: row["parent"] for number, row in doomed.items()})
    return [(str(doomed[number]["driver"]), number) for number in order]


def _note_lower_stacks(db: sqlite3.Connection) -> None:
    """The names of the snapshots below those of images that have none of their own yet: a layer may have no other form.

    Within a write transaction, after ``temp.reachable_blobs`` was made.
    """
    db.execute("CREATE TEMP TABLE IF NOT EXISTS lower_stacks (name TEXT PRIMARY KEY)")
    db.execute("DELETE FROM temp.lower_stacks")
    rows = db.execute(
        "SELECT layers FROM manifests WHERE digest IN temp.reachable_blobs AND chain_id IS NOT NULL"
        " AND chain_id NOT IN (SELECT key FROM snapshots WHERE state = 'ready' AND kind = 'committed')"
    ).fetchall()
    blobs = {str(row[0]) for row in db.execute("SELECT digest FROM layers WHERE present")}
    for row in rows:
        layers = json.loads(row[0])
        stack = zip(layers, chain_ids(diff_id for _, diff_id in layers), strict=True)
        names = [(str(name),) for (digest, _), name in stack if digest not in blobs]
        db.executemany("INSERT OR IGNORE INTO temp.lower_stacks VALUES (?)", names)


def note_blobs(store: Store, db: sqlite3.Connection) -> None:
    """Within a write transaction: a process may have been killed between making a blob and noting it."""
    missing = [str(row[0]) for row in db.execute("SELECT digest FROM layers WHERE present = 0")]
    there = [(digest,) for digest in missing if store.content.has(digest)]
    db.executemany("UPDATE layers SET present = 1 WHERE digest = ?", there)


def _forget(store: Store, db: sqlite3.Connection, blobs: list[Digest]) -> None:
    db.execute("DELETE FROM manifests WHERE digest NOT IN (SELECT digest FROM temp.reachable_blobs)")
    db.execute("DELETE FROM layers WHERE digest NOT IN (SELECT digest FROM temp.reachable_blobs)")
    db.execute("DELETE FROM blob_refs WHERE parent NOT IN (SELECT digest FROM temp.reachable_blobs)")
    db.execute("DELETE FROM layer_forms WHERE diff_id NOT IN (SELECT diff_id FROM layers)")
    db.execute(
        "DELETE FROM blob_sources WHERE digest NOT IN (SELECT digest FROM layers UNION SELECT digest FROM layer_forms)"
    )
    for digest in blobs:
        store.content.remove(digest)
