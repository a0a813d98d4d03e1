"""Context trees: what is in them, digests that are equal exactly when the trees are, keys that are remembered."""

from __future__ import annotations

import os
import random
import socket
import stat
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from fastlayer import _backend
from fastlayer.builder.context import digests, remembered, scanning, table, takeover
from fastlayer.builder.context.tree import ContextTree, DirectoryTree, Tree, open_directory, open_tree
from fastlayer.builder.dockerfile.ignore import Matcher
from fastlayer.errors import FileChangedError, OperandError, StorageError
from tests.conftest import needs_root

TICK = 0.03  # seconds after which a ctime proves something


@contextmanager
def context(root: Path, *patterns: str, memory: Path | None = None, **options: Any) -> Iterator[ContextTree]:
    fd = open_directory(root)
    try:
        with ContextTree(fd, patterns, memory=None if memory is None else str(memory), **options) as tree:
            yield tree
    finally:
        os.close(fd)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    found = tmp_path / "root"
    found.mkdir()
    return found


@pytest.fixture
def memory(tmp_path: Path) -> Path:
    (tmp_path / "cache").mkdir()
    return tmp_path / "cache/contexts"


def set_batch(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    """Small batches put their ends everywhere."""
    for module in (table, takeover, remembered, scanning):
        monkeypatch.setattr(module, "BATCH", size)


def put(path: Path, data: str | bytes = b"") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def make(root: Path) -> None:
    for name in ("a/b", "a-b", "a.b", "a/c/d", "z", "a0"):
        put(root / name, name)
    (root / "link").symlink_to("a/../a")
    os.link(root / "z", root / "a/hard")
    os.mkfifo(root / "fifo")
    (root / "empty").mkdir()


def digest(root: Path, path: bytes = b"", **options: Any) -> bytes:
    with context(root, **options) as tree:
        return tree.digest(path)


# ---- what is there ----


def test_entries_say_what_lstat_says(root: Path, engine: _backend.Engine) -> None:
    make(root)
    fd = open_directory(root)
    tree = DirectoryTree(fd)
    found = {entry.path: entry for entry in tree.below(b"")}
    assert list(found) == sorted(found) and len(found) == 12
    for path, entry in found.items():
        status = os.lstat(root / os.fsdecode(path))
        assert (entry.mode, entry.uid, entry.gid) == (status.st_mode, status.st_uid, status.st_gid)
        assert (entry.mtime_ns, entry.ctime_ns) == (status.st_mtime_ns, status.st_ctime_ns)
        assert (entry.dev, entry.ino, entry.nlink) == (status.st_dev, status.st_ino, status.st_nlink)
        assert entry.size == (0 if stat.S_ISDIR(status.st_mode) or stat.S_ISFIFO(status.st_mode) else status.st_size)
        assert entry == tree.find(path)
    assert found[b"link"].link == b"a/../a"
    os.close(fd)


@pytest.mark.parametrize("kind", [ContextTree, DirectoryTree])
def test_names_below_and_find_agree_with_the_directory(root: Path, engine: _backend.Engine, kind: type[Tree]) -> None:
    make(root)
    fd = open_directory(root)
    tree = kind(fd)  # type: ignore[call-arg]
    assert tree.names(b"") == [b"a", b"a-b", b"a.b", b"a0", b"empty", b"fifo", b"link", b"z"]
    assert tree.names(b"a") == [b"b", b"c", b"hard"] and tree.names(b"a/c") == [b"d"]
    assert [entry.path for entry in tree.below(b"a")] == [b"a/b", b"a/c", b"a/c/d", b"a/hard"]
    assert tree.names(b"link") == tree.names(b"z") == tree.names(b"nothere") == tree.names(b"empty") == []
    assert not list(tree.below(b"link")) and not list(tree.below(b"a-b"))
    for missing in (b"nothere", b"link/b", b"a/b/c", b"a/", b"/a", b"a//b", b"..", b"a/../z", b".", b"a\0"):
        assert tree.find(missing) is None
    root_entry = tree.find(b"")
    assert root_entry is not None and stat.S_ISDIR(root_entry.mode)
    os.close(fd)


@needs_root
def test_a_context_belongs_to_root(root: Path) -> None:
    put(root / "f")
    os.chown(root / "f", 1234, 5678)
    with context(root) as tree:
        found = tree.find(b"f")
        assert found is not None and (found.uid, found.gid) == (0, 0)
        mine = tree.digest(b"f")
    os.chown(root / "f", 1, 1)
    assert digest(root, b"f") == mine
    with open_tree(root) as stage:
        kept = stage.find(b"f")
        assert kept is not None and (kept.uid, kept.gid) == (1, 1)
        before = stage.digest(b"f")
    os.chown(root / "f", 2, 1)
    with open_tree(root) as stage:
        assert stage.digest(b"f") != before


def test_sockets_are_not_there(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(root / "f")
    plain = digest(root)
    monkeypatch.chdir(root)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("s")
        with context(root) as tree:
            assert tree.names(b"") == [b"f"] and tree.sockets == 1
            assert tree.digest(b"") == plain
        with open_tree(root) as stage:
            assert stage.names(b"") == [b"f"]


def test_fifos_and_devices_are_never_opened(root: Path, engine: _backend.Engine) -> None:
    os.mkfifo(root / "fifo")  # opening it for reading would wait for ever
    assert digest(root) != digest(root, b"fifo")


def test_odd_names_and_link_loops(root: Path, engine: _backend.Engine) -> None:
    for name in (b"\xff\xfe", b"new\nline", b" ", b"\\", b"*"):
        (Path(os.fsdecode(os.fsencode(root) + b"/" + name))).write_bytes(name)
    (root / "loop").symlink_to("loop")
    (root / "up").symlink_to("..")
    with context(root) as tree:
        assert len(tree.names(b"")) == 7 and tree.find(b"\xff\xfe") is not None
        assert len(tree.digest(b"")) == 32


def test_missing_paths_have_no_digest(root: Path) -> None:
    with context(root) as tree, pytest.raises(OperandError, match="nothere: is not in the build context"):
        tree.digest(b"nothere")


def test_deep_trees(root: Path, engine: _backend.Engine) -> None:
    fd = os.open(root, os.O_RDONLY)
    for _ in range(1200):
        os.mkdir("directory", dir_fd=fd)
        below = os.open("directory", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    with open("f", "wb", opener=lambda name, flags: os.open(name, flags, dir_fd=fd)) as file:
        file.write(b"x")
    os.close(fd)
    assert len(digest(root)) == 32


# ---- .dockerignore ----


def test_ignored_paths_are_not_there(root: Path, engine: _backend.Engine) -> None:
    make(root)
    with context(root, "*", "!a/c/d", "!link") as tree:
        assert [entry.path for entry in tree.below(b"")] == [b"a", b"a/c", b"a/c/d", b"link"]
    with context(root, "a", "**/d", "fifo") as tree:
        assert tree.names(b"") == [b"a-b", b"a.b", b"a0", b"empty", b"link", b"z"]


@pytest.mark.parametrize("seed", range(12))
def test_ignoring_agrees_with_the_matcher(root: Path, engine: _backend.Engine, seed: int) -> None:
    rng = random.Random(seed)
    grow(root, rng, 60)
    words = ["*", "a*", "**/b*", "!**/c1", "!a1", "b?/c*", "!b1/*", "**/a2", "c1", "!c1/a1/b1"]
    patterns = rng.sample(words, rng.randint(1, 5))
    matcher = Matcher(patterns)
    everything = [p.relative_to(root).as_posix() for p in sorted(root.rglob("*"))]
    kept = {path for path in everything if not matcher.excludes(path)}
    wanted = sorted(os.fsencode(p) for p in everything if p in kept or any(k.startswith(p + "/") for k in kept))
    with context(root, *patterns) as tree:
        assert [entry.path for entry in tree.below(b"")] == wanted, patterns


# ---- digests: equal exactly when what counts is ----


def canonical(root: Path, *, git: bool = False) -> object:
    """Everything that counts, the plain way."""
    status = os.lstat(root)
    mode = status.st_mode
    if git:
        kind = stat.S_IFMT(mode)
        run = kind == stat.S_IFDIR or (kind == stat.S_IFREG and mode & 0o100)
        mode = mode if kind == stat.S_IFLNK else kind | (0o755 if run else 0o644)
    if stat.S_ISDIR(mode):
        children = sorted(root.iterdir())
        return mode, tuple((child.name, canonical(child, git=git)) for child in children)
    if stat.S_ISLNK(mode):
        return mode, os.readlink(root)
    return mode, root.read_bytes() if stat.S_ISREG(mode) else status.st_rdev


def grow(root: Path, rng: random.Random, steps: int) -> None:
    for _ in range(steps):
        edit(root, rng)


def edit(root: Path, rng: random.Random) -> None:
    """One random change; times are forged, sizes often kept."""
    everything = [root, *root.rglob("*")]
    directories = [path for path in everything if path.is_dir() and not path.is_symlink()]
    files = [path for path in everything if path.is_file() and not path.is_symlink()]
    place = rng.choice(directories) / (rng.choice("abc") + str(rng.randint(1, 3)))
    what = rng.randrange(11)
    if what < 4 or not files:
        if not os.path.lexists(place):
            make_new(place, rng)
        return
    path = rng.choice(files)
    status = path.stat()
    if what == 4:
        path.write_bytes(rng.randbytes(rng.choice((0, 1, 5, 5000))))
    elif what in (5, 6):  # the same size, the old mtime
        path.write_bytes(bytes(rng.choice(b"xyz") for _ in range(status.st_size)))
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    elif what == 7:
        os.chmod(rng.choice((path, rng.choice(directories))), rng.choice((0o755, 0o700, 0o600 | 0o100, 0o4755)))
    elif what == 8 and not os.path.lexists(place):
        source = rng.choice([*files, *directories])
        if source != root and source not in place.parents:
            source.rename(place)
    elif what == 9:
        path.unlink()
    elif what == 10 and not os.path.lexists(place):
        os.link(path, place)


def make_new(place: Path, rng: random.Random) -> None:
    kind = rng.randrange(5)
    if kind < 2:
        place.mkdir()
    elif kind == 2:
        place.symlink_to(rng.choice(("a1", "../b", "/c")))
    else:
        place.write_bytes(rng.choice((b"", b"same", rng.randbytes(10))))


@pytest.mark.parametrize("seed", range(6))
def test_digests_are_equal_exactly_when_trees_are(root: Path, engine: _backend.Engine, seed: int) -> None:
    rng = random.Random(seed)
    seen: dict[bytes, object] = {}
    for _ in range(60):
        grow(root, rng, rng.randint(1, 4))
        for path in (b"", *(os.fsencode(child.name) for child in root.iterdir())):
            wanted = canonical(root / os.fsdecode(path))
            assert seen.setdefault(digest(root, path), wanted) == wanted
    assert len({repr(value) for value in seen.values()}) == len(seen)


@pytest.mark.parametrize("size", [1, 3, 7, 4096])
@pytest.mark.parametrize("seed", range(8))
def test_remembered_keys_are_never_wrong(
    root: Path, memory: Path, monkeypatch: pytest.MonkeyPatch, seed: int, size: int
) -> None:
    set_batch(monkeypatch, size)
    rng = random.Random(seed * 100 + size)
    grow(root, rng, 40)
    for _ in range(25):
        if rng.random() < 0.3:
            time.sleep(TICK)
        grow(root, rng, rng.choice((0, 1, 1, 2, 5)))
        with context(root, memory=memory) as tree:
            paths = [b"", *tree.names(b"")]
            if rng.random() < 0.5:
                paths = rng.sample(paths, 1)
            assert tree.digests(paths) == [digest(root, path) for path in paths]


def test_modes_of_git(root: Path) -> None:
    make(root)
    plain, git = digest(root), digest(root, git=True)
    for path in [root, *root.rglob("*")]:
        if not path.is_symlink():
            os.chmod(path, stat.S_IMODE(path.stat().st_mode) & 0o755 | 0o020)
    assert digest(root) != plain and digest(root, git=True) == git
    os.chmod(root / "z", 0o744)
    assert digest(root, git=True) != git
    assert canonical(root, git=True)


def test_times_and_hard_links_do_not_count(root: Path) -> None:
    make(root)
    before = digest(root)
    os.utime(root / "z", ns=(1, 1))
    os.utime(root / "a", ns=(1, 1))
    (root / "a/hard").unlink()
    put(root / "a/hard", "z")
    assert digest(root) == before


@needs_root
def test_capabilities_count_and_other_attributes_do_not(root: Path) -> None:
    put(root / "f")
    before = digest(root)
    os.setxattr(root / "f", "user.comment", b"x")
    assert digest(root) == before
    os.setxattr(root / "f", "security.capability", struct.pack("<IIIII", 0x02000001, 1 << 10, 0, 0, 0))
    assert digest(root) != before


def test_a_stage_and_a_context_agree(root: Path, engine: _backend.Engine) -> None:
    """But for owners."""
    make(root)
    fd = open_directory(root)
    stage = DirectoryTree(fd, owners=False)
    with context(root) as tree:
        for path in (b"a", b"a/c", b"z", b"link", b""):
            assert stage.digest(path) == tree.digest(path)
    os.close(fd)


# ---- remembering ----


def hashed(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Paths of the files that are read from now on."""
    seen: list[bytes] = []
    plain = digests.Digests._hash

    def spy(self: digests.Digests, batch: list[digests.Job]) -> Any:
        seen.extend(job.path for job in batch)
        return plain(self, batch)

    monkeypatch.setattr(digests.Digests, "_hash", spy)
    return seen


def test_an_unchanged_context_is_not_read_again(
    root: Path, memory: Path, engine: _backend.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(root)
    time.sleep(TICK)
    first = digest(root, memory=memory)
    seen = hashed(monkeypatch)
    written = os.stat(next(memory.iterdir())).st_ino
    assert digest(root, memory=memory) == first and not seen
    assert os.stat(next(memory.iterdir())).st_ino == written
    put(root / "a/c/d", "other")
    assert digest(root, memory=memory) != first
    assert seen == [b"a/c/d"]


def test_moved_directories_are_not_read_again(root: Path, memory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(root)
    time.sleep(TICK)
    digest(root, memory=memory)
    (root / "a").rename(root / "moved")
    seen = hashed(monkeypatch)
    assert digest(root, memory=memory) == digest(root) and seen.count(b"moved/c/d") == 1


def test_only_what_is_asked_for_is_read(root: Path, memory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(root)
    time.sleep(TICK)
    seen = hashed(monkeypatch)
    digest(root, b"a/c", memory=memory)
    assert seen == [b"a/c/d"]
    digest(root, b"a", memory=memory)
    assert seen == [b"a/c/d", b"a/b", b"a/hard"]


def test_nothing_is_read_twice(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(root)
    seen = hashed(monkeypatch)
    with context(root) as tree:
        tree.digests([b"a/c/d", b"a", b"", b"a", b"a/c", b"a-b"])
    assert sorted(seen) == [b"a-b", b"a.b", b"a/b", b"a/c/d", b"a/hard", b"a0"]  # z is a/hard


def test_young_files_are_read_again(root: Path, memory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their ctime may be that of a later change, too."""
    put(root / "old", "1")
    put(root / "below/young", "2")
    young = os.lstat(root / "below/young").st_ctime_ns
    os.chmod(root / "old", 0o600)
    monkeypatch.setattr("fastlayer.builder.context.tree.racy_now", lambda: young)
    with context(root, memory=memory) as tree:
        tree.digest(b"")
        kinds = dict(zip([b"", *(e.path for e in tree.below(b""))], tree.digested.lasting(), strict=True))
    assert kinds == {b"": 2, b"below": 2, b"below/young": 1, b"old": 1}
    seen = hashed(monkeypatch)
    monkeypatch.setattr("fastlayer.builder.context.tree.racy_now", lambda: young + 10**12)
    digest(root, memory=memory)
    assert seen == [b"below/young", b"old"]
    digest(root, memory=memory)
    assert len(seen) == 2


def test_same_size_edits_in_one_tick_are_seen(root: Path, memory: Path) -> None:
    file = put(root / "f", "0000")
    for number in range(60):
        file.write_bytes(b"%04d" % number)
        os.utime(file, ns=(1, 1))
        assert digest(root, memory=memory) == digest(root)


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "garbage", "version"])
def test_a_damaged_memory_is_not_believed(root: Path, memory: Path, damage: str) -> None:
    make(root)
    time.sleep(TICK)
    wanted = digest(root, memory=memory)
    file = next(memory.iterdir())
    data = bytearray(file.read_bytes())
    if damage == "flipped":
        (entries,) = struct.unpack_from("=Q", data, 24)
        data[-32 * entries] ^= 1  # the root's key
    elif damage == "version":
        data[16] ^= 1
    file.write_bytes(bytes({"cut": data[:-1], "empty": b"", "garbage": b"x" * 5000}.get(damage, data)))
    assert digest(root, memory=memory) == wanted
    time.sleep(TICK)
    assert remembered.load(str(memory), file.name) is not None


def test_nothing_is_remembered_where_nothing_can_be_written(root: Path, tmp_path: Path) -> None:
    make(root)
    wanted = digest(root)
    assert digest(root, memory=tmp_path / "nothere/cache/contexts") == wanted
    (tmp_path / "cache").write_text("a file")
    assert digest(root, memory=tmp_path / "cache/contexts") == wanted
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "root"]


def test_what_is_remembered_is_private_and_bounded(root: Path, memory: Path, tmp_path: Path) -> None:
    for number in range(5):
        put(root / str(number) / "f")
        digest(root / str(number), memory=memory)
    assert stat.S_IMODE(memory.stat().st_mode) == 0o700
    assert all(stat.S_IMODE(file.stat().st_mode) == 0o600 for file in memory.iterdir())
    dead = put(memory / ".new-1-1")
    os.utime(dead, (1, 1))
    newest = max(memory.glob("[!.]*"), key=lambda file: file.stat().st_mtime_ns)
    remembered.sweep(str(memory), files=2)
    assert len(list(memory.iterdir())) == 2 and newest.exists()
    remembered.sweep(str(memory), size=0)
    assert len(list(memory.iterdir())) == 1


def test_patterns_and_rules_have_memories_of_their_own(root: Path, memory: Path) -> None:
    make(root)
    time.sleep(TICK)
    for _ in range(2):
        assert digest(root, memory=memory, git=True) == digest(root, git=True)
        assert digest(root, memory=memory) == digest(root)
        with context(root, "a", memory=memory) as tree:
            assert tree.find(b"a") is None
    assert len(list(memory.iterdir())) == 2  # no key was asked for in the third


# ---- what goes wrong ----


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_unreadable_files_are_named_as_someone(root: Path) -> None:
    os.chmod(put(root / "secret"), 0)
    with context(root) as tree, pytest.raises(StorageError, match=r"secret.*\.dockerignore"):
        tree.digest(b"")


def test_unreadable_files_are_named(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(root / "d/secret", "x")

    def refuse(*_: object) -> None:
        raise StorageError(13, "open", b"d/secret")

    monkeypatch.setattr(_backend.engine().scan, "read_many", refuse)
    with context(root) as tree, pytest.raises(StorageError) as caught:
        tree.digest(b"")
    assert str(caught.value) == (
        "the build context: d/secret: open: Permission denied: make it readable, or name it in .dockerignore"
    )


def test_a_file_saved_meanwhile_is_looked_at_once_more(
    root: Path, engine: _backend.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(root / "f", "before")
    put(root / "other", "same")
    plain = digests.Digests._check
    changes = [b"longer than before"]

    def check(self: digests.Digests, batch: list[digests.Job]) -> None:
        if changes:
            (root / "f").write_bytes(changes.pop())
        plain(self, batch)

    monkeypatch.setattr(digests.Digests, "_check", check)
    with context(root) as tree:
        found = tree.digest(b"")
        entry = tree.find(b"f")
        assert entry is not None and entry.size == 18
    assert found == digest(root)


def test_a_file_that_never_rests_is_named(root: Path, engine: _backend.Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    put(root / "d/log", "x")
    plain = digests.Digests._check

    def check(self: digests.Digests, batch: list[digests.Job]) -> None:
        with open(root / "d/log", "ab") as file:
            file.write(b"x")
        plain(self, batch)

    monkeypatch.setattr(digests.Digests, "_check", check)
    with context(root) as tree, pytest.raises(FileChangedError, match=r"build context: d/log: changed.*\.dockerignore"):
        tree.digest(b"")


def test_a_directory_that_is_replaced_meanwhile(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(root / "d/f", "x")
    wanted = digest(root)
    plain = scanning.Scan.batches
    trouble = [1]

    def batches(self: scanning.Scan) -> Iterator[table.Batch]:
        yield from plain(self)
        for _ in range(trouble.pop() if trouble else 0):
            raise FileChangedError("d: was replaced")

    monkeypatch.setattr(scanning.Scan, "batches", batches)
    assert digest(root) == wanted and not trouble
    trouble += [1] * 10
    with pytest.raises(FileChangedError):
        digest(root)


def test_a_file_that_goes_meanwhile(root: Path, engine: _backend.Engine) -> None:
    put(root / "f", "x")
    put(root / "g", "x")
    with context(root) as tree:
        tree.find(b"f")
        (root / "f").unlink()
        assert tree.digest(b"") == digest(root)
        assert tree.find(b"f") is None


def test_threads_share_a_tree(root: Path, memory: Path) -> None:
    grow(root, random.Random(5), 300)
    wanted = {path: digest(root, path) for path in (b"", *(os.fsencode(p.name) for p in root.iterdir()))}
    wrong: list[bytes] = []
    with context(root, memory=memory) as tree:

        def ask() -> None:
            wrong.extend(path for path, found in wanted.items() if tree.digest(path) != found)

        threads = [threading.Thread(target=ask) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not wrong


def test_large_tables_lie_in_a_file(root: Path, engine: _backend.Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    grow(root, random.Random(3), 200)
    wanted = digest(root)
    monkeypatch.setattr(table, "_ROOM", 500)
    before = len(os.listdir("/proc/self/fd"))
    with context(root) as tree:
        assert any(not isinstance(batch.records, bytes) for batch in tree.digested.table.batches)
        assert tree.digest(b"") == wanted
        tree.digested.table.relax()
        assert [e.path for e in tree.below(b"")] == sorted(
            os.fsencode(p.relative_to(root).as_posix()) for p in root.rglob("*")
        )
    del tree
    assert len(os.listdir("/proc/self/fd")) == before


# ---- taking over, of tables that no file system made ----


def made_up(*entries: tuple[bytes, int, int]) -> table.Table:
    """A table of (path, mode, inode), all else the same."""
    records, heap = b"", b""
    for path, mode, ino in entries:
        records += table.RECORD.pack(1, ino, 5, 9, 9, len(heap), 0, 0, mode, 0, 0, 1, 0, 0, len(path), 0, 0, 0)
        heap += path
    return table.gathered([table.in_memory(records, heap)])


def known(of: table.Table) -> takeover.Known:
    kinds = bytes(table.KNOWN if kind else 0 for kind in of.kinds())
    return takeover.Known(of, kinds, b"".join(bytes([row + 1]) * 32 for row in range(of.count)), 0)


def test_a_rename_that_leaves_no_trace_in_the_inode() -> None:
    """As POSIX allows: neither file nor directory has another ctime."""
    folder, file = stat.S_IFDIR | 0o755, stat.S_IFREG | 0o644
    old = made_up((b"", folder, 1), (b"a", folder, 2), (b"a/x", file, 3), (b"b", folder, 4), (b"b/z", file, 5))
    new = made_up((b"", folder, 1), (b"a", folder, 2), (b"a/y", file, 3), (b"b", folder, 4), (b"b/z", file, 5))
    kinds, keys = takeover.taken_over(known(old), new)
    assert list(kinds) == [table.DIRECTORY, table.DIRECTORY, table.KNOWN, table.KNOWN, table.KNOWN]
    assert keys[64:96] == b"\3" * 32 and keys[96:] == b"\4" * 32 + b"\5" * 32


def test_inodes_that_changed_places() -> None:
    folder, file = stat.S_IFDIR | 0o755, stat.S_IFREG | 0o644
    old = made_up((b"", folder, 1), (b"a", file, 2), (b"b", file, 3))
    new = made_up((b"", folder, 1), (b"a", file, 3), (b"b", file, 2))
    kinds, keys = takeover.taken_over(known(old), new)
    assert list(kinds) == [table.DIRECTORY, table.KNOWN, table.KNOWN]
    assert keys[32:] == b"\3" * 32 + b"\2" * 32


def test_batches_are_full_though_much_is_ignored(root: Path, engine: _backend.Engine) -> None:
    """Rows are counted on it."""
    for number in range(6000):
        os.close(os.open(root / f"f{number}", os.O_CREAT))
        if number < 100:
            os.close(os.open(root / f"a{number}", os.O_CREAT))
    with context(root, "a*", "f1*", "!f12*") as tree:
        counts = [batch.entries for batch in tree.digested.table.batches]
    assert all(count == table.BATCH for count in counts[:-1]) and len(counts) == 2
