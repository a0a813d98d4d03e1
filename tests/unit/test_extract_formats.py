"""What the storage formats make of whiteouts, and what they keep to themselves. Each runs on both engines."""

from __future__ import annotations

import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest

from fastlayer.errors import (
    StorageError,
    UnsafeEntryError,
)
from tests import trees
from tests.applying import (
    apply,
    file,
    folder,
    hardlink,
    is_whiteout,
    names,
    put,
    symlink,
    with_xattrs,
    xattrs,
)
from tests.conftest import needs_root

pytestmark = needs_root


@pytest.fixture
def target(tmp_path: Path) -> Path:
    path = tmp_path / "target"
    path.mkdir(mode=0o755)
    return path


# ---- 4: the storage formats ------------------------------------------------------------------------------------------

OVERLAYS = [("overlay", "trusted.overlay."), ("overlay-userxattr", "user.overlay.")]


@pytest.mark.parametrize("format,prefix", OVERLAYS)
def test_overlay_whiteouts_and_opaque_directories(engine: Any, target: Path, format: str, prefix: str) -> None:
    layer = file(b"d/.wh.x") + file(b"o/.wh..wh..opq") + folder(b"o") + file(b"o/new") + file(b"o/.wh.litter")
    apply(engine, target, layer, format=format)
    assert is_whiteout(target / "d/x")
    assert xattrs(target / "o") == {prefix + "opaque": b"y"}
    assert names(target) == ["d", "d/x", "o", "o/new"]


@pytest.mark.parametrize("format,prefix", OVERLAYS)
@pytest.mark.parametrize("first", ["marker", "entries"])
def test_overlay_directory_over_its_whiteout_is_opaque(
    engine: Any, target: Path, format: str, prefix: str, first: str
) -> None:
    marker, entries = file(b".wh.d") + file(b".wh.f"), folder(b"d") + file(b"d/new") + file(b"f")
    apply(engine, target, marker + entries if first == "marker" else entries + marker, format=format)
    assert xattrs(target / "d") == {prefix + "opaque": b"y"}
    assert names(target) == ["d", "d/new", "f"]
    assert (target / "f").is_file()


@pytest.mark.parametrize("format,prefix", OVERLAYS)
def test_overlay_directory_over_a_whiteout_of_an_earlier_layer(
    engine: Any, target: Path, format: str, prefix: str
) -> None:
    apply(engine, target, file(b".wh.d") + file(b"f"), file(b"d/x") + file(b"f/x"), file(b"d/.wh.x"), format=format)
    assert xattrs(target / "d") == xattrs(target / "f") == {prefix + "opaque": b"y"}
    assert names(target) == ["d", "f", "f/x"]


@pytest.mark.parametrize("format,prefix", OVERLAYS)
def test_overlay_attributes_keep_the_formats_own_xattrs(engine: Any, target: Path, format: str, prefix: str) -> None:
    own = with_xattrs(folder(b"d", mode=0o700), **{prefix.replace(".", "__", 1) + "redirect": b"/etc", "user__a": b"1"})
    stats = apply(engine, target, file(b"d/.wh..wh..opq") + own, format=format)[0]
    assert xattrs(target / "d") == {prefix + "opaque": b"y", "user.a": b"1"}
    assert stats.skipped_xattrs == 1


@pytest.mark.parametrize("format,prefix", OVERLAYS)
def test_overlay_root_opaque_warns_once(engine: Any, target: Path, format: str, prefix: str) -> None:
    stats = apply(engine, target, file(b".wh..wh..opq"), format=format)[0]
    assert xattrs(target) == {prefix + "opaque": b"y"}
    assert len(stats.warnings) == 1
    assert "opaque" in stats.warnings[0]


@pytest.mark.parametrize("format,prefix", OVERLAYS)
def test_overlay_hard_link_to_a_whiteout_is_refused(engine: Any, target: Path, format: str, prefix: str) -> None:
    with pytest.raises(UnsafeEntryError):
        apply(engine, target, file(b".wh.a") + hardlink(b"b", b"a"), format=format)


def test_overlay_tree_means_what_the_layers_mean(engine: Any, target: Path) -> None:
    """The kernel is asked: lower + our upper, merged, is what applying to a directory gives."""
    lowerdir, upper, merged, plain = (target / n for n in ("lower", "upper", "merged", "plain"))
    for path in (upper, merged, target / "work"):
        path.mkdir()
    for base in (lowerdir, plain):
        for name in ("a", "d/x", "d/sub/y", "o/old/z", "t/u"):
            put(base / name)
    layer = file(b".wh.a") + file(b"d/.wh.x") + file(b"o/.wh..wh..opq") + file(b"o/old/new") + file(b"t/n")
    layer += file(b".wh.t") + with_xattrs(folder(b"o", mode=0o2750, uid=7, gid=8, mtime=5), user__a=b"1")
    layer += folder(b"d", mode=0o700, mtime=6) + file(b"d/f", b"x", mode=0o4755, uid=9, mtime=7)
    apply(engine, plain, layer)
    apply(engine, upper, layer, format="overlay")
    options = f"lowerdir={upper}:{lowerdir}"
    mounted = subprocess.run(["mount", "-t", "overlay", "overlay", "-o", options, merged], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip("overlay cannot be mounted here")
    try:
        seen, wanted = trees.snapshot(str(merged)), trees.snapshot(str(plain))
    finally:
        subprocess.run(["umount", merged], check=True)
    for path in (b"", b"o/old", b"t"):  # no entry speaks of them, so an upper directory has its own time
        seen[path], wanted[path] = seen[path]._replace(mtime_ns=0), wanted[path]._replace(mtime_ns=0)
    trees.assert_same_tree(seen, wanted)
    assert seen[b"o"].mode == 0o2750
    assert seen[b"o"].xattrs


MARKING = ["overlay", "overlay-userxattr", "aufs"]


@pytest.mark.parametrize("format", MARKING)
def test_a_marker_makes_the_parents_that_its_name_says(engine: Any, target: Path, format: str) -> None:
    """Whether a lower layer has them is not known here; without them a whiteout that matters would be lost."""
    apply(engine, target, file(b"x/y/.wh.z"), format=format)
    assert names(target) == ["x", "x/y", "x/y/.wh.z" if format == "aufs" else "x/y/z"]
    apply(engine, target, file(b"dir/.wh..wh..opq"), format="dir")
    assert not (target / "dir").exists()


@pytest.mark.parametrize("format", MARKING)
@pytest.mark.parametrize("marker", [b"l/.wh.z", b"l/a/b/.wh.z", b"l/.wh..wh..opq", b"m/.wh.z", b"real/up/.wh.z"])
def test_a_marker_behind_a_link_to_nothing_makes_nothing(engine: Any, target: Path, format: str, marker: bytes) -> None:
    links = symlink(b"l", b"nowhere/deep") + symlink(b"m", b"/l") + folder(b"real") + symlink(b"real/up", b"../gone")
    apply(engine, target, links + file(marker), format=format)
    assert names(target) == ["l", "m", "real", "real/up"]


@pytest.mark.parametrize("format", MARKING)
def test_a_marker_behind_a_link_to_a_directory_acts_there(engine: Any, target: Path, format: str) -> None:
    apply(engine, target, folder(b"real") + symlink(b"l", b"real") + file(b"l/.wh.z"), format=format)
    assert names(target) == ["l", "real", "real/.wh.z" if format == "aufs" else "real/z"]


def test_aufs_keeps_whiteout_files(engine: Any, target: Path) -> None:
    layer = with_xattrs(symlink(b"d/.wh.x", b"/etc"), user__a=b"1") + file(b"o/.wh..wh..opq", b"body") + file(b"o/n")
    apply(engine, target, layer, format="aufs")
    assert names(target) == ["d", "d/.wh.x", "o", "o/.wh..wh..opq", "o/n"]
    for name in ("d/.wh.x", "o/.wh..wh..opq"):
        found = (target / name).lstat()
        assert stat.S_ISREG(found.st_mode)
        assert found.st_size == 0


def test_aufs_entry_takes_its_whiteout_away(engine: Any, target: Path) -> None:
    layers = file(b".wh.f") + file(b".wh.d"), file(b"f", b"x") + folder(b"d") + file(b"d/n"), file(b".wh.f")
    apply(engine, target, *layers[:2], format="aufs")
    assert names(target) == ["d", "d/.wh..wh..opq", "d/n", "f"]
    apply(engine, target, layers[2], format="aufs")
    assert names(target) == [".wh.f", "d", "d/.wh..wh..opq", "d/n"]


def test_aufs_too_long_a_marker_is_an_error(engine: Any, target: Path) -> None:
    with pytest.raises(StorageError):
        apply(engine, target, file(b".wh." + b"n" * 252), format="aufs")
