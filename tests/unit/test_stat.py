"""``Changes.stat``: the bytes of modified files that really changed, wherever the two versions are."""

from __future__ import annotations

import io
import json
import os
import random
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import fastlayer
from fastlayer._backend import Engine
from fastlayer.errors import FileChangedError, StorageError
from tests.conftest import needs_root

CONTENT = random.Random(12).randbytes(500_000)
INSERTED = b"i" * 1000 + CONTENT


@pytest.fixture
def trees(tmp_path: Path) -> tuple[Path, Path]:
    """A file in two versions, and around it what moves offsets and sorts before and after it."""
    for name, data in (("a", CONTENT), ("b", INSERTED)):
        for other in ("d/before", "d/file", "d/later"):
            where = tmp_path / name / other
            where.parent.mkdir(parents=True, exist_ok=True)
            where.write_bytes(data if other == "d/file" else b"same")
            os.utime(where, (0, len(data)))
    return tmp_path / "a", tmp_path / "b"


def as_it_is(tree: Path) -> Any:
    return tree


def as_tar(suffix: str) -> Callable[[Path], Any]:
    def make(tree: Path) -> Path:
        out = tree.with_name(tree.name + suffix)
        fastlayer.diff(None, tree, out)
        return out

    return make


def as_stack(tree: Path) -> list[Path]:
    """The lower layer has another version of the file."""
    below = tree.with_name(f"below-{tree.name}")
    (below / "d").mkdir(parents=True)
    (below / "d" / "file").write_bytes(b"old")
    fastlayer.diff(None, below, below.with_suffix(".tar"))
    return [below.with_suffix(".tar"), as_tar(".tar.zst")(tree)]


def as_stream(tree: Path) -> Any:
    return io.BytesIO(as_tar(".tar")(tree).read_bytes())


FORMS = [as_it_is, as_tar(".tar"), as_tar(".tar.gz"), as_stack, as_stream]


@pytest.mark.parametrize("new", FORMS)
@pytest.mark.parametrize("old", FORMS)
def test_an_insertion_is_found_in_every_operand(
    engine: Engine, trees: tuple[Path, Path], old: Callable[[Path], Any], new: Callable[[Path], Any]
) -> None:
    expected = fastlayer.diff(*trees).stat().changed_bytes
    assert expected is not None and 1000 <= expected < 300_000
    with fastlayer.diff(old(trees[0]), new(trees[1])) as changes:
        statistics = changes.stat()
    assert (statistics.modified_files, statistics.modified_bytes) == (1, len(INSERTED))
    assert statistics.changed_bytes == expected


def test_data_of_a_foreign_tar_with_holes(engine: Engine, trees: tuple[Path, Path], tmp_path: Path) -> None:
    """A sparse file is not stored in one piece: it is read from a spool."""
    with open(trees[1] / "d" / "file", "wb") as file:
        file.seek(8192)
        file.write(CONTENT)
    words = ["tar", "-C", trees[1], "--sparse", "--format=gnu", "-cf", tmp_path / "gnu.tar", "."]
    subprocess.run(words, check=True)
    plain, sparse = (fastlayer.diff(trees[0], other).stat() for other in (trees[1], tmp_path / "gnu.tar"))
    assert plain.changed_bytes == sparse.changed_bytes != plain.modified_bytes


@pytest.mark.parametrize("side", [0, 1])
def test_an_index_has_nothing_to_compare(trees: tuple[Path, Path], tmp_path: Path, side: int) -> None:
    fastlayer.index(trees[side], tmp_path / "saved.idx")
    operands: list[Path] = list(trees)
    operands[side] = tmp_path / "saved.idx"
    statistics = fastlayer.diff(*operands).stat()
    assert statistics.changed_bytes is None
    assert (statistics.modified_files, statistics.modified_bytes) == (1, len(INSERTED))
    command = [sys.executable, "-m", "fastlayer", "diff", "--stat", *operands]
    text = subprocess.run(command, capture_output=True, check=True, text=True).stdout
    assert "really changed: unknown of 501 kB in 1 modified files (an index has no contents)" in text
    value = json.loads(subprocess.run([*command, "--format", "json"], capture_output=True, check=True).stdout)
    assert value["changed_bytes"] is None and value["modified_files"] == 1


def test_an_index_of_equal_files_is_known(trees: tuple[Path, Path], tmp_path: Path) -> None:
    fastlayer.index(trees[0], tmp_path / "saved.idx")
    assert fastlayer.diff(tmp_path / "saved.idx", trees[0]).stat().changed_bytes == 0


# ---- hard links


def test_a_modified_file_that_gained_an_earlier_name(engine: Engine, trees: tuple[Path, Path]) -> None:
    os.link(trees[1] / "d" / "file", trees[1] / "d" / "another")
    os.link(trees[1] / "d" / "file", trees[1] / "z")
    statistics = fastlayer.diff(*trees).stat()
    assert (statistics.modified_files, statistics.modified_bytes) == (1, len(INSERTED))
    assert statistics.changed_bytes is not None and 1000 <= statistics.changed_bytes < 300_000


@pytest.mark.parametrize("earlier", [False, True])
def test_names_of_one_modified_file_count_once(engine: Engine, trees: tuple[Path, Path], earlier: bool) -> None:
    for tree in trees:
        os.link(tree / "d" / "file", tree / "d" / "file2")
        os.link(tree / "d" / "file", tree / "d" / "file3")
    if earlier:
        os.link(trees[1] / "d" / "file", trees[1] / "another")
    statistics = fastlayer.diff(*trees).stat()
    assert (statistics.modified_files, statistics.modified_bytes) == (1, len(INSERTED))


# ---- what changes or cannot be read


def test_a_file_that_is_not_what_was_listed(engine: Engine, trees: tuple[Path, Path]) -> None:
    changes = fastlayer.diff(*trees)
    with open(trees[1] / "d" / "file", "ab") as file:
        file.write(b"more")
    with pytest.raises(FileChangedError, match="d/file"):
        changes.stat()
    (trees[1] / "d" / "file").unlink()
    with pytest.raises(StorageError, match="d/file"):
        changes.stat()


# ---- upper directories


@needs_root
def test_both_versions_in_lower_directories(engine: Engine, tmp_path: Path) -> None:
    """The new one by redirect and metacopy, the old one below a whiteout and a redirect of the lower layers."""
    upper, top, low = (tmp_path / name for name in ("upper", "top", "low"))
    for path in (upper, top, low):
        path.mkdir()
    (low / "origin").mkdir()
    (low / "origin" / "f").write_bytes(CONTENT)
    (low / "new").write_bytes(INSERTED)
    (low / "moved").mkdir()
    (low / "moved" / "f").write_bytes(b"hidden by the redirect above it")
    (top / "moved").mkdir()
    os.setxattr(top / "moved", "trusted.overlay.redirect", b"/origin")
    (upper / "moved").mkdir()
    (upper / "moved" / "f").write_bytes(bytes(len(INSERTED)))
    os.setxattr(upper / "moved" / "f", "trusted.overlay.metacopy", b"")
    os.setxattr(upper / "moved" / "f", "trusted.overlay.redirect", b"/new")
    with fastlayer.diff_upper(upper, [top, low]) as changes:
        statistics = changes.stat()
    assert (statistics.modified_files, statistics.modified_bytes) == (1, len(INSERTED))
    assert statistics.changed_bytes is not None and 1000 <= statistics.changed_bytes < 300_000


@needs_root
@pytest.mark.parametrize(
    ("path", "place"),
    [
        (b"f", (2, b"f")), (b"d/deep/g", (1, b"d/deep/g")), (b"d/low", None), (b"moved/h", (2, b"d/h")), (b"d", None),
        (b"no", None), (b"f/x", None), (b"d/" + b"n" * 300, None), (b"meta", (2, b"d/h")),
    ],
)  # fmt: skip
def test_old_place(engine: Engine, tmp_path: Path, path: bytes, place: tuple[int, bytes] | None) -> None:
    for name, files in (("upper", []), ("l1", ["d/deep/g", "moved/own", "meta"]), ("l2", ["f", "d/low", "d/h"])):
        (tmp_path / name).mkdir()
        for file in files:
            (tmp_path / name / file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name / file).write_bytes(b"12345")
    os.setxattr(tmp_path / "l1" / "d", "trusted.overlay.opaque", b"y")
    os.setxattr(tmp_path / "l1" / "moved", "trusted.overlay.redirect", b"/d")
    os.setxattr(tmp_path / "l1" / "meta", "trusted.overlay.metacopy", b"")
    os.setxattr(tmp_path / "l1" / "meta", "trusted.overlay.redirect", b"/d/h")
    fds = [os.open(tmp_path / name, os.O_RDONLY) for name in ("upper", "l1", "l2")]
    try:
        differ = engine.upper.UpperDiffer(fds[0], fds[1:])
        while differ.step():
            pass
        differ.finish()
        assert differ.old_place(path) == differ.old_place(path) == place
    finally:
        for fd in fds:
            os.close(fd)


def test_tars_made_here_are_plain(trees: tuple[Path, Path]) -> None:
    """What the forms above rely on."""
    with tarfile.open(as_tar(".tar")(trees[0])) as tar:
        assert [entry.name for entry in tar] == [".", "d", "d/before", "d/file", "d/later"]


def test_where_modified_files_changed(engine: Engine, tmp_path: Path) -> None:
    """The ranges hold every byte that differs, and little else; the rest of the file is A's."""
    data = random.Random(31).randbytes(8 << 20)
    edited = bytearray(data)
    edited[1_000_000:1_000_100] = bytes(100)
    edited[6_000_000:6_000_004] = b"four"
    for name, content in (("a", data), ("b", bytes(edited))):
        (tmp_path / name).mkdir()
        (tmp_path / name / "big").write_bytes(content)
        (tmp_path / name / "same").write_bytes(b"same")
    with fastlayer.diff(tmp_path / "a", tmp_path / "b") as changes:
        (found,) = changes.modified()
        assert changes.stat().changed_bytes == found.changed
    assert (found.path, found.size) == (b"big", len(data)) and found.ranges is not None
    rest = bytearray(data)
    for offset, length in found.ranges:
        rest[offset : offset + length] = edited[offset : offset + length]
    assert rest == edited
    assert found.changed is not None and found.changed <= 4 * 262144
    assert all(sum(one) < two[0] for one, two in zip(found.ranges, found.ranges[1:], strict=False))


def test_ranges_of_an_index_are_unknown(trees: tuple[Path, Path], tmp_path: Path) -> None:
    fastlayer.index(trees[0], tmp_path / "saved.idx")
    assert [found.ranges for found in fastlayer.diff(tmp_path / "saved.idx", trees[1]).modified()] == [None]
