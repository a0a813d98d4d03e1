"""The differ: what is a change, and in which order. Both backends."""

from __future__ import annotations

import itertools
import os
import resource
import socket
import stat
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastlayer import _backend
from fastlayer._backend import CONTENT, DEVICE, LINK, MODE, MTIME, OWNER, TYPE, XATTR
from fastlayer.errors import FileChangedError, StorageError, UsageError
from tests.conftest import needs_root
from tests.pairs import WHEN, Pair, directory, link_names, put, table_of


@pytest.fixture
def pair(tmp_path: Path, engine: _backend.Engine) -> Pair:
    return Pair(tmp_path, engine)


# ---- nothing, added, removed ----------------------------------------------------------------


def test_identical_trees_have_no_rows(pair: Pair) -> None:
    def make(root: Path) -> None:
        put(root / "etc/passwd", b"root")
        (root / "etc/link").symlink_to("passwd")
        (root / "empty").mkdir()
        os.mkfifo(root / "fifo")

    pair.both(make)
    for compare in ("auto", "metadata", "content"):
        assert pair.rows(compare=compare) == []


def test_added_paths_come_with_all_attributes(pair: Pair) -> None:
    put(pair.b / "bin/x", b"abc", 0o4755)
    (pair.b / "bin/l").symlink_to("/target")
    (pair.a / "bin").mkdir()
    rows = {row.path: row for row in pair.table().rows()}
    x, link = rows[b"bin/x"], rows[b"bin/l"]
    assert (x.kind, x.what, x.mode, x.size, x.mtime_ns, x.rdev) == ("A", 0, stat.S_IFREG | 0o4755, 3, WHEN, (0, 0))
    assert (x.uid, x.gid, x.link, x.leader, x.xattrs) == (os.geteuid(), os.getegid(), b"", None, ())
    assert (link.kind, link.link, stat.S_ISLNK(link.mode)) == ("A", b"/target", True)
    assert rows[b"bin"].kind == "P"
    assert list(rows) == [b"bin", b"bin/l", b"bin/x"]


def test_removed_directory_is_one_row(pair: Pair) -> None:
    put(pair.a / "d/e/f", b"1")
    put(pair.a / "d-x", b"1")
    put(pair.a / "d/z", b"1")
    assert pair.rows() == [("D", b"d", 0), ("D", b"d-x", 0)]
    row = pair.table().row(0)
    assert stat.S_ISDIR(row.mode) and row.xattrs == () and row.leader is None


def test_neighbours_of_a_removed_directory_in_path_order(pair: Pair) -> None:
    """`a-b/x` sorts between `a` and `a/x`: both are below removed directories."""
    for name in ("a/x", "a-b/x", "a-b/y/z", "a.b"):
        put(pair.a / name, b"1")
    put(pair.b / "a0", b"1")
    assert pair.lines() == ["D a", "D a-b", "D a.b", "A a0"]


def test_sort_order_is_that_of_full_paths(pair: Pair) -> None:
    names = ["a/b", "a-b", "a.b", "a0", "a/0", "ab", "a/b-c", "A", "é", "a/\x01"]
    for name in names:
        if name != "a/b":
            put(pair.b / name, b"1")
    put(pair.b / "a/b/c", b"1")
    paths = [path for _, path, _ in pair.rows()]
    assert paths == sorted(paths)
    assert paths == sorted([os.fsencode(name) for name in names] + [b"a", b"a/b/c"])


def test_empty_tree_as_first_operand(pair: Pair) -> None:
    put(pair.b / "x", b"1")
    pair.settle_times()
    with directory(pair.b) as b:
        assert [(row.kind, row.path) for row in table_of(pair.engine, None, b).rows()] == [("A", b""), ("A", b"x")]
        assert [(row.kind, row.path) for row in table_of(pair.engine, b, None).rows()] == [("D", b"x")]


# ---- attributes ---------------------------------------------------------------------------------


def test_parents_of_changes_are_kept_and_no_other_directory(pair: Pair) -> None:
    def make(root: Path) -> None:
        for name in ("usr/bin/x", "usr/lib/y", "usr-local/z", "var/log/messages", "var/spool/q"):
            put(root / name, b"same")

    pair.both(make)
    put(pair.b / "usr/bin/x", b"other")
    (pair.b / "var/spool/q").unlink()
    assert pair.rows() == [
        ("P", b"usr", 0),
        ("P", b"usr/bin", 0),
        ("C", b"usr/bin/x", CONTENT),
        ("P", b"var", 0),
        ("P", b"var/spool", 0),
        ("D", b"var/spool/q", 0),
    ]


def test_parent_whose_sibling_sorts_between_it_and_its_children(pair: Pair) -> None:
    pair.both(lambda root: put(root / "a/x", b"1"))
    put(pair.b / "a-b", b"1")
    put(pair.b / "a/x", b"2")
    assert pair.rows() == [("P", b"a", 0), ("A", b"a-b", 0), ("C", b"a/x", CONTENT)]
    put(pair.b / "a/x", b"1")
    assert pair.rows() == [("A", b"a-b", 0)]


def test_root_attributes(pair: Pair) -> None:
    pair.b.chmod(0o700)
    pair.at(pair.b, WHEN + 1)
    assert pair.rows() == [("C", b"", MODE | MTIME)]


@pytest.mark.parametrize("kind", ["file", "dir", "fifo"])
def test_mode_change_of_every_type(pair: Pair, kind: str) -> None:
    def make(root: Path) -> None:
        put(root / "x") if kind == "file" else (root / "x").mkdir() if kind == "dir" else os.mkfifo(root / "x")

    pair.both(make)
    (pair.a / "x").chmod(0o755)
    (pair.b / "x").chmod(0o4755)
    assert pair.rows(compare="metadata") == [("C", b"x", MODE)]


def test_mtime_up_or_down_by_a_nanosecond(pair: Pair) -> None:
    def make(root: Path) -> None:
        put(root / "f", b"1")
        (root / "l").symlink_to("f")
        (root / "d").mkdir()

    pair.both(make)
    pair.at(pair.b / "f", WHEN - 1)
    pair.at(pair.b / "l", WHEN + 1)
    pair.at(pair.b / "d", -1)
    assert pair.rows() == [("C", b"d", MTIME), ("C", b"f", MTIME), ("C", b"l", MTIME)]
    assert pair.table().row(0).mtime_ns == -1


@needs_root
def test_owner_change(pair: Pair) -> None:
    def make(root: Path) -> None:
        put(root / "f", b"1")
        (root / "l").symlink_to("f")

    pair.both(make)
    os.chown(pair.b / "f", 1000, 2_000_000_000)
    os.lchown(pair.b / "l", 0, 7)
    assert pair.rows(compare="metadata") == [("C", b"f", OWNER), ("C", b"l", OWNER)]
    assert (pair.table().row(0).uid, pair.table().row(0).gid) == (1000, 2_000_000_000)


@needs_root
def test_device_numbers_are_compared(pair: Pair) -> None:
    os.mknod(pair.a / "c", stat.S_IFCHR | 0o600, os.makedev(1, 3))
    os.mknod(pair.b / "c", stat.S_IFCHR | 0o600, os.makedev(1, 5))
    os.mknod(pair.b / "wh", stat.S_IFCHR, os.makedev(0, 0))
    os.mknod(pair.b / "big", stat.S_IFBLK, os.makedev(259, 70_000))
    rows = pair.table().rows()
    assert [(row.kind, row.path, row.what, row.rdev) for row in rows] == [
        ("A", b"big", 0, (259, 70_000)),
        ("C", b"c", DEVICE, (1, 5)),
        ("A", b"wh", 0, (0, 0)),
    ]
    assert all(row.size == 0 for row in rows)


def test_link_target(pair: Pair) -> None:
    (pair.a / "l").symlink_to("one")
    (pair.b / "l").symlink_to("two")
    assert pair.rows() == [("C", b"l", LINK)]
    assert pair.table().row(0).link == b"two"


# ---- xattrs -----------------------------------------------------------------------------------------


def test_xattr_only_change_in_every_mode(pair: Pair) -> None:
    def make(root: Path) -> None:
        for name in ("added", "removed", "other", "empty", "same"):
            put(root / name, b"1")
        os.setxattr(root / "same", "user.b", b"2")
        os.setxattr(root / "same", "user.a", b"1")

    pair.both(make)
    os.setxattr(pair.b / "added", "user.n", b"v\0\n=")
    os.setxattr(pair.a / "removed", "user.n", b"v")
    os.setxattr(pair.a / "other", "user.n", b"v")
    os.setxattr(pair.b / "other", "user.n", b"w")
    os.setxattr(pair.b / "empty", "user.n", b"")
    expected = [("C", name, XATTR) for name in (b"added", b"empty", b"other", b"removed")]
    for compare in ("auto", "metadata", "content"):
        assert pair.rows(compare=compare) == expected
    assert pair.table().row(0).xattrs == ((b"user.n", b"v\0\n="),)
    assert pair.table().row(1).xattrs == ((b"user.n", b""),)


def test_large_and_many_xattrs(pair: Pair) -> None:
    put(pair.b / "f", b"1")
    value = bytes(range(256)) * 3
    names = [f"user.attribute-number-{i:03d}" for i in range(30)]
    for name in names:
        os.setxattr(pair.b / "f", name, value if name.endswith("17") else b"x" * 5)
    found = pair.table().row(0).xattrs
    assert found == tuple((n.encode(), value if n.endswith("17") else b"x" * 5) for n in names)


@needs_root
def test_xattr_policies(pair: Pair) -> None:
    capability = struct.pack("<IIIII", 0x02000001, 1 << 13, 0, 0, 0)
    put(pair.b / "f", b"1")
    os.setxattr(pair.b / "f", "user.u", b"1")
    os.setxattr(pair.b / "f", "trusted.t", b"1")
    os.setxattr(pair.b / "f", "trusted.overlay.origin", b"1")
    os.setxattr(pair.b / "f", "security.capability", capability)
    found = {policy: pair.table(xattrs=policy) for policy in ("all", "docker", "none")}
    names = {policy: [name for name, _ in table.row(0).xattrs] for policy, table in found.items()}
    assert names == {
        "all": [b"security.capability", b"user.u"],
        "docker": [b"security.capability"],
        "none": [],
    }
    assert {policy: table.dropped_xattrs for policy, table in found.items()} == {"all": 2, "docker": 3, "none": 4}


@needs_root
def test_left_out_xattrs_are_no_change_and_count_only_where_it_matters(pair: Pair) -> None:
    pair.both(lambda root: put(root / "d/f", b"1"))
    pair.both(lambda root: put(root / "e/f", b"1"))
    for name in ("d", "d/f", "e", "e/f"):
        os.setxattr(pair.b / name, "trusted.overlay.x", b"1")
    assert pair.table().dropped_xattrs == 0 and pair.rows() == []
    put(pair.b / "d/f", b"2")
    assert pair.rows() == [("P", b"d", 0), ("C", b"d/f", CONTENT)]
    assert pair.table().dropped_xattrs == 2


# ---- contents ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 4096, 131_072, 131_073, 400_000])
def test_same_size_same_mtime_edit(pair: Pair, size: int) -> None:
    data = os.urandom(size)
    put(pair.a / "f", data)
    put(pair.b / "f", data[:-1] + bytes([data[-1] ^ 1]))
    for compare in ("auto", "content"):
        assert pair.rows(compare=compare) == [("C", b"f", CONTENT)]
    assert pair.rows(compare="metadata") == []
    put(pair.b / "f", data)
    assert pair.rows() == []


def test_size_change_is_seen_without_reading(pair: Pair) -> None:
    put(pair.a / "f", b"1")
    put(pair.b / "f", b"12")
    assert pair.rows(compare="metadata") == [("C", b"f", CONTENT)]


def test_details_decide_content_where_something_else_changed(pair: Pair) -> None:
    for name, data in (("same", b"1"), ("edited", b"2")):
        put(pair.a / name, b"1")
        pair.at(put(pair.b / name, data), WHEN + 5)
    assert pair.rows(details=True) == [("C", b"edited", CONTENT | MTIME), ("C", b"same", MTIME)]
    assert pair.rows(details=False) == [("C", b"edited", MTIME), ("C", b"same", MTIME)]
    assert pair.rows(details=True, compare="metadata") == [("C", b"edited", MTIME), ("C", b"same", MTIME)]


def test_same_inode_is_not_read(pair: Pair) -> None:
    put(pair.a / "f", b"x" * 100)
    (pair.b / "f").hardlink_to(pair.a / "f")
    pair.settle_times()
    for compare in ("auto", "content"):
        with directory(pair.a) as a, directory(pair.b) as b:
            differ = pair.engine.changes.Differ(a, b, compare=compare)
            while differ.step():
                pass
            assert (len(differ.finish()), differ.bytes_compared, differ.entries) == (0, 0, 4)


def test_large_comparison_takes_many_steps(pair: Pair) -> None:
    """A caller gets to look at signals while one large file is compared."""
    if pair.engine.name != "native":
        return
    size = 40 << 20
    for root in (pair.a, pair.b):
        with open(root / "big", "wb") as file:
            file.truncate(size)
    pair.settle_times()
    with directory(pair.a) as a, directory(pair.b) as b:
        differ = pair.engine.changes.Differ(a, b, compare="content")
        steps = sum(1 for _ in iter(differ.step, False))
        assert steps >= 2 and differ.bytes_compared == size
        assert len(differ.finish()) == 0


# ---- types ------------------------------------------------------------------------------------------


def make_thing(path: Path, kind: str) -> None:
    if kind == "dir":
        put(path / "in/side", b"1")
    elif kind == "file":
        put(path, b"1")
    elif kind == "symlink":
        path.symlink_to("nowhere")
    else:
        os.mkfifo(path)


@pytest.mark.parametrize("old,new", list(itertools.permutations(["dir", "file", "symlink", "fifo"], 2)))
def test_type_changes(pair: Pair, old: str, new: str) -> None:
    make_thing(pair.a / "x", old)
    make_thing(pair.b / "x", new)
    children = [("A", b"x/in", 0), ("A", b"x/in/side", 0)] if new == "dir" else []
    assert pair.rows() == [("C", b"x", TYPE), *children]


def test_directory_replaced_next_to_a_longer_name(pair: Pair) -> None:
    """`x-y` sorts between `x` and what was below it."""
    put(pair.a / "x/old", b"1")
    put(pair.a / "x-y/old", b"1")
    put(pair.b / "x", b"1")
    put(pair.b / "x-y/new", b"1")
    assert pair.rows() == [("C", b"x", TYPE), ("P", b"x-y", 0), ("A", b"x-y/new", 0), ("D", b"x-y/old", 0)]


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        here = os.getcwd()
        os.chdir(path.parent)
        try:
            server.bind(path.name)
        finally:
            os.chdir(here)


def test_sockets_are_skipped_but_what_was_there_is_removed(pair: Pair) -> None:
    make_socket(pair.a / "both")
    make_socket(pair.b / "both")
    make_socket(pair.a / "gone")
    make_socket(pair.b / "new")
    put(pair.a / "was-file", b"1")
    make_socket(pair.b / "was-file")
    put(pair.a / "was-dir/x", b"1")
    make_socket(pair.b / "was-dir")
    make_socket(pair.a / "was-socket")
    put(pair.b / "was-socket", b"1")
    make_socket(pair.a / "was-socket-dir")
    put(pair.b / "was-socket-dir/x", b"1")
    assert pair.rows() == [
        ("D", b"gone", 0),
        ("D", b"was-dir", 0),
        ("D", b"was-file", 0),
        ("C", b"was-socket", TYPE),
        ("C", b"was-socket-dir", TYPE),
        ("A", b"was-socket-dir/x", 0),
    ]
    assert pair.table().skipped_sockets == 4


def test_fifos_and_devices_are_never_opened(pair: Pair) -> None:
    """Opening a fifo for reading would wait for a writer."""
    pair.both(lambda root: os.mkfifo(root / "p"))
    assert pair.rows(compare="content") == []


# ---- trees that are hard to walk ------------------------------------------------------------------------


@pytest.fixture
def removed_by_rm(pair: Pair) -> Iterator[None]:
    """The tree is too deep for what removes pytest's own directories."""
    yield
    subprocess.run(["rm", "-rf", pair.a, pair.b], check=True)


@pytest.mark.usefixtures("removed_by_rm")
def test_deeper_than_path_max_and_than_open_files(pair: Pair) -> None:
    """1200 levels of four letters: longer than PATH_MAX, deeper than RLIMIT_NOFILE 64 allows descriptors."""

    def make(root: Path) -> None:
        fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
        for _ in range(1200):
            os.mkdir("deep", dir_fd=fd)
            os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=fd))
            os.utime("file", ns=(WHEN, WHEN), dir_fd=fd)
            inner = os.open("deep", os.O_RDONLY | os.O_DIRECTORY, dir_fd=fd)
            os.close(fd)
            fd = inner
        for _ in range(1200):
            os.utime(fd, ns=(WHEN, WHEN))
            outer = os.open("..", os.O_RDONLY | os.O_DIRECTORY, dir_fd=fd)
            os.close(fd)
            fd = outer
        os.utime(fd, ns=(WHEN, WHEN))
        os.close(fd)

    pair.both(make)
    in_use = len(os.listdir("/proc/self/fd"))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with directory(pair.a) as a, directory(pair.b) as b:
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(64, in_use + 42), hard))
        try:
            assert len(table_of(pair.engine, a, b)) == 0
            rows = table_of(pair.engine, None, b).rows()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert len(rows) == 2401
    assert max(len(row.path) for row in rows) == 1200 * 5 - 1


def test_large_directory(pair: Pair) -> None:
    for i in range(5000):
        put(pair.b / f"a-long-common-prefix-{i * 7919 % 5000}")
    paths = [row.path for row in pair.table().rows() if row.path]
    assert len(paths) == 5000 and paths == sorted(paths)


@pytest.mark.skipif(os.geteuid() == 0 and not os.path.exists("/usr/bin/setpriv"), reason="needs setpriv as root")
def test_unreadable_directory_is_an_error_that_names_it(pair: Pair) -> None:
    pair.both(lambda root: put(root / "d/locked/x", b"1"))
    (pair.b / "d/locked").chmod(0)
    if os.geteuid() == 0:
        _refused_for_nobody(pair)
        return
    with pytest.raises(StorageError, match="d/locked"):
        pair.rows()


def _refused_for_nobody(pair: Pair) -> None:
    """In a child without root's rights."""
    for folder in (pair.a, *pair.a.parents[:3]):
        if folder.stat().st_uid == os.geteuid():
            folder.chmod(folder.stat().st_mode | 0o055)
    pair.settle_times()
    reader, writer = os.pipe()
    with directory(pair.a) as a, directory(pair.b) as b:
        child = os.fork()
        if child == 0:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
            try:
                table_of(pair.engine, a, b, compare="metadata")
                text = "no error"
            except BaseException as exc:
                text = f"{type(exc).__name__} {exc}"
            os.write(writer, text.encode())
            os._exit(0)
        os.close(writer)
        os.waitpid(child, 0)
    with os.fdopen(reader) as pipe:
        text = pipe.read()
    assert text.startswith("StorageError") and "d/locked" in text and "Permission denied" in text


def test_file_that_is_swapped_while_compared(pair: Pair) -> None:
    """The entry was listed with 5000 bytes; whoever opens it finds another file."""
    if pair.engine.name != "native":
        return
    pair.both(lambda root: [put(root / f"f{i:05d}", b"x" * 5000) for i in range(3000)])
    pair.settle_times()
    with directory(pair.a) as a, directory(pair.b) as b:
        differ = pair.engine.changes.Differ(a, b, compare="content", threads=2)
        assert differ.step()
        (pair.b / "f02999").write_bytes(b"short")
        with pytest.raises(FileChangedError, match="f02999"):
            while differ.step():
                pass


# ---- the table as memory ----------------------------------------------------------------------------------


ROW = struct.Struct("=QQqQIIIIIIHHHBB")


def test_records_and_heap(pair: Pair) -> None:
    put(pair.a / "old", b"1")
    put(pair.b / "d/new", b"12345", 0o600)
    os.setxattr(pair.b / "d/new", "user.k", b"v")
    link_names(pair.b, "d/p", "d/q")
    table = pair.table()
    records, heap = table.records(), table.heap()
    assert records.readonly and heap.readonly
    assert len(records) == 64 * len(table) == ROW.size * len(table)
    for i, row in enumerate(table.rows()):
        _, size, sec, off, nsec, _, _, path_len, xattr_len, leader, mode, link_len, what, kind, _ = ROW.unpack_from(
            records, 64 * i
        )
        assert (chr(kind), what, mode) == (row.kind, row.what, row.mode)
        assert bytes(heap[off : off + path_len]) == row.path
        if row.kind != "D":
            assert (sec * 10**9 + nsec, size) == (row.mtime_ns, row.size)
        assert (leader == 0xFFFFFFFF) == (row.leader is None)
        if row.leader is not None:
            assert table.row(leader).path == row.leader
        blob = bytes(heap[off + path_len + link_len :][:xattr_len])
        assert blob == b"".join(struct.pack("=HI", len(n), len(v)) + n + v for n, v in row.xattrs)


def test_table_outlives_the_differ_and_views_outlive_the_table(pair: Pair) -> None:
    put(pair.b / "x", b"1")
    records = pair.table().records()
    assert len(records) == 64 and records[63 - 1] == ord("A")


def test_slices_of_rows(pair: Pair) -> None:
    for i in range(10):
        put(pair.b / f"{i}")
    table = pair.table()
    assert [row.path for row in table.rows(3, 5)] == [b"3", b"4"]
    assert table.rows(8) == [table.row(8), table.row(9)]
    assert table.rows(20, 30) == []
    with pytest.raises(IndexError):
        table.row(10)


def test_unknown_policies(engine: _backend.Engine) -> None:
    with pytest.raises(UsageError, match="fast"):
        engine.changes.Differ(None, None, compare="fast")
    with pytest.raises(UsageError, match="some"):
        engine.changes.Differ(None, None, xattrs="some")


def test_both_backends_agree(tmp_path: Path) -> None:
    """Rows of a mixed pair are the same, value for value."""
    native = Pair(tmp_path, _backend._load("native"))
    for root, data in ((native.a, b"1"), (native.b, b"2")):
        link_names(root, "h1", "h2", data=data)
        put(root / "same/x", b"same")
        put(root / f"only-{data.decode()}/y", data)
        put(root / "d/edited", data)
    os.setxattr(native.b / "same/x", "user.x", b"y")
    native.settle_times()
    found = []
    for name in ("native", "baseline"):
        with directory(native.a) as a, directory(native.b) as b:
            table = table_of(_backend._load(name), a, b, details=True)
            found.append([tuple(row) for row in table.rows()])
    assert found[0] == found[1]
