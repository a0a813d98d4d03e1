"""``fastlayer index``: save what a tree looks like."""

from __future__ import annotations

import shutil
import sys
import tempfile
from typing import Any

from fastlayer.cli import options, output
from fastlayer.cli.line import declare
from fastlayer.cli.progress import Reporter

EPILOG = """\b
Examples:
  fastlayer index root/ -o root.idx
  fastlayer diff root.idx root/            what changed since, mostly without reading files
"""


@declare.command("index", epilog=EPILOG)
@declare.argument("directory", type=options.PATH)
@declare.option("-o", "--output", "output_", required=True, metavar="FILE|-", type=options.PATH)
@declare.option("--content/--no-content", default=True, show_default=True, help="Hash the contents of files (blake3).")
@options.xattrs_option
@declare.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@options.progress_option
def command(**given: Any) -> int:
    """Save a tree index of DIRECTORY: every attribute, and content keys, to be an operand of `fastlayer diff`."""
    import fastlayer

    to_stdout = given["output_"] == b"-"
    if to_stdout and sys.stdout.isatty():
        raise declare.LineError("an index is not for a terminal: redirect stdout or name a file")
    with (
        tempfile.TemporaryFile(prefix="fastlayer-") as file,
        Reporter(given["progress"], quiet=given["quiet"]) as report,
    ):
        index = fastlayer.index(
            given["directory"],
            file.fileno() if to_stdout else given["output_"],
            content=given["content"],
            xattrs=given["xattrs"],
            progress=report.callback,
        )
        if to_stdout:
            file.seek(0)
            shutil.copyfileobj(file, sys.stdout.buffer)
    output.warn(index.warnings, given["quiet"])
    side = sys.stderr if to_stdout else sys.stdout
    if given["as_json"]:
        print(output.json_line({"schema": 1, **index.to_dict()}).decode(), file=side)
    else:
        name = "stdout" if to_stdout else output.display_name(given["output_"])
        print(f"{name}: {len(index)} entries, {output.human(index.file_size)}", file=side)
    return 0
