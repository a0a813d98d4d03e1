"""Random work on a mounted overlay: the fast path gives the layer that comparing two merged trees gives, byte by byte.

Hard links are left out of the work: copying one name up breaks it off its inode, which the upperdir does not show.
"""

from __future__ import annotations

import copy
import os
import random
import subprocess
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from fastlayer import _backend
from tests import trees
from tests.conftest import needs_root
from tests.property.test_upper import Stack, Worker, stack, table  # noqa: F401

pytestmark = needs_root


class Unlinked(Worker):
    def link(self, path: bytes) -> None:
        self.symlink(path)

    def write(self, path: bytes) -> None:
        """Not to a fifo that nobody reads."""
        new = self.new()
        if not os.path.lexists(new):
            Path(os.fsdecode(new)).write_bytes(b"n" * self.rng.choice(trees.SIZES))


def open_dir(opened: ExitStack, path: str) -> int:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    opened.callback(os.close, fd)
    return fd


def lower_view(stack: Stack, opened: ExitStack) -> str:  # noqa: F811
    """The lowerdirs as one tree: mounted read-only when there are several."""
    lowers = stack.layers[:-1]
    if len(lowers) == 1:
        return lowers[0]
    view = f"{stack.where}/view"
    os.makedirs(view, exist_ok=True)
    options = f"lowerdir={':'.join(reversed(lowers))},{stack.options}"
    subprocess.run(["mount", "-t", "overlay", "overlay", "-o", options, view], check=True)
    opened.callback(lambda: subprocess.run(["umount", view], check=True))
    return view


def pull(found: Any, roots: list[int]) -> bytes:
    encoder = _backend._load("native").encode.Encoder(found, roots)
    buffer, out = bytearray(1 << 20), bytearray()
    while got := encoder.readinto(buffer):
        out += buffer[:got]
    return bytes(out)


@pytest.mark.parametrize("seed", range(100, 108))
def test_upper_gives_the_layer_of_the_whole_trees(stack: Stack, seed: int) -> None:  # noqa: F811
    generator = trees.Generator(random.Random(seed))
    generator.kinds = [kind for kind in generator.kinds if kind not in ("char", "block")]
    first = f"{stack.where}/0"
    tree = generator.tree(40)
    for path in tree.others():
        tree[path] = copy.deepcopy(tree[path])
    tree.make(first)
    stack.layers.append(first)
    native = _backend._load("native")
    for depth in range(3):
        stack.mount()
        Unlinked(stack.merged, seed * 10 + depth).work(25)
        for compare in ("auto", "metadata"):
            with ExitStack() as opened:
                view = lower_view(stack, opened)
                a, b = open_dir(opened, view), open_dir(opened, stack.merged)
                roots = [open_dir(opened, path) for path in reversed(stack.layers)]
                whole = table(native.changes.Differ(a, b, compare=compare, details=True))
                options = {"compare": compare, "details": True}
                fast = table(native.upper.UpperDiffer(roots[0], roots[1:], userxattr=stack.userxattr, **options))
                assert fast.rows() == whole.rows()
                assert pull(fast, roots) == pull(whole, [b])
        stack.umount()
