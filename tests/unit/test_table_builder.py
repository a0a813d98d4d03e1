"""Change tables of rows that somebody lists: what they say, what they refuse, and the layer they give."""

from __future__ import annotations

import io
import os
import random
import stat
import tarfile
from pathlib import Path
from typing import Any

import pytest

from fastlayer import _backend
from fastlayer._backend import NewRow
from fastlayer.errors import FileChangedError, UnsafeEntryError, UsageError
from tests.applying import directory
from tests.unit.test_encode import pull

FILE, DIR, LINK = stat.S_IFREG | 0o644, stat.S_IFDIR | 0o755, stat.S_IFLNK | 0o777
TIME = 1_600_000_000 * 10**9


def built(engine: _backend.Engine, *rows: tuple[Any, ...]) -> Any:
    builder = engine.changes.TableBuilder()
    builder.add(rows)
    return builder.finish()


def encoded(engine: _backend.Engine, table: Any, *roots: int, clamp: int | None = None) -> bytes:
    return pull(engine.encode.Encoder(table, list(roots), clamp))


def members(data: bytes) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return {found.name: found for found in tar}


def test_rows_come_out_sorted_as_they_went_in(engine: _backend.Engine) -> None:
    xattrs = ((b"user.a", b"1"), (b"user.b", b""))
    rows = [
        NewRow("A", b"d/f", FILE, 1, 2, 5, TIME + 7, xattrs=xattrs, root=3, source=b"elsewhere"),
        NewRow("C", b"d-x", LINK, link=b"../target", mtime_ns=-1),
        NewRow("P", b"d", DIR, 4294967294, 4294967294),
        NewRow("A", b"dev", stat.S_IFCHR | 0o600, rdev=(4095, 1048575)),
        NewRow("D", b"gone", FILE, size=9),
        NewRow("P", b"unneeded", DIR),
        NewRow("P", b"", DIR),
        NewRow("A", b"empty", FILE),
        NewRow("A", b"fifo", stat.S_IFIFO | 0o644),
    ]
    random.Random(1).shuffle(rows)
    found = built(engine, *rows).rows()
    assert [row.path for row in found] == [b"d", b"d-x", b"d/f", b"dev", b"empty", b"fifo", b"gone"]
    by_path = {row.path: row for row in found}
    assert by_path[b"d/f"][:8] == ("A", 0, b"d/f", FILE, 1, 2, 5, TIME + 7) and by_path[b"d/f"].xattrs == xattrs
    assert by_path[b"d-x"].link == b"../target" and by_path[b"d-x"].mtime_ns == -1
    assert by_path[b"dev"].rdev == (4095, 1048575)
    assert (by_path[b"gone"].kind, by_path[b"gone"].size, by_path[b"gone"].mode) == ("D", 9, FILE)
    assert by_path[b"d"].uid == by_path[b"d"].gid == 4294967294


def test_both_engines_make_the_same_records(tmp_path: Path) -> None:
    rng = random.Random(7)
    rows = []
    for number in range(300):
        path = b"/".join(rng.choice([b"a", b"b-", b"c", b"\xff"]) for _ in range(rng.randint(1, 3))) + b"%d" % number
        kind = rng.choice("ACD")
        mode = rng.choice([FILE, FILE, FILE, DIR, LINK, stat.S_IFBLK | 0o600])
        rows.append(
            NewRow(
                kind,
                path,
                mode,
                size=rng.choice([0, 5]),
                mtime_ns=rng.randint(-(10**18), 10**18),
                rdev=(1, 3) if stat.S_ISBLK(mode) else (0, 0),
                link=b"t" if stat.S_ISLNK(mode) else b"",
                xattrs=((b"user.x", b"v" * rng.randint(0, 3)),) if rng.random() < 0.3 else (),
                root=rng.randint(0, 2),
                source=b"s" if rng.random() < 0.5 else 77,
                ctime_ns=rng.choice([0, 12345678901234567]),
                group=rng.choice([0, 0, 0, 10**15, 3]) if kind != "D" else 0,
            )
        )
    tables = [built(_backend._load(name), *rows) for name in ("native", "baseline")]
    assert bytes(tables[0].records()) == bytes(tables[1].records())
    assert bytes(tables[0].heap()) == bytes(tables[1].heap())
    assert tables[0].rows() == tables[1].rows()


def test_contents_come_from_the_roots(engine: _backend.Engine, tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name / "deep").mkdir(parents=True)
        (tmp_path / name / "deep/file").write_bytes(name.encode())
    memory = os.memfd_create("test")
    os.write(memory, b"....here")
    changed = os.stat(tmp_path / "one/deep/file").st_ctime_ns
    with directory(tmp_path / "one") as one, directory(tmp_path / "two") as two:
        table = built(
            engine,
            NewRow("A", b"x", FILE, size=3, root=0, source=b"deep/file", ctime_ns=changed),
            NewRow("A", b"y/z", FILE, size=3, root=1, source=b"deep/file"),
            NewRow("A", b"doc", FILE, size=4, root=2, source=4),
            NewRow("A", b"again", FILE, size=3, root=0, source=b"deep/file", group=9),
            NewRow("A", b"later", FILE, size=3, root=0, source=b"deep/file", group=9),
        )
        data = encoded(engine, table, one, two, memory)
    os.close(memory)
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        bodies = {m.name: (tar.extractfile(m) or io.BytesIO()).read() for m in tar if not m.islnk()}
        links = {m.name: m.linkname for m in tar if m.islnk()}
    assert bodies == {"x": b"one", "y/z": b"two", "doc": b"here", "again": b"one"}
    assert links == {"later": "again"}


def test_clamped_times_and_whiteouts(engine: _backend.Engine) -> None:
    table = built(engine, NewRow("A", b"d", DIR, mtime_ns=TIME), NewRow("D", b"d/x", FILE), NewRow("D", b"y", DIR))
    found = members(encoded(engine, table, clamp=1000))
    assert list(found) == [".wh.y", "d", "d/.wh.x"] and found["d"].mtime == 1000


@pytest.mark.parametrize("change", ["ctime", "size", "gone", "link", "fifo"])
def test_a_file_that_is_not_what_the_row_says(engine: _backend.Engine, tmp_path: Path, change: str) -> None:
    file = tmp_path / "f"
    file.write_bytes(b"12345")
    row = NewRow("A", b"g", FILE, size=5, source=b"f", ctime_ns=file.stat().st_ctime_ns)
    if change == "ctime":
        row = row._replace(ctime_ns=row.ctime_ns - 1)
    elif change == "size":
        row = row._replace(size=4, ctime_ns=0)
    else:
        file.rename(tmp_path / "other")
        row = row._replace(ctime_ns=0)
    if change == "link":
        file.symlink_to("other")
    if change == "fifo":
        os.mkfifo(file)
    with directory(tmp_path) as root, pytest.raises(FileChangedError, match=r"g|f"):
        encoded(engine, built(engine, row), root)


@pytest.mark.parametrize(
    "row",
    [
        NewRow("X", b"a", FILE),
        NewRow("", b"a", FILE),
        NewRow("A", b"/a", FILE),
        NewRow("A", b"a/", FILE),
        NewRow("A", b"a//b", FILE),
        NewRow("A", b"a/../b", FILE),
        NewRow("A", b".", FILE),
        NewRow("A", b"a\0b", FILE),
        NewRow("A", b"n" * 256, FILE),
        NewRow("A", b"", FILE),
        NewRow("D", b"", DIR),
        NewRow("P", b"a", FILE),
        NewRow("A", b"a", stat.S_IFSOCK | 0o644),
        NewRow("A", b"a", 0o644),
        NewRow("A", b"a", FILE | 1 << 16),
        NewRow("A", b"a", -1),
        NewRow("A", b"a", FILE, uid=2**32 - 1),
        NewRow("A", b"a", FILE, gid=2**32),
        NewRow("A", b"a", FILE, uid=-1),
        NewRow("A", b"a", FILE, size=-1),
        NewRow("A", b"a", FILE, size=2**63),
        NewRow("A", b"a", FILE, mtime_ns=2**63 * 10**9),
        NewRow("A", b"a", LINK),
        NewRow("A", b"a", LINK, link=b"a\0"),
        NewRow("A", b"a", LINK, link=b"a" * 65536),
        NewRow("A", b"a", FILE, link=b"a"),
        NewRow("A", b"a", stat.S_IFBLK, rdev=(4096, 0)),
        NewRow("A", b"a", stat.S_IFBLK, rdev=(0, 1048576)),
        NewRow("A", b"a", FILE, xattrs=((b"user.b", b""), (b"user.a", b""))),
        NewRow("A", b"a", FILE, xattrs=((b"user.a", b""), (b"user.a", b""))),
        NewRow("A", b"a", FILE, xattrs=((b"", b""),)),
        NewRow("A", b"a", FILE, xattrs=((b"u" * 256, b""),)),
        NewRow("A", b"a", FILE, size=1, root=256, source=0),
        NewRow("A", b"a", FILE, size=1, root=65536, source=b"x"),
        NewRow("A", b"a", FILE, size=1, source=-1),
        NewRow("A", b"a", FILE, size=1),
        NewRow("A", b"a", FILE, size=1, source=b"../x"),
        NewRow("A", b"a", FILE, size=1, source=b"/etc/passwd"),
        NewRow("A", b"a", FILE, size=1, source=b"x\0"),
        NewRow("A", b"a", FILE, size=1, source=None),  # type: ignore[arg-type]
        NewRow("A", "a", FILE),  # type: ignore[arg-type]
        ("A", b"a"),
        (),
        None,
    ],
)
def test_what_no_layer_can_have(engine: _backend.Engine, row: Any) -> None:
    builder = engine.changes.TableBuilder()
    with pytest.raises((UsageError, _backend_limit())) as caught:
        builder.add([row])
        _ = bytes(builder.finish().records())  # the baseline packs late
    assert "\n" not in str(caught.value)
    with pytest.raises(UsageError, match="finished"):
        builder.add([])


def _backend_limit() -> type[Exception]:
    from fastlayer.errors import LimitError

    return LimitError


def test_twins_are_refused_and_named(engine: _backend.Engine) -> None:
    with pytest.raises(UsageError, match="d/x: the path has two rows"):
        built(engine, NewRow("A", b"d/x", FILE), NewRow("A", b"d", DIR), NewRow("D", b"d/x", FILE))


def test_nothing_is_below_a_file(engine: _backend.Engine) -> None:
    file, between = NewRow("A", b"a/b", FILE), NewRow("A", b"a/b-c", FILE)
    for path in (b"a/b/c", b"a/b/d/e"):
        with pytest.raises(UsageError, match=r"a/b/.*: a row below what is no directory"):
            built(engine, NewRow("A", b"a", DIR), between, NewRow("A", path, FILE), file)
    rows = [between, file, NewRow("D", b"a/c", FILE), NewRow("A", b"a/c/d", FILE), NewRow("A", b"a/b-/x", FILE)]
    assert len(built(engine, *rows)) == 5  # what is gone may have been anything


def test_a_name_that_a_layer_reads_as_a_deletion(engine: _backend.Engine) -> None:
    with pytest.raises(UnsafeEntryError, match="deletion"):
        encoded(engine, built(engine, NewRow("A", b"d/.wh.x", FILE)))


def test_an_empty_table(engine: _backend.Engine) -> None:
    assert encoded(engine, built(engine)) == bytes(1024)


def test_a_root_that_was_not_given(engine: _backend.Engine) -> None:
    with pytest.raises(UsageError):
        encoded(engine, built(engine, NewRow("A", b"a", FILE, size=1, root=3, source=b"x")))
