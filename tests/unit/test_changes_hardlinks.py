"""When a hard-link group is another one: split, merge, regroup, move. Both backends."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fastlayer import _backend
from fastlayer._backend import CONTENT, LINK, TYPE
from tests.pairs import Pair, link_names, put


@pytest.fixture
def pair(tmp_path: Path, engine: _backend.Engine) -> Pair:
    return Pair(tmp_path, engine)


def links(pair: Pair) -> list[tuple[str, str, int, str | None]]:
    return [
        (row.kind, row.path.decode(), row.what, None if row.leader is None else row.leader.decode())
        for row in pair.table().rows()
        if row.kind != "P"
    ]


def test_unchanged_group(pair: Pair) -> None:
    pair.both(lambda root: link_names(root, "p", "q", "d/r"))
    assert links(pair) == []


def test_group_content_changed(pair: Pair) -> None:
    link_names(pair.a, "p", "q", data=b"1")
    link_names(pair.b, "p", "q", data=b"2")
    assert links(pair) == [("C", "p", CONTENT, None), ("C", "q", CONTENT, "p")]


def test_group_gets_a_new_name(pair: Pair) -> None:
    link_names(pair.a, "p", "q")
    link_names(pair.b, "p", "q", "a")
    assert links(pair) == [("A", "a", 0, None), ("C", "p", LINK, "a"), ("C", "q", LINK, "a")]


def test_group_loses_a_name(pair: Pair) -> None:
    """Only removed names: only whiteouts."""
    link_names(pair.a, "p", "q", "r")
    link_names(pair.b, "p", "q")
    assert links(pair) == [("D", "r", 0, None)]


def test_group_of_one_left(pair: Pair) -> None:
    link_names(pair.a, "p", "q")
    link_names(pair.b, "p")
    assert links(pair) == [("D", "q", 0, None)]


def test_split(pair: Pair) -> None:
    link_names(pair.a, "p", "q")
    put(pair.b / "p", b"x")
    put(pair.b / "q", b"x")
    assert links(pair) == [("C", "p", LINK, None), ("C", "q", LINK, None)]


def test_merge(pair: Pair) -> None:
    put(pair.a / "p", b"x")
    put(pair.a / "q", b"x")
    link_names(pair.b, "p", "q")
    assert links(pair) == [("C", "p", LINK, None), ("C", "q", LINK, "p")]


def test_merge_of_two_groups(pair: Pair) -> None:
    link_names(pair.a, "p", "q")
    link_names(pair.a, "r", "s")
    link_names(pair.b, "p", "q", "r", "s")
    assert links(pair) == [("C", "p", LINK, None), ("C", "q", LINK, "p"), ("C", "r", LINK, "p"), ("C", "s", LINK, "p")]


def test_regroup(pair: Pair) -> None:
    link_names(pair.a, "p", "q")
    link_names(pair.a, "r", "s")
    link_names(pair.b, "p", "r")
    link_names(pair.b, "q", "s")
    assert links(pair) == [("C", "p", LINK, None), ("C", "q", LINK, None), ("C", "r", LINK, "p"), ("C", "s", LINK, "q")]


def test_move(pair: Pair) -> None:
    link_names(pair.a, "p", "q")
    link_names(pair.b, "p", "z/q")
    assert links(pair) == [("C", "p", LINK, None), ("D", "q", 0, None), ("A", "z", 0, None), ("A", "z/q", 0, "p")]


def test_second_name_outside_the_tree_does_not_count(pair: Pair, tmp_path: Path) -> None:
    pair.both(lambda root: put(root / "p", b"x"))
    (tmp_path / "outside").hardlink_to(pair.b / "p")
    assert links(pair) == []
    put(pair.b / "n", b"x")
    (tmp_path / "outside-2").hardlink_to(pair.b / "n")
    assert links(pair) == [("A", "n", 0, None)]


def test_trees_linked_to_each_other(pair: Pair) -> None:
    """`cp -al`: every file is the same inode on both sides."""
    link_names(pair.a, "p", "q")
    link_names(pair.a, "single")
    for name in ("p", "q", "single"):
        (pair.b / name).hardlink_to(pair.a / name)
    assert links(pair) == []
    (pair.b / "q").unlink()
    put(pair.b / "q", b"x")
    assert links(pair) == [("C", "p", LINK, None), ("C", "q", LINK, None)]


def test_links_of_all_types_but_directories(pair: Pair) -> None:
    def make(root: Path, joined: bool) -> None:
        (root / "l1").symlink_to("t")
        os.mkfifo(root / "f1")
        if joined:
            os.link(root / "l1", root / "l2", follow_symlinks=False)
            os.link(root / "f1", root / "f2")
        else:
            (root / "l2").symlink_to("t")
            os.mkfifo(root / "f2")

    make(pair.a, False)
    make(pair.b, True)
    assert links(pair) == [
        ("C", "f1", LINK, None),
        ("C", "f2", LINK, "f1"),
        ("C", "l1", LINK, None),
        ("C", "l2", LINK, "l1"),
    ]


def test_hard_link_replaced_by_a_directory(pair: Pair) -> None:
    link_names(pair.a, "p", "q")
    put(pair.b / "p", b"x")
    (pair.b / "q").mkdir()
    assert links(pair) == [("C", "p", LINK, None), ("C", "q", TYPE, None)]


def test_leader_is_the_first_name_in_path_order(pair: Pair) -> None:
    link_names(pair.b, "m/z", "m-a", "m/a", "b/c")
    assert links(pair) == [
        ("A", "b", 0, None),
        ("A", "b/c", 0, None),
        ("A", "m", 0, None),
        ("A", "m-a", 0, "b/c"),
        ("A", "m/a", 0, "b/c"),
        ("A", "m/z", 0, "b/c"),
    ]
