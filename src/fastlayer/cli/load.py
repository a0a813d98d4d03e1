"""``fastlayer load``: images from layouts and archives."""

from __future__ import annotations

import sys
from typing import Any

from fastlayer.cli import options, output, stores
from fastlayer.cli.line import declare
from fastlayer.cli.progress import Reporter

EPILOG = """\b
Examples:
  fastlayer load -i image.tar            what docker save, podman save, skopeo wrote
  fastlayer load -i layout/              an OCI image layout
  docker save debian | fastlayer load
"""


@declare.command("load", epilog=EPILOG)
@declare.option(
    "-i", "--input", "input_", type=options.PATH, metavar="PATH", help="An archive or layout (default: stdin)."
)
@declare.option("--no-unpack", is_flag=True, help="Only the blobs; layers are unpacked when they are first used.")
@declare.option(
    "--discard-blobs", is_flag=True, help="Keep no blob that can be made again, byte by byte, from its layer."
)
@declare.option("--ignore-chown", is_flag=True, help="Keep your own ids where changing owner is not allowed.")
@declare.option("-q", "--quiet", is_flag=True, help="No progress and no warnings on stderr.")
@declare.option("--progress", type=options.PROGRESS, default="auto", help="As in `fastlayer apply`.")
@stores.platform_option("Which image of several is unpacked now (default: this machine's).")
@options.jobs_option
@stores.store_options
def command(**given: Any) -> int:
    """Load images: an OCI layout or archive, or a docker-archive, plain or compressed, several images in one.

    Layers are unpacked while they are read, verified, and shared with the images that have them already.
    """
    from fastlayer.image.load import Options, load
    from fastlayer.maintenance.discard import discard_blobs

    source: Any = given["input_"]
    if source is None or source == b"-":
        if sys.stdin.isatty():
            raise declare.LineError(
                "an archive is expected on stdin, which is a terminal: redirect it, or give --input"
            )
        source = 0
    wanted = Options(
        unpack=not given["no_unpack"],
        platform=stores.platform(given),
        ignore_chown=given["ignore_chown"],
        jobs=given["jobs"],
    )
    with stores.open_as_root(given, create=True) as store, Reporter(given["progress"], quiet=given["quiet"]) as report:
        loaded = load(store, source, wanted, progress=report.callback)
        if given["discard_blobs"]:
            discard_blobs(store, [image.target for image in loaded], jobs=given["jobs"])
    for image in loaded:
        output.warn(image.warnings, given["quiet"])
        for name in image.names:
            print(f"Loaded image: {':'.join(stores.familiar(name))}")
        if not image.names:
            print(f"Loaded image ID: {image.target.digest}")
    return 0
