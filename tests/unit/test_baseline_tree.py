"""What the baseline's walk and lookups promise by themselves; what they mean for a diff is tested on both backends."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fastlayer._baseline import changes, table, tree, upper
from fastlayer.errors import StorageError, UsageError
from tests.conftest import needs_root


@pytest.fixture
def fd_of() -> Iterator[Callable[[Path], int]]:
    opened = []

    def open_dir(path: Path) -> int:
        opened.append(os.open(path, os.O_RDONLY | os.O_DIRECTORY))
        return opened[-1]

    yield open_dir
    for fd in opened:
        os.close(fd)


def test_order_is_that_of_the_bytes_of_the_full_path(tmp_path: Path, fd_of: Callable[[Path], int]) -> None:
    for name in ("a/b/c", "a/b-c", "a-b", "a.b", "a0", "A/z"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    paths = [entry.path for entry in tree.walk(fd_of(tmp_path))]
    assert paths == sorted(paths) == [b"", b"A", b"A/z", b"a", b"a-b", b"a.b", b"a/b", b"a/b-c", b"a/b/c", b"a0"]


def test_depth_is_bounded_by_nothing(tmp_path: Path, fd_of: Callable[[Path], int]) -> None:
    """1200 levels and a path beyond PATH_MAX with 64 descriptors."""
    fd = os.open(tmp_path, os.O_RDONLY)
    for _ in range(1200):
        os.mkdir(b"deep", dir_fd=fd)
        inner = os.open(b"deep", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = inner
    os.close(fd)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    root = fd_of(tmp_path)
    resource.setrlimit(resource.RLIMIT_NOFILE, (root + 8, hard))
    try:
        entries = list(tree.walk(root))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert len(entries) == 1201
    assert entries[-1].path == b"/".join([b"deep"] * 1200)


def test_opening_follows_no_link(tmp_path: Path, fd_of: Callable[[Path], int]) -> None:
    (tmp_path / "dir").mkdir()
    (tmp_path / "dir/file").write_bytes(b"inside")
    (tmp_path / "link").symlink_to("dir")
    (tmp_path / "dir/link").symlink_to("file")
    root = fd_of(tmp_path)
    with tree.open_bytes(root, b"dir/file") as file:
        assert file.read() == b"inside"
    for path in (b"link/file", b"dir/link"):
        with pytest.raises(OSError):
            tree.open_bytes(root, path)


@pytest.mark.parametrize(
    ("policy", "kept", "dropped"),
    [
        ("all", [b"security.capability", b"system.posix_acl_access", b"user.x"], 2),
        ("docker", [b"security.capability"], 4),
        ("none", [], 5),
    ],
)
def test_xattr_policies(policy: str, kept: list[bytes], dropped: int) -> None:
    names = [
        b"security.capability", b"security.selinux", b"system.posix_acl_access", b"trusted.overlay.opaque",
        b"trusted.SGI_ACL_FILE", b"trusted.x", b"user.x",
    ]  # fmt: skip
    pairs, count = tree.filter_xattrs(tuple((name, b"v") for name in names), policy)
    assert [name for name, _ in pairs] == kept
    assert count == dropped


def test_xattr_blobs_go_both_ways() -> None:
    pairs = ((b"user.a", b""), (b"user.b", b"\0" * 70_000))
    assert tree.unpack_xattrs(tree.pack_xattrs(pairs)) == pairs
    assert tree.unpack_xattrs(b"") == ()


def test_records_have_the_size_of_the_structs() -> None:
    assert table.RECORD.size == 64


def test_an_unreadable_root_is_named(tmp_path: Path, fd_of: Callable[[Path], int]) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(StorageError):
        list(tree.walk(os.open(tmp_path / "file", os.O_RDONLY)))


def test_finish_before_the_last_step_is_refused(tmp_path: Path, fd_of: Callable[[Path], int]) -> None:
    differ = changes.Differ(fd_of(tmp_path), None)
    with pytest.raises(UsageError):
        differ.finish()
    with pytest.raises(UsageError):
        changes.Differ(None, None, compare="fast")
    with pytest.raises(UsageError):
        changes.Differ(None, None, xattrs="some")


# ---- overlay ----------------------------------------------------------------------------------


def upper_rows(fd_of: Callable[[Path], int], *layers: Path, space: str = "trusted.overlay") -> list[tuple[str, bytes]]:
    first, *rest = (fd_of(layer) for layer in layers)
    differ = upper.UpperDiffer(first, rest, userxattr=space == "user.overlay")
    while differ.step():
        pass
    return [(row.kind, row.path) for row in differ.finish().rows() if row.path != b""]


@pytest.fixture
def layers(tmp_path: Path) -> tuple[Path, Path]:
    """An upperdir that adds nothing and a lowerdir ``d/{x,y}``; all directories alike."""
    for name in ("upper", "upper/d", "lower", "lower/d"):
        (tmp_path / name).mkdir()
    for name in ("x", "y"):
        (tmp_path / "lower/d" / name).write_bytes(name.encode())
    for name in ("upper/d", "lower/d", "upper", "lower"):
        os.utime(tmp_path / name, (0, 0))
    return tmp_path / "upper", tmp_path / "lower"


def test_an_upperdir_that_adds_nothing(layers: tuple[Path, Path], fd_of: Callable[[Path], int]) -> None:
    assert upper_rows(fd_of, *layers) == []


@pytest.mark.parametrize("space", ["user.overlay", pytest.param("trusted.overlay", marks=needs_root)])
def test_whiteouts_and_opaque_directories_by_xattr(
    layers: tuple[Path, Path], fd_of: Callable[[Path], int], space: str
) -> None:
    marker = layers[0] / "d/x"
    marker.touch()
    os.setxattr(marker, f"{space}.whiteout", b"")
    os.utime(layers[0] / "d", (0, 0))
    assert upper_rows(fd_of, *layers, space=space) == [("P", b"d"), ("D", b"d/x")]
    os.setxattr(layers[0] / "d", f"{space}.opaque", b"y")
    assert upper_rows(fd_of, *layers, space=space) == [("P", b"d"), ("D", b"d/x"), ("D", b"d/y")]


@needs_root
def test_a_whiteout_device_hides_every_layer_below(layers: tuple[Path, Path], fd_of: Callable[[Path], int]) -> None:
    os.mknod(layers[0] / "d/x", 0o20000, 0)
    os.mknod(layers[0] / "d/nothing", 0o20000, 0)
    os.utime(layers[0] / "d", (0, 0))
    assert upper_rows(fd_of, *layers, layers[1]) == [("P", b"d"), ("D", b"d/x")]


def test_overlay_xattrs_are_not_seen_and_escaped_ones_are() -> None:
    raw = ((b"user.overlay.origin", b"1"), (b"user.overlay.overlay.opaque", b"y"), (b"user.x", b"2"))
    assert upper.visible_xattrs(raw, b"user.overlay.") == ((b"user.overlay.opaque", b"y"), (b"user.x", b"2"))
    assert upper.marks_of(raw, b"user.overlay.") == {b"origin": b"1"}
    assert upper.visible_xattrs(raw, b"trusted.overlay.") == raw
    assert upper.marks_of(raw, b"trusted.overlay.") == {}
