"""The overlay fast path on upperdirs made by hand: no mount needed, and states no kernel of today would write."""

from __future__ import annotations

import io
import os
import socket
import stat
import tarfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from fastlayer import _backend
from fastlayer.errors import FileChangedError, UnsafeEntryError, UsageError
from tests.conftest import needs_root

pytestmark = needs_root  # char 0:0 and trusted.overlay.*

TIME = 1_600_000_000 * 10**9
NAMESPACES = ["trusted.overlay.", "user.overlay."]
USER = {"userxattr": True}


class Layers:
    """An upperdir and its lowerdirs, top first."""

    def __init__(self, where: Path, lowers: int) -> None:
        self.upper = where / "upper"
        self.lowers = [where / f"lower{number}" for number in range(1, lowers + 1)]
        for path in (self.upper, *self.lowers):
            path.mkdir()
            os.utime(path, ns=(0, TIME))

    @property
    def lower(self) -> Path:
        return self.lowers[0]

    @contextmanager
    def opened(self) -> Iterator[tuple[int, list[int]]]:
        fds = [os.open(path, os.O_RDONLY | os.O_DIRECTORY) for path in (self.upper, *self.lowers)]
        try:
            yield fds[0], fds[1:]
        finally:
            for fd in fds:
                os.close(fd)

    def table(self, engine: _backend.Engine, **options: Any) -> Any:
        for path in (self.upper, *self.lowers):
            os.utime(path, ns=(0, TIME))
        with self.opened() as (upper, lowers):
            return finish(engine.upper.UpperDiffer(upper, lowers, **options))

    def changes(self, engine: _backend.Engine, **options: Any) -> list[tuple[str, str]]:
        return [(row.kind, row.path.decode()) for row in self.table(engine, **options).rows()]

    def layer(self, engine: _backend.Engine, **options: Any) -> bytes:
        found = self.table(engine, **options)
        with self.opened() as (upper, lowers):
            encoder = engine.encode.Encoder(found, [upper, *lowers])
            buffer, out = bytearray(1 << 16), b""
            while got := encoder.readinto(buffer):
                out += buffer[:got]
        return out


def finish(differ: Any) -> Any:
    while differ.step():
        pass
    assert list(differ.unverified()) == []
    return differ.finish()


@pytest.fixture
def layers(tmp_path: Path) -> Layers:
    return Layers(tmp_path, 1)


@pytest.fixture
def stack(tmp_path: Path) -> Layers:
    return Layers(tmp_path, 3)


@pytest.fixture(params=NAMESPACES)
def space(request: pytest.FixtureRequest) -> str:
    """Both name spaces the marks may live in."""
    return str(request.param)


def mounted(space: str) -> dict[str, bool]:
    """The option for marks in that name space."""
    return {"userxattr": space == "user.overlay."}


def put(root: Path, path: str, data: bytes = b"data", when: int = TIME) -> Path:
    where = root / path
    if not where.parent.exists():
        folder(where.parents[-1], str(where.parent))
    where.write_bytes(data)
    os.utime(where, ns=(0, when))
    return where


def folder(root: Path, path: str) -> Path:
    """A directory and those above it, all of one time."""
    where = root / path
    missing = [p for p in (where, *where.parents) if not p.exists()]
    where.mkdir(parents=True, exist_ok=True)
    for made in missing:
        os.utime(made, ns=(0, TIME))
    return where


def same_times(*roots: Path) -> None:
    """Making children touched their directories."""
    for root in roots:
        for top, _, _ in os.walk(root, topdown=False):
            os.utime(top, ns=(0, TIME))


def whiteout(root: Path, path: str) -> None:
    os.mknod(root / path, stat.S_IFCHR | 0o000, os.makedev(0, 0))


def mark(path: Path, name: str, value: bytes) -> None:
    """An overlay xattr; where the file system has no user xattrs, that half of the test is skipped."""
    try:
        os.setxattr(path, name, value)
    except OSError as exc:
        pytest.skip(f"{name}: {exc.strerror}")


def contents(data: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        found = {}
        for entry in tar:
            file = tar.extractfile(entry) if entry.isreg() else None
            found[entry.name] = file.read() if file else b""
        return found


# ---- nothing changed


def test_nothing_changed_reads_nothing_below(engine: _backend.Engine, layers: Layers) -> None:
    for number in range(50):
        put(layers.lower, f"d{number}/f")
    same_times(layers.lower)
    with layers.opened() as (upper, lowers):
        differ = engine.upper.UpperDiffer(upper, lowers)
        assert len(finish(differ)) == 0
        assert differ.entries <= 2  # the two roots


def test_copied_up_but_identical_is_dropped(engine: _backend.Engine, layers: Layers) -> None:
    for root in (layers.lower, layers.upper):
        put(root, "d/file", b"same" * 100)
        (root / "d" / "link").symlink_to("target")
        os.utime(root / "d" / "link", ns=(0, TIME), follow_symlinks=False)
        same_times(root)
    mark(layers.upper / "d" / "file", "trusted.overlay.origin", b"\0\xfb")
    mark(layers.upper / "d", "trusted.overlay.impure", b"y")
    assert layers.changes(engine) == []


@pytest.mark.parametrize(("compare", "found"), [("auto", True), ("content", True), ("metadata", False)])
def test_same_size_and_time_but_other_bytes(engine: _backend.Engine, layers: Layers, compare: str, found: bool) -> None:
    put(layers.lower, "f", b"old" * 50_000)
    put(layers.upper, "f", b"old" * 49_999 + b"new")
    rows = layers.table(engine, compare=compare).rows()
    assert [(row.kind, row.what) for row in rows] == ([("C", _backend.CONTENT)] if found else [])


@pytest.mark.parametrize("details", [False, True])
def test_details_decide_about_content(engine: _backend.Engine, layers: Layers, details: bool) -> None:
    put(layers.lower, "f", b"old")
    put(layers.upper, "f", b"new", TIME + 1)
    (row,) = layers.table(engine, details=details).rows()
    assert row.what == _backend.MTIME | (_backend.CONTENT if details else 0)


def test_root_attributes(engine: _backend.Engine, layers: Layers) -> None:
    os.chmod(layers.upper, 0o700)
    os.chmod(layers.lower, 0o755)
    (row,) = layers.table(engine).rows()
    assert (row.kind, row.path, row.what) == ("C", b"", _backend.MODE)


def test_parents_of_changes_come_along(engine: _backend.Engine, layers: Layers) -> None:
    put(layers.lower, "a/b/old")
    put(layers.upper, "a/b/new")
    same_times(layers.lower, layers.upper)
    assert layers.changes(engine) == [("P", "a"), ("P", "a/b"), ("A", "a/b/new")]


# ---- whiteouts


def test_whiteout_devices(engine: _backend.Engine, layers: Layers) -> None:
    put(layers.lower, "gone")
    put(layers.lower, "dir/below")
    for name in ("gone", "dir", "never-there"):
        whiteout(layers.upper, name)
    assert layers.changes(engine) == [("D", "dir"), ("D", "gone")]


def test_other_devices_are_devices(engine: _backend.Engine, layers: Layers) -> None:
    put(layers.lower, "null")
    os.mknod(layers.upper / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    (row,) = layers.table(engine).rows()
    assert (row.kind, row.what, row.rdev) == ("C", _backend.TYPE, (1, 3))


def test_whiteouts_by_xattr(engine: _backend.Engine, layers: Layers, space: str) -> None:
    put(layers.lower, "d/gone")
    put(layers.lower, "d/kept")
    folder(layers.upper, "d")
    mark(layers.upper / "d", f"{space}opaque", b"x")
    mark(put(layers.upper, "d/gone", b""), f"{space}whiteout", b"")
    mark(put(layers.upper, "d/full", b"not empty"), f"{space}whiteout", b"")
    same_times(layers.lower, layers.upper)
    assert layers.changes(engine, **mounted(space)) == [("P", "d"), ("A", "d/full"), ("D", "d/gone")]


def test_file_over_directory_and_back(engine: _backend.Engine, layers: Layers) -> None:
    put(layers.lower, "was-dir/below")
    put(layers.lower, "was-file")
    put(layers.upper, "was-dir")
    put(layers.upper, "was-file/below")
    mark(layers.upper / "was-file", "trusted.overlay.opaque", b"y")
    assert layers.changes(engine) == [("C", "was-dir"), ("C", "was-file"), ("A", "was-file/below")]


def test_sockets_hide_what_was_there(engine: _backend.Engine, layers: Layers, monkeypatch: pytest.MonkeyPatch) -> None:
    put(layers.lower, "file")
    monkeypatch.chdir(layers.upper)
    for name in ("file", "new"):
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(name)
    found = layers.table(engine)
    assert [(row.kind, row.path) for row in found.rows()] == [("D", b"file")]
    assert found.skipped_sockets == 2


def test_sockets_of_the_lower_tree_are_paths_like_others(
    engine: _backend.Engine, layers: Layers, monkeypatch: pytest.MonkeyPatch
) -> None:
    for where, names in ((layers.lower, ("both", "gone", "replaced")), (layers.upper, ("both",))):
        monkeypatch.chdir(where)
        for name in names:
            with socket.socket(socket.AF_UNIX) as sock:
                sock.bind(name)
    os.mknod(layers.upper / "gone", stat.S_IFCHR, 0)
    put(layers.upper, "replaced")
    assert layers.changes(engine) == [("D", "gone"), ("C", "replaced")]


# ---- opaque directories


def test_opaque_directories_give_explicit_whiteouts(engine: _backend.Engine, layers: Layers, space: str) -> None:
    for name in ("d/same", "d/gone", "d/sub/gone", "d/sub2/same"):
        put(layers.lower, name)
    for name in ("d/same", "d/new", "d/sub2/same"):
        put(layers.upper, name)
    mark(layers.upper / "d", f"{space}opaque", b"y")
    same_times(layers.lower, layers.upper)
    assert layers.changes(engine, **mounted(space)) == [("P", "d"), ("D", "d/gone"), ("A", "d/new"), ("D", "d/sub")]
    assert list(contents(layers.layer(engine, **mounted(space)))) == ["d", "d/.wh.gone", "d/.wh.sub", "d/new"]


def test_lower_layers_hide_each_other(engine: _backend.Engine, stack: Layers) -> None:
    """Whiteouts and opaque directories count among the lowerdirs, too."""
    put(stack.lowers[2], "gone")
    put(stack.lowers[2], "d/hidden")
    put(stack.lowers[2], "e/seen")
    whiteout(stack.lowers[1], "gone")
    folder(stack.lowers[0], "d")
    mark(stack.lowers[0] / "d", "trusted.overlay.opaque", b"y")
    put(stack.upper, "gone")
    for name in ("d/hidden", "e/seen", "e/gone-too"):
        folder(stack.upper, os.path.dirname(name))
        whiteout(stack.upper, name)
    same_times(stack.upper, *stack.lowers)
    assert stack.changes(engine) == [("P", "e"), ("D", "e/seen"), ("A", "gone")]


# ---- redirects


@pytest.mark.parametrize("redirect", ["old", "/old"])
def test_renamed_directories_bring_their_content(
    engine: _backend.Engine, layers: Layers, space: str, redirect: str
) -> None:
    put(layers.lower, "old/f", b"from below")
    put(layers.lower, "old/sub/g", b"deeper")
    put(layers.lower, "old/gone")
    folder(layers.upper, "new")
    put(layers.upper, "new/f2", b"own")
    whiteout(layers.upper, "new/gone")
    whiteout(layers.upper, "old")
    mark(layers.upper / "new", f"{space}redirect", redirect.encode())
    same_times(layers.lower, layers.upper)
    assert contents(layers.layer(engine, **mounted(space))) == {
        "new": b"", "new/f": b"from below", "new/f2": b"own", "new/sub": b"", "new/sub/g": b"deeper", ".wh.old": b"",
    }  # fmt: skip


def test_absolute_redirect_leaves_an_opaque_parent(engine: _backend.Engine, stack: Layers) -> None:
    put(stack.lowers[2], "from/here/f", b"far below")
    put(stack.lowers[0], "d/hidden")
    folder(stack.upper, "d/moved")
    mark(stack.upper / "d", "trusted.overlay.opaque", b"y")
    mark(stack.upper / "d" / "moved", "trusted.overlay.redirect", b"/from/here")
    same_times(stack.upper, *stack.lowers)
    assert contents(stack.layer(engine)) == {"d": b"", "d/.wh.hidden": b"", "d/moved": b"", "d/moved/f": b"far below"}


def test_redirect_over_an_existing_directory(engine: _backend.Engine, layers: Layers) -> None:
    """Compared with what the lower layer had at the new name, not at the old one."""
    put(layers.lower, "target/same", b"1")
    put(layers.lower, "target/only-there", b"2")
    put(layers.lower, "source/same", b"1")
    put(layers.lower, "source/extra", b"3")
    folder(layers.upper, "target")
    mark(layers.upper / "target", "trusted.overlay.redirect", b"/source")
    whiteout(layers.upper, "source")
    same_times(layers.lower, layers.upper)
    assert layers.changes(engine) == [
        ("D", "source"),
        ("P", "target"),
        ("A", "target/extra"),
        ("D", "target/only-there"),
    ]


NO_PLACES = [b"..", b"../..", b"a/b", b"/../x", b"/a/../../x", b"//x", b"/a/", b"/", b".", b"/a/./b", b"a\0", b"d/"]


@pytest.mark.parametrize("redirect", NO_PLACES)
def test_redirects_that_name_no_place_are_refused(engine: _backend.Engine, layers: Layers, redirect: bytes) -> None:
    put(layers.upper.parent, "x/secret")  # beside the layers
    folder(layers.upper, "sub/d")
    folder(layers.lower, "sub/d")
    folder(layers.lower, "a")
    mark(layers.upper / "sub" / "d", "trusted.overlay.redirect", redirect)
    with pytest.raises(UnsafeEntryError) as error:
        layers.table(engine)
    assert str(error.value) == (
        "sub/d: overlay.redirect names no place inside the layers: do not use this upper directory"
    )


def test_metacopy_is_not_led_out_of_the_layers(engine: _backend.Engine, layers: Layers) -> None:
    put(layers.upper.parent, "secret", b"0123456789")
    where = put(layers.upper, "f", b"\0" * 10)
    mark(where, "trusted.overlay.metacopy", b"")
    mark(where, "trusted.overlay.redirect", b"/../secret")
    with pytest.raises(UnsafeEntryError):
        layers.table(engine)


@pytest.mark.parametrize("redirect", [b"n" * 256, b"/" + b"n" * 300, b"/a/" + b"n" * 256])
def test_redirects_too_long_to_exist_lead_nowhere(engine: _backend.Engine, layers: Layers, redirect: bytes) -> None:
    folder(layers.lower, "a")
    folder(layers.upper, "d")
    mark(layers.upper / "d", "trusted.overlay.redirect", redirect)
    same_times(layers.upper, layers.lower)
    assert layers.changes(engine) == [("A", "d")]


def test_redirect_through_a_symlink_is_not_followed(engine: _backend.Engine, layers: Layers, tmp_path: Path) -> None:
    put(tmp_path, "outside/secret")
    (layers.lower / "out").symlink_to(tmp_path / "outside")
    folder(layers.upper, "d")
    mark(layers.upper / "d", "trusted.overlay.redirect", b"/out")
    assert layers.changes(engine) == [("A", "d")]


# ---- metacopy


def test_metacopy_takes_its_bytes_from_below(engine: _backend.Engine, stack: Layers, space: str) -> None:
    """Attributes from the top, one more copy of attributes between, bytes from the lowest."""
    put(stack.lowers[2], "d/f", b"the bytes")
    for root in (stack.upper, stack.lowers[0]):
        where = put(root, "d/f", b"\0" * 9)
        mark(where, f"{space}metacopy", b"")
    os.chmod(stack.upper / "d" / "f", 0o4711)
    same_times(stack.upper, *stack.lowers)
    rows = stack.table(engine, **mounted(space)).rows()
    assert [(row.kind, row.path, row.what) for row in rows] == [("P", b"d", 0), ("C", b"d/f", _backend.MODE)]
    assert contents(stack.layer(engine, **mounted(space)))["d/f"] == b"the bytes"


def test_metacopy_that_changed_nothing_is_dropped(engine: _backend.Engine, layers: Layers) -> None:
    put(layers.lower, "f", b"the bytes")
    mark(put(layers.upper, "f", b"\0" * 9), "trusted.overlay.metacopy", b"")
    for compare in ("auto", "content", "metadata"):
        assert layers.changes(engine, compare=compare) == []


def test_metacopy_with_redirect(engine: _backend.Engine, layers: Layers) -> None:
    put(layers.lower, "old/name", b"the bytes")
    where = put(layers.upper, "renamed", b"\0" * 9)
    mark(where, "trusted.overlay.metacopy", b"")
    mark(where, "trusted.overlay.redirect", b"/old/name")
    assert contents(layers.layer(engine)) == {"renamed": b"the bytes"}


def test_metacopy_without_data_is_an_error(engine: _backend.Engine, layers: Layers) -> None:
    mark(put(layers.upper, "d/f", b"\0" * 9), "trusted.overlay.metacopy", b"")
    with pytest.raises(UnsafeEntryError) as error:
        layers.table(engine)
    assert str(error.value) == "d/f: metacopy without data: name every lower directory of the mount"


@pytest.mark.parametrize("lowers", [255, 256, 300, 520])
def test_bytes_from_far_below(engine: _backend.Engine, tmp_path: Path, lowers: int) -> None:
    """overlayfs takes 500 lower directories."""
    layers = Layers(tmp_path, lowers)
    put(layers.lowers[-1], "f", b"the bytes")
    mark(put(layers.upper, "f", b"\0" * 9, TIME + 1), "trusted.overlay.metacopy", b"")
    assert contents(layers.layer(engine)) == {"f": b"the bytes"}


@pytest.mark.parametrize("count", [0, 1 << 16])
def test_number_of_lower_directories(engine: _backend.Engine, layers: Layers, count: int) -> None:
    with layers.opened() as (upper, lowers), pytest.raises(UsageError, match="lower"):
        engine.upper.UpperDiffer(upper, lowers * count)


# ---- xattrs


def test_overlay_xattrs_never_come_out_and_escaped_ones_do(engine: _backend.Engine, layers: Layers) -> None:
    every_kind_of_xattr(put(layers.upper, "f"))
    found = layers.table(engine, userxattr=True)
    assert found.row(0).xattrs == (
        (b"user.overlay.opaque", b"user.overlay.overlay.opaque"),
        (b"user.overlay.overlay.x", b"user.overlay.overlay.overlay.x"),
        (b"user.plain", b"user.plain"),
    )
    assert found.dropped_xattrs == 3  # trusted.* stays on the host


def test_user_overlay_xattrs_are_data_of_an_ordinary_mount(engine: _backend.Engine, layers: Layers) -> None:
    every_kind_of_xattr(put(layers.upper, "f"))
    found = layers.table(engine)
    names = ("user.overlay.origin", "user.overlay.overlay.opaque", "user.overlay.overlay.overlay.x")
    assert found.row(0).xattrs == tuple((name.encode(), name.encode()) for name in (*names, "user.plain"))
    assert found.dropped_xattrs == 2  # trusted.other and the unescaped trusted.overlay.opaque stay on the host


def every_kind_of_xattr(where: Path) -> None:
    for name in ("user.overlay.origin", "user.overlay.overlay.opaque", "user.plain", "user.overlay.overlay.overlay.x"):
        mark(where, name, name.encode())
    for name in ("trusted.overlay.origin", "trusted.overlay.overlay.opaque", "trusted.other"):
        mark(where, name, name.encode())


@pytest.mark.parametrize(("honoured", "other"), [NAMESPACES, NAMESPACES[::-1]])
def test_marks_of_the_other_namespace_mean_nothing(
    engine: _backend.Engine, layers: Layers, honoured: str, other: str
) -> None:
    """Who may set user.* in a container must not read a secret of the lower layer with it, nor hide files."""
    put(layers.lower, "etc/shadow", b"ROOTSECRET")
    put(layers.lower, "home/kept")
    put(layers.lower, "home/gone")
    leak = put(layers.upper, "home/leak", b"0123456789")
    mark(leak, f"{other}metacopy", b"")
    mark(leak, f"{other}redirect", b"/etc/shadow")
    mark(layers.upper / "home", f"{other}opaque", b"y")
    folder(layers.upper, "home/d")
    mark(layers.upper / "home/d", f"{other}redirect", b"/etc")
    mark(put(layers.upper, "home/gone", b""), f"{other}whiteout", b"")
    same_times(layers.upper, layers.lower)
    assert contents(layers.layer(engine, **mounted(honoured))) == {
        "home": b"", "home/d": b"", "home/gone": b"", "home/leak": b"0123456789",
    }  # fmt: skip


@pytest.mark.parametrize(("policy", "kept", "dropped"), [("all", 1, 0), ("docker", 0, 1), ("none", 0, 1)])
def test_xattr_policies(engine: _backend.Engine, layers: Layers, policy: str, kept: int, dropped: int) -> None:
    where = put(layers.upper, "f")
    mark(where, "user.x", b"1")
    mark(where, "trusted.overlay.origin", b"")
    found = layers.table(engine, xattrs=policy)
    assert (len(found.row(0).xattrs), found.dropped_xattrs) == (kept, dropped)


# ---- hard links


def test_hard_links_inside_the_upperdir(engine: _backend.Engine, layers: Layers) -> None:
    put(layers.lower, "f")
    put(layers.upper, "f")
    os.link(layers.upper / "f", layers.upper / "g")
    rows = layers.table(engine).rows()
    assert [(row.kind, row.what, row.path, row.leader) for row in rows] == [
        ("C", _backend.LINK, b"f", None),
        ("A", 0, b"g", b"f"),
    ]


def test_hard_links_brought_by_a_rename(engine: _backend.Engine, layers: Layers) -> None:
    put(layers.lower, "old/a")
    os.link(layers.lower / "old" / "a", layers.lower / "old" / "b")
    folder(layers.upper, "new")
    mark(layers.upper / "new", "trusted.overlay.redirect", b"old")
    same_times(layers.lower, layers.upper)
    rows = layers.table(engine).rows()
    assert [(row.path, row.leader) for row in rows] == [(b"new", None), (b"new/a", None), (b"new/b", b"new/a")]


def linked(root: Path, *names: str) -> None:
    """One file of several names."""
    first = put(root, names[0])
    for name in names[1:]:
        folder(root, os.path.dirname(name))
        os.link(first, root / name)


def test_a_copy_up_that_broke_a_link_is_a_change(engine: _backend.Engine, layers: Layers) -> None:
    linked(layers.lower, "a", "b")
    put(layers.upper, "a")
    (row,) = layers.table(engine).rows()
    assert (row.kind, row.path, row.what, row.leader) == ("C", b"a", _backend.LINK, None)
    assert contents(layers.layer(engine)) == {"a": b"data"}


def test_copy_ups_that_broke_all_links_are_changes(engine: _backend.Engine, layers: Layers) -> None:
    linked(layers.lower, "a", "b")
    put(layers.upper, "a")
    put(layers.upper, "b")
    assert layers.changes(engine) == [("C", "a"), ("C", "b")]


def test_the_last_name_of_a_link_stays_what_it_was(engine: _backend.Engine, layers: Layers) -> None:
    """All others went away: there is no group any more that it could have left."""
    linked(layers.lower, "a", "b", "c")
    put(layers.upper, "a")
    whiteout(layers.upper, "b")
    whiteout(layers.upper, "c")
    assert layers.changes(engine) == [("D", "b"), ("D", "c")]


def test_names_that_went_with_their_directory_are_taken_for_left_behind(
    engine: _backend.Engine, layers: Layers
) -> None:
    """Removed directories are not read: a change too many, never one too few."""
    linked(layers.lower, "a", "d/b")
    put(layers.upper, "a")
    whiteout(layers.upper, "d")
    assert layers.changes(engine) == [("C", "a"), ("D", "d")]


def test_an_indexed_copy_up_keeps_its_links(engine: _backend.Engine, layers: Layers) -> None:
    """The index has a link of its own, and the mount shows the new inode under all names."""
    linked(layers.lower, "a", "b")
    os.link(put(layers.upper, "a"), layers.upper.parent / "index")
    assert layers.changes(engine) == []


def test_a_whole_group_moved_to_one_new_inode(engine: _backend.Engine, layers: Layers) -> None:
    linked(layers.lower, "a", "b")
    linked(layers.upper, "a", "b")
    assert layers.changes(engine) == []


# ---- changes while a layer is made


@pytest.mark.parametrize("where", ["before", "while"])
def test_an_edit_that_only_ctime_shows(engine: _backend.Engine, layers: Layers, where: str) -> None:
    path = put(layers.upper, "f", b"x" * 300_000)
    found = layers.table(engine)
    time.sleep(0.03)
    with layers.opened() as (upper, lowers):
        encoder = engine.encode.Encoder(found, [upper, *lowers])
        if where == "while":
            encoder.readinto(bytearray(100_000))
        with open(path, "r+b") as file:
            file.write(b"edited")
        os.utime(path, ns=(TIME, TIME))
        with pytest.raises(FileChangedError, match="f: changed"):
            while encoder.readinto(bytearray(1 << 20)):
                pass


# ---- misuse


@pytest.mark.parametrize("options", [{"compare": "guess"}, {"xattrs": "some"}])
def test_unknown_choices(engine: _backend.Engine, layers: Layers, options: dict[str, str]) -> None:
    with pytest.raises(UsageError):
        layers.table(engine, **options)


def test_many_layers_few_descriptors(tmp_path: Path) -> None:
    """Directories are closed as soon as they have been looked into."""
    layers = Layers(tmp_path, 1)
    path = "/".join(["deep"] * 200)
    put(layers.lower, f"{path}/old")
    put(layers.upper, f"{path}/new")
    same_times(layers.lower, layers.upper)
    before = set(os.listdir("/proc/self/fd"))
    with layers.opened() as (upper, lowers):
        differ = _backend._load("native").upper.UpperDiffer(upper, lowers)
        while differ.step():
            assert len(os.listdir("/proc/self/fd")) < len(before) + 8
        assert differ.finish().rows()[-1].path == path.encode() + b"/new"
        del differ
    assert len(os.listdir("/proc/self/fd")) == len(before)
