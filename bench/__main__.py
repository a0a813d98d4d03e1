"""``python -m bench [NAME [PYTEST ARGUMENTS]]``: measures and writes the results that are checked in.

A run is kept as ``results/NAME.json`` (default ``all``); the table is made of all runs that are there.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from bench import report

HERE = Path(__file__).parent
RESULTS = HERE / "results"


def _slim(path: Path) -> None:
    """Drops what identifies a machine or only bloats: host name, per-run data, command line options."""
    data = json.loads(path.read_text())
    data.pop("commit_info", None)
    data["machine_info"] = {"environment": data["machine_info"].get("environment", {})}
    for bench in data["benchmarks"]:
        bench["stats"].pop("data", None)
        bench.pop("options", None)
    path.write_text(json.dumps(data, indent=1) + "\n")


def main() -> int:
    name, *words = sys.argv[1:] or ["all"]
    if name.startswith("-"):  # not a run of hours under a name like that
        print(__doc__)
        return 2
    RESULTS.mkdir(exist_ok=True)
    out = RESULTS / f"{name}.json"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-o", "timeout=3600"]
    done = subprocess.run([*command, f"--benchmark-json={out}", *(words or [str(HERE)])], cwd=HERE.parent)
    if out.exists():
        _slim(out)
        report.write(RESULTS)
        print(f"written: {RESULTS / 'README.md'}")
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
