"""The books of mounts against what the kernel has mounted."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import fastlayer
from fastlayer.container import mounting, writable
from fastlayer.container.commit import commit
from fastlayer.container.mounted import all_mounts
from fastlayer.errors import DriverError, InUseError, NotFoundError, StoreError, UsageError
from fastlayer.image.images import Images
from fastlayer.mounts import namespaces
from fastlayer.snapshot.snapshotter import Snapshotter
from fastlayer.store.collect import collect
from fastlayer.store.store import Store, open_store
from tests.conftest import needs_root
from tests.shell import Shell, with_mounts

pytestmark = needs_root


@pytest.fixture(params=["overlay2", "vfs"])
def shell(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Shell]:
    with with_mounts(request.param, tmp_path, {"a": "1"}, ("k1", "k2", "k3")) as shell:
        yield shell


@pytest.fixture
def store(shell: Shell) -> Iterator[Store]:
    with open_store(shell.root, driver=shell.env["FASTLAYER_DRIVER"]) as store:
        yield store


def mounted(shell: Shell, target: Path, name: str = "one") -> Path:
    shell.good("mount", "--rw", "--name", name, "base", target)
    (target / "data").write_text("kept")
    return target


def data_of(store: Store, name: str) -> bool:
    with writable.changes(store, writable.find(store, name)) as changes:
        return any(change.path == b"data" or change.path == "data" for change in changes)


def test_what_is_in_use_at_the_end_of_the_block_is_not_removed(
    shell: Shell, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    driver = shell.env["FASTLAYER_DRIVER"]
    with (
        pytest.raises(InUseError, match="is in use"),
        fastlayer.mount("base", writable=True, name="api", root=shell.root, driver=driver) as place,
    ):
        (place / "data").write_text("kept")
        kept = open(place / "data")
    assert (place / "data").read_text() == "kept"
    kept.close()
    mounting.unmount(store, "api")
    assert data_of(store, "api")


def test_a_target_is_taken_once(shell: Shell, tmp_path: Path) -> None:
    target = mounted(shell, tmp_path / "k1")
    assert "mounted there already" in shell.refused("mount", "--rw", "--name", "two", "base", target)
    assert "mounted there already" in shell.refused("mount", "base", target)
    assert [row["Name"] for row in shell.rows("mounts")] == ["one"], "what could not be mounted is not left"
    assert "is mounted" in shell.refused("rm", "one")
    shell.good("umount", target)
    shell.good("rm", "one")


def test_a_mount_that_is_covered(shell: Shell, tmp_path: Path) -> None:
    target = mounted(shell, tmp_path / "k1")
    subprocess.run(["mount", "-t", "tmpfs", "none", target], check=True)
    assert shell.good("mounts", "-q") == f"{target}\n"
    assert "is mounted" in shell.refused("rm", "one")
    assert "is mounted" in shell.refused("mount", "--rw", "--name", "one", tmp_path / "k2")
    assert "lies over it" in shell.refused("umount", "one")
    subprocess.run(["umount", target], check=True)
    shell.good("umount", "--rm", "one")


def test_a_mount_that_was_moved(shell: Shell, tmp_path: Path) -> None:
    base = tmp_path / "k2"
    subprocess.run(["mount", "-t", "tmpfs", "none", base], check=True)
    subprocess.run(["mount", "--make-private", base], check=True)
    (base / "from").mkdir()
    (base / "to").mkdir()
    mounted(shell, base / "from")
    subprocess.run(["mount", "--move", base / "from", base / "to"], check=True)
    (base / "from").rmdir()
    assert shell.good("mounts", "-q") == f"{base / 'to'}\n"
    assert "is mounted" in shell.refused("rm", "one")
    shell.good("umount", "--rm", base / "to")


def test_the_parent_directory_was_renamed(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "k1/in").mkdir()
    mounted(shell, tmp_path / "k1/in")
    (tmp_path / "k1").rename(tmp_path / "other")
    assert "is mounted" in shell.refused("rm", "one")
    shell.good("umount", tmp_path / "other/in")
    shell.good("rm", "one")


def test_a_copy_of_a_mount_keeps_its_layer(shell: Shell, tmp_path: Path) -> None:
    target = mounted(shell, tmp_path / "k1")
    subprocess.run(["mount", "--bind", target, tmp_path / "k2"], check=True)
    shell.good("umount", target)
    assert shell.good("mounts", "-q") == f"{tmp_path / 'k2'}\n"
    assert "is mounted" in shell.refused("rm", "one")
    assert (tmp_path / "k2/data").read_text() == "kept"
    shell.good("umount", "one")
    shell.good("rm", "one")


def forgotten(store: Store) -> bool:
    """Within a while: processes that start and end meanwhile make it hard to tell."""
    for _ in range(100):
        all_mounts(store)
        with store.database.read() as db:
            if not db.execute("SELECT 1 FROM mounts").fetchone():
                return True
        time.sleep(0.1)
    return False


def test_mounts_of_another_namespace(
    shell: Shell, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "k1"
    words = [sys.executable, "-m", "fastlayer", "mount", "--rw", "--name", "one", "base", str(target)]
    script = '"$@" && echo kept >"$0/data" && echo ready && read _'
    other = subprocess.Popen(
        ["unshare", "-m", "sh", "-c", script, target, *words],
        env=shell.env,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert other.stdout is not None
        assert other.stdout.readline() == b"one\n" and other.stdout.readline() == b"ready\n"
        mounted(shell, target, "two")  # the same path, here
        assert "another mount namespace" in shell.refused("umount", "one")
        assert "is mounted" in shell.refused("rm", "one")
        assert shell.good("umount", "--rm", target) == f"{target}\n"
        assert [row["Name"] for row in shell.rows("mounts")] == ["one"]
    finally:
        other.communicate(b"\n", timeout=60)
    (row,) = all_mounts(store) or [None]
    assert row is None or not row.here, "when it cannot be told, it is there"
    readable = [task for task in namespaces._tasks() if namespaces._link(f"{task}/ns/mnt")]
    monkeypatch.setattr(namespaces, "_sees_all", lambda: True)
    monkeypatch.setattr(namespaces, "_tasks", lambda: iter(readable))
    assert forgotten(store), "a namespace that is gone holds nothing"
    shell.good("rm", "one")


def test_a_layer_is_mounted_once_whoever_comes_first(shell: Shell, store: Store, tmp_path: Path) -> None:
    image = Images(store).find("base")
    for turn in range(5):
        layer = writable.create(store, image, f"cc{turn}")
        refused: list[StoreError] = []

        def attempt(target: Path, layer: writable.Writable = layer, refused: list[StoreError] = refused) -> None:
            try:
                mounting.mount_writable(store, layer, target)
            except InUseError as exc:
                refused.append(exc)

        threads = [threading.Thread(target=attempt, args=(tmp_path / name,)) for name in ("k1", "k2", "k3")]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(refused) == 2 and len(all_mounts(store)) == 1
        mounting.unmount(store, layer.name, remove=True)


KILLED = """
import os, sys
from pathlib import Path
from fastlayer.container import mounted, mounting
from fastlayer.image.images import Images
from fastlayer.store.store import open_store
mounting.complete = lambda *_: os.kill(os.getpid(), 9)
store = open_store(sys.argv[1], driver=sys.argv[3])
if sys.argv[4] == "rw":
    mounting.mount_layer(store, "base", "one", sys.argv[2])
else:
    mounting.mount_image(store, Images(store).find("base"), sys.argv[2])
"""


@pytest.mark.parametrize("mode", ["rw", "ro"])
def test_who_is_killed_after_mounting_leaves_a_known_mount(
    shell: Shell, store: Store, tmp_path: Path, mode: str
) -> None:
    target = tmp_path / "k1"
    driver = shell.env["FASTLAYER_DRIVER"]
    done = subprocess.run([sys.executable, "-c", KILLED, shell.root, target, driver, mode], env=shell.env)
    assert done.returncode == -signal.SIGKILL
    collect(store)
    assert [found.target for found in all_mounts(store)] == [str(target)]
    assert (target / "a").read_text() == "1"
    shell.good("umount", target)
    assert not any(info.kind == "view" for info in store.snapshotter.walk())


def test_a_failed_mount_leaves_no_layer(
    shell: Shell, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> int:
        raise DriverError("not permitted")

    monkeypatch.setattr("fastlayer.mounts.mounting.mount", refuse)
    with pytest.raises(DriverError):
        mounting.mount_layer(store, "base", "one", tmp_path / "k1")
    with pytest.raises(NotFoundError):
        writable.find(store, "one")
    with pytest.raises(DriverError):
        mounting.mount_image(store, Images(store).find("base"), tmp_path / "k1")
    assert not all_mounts(store) and not any(info.kind == "view" for info in store.snapshotter.walk())
    layer = writable.create(store, Images(store).find("base"), "old")
    with pytest.raises(DriverError):
        mounting.mount_layer(store, None, "old", tmp_path / "k1")
    assert writable.find(store, "old") == layer


def test_the_store_is_no_target(shell: Shell, store: Store, tmp_path: Path) -> None:
    for target in (shell.root, shell.root.parent, shell.root / "content"):
        with pytest.raises(UsageError, match="cover the store"):
            mounting.mount_image(store, Images(store).find("base"), target)


def test_only_rw_makes_a_layer(shell: Shell, tmp_path: Path) -> None:
    assert "give --rw" in shell.refused("mount", "--name", "one", "base", tmp_path / "k1", code=2)
    assert not shell.rows("mounts")


def test_targets_are_shown_in_one_line(shell: Shell, tmp_path: Path) -> None:
    odd = tmp_path / "a\n\x1b[31mb"
    odd.mkdir()
    shown = [shell.good("mount", "base", odd), shell.good("mounts", "-q"), shell.good("umount", odd)]
    assert all(text.count("\n") == 1 and "\x1b" not in text for text in shown)


def test_nobody_mounts_what_is_being_committed(
    shell: Shell, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fastlayer.container.alone._PATIENCE", 0.1)
    layer = writable.create(store, Images(store).find("base"), "one")
    duplicate, refused = Snapshotter.duplicate, list[str]()

    def slowly(self: Snapshotter, *args: Any, **others: Any) -> None:
        with pytest.raises(InUseError, match="at work on it"):
            mounting.mount_writable(store, layer, tmp_path / "k1")
        with pytest.raises(InUseError, match="at work on it"):
            writable.remove(store, "one")
        refused.append("both")
        duplicate(self, *args, **others)

    monkeypatch.setattr(Snapshotter, "duplicate", slowly)
    commit(store, layer, "new")
    assert refused == ["both"]
    mounting.mount_writable(store, layer, tmp_path / "k1")
    mounting.unmount(store, "one", remove=True)
