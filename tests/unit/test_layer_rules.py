"""The rules of applying a layer, one test each, on both engines.

tests/layer_rules.toml says which rule is tested where; the tar format's own rules are in test_tarread.py, those of diff
in test_changes*.py and test_encode.py.
"""

from __future__ import annotations

import os
import resource
import stat
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fastlayer.errors import LayerError, LimitError, StorageError, UnsafeEntryError
from tests import trees
from tests.conftest import needs_root
from tests.corpus.tarparts import base256, long_name, member, pax
from tests.layers import apply, listing

OLD = 1_000_000_000


def entry(name: bytes, type: bytes, body: bytes = b"", **fields: Any) -> bytes:
    """A member; GNU long names where they do not fit."""
    long = long_name(name) if len(name) > 100 else b""
    if len(fields.get("link", b"")) > 100:
        long += long_name(fields["link"], b"K")
        fields["link"] = fields["link"][:100]
    return long + member(name[:100], type, body, **fields)


def file(name: bytes, body: bytes = b"x", **fields: Any) -> bytes:
    return entry(name, b"0", body, **fields)


def directory(name: bytes, **fields: Any) -> bytes:
    return entry(name, b"5", mode=fields.pop("mode", 0o755), **fields)


def symlink(name: bytes, target: bytes, **fields: Any) -> bytes:
    return entry(name, b"2", link=target, **fields)


def hardlink(name: bytes, target: bytes, **fields: Any) -> bytes:
    return entry(name, b"1", link=target, **fields)


def xattr(*pairs: tuple[bytes, bytes]) -> bytes:
    return pax(*((b"SCHILY.xattr." + name, value) for name, value in pairs))


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def xattrs_of(path: Path) -> dict[str, bytes]:
    names = os.listxattr(path, follow_symlinks=False)
    return {name: os.getxattr(path, name, follow_symlinks=False) for name in names if name != "security.selinux"}


@pytest.fixture
def target(tmp_path: Path) -> Path:
    inside = tmp_path / "target"
    inside.mkdir()
    return inside


@pytest.fixture
def outside(tmp_path: Path, target: Path) -> Iterator[Path]:
    """A directory beside the target that must be the same afterwards."""
    where = tmp_path / "outside"
    where.mkdir()
    (where / "file").write_bytes(b"canary")
    (where / "dir").mkdir()
    before = trees.snapshot(str(where))
    yield where
    assert trees.snapshot(str(where)) == before
    assert sorted(os.listdir(tmp_path)) == ["outside", "target"]


# ---- 0. invariants --------------------------------------------------------------------------

# where the outside is -> layers
ESCAPES: dict[str, Callable[[bytes], list[bytes]]] = {
    "file through an absolute link": lambda out: [symlink(b"l", out) + file(b"l/file", b"bad")],
    "file through a relative link": lambda out: [symlink(b"l", b"../outside") + file(b"l/new", b"bad")],
    "file through the link of an earlier layer": lambda out: [symlink(b"l", out), file(b"l/file", b"bad")],
    "file through a chain": lambda out: [
        symlink(b"a", b"b") + symlink(b"b", b"../../.." + out) + file(b"a/file", b"bad")
    ],
    "file onto a link": lambda out: [symlink(b"l", out + b"/file") + file(b"l", b"bad", mode=0o777)],
    "directory onto a link": lambda out: [symlink(b"l", out + b"/dir") + directory(b"l/", mode=0o700, uid=7)],
    "directory onto a link, with a dot": lambda out: [symlink(b"l", out + b"/dir") + directory(b"l/.", mode=0o700)],
    "link to the outside, hard": lambda out: [hardlink(b"h", b"../outside/file")],
    "hard link through a link": lambda out: [symlink(b"l", out) + hardlink(b"h", b"l/file")],
    "attributes through a hard-linked link": lambda out: [
        symlink(b"l", out + b"/file") + hardlink(b"h", b"l", mode=0o777, uid=9) + file(b"h", b"bad", mode=0o777)
    ],
    "hard link into a linked directory": lambda out: [
        file(b"f") + symlink(b"l", out + b"/dir") + hardlink(b"l/h", b"f")
    ],
    "whiteout through a link": lambda out: [symlink(b"l", out), file(b"l/.wh.file")],
    "opaque marker through a link": lambda out: [symlink(b"l", out), file(b"l/.wh..wh..opq")],
    "removal of a link to a directory": lambda out: [symlink(b"l", out), file(b".wh.l")],
    "removal of a tree with a link": lambda out: [symlink(b"d/l", out), file(b"d", b"file")],
    "attributes of a directory that became a link": lambda out: [
        directory(b"d/", mode=0o700, mtime=5) + symlink(b"d", out + b"/dir", mtime=6)
    ],
    "cached directory that became a link": lambda out: [
        directory(b"d/") + file(b"d/one") + symlink(b"d", out) + file(b"d/file", b"bad")
    ],
    "cached directory whose parent became a link": lambda out: [
        file(b"a/dir/one") + symlink(b"a", out) + file(b"a/dir/two", b"bad")
    ],
    "cached directory that was whited out": lambda out: [
        file(b"d/one"),
        file(b"d/two") + file(b".wh.d") + symlink(b"d", out),
    ],
    "dots in a name": lambda out: [file(b"../outside/file", b"bad")],
    "dots in the middle": lambda out: [file(b"a/../../outside/file", b"bad")],
    "absolute name": lambda out: [file(b"/outside/file", b"bad")],
}


@pytest.mark.parametrize("name", ESCAPES)
def test_nothing_outside_the_target_changes(engine: Any, target: Path, outside: Path, name: str) -> None:
    try:
        apply(engine, target, *ESCAPES[name](os.fsencode(outside)))
    except (LayerError, StorageError) as refusal:
        assert "\n" not in str(refusal)


def test_result_does_not_depend_on_umask_cwd_descriptors_recursion(engine: Any, target: Path, tmp_path: Path) -> None:
    layer = file(b"p/" * 200 + b"f", mode=0o666) + directory(b"d/", mode=0o777) + file(b"e/.wh.x")
    umask, cwd, recursion = os.umask(0o077), os.getcwd(), sys.getrecursionlimit()
    descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        os.chdir("/")
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))) + 48, descriptors[1]))
        sys.setrecursionlimit(150)
        apply(engine, target, layer)
    finally:
        sys.setrecursionlimit(recursion)
        resource.setrlimit(resource.RLIMIT_NOFILE, descriptors)
        os.chdir(cwd)
        os.umask(umask)
    assert mode_of(target / "p") == 0o755
    assert mode_of(target / ("p/" * 200) / "f") == 0o666
    assert mode_of(target / "d") == 0o777


# ---- 1. order and replacement ---------------------------------------------------------------


def test_layers_apply_in_the_order_given(engine: Any, target: Path) -> None:
    apply(engine, target, file(b"f", b"one") + file(b"g"), file(b"f", b"two"), file(b".wh.g"))
    assert (target / "f").read_bytes() == b"two"
    assert listing(target) == ["f"]


def test_existing_directory_gets_all_attributes_and_keeps_children(engine: Any, target: Path) -> None:
    old = xattr((b"user.old", b"1"), (b"user.both", b"1")) + directory(b"d/", mode=0o700, mtime=OLD) + file(b"d/child")
    new = xattr((b"user.both", b"2"), (b"user.new", b"2")) + directory(b"d/", mode=0o751, mtime=OLD + 1)
    apply(engine, target, old, new)
    assert listing(target) == ["d", "d/child"]
    assert (mode_of(target / "d"), (target / "d").stat().st_mtime) == (0o751, OLD + 1)
    assert xattrs_of(target / "d") == {"user.both": b"2", "user.new": b"2"}


@pytest.mark.parametrize("old", ["file", "directory", "symlink", "fifo"])
@pytest.mark.parametrize("new", ["file", "directory", "symlink", "fifo", "hardlink"])
def test_anything_replaces_anything(engine: Any, target: Path, old: str, new: str) -> None:
    make = {
        "file": file(b"x", b"body", mtime=OLD),
        "directory": directory(b"x/") + file(b"x/child", mtime=OLD) + directory(b"x/", mtime=OLD),
        "symlink": symlink(b"x", b"other", mtime=OLD),
        "fifo": member(b"x", b"6", mtime=OLD),
        "hardlink": hardlink(b"x", b"other"),
    }
    other = file(b"other", mtime=OLD)
    apply(engine, target, other + make[old], make[new])
    fresh = target.parent / "fresh"
    fresh.mkdir()
    apply(engine, fresh, other + make[new])
    for where in (target, fresh):
        os.utime(where, (0, 0))
    trees.assert_same_tree(str(target), str(fresh))


def test_nothing_is_written_in_place(engine: Any, target: Path, tmp_path: Path) -> None:
    """Another name of the inode, outside or inside, keeps content and attributes."""
    (target / "f").write_bytes(b"shared")
    os.link(target / "f", tmp_path / "outside")
    before = (tmp_path / "outside").stat()
    apply(engine, target, file(b"f", b"new content", mode=0o600))
    after = (tmp_path / "outside").stat()
    assert (tmp_path / "outside").read_bytes() == b"shared"
    assert (after.st_mode, after.st_mtime_ns, after.st_nlink) == (before.st_mode, before.st_mtime_ns, 1)


def test_a_fifo_in_the_way_does_not_hang(engine: Any, target: Path) -> None:
    os.mkfifo(target / "f")
    apply(engine, target, file(b"f", b"new"))
    assert (target / "f").read_bytes() == b"new"


def test_old_privileges_do_not_survive(engine: Any, target: Path) -> None:
    old = xattr((b"user.x", b"1")) + file(b"f", mode=0o6755) + xattr((b"user.x", b"1")) + directory(b"d/", mode=0o3777)
    apply(engine, target, old, file(b"f", mode=0o644) + directory(b"d/", mode=0o755))
    assert (mode_of(target / "f"), mode_of(target / "d")) == (0o644, 0o755)
    assert xattrs_of(target / "f") == xattrs_of(target / "d") == {}


def test_the_last_of_equal_paths_counts(engine: Any, target: Path) -> None:
    apply(engine, target, b"".join(file(name, name) for name in (b"a", b"./a", b"/a", b".//a")))
    assert (target / "a").read_bytes() == b".//a"
    apply(engine, target, directory(b"d/", mode=0o700) + directory(b"./d", mode=0o711) + file(b"d/f") + file(b"/d"))
    assert listing(target) == ["a", "d"]


def test_a_directory_entry_may_come_after_its_children(engine: Any, target: Path) -> None:
    apply(engine, target, file(b"d/e/f") + directory(b"d/e/", mode=0o711, mtime=OLD) + directory(b"d/", mtime=OLD + 1))
    assert mode_of(target / "d" / "e") == 0o711
    assert [(target / p).stat().st_mtime for p in ("d", "d/e")] == [OLD + 1, OLD]


# ---- 2. attributes --------------------------------------------------------------------------


@needs_root
def test_owner_mode_xattrs_times_in_this_order(engine: Any, target: Path) -> None:
    """chown clears set-id bits and capabilities, chmod the mask of an ACL: all are there at the end."""
    acl, capability = trees.ACLS[0], trees.CAPABILITIES[0]
    layer = xattr((b"security.capability", capability), (b"system.posix_acl_access", acl), (b"user.x", b"1"))
    apply(engine, target, layer + file(b"f", mode=0o6754, uid=1000, gid=50, mtime=OLD))
    found = (target / "f").stat()
    assert (found.st_uid, found.st_gid, found.st_mtime) == (1000, 50, OLD)
    assert mode_of(target / "f") == 0o6754
    assert xattrs_of(target / "f") == {
        "security.capability": capability,
        "system.posix_acl_access": acl,
        "user.x": b"1",
    }


def test_only_permission_bits_count_and_no_umask(engine: Any, target: Path) -> None:
    umask = os.umask(0o077)
    try:
        apply(
            engine, target, file(b"f", mode=0o100666) + directory(b"d/", mode=0o40777) + member(b"p", b"6", mode=0o666)
        )
    finally:
        os.umask(umask)
    assert [mode_of(target / name) for name in "fdp"] == [0o666, 0o777, 0o666]


@needs_root
def test_owner_is_the_number(engine: Any, target: Path) -> None:
    named = member(b"named", b"0", uid=0, gid=0, patch={265: b"daemon", 297: b"daemon"})
    apply(engine, target, named + file(b"big", uid=base256(4294967294, 8), gid=base256(2097152, 8)))
    assert [((target / n).stat().st_uid, (target / n).stat().st_gid) for n in ("named", "big")] == [
        (0, 0),
        (4294967294, 2097152),
    ]


@pytest.mark.parametrize("text,ns", [(b"1.5", 15 * 10**8), (b"-1.5", -15 * 10**8), (b"7.1234567899", 7123456789)])
def test_times_to_the_nanosecond(engine: Any, target: Path, text: bytes, ns: int) -> None:
    time = pax(("mtime", text))
    apply(engine, target, time + file(b"f") + time + directory(b"d/") + time + symlink(b"l", b"f"))
    assert [(target / name).lstat().st_mtime_ns for name in "fdl"] == [ns] * 3


def test_directory_times_are_set_last(engine: Any, target: Path) -> None:
    lower = directory(b"d/") + file(b"d/old") + file(b"d/sub/old")
    apply(engine, target, lower, directory(b"d/", mtime=OLD) + file(b"d/.wh.old") + file(b"d/sub/new") + file(b"d/new"))
    assert (target / "d").stat().st_mtime == OLD


def test_directory_times_only_for_the_same_inode(engine: Any, target: Path, outside: Path) -> None:
    layer = directory(b"d/", mtime=OLD) + symlink(b"d", os.fsencode(outside), mtime=OLD + 1)
    apply(engine, target, layer)
    assert (target / "d").lstat().st_mtime == OLD + 1


def test_a_directory_without_an_entry_keeps_its_mtime(engine: Any, target: Path) -> None:
    apply(engine, target, directory(b"d/", mtime=OLD) + file(b"d/a") + directory(b"./", mtime=OLD + 1))
    apply(engine, target, file(b"d/b") + file(b"new") + file(b"d/.wh.a"))
    assert listing(target) == ["d", "d/b", "new"]
    assert ((target / "d").stat().st_mtime, target.stat().st_mtime) == (OLD, OLD + 1)


@needs_root
def test_missing_parents_are_0755_root(engine: Any, target: Path) -> None:
    os.chmod(target, 0o2777)
    os.chown(target, 1000, 1000)
    os.chmod(target, 0o2777)
    os.setxattr(target, "system.posix_acl_default", trees.ACLS[0])
    umask = os.umask(0o077)
    try:
        apply(engine, target, file(b"p/q/f", uid=1000))
    finally:
        os.umask(umask)
    for path in (target / "p", target / "p" / "q"):
        assert (mode_of(path), path.stat().st_uid, path.stat().st_gid, xattrs_of(path)) == (0o755, 0, 0, {})


def test_nothing_is_inherited_from_a_default_acl(engine: Any, target: Path) -> None:
    acl = xattr((b"system.posix_acl_default", trees.ACLS[0]))
    children = file(b"d/f", mode=0o640) + directory(b"d/e/", mode=0o750) + member(b"d/p", b"6", mode=0o600)
    apply(engine, target, acl + directory(b"d/") + children + symlink(b"d/l", b"f"))
    assert xattrs_of(target / "d") == {"system.posix_acl_default": trees.ACLS[0]}
    assert [mode_of(target / "d" / name) for name in "fep"] == [0o640, 0o750, 0o600]
    assert [xattrs_of(target / "d" / name) for name in "fepl"] == [{}] * 4


@pytest.mark.parametrize("to", [b"/etc/x", b"../..", b"a//b/", b"\xff\n", b"t" * 101, b"x/" * 2047 + b"y"], ids=len)
def test_symlink_targets_are_stored_byte_for_byte(engine: Any, target: Path, to: bytes) -> None:
    apply(engine, target, symlink(b"l", to, mode=0o600, mtime=OLD))
    assert os.readlink(os.fsencode(target / "l")) == to
    assert (target / "l").lstat().st_mtime == OLD


def test_hard_link_entries_leave_the_inode_as_it_is(engine: Any, target: Path) -> None:
    apply(engine, target, file(b"f", mode=0o640, mtime=OLD) + hardlink(b"h", b"f", mode=0o777, mtime=1, size=1))
    found = (target / "h").stat()
    assert (found.st_nlink, mode_of(target / "h"), found.st_mtime) == (2, 0o640, OLD)


def test_xattr_values_are_raw_bytes(engine: Any, target: Path) -> None:
    values = {b"user.nul": b"\0a\0", b"user.newline": b"\n22 path=x\n", b"user.equals": b"=b=", b"user.empty": b""}
    apply(engine, target, xattr(*values.items()) + file(b"f"))
    assert xattrs_of(target / "f") == {os.fsdecode(name): value for name, value in values.items()}


def test_user_xattrs_on_links_are_a_warning(engine: Any, target: Path) -> None:
    x = xattr((b"user.x", b"1"))
    layer = file(b"f") + x + symlink(b"l", b"f") + x + member(b"p", b"6")
    [stats] = apply(engine, target, layer)
    assert (stats.skipped_xattrs, len(stats.warnings)) == (2, 1)
    assert xattrs_of(target / "f") == {}


def test_trusted_xattrs_are_not_taken(engine: Any, target: Path) -> None:
    [stats] = apply(engine, target, xattr((b"trusted.overlay.opaque", b"y"), (b"trusted.t", b"1")) + directory(b"d/"))
    assert xattrs_of(target / "d") == {}
    assert stats.skipped_xattrs == 2


@needs_root
def test_device_numbers_are_the_entrys(engine: Any, target: Path) -> None:
    null = member(b"zero", b"3", major=0, minor=0)
    apply(engine, target, member(b"c", b"3", major=8, minor=300) + member(b"b", b"4", major=4095, minor=1048575) + null)
    numbers = [(target / name).lstat().st_rdev for name in ("c", "b", "zero")]
    assert [(os.major(n), os.minor(n)) for n in numbers] == [(8, 300), (4095, 1048575), (0, 0)]


def test_contiguous_files_are_files(engine: Any, target: Path) -> None:
    apply(engine, target, member(b"f", b"7", b"body"))
    assert (target / "f").read_bytes() == b"body"


# ---- 3. names and containment ---------------------------------------------------------------


def test_names_are_normalised_and_bytes(engine: Any, target: Path) -> None:
    names = [b"/abs", b"./dot", b"s//lash", b"back\\slash", b"\xff", b"e\xcc\x81", b"\xc3\xa9", b"UP", b"up"]
    apply(engine, target, b"".join(file(name) for name in names))
    assert set(os.listdir(os.fsencode(target))) == {
        b"abs", b"dot", b"s", b"back\\slash", b"\xff", b"e\xcc\x81", b"\xc3\xa9", b"UP", b"up",
    }  # fmt: skip


@pytest.mark.parametrize("name", [b"..", b"../x", b"a/../x", b"a/..", b"/../x"])
def test_dots_in_a_name_are_refused(engine: Any, target: Path, name: bytes) -> None:
    with pytest.raises(UnsafeEntryError):
        apply(engine, target, file(name))
    with pytest.raises(UnsafeEntryError):
        apply(engine, target, file(b"f") + hardlink(b"h", name))


@pytest.mark.parametrize("name", [b"/", b".", b"./", b"//", b"/."])
def test_only_a_directory_may_be_the_root(engine: Any, target: Path, name: bytes) -> None:
    apply(engine, target, directory(name, mode=0o711, mtime=OLD))
    assert (mode_of(target), target.stat().st_mtime) == (0o711, OLD)
    for entry in (symlink(name, b"/etc"), member(name, b"6"), hardlink(name, b"f")):
        with pytest.raises(UnsafeEntryError):
            apply(engine, target, file(b"f") + entry)


def test_empty_names_are_refused(engine: Any, target: Path) -> None:
    with pytest.raises(UnsafeEntryError):
        apply(engine, target, file(b""))


@pytest.mark.parametrize("to", [b"/run", b"run", b"../../run", b"/../run/.", b"/real/../run"])
def test_links_in_parents_lead_inside(engine: Any, target: Path, to: bytes) -> None:
    apply(engine, target, directory(b"run/") + directory(b"real/") + symlink(b"l", to), file(b"l/f"))
    assert (target / "run" / "f").exists()
    assert (target / "l").is_symlink()


def test_a_dangling_link_in_a_parent_leads_to_a_new_directory(engine: Any, target: Path, outside: Path) -> None:
    apply(engine, target, symlink(b"l", b"/nowhere/deep") + file(b"l/f"))
    assert (target / "nowhere" / "deep" / "f").exists()


@pytest.mark.parametrize("links", [[(b"l", b"l")], [(b"l", b"m"), (b"m", b"/l")], [(b"l", b"l/x")]])
def test_link_loops_are_refused(engine: Any, target: Path, links: list[tuple[bytes, bytes]]) -> None:
    with pytest.raises(UnsafeEntryError):
        apply(engine, target, b"".join(symlink(*link) for link in links) + file(b"l/f"))


def test_mazes_of_links_stay_inside(engine: Any, target: Path, outside: Path) -> None:
    """CVE-2025-4517: a path that grows beyond PATH_MAX while it is resolved."""
    long, layer, path = b"d" * 247, b"", b""
    for step in b"abcdefghijklmnop":
        layer += directory(path + long + b"/") + symlink(path + bytes([step]), long)
        path += bytes([step]) + b"/"
    maze = b"/".join(bytes([step]) for step in b"abcdefghijklmnop")
    layer += symlink(maze + b"/l", b"../" * 16) + symlink(b"escape", maze + b"/l/../../outside")
    apply(engine, target, layer + file(maze + b"/f") + file(b"escape/file", b"bad"))
    assert (target / os.fsdecode(maze) / "f").exists()
    assert (target / "outside" / "file").read_bytes() == b"bad"


@pytest.mark.parametrize("name", [b"l", b"l/", b"l/."])
def test_a_final_link_is_replaced(engine: Any, target: Path, name: bytes) -> None:
    """CVE-2026-33056."""
    apply(engine, target, directory(b"d/", mode=0o755, mtime=OLD) + symlink(b"l", b"d"), directory(name, mode=0o700))
    assert not (target / "l").is_symlink()
    assert (mode_of(target / "l"), mode_of(target / "d")) == (0o700, 0o755)


def test_remembered_directories_die_with_what_replaces_them(engine: Any, target: Path) -> None:
    """CVE-2021-37701, CVE-2021-32803."""
    layer = directory(b"other/") + file(b"a/b/one") + symlink(b"a", b"other") + file(b"a/b/two")
    apply(engine, target, layer, file(b"a/b/three") + file(b"other/b/four"))
    assert listing(target) == ["a", "other", "other/b", "other/b/four", "other/b/three", "other/b/two"]


def test_hard_link_targets_are_paths_in_the_target(engine: Any, target: Path) -> None:
    names = [b"f", b"/f", b"./f", b"//f", b"././/f"]
    layer = file(b"f") + b"".join(hardlink(b"deep/h%d" % n, name) for n, name in enumerate(names))
    apply(engine, target, layer)
    assert (target / "f").stat().st_nlink == 1 + len(names)


def test_hard_link_into_a_lower_layer(engine: Any, target: Path) -> None:
    apply(engine, target, file(b"d/f") + symlink(b"l", b"d"), hardlink(b"h", b"l/f"))
    assert (target / "h").stat().st_ino == (target / "d" / "f").stat().st_ino


def test_hard_link_to_a_link_links_the_link(engine: Any, target: Path) -> None:
    """CVE-2021-32760: and nothing goes through it afterwards."""
    layer = file(b"f", mode=0o600, mtime=OLD) + symlink(b"l", b"f") + hardlink(b"h", b"l", mode=0o777, mtime=1)
    apply(engine, target, layer)
    assert os.readlink(target / "h") == "f"
    assert (mode_of(target / "f"), (target / "f").stat().st_mtime) == (0o600, OLD)


@pytest.mark.parametrize("to", [b"missing", b"d", b"/", b".", b"d/missing/f", b"h", b"f/x"])
def test_hard_links_to_nothing_are_refused(engine: Any, target: Path, to: bytes) -> None:
    with pytest.raises(UnsafeEntryError):
        apply(engine, target, directory(b"d/") + file(b"f") + hardlink(b"h", to))


def test_long_names(engine: Any, target: Path) -> None:
    apply(engine, target, file(b"n" * 255))
    assert listing(target) == ["n" * 255]
    for name in (b"n" * 256, b"n" * 256 + b"/f"):
        with pytest.raises(UnsafeEntryError):
            apply(engine, target, file(name))


def test_paths_longer_than_path_max_work(engine: Any, target: Path) -> None:
    name = b"/".join([b"n" * 200] * 40)
    apply(engine, target, file(name + b"/f"), file(b".wh..wh..opq"))
    assert listing(target) == []


def test_a_parent_that_is_no_directory_is_replaced(engine: Any, target: Path) -> None:
    apply(engine, target, file(b"p"), file(b"p/f"))
    assert listing(target) == ["p", "p/f"]


def test_removal_is_not_recursive(engine: Any, target: Path) -> None:
    apply(engine, target, file(b"d/" * 1500 + b"f"))
    limit = sys.getrecursionlimit()
    try:
        sys.setrecursionlimit(150)
        apply(engine, target, file(b"d"))
    finally:
        sys.setrecursionlimit(limit)
    assert listing(target) == ["d"]


def test_closed_directories_are_no_obstacle(engine: Any, target: Path) -> None:
    """Not even to their owner who is not root."""
    closed = file(b"d/sub/f") + directory(b"d/sub/", mode=0o400) + directory(b"d/", mode=0o444)
    apply(engine, target, closed, file(b"d/sub/new") + file(b".wh.x"), fsync=True)
    assert mode_of(target / "d") == 0o444
    apply(engine, target, file(b"d"))
    assert listing(target) == ["d"]


def test_set_id_bits_only_with_their_owner(engine: Any, target: Path) -> None:
    [stats] = apply(engine, target, file(b"d/f", mode=0o4755, uid=7) + directory(b"d/", mode=0o2755, uid=7))
    for path in (target / "d", target / "d" / "f"):
        assert bool(mode_of(path) & 0o6000) == (path.stat().st_uid == 7)
    assert len(stats.warnings) == (os.geteuid() != 0)


# ---- 4. whiteouts ---------------------------------------------------------------------------

LOWER = file(b"d/old") + file(b"d/sub/old") + file(b"f", b"old")


@pytest.mark.parametrize("first", [True, False])
def test_a_whiteout_hides_only_the_layers_below(engine: Any, target: Path, first: bool) -> None:
    marker, new = file(b".wh.d") + file(b".wh.f"), file(b"d/new") + file(b"d/sub/deep/new") + file(b"f", b"new")
    apply(engine, target, LOWER, marker + new if first else new + marker)
    assert listing(target) == ["d", "d/new", "d/sub", "d/sub/deep", "d/sub/deep/new", "f"]
    assert (target / "f").read_bytes() == b"new"


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("where", ["", "d/"])
def test_an_opaque_directory_hides_all_lower_children(engine: Any, target: Path, first: bool, where: str) -> None:
    prefix = where.encode()
    lower = file(prefix + b"old") + file(prefix + b"sub/old") + file(prefix + b"sub/x/old")
    marker, new = file(prefix + b".wh..wh..opq"), file(prefix + b"sub/x/new")
    apply(engine, target, lower, marker + new if first else new + marker)
    assert listing(target / where) == ["sub", "sub/x", "sub/x/new"]


def test_markers_in_a_hidden_directory_change_nothing(engine: Any, target: Path) -> None:
    apply(engine, target, LOWER, file(b"d/.wh..wh..opq") + file(b".wh.d") + file(b"d/sub/.wh.old"))
    assert listing(target) == ["f"]
    apply(engine, target, LOWER, file(b"d/sub/.wh..wh..opq") + file(b"d/.wh..wh..opq") + file(b".wh..wh..opq"))
    assert listing(target) == []


def test_only_the_name_makes_a_whiteout(engine: Any, target: Path) -> None:
    lower = b"".join(file(name) for name in (b"a", b"b", b"c", b"d", b"e"))
    markers = file(b".wh.a", b"body" * 300, mode=0o777) + directory(b".wh.b/") + symlink(b".wh.c", b"x")
    markers += hardlink(b".wh.d", b"e") + xattr((b"user.x", b"1")) + long_name(b"./.wh.e") + file(b"x")
    [_, stats] = apply(engine, target, lower, markers)
    assert listing(target) == []
    assert (stats.whiteouts, stats.payload) == (5, 0)


@pytest.mark.parametrize("length", [251, 252, 255])
def test_whiteouts_of_the_longest_names(engine: Any, target: Path, length: int) -> None:
    name = b"n" * length
    apply(engine, target, file(name), file(b".wh." + name))
    assert listing(target) == []


def test_whiteouts_of_what_is_not_there(engine: Any, target: Path) -> None:
    apply(engine, target, file(b"f"), file(b".wh.x") + file(b"a/b/.wh.x") + file(b"f/.wh.x") + file(b"a/.wh..wh..opq"))
    assert listing(target) == ["f"]


@pytest.mark.parametrize("name", [b".wh.", b".wh..", b".wh...", b"d/.wh.", b"d/.wh..", b"d/.wh..."])
def test_whiteouts_without_a_name_are_refused(engine: Any, target: Path, name: bytes) -> None:
    with pytest.raises(UnsafeEntryError):
        apply(engine, target, LOWER + file(name))
    assert listing(target) == ["d", "d/old", "d/sub", "d/sub/old", "f"]


@pytest.mark.parametrize(
    "name", [b".wh..wh..opqX", b".wh..wh.aufs", b".wh..wh.plnk/", b"d/.wh..wh..opq2", b"d/.wh.sub/old"]
)
def test_look_alike_markers_have_no_effect(engine: Any, target: Path, name: bytes) -> None:
    apply(engine, target, LOWER, file(name) if not name.endswith(b"/") else directory(name))
    assert listing(target) == ["d", "d/old", "d/sub", "d/sub/old", "f"]


def test_whiteouts_through_a_link_stay_inside(engine: Any, target: Path, outside: Path) -> None:
    apply(engine, target, LOWER + symlink(b"in", b"/d") + symlink(b"out", os.fsencode(outside)))
    apply(engine, target, file(b"in/.wh.old") + file(b"out/.wh.file"))
    assert listing(target) == ["d", "d/sub", "d/sub/old", "f", "in", "out"]


def test_whiteout_of_one_name_leaves_the_other(engine: Any, target: Path) -> None:
    apply(engine, target, file(b"a", b"body") + hardlink(b"b", b"a"), file(b".wh.a"))
    assert listing(target) == ["b"]
    assert (target / "b").read_bytes() == b"body"


def test_many_whiteouts_are_not_quadratic(engine: Any, target: Path) -> None:
    names = [b"%05d" % n for n in range(8000)]
    apply(engine, target, b"".join(file(name, b"") for name in names), b"".join(file(b".wh." + n, b"") for n in names))
    assert listing(target) == []


# ---- 5. limits ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "limits,layer",
    [
        ({"max_entries": 2}, file(b"a") * 3),
        ({"max_file_size": 10}, file(b"a", b"x" * 11)),
        ({"max_size": 20}, file(b"a", b"x" * 15) + file(b"b", b"x" * 15)),
        ({"max_pax": 100}, xattr((b"user.x", b"x" * 100)) + file(b"a")),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_limits_are_kept(engine: Any, target: Path, limits: dict[str, int], layer: bytes) -> None:
    with pytest.raises(LimitError):
        apply(engine, target, layer, **limits)
