"""Codecs: what is written is what every reader expects, and nothing damaged is believed."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import random
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import zstandard

from fastlayer.errors import FastlayerError, LayerFormatError, LimitError, UsageError
from fastlayer.layer import decompress
from fastlayer.layer.compression import GZIP_MEMBER, by_name, codec, detect
from fastlayer.layer.decompress import Lookahead
from fastlayer.layer.expand import Expansion
from fastlayer.layer.source import Source

MIB = 1 << 20


def data(size: int, seed: int = 0) -> bytes:
    """Half random, half text."""
    rng = random.Random(seed)
    half = size // 2
    return rng.randbytes(half) + (b"some text that compresses %d\n" % seed * (size // 20 + 1))[: size - half]


def compress(name: str, content: bytes, level: int | None = None) -> bytes:
    maker = codec(name, level)
    blocks = range(0, max(len(content), 1), maker.block_size)
    return b"".join(maker.compress(content[i : i + maker.block_size]) for i in blocks)


class Slow(io.RawIOBase):
    """A stream that gives a few bytes at a time and has no descriptor."""

    def __init__(self, content: bytes, step: int) -> None:
        self._file = io.BytesIO(content)
        self._step = step

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        return self._file.readinto(memoryview(buffer)[: self._step])


def expand(blob: bytes, *, inline: bool, step: int = 70_000, jobs: int = 2, **keywords: Any) -> bytes:
    out = io.BytesIO()
    source = Source(Slow(blob, step))
    if inline:
        source.size = 0  # small enough to stay in this thread
    expansion = Expansion(source, jobs=jobs, **keywords)
    expansion.run(out.write)
    assert expansion.tar_size == len(out.getvalue())
    assert expansion.blob_size == len(blob)
    return out.getvalue()


both = pytest.mark.parametrize("inline", [True, False], ids=["inline", "threads"])
SIZES = [0, 1, MIB - 1, MIB, MIB + 1, 4 * MIB, 4 * MIB + 1, 9 * MIB + 5]


@pytest.mark.parametrize("size", SIZES)
@both
@pytest.mark.parametrize("name", ["none", "gzip", "zstd"])
def test_round_trip(name: str, size: int, inline: bool) -> None:
    content = data(size)
    assert expand(compress(name, content), inline=inline) == content


@pytest.mark.parametrize("size", SIZES)
def test_gzip_is_gzip(size: int) -> None:
    content = data(size)
    blob = compress("gzip", content)
    assert gzip.decompress(blob) == content
    assert blob[4:8] == bytes(4) and blob[9] == 255


@pytest.mark.parametrize("size", SIZES)
def test_zstd_is_zstd(size: int) -> None:
    content = data(size)
    reader = zstandard.ZstdDecompressor().stream_reader(compress("zstd", content), read_across_frames=True)
    assert reader.read() == content


@pytest.mark.parametrize("level", range(10))
def test_every_gzip_level(level: int) -> None:
    content = data(MIB + 7)
    assert gzip.decompress(compress("gzip", content, level)) == content


def test_gzip_members_carry_their_length() -> None:
    blob = compress("gzip", data(3 * MIB))
    at, members = 0, 0
    while at < len(blob):
        assert blob[at + 12 : at + 16] == b"FL\x04\x00"
        at += int.from_bytes(blob[at + 16 : at + 20], "little")
        members += 1
    assert (at, members) == (len(blob), 3)


@pytest.mark.parametrize(("name", "level"), [("gzip", 10), ("gzip", -1), ("zstd", 0), ("zstd", 23), ("none", 1)])
def test_levels_that_do_not_exist(name: str, level: int) -> None:
    with pytest.raises(UsageError):
        codec(name, level)


def test_unknown_codec() -> None:
    with pytest.raises(UsageError, match="unknown compression"):
        codec("xz")


@pytest.mark.parametrize(
    ("name", "wanted"),
    [("a.tar", "none"), ("a.tar.gz", "gzip"), ("A.TGZ", "gzip"), (b"x.tar.zst", "zstd"), ("gz", "none"), ("-", "none")],
)
def test_by_name(name: str | bytes, wanted: str) -> None:
    assert by_name(name) == wanted


def test_detect_by_content() -> None:
    assert detect(b"") == "none"
    assert detect(b"\x1f\x8b\x08\x00") == "gzip"
    assert detect(b"\x28\xb5\x2f\xfd\x00") == "zstd"
    assert detect(b"\x5a\x2a\x4d\x18\x00") == "zstd"
    assert detect(b"\xfd7zXZ\x00") == "xz"
    assert detect(b"BZh91A") == "bzip2"
    assert detect(b"BZhang/") == "none"
    assert detect(b"etc/\0\0") == "none"


@pytest.mark.parametrize("head", [b"LZIP\x01", b"PK\x03\x04", b"\x04\x22\x4d\x18"])
def test_unsupported_codecs_are_named(head: bytes) -> None:
    with pytest.raises(LayerFormatError, match=r"compressed with \w+, which is not supported"):
        detect(head)


# ---- foreign blobs -----------------------------------------------------------------------------


@both
def test_gzip_of_others(inline: bool) -> None:
    content = data(3 * MIB + 17)
    assert expand(gzip.compress(content, 6), inline=inline) == content


@both
def test_gzip_members_concatenate_own_and_foreign(inline: bool) -> None:
    parts = [data(MIB + 3, 1), data(100, 2), data(2 * MIB, 3)]
    blob = compress("gzip", parts[0]) + gzip.compress(parts[1]) + compress("gzip", parts[2])
    assert expand(blob, inline=inline) == b"".join(parts)


@both
def test_gzip_header_fields(inline: bool) -> None:
    content = data(1000)
    deflate = zlib.compressobj(6, zlib.DEFLATED, -15)
    body = deflate.compress(content) + deflate.flush()
    head = b"\x1f\x8b\x08\x1e" + bytes(4) + b"\x00\x03" + b"\x05\x00extra" + b"name\0" + b"comment\0"
    head += (zlib.crc32(head) & 0xFFFF).to_bytes(2, "little")
    tail = zlib.crc32(content).to_bytes(4, "little") + len(content).to_bytes(4, "little")
    assert expand(head + body + tail, inline=inline) == content


@pytest.mark.parametrize("own", [True, False])
@both
def test_gzip_zero_padding_is_fine(inline: bool, own: bool) -> None:
    content = data(MIB + 5)
    blob = compress("gzip", content) if own else gzip.compress(content)
    assert expand(blob + bytes(1000), inline=inline) == content


@both
def test_zstd_of_others_and_skippable_frames(inline: bool) -> None:
    parts = [data(3 * MIB, 1), data(10, 2), b""]
    skip = b"\x53\x2a\x4d\x18" + (5).to_bytes(4, "little") + b"12345"
    sized = zstandard.ZstdCompressor(write_checksum=True)
    unsized = zstandard.ZstdCompressor(write_content_size=False)
    blob = skip + sized.compress(parts[0]) + skip + unsized.compress(parts[1]) + sized.compress(parts[2]) + skip
    assert expand(blob, inline=inline) == b"".join(parts)


@both
def test_zstd_large_frame_streams(inline: bool) -> None:
    content = data(10 * MIB)
    assert expand(zstandard.ZstdCompressor().compress(content), inline=inline) == content


@both
def test_zstd_raw_and_rle_blocks(inline: bool) -> None:
    content = random.Random(1).randbytes(300_000) + bytes(500_000)
    assert expand(zstandard.ZstdCompressor(level=1).compress(content), inline=inline, step=1000) == content


@both
@pytest.mark.parametrize("pack", [lzma.compress, bz2.compress], ids=["xz", "bzip2"])
def test_xz_and_bzip2_streams_concatenate(inline: bool, pack: Callable[[bytes], bytes]) -> None:
    padding = bytes(8) if pack is lzma.compress else b""
    for size, options in ((3 * MIB, {}), (100_000, {"step": 11})):
        parts = [data(size, 1), data(10, 2), b"", data(size // 3, 3)]
        blob = padding.join(pack(part) for part in parts) + padding
        assert expand(blob, inline=inline, **options) == b"".join(parts)


@both
def test_xz_padding_that_is_no_multiple_of_four(inline: bool) -> None:
    with pytest.raises(LayerFormatError, match="multiple of four"):
        expand(lzma.compress(data(1000)) + bytes(6), inline=inline)


@both
def test_xz_that_wants_too_much_memory(inline: bool) -> None:
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 1, "dict_size": 512 << 20}]
    with pytest.raises(LimitError, match="memory"):
        expand(lzma.compress(data(1000), filters=filters), inline=inline)


@both
@pytest.mark.parametrize("pack", [lzma.compress, bz2.compress], ids=["xz", "bzip2"])
def test_a_bomb_of_xz_or_bzip2(inline: bool, pack: Callable[[bytes], bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastlayer.layer.expand._RATIO_FREE", MIB)
    with pytest.raises(LimitError, match="200 times"):
        expand(pack(bytes(64 * MIB)), inline=inline, max_ratio=200)


# ---- damage --------------------------------------------------------------------------------------


def small_pieces(name: str, content: bytes) -> bytes:
    """As in zstd:chunked and eStargz: a piece for every file, some of them empty."""
    maker, rng, at, pieces = codec(name), random.Random(3), 0, []
    while at < len(content):
        size = rng.choice((0, 1, 600, 7000, 90_000))
        pieces.append(maker.compress(content[at : at + size]))
        at += size
    return b"".join(pieces)


def _blobs() -> Iterator[Any]:
    content = data(2 * MIB + 100)
    yield pytest.param(compress("gzip", content), id="gzip-own")
    yield pytest.param(gzip.compress(content), id="gzip-foreign")
    yield pytest.param(compress("zstd", content), id="zstd-own")
    yield pytest.param(zstandard.ZstdCompressor(write_content_size=False).compress(content), id="zstd-unsized")
    yield pytest.param(small_pieces("gzip", content), id="gzip-small")
    yield pytest.param(small_pieces("zstd", content), id="zstd-small")
    yield pytest.param(bz2.compress(content), id="bzip2")
    yield pytest.param(lzma.compress(content), id="xz")


BLOBS = list(_blobs())


@both
@pytest.mark.parametrize("blob", BLOBS)
@pytest.mark.parametrize("cut", [1, 4, 7, 8, 9, 1000, 900_000])
def test_truncated_is_refused(blob: bytes, cut: int, inline: bool) -> None:
    with pytest.raises(LayerFormatError):
        expand(blob[:-cut], inline=inline)


@both
@pytest.mark.parametrize("blob", BLOBS)
@pytest.mark.parametrize("keep", [4, 5, 12, 17, 19])
def test_truncated_header_is_refused(blob: bytes, keep: int, inline: bool) -> None:
    if detect(blob[:keep]) == "none":
        return  # not enough to tell; it is no tar either
    with pytest.raises(LayerFormatError):
        expand(blob[:keep], inline=inline)


@both
@pytest.mark.parametrize("blob", BLOBS[:3] + BLOBS[4:])  # the fourth carries no checksum
def test_flipped_bits_are_refused(blob: bytes, inline: bool) -> None:
    content = data(2 * MIB + 100)
    rng = random.Random(7)
    for _ in range(12):
        damaged = bytearray(blob)
        damaged[rng.randrange(len(blob))] ^= 1 << rng.randrange(8)
        try:
            got = expand(bytes(damaged), inline=inline)
        except FastlayerError:
            continue
        assert got == content  # the flip hit a field that means nothing


@both
@pytest.mark.parametrize("blob", BLOBS)
@pytest.mark.parametrize("tail", [b"x", b"garbage after the end", bytes(40) + b"y"])
def test_trailing_garbage_is_refused(blob: bytes, tail: bytes, inline: bool) -> None:
    with pytest.raises(LayerFormatError):
        expand(blob + tail, inline=inline)


@both
@pytest.mark.parametrize("name", ["gzip", "zstd"])
def test_many_small_pieces_are_few_jobs(name: str, inline: bool) -> None:
    content = data(9 * MIB)
    blob = small_pieces(name, content)
    assert expand(blob, inline=inline) == content
    jobs = list(decompress.open_pieces(name, Lookahead(io.BytesIO(blob))))  # type: ignore[arg-type]
    assert len(jobs) < len(blob) // 100_000
    buffer = memoryview(bytearray(decompress.PIECE_SIZE[name]))  # type: ignore[index]
    assert b"".join(bytes(buffer[: job(buffer)]) for job in jobs) == content  # type: ignore[operator]


@pytest.mark.parametrize("name", ["gzip", "zstd"])
@pytest.mark.parametrize("claim", [0, 1, 500, 2_000_000])
def test_small_pieces_that_lie_about_their_content(name: str, claim: int) -> None:
    piece = bytearray(codec(name).compress(b"x" * 300 + b"y" * 300))
    if name == "gzip":
        piece[-4:] = claim.to_bytes(4, "little")
    else:
        assert piece[4] >> 6 == 1 and piece[4] & 0x20  # two bytes of content size, which begin at 256
        piece[4] = piece[4] & 0x3F | 0x80
        piece[5:7] = claim.to_bytes(4, "little")
    blob = codec(name).compress(b"a" * 300) + bytes(piece) + codec(name).compress(b"b" * 300)
    with pytest.raises((LayerFormatError, LimitError)):
        expand(blob, inline=False)


@both
def test_gzip_member_that_lies_about_its_length(inline: bool) -> None:
    blob = bytearray(compress("gzip", data(MIB + 100)))
    blob[16:20] = (int.from_bytes(blob[16:20], "little") - 1).to_bytes(4, "little")
    if inline:  # the field means nothing to a reader that does not cut
        assert expand(bytes(blob), inline=True) == data(MIB + 100)
        return
    with pytest.raises(LayerFormatError):
        expand(bytes(blob), inline=False)


def test_gzip_member_that_expands_beyond_its_bound() -> None:
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
    content = bytes(GZIP_MEMBER + 1)
    body = deflate.compress(content) + deflate.flush()
    honest = compress("gzip", b"")
    blob = honest[:16] + (28 + len(body)).to_bytes(4, "little") + body
    blob += zlib.crc32(content).to_bytes(4, "little") + len(content).to_bytes(4, "little")
    assert gzip.decompress(blob) == content
    with pytest.raises(LayerFormatError, match="longer than it says"):
        expand(blob, inline=False)


def frame(descriptor: int, rest: bytes) -> bytes:
    return b"\x28\xb5\x2f\xfd" + bytes([descriptor]) + rest


@both
def test_zstd_window_limit(inline: bool) -> None:
    too_large = frame(0x00, bytes([(28 - 10) << 3]) + b"\x01\x00\x00")  # 256 MiB
    with pytest.raises((LimitError, LayerFormatError), match=r"window|memory"):
        expand(too_large, inline=inline)


@both
def test_zstd_size_claims_allocate_nothing(inline: bool) -> None:
    claim = frame(0xE0, (1 << 62).to_bytes(8, "little") + b"\x01\x00\x00")
    with pytest.raises((LimitError, LayerFormatError)):
        expand(claim, inline=inline)
    lies = frame(0xA0, (8 << 20).to_bytes(4, "little") + b"\x09\x00\x00x")
    with pytest.raises(LayerFormatError):
        expand(lies, inline=inline)


def test_zstd_frame_that_says_it_is_empty() -> None:
    rle = b"".join((1 << 1 | 1 << 20 | (n == 7)).to_bytes(3, "little") + b"x" for n in range(8))
    with pytest.raises(LayerFormatError):
        expand(frame(0x20, b"\x00" + rle), inline=False)


@both
def test_zstd_dictionary_is_refused(inline: bool) -> None:
    with pytest.raises(LayerFormatError):
        expand(frame(0x21, b"\x07\x01" + b"\x09\x00\x00x"), inline=inline)


@both
def test_expansion_ratio(inline: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastlayer.layer.expand._RATIO_FREE", MIB)
    blob = compress("zstd", bytes(8 * MIB))
    with pytest.raises(LimitError, match="max_ratio"):
        expand(blob, inline=inline, max_ratio=100)
    assert len(expand(blob, inline=inline, max_ratio=0)) == 8 * MIB


# ---- plumbing --------------------------------------------------------------------------------------


def test_bytes_do_not_depend_on_jobs_or_step() -> None:
    blob = compress("gzip", data(5 * MIB))
    assert len({expand(blob, inline=False, jobs=jobs, step=step) for jobs in (1, 3) for step in (999, 300_000)}) == 1


def test_digests_are_of_blob_and_tar(tmp_path: Any) -> None:
    import hashlib

    content = data(3 * MIB)
    for name in ("none", "gzip", "zstd"):
        blob = compress(name, content)
        path = tmp_path / name
        path.write_bytes(blob)
        with Source(path) as source:
            expansion = Expansion(source, jobs=2)
            expansion.run(lambda piece: None)
        assert expansion.codec == name
        assert expansion.digest == "sha256:" + hashlib.sha256(blob).hexdigest()
        assert expansion.diff_id == "sha256:" + hashlib.sha256(content).hexdigest()


def test_error_of_the_sink_stops_everything() -> None:
    import threading

    def sink(piece: object) -> None:
        raise RuntimeError("enough")

    before = threading.active_count()
    for blob in (data(5 * MIB), compress("gzip", data(5 * MIB)), gzip.compress(data(5 * MIB), 1)):
        with pytest.raises(RuntimeError, match="enough"):
            Expansion(Source(io.BytesIO(blob)), jobs=2).run(sink)
    assert threading.active_count() == before


def test_error_of_the_source_arrives() -> None:
    class Broken(io.RawIOBase):
        def readinto(self, buffer: Any) -> int:
            raise OSError(5, os.strerror(5))

    with pytest.raises(FastlayerError, match="Input/output"):
        Expansion(Source(Broken()), jobs=2).run(lambda piece: None)


def test_lookahead_takes_what_it_showed() -> None:
    look = Lookahead(io.BytesIO(bytes(range(100))))  # type: ignore[arg-type]
    assert look.peek(10) == bytes(range(10)) == look.take(10)
    buffer = bytearray(200)
    assert look.readinto(buffer) == 90 and buffer[:90] == bytes(range(10, 100))
    assert look.readinto(buffer) == 0 and look.take(5) == b""


def test_frame_walker_sees_every_border() -> None:
    blob = zstandard.ZstdCompressor(write_checksum=True).compress(data(400_000)) * 2
    for step in (1, 7, 1 << 20):
        walker = decompress.FrameWalker(Slow(blob, step))  # type: ignore[arg-type]
        while walker.readinto(bytearray(4096)):
            pass
        walker.check_end()


def test_a_block_that_level_0_makes_longer_is_stored() -> None:
    """The compressor is of no use after such a block: the next ones must be what they are without it."""
    data = random.Random(1).randbytes(GZIP_MEMBER)
    text = bytes(97 + byte % 7 for byte in data)
    wanted = codec("gzip", 0).compress(text)
    used = codec("gzip", 0)
    for block in (*(bytes(60 + byte % count for byte in data) for count in (20, 26, 80)), data):
        assert gzip.decompress(used.compress(block)) == block
        assert used.compress(text) == wanted
