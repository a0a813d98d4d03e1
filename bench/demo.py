"""``make demo``: the main job on real input, told step by step.

Two trees of real Python packages are installed (the second a later state of the first), their difference becomes a
layer, the layer is applied to a copy of the first tree, and the result is compared with the second. Then the same diff
runs on the plain-Python backend, for the comparison. The second half builds an image (``demo_build.py``).
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

from bench.demo_build import show_build
from bench.telling import FASTLAYER, Failed, run, say, workplace

BEFORE = ("numpy==2.2.0", "requests==2.31.0", "click==8.1.7")
AFTER = ("numpy==2.2.1", "requests==2.32.3", "sympy==1.13.3")


def pip(work: Path, target: str, packages: tuple[str, ...]) -> None:
    print(f"{target}: pip install {' '.join(packages)}", flush=True)
    words = ["-m", "pip", "install", "--quiet", "--upgrade", "--no-deps", "--target", target, *packages]
    run(work, sys.executable, *words, show=False)


def make_trees(work: Path) -> None:
    say("Two real trees: packages before and after an upgrade, one of them removed")
    pip(work, "before", BEFORE)
    run(work, FASTLAYER, "clone", "before", "after")
    pip(work, "after", AFTER)
    shutil.rmtree(work / "after/click")


def show_changes(work: Path) -> None:
    say("What changed")
    out, _ = run(work, FASTLAYER, "diff", "before", "after", show=False)
    lines = out.splitlines()
    print(f"$ fastlayer diff before after        ({len(lines)} lines, some of them:)")
    for letter in "ACD":
        print("\n".join([line for line in lines if line.startswith(letter)][:2]))
    run(work, FASTLAYER, "diff", "--stat", "before", "after")


def write_and_apply(work: Path) -> None:
    say("The same as an OCI layer, in each codec")
    for suffix in ("tar", "tar.gz", "tar.zst"):
        _, seconds = run(work, FASTLAYER, "diff", "before", "after", "-o", f"layer.{suffix}")
        print(f"   {seconds:.2f} s")
    say("Applied to a copy of the first tree, verified, the result compared with the second")
    out, _ = run(work, FASTLAYER, "diff", "--format", "json", "before", "after", "-o", "/dev/null", show=False)
    run(work, FASTLAYER, "clone", "before", "result")
    diff_id = json.loads(out)["diff_id"]
    _, seconds = run(work, FASTLAYER, "apply", "--diff-id", diff_id, "layer.tar.gz", "result")
    print(f"   {seconds:.2f} s")
    run(work, FASTLAYER, "diff", "--compare", "content", "--exit-code", "result", "after")
    print("   no difference: the layer makes exactly the second tree")


def compare_backends(work: Path) -> None:
    say("The same work in plain Python (FASTLAYER_BACKEND=baseline): same bytes, other speed")
    jobs = {
        "diff, equal trees": ["diff", "after", "after", "--compare", "metadata"],
        "diff": ["diff", "before", "after"],
        "diff -o layer.tar": ["diff", "before", "after", "-o", "again.tar"],
        "apply layer.tar": ["apply", "layer.tar", "target"],
    }
    print(f"{'job':<20}{'native':>10}{'baseline':>10}{'ratio':>8}")
    for job, words in jobs.items():
        seconds = {}
        for backend in ("native", "baseline"):
            shutil.rmtree(work / "target", ignore_errors=True)
            _, seconds[backend] = run(work, FASTLAYER, *words, env={"FASTLAYER_BACKEND": backend}, show=False)
            if words[-1] == "again.tar":
                assert (work / "again.tar").read_bytes() == (work / "layer.tar").read_bytes()
        native, baseline = seconds["native"], seconds["baseline"]
        print(f"{job:<20}{native:>8.2f} s{baseline:>8.2f} s{baseline / native:>7.1f}x")
    print("(whole processes, start-up of Python included; the layers are byte-identical)")


def main() -> None:
    work = workplace()
    try:
        make_trees(work)
        show_changes(work)
        write_and_apply(work)
        compare_backends(work)
        show_build(work)
    except Failed as exc:
        sys.exit(str(exc))
    finally:
        shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    main()
