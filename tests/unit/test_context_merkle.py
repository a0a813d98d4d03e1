"""What is told about two trees that differ: the nodes that are kept of them, walked from the top."""

from __future__ import annotations

import os
import random
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastlayer import _backend
from fastlayer.builder.context import merkle, nodes
from fastlayer.builder.context.merkle import Difference
from fastlayer.errors import CorruptStoreError
from fastlayer.metadata.database import Database
from tests.conftest import needs_root
from tests.unit.test_context_tree import context, grow, make, put


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    found = Database(tmp_path / "metadata.db")
    yield found
    found.close()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "root").mkdir()
    return tmp_path / "root"


def written(database: Database, root: Path, path: bytes = b"", *, git: bool = False) -> bytes:
    with context(root, git=git) as tree:
        (digest,) = merkle.write_nodes(database, tree, [path])
        assert digest == tree.digest(path)
    return digest


def told(database: Database, old: bytes, new: bytes) -> list[Difference]:
    with database.read() as db:
        found = list(merkle.differences(old, new, merkle.nodes_of(db)))
        assert merkle.first_difference(old, new, merkle.nodes_of(db)) == (found[0] if found else None)
    return found


def count(database: Database) -> int:
    with database.read() as db:
        return int(db.execute("SELECT count(*) FROM build_nodes").fetchone()[0])


def test_each_kind_of_difference_is_named(root: Path, database: Database, engine: _backend.Engine) -> None:
    make(root)
    (root / "kind").mkdir()
    old = written(database, root)
    assert told(database, old, old) == []
    put(root / "a/c/d", "other")
    put(root / "a/new")
    (root / "z").chmod(0o755)
    (root / "link").unlink()
    (root / "link").symlink_to("elsewhere")
    (root / "a-b").unlink()
    (root / "kind").rmdir()
    put(root / "kind")
    (root / "empty").chmod(0o700)
    root.chmod(0o711)
    assert told(database, old, written(database, root)) == [
        Difference(b"", "mode"),
        Difference(b"a/c/d", "content"),
        Difference(b"a/hard", "mode"),
        Difference(b"a/new", "added"),
        Difference(b"a-b", "removed"),
        Difference(b"empty", "mode"),
        Difference(b"kind", "type"),
        Difference(b"link", "link"),
        Difference(b"z", "mode"),
    ]


@needs_root
def test_differences_of_owner_device_and_capability(root: Path) -> None:
    child = nodes.Child(b"f", stat.S_IFREG, 0, 0, (0, 0), b"", b"", b"k" * 32)
    for other, what in (
        (child._replace(uid=1), "owner"),
        (child._replace(gid=1), "owner"),
        (child._replace(rdev=(1, 2)), "device"),
        (child._replace(xattrs=b"x"), "xattr"),
    ):
        assert list(merkle._attributes(b"f", child, other)) == [Difference(b"f", what)]


def dump(root: Path) -> dict[bytes, tuple[int, bytes]]:
    """Path to mode and content, as far as they count."""
    found = {}
    for path in [root, *root.rglob("*")]:
        mode = path.lstat().st_mode
        content = b""
        if stat.S_ISLNK(mode):
            content = os.fsencode(os.readlink(path))
        elif stat.S_ISREG(mode):
            content = path.read_bytes()
        found[os.fsencode(path.relative_to(root).as_posix()) if path != root else b""] = (mode, content)
    return found


def expected(old: dict[bytes, tuple[int, bytes]], new: dict[bytes, tuple[int, bytes]]) -> set[Difference]:
    found = set()
    for path in old.keys() | new.keys():
        before, after = old.get(path), new.get(path)
        parent = path.rpartition(b"/")[0]
        if before is None or after is None:
            if path and all(stat.S_ISDIR(tree.get(parent, (0, b""))[0]) for tree in (old, new)):
                found.add(Difference(path, "removed" if after is None else "added"))
        elif stat.S_IFMT(before[0]) != stat.S_IFMT(after[0]):
            found.add(Difference(path, "type"))
        else:
            if before[0] != after[0]:
                found.add(Difference(path, "mode"))
            if before[1] != after[1]:
                found.add(Difference(path, "link" if stat.S_ISLNK(before[0]) else "content"))
    return found


@pytest.mark.parametrize("seed", range(10))
def test_differences_of_random_edits(root: Path, database: Database, seed: int) -> None:
    rng = random.Random(seed)
    grow(root, rng, 50)
    history = []
    for _ in range(12):
        grow(root, rng, rng.randint(0, 6))
        history.append((written(database, root), dump(root)))
        old, before = rng.choice(history)
        found = told(database, old, history[-1][0])
        assert set(found) == expected(before, history[-1][1]) and len(set(found)) == len(found)


def test_only_new_nodes_are_written(root: Path, database: Database) -> None:
    make(root)
    first = written(database, root)
    held = count(database)
    assert held == 5  # the top, the root, a, a/c, empty
    with database.read() as db:
        version = db.execute("PRAGMA data_version").fetchone()[0]
        assert written(database, root) == first
        assert db.execute("PRAGMA data_version").fetchone()[0] == version
    put(root / "a/c/d", "other")
    written(database, root)
    assert count(database) == held + 4  # all but `empty`


def test_pruning_keeps_what_is_reached(root: Path, database: Database) -> None:
    make(root)
    old = written(database, root)
    put(root / "a/c/d", "other")
    new = written(database, root)
    alone = written(database, root, b"a/c")
    held = count(database)
    with database.write() as db:
        assert merkle.prune_nodes(db, [old, new, alone]) == (0, 0)
        gone, size = merkle.prune_nodes(db, [new, alone])
        assert gone == 4 and size > 0
    assert count(database) == held - 4
    assert told(database, old, new) == [Difference(b"", "content")]
    put(root / "a/c/d", "a/c/d")
    assert written(database, root) == old
    assert told(database, old, new) == [Difference(b"a/c/d", "content")]
    with database.write() as db:
        merkle.prune_nodes(db, [])
    assert count(database) == 0


def test_a_missing_node_is_as_far_as_it_goes(root: Path, database: Database) -> None:
    make(root)
    old = written(database, root)
    put(root / "a/c/d", "other")
    new = written(database, root)
    with context(root) as tree:
        part, row = tree.filled([b"a/c"])[0]
        key = part.key(row)
    with database.write() as db:
        db.execute("DELETE FROM build_nodes WHERE digest = ?", (key,))
    assert told(database, old, new) == [Difference(b"a/c", "content")]


def test_a_damaged_node_is_refused() -> None:
    good = nodes.HEAD.pack(stat.S_IFREG, 0, 0, 0, 0, 1, 0, 0) + b"f" + bytes(32)
    assert len(list(nodes.decode(good + good))) == 2
    for bad in (good[:-1], good + b"x", good[:10]):
        with pytest.raises(CorruptStoreError):
            list(nodes.decode(bad))


def test_files_and_links_alone_have_nodes(root: Path, database: Database) -> None:
    make(root)
    old = written(database, root, b"z")
    (root / "z").write_text("other")
    assert told(database, old, written(database, root, b"z")) == [Difference(b"", "content")]
    assert told(database, old, written(database, root, b"link")) == [Difference(b"", "type")]
