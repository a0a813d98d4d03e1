"""Differ(only=) and Scanner(only=): named parts of a tree are what a walk says about them."""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

import pytest

from fastlayer import _backend
from fastlayer._baseline.tree import walk
from fastlayer.errors import UsageError
from tests.pairs import Pair, directory, link_names, put, table_of
from tests.trees import Generator


def picked(engine: _backend.Engine, root: Path, keys: list[bytes]) -> list[bytes]:
    with directory(root) as fd:
        scanner = engine.scan.Scanner(fd, only=keys)
        found = []
        while batch := scanner.next_batch(3):
            found += _paths(*batch)
        return found


def _paths(records: bytes, heap: bytes) -> list[bytes]:
    from fastlayer._baseline.scan import ENTRY

    return [heap[e[5] : e[5] + e[14]] for e in ENTRY.iter_unpack(records)]


def small(tmp_path: Path) -> Path:
    for name in ("a/x", "a/y/z", "a-b", "a/y-1", "b/c/d/e"):
        put(tmp_path / "t" / name, b"1")
    (tmp_path / "t/link").symlink_to("a")
    return tmp_path / "t"


def test_order_is_that_of_a_walk(engine: _backend.Engine, tmp_path: Path) -> None:
    keys = [b"", b"a", b"a-b", b"a/", b"b", b"b/c", b"link"]
    wanted = [b"", b"a", b"a-b", b"a/x", b"a/y", b"a/y-1", b"a/y/z", b"b", b"b/c", b"link"]
    assert picked(engine, small(tmp_path), keys) == wanted


def test_what_is_not_there_is_left_out(engine: _backend.Engine, tmp_path: Path) -> None:
    keys = [b"", b"a-b/below-a-file", b"a/no", b"gone/", b"link/", b"none/x"]
    assert picked(engine, small(tmp_path), keys) == [b""]


def test_links_are_not_followed(engine: _backend.Engine, tmp_path: Path) -> None:
    assert picked(engine, small(tmp_path), [b"", b"link", b"link/x"]) == [b"", b"link"]
    assert picked(engine, small(tmp_path / "again"), [b"", b"link/"]) == [b""]


def test_a_long_path(engine: _backend.Engine, tmp_path: Path) -> None:
    root = tmp_path / "t"
    root.mkdir()
    fd = os.open(root, os.O_RDONLY)
    for _ in range(30):
        os.mkdir("w" * 200, dir_fd=fd)
        inner = os.open("w" * 200, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = inner
    os.close(os.open("leaf", os.O_CREAT | os.O_WRONLY, dir_fd=fd))
    os.close(fd)
    deep = b"/".join([b"w" * 200] * 30)
    assert picked(engine, root, [b"", deep, deep + b"/leaf"]) == [b"", deep, deep + b"/leaf"]
    assert picked(engine, root, [b"", deep[:-201] + b"/"]) == [b"", deep, deep + b"/leaf"]


@pytest.mark.parametrize(
    "keys",
    [[], [b"a"], [b"", b"b", b"a"], [b"", b"a", b"a"], [b"", b"a/", b"a/x"], [b"", b"/a"], [b"", b"a\0b"]],
    ids=str,
)
def test_bad_keys_are_refused(engine: _backend.Engine, tmp_path: Path, keys: list[bytes]) -> None:
    with directory(small(tmp_path)) as fd:
        with pytest.raises(UsageError):
            engine.scan.Scanner(fd, only=keys)
        with pytest.raises(UsageError):
            engine.changes.Differ(fd, fd, only=keys)


def test_a_gap_of_thousands(engine: _backend.Engine, tmp_path: Path) -> None:
    """More than a batch, single paths and trees in turn."""
    root = tmp_path / "t"
    names = [b"%04d" % number for number in range(1500)]
    for name in names:
        put(root / name.decode() / "f")
    keys = [b""]
    for name in names:
        keys += [name] if int(name) % 3 else [name, name + b"/"]
    wanted = [b"", *(path for n in names for path in ([n] if int(n) % 3 else [n, n + b"/f"]))]
    assert picked(engine, root, sorted(keys)) == wanted


def everything(*roots: Path) -> list[bytes]:
    found: set[bytes] = set()
    for root in roots:
        with directory(root) as fd:
            found |= {entry.path for entry in walk(fd)}  # paths may be longer than PATH_MAX
    return sorted(found)


def rows(table: Any) -> list[Any]:
    return list(_backend.iter_rows(table))


@pytest.mark.parametrize("seed", range(25))
def test_all_paths_are_a_whole_diff(engine: _backend.Engine, seed: int, tmp_path: Path) -> None:
    rng = random.Random(seed)
    a, b = Generator(rng, sockets=True).pair(30)
    a.make(tmp_path / "a")
    b.make(tmp_path / "b")
    keys = everything(tmp_path / "a", tmp_path / "b")
    tops = [key for key in keys if b"/" not in key]
    trees = sorted({*tops, *(key + b"/" for key in tops if key and rng.random() < 0.5)})
    trees = sorted({*trees, *(k for k in keys if k.partition(b"/")[0] + b"/" not in trees)})
    with directory(tmp_path / "a") as left, directory(tmp_path / "b") as right:
        wanted = rows(table_of(engine, left, right, details=True))
        assert rows(table_of(engine, left, right, details=True, only=keys)) == wanted
        assert rows(table_of(engine, left, right, details=True, only=trees)) == wanted


def test_only_named_paths_are_compared(engine: _backend.Engine, tmp_path: Path) -> None:
    pair = Pair(tmp_path, engine)
    for name in ("one", "two"):
        put(pair.a / name, b"1")
        put(pair.b / name, b"2")
    link_names(pair.b, "l1", "l2")
    assert pair.lines(only=[b"", b"two"]) == ["C two"]
    assert pair.lines(only=[b"", b"l1", b"l2"]) == ["A l1", "A l2"]
