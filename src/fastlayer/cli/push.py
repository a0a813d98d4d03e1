"""``fastlayer push``: an image of the store to a registry, a layout, an archive or a directory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastlayer.cli import options, registries, sending, stores
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
    type=sending.compression_choice,
    default="gzip",
    show_default=True,
    help="Of layers that are not compressed; others stay as they are.",
)
@sending.sending_options
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
    sending.write_digest(given["digestfile"], pushed.descriptor.digest)
    _tell(pushed, given)
    return 0


def _options(given: dict[str, Any]) -> PushOptions:
    from fastlayer.transfer.push import PushOptions

    return PushOptions(
        platform=stores.platform(given),
        **sending.chosen(given),
        jobs=given["jobs"],
        wishes=registries.wishes(given),
    )


def _tell(pushed: Pushed, given: dict[str, Any]) -> None:
    sending.tell(pushed, given, _label(pushed.name))


def _label(name: str) -> str:
    """The tag, as Docker prints it; elsewhere the place."""
    from fastlayer.registry.places import parse_place

    reference = parse_place(name).reference
    return reference.tag if name.startswith("docker://") and reference is not None and reference.tag else name
