"""``import``: a root file system, as a directory or a tar, becomes an image of one layer."""

from __future__ import annotations

import io
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from fastlayer.content.files import write_all
from fastlayer.errors import LayerError, show_path
from fastlayer.image.images import Image, Images, LayerInfo
from fastlayer.image.record import name_snapshot, new_name, of_applied, of_written, record, timestamp
from fastlayer.oci.config import History, RunConfig, new_config
from fastlayer.oci.platform import Platform, host_platform

if TYPE_CHECKING:
    from fastlayer.layer.apply import AppliedLayer
    from fastlayer.layer.progress import ProgressCallback
    from fastlayer.layer.writer import Layer
    from fastlayer.metadata.leases import Lease
    from fastlayer.store.store import Store


def import_image(
    store: Store,
    source: Any,
    name: str | None = None,
    *,
    run: RunConfig | None = None,
    message: str = "",
    platform: Platform | None = None,
    source_date_epoch: int | None = None,
    ignore_chown: bool = False,
    jobs: int | None = None,
    progress: ProgressCallback | None = None,
    warnings: list[str] | None = None,
) -> Image:
    """An image of one layer. ``source``: a directory, or a tar (a path, descriptor or file object), compressed or not.

    A tar is kept as it came, but expanded from xz or bzip2, which no layer may be compressed with; the layer of a
    directory is made again when its bytes are needed. Raises what ``fastlayer.apply`` and ``fastlayer.diff`` raise; a
    failure leaves no image. Where nobody may make devices they are left out; what was, is added to ``warnings``.
    """
    from fastlayer.store.store import may_own_all

    full = new_name(name)
    ignore_chown = ignore_chown or not may_own_all()
    created = timestamp(source_date_epoch)
    lost: list[str] = [] if warnings is None else warnings
    with store.lease(f"import {full or ''}".strip()) as lease:
        if isinstance(source, (str, bytes, os.PathLike)) and os.path.isdir(source):
            layer = _directory(store, lease, source, source_date_epoch, ignore_chown, jobs, progress, lost)
        else:
            layer = _tar(store, lease, source, ignore_chown, jobs, progress, lost)
        step = History(created=created, comment=message or f"imported from {_last_part(source)}")
        config = new_config(platform or host_platform(), [layer.diff_id], run=run, history=[step], created=created)
        target = record(store, lease, full, config, [layer])
        return Images(store).by_target(target, [full] if full else [])


def _directory(
    store: Store,
    lease: Lease,
    source: Any,
    source_date_epoch: int | None,
    ignore_chown: bool,
    jobs: int | None,
    progress: ProgressCallback | None,
    lost: list[str],
) -> LayerInfo:
    """The layer streams into the snapshot and is hashed on the way.

    A snapshot without the devices of the directory, or with owners that others see differently, would not give the
    layer again: then its blob is kept.
    """
    from fastlayer.image.pipe import piped, stream_layer
    from fastlayer.layer.diff import diff
    from fastlayer.store.store import sees_true_owners

    name = f"import-{lease.id}"
    with tempfile.TemporaryDirectory(prefix="fastlayer-") as empty:

        def write(out: int) -> Layer:
            return diff(
                empty,
                source,
                out,
                compression="none",
                source_date_epoch=source_date_epoch,
                jobs=jobs,
                progress=progress,
            )

        if not sees_true_owners():
            with piped(write) as layer_tar:
                return _tar(store, lease, layer_tar, ignore_chown, jobs, None, lost)
        about = show_path(source).rstrip("/")
        written = stream_layer(store.snapshotter, lease, name, None, write, about=about, ignore_chown=ignore_chown)
    name_snapshot(store, store.snapshotter, lease, str(written.diff_id), name)
    return of_written(written, present=store.content.has(written.digest))


def _tar(
    store: Store,
    lease: Lease,
    source: Any,
    ignore_chown: bool,
    jobs: int | None,
    progress: ProgressCallback | None,
    lost: list[str],
) -> LayerInfo:
    """Extracted while its blob is kept; both are named when the whole has been seen."""
    from fastlayer.image.tee import Tee
    from fastlayer.layer.apply import ROOT_IS_OPAQUE, apply
    from fastlayer.store.store import may_make_devices

    key = f"import-{lease.id}"
    store.snapshotter.prepare(key, lease=lease)
    number, parents = store.snapshotter.number(key)
    with _layer(source) as layer_tar, store.content.ingest(lease.id, trusted=True) as blob, Tee(layer_tar, blob) as tee:
        with store.snapshotter.driver.layer_target(number, parents) as target:
            stats = apply(
                [tee],
                target.path,
                format=target.format,
                ignore_chown=ignore_chown,
                skip_devices=not may_make_devices(),
                jobs=jobs,
                progress=progress,
            )
        lost += [warning for warning in stats.warnings if warning != ROOT_IS_OPAQUE]  # there is nothing below
        layer = stats.layers[0]
        with store.database.write() as db:
            lease.add(db, "blob", [layer.digest])
        blob.commit(layer.digest)
    if layer.needs_lower and layer.whiteouts:
        return _as_seen(store, lease, key, layer, ignore_chown)
    store.snapshotter.commit(f"{key}-done", key, lease=lease)
    name_snapshot(store, store.snapshotter, lease, str(layer.diff_id), f"{key}-done")
    return of_applied(layer)


def _as_seen(store: Store, lease: Lease, key: str, layer: AppliedLayer, ignore_chown: bool) -> LayerInfo:
    """Markers of a layer that has nothing below it, in directories it does not describe: a driver of independent layers
    keeps them, where the tree has nothing. So it is unpacked as an image's is, from its blob."""
    from fastlayer.image.unpack import of_blob, unpack

    store.snapshotter.remove(key)
    unpack(store, lease, [of_blob(store, layer.diff_id, layer.digest, layer.size)], ignore_chown=ignore_chown)
    return of_applied(layer)


@contextmanager
def _layer(source: Any) -> Iterator[Any]:
    """The source as what may be a layer of an image: xz and bzip2 are expanded, by a thread."""
    from fastlayer.image.pipe import piped
    from fastlayer.layer.decompress import Lookahead
    from fastlayer.layer.expand import Expansion
    from fastlayer.layer.limits import MAX_RATIO
    from fastlayer.layer.source import Source, named

    with Source(source) as opened:
        look = Lookahead(opened)
        if look.detect() not in ("xz", "bzip2"):
            yield look
            return

        def expand(sink: int) -> None:
            try:
                work = Expansion(Source(look), jobs=1, max_ratio=MAX_RATIO, hashed=False)
                work.run(lambda data: write_all(sink, data))
            except LayerError as exc:
                raise named(exc, opened, 1) from exc

        with piped(expand) as tar, io.FileIO(tar, closefd=False) as file:
            file.name = opened.name
            yield file


def _last_part(source: Any) -> str:
    """Of the source's name: where it lay on this machine is nobody's business."""
    if isinstance(source, (str, bytes, os.PathLike)):
        return show_path(os.path.basename(os.path.abspath(os.fsencode(source))) or b"/")
    return "-"
