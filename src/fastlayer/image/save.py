"""``save``: images of the store as a layout directory, an OCI archive or a docker-archive."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from fastlayer.errors import CorruptStoreError
from fastlayer.image.formats.archive import save_oci_archive
from fastlayer.image.formats.docker import save_docker_archive
from fastlayer.image.formats.oci import contents, save_oci_layout
from fastlayer.image.formats.source import ArchivedImage
from fastlayer.image.images import Image, Images
from fastlayer.image.materialize import materialize, remake
from fastlayer.layer.pipeline import default_jobs, map_ordered
from fastlayer.oci.descriptor import Descriptor
from fastlayer.oci.reference import Reference, parse_any, parse_reference

if TYPE_CHECKING:
    from fastlayer.oci.platform import Platform
    from fastlayer.store.store import Store

SaveFormat = Literal["oci-dir", "oci-archive", "docker-archive"]
FORMATS: tuple[SaveFormat, ...] = ("oci-archive", "oci-dir", "docker-archive")


def save(
    store: Store,
    names: Sequence[str],
    output: Any,
    *,
    format: SaveFormat = "oci-archive",
    platform: Platform | None = None,
    jobs: int | None = None,
) -> None:
    """Writes the images to ``output``: a path, or for archives a descriptor or file object. Shared layers once.

    ``platform``: only that of an image for several; by default all in the OCI formats. Layers that have no blob yet are
    made, and damaged ones again. Raises ``NotFoundError``, ``ManifestError``, ``StorageError``, ``CorruptStoreError``
    for a blob that is damaged and cannot be made again; nothing half-written keeps the name.
    """
    images = Images(store)
    chosen = []
    for name in names:
        image = images.find(name, platform)
        materialize(store, image, jobs=jobs)
        target = images.target_of(name)[0]
        if platform is not None and target.digest != image.manifest:
            manifest = images.manifest(image)
            target = manifest.descriptor
        chosen.append(ArchivedImage(_names(name, image.names), target))
    with store.lease("save") as lease:
        if not store.read_only:
            with store.database.write() as db:
                lease.add(db, "blob", [image.descriptor.digest for image in chosen])
        _verify(store, [images.find(name, platform) for name in names], chosen, jobs)
        if format == "oci-dir":
            save_oci_layout(output, chosen, store.content)
        elif format == "docker-archive":
            save_docker_archive(output, chosen, store.content, platform=platform)
        else:
            save_oci_archive(output, chosen, store.content, platform=platform)


def _verify(store: Store, images: Sequence[Image], chosen: Sequence[ArchivedImage], jobs: int | None) -> None:
    """Every blob is what its digest says, before anything is written: an archive is kept until it is needed."""

    def damage(descriptor: Descriptor) -> CorruptStoreError | None:
        try:
            store.content.check(descriptor.digest)
        except CorruptStoreError as exc:
            return exc
        return None

    blobs = contents(chosen, store.content)
    for blob, error in zip(blobs, map_ordered(damage, blobs, default_jobs(jobs)), strict=True):
        if error is not None and not any(remake(store, image, blob.digest, jobs=jobs) for image in images):
            raise error


def _names(text: str, known: Sequence[str]) -> tuple[Reference, ...]:
    """A name that was asked for is the name in the archive; an id brings all names of its image."""
    meant = parse_any(text) if text not in known else parse_reference(text)
    if isinstance(meant, Reference):
        full = meant.with_default_tag()
        if str(full) in known:
            return (full,)
    return tuple(sorted(parse_reference(name) for name in known))
