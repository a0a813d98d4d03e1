"""Containers for tests: a store with a small image, and the command in it."""

from __future__ import annotations

import json
import os
import pty
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fastlayer import _backend
from tests.buildroot import make_root
from tests.running import mounts_of_host

CHANGES = ['CMD ["sh"]', "ENV FROM_IMAGE=yes", "LABEL of=image", "WORKDIR /tmp"]
FOREVER = "trap 'exit 0' TERM; while :; do sleep 0.05; done"  # a first process that SIGTERM ends


class Command:
    """``fastlayer`` with a store of its own, on the engine of the test."""

    def __init__(self, root: Path, **env: str) -> None:
        self.root = root
        self.env = {**os.environ, "FASTLAYER_ROOT": str(root), "FASTLAYER_BACKEND": _backend.engine().name, **env}

    def words(self, *words: str | Path) -> list[str]:
        return [sys.executable, "-m", "fastlayer", *map(str, words)]

    def run(self, *words: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
        given: dict[str, Any] = {"capture_output": True, "text": True, "timeout": 120, "env": self.env}
        if "input" not in options and "stdin" not in options:
            given["stdin"] = subprocess.DEVNULL
        return subprocess.run(self.words(*words), check=False, **{**given, **options})

    def out(self, *words: str | Path, **options: Any) -> str:
        """What it says; it must succeed."""
        done = self.run(*words, **options)
        assert done.returncode == 0, (words, done.returncode, done.stderr)
        return done.stdout.strip()

    def refused(self, *words: str | Path, code: int = 1, **options: Any) -> str:
        """The one line of a refusal."""
        done = self.run(*words, **options)
        assert done.returncode == code, (words, done.returncode, done.stdout, done.stderr)
        lines = done.stderr.splitlines()
        assert len(lines) == 1 and lines[0].startswith("fastlayer: "), done.stderr
        return lines[0]

    def inspect(self, name: str) -> dict[str, Any]:
        (found,) = json.loads(self.out("inspect", "--type", "container", name))
        assert isinstance(found, dict)
        return found

    def state(self, name: str) -> dict[str, Any]:
        found = self.inspect(name)["State"]
        assert isinstance(found, dict)
        return found


@contextmanager
def of_its_own(place: Path) -> Iterator[Command]:
    """A store with the image ``box``; in the end its containers go, and nothing of it is mounted."""
    found = Command(place / "store", FASTLAYER_DRIVER="overlay2")
    found.out("import", "-q", make_root(place / "root"), "box")
    yield found
    found.run("rm", "-f", *found.out("ps", "-aq").split() or ["none"])
    assert [line for line in mounts_of_host() if str(place) in line] == []


def until(condition: Callable[[], object], seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.02)


def parents() -> dict[int, int]:
    """pid -> parent of all processes."""
    found = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/stat", "rb") as file:
                found[int(name)] = int(file.read().rpartition(b")")[2].split()[1])
        except OSError:
            continue
    return found


def keeper_of(monitor: int) -> int:
    (found,) = [pid for pid, parent in parents().items() if parent == monitor]
    return found


def lives(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[0] != b"Z"
    except OSError:
        return False


class Terminal:
    """A command on a terminal of its own."""

    def __init__(self, words: Sequence[str], env: dict[str, str], rows: int = 33, columns: int = 99) -> None:
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.execvpe(words[0], list(words), env)
        self.resize(rows, columns)
        self.seen = b""

    def resize(self, rows: int, columns: int) -> None:
        import fcntl
        import struct
        import termios

        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, data: bytes) -> None:
        os.write(self.fd, data)

    def expect(self, text: bytes, seconds: float = 60.0) -> bytes:
        """Reads until the text comes; returns everything before it since the last time."""
        end = time.monotonic() + seconds
        while text not in self.seen:
            assert time.monotonic() < end, self.seen
            ready, _, _ = select.select([self.fd], [], [], 0.5)
            if ready:
                try:
                    data = os.read(self.fd, 4096)
                except OSError:
                    data = b""
                assert data, self.seen
                self.seen += data
        before, _, self.seen = self.seen.partition(text)
        return before

    def wait(self) -> int:
        """Its exit status, after everything has been read."""
        while True:
            try:
                data = os.read(self.fd, 4096)
            except OSError:
                break
            if not data:
                break
            self.seen += data
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
