"""apply: the "debian" layer onto an empty directory, verified, against the tools that unpack archives."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from bench import peers, workloads
from bench.conftest import Measure

CODECS = ("tar", "tar.gz", "tar.zst", "tar.gz (foreign)")


@pytest.fixture
def layer(place: Path, fastlayer: list[str]) -> dict[str, Path]:
    """The layer in each codec; the foreign one is pigz's, a single gzip member."""
    pair = workloads.debian(place)
    made = {codec: place / f"apply-layer.{codec}" for codec in CODECS[:3]}
    for path in made.values():
        if not path.exists():
            subprocess.run([*fastlayer, "diff", pair.a, pair.b, "-o", path], check=True, capture_output=True)
    foreign = place / "apply-layer.pigz"
    if not foreign.exists():
        with open(foreign, "wb") as file:
            subprocess.run(["pigz", "-6", "-c", made["tar"]], stdout=file, check=True)
    return {**made, "tar.gz (foreign)": foreign}


def _target(place: Path) -> Path:
    return place / "applied"


def _checked(place: Path) -> None:
    _whole(_target(place))


def _whole(tree: Path) -> None:
    assert peers.count(tree) > 10_000


@pytest.mark.parametrize("codec", CODECS)
def test_fastlayer(measure: Measure, fastlayer: list[str], place: Path, layer: dict[str, Path], codec: str) -> None:
    target = _target(place)
    out = subprocess.run(
        [*fastlayer, "diff", "--format", "json", *workloads.debian(place), "-o", "/dev/null"],
        check=True, capture_output=True,
    ).stdout  # fmt: skip
    diff_id = json.loads(out)["diff_id"]
    measure(
        f"apply debian {codec}",
        "fastlayer (verified)",
        place.name,
        [*fastlayer, "apply", "--diff-id", diff_id, layer[codec], target, "--progress", "none"],
        before=lambda: shutil.rmtree(target, ignore_errors=True),
        check=lambda: _checked(place),
    )
    shutil.rmtree(target)


@pytest.mark.parametrize("codec", CODECS[:3])
def test_baseline(measure: Measure, fastlayer: list[str], tmpfs: Path, codec: str) -> None:
    pair, target = workloads.debian(tmpfs), _target(tmpfs)
    path = tmpfs / f"apply-layer.{codec}"
    if not path.exists():
        subprocess.run([*fastlayer, "diff", *pair, "-o", path], check=True, capture_output=True)
    measure(
        f"apply debian {codec}",
        "baseline (plain Python)",
        "tmpfs",
        [*fastlayer, "apply", path, target, "--progress", "none"],
        before=lambda: shutil.rmtree(target, ignore_errors=True),
        check=lambda: _checked(tmpfs),
        env={"FASTLAYER_BACKEND": "baseline"},
        rounds=1,
    )
    shutil.rmtree(target)


@pytest.mark.parametrize("tool", ["GNU tar -x", "bsdtar -x"])
@pytest.mark.parametrize("codec", CODECS)
def test_archivers(measure: Measure, place: Path, layer: dict[str, Path], codec: str, tool: str) -> None:
    if tool == "bsdtar -x" and codec == "tar.gz":
        pytest.skip("the foreign member layout is the fair one for bsdtar")
    target = _target(place)
    program = tool.split()[0].replace("GNU", "tar")
    options = ["--xattrs", "--xattrs-include=*"] if program == "tar" else []
    if program == "tar":
        options += {"tar": [], "tar.zst": ["--zstd"]}.get(codec, ["-z"])

    def fresh() -> None:
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir()

    measure(
        f"apply debian {codec}",
        tool,
        place.name,
        [program, *options, "--numeric-owner", "-xpf", layer[codec], "-C", target],
        before=fresh,
        check=lambda: _checked(place),
    )
    shutil.rmtree(target)


@pytest.mark.parametrize("codec", CODECS[:3])
def test_containerd(measure: Measure, fastlayer: list[str], tmpfs: Path, codec: str) -> None:
    pair = workloads.debian(tmpfs)
    path = tmpfs / f"apply-layer.{codec}"
    if not path.exists():
        subprocess.run([*fastlayer, "diff", *pair, "-o", path], check=True, capture_output=True)
    with peers.containerd(tmpfs / "containerd") as daemon:
        image = daemon.import_layers([path])
        measure(
            f"apply debian {codec}",
            "containerd (ctr images mount: unpack and mount)",
            "tmpfs",
            daemon.command("images", "mount", "--snapshotter", "native", image, tmpfs / "mounted"),
            before=lambda: daemon.forget_snapshots(tmpfs / "mounted"),
            check=lambda: _whole(tmpfs / "mounted"),
        )
        daemon.forget_snapshots(tmpfs / "mounted")
