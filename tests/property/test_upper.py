"""Random work on a mounted overlay: the fast path says what comparing the lower tree with the merged one says."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from fastlayer import _backend
from tests import trees
from tests.conftest import needs_root

pytestmark = needs_root

OPTIONS = ["redirect_dir=off,metacopy=off,index=off", "redirect_dir=on,metacopy=on,index=off", "userxattr,index=off"]


class Stack:
    """Layers on one file system, lowest first, and the mount of all of them."""

    def __init__(self, where: str, options: str) -> None:
        self.where = where
        self.options = options
        self.layers: list[str] = []
        self.merged = f"{where}/merged"
        os.mkdir(self.merged)

    @property
    def userxattr(self) -> bool:
        return "userxattr" in self.options

    def mount(self) -> None:
        """On a new, empty upperdir."""
        number = len(self.layers)
        upper, work = f"{self.where}/{number}", f"{self.where}/work{number}"
        os.mkdir(upper)
        os.mkdir(work)
        lower = ":".join(reversed(self.layers))
        self.layers.append(upper)
        command = f"lowerdir={lower},upperdir={upper},workdir={work},{self.options}"
        if subprocess.run(["mount", "-t", "overlay", "overlay", "-o", command, self.merged], check=False).returncode:
            pytest.skip("overlay cannot be mounted here")

    def umount(self) -> None:
        subprocess.run(["umount", self.merged], check=True)


@pytest.fixture(params=OPTIONS)
def stack(request: pytest.FixtureRequest) -> Iterator[Stack]:
    where = tempfile.mkdtemp(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None)
    found = Stack(where, request.param)
    try:
        yield found
    finally:
        if os.path.ismount(found.merged):
            found.umount()
        shutil.rmtree(where)


class Worker:
    """Does to a directory what programs do; what the file system refuses is left undone."""

    def __init__(self, root: str, seed: int) -> None:
        self.root = root.encode()
        self.rng = random.Random(seed)
        self.make = trees.Generator(self.rng)

    def work(self, count: int) -> None:
        verbs: list[Callable[[bytes], object]] = [
            self.remove, self.write, self.append, self.rewrite_same, self.chmod, self.touch, self.move, self.move,
            self.mkdir, self.link, self.symlink, self.set_xattr, self.fifo, self.replace,
        ]  # fmt: skip
        for _ in range(count):
            try:
                self.rng.choice(verbs)(self.pick())
            except OSError:
                pass

    def pick(self) -> bytes:
        every = [os.path.join(top, name) for top, dirs, files in os.walk(self.root) for name in dirs + files]
        return self.rng.choice([*sorted(every), self.root])

    def new(self) -> bytes:
        dirs = sorted(top for top, _, _ in os.walk(self.root))
        return os.path.join(self.rng.choice(dirs), self.make.name())

    def remove(self, path: bytes) -> None:
        if path != self.root:
            shutil.rmtree(path) if os.path.isdir(path) and not os.path.islink(path) else os.unlink(path)

    def write(self, path: bytes) -> None:
        with open(self.new(), "xb") as file:
            file.write(b"n" * self.rng.choice(trees.SIZES))

    def append(self, path: bytes) -> None:
        if os.path.isfile(path) and not os.path.islink(path):
            with open(path, "ab") as file:
                file.write(b"more")

    def rewrite_same(self, path: bytes) -> None:
        """Copied up, but equal."""
        if os.path.isfile(path) and not os.path.islink(path):
            status = os.stat(path)
            with open(path, "r+b") as file:
                first = file.read(1)
                file.seek(0)
                file.write(first)
            os.utime(path, ns=(0, status.st_mtime_ns))

    def chmod(self, path: bytes) -> None:
        if not os.path.islink(path):
            os.chmod(path, self.make.mode())

    def touch(self, path: bytes) -> None:
        os.utime(path, ns=(0, self.make.mtime()), follow_symlinks=False)

    def move(self, path: bytes) -> None:
        if path != self.root:
            os.rename(path, self.new())

    def mkdir(self, path: bytes) -> None:
        os.mkdir(self.new())

    def link(self, path: bytes) -> None:
        os.link(path, self.new(), follow_symlinks=False)

    def symlink(self, path: bytes) -> None:
        os.symlink(b"somewhere", self.new())

    def fifo(self, path: bytes) -> None:
        os.mkfifo(self.new())

    def set_xattr(self, path: bytes) -> None:
        os.setxattr(path, b"user.set", bytes([self.rng.randint(0, 3)]), follow_symlinks=False)

    def replace(self, path: bytes) -> None:
        """By a directory with something in it: opaque where there was a directory."""
        if path != self.root:
            self.remove(path)
            os.mkdir(path)
            Path(os.fsdecode(path), "inside").write_bytes(b"i")


def table(differ: Any) -> Any:
    while differ.step():
        pass
    return differ.finish()


def without_links(found: Any) -> list[tuple[Any, ...]]:
    """Hard-link groups left aside: copying up breaks links, which the upperdir alone does not show."""
    rows = [(row.kind, row.what & ~_backend.LINK, *row[2:10], row.xattrs) for row in found.rows() if row.kind != "P"]
    return [row for row in rows if row[:2] != ("C", 0)]


@pytest.mark.parametrize("seed", range(8))
def test_upper_says_what_the_whole_trees_say(stack: Stack, seed: int) -> None:
    generator = trees.Generator(random.Random(seed))
    generator.kinds = [kind for kind in generator.kinds if kind not in ("char", "block")]
    first = f"{stack.where}/0"
    generator.tree(40).make(first)
    stack.layers.append(first)
    for depth in range(3):
        stack.mount()
        Worker(stack.merged, seed * 10 + depth).work(12)
        compare(stack, first if depth == 0 else None)
        stack.umount()


def compare(stack: Stack, lower: str | None) -> None:
    """``lower``: the only lowerdir, if there is but one."""
    with ExitStack() as opened:

        def fd(path: str) -> int:
            found = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
            opened.callback(os.close, found)
            return found

        upper, *lowers = (fd(path) for path in reversed(stack.layers))
        native, baseline = (
            table(_backend._load(name).upper.UpperDiffer(upper, lowers, userxattr=stack.userxattr))
            for name in ("native", "baseline")
        )
        assert native.rows() == baseline.rows()
        assert bytes(native.records()) == bytes(baseline.records())
        assert bytes(native.heap()) == bytes(baseline.heap())
        if lower is not None:
            whole = table(_backend._load("native").changes.Differ(fd(lower), fd(stack.merged)))
            assert without_links(baseline) == without_links(whole)
