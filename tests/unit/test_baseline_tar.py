"""The baseline's own parts: header bytes, numbers, resolution, removal; and storage formats over several layers."""

from __future__ import annotations

import errno
import itertools
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from fastlayer._baseline import header, numbers, paths, pax, remove
from fastlayer._baseline.encode import Encoder
from fastlayer._baseline.header import Header, encode_header
from fastlayer._baseline.nodes import Node
from fastlayer.errors import FileChangedError, UnsafeEntryError
from tests.conftest import needs_root
from tests.corpus import tarparts
from tests.corpus.tarparts import member
from tests.layers import apply, listing

# ---- header bytes ---------------------------------------------------------------------------


def test_a_plain_entry_is_one_ustar_block() -> None:
    entry = Header(b"0", b"usr/bin/x", 0o104755, 1, 2, 3, 4 * 10**9)
    assert encode_header(entry) == tarparts.header(
        b"usr/bin/x", b"0", mode=0o4755, uid=1, gid=2, size=3, mtime=4, magic=b"ustar\x0000"
    )


@pytest.mark.parametrize(
    "path,prefix,name",
    [
        (b"n" * 100, b"", b"n" * 100),
        (b"p" * 10 + b"/" + b"n" * 100, b"p" * 10, b"n" * 100),
        (b"p" * 155 + b"/" + b"n" * 100, b"p" * 155, b"n" * 100),
        (b"a/" * 60, b"a/" * 58 + b"a", b"a/"),
        (b"a/" * 100, b"a/" * 77 + b"a", b"a/" * 22),
    ],
    ids=str,
)
def test_a_long_path_is_cut_at_the_last_slash_that_fits(path: bytes, prefix: bytes, name: bytes) -> None:
    assert header.split_path(path) == (prefix, name)
    block = encode_header(Header(b"0", path, 0o644))
    assert len(block) == 512
    assert (block[:100].rstrip(b"\0"), block[345:500].rstrip(b"\0")) == (name, prefix)


@pytest.mark.parametrize(
    "path", [b"n" * 101, b"n" * 101 + b"/", b"p" * 156 + b"/n", b"/" + b"n" * 100, b"p/" + b"n" * 101]
)
def test_a_path_that_cannot_be_cut_goes_to_pax(path: bytes) -> None:
    blocks = encode_header(Header(b"0", path, 0o644))
    assert blocks[156:157] == b"x"
    assert tarparts.record(b"path", path) in blocks
    assert blocks[-512:-412] == path[:100]


@pytest.mark.parametrize(
    "mtime_ns,text,field",
    [
        (1_500_000_000, b"1.5", 1),
        (-1_500_000_000, b"-1.5", 0),
        (-1, b"-0.000000001", 0),
        (-3 * 10**9, b"-3", 0),
        (2**33 * 10**9, b"8589934592", 2**33 - 1),
        ((2**33 - 1) * 10**9 + 120_000_000, b"8589934591.12", 2**33 - 1),
    ],
)
def test_times_that_do_not_fit_go_to_pax_exactly(mtime_ns: int, text: bytes, field: int) -> None:
    blocks = encode_header(Header(b"0", b"f", 0o644, mtime_ns=mtime_ns))
    assert tarparts.record(b"mtime", text) in blocks
    assert blocks[-512:][136:148] == b"%011o\0" % field
    assert numbers.time_ns(text) == mtime_ns


def test_pax_records_come_in_one_order() -> None:
    link, path = b"l" * 101, b"\xff" * 101
    xattrs = ((b"user.a", b"\0\n"), (b"user.b=%", b"value"), (b"user.c", b""))
    entry = Header(b"2", path, 0o777, 2**31, 2**21, 2**33, -1, link, xattrs=xattrs)
    blocks = encode_header(entry)
    want = tarparts.records(
        ("hdrcharset", b"BINARY"), ("gid", b"2097152"), ("linkpath", link), ("mtime", b"-0.000000001"), ("path", path),
        ("size", b"8589934592"), ("uid", b"2147483648"), ("SCHILY.xattr.user.a", b"\0\n"),
        ("LIBARCHIVE.xattr.user.b%3D%25", b"dmFsdWU"), ("SCHILY.xattr.user.c", b""),
    )  # fmt: skip
    assert blocks[512:-512].rstrip(b"\0") == want
    assert pax.parse(want).xattrs == xattrs


def test_record_lengths_count_themselves() -> None:
    for length in itertools.chain(range(1, 120), range(985, 1005)):
        record = header.encode_record(b"k", b"v" * length)
        assert record.startswith(b"%d " % len(record))


# ---- resolution and removal -----------------------------------------------------------------


def _refuse(fd: int, at: Node, name: bytes, links: int) -> bool:
    return False


def _resolve(root: Path, path: bytes) -> paths.Parts | None:
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        found = paths.resolve(fd, Node(), paths.normalise(path), _refuse)
    finally:
        os.close(fd)
    if found is None:
        return None
    os.close(found[0])
    return tuple(found[1].names())


@pytest.mark.parametrize(
    "target,leads_to",
    [
        ("d/e", (b"d", b"e")),
        ("/d/e", (b"d", b"e")),
        ("../../../../d", (b"d",)),
        ("d/../d/./e//", (b"d", b"e")),
        ("d/up/e", (b"d", b"e")),
        ("/", ()),
        ("nowhere", None),
        ("file", None),
        ("file/..", None),
    ],
)
def test_links_in_parents_are_followed_as_in_a_chroot(
    tmp_path: Path, target: str, leads_to: paths.Parts | None
) -> None:
    (tmp_path / "d" / "e").mkdir(parents=True)
    (tmp_path / "d" / "up").symlink_to("/etc/../d")
    (tmp_path / "etc").mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "l").symlink_to(target)
    assert _resolve(tmp_path, b"l") == leads_to


def test_forty_links_are_followed_and_loops_refused(tmp_path: Path) -> None:
    (tmp_path / "l0").mkdir()
    for n in range(41):
        (tmp_path / f"l{n + 1}").symlink_to(f"l{n}")
    assert _resolve(tmp_path, b"l40") == (b"l0",)
    with pytest.raises(UnsafeEntryError, match="too many symbolic links"):
        _resolve(tmp_path, b"l41")
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(UnsafeEntryError):
        _resolve(tmp_path, b"loop/x")


def test_encoder_files_are_opened_without_links(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "f").write_bytes(b"f")
    (tmp_path / "l").symlink_to("d")
    root = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.close(paths.open_beneath(root, b"d/f"))
        for path, reason in ((b"l/f", errno.ENOTDIR), (b"l", errno.ELOOP), (b"d/g", errno.ENOENT)):
            with pytest.raises(OSError) as refusal:
                paths.open_beneath(root, path)
            assert refusal.value.errno == reason
    finally:
        os.close(root)


def test_removal_knows_no_depth_and_keeps_what_it_is_told(tmp_path: Path) -> None:
    fd = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    inner = os.dup(fd)
    for depth in range(1500):
        os.mkdir("deep", dir_fd=inner)
        below = os.open("deep", os.O_RDONLY, dir_fd=inner)
        os.close(inner)
        inner = below
        if depth % 100 == 0:
            os.close(os.open("f", os.O_CREAT, dir_fd=inner))
    os.close(inner)
    spared: list[int] = []
    top = kept = Node()
    for name in [*[b"deep"] * 101, b"f"]:
        kept = kept.child(name)
    kept.made = True
    remove.remove(fd, b"deep", top.find(b"deep"), lambda _, node: spared.append(len(node.names())))
    assert spared == list(range(101, 0, -1))
    remove.remove(fd, b"deep", None, lambda _, node: pytest.fail(str(node.names())))
    os.close(fd)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("job", ["resolve", "open", "remove"])
def test_an_interrupt_at_any_close_stays_an_interrupt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, job: str
) -> None:
    """It may come when a descriptor has just been closed: its number must not be closed again."""

    def run(root: int) -> None:
        if job == "remove":
            remove.remove(root, b"a", None, lambda *_: None)
        elif job == "open":
            close(paths.open_directory(root, (b"a", b"b", b"c")))
        elif (found := paths.resolve(root, Node(), (b"a", b"up", b"a", b"b", b"c"), _refuse)) is not None:
            close(found[0])

    close = os.close
    for number in itertools.count():
        left = [number]

        def closing(fd: int, left: list[int] = left) -> None:
            close(fd)
            left[0] -= 1
            if left[0] == -1:
                raise KeyboardInterrupt

        (tmp_path / "a" / "b" / "c").mkdir(parents=True, exist_ok=True)
        if not (tmp_path / "a" / "up").is_symlink():
            (tmp_path / "a" / "up").symlink_to("/a/..")
        root = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
        monkeypatch.setattr(os, "close", closing)
        try:
            run(root)
        except KeyboardInterrupt:
            continue
        finally:
            monkeypatch.undo()
            close(root)
        assert number > 2
        return


# ---- extraction, both engines ---------------------------------------------------------------


def is_whiteout(path: Path) -> bool:
    found = path.lstat()
    return stat.S_ISCHR(found.st_mode) and found.st_rdev == 0


def test_layer_of_whiteouts_gives_the_same_tree_in_any_order(engine: Any, tmp_path: Path) -> None:
    lower = b"".join(member(name, b"0", b"old") for name in (b"a/x", b"a/sub/y", b"b", b"o/z", b"o/sub/z"))
    parts = [
        member(b".wh.a"),
        member(b"a/sub/new", b"0", b"new"),
        member(b".wh.b"),
        member(b"b", b"0", b"new"),
        member(b"o/.wh..wh..opq"),
        member(b"o/sub/new", b"0", b"new"),
    ]
    for number, order in enumerate(itertools.permutations(parts)):
        if number % 12:
            continue
        target = tmp_path / str(number)
        target.mkdir()
        apply(engine, target, lower, b"".join(order))
        assert listing(target) == ["a", "a/sub", "a/sub/new", "b", "o", "o/sub", "o/sub/new"]
        assert (target / "b").read_bytes() == b"new"
        assert stat.S_IMODE((target / "a" / "sub").stat().st_mode) == 0o755


@needs_root
@pytest.mark.parametrize(
    "format,key", [("overlay", "trusted.overlay.opaque"), ("overlay-userxattr", "user.overlay.opaque")]
)
def test_overlay_directory_after_a_whiteout_is_opaque(engine: Any, tmp_path: Path, format: str, key: str) -> None:
    apply(
        engine,
        tmp_path,
        member(b".wh.d") + member(b".wh.f"),
        member(b"d/", b"5") + member(b"f", b"0", b"x"),
        format=format,
    )
    assert os.getxattr(tmp_path / "d", key) == b"y"
    assert (tmp_path / "f").read_bytes() == b"x"
    apply(engine, tmp_path, member(b"d/", b"5", mode=0o700), format=format)
    assert os.getxattr(tmp_path / "d", key) == b"y", "the format's own attribute is not the entry's to replace"


@needs_root
def test_overlay_whiteouts_are_devices_and_not_kept_where_nothing_shows(engine: Any, tmp_path: Path) -> None:
    apply(
        engine, tmp_path, member(b"p/q/.wh.gone") + member(b"o/.wh..wh..opq") + member(b"o/d/.wh.x"), format="overlay"
    )
    assert is_whiteout(tmp_path / "p" / "q" / "gone")
    assert listing(tmp_path) == ["o", "o/d", "p", "p/q", "p/q/gone"]
    apply(engine, tmp_path, member(b"p/.wh..wh..opq"), format="overlay")
    assert listing(tmp_path) == ["o", "o/d", "p"]


@needs_root
def test_overlay_file_in_place_of_a_directory_then_a_directory_is_opaque(engine: Any, tmp_path: Path) -> None:
    apply(engine, tmp_path, member(b"d", b"0", b"x"), member(b"d/", b"5"), format="overlay")
    assert os.getxattr(tmp_path / "d", "trusted.overlay.opaque") == b"y"


@needs_root
def test_overlay_root_opaque_is_warned_about(engine: Any, tmp_path: Path) -> None:
    [stats] = apply(engine, tmp_path, member(b".wh..wh..opq"), format="overlay")
    assert len(stats.warnings) == 1


@needs_root
def test_overlay_device_zero_is_refused(engine: Any, tmp_path: Path) -> None:
    for format in ("overlay", "overlay-userxattr"):
        with pytest.raises(UnsafeEntryError):
            apply(engine, tmp_path, member(b"null", b"3"), format=format)
    apply(engine, tmp_path, member(b"null", b"3"), format="dir")
    assert is_whiteout(tmp_path / "null")


def test_aufs_whiteouts_are_files(engine: Any, tmp_path: Path) -> None:
    apply(engine, tmp_path, member(b".wh.d") + member(b"o/.wh..wh..opq") + member(b"o/.wh.x"), format="aufs")
    assert listing(tmp_path) == [".wh.d", "o", "o/.wh..wh..opq"]
    apply(engine, tmp_path, member(b"d/", b"5"), format="aufs")
    assert listing(tmp_path) == ["d", "d/.wh..wh..opq", "o", "o/.wh..wh..opq"]


def test_names_of_aufs_books_have_no_effect(engine: Any, tmp_path: Path) -> None:
    parts = member(b".wh..wh.plnk/", b"5") + member(b".wh..wh.plnk/1.2", b"0", b"x") + member(b".wh..wh.aufs")
    apply(engine, tmp_path, member(b"keep", b"0", b"x"), parts + member(b"d/.wh.m/x", b"0", b"y"))
    assert listing(tmp_path) == ["keep"]


# ---- the encoder over tables of either backend ----------------------------------------------


def test_encoder_takes_tables_of_both_backends_and_refuses_changed_files(engine: Any, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"x" * 5000)
    root = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        differ = engine.changes.Differ(None, root, compare="metadata", xattrs="all")
        while differ.step():
            pass
        table = differ.finish()
        buffer = bytearray(1 << 16)
        assert Encoder(table, [root]).readinto(buffer) % 512 == 0
        assert b"x" * 5000 in buffer
        (tmp_path / "f").write_bytes(b"y" * 4999)
        with pytest.raises(FileChangedError, match="f: changed"):
            Encoder(table, [root]).readinto(buffer)
    finally:
        os.close(root)
