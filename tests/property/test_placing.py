"""Placing a table gives what applying its tar gives: random trees, tables, lower trees, every format, both engines."""

from __future__ import annotations

import os
import random
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fastlayer import _backend
from fastlayer._baseline import tree
from fastlayer.errors import FastlayerError, StorageError
from tests import trees
from tests.conftest import needs_root
from tests.pairs import directory, table_of
from tests.unit.test_encode import pull

ENGINES = ("native", "baseline")
FORMATS = ("dir", "overlay", "overlay-userxattr", "aufs")


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    where = Path(tempfile.mkdtemp(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None))
    yield where
    shutil.rmtree(where)


def options_of(rng: random.Random, format: str) -> dict[str, Any]:
    choices: list[dict[str, Any]] = [{}] * 7
    choices += [{"max_entries": 9}, {"max_size": 2000, "max_file_size": 600}, {"fsync": True}]
    choices += [{"uid_map": ((0, 100000, 1001),)}]
    return {"format": format, **rng.choice(choices)}


def listed(engine: _backend.Engine, rng: random.Random, source: int) -> Any:
    """A table of rows made up of what is in ``source``: owned by others, with deletions, some without parents."""
    inodes: dict[tuple[int, int], int] = {}
    rows = []
    for found in tree.walk(source):
        if not found.path or stat.S_ISSOCK(found.mode) or (found.is_dir and rng.random() < 0.1):
            continue
        group = inodes.setdefault(found.inode, len(inodes) + 1) if found.shared else 0
        rows.append(
            _backend.NewRow(
                rng.choice("AACP") if found.is_dir else rng.choice("AAAC"),
                found.path,
                found.mode & ~0o7000 | rng.choice((0, 0, 0, 0o4000, 0o1000)),
                rng.choice((0, 1000)),
                rng.choice((0, 50)),
                found.size if found.is_file else 0,
                found.mtime_ns,
                (0, 0) if found.is_file or found.is_dir else found.rdev,
                found.link,
                found.xattrs,
                0,
                found.path,
                rng.choice((0, found.ctime_ns)),
                group,
            )
        )
    taken = {row.path for row in rows} | {b"a/gone" for row in rows if row.path == b"a" and not stat.S_ISDIR(row.mode)}
    for name in (b"a", b"b", b"zz", b"a/gone", b"nowhere/x"):
        if name not in taken and rng.random() < 0.4:
            rows.append(_backend.NewRow("D", name, stat.S_IFREG))
    rng.shuffle(rows)
    builder = engine.changes.TableBuilder()
    builder.add(rows)
    return builder.finish()


def outcome(run: Callable[..., Any], *arguments: Any) -> tuple[Any, ...]:
    try:
        return tuple(run(*arguments))
    except FastlayerError as error:
        assert "\n" not in str(error)
        return type(error).__name__, error.errno if isinstance(error, StorageError) else None


def by_tar(extractor: Any, encoder: Any) -> Any:
    data = pull(encoder)
    extractor.begin_layer()
    extractor.feed(data)
    return extractor.end_layer()


def placed(extractor: Any, table: Any, roots: list[int], clamp: int | None, jobs: int) -> Any:
    extractor.begin_layer()
    while extractor.place(table, roots, clamp, jobs=jobs):
        pass
    return extractor.end_layer()


def picture(path: Path, started_ns: int) -> dict[bytes, Any]:
    """Times of what no entry speaks of are those of the run."""
    found = trees.snapshot(str(path))
    return {name: p._replace(mtime_ns=-1) if p.mtime_ns >= started_ns else p for name, p in found.items()}


@needs_root
@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("seed", range(100))
def test_placing_is_applying(place: Path, seed: int, format: str) -> None:
    rng = random.Random(seed * 10 + FORMATS.index(format))
    subprocess.run(["rm", "-rf", "--", *place.iterdir()], check=True)
    old, new = trees.random_pair(rng.randrange(10**9), rng.choice((3, 12, 40)))
    lower = old if rng.random() < 0.5 else trees.Tree({b"": trees.Node("dir", 0o755, 0, 0, 0)})
    old.make(str(place / "old"))
    new.make(str(place / "new"))
    options, clamp = options_of(rng, format), rng.choice((None, None, 1_500_000_000))
    results = []
    for name in ENGINES:
        engine = _backend._load(name)
        with directory(place / "old") as a, directory(place / "new") as b:
            for how in ("tar", "place", "place by threads"):
                table = table_of(engine, a, b) if seed % 2 else listed(engine, random.Random(seed), b)
                where = place / "target"
                lower.make(str(where))
                os.utime(where, ns=(0, 0))
                (place / "clock").touch()
                started_ns = (place / "clock").stat().st_mtime_ns
                with directory(where) as fd:
                    extractor = engine.extract.Extractor(fd, **options)
                    if how == "tar":
                        done = outcome(by_tar, extractor, engine.encode.Encoder(table, [b], clamp))
                    else:
                        jobs = 1 if how == "place" else 3
                        done = outcome(placed, extractor, table, [b], clamp, jobs)
                    extractor.abort()
                results.append((name, how, done, picture(where, started_ns)))
                subprocess.run(["rm", "-rf", "--", where], check=True)
    _, _, first, wanted = results[0]
    for name, how, done, found in results[1:]:
        if name == results[0][0]:
            assert done == first, f"{name} {how}"
        else:  # warnings are worded by each engine
            assert done[:3] == first[:3] and len(done) == len(first), f"{name} {how}"
        if len(first) > 2:  # what a refusal leaves is free
            trees.assert_same_tree(found, wanted)
