"""``fastlayer import``: a directory or tar becomes an image of one layer."""

from __future__ import annotations

import os
import sys
from typing import Any

from fastlayer.cli import options, output, stores
from fastlayer.cli.line import declare
from fastlayer.cli.progress import Reporter
from fastlayer.cli.rootless import is_within_reach

EPILOG = """\b
Examples:
  debootstrap bookworm root/ && fastlayer import root/ debian:12
  curl ... | fastlayer import - base:1 -c 'CMD ["/bin/sh"]'
"""


@declare.command("import", epilog=EPILOG)
@declare.argument("source", type=options.PATH)
@declare.argument("image", required=False)
@declare.option("-m", "--message", default="", help="Shown by `fastlayer history`.")
@declare.option(
    "-c",
    "--change",
    multiple=True,
    metavar="INSTRUCTION",
    help="CMD, ENTRYPOINT, ENV, EXPOSE, HEALTHCHECK, LABEL, ONBUILD, SHELL, STOPSIGNAL, USER, VOLUME or WORKDIR.",
)
@declare.option(
    "--source-date-epoch", type=declare.IntRange(min=0), metavar="SECONDS", help="Clamp later mtimes to this."
)
@declare.option("--ignore-chown", is_flag=True, help="Keep your own ids where changing owner is not allowed.")
@stores.platform_option("What the image is for (default: this machine).")
@options.jobs_option
@options.progress_option
@stores.store_options
def command(**given: Any) -> int:
    """Make IMAGE of SOURCE: a root file system as a directory, or as a tar (compressed or not; `-` is stdin)."""
    from fastlayer.container.changes import apply_changes
    from fastlayer.image.importing import import_image
    from fastlayer.oci.config import RunConfig

    source: Any = given["source"]
    may_move = True
    if source == b"-":
        if sys.stdin.isatty():
            raise declare.LineError("a tar is expected on stdin, which is a terminal: redirect it")
        source = 0
    elif os.path.isdir(source):
        may_move = is_within_reach(source)
    run = apply_changes(RunConfig(), given["change"])
    warnings: list[str] = []
    opened = stores.open_as_root if may_move else stores.open_store
    with opened(given, create=True) as store, Reporter(given["progress"], quiet=given["quiet"]) as report:
        image = import_image(
            store,
            source,
            given["image"],
            run=run,
            message=given["message"],
            platform=stores.platform(given),
            source_date_epoch=options.source_date_epoch(given["source_date_epoch"]),
            ignore_chown=given["ignore_chown"],
            jobs=given["jobs"],
            progress=report.callback,
            warnings=warnings,
        )
    output.warn(warnings, given["quiet"])
    print(image.id)
    return 0
