"""Content-defined chunks: the rule of csrc/fl_chunk.h, every kernel, and what is made of them."""

from __future__ import annotations

import os
import random
from pathlib import Path

import numpy as np
import pytest
from blake3 import blake3

import fastlayer
from fastlayer import _backend
from fastlayer._baseline import chunk as specification
from fastlayer.errors import BackendError, OperandError, UsageError
from fastlayer.layer.chunks import Extent, changed_bytes

SIZES = [(64, 256, 1024), (1000, 4096, 20000), (64, 300, 70000), (256, 256, 256), (64, 4096, 5000)]
DATA = {
    "random": random.Random(1).randbytes(200_000),
    "zeros": bytes(150_000),
    "text": b"".join(b"line %d of many\n" % number for number in range(9000)),
    "empty": b"",
    "one": b"x",
    "window": random.Random(2).randbytes(64),
}


def naive(data: bytes, low: int, avg: int, high: int) -> list[int]:
    """The rule, word by word: each hash summed from its 64 bytes."""
    gear, bits, cuts, start = specification._gear_table(), avg.bit_length() - 1, [], 0
    for end in range(1, len(data) + 1):
        length = end - start
        if length < low:
            continue
        value = sum(gear[data[end - 1 - k]] << k for k in range(64)) % 2**64
        zeros = bits + 2 if length < avg else bits - 2
        if length == high or value >> (64 - zeros) == 0:
            cuts.append(end)
            start = end
    return cuts if start == len(data) else [*cuts, len(data)]


def feed_in_pieces(chunker: _backend.Chunker, data: bytes, rng: random.Random) -> list[int]:
    cuts, at = [], 0
    while at < len(data):
        size = rng.choice([1, 2, 63, 64, 65, 127, 1000, 40_000])
        cuts += chunker.feed(data[at : at + size], False)
        at += size
    return cuts + chunker.feed(b"", True)


def test_the_gear_table_is_splitmix64_of_the_documented_seed() -> None:
    table = specification._gear_table()
    assert len(set(table)) == 256
    assert int.from_bytes(b"fastlaye", "big") == specification._SEED
    assert (table[0], table[255]) == (0x6798FBAE4BEB0EAD, 0xEB1FF44CACA68F67)


@pytest.mark.parametrize("sizes", SIZES)
def test_the_baseline_follows_the_rule(sizes: tuple[int, int, int]) -> None:
    data = DATA["random"][:6000] + bytes(1500) + DATA["text"][:4000]
    assert specification.Chunker(*sizes).feed(data, True) == naive(data, *sizes)


@pytest.mark.parametrize("kind", DATA)
@pytest.mark.parametrize("sizes", SIZES)
def test_every_kernel_is_identical_to_the_reference(kind: str, sizes: tuple[int, int, int]) -> None:
    native = _backend._load("native").chunk
    expected = specification.Chunker(*sizes).feed(DATA[kind], True)
    rng = random.Random(7)
    for kernel in native.KERNELS:
        chunker = native.Chunker(*sizes, kernel)
        assert chunker.kernel == kernel
        assert chunker.feed(DATA[kind], True) == expected
        for _ in range(3):
            assert feed_in_pieces(native.Chunker(*sizes, kernel), DATA[kind], rng) == expected


def test_pieces_do_not_matter(engine: _backend.Engine) -> None:
    expected = engine.chunk.Chunker(1000, 4096, 20000).feed(DATA["random"], True)
    found = feed_in_pieces(engine.chunk.Chunker(1000, 4096, 20000), DATA["random"], random.Random(3))
    assert found == expected


def test_the_default_sizes_agree_on_both_backends() -> None:
    data = random.Random(4).randbytes(1 << 20)
    backends = _backend._load("native"), _backend._load("baseline")
    cuts = [backend.chunk.Chunker(16384, 65536, 262144).feed(data, True) for backend in backends]
    assert cuts[0] == cuts[1]
    assert 8 <= len(cuts[0]) <= 40


def test_a_kernel_is_a_demand(engine: _backend.Engine) -> None:
    assert engine.chunk.Chunker(64, 256, 1024, kernel="scalar").kernel == "scalar"
    with pytest.raises(BackendError, match="abacus"):
        engine.chunk.Chunker(64, 256, 1024, kernel="abacus")


@pytest.mark.parametrize(
    "sizes", [(63, 256, 1024), (64, 255, 1024), (300, 256, 1024), (64, 2048, 1024), (64, 256, 2**31 + 1)]
)
def test_impossible_sizes_are_refused(engine: _backend.Engine, sizes: tuple[int, int, int]) -> None:
    with pytest.raises(UsageError, match="chunk sizes"):
        engine.chunk.Chunker(*sizes)


def test_chunks_describe_the_bytes(engine: _backend.Engine, tmp_path: Path) -> None:
    data = random.Random(5).randbytes(400_000 if engine.name == "baseline" else 5_000_000)
    file = tmp_path / "data"
    file.write_bytes(data)
    table = fastlayer.chunks(file)
    assert table.dtype == np.dtype([("offset", "<u8"), ("length", "<u4"), ("blake3", "u1", (32,))])
    assert table["offset"][0] == 0
    assert int(table["length"].sum()) == len(data)
    assert (table["offset"][1:] == (table["offset"] + table["length"])[:-1]).all()
    assert (table["length"] <= 262144).all()
    assert (table["length"][:-1] >= 16384).all()
    for row in table:
        piece = data[int(row["offset"]) : int(row["offset"]) + int(row["length"])]
        assert row["blake3"].tobytes() == blake3(piece).digest()


def test_path_descriptor_and_bytes_give_the_same(engine: _backend.Engine, tmp_path: Path) -> None:
    data = DATA["random"]
    file = tmp_path / "data"
    file.write_bytes(data)
    sizes = {"min_size": 1024, "avg_size": 4096, "max_size": 16384}
    expected = fastlayer.chunks(data, **sizes)
    assert (fastlayer.chunks(str(file), **sizes) == expected).all()
    assert (fastlayer.chunks(bytearray(data), **sizes) == expected).all()
    with open(file, "rb") as opened:
        opened.seek(777)
        assert (fastlayer.chunks(opened.fileno(), **sizes) == expected).all()
        assert opened.tell() == 777


def test_a_chunk_larger_than_the_window_is_hashed_whole() -> None:
    data = bytes(3 << 20)
    table = fastlayer.chunks(data, min_size=1 << 21, avg_size=1 << 21, max_size=5 << 20)
    assert [row["blake3"].tobytes() for row in table] == [
        blake3(data[int(row["offset"]) :][: int(row["length"])]).digest() for row in table
    ]


def test_an_empty_source_has_no_chunks(engine: _backend.Engine) -> None:
    assert len(fastlayer.chunks(b"")) == 0


def test_an_insertion_changes_few_chunks() -> None:
    data = random.Random(6).randbytes(4 << 20)
    before = {row.tobytes() for row in fastlayer.chunks(data)["blake3"]}
    after = {row.tobytes() for row in fastlayer.chunks(data[:1000] + b"inserted" + data[1000:])["blake3"]}
    assert len(after - before) <= 2


@pytest.mark.parametrize("source", ["missing", "directory"])
def test_what_is_not_a_file_is_named(engine: _backend.Engine, tmp_path: Path, source: str) -> None:
    (tmp_path / "directory").mkdir()
    with pytest.raises(OperandError, match=source):
        fastlayer.chunks(tmp_path / source)
    with pytest.raises(UsageError, match="float"):
        fastlayer.chunks(1.5)


def changed(tmp_path: Path, a: bytes, b: bytes) -> int:
    fds = []
    for name, data in (("a", a), ("b", b)):
        (tmp_path / name).write_bytes(data)
        fds.append(os.open(tmp_path / name, os.O_RDONLY))
    try:
        old, new = (Extent(fd, 0, os.fstat(fd).st_size) for fd in fds)
        return changed_bytes(old, new)
    finally:
        for fd in fds:
            os.close(fd)


def test_changed_bytes_of_equal_and_of_new_files(tmp_path: Path) -> None:
    data = random.Random(8).randbytes(3 << 20)
    assert changed(tmp_path, data, data) == 0
    assert changed(tmp_path, b"", data) == len(data)
    assert changed(tmp_path, data, b"") == 0
    assert changed(tmp_path, data, data[:-5]) <= 262144
    assert changed(tmp_path, data, data[: 1 << 20]) == 0


def test_changed_bytes_of_an_edit_is_about_the_edit(tmp_path: Path) -> None:
    data = random.Random(9).randbytes(8 << 20)
    edited = data[: 5 << 20] + bytes(1000) + data[(5 << 20) + 1000 :]
    assert 1000 <= changed(tmp_path, data, edited) <= 2 * 262144


def test_changed_bytes_of_an_insertion_is_about_the_insertion(tmp_path: Path) -> None:
    data = random.Random(10).randbytes(8 << 20)
    inserted = data[:100_000] + b"new" + data[100_000:]
    assert 3 <= changed(tmp_path, data, inserted) <= 2 * 262144


def test_changed_bytes_follows_its_definition(tmp_path: Path) -> None:
    data = random.Random(11).randbytes(3 << 20)
    other = bytearray(data)
    other[(1 << 20) + 5] ^= 1
    region = slice(1 << 20, 2 << 20)
    known = {row["blake3"].tobytes() for row in fastlayer.chunks(data[region])}
    new = fastlayer.chunks(bytes(other[region]))
    expected = sum(int(row["length"]) for row in new if row["blake3"].tobytes() not in known)
    assert changed(tmp_path, data, bytes(other)) == expected
