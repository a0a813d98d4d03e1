"""How ``make demo`` tells what it does: headings, commands, what they print."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

FASTLAYER = Path(sys.executable).with_name("fastlayer")
NEEDED = 2 << 30  # bytes free


class Failed(Exception):
    """A command failed; what it printed."""


def say(text: str) -> None:
    print(f"\n== {text}", flush=True)


def run(
    work: Path, *words: str | Path, env: dict[str, str] | None = None, show: bool = True, errors: bool = False
) -> tuple[str, float]:
    """Runs a command in work, printing it and what it prints; returns its output and seconds.

    ``errors``: what it prints to stderr is shown, too. Raises ``Failed``.
    """
    command = [str(w) for w in words]
    shown = ["fastlayer" if w == str(FASTLAYER) else w for w in command]
    if show:
        prefix = "".join(f"{k}={v} " for k, v in (env or {}).items())
        print(f"$ {prefix}{shlex.join(shown)}", flush=True)
    started = time.perf_counter()
    pipe = subprocess.STDOUT if errors else subprocess.PIPE
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=pipe, text=True, env={**os.environ, **(env or {})}, cwd=work
    )
    seconds = time.perf_counter() - started
    if done.returncode:
        raise Failed(f"{done.stdout}{done.stderr or ''}demo: {shown[0]} exited {done.returncode}")
    if show and done.stdout:
        print(done.stdout, end="", flush=True)
    return done.stdout, seconds


def workplace() -> Path:
    """A directory on tmpfs when there is room, else in the usual place for temporary files."""
    shm = Path("/dev/shm")
    roomy = shm.is_dir() and os.access(shm, os.W_OK) and shutil.disk_usage(shm).free > NEEDED
    return Path(tempfile.mkdtemp(prefix="fastlayer-demo-", dir=shm if roomy else None))
