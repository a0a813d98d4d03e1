"""The layer tar of a change table: the layout byte by byte, and what makes it refuse."""

from __future__ import annotations

import io
import os
import random
import subprocess
import tarfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from fastlayer import _backend
from fastlayer.errors import FileChangedError, UnsafeEntryError, UsageError
from tests import trees
from tests.conftest import needs_root, require

BLOCK = 512
TIME = 1_600_000_000


@contextmanager
def opened(*paths: str | Path) -> Iterator[list[int]]:
    fds = [os.open(path, os.O_RDONLY | os.O_DIRECTORY) for path in paths]
    try:
        yield fds
    finally:
        for fd in fds:
            os.close(fd)


def table(engine: _backend.Engine, a: int | None, b: int, **options: Any) -> Any:
    differ = engine.changes.Differ(a, b, **options)
    while differ.step():
        pass
    return differ.finish()


def pull(encoder: _backend.Encoder, piece: int = 1 << 20) -> bytes:
    buffer = bytearray(piece)
    out = bytearray()
    while got := encoder.readinto(buffer):
        out += buffer[:got]
        if got < piece:
            assert encoder.readinto(buffer) == 0
    return bytes(out)


def layer(engine: _backend.Engine, b: Path, a: Path | None = None, piece: int = 1 << 20, **options: Any) -> bytes:
    """The layer of b against a (None: the empty tree)."""
    with opened(b, *([a] if a else [])) as fds:
        found = table(engine, fds[1] if a else None, fds[0])
        return pull(engine.encode.Encoder(found, [fds[0]], **options), piece)


def settle(path: Path, when: int = TIME) -> None:
    """Whole-second times and plain modes everywhere, so that no PAX header is needed but where a test wants one."""
    for top, dirs, files in os.walk(path, topdown=False):
        for name in files + dirs:
            where = os.path.join(top, name)
            if not os.path.islink(where):
                os.chmod(where, 0o755 if os.path.isdir(where) else 0o644)
            os.utime(where, (when, when), follow_symlinks=False)
    os.chmod(path, 0o755)
    os.utime(path, (when, when))


def names(data: bytes) -> list[str]:
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return tar.getnames()


def member(data: bytes, name: str) -> tarfile.TarInfo:
    with tarfile.open(fileobj=io.BytesIO(data), errors="surrogateescape") as tar:
        return tar.getmember(name)


def headers(data: bytes) -> list[bytes]:
    """Every header block, extended ones included."""
    found, at = [], 0
    while data[at] != 0:
        found.append(data[at : at + BLOCK])
        size = int(data[at + 124 : at + 135], 8)
        at += BLOCK + -(-size // BLOCK) * BLOCK
    return found


def pax_body(data: bytes, index: int = 0) -> bytes:
    """The records of the index-th extended header."""
    at = 0
    while True:
        size = int(data[at + 124 : at + 135], 8)
        if data[at + 156 : at + 157] == b"x":
            if index == 0:
                return data[at + BLOCK : at + BLOCK + size]
            index -= 1
        at += BLOCK + -(-size // BLOCK) * BLOCK


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    found = tmp_path / "b"
    found.mkdir()
    return found


# ---- layout


def test_identical_trees_give_a_valid_empty_tar(engine: _backend.Engine, tree: Path) -> None:
    assert layer(engine, tree, tree) == bytes(2 * BLOCK)


def test_header_layout_byte_by_byte(engine: _backend.Engine, tree: Path) -> None:
    (tree / "f").write_bytes(b"hello")
    settle(tree)
    uid, gid = os.getuid(), os.getgid()
    header = bytearray(BLOCK)
    header[0:1] = b"f"
    header[100:108] = b"0000644\0"
    header[108:116] = b"%07o\0" % uid
    header[116:124] = b"%07o\0" % gid
    header[124:136] = b"00000000005\0"
    header[136:148] = b"%011o\0" % TIME
    header[148:156] = b" " * 8
    header[156:157] = b"0"
    header[257:265] = b"ustar\x0000"
    header[329:345] = b"0000000\0" * 2
    header[148:156] = b"%06o\0 " % sum(header)
    root = headers(layer(engine, tree))[0]
    assert root[:3] == b"./\0" and root[156:157] == b"5"
    assert layer(engine, tree)[BLOCK:] == bytes(header) + b"hello".ljust(BLOCK, b"\0") + bytes(2 * BLOCK)


@pytest.mark.parametrize("piece", [1, 7, 511, 512, 513, 4096, 1 << 20])
def test_bytes_do_not_depend_on_the_buffer(engine: _backend.Engine, tree: Path, piece: int) -> None:
    (tree / "d").mkdir()
    (tree / "d" / ("n" * 120)).write_bytes(b"x" * 700)
    (tree / "e").write_bytes(b"y" * 512)
    assert layer(engine, tree, piece=piece) == layer(engine, tree)


@pytest.mark.parametrize(
    ("path", "prefix"),
    [
        ("n" * 100, b""),
        ("d/" + "n" * 98, b""),
        ("d/" + "n" * 99, b"d"),
        ("d" * 155 + "/" + "n" * 100, b"d" * 155),
        ("d" * 156 + "/" + "n" * 100, None),
        ("d" * 50 + "/" + "n" * 101, None),
        ("n" * 101, None),
        ("/".join(["d" * 60, "e" * 60, "n" * 60]), b"d" * 60 + b"/" + b"e" * 60),
    ],
)
def test_long_names_are_split_where_they_fit_else_pax(
    engine: _backend.Engine, tree: Path, path: str, prefix: bytes | None
) -> None:
    (tree / path).parent.mkdir(parents=True, exist_ok=True)
    (tree / path).write_bytes(b"")
    settle(tree)
    data = layer(engine, tree)
    last = headers(data)[-1]
    assert path in names(data)
    if prefix is None:
        assert b" path=" + path.encode() + b"\n" in data and headers(data)[-2][156:157] == b"x"
        assert last[:100] == path.encode()[:100] and last[345] == 0
    else:
        assert headers(data)[-2][156:157] == b"5"
        assert last[345:500].rstrip(b"\0") == prefix


def test_directory_of_101_bytes_with_its_slash(engine: _backend.Engine, tree: Path) -> None:
    """The closing slash counts: 100 bytes and a slash do not fit, 99 do."""
    (tree / ("d" * 100)).mkdir()
    (tree / ("e" * 99)).mkdir()
    settle(tree)
    data = layer(engine, tree)
    assert b" path=" + b"d" * 100 + b"/\n" in data
    assert b"e" * 99 + b"/" in [header[:100] for header in headers(data)]


@pytest.mark.parametrize(
    ("ns", "text"),
    [
        (TIME * 10**9 + 500_000_000, b"%d.5" % TIME),
        (TIME * 10**9 + 1, b"%d.000000001" % TIME),
        (-1_500_000_000, b"-1.5"),
        (-500_000_000, b"-0.5"),
        (-(10**9), b"-1"),
        (-1, b"-0.000000001"),
        (0o100000000000 * 10**9, b"8589934592"),
    ],
)
def test_pax_mtime_is_the_exact_decimal_value(engine: _backend.Engine, tree: Path, ns: int, text: bytes) -> None:
    settle(tree)
    (tree / "f").touch()
    os.utime(tree / "f", ns=(0, ns))
    if os.stat(tree / "f").st_mtime_ns != ns:
        pytest.skip("this file system cannot store the time")
    os.utime(tree, (TIME, TIME))
    data = layer(engine, tree)
    record = b"mtime=" + text + b"\n"
    assert pax_body(data) == b"%d %s" % (len(record) + 3, record)
    assert headers(data)[-1][136:148] == b"%011o\0" % min(max(ns // 10**9, 0), 0o77777777777)


@needs_root
def test_pax_records_come_in_one_order(engine: _backend.Engine, tree: Path) -> None:
    link = tree / ("l" * 101)
    link.symlink_to("t" * 101)
    os.chown(link, 2097152, 2097153, follow_symlinks=False)
    settle(tree)
    os.utime(link, ns=(0, 1_500_000_000), follow_symlinks=False)
    os.setxattr(link, "security.z", b"1", follow_symlinks=False)
    os.setxattr(link, "security.a", b"\0\n=", follow_symlinks=False)
    os.utime(tree, (TIME, TIME))
    keys = [b"gid", b"linkpath", b"mtime", b"path", b"uid", b"SCHILY.xattr.security.a", b"SCHILY.xattr.security.z"]
    body = pax_body(layer(engine, tree))
    places = [body.index(b" " + key + b"=") for key in keys]
    assert places == sorted(places)
    assert b" SCHILY.xattr.security.a=\0\n=\n" in body
    found = member(layer(engine, tree), "l" * 101)
    assert (found.uid, found.gid, found.linkname, found.mtime) == (2097152, 2097153, "t" * 101, 1.5)
    assert b"PaxHeaders.0/" + b"l" * 87 in [header[:100] for header in headers(layer(engine, tree))]


def test_sizes_of_8_gib_and_more(engine: _backend.Engine, tree: Path) -> None:
    size = 2**33
    (tree / "f").touch()
    try:
        os.truncate(tree / "f", size)
    except OSError:
        pytest.skip("no room for a sparse file of 8 GiB")
    settle(tree)
    with opened(tree) as (fd,):
        start = bytearray(4 * BLOCK)
        encoder = engine.encode.Encoder(table(engine, None, fd), [fd])
        assert encoder.readinto(start) == len(start)
    record = b"19 size=%d\n" % size
    assert bytes(start[2 * BLOCK :]).startswith(record)
    assert start[3 * BLOCK + 124 : 3 * BLOCK + 136] == b"00000000000\0"


def test_non_utf8_names_are_raw_in_ustar_and_binary_in_pax(engine: _backend.Engine, tree: Path) -> None:
    short, long = b"\xff\xfe", b"\xfe" * 120
    for name in (short, long):
        Path(os.fsdecode(os.path.join(os.fsencode(tree), name))).write_bytes(b"1")
    settle(tree)
    data = layer(engine, tree)
    assert short.ljust(100, b"\0") in [header[:100] for header in headers(data)]
    assert pax_body(data) == b"21 hdrcharset=BINARY\n130 path=" + long + b"\n"
    require("bsdtar", "tar")
    for program in ("bsdtar", "tar"):
        listed = subprocess.run([program, "-tf", "-"], input=data, capture_output=True, check=True).stdout
        assert len(listed.splitlines()) == 3


def test_utf8_names_need_no_charset(engine: _backend.Engine, tree: Path) -> None:
    (tree / ("€" * 40)).touch()
    settle(tree)
    assert b"hdrcharset" not in layer(engine, tree)
    assert "€" * 40 in names(layer(engine, tree))


@pytest.mark.parametrize(
    "bad", [b"\xed\xa0\x80", b"\xc0\xaf", b"\xf4\x90\x80\x80", b"\xe2\x82", b"\xf8\x88\x80\x80\x80"]
)
def test_not_quite_utf8_is_binary(engine: _backend.Engine, tree: Path, bad: bytes) -> None:
    Path(os.fsdecode(os.path.join(os.fsencode(tree), b"n" * 110 + bad))).touch()
    settle(tree)
    assert pax_body(layer(engine, tree)).startswith(b"21 hdrcharset=BINARY\n")


def test_xattr_name_with_equals_is_never_a_cut_key(engine: _backend.Engine, tree: Path) -> None:
    (tree / "f").touch()
    try:
        os.setxattr(tree / "f", "user.a=b%", b"\0\1\2\3")
    except OSError:
        pytest.skip("no user xattrs here")
    settle(tree)
    assert pax_body(layer(engine, tree)) == b"41 LIBARCHIVE.xattr.user.a%3Db%25=AAECAw\n"


def test_xattrs_with_empty_and_binary_values(engine: _backend.Engine, tree: Path) -> None:
    (tree / "f").touch()
    try:
        os.setxattr(tree / "f", "user.empty", b"")
        os.setxattr(tree / "f", "user.bin", b"\0=\n\xff")
    except OSError:
        pytest.skip("no user xattrs here")
    settle(tree)
    assert pax_body(layer(engine, tree)) == b"30 SCHILY.xattr.user.bin=\0=\n\xff\n28 SCHILY.xattr.user.empty=\n"


@needs_root
def test_devices_and_fifos(engine: _backend.Engine, tree: Path) -> None:
    os.mknod(tree / "block", 0o060644, os.makedev(8, 300))
    os.mknod(tree / "char", 0o020644, os.makedev(4095, 1048575))
    os.mkfifo(tree / "fifo")
    settle(tree)
    data = layer(engine, tree)
    found = {name: member(data, name) for name in ("block", "char", "fifo")}
    assert found["block"].isblk() and (found["block"].devmajor, found["block"].devminor) == (8, 300)
    assert found["char"].ischr() and (found["char"].devmajor, found["char"].devminor) == (4095, 1048575)
    assert found["fifo"].isfifo()


def test_only_mode_bits_are_written(engine: _backend.Engine, tree: Path) -> None:
    (tree / "f").touch()
    settle(tree)
    os.chmod(tree / "f", 0o4711)
    assert headers(layer(engine, tree))[-1][100:108] == b"0004711\0"


def test_hard_links_point_at_an_earlier_entry(engine: _backend.Engine, tree: Path) -> None:
    (tree / "z").write_bytes(b"data")
    os.link(tree / "z", tree / "a")
    os.link(tree / "z", tree / "m")
    try:
        os.setxattr(tree / "a", "user.x", b"1")
    except OSError:
        pass
    os.utime(tree / "a", ns=(0, 1_500_000_000))
    data = layer(engine, tree)
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        leader, *later = tar.getmembers()[1:]
    assert (leader.name, leader.type, leader.size) == ("a", tarfile.REGTYPE, 4)
    assert [(entry.name, entry.linkname, entry.type, entry.size) for entry in later] == [
        ("m", "a", tarfile.LNKTYPE, 0),
        ("z", "a", tarfile.LNKTYPE, 0),
    ]
    assert [entry.mtime for entry in later] == [1.5, 1.5]
    assert all("SCHILY.xattr.user.x" not in entry.pax_headers for entry in later)


def test_hard_linked_symlinks_stay_links_of_each_other(engine: _backend.Engine, tree: Path) -> None:
    (tree / "a").symlink_to("nowhere")
    os.link(tree / "a", tree / "b", follow_symlinks=False)
    with tarfile.open(fileobj=io.BytesIO(layer(engine, tree))) as tar:
        assert tar.getmember("a").issym() and tar.getmember("b").islnk() and tar.getmember("b").linkname == "a"


def test_whiteouts_are_clean_and_before_siblings(engine: _backend.Engine, tmp_path: Path, tree: Path) -> None:
    old = tmp_path / "a"
    for path in ("d/gone", "d/z", "gone", "x"):
        (old / path).parent.mkdir(parents=True, exist_ok=True)
        (old / path).write_bytes(b"old")
    (tree / "d").mkdir()
    for path in ("d/aa", "d/z", "x", "0"):
        (tree / path).write_bytes(b"new!")
    settle(old)
    settle(tree)
    data = layer(engine, tree, old)
    assert names(data) == [".wh.gone", "0", "d", "d/.wh.gone", "d/aa", "d/z", "x"]
    whiteout = member(data, "d/.wh.gone")
    assert whiteout.isreg()
    assert (whiteout.mode, whiteout.uid, whiteout.gid, whiteout.size, whiteout.mtime) == (0, 0, 0, 0, 0)
    assert not whiteout.pax_headers


def test_whiteout_of_the_longest_name(engine: _backend.Engine, tmp_path: Path, tree: Path) -> None:
    old = tmp_path / "a"
    old.mkdir()
    (old / ("n" * 255)).touch()
    settle(old)
    settle(tree)
    assert names(layer(engine, tree, old)) == [".wh." + "n" * 255]


def test_clamped_times(engine: _backend.Engine, tree: Path) -> None:
    times = {"early": 5 * 10**9 + 7, "exact": 10 * 10**9, "same-second": 10 * 10**9 + 1, "late": 99 * 10**9 + 5}
    for name, ns in times.items():
        (tree / name).touch()
        os.utime(tree / name, ns=(0, ns))
    data = layer(engine, tree, clamp_mtime=10)
    assert member(data, ".").mtime == 10
    found = {name: member(data, name) for name in times}
    assert {name: entry.mtime for name, entry in found.items()} == {
        "early": pytest.approx(5.000000007), "exact": 10, "same-second": 10, "late": 10
    }  # fmt: skip
    assert [name for name, entry in found.items() if "mtime" in entry.pax_headers] == ["early"]


def test_counters(engine: _backend.Engine, tree: Path) -> None:
    (tree / "a").write_bytes(b"x" * 1000)
    (tree / "empty").touch()
    with opened(tree) as (fd,):
        encoder = engine.encode.Encoder(table(engine, None, fd), [fd])
        pull(encoder)
        assert (encoder.entries, encoder.payload) == (3, 1000)


# ---- contents


def test_sparse_files_are_written_at_full_size(engine: _backend.Engine, tree: Path) -> None:
    with open(tree / "f", "wb") as file:
        for place in (3 << 20, 7 << 20, (7 << 20) + 5000):
            file.seek(place)
            file.write(b"data at %d" % place)
        file.truncate(9 << 20)
    (tree / "hole").touch()
    os.truncate(tree / "hole", 70_001)
    data = layer(engine, tree, piece=65536 + 3)
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        for name in ("f", "hole"):
            entry = tar.extractfile(name)
            assert entry is not None and entry.read() == (tree / name).read_bytes()
            assert tar.getmember(name).type == tarfile.REGTYPE


def test_paths_longer_than_path_max(engine: _backend.Engine, tree: Path) -> None:
    part = "p" * 250
    fd = os.open(tree, os.O_RDONLY)
    for _ in range(20):
        os.mkdir(part, dir_fd=fd)
        below = os.open(part, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    for name in ("f", "g"):
        os.close(os.open(name, os.O_CREAT | os.O_WRONLY, dir_fd=fd))
        with open(os.open(name, os.O_WRONLY, dir_fd=fd), "wb") as file:
            file.write(name.encode() * 10)
    os.close(fd)
    data = layer(engine, tree)
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        for name in ("f", "g"):
            entry = tar.extractfile("/".join([part] * 20 + [name]))
            assert entry is not None and entry.read() == name.encode() * 10


def test_reading_leaves_no_access_time(engine: _backend.Engine, tree: Path) -> None:
    (tree / "f").write_bytes(b"x")
    os.utime(tree / "f", ns=(1, 2 * 10**9))
    layer(engine, tree)
    assert os.stat(tree / "f").st_atime_ns == 1


@pytest.mark.parametrize("seed", range(12))
def test_native_and_baseline_bytes_are_the_same(tmp_path: Path, seed: int) -> None:
    made = trees.Generator(random.Random(seed)).tree(60)
    (tmp_path / "t").mkdir()
    made.make(os.fspath(tmp_path / "t" / "b"))
    found = []
    for name in ("native", "baseline"):
        engine = _backend._load(name)
        with opened(tmp_path / "t" / "b") as (fd,):
            found.append(pull(engine.encode.Encoder(table(engine, None, fd), [fd], clamp_mtime=1_700_000_000), 12345))
    assert found[0] == found[1]


def test_other_programs_see_the_same_entries(engine: _backend.Engine, tree: Path) -> None:
    require("bsdtar", "tar")
    (tree / "d" / ("e" * 120)).mkdir(parents=True)
    (tree / "d" / ("e" * 120) / ("f" * 120)).write_bytes(b"1")
    (tree / "l").symlink_to("t" * 150)
    os.link(tree / "d" / ("e" * 120) / ("f" * 120), tree / "z")
    data = layer(engine, tree)
    ours = [name.removeprefix("./") for name in names(data)]
    for program in ("bsdtar", "tar"):
        listed = subprocess.run([program, "-tf", "-"], input=data, capture_output=True, check=True).stdout.decode()
        assert [line.rstrip("/").removeprefix("./") for line in listed.splitlines()] == ours


# ---- what is refused


def truncate(path: Path) -> None:
    os.truncate(path, 10)


def extend(path: Path) -> None:
    with open(path, "ab") as file:
        file.write(b"more")


def touch(path: Path) -> None:
    os.utime(path, ns=(0, 5))


def rewrite(path: Path) -> None:
    """Same size and time, another inode."""
    status = os.stat(path)
    other = path.with_name("other")
    other.write_bytes(b"y" * status.st_size)
    os.utime(other, ns=(0, status.st_mtime_ns))
    os.rename(other, path)


def edit(path: Path) -> None:
    """Same size, time and inode: only ctime tells."""
    status = os.stat(path)
    time.sleep(0.03)  # beyond the tick of the clock that ctimes are taken from
    with open(path, "r+b") as file:
        file.write(b"edited")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def remove(path: Path) -> None:
    path.unlink()


def to_symlink(path: Path) -> None:
    path.unlink()
    path.symlink_to("/etc/passwd")


def to_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def parent_to_symlink(path: Path) -> None:
    path.parent.rename(path.parent.with_name("moved"))
    path.parent.symlink_to("moved")


@pytest.mark.parametrize(
    "change", [truncate, extend, touch, edit, rewrite, remove, to_symlink, to_fifo, parent_to_symlink]
)
def test_file_changed_between_listing_and_reading(engine: _backend.Engine, tree: Path, change: Any) -> None:
    (tree / "d").mkdir()
    (tree / "d" / "a").write_bytes(b"x" * 5000)
    (tree / "d" / "file").write_bytes(b"x" * 5000)
    with opened(tree) as (fd,):
        found = table(engine, None, fd)
        change(tree / "d" / "file")
        with pytest.raises(FileChangedError, match=r"d/file|d/a"):
            pull(engine.encode.Encoder(found, [fd]))


@pytest.mark.parametrize("change", [truncate, extend, touch, edit])
def test_file_changed_while_it_is_read(engine: _backend.Engine, tree: Path, change: Any) -> None:
    (tree / "file").write_bytes(b"x" * 500_000)
    settle(tree)
    with opened(tree) as (fd,):
        encoder = engine.encode.Encoder(table(engine, None, fd), [fd])
        encoder.readinto(bytearray(100_000))
        change(tree / "file")
        with pytest.raises(FileChangedError, match="file"):
            pull(encoder)


@pytest.mark.parametrize("path", [".wh.x", "d/.wh.x", ".wh.d/x", ".wh..wh..opq", ".wh."])
def test_names_that_mean_whiteouts_are_refused(engine: _backend.Engine, tree: Path, path: str) -> None:
    (tree / path).parent.mkdir(parents=True, exist_ok=True)
    (tree / path).touch()
    with pytest.raises(UnsafeEntryError, match=r"\.wh\."):
        layer(engine, tree)


def test_unchanged_whiteout_names_do_no_harm(engine: _backend.Engine, tmp_path: Path, tree: Path) -> None:
    (tree / ".wh.x").touch()
    (tree / "x.wh.y").touch()
    (tree / "d").mkdir()
    settle(tree)
    old = tmp_path / "a"
    subprocess.run(["cp", "-a", tree, old], check=True)
    (tree / "d" / "new").touch()
    settle(tree)
    assert names(layer(engine, tree, old)) == ["d", "d/new"]


def test_root_descriptors_must_be_there(engine: _backend.Engine, tree: Path) -> None:
    (tree / "f").write_bytes(b"x")
    with opened(tree) as (fd,), pytest.raises(UsageError):
        pull(engine.encode.Encoder(table(engine, None, fd), []))


def test_an_abandoned_encoder_closes_its_file(engine: _backend.Engine, tree: Path) -> None:
    (tree / "f").write_bytes(b"x" * 100_000)
    with opened(tree) as (fd,):
        found = table(engine, None, fd)
        before = len(os.listdir("/proc/self/fd"))
        encoder = engine.encode.Encoder(found, [fd])
        encoder.readinto(bytearray(2000))
        del encoder
        assert len(os.listdir("/proc/self/fd")) == before
