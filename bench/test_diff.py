"""diff -> layer: the "debian" changes as tar, tar.gz and tar.zst, against the tools that write archives.

GNU tar gets the list of changed names for free, hashes nothing and finds nothing out by itself.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from bench import peers, workloads
from bench.conftest import Measure

OUTPUTS = {"tar": "layer.tar", "tar.gz": "layer.tar.gz", "tar.zst": "layer.tar.zst"}


@pytest.fixture
def pair(place: Path) -> workloads.Pair:
    return workloads.debian(place)


@pytest.mark.parametrize("compare", ["metadata", "auto"])
@pytest.mark.parametrize("codec", OUTPUTS)
def test_fastlayer(
    measure: Measure, fastlayer: list[str], place: Path, pair: workloads.Pair, codec: str, compare: str
) -> None:
    out = place / OUTPUTS[codec]
    measure(
        f"diff debian -> {codec}",
        "fastlayer" if compare == "metadata" else "fastlayer (reads what it cannot prove)",
        place.name,
        [*fastlayer, "diff", pair.a, pair.b, "-o", out, "--compare", compare, "--progress", "none"],
        before=lambda: out.unlink(missing_ok=True),
        check=lambda: peers.check_archive(out, least=10_000),
    )
    out.unlink()


@pytest.mark.parametrize("codec", OUTPUTS)
def test_baseline(measure: Measure, fastlayer: list[str], tmpfs: Path, codec: str) -> None:
    pair, out = workloads.debian(tmpfs), tmpfs / OUTPUTS[codec]
    measure(
        f"diff debian -> {codec}",
        "baseline (plain Python)",
        "tmpfs",
        [*fastlayer, "diff", pair.a, pair.b, "-o", out, "--compare", "metadata", "--progress", "none"],
        before=lambda: out.unlink(missing_ok=True),
        check=lambda: peers.check_archive(out, least=10_000),
        env={"FASTLAYER_BACKEND": "baseline"},
        rounds=1,
    )
    out.unlink()


SHELL = {
    "tar": {"GNU tar -c (no hashing)": "tar {} -cf {out}"},
    "tar.gz": {"tar | pigz -6 -p2": "tar {} -cf - | pigz -6 -p2 > {out}"},
    "tar.zst": {"tar | zstd -3 -T2": "tar {} -cf - | zstd -q -3 -T2 > {out}"},
}


@pytest.mark.parametrize("codec,tool", [(codec, tool) for codec, tools in SHELL.items() for tool in tools])
def test_archivers(measure: Measure, place: Path, pair: workloads.Pair, codec: str, tool: str) -> None:
    out, names = place / OUTPUTS[codec], place / "names"
    peers.write_changed_names(pair, names)
    options = f"-C {pair.b} --format=pax --no-recursion --null --verbatim-files-from -T {names}"
    script = SHELL[codec][tool].format(options, out=out)
    measure(
        f"diff debian -> {codec}",
        tool,
        place.name,
        ["sh", "-c", script],
        before=lambda: out.unlink(missing_ok=True),
        check=lambda: peers.check_archive(out, least=10_000),
    )
    out.unlink()


@pytest.mark.parametrize("codec", ["tar", "tar.gz"])  # ctr 1.6 writes no zstd
def test_containerd(measure: Measure, tmpfs: Path, codec: str) -> None:
    pair = workloads.debian(tmpfs)
    with peers.containerd(tmpfs / "containerd") as daemon:
        daemon.snapshot("base", pair.a, parent="")
        daemon.snapshot("full", pair.b, parent="base")
        media = {"tar": "", "tar.gz": "+gzip"}[codec]
        measure(
            f"diff debian -> {codec}",
            "containerd (ctr snapshots diff)",
            "tmpfs",
            daemon.command(
                "snapshots", "--snapshotter", "native", "diff", "--media-type",
                f"application/vnd.oci.image.layer.v1.tar{media}", "base", "full",
            ),
            before=daemon.forget_content,
        )  # fmt: skip


def test_umoci(measure: Measure, tmpfs: Path) -> None:
    pair = workloads.debian(tmpfs)
    bundle = peers.UmociBundle(tmpfs / "umoci", pair)
    measure("diff debian -> tar.gz", "umoci repack", "tmpfs", bundle.repack(), before=bundle.reset, rounds=3)
    subprocess.run(["rm", "-rf", tmpfs / "umoci"], check=True)
