"""``type=oci`` and ``type=docker``: an image with compressed layers, as an archive or as a layout directory.

Both are image layouts with a ``manifest.json`` beside them in an archive, which is what ``docker load`` reads; they
differ in their media types.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fastlayer.builder.outputs.layers import Wanted, Written, write_layers
from fastlayer.builder.outputs.options import Export
from fastlayer.builder.outputs.targets import archive, layout
from fastlayer.image.formats.source import ArchivedImage
from fastlayer.image.images import Image, Images
from fastlayer.oci import mediatypes
from fastlayer.oci.descriptor import Descriptor
from fastlayer.oci.manifest import Manifest, new_manifest
from fastlayer.oci.reference import parse_reference

if TYPE_CHECKING:
    from fastlayer.builder.outputs.targets import Target
    from fastlayer.layer.progress import ProgressCallback
    from fastlayer.oci.config import ImageConfig
    from fastlayer.store.store import Store

_DOCKER_TYPES = {
    "none": mediatypes.DOCKER_LAYER,
    "gzip": mediatypes.DOCKER_LAYER_GZIP,
    "zstd": mediatypes.DOCKER_LAYER_ZSTD,
}


def write_image(
    store: Store,
    image: Image,
    export: Export,
    names: Sequence[str],
    *,
    stdout: Any = None,
    epoch: int | None = None,
    base_layers: int = 0,
    jobs: int | None = None,
    progress: ProgressCallback | None = None,
) -> Manifest:
    """Writes the archive or layout of ``export``; returns the manifest that is in it.

    ``names``: of the image there, in full; ``stdout``: a binary file or descriptor for an archive without a name;
    ``epoch``, ``base_layers``: for ``rewrite_timestamp``. A file or new directory appears when it is complete; a layout
    that exists keeps its images. Raises what ``write_layers`` raises, and ``OperandError``, ``StorageError``.
    """
    wanted = Wanted(
        export.compression,
        export.level,
        export.force,
        not export.docker_types,
        epoch if export.rewrite_timestamp else None,
        base_layers,
    )
    work = _Writing(store, image, export, wanted, jobs, progress)
    archived = tuple(sorted(parse_reference(name).with_default_tag() for name in names))
    sizes = [max(layer.tar_size, layer.size) for layer in image.layers]
    with (
        layout(export.dest)
        if not export.archive
        else archive(stdout if export.to_stdout else export.dest, sizes) as target
    ):
        manifest, config = work.into(target)
        target.finish(ArchivedImage(archived, work.line(manifest)), manifest, config)
    return manifest


class _Writing:
    def __init__(
        self,
        store: Store,
        image: Image,
        export: Export,
        wanted: Wanted,
        jobs: int | None,
        progress: ProgressCallback | None,
    ) -> None:
        self._store = store
        self._image = image
        self._export = export
        self._wanted = wanted
        self._jobs = jobs
        self._progress = progress

    def into(self, target: Target) -> tuple[Manifest, ImageConfig]:
        """All layers of the image; its documents."""
        images = Images(self._store)
        with self._store.lease("output") as lease:
            if not self._store.read_only:
                with self._store.database.write() as db:
                    lease.add(db, "blob", [self._image.id, *(layer.digest for layer in self._image.layers)])
                    lease.add(db, "snapshot", self._image.chain)
            layers = write_layers(
                self._store, self._image, target, self._wanted, jobs=self._jobs, progress=self._progress
            )
            config = images.config(self._image)
        if self._wanted.epoch is not None:
            config = _redated(config, layers, self._wanted.epoch)
        elif [layer.diff_id for layer in layers] != list(config.diff_ids):  # those of eStargz are other tars
            config = _with_layers(config, layers)
        return self._manifest(config, layers), config

    def line(self, manifest: Manifest) -> Descriptor:
        """What names the manifest in an index."""
        return manifest.descriptor._replace(annotations=dict(self._export.descriptor_annotations))

    def _manifest(self, config: ImageConfig, layers: Sequence[Written]) -> Manifest:
        docker = self._export.docker_types
        return new_manifest(
            config.descriptor(mediatypes.DOCKER_CONFIG if docker else mediatypes.CONFIG),
            [layer.descriptor._replace(media_type=_media_type(layer, docker=docker)) for layer in layers],
            media_type=mediatypes.DOCKER_MANIFEST if docker else mediatypes.MANIFEST,
            annotations=dict(sorted(self._export.annotations.items())),
        )


def _media_type(layer: Written, *, docker: bool) -> str:
    return _DOCKER_TYPES[mediatypes.layer_compression(layer.media_type) or "none"] if docker else layer.media_type


def _with_layers(config: ImageConfig, layers: Sequence[Written]) -> ImageConfig:
    """The configuration with the diff ids that the layers have now."""
    from fastlayer.oci import jsontext
    from fastlayer.oci.config import parse_config

    value = dict(config.value)
    value["rootfs"] = {**value.get("rootfs", {}), "diff_ids": [str(layer.diff_id) for layer in layers]}
    return parse_config(jsontext.write(value))


def _redated(config: ImageConfig, layers: Sequence[Written], epoch: int) -> ImageConfig:
    """The configuration of layers whose files became older; nothing in it is younger, either."""
    from fastlayer.image.record import timestamp
    from fastlayer.oci import jsontext
    from fastlayer.oci.config import parse_config

    def dated(value: Mapping[str, Any]) -> dict[str, Any]:
        created = value.get("created")
        late = isinstance(created, str) and _seconds(created) > epoch
        return {**value, "created": timestamp(epoch)} if late else dict(value)

    value = dated(_with_layers(config, layers).value)
    if value.get("history"):
        value["history"] = [dated(step) for step in value["history"]]
    return parse_config(jsontext.write(value))


def _seconds(created: str) -> float:
    """Since 1970; 0 for what is no time (RFC 3339)."""
    from datetime import datetime

    try:
        return datetime.fromisoformat(created).timestamp()
    except (ValueError, OverflowError):
        return 0
