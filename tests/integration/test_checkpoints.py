"""Checkpoints, going back, forks and exports of writable layers, with every driver."""

from __future__ import annotations

import io
import os
import shutil
import signal
import subprocess
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastlayer.testing.dump import dump
from tests.conftest import needs_root
from tests.filesystems import loop_fs
from tests.shell import COMMAND, Shell
from tests.stores import tree

pytestmark = needs_root
FILES = {"etc/passwd": "root", "etc/gone": "x", "data/": "", "bin/tool": os.urandom(100_000)}


@pytest.fixture(params=["overlay2", "vfs", "btrfs"])
def shell(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Shell]:
    if request.param != "btrfs":
        yield prepared(Shell(tmp_path / "store", request.param), tmp_path)
        return
    with loop_fs("btrfs", 1 << 30) as place:
        yield prepared(Shell(place / "store", "btrfs"), tmp_path)


def prepared(shell: Shell, place: Path) -> Shell:
    """With the layer ``work`` on a small image; nothing is mounted."""
    shell.good("import", tree(place / "root", FILES), "base")
    (place / "mnt").mkdir()
    shell.good("mount", "--rw", "--name", "work", "base", place / "mnt")
    shell.good("umount", "work")
    return shell


def write(shell: Shell, mnt: Path, **files: str) -> None:
    """Into the layer; ``__`` is a slash, an empty text removes."""
    shell.good("mount", "--name", "work", mnt)
    try:
        for name, text in files.items():
            path = mnt / name.replace("__", "/")
            path.write_text(text) if text else path.unlink()
    finally:
        shell.good("umount", "work")


def changes(shell: Shell, name: str = "work") -> list[str]:
    return [line for line in shell.good("diff", name).splitlines() if line[2:] not in ("/", "/etc", "/data")]


def test_back_to_what_was(shell: Shell, tmp_path: Path) -> None:
    mnt = tmp_path / "mnt"
    write(shell, mnt, etc__passwd="changed", etc__gone="", data__one="1")
    assert shell.good("checkpoint", "work", "first") == "first\n"
    wanted = changes(shell)
    assert wanted == ["A /data/one", "D /etc/gone", "C /etc/passwd"]
    write(shell, mnt, etc__passwd="again", data__two="2", data__one="")
    assert changes(shell) != wanted
    shell.good("checkpoint", "work", "second")
    assert shell.good("checkpoint", "-q", "work").split() == ["first", "second"]
    shell.good("rollback", "work", "first")
    assert changes(shell) == wanted
    write(shell, mnt, data__three="3")
    shell.good("rollback", "work", "second")
    assert changes(shell) == ["A /data/two", "D /etc/gone", "C /etc/passwd"]
    assert shell.good("cp", "work:/etc/passwd", tmp_path / "out") == "" and (tmp_path / "out").read_text() == "again"
    shell.good("checkpoint", "--rm", "work", "first")
    assert "has no checkpoint first: there are second" in shell.refused("rollback", "work", "first")
    rows = shell.rows("checkpoint", "work")
    assert [(row["name"], isinstance(row["size"], int)) for row in rows] == [("second", True)]
    assert "sound" in shell.good("store", "check")


def test_checkpoints_outlive_collection_and_go_with_the_layer(shell: Shell, tmp_path: Path) -> None:
    write(shell, tmp_path / "mnt", data__one="1")
    shell.good("checkpoint", "work", "first")
    shell.good("rmi", "--force", "base")
    shell.good("store", "gc")
    assert "sound" in shell.good("store", "check")
    shell.good("rollback", "work", "first")
    assert changes(shell) == ["A /data/one"]
    shell.good("rm", "work")
    shell.good("store", "gc")
    left = [row for row in shell.good("system", "df", "-v").splitlines() if "work" in row]
    assert left == []
    numbers = [path.name for path in (shell.root / shell.env["FASTLAYER_DRIVER"]).rglob("*") if path.name == "one"]
    assert numbers == []


def test_a_fork_lives_for_itself(shell: Shell, tmp_path: Path) -> None:
    mnt = tmp_path / "mnt"
    write(shell, mnt, data__one="1", etc__gone="")
    shell.good("checkpoint", "work", "then")
    write(shell, mnt, data__one="2")
    shell.good("fork", "work", "now")
    shell.good("fork", "--from", "then", "work", "old")
    write(shell, mnt, data__one="3")
    for name, wanted in {"now": "2", "old": "1", "work": "3"}.items():
        shell.good("cp", f"{name}:/data/one", tmp_path / name)
        assert (tmp_path / name).read_text() == wanted
        assert changes(shell, name) == ["A /data/one", "D /etc/gone"]
    shell.good("rm", "work")
    shell.good("commit", "now", "made")
    shell.good("mount", "made", mnt)
    try:
        assert (mnt / "data/one").read_text() == "2" and not (mnt / "etc/gone").exists()
    finally:
        shell.good("umount", mnt)
    assert "sound" in shell.good("store", "check")


def test_while_it_is_mounted(shell: Shell, tmp_path: Path) -> None:
    mnt = tmp_path / "mnt"
    shell.good("mount", "--name", "work", mnt)
    try:
        (mnt / "data/one").write_text("1")
        shell.good("checkpoint", "work", "first")
        shell.good("fork", "work", "other")
        (mnt / "data/one").write_text("2")
        assert "is mounted" in shell.refused("rollback", "work", "first")
        assert (mnt / "data/one").read_text() == "2"
    finally:
        shell.good("umount", "work")
    shell.good("cp", "other:/data/one", tmp_path / "out")
    assert (tmp_path / "out").read_text() == "1"
    shell.good("rollback", "work", "first")
    shell.good("cp", "work:/data/one", tmp_path / "out")
    assert (tmp_path / "out").read_text() == "1"


def test_bad_names(shell: Shell) -> None:
    shell.good("checkpoint", "work", "first")
    assert "has a checkpoint first already" in shell.refused("checkpoint", "work", "first")
    assert "not a name" in shell.refused("checkpoint", "work", "a/b", code=2)
    assert "not a name" in shell.refused("fork", "work", "../x", code=2)
    assert "exists already" in shell.refused("fork", "work", "work")
    assert "no writable layer" in shell.refused("fork", "nope", "x")
    assert "has no checkpoint nope" in shell.refused("fork", "--from", "nope", "work", "x")
    assert "has no checkpoint nope" in shell.refused("checkpoint", "--rm", "work", "nope")
    assert "--rm needs" in shell.refused("checkpoint", "--rm", "work", code=2)


def test_killed_while_going_back(shell: Shell, tmp_path: Path) -> None:
    """Whenever it is killed, the layer is what it was or what the checkpoint is."""
    mnt = tmp_path / "mnt"
    write(shell, mnt, data__one="1")
    shell.good("checkpoint", "work", "first")
    for number in range(8):
        write(shell, mnt, data__one="2")
        doing = subprocess.Popen([*COMMAND, "rollback", "work", "first"], env=shell.env, stdout=subprocess.DEVNULL)
        time.sleep(0.15 + 0.05 * number)
        doing.send_signal(signal.SIGKILL)
        doing.wait()
        shell.good("cp", "work:/data/one", tmp_path / "out")
        assert (tmp_path / "out").read_text() in ("1", "2")
    shell.good("store", "gc")
    assert "sound" in shell.good("store", "check")


def test_export_is_the_whole_tree(shell: Shell, tmp_path: Path) -> None:
    mnt = tmp_path / "mnt"
    write(shell, mnt, etc__passwd="changed", etc__gone="")
    shell.good("export", "work", "-o", tmp_path / "work.tar.zst")
    piped = shell.run("export", "work").stdout
    with tarfile.open(fileobj=io.BytesIO(piped)) as tar:
        assert tar.extractfile("etc/passwd").read() == b"changed"  # type: ignore[union-attr]
        assert "etc/gone" not in tar.getnames() and not any(".wh." in name for name in tar.getnames())
    shell.good("import", tmp_path / "work.tar.zst", "flat")
    (tmp_path / "flat").mkdir()
    shell.good("mount", "flat", tmp_path / "flat")
    shell.good("mount", "--name", "work", mnt)
    try:
        assert dump(tmp_path / "flat") == dump(mnt)
        assert shell.run("export", "work").stdout == piped
    finally:
        shell.good("umount", "work")
        shell.good("umount", tmp_path / "flat")


@pytest.mark.parametrize("kind, driver", [("xfs", "overlay2"), ("xfs", "vfs"), ("btrfs", "btrfs")])
def test_they_share_blocks(tmp_path: Path, kind: str, driver: str) -> None:
    with loop_fs(kind, 1 << 30) as place:
        shell = prepared(Shell(place / "store", driver), tmp_path)
        (tmp_path / "big").write_bytes(os.urandom(64 << 20))
        shell.good("cp", tmp_path / "big", "work:/data")
        os.sync()
        before = shutil.disk_usage(place).used
        shell.good("checkpoint", "work", "first")
        shell.good("fork", "work", "other")
        shell.good("rollback", "work", "first")
        os.sync()
        assert shutil.disk_usage(place).used - before < 8 << 20
