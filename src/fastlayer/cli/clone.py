"""``fastlayer clone``: copy a tree exactly."""

from __future__ import annotations

from typing import Any

from fastlayer.cli import options, output
from fastlayer.cli.line import declare
from fastlayer.cli.progress import Reporter


@declare.command("clone")
@declare.argument("source", type=options.PATH)
@declare.argument("target", type=options.PATH)
@declare.option("--json", "as_json", is_flag=True, help="Print the statistics as JSON.")
@options.progress_option
def command(**given: Any) -> int:
    """Copy the tree SOURCE to the new directory TARGET, with every attribute, hard link and hole.

    Data is shared with the source where the file system can (reflink), else copied in the kernel.
    """
    import fastlayer

    with Reporter(given["progress"], quiet=given["quiet"]) as report:
        stats = fastlayer.clone(given["source"], given["target"], progress=report.callback)
    print_stats(stats, as_json=given["as_json"], quiet=given["quiet"])
    return 0


def print_stats(stats: Any, *, as_json: bool, quiet: bool) -> None:
    """The statistics of a clone or a copy-up."""
    output.warn(stats.warnings, quiet)
    if as_json:
        numbers = {name: getattr(stats, name) for name in ("entries", "bytes", "shared_bytes", "copied_bytes")}
        print(output.json_line({"schema": 1, **numbers, "warnings": list(stats.warnings)}).decode())
        return
    print(
        f"{stats.entries} entries, {output.human(stats.bytes)}: "
        f"{output.human(stats.shared_bytes)} shared, {output.human(stats.copied_bytes)} copied"
    )
