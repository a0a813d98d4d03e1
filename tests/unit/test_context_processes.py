"""Several processes that use what one store remembers of one context, while it changes."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

from tests.unit.test_context_tree import digest, edit, grow

_WORK = """
import os, sys
from fastlayer.builder.context.tree import ContextTree, open_directory
from fastlayer.errors import FileChangedError
fd = open_directory(sys.argv[1])
for _ in range(int(sys.argv[3])):
    with ContextTree(fd, memory=sys.argv[2]) as tree:
        try:
            found = tree.digest(b"")
        except FileChangedError:
            continue
print(found.hex())
"""


def start(root: Path, memory: Path, rounds: int) -> subprocess.Popen[str]:
    words = [sys.executable, "-c", _WORK, str(root), str(memory), str(rounds)]
    return subprocess.Popen(words, stdout=subprocess.PIPE, text=True)


def test_processes_share_what_is_remembered(tmp_path: Path) -> None:
    root, memory = tmp_path / "root", tmp_path / "cache/contexts"
    root.mkdir()
    memory.parent.mkdir()
    rng = random.Random(1)
    grow(root, rng, 300)
    working = [start(root, memory, 40) for _ in range(4)]
    while any(process.poll() is None for process in working):
        edit(root, rng)
    assert [process.wait() for process in working] == [0] * 4
    quiet = [start(root, memory, 3) for _ in range(4)]
    wanted = digest(root).hex() + "\n"
    assert [process.communicate()[0] for process in quiet] == [wanted] * 4
    assert all(not name.startswith(".") for name in os.listdir(memory))
    assert digest(root, memory=memory).hex() + "\n" == wanted
