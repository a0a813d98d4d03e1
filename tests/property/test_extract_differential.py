"""Random hostile layers on random trees: both extractors give the same tree or the same kind of refusal, and nothing
outside the target changes. The layers come from a printed seed; a few are damaged afterwards."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fastlayer import _backend
from fastlayer.errors import FastlayerError, StorageError
from tests import trees
from tests.conftest import needs_root
from tests.corpus.tarparts import END, long_name, member, pax

ENGINES = ("native", "baseline")
FORMATS = ("dir", "overlay", "overlay-userxattr", "aufs")

NAMES = [b"a", b"b", b"c", b"d", b"l", b"m", b"x" * 60]
PATHS = [b"..", b"/", b"./", b".", b"", b"a/../b", b"/a", b"a//b", b"./a/./b", b"n" * 256, b"n" * 256 + b"/x"]
TARGETS = [
    b"a", b"b/c", b"/", b"/a", b"..", b"../..", b"../../outside", b"/outside", b"l", b"m", b"/l/m", b"nowhere/deep",
    b".", b"./b/", b"a/../b", b"t" * 300,
]  # fmt: skip
MARKERS = [b".wh.a", b".wh.b", b".wh.l", b".wh.missing", b".wh..wh..opq", b".wh..wh..opq", b".wh.a", b".wh.c"]
ODD_MARKERS = [b".wh.", b".wh..", b".wh...", b".wh..wh.plnk", b".wh..wh.aufs", b".wh..wh..opqX", b".wh." + b"y" * 252]
TIMES = [0, 1, 1_700_000_000, 8_589_934_591]
XATTRS = [b"user.a", b"user.b", b"trusted.t", b"trusted.overlay.opaque", b"user.overlay.opaque", b"security.other"]


class Layers:
    """Random layers; names are few so that entries meet."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.files: list[bytes] = []  # what hard links may lead to

    def often(self, probability: float) -> bool:
        return self.rng.random() < probability

    def path(self) -> bytes:
        if self.often(0.015):
            return self.rng.choice(PATHS)
        return b"/".join(self.rng.choice(NAMES) for _ in range(self.rng.choice((1, 1, 2, 2, 3, 4))))

    def options(self) -> dict[str, Any]:
        """Of the extractor: mostly none."""
        choices: list[dict[str, Any]] = [{}] * 6
        choices.append({"uid_map": ((0, 100000, 1001), (2097151, 7, 1)), "gid_map": ((0, 5, 51),)})
        choices.append({"uid_map": ((1000, 0, 1),)})
        choices.append({"max_entries": 9, "max_size": 2000, "max_file_size": 600, "max_pax": 100})
        choices.append({"fsync": True, "ignore_chown": True, "skip_devices": True})
        return self.rng.choice(choices)

    def layer(self) -> bytes:
        entries = b"".join(self.entry() for _ in range(self.rng.randint(1, 14)))
        data = bytearray(entries + (END if self.often(0.95) else b""))
        if self.often(0.02):
            data[self.rng.randrange(len(data))] ^= 1 << self.rng.randrange(8)
        if self.often(0.03):
            del data[self.rng.randrange(len(data)) :]
        return bytes(data)

    def entry(self) -> bytes:
        if self.often(0.22):
            return self.marker()
        path, kind = self.path(), self.rng.choice(b"000001122235555346")
        fields = self.attributes()
        body = self.rng.randbytes(self.rng.choice((0, 1, 511, 512, 700))) if kind == ord("0") else b""
        if kind in b"12":
            fields["link"] = self.rng.choice(TARGETS) if self.often(0.4) else self.path()
        if kind == ord("1") and self.files and self.often(0.9):
            fields["link"] = self.rng.choice(self.files)
        if kind not in b"15":
            self.files.append(path)
        if kind in b"34":
            fields["major"], fields["minor"] = self.rng.choice(((0, 0), *[(1, 3), (8, 300), (4095, 1048575)] * 4))
        return self.extended(fields) + self.named(path, bytes([kind]), body, fields)

    def marker(self) -> bytes:
        parent = self.path() if self.often(0.6) else b""
        name = self.rng.choice(ODD_MARKERS if self.often(0.03) else MARKERS)
        return self.named(parent + b"/" + name if parent else name, self.rng.choice([b"0", b"0", b"5"]), b"", {})

    def named(self, path: bytes, kind: bytes, body: bytes, fields: dict[str, Any]) -> bytes:
        long = b""
        if len(path) > 100:
            long += long_name(path)
        if len(fields.get("link", b"")) > 100:
            long += long_name(fields["link"], b"K")
        fields = {**fields, "link": fields.get("link", b"")[:100]}
        return long + member(path[:100], kind, body, **fields)

    def attributes(self) -> dict[str, Any]:
        return {
            "mode": self.rng.choice((0o644, 0o755, 0o4755, 0o2775, 0o1777, 0, 0o100644)),
            "uid": self.rng.choice((0, 0, 1000, 2097151)),
            "gid": self.rng.choice((0, 0, 50)),
            "mtime": self.rng.choice(TIMES),
        }

    def extended(self, fields: dict[str, Any]) -> bytes:
        records: list[tuple[str | bytes, bytes]] = []
        if self.often(0.2):
            records.append(("mtime", self.rng.choice([b"1.5", b"-1.5", b"1700000000.123456789"])))
        if self.often(0.2):
            records += [(b"SCHILY.xattr." + self.rng.choice(XATTRS), self.rng.choice([b"", b"y", b"v\0w"]))]
        if self.often(0.05):
            records += [
                (b"SCHILY.xattr.system.posix_acl_" + self.rng.choice([b"access"] * 9 + [b"default"]), trees.ACLS[0])
            ]
        return pax(*records) if records else b""


Extract = Callable[[Any, int, list[bytes], dict[str, Any]], Any]


def extract(engine: Any, fd: int, layers: list[bytes], options: dict[str, Any]) -> Any:
    """What became of it: the statistics of each layer, or the kind of refusal."""
    extractor = engine.extract.Extractor(fd, **options)
    found: list[Any] = []
    try:
        for layer in layers:
            extractor.begin_layer()
            for start in range(0, len(layer), 1500):
                extractor.feed(layer[start : start + 1500])
            stats = extractor.end_layer()
            found.append((stats.entries, stats.payload, stats.whiteouts, stats.skipped_xattrs, len(stats.warnings)))
    except FastlayerError as error:
        extractor.abort()
        assert "\n" not in str(error)
        found.append((type(error).__name__, error.errno if isinstance(error, StorageError) else None))
    return found


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    where = Path(tempfile.mkdtemp(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None))
    yield where
    shutil.rmtree(where)


def picture(path: Path, started_ns: int) -> dict[bytes, Any]:
    """Times of what no entry speaks of (directories made on the way, markers) are those of the run."""
    found = trees.snapshot(str(path))
    return {name: p._replace(mtime_ns=-1) if p.mtime_ns >= started_ns else p for name, p in found.items()}


@needs_root
@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("seed", range(150))
def test_both_extractors_agree(place: Path, seed: int, format: str) -> None:
    layers = Layers(seed * 10 + FORMATS.index(format))
    lower = trees.Generator(layers.rng).tree(layers.rng.randint(0, 4)) if layers.often(0.2) else None
    stack = [layers.layer() for _ in range(layers.rng.randint(1, 4))]
    options = {"format": format, **layers.options()}
    results = []
    for name in ENGINES:
        subprocess.run(["rm", "-rf", "--", place / name], check=True)
        (place / name).mkdir()
        (place / name / "outside").mkdir()
        (place / name / "outside" / "file").write_bytes(b"canary")
        before = trees.snapshot(str(place / name / "outside"))
        inside = place / name / "inside"
        (lower or trees.Tree({b"": trees.Node("dir", 0o755, 0, 0, 0)})).make(str(inside))
        os.utime(inside, ns=(0, 0))
        started_ns = os.stat(place / name / "outside" / "file").st_mtime_ns
        fd = os.open(inside, os.O_RDONLY | os.O_DIRECTORY)
        try:
            outcome = extract(_backend._load(name), fd, stack, options)
        finally:
            os.close(fd)
        assert trees.snapshot(str(place / name / "outside")) == before
        results.append((outcome, picture(inside, started_ns)))
    (native, native_tree), (baseline, baseline_tree) = results
    assert native == baseline, f"seed {seed} {format}"
    if len(native[-1]) != 2:  # what a refusal leaves is free
        trees.assert_same_tree(native_tree, baseline_tree)
