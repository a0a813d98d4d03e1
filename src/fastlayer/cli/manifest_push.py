"""``fastlayer manifest push``: an index, with all its images, to a registry."""

from __future__ import annotations

from typing import Any

from fastlayer.cli import options, output, registries, sending, stores
from fastlayer.cli.line import declare
from fastlayer.cli.transfer_progress import TransferReporter

EPILOG = """\b
Examples:
  fastlayer manifest push registry.example.com/app:1
  fastlayer manifest push --purge app:1 registry.example.com/team/app:1
"""


@declare.command("push", epilog=EPILOG)
@declare.argument("index")
@declare.argument("destination", required=False, metavar="[DESTINATION]")
@declare.option("--purge", is_flag=True, help="Remove the index from the store then.")
@declare.option("--all", "all_", is_flag=True, hidden=True)
@sending.manifest_format_option("-f", "--format", "format_")
@sending.digestfile_option
@options.jobs_option
@options.progress_option
@registries.registry_options
@stores.store_options
def command(**given: Any) -> int:
    """Push INDEX to where its name says, or to DESTINATION, and print its digest.

    Its images go first: what the registry has is not sent, or taken over from its other repositories; what is in
    another registry comes from there.
    """
    from fastlayer.transfer.index_push import push_index
    from fastlayer.transfer.push import PushOptions

    wishes = registries.wishes_for(given["destination"] or given["index"], given)
    wanted = PushOptions(manifest_format=given["format_"] or "", jobs=given["jobs"], wishes=wishes)
    with stores.open_store(given) as store, TransferReporter(given["progress"], quiet=given["quiet"]) as shown:
        pushed = push_index(
            store, given["index"], given["destination"], wanted, purge=given["purge"], observe=shown.observe
        )
    sending.write_digest(given["digestfile"], pushed.descriptor.digest)
    output.warn(pushed.warnings, given["quiet"])
    print(pushed.descriptor.digest)
    return 0
