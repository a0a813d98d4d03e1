"""Mounts inside the target: entries go into them, nothing is ever removed through them."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import fastlayer
from fastlayer.errors import StorageError
from tests.applying import apply, file, folder, names, put, symlink
from tests.conftest import needs_root
from tests.corpus.tarparts import END

pytestmark = needs_root


@pytest.fixture
def target(tmp_path: Path) -> Path:
    path = tmp_path / "target"
    path.mkdir()
    return path


@pytest.fixture
def host(tmp_path: Path) -> Path:
    """A directory on the same file system, to be mounted into the target."""
    put(tmp_path / "host/data/precious")
    return tmp_path / "host"


@pytest.fixture
def mount(host: Path) -> Iterator[Callable[[Path], None]]:
    mounted: list[Path] = []

    def bind(where: Path) -> None:
        where.mkdir(parents=True, exist_ok=True)
        if subprocess.run(["mount", "--bind", host, where], check=False, capture_output=True).returncode:
            pytest.skip("nothing can be mounted here")
        mounted.append(where)

    yield bind
    for where in reversed(mounted):
        subprocess.run(["umount", where], check=True)


REMOVERS = {
    "whiteout": file(b".wh.m"),
    "whiteout above": file(b".wh.a"),
    "replaced by a file": file(b"m", b"new"),
    "replaced by a link": symlink(b"m", b"/etc"),
    "replaced above": file(b"a"),
    "opaque": file(b".wh..wh..opq"),
    "opaque above": file(b"a/.wh..wh..opq"),
    "whiteout after an entry": file(b"m/new") + file(b".wh.m"),
    "whiteout above after an entry": file(b"a/b/m/new") + file(b".wh.a"),
    "opaque after an entry": file(b"a/b/m/new") + file(b"a/.wh..wh..opq"),
}


@pytest.mark.parametrize("format", ["dir", "overlay", "aufs"])
@pytest.mark.parametrize("name", REMOVERS)
def test_nothing_is_removed_through_a_mount(
    engine: Any, target: Path, host: Path, mount: Callable[[Path], None], name: str, format: str
) -> None:
    mount(target / ("a/b/m" if "a" in name.split()[-1:] or "above" in name or "opaque after" in name else "m"))
    with pytest.raises(StorageError, match="mount point") as refusal:
        apply(engine, target, REMOVERS[name], format=format)
    assert refusal.value.filename
    assert (host / "data/precious").read_bytes() == b"lower"


def test_entries_and_their_whiteouts_go_into_a_mount(
    engine: Any, target: Path, host: Path, mount: Callable[[Path], None]
) -> None:
    """What a layer names below a mount is meant: the caller has mounted it there."""
    mount(target / "m")
    put(target / "beside/x")
    apply(engine, target, file(b"m/new", b"n") + file(b"m/data/.wh.precious") + folder(b"m") + file(b".wh.beside"))
    assert names(host) == ["data", "new"]
    assert names(target) == ["m", "m/data", "m/new"]


def test_a_mounted_target_is_a_tree_like_any(
    engine: Any, target: Path, host: Path, mount: Callable[[Path], None]
) -> None:
    mount(target)
    apply(engine, target, file(b".wh.data"))
    assert names(host) == []


def test_the_refusal_says_what_to_do(engine: Any, tmp_path: Path, target: Path, mount: Callable[[Path], None]) -> None:
    mount(target / "m")
    (tmp_path / "layer.tar").write_bytes(file(b".wh.m") + END)
    with pytest.raises(StorageError) as refusal:
        fastlayer.apply(tmp_path / "layer.tar", target)
    assert str(refusal.value).startswith(os.fspath(tmp_path / "layer.tar"))
    assert "unmount" in str(refusal.value)
