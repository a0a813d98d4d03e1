"""zstd:chunked and eStargz: blobs that plain readers take for what they are, and tables that tell the truth."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import random
import subprocess
import sys
import tarfile
import threading
from pathlib import Path
from typing import Any

import pytest

import fastlayer
from fastlayer import _backend
from fastlayer.errors import LayerFormatError, StorageError, UsageError
from fastlayer.layer.chunked import cutting, frames
from fastlayer.layer.compression import codec, layer_codec
from fastlayer.layer.expand import Expansion
from fastlayer.layer.output import Output
from fastlayer.layer.progress import Reporter
from fastlayer.layer.source import Source
from fastlayer.layer.writer import Layer, write_tar
from tests.chunkedblobs import check_estargz, check_zstd_chunked, sha256, unzstd
from tests.oddtars import BEHIND, GOOD, WITHOUT_TABLE, Add, made

FORMATS = ("zstd:chunked", "estargz")


class Trickle:
    """Gives its bytes in pieces of odd sizes."""

    def __init__(self, data: bytes, step: int) -> None:
        self._data = memoryview(data)
        self._step = step

    def readinto(self, buffer: Any, /) -> int:
        count = min(self._step, len(buffer), len(self._data))
        buffer[:count] = self._data[:count]
        self._data = self._data[count:]
        return count


def packed(
    tar: bytes, name: str, *, level: int | None = None, jobs: int = 2, step: int = 1 << 20
) -> tuple[bytes, Layer]:
    out = io.BytesIO()
    layer = write_tar(Trickle(tar, step), Output(out), layer_codec(name, level), jobs=jobs, report=Reporter(None))
    blob = out.getvalue()
    assert (layer.size, str(layer.digest)) == (len(blob), sha256(blob))
    assert layer.descriptor.to_dict().get("annotations", {}) == dict(layer.annotations)
    return blob, layer


def expanded(blob: bytes, tmp_path: Path) -> bytes:
    """By our own readers, with threads and without."""
    (tmp_path / "blob").write_bytes(blob)
    found = []
    for small in (0, 1 << 40):
        with Source(tmp_path / "blob") as source, pytest.MonkeyPatch.context() as patch:
            patch.setattr("fastlayer.layer.expand._SMALL", small)
            out = io.BytesIO()
            Expansion(source, jobs=2).run(out.write)
        found.append(out.getvalue())
    assert found[0] == found[1]
    return found[0]


# ---- what is in the blobs --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", GOOD)
def test_zstd_chunked_is_the_tar_and_its_table(name: str, tmp_path: Path) -> None:
    tar = GOOD[name]
    blob, layer = packed(tar, "zstd:chunked")
    assert layer.media_type == "application/vnd.oci.image.layer.v1.tar+zstd" and layer.warnings == ()
    assert (str(layer.diff_id), layer.tar_size, layer.source_id) == (sha256(tar), len(tar), layer.diff_id)
    found, entries = check_zstd_chunked(blob, dict(layer.annotations))
    assert found == tar
    assert layer.entries == sum(entry["type"] != "chunk" for entry in entries)
    assert expanded(blob, tmp_path) == tar


@pytest.mark.parametrize("name", GOOD)
def test_estargz_is_the_tar_and_two_more_entries(name: str, tmp_path: Path) -> None:
    tar = GOOD[name]
    blob, layer = packed(tar, "estargz")
    assert layer.media_type == "application/vnd.oci.image.layer.v1.tar+gzip" and layer.warnings == ()
    found, _ = check_estargz(blob, dict(layer.annotations))
    assert (str(layer.diff_id), layer.tar_size) == (sha256(found), len(found))
    assert str(layer.source_id) == sha256(tar)
    entries = members(found)
    assert entries[:-2] == members(tar)
    assert [entry[0] for entry in entries[-2:]] == [".no.prefetch.landmark", "stargz.index.json"]
    assert expanded(blob, tmp_path) == found


def members(tar: bytes) -> list[tuple[str, bytes, str]]:
    with tarfile.open(fileobj=io.BytesIO(tar + bytes(-len(tar) % 512)), mode="r:") as found:
        return [(one.name, one.tobuf(tarfile.PAX_FORMAT), _sum(found, one)) for one in found.getmembers()]


def _sum(tar: tarfile.TarFile, member: tarfile.TarInfo) -> str:
    opened = tar.extractfile(member) if member.isreg() else None
    return hashlib.sha256(opened.read()).hexdigest() if opened else ""


def test_large_files_are_cut_by_their_content() -> None:
    """A byte that is put in front moves no cut but the first; runs of zeros are told."""
    blob, layer = packed(GOOD["everything"], "zstd:chunked")
    _, entries = check_zstd_chunked(blob, dict(layer.annotations))
    chunks = {entry["chunkDigest"] for entry in entries if entry["name"] == "./random"}
    assert len(chunks) > 4
    with tarfile.open(fileobj=io.BytesIO(GOOD["everything"])) as tar:
        opened = tar.extractfile("./random")
        assert opened is not None
        data = opened.read()
    blob, layer = packed(made(lambda add: add("./random", b"!" + data)), "zstd:chunked")
    _, other = check_zstd_chunked(blob, dict(layer.annotations))
    assert len(chunks & {entry.get("chunkDigest") for entry in other}) >= len(chunks) - 1
    zeros = [entry for entry in entries if entry.get("chunkType") == "zeros"]
    assert sum(entry["chunkSize"] for entry in zeros) == 1 << 20
    assert {entry["name"] for entry in zeros} == {"./holes"}


def test_an_estargz_is_made_into_one_again() -> None:
    """Its landmark and its table are left out: nothing grows."""
    first, layer = packed(GOOD["everything"], "estargz")
    again, second = packed(gzip.decompress(first), "estargz")
    check_estargz(again, dict(second.annotations))
    assert (again, second.diff_id) == (first, layer.diff_id)
    plain, third = packed(gzip.decompress(first), "zstd:chunked")
    assert check_zstd_chunked(plain, dict(third.annotations))[0] == gzip.decompress(first)


# ---- the same bytes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FORMATS)
def test_bytes_depend_on_nothing_but_the_tar(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tar = GOOD["everything"]
    blob, layer = packed(tar, name, jobs=1, step=1 << 22)
    assert packed(tar, name, jobs=5, step=70_001) == (blob, layer)
    monkeypatch.setattr(frames, "_packed_at_once", one_by_one)
    assert packed(tar, name) == (blob, layer)


def one_by_one(compressor: Any, view: memoryview, found: Any) -> tuple[bytes, list[int]]:
    pieces = [compressor.compress(view[frame.start : frame.stop]) for frame in found]
    return b"".join(pieces), [len(piece) for piece in pieces]


@pytest.mark.parametrize("name", FORMATS)
def test_engines_agree(engine: _backend.Engine, name: str) -> None:
    tar = made(lambda add: [add("a", b"1" * 3000), add("b", bytes(range(256)) * 800), add("c")])
    blob, layer = packed(tar, name)
    (check_zstd_chunked if name == "zstd:chunked" else check_estargz)(blob, dict(layer.annotations))
    assert hashlib.sha256(blob).hexdigest() == digest_with_native(tar, name)


def digest_with_native(tar: bytes, name: str) -> str:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_backend, "_chosen", _backend._load("native"))
        return hashlib.sha256(packed(tar, name)[0]).hexdigest()


@pytest.mark.parametrize("name,level", [("zstd:chunked", 1), ("zstd:chunked", 19), ("estargz", 0), ("estargz", 6)])
def test_levels(name: str, level: int) -> None:
    tar = made(lambda add: add("text", b"some text that compresses well\n" * 20_000))
    blob, layer = packed(tar, name, level=level)
    (check_zstd_chunked if name == "zstd:chunked" else check_estargz)(blob, dict(layer.annotations))


@pytest.mark.parametrize("name", FORMATS)
def test_any_sizes_meet_any_borders(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With small buffers and frames, every kind of border falls onto every other sooner or later."""
    monkeypatch.setattr("fastlayer.layer.chunked.writer.BATCH", 16384)
    monkeypatch.setattr(cutting, "HEADERS", 2048)
    monkeypatch.setattr(cutting, "CHUNKS", (512, 1024, 4096))
    check = check_zstd_chunked if name == "zstd:chunked" else check_estargz
    for seed in range(40):
        tar = random_tar(random.Random(seed))
        blob, layer = packed(tar, name, step=5000)
        assert (layer.warnings, str(layer.source_id)) == ((), sha256(tar)), seed
        assert members(check(blob, dict(layer.annotations))[0])[: layer.entries] == members(tar), seed


def random_tar(rng: random.Random) -> bytes:
    def fill(add: Add) -> None:
        for number in range(rng.randrange(60)):
            if rng.random() < 0.5:
                add(f"{number}", type=tarfile.DIRTYPE, mtime=rng.choice((1, 1.5)))
                continue
            size = rng.choice((0, 1, 511, 512, 513, 1024, 4096, 4097, 9000, 16384, rng.randrange(20_000)))
            add(f"{number}", rng.choice((rng.randbytes, bytes))(size), mtime=rng.choice((1, 1.5)))

    return made(fill) + bytes(rng.choice((0, 512, 9000, 40_000)))


# ---- tars without a table ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("kind", WITHOUT_TABLE)
def test_what_no_table_can_say_becomes_an_ordinary_blob(kind: str, name: str) -> None:
    tar, why = WITHOUT_TABLE[kind]
    blob, layer = packed(tar, name)
    (warning,) = layer.warnings
    assert warning.startswith(f"written without the table of contents of {name}, which cannot have ") and why in warning
    assert layer.annotations == ()
    assert (unzstd(blob) if name == "zstd:chunked" else gzip.decompress(blob)) == tar
    assert (str(layer.diff_id), layer.tar_size) == (sha256(tar), len(tar))


def test_bytes_behind_the_end() -> None:
    """tar-split's readers take them for a header; stargz' tars end anew anyway."""
    blob, layer = packed(BEHIND, "zstd:chunked")
    assert unzstd(blob) == BEHIND and "bytes behind the end" in layer.warnings[0] and not layer.annotations
    blob, layer = packed(BEHIND, "estargz")
    check_estargz(blob, dict(layer.annotations))


def test_a_link_to_what_is_not_there() -> None:
    """stargz-snapshotter refuses the whole table for it."""
    tar = made(lambda add: add("l", type=tarfile.LNKTYPE, linkname="gone"))
    _, layer = packed(tar, "estargz")
    assert "a hard link to what is not in the layer" in layer.warnings[0] and str(layer.diff_id) == sha256(tar)
    blob, layer = packed(tar, "zstd:chunked")
    check_zstd_chunked(blob, dict(layer.annotations))


def test_names_of_the_format_under_zstd_are_just_names() -> None:
    tar = made(lambda add: [add("stargz.index.json", b"{}"), add("dir/stargz.index.json", b"{}")])
    blob, layer = packed(tar, "zstd:chunked")
    assert len(check_zstd_chunked(blob, dict(layer.annotations))[1]) == 2
    blob, layer = packed(tar, "estargz")
    assert [entry["name"] for entry in check_estargz(blob, dict(layer.annotations))[1]] == [
        "dir/stargz.index.json",
        ".no.prefetch.landmark",
    ]


# ---- what goes wrong ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("cut", [100, 512, 5000, -2_000_000])
def test_cut_off_tars_are_refused(name: str, cut: int) -> None:
    tar = GOOD["everything"] if cut < 0 else made(lambda add: add("f" * 90, b"x" * 10_000, mtime=1.5))
    with pytest.raises(LayerFormatError, match=r"truncated|cut|ends"):
        packed(tar[:cut], name)


@pytest.mark.parametrize("name", FORMATS)
def test_damaged_headers_give_a_blob_or_one_error(name: str) -> None:
    """Whatever is in them: what was taken comes out again, as it was."""
    tars = [made(few), GOOD["gnu"], GOOD["ustar"]]
    refused = 0
    for seed in range(80):
        rng = random.Random(seed)
        tar = damaged(rng.choice(tars), rng)
        try:
            blob, layer = packed(tar, name)
        except LayerFormatError:
            refused += 1
            continue
        found = unzstd(blob) if name == "zstd:chunked" else gzip.decompress(blob)
        assert (str(layer.diff_id), str(layer.source_id)) == (sha256(found), sha256(tar)), seed
        assert found == tar or (name == "estargz" and layer.annotations), seed
    assert 0 < refused < 60


def few(add: Add) -> None:
    add("./etc/", type=tarfile.DIRTYPE, mode=0o1777, mtime=1_600_000_000.25)
    add("./etc/hello", b"hello", uid=1000)
    add("./etc/link", type=tarfile.LNKTYPE, linkname="./etc/hello")
    add("./times", b"t" * 512, pax_headers={"atime": "1700000001.123456789", "ctime": "-1.5"})
    add("./attributes", b"a", pax_headers={"SCHILY.xattr.user.a": "b=c"})


def damaged(tar: bytes, rng: random.Random) -> bytes:
    """A byte or three of one block are others; its checksum usually fits all the same."""
    at = rng.randrange(len(tar) - 1024)
    block = bytearray(tar[at // 512 * 512 :][:512])
    for _ in range(rng.choice((1, 3))):
        block[min(511, at % 512 + rng.randrange(8))] = rng.choice((0, 32, 48, 49, 55, 255, rng.randrange(256)))
    if rng.random() < 0.8:
        block[148:156] = b" " * 8
        block[148:156] = b"%06o\0 " % sum(block)
    return tar[: at // 512 * 512] + bytes(block) + tar[at // 512 * 512 + 512 :]


@pytest.mark.parametrize("name", FORMATS)
def test_what_is_no_tar_is_refused(name: str) -> None:
    with pytest.raises(LayerFormatError):
        packed(b"<html>no tar</html>".ljust(2048), name)


@pytest.mark.parametrize("name", FORMATS)
def test_a_full_disk_stops_all_threads(name: str) -> None:
    class Full:
        def write(self, data: Any) -> int:
            raise OSError(28, "No space left on device")

    before = threading.active_count()
    with pytest.raises(StorageError, match="No space left"):
        write_tar(
            Trickle(GOOD["everything"], 1 << 20), Output(Full()), layer_codec(name), jobs=2, report=Reporter(None)
        )
    assert threading.active_count() <= before + 1  # that of the hashes may still be ending


def test_names_and_levels() -> None:
    with pytest.raises(UsageError, match="1 to 22"):
        layer_codec("zstd:chunked", 23)
    with pytest.raises(UsageError, match="0 to 9"):
        layer_codec("estargz", 10)
    with pytest.raises(UsageError, match="zstd:chunked or estargz"):
        layer_codec("stargz")
    with pytest.raises(UsageError, match="for layers of images"):
        codec("estargz")


# ---- where it is asked for ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FORMATS)
def test_diff(name: str, tmp_path: Path) -> None:
    for place, data in (("a", b"1"), ("b", b"22")):
        (tmp_path / place).mkdir()
        (tmp_path / place / "f").write_bytes(data)
    layer = fastlayer.diff(tmp_path / "a", tmp_path / "b", output=tmp_path / "x", compression=name)
    check = check_zstd_chunked if name == "zstd:chunked" else check_estargz
    check((tmp_path / "x").read_bytes(), dict(layer.annotations))
    line = ["diff", tmp_path / "a", tmp_path / "b", "-o", tmp_path / "y", "--compression", name, "--format", "json"]
    done = subprocess.run([sys.executable, "-m", "fastlayer", *line], check=True, capture_output=True)
    told = json.loads(done.stdout)
    assert told["annotations"] == dict(layer.annotations)
    assert (tmp_path / "y").read_bytes() == (tmp_path / "x").read_bytes()
    fastlayer.apply(tmp_path / "x", tmp_path / "out")
    assert (tmp_path / "out" / "f").read_bytes() == b"22"
