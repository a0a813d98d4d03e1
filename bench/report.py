"""Turns pytest-benchmark's JSON into the table people read: medians, ratios, peak memory, environment."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any


def load(path: Path) -> dict[str, Any]:
    value = json.loads(path.read_text())
    assert isinstance(value, dict)
    return value


def _seconds(value: float) -> str:
    return f"{value * 1000:.2f} ms" if value < 1 else f"{value:.2f} s"


def groups(data: dict[str, Any]) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """(job, file system) -> its measurements, ours first."""
    found: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for bench in data["benchmarks"]:
        info = bench["extra_info"]
        if "job" in info:
            found[info["job"], info["fs"]].append(bench)
    for rows in found.values():
        rows.sort(key=lambda b: (not b["extra_info"]["tool"].startswith("fastlayer"), b["stats"]["median"]))
    return found


def table(data: dict[str, Any]) -> str:
    lines = [
        "| job | file system | tool | median | min-max | runs | peak memory | against fastlayer |",
        "|---|---|---|---:|---|---:|---:|---:|",
    ]
    for (job, fs), rows in sorted(groups(data).items()):
        ours = rows[0]["stats"]["median"] if rows[0]["extra_info"]["tool"].startswith("fastlayer") else None
        for row in rows:
            stats, info = row["stats"], row["extra_info"]
            ratio = f"{stats['median'] / ours:.2f}x" if ours and row is not rows[0] else ""
            peak = f"{info['peak_kib'] / 1024:.0f} MiB" if info["peak_kib"] else ""
            tool = info["tool"].replace("|", "\\|")
            spread = f"{_seconds(stats['min'])} - {_seconds(stats['max'])}"
            lines.append(
                f"| {job} | {fs} | {tool} | {_seconds(stats['median'])} | {spread} | {stats['rounds']} "
                f"| {peak} | {ratio} |"
            )
    return "\n".join(lines)


def environment(data: dict[str, Any]) -> str:
    known = data["machine_info"].get("environment", {})
    return "\n".join(f"- {name}: {value}" for name, value in known.items())


def merged(folder: Path) -> dict[str, Any]:
    """All runs of a folder as one; of two measurements of the same thing the one of the later name counts."""
    found: dict[tuple[str, str, str], dict[str, Any]] = {}
    data: dict[str, Any] = {}
    for path in sorted(folder.glob("*.json")):
        data = load(path)
        for bench in data["benchmarks"]:
            info = bench["extra_info"]
            if "job" in info:
                found[info["job"], info["fs"], info["tool"]] = bench
    return {**data, "benchmarks": list(found.values())}


def write(folder: Path) -> None:
    """Makes README.md of a folder from the runs in it."""
    data = merged(folder)
    (folder / "README.md").write_text(
        "# Results\n\nWhole processes (unless a row says otherwise): wall-clock medians and the kernel's peak memory\n"
        "of the largest process. Written by `python -m bench` from the JSON files here; the last column is the\n"
        "tool's median divided by fastlayer's.\n\n"
        f"## Environment\n\n{environment(data)}\n\n## Figures\n\n{table(data)}\n"
    )
