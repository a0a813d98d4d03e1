"""Reading chunked layers: footers, annotations, tables of contents, tar-splits, parts of blobs, tars put together."""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zstandard

from fastlayer.errors import FileChangedError, LayerFormatError, LimitError, RegistryError, UsageError
from fastlayer.layer.apply import apply
from fastlayer.layer.assembled import Extent
from fastlayer.layer.chunked.blob import read_toc
from fastlayer.layer.chunked.places import MAX_TOC, announced, from_tail, toc_place
from fastlayer.layer.chunked.split import Contents, read_split
from fastlayer.layer.chunked.toc import MAX_ENTRIES, parse_toc
from fastlayer.oci.digest import Digest, digest_of
from fastlayer.transfer.pulling.ranges import Span, boundary_of, cut, joined, parts, requests
from tests.applying import file, folder
from tests.chunkedlayers import estargz, zstd_chunked
from tests.conftest import needs_root
from tests.corpus.tarparts import END

FILES = {"d/": b"", "d/a": b"a" * 5000, "b": random.Random(3).randbytes(9000), "none": b""}


# ---- places and tables -------------------------------------------------------------------------------


@pytest.mark.parametrize("layer", [zstd_chunked(FILES), zstd_chunked(FILES, split=False), estargz(FILES)])
def test_footer_and_annotations_say_the_same(layer: Any, tmp_path: Path) -> None:
    blob, size = layer.blob, len(layer.blob)
    by_tail = from_tail(blob[-72:], size)
    by_annotations = announced(layer.annotations, size)
    assert by_tail is not None and by_annotations is not None
    if by_annotations.toc is None:
        by_annotations = by_annotations._replace(toc=toc_place(blob[-51:], size))
    assert by_annotations._replace(digest="") == by_tail
    (tmp_path / "blob").write_bytes(blob)
    toc = read_toc(tmp_path / "blob")
    assert toc is not None
    assert [(entry.path, entry.size) for entry in toc.files] == [("d/a", 5000), ("b", 9000)]


def test_footer_of_old_podman(tmp_path: Path) -> None:
    """40 bytes, and a magic of its own; the annotations have another prefix."""
    layer = zstd_chunked(FILES, split=False)
    body = layer.blob[: -(8 + 64)]
    numbers = layer.blob[-64:-8]
    (tmp_path / "blob").write_bytes(body + b"\x50\x2a\x4d\x18\x28\0\0\0" + numbers[:32] + b"GnUlInUx")
    assert read_toc(tmp_path / "blob") is not None
    old = {name.replace("github.", ""): value for name, value in layer.annotations.items()}
    assert announced(old, len(layer.blob)) == announced(layer.annotations, len(layer.blob))


@pytest.mark.parametrize(
    "tail",
    [b"", b"x" * 72, b"GNUlInUx", bytes(64) + b"GNUlInUx", zstd_chunked(FILES).blob[-40:]],
    ids=["nothing", "something", "magic", "zeros", "half"],
)
def test_no_footer(tail: bytes, tmp_path: Path) -> None:
    assert from_tail(tail, 1 << 20) is None
    (tmp_path / "blob").write_bytes(tail)
    assert read_toc(tmp_path / "blob") is None


def test_ordinary_layers_announce_nothing() -> None:
    assert announced({}, 1000) is None
    assert announced({"org.opencontainers.image.title": "x"}, 1000) is None


def test_toc_too_long() -> None:
    prefix = "io.github.containers.zstd-chunked.manifest-"
    position = {prefix + "checksum": f"sha256:{'0' * 64}", prefix + "position": f"100:100:{MAX_TOC + 1}:1"}
    with pytest.raises(LimitError, match="the TOC is longer than"):
        announced(position, 1 << 40)
    with pytest.raises(LimitError, match="entries"):
        parse_toc(b"{" * (2 * MAX_ENTRIES + 1), 1)
    with pytest.raises(LimitError, match="entries"):
        parse_toc(b"{}" + b"," * (20 * MAX_ENTRIES + 1), 1)


@pytest.mark.parametrize("value", [b"[]", b'"ab"', b"1e5", b"null"])
def test_toc_of_what_are_no_entries(value: bytes) -> None:
    """A few kilobytes of a blob would become gigabytes of lists."""
    with pytest.raises(LayerFormatError, match="values that are no entries"):
        parse_toc(b'{"version":1,"entries":[' + b",".join([value] * 100_000) + b"]}", 1)


def test_toc_of_many_files_in_time() -> None:
    """100,000 files; twenty times what it takes on an idle machine."""
    entries = ",".join(
        f'{{"type":"reg","name":"usr/d{n % 500}/file{n}","size":10,"mode":420,"modtime":"2024-01-01T00:00:00Z",'
        f'"offset":{10 * n + 1},"endOffset":{10 * n + 9},"digest":"sha256:{n:064x}"}}'
        for n in range(100_000)
    )
    data = f'{{"version":1,"entries":[{entries}]}}'.encode()
    began = time.process_time()
    toc = parse_toc(data, 1 << 30)
    assert time.process_time() - began < 20
    assert len(toc.files) == 100_000 and toc.files[77].digest == (77).to_bytes(32, "big")


def test_deep_json_is_refused() -> None:
    with pytest.raises(LayerFormatError, match="no JSON that could be one"):
        parse_toc(b'{"version":1,"entries":' + b"[" * 900, 100)
    with pytest.raises(LayerFormatError, match="values that are no entries"):
        parse_toc(b'{"version":1,"entries":' + b"[" * 100_000, 100)


def test_marks_tell_other_headers() -> None:
    """Where anything is different between two files, or in the size of the first, the mark is."""

    def marks(edit: Any) -> list[int]:
        layer = zstd_chunked({"x": b"1" * 600, "d/": b"", "y": b"2" * 600}, edit=edit)
        at = announced(layer.annotations, len(layer.blob))
        assert at is not None and at.toc is not None
        data = zstandard.ZstdDecompressor().decompress(layer.blob[at.toc.start : at.toc.end])
        return [file.mark for file in parse_toc(data, at.toc.start).files]

    first = marks(lambda toc: None)
    assert marks(lambda toc: toc["entries"][2].update(offset=toc["entries"][2]["offset"])) == first
    assert marks(lambda toc: toc["entries"][0].update(modtime="x"))[1] == first[1]
    assert marks(lambda toc: toc["entries"][1].update(mode=0o700))[1] != first[1]
    assert marks(lambda toc: toc["entries"][2].update(uid=7))[1] != first[1]
    assert marks(lambda toc: toc["entries"][0].update(uid=7))[0] != first[0]


# ---- tar-splits --------------------------------------------------------------------------------------


def packed(*lines: Any) -> bytes:
    return zstandard.compress("".join(json.dumps(line) + "\n" for line in lines).encode())


def test_split() -> None:
    data = packed(
        {"type": 2, "payload": "YWJj", "position": 0},
        {"type": 1, "name": "f", "size": 5, "payload": "x"},
        {"type": 1, "name": "empty", "payload": None},
        {"type": 1, "name_raw": "/w==", "size": 7},
    )
    assert list(read_split(data, None)) == [b"abc", Contents("f", 5), Contents("\ufffd", 7)]


def test_split_that_is_longer_than_announced() -> None:
    with pytest.raises(LimitError):
        list(read_split(packed(*[{"type": 2, "payload": "YWJj"}] * 100), 50))


def test_split_that_is_cut() -> None:
    with pytest.raises(LayerFormatError):
        list(read_split(packed({"type": 2, "payload": "YWJj"})[:-3], None))


# ---- parts of blobs ----------------------------------------------------------------------------------


def test_spans_with_little_between_are_one() -> None:
    spans = [Span(0, 10), Span(10, 20), Span(25, 30), Span(100, 110)]
    assert joined(spans, 1) == [Span(0, 20), Span(25, 30), Span(100, 110)]
    assert joined(spans, 10) == [Span(0, 30), Span(100, 110)]


def test_requests_are_bounded() -> None:
    plan = requests([Span(0, 5 << 20), *(Span((6 << 20) + 10 * n, (6 << 20) + 10 * n + 5) for n in range(250))], 120)
    assert all(sum(end - start for start, end in spans) <= 2 << 20 and len(spans) <= 120 for spans in plan)
    assert sum(end - start for spans in plan for start, end in spans) == (5 << 20) + 1250


def test_only_what_is_wanted_comes_out() -> None:
    data = bytes(range(100))
    pieces = [(Span(0, 30), data[:30]), (Span(30, 60), data[30:60]), (Span(70, 90), data[70:90])]
    spans = [Span(5, 10), Span(20, 50), Span(50, 55), Span(75, 90)]
    assert [bytes(piece) for piece in cut(iter(pieces), spans)] == [
        *(data[5:10], data[20:30], data[30:50], data[50:55], data[75:90])
    ]


BODY = (
    b"--x\r\nContent-Type: a\r\nContent-Range: bytes 0-2/9\r\n\r\nabc\r\n"
    b"--x\r\ncontent-range: bytes 5-8/9\r\n\r\n\r\n--\r\n--x--\r\n"
)


def test_parts_of_an_answer() -> None:
    assert parts(BODY, b"x", 9) == [(Span(0, 3), b"abc"), (Span(5, 9), b"\r\n--")]
    assert parts(b"preamble\r\n" + BODY, b"x", 9) == parts(BODY, b"x", 9)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        BODY[:-8],
        BODY[:40],
        BODY.replace(b"0-2/9", b"0-3/9"),
        BODY.replace(b"/9", b"/10"),
        BODY.replace(b"0-2", b"2-0"),
    ],
)
def test_answers_that_are_damaged(body: bytes) -> None:
    with pytest.raises(RegistryError, match="is damaged"):
        parts(body, b"x", 9)


@pytest.mark.parametrize(
    "text,boundary",
    [
        ("multipart/byteranges; boundary=abc", b"abc"),
        ('Multipart/Byteranges; charset=x; boundary="a b"', b"a b"),
        ("multipart/byteranges", b""),
        ("application/octet-stream; boundary=abc", b""),
        ("", b""),
    ],
)
def test_boundaries(text: str, boundary: bytes) -> None:
    assert boundary_of(text) == boundary


# ---- tars that are put together ----------------------------------------------------------------------


class Made:
    """See ``layer.assembled.Assembled``."""

    name, media_type, digest, size = "made", "a/b", Digest("sha256:" + "1" * 64), 10

    def __init__(self, *found: Any) -> None:
        self._pieces = found

    def pieces(self) -> Iterator[Any]:
        return iter(self._pieces)


@needs_root
def test_assembled_tar(engine: Any, tmp_path: Path) -> None:
    body = os.urandom(3_000_000)
    (tmp_path / "source").write_bytes(b"---" + body)
    tar = folder(b"d/") + file(b"d/big", body) + file(b"small", body[:500]) + END
    head = tar.index(body)
    with open(tmp_path / "source", "rb") as source:
        fd = source.fileno()
        pieces = [tar[:head], Extent(fd, 3, 2_000_000), body[2_000_000:], tar[head + len(body) : -1024 - 512]]
        pieces += [Extent(fd, 3, 500), bytes(12), END]
        made = Made(*pieces)
        stats = apply([made], tmp_path / "target", diff_id=[digest_of(tar)])
    (layer,) = stats.layers
    assert (layer.diff_id, layer.tar_size, layer.entries) == (digest_of(tar), len(tar), 3)
    assert (layer.digest, layer.size, layer.media_type) == (made.digest, 10, "a/b")
    assert (tmp_path / "target/d/big").read_bytes() == body


def test_assembled_tar_needs_its_diff_id(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="give its diff_id"):
        apply([Made(END)], tmp_path / "target")


def test_file_that_became_shorter(tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(b"x" * 10)
    with open(tmp_path / "source", "rb") as source, pytest.raises(FileChangedError):
        made = Made(file(b"f", b"x" * 20)[:512], Extent(source.fileno(), 0, 20))
        apply([made], tmp_path / "target", diff_id=[digest_of(b"")])
    assert not (tmp_path / "target").exists()
