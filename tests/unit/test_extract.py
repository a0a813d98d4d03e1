"""Sections 1, 2 and 4 of the layer rules (docs/formats.md), one test or more for each; names and containment are in
test_containment.py, storage formats in test_extract_formats.py. Each runs on both engines, and on the native one again
with openat2 switched off (test_extract_object.py)."""

from __future__ import annotations

import os
import stat
import struct
from pathlib import Path
from typing import Any

import pytest

from fastlayer.errors import (
    FastlayerError,
    StorageError,
    UnsafeEntryError,
)
from tests.applying import (
    CAPABILITY,
    OLD,
    apply,
    char,
    fifo,
    file,
    folder,
    hardlink,
    is_whiteout,
    mode,
    names,
    owner,
    put,
    symlink,
    with_xattrs,
    xattrs,
)
from tests.conftest import needs_root
from tests.corpus.tarparts import pax

pytestmark = needs_root


@pytest.fixture
def target(tmp_path: Path) -> Path:
    path = tmp_path / "target"
    path.mkdir(mode=0o755)
    return path


# ---- 1: order and replacement ----------------------------------------------------------------------------------------


def test_rule_1_layers_in_the_order_given(engine: Any, target: Path) -> None:
    stats = apply(engine, target, file(b"a", b"1"), file(b"a", b"22") + file(b"b"))
    assert (target / "a").read_bytes() == b"22"
    assert [(s.entries, s.payload, s.whiteouts, s.warnings) for s in stats] == [(1, 1, 0, ()), (2, 2, 0, ())]


def test_rule_1_directory_over_directory_keeps_children_and_replaces_all_attributes(engine: Any, target: Path) -> None:
    put(target / "d/child")
    os.setxattr(target / "d", "user.old", b"x")
    os.setxattr(target / "d", "user.both", b"x")
    os.chmod(target / "d", 0o2777)
    os.chown(target / "d", 5, 6)
    apply(engine, target, with_xattrs(folder(b"d", mode=0o711, uid=7, gid=8, mtime=99), user__both=b"y", user__new=b""))
    assert (target / "d/child").read_bytes() == b"lower"
    assert (mode(target / "d"), owner(target / "d")) == (0o711, (7, 8))
    assert (target / "d").stat().st_mtime_ns == 99 * 10**9
    assert xattrs(target / "d") == {"user.both": b"y", "user.new": b""}


@pytest.mark.parametrize("new", [file(b"x", b"new"), symlink(b"x", b"nowhere"), fifo(b"x"), folder(b"x")])
@pytest.mark.parametrize("old", ["file", "full directory", "symlink", "fifo"])
def test_rule_1_anything_else_is_removed_and_made_again(engine: Any, target: Path, old: str, new: bytes) -> None:
    outside = put(target.parent / "outside/file", b"untouched")
    path = target / "x"
    if old == "file":
        put(path)
    elif old == "full directory":
        put(path / "a/b/c")
        (path / "link").symlink_to(outside.parent)
    elif old == "symlink":
        path.symlink_to(outside)
    else:
        os.mkfifo(path)
    apply(engine, target, new)
    kind = {b"0": stat.S_ISREG, b"2": stat.S_ISLNK, b"6": stat.S_ISFIFO, b"5": stat.S_ISDIR}[new[156:157]]
    assert kind(path.lstat().st_mode)
    assert outside.read_bytes() == b"untouched"
    if new[156:157] == b"5" and old == "full directory":
        assert names(target) == ["x", "x/a", "x/a/b", "x/a/b/c", "x/link"]
    else:
        assert names(target) == ["x"]


def test_rule_1_never_write_in_place(engine: Any, target: Path) -> None:
    kept = put(target.parent / "other-name", b"shared")
    os.link(kept, target / "a")
    os.link(kept, target / "same")
    apply(engine, target, file(b"a", b"new", mode=0o600))
    assert kept.read_bytes() == (target / "same").read_bytes() == b"shared"
    assert (target / "a").read_bytes() == b"new"


def test_rule_1_old_privileges_do_not_survive(engine: Any, target: Path) -> None:
    path = put(target / "su")
    os.setxattr(path, "security.capability", CAPABILITY)
    os.setxattr(path, "user.x", b"x")
    os.chmod(path, 0o6755)
    apply(engine, target, file(b"su", b"new", mode=0o755))
    assert mode(path) == 0o755
    assert xattrs(path) == {}


@pytest.mark.parametrize("spelling", [b"a", b"./a", b"/a", b"a//", b".//./a"])
def test_rule_1_last_of_equal_paths_wins(engine: Any, target: Path, spelling: bytes) -> None:
    first = file(b"a", b"first", mode=0o600) if not spelling.endswith(b"/") else file(b"a", b"first")
    second = folder(spelling) if spelling.endswith(b"/") else file(spelling, b"2nd")
    apply(engine, target, first + second)
    assert names(target) == ["a"]
    if not spelling.endswith(b"/"):
        assert (target / "a").read_bytes() == b"2nd"
        assert mode(target / "a") == 0o644


def test_rule_1_file_replaces_a_directory_of_the_same_layer(engine: Any, target: Path) -> None:
    apply(engine, target, folder(b"a") + file(b"a/b") + file(b"a", b"x") + file(b"a/c", b"y"))
    assert names(target) == ["a", "a/c"]


def test_rule_1_entry_order_is_free(engine: Any, target: Path) -> None:
    apply(
        engine, target, file(b"d/e/f", b"x") + folder(b"d/e", mode=0o700, mtime=7) + folder(b"d", mode=0o711, mtime=5)
    )
    assert (mode(target / "d"), mode(target / "d/e")) == (0o711, 0o700)
    assert ((target / "d").stat().st_mtime, (target / "d/e").stat().st_mtime) == (5, 7)


# ---- 2: attributes ---------------------------------------------------------------------------------------------------


def test_rule_2_owner_then_mode_then_xattrs(engine: Any, target: Path) -> None:
    """chown would clear the set-id bits and the capability."""
    entry = file(b"su", b"x", mode=0o6755, uid=1000, gid=50, mtime=3)
    apply(engine, target, with_xattrs(entry, security__capability=CAPABILITY, user__a=b"\0\n="))
    assert (mode(target / "su"), owner(target / "su")) == (0o6755, (1000, 50))
    assert xattrs(target / "su") == {"security.capability": CAPABILITY, "user.a": b"\0\n="}
    assert (target / "su").stat().st_mtime == 3


@pytest.mark.parametrize("umask", [0, 0o22, 0o77, 0o777])
def test_rule_2_modes_are_exact_whatever_the_umask(engine: Any, target: Path, umask: int) -> None:
    """Only 07777 counts: old tars store the type, too."""
    modes = {b"a": 0o644, b"b": 0o7777, b"c": 0, b"d": 0o600, b"e": 0o100666, b"f": 0o1777}
    layer = b"".join(file(name, mode=value) for name, value in modes.items())
    layer += folder(b"dir", mode=0o777) + folder(b"closed", mode=0) + fifo(b"fifo", mode=0o666)
    layer += char(b"null", 1, 3, mode=0o20666) + file(b"implied/x", mode=0o666)
    old = os.umask(umask)
    try:
        apply(engine, target, layer)
    finally:
        os.umask(old)
    for name, value in modes.items():
        assert mode(target / os.fsdecode(name)) == value & 0o7777
    assert [mode(target / n) for n in ("dir", "closed", "fifo", "null")] == [0o777, 0, 0o666, 0o666]
    assert mode(target / "implied") == 0o755


def test_rule_2_nanoseconds_and_times_before_the_epoch(engine: Any, target: Path) -> None:
    layer = pax(("mtime", b"1700000000.1234567899")) + file(b"a") + pax(("mtime", b"-1.5")) + folder(b"d")
    apply(engine, target, layer + pax(("mtime", b"5.000000001")) + symlink(b"l", b"a"))
    assert (target / "a").stat().st_mtime_ns == 1_700_000_000_123_456_789
    assert (target / "d").stat().st_mtime_ns == -1_500_000_000
    assert (target / "l").lstat().st_mtime_ns == 5_000_000_001


def test_rule_2_directory_mtimes_last(engine: Any, target: Path) -> None:
    put(target / "d/gone")
    apply(engine, target, folder(b"d", mtime=7) + file(b"d/new") + file(b"d/.wh.gone") + folder(b".", mtime=8))
    assert (target / "d").stat().st_mtime == 7
    assert target.stat().st_mtime == 8
    assert names(target) == ["d", "d/new"]


def test_rule_2_directory_without_an_entry_keeps_its_mtime(engine: Any, target: Path) -> None:
    for name in ("a/x", "b/gone", "c/all/y", "e/z"):
        put(target / name)
    os.utime(target, ns=(OLD, OLD))
    apply(engine, target, file(b"a/new") + file(b"b/.wh.gone") + file(b"c/.wh..wh..opq") + folder(b"e/z"))
    for path in (target, target / "a", target / "b", target / "c", target / "e"):
        assert path.stat().st_mtime_ns == OLD, path


def test_rule_2_missing_parents_are_0755_root(engine: Any, target: Path) -> None:
    old = os.umask(0)
    try:
        apply(engine, target, file(b"a/b/c", uid=1000, gid=1000))
    finally:
        os.umask(old)
    assert [(mode(target / n), owner(target / n)) for n in ("a", "a/b")] == [(0o755, (0, 0))] * 2


def test_rule_2_a_setgid_parent_gives_nothing(engine: Any, target: Path) -> None:
    os.chown(target, 0, 99)
    os.chmod(target, 0o2755)
    layer = file(b"f") + folder(b"d") + symlink(b"l", b"f") + fifo(b"p") + file(b"new/x") + folder(b"own", gid=99)
    apply(engine, target, layer)
    found = {n: owner(target / n) for n in ("f", "d", "l", "p", "new", "new/x", "own")}
    assert found == {**dict.fromkeys(found, (0, 0)), "own": (0, 99)}
    assert mode(target / "d") == mode(target / "new") == 0o755


def acl(*rows: tuple[int, int, int]) -> bytes:
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", tag, bits, who) for tag, bits, who in rows)


ANYBODY = 0xFFFFFFFF
ACL = acl((1, 7, ANYBODY), (2, 7, 1000), (4, 5, ANYBODY), (16, 7, ANYBODY), (32, 5, ANYBODY))


def test_rule_2_a_default_acl_of_the_parent_gives_nothing(engine: Any, target: Path) -> None:
    os.setxattr(target, "system.posix_acl_default", ACL)
    layer = file(b"f", mode=0o640) + folder(b"d", mode=0o750) + fifo(b"p", mode=0o600) + file(b"new/x", mode=0o604)
    apply(engine, target, layer + symlink(b"l", b"f"))
    for name in ("f", "d", "p", "new", "new/x"):
        assert xattrs(target / name) == {}, name
    assert [mode(target / n) for n in ("f", "d", "p", "new", "new/x")] == [0o640, 0o750, 0o600, 0o755, 0o604]


def test_rule_2_a_default_acl_of_the_layer_does_not_reach_its_own_entries(engine: Any, target: Path) -> None:
    layer = with_xattrs(folder(b"d", mode=0o755), system__posix_acl_default=ACL)
    apply(engine, target, layer + file(b"d/f", mode=0o640) + folder(b"d/e", mode=0o700) + file(b"d/e/g"))
    assert xattrs(target / "d") == {"system.posix_acl_default": ACL}
    assert [xattrs(target / n) for n in ("d/f", "d/e", "d/e/g")] == [{}] * 3
    assert [mode(target / n) for n in ("d/f", "d/e")] == [0o640, 0o700]


def test_rule_2_access_acls_survive_the_mode(engine: Any, target: Path) -> None:
    apply(engine, target, with_xattrs(file(b"f", mode=0o775), system__posix_acl_access=ACL))
    assert xattrs(target / "f") == {"system.posix_acl_access": ACL}
    assert mode(target / "f") == 0o775


@pytest.mark.parametrize("text", [b"/abs", b"../../..", b"a//b/", b"\xff\xfe\n", b"t" * 4095])
def test_rule_2_symlinks_byte_for_byte(engine: Any, target: Path, text: bytes) -> None:
    apply(engine, target, symlink(b"l", text, uid=5, gid=6, mtime=77))
    assert os.readlink(os.fsencode(target / "l")) == text
    assert owner(target / "l") == (5, 6)
    assert (target / "l").lstat().st_mtime == 77


def test_rule_2_symlink_target_too_long(engine: Any, target: Path) -> None:
    with pytest.raises(FastlayerError):
        apply(engine, target, symlink(b"l", b"t" * 4096))


def test_rule_2_refused_xattrs_are_one_warning(engine: Any, target: Path) -> None:
    layer = b"".join(with_xattrs(fifo(b"p%d" % i), user__a=b"1") for i in range(3))
    put(target / "file")
    stats = apply(engine, target, layer + with_xattrs(symlink(b"l", b"file"), user__a=b"1"))[0]
    assert stats.skipped_xattrs == 4
    assert len(stats.warnings) == 1
    assert stats.warnings[0].startswith("4 extended attributes not set: Operation not permitted (first: user.a of p0)")
    assert xattrs(target / "file") == {}


def test_rule_2_trusted_xattrs_are_not_taken(engine: Any, target: Path) -> None:
    os.setxattr(target, "trusted.overlay.origin", b"host")
    os.setxattr(target, "trusted.mine", b"host")
    layer = with_xattrs(folder(b"d"), **{"trusted__overlay.opaque": b"y", "trusted__x": b"1", "user__y": b"2"})
    stats = apply(engine, target, folder(b".") + layer)[0]
    assert xattrs(target / "d") == {"user.y": b"2"}
    assert xattrs(target) == {"trusted.overlay.origin": b"host", "trusted.mine": b"host"}
    assert stats.skipped_xattrs == 2
    assert len(stats.warnings) == 1


def test_rule_2_too_big_an_xattr_is_an_error(engine: Any, target: Path) -> None:
    with pytest.raises(StorageError) as failed:
        apply(engine, target, with_xattrs(file(b"f"), user__big=b"x" * 70000))
    assert failed.value.filename == b"f"


def test_rule_2_devices(engine: Any, target: Path) -> None:
    apply(engine, target, char(b"c", 8, 300, mode=0o640, uid=3) + char(b"whiteout", 0, 0) + char(b"m", 4095, 1048575))
    found = (target / "c").lstat()
    assert (os.major(found.st_rdev), os.minor(found.st_rdev)) == (8, 300)
    assert (mode(target / "c"), owner(target / "c")) == (0o640, (3, 0))
    assert is_whiteout(target / "whiteout")
    assert (target / "m").lstat().st_rdev == os.makedev(4095, 1048575)


@pytest.mark.parametrize("format", ["overlay", "overlay-userxattr"])
def test_rule_2_device_0_0_is_refused_on_overlay(engine: Any, target: Path, format: str) -> None:
    with pytest.raises(UnsafeEntryError, match="w: device 0:0"):
        apply(engine, target, char(b"w", 0, 0), format=format)
    assert names(target) == []


def test_owners_are_mapped(engine: Any, target: Path) -> None:
    maps = {"uid_map": ((0, 100000, 1000), (1000, 1000, 1)), "gid_map": ((0, 200000, 65536),)}
    apply(engine, target, file(b"d/a", uid=5, gid=6) + file(b"b", uid=1000) + symlink(b"l", b"a"), **maps)
    found = [owner(target / n) for n in ("d", "d/a", "b", "l")]
    assert found == [(100000, 200000), (100005, 200006), (1000, 200000), (100000, 200000)]


@pytest.mark.parametrize(
    "entry", [file(b"x", uid=7), folder(b"x", gid=7), symlink(b"x", b"y", uid=7), fifo(b"x", uid=7)]
)
def test_unmapped_owners_are_refused(engine: Any, target: Path, entry: bytes) -> None:
    with pytest.raises(UnsafeEntryError, match=r"x: .id 7 is not in the .id map"):
        apply(engine, target, entry, uid_map=((0, 0, 7), (8, 8, 100)), gid_map=((0, 0, 7),))


def test_sparse_content(engine: Any, target: Path) -> None:
    from tests.corpus.tarparts import gnu_sparse

    body = b"x" * 512 + b"y" * 512
    apply(engine, target, gnu_sparse([(4096, 512), (1 << 20, 512), (1 << 30, 0)], body, 1 << 30, name=b"s"), step=700)
    path = target / "s"
    assert path.stat().st_size == 1 << 30
    assert path.stat().st_blocks * 512 < 1 << 20
    with path.open("rb") as stream:
        assert stream.read(4097) == bytes(4096) + b"x"
        stream.seek(1 << 20)
        assert stream.read(513) == b"y" * 512 + b"\0"


@pytest.mark.parametrize("step", [1, 511, 513, 100_000])
def test_any_cutting_of_the_input(engine: Any, target: Path, step: int) -> None:
    body = bytes(range(256)) * 9
    apply(
        engine, target, file(b"a", body) + file(b"d/empty") + hardlink(b"b", b"a") + file(b"c", body[:513]), step=step
    )
    assert (target / "b").read_bytes() == body
    assert (target / "c").read_bytes() == body[:513]
    assert names(target) == ["a", "b", "c", "d", "d/empty"]


# ---- 4: whiteouts ----------------------------------------------------------------------------------------------------


@pytest.fixture
def lower(target: Path) -> Path:
    for name in ("a", "d/x", "d/y", "d/sub/deep/z", "keep/k"):
        put(target / name)
    return target


def test_rule_4_whiteout_removes_lower_files_and_trees(engine: Any, lower: Path) -> None:
    stats = apply(engine, lower, file(b".wh.a") + file(b"d/.wh.x") + file(b"d/sub/.wh.deep"))[0]
    assert names(lower) == ["d", "d/sub", "d/y", "keep", "keep/k"]
    assert (stats.entries, stats.whiteouts) == (3, 3)


@pytest.mark.parametrize("first", ["marker", "entries"])
def test_rule_4_whiteout_spares_same_layer(engine: Any, lower: Path, first: str) -> None:
    marker, entries = file(b".wh.d") + file(b".wh.a"), folder(b"d", mode=0o700) + file(b"d/new") + file(b"a", b"new")
    apply(engine, lower, marker + entries if first == "marker" else entries + marker)
    assert names(lower) == ["a", "d", "d/new", "keep", "keep/k"]
    assert (lower / "a").read_bytes() == b"new"
    assert mode(lower / "d") == 0o700


@pytest.mark.parametrize("first", ["marker", "entries"])
def test_rule_4_whiteout_spares_entries_below_implied_directories(engine: Any, lower: Path, first: str) -> None:
    """The directories themselves are hidden: what remains of them is implied."""
    os.chmod(lower / "d", 0o700)
    os.setxattr(lower / "d/sub", "user.lower", b"x")
    marker, entries = file(b".wh.d"), file(b"d/sub/new")
    apply(engine, lower, marker + entries if first == "marker" else entries + marker)
    assert names(lower) == ["a", "d", "d/sub", "d/sub/new", "keep", "keep/k"]
    assert (mode(lower / "d"), xattrs(lower / "d/sub")) == (0o755, {})


@pytest.mark.parametrize("first", ["marker", "entries"])
def test_rule_4_opaque_hides_all_lower_children(engine: Any, lower: Path, first: str) -> None:
    marker, entries = file(b"d/.wh..wh..opq"), file(b"d/new") + file(b"d/sub/deep/new")
    os.chmod(lower / "d", 0o711)
    apply(engine, lower, marker + entries if first == "marker" else entries + marker)
    assert names(lower) == ["a", "d", "d/new", "d/sub", "d/sub/deep", "d/sub/deep/new", "keep", "keep/k"]
    assert mode(lower / "d") == 0o711


@pytest.mark.parametrize("first", ["marker", "entries"])
def test_rule_4_opaque_root(engine: Any, lower: Path, first: str) -> None:
    marker, entries = file(b"./.wh..wh..opq"), file(b"new") + file(b"d/new") + symlink(b"a", b"x")
    apply(engine, lower, marker + entries if first == "marker" else entries + marker)
    assert names(lower) == ["a", "d", "d/new", "new"]


def test_rule_4_hard_links_and_replaced_directories_are_of_this_layer(engine: Any, lower: Path) -> None:
    layer = hardlink(b"d/link", b"a") + file(b"keep", b"file") + file(b"keep/again") + file(b".wh.keep")
    apply(engine, lower, layer + file(b"d/.wh..wh..opq"))
    assert names(lower) == ["a", "d", "d/link", "keep", "keep/again"]


@pytest.mark.parametrize("entry", [folder(b"d/.wh.x"), symlink(b"d/.wh.x", b"/etc"), file(b"d/.wh.x", b"body" * 999)])
def test_rule_4_only_the_name_decides(engine: Any, lower: Path, entry: bytes) -> None:
    apply(engine, lower, with_xattrs(entry, user__a=b"1") + file(b"d/after", b"x"))
    assert names(lower / "d") == ["after", "sub", "sub/deep", "sub/deep/z", "y"]


def test_rule_4_long_markers_and_pax_names(engine: Any, target: Path) -> None:
    long = b"n" * 255
    put(target / os.fsdecode(long))
    put(target / "p")
    apply(engine, target, file(b".wh." + long) + pax(("path", b".//.wh.p")) + file(b"innocent"))
    assert names(target) == []


def test_rule_4_missing_targets_are_no_error(engine: Any, lower: Path) -> None:
    before = names(lower)
    apply(engine, lower, file(b".wh.no") + file(b"no/where/.wh.x") + file(b"a/.wh.x") + file(b"a/.wh..wh..opq"))
    assert names(lower) == before
    assert (lower / "a").read_bytes() == b"lower"


@pytest.mark.parametrize("name", [b".wh.", b".wh..", b".wh...", b"d/.wh.", b"d/.wh../", b"d/sub/.wh..."])
def test_rule_4_bare_and_dotted_whiteouts_are_refused(engine: Any, lower: Path, name: bytes) -> None:
    before = names(lower)
    with pytest.raises(UnsafeEntryError):
        apply(engine, lower, named_dir(name))
    assert names(lower) == before


def named_dir(name: bytes) -> bytes:
    return folder(name) if name.endswith(b"/") else file(name)


@pytest.mark.parametrize(
    "name", [b".wh..wh..opqX", b".wh..wh.aufs", b".wh..wh.plnk", b".wh..wh.x", b".wh..wh.plnk/1.2"]
)
def test_rule_4_look_alikes_have_no_effect(engine: Any, lower: Path, name: bytes) -> None:
    put(lower / ".wh.aufs")
    before = names(lower)
    apply(engine, lower, file(name) + file(b"d/" + name))
    assert names(lower) == before


def test_rule_4_a_marker_in_the_middle_of_a_path_deletes_nothing(engine: Any, lower: Path) -> None:
    before = names(lower)
    apply(engine, lower, file(b".wh.d/x") + file(b"d/.wh.sub/deep/y") + file(b"d/.wh..wh..opq/x"))
    assert names(lower) == before


def test_rule_4_whiteout_through_a_symlinked_parent_acts_inside(engine: Any, lower: Path) -> None:
    (lower / "in").symlink_to("/d")
    (lower / "out").symlink_to("/../../../d")
    apply(engine, lower, file(b"in/.wh.x") + file(b"out/.wh.y"))
    assert names(lower / "d") == ["sub", "sub/deep", "sub/deep/z"]


def test_rule_4_whiteout_of_one_hard_link_leaves_the_other(engine: Any, lower: Path) -> None:
    os.link(lower / "a", lower / "b")
    apply(engine, lower, file(b".wh.a"))
    assert (lower / "b").read_bytes() == b"lower"
    assert not (lower / "a").exists()


def test_rule_4_whiteouts_act_on_earlier_layers_of_the_same_call(engine: Any, target: Path) -> None:
    layers = [file(b"d/a") + file(b"d/b"), file(b"d/.wh.a") + file(b"d/c"), file(b"d/.wh..wh..opq") + file(b"d/e")]
    apply(engine, target, *layers[:2])
    assert names(target) == ["d", "d/b", "d/c"]
    apply(engine, target, layers[2])
    assert names(target) == ["d", "d/e"]


def test_rule_4_many_whiteouts_are_not_quadratic(engine: Any, target: Path) -> None:
    for number in range(3000):
        (target / f"f{number}").touch()
    apply(engine, target, b"".join(file(b".wh.f%d" % number) for number in range(3000)) * 2)
    assert names(target) == []
