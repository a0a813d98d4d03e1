"""``fastlayer doctor``: which storage drivers work here, and why others do not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from fastlayer.cli import rows

COLUMNS = (("DRIVER", "Driver"), ("WORKS", "Works"), ("WHY NOT", "Why"), ("WHAT WOULD HELP", "Remedy"))


@click.command("doctor")
@click.option("--root", metavar="DIR", help="The store, which need not exist yet.")
@rows.format_option
def command(root: str | None, format_: str) -> int:
    """Try every storage driver for the store, for real, and tell why one cannot be used and what would help.

    The exit code is 1 when none works.
    """
    import os
    import tempfile

    from fastlayer.drivers.registry import probe_all
    from fastlayer.store.store import default_root

    place = Path(os.path.abspath(root)) if root else default_root()
    above = place
    while not above.is_dir():
        above = above.parent
    with tempfile.TemporaryDirectory(prefix=".fastlayer-doctor-", dir=_writable(place, above)) as scratch:
        found = [_row(name, probe) for name, probe in probe_all(Path(scratch))]
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


def _row(name: str, probe: Any) -> rows.Row:
    return {"Driver": name, "Works": "yes" if probe.works else "no", "Why": probe.why, "Remedy": probe.remedy}
