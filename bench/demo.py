"""``make demo``: the main job on real input, told step by step.

Two trees of real Python packages are installed (the second a later state of the first), their difference becomes a
layer, the layer is applied to a copy of the first tree, and the result is compared with the second. Then the same diff
runs on the plain-Python backend, for the comparison.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

FASTLAYER = Path(sys.executable).with_name("fastlayer")
BEFORE = ("numpy==2.2.0", "requests==2.31.0", "click==8.1.7")
AFTER = ("numpy==2.2.1", "requests==2.32.3", "sympy==1.13.3")
NEEDED = 2 << 30  # bytes free


def say(text: str) -> None:
    print(f"\n== {text}", flush=True)


def run(*words: str | Path, env: dict[str, str] | None = None, show: bool = True) -> tuple[str, float]:
    """Runs a command, printing it and what it prints; returns its output and seconds."""
    command = [str(w) for w in words]
    shown = ["fastlayer" if w == str(FASTLAYER) else w for w in command]
    if show:
        prefix = "".join(f"{k}={v} " for k, v in (env or {}).items())
        print(f"$ {prefix}{shlex.join(shown)}", flush=True)
    started = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **(env or {})})
    seconds = time.perf_counter() - started
    if done.returncode:
        sys.exit(f"{done.stdout}{done.stderr}demo: {shown[0]} exited {done.returncode}")
    if show and done.stdout:
        print(done.stdout, end="")
    return done.stdout, seconds


def pip(target: Path, packages: tuple[str, ...]) -> None:
    words = ["-m", "pip", "install", "--quiet", "--upgrade", "--no-deps", "--target", target, *packages]
    run(sys.executable, *words, show=False)


def workplace() -> Path:
    """A directory on tmpfs when there is room, else in the usual place for temporary files."""
    shm = Path("/dev/shm")
    roomy = shm.is_dir() and os.access(shm, os.W_OK) and shutil.disk_usage(shm).free > NEEDED
    return Path(tempfile.mkdtemp(prefix="fastlayer-demo-", dir=shm if roomy else None))


def make_trees(work: Path) -> None:
    say("Two real trees: the same packages before and after an upgrade")
    for name, packages in (("before", BEFORE), ("after", AFTER)):
        print(f"{name}: pip install {' '.join(packages)}")
    pip(work / "before", BEFORE)
    run(FASTLAYER, "clone", work / "before", work / "after")
    pip(work / "after", AFTER)


def show_changes(work: Path) -> None:
    say("What changed")
    out, _ = run(FASTLAYER, "diff", work / "before", work / "after", "--name-only", show=False)
    names = out.splitlines()
    print(f"$ fastlayer diff before after        ({len(names)} lines, the first five:)")
    out, _ = run(FASTLAYER, "diff", work / "before", work / "after", show=False)
    print("\n".join(out.splitlines()[:5]))
    run(FASTLAYER, "diff", "--stat", work / "before", work / "after")


def write_and_apply(work: Path) -> None:
    say("The same as an OCI layer, in each codec")
    for suffix in ("tar", "tar.gz", "tar.zst"):
        _, seconds = run(FASTLAYER, "diff", work / "before", work / "after", "-o", work / f"layer.{suffix}")
        print(f"   {seconds:.2f} s")
    say("Applied to a copy of the first tree, verified, the result compared with the second")
    out, _ = run(FASTLAYER, "diff", "--format", "json", work / "before", work / "after", "-o", "/dev/null", show=False)
    run(FASTLAYER, "clone", work / "before", work / "result")
    diff_id = json.loads(out)["diff_id"]
    _, seconds = run(FASTLAYER, "apply", "--diff-id", diff_id, work / "layer.tar.gz", work / "result")
    print(f"   {seconds:.2f} s")
    out, _ = run(FASTLAYER, "diff", "--compare", "content", "--exit-code", work / "result", work / "after")
    print("   no difference: the layer makes exactly the second tree")


def compare_backends(work: Path) -> None:
    say("The same work in plain Python (FASTLAYER_BACKEND=baseline): same bytes, other speed")
    rows = []
    jobs = {
        "diff": ["diff", work / "before", work / "after"],
        "diff -o layer.tar": ["diff", work / "before", work / "after", "-o", work / "again.tar"],
        "apply layer.tar": ["apply", work / "layer.tar", work / "target"],
    }
    for job, words in jobs.items():
        seconds = {}
        for backend in ("native", "baseline"):
            shutil.rmtree(work / "target", ignore_errors=True)
            _, seconds[backend] = run(FASTLAYER, *words, env={"FASTLAYER_BACKEND": backend}, show=False)
            if "again.tar" in str(words[-1]):
                assert (work / "again.tar").read_bytes() == (work / "layer.tar").read_bytes()
        rows.append((job, seconds["native"], seconds["baseline"]))
    print(f"{'job':<20}{'native':>10}{'baseline':>10}{'ratio':>8}")
    for job, native, baseline in rows:
        print(f"{job:<20}{native:>8.2f} s{baseline:>8.2f} s{baseline / native:>7.1f}x")
    print("(whole processes, start-up included; the layers are byte-identical)")


def main() -> None:
    work = workplace()
    try:
        make_trees(work)
        show_changes(work)
        write_and_apply(work)
        compare_backends(work)
    finally:
        shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    main()
