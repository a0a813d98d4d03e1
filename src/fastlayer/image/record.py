"""How an image that was made here comes into the store: its configuration, its manifest, and its name in one step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from fastlayer.errors import AlreadyExistsError, UsageError
from fastlayer.image.images import Images, LayerInfo, full_name
from fastlayer.oci.descriptor import Descriptor
from fastlayer.oci.manifest import new_manifest
from fastlayer.oci.mediatypes import distributable

if TYPE_CHECKING:
    from fastlayer.layer.apply import AppliedLayer
    from fastlayer.layer.writer import Layer
    from fastlayer.metadata.leases import Lease
    from fastlayer.oci.config import ImageConfig
    from fastlayer.snapshot.snapshotter import Snapshotter
    from fastlayer.store.store import Store


def record(
    store: Store, lease: Lease, name: str | None, config: ImageConfig, layers: Sequence[LayerInfo]
) -> Descriptor:
    """Writes configuration and manifest and gives the image its name; returns the manifest's descriptor.

    ``layers``: all of them, lowest first; ``name`` in full. What the lease holds stays until the image has it.
    """
    manifest = new_manifest(config.descriptor(), list(map(descriptor_of, layers)))
    with store.database.write() as db:
        lease.add(db, "blob", [config.digest, manifest.digest, *(layer.digest for layer in layers)])
    for data in (config.raw, manifest.raw):
        store.content.put(data, lease.id)
    Images(store).put([name] if name else [], manifest.descriptor, layers, lease=lease)
    return manifest.descriptor


def descriptor_of(layer: LayerInfo) -> Descriptor:
    """As a new manifest has it. A layer that came from a vendor's address is here now, and goes with the image."""
    return Descriptor(distributable(layer.media_type), layer.digest, layer.size)


def of_written(layer: Layer, *, present: bool) -> LayerInfo:
    """A layer that was written here."""
    return LayerInfo(layer.digest, layer.diff_id, layer.media_type, layer.size, layer.tar_size, layer.payload, present)


def of_applied(layer: AppliedLayer, media_type: str | None = None, *, present: bool = True) -> LayerInfo:
    """A layer that came as a blob. ``media_type``: what its manifest calls it."""
    return LayerInfo(
        layer.digest,
        layer.diff_id,
        media_type or layer.media_type,
        layer.size,
        layer.tar_size,
        layer.payload,
        present,
    )


def name_snapshot(store: Store, snapshotter: Snapshotter, lease: Lease, chain: str, key: str) -> None:
    """The committed snapshot ``key`` gets the name of its stack of layers, unless there is one of that name already."""
    with store.database.write() as db:
        lease.add(db, "snapshot", [chain])
    try:
        snapshotter.rename(chain, key)
    except AlreadyExistsError:
        snapshotter.remove(key)


def new_name(name: str | None) -> str | None:
    """The name in full, with a tag; None stays None. Raises ``ReferenceFormatError``, ``UsageError`` for a digest."""
    if name is None:
        return None
    full = full_name(name)
    if "@" in full:
        raise UsageError(f"{name}: an image cannot be given a digest, only a name and a tag")
    return full


def timestamp(source_date_epoch: int | None = None) -> str:
    """For ``created`` fields (RFC 3339): now, or what ``SOURCE_DATE_EPOCH`` says."""
    from datetime import UTC, datetime

    try:
        moment = datetime.now(UTC) if source_date_epoch is None else datetime.fromtimestamp(source_date_epoch, UTC)
    except (OverflowError, ValueError, OSError) as exc:
        raise UsageError(f"source_date_epoch={source_date_epoch} is no time: give seconds since 1970") from exc
    return moment.isoformat().replace("+00:00", "Z")
