"""Volumes that are made of an image: an active snapshot of a storage driver on the image's layers.

Copies and named states of one are snapshots, too: what was written is shared or copied in time that depends on its size
alone. A committed snapshot below such a volume that nothing else names (``volume-base/...``) goes with it.
"""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from fastlayer.errors import DriverError, InUseError, NotFoundError
from fastlayer.volume import books
from fastlayer.volume.books import Volume, random_key
from fastlayer.volume.lock import alone

if TYPE_CHECKING:
    from fastlayer.metadata.leases import Lease
    from fastlayer.mounts.mount import Mount
    from fastlayer.snapshot.snapshotter import Snapshotter
    from fastlayer.store.store import Store

_OWN, _BASE = "volume/", "volume-base/"  # begin the keys of snapshots of volumes


def create(store: Store, name: str, image_name: str, size: int | None) -> None:
    """The volume (its row is there) becomes a writable tree of the image. Raises ``NotFoundError``, ``DriverError``."""
    from fastlayer.image.images import Images

    image = Images(store).find(image_name)
    snapshotter = store.snapshotter
    if image.chain_id is None:
        raise DriverError(f"volume {name}: {image_name} has no layers: make it without image=")
    if not snapshotter.exists(image.chain_id):
        from fastlayer.image.unpack import ensure_unpacked

        ensure_unpacked(store, image)
    with store.lease(f"create volume {name}") as lease:
        _prepare(store, snapshotter, name, str(image.chain_id), size, lease)


def copy(store: Store, name: str, source: Volume, size: int | None) -> int:
    """The volume becomes a copy of what ``source`` holds now; returns how many files changed meanwhile."""
    driver, key = _of(source)
    snapshotter = store.snapshotter_of(driver)
    base = f"{_BASE}{random_key()}"
    with store.lease(f"create volume {name}") as lease:
        changed = snapshotter.duplicate(base, key, live=True, lease=lease)
        _prepare(store, snapshotter, name, base, size, lease)
        _keep(store, driver, base)
    return changed


def copy_state(store: Store, name: str, driver: str, key: str, size: int | None) -> None:
    """The volume becomes a copy of a named state of another."""
    with store.lease(f"create volume {name}") as lease:
        _prepare(store, store.snapshotter_of(driver), name, key, size, lease)


def snapshot(store: Store, volume: Volume, name: str) -> int:
    """Names what the volume holds now; returns how many files changed meanwhile."""
    driver, key = _of(volume)
    committed = f"{_OWN}{volume.name}@{name}/{random_key()}"
    with store.lease(f"snapshot volume {volume.name}") as lease:
        changed = store.snapshotter_of(driver).duplicate(committed, key, live=True, lease=lease)
        books.add_snapshot(store, volume.name, name, committed)
    return changed


def restore(store: Store, volume: Volume, key: str, size: int | None) -> None:
    """The volume, which nobody uses, holds again what the committed snapshot does."""
    driver, old = _of(volume)
    snapshotter = store.snapshotter_of(driver)
    with store.lease(f"restore volume {volume.name}") as lease:
        _prepare(store, snapshotter, volume.name, key, size, lease)
    _remove(snapshotter, old)


def drop_state(store: Store, volume: Volume, key: str) -> None:
    """The committed snapshot has no name any more; while something is made of it, it stays until that is gone."""
    snapshotter = store.snapshotter_of(_of(volume)[0])
    base = f"{_BASE}{random_key()}"
    try:
        snapshotter.rename(base, key)
    except NotFoundError:
        return  # gone before
    _remove_unused(snapshotter, base)


def remove(store: Store, volume: Volume) -> None:
    """All that the volume has goes; what is not there is no error."""
    for state in books.snapshots_of(store, volume.name):
        if state.key is not None and volume.snapshot is not None:
            drop_state(store, volume, state.key)
    if volume.snapshot is not None:
        _remove(store.snapshotter_of(volume.snapshot[0]), volume.snapshot[1])


def mounts(store: Store, volume: Volume) -> list[Mount]:
    """How to mount it now; nobody has it mounted."""
    driver, key = _of(volume)
    return store.snapshotter_of(driver).ready(key)


def plain_directory(store: Store, volume: Volume) -> Path | None:
    """Its directory in the store, with drivers that show a snapshot without mounting it (btrfs, vfs)."""
    driver, key = _of(volume)
    found = store.snapshotter_of(driver).mounts(key)
    return Path(found[0].source) if [mount.type for mount in found] == ["bind"] else None


def usage(store: Store, volume: Volume) -> int:
    """Bytes on disk of what was written to it, and of its snapshots."""
    driver, key = _of(volume)
    states = [state.key for state in books.snapshots_of(store, volume.name) if state.key is not None]
    return sum(store.snapshotter_of(driver).usage(part).bytes for part in (key, *states))


def sweep(store: Store) -> int:
    """Snapshots of volumes that no row speaks of any more go: their removers were killed; returns how many went.

    Those of a volume that is on disk without a row stay: ``store check --repair`` makes it one again.
    """
    gone = 0
    for driver, key in _unknown(store):
        name = key.split("/")[1].partition("@")[0] if key.startswith(_OWN) else ""
        with alone(store, name) if name else nullcontext():
            if (driver, key) in _unknown(store) and not (name and _is_lost(store, name)):
                _remove(store.snapshotter_of(driver), key)
                gone += 1
    return gone


def _is_lost(store: Store, name: str) -> bool:
    return not books.is_known(store, name) and (store.root / "volumes" / name).exists()


def _unknown(store: Store) -> list[tuple[str, str]]:
    """(driver, key) of snapshots that are neither anybody's nor being made; children before parents."""
    with store.database.read() as db:
        rows = db.execute(
            "SELECT driver, key FROM snapshots AS own WHERE state = 'ready' AND lease IS NULL"
            " AND (key LIKE 'volume/%' OR key LIKE 'volume-base/%')"
            " AND key NOT IN (SELECT snapshot_key FROM volumes WHERE snapshot_key IS NOT NULL)"
            " AND key NOT IN (SELECT key FROM volume_snapshots WHERE key IS NOT NULL)"
            " AND number NOT IN (SELECT parent FROM snapshots WHERE parent IS NOT NULL) ORDER BY number DESC"
        )
        return [(str(row["driver"]), str(row["key"])) for row in rows]


def own_snapshot(store: Store, name: str) -> tuple[str, str] | None:
    """(driver, key) of the active snapshot that was made for a volume of that name."""
    with store.database.read() as db:
        row = db.execute(
            "SELECT driver, key FROM snapshots WHERE state = 'ready' AND kind = 'active' AND key >= ? AND key < ?"
            " ORDER BY number DESC LIMIT 1",
            (f"{_OWN}{name}/", f"{_OWN}{name}0"),  # `0` comes after `/`
        ).fetchone()
    return None if row is None else (str(row["driver"]), str(row["key"]))


def _of(volume: Volume) -> tuple[str, str]:
    if volume.snapshot is None:
        raise DriverError(f"volume {volume.name}: its snapshot is lost: remove it with `fastlayer volume rm`")
    return volume.snapshot


def _prepare(store: Store, snapshotter: Snapshotter, name: str, parent: str, size: int | None, lease: Lease) -> None:
    key = f"{_OWN}{name}/{random_key()}"
    snapshotter.prepare(key, parent, size=size, lease=lease)
    books.set_snapshot(store, name, snapshotter.driver.name, key)


def _keep(store: Store, driver: str, key: str) -> None:
    with store.database.write() as db:
        db.execute("UPDATE snapshots SET lease = NULL WHERE driver = ? AND key = ?", (driver, key))


def _remove(snapshotter: Snapshotter, key: str) -> None:
    """A snapshot that nothing is made of, and what only it was made of."""
    try:
        parent = snapshotter.stat(key).parent
        snapshotter.remove(key)
    except (InUseError, NotFoundError):
        return
    if parent is not None:
        _remove_unused(snapshotter, parent)


def _remove_unused(snapshotter: Snapshotter, key: str | None) -> None:
    while key is not None and key.startswith(_BASE):
        try:
            parent = snapshotter.stat(key).parent
            snapshotter.remove(key)
        except (InUseError, NotFoundError):
            return
        key = parent
