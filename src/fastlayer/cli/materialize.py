"""``fastlayer image materialize``: blobs that were put off are written."""

from __future__ import annotations

from typing import Any

from fastlayer.cli import options, stores
from fastlayer.cli.line import declare


@declare.command("materialize")
@declare.argument("images", nargs=-1, required=True, metavar="IMAGE...")
@options.jobs_option
@stores.store_options
def command(**given: Any) -> int:
    """Write the blobs that the layers of IMAGEs have not got yet, so that other tools can read the content folder.

    Layers that were committed or imported here have none until someone needs them; their bytes are exact.
    """
    from fastlayer.image.images import Images
    from fastlayer.image.materialize import materialize

    with stores.open_store(given) as store:
        for name in given["images"]:
            for digest in materialize(store, Images(store).find(name), jobs=given["jobs"]):
                print(digest)
    return 0
