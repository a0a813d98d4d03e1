"""The public functions are typed in earnest: mypy accepts what they take and refuses what they do not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import fastlayer
from fastlayer.layer import types

CALLS = """\
import io
import mmap
import sys
from pathlib import Path
from typing import BinaryIO

import fastlayer

path, fd = Path("p"), 3
file: BinaryIO = open("layer.tar", "rb")
saved = fastlayer.TreeIndex.open("t.idx")

changes: fastlayer.Changes = fastlayer.diff("a", b"b")
changes = fastlayer.diff(None, fd, compare="content", jobs=2)
changes = fastlayer.diff(saved, [path, "update.tar", file, fd])
changes = fastlayer.diff(file, io.BytesIO(b""))
changes = fastlayer.diff_upper(path, ["l1", path, fd])
changes = fastlayer.diff_upper(fd, "l1", None)
layer: fastlayer.Layer = fastlayer.diff(path, path, "out.tar", compression="zstd", level=3)
layer = fastlayer.diff(path, path, sys.stdout.buffer, progress=print)
layer = fastlayer.diff_upper(path, path, io.BytesIO())
layer = changes.write(fd, source_date_epoch=0)
stats = fastlayer.apply("l.tar", path)
stats = fastlayer.apply([file, fd, path], fd, digest=[None, "sha256:0", None], uid_map=[(0, 1000, 1)])
saved = fastlayer.index(fd)
saved = fastlayer.index(path, "out.idx", content=False)
copied = fastlayer.clone(b"a", fd)
copied = fastlayer.copy_up(path, fd, "usr/bin/x", workdir=path)
rows = len(fastlayer.chunks(path)), len(fastlayer.chunks(b"data", min_size=64)), len(fastlayer.chunks(fd))
rows = len(fastlayer.chunks(mmap.mmap(-1, 9))), len(fastlayer.chunks(memoryview(b""))), 0

fastlayer.diff(3.5, path)  # wrong
fastlayer.diff(path, {})  # wrong
fastlayer.diff(path, object())  # wrong
fastlayer.diff(path, [3.5])  # wrong
fastlayer.diff(path, io.StringIO())  # wrong
fastlayer.diff(path, path, object())  # wrong
fastlayer.diff(path, path, sys.stdout)  # wrong
fastlayer.diff(path, path, jobs="2")  # wrong
fastlayer.diff_upper(None, path)  # wrong
fastlayer.diff_upper(path, 3.5)  # wrong
changes.write(None)  # wrong
fastlayer.apply(None, path)  # wrong
fastlayer.apply(saved, path)  # wrong
fastlayer.apply("l.tar", file)  # wrong
fastlayer.apply("l.tar", path, uid_map=[(0, 1)])  # wrong
fastlayer.apply("l.tar", path, limits={})  # wrong
fastlayer.index(None, "t.idx")  # wrong
fastlayer.index(path, 3.3)  # wrong
fastlayer.clone(3.5, "x")  # wrong
fastlayer.clone("x", None)  # wrong
fastlayer.copy_up(path, path, None)  # wrong
fastlayer.copy_up(path, path, fd)  # wrong
fastlayer.chunks({})  # wrong
fastlayer.chunks(None)  # wrong
fastlayer.chunks(b"", min_size="64")  # wrong
fastlayer.TreeIndex.open(None)  # wrong
"""


def test_mypy_accepts_the_right_and_refuses_the_wrong(tmp_path: Path) -> None:
    pytest.importorskip("mypy")
    (tmp_path / "calls.py").write_text(CALLS)
    where = Path(fastlayer.__file__).parents[1]
    environment = dict(os.environ)
    if where.name != "site-packages":  # mypy finds those by itself
        environment["MYPYPATH"] = str(where)
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent", "--no-error-summary", "calls.py"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    errors = [line for line in done.stdout.splitlines() if ": error: " in line]
    found = sorted({int(line.split(":")[1]) for line in errors})
    wrong = [number for number, line in enumerate(CALLS.splitlines(), 1) if line.endswith("# wrong")]
    assert found == wrong, done.stdout + done.stderr


def test_the_types_can_be_used_at_run_time() -> None:
    for name in ("Path", "Directory", "LayerSource", "Operand", "Output", "ChunkSource"):
        assert getattr(types, name) is not None
