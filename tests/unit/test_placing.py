"""Placing a table on a tree: what only placing does. That it is applying is in tests/property/test_placing.py."""

from __future__ import annotations

import gc
import os
import random
import signal
import stat
import threading
from pathlib import Path
from typing import Any

import pytest

from fastlayer import _backend
from fastlayer._backend import NewRow
from fastlayer.errors import (
    FileChangedError,
    LayerFormatError,
    LimitError,
    UnsafeEntryError,
    UsageError,
)
from fastlayer.layer.limits import Limits
from fastlayer.layer.placing import Contents, place
from tests.conftest import needs_root
from tests.pairs import directory, table_of
from tests.unit.test_table_builder import DIR, FILE, LINK, TIME, built

BIG = 300_000  # bytes: worth a thread


@pytest.fixture
def source(tmp_path: Path) -> Path:
    where = tmp_path / "source"
    where.mkdir()
    return where


def row_of(path: Path, name: bytes, **fields: Any) -> NewRow:
    found = path.stat()
    known = {"size": found.st_size, "mtime_ns": TIME, "source": os.fsencode(path.name), "ctime_ns": found.st_ctime_ns}
    return NewRow("A", name, FILE, **{**known, **fields})


def test_files_of_all_sizes_by_threads(engine: _backend.Engine, tmp_path: Path, source: Path) -> None:
    rng, rows, wanted = random.Random(5), [], {}
    for number in range(60):
        data = rng.randbytes(rng.choice((0, 1, 4096, 65535, 65536, BIG, 3 * BIG)))
        (source / f"f{number}").write_bytes(data)
        mode = stat.S_IFREG | 0o4750 * (number % 2)
        rows.append(row_of(source / f"f{number}", b"d%d/%d" % (number % 3, number))._replace(mode=mode))
        wanted[f"d{number % 3}/{number}"] = data
    rows += [NewRow("A", b"d%d" % number, DIR, mtime_ns=TIME) for number in range(3)]
    with directory(source) as root:
        done = place(built(engine, *rows), [root], tmp_path / "target", jobs=4)
    total = sum(map(len, wanted.values()))
    assert done.entries == 63 and done.payload == total == done.copied + done.shared
    for name, data in wanted.items():
        file = tmp_path / "target" / name
        found = file.stat()
        assert file.read_bytes() == data and found.st_mtime_ns == TIME
        assert stat.S_IMODE(found.st_mode) == (0o4750 if int(name.split("/")[1]) % 2 else 0)
    assert (tmp_path / "target/d1").stat().st_mtime_ns == TIME


def test_holes_stay_holes(engine: _backend.Engine, tmp_path: Path, source: Path) -> None:
    with open(source / "sparse", "wb") as file:
        file.truncate(64 << 20)
        file.seek(32 << 20)
        file.write(b"x" * 4096)
    with directory(source) as root:
        done = place(built(engine, row_of(source / "sparse", b"s")), [root], tmp_path / "target")
    found = (tmp_path / "target/s").stat()
    assert found.st_size == 64 << 20 and found.st_blocks * 512 < 4 << 20
    assert done.payload == 64 << 20 and done.copied + done.shared < 4 << 20
    assert (tmp_path / "target/s").read_bytes() == (source / "sparse").read_bytes()


def test_hard_links_are_links(engine: _backend.Engine, tmp_path: Path, source: Path) -> None:
    (source / "f").write_bytes(b"x" * BIG)
    rows = [row_of(source / "f", name, group=1) for name in (b"b", b"a", b"d/c")]
    with directory(source) as root:
        place(built(engine, NewRow("A", b"d", DIR), *rows), [root], tmp_path / "target", jobs=3)
    found = [(tmp_path / "target" / name).stat() for name in ("a", "b", "d/c")]
    assert len({status.st_ino for status in found}) == 1 and found[0].st_nlink == 3


def test_contents_in_memory(engine: _backend.Engine, tmp_path: Path, source: Path) -> None:
    big = random.Random(1).randbytes(BIG)
    with Contents() as contents, directory(source) as root:
        rows = [
            NewRow("A", name, FILE, size=len(data), root=1, source=contents.add(data), mtime_ns=TIME)
            for name, data in ((b"a", b"hello"), (b"b", b""), (b"c", big), (b"d", b"world"))
        ]
        place(built(engine, *rows), [root, contents.fd], tmp_path / "target", jobs=2)
        with pytest.raises(FileChangedError, match="e"):
            place(
                built(engine, NewRow("A", b"e", FILE, size=9, root=1, source=BIG + 5)),
                [root, contents.fd],
                tmp_path / "x",
            )
    assert [(tmp_path / "target" / name).read_bytes() for name in "abcd"] == [b"hello", b"", big, b"world"]
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("size", [10, BIG])
@pytest.mark.parametrize("change", ["ctime", "longer", "shorter", "gone", "directory", "link"])
def test_a_file_that_is_not_what_the_row_says(
    engine: _backend.Engine, tmp_path: Path, source: Path, change: str, size: int
) -> None:
    file = source / "f"
    file.write_bytes(b"x" * size)
    row = row_of(file, b"deep/name")
    if change in ("longer", "shorter"):
        os.truncate(file, size + (1 if change == "longer" else -1))
        row = row._replace(ctime_ns=0)
    elif change == "ctime":
        row = row._replace(ctime_ns=row.ctime_ns - 1)
    else:
        file.rename(source / "other")
        row = row._replace(ctime_ns=0)
    if change == "directory":
        file.mkdir()
    if change == "link":
        file.symlink_to("other")
    (source / "ok").write_bytes(b"y" * BIG)
    rows = [row, *(row_of(source / "ok", b"ok%d" % number) for number in range(20))]
    with directory(source) as root, pytest.raises(FileChangedError, match=r"name|f:"):
        place(built(engine, *rows), [root], tmp_path / "target", jobs=4)
    assert sorted(os.listdir(tmp_path)) == ["source"]


def test_what_the_format_or_a_layer_cannot_hold(engine: _backend.Engine, tmp_path: Path, source: Path) -> None:
    with directory(source) as root:
        with pytest.raises(UnsafeEntryError, match=r"a/\.wh\.b"):
            place(built(engine, NewRow("A", b"a/.wh.b", DIR)), [root], tmp_path / "target")
        with pytest.raises(UnsafeEntryError, match="0:0"):
            zero = NewRow("A", b"c", stat.S_IFCHR | 0o600)
            place(built(engine, zero), [root], tmp_path / "target", format="overlay")
        with pytest.raises(UsageError, match="format"):
            place(built(engine), [root], tmp_path / "target", format="tar")  # type: ignore[arg-type]
        with pytest.raises(LimitError, match="2 entries"):
            rows = [NewRow("A", b"%d" % number, DIR) for number in range(3)]
            place(built(engine, *rows), [root], tmp_path / "target", limits=Limits(max_entries=2))
    assert sorted(os.listdir(tmp_path)) == ["source"]


def test_links_of_the_target_lead_nowhere_else(engine: _backend.Engine, tmp_path: Path, source: Path) -> None:
    target, outside = tmp_path / "target", tmp_path / "outside"
    target.mkdir()
    outside.mkdir()
    (target / "l").symlink_to(outside)
    (source / "f").write_bytes(b"x")
    with directory(source) as root:
        place(built(engine, row_of(source / "f", b"l/f"), NewRow("D", b"l/g", FILE)), [root], target)
    assert os.listdir(outside) == [] and (target / str(outside)[1:] / "f").read_bytes() == b"x"


def test_links_of_the_source_are_not_followed(engine: _backend.Engine, tmp_path: Path, source: Path) -> None:
    (tmp_path / "secret").write_bytes(b"secret")
    (source / "d").symlink_to("..")
    row = NewRow("A", b"f", FILE, size=6, source=b"d/secret")
    with directory(source) as root, pytest.raises(FileChangedError, match=r"f|secret"):
        place(built(engine, row), [root], tmp_path / "target")


def test_order_of_calls(engine: _backend.Engine, tmp_path: Path, source: Path) -> None:
    rows = [NewRow("A", b"%d" % number, FILE) for number in range(5000)]
    table, other = built(engine, *rows), built(engine, NewRow("A", b"x", FILE))
    (tmp_path / "target").mkdir()
    with directory(source) as root, directory(tmp_path / "target") as fd:
        extractor = engine.extract.Extractor(fd)
        with pytest.raises(UsageError, match="begin_layer"):
            extractor.place(table, [root])
        extractor = engine.extract.Extractor(fd)
        extractor.begin_layer()
        assert extractor.place(table, [root])  # more to come
        for call in (lambda: extractor.place(other, [root]), lambda: extractor.feed(b"x"), extractor.end_layer):
            with pytest.raises(UsageError, match="not placed yet"):
                call()
        while extractor.place(table, [root]):
            pass
        assert extractor.entries == 5000
        assert extractor.end_layer().entries == 5000
        extractor.begin_layer()  # and once more: what is there is replaced
        while extractor.place(other, [root]):
            pass
        assert extractor.end_layer().entries == 1
    assert len(os.listdir(tmp_path / "target")) == 5001


def test_a_layer_without_rows(engine: _backend.Engine, tmp_path: Path, source: Path) -> None:
    with directory(source) as root:
        assert place(built(engine), [root], tmp_path / "target").entries == 0
    assert os.listdir(tmp_path / "target") == []


def test_a_row_that_no_tar_can_have(engine: _backend.Engine, tmp_path: Path, source: Path) -> None:
    with directory(source) as root, pytest.raises((UsageError, LayerFormatError)):
        place(built(engine, NewRow("A", b"f", FILE, size=5, root=4, source=b"x")), [root], tmp_path / "target")


def test_a_checkpoint_stops_it(engine: _backend.Engine, tmp_path: Path, source: Path) -> None:
    (source / "f").write_bytes(b"x" * BIG)
    rows = [row_of(source / "f", b"%d" % number) for number in range(3000)]

    def stop() -> None:
        raise KeyboardInterrupt

    with directory(source) as root, pytest.raises(KeyboardInterrupt):
        place(built(engine, *rows), [root], tmp_path / "target", jobs=4, checkpoint=stop)
    assert sorted(os.listdir(tmp_path)) == ["source"]


def test_a_signal_stops_it(engine: _backend.Engine, tmp_path: Path, source: Path) -> None:
    (source / "f").write_bytes(b"x" * BIG)
    rows = [row_of(source / "f", b"%d" % number) for number in range(3000)]
    table = built(engine, *rows)
    before = threading.active_count()
    timer = threading.Timer(0.05, lambda: signal.raise_signal(signal.SIGINT))
    with directory(source) as root, pytest.raises(KeyboardInterrupt):
        timer.start()
        while True:
            place(table, [root], tmp_path / "target", jobs=4)
            shutil_rmtree(tmp_path / "target")
    timer.join()
    assert threading.active_count() == before


def shutil_rmtree(path: Path) -> None:
    import shutil

    shutil.rmtree(path)


def test_descriptors_are_closed(engine: _backend.Engine, tmp_path: Path, source: Path) -> None:
    (source / "f").write_bytes(b"x" * BIG)
    rows = [row_of(source / "f", b"%d/%d" % (number % 7, number)) for number in range(100)]
    bad = row_of(source / "f", b"5/zz", ctime_ns=1)
    gc.collect()
    open_before = len(os.listdir("/proc/self/fd"))
    with directory(source) as root:
        place(built(engine, *rows), [root], tmp_path / "target", jobs=4)
        with pytest.raises(FileChangedError):
            place(built(engine, *rows, bad), [root], tmp_path / "target", jobs=4)
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) == open_before


@needs_root
def test_attributes_that_writing_would_take_away(engine: _backend.Engine, tmp_path: Path, source: Path) -> None:
    capability = bytes.fromhex("0100000200040000000000000000000000000000")
    (source / "f").write_bytes(b"x" * BIG)
    row = row_of(source / "f", b"f", xattrs=((b"security.capability", capability),), uid=1000, gid=50)
    with directory(source) as root:
        place(built(engine, row), [root], tmp_path / "target", jobs=4)
    assert os.getxattr(tmp_path / "target/f", "security.capability") == capability
    assert (tmp_path / "target/f").stat().st_uid == 1000


def test_a_differs_table_needs_no_aux(engine: _backend.Engine, tmp_path: Path, source: Path) -> None:
    (source / "d").mkdir()
    (source / "d/f").write_bytes(b"x" * BIG)
    (source / "l").symlink_to("d")
    with directory(source) as root:
        table = table_of(engine, None, root)
        place(table, [root], tmp_path / "target")
        os.utime(source / "d/f", ns=(1, 1))
        with pytest.raises(FileChangedError, match="d/f"):
            place(table, [root], tmp_path / "again")
    assert (tmp_path / "target/d/f").read_bytes() == b"x" * BIG
    assert os.readlink(tmp_path / "target/l") == "d" and LINK
