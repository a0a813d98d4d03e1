"""``fastlayer copy-up``: one path from a lower directory to an upper one."""

from __future__ import annotations

from typing import Any

import click

from fastlayer.cli import options
from fastlayer.cli.clone import print_stats


@click.command("copy-up")
@click.argument("lower", type=options.PATH)
@click.argument("upper", type=options.PATH)
@click.argument("path", type=options.PATH)
@click.option("--workdir", type=options.PATH, help="On the mount of UPPER (default: beside it).")
@click.option("--json", "as_json", is_flag=True, help="Print the statistics as JSON.")
@click.option("-q", "--quiet", is_flag=True, help="No warnings on stderr.")
def command(**given: Any) -> int:
    """Copy PATH of LOWER to UPPER as overlayfs does on the first write: through a work directory and a rename.

    Missing parents are made with the attributes they have in LOWER; what UPPER already has stays.
    """
    import fastlayer

    stats = fastlayer.copy_up(given["lower"], given["upper"], given["path"], workdir=given["workdir"])
    print_stats(stats, as_json=given["as_json"], quiet=given["quiet"])
    return 0
