"""What a store says when it is full, or cannot keep what it is given: the place that is meant, and what to do."""

from __future__ import annotations

import os
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastlayer.errors import UsageError
from fastlayer.store.store import default_root
from tests.conftest import needs_root
from tests.shell import Shell
from tests.stores import tree

MAKE_ROOM = "No space left on device: `fastlayer system prune` makes room, or give another place for the store"
SIZE = 12 << 20


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system of 20 MB."""
    place = tmp_path / "small"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=20m", "none", place], capture_output=True).returncode:
        pytest.skip("tmpfs cannot be mounted here")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", place], check=True)


@pytest.fixture
def big(tmp_path: Path) -> Path:
    return tree(tmp_path / "big", {"f": os.urandom(SIZE)})


def test_who_has_no_home_is_asked_for_a_place(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HOME", "FASTLAYER_ROOT", "XDG_DATA_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "geteuid", lambda: 54321)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # who is not in /etc/passwd
    with pytest.raises(UsageError, match="no home directory is known for the store: set HOME, or give --root"):
        default_root()
    monkeypatch.setenv("XDG_DATA_HOME", "/data")
    assert default_root() == Path("/data/fastlayer")


@needs_root
def test_a_full_store_is_named_when_an_image_comes_in(small: Path, big: Path, tmp_path: Path) -> None:
    other, full = Shell(tmp_path / "other"), Shell(small / "store")
    other.good("import", big, "big:1")
    other.good("save", "-o", tmp_path / "image.tar", "big:1")
    layer = tmp_path / "layer.tar"
    subprocess.run(["tar", "-C", big, "-cf", layer, "."], check=True)
    for words in (["load", "-i", tmp_path / "image.tar"], ["import", layer, "big:1"]):
        line = full.refused(*words)
        assert str(small / "store") in line and MAKE_ROOM in line and ": read: " not in line
    assert "sound" in full.good("store", "check")


@needs_root
def test_a_full_store_is_named_when_a_blob_is_made(small: Path, big: Path, tmp_path: Path) -> None:
    full = Shell(small / "store")
    full.good("import", big, "big:1")
    for words in (["save", "-o", tmp_path / "image.tar", "big:1"], ["image", "materialize", "big:1"]):
        line = full.refused(*words)
        assert line.startswith(f"fastlayer: {small}/store/content: cannot write: {MAKE_ROOM}")
    assert not (tmp_path / "image.tar").exists()


@needs_root
def test_another_full_place_is_no_matter_of_the_store(small: Path, big: Path, tmp_path: Path) -> None:
    shell = Shell(tmp_path / "store")
    shell.good("import", tree(big, {"g": os.urandom(SIZE)}), "big:1")
    line = shell.refused("save", "-o", small / "image.tar", "big:1")
    assert f"{small}/image.tar: write: No space left on device: make room there" in line


@needs_root
def test_what_overlay_cannot_hold_is_named_as_it_was_given(tmp_path: Path) -> None:
    place = tree(tmp_path / "root", {"sub/a": "1"})
    os.mknod(place / "sub/zero", 0o600 | stat.S_IFCHR, os.makedev(0, 0))
    shell = Shell(tmp_path / "store", "overlay2")
    assert shell.refused("import", f"{place}/", "x:1") == (
        f"fastlayer: {place}/sub/zero: device 0:0 would be a whiteout on overlay: "
        "leave it out, or use another driver (`--driver vfs`)"
    )
    shell.good("import", "--driver", "vfs", place, "x:1")
