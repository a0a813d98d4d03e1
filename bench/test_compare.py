"""diff without a layer: equal trees, one changed byte, the overlay fast path, start-up, many files, one huge file."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bench import workloads
from bench.conftest import Measure

QUIET = ["--progress", "none"]


@pytest.mark.parametrize("tool", ["fastlayer", "baseline (plain Python)", "rsync -aHAXn"])
def test_equal_trees(measure: Measure, fastlayer: list[str], tmpfs: Path, tool: str) -> None:
    pair = workloads.equal(tmpfs)
    ours = [*fastlayer, "diff", *pair, "--compare", "metadata", "--exit-code", *QUIET]
    command = ["rsync", "-aHAXn", "--delete", f"{pair.a}/", f"{pair.b}/"] if tool.startswith("rsync") else ours
    env = {"FASTLAYER_BACKEND": "baseline"} if tool.startswith("baseline") else {}
    measure("diff of equal trees, 52 k entries, metadata", tool, "tmpfs", command, env=env)


@pytest.mark.parametrize("tool", ["fastlayer", "rsync -aHAXnc"])
def test_one_byte(measure: Measure, fastlayer: list[str], tmpfs: Path, tool: str) -> None:
    pair = workloads.one(tmpfs)
    out = subprocess.run([*fastlayer, "diff", *pair, "--name-only"], capture_output=True, check=True).stdout
    assert out == b"/debian-b/usr/bin/python3.11\n"
    command = [*fastlayer, "diff", *pair, *QUIET]
    if tool.startswith("rsync"):
        command = ["rsync", "-aHAXnc", "--delete", f"{pair.a}/", f"{pair.b}/"]
    measure("diff, one byte changed, times kept (reads all)", tool, "tmpfs", command, rounds=3)


def _upper(root: Path) -> tuple[Path, Path]:
    lower, upper = workloads.equal(root).a, root / "upper"
    upper.mkdir(exist_ok=True)
    shutil.copystat(lower, upper)
    return upper, lower


def test_upper_process(measure: Measure, fastlayer: list[str], tmpfs: Path) -> None:
    upper, lower = _upper(tmpfs)
    command = [*fastlayer, "diff", "--upper", upper, "--lower", lower, *QUIET]
    measure("upperdir, nothing changed, 52 k entries below", "fastlayer", "tmpfs", command, rounds=20)


def test_upper_api(benchmark: Callable[..., object], tmpfs: Path) -> None:
    import fastlayer

    upper, lower = _upper(tmpfs)
    benchmark.group = "upperdir, nothing changed, inside the API [tmpfs]"  # type: ignore[attr-defined]
    assert not list(fastlayer.diff_upper(upper, [lower]))
    benchmark(lambda: len(fastlayer.diff_upper(upper, [lower])))
    benchmark.extra_info.update(  # type: ignore[attr-defined]
        job="upperdir, nothing changed, inside the API", tool="fastlayer", fs="tmpfs", peak_kib=0
    )


@pytest.mark.parametrize("what", ["--version", "diff of two tiny trees", "python3 -c pass"])
def test_start(measure: Measure, fastlayer: list[str], tmpfs: Path, what: str) -> None:
    import sys

    a, b = tmpfs / "tiny-a", tmpfs / "tiny-b"
    for tree, text in ((a, "a"), (b, "bb")):
        tree.mkdir(exist_ok=True)
        (tree / "file").write_text(text)
    command: list[str | Path] = [*fastlayer, "--version"]
    if what.startswith("diff"):
        command = [*fastlayer, "diff", a, b]
    elif what.startswith("python3"):
        command = [sys.executable, "-c", "pass"]
    measure(f"start: {what}", "fastlayer" if "python3" not in what else "python", "tmpfs", command, rounds=20)


MANY = "diff many (1 M empty files) -> tar"


@pytest.fixture
def many(tmpfs: Path) -> Iterator[workloads.Pair]:
    yield workloads.many(tmpfs)
    subprocess.run(["rm", "-rf", tmpfs / "many.tar"], check=True)


@pytest.mark.parametrize("tool", ["fastlayer", "GNU tar -c (no hashing)"])
def test_many_files(measure: Measure, fastlayer: list[str], tmpfs: Path, many: workloads.Pair, tool: str) -> None:
    out = tmpfs / "many.tar"
    command: list[str | Path] = [*fastlayer, "diff", *many, "-o", out, *QUIET]
    if tool.startswith("GNU"):
        command = ["tar", "-C", many.b, "--format=pax", "-cf", out, "."]
    measure(MANY, tool, "tmpfs", command, rounds=2)
    assert out.stat().st_size >= 1_000_000 * 512


def test_many_files_upper(measure: Measure, fastlayer: list[str], tmpfs: Path, many: workloads.Pair) -> None:
    """The same million as an upper directory: its walk does not come in path order, and memory is bounded as well."""
    out = tmpfs / "many.tar"
    command: list[str | Path] = [*fastlayer, "diff", "--upper", many.b, "--lower", many.a, "-o", out, *QUIET]
    run = measure("diff --upper many (1 M empty files) -> tar", "fastlayer", "tmpfs", command, rounds=2)
    assert out.stat().st_size >= 1_000_000 * 512
    assert run.peak_kib <= 150_000


def test_many_files_listed(measure: Measure, fastlayer: list[str], many: workloads.Pair) -> None:
    measure("diff many (1 M empty files), listed", "fastlayer", "tmpfs", [*fastlayer, "diff", *many, *QUIET], rounds=2)


def test_many_files_indexed(measure: Measure, fastlayer: list[str], tmpfs: Path, many: workloads.Pair) -> None:
    """An index of the million, and a diff against it."""
    index = tmpfs / "many.idx"
    subprocess.run([*fastlayer, "index", many.b, "-o", index], check=True, capture_output=True)
    command = [*fastlayer, "diff", index, many.b, "--exit-code", *QUIET]
    measure("diff of the index of many against many", "fastlayer", "tmpfs", command, rounds=2)
    index.unlink()


@pytest.mark.parametrize("side", ["A", "B", "both"])
def test_many_files_as_a_layer(
    measure: Measure, fastlayer: list[str], tmpfs: Path, many: workloads.Pair, side: str
) -> None:
    """A layer tar has to be read and merged as a whole before the first path is compared: what memory that takes."""
    layer = tmpfs / "many.tar.gz"
    subprocess.run([*fastlayer, "diff", *many, "-o", layer, *QUIET], check=True, capture_output=True)
    operands = {"A": (layer, many.a), "B": (many.a, layer), "both": (layer, layer)}[side]
    job = f"diff with many.tar.gz (1 M empty files) as {side}"
    measure(job, "fastlayer", "tmpfs", [*fastlayer, "diff", *operands, *QUIET], rounds=2)
    layer.unlink()


@pytest.mark.parametrize("mode", ["-o", "--stat", "list"])
def test_big_file(measure: Measure, fastlayer: list[str], xfs: Path, mode: str) -> None:
    """On XFS with reflink, so that the pair takes its space once; the layer goes nowhere."""
    pair = workloads.big(xfs)
    words = {"-o": ["-o", "/dev/null"], "--stat": ["--stat"], "list": []}[mode]
    job = {
        "-o": "diff big (4 GiB) -> tar, thrown away",
        "--stat": "diff big (4 GiB) --stat",
        "list": "diff big (4 GiB)",
    }
    measure(job[mode], "fastlayer", "xfs", [*fastlayer, "diff", *pair, *words, *QUIET], rounds=2)


def test_wheels(measure: Measure, fastlayer: list[str], place: Path) -> None:
    pair, out = workloads.wheels(place), place / "wheels.tar.gz"
    measure(
        "diff wheels (35 k files) -> tar.gz", "fastlayer", place.name, [*fastlayer, "diff", *pair, "-o", out, *QUIET]
    )
    out.unlink()


def test_wheels_pigz(measure: Measure, place: Path) -> None:
    pair, out = workloads.wheels(place), place / "wheels.tar.gz"
    script = f"tar -C {pair.b} --format=pax -cf - . | pigz -6 -p2 > {out}"
    measure("diff wheels (35 k files) -> tar.gz", "tar | pigz -6 -p2", place.name, ["sh", "-c", script], rounds=3)
    out.unlink()
