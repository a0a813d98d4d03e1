"""Containers beside docker, podman, bare runc and unshare: whole processes, and what it costs inside the API.

The daemon is warm; its network is none, as podman's. Everybody uses overlayfs, or copies on XFS where it says so.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import fastlayer as api
from bench import peers
from bench.conftest import Measure
from tests.integration import runners
from tests.running import busybox_root

IMAGE = "bench.invalid/box:1"
NAME = "bench-one"
MANY = 1000
COPIED = (11_000, 470 << 20)  # files, bytes
Words = list[str | Path]


class Engine(NamedTuple):
    """``words``: before the verb. ``run_options``: what makes it comparable."""

    words: Words
    env: dict[str, str]
    run_options: tuple[str, ...] = ()

    def __call__(self, *words: str | Path, check: bool = True) -> str:
        done = subprocess.run(
            [*self.words, *words], env={**os.environ, **self.env}, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0 or not check, (words, done.stderr[-600:])
        return done.stdout.strip()


@contextmanager
def ours(root: Path, program: list[str], driver: str) -> Iterator[Engine]:
    env = {"FASTLAYER_ROOT": os.fspath(root), "FASTLAYER_DRIVER": driver}
    try:
        yield Engine([*program], env)
    finally:
        shutil.rmtree(root, ignore_errors=True)


@contextmanager
def engine(tool: str, root: Path, program: list[str], driver: str = "overlay2") -> Iterator[Engine]:
    """An engine that has the image."""
    root.mkdir(parents=True, exist_ok=True)
    tree = root / "tree"
    busybox_root(tree)
    try:
        with ours(root / "ours", program, "overlay2" if tool == "fastlayer" else "vfs") as made:
            made("import", "-q", "-c", 'CMD ["true"]', tree, IMAGE)
            made("save", "-o", root / "image.tar", "--format", "docker-archive", IMAGE)
        if tool == "fastlayer":
            with ours(root / "ours", program, driver) as found:
                found("load", "-q", "-i", root / "image.tar")
                yield found
        elif tool == "docker":
            with peers.docker(root / "docker", driver) as words:
                found = Engine(words, {}, ("--network", "none"))
                found("load", "-q", "-i", root / "image.tar")
                yield found
        else:
            with runners.podman(root / "podman", "crun") as podman:
                podman.load(root / "image.tar")
                around = list(runners.AROUND["crun"])
                yield Engine([*around, *podman.words], podman.env, tuple(map(str, podman.plain)))
    finally:
        shutil.rmtree(root, ignore_errors=True)


TOOLS = ("fastlayer", "docker", "podman")


@pytest.mark.parametrize("tool", TOOLS)
def test_run(tmpfs: Path, measure: Measure, fastlayer: list[str], tool: str) -> None:
    with engine(tool, tmpfs / "c", fastlayer) as found:
        command = [*found.words, "run", "--rm", *found.run_options, IMAGE, "true"]
        measure("run --rm IMAGE true", tool, "tmpfs", command, env=found.env, rounds=15)
        assert found("ps", "-aq") == ""


@pytest.mark.parametrize("tool", ["runc", "crun", "unshare"])
def test_run_of_a_bare_root(tmpfs: Path, measure: Measure, tool: str) -> None:
    """What a program costs without an image, a writable layer, names, logs."""
    place = tmpfs / "bare"
    try:
        (place / "bundle").mkdir(parents=True)
        busybox_root(place / "bundle/rootfs")
        for name in ("proc", "dev", "sys"):
            (place / "bundle/rootfs" / name).mkdir()
        command: Words = ["unshare", "--mount", "--pid", "--fork", "chroot", place / "bundle/rootfs", "/bin/true"]
        if tool != "unshare":
            subprocess.run([tool, "spec"], cwd=place / "bundle", check=True)
            value = json.loads((place / "bundle/config.json").read_text())
            value["process"].update(terminal=False, args=["true"])
            del value["process"]["rlimits"]
            value["mounts"] = [mount for mount in value["mounts"] if mount["type"] != "cgroup"]
            (place / "bundle/config.json").write_text(json.dumps(value))
            first: Words = [*runners.AROUND[tool], tool, "--root", place / "state"]
            without: Words = ["--cgroup-manager", "disabled"] if tool == "crun" else []
            command = [*first, *without, "run", "--bundle", place / "bundle", "it"]
        measure("run --rm IMAGE true", f"{tool}, a bare root", "tmpfs", command, rounds=15)
    finally:
        shutil.rmtree(place, ignore_errors=True)


@pytest.mark.parametrize("tool", TOOLS)
@pytest.mark.parametrize("verb", ["create", "rm"])
def test_create_and_remove(tmpfs: Path, measure: Measure, fastlayer: list[str], tool: str, verb: str) -> None:
    with engine(tool, tmpfs / "c", fastlayer) as found:
        make = ["create", "--name", NAME, *found.run_options, IMAGE]

        def before() -> None:
            found("rm", "-f", NAME, check=False)
            if verb == "rm":
                found(*make)

        words = make if verb == "create" else ["rm", NAME]
        measure(f"{verb} a container", tool, "tmpfs", [*found.words, *words], env=found.env, before=before, rounds=15)


@pytest.mark.parametrize("tool", TOOLS)
def test_exec(tmpfs: Path, measure: Measure, fastlayer: list[str], tool: str) -> None:
    with engine(tool, tmpfs / "c", fastlayer) as found:
        found("run", "-d", "--name", NAME, *found.run_options, IMAGE, "sleep", "1000")
        try:
            command = [*found.words, "exec", NAME, "true"]
            measure("exec NAME true", tool, "tmpfs", command, env=found.env, rounds=15)
        finally:
            found("rm", "-f", NAME)


@contextmanager
def in_the_api(tmpfs: Path, program: list[str]) -> Iterator[Path]:
    with engine("fastlayer", tmpfs / "c", program) as found:
        before = os.environ.get("FASTLAYER_DRIVER")
        os.environ["FASTLAYER_DRIVER"] = "overlay2"
        try:
            yield Path(found.env["FASTLAYER_ROOT"])
        finally:
            os.environ.pop("FASTLAYER_DRIVER")
            if before is not None:
                os.environ["FASTLAYER_DRIVER"] = before


def pedantic(benchmark: Any, job: str, call: Callable[[], object], rounds: int = 30) -> None:
    benchmark.group = f"{job} [tmpfs]"
    benchmark.pedantic(call, rounds=rounds, warmup_rounds=2, iterations=1)
    benchmark.extra_info.update(job=job, tool="fastlayer", fs="tmpfs", peak_kib=0)


def test_run_in_the_api(tmpfs: Path, benchmark: Any, fastlayer: list[str]) -> None:
    with in_the_api(tmpfs, fastlayer) as root:
        pedantic(
            benchmark,
            "run(IMAGE, true, remove=True), inside the API",
            lambda: api.run(IMAGE, "true", remove=True, root=root),
        )


def test_create_and_remove_in_the_api(tmpfs: Path, benchmark: Any, fastlayer: list[str]) -> None:
    with in_the_api(tmpfs, fastlayer) as root:
        pedantic(benchmark, "create(IMAGE).remove(), inside the API", lambda: api.create(IMAGE, root=root).remove())


def used(root: Path) -> int:
    """Bytes below root, as allocated."""
    return (
        sum(os.lstat(os.path.join(at, name)).st_blocks for at, dirs, files in os.walk(root) for name in dirs + files)
        * 512
    )


def test_a_thousand_containers(tmpfs: Path, benchmark: Any, fastlayer: list[str]) -> None:
    """Each is made in the same time; disk and memory per container."""
    with in_the_api(tmpfs, fastlayer) as root:
        disk, memory = used(root), _memory()
        took: list[float] = []

        def make() -> None:
            for number in range(MANY):
                begun = time.perf_counter()
                api.create(IMAGE, name=f"c{number}", root=root)
                took.append(time.perf_counter() - begun)

        job = f"create {MANY} containers of one image, inside the API"
        benchmark.group = f"{job} [tmpfs]"
        benchmark.pedantic(make, rounds=1, iterations=1)
        each = (used(root) - disk) / MANY
        first, last = statistics.median(took[:100]), statistics.median(took[-100:])
        assert each <= 64 << 10
        benchmark.extra_info.update(job=job, tool="fastlayer", fs="tmpfs", peak_kib=0, disk_each=round(each))
        benchmark.extra_info.update(first_ms=round(first * 1e3, 2), last_ms=round(last * 1e3, 2))
        benchmark.extra_info.update(memory_each=round((_memory() - memory) / MANY))


def _memory() -> int:
    """Bytes of this process that are in memory."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def tree_to_copy(place: Path) -> Path:
    """470 MB in 11,000 files."""
    count, size = COPIED
    tree = place / "copied-tree"
    if not tree.exists():
        data = os.urandom(1 << 20)
        for number in range(count):
            directory = tree / f"d{number // 100}"
            directory.mkdir(parents=True, exist_ok=True)
            left = size // count
            (directory / f"f{number}").write_bytes(data[number % 997 : number % 997 + left])
    return tree


COPIES = (("fastlayer", "vfs"), ("fastlayer", "overlay2"), ("docker", "overlay2"), ("podman", "overlay2"))


@pytest.mark.parametrize("tool,driver", [*COPIES, ("cp -a --reflink", "")])
@pytest.mark.parametrize("way", ["into", "out of"])
def test_cp(xfs: Path, measure: Measure, fastlayer: list[str], tool: str, driver: str, way: str) -> None:
    source, job = tree_to_copy(xfs), f"cp of 470 MB in 11 k files {way} a container"
    target = xfs / "copied-here"

    def clear() -> None:
        shutil.rmtree(target, ignore_errors=True)

    if not driver:
        measure(job, tool, "xfs", ["cp", "-a", "--reflink=always", source, target], before=clear)
        clear()
        return
    with engine(tool, xfs / "c", fastlayer, driver) as found:

        def before() -> None:
            clear()
            if way == "into":
                found("rm", "-f", NAME, check=False)
                found("create", "--name", NAME, *found.run_options, IMAGE)

        command: Words = ["cp", source, f"{NAME}:/copied"]
        if way == "out of":
            found("create", "--name", NAME, *found.run_options, IMAGE)
            found(*command)
            command = ["cp", f"{NAME}:/copied", target]
        measure(job, f"{tool} {driver}", "xfs", [*found.words, *command], env=found.env, before=before)
    clear()
