"""``fastlayer push``: an image of the store to a registry, a layout, an archive or a directory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastlayer.cli import options, output, registries, stores
from fastlayer.cli.line import declare
from fastlayer.cli.transfer_progress import TransferReporter

if TYPE_CHECKING:
    from fastlayer.transfer.push import Pushed, PushOptions

EPILOG = """\b
Examples:
  fastlayer push registry.example.com/app:1
  fastlayer push app:1 registry.example.com/team/app:1
  fastlayer push -a registry.example.com/app            every tag of it
  fastlayer push --compression zstd app:1 docker://registry.example.com/app:1
  fastlayer push app:1 oci:layout:1                     also oci-archive: docker-archive: dir:
"""


@declare.command("push", epilog=EPILOG)
@declare.argument("image", metavar="NAME")
@declare.argument("destination", required=False, metavar="[DESTINATION]")
@declare.option("-a", "--all-tags", is_flag=True, help="Push every tag of the repository NAME.")
@declare.option(
    "--compression",
    type=declare.Choice(["none", "gzip", "zstd", "zstd:chunked", "estargz"]),
    default="gzip",
    show_default=True,
    help="Of layers that are not compressed; others stay as they are.",
)
@declare.option("--compression-level", type=declare.IntRange(0, 22), metavar="N", help="gzip: 0 to 9; zstd: 1 to 22.")
@declare.option("--force-compression", is_flag=True, help="Compress anew what is compressed in another way.")
@declare.option(
    "-f",
    "--manifest-format",
    type=declare.Choice(["oci", "v2s2"]),
    help="Write manifests of OCI's or Docker's kind (default: as they are).",
)
@declare.option("--preserve-digests", is_flag=True, help="Fail rather than push a manifest with another digest.")
@declare.option(
    "--chunk-size",
    metavar="SIZE",
    help="Send blobs in requests of at most SIZE bytes (16m), for registries that want it.",
)
@declare.option("--digestfile", type=options.PATH, metavar="FILE", help="Write the digest of what was pushed to FILE.")
@declare.option(
    "--format", "format_", type=declare.Choice(["text", "json"]), default="text", help="How the result is printed."
)
@stores.platform_option("Only that image of several (default: all).")
@options.jobs_option
@options.progress_option
@registries.registry_options
@stores.store_options
def command(**given: Any) -> int:
    """Push the image NAME to where its name says, or to DESTINATION.

    Layers that the registry has are not sent, and those of other repositories of it are taken over. The others are
    compressed while they are sent. The last line says the digest of the manifest.
    """
    from fastlayer.transfer.push import push, push_all_tags

    wanted = _options(given)
    if given["all_tags"] and given["digestfile"]:
        raise declare.LineError("--digestfile is for one image: leave out --all-tags")
    with stores.open_store(given) as store, TransferReporter(given["progress"], quiet=given["quiet"]) as shown:
        if given["all_tags"]:
            push_all_tags(
                store,
                given["image"],
                given["destination"],
                wanted,
                observe=shown.observe,
                done=lambda found: _tell(found, given),
            )
            return 0
        pushed = push(store, given["image"], given["destination"], wanted, observe=shown.observe)
    write_digest(given["digestfile"], pushed.descriptor.digest)
    _tell(pushed, given)
    return 0


def write_digest(path: bytes | None, digest: str) -> None:
    """--digestfile."""
    if path is None:
        return
    from fastlayer.layer.output import Output

    with Output(path) as file:
        file.write(f"{digest}\n".encode())
        file.commit()


def _options(given: dict[str, Any]) -> PushOptions:
    from fastlayer.transfer.push import PushOptions

    return PushOptions(
        platform=stores.platform(given),
        compression=given["compression"],
        level=given["compression_level"],
        force=given["force_compression"],
        manifest_format=given["manifest_format"] or "",
        preserve_digests=given["preserve_digests"],
        chunk=options.memory("--chunk-size", given["chunk_size"]) or 0,
        jobs=given["jobs"],
        wishes=registries.wishes(given),
    )


def _tell(pushed: Pushed, given: dict[str, Any]) -> None:
    output.warn(pushed.warnings, given["quiet"])
    descriptor = pushed.descriptor
    if given["format_"] == "json":
        value = {"schema": 1, **pushed._asdict(), "descriptor": descriptor.to_dict()}
        print(output.json_line(value).decode())
        return
    print(f"{_label(pushed.name)}: digest: {descriptor.digest} size: {descriptor.size}", flush=True)


def _label(name: str) -> str:
    """The tag, as Docker prints it; elsewhere the place."""
    from fastlayer.registry.places import parse_place

    reference = parse_place(name).reference
    return reference.tag if name.startswith("docker://") and reference is not None and reference.tag else name
