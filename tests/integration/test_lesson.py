"""What an image, a container and a volume are to each other, from the first run to the last, on every storage driver.

devicemapper has it in a kernel of its own: tests/uml_devicemapper/test_lesson.py.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastlayer.testing.dump import dump
from tests.buildroot import make_root
from tests.conftest import needs_root
from tests.containers import Command
from tests.filesystems import loop_fs
from tests.stores import tree

PAGE = b"a page of the image\n" * 10_000  # a change of one line copies all of it up
DATABASE = "/var/lib/db/table"
WRITES = f"echo edited >> /srv/page; echo note > /root/temp.txt; echo row 1 >> {DATABASE}"
READS = f"tail -n 1 /srv/page; ls /root; echo row 2 >> {DATABASE}"


@pytest.fixture(params=["overlay2", "vfs", "btrfs"])
def command(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Command]:
    if request.param != "btrfs":
        yield Command(tmp_path / "store", FASTLAYER_DRIVER=request.param)
        return
    with loop_fs("btrfs") as place:
        found = Command(place / "store", FASTLAYER_DRIVER="btrfs")
        yield found
        found.run("rm", "-f", *found.out("ps", "-aq").split() or ["none"])


@needs_root
def test_the_lesson(command: Command, tmp_path: Path) -> None:
    lesson(command, tmp_path)


def lesson(command: Command, place: Path) -> None:
    """The whole of it. ``place``: an empty directory for what is not the store's."""
    root = tree(make_root(place / "root"), {"srv/page": PAGE, DATABASE[1:]: "heading\n"})
    command.out("import", "-q", root, "box")
    image = _tree_of(command, "box", place / "seen")
    assert image["srv/page"]["size"] == len(PAGE)

    command.out("run", "--name", "one", "-v", "base:/var/lib/db", "box", "sh", "-c", WRITES)
    assert command.out("diff", "one").splitlines() == ["C /root", "A /root/temp.txt", "C /srv/page"]
    _is_copied_up(command.inspect("one")["GraphDriver"], PAGE + b"edited\n")

    command.out("run", "--name", "two", "-v", "base:/var/lib/db", "box", "sh", "-c", READS)
    assert command.out("logs", "two") == "a page of the image"
    assert command.out("diff", "two") == ""
    command.out("cp", "one:/root/temp.txt", place / "temp.txt")
    assert (place / "temp.txt").read_text() == "note\n"

    command.out("rm", "one", "two")
    assert "No such container: one" in command.refused("start", "one")
    assert _found(command.root, "temp.txt") == []
    assert _tree_of(command, "box", place / "seen") == image
    shown = ["-v", "base:/var/lib/db", "--mount", "type=image,source=box,target=/image"]
    words = ["sh", "-c", f"ls /root /image/root; tail -qn 1 /srv/page /image/srv/page; cat {DATABASE}"]
    said = command.out("run", "--rm", *shown, "box", *words).splitlines()
    assert said == ["/image/root:", "", "/root:", *2 * ["a page of the image"], "heading", "row 1", "row 2"]
    assert "sound" in command.out("store", "check")
    command.out("volume", "rm", "base")
    assert command.out("volume", "ls", "-q") == ""


def _tree_of(command: Command, image: str, place: Path) -> object:
    """Everything of an image as the storage driver shows it."""
    place.mkdir(exist_ok=True)
    command.out("mount", image, place)
    try:
        return dump(place)
    finally:
        command.out("umount", place)


def _is_copied_up(graph: dict[str, object], content: bytes) -> None:
    """overlay2 shows where: the upper directory has the whole file, not what has changed of it."""
    data = graph["Data"]
    assert isinstance(data, dict)
    assert ("UpperDir" in data) == (graph["Name"] == "overlay2")
    if data:
        assert Path(data["UpperDir"], "srv/page").read_bytes() == content


def _found(root: Path, name: str) -> list[str]:
    return [place for place, folders, files in os.walk(root) if name in (*folders, *files)]
