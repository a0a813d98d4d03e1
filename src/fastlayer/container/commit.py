"""``commit``: a writable layer becomes the topmost layer of a new image. Reads what was written, nothing below."""

from __future__ import annotations

import errno
import os
import time
from typing import TYPE_CHECKING, Any

from fastlayer.container import writable
from fastlayer.container.alone import alone
from fastlayer.container.mounted import all_mounts, is_running
from fastlayer.errors import FileChangedError, InUseError, StorageError
from fastlayer.image.holders import Nowhere
from fastlayer.image.images import Image, Images
from fastlayer.image.materialize import of_snapshot
from fastlayer.image.pipe import stream_layer
from fastlayer.image.record import name_snapshot, new_name, record, timestamp
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


_ATTEMPTS = 12  # to copy a layer that is written to meanwhile
_STRICT = 2  # of these: in which every file has to hold still
_PAUSE = 0.03  # seconds more after each of them


def commit(
    store: Store,
    layer: Writable,
    name: str | None = None,
    *,
    message: str = "",
    author: str = "",
    run: RunConfig | None = None,
    source_date_epoch: int | None = None,
    pause: bool | None = None,
    jobs: int | None = None,
    progress: ProgressCallback | None = None,
    warnings: list[str] | None = None,
) -> Image:
    """A new image: the one the layer was made of, and on it what was written since. The layer stays as it is.

    ``run``: how its containers run; None: as ``run_config`` has it.
    ``pause``: whether a running container is paused while its layer is copied; None: where that can be.
    For root no tar is written: the digest of the new layer is known when it has streamed by
    (``image/materialize.py``). Files that do not hold still are taken as they are read, which is added to ``warnings``.
    """
    full = new_name(name)
    writable.refuse_readonly(store, layer)
    images, snapshotter = Images(store), writable.snapshotter_of(store, layer)
    base = images.of_manifest(layer.manifest)
    config = images.config(base)
    with store.lease(f"commit {layer.name}") as lease:
        copy = f"commit-{os.urandom(8).hex()}"
        work = _Freezing(store, snapshotter, lease, layer, pause, jobs, progress)
        written = work.freeze(copy, source_date_epoch)
        chain = str(chain_ids([*config.diff_ids, written.diff_id])[-1])
        name_snapshot(store, snapshotter, lease, chain, copy)
        info = of_snapshot(store, lease, written, chain, jobs=jobs)
        run = run or run_config(store, layer)
        step = History(created_by=" ".join(_command_of(store, layer)), author=author, comment=message)
        new = _config(config, written, step, run, source_date_epoch)
        target = record(store, lease, full, new, [*base.layers, info])
        writable.tell_changed(work.changed, warnings)
        return images.by_target(target, [full] if full else [])


class _Freezing:
    """A sealed copy of the layer, and its tar's digest. ``changed``: files that did not hold still."""

    def __init__(
        self,
        store: Store,
        snapshotter: Snapshotter,
        lease: Lease,
        layer: Writable,
        pause: bool | None,
        jobs: int | None,
        progress: ProgressCallback | None,
    ) -> None:
        self.changed = 0
        self._pause = pause
        self._store = store
        self._snapshotter = snapshotter
        self._lease = lease
        self._layer = layer
        self._jobs = jobs
        self._progress = progress

    def freeze(self, copy: str, source_date_epoch: int | None) -> Layer:
        """``copy``: its name. What nobody can write to is hashed while it is copied, anything else is copied first."""
        with alone(self._store, self._layer.name, shared=True):
            if not self._is_written():
                if writable.has_directory(self._store, self._layer):  # in which somebody may work
                    return self._of_a_copy(copy, source_date_epoch)
                if source_date_epoch is not None:
                    return self._clamped(self._layer.key, copy, source_date_epoch)
                return self._copy_and_hash(copy)
        return self._of_a_copy(copy, source_date_epoch)

    def _is_written(self) -> bool:
        """Whether somebody may write to it now."""
        mounted = any(found.writable == self._layer.name for found in all_mounts(self._store))
        return mounted or is_running(self._store, self._layer)

    def _of_a_copy(self, copy: str, source_date_epoch: int | None) -> Layer:
        if source_date_epoch is None:
            self._copy_while_written(copy)
            return self._digest(copy)
        first = f"{copy}-as-it-is"  # goes with the lease
        self._copy_while_written(first)
        return self._clamped(first, copy, source_date_epoch)

    def _digest(self, key: str) -> Layer:
        with self._snapshotter.changes(key) as changes:
            return changes.write(Nowhere(), compression="none", jobs=self._jobs, progress=self._progress)

    def _clamped(self, key: str, copy: str, source_date_epoch: int) -> Layer:
        """Extracted from the clamped tar: a snapshot holds what its layer says."""
        with self._snapshotter.changes(key) as changes:
            clamped = stream_layer(
                self._snapshotter,
                self._lease,
                copy,
                self._snapshotter.stat(key).parent,
                lambda out: changes.write(
                    out,
                    compression="none",
                    source_date_epoch=source_date_epoch,
                    jobs=self._jobs,
                    progress=self._progress,
                ),
                about=self._layer.name,
            )
        self._snapshotter.sync(self._layer.key)
        return clamped

    def _copy_while_written(self, copy: str) -> None:
        self._copy_paused(copy)
        if is_running(self._store, self._layer):
            from fastlayer.container import systempoints

            systempoints.take_away(self._store, self._layer, copy)

    def _copy_paused(self, copy: str) -> None:
        identity = self._layer.container
        if self._pause is False or identity is None:
            self._copied(copy)
            return
        from fastlayer.container.containers import directory_of
        from fastlayer.container.pausing import held_still

        with held_still(directory_of(self._store, identity), identity, demanded=bool(self._pause)):
            self._copied(copy)

    def _copied(self, copy: str) -> None:
        """A file that goes while it is copied makes a copy of no moment: then the whole is copied again. So it is for
        one that changes, the first times."""
        for attempt in range(_ATTEMPTS):
            try:
                live = attempt >= _STRICT
                self.changed = self._snapshotter.duplicate(copy, self._layer.key, live=live, lease=self._lease)
                return
            except (FileChangedError, StorageError) as exc:
                if isinstance(exc, StorageError) and exc.errno not in (errno.ENOENT, errno.ESTALE):
                    raise
                if attempt == _ATTEMPTS - 1:
                    raise InUseError(
                        f"{self._layer.name}: {exc}: files go faster than they can be copied: stop what removes them, "
                        "or unmount it"
                    ) from exc
                time.sleep(attempt * _PAUSE)

    def _copy_and_hash(self, copy: str) -> Layer:
        """Both at once."""
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(1) as pool:
            copying = pool.submit(self._snapshotter.duplicate, copy, self._layer.key, lease=self._lease)
            written = self._digest(self._layer.key)
            copying.result()
        return written


def run_config(store: Store, layer: Writable) -> RunConfig:
    """How containers of a new image run: as the image's do, or as the container whose layer it is was made to run
    (environment, command, user, directory, labels, anonymous volumes), as Docker's commit has it."""
    images = Images(store)
    run = images.config(images.of_manifest(layer.manifest)).run
    record = _record_of(store, layer)
    if record is None:
        return run
    config = record["Config"]
    return run._replace(
        user=config["User"],
        env=tuple(config["Env"]),
        entrypoint=None if config["Entrypoint"] is None else tuple(config["Entrypoint"]),
        cmd=None if config["Cmd"] is None else tuple(config["Cmd"]),
        volumes=tuple(config["Volumes"] or ()),
        working_dir=config["WorkingDir"],
        labels=dict(config["Labels"]),
        stop_signal=config.get("StopSignal", ""),
    )


def _command_of(store: Store, layer: Writable) -> list[str]:
    """For the history: what the container was told to run."""
    record = _record_of(store, layer)
    return [] if record is None else record["Config"]["Cmd"] or []


def _record_of(store: Store, layer: Writable) -> dict[str, Any] | None:
    """What is written down about the container whose layer it is."""
    if layer.container is None:
        return None
    from fastlayer.container import containers

    return containers.config_of(store, containers.find(store, layer.container))


def _config(
    config: ImageConfig, written: Layer, step: History, run: RunConfig, source_date_epoch: int | None
) -> ImageConfig:
    created = timestamp(source_date_epoch)
    missing = config.explained[: len(config.explained) - len(config.history)]
    steps = [*missing, step._replace(created=created)]
    return config.edit(run=run, layers=[written.diff_id], history=steps, created=created, author=step.author or None)
