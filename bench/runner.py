"""Runs a whole process and reports its wall time and peak memory, as the kernel accounts them."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple


class Run(NamedTuple):
    """One finished process (and, for a shell pipeline, its children)."""

    seconds: float
    peak_kib: int  # of the largest single process
    status: int


FASTLAYER = [sys.executable, "-m", "fastlayer.cli.main"]


def fastlayer_command() -> list[str]:
    """The installed console script, as users call it."""
    script = Path(sys.executable).with_name("fastlayer")
    return [str(script)] if script.exists() else FASTLAYER


def run(command: Sequence[str | Path], env: Mapping[str, str] | None = None, cwd: Path | None = None) -> Run:
    """Runs command to its end, output thrown away. Raises RuntimeError when it fails.

    GNU time stands between: a child's peak as wait4 gives it begins at the peak of the process that spawned it.
    """
    with tempfile.NamedTemporaryFile("r") as peak:
        words = ["/usr/bin/time", "-q", "-f", "%M", "-o", peak.name, *(str(c) for c in command)]
        started = time.perf_counter()
        done = subprocess.run(
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env={**os.environ, **(env or {})},
            cwd=cwd,
        )
        seconds = time.perf_counter() - started
        if done.returncode:
            raise RuntimeError(f"{command[0]} exited {done.returncode}: {done.stderr[-400:].decode(errors='replace')}")
        return Run(seconds, int(peak.read().split()[-1]), 0)


def _first_line(*command: str) -> str:
    try:
        out = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except OSError:
        return "not installed"
    return ((out.stdout or out.stderr).splitlines() or ["?"])[0].strip()


def environment() -> dict[str, str]:
    """What a reader must know to judge a figure."""
    cpu = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), "?")
    return {
        "cpu": f"{cpu}, {os.cpu_count()} processors",
        "kernel": platform.release(),
        "python": platform.python_version(),
        "GNU tar": _first_line("tar", "--version"),
        "bsdtar": _first_line("bsdtar", "--version"),
        "pigz": _first_line("pigz", "--version"),
        "zstd": _first_line("zstd", "--version"),
        "umoci": _first_line("umoci", "--version"),
        "containerd": _first_line("containerd", "--version"),
        "buildah": _first_line("buildah", "--version"),
        "docker": _first_line("docker", "--version"),
        "rsync": _first_line("rsync", "--version"),
    }
