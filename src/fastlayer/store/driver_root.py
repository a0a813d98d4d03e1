"""Whether a driver's directory is the one the database speaks of: its file system may not be mounted.

The directory has a file ``identity`` with a random id that the database knows, too.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from fastlayer.drivers import registry
from fastlayer.errors import DriverError, FastlayerError, StorageError, show_path

if TYPE_CHECKING:
    import sqlite3

    from fastlayer.metadata.database import Database
    from fastlayer.snapshot.driver import Driver

_NAME = "identity"


def settle(database: Database, driver: str, place: Path, make: Callable[[], None]) -> None:
    """Makes the directory and gives it an identity when it is new.

    Raises ``DriverError`` when the database has snapshots in another directory than the one that is there.
    """
    with database.read() as db:
        known, in_use = _known(db, driver)
    if known is not None and _read(place) == known:
        return
    if known is not None and in_use:
        path = place / _NAME
        raise DriverError(
            f"driver {driver}: its file system is not there ({show_path(os.fspath(path))} is not what the database "
            f"knows): mount it again; if it is lost for good, write {known} into that file and run `store check "
            "--repair`"
        )
    make()
    with database.write() as db:
        identity = _read(place) or _write(place)
        db.execute("INSERT OR REPLACE INTO driver_roots (driver, identity) VALUES (?, ?)", (driver, identity))


def on_disk(root: Path) -> dict[str, set[int]]:
    """The numbers that drivers have below ``root``, whatever the database says; those that cannot be seen left out."""
    found = {}
    for name in registry.names():
        if (root / name).is_dir():
            try:
                make: Callable[[Path], Driver] = registry.driver_class(name)
                found[name] = make(root / name).numbers()
            except FastlayerError:
                continue
    return {name: numbers for name, numbers in found.items() if numbers}


def _known(db: sqlite3.Connection, driver: str) -> tuple[str | None, bool]:
    row = db.execute("SELECT identity FROM driver_roots WHERE driver = ?", (driver,)).fetchone()
    used = db.execute("SELECT 1 FROM snapshots WHERE driver = ? LIMIT 1", (driver,)).fetchone()
    return (None if row is None else str(row[0])), used is not None


def _read(place: Path) -> str | None:
    path = place / _NAME
    try:
        return path.read_text(encoding="ascii", errors="replace").strip() or None
    except FileNotFoundError:
        return None
    except OSError as exc:
        raise StorageError(exc.errno or 0, "cannot read", os.fspath(path)) from exc


def _write(place: Path) -> str:
    identity, path = os.urandom(16).hex(), place / _NAME
    try:
        path.write_text(identity + "\n")
    except OSError as exc:
        raise StorageError(exc.errno or 0, "cannot write", os.fspath(path)) from exc
    return identity
