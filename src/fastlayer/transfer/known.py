"""What the store remembers of registries: in which repositories a blob is, and what a layer came to when compressed.

Both are hints. A repository may have lost a blob, so the registry has the last word: a mount that it refuses is an
upload. Garbage collection forgets what is said of layers that are gone.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING

from fastlayer.oci.digest import Digest
from fastlayer.transfer.forms import Form, Made

if TYPE_CHECKING:
    import sqlite3

    from fastlayer.store.store import Store

_MOST = 5  # repositories of one registry that are remembered for a blob


def remember_all(store: Store, digests: Iterable[str], registry: str, repository: str) -> None:
    """The layers are there. A store that we may only read learns nothing."""
    if store.read_only:
        return
    with store.database.write() as db:
        for digest in digests:
            remember(db, digest, registry, repository)


def remember(db: sqlite3.Connection, digest: str, registry: str, repository: str) -> None:
    """Within a write transaction: the blob of a layer is in ``repository`` of ``registry`` (``HOST[:PORT]``)."""
    db.execute(
        "INSERT OR REPLACE INTO blob_sources (digest, registry, repository, used_ns) VALUES (?, ?, ?, ?)",
        (digest, registry, repository, time.time_ns()),
    )
    db.execute(
        "DELETE FROM blob_sources WHERE digest = ?1 AND registry = ?2 AND repository NOT IN (SELECT repository"
        f" FROM blob_sources WHERE digest = ?1 AND registry = ?2 ORDER BY used_ns DESC LIMIT {_MOST})",
        (digest, registry),
    )


def repositories(db: sqlite3.Connection, digest: str, registry: str) -> list[str]:
    """The repositories of ``registry`` that a blob may be mounted from, first the one that was used last."""
    rows = db.execute(
        "SELECT repository FROM blob_sources WHERE digest = ? AND registry = ? ORDER BY used_ns DESC, repository",
        (digest, registry),
    )
    return [str(row[0]) for row in rows]


def remember_form(db: sqlite3.Connection, form: Form, made: Made) -> None:
    """Within a write transaction: what a layer came to in a form."""
    db.execute(
        "INSERT OR REPLACE INTO layer_forms (diff_id, form, digest, size, made, annotations) VALUES (?, ?, ?, ?, ?, ?)",
        (made.made_of, form.name, made.digest, made.size, made.diff_id, json.dumps(dict(made.annotations))),
    )


def form_of(db: sqlite3.Connection, diff_id: Digest, form: Form) -> Made | None:
    """What a layer came to in that form when it was last made."""
    row = db.execute(
        "SELECT digest, size, made, annotations FROM layer_forms WHERE diff_id = ? AND form = ?", (diff_id, form.name)
    ).fetchone()
    if row is None:
        return None
    annotations = json.loads(row["annotations"])
    return Made(form.media_type, Digest(row["digest"]), row["size"], Digest(row["made"]), diff_id, annotations)
