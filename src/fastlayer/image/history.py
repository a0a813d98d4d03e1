"""How an image came to be: one row per instruction, the newest first, each with the size of its own layer."""

from __future__ import annotations

from fastlayer._values import NamedTuple
from fastlayer.image.images import Image, Images
from fastlayer.oci.config import History
from fastlayer.oci.digest import Digest


class Step(NamedTuple):
    """One instruction. ``size``: bytes of the files its layer added or changed; 0 for one that changed only metadata.

    ``id``: of the image, at its last step; the steps before have no image of their own. ``layer``: the blob.
    """

    id: Digest | None
    created: str
    created_by: str
    size: int
    comment: str
    layer: Digest | None


def history(images: Images, image: Image) -> list[Step]:
    """The steps of an image. A layer the configuration does not explain gets a row all the same."""
    recorded = images.config(image).history
    explained = sum(not step.empty_layer for step in recorded)
    steps = [*(History(comment="no history") for _ in image.layers[explained:]), *recorded]
    layers = iter(image.layers)
    rows = []
    for step in steps:
        layer = None if step.empty_layer else next(layers, None)
        rows.append(
            Step(
                None,
                step.created,
                step.created_by,
                layer.payload if layer else 0,
                step.comment,
                layer.digest if layer else None,
            )
        )
    rows.reverse()
    if rows:
        rows[0] = rows[0]._replace(id=image.id)
    return rows
