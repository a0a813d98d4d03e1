"""Builds with nothing to do are recognised without the builder; whatever has changed is noticed all the same."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.integration.test_build import Builder, outcome

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounts need root")
DOCKERFILE = 'FROM busybox\nARG V=1\nRUN echo $V > /v\nCOPY . /app/\nCMD ["x"]\n'


@pytest.fixture
def settled(tmp_path: Path, root: Path) -> Builder:
    """A build that was done, found in the cache, and written down."""
    made = Builder(tmp_path, root)
    made.write(DOCKERFILE, a="1", dir__b="1", left_out="x", **{".dockerignore": "left_out\n"})
    made.build()
    time.sleep(1.1)  # files that changed within a second are not trusted
    made.build()
    assert used_memo(made)
    return made


def used_memo(made: Builder, *words: str) -> bool:
    """Whether a build is answered without loading the builder; it must be answered all the same."""
    command = [sys.executable, "-X", "importtime", "-m", "fastlayer", "build", "-q", "-t", "made", *words]
    done = subprocess.run([*command, made.context], env=made.env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-500:]
    assert done.stdout.startswith("sha256:")
    return "fastlayer.builder.solver" not in done.stderr


def test_the_same_is_shown(settled: Builder) -> None:
    told = settled.build()
    assert outcome(told) == {
        "[1/3] FROM busybox": "CACHED",
        "[2/3] RUN echo $V > /v": "CACHED",
        "[3/3] COPY . /app/": "CACHED",
    }
    assert any(line.startswith("Cache: 2 of 2 steps") for line in told) and "Named made:latest" in told


def test_warnings_of_the_dockerfile_are_told_again(settled: Builder) -> None:
    settled.write(DOCKERFILE + "MAINTAINER me\n")
    for _ in range(2):
        settled.build()
        time.sleep(1.1)
    assert used_memo(settled)
    line = " - MaintainerDeprecated: Maintainer instruction is deprecated in favor of using label (line 6)"
    assert line in settled.build()
    assert settled.good("build", "-q", "-t", "made", settled.context).startswith("sha256:")


def forged(context: Path) -> None:
    """Same size, same mtime: only the ctime tells."""
    status = (context / "a").stat()
    (context / "a").write_text("2")
    os.utime(context / "a", ns=(status.st_atime_ns, status.st_mtime_ns))


CHANGES: dict[str, Callable[[Path], object]] = {
    "content": forged,
    "mode": lambda context: (context / "dir/b").chmod(0o700),
    "new file": lambda context: (context / "new").write_text(""),
    "new directory": lambda context: (context / "new").mkdir(),
    "removed": lambda context: (context / "dir/b").unlink(),
    "renamed": lambda context: (context / "a").rename(context / "c"),
    "Dockerfile": lambda context: (context / "Dockerfile").write_text(DOCKERFILE.replace('"x"', '"y"')),
    "ignore file": lambda context: (context / ".dockerignore").write_text("a\n"),
    "another ignore file": lambda context: (context / "Dockerfile.dockerignore").write_text("a\n"),
    "link": lambda context: (context / "link").symlink_to("a"),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_changes_are_noticed(settled: Builder, change: Callable[[Path], object]) -> None:
    before = settled.good("build", "-q", "-t", "made", settled.context)
    change(settled.context)
    assert not used_memo(settled)
    assert settled.good("build", "-q", "-t", "made", settled.context) != before


def test_what_is_ignored_does_not_count(settled: Builder) -> None:
    (settled.context / "left_out").write_text("changed")
    assert used_memo(settled)


def test_other_questions(settled: Builder) -> None:
    assert not used_memo(settled, "--build-arg", "V=2")
    assert not used_memo(settled, "--no-cache")
    assert not used_memo(settled, "--label", "a=b")
    assert not used_memo(settled, "-t", "another")


def test_a_base_of_the_same_name(settled: Builder, root: Path) -> None:
    settled.good("import", "-q", "--message", "another", root, "busybox")
    assert not used_memo(settled)


def test_a_name_that_was_taken_away(settled: Builder) -> None:
    settled.good("rmi", "made")
    assert not used_memo(settled)
    assert settled.good("images", "-q", "made")


def test_proxies_are_not_written_down(settled: Builder) -> None:
    words = ("--build-arg", "HTTP_PROXY=http://user:lion-and-tiger@proxy")
    assert used_memo(settled, *words)
    found = subprocess.run(["grep", "-rl", "lion-and-tiger", settled.root], capture_output=True, text=True)
    assert found.stdout == ""


def test_pruned(settled: Builder) -> None:
    settled.good("cache", "prune", "-af")
    assert not used_memo(settled)


def test_a_damaged_memo_is_no_answer(settled: Builder) -> None:
    for memo in (settled.root / "cache/memos").iterdir():
        memo.write_bytes(b"{")
    assert not used_memo(settled)
    assert used_memo(settled)
