"""``store check``: containers whose rows are lost, or say what is not true any more, after a database was put back.

Their directories have everything: the configuration, how they are doing (``container/state.py``), and what the rows
said (``container/kept.py``). Their layers are snapshots that nobody knows. One that runs goes on: its monitor knows
nothing of the database.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING

from fastlayer.container import containers, kept
from fastlayer.container.containers import Container
from fastlayer.errors import FastlayerError
from fastlayer.image.images import Images
from fastlayer.image.unpack import ensure_unpacked

if TYPE_CHECKING:
    import sqlite3

    from fastlayer.container.kept import Kept
    from fastlayer.store.store import Store

_ID = re.compile(r"[0-9a-f]{64}")
Found = tuple[str, str, bool]  # the container, what is wrong, whether it is right again


def check(store: Store, *, repair: bool = False) -> Iterator[Found]:
    """Before snapshots that nobody knows are set aside."""
    repair = repair and not store.read_only
    known = {row.id: row for row in containers.all_of(store)}
    for identity, row in known.items():
        if not containers.directory_of(store, identity).is_dir():
            yield row.name, "its directory is not on disk", repair and _forget(store, row)
    for identity in _on_disk(store):
        directory = containers.directory_of(store, identity)
        found = kept.read(directory)
        if found is None:
            continue
        if identity not in known:
            if _is_there(store, found):
                yield found.name, *_adopted(store, identity, found, repair=repair)
        elif repair:
            yield from _brought_up_to_date(store, known[identity], found)


def waiting(store: Store) -> set[tuple[str, int]]:
    """Snapshots of containers that are still to come back: (driver, number). They stay where they are."""
    with store.database.read() as db:
        known = {str(row[0]) for row in db.execute("SELECT id FROM containers")}
    every = [
        kept.read(containers.directory_of(store, identity)) for identity in _on_disk(store) if identity not in known
    ]
    return {(found.driver, found.number) for found in every if found is not None}


def _on_disk(store: Store) -> list[str]:
    place = store.root / "containers"
    return sorted(filter(_ID.fullmatch, os.listdir(place))) if place.is_dir() else []


def _is_there(store: Store, found: Kept) -> bool:
    """Whether its layer is on disk, and nobody's. A read-only one needs no place there."""
    with store.database.read() as db:
        taken = db.execute("SELECT 1 FROM snapshots WHERE number = ?", (found.number,)).fetchone()
    if found.kind == "view":
        return True
    try:
        return taken is None and found.number in store.snapshotter_of(found.driver).driver.numbers()
    except (FastlayerError, OSError):
        return False


def _adopted(store: Store, identity: str, found: Kept, *, repair: bool) -> tuple[str, bool]:
    why = "is on disk, but nobody knows it"
    if not repair:
        return why, False
    try:
        parent = _parent(store, found)
        name = _adopt(store, identity, found, parent)
    except (FastlayerError, KeyError, TypeError) as exc:
        return f"{why}, and it cannot come back: {exc}", False
    return why + (f": it is called {name} now" if name != found.name else ""), True


def _parent(store: Store, found: Kept) -> str | None:
    """Its image, unpacked: what its layer lies on."""
    if found.parent is not None and not store.snapshotter_of(found.driver).exists(found.parent):
        image = Images(store).find(found.image)
        if str(image.chain_id) != found.parent:
            raise FastlayerError(f"load the image {found.image} as it was ({found.manifest}), and repair again")
        ensure_unpacked(store, image)
    return found.parent


def _adopt(store: Store, identity: str, found: Kept, parent: str | None) -> str:
    """All rows at once; returns its name, which may be another's by now."""
    record = containers.read_config(containers.directory_of(store, identity))
    with store.database.write() as db:
        name = _free_name(db, found.name, identity)
        highest = db.execute("SELECT coalesce(max(number), 0) FROM snapshots").fetchone()[0]
        number = found.number if found.kind != "view" else max(highest, *_numbers(store, found.driver)) + 1
        db.execute(
            "INSERT INTO snapshots (number, driver, key, kind, state, parent, labels, size_limit, created_ns) VALUES"
            " (?, ?, ?, ?, 'ready', (SELECT number FROM snapshots WHERE driver = ? AND key = ?), ?, ?, ?)",
            (
                number,
                found.driver,
                containers.layer_key(identity),
                found.kind,
                found.driver,
                parent,
                found.labels,
                found.size_limit,
                found.created_ns,
            ),
        )
        db.execute(
            "INSERT INTO writable (name, driver, key, image, manifest, created_ns) VALUES (?, ?, ?, ?, ?, ?)",
            (name, found.driver, containers.layer_key(identity), found.image, found.manifest, found.created_ns),
        )
        containers.insert(db, _row(identity, name, record, found))
        kept.change(containers.directory_of(store, identity), name=name, number=number)
    return name


def _numbers(store: Store, driver: str) -> list[int]:
    return [0, *store.snapshotter_of(driver).driver.numbers()]


def _row(identity: str, name: str, record: dict[str, object], found: Kept) -> Container:
    config = record["Config"]
    assert isinstance(config, dict)
    command = (str(record["Path"]), *json.loads(json.dumps(record["Args"])))
    return Container(
        identity,
        name,
        config["Image"],
        str(record["Image"]),
        command,
        config["Labels"] or {},
        found.auto_remove,
        found.created_ns,
    )


def _free_name(db: sqlite3.Connection, name: str, identity: str) -> str:
    taken = db.execute(
        "SELECT 1 FROM writable WHERE name = ? UNION SELECT 1 FROM containers WHERE name = ?", (name, name)
    )
    return f"{name}-{identity[:12]}" if taken.fetchone() else name


def _forget(store: Store, row: Container) -> bool:
    """It was removed after the copy was made. A layer of it that is still there stays, by its name."""
    with store.database.write() as db:
        db.execute("DELETE FROM containers WHERE id = ?", (row.id,))
    return True


def _brought_up_to_date(store: Store, row: Container, found: Kept) -> Iterator[Found]:
    """Renamed, or gone back to a checkpoint, after the copy was made."""
    from fastlayer.container import writable

    key = containers.layer_key(row.id)
    with store.database.write() as db:
        snapshot = db.execute(
            "SELECT number FROM snapshots WHERE driver = ? AND key = ?", (found.driver, key)
        ).fetchone()
        free = not db.execute("SELECT 1 FROM snapshots WHERE number = ?", (found.number,)).fetchone()
        on_disk = store.snapshotter_of(found.driver).driver.numbers() if free and snapshot is not None else set()
        if snapshot is not None and free and found.number in on_disk and int(snapshot[0]) not in on_disk:
            db.execute(
                "UPDATE snapshots SET number = ? WHERE driver = ? AND key = ?", (found.number, found.driver, key)
            )
            yield row.name, "has another layer by now, which it has again", True
        if row.name != found.name and _free_name(db, found.name, row.id) == found.name:
            db.execute("UPDATE containers SET name = ? WHERE id = ?", (found.name, row.id))
            writable.rename(db, row.name, found.name)
            yield row.name, f"is called {found.name} by now", True


def hold_volumes(store: Store) -> None:
    """Those of all containers: a volume that came back does not know who has it, and who works with its files."""
    from fastlayer.container.lifecycle import state_of
    from fastlayer.container.mountoptions import of_record
    from fastlayer.container.volumes import directory_of_volume, user_of
    from fastlayer.volume.volumes import Volumes

    volumes = Volumes(store)
    for row in containers.all_of(store):
        with suppress(FastlayerError, KeyError, TypeError):
            running = state_of(store, row).running
            for mount in map(of_record, containers.config_of(store, row)["MountOptions"]):
                if mount.kind == "volume":
                    volumes.hold(mount.source, user_of(row.id))
                    if running:
                        directory_of_volume(store, row.id, mount)
