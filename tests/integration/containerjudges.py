"""docker, podman and fastlayer with the same image, as functions of the words of a command."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from bench.peers import docker
from tests.buildroot import make_root
from tests.conftest import require
from tests.containers import CHANGES, Command
from tests.integration import runners
from tests.stores import tree

Run = Callable[..., "subprocess.CompletedProcess[str]"]
IMAGE = "box"


@contextmanager
def opened(name: str, place: Path, files: dict[str, str] | None = None) -> Iterator[tuple[Run, Run]]:
    """(the judge of that name, we); the image has ``files``, too. What is left of containers goes at the end."""
    ours = Command(place / "store", FASTLAYER_DRIVER="overlay2")
    root = tree(make_root(place / "root"), files or {})
    ours.out("import", "-q", *(word for change in CHANGES for word in ("-c", change)), root, IMAGE)
    ours.out("save", "--format", "docker-archive", "-o", place / "box.tar", IMAGE)
    with JUDGES[name](place / name, place / "box.tar") as theirs:
        try:
            yield theirs, ours.run
        finally:
            for run in (theirs, ours.run):
                run("rm", "-f", *run("ps", "-aq").stdout.split() or ["none"])


@contextmanager
def _docker(place: Path, image: Path) -> Iterator[Run]:
    require("dockerd", "docker")
    try:
        with docker(place, "overlay2") as words:
            run = _by(words, {})
            assert run("load", "-i", str(image)).returncode == 0
            yield run
    except RuntimeError as exc:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(exc))


@contextmanager
def _podman(place: Path, image: Path) -> Iterator[Run]:
    with runners.podman(place, "crun") as peer:
        peer.load(image)
        run = _by([*runners.AROUND["crun"], *peer.words], peer.env)
        more = [word for word in peer.plain if word not in ("--network", "none")]

        def with_options(*words: str, **options: Any) -> subprocess.CompletedProcess[str]:
            return run(*words[:1], *(more if words[0] in ("run", "create") else ()), *words[1:], **options)

        yield with_options


JUDGES = {"docker": _docker, "podman": _podman}


def _by(first: Sequence[str | Path], env: dict[str, str]) -> Run:
    def run(*words: str, **options: Any) -> subprocess.CompletedProcess[str]:
        given: dict[str, Any] = {"capture_output": True, "text": True, "timeout": 60, **options}
        if "input" not in given:
            given["stdin"] = subprocess.DEVNULL
        return subprocess.run([*map(str, first), *words], check=False, env={**os.environ, **env}, **given)

    return run
