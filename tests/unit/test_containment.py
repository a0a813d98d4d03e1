"""Sections 0, 3 and 7 of the layer rules (docs/formats.md): names, links, and attacks on both. Whatever a layer says,
nothing outside the target changes: the fixture ``target`` compares everything around it before and after."""

from __future__ import annotations

import os
import resource
import stat
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fastlayer.errors import FastlayerError, UnsafeEntryError
from tests.applying import (
    apply,
    char,
    directory,
    fifo,
    file,
    folder,
    hardlink,
    mode,
    names,
    owner,
    symlink,
    with_xattrs,
    xattrs,
)
from tests.conftest import needs_root
from tests.corpus.tarparts import END, base256

pytestmark = needs_root


def picture(path: Path) -> dict[str, Any]:
    """Everything that must not change: type, mode, owner, link count, size, mtime, ctime, xattrs, content."""
    found: dict[str, Any] = {}
    for name in [".", *names(path)]:
        here = path / name
        st = here.lstat()
        content = here.read_bytes() if stat.S_ISREG(st.st_mode) else None
        # a directory above the target has no changes of its own, but reading changes no ctime either
        found[name] = (st.st_mode, st.st_uid, st.st_gid, st.st_nlink, st.st_size, st.st_mtime_ns, st.st_ctime_ns,
                       xattrs(here), content)  # fmt: skip
    return found


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    path = tmp_path / "world/outside"
    (path / "dir").mkdir(parents=True)
    (path / "file").write_bytes(b"canary")
    (path / "dir/inner").write_bytes(b"canary")
    return path


@pytest.fixture
def target(tmp_path: Path, outside: Path) -> Iterator[Path]:
    path = tmp_path / "world/target"
    path.mkdir(mode=0o755)
    before = picture(outside)
    around = sorted(os.listdir(path.parent))
    yield path
    assert picture(outside) == before
    assert sorted(os.listdir(path.parent)) == around
    subprocess.run(["rm", "-rf", path], check=True)  # deeper than Python can go


def try_apply(engine: Any, target: Path, *layers: bytes, **options: Any) -> bool:
    """True when it worked, False when it was refused in an orderly way."""
    try:
        apply(engine, target, *layers, **options)
    except FastlayerError as error:
        assert "\n" not in str(error)
        return False
    return True


# ---- 3: names --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [b"/d/f", b"./d/f", b"d//f", b"//d/./f", b".//d/.//f"])
def test_rule_3_names_are_normalised(engine: Any, target: Path, name: bytes) -> None:
    apply(engine, target, file(name, b"x"))
    assert names(target) == ["d", "d/f"]


@pytest.mark.parametrize("name", [b"\xff\xfe", b"a\\b", b"new\nline", b"e\xcc\x81", b"-rf", b"..a", b"...", b" "])
def test_rule_3_names_are_bytes(engine: Any, target: Path, name: bytes) -> None:
    apply(engine, target, file(name) + folder(b"D") + folder(b"d"))
    assert set(os.listdir(os.fsencode(target))) == {name, b"D", b"d"}


@pytest.mark.parametrize("name", [b"..", b"../x", b"a/../x", b"a/..", b"/..", b"a/../../x", b"./../outside/file"])
@pytest.mark.parametrize("make", [file, folder, fifo])
def test_rule_3_dotdot_is_refused(engine: Any, target: Path, make: Any, name: bytes) -> None:
    with pytest.raises(UnsafeEntryError):
        apply(engine, target, folder(b"a") + make(name))
    assert names(target) == ["a"]


def test_rule_3_dotdot_in_markers_is_refused(engine: Any, target: Path) -> None:
    for name in (b"../.wh.outside", b"../outside/.wh..wh..opq", b"../.wh..wh..opq"):
        with pytest.raises(UnsafeEntryError):
            apply(engine, target, file(name))


@pytest.mark.parametrize("name", [b".", b"/", b"./", b"//", b"./."])
@pytest.mark.parametrize("kind", ["file", "symlink", "hardlink", "fifo", "char"])
def test_rule_3_the_root_is_not_replaced(engine: Any, target: Path, kind: str, name: bytes) -> None:
    """CVE-2021-29136: a symbolic link named "/."."""
    makers = {
        "file": file(name.rstrip(b"/") or b"."), "symlink": symlink(name, b"../outside"), "fifo": fifo(name),
        "hardlink": hardlink(name, b"f"), "char": char(name, 1, 3),
    }  # fmt: skip
    inode = target.stat().st_ino
    with pytest.raises(UnsafeEntryError):
        apply(engine, target, file(b"f") + makers[kind] + file(b"file"))
    assert target.lstat().st_ino == inode
    assert names(target) == ["f"]


def test_rule_3_empty_names_are_refused(engine: Any, target: Path) -> None:
    with pytest.raises(UnsafeEntryError):
        apply(engine, target, file(b""))


def test_rule_3_long_components_and_paths(engine: Any, target: Path) -> None:
    assert try_apply(engine, target, file(b"n" * 255))
    with pytest.raises(FastlayerError):
        apply(engine, target, file(b"n" * 256))
    with pytest.raises(FastlayerError):
        apply(engine, target, file(b"n" * 256 + b"/x"))
    deep = b"/".join([b"d" * 200] * 40)
    apply(engine, target, file(deep + b"/f", b"x") + folder(deep, mtime=5) + hardlink(b"link", deep + b"/f"))
    assert (target / "link").read_bytes() == b"x"


# ---- 3: symbolic links in parents ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text", [b"run", b"/run", b"./run/", b"../run", b"/../../run", b"up/run", b"//run/.", b"up/up/up/../run"]
)
@pytest.mark.parametrize("when", ["same layer", "earlier layer"])
def test_rule_3_symlinked_parents_resolve_inside(engine: Any, target: Path, text: bytes, when: str) -> None:
    first = folder(b"run") + symlink(b"up", b"..") + symlink(b"var", text)
    second = file(b"var/f", b"x") + folder(b"var/d/e") + file(b"var/.wh.none") + hardlink(b"h", b"var/f")
    apply(engine, target, *((first + second,) if when == "same layer" else (first, second)))
    assert names(target) == ["h", "run", "run/d", "run/d/e", "run/f", "up", "var"]


@pytest.mark.parametrize(
    "text", [b"../outside", b"/../../outside", b"..", b"../../../../../../../../tmp", b"/etc", b"/proc/self/root",
             b"/proc/self/cwd", b"/dev/fd"],
)  # fmt: skip
def test_rule_3_symlinks_to_the_outside_stay_inside(engine: Any, target: Path, outside: Path, text: bytes) -> None:
    """CVE-2025-45582: also through links of an earlier layer, absolute or with ".."."""
    layer = file(b"l/file", b"x", mode=0o777, uid=9) + folder(b"l/dir", mode=0) + file(b"l/.wh.inner")
    layer += file(b"l/dir/.wh..wh..opq") + file(b"l/.wh..wh..opq") + file(b"l/again")
    apply(engine, target, symlink(b"l", text), layer)


def test_rule_3_existing_links_of_the_target_stay_inside(engine: Any, target: Path, outside: Path) -> None:
    (target / "l").symlink_to(outside)
    (target / "p").symlink_to("/proc/self/root" + str(outside))
    layer = b"".join(file(base + name) for base in (b"l/", b"p/") for name in (b"file", b"dir/inner", b".wh.file"))
    apply(engine, target, layer)


def test_rule_3_dangling_links_lead_to_new_directories(engine: Any, target: Path) -> None:
    apply(engine, target, symlink(b"l", b"no/where") + file(b"l/f", b"x"))
    assert names(target) == ["l", "no", "no/where", "no/where/f"]
    assert mode(target / "no/where") == 0o755


@pytest.mark.parametrize("layer", [
    symlink(b"a", b"b") + symlink(b"b", b"a"), symlink(b"a", b"a"), symlink(b"a", b"x/a") + symlink(b"x", b"."),
    symlink(b"a", b"a/a"),
])  # fmt: skip
def test_rule_3_loops_are_refused(engine: Any, target: Path, layer: bytes) -> None:
    with pytest.raises(UnsafeEntryError):
        apply(engine, target, layer + file(b"a/f"))


def test_rule_3_forty_links_and_no_more(engine: Any, target: Path) -> None:
    chain = b"".join(symlink(b"l%d" % n, b"l%d" % (n + 1)) for n in range(41)) + folder(b"l41")
    apply(engine, target, chain + file(b"l1/f"))
    with pytest.raises(UnsafeEntryError):
        apply(engine, target, file(b"l0/f"))


def test_rule_3_mazes_longer_than_path_max(engine: Any, target: Path) -> None:
    """CVE-2025-4517: links that expand to a path that realpath() cannot tell."""
    part = b"d" * 247
    layer, here = b"", b""
    for letter in b"abcdefghijklmnop":
        layer += folder(here + part) + symlink(here + bytes([letter]), part)
        here += bytes([letter]) + b"/"
    layer += symlink(here + b"l" * 254, b"../" * 16)
    layer += symlink(b"escape", here + b"l" * 254 + b"/../../outside")
    assert not try_apply(engine, target, layer + file(b"escape/file", b"x")) or (target / "outside").is_dir()


def test_rule_3_targets_expand_without_bounds_but_are_bounded(engine: Any, target: Path) -> None:
    layer = b"".join(symlink(b"l%d" % n, b"l%d/../" % (n + 1) * 300) for n in range(30)) + folder(b"l30")
    assert not try_apply(engine, target, layer + file(b"l0/f"))


# ---- 3: symbolic links at the end ------------------------------------------------------------------------------------


@pytest.mark.parametrize("spelling", [b"l", b"l/", b"l/.", b"./l//", b"/l/./"])
def test_rule_3_a_final_symlink_is_replaced_not_followed(
    engine: Any, target: Path, outside: Path, spelling: bytes
) -> None:
    """CVE-2026-33056: chmod through a link by a directory entry."""
    apply(engine, target, symlink(b"l", b"../outside"), with_xattrs(folder(spelling, mode=0o777, uid=5), user__a=b"1"))
    assert mode(target / "l") == 0o777
    assert stat.S_ISDIR((target / "l").lstat().st_mode)
    assert names(target) == ["l"]


@pytest.mark.parametrize(
    "entry", [file(b"l", b"x"), fifo(b"l"), symlink(b"l", b"else"), char(b"l", 1, 3), file(b".wh.l")]
)
def test_rule_3_no_entry_goes_through_its_final_symlink(engine: Any, target: Path, entry: bytes) -> None:
    apply(engine, target, symlink(b"l", b"/../outside/file"), entry)
    assert not (target / "l").is_symlink() or os.readlink(target / "l") == "else"


# ---- 3: what was a safe directory ------------------------------------------------------------------------------------


@pytest.mark.parametrize("when", ["same layer", "next layer"])
@pytest.mark.parametrize("by", ["entry", "whiteout", "parent", "opaque"])
def test_rule_3_directories_are_forgotten_when_replaced(engine: Any, target: Path, by: str, when: str) -> None:
    """CVE-2021-37701, CVE-2021-37712, CVE-2021-32803: a directory that was checked becomes a link."""
    first = folder(b"p/d") + file(b"p/d/f")
    link = symlink(b"p/d", b"../../outside/dir")
    replaced = {
        "entry": link,
        "whiteout": file(b"p/.wh.d") + link,
        "parent": symlink(b"p", b"../outside"),
        "opaque": file(b"p/.wh..wh..opq") + link,
    }[by]
    last = file(b"p/d/inner", b"x", mode=0o777) + file(b"p/d/.wh.inner") + folder(b"p/d/new")
    apply(engine, target, *((first + replaced + last,) if when == "same layer" else (first, replaced + last)))


def test_rule_3_directory_caches_are_keyed_by_bytes(engine: Any, target: Path) -> None:
    pairs = [(b"D", b"d"), (b"\xc3\xa9", b"e\xcc\x81"), (b"a\\b", b"a/b")]
    layer = b"".join(folder(one) + file(one + b"/f") + symlink(other, b"../outside") for one, other in pairs)
    apply(engine, target, layer + b"".join(file(other + b"/file") for _, other in pairs))


@pytest.mark.parametrize("text", [b"../outside", b"outside"])
def test_rule_3_deferred_directory_times_do_not_follow(engine: Any, target: Path, text: bytes) -> None:
    """CVE-2021-31566, CVE-2025-4330, CVE-2024-12718: at the end the directory has become a link."""
    layer = folder(b"d", mode=0o700, uid=7, mtime=5) + file(b"d/f") + folder(b"d/e", mtime=6) + symlink(b"d", text)
    apply(engine, target, layer + folder(b"outside", mtime=9))
    assert (target / "d").is_symlink()
    assert (target / "outside").stat().st_mtime == 9


def test_rule_3_parents_that_are_no_directories_are_replaced(engine: Any, target: Path) -> None:
    apply(engine, target, file(b"a") + fifo(b"b") + char(b"c", 1, 3), file(b"a/x") + file(b"b/x") + folder(b"c/x"))
    assert names(target) == ["a", "a/x", "b", "b/x", "c", "c/x"]


# ---- 3: hard links ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", [b"a", b"/a", b"./a", b"//a", b".//./a", b"l/a"])
def test_rule_3_hard_link_targets_are_paths_in_the_target(engine: Any, target: Path, text: bytes) -> None:
    apply(engine, target, file(b"a", b"x", mode=0o600) + symlink(b"l", b"/"), hardlink(b"new/dir/h", text, mode=0o777))
    found = (target / "new/dir/h").lstat()
    assert found.st_ino == (target / "a").lstat().st_ino
    assert stat.S_IMODE(found.st_mode) == 0o600


@pytest.mark.parametrize(
    "text", [b"../outside/file", b"/../outside/file", b"missing", b"d", b"d/", b".", b"/", b"d/missing", b"a/x", b"b",
             b"out/file", b"loop/x", b".wh.x"],
)  # fmt: skip
def test_rule_3_bad_hard_link_targets_are_refused(engine: Any, target: Path, text: bytes) -> None:
    """CVE-2026-23745, CVE-2026-26960, GHSA-fxhp-mv3v-67qp; b: the link itself."""
    layer = folder(b"d") + file(b"a") + file(b"b") + symlink(b"out", b"../outside") + symlink(b"loop", b"loop")
    with pytest.raises(UnsafeEntryError):
        apply(engine, target, layer + hardlink(b"b", text))


def test_rule_3_a_hard_link_to_a_symlink_links_the_link(engine: Any, target: Path, outside: Path) -> None:
    """CVE-2021-32760: no chmod, chown, utimes or setxattr through it afterwards."""
    layer = symlink(b"l", b"../outside/file") + with_xattrs(hardlink(b"h", b"l", mode=0o777, uid=5), user__a=b"1")
    apply(engine, target, layer, hardlink(b"h2", b"h", mode=0o4777))
    assert [(target / n).is_symlink() for n in ("l", "h", "h2")] == [True] * 3
    assert (target / "l").lstat().st_nlink == 3


def test_rule_3_a_hard_link_does_not_change_what_it_replaces(engine: Any, target: Path) -> None:
    apply(engine, target, file(b"a", b"1") + file(b"b", b"2") + hardlink(b"c", b"b") + hardlink(b"b", b"a"))
    assert [(target / n).read_bytes() for n in ("a", "b", "c")] == [b"1", b"1", b"2"]
    apply(engine, target, file(b"d/x") + hardlink(b"b", b"c"))
    assert (target / "b").read_bytes() == b"2"
    with pytest.raises(UnsafeEntryError):
        apply(engine, target, file(b"d/x") + hardlink(b"d", b"d/x"))


def test_rule_3_writing_after_a_hard_link_leaves_the_other_name(engine: Any, target: Path) -> None:
    layer = file(b"a", b"kept", mode=0o600) + hardlink(b"b", b"a") + file(b"b", b"new", mode=0o777)
    apply(engine, target, layer + hardlink(b"c", b"a"), with_xattrs(file(b"c", b"again"), user__a=b"1"))
    assert [(target / n).read_bytes() for n in ("a", "b", "c")] == [b"kept", b"new", b"again"]
    assert (mode(target / "a"), xattrs(target / "a")) == (0o600, {})


# ---- 3: removal ------------------------------------------------------------------------------------------------------


def make_deep(path: Path, levels: int, name: bytes = b"d" * 10) -> None:
    fd = os.open(path, os.O_RDONLY)
    for _ in range(levels):
        os.mkdir(name, dir_fd=fd)
        os.close(os.open(b"f", os.O_CREAT | os.O_WRONLY, dir_fd=fd))
        os.symlink("../outside", b"l", dir_fd=fd)
        following = os.open(name, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = following
    os.close(fd)


@pytest.mark.parametrize("how", ["replace", "whiteout", "opaque"])
def test_rule_3_removal_of_1500_levels(engine: Any, target: Path, how: str) -> None:
    (target / "top").mkdir()
    make_deep(target / "top", 1500)
    entry = {"replace": file(b"top"), "whiteout": file(b".wh.top"), "opaque": file(b"top/.wh..wh..opq")}
    apply(engine, target, entry[how])
    assert names(target) == ([] if how == "whiteout" else ["top"])


def test_rule_3_1500_levels_of_entries_and_markers(engine: Any, target: Path) -> None:
    """Of the same layer, so that nothing goes; and then all of it."""
    paths = [b"/".join([b"d"] * (n + 1)) for n in range(0, 1500, 100)]
    layer = b"".join(folder(path) + file(path + b"/.wh.d") + file(path + b"/.wh..wh..opq") for path in paths)
    layer += file(paths[-1] + b"/f") + b"".join(file(path + b"/.wh.d") for path in reversed(paths))
    apply(engine, target, layer)
    with directory(target) as fd:
        for _ in range(1401):
            following = os.open("d", os.O_RDONLY, dir_fd=fd)
            os.dup2(following, fd)
            os.close(following)
        assert os.listdir(fd) == ["f"]
    apply(engine, target, file(b".wh.d"))
    assert names(target) == []


def test_rule_0_few_descriptors_are_enough(engine: Any, target: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    layer = b"".join(file(b"a%d/b/c%d/f" % (n % 7, n), b"x") for n in range(200))
    layer += file(b"/".join([b"n" * 100] * 60) + b"/f")
    engine.extract.Extractor  # noqa: B018  (loads it while there are descriptors)
    used = len(os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(used + 40, hard), hard))
    try:
        apply(engine, target, layer, b"".join(file(b".wh.a%d" % n) for n in range(7)) + file(b".wh." + b"n" * 100))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert names(target) == []


@pytest.mark.parametrize("attack", ["swap directory", "swap file"])
def test_rule_0_concurrent_changes_never_lead_outside(engine: Any, target: Path, attack: str) -> None:
    """Another process exchanges what we work in for links, all the time."""
    stop = threading.Event()

    def swap() -> None:
        while not stop.is_set():
            for step in (
                lambda: os.rename(target / "d", target / "was"),
                lambda: os.symlink("../outside", target / "d"),
                lambda: os.unlink(target / "d"),
                lambda: os.rename(target / "was", target / "d"),
            ):
                try:
                    step()
                except OSError:
                    pass

    def swap_file() -> None:
        while not stop.is_set():
            try:
                os.unlink(target / "d/file")
                os.symlink("../../outside/file", target / "d/file")
                os.unlink(target / "d/file")
            except OSError:
                pass

    thread = threading.Thread(target=swap if attack == "swap directory" else swap_file)
    thread.start()
    try:
        for number in range(60):
            layer = folder(b"d", mode=0o777) + file(b"d/file", b"x" * number, mode=0o4777, uid=5)
            layer += fifo(b"d/p", mode=0o666) + folder(b"d/dir", mtime=5) + file(b"d/dir/inner", b"y")
            try_apply(engine, target, layer, file(b"d/.wh.file") + file(b"d/.wh..wh..opq"))
    finally:
        stop.set()
        thread.join()


# ---- 0 ---------------------------------------------------------------------------------------------------------------


def test_rule_0_no_allocation_from_a_size_claim(engine: Any, target: Path) -> None:
    claim = file(b"f", size=base256(1 << 40, 12))[:512]
    with directory(target) as fd:
        extractor = engine.extract.Extractor(fd)
        extractor.begin_layer()
        extractor.feed(claim + b"x" * 512)
        with pytest.raises(FastlayerError):
            extractor.end_layer()
        extractor.abort()
    assert (target / "f").stat().st_blocks <= 8


def test_rule_0_the_current_directory_does_not_matter(engine: Any, target: Path, outside: Path) -> None:
    old = Path.cwd()
    os.chdir(outside)
    try:
        apply(
            engine,
            target,
            file(b"file", b"x") + hardlink(b"h", b"file") + file(b"dir/.wh.inner") + symlink(b"l", b"file"),
        )
    finally:
        os.chdir(old)
    assert names(target) == ["file", "h", "l"]


@pytest.mark.parametrize("format", ["dir", "overlay", "overlay-userxattr", "aufs"])
def test_rule_0_markers_of_every_format_stay_inside(engine: Any, target: Path, format: str) -> None:
    layer = symlink(b"l", b"../outside") + symlink(b"f", b"../outside/file")
    markers = file(b"l/.wh.file") + file(b"l/dir/.wh..wh..opq") + file(b"l/.wh..wh..opq") + file(b"f/.wh.x")
    try_apply(engine, target, layer, markers, markers + folder(b"l/dir") + file(b"l/file"), format=format)


def test_target_that_is_moved_is_still_the_target(engine: Any, target: Path, outside: Path) -> None:
    """The descriptor counts, not the name."""
    with directory(target) as fd:
        extractor = engine.extract.Extractor(fd)
        moved = target.with_name("moved")
        target.rename(moved)
        target.symlink_to("outside")
        extractor.begin_layer()
        extractor.feed(file(b"file", b"x") + END)
        extractor.end_layer()
        extractor.abort()
        target.unlink()
        moved.rename(target)
    assert names(target) == ["file"]


def test_hard_links_outside_are_not_touched_by_attributes(engine: Any, target: Path) -> None:
    kept = target.parent.parent / "kept"
    kept.write_bytes(b"1")
    os.chmod(kept, 0o600)
    os.link(kept, target / "a")
    apply(engine, target, hardlink(b"b", b"a", mode=0o777, uid=4, mtime=3))
    assert (mode(kept), owner(kept)) == (0o600, (0, 0))
