"""What the build cache takes, and taking it away: steps, cache mounts, remembered trees."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from fastlayer._values import NamedTuple
from fastlayer.builder import cachemounts
from fastlayer.builder.cache import inputs_of
from fastlayer.builder.explain import why

if TYPE_CHECKING:
    import sqlite3

    from fastlayer.builder.cachemounts import CacheMount
    from fastlayer.store.store import Store

Kind = Literal["step", "mount"]

_IMAGE = "image"  # what finish.py remembers: when images were made first


class Kept(NamedTuple):
    """One step of the cache. ``size``: bytes of the files in its layer; ``shared``: an image has the layer, too."""

    key: str
    what: str
    size: int
    shared: bool
    created_ns: int
    used_ns: int
    duration_ns: int


class Pruned(NamedTuple):
    """What went, or would go: steps, cache mounts, bytes of files."""

    steps: int
    mounts: int
    bytes: int


def steps(store: Store) -> list[Kept]:
    """The steps there are, the latest used first. A step that is known by several keys is there once."""
    with store.database.read() as db:
        rows = db.execute(
            "WITH RECURSIVE imaged(digest) AS (SELECT digest FROM images"
            " UNION SELECT child FROM blob_refs JOIN imaged ON parent = imaged.digest)"
            " SELECT max(s.key) AS key, s.what, coalesce(l.payload, 0) AS size,"
            " s.layer IS NULL OR s.layer IN imaged AS shared,"
            " max(s.created_ns) AS created_ns, max(s.used_ns) AS used_ns, max(s.duration_ns) AS duration_ns"
            " FROM build_steps s LEFT JOIN layers l ON l.digest = s.layer WHERE s.what != ?"
            " GROUP BY s.what, coalesce(s.chain, s.key) ORDER BY max(s.used_ns) DESC",
            (_IMAGE,),
        ).fetchall()
    return [Kept(*row)._replace(shared=bool(row[3])) for row in rows]


def prune(
    store: Store,
    *,
    everything: bool = False,
    kind: Kind | None = None,
    ids: Sequence[str] = (),
    unused_for: float | None = None,
    keep: int | None = None,
    dry_run: bool = False,
) -> Pruned:
    """Forgets steps and removes what only they kept; removes cache mounts.

    By default steps that take room: whose layer no image has. ``everything``: all of them, and cache mounts.
    ``kind``: only things of this kind; ``ids``: only cache mounts with these. ``unused_for``: seconds: only what was
    not used for so long; ``keep``: bytes that may stay, the latest used first.
    """
    before = None if unused_for is None else time.time_ns() - int(unused_for * 1e9)
    found = [] if kind == "mount" or ids else steps(store)
    found = [step for step in found if _is_old(step.used_ns, before) and (everything or not step.shared)]
    mounts = _mounts(store, ids) if kind == "mount" or ids or (everything and kind is None) else []
    mounts = [(mount, size) for mount, size in mounts if _is_old(mount.used_ns, before)]
    if keep is not None:
        found, mounts = _beyond(found, mounts, keep)
    freed = sum(step.size for step in found if not step.shared)
    if dry_run:
        return Pruned(len(found), len(mounts), freed + sum(size for _, size in mounts))
    gone = [size for mount, size in mounts if cachemounts.remove(store, mount)]
    if kind != "mount" and not ids:
        from fastlayer.store.collect import collect

        _forget(store, found, all_images=everything)
        for error in collect(store).failed:
            raise error
    return Pruned(len(found), len(gone), freed + sum(gone))


def _mounts(store: Store, ids: Sequence[str]) -> list[tuple[CacheMount, int]]:
    """Cache mounts with their sizes."""
    return [(mount, size_of(store, mount)) for mount in cachemounts.all_mounts(store) if not ids or mount.id in ids]


def _is_old(used_ns: int, before: int | None) -> bool:
    return before is None or used_ns < before


def _beyond(
    found: Sequence[Kept], mounts: Sequence[tuple[CacheMount, int]], keep: int
) -> tuple[list[Kept], list[tuple[CacheMount, int]]]:
    """Without the latest ones that fit, of both kinds together."""
    ages: list[tuple[int, int, int]] = []  # used_ns, size, and which: steps first, then mounts
    ages += [(step.used_ns, 0 if step.shared else step.size, number) for number, step in enumerate(found)]
    ages += [(mount.used_ns, size, len(found) + number) for number, (mount, size) in enumerate(mounts)]
    doomed, total = set(), 0
    for _, size, number in sorted(ages, key=lambda age: -age[0]):
        total += size
        if total > keep:
            doomed.add(number)
    steps_ = [step for number, step in enumerate(found) if number in doomed]
    return steps_, [mount for number, mount in enumerate(mounts, len(found)) if number in doomed]


def _forget(store: Store, found: Sequence[Kept], *, all_images: bool) -> None:
    """With all keys of the same layer on the same stack, and nodes that nothing speaks of any more."""
    from fastlayer.builder.context.merkle import prune_nodes

    with store.database.write() as db:
        for step in found:
            same = db.execute("SELECT what, chain FROM build_steps WHERE key = ?", (step.key,)).fetchone()
            db.execute("DELETE FROM build_steps WHERE key = ?", (step.key,))
            if same is not None:
                db.execute("DELETE FROM build_steps WHERE what = ? AND chain = ?", tuple(same))
        if all_images:
            db.execute("DELETE FROM build_steps WHERE what = ?", (_IMAGE,))
        prune_nodes(db, _spoken_of(db))


def _spoken_of(db: sqlite3.Connection) -> set[bytes]:
    """The digests of what steps copied."""
    found: set[bytes] = set()
    for row in db.execute("SELECT inputs FROM build_steps WHERE inputs LIKE '%\"_details\"%'"):
        inputs = inputs_of(row[0])
        for about in (inputs, *inputs.get("mounts", ())):
            found.update(bytes.fromhex(digest) for _, digest in about.get("_details") or ())
    return found


def size_of(store: Store, mount: CacheMount) -> int:
    """Bytes on the disk of a cache mount."""
    import os

    from fastlayer import _backend

    fd = os.open(cachemounts.data_of(store, mount), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        usage = _backend.engine().usage.TreeUsage(fd)
        while usage.step():
            pass
        return int(usage.sums()[0])
    finally:
        os.close(fd)


class Reason(NamedTuple):
    """Why a step was done. ``key``: of the step; ``what``: its instruction."""

    key: str
    what: str
    created_ns: int
    reason: str


def reasons(store: Store, wanted: str = "", limit: int = 20) -> list[Reason]:
    """Of the latest steps, or of those whose key begins with ``wanted`` or whose instruction has it: why the cache had
    nothing for them then."""
    with store.database.read() as db:
        rows = db.execute(
            "SELECT key, what, inputs, created_ns FROM build_steps"
            " WHERE what != ? AND (key LIKE ? || '%' OR instr(what, ?)) ORDER BY created_ns DESC LIMIT ?",
            (_IMAGE, wanted, wanted, 2 * limit),
        ).fetchall()
    found: dict[tuple[str, int], Reason] = {}
    for row in rows:
        inputs = inputs_of(row["inputs"])
        place = (row["what"], row["created_ns"])
        if place not in found or "facts" in inputs:  # of two keys of a step the one that says more
            found[place] = Reason(row["key"], row["what"], row["created_ns"], _reason(store, row, inputs))
    return list(found.values())[:limit]


def _reason(store: Store, row: sqlite3.Row, inputs: dict[str, Any]) -> str:
    from fastlayer.builder.steps.contents import difference

    with store.database.read() as db:
        rows = db.execute(
            "SELECT inputs FROM build_steps WHERE what = ? AND created_ns < ? ORDER BY created_ns DESC LIMIT 50",
            (row["what"], row["created_ns"]),
        ).fetchall()
    known = [old for old in (inputs_of(found[0]) for found in rows) if old and ("facts" in old) == ("facts" in inputs)]
    return why(inputs, known, lambda old, new: difference(store.database, old, new))
