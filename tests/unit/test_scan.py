"""A tree as flat records for an index, and many small files with one call. Both backends."""

from __future__ import annotations

import os
import socket
import stat
import struct
from pathlib import Path

import pytest

from fastlayer import _backend
from fastlayer.errors import StorageError, UsageError
from tests.pairs import directory, link_names, put

ENTRY = struct.Struct("=QQQqqQIIIIIIIIIIII")
Record = tuple[bytes, bytes, bytes, tuple[int, ...]]


def scanned(scanner: _backend.Scanner, n: int) -> list[Record]:
    """(path, link, xattr blob, numbers) of everything, fetched in batches of n."""
    found = []
    while (batch := scanner.next_batch(n)) is not None:
        records, heap = batch
        entries = list(ENTRY.iter_unpack(records))
        assert 0 < len(entries) <= n
        for entry in entries:
            at, path_len, link_len, xattr_len = entry[5], entry[14], entry[15], entry[16]
            path, rest = heap[at : at + path_len], heap[at + path_len :]
            found.append((path, rest[:link_len], rest[link_len : link_len + xattr_len], entry))
    assert scanner.next_batch(n) is None
    return found


def make_tree(root: Path) -> None:
    for name in ("a/b", "a-b", "a.b", "a/c/d", "z"):
        put(root / name, name.encode())
    (root / "link").symlink_to("a/../a")
    link_names(root, "h1", "a/h2")
    os.mkfifo(root / "fifo")
    os.setxattr(root / "z", "user.k", b"v")


@pytest.mark.parametrize("n", [1, 3, 4096])
def test_records_say_what_stat_says(tmp_path: Path, engine: _backend.Engine, n: int) -> None:
    make_tree(tmp_path)
    with directory(tmp_path) as fd:
        scanner = engine.scan.Scanner(fd)
        found = scanned(scanner, n)
    paths = [path for path, _, _, _ in found]
    assert paths == sorted(paths) and paths[0] == b"" and len(paths) == 12
    assert (scanner.entries, scanner.skipped_sockets, scanner.dropped_xattrs) == (12, 0, 0)
    for path, link, blob, numbers in found:
        st = os.lstat(tmp_path / os.fsdecode(path))
        size = st.st_size if stat.S_ISREG(st.st_mode) else len(link)
        assert numbers[:5] == (st.st_dev, st.st_ino, size, st.st_mtime_ns // 10**9, st.st_ctime_ns // 10**9)
        assert numbers[6:8] == (st.st_mtime_ns % 10**9, st.st_ctime_ns % 10**9)
        assert numbers[8:12] == (st.st_mode, st.st_uid, st.st_gid, st.st_nlink)
        assert numbers[12:14] == (0, 0) and numbers[17] == 0
        assert link == (b"a/../a" if path == b"link" else b"")
        assert blob == (struct.pack("=HI", 6, 1) + b"user.kv" if path == b"z" else b"")


def test_xattr_policy(tmp_path: Path, engine: _backend.Engine) -> None:
    make_tree(tmp_path)
    with directory(tmp_path) as fd:
        scanner = engine.scan.Scanner(fd, xattrs="none")
        assert all(blob == b"" for _, _, blob, _ in scanned(scanner, 100))
        assert scanner.dropped_xattrs == 1
        with pytest.raises(UsageError, match="some"):
            engine.scan.Scanner(fd, xattrs="some")


def test_sockets_are_left_out_and_counted(
    tmp_path: Path, engine: _backend.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("s")
    with directory(tmp_path) as fd:
        scanner = engine.scan.Scanner(fd)
        assert [path for path, _, _, _ in scanned(scanner, 10)] == [b""]
        assert (scanner.entries, scanner.skipped_sockets) == (1, 1)


def test_more_entries_than_a_batch_of_the_walker(tmp_path: Path, engine: _backend.Engine) -> None:
    for i in range(3000):
        put(tmp_path / f"d{i % 7}/f{i}")
    with directory(tmp_path) as fd:
        found = scanned(engine.scan.Scanner(fd), 2000)
    assert len(found) == 3008 and [path for path, _, _, _ in found] == sorted(path for path, _, _, _ in found)


def test_not_a_directory(tmp_path: Path, engine: _backend.Engine) -> None:
    put(tmp_path / "f", b"1")
    fd = os.open(tmp_path / "f", os.O_RDONLY)
    try:
        with pytest.raises(StorageError, match="Not a directory"):
            scanned(engine.scan.Scanner(fd), 10)
    finally:
        os.close(fd)


# ---- read_many ----------------------------------------------------------------------------------


def test_read_many_packs_files_behind_each_other(tmp_path: Path, engine: _backend.Engine) -> None:
    for name, data in (("a", b"one"), ("d/b", b""), ("d/c", b"three" * 100)):
        put(tmp_path / name, data)
    buffer = bytearray(1000)
    with directory(tmp_path) as fd:
        assert engine.scan.read_many(fd, [b"a", b"d/b", b"d/c"], buffer) == [3, 0, 500]
    assert buffer[:503] == b"one" + b"three" * 100


def test_read_many_stops_where_the_buffer_ends(tmp_path: Path, engine: _backend.Engine) -> None:
    for name, size in (("a", 60), ("b", 50), ("c", 1)):
        put(tmp_path / name, b"x" * size)
    with directory(tmp_path) as fd:
        assert engine.scan.read_many(fd, [b"a", b"b", b"c"], bytearray(100)) == [60]
        assert engine.scan.read_many(fd, [b"b", b"c"], bytearray(51)) == [50, 1]
        assert engine.scan.read_many(fd, [b"a"], bytearray(59)) == []
        assert engine.scan.read_many(fd, [], bytearray(1)) == []


def test_read_many_of_what_is_no_file(tmp_path: Path, engine: _backend.Engine) -> None:
    """A fifo must not be waited for, a link not be followed."""
    put(tmp_path / "real/f", b"1")
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to("real/f")
    (tmp_path / "linked").symlink_to("real")
    paths = [b"gone", b"fifo", b"link", b"linked/f", b"real", b"real/f"]
    with directory(tmp_path) as fd:
        assert engine.scan.read_many(fd, paths, bytearray(10)) == [-1, -1, -1, -1, -1, 1]
