"""Dockerfiles to images, whole processes, against docker 20.10's two builders and buildah.

Every builder has the base image in its store; daemons are warm. cold: nothing of the build is in any cache; cached:
the same build again; changed: one small file of the last COPY but one is another one.
"""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from bench import contexts, peers
from bench.conftest import ROUNDS, Measure
from tests.integration.buildbases import busybox

TOOLS = ("fastlayer", "docker legacy", "docker BuildKit", "buildah")
JOBS = ("cold", "cached", "changed")
WORKLOADS: dict[str, tuple[str, Callable[[Path], Path]]] = {
    "twelve": ("12 steps, 862 MB in 37.7 k files", contexts.twelve),
    "four": ("4 lines", contexts.four),
    "nothing": (f"{contexts.RUNS} RUNs that do nothing", contexts.nothing),
    "copied": ("COPY of 564 MB in 11 k entries", contexts.copied),
}
EXPORTERS = ("fastlayer", "buildah")
TAG = "bench.invalid/built:1"


class Builder(NamedTuple):
    """``command``: builds the context that is put after it; ``forget``: nothing of a build is cached any more;
    ``look``: fails when there is no image; ``export(context, layout)``: the build again, as an OCI layout."""

    command: list[str | Path]
    env: dict[str, str]
    forget: Callable[[], object]
    look: Callable[[], object]
    export: Callable[[Path, Path], list[str | Path]]


def _run(words: list[str | Path], env: dict[str, str] | None = None, *, check: bool = True) -> None:
    done = subprocess.run(words, env={**os.environ, **(env or {})}, capture_output=True, text=True)
    assert done.returncode == 0 or not check, done.stderr[-800:]


@pytest.fixture(scope="session")
def base(tmpfs: Path) -> Path:
    """The archive of the base image."""
    place = tmpfs / "build-base"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    return busybox(place)


@contextmanager
def docker(root: Path, base: Path, buildkit: str) -> Iterator[Builder]:
    with peers.docker(root / "docker", "overlay2") as daemon:
        words = peers.with_buildkit(daemon)
        env = {"DOCKER_CONFIG": os.fspath(root / "docker/client"), "DOCKER_BUILDKIT": buildkit}
        _run([*words, "load", "-q", "-i", base])

        def forget() -> None:
            _run([*words, "rmi", "-f", TAG], check=False)
            _run([*words, "image", "prune", "-f"])
            _run([*words, "builder", "prune", "-af"])

        command = [*words, "build", "-q", "--network", "none", "-t", TAG]
        yield Builder(command, env, forget, lambda: _run([*words, "image", "inspect", TAG]), lambda *_: [])


@contextmanager
def buildah(root: Path, base: Path) -> Iterator[Builder]:
    place = root / "buildah"
    place.mkdir(parents=True)
    policy = place / "policy.json"
    policy.write_text('{"default":[{"type":"insecureAcceptAnything"}]}')
    words: list[str | Path] = ["buildah", "--root", place / "storage", "--runroot", place / "run"]
    words += ["--storage-driver", "overlay"]
    _run([*words, "pull", "-q", "--signature-policy", policy, f"docker-archive:{base}"])

    def forget() -> None:
        _run([*words, "rmi", "-f", TAG], check=False)
        _run([*words, "rmi", "-f", "--prune"])

    options: list[str | Path] = ["bud", "-q", "--layers", "--isolation", "chroot", "--pull-never"]
    try:
        command = [*words, *options, "--signature-policy", policy, "-t", TAG]
        push: list[str | Path] = [*words, "push", "-q", "--signature-policy", policy, TAG]
        yield Builder(
            command,
            {"TMPDIR": os.fspath(place)},
            forget,
            lambda: _run([*words, "inspect", TAG]),
            lambda _, layout: [*push, f"oci:{layout}:1"],
        )
    finally:
        subprocess.run(["umount", "-q", place / "storage/overlay"], capture_output=True)
        shutil.rmtree(place, ignore_errors=True)


@contextmanager
def ours(root: Path, base: Path, program: list[str]) -> Iterator[Builder]:
    if subprocess.run([*program, "build", "--help"], capture_output=True).returncode:
        pytest.skip("until fastlayer build exists")
    store = root / "store"
    env = {"FASTLAYER_ROOT": os.fspath(store), "FASTLAYER_DRIVER": "overlay2"}

    def forget() -> None:
        shutil.rmtree(store, ignore_errors=True)
        _run([*program, "load", "-q", "-i", base], env)

    forget()
    command = [*program, "build", "-q", "--network", "none", "-t", TAG]
    try:
        yield Builder(
            command,
            env,
            forget,
            lambda: _run([*program, "history", TAG], env),
            lambda context, layout: [*command, "-o", f"type=oci,dest={layout},tar=false,compression=gzip", context],
        )
    finally:
        shutil.rmtree(store, ignore_errors=True)


@contextmanager
def builder(tool: str, root: Path, base: Path, program: list[str]) -> Iterator[Builder]:
    if tool == "fastlayer":
        chosen = ours(root, base, program)
    elif tool == "buildah":
        chosen = buildah(root, base)
    else:
        chosen = docker(root, base, "1" if tool.endswith("BuildKit") else "0")
    with chosen as found:
        yield found


@pytest.mark.parametrize("tool", TOOLS)
@pytest.mark.parametrize("job", JOBS)
@pytest.mark.parametrize("workload", WORKLOADS)
def test_build(
    measure: Measure, fastlayer: list[str], tmpfs: Path, base: Path, workload: str, job: str, tool: str
) -> None:
    title, make = WORKLOADS[workload]
    if job == "changed" and workload != "twelve":
        pytest.skip("the big Dockerfile alone has a file that changes")
    context, numbers = make(tmpfs), itertools.count(1)
    time.sleep(2)  # files that were written just now may change without their times telling
    with builder(tool, tmpfs / "builder", base, fastlayer) as found:
        before = {
            "cold": found.forget,
            "cached": lambda: None,
            "changed": lambda: contexts.change(context, next(numbers)),
        }[job]
        command = [*found.command, context]
        measure(
            f"build {title}, {job}",
            tool,
            "tmpfs",
            command,
            before=before,
            check=found.look,
            env=found.env,
            rounds=9 if workload == "four" else min(ROUNDS, 3),
        )


@pytest.mark.parametrize("tool", EXPORTERS)
def test_export(measure: Measure, fastlayer: list[str], tmpfs: Path, base: Path, tool: str) -> None:
    """A build that is cached, as an OCI layout with gzip layers; docker 20.10 writes none."""
    title, make = WORKLOADS["twelve"]
    context, layout = make(tmpfs), tmpfs / "exported"
    with builder(tool, tmpfs / "builder", base, fastlayer) as found:
        _run([*found.command, context], found.env)
        measure(
            f"build {title}, cached, to a gzip OCI layout",
            tool,
            "tmpfs",
            found.export(context, layout),
            before=lambda: shutil.rmtree(layout, ignore_errors=True),
            check=lambda: _look_for_gzip(layout),
            env=found.env,
            rounds=min(ROUNDS, 3),
        )


def _look_for_gzip(layout: Path) -> None:
    blobs = sorted((layout / "blobs/sha256").iterdir(), key=lambda path: path.stat().st_size)
    assert blobs[-1].stat().st_size > 100_000_000 and blobs[-1].open("rb").read(2) == b"\x1f\x8b"


def test_large_context(measure: Measure, fastlayer: list[str], large_xfs: Path, base: Path) -> None:
    """Peak memory does not depend on the size of a context."""
    context = contexts.large(large_xfs)
    with builder("fastlayer", large_xfs / "builder", base, fastlayer) as found:
        measure(
            "build of a 10 GB context, cold",
            "fastlayer",
            "xfs",
            [*found.command, context],
            before=found.forget,
            check=found.look,
            env=found.env,
            rounds=1,
        )
