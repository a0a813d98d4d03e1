"""``fastlayer tag``: another name for an image."""

from __future__ import annotations

from typing import Any

from fastlayer.cli import stores
from fastlayer.cli.line import declare


@declare.command("tag")
@declare.argument("image")
@declare.argument("name")
@stores.store_options
def command(**given: Any) -> int:
    """Give IMAGE (a name, an id or a digest) the further NAME[:TAG]; another image that has it loses it."""
    from fastlayer.image.images import Images

    with stores.open_store(given) as store:
        Images(store).tag(given["image"], given["name"])
    return 0
