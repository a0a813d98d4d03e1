"""Paths of thousands of components: time and memory grow with their length, not with its square."""

from __future__ import annotations

import os
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from tests.applying import apply, file, symlink
from tests.conftest import needs_root
from tests.corpus.tarparts import pax

DEEP = b"d/" * 6_000


def at(path: bytes, entry: bytes) -> bytes:
    return pax(("path", path)) + entry


@pytest.mark.parametrize("format", ["dir", pytest.param("overlay", marks=needs_root), "aufs"])
def test_deep_paths_cost_what_their_length_costs(engine: Any, tmp_path: Path, format: str) -> None:
    tracemalloc.start()
    try:
        apply(engine, tmp_path, at(DEEP + b"f", file(b"f", b"x")), format=format)
        apply(engine, tmp_path, at(DEEP + b".wh.g", file(b"f")) + at(DEEP + b"h", file(b"h")), format=format)
        apply(engine, tmp_path, file(b".wh.d"), format=format)
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()
    assert os.listdir(tmp_path) in ([], ["d"], [".wh.d"])


def test_links_upwards_in_deep_paths(engine: Any, tmp_path: Path) -> None:
    link = at(DEEP + b"l", symlink(b"l", b"../d/" * 700))
    apply(engine, tmp_path, link + at(DEEP + b"l/f", file(b"f", b"x")))
    fd = os.open(tmp_path, os.O_RDONLY)
    for _ in range(6_000):
        inner = os.open("d", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = inner
    try:
        assert sorted(os.listdir(fd)) == ["f", "l"]
    finally:
        os.close(fd)
