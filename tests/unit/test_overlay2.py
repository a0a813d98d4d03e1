"""The driver overlay2 through the snapshotter, as root or in a user namespace (the integration tests run it in one)."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import fastlayer
from fastlayer._backend import Engine
from fastlayer.drivers.overlay2 import Overlay2, layout, settings, unsynced
from fastlayer.errors import (
    CorruptStoreError,
    DriverError,
    InUseError,
    StorageError,
    UnsafeEntryError,
    UsageError,
)
from fastlayer.mounts import mounting
from fastlayer.snapshot.snapshotter import Snapshotter
from tests.snapshots import commit_layer, mounted, needs_mounts, snapshots

pytestmark = needs_mounts

BASE = {"./": None, "bin/": None, "bin/sh": b"#!", "etc/": None, "etc/passwd": b"root", "etc/old": b"old", "lib": "usr"}
UPDATE = {"etc/": None, "etc/.wh.old": None, "etc/new": b"new", "var/": None}


@pytest.fixture
def found(tmp_path: Path) -> Iterator[Snapshotter]:
    with snapshots(tmp_path) as snapshotter:
        yield snapshotter


@pytest.fixture
def image(found: Snapshotter) -> str:
    """Two layers; the second was extracted before the first was committed."""
    commit_layer(found, "base", BASE)
    commit_layer(found, "update", UPDATE, "base")
    return "update"


def names(where: Path) -> list[str]:
    return sorted(
        os.fsdecode(os.path.relpath(os.path.join(top, name), where))
        for top, dirs, files in os.walk(where)
        for name in (*dirs, *files)
    )


def folders(found: Snapshotter) -> set[int]:
    return found.driver.numbers()


# ---- looking and writing -------------------------------------------------------------------------


def test_the_probe_says_yes_and_leaves_nothing(tmp_path: Path) -> None:
    assert Overlay2.probe(tmp_path) == (True, "", "")
    assert Overlay2.probe(tmp_path / "not/there/yet").works
    assert os.listdir(tmp_path) == []


def test_an_image_is_read_only(engine: Engine, found: Snapshotter, image: str) -> None:
    whole = ["bin", "bin/sh", "etc", "etc/new", "etc/passwd", "lib", "var"]
    with mounted(found, image) as where:
        assert names(where) == whole
        with pytest.raises(OSError, match="Read-only"):
            (where / "x").touch()
    found.view("look", image)
    assert all(value.readonly for value in found.mounts("look"))
    with mounted(found, "look") as where:
        assert names(where) == whole
        with pytest.raises(OSError, match="Read-only"):
            (where / "etc/passwd").write_text("x")


def test_one_layer_alone_shows_no_marks(found: Snapshotter) -> None:
    commit_layer(found, "one", {"a/": None, "a/.wh..wh..opq": None, "a/b": b"b", ".wh.gone": None})
    with mounted(found, "one") as where:
        assert names(where) == ["a", "a/b"]
        assert [name for name in os.listxattr(where / "a") if "overlay" in name] == []


def test_whiteouts_that_hide_nothing_are_not_listed(engine: Engine, found: Snapshotter) -> None:
    """The kernel would list them in directories that no lower layer has."""
    commit_layer(found, "base", {"there": b"1", "dir/": None, "dir/there": b"1", "odd/": None, ".wh.no": None})
    top = {
        ".wh.there": None,
        ".wh.not": None,
        "dir/": None,
        "dir/.wh.there": None,
        "dir/.wh.not": None,
        "new/": None,
        "new/.wh.not": None,
        "new/file": b"1",
        "odd/": None,
        "odd/.wh..wh..opq": None,
        "odd/new/": None,
        "odd/new/.wh.not": None,
    }
    commit_layer(found, "top", top, "base")
    diff = found.driver.root / str(found.number("top")[0]) / "diff"
    assert names(diff) == ["dir", "dir/there", "new", "new/file", "odd", "odd/new", "there"]
    assert (diff / "new").stat().st_mtime == 1_000_000
    with mounted(found, "top") as where:
        assert names(where) == ["dir", "new", "new/file", "odd", "odd/new"]
    with mounted(found, "base") as where:
        assert names(where) == ["dir", "dir/there", "odd", "there"]
    assert {(str(c.kind), c.name) for c in found.changes("top")} >= {("D", "/there"), ("D", "/dir/there")}


def test_two_writable_ones_do_not_see_each_other(engine: Engine, found: Snapshotter, image: str) -> None:
    for key in ("one", "two"):
        found.prepare(key, image)
    with mounted(found, "one") as one, mounted(found, "two") as two:
        (one / "etc/passwd").write_text("one")
        (one / "bin/sh").unlink()
        (two / "only").write_text("two")
        assert (two / "etc/passwd").read_text() == "root"
        assert (two / "bin/sh").exists() and not (one / "only").exists()
    with mounted(found, image) as where:
        assert (where / "etc/passwd").read_text() == "root"
    assert [(str(c.kind), c.name) for c in found.changes("one") if c.type != "dir"] == [
        ("D", "/bin/sh"),
        ("C", "/etc/passwd"),
    ]
    assert [(str(c.kind), c.name) for c in found.changes("two") if c.type != "dir"] == [("A", "/only")]


def test_without_a_parent_it_starts_empty(engine: Engine, found: Snapshotter) -> None:
    found.prepare("new")
    with mounted(found, "new") as where:
        assert os.listdir(where) == [] and stat.S_IMODE(where.stat().st_mode) == 0o755
        (where / "a/b").mkdir(parents=True)
        (where / "a/b").rmdir()
        assert os.listdir(where / "a") == []
    assert [c.name for c in found.changes("new") if c.path] == ["/a"]
    found.commit("base", "new")
    with mounted(found, "base") as where:
        assert names(where) == ["a"]


def takes_user_attributes(path: Path) -> bool:
    """A tmpfs before Linux 6.6 does not."""
    try:
        os.setxattr(path, "user.root", b"kept")
    except OSError:
        return False
    return True


def test_the_root_looks_like_the_parents(found: Snapshotter) -> None:
    found.prepare("new")
    with mounted(found, "new") as where:
        where.chmod(0o2750)
        keeps = takes_user_attributes(where)
        os.utime(where, ns=(5, 5))
    found.commit("base", "new")
    found.prepare("child", "base")
    commit_layer(found, "says nothing", {"a": b"a"}, "base")
    commit_layer(found, "says it", {"./": None, "a": b"a"}, "base")
    for key in ("child", "says nothing"):
        with mounted(found, key) as where:
            status = where.stat()
            assert (stat.S_IMODE(status.st_mode), status.st_mtime_ns) == (0o2750, 5), key
            assert not keeps or os.getxattr(where, "user.root") == b"kept"
    with mounted(found, "says it") as where:
        assert stat.S_IMODE(where.stat().st_mode) == 0o755 and os.listxattr(where) == []
    assert [c.name for c in found.changes("child")] == []
    assert [c.name for c in found.changes("says nothing")] == ["/a"]


# ---- committing ----------------------------------------------------------------------------------


def test_commit_and_changes(engine: Engine, found: Snapshotter, image: str) -> None:
    found.prepare("work", image)
    with mounted(found, "work") as where:
        (where / "etc/passwd").write_text("changed")
        (where / "etc/new").unlink()
        (where / "bin/sh").unlink()
        (where / "bin").rmdir()
        (where / "bin").mkdir()
        (where / "bin/dash").write_text("dash")
        wanted = names(where)
    number = found.number("work")[0]
    found.commit("result", "work")
    assert not (found.driver.root / str(number) / "work").exists()
    with mounted(found, "result") as where:
        assert names(where) == wanted
        assert (where / "etc/passwd").read_text() == "changed"
    listed = {(str(c.kind), c.name) for c in found.changes("result")}
    assert {("C", "/etc/passwd"), ("D", "/etc/new"), ("D", "/bin/sh"), ("A", "/bin/dash")} <= listed


def test_a_duplicate_keeps_every_mark(engine: Engine, found: Snapshotter, image: str, tmp_path: Path) -> None:
    found.prepare("work", image)
    with mounted(found, "work") as where:
        (where / "etc/passwd").unlink()
        (where / "bin/sh").unlink()
        (where / "bin").rmdir()
        (where / "bin").mkdir(0o700)
        (where / "file").write_text("first")
        os.link(where / "file", where / "other")
        found.duplicate("result", "work")
        (where / "file").write_text("later")
        (where / "etc/passwd").write_text("again")
    with mounted(found, "result") as where:
        assert names(where) == ["bin", "etc", "etc/new", "file", "lib", "other", "var"]
        assert (where / "file").read_text() == "first" and (where / "file").stat().st_nlink == 2
        assert os.listdir(where / "bin") == [] and stat.S_IMODE((where / "bin").stat().st_mode) == 0o700
    wanted = {("D", "/etc/passwd"), ("D", "/bin/sh"), ("C", "/bin"), ("A", "/file"), ("A", "/other")}
    assert {(str(c.kind), c.name) for c in found.changes("result")} >= wanted
    found.prepare("child", "result")
    with mounted(found, "child") as where:
        assert not (where / "etc/passwd").exists()


def test_usage_counts_its_own_changes_once(found: Snapshotter, image: str) -> None:
    found.prepare("work", image)
    empty = found.usage("work")
    with mounted(found, "work") as where:
        (where / "etc/passwd").write_bytes(bytes(100_000))
        os.link(where / "etc/passwd", where / "etc/second")
        with open(where / "hole", "wb") as file:
            file.truncate(1 << 30)
        os.sync()
    used = found.usage("work")
    assert used.inodes == empty.inodes + 3  # etc, passwd, hole
    assert 100_000 <= used.bytes - empty.bytes < 150_000
    assert found.usage("update").bytes < 100_000
    found.view("look", image)
    assert found.usage("look") == (0, 0, 0)
    assert list(found.changes("look")) == []


# ---- removing ------------------------------------------------------------------------------------


def test_removing_leaves_nothing(engine: Engine, found: Snapshotter, image: str) -> None:
    before = folders(found)
    found.prepare("work", image)
    with mounted(found, "work") as where:
        deep = b"/".join([b"d" * 200] * 15)
        os.makedirs(os.fsencode(where) + b"/" + deep)
        (where / "link").symlink_to("/etc")
        (where / "closed").mkdir(0)
    number = found.number("work")[0]
    assert folders(found) == {*before, number}
    assert stat.S_IMODE((found.driver.root / str(number) / "work/work").stat().st_mode) == 0
    found.remove("work")
    assert folders(found) == before
    found.driver.remove(number)
    with pytest.raises(InUseError):
        found.remove("base")
    for key in ("update", "base"):
        found.remove(key)
    assert folders(found) == set()
    assert sorted(os.listdir(found.driver.root)) == ["empty", "layout.json"]


def test_removing_what_a_killed_process_left(found: Snapshotter) -> None:
    root = found.driver.root
    found.driver.create(7, [], "active")
    (root / "7/diff/.x.fastlayer-0").mkdir()
    (root / "8").mkdir()
    (root / "9").symlink_to("7")
    assert folders(found) == {7, 8, 9}
    for number in (9, 8, 7, 6):
        found.driver.remove(number)
    assert folders(found) == set()


def test_what_is_mounted_below_is_not_removed(found: Snapshotter, image: str) -> None:
    found.prepare("work", image)
    number = found.number("work")[0]
    inner = found.driver.root / str(number) / "diff/mnt"
    inner.mkdir()
    mounting.mount([fastlayer_bind(found.driver.root / "empty")], inner)
    try:
        with pytest.raises(StorageError):
            found.driver.remove(number)
    finally:
        mounting.umount(inner)
    assert (found.driver.root / "empty").exists()
    found.driver.remove(number)


def fastlayer_bind(path: Path) -> mounting.Mount:
    return mounting.Mount("bind", str(path))


# ---- copying up ----------------------------------------------------------------------------------


def test_copy_up_prepares_files(engine: Engine, found: Snapshotter) -> None:
    commit_layer(
        found,
        "base",
        {"a/": None, "a/b/": None, "a/b/one": b"1", "a/b/two": b"2", "gone": b"g", "c/": None, "c/hidden": b"h"},
    )
    commit_layer(
        found,
        "top",
        {"a/": None, "a/b/": None, "a/b/three": b"3", ".wh.gone": None, "c/": None, "c/.wh..wh..opq": None},
        "base",
    )
    found.prepare("work", "top")
    number, parents = found.number("work")
    diff = found.driver.root / str(number) / "diff"
    os.chmod(found.driver.root / str(parents[0]) / "diff/a/b", 0o711)  # the top layer's attributes are what is seen
    found.driver.copy_up(number, parents, [b"a/b/one", b"/a/b/three"])
    assert names(diff) == ["a", "a/b", "a/b/one", "a/b/three"]
    assert stat.S_IMODE((diff / "a/b").stat().st_mode) == 0o711
    assert os.listdir(found.driver.root / str(number) / "work") == []
    for path in (b"gone", b"c/hidden", b"nowhere", b"a/b/one/below"):
        with pytest.raises(StorageError, match="No such file"):
            found.driver.copy_up(number, parents, [path])
    with pytest.raises(UnsafeEntryError):
        found.driver.copy_up(number, parents, [b"../x"])
    with mounted(found, "work") as where:
        assert names(where) == ["a", "a/b", "a/b/one", "a/b/three", "a/b/two", "c"]
        (where / "a/b/one").unlink()
    with pytest.raises(StorageError, match="No such file"):
        found.driver.copy_up(number, parents, [b"a/b/one"])


# ---- options and layouts -------------------------------------------------------------------------


BAD_OPTIONS = {
    "colour": ("on", "no option colour: use metacopy, redirect_dir, volatile, id_map"),
    "metacopy": ("yes", "metacopy=yes: use on or off"),
    "volatile": ("", "volatile=: use on or off"),
    "two\nlines": ("on", r"no option two\\nlines: use"),
}
BAD_ID_MAPS = {
    "": "use INSIDE:OUTSIDE:COUNT",
    "x": "use INSIDE:OUTSIDE:COUNT",
    "0:1": "use INSIDE:OUTSIDE:COUNT",
    "0:0:0": "at least one id",
    "-1:0:5": "use INSIDE:OUTSIDE:COUNT",
    "0:1_0:5": "use INSIDE:OUTSIDE:COUNT",
    "0:0:1,": "use INSIDE:OUTSIDE:COUNT",
    "0:0:99999999999": "use INSIDE:OUTSIDE:COUNT",
    "0:4294967290:6": "ids are 0 to 4294967294",
    "0:0:10,9:100:1": "ranges overlap",
    "0:100:10,20:109:1": "ranges overlap",
    ",".join(f"{n}:{n}:1" for n in range(341)): "340 ranges at most",
}


@pytest.mark.parametrize("name", BAD_OPTIONS)
def test_options_that_mean_nothing_are_refused_before_anything_is_made(found: Snapshotter, name: str) -> None:
    value, text = BAD_OPTIONS[name]
    with pytest.raises(UsageError, match=f"driver overlay2: .*{text}"):
        found.prepare("work", options={name: value})
    assert folders(found) == set() and not found.exists("work") and os.listdir(found.driver.root) == []


@pytest.mark.parametrize("value", BAD_ID_MAPS)
def test_id_maps_that_mean_nothing(found: Snapshotter, value: str) -> None:
    with pytest.raises(UsageError, match=f"driver overlay2: id_map=.*{BAD_ID_MAPS[value]}"):
        found.prepare("work", options={"id_map": value})
    assert os.listdir(found.driver.root) == []


def test_a_view_has_owners_and_nothing_else_to_choose(found: Snapshotter, image: str) -> None:
    for name in ("metacopy", "redirect_dir", "volatile"):
        with pytest.raises(UsageError, match=f"{name} is for writable layers: read-only mounts take id_map alone"):
            found.view("look", image, options={name: "on"})
    found.view("look", image, options={"id_map": "0:5:10,10:20:1"})
    (value,) = found.mounts("look")
    assert value.id_map == ((0, 5, 10), (10, 20, 1)) and value.readonly
    assert found.mounts(image)[0].id_map == ()


def test_options_are_those_of_one_snapshot(found: Snapshotter, image: str) -> None:
    found.prepare("plain", image)
    found.prepare("quick", image, labels={"note": "kept"}, options={"volatile": "on"})
    assert found.stat("quick").options == {"volatile": "on"} and found.stat("plain").options == {}
    assert found.stat("quick").labels["note"] == "kept"
    for key, wanted in (("plain", False), ("quick", True)):
        (value,) = found.mounts(key)
        assert ("volatile" in value.options) == wanted
        with mounted(found, key) as where:
            (where / "new").touch()
    with snapshots(found.driver.root.parent) as others:  # as another process sees them
        assert others.mounts("quick") == found.mounts("quick")
    found.commit("done", "quick")
    assert "volatile" not in found.mounts("done")[0].options


def incompatible(found: Snapshotter, key: str) -> Path:
    """What the kernel puts there while a volatile one is mounted, and leaves."""
    return found.driver.root / str(found.number(key)[0]) / "work/work/incompat/volatile"


def test_volatile_can_be_mounted_again_in_the_same_boot(found: Snapshotter) -> None:
    found.prepare("work", options={"volatile": "on"})
    for number in range(2):
        with mounted(found, "work") as where:
            (where / str(number)).touch()
    place = found.driver.root / str(found.number("work")[0])
    (place / "boot").write_text("another\n")
    for refused in (lambda: found.ready("work"), lambda: found.commit("done", "work"), lambda: found.sync("work")):
        with pytest.raises(DriverError, match="went down while it was volatile, parts may be lost: remove it"):
            refused()
    with pytest.raises(DriverError, match="went down"):
        found.duplicate("done", "work")
    assert not found.exists("done") and found.stat("work").kind == "active"
    assert {c.name for c in found.changes("work") if c.path} == {"/0", "/1"}, "it can be looked at"
    found.remove("work")


def test_a_volatile_one_that_was_never_mounted_survives_a_reboot(
    found: Snapshotter, monkeypatch: pytest.MonkeyPatch
) -> None:
    found.prepare("work", options={"volatile": "on"})
    monkeypatch.setattr(unsynced, "_boot", lambda: "the next")
    with mounted(found, "work") as where:
        (where / "f").touch()
    monkeypatch.undo()
    with pytest.raises(DriverError, match="went down"):
        found.ready("work")


def test_asking_how_a_volatile_one_is_mounted_leaves_it_alone(found: Snapshotter) -> None:
    found.prepare("work", options={"volatile": "on"})
    place = found.driver.root / str(found.number("work")[0])
    found.mounts("work")
    assert sorted(os.listdir(place)) == ["diff", "work"]
    with mounted(found, "work"):
        before = incompatible(found, "work").stat()
        noted = (place / "boot").stat()
        found.mounts("work")
        assert incompatible(found, "work").stat() == before and (place / "boot").stat() == noted


def test_what_is_made_of_a_volatile_one_is_synced_first(found: Snapshotter, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[set[str]] = []

    def note(fd: int) -> None:
        assert os.path.samestat(os.fstat(fd), (found.driver.root / str(found.number("quick")[0])).stat())
        synced.append({info.key for info in found.walk()})

    monkeypatch.setattr(unsynced, "syncfs", note)
    for key, options in (("plain", {}), ("quick", {"volatile": "on"})):
        found.prepare(key, options=options)
        with mounted(found, key) as where:
            (where / "f").write_text("data")
            found.duplicate(f"copy of {key}", key)
    assert synced == [{"copy of plain", "plain", "quick"}], "before the copy has its name"
    found.commit("done", "plain")
    assert len(synced) == 1
    found.commit("quickly done", "quick")
    assert len(synced) == 2 and "quickly done" not in synced[1]


NONE, METACOPY = layout.Marks(), layout.Marks(True, True)
REDIRECTS = layout.Marks(False, True)


@pytest.mark.parametrize(
    "there,options,writable,wanted",
    [
        (NONE, {}, True, "metacopy=off redirect_dir=nofollow"),
        (NONE, {"redirect_dir": "on"}, True, "metacopy=off redirect_dir=on"),
        (NONE, {"metacopy": "on"}, True, "metacopy=on redirect_dir=on"),
        (REDIRECTS, {}, True, "metacopy=off redirect_dir=follow"),
        (REDIRECTS, {"redirect_dir": "on"}, True, "metacopy=off redirect_dir=on"),
        (METACOPY, {"metacopy": "off", "redirect_dir": "off"}, True, "metacopy=on redirect_dir=on"),
        (NONE, {}, False, "metacopy=off redirect_dir=nofollow"),
        (REDIRECTS, {}, False, "metacopy=off redirect_dir=follow"),
        (METACOPY, {}, False, "metacopy=on redirect_dir=follow"),
    ],
)
def test_a_mount_has_what_its_layers_need_and_its_own_options(
    there: layout.Marks, options: dict[str, str], writable: bool, wanted: str
) -> None:
    made = settings.may_make(settings.settings(options), there) if writable else layout.NO_MARKS
    found = settings.mount_options("overlay", there, made)
    assert " ".join(found[-2:]) == wanted


def test_the_layout_is_settled_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "overlay2"
    root.mkdir()
    Overlay2(root).create(1, [], "active")
    found = layout.read(root)
    assert found == layout.Layout(layout.natural_format())
    monkeypatch.setattr(layout, "is_real_root", lambda: False)
    (root / "layout.json").write_text('{"format": "overlay", "metacopy": false, "redirect_dir": false}')
    with pytest.raises(DriverError, match="was made by root"):
        Overlay2(root).mounts(1, [], "active")
    for damaged in ("", "[]", '{"format": "x", "metacopy": 1, "redirect_dir": 1}'):
        (root / "layout.json").write_text(damaged)
        with pytest.raises(CorruptStoreError, match=r"layout\.json: is damaged"):
            Overlay2(root).mounts(1, [], "active")


def test_what_many_add_to_the_layout_at_once_is_all_there(tmp_path: Path) -> None:
    plain = layout.settle(tmp_path, layout.Layout(layout.natural_format()))
    wanted = (plain._replace(metacopy=True), plain._replace(redirect_dir=True), plain)
    threads = [threading.Thread(target=layout.settle, args=(tmp_path, one)) for one in wanted * 3]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert layout.read(tmp_path) == plain._replace(metacopy=True, redirect_dir=True)
    assert sorted(os.listdir(tmp_path)) == ["empty", "layout.json"]


def test_a_size_that_cannot_be_limited(found: Snapshotter) -> None:
    with pytest.raises(DriverError, match=r"cannot be limited here: .*(prjquota|run as root)"):
        found.prepare("work", size=1 << 20)
    assert folders(found) == set() and not found.exists("work")


def test_too_many_layers(found: Snapshotter) -> None:
    with pytest.raises(DriverError, match="500"):
        found.driver.create(1000, range(1, 501), "active")


def test_the_api_diffs_what_changes_reports(found: Snapshotter, image: str, tmp_path: Path) -> None:
    """The layer of a commit, applied elsewhere, is the tree that was seen."""
    found.prepare("work", image)
    with mounted(found, "work") as where:
        (where / "etc/passwd").write_text("changed")
        (where / "lib").unlink()
        with found.changes("work") as changes:
            changes.write(tmp_path / "layer.tar")
        fastlayer.clone(where, tmp_path / "seen")
    with mounted(found, image) as where:
        fastlayer.clone(where, tmp_path / "tree")
    fastlayer.apply(tmp_path / "layer.tar", tmp_path / "tree")
    assert not fastlayer.diff(tmp_path / "seen", tmp_path / "tree", compare="content")
