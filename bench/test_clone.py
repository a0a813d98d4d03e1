"""clone: the "debian" tree inside reflink file systems, against cp."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from bench import peers, workloads
from bench.conftest import Measure


@pytest.mark.parametrize("tool", ["fastlayer", "cp -a --reflink=auto"])
@pytest.mark.parametrize("fs", ["xfs", "btrfs", "tmpfs"])
def test_clone(request: pytest.FixtureRequest, measure: Measure, fastlayer: list[str], fs: str, tool: str) -> None:
    place: Path = request.getfixturevalue(fs)
    source, target = workloads.debian(place).b, place / "cloned"
    entries = peers.count(source)
    command: list[str | Path] = [*fastlayer, "clone", source, target, "--progress", "none"]
    if tool.startswith("cp"):
        reflink = "--reflink=auto" if fs == "tmpfs" else "--reflink=always"
        command = ["cp", "-a", reflink, source, target]

    def check() -> None:
        assert peers.count(target) == entries

    measure("clone debian", tool, fs, command, before=lambda: shutil.rmtree(target, ignore_errors=True), check=check)
    shutil.rmtree(target)
