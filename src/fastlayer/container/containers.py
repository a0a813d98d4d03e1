"""The books of containers: rows of the database, and ``containers/<id>/config.json``.

The row has what lists and searches need, the file everything that was asked for, in Docker's words (``Config``,
``HostConfig``). The directory is made under another name and gets its own in the transaction that makes the row; so a
directory without a row is nobody's (``recovery.py``).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastlayer._values import NamedTuple
from fastlayer.errors import CorruptStoreError, NotFoundError, StoreError

if TYPE_CHECKING:
    import sqlite3

    from fastlayer.store.store import Store

_PREFIX = re.compile(r"[0-9a-f]{1,64}")
_COLUMNS = "id, name, image, image_id, command, labels, auto_remove, created_ns"
COMMITTING = "committing"  # a file of a container that is paused while its layer is copied (``pausing.py``)
_MAX_CONFIG = 16 << 20  # bytes


class Container(NamedTuple):
    """``image``: as it was named; ``image_id``: the digest of its configuration. ``command``: with its arguments."""

    id: str
    name: str
    image: str
    image_id: str
    command: tuple[str, ...]
    labels: Mapping[str, str]
    auto_remove: bool
    created_ns: int

    @property
    def short_id(self) -> str:
        return self.id[:12]


def directory_of(store: Store, identity: str) -> Path:
    return store.root / "containers" / identity


def insert(db: sqlite3.Connection, container: Container) -> None:
    """Within a write transaction."""
    row = (*container[:4], json.dumps(container.command), json.dumps(container.labels), *container[6:])
    db.execute(f"INSERT INTO containers ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)


def all_of(store: Store) -> list[Container]:
    """The newest first."""
    with store.database.read() as db:
        return [_container(row) for row in db.execute("SELECT * FROM containers ORDER BY created_ns DESC, id")]


def names(store: Store) -> set[str]:
    """Of all writable layers, those of containers among them."""
    with store.database.read() as db:
        return {str(row[0]) for row in db.execute("SELECT name FROM writable")}


def find(store: Store, text: str) -> Container:
    """By its name, its id or the beginning of that.

    Raises ``NotFoundError``; ``StoreError`` when it could be several.
    """
    with store.database.read() as db:
        rows = db.execute("SELECT * FROM containers WHERE id = ?", (text,)).fetchall()
        rows = rows or db.execute("SELECT * FROM containers WHERE name = ?", (text.removeprefix("/"),)).fetchall()
        if not rows and _PREFIX.fullmatch(text):
            rows = db.execute(
                "SELECT * FROM containers WHERE id >= ? AND id < ? LIMIT 2", (text, text + "g")
            ).fetchall()
    if not rows:
        raise NotFoundError(f"No such container: {text}: `fastlayer ps -a` lists them")
    if len(rows) > 1:
        raise StoreError(f"{text}: could be several containers: give more digits")
    found = _container(rows[0])
    _resume(store, found)
    return found


def _resume(store: Store, container: Container) -> None:
    """Whoever looks for it lets it go on, should somebody have been killed who had paused it."""
    directory = directory_of(store, container.id)
    if not store.read_only and (directory / COMMITTING).exists():
        from fastlayer.container.pausing import resume_abandoned

        resume_abandoned(directory)


def layer_key(identity: str) -> str:
    """The key of the snapshot that is its layer; those of its views begin with it and a slash."""
    return f"container/{identity}"


def config_of(store: Store, container: Container) -> dict[str, Any]:
    """What was asked for. Raises ``CorruptStoreError``, ``NotFoundError`` when it has just been removed."""
    directory = directory_of(store, container.id)
    try:
        return read_config(directory, container.name)
    except CorruptStoreError:
        with store.database.read() as db:
            if db.execute("SELECT 1 FROM containers WHERE id = ?", (container.id,)).fetchone() is None:
                raise NotFoundError(f"No such container: {container.name}: it has been removed meanwhile") from None
        raise


def read_config(directory: Path, name: str = "") -> dict[str, Any]:
    """The same from its directory."""
    path, name = directory / "config.json", name or directory.name[:12]
    try:
        with path.open("rb") as file:
            found = json.loads(file.read(_MAX_CONFIG))
        if not isinstance(found, dict) or not {"Config", "HostConfig"} <= set(found):
            raise ValueError("it lacks its parts")
    except (OSError, ValueError) as exc:
        raise CorruptStoreError(
            f"container {name}: {path.name} cannot be read ({exc}): `fastlayer rm -f {name}`"
        ) from exc
    return found


def _container(row: sqlite3.Row) -> Container:
    return Container(
        row["id"],
        row["name"],
        row["image"],
        row["image_id"],
        tuple(json.loads(row["command"])),
        json.loads(row["labels"]),
        bool(row["auto_remove"]),
        row["created_ns"],
    )
