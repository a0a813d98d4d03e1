"""``fastlayer export``: all files of a writable layer and its image as one tar."""

from __future__ import annotations

import sys
from typing import Any

from fastlayer.cli import options, output, stores
from fastlayer.cli.line import declare
from fastlayer.cli.progress import Reporter
from fastlayer.cli.rootless import as_root_unless_running

EPILOG = """\b
Examples:
  fastlayer export work -o work.tar.zst            compressed as the name says
  fastlayer export work | tar t
  fastlayer export work | fastlayer import - flat:1
"""


@declare.command("export", epilog=EPILOG)
@declare.argument("name", type=options.WORD)
@declare.option("-o", "--output", "output_", type=options.PATH, metavar="FILE", help="Default: stdout.")
@options.jobs_option
@options.progress_option
@stores.store_options
def command(**given: Any) -> int:
    """Write the tree of the writable layer NAME as a tar, as `docker export` does: no whiteouts, no history."""
    from fastlayer.container import writable
    from fastlayer.container.export import export

    to = given["output_"]
    if to in (None, b"-") and sys.stdout.isatty():
        raise declare.LineError("a tar is not for a terminal: redirect stdout, or name a file with -o")
    as_root_unless_running(given, given["name"])
    with stores.open_store(given) as store, Reporter(given["progress"], quiet=given["quiet"]) as report:
        layer = writable.find(store, given["name"])
        target = sys.stdout.buffer if to in (None, b"-") else to
        warnings = export(store, layer, target, jobs=given["jobs"], progress=report.callback)
    output.warn(warnings, given["quiet"])
    return 0
