"""Putting things into a root and taking them out, where nothing can be mounted."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fastlayer.errors import RunError
from fastlayer.running import inroot
from tests.running import STAMP, picture, settle


@pytest.fixture
def root(tmp_path: Path) -> Path:
    place = tmp_path / "root"
    (place / "etc").mkdir(parents=True)
    (place / "etc/hosts").write_text("image's")
    (place / "etc/hosts").chmod(0o600)
    settle(place)
    return place


def text(content: str):  # type: ignore[no-untyped-def]
    def make(where: int, name: str) -> None:
        with open(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, dir_fd=where), "w") as file:
            file.write(content)

    return make


def test_what_was_there_comes_back(root: Path) -> None:
    before = picture(root)
    guests = inroot.Guests(str(root))
    guests.put("/etc/hosts", text("ours"))
    guests.put("/new/place/file", text("x"))
    assert (root / "etc/hosts").read_text() == "ours"
    assert (root / "new/place/file").read_text() == "x"
    guests.close()
    assert picture(root) == before
    assert (root / "etc").stat().st_mtime_ns == STAMP


def test_what_somebody_put_beside_stays(root: Path) -> None:
    guests = inroot.Guests(str(root))
    guests.put("/new/file", text("x"))
    (root / "new/other").write_text("y")
    guests.close()
    assert os.listdir(root / "new") == ["other"]


def test_what_somebody_removed_is_no_error(root: Path) -> None:
    guests = inroot.Guests(str(root))
    guests.put("/new/file", text("x"))
    (root / "new/file").unlink()
    (root / "new").rmdir()
    guests.close()
    assert not (root / "new").exists()


@pytest.mark.parametrize("link", ["/outside", "../../outside", "../" * 60 + "outside"])
def test_links_stay_inside(root: Path, tmp_path: Path, link: str) -> None:
    (tmp_path / "outside").mkdir()
    os.symlink(link, root / "way")
    guests = inroot.Guests(str(root))
    guests.put("/way/file", text("x"))
    assert (root / "outside/file").read_text() == "x"
    guests.close()
    assert os.listdir(tmp_path / "outside") == []
    assert not (root / "outside").exists()


def test_a_link_at_the_end_is_followed_inside(root: Path) -> None:
    os.symlink("../run/resolv.conf", root / "etc/resolv.conf")
    guests = inroot.Guests(str(root))
    guests.put("/etc/resolv.conf", text("x"))
    assert (root / "run/resolv.conf").read_text() == "x"
    guests.close()
    assert (root / "etc/resolv.conf").is_symlink() and not (root / "run").exists()


def test_loops_and_files_on_the_way_are_errors(root: Path) -> None:
    os.symlink("loop", root / "loop")
    guests = inroot.Guests(str(root))
    for path in ("/loop/x", "/etc/hosts/x", "/"):
        with pytest.raises(RunError, match="cannot put"):
            guests.put(path, text("x"))
    guests.close()


def test_reading_inside(root: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    os.symlink(str(tmp_path / "secret"), root / "out")
    os.symlink("etc/hosts", root / "in")
    os.mkfifo(root / "fifo")
    guests = inroot.Guests(str(root))
    assert guests.read("/in") == b"image's"
    assert [guests.read(path) for path in ("/out", "/fifo", "/etc", "/none", "/")] == [None] * 5
    guests.close()
    fd = os.open(root, os.O_RDONLY)
    assert inroot.read_file(fd, "/etc/hosts", limit=3) is None
    os.close(fd)


def test_copies_are_whole(root: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "sub").mkdir(parents=True)
    (source / "sub/file").write_bytes(b"data")
    (source / "sub/file").chmod(0o640)
    os.symlink("/nowhere", source / "link")
    os.mkfifo(source / "fifo")
    settle(source)
    guests = inroot.Guests(str(root))
    guests.put("/copy", lambda where, name: inroot.copy(str(source), where, name))
    expected = {path: about for path, about in picture(source).items() if path != "fifo"}
    assert picture(root / "copy") == expected
    guests.close()
