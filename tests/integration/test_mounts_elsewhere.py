"""Copies of mounts, here and in other mount namespaces, keep what they show; what is gone everywhere is forgotten."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from fastlayer.container import mounting
from fastlayer.container.mounted import all_mounts
from fastlayer.mounts import namespaces, signs
from fastlayer.mounts.mount import Mount
from fastlayer.mounts.table import Entry, entries
from fastlayer.store.store import Store, open_store
from tests.conftest import needs_root
from tests.integration.test_mounted import forgotten
from tests.shell import Shell, with_mounts

pytestmark = needs_root
PYTHON = [sys.executable, "-c"]
JAILED = """
import hashlib, os, sys  # what is loaded later is not to be found in the directory
from fastlayer.container import mounted
from fastlayer.mounts import namespaces, signs, table
from fastlayer.store.store import open_store
store = open_store(sys.argv[1], driver=sys.argv[2])
tasks = namespaces._tasks
namespaces._tasks = lambda: sorted(tasks(), key=lambda task: int(task.split("/")[2]), reverse=sys.argv[4] == "before")
with store.database.read() as db:
    rows = mounted._rows(db)
table.identity("/")  # loads the engine, which the directory has not
os.chroot(sys.argv[3])
found = mounted.Look(store, rows).found
print(len(found), *(mount.here for mount in found.values()))
"""


@pytest.fixture(params=["overlay2", "vfs"])
def shell(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Shell]:
    with with_mounts(request.param, tmp_path, {"a": "1", "etc/b": "2"}, ("k1", "k2", "k3", "k4")) as shell:
        yield shell


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


def expect(look: Callable[[], object], wanted: object) -> None:
    """Within a while: whoever makes a mount namespace on this machine at this moment has copies of everything."""
    for _ in range(50):
        if look() == wanted:
            return
        time.sleep(0.1)
    assert look() == wanted


def settle(place: Path) -> None:
    """Waits until no stranger has a copy of what was mounted below the place."""
    for _ in range(100):
        there = {entry.target for view in namespaces.others() for entry in view.entries}
        strange = there - {entry.target for entry in entries()}
        if not any(target.startswith(os.fsencode(place) + b"/") for target in strange):
            return
        time.sleep(0.1)


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
    settle(tmp_path)
    (row,) = shell.rows("mounts")
    assert (row["Target"], row["Here"], row["Mode"]) == (str(copy), True, "ro")
    shell.good("rmi", "base")
    shell.good("store", "gc")
    shell.good("system", "prune", "-a", "-f")
    assert (copy / ("b" if part else "etc/b")).read_text() == "2"
    assert shell.good("umount", copy) == f"{copy}\n"
    assert forgotten(store)
    shell.good("store", "gc")
    assert snapshots(store) == 0


def test_two_mounts_of_an_image_do_not_keep_each_other(shell: Shell, store: Store, tmp_path: Path) -> None:
    one, two = tmp_path / "k1", tmp_path / "k2"
    for first, second in ((one, two), (two, one)):
        shell.good("mount", "base", one)
        shell.good("mount", "base", two)
        run("umount", first)
        expect(lambda: targets(shell), [str(second)])
        run("umount", second)
        expect(lambda: targets(shell), [])
        assert snapshots(store) == 1, "no view is left"


def test_as_many_mounts_stay_as_there_are_copies(shell: Shell, store: Store, tmp_path: Path) -> None:
    one, two, copy = (tmp_path / name for name in ("k1", "k2", "k3"))
    shell.good("mount", "base", one)
    shell.good("mount", "base", two)
    run("mount", "--bind", one, copy)
    run("umount", one)
    expect(lambda: targets(shell), [str(two), str(copy)])
    run("umount", two)
    expect(lambda: targets(shell), [str(copy)])
    shell.good("rmi", "base")
    assert (copy / "a").read_text() == "1"
    shell.good("umount", copy)
    expect(lambda: targets(shell), [])
    assert snapshots(store) == 1
    shell.good("store", "gc")
    assert snapshots(store) == 0


def test_a_copy_of_the_second_keeps_what_the_first_shows(shell: Shell, store: Store, tmp_path: Path) -> None:
    one, two, copy = (tmp_path / name for name in ("k1", "k2", "k3"))
    shell.good("mount", "base", one)
    shell.good("mount", "base", two)
    run("mount", "--bind", two, copy)
    run("umount", two)
    run("umount", one)
    expect(lambda: targets(shell), [str(copy)])
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


def test_who_has_a_copy_for_a_moment_is_waited_for(shell: Shell, store: Store, tmp_path: Path) -> None:
    target = tmp_path / "k1"
    shell.good("mount", "--rw", "--name", "one", "base", target)
    other = Apart()
    timer = threading.Timer(0.4, other.end)
    timer.start()
    try:
        mounting.unmount(store, "one", remove=True)
    finally:
        timer.join()
    assert not shell.rows("mounts")


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
        expect(lambda: targets(shell), [str(two)])
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


def test_a_copy_of_what_another_namespace_mounted(
    shell: Shell, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mounted in one, copied to a second, of which nothing is known; the first has ended."""
    target = tmp_path / "k1"
    settings = [f"{name}={shell.env[name]}" for name in ("FASTLAYER_ROOT", "FASTLAYER_DRIVER")]
    mount = f"env {' '.join(settings)} {sys.executable} -m fastlayer mount --rw --name one base {target} >/dev/null"
    first = Apart(mount)
    with apart() as stranger:
        assert "another mount namespace" in shell.refused("rm", "one")
        second = Apart(of=first)
        first.end()
        try:
            readable = [task for task in namespaces._tasks() if namespaces._link(f"{task}/ns/mnt")]
            monkeypatch.setattr(namespaces, "_sees_all", lambda: True)
            monkeypatch.setattr(namespaces, "_tasks", lambda: iter(readable))
            (found,) = all_mounts(store)
            assert (found.target, found.here, found.writable) == (str(target), False, "one")
            assert second.run("cat", target / "a") == "1" and stranger.run("ls", target) == ""
            assert "another mount namespace" in shell.refused("rm", "one")
        finally:
            second.end()
    assert forgotten(store)
    shell.good("rm", "one")


@pytest.mark.parametrize("words", [[], ["--rw", "--name", "one"]])
def test_copies_of_mounts_that_map_ids(shell: Shell, store: Store, tmp_path: Path, words: list[str]) -> None:
    """The kernel does not show the names of their layers."""
    if shell.env["FASTLAYER_DRIVER"] != "overlay2":
        pytest.skip("only overlay2 maps ids")
    one, two, copy = tmp_path / "k1", tmp_path / "k2", tmp_path / "k3"
    shell.good("mount", *words, "--storage-opt", "id_map=0:5000:10", "base", one)
    shell.good("mount", "--storage-opt", "id_map=0:5000:10", "base", two)
    run("mount", "--bind", one / "etc", copy)
    shell.good("umount", one)
    assert set(targets(shell)) == {str(two), str(copy)}
    with apart() as other:
        shell.good("umount", copy)
        assert set(targets(shell)) == {str(two), str(copy)}
        run("umount", two)
        shell.good("rmi", "-f", "base")
        assert other.run("cat", copy / "b", two / "a") == "21"
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


@pytest.mark.parametrize("met", ["before", "after"])
def test_who_sees_less_forgets_nothing(shell: Shell, store: Store, tmp_path: Path, met: str) -> None:
    """A process that was put into a directory does not see mounts outside of it; others do.

    ``met`` before or after them: seen from that directory the name of its root and of theirs is the same.
    """
    target = tmp_path / "k1"
    shell.good("mount", "base", target)
    jail = tmp_path / "jail"
    (jail / "proc").mkdir(parents=True)
    run("mount", "--bind", "/proc", jail / "proc")
    done = subprocess.run(
        [*PYTHON, JAILED, shell.root, shell.env["FASTLAYER_DRIVER"], jail, met], env=shell.env, capture_output=True
    )
    run("umount", jail / "proc")
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout.decode().split() == ["1", "False"]
    expect(lambda: targets(shell), [str(target)])


def test_gc_and_rmi_forget_mounts_that_are_gone(shell: Shell, store: Store, tmp_path: Path) -> None:
    for verb in (["store", "gc"], ["system", "prune", "-f"], ["image", "prune", "-f"], ["rmi", "base"]):
        shell.good("mount", "base", tmp_path / "k1")
        run("umount", tmp_path / "k1")
        settle(tmp_path)
        assert snapshots(store) == 2
        shell.good(*verb)
        assert snapshots(store) == (0 if verb[0] == "rmi" else 1), verb


@pytest.mark.parametrize("verb", [["store", "gc"], ["system", "prune", "-f"], ["image", "prune", "-f"]])
def test_mounts_of_an_earlier_boot_are_forgotten(shell: Shell, store: Store, tmp_path: Path, verb: list[str]) -> None:
    target = tmp_path / "k1"
    shell.good("mount", "base", target)
    shell.good("rmi", "base")
    run("umount", target)
    with store.database.write() as db:
        db.execute("UPDATE mounts SET boot_id = 'another', mount_ns = 1")
    shell.good(*verb)
    assert snapshots(store) == 0 and not shell.rows("mounts")


def test_nobody_looks_at_other_namespaces_for_what_is_here(
    shell: Shell, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked = []
    others = namespaces.others
    monkeypatch.setattr(namespaces, "others", lambda: looked.append(1) or others())
    shell.good("mount", "base", tmp_path / "k1")
    shell.good("mount", "--rw", "--name", "one", "base", tmp_path / "k2")
    run("mount", "--bind", tmp_path / "k2", tmp_path / "k3")
    run("umount", tmp_path / "k2")
    assert len(all_mounts(store)) == 2 and not looked
    run("umount", tmp_path / "k3")
    settle(tmp_path)
    assert len(all_mounts(store)) == 1 and looked


def test_a_copy_is_unmounted_only_where_it_lies_on_top(shell: Shell, store: Store, tmp_path: Path) -> None:
    one, two = tmp_path / "k1", tmp_path / "k2"
    shell.good("mount", "base", one)
    shell.good("mount", "base", two)
    run("mount", "--bind", two, one)
    assert "lies over it" in shell.refused("umount", one)
    run("umount", one)
    shell.good("umount", one)
    expect(lambda: targets(shell), [str(two)])


def test_a_process_that_may_not_be_seen_keeps_nothing(
    shell: Shell, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shell.good("mount", "base", tmp_path / "k1")
    with apart():
        run("umount", tmp_path / "k1")
        link = namespaces._link
        monkeypatch.setattr(namespaces, "_link", lambda path: link(path) if "/self/" in path else None)
        assert not all_mounts(store)


def test_umount_all_takes_copies_off_too(shell: Shell, store: Store, tmp_path: Path) -> None:
    one, copy, part = tmp_path / "k1", tmp_path / "k2", tmp_path / "k3"
    shell.good("mount", "base", one)
    run("mount", "--bind", one, copy)
    run("mount", "--bind", one / "etc", part)
    assert set(shell.good("umount", "--all").split()) == {str(one), str(copy), str(part)}
    expect(lambda: targets(shell), [])
    assert snapshots(store) == 1


OVERLAY = Entry(1, 2, (0, 45), b"/", b"/m", ("ro",), (), "overlay", b"overlay", (b"ro",))


@pytest.mark.parametrize(
    "shown",
    [(b"lowerdir+=/s/2/diff", b"lowerdir+=/s/1/diff"), (rb"lowerdir=/s/2/diff:/s/1/diff",), (b"lowerdir=2/diff:1",)],
)
def test_signs_of_overlays_that_only_read(shown: tuple[bytes, ...]) -> None:
    sign = signs.sign_of([Mount("overlay", "overlay", ("ro",), ("/s/2/diff", "/s/1/diff"))])
    entry = OVERLAY._replace(super_options=(b"ro", *shown))
    upper = entry._replace(super_options=(*entry.super_options, b"upperdir=/s/3/diff"))
    assert signs.matches(sign, entry) and not signs.matches(sign, upper)
    assert not signs.matches(sign, OVERLAY._replace(super_options=(b"lowerdir=/s/1/diff:/s/2/diff",)))
    known = signs.confirmed(sign, entry)
    assert signs.matches(known, entry._replace(root=b"/etc", target=b"/n", number=9))
    assert not signs.matches(known, entry._replace(device=(0, 46)))
    assert not signs.matches(known, entry._replace(super_options=(b"ro", b"lowerdir=/other:/s")))


def test_signs_of_odd_names() -> None:
    sign = signs.sign_of([Mount("overlay", "overlay", ("ro",), ("/a:b,c", "/d"))])
    assert signs.matches(sign, OVERLAY._replace(super_options=(rb"lowerdir=/a\:b,c:/d",)))
    assert signs.matches(sign, OVERLAY._replace(super_options=(b"lowerdir+=/a:b,c", b"lowerdir+=/d")))


def test_a_sign_that_nothing_is_known_of_is_what_the_kernel_shows() -> None:
    bound = OVERLAY._replace(type="xfs", root=b"/vfs/1/tree")
    assert signs.confirmed("", bound) == "bind:0:45:/vfs/1/tree"
    inside = OVERLAY._replace(root=b"/store/vfs/1/tree")  # the store itself lies on an overlay
    assert signs.confirmed("bind:0:45:/store/vfs/1/tree", inside) == "bind:0:45:/store/vfs/1/tree"
    assert not signs.tells_copies("") and not signs.tells_copies("overlay:")
