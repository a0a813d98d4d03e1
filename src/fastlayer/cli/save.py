"""``fastlayer save``: images to layouts and archives."""

from __future__ import annotations

import sys
from typing import Any

from fastlayer.cli import options, stores
from fastlayer.cli.line import declare

EPILOG = """\b
Examples:
  fastlayer save -o image.tar debian:12             an OCI archive that docker load takes, too
  fastlayer save --format docker-archive debian:12 | docker load
  fastlayer save --format oci-dir -o layout/ debian:12 alpine
"""


@declare.command("save", epilog=EPILOG)
@declare.argument("images", nargs=-1, required=True, metavar="IMAGE...")
@declare.option("-o", "--output", "output_", type=options.PATH, metavar="PATH", help="Where to (default: stdout).")
@declare.option(
    "--format",
    "format_",
    type=declare.Choice(["oci-archive", "oci-dir", "docker-archive"]),
    default="oci-archive",
    show_default=True,
)
@stores.platform_option("Only that image of several (default: all; in a docker-archive this machine's).")
@options.jobs_option
@stores.store_options
def command(**given: Any) -> int:
    """Save IMAGEs, with all their platforms, in one layout or archive; shared layers once."""
    from fastlayer.image.save import save

    target: Any = given["output_"]
    if target is None or target == b"-":
        if given["format_"] == "oci-dir":
            raise declare.LineError("a layout is a directory: name it with --output")
        if sys.stdout.isatty():
            raise declare.LineError("an archive is not for a terminal: redirect stdout or give --output")
        target = sys.stdout.buffer
    elif given["format_"] == "oci-dir":
        import os

        target = os.fsdecode(target)
    with stores.open_store(given) as store:
        save(
            store,
            given["images"],
            target,
            format=given["format_"],
            platform=stores.platform(given),
            jobs=given["jobs"],
        )
    return 0
