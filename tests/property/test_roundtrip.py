"""Random pairs of trees: the layer of A to B, applied to a copy of A, gives B exactly; both backends alike."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from fastlayer import _backend
from tests import trees
from tests.conftest import needs_root

ENGINES = ("native", "baseline")


class Workshop:
    """A directory for trees, by name, and the verbs of an engine on them."""

    def __init__(self, where: Path) -> None:
        self.where = where

    def path(self, name: str) -> str:
        return str(self.where / name)

    def differ(self, engine: Any, a: str, b: str, **options: Any) -> Any:
        """A finished change table."""
        with ExitStack() as stack:
            differ = engine.changes.Differ(self._open(stack, a), self._open(stack, b), **options)
            while differ.step():
                pass
            assert not differ.unverified()
            return differ.finish()

    def layer(self, engine: Any, a: str, b: str, piece: int = 1 << 16, **options: Any) -> bytes:
        table = self.differ(engine, a, b, **options)
        buffer = bytearray(piece)
        found = bytearray()
        with ExitStack() as stack:
            encoder = engine.encode.Encoder(table, [self._open(stack, b)])
            while n := encoder.readinto(buffer):
                found += buffer[:n]
        return bytes(found)

    def extract(self, engine: Any, layer: bytes, target: str, piece: int = 1 << 20) -> None:
        with ExitStack() as stack:
            extractor = engine.extract.Extractor(self._open(stack, target))
            extractor.begin_layer()
            for start in range(0, len(layer), piece):
                extractor.feed(layer[start : start + piece])
            extractor.end_layer()

    def _open(self, stack: ExitStack, name: str) -> int:
        fd = os.open(self.path(name), os.O_RDONLY | os.O_DIRECTORY)
        stack.callback(os.close, fd)
        return fd

    def clear(self) -> None:
        if os.geteuid() != 0:
            subprocess.run(["chmod", "-R", "u+rwx", "--", str(self.where)], check=True)
        for name in os.listdir(self.where):
            subprocess.run(["rm", "-rf", "--", self.path(name)], check=True)  # paths may be longer than PATH_MAX


@pytest.fixture(scope="module")
def workshop() -> Iterator[Workshop]:
    """On tmpfs where that keeps user xattrs."""
    where = tempfile.mkdtemp(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None)
    try:
        os.setxattr(where, b"user.test", b"")
    except OSError:
        os.rmdir(where)
        where = tempfile.mkdtemp()
    try:
        yield Workshop(Path(where))
    finally:
        shutil.rmtree(where)


def check_round_trip(work: Workshop, a: trees.Tree, b: trees.Tree, *, shared: bool) -> None:
    """``shared``: unchanged files of B are hard links to those of A, as in trees made with ``cp -al``."""
    work.clear()
    a.make(work.path("a"))
    b.make(work.path("b"), linked_to=(a, work.path("a")) if shared else None)
    before = [trees.snapshot(work.path(name)) for name in ("a", "b")]
    layers = [work.layer(_backend._load(name), "a", "b") for name in ENGINES]
    assert [trees.snapshot(work.path(name)) for name in ("a", "b")] == before, "diff changed an operand"
    assert layers[0] == layers[1], "the backends write different layers"
    for name in ENGINES:
        a.make(work.path(name))
        work.extract(_backend._load(name), layers[0], name, piece=777 if len(layers[0]) < 50_000 else 1 << 20)
        trees.assert_same_tree(work.path(name), before[1])
        for judge in ENGINES:
            assert not len(work.differ(_backend._load(judge), name, "b")), f"{judge} sees a difference"


@pytest.mark.parametrize("seed", range(60))
def test_apply_of_diff_gives_b(workshop: Workshop, seed: int) -> None:
    a, b = trees.random_pair(seed, large=seed % 10 == 0)
    check_round_trip(workshop, a, b, shared=seed % 3 == 0)


def of_host(xattrs: tuple[tuple[bytes, bytes], ...]) -> set[tuple[bytes, bytes]]:
    return {pair for pair in xattrs if pair[0].startswith(b"trusted.")}


@needs_root
@pytest.mark.parametrize("seed", range(3000, 3020))
def test_apply_of_diff_leaves_what_is_the_hosts(workshop: Workshop, engine: Any, seed: int) -> None:
    """``trusted.*`` is neither in a layer nor touched by one: a directory keeps its own, what is new has none."""
    workshop.clear()
    a, b = trees.random_pair(seed, trusted=True)
    a.make(workshop.path("a"))
    b.make(workshop.path("b"))
    before, wanted = (trees.snapshot(workshop.path(name)) for name in ("a", "b"))
    layer = workshop.layer(engine, "a", "b")
    assert b"xattr.trusted." not in layer
    workshop.extract(engine, layer, "a")
    found = trees.snapshot(workshop.path("a"))
    trees.assert_same_tree(
        {path: p._replace(xattrs=tuple(sorted({*p.xattrs} - of_host(p.xattrs)))) for path, p in found.items()},
        {path: p._replace(xattrs=tuple(sorted({*p.xattrs} - of_host(p.xattrs)))) for path, p in wanted.items()},
    )
    for path in [path for path, picture in found.items() if picture.type == "dir"]:
        kept = path in before and before[path].type == "dir"
        assert of_host(found[path].xattrs) == (of_host(before[path].xattrs) if kept else set())


def expected_lines(a: dict[bytes, trees.Picture], b: dict[bytes, trees.Picture]) -> set[tuple[str, int, bytes]]:
    """(kind, what, path) of every change, from two pictures: the rules said a second time, in other words."""
    what = {path: differing(a[path], b[path]) for path in b if path in a}
    lines = {("A", 0, path) for path in b if path not in a}
    lines |= {("C", bits, path) for path, bits in what.items() if bits}
    for path, bits in what.items():
        group = b[path].names
        same_group = all(what.get(name) == 0 for name in group) and a[path].names & b.keys() == group
        if bits == 0 and b[path].type != "dir" and not same_group:
            lines.add(("C", _backend.LINK, path))
    for path in a.keys() - b.keys():
        parent = path.rpartition(b"/")[0]
        if parent in b and b[parent].type == "dir":
            lines.add(("D", 0, path))
    return lines


def differing(a: trees.Picture, b: trees.Picture) -> int:
    if a.type != b.type:
        return _backend.TYPE
    pairs = [
        (_backend.CONTENT, a.content != b.content),
        (_backend.MODE, a.mode != b.mode),
        (_backend.OWNER, (a.uid, a.gid) != (b.uid, b.gid)),
        (_backend.MTIME, a.mtime_ns != b.mtime_ns),
        (_backend.XATTR, a.xattrs != b.xattrs),
        (_backend.LINK, a.link != b.link),
        (_backend.DEVICE, a.rdev != b.rdev),
    ]
    return sum(bit for bit, differs in pairs if differs)


@pytest.mark.parametrize("seed", range(2000, 2040))
def test_lines_are_exactly_what_differs(workshop: Workshop, engine: Any, seed: int) -> None:
    workshop.clear()
    a, b = trees.random_pair(seed, whiteout_names=True)
    a.make(workshop.path("a"))
    b.make(workshop.path("b"), linked_to=(a, workshop.path("a")) if seed % 3 == 0 else None)
    before, after = (trees.snapshot(workshop.path(name)) for name in ("a", "b"))
    rows = workshop.differ(engine, "a", "b", details=True).rows()
    wanted = expected_lines(before, after)
    assert {(row.kind, row.what, row.path) for row in rows if row.kind != "P"} == wanted
    changed = {path for _, _, path in wanted}
    parents = {row.path for row in rows if row.kind == "P"}
    assert parents == {
        path
        for path in after
        if path
        and after[path].type == "dir"
        and path not in changed
        and any(c.startswith(path + b"/") for c in changed)
    }


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(pair=trees.tree_pairs())
def test_apply_of_diff_gives_b_for_small_trees(workshop: Workshop, pair: tuple[trees.Tree, trees.Tree]) -> None:
    check_round_trip(workshop, *pair, shared=False)


@pytest.mark.parametrize("seed", range(20))
def test_tables_of_both_backends_are_equal(workshop: Workshop, seed: int) -> None:
    """Row by row, for every mode, with what a layer cannot hold or does not take."""
    workshop.clear()
    a, b = trees.random_pair(1000 + seed, sockets=True, whiteout_names=True, trusted=True)
    a.make(workshop.path("a"))
    b.make(workshop.path("b"), linked_to=(a, workshop.path("a")) if seed % 3 == 0 else None)
    for compare in ("auto", "metadata", "content"):
        for xattrs in ("all", "docker", "none"):
            options = {"compare": compare, "xattrs": xattrs, "details": seed % 2 == 0}
            native, baseline = (workshop.differ(_backend._load(name), "a", "b", **options) for name in ENGINES)
            assert native.rows() == baseline.rows(), options
            assert native.skipped_sockets == baseline.skipped_sockets
            assert native.dropped_xattrs == baseline.dropped_xattrs
            assert bytes(native.records()) == bytes(baseline.records())
            assert bytes(native.heap()) == bytes(baseline.heap())
