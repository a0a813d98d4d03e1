"""File systems under test and the one way to measure a whole process."""

from __future__ import annotations

import compileall
import os
import shutil
import subprocess
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bench import runner

ROUNDS = int(os.environ.get("FASTLAYER_BENCH_ROUNDS", "5"))
SCRATCH = Path(os.environ.get("FASTLAYER_BENCH_TMPFS", "/dev/shm")) / "fastlayer-bench"


def pytest_configure() -> None:
    """As after ``pip install``: bytecode is compiled, and our environment changes nothing about Python."""
    for name in ("PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED"):
        os.environ.pop(name, None)
    import fastlayer

    compileall.compile_dir(Path(fastlayer.__file__).parent, quiet=1)
    compileall.compile_dir(sysconfig.get_path("purelib"), quiet=2, workers=2)


def _mounted(kind: str, size: str, name: str = "") -> Iterator[Path]:
    image, point = SCRATCH / f"{name or kind}.img", SCRATCH / (name or kind)
    point.mkdir(parents=True, exist_ok=True)
    subprocess.run(["truncate", "-s", size, image], check=True)
    make = {"xfs": ["mkfs.xfs", "-q", "-f"], "btrfs": ["mkfs.btrfs", "-q", "-f"]}[kind]
    subprocess.run([*make, image], check=True)
    subprocess.run(["mount", "-o", "loop,noatime", image, point], check=True)
    try:
        yield point
    finally:
        subprocess.run(["umount", point], check=True)
        image.unlink()


@pytest.fixture(scope="session")
def tmpfs() -> Iterator[Path]:
    root = SCRATCH / "tmpfs"
    root.mkdir(parents=True, exist_ok=True)
    yield root
    shutil.rmtree(root, ignore_errors=True)


@pytest.fixture(scope="session")
def xfs() -> Iterator[Path]:
    yield from _mounted("xfs", "8G")


@pytest.fixture
def large_xfs() -> Iterator[Path]:
    """For one test: it takes what is in it of the memory."""
    yield from _mounted("xfs", "14G", "large-xfs")


@pytest.fixture(scope="session")
def btrfs() -> Iterator[Path]:
    yield from _mounted("btrfs", "8G")


@pytest.fixture(params=["tmpfs", "xfs", "btrfs"])
def place(request: pytest.FixtureRequest) -> Path:
    """Each file system in turn."""
    return request.getfixturevalue(request.param)


Measure = Callable[..., runner.Run]


@pytest.fixture
def measure(benchmark: object, request: pytest.FixtureRequest) -> Measure:
    """``measure(job, tool, fs, command, before=..., check=..., rounds=...)``.

    before() prepares each round and check() looks at each result; both are outside the timing.
    """

    def go(
        job: str,
        tool: str,
        fs: str,
        command: list[str | Path],
        *,
        before: Callable[[], object] = lambda: None,
        check: Callable[[], object] = lambda: None,
        env: dict[str, str] | None = None,
        rounds: int = ROUNDS,
    ) -> runner.Run:
        runs: list[runner.Run] = []

        def setup() -> None:
            if runs:
                check()
            before()

        benchmark.group = f"{job} [{fs}]"  # type: ignore[attr-defined]
        benchmark.pedantic(  # type: ignore[attr-defined]
            lambda: runs.append(runner.run(command, env)), setup=setup, rounds=rounds, warmup_rounds=1, iterations=1
        )
        check()
        peak = max(r.peak_kib for r in runs)
        benchmark.extra_info.update(job=job, tool=tool, fs=fs, peak_kib=peak)  # type: ignore[attr-defined]
        return runs[-1]

    return go


@pytest.fixture
def fastlayer() -> list[str]:
    return runner.fastlayer_command()


def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict[str, object]) -> None:
    for key in ("node",):
        machine_info.pop(key, None)
    machine_info["environment"] = runner.environment()
