"""``type=inline``: the records of a build in the configuration of its image, where whoever copies images keeps them.

They are those of ``records.py``, with positions in the layers of the image instead of blobs of their own: the layers
are with the image, however it is compressed where it lies. What is only for people is left out.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from fastlayer.builder.cache import counting
from fastlayer.builder.sharing import records
from fastlayer.builder.sharing.records import Bundle
from fastlayer.oci import jsontext
from fastlayer.oci.config import MAX_CONFIG, ImageConfig, parse_config

if TYPE_CHECKING:
    from fastlayer.builder.sharing.export import Gathered
    from fastlayer.builder.sharing.places import Source
    from fastlayer.oci.digest import Digest
    from fastlayer.oci.manifest import Manifest

KEY = "vnd.fastlayer.buildcache.v1"  # of the image configuration
MAX_INLINE = 1 << 20  # bytes; other tools take configurations of up to 4 MiB


def with_records(config: ImageConfig, found: Gathered) -> ImageConfig | None:
    """The configuration with the records of the build; None: there would be too many of them."""
    where = _positions(config.diff_ids)
    layers = {
        diff_id: records.StoredLayer(diff_id, made.info.tar_size or made.info.size, made.info.payload, None)
        for diff_id, made in found.layers.items()
    }
    bare = tuple(record._replace(inputs=counting(record.inputs)) for record in found.records)
    value = records.to_value(Bundle(bare, layers), lambda layer: where.get(layer.diff_id))
    if len(jsontext.write(value)) > MAX_INLINE:
        return None
    return parse_config(jsontext.write({**config.value, KEY: value}))


def read(manifest: Manifest, source: Source) -> Bundle:
    """The records of an image. Raises ``ManifestError`` for one without, and for records that are not of its layers."""
    what = source.name
    manifest.require_image(what)
    config = parse_config(source.read(manifest.config, MAX_CONFIG), what)
    value = config.value.get(KEY)
    if not isinstance(value, dict):
        jsontext.refuse(what, "is an image without a build cache in it: build it with --cache-to type=inline")
    bundle = records.from_value(value, manifest, what)
    if len(manifest.layers) != len(config.diff_ids):
        jsontext.refuse(what, f"has {len(manifest.layers)} layers, and says that it has {len(config.diff_ids)}")
    where = _positions(config.diff_ids)
    for layer in bundle.layers.values():
        if layer.blob is not None and (
            layer.diff_id not in where or manifest.layers[where[layer.diff_id]] != layer.blob
        ):
            jsontext.refuse(what, f"{layer.diff_id}: is not the layer that its build cache says it is")
    return bundle


def _positions(diff_ids: Iterable[Digest]) -> dict[Digest, int]:
    """Where each layer stands first."""
    found: dict[Digest, int] = {}
    for number, diff_id in enumerate(diff_ids):
        found.setdefault(diff_id, number)
    return found
