"""The tar reader: docs of the rules in csrc/fl_tar.h, every property a file of tests/corpus/tar."""

from __future__ import annotations

import hashlib
import io
import os
import random
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fastlayer import _backend
from fastlayer.errors import LayerError, LayerFormatError, LimitError
from tests.corpus import make_corpus
from tests.corpus.tarparts import BLOCK, END, base256, gnu_sparse, header, long_name, member, pax, raw_pax

CASES = make_corpus.cases()
SMALL = 1 << 20  # contents up to this are expanded


def scan(engine: Any, data: bytes, step: int = 1 << 20, **options: Any) -> list[tuple[Any, list[tuple[int, bytes]]]]:
    """Every item with its pieces of data, adjacent ones joined. Holds the order of events to the contract."""
    scanner = engine.tarread.TarScanner(**options)
    found: list[tuple[Any, list[tuple[int, bytes]]]] = []
    is_open = False
    for begin in range(0, len(data), step):
        chunk = data[begin : begin + step]
        for event in scanner.feed(chunk):
            if event[0] == "entry":
                assert not is_open
                found.append((event[1], []))
                is_open = event[1].type == "0"
            elif event[0] == "data":
                assert is_open
                _add_piece(found[-1][1], event[3], chunk[event[1] : event[2]])
            else:
                assert event == ("end",) and is_open
                is_open = False
    scanner.finish()
    assert not is_open
    return found


def _add_piece(pieces: list[tuple[int, bytes]], pos: int, data: bytes) -> None:
    assert data
    if pieces and pieces[-1][0] + len(pieces[-1][1]) == pos:
        pieces[-1] = (pieces[-1][0], pieces[-1][1] + data)
    else:
        assert not pieces or pos > pieces[-1][0] + len(pieces[-1][1])
        pieces.append((pos, data))


def content(item: Any, pieces: list[tuple[int, bytes]]) -> bytes:
    whole = bytearray(item.size)
    for pos, data in pieces:
        assert pos + len(data) <= item.size
        whole[pos : pos + len(data)] = data
    return bytes(whole)


def outcome(engine: Any, data: bytes, step: int = 1 << 20) -> Any:
    try:
        return [(tuple(item), pieces) for item, pieces in scan(engine, data, step)]
    except LayerError as error:
        return type(error).__name__


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_corpus_property(engine: Any, case: make_corpus.Case) -> None:
    if case.expect is None:
        with pytest.raises(LayerError) as refusal:
            scan(engine, case.data)
        assert "\n" not in str(refusal.value)
        return
    found = scan(engine, case.data)
    assert len(found) == len(case.expect)
    for (item, pieces), expect in zip(found, case.expect, strict=True):
        assert expect == {key: content(item, pieces) if key == "content" else getattr(item, key) for key in expect}


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_corpus_on_disk_is_what_the_script_makes(case: make_corpus.Case) -> None:
    assert case.path.read_bytes() == case.data


def test_corpus_has_no_stray_files() -> None:
    on_disk = set((make_corpus.HERE / "tar").rglob("*.tar"))
    assert on_disk == {c.path for c in CASES}
    assert {p.name: p.read_bytes() for p in (make_corpus.HERE / "pax").iterdir()} == make_corpus.pax_bodies()


@pytest.mark.parametrize("step", [1, 7, 511, 512, 513])
def test_any_split_of_the_input_gives_the_same(engine: Any, step: int) -> None:
    for case in CASES:
        assert outcome(engine, case.data, step) == outcome(engine, case.data), case.name


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_native_and_baseline_agree_on_the_corpus(case: make_corpus.Case) -> None:
    native, baseline = _backend._load("native"), _backend._load("baseline")
    assert outcome(native, case.data) == outcome(baseline, case.data)


def mutants(data: bytes, rng: random.Random) -> Iterator[bytes]:
    """Bytes changed, blocks dropped, doubled and swapped; headers sometimes get a fitting checksum again."""
    for _ in range(6):
        raw = bytearray(data)
        for _ in range(rng.choice((1, 1, 2, 5))):
            at = rng.randrange(len(raw))
            raw[at] = rng.choice((0, 32, 47, 48, 49, 55, 56, 61, 10, 128, 255, rng.randrange(256)))
        if rng.random() < 0.3:
            blocks = [raw[i : i + BLOCK] for i in range(0, len(raw), BLOCK)]
            blocks.insert(rng.randrange(len(blocks)), blocks.pop(rng.randrange(len(blocks))))
            raw = bytearray(b"".join(blocks))
        if rng.random() < 0.8:
            fix_checksums(raw)
        if rng.random() < 0.1:
            del raw[rng.randrange(len(raw)) :]
        yield bytes(raw)


def fix_checksums(raw: bytearray) -> None:
    for at in range(0, len(raw) - BLOCK + 1, BLOCK):
        if raw[at + 257 : at + 262] == b"ustar":
            raw[at + 148 : at + 156] = b" " * 8
            raw[at + 148 : at + 156] = b"%06o\0 " % sum(raw[at : at + BLOCK])


@pytest.mark.parametrize("seed", range(4))
def test_native_and_baseline_agree_on_mutants(seed: int) -> None:
    rng = random.Random(seed)
    native, baseline = _backend._load("native"), _backend._load("baseline")
    for case in CASES:
        for mutant in mutants(case.data, rng):
            if outcome(native, mutant) != outcome(baseline, mutant):
                pytest.fail(f"seed {seed}, {case.name}: {hashlib.sha256(mutant).hexdigest()}\n{mutant!r}")


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_archives_of_the_standard_library(engine: Any, format: int) -> None:
    out = io.BytesIO()
    wanted = []
    with tarfile.open(fileobj=out, mode="w", format=format) as archive:
        for size in (0, 1, 511, 512, 513, 70_000):
            info = tarfile.TarInfo(f"dir/file{size}" + "x" * (60 if format == tarfile.USTAR_FORMAT else 150))
            info.size, info.mode, info.uid, info.mtime = size, 0o640, 1000, 1_600_000_000
            archive.addfile(info, io.BytesIO(bytes(size)))
            wanted.append((info.name.encode(), size, 0o640, 1000, 1_600_000_000 * 10**9))
    found = scan(engine, out.getvalue())
    assert [(i.path, i.size, i.mode, i.uid, i.mtime_ns) for i, _ in found] == wanted
    assert all(content(item, pieces) == bytes(item.size) for item, pieces in found)


def test_offsets_lead_to_the_bytes(engine: Any) -> None:
    data = pax(("path", b"x" * 120)) + member(body=b"one") + long_name(b"y" * 600) + member(body=b"two") + END
    for item, pieces in scan(engine, data):
        assert data[item.data_offset : item.data_offset + item.size] == pieces[0][1]


def test_scanner_counts_and_sees_the_end(engine: Any) -> None:
    scanner = engine.tarread.TarScanner()
    data = member(body=b"one")
    assert (scanner.offset, scanner.ended) == (0, False)
    scanner.feed(memoryview(bytearray(data)))
    assert (scanner.offset, scanner.ended) == (len(data), False)
    assert scanner.feed(b"") == []
    assert scanner.feed(END + b"junk") == []
    assert (scanner.offset, scanner.ended) == (len(data) + len(END) + 4, True)
    scanner.finish()


def test_a_refusing_scanner_stays_refused(engine: Any) -> None:
    scanner = engine.tarread.TarScanner()
    with pytest.raises(LayerFormatError):
        scanner.feed(b"x" * BLOCK)
    with pytest.raises(Exception, match="after an error"):
        scanner.feed(member())


def test_refusals_name_the_place(engine: Any) -> None:
    with pytest.raises(LayerFormatError, match=r"uid out of range \(at byte 512\)"):
        scan(engine, member(b"first") + member(b"name", uid=base256(2**32, 8)))


def test_native_refusals_name_the_entry() -> None:
    with pytest.raises(LayerFormatError, match=r"^bad\\nname: uid out of range"):
        scan(_backend._load("native"), member(b"bad\nname", uid=base256(2**32, 8)))


ENDS = {
    "pax, file": pax(("mtime", b"1.5")) + member(b"f", b"0", b"x" * 700),
    "pax, long name, file": pax(("mtime", b"1.5")) + long_name(b"n" * 120) + member(b"f", b"0", b"x"),
    "sparse": gnu_sparse([(0, 3)] * 1 + [(512 * i, 3) for i in range(1, 30)], b"abc" * 30, 20_000),
    "comment": pax(("comment", b"c"), type=b"g") + member(b"f", b"0", b"x"),
}


@pytest.mark.parametrize("name", ENDS)
def test_the_end_of_a_cut_archive_has_one_description(name: str) -> None:
    for length in range(len(ENDS[name]) + 1):
        said = {backend: end_of(_backend._load(backend), ENDS[name][:length]) for backend in ("native", "baseline")}
        assert said["native"] == said["baseline"], length


def test_a_cut_inside_a_body_is_named_so(engine: Any) -> None:
    prefix = pax(("mtime", b"1.5"))
    whole = prefix + member(b"f", b"0", b"x" * 700)
    assert (
        end_of(engine, whole[: len(prefix) + 600]) == f"f: archive is cut inside an entry (at byte {len(prefix) + 600})"
    )
    assert end_of(engine, whole[: len(prefix) + 100]) == f"archive is cut inside a header (at byte {len(prefix) + 100})"
    assert end_of(engine, prefix) == f"archive ends after an extended header (at byte {len(prefix)})"


def end_of(engine: Any, data: bytes) -> str | None:
    """What is said of an archive that stops there."""
    scanner = engine.tarread.TarScanner()
    scanner.feed(data)
    try:
        scanner.finish()
    except LayerFormatError as refusal:
        return str(refusal)
    return None


@pytest.mark.parametrize("limit", [1000, 1 << 20])
def test_max_pax_bounds_every_extended_header(engine: Any, limit: int) -> None:
    fits = limit - len(b"%d comment=\n" % limit)
    for make in (lambda n: pax(("comment", b"c" * n)), lambda n: pax(("comment", b"c" * n), type=b"g")):
        assert len(scan(engine, make(fits) + member(), max_pax=limit)) == 1
        with pytest.raises(LimitError):
            scan(engine, make(fits + 1) + member(), max_pax=limit)
    for type in (b"L", b"K"):
        assert len(scan(engine, long_name(b"n" * limit, type, nul=False) + member(), max_pax=limit)) == 1
        with pytest.raises(LimitError):
            scan(engine, long_name(b"n" * limit, type) + member(), max_pax=limit)


def test_max_pax_bounds_sparse_maps(engine: Any) -> None:
    pairs: list[tuple[int | bytes, int | bytes]] = [(i, 1) for i in range(4 + 21 * 3)]
    data = gnu_sparse(pairs, b"x" * len(pairs), len(pairs))
    assert len(scan(engine, data, max_pax=3 * BLOCK)) == 1
    with pytest.raises(LimitError):
        scan(engine, data, max_pax=3 * BLOCK - 1)
    lines = b"%d\n" % 2000 + b"".join(b"%d\n1\n" % i for i in range(2000))
    data = make_corpus.sparse_1_0(lines, b"x" * 2000, ("GNU.sparse.realsize", b"2000"))
    blocks = -(-len(lines) // BLOCK)
    assert len(scan(engine, data, max_pax=blocks * BLOCK)) == 2
    with pytest.raises(LimitError):
        scan(engine, data, max_pax=(blocks - 1) * BLOCK)


def test_claims_allocate_nothing(engine: Any) -> None:
    """A header may claim what it likes: the scanner waits for bytes and says at the end that they are missing."""
    scanner = engine.tarread.TarScanner()
    events = scanner.feed(header(size=base256(2**62, 12)))
    assert [e[0] for e in events] == ["entry"]
    with pytest.raises(LayerFormatError, match="cut"):
        scanner.finish()


def test_many_attributes_are_not_quadratic(engine: Any) -> None:
    pairs = [(f"SCHILY.xattr.user.{i % 20_000}", b"") for i in range(30_000)]
    ((item, _),) = scan(engine, pax(*pairs) + member())
    assert len(item.xattrs) == 20_000
    assert list(item.xattrs) == sorted(item.xattrs)


def test_malformed_pax_is_never_skipped(engine: Any) -> None:
    good = make_corpus.pax_bodies()["all-keys"]
    for cut in range(1, len(good)):
        if good[cut - 1 : cut] == b"\n":
            continue
        with pytest.raises(LayerFormatError):
            scan(engine, raw_pax(good[:cut]) + member())


def gnu_tar(folder: Path, *options: str) -> bytes:
    command = ["tar", "-C", str(folder), "--numeric-owner", *options, "-cf", "-", "."]
    return subprocess.run(command, check=True, capture_output=True).stdout


def sparse_file(path: Path, segments: int) -> bytes:
    """Data of odd lengths between holes; the file ends in a hole."""
    with path.open("wb") as out:
        for number in range(segments):
            out.seek(number * 65536)
            out.write(bytes([65 + number % 26]) * (4096 + number))
        out.truncate(segments * 65536 + 12345)
    return path.read_bytes()


@pytest.mark.skipif(shutil.which("tar") is None, reason="needs GNU tar")
@pytest.mark.parametrize("segments", [0, 1, 4, 5, 26, 70])
@pytest.mark.parametrize("version", ["gnu", "0.0", "0.1", "1.0"])
def test_sparse_files_of_gnu_tar(engine: Any, tmp_path: Path, version: str, segments: int) -> None:
    wanted = sparse_file(tmp_path / "holes", segments)
    form = ["--format=gnu"] if version == "gnu" else ["--format=posix", f"--sparse-version={version}"]
    data = gnu_tar(tmp_path, "--sparse", "--hole-detection=raw", *form)
    ((item, pieces),) = [found for found in scan(engine, data) if found[0].type == "0"]
    assert (item.path, item.size) == (b"./holes", len(wanted))
    assert item.sparse and sum(len(piece) for _, piece in pieces) < len(wanted)
    assert content(item, pieces) == wanted


@pytest.mark.skipif(shutil.which("tar") is None, reason="needs GNU tar")
@pytest.mark.parametrize("form", ["v7", "oldgnu", "gnu", "ustar", "posix"])
def test_every_format_of_gnu_tar(engine: Any, tmp_path: Path, form: str) -> None:
    name = "n" * (90 if form in ("v7", "ustar") else 240)
    (tmp_path / "d").mkdir(mode=0o700)
    (tmp_path / "d" / name).write_bytes(b"content")
    (tmp_path / "d" / "hard").hardlink_to(tmp_path / "d" / name)
    (tmp_path / "link").symlink_to(name)
    os.utime(tmp_path / "d" / name, ns=(0, 1_234_567_890_123_456_789))
    found = {i.path: (i, p) for i, p in scan(engine, gnu_tar(tmp_path, f"--format={form}", "--sort=name"))}
    assert found[b"./d/"][0].type == "5" and found[b"./d/"][0].mode == 0o700
    assert found[b"./link"][0].link == name.encode()
    first, second = found[b"./d/hard"], found[b"./d/" + name.encode()]
    assert first[1] == [(0, b"content")] and second[1] == []
    assert (second[0].type, second[0].link, second[0].size) == ("1", b"./d/hard", 0)
    fraction = 123_456_789 if form == "posix" else 0
    assert first[0].mtime_ns == 1_234_567_890_000_000_000 + fraction


@pytest.mark.skipif(shutil.which("bsdtar") is None, reason="needs bsdtar")
def test_attributes_of_bsdtar(engine: Any, tmp_path: Path) -> None:
    values = ((b"user.bytes", b"\0=\n\xff"), (b"user.one", b"1"))
    (tmp_path / "f").write_bytes(b"x")
    try:
        for key, value in values:
            os.setxattr(tmp_path / "f", key, value)
    except OSError as error:
        pytest.skip(f"the file system has no user attributes: {error}")
    command = ["bsdtar", "-C", str(tmp_path), "--format=pax", "--xattrs", "-cf", "-", "f"]
    ((item, _),) = scan(engine, subprocess.run(command, check=True, capture_output=True).stdout)
    assert item.xattrs == values
