"""The build cache: what steps came to, by keys made of everything that decides it.

A key is the SHA-256 of a JSON object, the *inputs* of a step: the stack of layers below, the instruction, and for COPY
and ADD the digest of the content, for RUN its variables and mounts. Keys know nothing of Dockerfiles, stages or names:
two files with the same first lines share these steps. A step is kept, and with it its layer and snapshot, until it is
pruned (``maintenance/prune.py``).
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from fastlayer._values import NamedTuple
from fastlayer.image.images import LayerInfo, insert_layers, layer_of

if TYPE_CHECKING:
    import sqlite3

    from fastlayer.store.store import Store

Inputs = Mapping[str, Any]  # JSON values; the order of names is that in which differences are looked for

_FRESH_NS = 3600 * 10**9  # what was used within an hour is not noted again: a cached build writes nothing
_CANDIDATES = 50


class Step(NamedTuple):
    """What a step came to. ``layer``: None when it changed no file; ``chain``: the stack with it, None where another
    cache does not tell it. ``imported``: it is of such a cache, and its layer may be there only."""

    key: str
    layer: LayerInfo | None
    chain: str | None
    created_ns: int
    used_ns: int
    duration_ns: int
    imported: bool = False


def key_of(inputs: Inputs) -> str:
    """The key of a step: the same inputs, in any order, give the same. Names that begin with ``_`` do not count: what
    they hold is for people who ask for differences."""
    text = json.dumps(counting(inputs), sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def inputs_of(text: str) -> dict[str, Any]:
    """What a row of the database has; nothing when it is damaged: it is for explanations alone."""
    try:
        found = json.loads(text)
    except (ValueError, TypeError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def counting(value: Any) -> Any:
    """What is part of a key, of inputs or anything in them."""
    if isinstance(value, Mapping):
        return {name: counting(item) for name, item in value.items() if not name.startswith("_")}
    return [counting(item) for item in value] if isinstance(value, list) else value


class Others(Protocol):
    """Caches of others (``sharing/imports.py``)."""

    def find(self, key: str) -> Step | None: ...
    def like(self, what: str) -> list[Inputs]: ...


class Cache:
    """The steps that a store remembers, and then those that ``others`` do."""

    def __init__(self, store: Store, others: Others) -> None:
        self._store = store
        self._others = others

    def find(self, key: str) -> Step | None:
        """The step of that key, if its layer can still be had."""
        return self._own(key) or self._others.find(key)

    def _own(self, key: str) -> Step | None:
        with self._store.database.read() as db:
            row = db.execute("SELECT * FROM build_steps WHERE key = ?", (key,)).fetchone()
            if row is None:
                return None
            layer = layer_of(db, row["layer"]) if row["layer"] else None
            if row["layer"] and (layer is None or not (layer.present or _has_snapshot(db, row["chain"]))):
                return None
        return Step(key, layer, row["chain"], row["created_ns"], row["used_ns"], row["duration_ns"])

    def put(self, step: Step, what: str, inputs: Inputs) -> None:
        """Remembers a step. Whoever made it holds its snapshot by a lease until this is done."""
        with self._store.database.write() as db:
            if step.layer is not None:
                insert_layers(db, [step.layer])
            db.execute(
                "INSERT OR REPLACE INTO build_steps (key, layer, chain, what, inputs, created_ns, used_ns, duration_ns)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    step.key,
                    step.layer.digest if step.layer else None,
                    step.chain,
                    what,
                    json.dumps(inputs, separators=(",", ":")),
                    step.created_ns,
                    step.used_ns,
                    step.duration_ns,
                ),
            )

    def used(self, steps: Iterable[Step]) -> None:
        """Notes that the steps were of use, for those who prune by age."""
        moment = time.time_ns()
        stale = [step.key for step in steps if moment - step.used_ns > _FRESH_NS]
        if stale and not self._store.read_only:
            with self._store.database.write() as db:
                db.executemany("UPDATE build_steps SET used_ns = ? WHERE key = ?", [(moment, key) for key in stale])

    def like(self, what: str) -> list[Inputs]:
        """The inputs of steps with the same instruction, the latest first: what a missing one is compared with."""
        with self._store.database.read() as db:
            rows = db.execute(
                "SELECT inputs FROM build_steps WHERE what = ? ORDER BY used_ns DESC LIMIT ?", (what, _CANDIDATES)
            ).fetchall()
        known = [inputs for inputs in (inputs_of(row[0]) for row in rows) if inputs]
        return [*known, *self._others.like(what)[:_CANDIDATES]]


def _has_snapshot(db: sqlite3.Connection, chain: str) -> bool:
    row = db.execute(
        "SELECT 1 FROM snapshots WHERE key = ? AND state = 'ready' AND kind = 'committed' LIMIT 1", (chain,)
    ).fetchone()
    return row is not None
