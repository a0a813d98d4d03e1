"""Extraction that goes on where an earlier one was cut short: files that are whole already are moved, not written."""

from __future__ import annotations

import io
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

import fastlayer
from fastlayer.errors import FileChangedError
from tests.applying import (
    apply,
    char,
    directory,
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
from tests.corpus.tarparts import END

pytestmark = needs_root

BODY = os.urandom(3000)


@pytest.fixture
def places(tmp_path: Path) -> tuple[Path, Path]:
    """Where an extraction was cut short, and where it is done."""
    for name in ("donor", "target"):
        (tmp_path / name).mkdir(mode=0o755)
    return tmp_path / "donor", tmp_path / "target"


def cut_short(engine: Any, target: Path, data: bytes, **options: Any) -> None:
    with directory(target) as fd:
        extractor = engine.extract.Extractor(fd, **options)
        extractor.begin_layer()
        extractor.feed(data)
        extractor.abort()


def go_on(engine: Any, donor: Path, target: Path, data: bytes, **options: Any) -> int:
    """Applies the whole layer; bytes that came from the donor."""
    with directory(target) as fd, directory(donor) as given:
        extractor = engine.extract.Extractor(fd, donor=given, **options)
        try:
            extractor.begin_layer()
            extractor.feed(data + END)
            extractor.end_layer()
            return int(extractor.donated_bytes)
        finally:
            extractor.abort()


def seen(top: Path) -> dict[str, Any]:
    """Everything about a tree; the numbers of inodes as groups of names."""
    found: dict[str, Any] = {}
    groups: dict[int, str] = {}
    for path in [top, *sorted(top.rglob("*"))]:
        status = path.lstat()
        name = str(path.relative_to(top))
        group = groups.setdefault(status.st_ino, name)
        content = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
        link = os.readlink(path) if path.is_symlink() else ""
        found[name] = (
            *(status.st_mode, status.st_uid, status.st_gid, status.st_mtime_ns, status.st_nlink, status.st_rdev),
            *(content, link, group, xattrs(path) if not path.is_symlink() else {}),
        )
    return found


LAYER = [
    folder(b"./", mtime=10),
    folder(b"d", mode=0o750, uid=7, mtime=11),
    file(b"d/one", BODY, mode=0o4755, uid=3, gid=4, mtime=12),
    with_xattrs(file(b"d/two", BODY * 2, mode=0o444, uid=5, mtime=13), user__a=b"1"),
    file(b"d/empty", b"", mtime=14),
    hardlink(b"d/linked", b"d/one"),
    symlink(b"d/way", b"one", mtime=15),
    char(b"d/null", 1, 3),
    folder(b"e", mtime=18),
    file(b"e/f", BODY * 3, mode=0o600, mtime=16),
    file(b"e/g", BODY, mode=0o640, uid=9, mtime=17),
]


@pytest.mark.parametrize("format", ["dir", "overlay"])
def test_cut_anywhere_the_tree_is_the_same(engine: Any, places: tuple[Path, Path], tmp_path: Path, format: str) -> None:
    donor, target = places
    whole = b"".join(LAYER)
    straight = tmp_path / "straight"
    straight.mkdir(mode=0o755)
    apply(engine, straight, whole, format=format)
    wanted = seen(straight)
    sizes = {3: len(BODY), 4: len(BODY) * 3, 7: len(BODY) * 3, 10: len(BODY) * 6, 11: len(BODY) * 7}
    for count in range(len(LAYER) + 1):
        for more in (0, 1500):  # the end of an entry, and within the next
            cut_short(engine, donor, whole[: len(b"".join(LAYER[:count])) + more], format=format)
            donated = go_on(engine, donor, target, whole, format=format)
            shutil.rmtree(donor)  # which may have more names of the same files
            assert seen(target) == wanted
            if not more and count in sizes:
                assert donated == sizes[count], count
            shutil.rmtree(target)
            for place in places:
                place.mkdir(mode=0o755)


def test_what_the_donor_has_of_another_size_is_written(engine: Any, places: tuple[Path, Path]) -> None:
    donor, target = places
    (donor / "f").write_bytes(BODY[:-1])
    assert go_on(engine, donor, target, file(b"f", BODY)) == 0
    assert (target / "f").read_bytes() == BODY and names(donor) == ["f"]


def test_only_plain_files_beneath_the_donor_are_taken(engine: Any, places: tuple[Path, Path], tmp_path: Path) -> None:
    donor, target = places
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "f").write_bytes(BODY)
    (donor / "d").symlink_to("../outside")
    (donor / "f").symlink_to("../outside/f")
    os.mkfifo(donor / "g")
    entries = folder(b"d") + file(b"d/f", BODY) + file(b"f", BODY) + file(b"g", BODY)
    assert go_on(engine, donor, target, entries) == 0
    assert names(outside) == ["f"] and (target / "d/f").read_bytes() == BODY == (target / "f").read_bytes()


def test_attributes_are_of_the_entry(engine: Any, places: tuple[Path, Path]) -> None:
    donor, target = places
    (donor / "f").write_bytes(BODY)
    os.chown(donor / "f", 55, 66)
    os.chmod(donor / "f", 0o6711)
    assert go_on(engine, donor, target, file(b"f", BODY, mode=0o640, uid=1, gid=2, mtime=3) + file(b"g", b"x")) == 3000
    assert (mode(target / "f"), owner(target / "f"), (target / "f").stat().st_mtime) == (0o640, (1, 2), 3)
    assert owner(target / "g") == (0, 0)


def test_an_entry_twice_is_not_known(engine: Any, places: tuple[Path, Path]) -> None:
    """h is a link to the first f, which the donor has lost to the second."""
    donor, target = places
    entries = file(b"f", BODY) + hardlink(b"h", b"f") + file(b"f", BODY[::-1])
    cut_short(engine, donor, entries)
    with pytest.raises(FileChangedError, match="replaces another entry"):
        go_on(engine, donor, target, entries)


def test_only_into_an_empty_target(engine: Any, places: tuple[Path, Path]) -> None:
    donor, target = places
    (donor / "f").write_bytes(BODY)
    (target / "other").write_bytes(b"")
    assert go_on(engine, donor, target, file(b"f", BODY)) == 0
    assert (target / "f").read_bytes() == BODY and names(donor) == ["f"]


def test_a_donor_elsewhere_is_left(engine: Any, places: tuple[Path, Path]) -> None:
    """Names cannot be moved between file systems: everything is written."""
    assert go_on(engine, Path("/proc/self"), places[1], file(b"comm", b"python\n")) == 0
    assert (places[1] / "comm").read_bytes() == b"python\n"


def test_a_layer_is_applied_with_a_donor(engine: Any, places: tuple[Path, Path]) -> None:
    donor, target = places
    (donor / "f").write_bytes(BODY)
    inode = (donor / "f").stat().st_ino
    with directory(donor) as given:
        stats = fastlayer.apply(io.BytesIO(file(b"f", BODY) + END), target, donor=given)
    assert stats.payload == len(BODY) and (target / "f").stat().st_ino == inode and names(donor) == []
