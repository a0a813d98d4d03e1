"""Parts of files that take the place of bytes of a layer: the same tree as if they had been fed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from fastlayer import _backend
from fastlayer.errors import FileChangedError, LayerFormatError, UsageError
from tests.applying import apply, directory, file, folder, names
from tests.conftest import needs_root
from tests.corpus.tarparts import END, pax
from tests.filesystems import loop_fs

pytestmark = needs_root

_BIG = os.urandom(64) * 40_000  # 2.5 MB


@pytest.fixture
def target(tmp_path: Path) -> Path:
    path = tmp_path / "target"
    path.mkdir(mode=0o755)
    return path


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source"
    path.write_bytes(_BIG)
    return path


@contextmanager
def extractor(engine: Any, target: Path, **options: Any) -> Iterator[Any]:
    with directory(target) as fd:
        found = engine.extract.Extractor(fd, **options)
        try:
            found.begin_layer()
            yield found
        finally:
            found.abort()


@contextmanager
def opened(path: Path) -> Iterator[int]:
    fd = os.open(path, os.O_RDONLY)
    try:
        yield fd
    finally:
        os.close(fd)


def header(path: bytes, size: int, **fields: Any) -> bytes:
    return file(path, b"x" * size, **fields)[:512]


def padding(size: int) -> bytes:
    return bytes(-size % 512)


def test_whole_file_and_parts(engine: Any, target: Path, source: Path) -> None:
    size = len(_BIG)
    with extractor(engine, target) as work, opened(source) as fd:
        work.feed(folder(b"d/") + header(b"d/whole", size, mode=0o640))
        work.feed_extent(fd, 0, size)
        work.feed(padding(size) + header(b"parts", 3000))
        work.feed_extent(fd, 4096, 1000)
        work.feed(b"y" * 500)
        work.feed_extent(fd, 5, 1500)
        work.feed(padding(3000) + file(b"last", b"end") + END)
        stats = work.end_layer()
        assert work.shared_bytes + work.copied_bytes == size + 2500
    assert (target / "d/whole").read_bytes() == _BIG
    assert (target / "parts").read_bytes() == _BIG[4096:5096] + b"y" * 500 + _BIG[5:1505]
    assert (target / "d/whole").stat().st_mode & 0o7777 == 0o640
    assert names(target) == ["d", "d/whole", "last", "parts"]
    assert (stats.entries, stats.payload) == (4, size + 3003)


def test_archive_may_end_with_an_extent(engine: Any, target: Path, source: Path) -> None:
    with extractor(engine, target) as work, opened(source) as fd:
        work.feed(header(b"f", 512))
        work.feed_extent(fd, 0, 512)
        assert work.end_layer().entries == 1
    assert (target / "f").read_bytes() == _BIG[:512]


def test_sparse_file(engine: Any, target: Path, source: Path) -> None:
    """Stored bytes go to where the map says, whatever they come from."""
    records = pax(
        (b"GNU.sparse.major", b"0"),
        (b"GNU.sparse.minor", b"1"),
        (b"GNU.sparse.size", b"30000"),
        (b"GNU.sparse.map", b"10000,100,20000,200"),
    )
    with extractor(engine, target) as work, opened(source) as fd:
        work.feed(records + header(b"f", 300))
        work.feed_extent(fd, 7, 300)
        work.feed(padding(300) + END)
        work.end_layer()
    found = (target / "f").read_bytes()
    assert len(found) == 30000
    assert (found[10000:10100], found[20000:20200]) == (_BIG[7:107], _BIG[107:307])
    assert not any(found[:10000] + found[10100:20000] + found[20200:])


def test_body_of_a_marker_goes_nowhere(engine: Any, target: Path, source: Path) -> None:
    with extractor(engine, target) as work, opened(source) as fd:
        work.feed(header(b".wh.gone", 100))
        work.feed_extent(fd, 0, 100)
        work.feed(padding(100) + END)
        assert work.end_layer().whiteouts == 1
    assert names(target) == []


@pytest.mark.parametrize("length", [101, 1 << 40])
def test_more_than_the_body(engine: Any, target: Path, source: Path, length: int) -> None:
    with extractor(engine, target) as work, opened(source) as fd:
        work.feed(header(b"f", 200))
        work.feed(b"x" * 100)
        with pytest.raises(LayerFormatError, match="stands where it does not belong"):
            work.feed_extent(fd, 0, length)
        with pytest.raises(UsageError, match="has failed"):
            work.feed(b"x")


@pytest.mark.parametrize("before", [b"", folder(b"d/"), file(b"f", b"123"), file(b"f", b"x" * 512), END])
def test_outside_of_a_body(engine: Any, target: Path, source: Path, before: bytes) -> None:
    with extractor(engine, target) as work, opened(source) as fd:
        work.feed(before)
        with pytest.raises(LayerFormatError, match="stands where it does not belong"):
            work.feed_extent(fd, 0, 1)


def test_file_that_ends_before(engine: Any, target: Path, source: Path) -> None:
    with extractor(engine, target) as work, opened(source) as fd:
        work.feed(header(b"f", 200))
        with pytest.raises(FileChangedError, match="f: file became shorter while it was copied"):
            work.feed_extent(fd, len(_BIG) - 100, 200)


def test_not_in_a_layer(engine: Any, target: Path, source: Path) -> None:
    with directory(target) as at, opened(source) as fd, pytest.raises(UsageError, match="call begin_layer first"):
        engine.extract.Extractor(at).feed_extent(fd, 0, 1)


def test_extents_are_shared() -> None:
    """Whole files, and parts from block to block; what is neither is moved."""
    native = _backend._load("native")
    with loop_fs("xfs") as place:
        (source := place / "source").write_bytes(_BIG)
        (target := place / "target").mkdir()
        size = len(_BIG)
        with extractor(native, target) as work, opened(source) as fd:
            work.feed(header(b"whole", size))
            work.feed_extent(fd, 0, size)
            work.feed(padding(size) + header(b"parts", 3 << 16))
            work.feed_extent(fd, 1 << 16, 1 << 17)
            work.feed_extent(fd, 1, 1 << 16)
            work.feed(padding(3 << 16) + END)
            work.end_layer()
            assert (work.shared_bytes, work.copied_bytes) == (size + (1 << 17), 1 << 16)
        assert (target / "whole").read_bytes() == _BIG
        assert (target / "parts").read_bytes() == _BIG[1 << 16 : 3 << 16] + _BIG[1 : 1 + (1 << 16)]


def test_same_as_fed(engine: Any, tmp_path: Path, source: Path) -> None:
    fed, copied = tmp_path / "fed", tmp_path / "copied"
    fed.mkdir()
    copied.mkdir()
    apply(engine, fed, file(b"f", _BIG[:5000], mtime=77, uid=3))
    with extractor(engine, copied) as work, opened(source) as fd:
        work.feed(header(b"f", 5000, mtime=77, uid=3))
        work.feed_extent(fd, 0, 5000)
        work.feed(padding(5000) + END)
        work.end_layer()
    one, other = ((place / "f").stat() for place in (fed, copied))
    assert (one.st_mtime_ns, one.st_uid, one.st_mode) == (other.st_mtime_ns, other.st_uid, other.st_mode)
    assert (fed / "f").read_bytes() == (copied / "f").read_bytes()
