"""``fastlayer copy``: images between registries, layouts, archives, directories and the store."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastlayer.cli import options, registries, sending, stores
from fastlayer.cli.line import declare
from fastlayer.cli.transfer_progress import TransferReporter

if TYPE_CHECKING:
    from fastlayer.transfer.copy import CopyOptions

EPILOG = """\b
Examples:
  fastlayer copy docker://registry.example.com/app:1 docker://other.example.com/app:1
  fastlayer copy --all docker://alpine:3.20 oci:layout:alpine
  fastlayer copy docker-archive:app.tar docker://registry.example.com/app:1
  fastlayer copy oci-archive:app.tar dir:app
  fastlayer copy docker://registry.example.com/app:1 app:1        into the store
"""


@declare.command("copy", epilog=EPILOG)
@declare.argument("source", metavar="SOURCE")
@declare.argument("destination", metavar="DESTINATION")
@declare.option("-a", "--all", "all_", is_flag=True, help="The images for all platforms, and their index.")
@declare.option("--referrers", is_flag=True, help="Copy what refers to the image, too, such as signatures.")
@declare.option(
    "--compression",
    type=sending.compression_choice,
    help="Compress layers that are not compressed (default: as they are).",
)
@sending.sending_options
@stores.platform_option()
@options.jobs_option
@options.progress_option
@registries.two_registries_options
@stores.store_options
def command(**given: Any) -> int:
    """Copy the image at SOURCE to DESTINATION: docker://NAME, oci:DIR[:NAME], oci-archive:FILE[:NAME],
    docker-archive:FILE[:NAME], dir:DIR, or a name in the store.

    Blobs pass by and are verified; those that are there are not sent. Digests stay what they are.
    """
    from fastlayer.registry.places import parse_place
    from fastlayer.transfer.copy import copy

    wanted = _options(given)
    places = [parse_place(given[side], bare="store").transport for side in ("source", "destination")]
    with TransferReporter(given["progress"], quiet=given["quiet"]) as shown:
        if "store" in places:
            with stores.open_store(given, create=places[0] != "store") as store:
                copied = copy(given["source"], given["destination"], wanted, store=store, observe=shown.observe)
        else:
            copied = copy(given["source"], given["destination"], wanted, observe=shown.observe)
    sending.write_digest(given["digestfile"], copied.descriptor.digest)
    sending.tell(copied, given, copied.name)
    return 0


def _options(given: dict[str, Any]) -> CopyOptions:
    from fastlayer.transfer.copy import CopyOptions

    return CopyOptions(
        all=given["all_"],
        platform=stores.platform(given),
        **sending.chosen(given),
        referrers=given["referrers"],
        jobs=given["jobs"],
        source=registries.wishes_of("src", given),
        destination=registries.wishes_of("dest", given),
    )
