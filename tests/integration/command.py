"""The command in a place of its own: every refusal is one line, and nothing else in the place changes."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.trees import Picture, snapshot

Word = str | bytes | Path
COMMAND = [sys.executable, "-m", "fastlayer"]


class Place:
    """Directories ``root`` (what a test makes), ``cwd`` and ``tmp`` of the processes that run here."""

    def __init__(self, base: Path) -> None:
        self.base, self.root, self.cwd, self.tmp = base, base / "root", base / "cwd", base / "tmp"
        for path in (self.root, self.cwd, self.tmp):
            path.mkdir()
        base.chmod(0o755)
        self.tmp.chmod(0o1777)

    def run(
        self, *words: Word, before: tuple[Word, ...] = (), env: dict[str, str] | None = None, **options: Any
    ) -> subprocess.CompletedProcess[bytes]:
        """``before``: a program that runs the command, such as setpriv."""
        given = {"cwd": self.cwd, "capture_output": True, "timeout": 120, "stdin": subprocess.DEVNULL, **options}
        given = {key: value for key, value in given.items() if not (key == "stdin" and "input" in options)}
        return subprocess.run(
            [os.fsencode(w) for w in (*before, *COMMAND, *words)],
            env={**os.environ, "TMPDIR": str(self.tmp), **(env or {})},
            **given,
        )

    def good(self, *words: Word, **options: Any) -> bytes:
        done = self.run(*words, **options)
        assert done.returncode == 0, done.stderr.decode(errors="replace")
        return done.stdout

    def refused(self, *words: Word, code: int = 1, changes: Path | None = None, **options: Any) -> str:
        """The one line. ``changes``: an existing target, which may be left half-done."""
        before = self.picture(changes)
        done = self.run(*words, **options)
        line = only_line(done, code)
        after = self.picture(changes)
        assert after == before, f"{words}: left {after.keys() ^ before.keys()}, changed {_changed(before, after)}"
        return line

    def picture(self, without: Path | None = None) -> dict[bytes, Picture]:
        """All that is here. Names that come and go beside an output move the times of their directory."""
        skip = os.fsencode(without.relative_to(self.base)) if without else None
        return {
            path: seen._replace(mtime_ns=0) if seen.type == "dir" else seen
            for path, seen in snapshot(str(self.base)).items()
            if skip is None or (path != skip and not path.startswith(skip + b"/"))
        }

    @contextmanager
    def started(self, *words: Word, before: tuple[Word, ...] = (), **options: Any) -> Iterator[subprocess.Popen[bytes]]:
        """A running command, killed at the end if it still runs."""
        process = subprocess.Popen(
            [os.fsencode(w) for w in (*before, *COMMAND, *words)],
            cwd=self.cwd,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env={**os.environ, "TMPDIR": str(self.tmp)},
            **options,
        )
        try:
            yield process
        finally:
            process.kill()
            process.communicate()


def _changed(before: dict[bytes, Picture], after: dict[bytes, Picture]) -> list[bytes]:
    return [path for path in before.keys() & after.keys() if before[path] != after[path]]


def only_line(done: subprocess.CompletedProcess[bytes], code: int) -> str:
    """Checks what a refusal says and returns its line."""
    text = done.stderr.decode(errors="replace")
    lines = [line for line in text.splitlines() if not line.startswith("fastlayer: warning: ")]
    assert done.returncode == code, f"exit {done.returncode}: {text[-2000:]}"
    assert len(lines) == 1 and lines[0].startswith("fastlayer: "), text[-2000:]
    assert "internal error" not in text and "Traceback" not in text, text[-2000:]
    assert done.stdout in (b"", None), done.stdout[:200]
    return lines[0]


def wait_for(condition: Callable[[], object], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.002)


def stop(process: subprocess.Popen[bytes], number: int) -> tuple[int, float, str]:
    """Sends a signal: exit code, seconds until the end, stderr."""
    begin = time.monotonic()
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    return process.returncode, time.monotonic() - begin, errors.decode()


def few_files() -> None:
    """For ``preexec_fn``: 64 descriptors."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))


def stopped_code(number: int) -> int:
    return -number if number == signal.SIGKILL else 128 + number
