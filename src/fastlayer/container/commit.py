"""``commit``: a writable layer becomes the topmost layer of a new image. Reads what was written, nothing below."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from fastlayer.container import writable
from fastlayer.container.alone import alone
from fastlayer.container.mounted import all_mounts
from fastlayer.errors import AlreadyExistsError, FileChangedError, InUseError, StorageError
from fastlayer.image.images import Image, Images
from fastlayer.image.materialize import Nowhere
from fastlayer.image.pipe import stream_layer
from fastlayer.image.record import new_name, of_written, record, timestamp
from fastlayer.oci.chain import chain_ids
from fastlayer.oci.config import History

if TYPE_CHECKING:
    from fastlayer.container.writable import Writable
    from fastlayer.layer.progress import ProgressCallback
    from fastlayer.layer.writer import Layer
    from fastlayer.metadata.leases import Lease
    from fastlayer.oci.config import ImageConfig, RunConfig
    from fastlayer.snapshot.snapshotter import Snapshotter
    from fastlayer.store.store import Store


_ATTEMPTS = 8  # to copy a layer that is written to meanwhile
_PAUSE = 0.05  # seconds more after each of them


def commit(
    store: Store,
    layer: Writable,
    name: str | None = None,
    *,
    message: str = "",
    author: str = "",
    run: RunConfig | None = None,
    source_date_epoch: int | None = None,
    jobs: int | None = None,
    progress: ProgressCallback | None = None,
) -> Image:
    """A new image: the one the layer was made of, and on it what was written since. The layer stays as it is.

    No tar is written: the digest of the new layer is known when it has streamed by (``image/materialize.py``).
    """
    full = new_name(name)
    images, snapshotter = Images(store), writable.snapshotter_of(store, layer)
    base = images.of_manifest(layer.manifest)
    config = images.config(base)
    with store.lease(f"commit {layer.name}") as lease:
        copy = f"commit-{os.urandom(8).hex()}"
        written = _freeze(store, snapshotter, lease, layer, copy, source_date_epoch, jobs, progress)
        chain = str(chain_ids([*config.diff_ids, written.diff_id])[-1])
        _name(store, snapshotter, lease, chain, copy)
        info = of_written(written, present=store.content.has(written.digest))
        new = _config(config, written, message, author, run, source_date_epoch)
        target = record(store, lease, full, new, [*base.layers, info])
        return images.by_target(target, [full] if full else [])


def _freeze(
    store: Store,
    snapshotter: Snapshotter,
    lease: Lease,
    layer: Writable,
    copy: str,
    source_date_epoch: int | None,
    jobs: int | None,
    progress: ProgressCallback | None,
) -> Layer:
    """A sealed copy of the layer, and its tar's digest. What nobody has mounted is hashed while it is copied.

    With times to be clamped the copy is extracted from the clamped tar: a snapshot holds what its layer says.
    """
    if source_date_epoch is not None:
        with snapshotter.changes(layer.key) as changes:
            clamped = stream_layer(
                snapshotter,
                lease,
                copy,
                snapshotter.stat(layer.key).parent,
                lambda out: changes.write(
                    out, compression="none", source_date_epoch=source_date_epoch, jobs=jobs, progress=progress
                ),
                about=layer.name,
            )
        snapshotter.sync(layer.key)
        return clamped

    def digest(key: str) -> Layer:
        with snapshotter.changes(key) as changes:
            return changes.write(Nowhere(), compression="none", jobs=jobs, progress=progress)

    with alone(store, layer.name, shared=True):
        if not any(found.writable == layer.name for found in all_mounts(store)):
            return _copy_and_hash(snapshotter, lease, layer, copy, digest)
    _copy_while_written(snapshotter, lease, layer, copy)
    return digest(copy)


def _copy_while_written(snapshotter: Snapshotter, lease: Lease, layer: Writable, copy: str) -> None:
    """A file that changes or goes while it is copied makes a copy of no moment: then the whole is copied again."""
    for attempt in range(_ATTEMPTS):
        try:
            return snapshotter.duplicate(copy, layer.key, lease=lease)
        except (FileChangedError, StorageError) as exc:
            if isinstance(exc, StorageError) and exc.errno not in (errno.ENOENT, errno.ESTALE):
                raise
            if attempt == _ATTEMPTS - 1:
                raise InUseError(
                    f"{layer.name}: {exc}: files change faster than they can be copied: stop what writes to them, "
                    "or unmount it"
                ) from exc
            time.sleep(attempt * _PAUSE)
    raise AssertionError("unreachable")


def _copy_and_hash(
    snapshotter: Snapshotter, lease: Lease, layer: Writable, copy: str, digest: Callable[[str], Layer]
) -> Layer:
    """Both at once, while nobody mounts it."""
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as pool:
        copying = pool.submit(snapshotter.duplicate, copy, layer.key, lease=lease)
        written = digest(layer.key)
        copying.result()
    return written


def _name(store: Store, snapshotter: Snapshotter, lease: Lease, chain: str, copy: str) -> None:
    """The copy is named by its chain id, unless there is a snapshot of that name already."""
    with store.database.write() as db:
        lease.add(db, "snapshot", [chain])
    try:
        snapshotter.rename(chain, copy)
    except AlreadyExistsError:
        snapshotter.remove(copy)


def _config(
    config: ImageConfig,
    written: Layer,
    message: str,
    author: str,
    run: RunConfig | None,
    source_date_epoch: int | None,
) -> ImageConfig:
    created = timestamp(source_date_epoch)
    unexplained = len(config.diff_ids) - sum(not step.empty_layer for step in config.history)
    steps: Sequence[History] = [
        *[History()] * unexplained,  # an image may come without a history, but not with half of one
        History(created=created, author=author, comment=message),
    ]
    return config.edit(run=run, layers=[written.diff_id], history=steps, created=created, author=author or None)
