"""``fastlayer doctor``: which storage drivers work here, and why others do not."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from fastlayer.cli import options, rows
from fastlayer.cli.line import declare
from fastlayer.cli.rootless import as_root

if TYPE_CHECKING:
    from fastlayer.drivers.registry import Verdict

COLUMNS = (
    ("DRIVER", "Driver"),
    ("WORKS", "Works"),
    ("STORAGE OPTIONS", "StorageOptions"),
    ("WHY NOT", "Why"),
    ("WHAT WOULD HELP", "Remedy"),
)


ISOLATIONS = (("ISOLATION", "Isolation"), ("WORKS", "Works"), ("WHY NOT", "Why"), ("WHAT WOULD HELP", "Remedy"))


@declare.command("doctor")
@declare.option("--isolations", is_flag=True, help="Only the ways in which `build` can run the commands of RUN.")
@declare.option("--root", metavar="DIR", type=options.WORD, help="The store, which need not exist yet.")
@rows.format_option
def command(root: str | None, format_: str, isolations: bool) -> int:
    """Try every storage driver for the store, for real, and tell why one cannot be used and what would help; then the
    ways in which `fastlayer build` can run commands. For a plain user that is in a user namespace, where
    `pull`, `build`, `run` and the others work, if there may be one. The exit code is 1 when none works.
    """
    as_root({"root": root})
    if isolations:
        return _show_isolations(format_)
    code = _show_drivers(root, format_)
    if format_ == "table":
        print()
        _show_isolations(format_)
    return code


def _show_isolations(format_: str) -> int:
    from fastlayer.running.isolation import probes

    found = [
        {"Isolation": name, "Works": "yes" if probe.works else "no", "Why": probe.why, "Remedy": probe.remedy}
        for name, probe in probes()
    ]
    rows.show(format_, ISOLATIONS, found)
    return 0 if any(row["Works"] == "yes" for row in found) else 1


def _show_drivers(root: str | None, format_: str) -> int:
    import os
    import tempfile

    from fastlayer.drivers.registry import probe_all
    from fastlayer.store.store import default_root

    place = Path(os.path.abspath(root)) if root else default_root()
    above = place
    while not above.is_dir():
        above = above.parent
    with tempfile.TemporaryDirectory(prefix=".fastlayer-doctor-", dir=_writable(place, above)) as scratch:
        found = [_row(verdict) for verdict in probe_all(Path(scratch))]
    rows.show(format_, COLUMNS, found)
    return 0 if any(row["Works"] == "yes" for row in found) else 1


def _writable(place: Path, above: Path) -> Path:
    """Where to try: the file system is what counts."""
    import os

    from fastlayer.errors import OperandError

    where = place if place.is_dir() else above
    if not os.access(where, os.W_OK | os.X_OK):
        raise OperandError(f"{place}: cannot be written: choose another store with --root or FASTLAYER_ROOT")
    return where


def _row(verdict: Verdict) -> rows.Row:
    probe = verdict.probe
    return {
        "Driver": verdict.name,
        "Works": "yes" if probe.works else "no",
        "StorageOptions": " ".join(verdict.options),
        "Why": probe.why,
        "Remedy": probe.remedy,
    }
