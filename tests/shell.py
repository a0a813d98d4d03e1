"""What is typed, in a store of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from fastlayer.mounts.table import entries
from tests.stores import tree

COMMAND = [sys.executable, "-m", "fastlayer"]


class Shell:
    """A store of its own, and what is typed."""

    def __init__(self, root: Path, driver: str = "vfs") -> None:
        self.root = root
        self.env = {**os.environ, "FASTLAYER_ROOT": str(root), "FASTLAYER_DRIVER": driver}
        self.env["FASTLAYER_PULL"] = "never"  # builds look for no registry in the world
        self.env.pop("SOURCE_DATE_EPOCH", None)

    def run(self, *words: str | Path, input: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run([*COMMAND, *words], env=self.env, input=input, capture_output=True, timeout=120)

    def good(self, *words: str | Path, input: bytes | None = None) -> str:
        done = self.run(*words, input=input)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout.decode()

    def refused(self, *words: str | Path, code: int = 1) -> str:
        """The one line of an error."""
        done = self.run(*words)
        lines = done.stderr.decode().splitlines()
        assert done.returncode == code and len(lines) == 1 and lines[0].startswith("fastlayer: "), (done, lines)
        assert "internal error" not in lines[0]
        return lines[0]

    def rows(self, *words: str | Path) -> list[dict[str, object]]:
        return [json.loads(line) for line in self.good(*words, "--format", "json").splitlines()]


@contextmanager
def with_mounts(
    driver: str, place: Path, files: Mapping[str, str | bytes], targets: tuple[str, ...]
) -> Iterator[Shell]:
    """A store with an image ``base``, and directories to mount at; all mounts below ``place`` go at the end."""
    shell = Shell(place / "store", driver)
    shell.good("import", tree(place / "root", files), "base")
    for name in targets:
        (place / name).mkdir()
    try:
        yield shell
    finally:
        for entry in reversed(list(entries())):
            if entry.target.startswith(os.fsencode(place) + b"/"):
                subprocess.run(["umount", "-l", entry.target], check=True)
