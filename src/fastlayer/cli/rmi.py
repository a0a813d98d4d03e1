"""``fastlayer rmi``: names go, and with the last name what only this image used."""

from __future__ import annotations

from typing import Any

from fastlayer.cli import stores
from fastlayer.cli.line import declare

EPILOG = """\b
Examples:
  fastlayer rmi debian:12               the name; the layers go when no other image has them
  fastlayer rmi -f 3f2a9c0d1e5b         all names of an image
"""


@declare.command("rmi", epilog=EPILOG)
@declare.argument("images", nargs=-1, required=True, metavar="IMAGE...")
@declare.option("-f", "--force", is_flag=True, help="Also with several names, or when writable layers are made of it.")
@declare.option("--no-prune", is_flag=True, help="Keep the layers until `fastlayer image prune`.")
@stores.store_options
def command(**given: Any) -> int:
    """Remove IMAGEs by name or id."""
    from fastlayer.container.mounted import all_mounts
    from fastlayer.errors import FastlayerError
    from fastlayer.image.images import Images
    from fastlayer.store.collect import collect

    failed: list[FastlayerError] = []
    with stores.open_store(given) as store:
        for name in given["images"]:
            try:
                for gone in Images(store).untag(name, force=given["force"]):
                    print(f"Untagged: {stores.shown(gone)}")
            except FastlayerError as exc:
                failed.append(exc)
        if not given["no_prune"]:
            all_mounts(store)  # forgets those that are gone, and what only they kept
            for digest in collect(store).blobs:
                print(f"Deleted: {digest}")
    return stores.all_failed(failed)
