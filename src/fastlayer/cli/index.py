"""``fastlayer index``: save what a tree looks like."""

from __future__ import annotations

from typing import Any

import click

from fastlayer.cli import options, output
from fastlayer.cli.progress import Reporter

EPILOG = """\b
Examples:
  fastlayer index root/ -o root.idx
  fastlayer diff root.idx root/            what changed since, mostly without reading files
"""


@click.command("index", epilog=EPILOG)
@click.argument("directory", type=options.PATH)
@click.option("-o", "--output", "output_", required=True, metavar="FILE", type=options.PATH)
@click.option("--content/--no-content", default=True, show_default=True, help="Hash the contents of files (blake3).")
@options.xattrs_option
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@options.progress_option
def command(**given: Any) -> int:
    """Save a tree index of DIRECTORY: every attribute, and content keys, to be an operand of `fastlayer diff`."""
    import fastlayer

    with Reporter(given["progress"], quiet=given["quiet"]) as report:
        index = fastlayer.index(
            given["directory"],
            given["output_"],
            content=given["content"],
            xattrs=given["xattrs"],
            progress=report.callback,
        )
    output.warn(index.warnings, given["quiet"])
    if given["as_json"]:
        print(output.json_line({"schema": 1, **index.to_dict()}).decode())
    else:
        print(f"{output.display_name(given['output_'])}: {len(index)} entries, {output.human(index.file_size)}")
    return 0
