"""Saved tree indexes: as operands, and damaged in every place."""

from __future__ import annotations

import io
import os
import random
import socket
import time
from pathlib import Path

import numpy as np
import pytest

import fastlayer
from fastlayer._backend import Engine
from fastlayer.errors import (
    FileChangedError,
    IndexFormatError,
    LayerFormatError,
    OperandError,
    StorageError,
    UsageError,
)
from fastlayer.layer import index_format
from fastlayer.layer.index_format import COLUMNS, HEADER_SIZE


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    (root / "d/e").mkdir(parents=True)
    (root / "d/small").write_bytes(b"small")
    (root / "d/large").write_bytes(random.Random(1).randbytes(700_000))
    (root / "empty").touch()
    (root / "link").symlink_to("d/small")
    os.link(root / "d/small", root / "d/e/other")
    os.mkfifo(root / "fifo")
    return root


def names(changes: fastlayer.Changes) -> dict[str, tuple[str, ...]]:
    return {change.name: change.what for change in changes}


def test_columns(engine: Engine, tree: Path) -> None:
    index = fastlayer.index(tree)
    columns = index.columns
    paths = [
        bytes(columns.heap[start : start + length])
        for start, length in zip(columns.path_off.tolist(), columns.path_len.tolist(), strict=True)
    ]
    assert paths == [b"", b"d", b"d/e", b"d/e/other", b"d/large", b"d/small", b"empty", b"fifo", b"link"]
    assert len(index) == 9 and index.keys_missing == 0
    row = paths.index(b"d/small")
    status = (tree / "d/small").stat()
    assert (columns.ino[row], columns.size[row], columns.nlink[row]) == (status.st_ino, 5, 2)
    assert int(columns.ctime_sec[row]) * 10**9 + int(columns.ctime_nsec[row]) == status.st_ctime_ns
    blake3 = pytest.importorskip("blake3")
    for path in (b"d/large", b"d/small", b"d/e/other", b"empty"):
        row = paths.index(path)
        wanted = blake3.blake3((tree / os.fsdecode(path)).read_bytes()).digest()
        assert bytes(columns.key[32 * row : 32 * row + 32]) == wanted and columns.flags[row] & 1
    assert not columns.flags[paths.index(b"d")] & 1


@pytest.mark.parametrize("content", [True, False])
def test_an_unchanged_tree_equals_its_index(engine: Engine, tree: Path, tmp_path: Path, content: bool) -> None:
    os.utime(tree, (1, 1))
    saved = fastlayer.index(tree, tmp_path / "i", content=content)
    assert saved.file_size == (tmp_path / "i").stat().st_size
    for index in (saved, tmp_path / "i", str(tmp_path / "i")):
        assert names(fastlayer.diff(index, tree, compare="metadata")) == {}
        if content:
            assert names(fastlayer.diff(index, tree)) == {}
            assert names(fastlayer.diff(tree, index, compare="content")) == {}
            assert names(fastlayer.diff(index, index)) == {}


def test_index_finds_a_same_size_same_mtime_edit(engine: Engine, tree: Path) -> None:
    index = fastlayer.index(tree)
    status = (tree / "d/large").stat()
    with open(tree / "d/large", "r+b") as file:
        file.seek(400_000)
        file.write(b"edited")
    os.utime(tree / "d/large", ns=(status.st_atime_ns, status.st_mtime_ns))
    assert names(fastlayer.diff(index, tree)) == {"/d/large": ("content",)}
    assert names(fastlayer.diff(index, tree, compare="content")) == {"/d/large": ("content",)}
    assert names(fastlayer.diff(index, tree, compare="metadata")) == {"/d/large": ("content",)}


def test_metadata_trusts_ctime_only_of_the_same_inode(engine: Engine, tree: Path, tmp_path: Path) -> None:
    """A touched inode may hold anything; of another inode, as in a copy of the tree, ctime says nothing."""
    index, copy = fastlayer.index(tree), tmp_path / "copy"
    fastlayer.clone(tree, copy)
    assert names(fastlayer.diff(index, copy, compare="metadata")) == {}
    for name in ("d/large", "empty", "fifo", "d"):
        mode = (tree / name).stat().st_mode
        (tree / name).chmod(0o700)
        (tree / name).chmod(mode & 0o7777)
    wanted = {"/d/large": ("content",)}
    assert names(fastlayer.diff(index, tree, compare="metadata")) == wanted
    assert names(fastlayer.diff(tree, index, compare="metadata")) == wanted
    assert names(fastlayer.diff(index, fastlayer.index(tree), compare="metadata")) == wanted
    assert names(fastlayer.diff(index, tree)) == {}  # auto reads it
    (tree / "d/large").chmod(0o700)
    assert names(fastlayer.diff(index, tree, compare="metadata")) == {"/d/large": ("mode",)}


def test_index_without_content_proves_nothing_it_cannot(engine: Engine, tree: Path) -> None:
    index = fastlayer.index(tree, content=False)
    assert index.keys_missing == 3
    changes = fastlayer.diff(index, tree, compare="content")
    assert set(names(changes)) == {"/d/e/other", "/d/large", "/d/small"}
    assert changes.warnings == ("3 files counted as changed without proof: an index made with content would know",)
    assert fastlayer.diff(index, tree, compare="metadata").warnings == ()


def test_index_a_layer(engine: Engine, tree: Path, tmp_path: Path) -> None:
    index = fastlayer.index(tree)
    (tree / "new").write_bytes(b"new")
    layer = fastlayer.diff(index, tree, tmp_path / "out.tar")
    assert layer.payload == 3


def test_index_by_descriptor_and_empty(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "e").mkdir()
    fd = os.open(tmp_path / "e", os.O_RDONLY)
    try:
        index = fastlayer.index(fd, tmp_path / "i")
    finally:
        os.close(fd)
    assert len(index) == 1 and index.to_dict()["entries"] == 1
    assert not fastlayer.diff(index, tmp_path / "e")


def test_index_leaves_sockets_out(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "e").mkdir()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "e/s"))
        assert len(fastlayer.index(tmp_path / "e")) == 1


def test_index_with_narrower_xattrs_is_not_compared_wider(engine: Engine, tree: Path) -> None:
    index = fastlayer.index(tree, xattrs="none")
    assert not fastlayer.diff(index, tree, xattrs="none")
    with pytest.raises(OperandError, match="xattrs"):
        fastlayer.diff(index, tree)


def test_index_spills_large_columns(engine: Engine, tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = fastlayer.index(tree)
    monkeypatch.setattr("fastlayer.layer.index_builder.STEP", 16)
    spilled = fastlayer.index(tree)
    for name, _ in COLUMNS:
        assert np.array_equal(getattr(whole.columns, name), getattr(spilled.columns, name))


def test_a_file_that_changes_is_an_error(engine: Engine, tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fastlayer.layer import keys

    real = keys.file_keys

    def meddling(root: int, files: object, jobs: int) -> object:
        (tree / "d/large").chmod(0o600)
        return real(root, files, jobs)  # type: ignore[arg-type]

    monkeypatch.setattr(keys, "file_keys", meddling)
    with pytest.raises(FileChangedError, match="d/large"):
        fastlayer.index(tree)


def test_wrong_arguments(engine: Engine, tree: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        fastlayer.index(tree, xattrs="some")  # type: ignore[arg-type]
    with pytest.raises(OperandError):
        fastlayer.index(tree / "d/small")
    with pytest.raises(OperandError):
        fastlayer.TreeIndex.open(tmp_path / "nowhere")


# ---- damage ------------------------------------------------------------------------------------------


def refuse(path: Path, blob: bytes) -> str:
    path.write_bytes(blob)
    with pytest.raises(IndexFormatError) as caught:
        fastlayer.TreeIndex.open(path)
    assert "\n" not in str(caught.value) and "make the index again" in str(caught.value)
    return str(caught.value)


def test_every_damage_is_refused(engine: Engine, tree: Path, tmp_path: Path) -> None:
    fastlayer.index(tree, tmp_path / "i")
    good = (tmp_path / "i").read_bytes()
    for cut in (1, 8, 16, 40, HEADER_SIZE - 1, HEADER_SIZE, len(good) - 64, len(good) - 1):
        refuse(tmp_path / "bad", good[:cut])
    refuse(tmp_path / "bad", good + b"\0")
    rng = random.Random(2)
    positions = set(rng.sample(range(len(good)), 60)) | set(range(0, HEADER_SIZE, 37))
    for position in positions:
        damaged = bytearray(good)
        damaged[position] ^= 0x40
        if bytes(damaged) != good and _covered(good, position):
            refuse(tmp_path / "bad", bytes(damaged))


def _covered(good: bytes, position: int) -> bool:
    """Not in the zeros between blocks, which no one reads."""
    if position < HEADER_SIZE:
        return True
    table = [
        index_format._COLUMN.unpack_from(good, index_format._FIXED.size + n * index_format._COLUMN.size)
        for n in range(len(COLUMNS))
    ]
    return any(start <= position < start + length for start, length, _ in table)


def test_versions_and_byte_orders_are_named(engine: Engine, tree: Path, tmp_path: Path) -> None:
    fastlayer.index(tree, tmp_path / "i")
    good = bytearray((tmp_path / "i").read_bytes())
    other = bytearray(good)
    other[16] = 9
    assert "version 9" in refuse(tmp_path / "bad", bytes(other))
    other = bytearray(good)
    other[20:24] = other[20:24][::-1]
    assert "byte order" in refuse(tmp_path / "bad", bytes(other))


def test_consistent_lies_are_refused(engine: Engine, tree: Path, tmp_path: Path) -> None:
    """A file with right checksums whose entries point outside of it."""
    import blake3

    fastlayer.index(tree, tmp_path / "i")
    good = (tmp_path / "i").read_bytes()
    for column in ("path_off", "path_len", "xattr_len"):
        bad = bytearray(good)
        number = [name for name, _ in COLUMNS].index(column)
        where = index_format._FIXED.size + number * index_format._COLUMN.size
        start, length, _ = index_format._COLUMN.unpack_from(bad, where)
        bad[start : start + length] = b"\xff" * length
        key = blake3.blake3(bytes(bad[start : start + length])).digest()
        index_format._COLUMN.pack_into(bad, where, start, length, key)
        bad[HEADER_SIZE - 32 : HEADER_SIZE] = blake3.blake3(bytes(bad[: HEADER_SIZE - 32])).digest()
        assert "points outside" in refuse(tmp_path / "bad", bytes(bad))


def test_damaged_index_as_an_operand(engine: Engine, tree: Path, tmp_path: Path) -> None:
    fastlayer.index(tree, tmp_path / "i")
    blob = (tmp_path / "i").read_bytes()
    (tmp_path / "i").write_bytes(blob[:-100])
    with pytest.raises(IndexFormatError):
        fastlayer.diff(tmp_path / "i", tree)


def _with_column(good: bytes, column: str, content: bytes) -> bytes:
    """The index with another content of a column, and checksums to match."""
    import blake3

    bad = bytearray(good)
    where = index_format._FIXED.size + [name for name, _ in COLUMNS].index(column) * index_format._COLUMN.size
    start, length, _ = index_format._COLUMN.unpack_from(bad, where)
    assert len(content) <= length
    bad[start : start + length] = content + bytes(bad[start + len(content) : start + length])
    key = blake3.blake3(bytes(bad[start : start + length])).digest()
    index_format._COLUMN.pack_into(bad, where, start, length, key)
    bad[HEADER_SIZE - 32 : HEADER_SIZE] = blake3.blake3(bytes(bad[: HEADER_SIZE - 32])).digest()
    return bytes(bad)


def test_lies_that_only_a_diff_sees_are_refused(engine: Engine, tree: Path, tmp_path: Path) -> None:
    """Paths out of order, xattrs that run over: both engines say so."""
    fastlayer.index(tree, tmp_path / "i")
    good = (tmp_path / "i").read_bytes()
    count = len(fastlayer.TreeIndex.open(tmp_path / "i"))
    for column, content, words in (
        ("path_off", bytes(8 * count), "out of order"),
        ("xattr_len", (3).to_bytes(4, "little"), "malformed extended attributes"),
    ):
        (tmp_path / "bad").write_bytes(_with_column(good, column, content))
        for operands in ((tmp_path / "bad", tree), (tree, tmp_path / "bad")):
            with pytest.raises(LayerFormatError, match=words):
                list(fastlayer.diff(*operands))


def test_outputs_that_cannot_be_mapped(engine: Engine, tree: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is mapped"):
        fastlayer.index(tree, io.BytesIO())
    number = os.open(tmp_path / "i", os.O_WRONLY | os.O_CREAT)
    try:
        with pytest.raises(OperandError):
            fastlayer.index(tree, number)
    finally:
        os.close(number)


def test_an_index_inside_its_own_tree_is_refused(engine: Engine, tree: Path, tmp_path: Path) -> None:
    (tree / "d" / "old.idx").write_bytes(b"old")
    (tmp_path / "link").symlink_to(tree / "d" / "old.idx")
    for output in (tree / "t.idx", tree / "d" / "old.idx", tmp_path / "link"):
        with pytest.raises(OperandError, match="lies inside the tree"):
            fastlayer.index(tree, output)
    assert (tree / "d" / "old.idx").read_bytes() == b"old"
    assert sorted(os.listdir(tree)) == ["d", "empty", "fifo", "link"]
    with pytest.raises(StorageError, match="No such file"):  # before anything is read
        fastlayer.index(tree, tmp_path / "missing" / "t.idx", progress=lambda report: pytest.fail("read"))


def test_missing_keys_are_told_only_when_they_matter(engine: Engine, tree: Path, tmp_path: Path) -> None:
    time.sleep(0.05)  # ctimes are old enough to prove something
    fastlayer.index(tree, tmp_path / "t.idx", content=False)
    with fastlayer.diff(tmp_path / "t.idx", tree) as changes:
        assert (list(changes), changes.warnings) == ([], ())
    with fastlayer.diff(tmp_path / "t.idx", tree, compare="metadata") as changes:
        assert changes.warnings == ()
    (tree / "new").write_bytes(b"new")
    with fastlayer.diff(tmp_path / "t.idx", tree) as changes:
        assert [change.name for change in changes] == ["/", "/new"]
        assert changes.warnings == ()
    status = (tree / "d/large").stat()
    os.utime(tree / "d/large", ns=(status.st_atime_ns, status.st_mtime_ns))  # another ctime proves nothing
    with fastlayer.diff(tmp_path / "t.idx", tree) as changes:
        assert names(changes)["/d/large"] == ("content",)
        assert len(changes.warnings) == 1
        assert changes.warnings[0].startswith("1 file counted as changed without proof")
