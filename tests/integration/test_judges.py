"""Outside judges: layers we write, unpacked by the peers; layers the peers write, applied by us."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

import fastlayer
from tests.conftest import needs_root
from tests.integration import judges, rootfs
from tests.trees import assert_same_tree

pytestmark = needs_root

# What each judge does not carry over when it unpacks, found by running it; everything else must be equal.
FORGETS: dict[type, frozenset[str]] = {
    judges.GnuTar: frozenset(),
    # libarchive sets mode and owner of "./" but not its time, in its own archives as in ours.
    judges.BsdTar: frozenset({"root_mtime"}),
    judges.Umoci: frozenset({"root"}),
    judges.Ctr: frozenset({"root", "user_xattrs"}),
    judges.Docker: frozenset({"root", "user_xattrs"}),
    judges.Buildah: frozenset({"root"}),
}

# The same for what they write: umoci 0.4 rounds times to seconds, containerd and docker cut them.
OMITS: dict[type, frozenset[str]] = {
    judges.Umoci: frozenset({"root", "rounds"}),
    judges.Ctr: frozenset({"root", "user_xattrs", "truncates"}),
    # A new name of a file of a lower layer is a second file in docker's layers.
    judges.Docker: frozenset({"root", "user_xattrs", "truncates", "link_to_lower"}),
}


@pytest.fixture
def work() -> Iterator[Path]:
    """A place on tmpfs, where xattrs of every kind work and daemons may put sockets."""
    path = Path("/dev/shm") / f"judges-{os.getpid()}"
    judges.fresh(path)
    yield path
    shutil.rmtree(path, ignore_errors=True)


def same(result: Path, wanted: Path, judge: object) -> None:
    rootfs.assert_equal(result, wanted, FORGETS[type(judge)])


@pytest.mark.parametrize("codec", ["tar", "tar.gz", "tar.zst"])
@pytest.mark.parametrize("judge", [judges.GnuTar(), judges.BsdTar()], ids=lambda j: type(j).__name__)
def test_archivers_unpack_our_layer(work: Path, judge: judges.GnuTar | judges.BsdTar, codec: str) -> None:
    judges.need(judge)
    _, b = rootfs.pair(work)
    layer = work / f"layer.{codec}"
    fastlayer.diff(None, b, layer)
    same(judge.unpack([layer], work), b, judge)


STACKS = [judges.Umoci(), judges.Ctr(), judges.Docker(), judges.Buildah()]


@pytest.mark.parametrize("codec", ["tar", "tar.gz", "tar.zst"])
@pytest.mark.parametrize("judge", STACKS, ids=lambda j: type(j).__name__)
def test_engines_unpack_our_stack(work: Path, judge: judges.Umoci, codec: str) -> None:
    judges.need(judge)
    if codec == "tar.zst" and isinstance(judge, judges.Umoci):
        pytest.skip("umoci 0.4 reads no zstd")
    a, b = rootfs.pair(work)
    base, update = work / f"base.{codec}", work / f"update.{codec}"
    fastlayer.diff(None, a, base)
    fastlayer.diff(a, b, update)
    same(judge.unpack([base, update], work), b, judge)


@pytest.mark.parametrize("judge", [judges.Umoci(), judges.Ctr(), judges.Docker()], ids=lambda j: type(j).__name__)
def test_we_apply_what_engines_write(work: Path, judge: judges.Umoci) -> None:
    judges.need(judge)
    a, b = rootfs.pair(work)
    layers = judge.write(a, b, work)
    target = work / "ours"
    fastlayer.apply(layers, target)
    rootfs.assert_equal(target, b, OMITS[type(judge)])


FORMATS = [
    ("--format=gnu",),
    ("--format=posix",),
    ("--format=posix", "-S"),
    ("--format=gnu", "-S"),
    ("--format=posix", "-z"),
    ("--format=posix", "--zstd"),
]


@pytest.mark.parametrize("options", FORMATS, ids=" ".join)
def test_we_apply_what_gnu_tar_writes(work: Path, options: tuple[str, ...]) -> None:
    judge = judges.GnuTar()
    judges.need(judge)
    _, b = rootfs.pair(work)
    layer = judge.write(b, work / "gnu.tar", *options)
    target = work / "ours"
    fastlayer.apply(layer, target)
    old = "--format=gnu" in options  # no xattrs, whole seconds
    rootfs.assert_equal(target, b, frozenset({"truncates", "xattrs"} if old else ()))


@pytest.mark.parametrize(
    "options", [("--format=pax",), ("--format=pax", "-z"), ("--format=pax", "--zstd")], ids=" ".join
)
def test_we_apply_what_bsdtar_writes(work: Path, options: tuple[str, ...]) -> None:
    judge = judges.BsdTar()
    judges.need(judge)
    _, b = rootfs.pair(work)
    layer = judge.write(b, work / "bsd.tar", *options)
    target = work / "ours"
    fastlayer.apply(layer, target)
    same(target, b, judge)


def test_round_trip_of_the_pair_itself(work: Path) -> None:
    """The pair the judges get exercises every kind of change, and our own round trip is exact."""
    a, b = rootfs.pair(work)
    changes = list(fastlayer.diff(a, b))
    assert {c.kind for c in changes} == {"A", "C", "D"}
    assert {what for c in changes for what in c.what} >= {"content", "mode", "owner", "mtime", "type", "link"}
    fastlayer.diff(a, b, work / "l.tar")
    fastlayer.clone(a, work / "ours")
    fastlayer.apply(work / "l.tar", work / "ours")
    assert_same_tree(str(work / "ours"), str(b))
