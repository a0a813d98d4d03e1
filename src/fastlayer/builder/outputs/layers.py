"""The layers of an image as blobs, compressed as they are wanted, several at once.

A layer that was made here has no blob: its tar is made of its snapshot and compressed as it comes, nothing is written
in between. One that came as a blob is taken as it is, unless it is to be compressed otherwise. The threads of all
layers together stay below one budget of memory, whatever the number of processors; the bytes do not depend on it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from fastlayer._values import NamedTuple
from fastlayer.errors import CorruptStoreError, DigestMismatchError, LayerFormatError
from fastlayer.image.holders import holding
from fastlayer.image.images import Image, LayerInfo
from fastlayer.layer.pipeline import checkpoint, default_jobs, map_ordered
from fastlayer.layer.progress import Progress, ProgressCallback
from fastlayer.oci.descriptor import Descriptor
from fastlayer.oci.digest import Digest
from fastlayer.oci.mediatypes import layer_compression, layer_media_type

if TYPE_CHECKING:
    from fastlayer.builder.outputs.targets import Blob, Target
    from fastlayer.layer.writer import Layer
    from fastlayer.store.store import Store

_BUDGET = 64 << 20  # bytes of tar that wait for all layers that are at work
_WAITING = 5  # buffers of a layer beyond one for each of its threads (layer/writer.py)
_AT_ONCE = 2  # layers: their hashes go through the processor in pairs


class Wanted(NamedTuple):
    """``compression``: None: gzip for what has none; ``force``: also of blobs that are compressed otherwise; ``level``:
    None: the default; ``zstd``: False where it must not come out, even if it went in. ``epoch``: seconds that no file
    of the layers from number ``first`` on is younger than; None: as they are."""

    compression: str | None = None
    level: int | None = None
    force: bool = False
    zstd: bool = True
    epoch: int | None = None
    first: int = 0


class Written(NamedTuple):
    """A blob of a layer in the target. ``annotations`` of its descriptor; the ``diff_id`` of an eStargz is its own."""

    media_type: str
    digest: Digest
    size: int
    diff_id: Digest
    annotations: Mapping[str, str] = {}

    @property
    def descriptor(self) -> Descriptor:
        return Descriptor(self.media_type, self.digest, self.size, self.annotations)


def write_layers(
    store: Store,
    image: Image,
    target: Target,
    wanted: Wanted,
    *,
    jobs: int | None = None,
    progress: ProgressCallback | None = None,
) -> list[Written]:
    """All layers of the image as blobs in ``target``, lowest first. Raises what ``write_each`` raises."""
    stack = list(zip(image.layers, image.chain, strict=True))
    return write_each(store, stack, target, wanted, jobs=jobs, progress=progress)


def write_each(
    store: Store,
    stacked: Sequence[tuple[LayerInfo, Digest]],
    target: Target,
    wanted: Wanted,
    *,
    jobs: int | None = None,
    progress: ProgressCallback | None = None,
) -> list[Written]:
    """Layers of any stacks as blobs in ``target``, in their order; each with the name of the snapshot it ends.

    Raises ``CorruptStoreError`` when a snapshot or a blob does not give the layer that was recorded, ``NotFoundError``
    for one that is nowhere, ``StorageError``.
    """
    work = _Work(store, target, wanted, default_jobs(jobs), progress)
    layers = [(number, layer, name) for number, (layer, name) in enumerate(stacked)]
    largest_first = sorted(layers, key=lambda entry: -max(entry[1].tar_size, entry[1].size))
    at_once = min(_AT_ONCE, max(len(layers), 1), default_jobs(jobs))
    found = map_ordered(lambda entry: (entry[0], work.one(*entry)), largest_first, at_once)
    return [written for _, written in sorted(found)]


class _Work:
    def __init__(
        self, store: Store, target: Target, wanted: Wanted, jobs: int, progress: ProgressCallback | None
    ) -> None:
        from fastlayer.layer.compression import layer_codec

        self._store = store
        self._target = target
        self._wanted = wanted
        self._progress = progress
        size = layer_codec(wanted.compression or "gzip", wanted.level).block_size
        self._jobs = max(1, min(jobs, _BUDGET // size // _AT_ONCE - _WAITING))

    def one(self, number: int, layer: LayerInfo, name: Digest) -> Written:
        has = layer_compression(layer.media_type)
        compression = self._compression(has)
        if self._wanted.epoch is not None and number >= self._wanted.first:
            return self._of_snapshot(number, layer, name, compression, self._wanted.epoch)
        if not self._store.content.has(layer.digest):
            return self._of_snapshot(number, layer, name, compression, None)
        if compression == has and not (self._wanted.force and self._wanted.level is not None):
            return self._as_it_is(number, layer)
        return self._of_blob(number, layer, compression)

    def _compression(self, has: str | None) -> str:
        asked = self._wanted.compression
        keeps = has in ("gzip", "zstd") and (asked is None or not self._wanted.force)
        chosen = has if keeps and has else asked or "gzip"
        return "gzip" if chosen.startswith("zstd") and not self._wanted.zstd else chosen

    def _as_it_is(self, number: int, layer: LayerInfo) -> Written:
        try:
            self._target.adopt(number, self._store.content.path_of(layer.digest), layer.digest)
        except DigestMismatchError as exc:
            raise CorruptStoreError(f"{exc}: run `fastlayer store check --repair`") from None
        compression = layer_compression(layer.media_type) or "none"
        return Written(layer_media_type(compression), layer.digest, layer.size, layer.diff_id)

    def _of_snapshot(self, number: int, layer: LayerInfo, name: Digest, compression: str, epoch: int | None) -> Written:
        """From the first driver whose snapshot gives the layer."""
        for found in holding(self._store, layer.digest, str(name)):
            with self._target.blob(number) as blob, found.changes(str(name)) as changes:
                written = changes.write(
                    blob,
                    compression=compression,
                    level=self._level(compression),
                    source_date_epoch=epoch,
                    jobs=self._jobs,
                    progress=self._told,
                )
                if epoch is not None or written.source_id == layer.diff_id:
                    return self._committed(blob, written)
        raise CorruptStoreError(f"{layer.digest}: its snapshot gives another layer: run `fastlayer store check`")

    def _of_blob(self, number: int, layer: LayerInfo, compression: str) -> Written:
        from fastlayer.layer.compression import layer_codec
        from fastlayer.layer.decompress import Lookahead, open_reader
        from fastlayer.layer.output import Output
        from fastlayer.layer.progress import Reporter
        from fastlayer.layer.source import Source
        from fastlayer.layer.writer import write_tar

        packer, report = layer_codec(compression, self._level(compression)), Reporter(self._told)
        path = self._store.content.path_of(layer.digest)
        with self._target.blob(number) as blob, Source(path) as source:
            try:
                reader = open_reader(Lookahead(source))[1]
                written = write_tar(reader, Output(blob), packer, jobs=self._jobs, report=report)
            except LayerFormatError as exc:
                raise CorruptStoreError(f"{layer.digest}: {exc}: run `fastlayer store check --repair`") from None
            if written.source_id != layer.diff_id:
                raise CorruptStoreError(f"{layer.digest}: is damaged: run `fastlayer store check --repair`")
            return self._committed(blob, written)

    def _level(self, compression: str) -> int | None:
        return None if compression == "none" else self._wanted.level

    def _committed(self, blob: Blob, written: Layer) -> Written:
        blob.commit(written.digest)
        return Written(written.media_type, written.digest, written.size, written.diff_id, dict(written.annotations))

    def _told(self, progress: Progress) -> None:
        checkpoint()  # another layer failed, or Ctrl-C
        if self._progress is not None:
            self._progress(progress)
