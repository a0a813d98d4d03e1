"""What several trees take together: extents and inodes that they share count once, in bounded memory."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastlayer.drivers import sharing
from fastlayer.drivers.sharing import Blocks, blocks_of, together

Ranges = list[tuple[int, int]]
ranges = st.lists(st.tuples(st.integers(0, 60), st.integers(1, 20)), max_size=20)
inodes = st.lists(st.integers(1, 8), max_size=12)


def table(pairs: Ranges) -> np.ndarray[tuple[int, int], np.dtype[np.int64]]:
    return np.array(pairs, np.int64).reshape(-1, 2)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 99), ranges, inodes), max_size=4))
def test_what_is_shared_counts_once(trees: list[tuple[int, Ranges, list[int]]]) -> None:
    blocks = [
        Blocks(1, own, table([(inode, inode * 10) for inode in linked]), table(shared)) for own, shared, linked in trees
    ]
    places = {place for _, shared, _ in trees for start, length in shared for place in range(start, start + length)}
    numbers = {inode for _, _, linked in trees for inode in linked}
    assert together(blocks) == sum(own for own, _, _ in trees) + len(places) + sum(inode * 10 for inode in numbers)


@settings(deadline=None)
@given(ranges)
def test_lists_stay_as_short_as_what_they_cover(pairs: Ranges) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sharing, "_MANY", 8)
        kept = sharing._Pairs(sharing._union)
        for _ in range(50):
            for start, length in pairs:
                kept.add(start, length)
        assert len(kept._numbers) <= 8 + 4 * len(pairs)
    covered = {place for start, length in pairs for place in range(start, start + length)}
    found = kept.table().tolist()
    assert [place for start, length in found for place in range(start, start + length)] == sorted(covered)


def test_hard_links_within_and_between_trees(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
    (tmp_path / "a/one").write_bytes(bytes(range(256)) * 4096)
    os.link(tmp_path / "a/one", tmp_path / "a/two")
    os.link(tmp_path / "a/one", tmp_path / "b/three")
    (tmp_path / "b/own").write_bytes(b"x" * 8192)
    first, second = blocks_of(tmp_path / "a"), blocks_of(tmp_path / "b")
    size = (tmp_path / "a/one").stat().st_blocks * 512
    folders = sum((tmp_path / name).stat().st_blocks * 512 for name in "ab")
    own = (tmp_path / "b/own").stat().st_blocks * 512
    assert together([first, second]) == size + folders + own
    assert together([first]) == size + (tmp_path / "a").stat().st_blocks * 512
    assert together([]) == 0
