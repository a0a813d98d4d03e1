"""``fastlayer copy``: images between registries, layouts, archives, directories and the store."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastlayer.cli import options, output, registries, stores
from fastlayer.cli.line import declare
from fastlayer.cli.push import write_digest
from fastlayer.cli.transfer_progress import TransferReporter

if TYPE_CHECKING:
    from fastlayer.transfer.copy import Copied, CopyOptions

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
@declare.option(
    "--compression",
    type=declare.Choice(["none", "gzip", "zstd", "zstd:chunked", "estargz"]),
    help="Compress layers that are not compressed (default: as they are).",
)
@declare.option("--compression-level", type=declare.IntRange(0, 22), metavar="N", help="gzip: 0 to 9; zstd: 1 to 22.")
@declare.option("--force-compression", is_flag=True, help="Compress anew what is compressed in another way.")
@declare.option(
    "-f",
    "--manifest-format",
    type=declare.Choice(["oci", "v2s2"]),
    help="Write manifests of OCI's or Docker's kind (default: as they are).",
)
@declare.option("--preserve-digests", is_flag=True, help="Fail rather than write a manifest with another digest.")
@declare.option("--referrers", is_flag=True, help="Copy what refers to the image, too, such as signatures.")
@declare.option("--chunk-size", metavar="SIZE", help="Send blobs in requests of at most SIZE bytes (16m).")
@declare.option("--digestfile", type=options.PATH, metavar="FILE", help="Write the digest of what was copied to FILE.")
@declare.option(
    "--format", "format_", type=declare.Choice(["text", "json"]), default="text", help="How the result is printed."
)
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
    write_digest(given["digestfile"], copied.descriptor.digest)
    _tell(copied, given)
    return 0


def _options(given: dict[str, Any]) -> CopyOptions:
    from fastlayer.transfer.copy import CopyOptions

    return CopyOptions(
        all=given["all_"],
        platform=stores.platform(given),
        compression=given["compression"],
        level=given["compression_level"],
        force=given["force_compression"],
        manifest_format=given["manifest_format"] or "",
        preserve_digests=given["preserve_digests"],
        referrers=given["referrers"],
        chunk=options.memory("--chunk-size", given["chunk_size"]) or 0,
        jobs=given["jobs"],
        source=registries.wishes_of("src", given),
        destination=registries.wishes_of("dest", given),
    )


def _tell(copied: Copied, given: dict[str, Any]) -> None:
    output.warn(copied.warnings, given["quiet"])
    descriptor = copied.descriptor
    if given["format_"] == "json":
        value = {"schema": 1, **copied._asdict(), "descriptor": descriptor.to_dict()}
        print(output.json_line(value).decode())
        return
    print(f"{copied.name}: digest: {descriptor.digest} size: {descriptor.size}", flush=True)
