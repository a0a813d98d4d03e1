"""Rule 2.12 with real file systems: what an attribute's refusal means depends on its cause."""

from __future__ import annotations

import errno
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fastlayer.errors import StorageError
from tests.applying import apply, file, folder, symlink, with_xattrs, xattrs
from tests.conftest import needs_root

pytestmark = needs_root
Mount = Callable[..., Path]


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Mount]:
    mounted: list[Path] = []

    def make(kind: str, *options: str) -> Path:
        where = tmp_path / kind
        where.mkdir()
        command = ["mount", "-t", kind, *options, kind, where]
        if subprocess.run(command, check=False, capture_output=True).returncode:
            pytest.skip(f"{kind} cannot be mounted here")
        mounted.append(where)
        return where

    yield make
    for where in mounted:
        subprocess.run(["umount", where], check=True)


def test_attributes_that_the_file_system_lacks_are_a_warning(engine: Any, mount: Mount) -> None:
    """ENOTSUP: ramfs has none at all."""
    target = mount("ramfs")
    entries = [file(b"f", b"x"), folder(b"d"), symlink(b"l", b"f")]
    [stats] = apply(engine, target, b"".join(with_xattrs(entry, user__a=b"1") for entry in entries))
    assert (target / "f").read_bytes() == b"x"
    assert stats.skipped_xattrs == 3
    assert [warning for warning in stats.warnings if "Operation not supported (first: user.a of f)" in warning]


@pytest.mark.parametrize("entry", [file(b"e"), folder(b"e")], ids=["file", "directory"])
def test_an_attribute_too_large_for_the_kernel_is_an_error(engine: Any, tmp_path: Path, entry: bytes) -> None:
    with pytest.raises(StorageError) as refusal:
        apply(engine, tmp_path, with_xattrs(entry, user__big=b"x" * 70_000))
    assert refusal.value.errno == errno.E2BIG
    assert refusal.value.filename == b"e"


@pytest.mark.parametrize("entry", [file(b"e"), folder(b"e")], ids=["file", "directory"])
def test_no_room_for_an_attribute_is_an_error(engine: Any, mount: Mount, entry: bytes) -> None:
    """tmpfs counts attributes as inodes."""
    target = mount("tmpfs", "-o", "nr_inodes=8")
    with pytest.raises(StorageError) as refusal:
        apply(engine, target, with_xattrs(entry, user__big=b"x" * 60_000))
    if refusal.value.errno == errno.EOPNOTSUPP:
        pytest.skip("no user xattrs on tmpfs")
    assert refusal.value.errno == errno.ENOSPC
    assert xattrs(target / "e") == {}
