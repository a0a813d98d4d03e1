"""``containers/<id>/layer.json``: what the rows of a container say, for a database that is lost.

The rows are what counts. ``store check --repair`` makes them again from this file when they are gone
(``maintenance/containers.py``); it is written in the transactions that change them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from fastlayer._values import NamedTuple
from fastlayer.container import state
from fastlayer.container.containers import layer_key

if TYPE_CHECKING:
    import sqlite3

    from fastlayer.container.containers import Container
    from fastlayer.oci.digest import Digest

_NAME = "layer.json"


class Kept(NamedTuple):
    """``number``, ``kind``, ``labels``, ``size_limit``: of its snapshot; ``parent``: the chain id below, if any.

    ``image``: as it was named; ``manifest``: what that was.
    """

    name: str
    driver: str
    number: int
    kind: str
    parent: str | None
    labels: str
    size_limit: int | None
    image: str
    manifest: str
    created_ns: int
    auto_remove: bool


def note(
    db: sqlite3.Connection, directory: Path, container: Container, driver: str, image: str, manifest: Digest
) -> None:
    """Of a container that is made in this transaction."""
    row = db.execute(
        "SELECT s.*, p.key AS parent_key FROM snapshots s LEFT JOIN snapshots p ON p.number = s.parent"
        " WHERE s.driver = ? AND s.key = ?",
        (driver, layer_key(container.id)),
    ).fetchone()
    if row is not None:
        found = Kept(
            container.name,
            driver,
            int(row["number"]),
            row["kind"],
            row["parent_key"],
            row["labels"],
            row["size_limit"],
            image,
            str(manifest),
            container.created_ns,
            container.auto_remove,
        )
        state.write_json(directory / _NAME, found._asdict())


def change(directory: Path, *, name: str | None = None, number: int | None = None) -> None:
    """In the transaction that changes the rows."""
    found = read(directory)
    if found is not None:
        found = found._replace(name=name or found.name, number=number or found.number)
        state.write_json(directory / _NAME, found._asdict())


def read(directory: Path) -> Kept | None:
    """None where there is none, or one that cannot be read."""
    value = state.read_json(directory / _NAME)
    try:
        found = Kept(**value)
        json.loads(found.labels)
    except (TypeError, ValueError):
        return None
    return found
