"""Copies of mounts, here and in other mount namespaces, keep what they show; what is gone everywhere is forgotten."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from fastlayer.container.mounted import all_mounts
from fastlayer.mounts import namespaces, signs
from fastlayer.mounts.mount import Mount
from fastlayer.mounts.table import Entry, entries
from fastlayer.store.store import Store, open_store
from tests.conftest import needs_root
from tests.stores import tree
from tests.unit.test_cli_store import Shell

pytestmark = needs_root
PYTHON = [sys.executable, "-c"]
JAILED = """
import os, sys
from fastlayer.container import mounted
from fastlayer.store.store import open_store
store = open_store(sys.argv[1], driver=sys.argv[2])
with store.database.read() as db:
    rows = mounted._rows(db)
os.chroot(sys.argv[3])
found = mounted.Look(store, rows).found
print(len(found), *(mount.here for mount in found.values()))
"""


@pytest.fixture(params=["overlay2", "vfs"])
def shell(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Shell]:
    """A store with an image, and the directories k1 to k4; all mounts below go at the end."""
    shell = Shell(tmp_path / "store", request.param)
    shell.good("import", tree(tmp_path / "root", {"a": "1", "etc/b": "2"}), "base")
    for name in ("k1", "k2", "k3", "k4"):
        (tmp_path / name).mkdir()
    try:
        yield shell
    finally:
        for entry in reversed(list(entries())):
            if entry.target.startswith(os.fsencode(tmp_path) + b"/"):
                subprocess.run(["umount", "-l", entry.target], check=True)


@pytest.fixture
def store(shell: Shell) -> Iterator[Store]:
    with open_store(shell.root, driver=shell.env["FASTLAYER_DRIVER"]) as store:
        yield store


class Apart:
    """A process in a mount namespace of its own, with copies of all that is mounted when it starts."""

    def __init__(self, *script: str, of: Apart | None = None, words: Sequence[str] = ()) -> None:
        """``of``: copies of what that one has, not we; ``words``: what is to be run instead of the script."""
        enter = [] if of is None else ["nsenter", "-t", str(of.pid), "-m"]
        words = words or ["sh", "-c", "; ".join((*script, "echo ready", "read _"))]
        self._process = subprocess.Popen(
            [*enter, "unshare", "-m", "--propagation", "private", *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._process.stdout is not None and self._process.stdout.readline() == b"ready\n"
        self.pid = self._process.pid

    def run(self, *words: str | Path) -> str:
        done = subprocess.run(["nsenter", "-t", str(self.pid), "-m", *words], check=True, capture_output=True)
        return done.stdout.decode()

    def end(self) -> None:
        self._process.communicate(b"\n", timeout=60)


@contextmanager
def apart(*script: str, words: Sequence[str] = ()) -> Iterator[Apart]:
    process = Apart(*script, words=words)
    try:
        yield process
    finally:
        process.end()


def run(*words: str | Path) -> None:
    subprocess.run(words, check=True)


def targets(shell: Shell) -> list[object]:
    return [row["Target"] for row in shell.rows("mounts") if row["Target"]]


def forgotten(store: Store) -> bool:
    """Within a while: a namespace lives a moment longer than its last process."""
    for _ in range(50):
        if not all_mounts(store):
            return True
        time.sleep(0.1)
    return False


def snapshots(store: Store) -> int:
    return len(list(store.snapshotter.walk()))


UNMOUNTS: dict[str, Callable[[Shell, Path], object]] = {
    "umount(8)": lambda shell, place: run("umount", place),
    "fastlayer umount": lambda shell, place: shell.good("umount", place),
}


@pytest.mark.parametrize("how", UNMOUNTS)
@pytest.mark.parametrize("part", ["", "etc"])
def test_a_copy_keeps_a_read_only_mount(shell: Shell, store: Store, tmp_path: Path, how: str, part: str) -> None:
    copy = tmp_path / "k2"
    shell.good("mount", "base", tmp_path / "k1")
    run("mount", "--bind", tmp_path / "k1" / part, copy)
    UNMOUNTS[how](shell, tmp_path / "k1")
    (row,) = shell.rows("mounts")
    assert (row["Target"], row["Here"], row["Mode"]) == (str(copy), True, "ro")
    shell.good("rmi", "base")
    shell.good("store", "gc")
    shell.good("system", "prune", "-a", "-f")
    assert (copy / ("b" if part else "etc/b")).read_text() == "2"
    assert shell.good("umount", copy) == f"{copy}\n"
    assert not shell.rows("mounts")
    shell.good("store", "gc")
    assert snapshots(store) == 0


def test_two_mounts_of_an_image_do_not_keep_each_other(shell: Shell, store: Store, tmp_path: Path) -> None:
    one, two = tmp_path / "k1", tmp_path / "k2"
    for first, second in ((one, two), (two, one)):
        shell.good("mount", "base", one)
        shell.good("mount", "base", two)
        run("umount", first)
        assert targets(shell) == [str(second)]
        run("umount", second)
        assert targets(shell) == []
        assert snapshots(store) == 1, "no view is left"


def test_as_many_mounts_stay_as_there_are_copies(shell: Shell, store: Store, tmp_path: Path) -> None:
    one, two, copy = (tmp_path / name for name in ("k1", "k2", "k3"))
    shell.good("mount", "base", one)
    shell.good("mount", "base", two)
    run("mount", "--bind", one, copy)
    run("umount", one)
    assert targets(shell) == [str(two), str(copy)]
    run("umount", two)
    assert targets(shell) == [str(copy)]
    shell.good("rmi", "base")
    assert (copy / "a").read_text() == "1"
    shell.good("umount", copy)
    assert targets(shell) == [] and snapshots(store) == 1
    shell.good("store", "gc")
    assert snapshots(store) == 0


def test_a_copy_of_the_second_keeps_what_the_first_shows(shell: Shell, store: Store, tmp_path: Path) -> None:
    one, two, copy = (tmp_path / name for name in ("k1", "k2", "k3"))
    shell.good("mount", "base", one)
    shell.good("mount", "base", two)
    run("mount", "--bind", two, copy)
    run("umount", two)
    run("umount", one)
    assert targets(shell) == [str(copy)]
    shell.good("rmi", "base")
    assert (copy / "a").read_text() == "1"


def test_another_namespace_keeps_a_writable_layer(shell: Shell, store: Store, tmp_path: Path) -> None:
    target = tmp_path / "k1"
    shell.good("mount", "--rw", "--name", "one", "base", target)
    with apart() as other:
        shell.good("umount", target)
        other.run("sh", "-c", f"echo kept >{target}/data")
        (row,) = shell.rows("mounts")
        assert (row["Name"], row["Target"], row["Here"], row["Process"]) == ("one", str(target), False, other.pid)
        for words in (["mount", "--rw", "--name", "one", tmp_path / "k2"], ["rm", "one"], ["rm", "-f", "one"]):
            line = shell.refused(*words)
            assert f"one: is mounted at {target}, in another mount namespace (process {other.pid}" in line
        assert "another mount namespace" in shell.refused("umount", "one")
        assert "another mount namespace" in shell.refused("copy-up", "one", "a")
        shell.good("rmi", "-f", "base")
        shell.good("system", "prune", "-a", "-f")
        shell.good("store", "gc")
        assert other.run("cat", target / "data", target / "a") == "kept\n1"
    assert forgotten(store)
    shell.good("rm", "one")
    shell.good("store", "gc")
    assert snapshots(store) == 0


def test_umount_rm_leaves_a_layer_that_another_namespace_has(shell: Shell, store: Store, tmp_path: Path) -> None:
    target = tmp_path / "k1"
    shell.good("mount", "--rw", "--name", "one", "base", target)
    with apart() as other:
        assert "another mount namespace" in shell.refused("umount", "--rm", target)
        assert other.run("cat", target / "a") == "1"
    assert forgotten(store)
    shell.good("rm", "one")


@pytest.mark.parametrize("part", ["", "etc"])
def test_another_namespace_keeps_a_read_only_mount(shell: Shell, store: Store, tmp_path: Path, part: str) -> None:
    target, copy = tmp_path / "k1", tmp_path / "k2"
    shell.good("mount", "base", target)
    with apart(f"mount --bind {target}/{part} {copy}", f"umount {target}") as other:
        shell.good("umount", target)
        (row,) = shell.rows("mounts")
        assert (row["Target"], row["Here"], row["Process"]) == (str(copy), False, other.pid)
        shell.good("rmi", "base")
        shell.good("store", "gc")
        assert other.run("cat", copy / ("b" if part else "etc/b")) == "2"
        assert "another mount namespace" in shell.refused("umount", copy)
        assert shell.good("umount", "--all") == ""
    assert forgotten(store)
    shell.good("store", "gc")
    assert snapshots(store) == 0


def test_the_target_is_free_for_others(shell: Shell, store: Store, tmp_path: Path) -> None:
    """What another namespace has at a path takes no target here, and is not taken for what is mounted here then."""
    target = tmp_path / "k1"
    shell.good("mount", "base", target)
    with apart() as other:
        shell.good("umount", target)
        shell.good("mount", "base", target)
        assert [row["Here"] for row in shell.rows("mounts") if row["Here"]] == [True]
        shell.good("umount", target)
        assert [row["Here"] for row in shell.rows("mounts")] == [False], "one is enough for one copy"
        shell.good("rmi", "base")
        assert other.run("cat", target / "a") == "1"
    assert forgotten(store)


def test_mounts_that_went_in_both_namespaces_are_forgotten(shell: Shell, store: Store, tmp_path: Path) -> None:
    """Another namespace has copies of two mounts of an image: each belongs to the mount of its target."""
    one, two = tmp_path / "k1", tmp_path / "k2"
    shell.good("mount", "base", one)
    shell.good("mount", "base", two)
    with apart() as other:
        shell.good("umount", one)
        assert [(row["Target"], row["Here"]) for row in shell.rows("mounts")] == [(str(one), False), (str(two), True)]
        other.run("umount", one)
        assert targets(shell) == [str(two)]
        shell.good("umount", two)
        assert [(row["Target"], row["Here"]) for row in shell.rows("mounts")] == [(str(two), False)]
    assert forgotten(store)


def test_a_namespace_made_of_another_one(shell: Shell, store: Store, tmp_path: Path) -> None:
    """Mounted here, copied to a namespace, from there to a third; only that one is left."""
    target = tmp_path / "k1"
    shell.good("mount", "--rw", "--name", "one", "base", target)
    first = Apart()
    second = Apart(of=first)
    run("umount", target)
    first.end()
    try:
        (row,) = shell.rows("mounts")
        assert (row["Target"], row["Here"], row["Process"]) == (str(target), False, second.pid)
        assert "another mount namespace" in shell.refused("rm", "one")
    finally:
        second.end()
    assert forgotten(store)


CONTAINER = """
import ctypes, os, subprocess, sys
libc = ctypes.CDLL(None)
os.chdir(sys.argv[1])
subprocess.run(["pivot_root", ".", "old"], check=True)
assert libc.umount2(b"/old", 2) == 0
print("ready", flush=True)
sys.stdin.readline()
"""


def test_a_container_that_has_it_as_its_root(shell: Shell, store: Store, tmp_path: Path) -> None:
    """As runtimes do it: pivot_root(2), and the rest of the host's mounts detached."""
    target = tmp_path / "k1"
    shell.good("mount", "--rw", "--name", "one", "base", target)
    (target / "old").mkdir()
    with apart(words=[*PYTHON, CONTAINER, str(target)]) as other:
        shell.good("umount", target)
        (row,) = shell.rows("mounts")
        assert (row["Target"], row["Here"], row["Process"]) == ("/", False, other.pid)
        assert "another mount namespace" in shell.refused("rm", "one")
    assert forgotten(store)


def test_who_sees_less_forgets_nothing(shell: Shell, store: Store, tmp_path: Path) -> None:
    """A process that was put into a directory does not see mounts outside of it; others do."""
    target = tmp_path / "k1"
    shell.good("mount", "base", target)
    jail = tmp_path / "jail"
    (jail / "proc").mkdir(parents=True)
    run("mount", "--bind", "/proc", jail / "proc")
    done = subprocess.run(
        [*PYTHON, JAILED, shell.root, shell.env["FASTLAYER_DRIVER"], jail], env=shell.env, capture_output=True
    )
    run("umount", jail / "proc")
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout.decode().split() == ["1", "False"]
    assert targets(shell) == [str(target)]
