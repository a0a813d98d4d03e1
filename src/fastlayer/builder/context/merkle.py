"""The Merkle trees of what was copied, kept in ``build_nodes``, so that a difference can be named later on.

All that a node leads to is there when it is: nodes are written together in one transaction, and ``prune_nodes`` takes
only what nothing kept leads to. So what is there needs no second look, and a build whose context has not changed asks
one question.
"""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from fastlayer._values import NamedTuple
from fastlayer.builder.context.nodes import Child, decode

if TYPE_CHECKING:
    import sqlite3

    from fastlayer.builder.context.digests import Digests
    from fastlayer.builder.context.tree import Tree
    from fastlayer.metadata.database import Database

Nodes = Callable[[bytes], bytes | None]  # a node by its digest
_INSERT = "INSERT OR IGNORE INTO build_nodes(digest, data) VALUES (?, ?)"


class Difference(NamedTuple):
    """``what`` differs at ``path``: ``added``, ``removed``, ``content``, ``mode``, ``owner``, ``type``, ``link``,
    ``device`` or ``xattr``."""

    path: bytes
    what: str


def write_nodes(database: Database, tree: Tree, paths: Sequence[bytes]) -> list[bytes]:
    """The digests of paths, whose nodes are in the database then; only those that are missing are written."""
    places = tree.filled(paths)
    digests = [part.digest(row) for part, row in places]
    with database.read() as db:
        missing = [place for place, digest in zip(places, digests, strict=True) if not _has(db, digest)]
    if missing:
        with database.write() as db:
            db.executemany(_INSERT, _new_nodes(db, missing))
    return digests


def _has(db: sqlite3.Connection, digest: bytes) -> bool:
    return db.execute("SELECT 1 FROM build_nodes WHERE digest = ?", (digest,)).fetchone() is not None


def _new_nodes(db: sqlite3.Connection, places: Iterable[tuple[Digests, int]]) -> Iterator[tuple[bytes, bytes]]:
    for part, top in places:
        yield part.digest(top), part.top(top)
        waiting = [top] if part.is_directory(top) else []
        while waiting:
            row = waiting.pop()
            key = part.key(row)
            if _has(db, key):
                continue
            data, directories = part.node(row)
            yield key, data
            waiting += directories


def put_nodes(database: Database, nodes: Mapping[bytes, bytes]) -> None:
    """Writes nodes that are there with all that they lead to."""
    if nodes:
        with database.write() as db:
            db.executemany(_INSERT, nodes.items())


def either(one: Nodes, other: Nodes) -> Nodes:
    """Nodes of two places; the second is asked for what the first has not got."""
    return lambda digest: one(digest) or other(digest)


def nodes_of(db: sqlite3.Connection) -> Nodes:
    """The nodes of a database."""

    def node(digest: bytes) -> bytes | None:
        row = db.execute("SELECT data FROM build_nodes WHERE digest = ?", (digest,)).fetchone()
        return None if row is None else bytes(row[0])

    return node


# ---- what differs ----


def first_difference(old: bytes, new: bytes, nodes: Nodes) -> Difference | None:
    """The first path, in the order of names, at which two digests differ; None: they do not.

    Where a node is missing, all that can be said is that the content of that directory differs.
    """
    return next(differences(old, new, nodes), None)


def differences(old: bytes, new: bytes, nodes: Nodes) -> Iterator[Difference]:
    """All of them; an attribute of a directory comes before what is in it."""
    walks = [_compared(b"", old, new, nodes)]
    while walks:
        found = next(walks[-1], None)
        if found is None:
            walks.pop()
        elif isinstance(found, Difference):
            yield found
        else:
            walks.append(_compared(*found, nodes))


class _Below(NamedTuple):
    """A directory to look into: its digests."""

    path: bytes
    old: bytes
    new: bytes


def _compared(path: bytes, old: bytes, new: bytes, nodes: Nodes) -> Iterator[Difference | _Below]:
    """Two nodes."""
    if old == new:
        return
    before, after = nodes(old), nodes(new)
    if before is None or after is None:
        yield Difference(path, "content")
        return
    for name, left, right in _paired(before, after):
        place = path + b"/" + name if path and name else path or name
        if left is None or right is None:
            yield Difference(place, "removed" if right is None else "added")
            continue
        yield from _attributes(place, left, right)
        if left.key == right.key or stat.S_IFMT(left.mode) != stat.S_IFMT(right.mode):
            continue
        yield _Below(place, left.key, right.key) if stat.S_ISDIR(left.mode) else Difference(place, "content")


def _paired(old: bytes, new: bytes) -> Iterator[tuple[bytes, Child | None, Child | None]]:
    """Children by name."""
    left, right = ({child.name: child for child in decode(data)} for data in (old, new))
    for name in sorted(left.keys() | right.keys()):
        yield name, left.get(name), right.get(name)


def _attributes(path: bytes, old: Child, new: Child) -> Iterator[Difference]:
    if stat.S_IFMT(old.mode) != stat.S_IFMT(new.mode):
        yield Difference(path, "type")
        return
    for what, changed in (
        ("mode", old.mode != new.mode),
        ("owner", (old.uid, old.gid) != (new.uid, new.gid)),
        ("link", old.link != new.link),
        ("device", old.rdev != new.rdev),
        ("xattr", old.xattrs != new.xattrs),
    ):
        if changed:
            yield Difference(path, what)


# ---- what is kept ----


def prune_nodes(db: sqlite3.Connection, roots: Iterable[bytes]) -> tuple[int, int]:
    """Removes the nodes that none of these digests leads to, within the caller's transaction: how many, their bytes."""
    node = nodes_of(db)
    kept: set[bytes] = set()
    waiting = list(roots)
    while waiting:
        digest = waiting.pop()
        if digest in kept or (data := node(digest)) is None:
            continue
        kept.add(digest)
        waiting += [child.key for child in decode(data) if stat.S_ISDIR(child.mode) and child.key not in kept]
    rows = db.execute("SELECT digest, length(data) FROM build_nodes").fetchall()
    gone = [(bytes(row[0]), int(row[1])) for row in rows if bytes(row[0]) not in kept]
    db.executemany("DELETE FROM build_nodes WHERE digest = ?", ((digest,) for digest, _ in gone))
    return len(gone), sum(size for _, size in gone)
