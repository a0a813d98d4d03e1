"""The differ with an index or a scanned tar on one side or both. Both backends."""

from __future__ import annotations

import array
import os
import stat
import struct
from pathlib import Path
from typing import Any

import pytest

from fastlayer import _backend
from fastlayer._backend import CONTENT
from fastlayer.errors import LayerFormatError, UsageError
from tests.pairs import Pair, directory, link_names, put, table_of


@pytest.fixture
def pair(tmp_path: Path, engine: _backend.Engine) -> Pair:
    return Pair(tmp_path, engine)


_ENTRY = struct.Struct("=QQQqqQIIIIIIIIIIII")
_FIELDS = (
    ("dev", "Q"), ("ino", "Q"), ("size", "Q"), ("mtime_sec", "q"), ("ctime_sec", "q"), ("path_off", "Q"),
    ("mtime_nsec", "I"), ("ctime_nsec", "I"), ("mode", "I"), ("uid", "I"), ("gid", "I"), ("nlink", "I"),
    ("rdev_major", "I"), ("rdev_minor", "I"), ("path_len", "I"), ("link_len", "I"), ("xattr_len", "I"), ("flags", "I"),
)  # fmt: skip


def columns_of(path: Path, engine: _backend.Engine, *, keys: bool = True, racy_ns: int = 1 << 62) -> _backend.Columns:
    """An index as the index writer would make it; the "hash" is the size and first bytes, enough for a test."""
    with directory(path) as fd:
        scanner = engine.scan.Scanner(fd)
        batches = []
        while (batch := scanner.next_batch(1 << 20)) is not None:
            batches.append(batch)
    assert len(batches) == 1
    records, heap = batches[0]
    entries = list(_ENTRY.iter_unpack(records))
    cells = {name: array.array(code, [e[i] for e in entries]) for i, (name, code) in enumerate(_FIELDS)}
    key = bytearray(32 * len(entries))
    if keys:
        for i, entry in enumerate(entries):
            if stat.S_ISREG(entry[8]):
                relative = heap[entry[5] : entry[5] + entry[14]].decode()
                key[32 * i : 32 * i + 32] = fake_hash((path / relative).read_bytes())
                cells["flags"][i] |= 1
    return _backend.Columns(
        count=len(entries), heap=heap, key=key if keys else None, data_off=None, racy_ns=racy_ns, **cells
    )


def fake_hash(data: bytes) -> bytes:
    return (len(data).to_bytes(8, "little") + data)[:32].ljust(32, b"\0")


def run(engine: _backend.Engine, a: Any, b: Any, **options: Any) -> tuple[list[tuple[str, bytes, int]], list[bytes]]:
    """Rows, and the paths that had to be hashed."""
    differ = engine.changes.Differ(a, b, **options)
    while differ.step():
        pass
    hashed = []
    root = a if isinstance(a, int) else b
    for ticket, path, key in differ.unverified():
        hashed.append(path)
        with os.fdopen(os.open(path, os.O_RDONLY, dir_fd=root), "rb") as file:
            differ.settle(ticket, fake_hash(file.read()) == key)
    assert list(differ.unverified()) == []
    return [(row.kind, row.path, row.what) for row in differ.finish().rows()], hashed


@pytest.mark.parametrize("side", ["index first", "index second"])
def test_directory_against_index(pair: Pair, side: str) -> None:
    def make(root: Path) -> None:
        put(root / "d/same", b"1")
        put(root / "d/edited", b"1")
        put(root / "empty", b"")
        (root / "l").symlink_to("d")

    pair.both(make)
    put(pair.b / "d/edited", b"2")
    pair.settle_times()
    changes = [("P", b"d", 0), ("C", b"d/edited", CONTENT)]
    if side == "index first":
        index = columns_of(pair.a, pair.engine)
        with directory(pair.b) as live:
            assert run(pair.engine, index, live) == (changes, [b"d/edited", b"d/same"])
            assert run(pair.engine, index, live, compare="metadata") == ([], [])
    else:
        index = columns_of(pair.b, pair.engine)
        with directory(pair.a) as live:
            assert run(pair.engine, live, index) == (changes, [b"d/edited", b"d/same"])


def test_unchanged_inode_and_ctime_prove_equality(pair: Pair) -> None:
    put(pair.a / "f", b"1")
    pair.settle_times()
    index = columns_of(pair.a, pair.engine)
    with directory(pair.a) as live:
        assert run(pair.engine, index, live) == ([], [])
        assert run(pair.engine, index, live, compare="content") == ([], [b"f"])
        put(pair.a / "f", b"2")
        pair.settle_times()
        assert run(pair.engine, index, live) == ([("C", b"f", CONTENT)], [b"f"])


def test_racy_ctime_proves_nothing(pair: Pair) -> None:
    put(pair.a / "f", b"1")
    pair.settle_times()
    ctime = (pair.a / "f").stat().st_ctime_ns
    with directory(pair.a) as live:
        assert run(pair.engine, columns_of(pair.a, pair.engine, racy_ns=ctime), live) == ([], [b"f"])
        assert run(pair.engine, columns_of(pair.a, pair.engine, racy_ns=ctime + 1), live) == ([], [])
        assert run(pair.engine, columns_of(pair.a, pair.engine, racy_ns=0), live) == ([], [b"f"])


def test_missing_key_cannot_prove_equality(pair: Pair) -> None:
    pair.both(lambda root: put(root / "f", b"1"))
    pair.settle_times()
    without = columns_of(pair.a, pair.engine, keys=False)
    with directory(pair.b) as live:
        assert run(pair.engine, without, live) == ([("C", b"f", CONTENT)], [])
        assert run(pair.engine, without, live, compare="metadata") == ([], [])


def test_index_against_index(pair: Pair) -> None:
    pair.both(lambda root: put(root / "same", b"1"))
    put(pair.a / "edited", b"1")
    put(pair.b / "edited", b"2")
    pair.settle_times()
    a, b = columns_of(pair.a, pair.engine), columns_of(pair.b, pair.engine)
    assert run(pair.engine, a, b) == ([("C", b"edited", CONTENT)], [])
    assert run(pair.engine, None, a)[0][1:] == [("A", b"edited", 0), ("A", b"same", 0)]


def test_finish_needs_every_pair_settled(pair: Pair) -> None:
    pair.both(lambda root: put(root / "f", b"1"))
    pair.settle_times()
    with directory(pair.b) as live:
        differ = pair.engine.changes.Differ(columns_of(pair.a, pair.engine), live)
        while differ.step():
            pass
        with pytest.raises(UsageError, match="settled"):
            differ.finish()


def test_hard_links_wait_for_verification(pair: Pair) -> None:
    pair.both(lambda root: link_names(root, "p", "q", data=b"1"))
    link_names_again = pair.b / "p"
    link_names_again.write_bytes(b"2")
    pair.settle_times()
    with directory(pair.b) as live:
        rows, hashed = run(pair.engine, columns_of(pair.a, pair.engine), live)
    assert rows == [("C", b"p", CONTENT), ("C", b"q", CONTENT)]
    assert hashed == [b"p", b"q"]


def test_bytes_of_a_tar_operand(pair: Pair) -> None:
    """With data_off the row says where the bytes are: 'O', root 0, offset."""
    put(pair.b / "f", b"12345")
    pair.settle_times()
    columns = columns_of(pair.b, pair.engine)._replace(data_off=array.array("Q", [0, 1536]))
    table = table_of(pair.engine, None, columns)
    row = table.row(1)
    assert (row.path, row.link) == (b"f", b"")
    offset, path_len, link_len, flags = (
        struct.unpack_from(code, table.records(), 64 + at)[0]
        for code, at in (("=Q", 24), ("=I", 44), ("=H", 58), ("=B", 63))
    )
    assert flags == 4 | 8
    aux = bytes(table.heap()[offset + path_len :][:link_len])
    assert aux == struct.pack("=cBQ", b"O", 0, 1536)
    key = bytes(table.heap()[offset + path_len + link_len :][:32])
    assert key == fake_hash(b"12345")


def test_damaged_columns_are_refused(pair: Pair) -> None:
    if pair.engine.name != "native":
        return
    put(pair.a / "f", b"1")
    columns = columns_of(pair.a, pair.engine)
    for damage in (
        {"path_len": array.array("I", [0, 1 << 20])},
        {"path_off": array.array("Q", [0, 1 << 63])},
        {"path_len": array.array("I", [1, 1]), "path_off": array.array("Q", [0, 0])},
    ):
        with pytest.raises(LayerFormatError, match="entry 1"):
            table_of(pair.engine, None, columns._replace(**damage))
    with pytest.raises(UsageError, match="mode"):
        pair.engine.changes.Differ(None, columns._replace(mode=array.array("I", [1])))


def test_settling_after_every_step(pair: Pair) -> None:
    """What proves equal at once takes no room; the answer is the same as settling at the end."""
    pair.both(lambda root: [put(root / f"d{i % 9}/f{i}", b"%d" % i) for i in range(4500)])
    pair.both(lambda root: link_names(root, "d5/p", "d6/q", data=b"linked"))
    put(pair.b / "d3/f3", b"X")
    pair.settle_times()
    index = columns_of(pair.a, pair.engine)
    with directory(pair.b) as live:
        differ = pair.engine.changes.Differ(index, live)
        more, asked = True, 0
        while more:
            more = differ.step()
            for ticket, path, key in differ.unverified():
                asked += 1
                with os.fdopen(os.open(path, os.O_RDONLY, dir_fd=live), "rb") as file:
                    differ.settle(ticket, fake_hash(file.read()) == key)
        assert asked == 4502
        with pytest.raises(UsageError):
            differ.settle(0, True)
        assert [(row.kind, row.path) for row in differ.finish().rows()] == [("P", b"d3"), ("C", b"d3/f3")]
