"""Images as directories: read-only views, and writable layers on top; what is mounted where.

A mount is remembered in the database until it is unmounted. What the kernel says goes first: a mount that is gone - the
machine was started anew, someone used umount(8) - is forgotten when it is looked at.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from fastlayer.container import writable
from fastlayer.errors import DriverError, InUseError, NotFoundError, UsageError, show_path
from fastlayer.image.images import Image, Images

if TYPE_CHECKING:
    import sqlite3

    from fastlayer.container.writable import Writable
    from fastlayer.mounts.mount import Mount
    from fastlayer.store.store import Store


class Mounted(NamedTuple):
    """A mount of ours. ``writable``: the name of the layer that is written to, or None for a read-only one.

    ``here``: it can be seen in this mount namespace.
    """

    target: str
    driver: str
    key: str
    image: str
    writable: str | None
    created_ns: int
    here: bool


def mount_image(store: Store, image: Image, target: str | os.PathLike[str]) -> Mounted:
    """Mounts an image read-only at ``target``, an existing directory. Raises ``DriverError`` without the right to."""
    place = _place(target)
    snapshotter = store.snapshotter
    key = f"mount-{secrets.token_hex(8)}"
    parent = _chain(image)
    with store.leases.hold(f"mount {image.name}") as lease:
        mounts = snapshotter.view(key, parent, lease=lease)
        try:
            _mount(store, mounts, place, snapshotter.driver.name, key, image.name, None)
        except BaseException:
            snapshotter.remove(key)
            raise
    return _mounted(store, place)


def mount_writable(store: Store, layer: Writable, target: str | os.PathLike[str]) -> Mounted:
    """Mounts a writable layer at ``target``. Raises ``InUseError`` when it is mounted: overlayfs forbids two."""
    place = _place(target)
    refuse_mounted(store, layer)
    mounts = writable.snapshotter_of(store, layer).mounts(layer.key)
    _mount(store, mounts, place, layer.driver, layer.key, layer.image, layer.name)
    return _mounted(store, place)


def unmount(store: Store, text: str, *, detach: bool = False, remove: bool = False) -> Mounted:
    """Unmounts a target, or the target of a writable layer's name; with ``remove`` the layer goes, too.

    ``detach``: also when it is in use (umount(2), MNT_DETACH). Raises ``NotFoundError``, ``InUseError`` (EBUSY).
    """
    from fastlayer.mounts.mounting import umount

    found = _find(store, text)
    if found.here:
        umount(found.target, detach=detach)
    _forget(store, found)
    if remove and found.writable:
        writable.remove(store, found.writable)
    return found


def all_mounts(store: Store) -> list[Mounted]:
    """All mounts, by target; those that are gone are forgotten."""
    with store.database.read() as db:
        rows = db.execute("SELECT * FROM mounts ORDER BY target").fetchall()
    alive = []
    for row in rows:
        found = _of_row(row)
        if _is_gone(row):
            _forget(store, found)
        else:
            alive.append(found)
    return alive


def refuse_mounted(store: Store, layer: Writable) -> None:
    """Raises ``InUseError`` when the layer is mounted somewhere."""
    for found in all_mounts(store):
        if found.writable == layer.name:
            raise InUseError(f"{layer.name}: is mounted at {show_path(found.target)}: `fastlayer umount` it first")


@contextmanager
def temporary(store: Store, image: Image) -> Iterator[Path]:
    """An image's tree for the block, to look at: mounted where nobody else sees it, or as a plain directory."""
    snapshotter = store.snapshotter
    with store.leases.hold(f"look at {image.name}") as lease:
        key = f"look-{lease.id}"
        mounts = snapshotter.view(key, _chain(image), lease=lease)
        try:
            with _as_directory(mounts) as path:
                yield path
        finally:
            snapshotter.remove(key)


@contextmanager
def _as_directory(mounts: list[Mount]) -> Iterator[Path]:
    """Bind mounts need no mounting when they are only looked at."""
    if len(mounts) == 1 and mounts[0].type == "bind":
        yield Path(mounts[0].source)
        return
    from fastlayer.mounts.mounting import temporary as mounted

    with mounted(mounts) as path:
        yield path


@contextmanager
def mount(
    image: str,
    *,
    writable: bool = False,
    name: str | None = None,
    target: str | os.PathLike[str] | None = None,
    root: str | os.PathLike[str] | None = None,
    driver: str | None = None,
) -> Iterator[Path]:
    """An image as a directory for the block: ``with fastlayer.mount("debian") as path: ...``.

    Read-only, or with a ``writable`` layer on top, which goes at the end unless it has a ``name`` (a layer of that name
    is used again). ``target``: an existing directory to mount at; by default a temporary one.
    """
    import tempfile

    from fastlayer.store.store import existing_store

    with existing_store(root, driver=driver) as store, tempfile.TemporaryDirectory(prefix="fastlayer-") as scratch:
        place = Path(scratch) if target is None else Path(target)
        found = _begin(store, image, place, writable, name)
        try:
            yield place
        finally:
            unmount(store, found.target, remove=name is None)


def _begin(store: Store, image: str, place: Path, wanted: bool, name: str | None) -> Mounted:
    if not (wanted or name):
        return mount_image(store, Images(store).find(image), place)
    layer = _existing(store, image, name) or writable.create(store, Images(store).find(image), name)
    return mount_writable(store, layer, place)


def _existing(store: Store, image: str | None, name: str | None) -> Writable | None:
    """The layer of that name, when there is one; it must be of the same image."""
    try:
        layer = writable.find(store, name) if name else None
    except NotFoundError:
        return None
    if layer is not None and image is not None and Images(store).find(image).manifest != layer.manifest:
        raise UsageError(f"{layer.name}: is a layer of {layer.image}, not of {image}: leave out the image")
    return layer


def open_writable(store: Store, image: str | None, name: str | None, *, size: int | None = None) -> Writable:
    """The layer ``name``, or a new one on ``image``."""
    layer = _existing(store, image, name)
    if layer is None and image is None:
        raise NotFoundError(f"{name}: no writable layer of that name: name an image to make one")
    if layer is not None and size is not None:
        raise UsageError(f"{layer.name}: its size is given when it is made")
    return layer or writable.create(store, Images(store).find(image or ""), name, size=size)


# ---- doing it --------------------------------------------------------------------------------------


def _chain(image: Image) -> str:
    if image.chain_id is None:
        raise DriverError(f"{image.name}: has no layers, so there is nothing to mount")
    return str(image.chain_id)


def _place(target: str | os.PathLike[str]) -> str:
    path = os.path.realpath(os.fspath(target))
    if not os.path.isdir(path):
        raise UsageError(f"{show_path(path)}: is no directory: make one to mount at")
    return path


def _mount(store: Store, mounts: list[Mount], place: str, driver: str, key: str, image: str, layer: str | None) -> None:
    """Mounts and remembers it, in this order, undone together; only then is a view no longer the lease's."""
    from fastlayer.mounts.mounting import mount as mount_at
    from fastlayer.mounts.mounting import umount

    mount_at(mounts, place)
    try:
        with store.database.write() as db:
            taken = db.execute("SELECT image FROM mounts WHERE target = ?", (place,)).fetchone()
            if taken is not None:
                _forget_row(db, place)
            db.execute(
                "INSERT INTO mounts (target, driver, key, image, writable, boot_id, mount_ns, created_ns) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (place, driver, key, image, layer, _boot_id(), _namespace(), time.time_ns()),
            )
            db.execute("UPDATE snapshots SET lease = NULL WHERE driver = ? AND key = ?", (driver, key))
    except BaseException:
        umount(place, detach=True)
        raise


def _find(store: Store, text: str) -> Mounted:
    place = os.path.realpath(text)
    for found in all_mounts(store):
        if found.target == place or found.writable == text:
            return found
    raise NotFoundError(f"{show_path(text)}: nothing of ours is mounted there: `fastlayer mounts` lists what is")


def _mounted(store: Store, place: str) -> Mounted:
    with store.database.read() as db:
        return _of_row(db.execute("SELECT * FROM mounts WHERE target = ?", (place,)).fetchone())


def _of_row(row: sqlite3.Row) -> Mounted:
    return Mounted(
        row["target"],
        row["driver"],
        row["key"],
        row["image"],
        row["writable"],
        row["created_ns"],
        row["mount_ns"] == _namespace() and row["boot_id"] == _boot_id(),
    )


def _is_gone(row: sqlite3.Row) -> bool:
    """Not in the kernel any more. What is mounted in another namespace cannot be seen; it is taken to be there."""
    from fastlayer.mounts.table import is_mounted

    if row["boot_id"] != _boot_id():
        return True
    return bool(row["mount_ns"] == _namespace() and not is_mounted(row["target"]))


def _forget(store: Store, found: Mounted) -> None:
    """The mount is over; a view made for it goes, too."""
    with store.database.write() as db:
        _forget_row(db, found.target)
    if found.writable is None:
        try:
            store.snapshotter_of(found.driver).remove(found.key)
        except NotFoundError:
            pass  # another process was faster


def _forget_row(db: sqlite3.Connection, target: str) -> None:
    db.execute("DELETE FROM mounts WHERE target = ?", (target,))


def _boot_id() -> str:
    with open("/proc/sys/kernel/random/boot_id") as file:
        return file.read().strip()


def _namespace() -> int:
    """The mount namespace this process is in (namespaces(7))."""
    return os.stat("/proc/self/ns/mnt").st_ino
