"""``fastlayer pull``: images of registries."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastlayer.cli import options, output, registries, stores
from fastlayer.cli.line import declare
from fastlayer.cli.transfer_progress import TransferReporter

if TYPE_CHECKING:
    from fastlayer.transfer.pull import Pulled

EPILOG = """\b
Examples:
  fastlayer pull debian:12
  fastlayer pull registry.example.com/team/app@sha256:...
  fastlayer pull --all-tags registry.example.com/team/app
  fastlayer pull --platform linux/arm64 alpine
"""


@declare.command("pull", epilog=EPILOG)
@declare.argument("names", nargs=-1, required=True, metavar="NAME[:TAG|@DIGEST]...")
@declare.option("-a", "--all-tags", is_flag=True, help="All images of the repository.")
@declare.option("--all-platforms", is_flag=True, help="All images of an index, not only this machine's.")
@declare.option(
    "--policy",
    type=declare.Choice(("always", "missing", "newer", "never")),
    default="always",
    help="When: always; if the store has none (missing); if the registry has another one and can be reached (newer).",
)
@declare.option("--no-unpack", is_flag=True, help="Only the blobs; layers are unpacked when they are first used.")
@declare.option(
    "--discard-blobs", is_flag=True, help="Keep no blob that can be made again, byte by byte, from its layer."
)
@declare.option("--whole", is_flag=True, help="All of every blob, also of layers of which a part would do.")
@declare.option("--ignore-chown", is_flag=True, help="Keep your own ids where changing owner is not allowed.")
@declare.option(
    "--connections", type=declare.IntRange(min=1, max=64), metavar="N", help="At most so many at once (default: 8)."
)
@declare.option("-q", "--quiet", is_flag=True, help="No progress and no warnings on stderr; only the name on stdout.")
@declare.option("--progress", type=options.PROGRESS, default="auto", help="As in `fastlayer apply`.")
@declare.option(
    "--format", "form", type=declare.Choice(("text", "json")), default="text", help="What is written to stdout."
)
@stores.platform_option()
@registries.registry_options
@options.jobs_option
@stores.store_options
def command(**given: Any) -> int:
    """Pull images from registries, unpacking their layers while they arrive.

    A pull that is interrupted, however, goes on where it was when it is asked for again.
    """
    from fastlayer.maintenance.discard import discard_blobs
    from fastlayer.transfer.ends.opening import CONNECTIONS
    from fastlayer.transfer.pull import PullOptions, pull, tagged

    wanted = PullOptions(
        platform=stores.platform(given),
        all_platforms=given["all_platforms"],
        unpack=not given["no_unpack"],
        policy=given["policy"],
        ignore_chown=given["ignore_chown"],
        jobs=given["jobs"],
        connections=given["connections"] or CONNECTIONS,
        whole=given["whole"],
        wishes=registries.wishes_for(given["names"][0], given),
    )
    with stores.open_as_root(given, create=True) as store:
        for text in given["names"]:
            for name in tagged(text, wanted) if given["all_tags"] else [text]:
                with TransferReporter(given["progress"], quiet=given["quiet"]) as shown:
                    found = pull(store, name, wanted, observe=shown.observe)
                if given["discard_blobs"]:
                    discard_blobs(store, [found.target], jobs=given["jobs"])
                _show(found, given)
    return 0


def _show(found: Pulled, given: dict[str, Any]) -> None:
    output.warn(found.warnings, given["quiet"])
    if given["form"] == "json":
        print(
            output.json_line(
                {
                    "name": found.name,
                    "digest": str(found.target.digest),
                    "mediaType": found.target.media_type,
                    "size": found.target.size,
                    "unpacked": [str(digest) for digest in found.unpacked],
                    "received": found.received,
                    "changed": found.changed,
                    "source": found.source,
                }
            ).decode(),
            flush=True,
        )
        return
    if not given["quiet"]:
        state = f"Downloaded newer image for {found.name}" if found.changed else f"Image is up to date for {found.name}"
        print(f"Digest: {found.target.digest}\nStatus: {state}")
    print(found.name, flush=True)
