"""Layers become snapshots: each named by its chain id, made once and shared by all images that have it.

A driver whose layers are independent (overlay2) gets all missing layers at the same time, each extracted in the storage
format without looking at a parent, and stacked in order when they are complete. What some tools leave to the layers
below - entries in directories that are not in the layer, hard links to files of another one, an opaque root - cannot be
made so: such a layer is extracted once more, onto the mounted snapshot of the one below, as with any other driver.
Extraction verifies; what is not complete is never named.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from fastlayer._values import NamedTuple
from fastlayer.errors import (
    AlreadyExistsError,
    DigestMismatchError,
    FastlayerError,
    FileChangedError,
    LayerError,
    LayerFormatError,
    NotFoundError,
    RegistryError,
    UnsafeEntryError,
)
from fastlayer.image import cutshort
from fastlayer.image.holders import tar_of
from fastlayer.layer.apply import ROOT_IS_OPAQUE, AppliedLayer, ApplyStats, apply
from fastlayer.layer.pipeline import Pipeline, checkpoint, default_jobs
from fastlayer.oci.chain import chain_ids
from fastlayer.oci.digest import Digest
from fastlayer.store.collect import claim_snapshots

if TYPE_CHECKING:
    from pathlib import Path

    from fastlayer.image.images import Image, LayerInfo
    from fastlayer.layer.apply import Format
    from fastlayer.layer.progress import Progress, ProgressCallback
    from fastlayer.metadata.leases import Lease
    from fastlayer.snapshot.snapshotter import Snapshotter
    from fastlayer.store.store import Store


class LayerSource(NamedTuple):
    """A layer to be unpacked. ``open`` gives its blob to ``fastlayer.apply`` (a path, descriptor or file object).

    It is left without an exception when the layer was extracted and verified. ``instead``: the same layer from
    somewhere else, for when what ``open`` gives turns out to be another; the last of them is told in a warning.
    """

    diff_id: Digest
    digest: Digest | None
    size: int
    open: Callable[[], AbstractContextManager[Any]]
    instead: LayerSource | None = None


class Unpacked(NamedTuple):
    """``layers``: what was extracted, by position; None where the snapshot was there already."""

    layers: tuple[AppliedLayer | None, ...]
    warnings: tuple[str, ...]


def ensure_unpacked(
    store: Store, image: Image, *, ignore_chown: bool = False, progress: ProgressCallback | None = None
) -> tuple[str, ...]:
    """Makes the snapshots of an image that the driver in use has not got yet; returns warnings.

    From its blobs; a layer that has none is taken from the snapshot of another driver. Raises ``NotFoundError`` for a
    layer that is nowhere, ``DriverError`` when the driver that has it cannot be opened.
    """
    if image.chain_id is None or store.snapshotter.exists(image.chain_id):
        return ()
    with store.lease(f"unpack {image.name}") as lease:
        return unpack(store, lease, layers_of(store, image), ignore_chown=ignore_chown, progress=progress).warnings


def layers_of(store: Store, image: Image) -> list[LayerSource]:
    """All layers of an image, lowest first, from where the store has them."""
    return layer_sources(store, image.layers)


def layer_sources(store: Store, layers: Sequence[LayerInfo]) -> list[LayerSource]:
    """The same of a stack of layers."""
    names = chain_ids(layer.diff_id for layer in layers)
    return [_of_store(store, layer, str(name)) for layer, name in zip(layers, names, strict=True)]


def unstacked(store: Store, layer: LayerInfo, name: str) -> LayerSource:
    """A layer of another stack, whose snapshot is ``name``: its blob, or the tar that the snapshot gives."""
    return _of_store(store, layer, name)


def _of_store(store: Store, layer: LayerInfo, name: str) -> LayerSource:
    """Its blob, or its tar as the snapshot ``name`` of another driver gives it, which has the digest of no blob."""
    if store.content.has(layer.digest):
        return of_blob(store, layer.diff_id, layer.digest, layer.size)
    return LayerSource(layer.diff_id, None, layer.size, lambda: tar_of(store, layer.digest, layer.diff_id, name))


def of_blob(store: Store, diff_id: Digest, digest: Digest, size: int) -> LayerSource:
    """A layer whose blob is in the store."""

    def open_blob() -> AbstractContextManager[Any]:
        if not store.content.has(digest):
            raise NotFoundError(f"{digest}: the layer is not in the store: load the image again")
        return nullcontext(store.content.path_of(digest))

    return LayerSource(diff_id, digest, size, open_blob)


def unpack(
    store: Store,
    lease: Lease,
    layers: Sequence[LayerSource],
    *,
    jobs: int | None = None,
    ignore_chown: bool = False,
    progress: ProgressCallback | None = None,
) -> Unpacked:
    """Makes the snapshots of a stack of layers, lowest first. What others have made already is used.

    Owners that may not be set are left with ``ignore_chown``, and where most ids cannot be owned at all. Devices are
    left out, with a warning, where nobody may make them.

    Raises what ``fastlayer.apply`` raises; the snapshots that are complete by then stay.
    """
    from fastlayer.store.store import may_make_devices, may_own_all

    chain = [str(name) for name in chain_ids(layer.diff_id for layer in layers)]
    snapshotter = store.snapshotter
    present = claim_snapshots(store, lease, snapshotter.driver.name, chain)
    first = max((number + 1 for number, name in enumerate(chain) if name in present), default=0)
    work = _Unpacking(
        snapshotter,
        lease,
        layers,
        chain,
        ignore_chown=ignore_chown or not may_own_all(),
        skip_devices=not may_make_devices(),
        progress=progress,
    )
    numbers = range(first, len(layers))
    if snapshotter.driver.independent and len(numbers) > 1 and default_jobs(jobs) > 1:
        work.all_at_once(numbers, default_jobs(jobs))
    else:
        for number in numbers:
            work.extract(number)
            work.commit(number)
    return Unpacked(tuple(work.applied), tuple(work.warnings))


_NOT_THE_LAYER = (DigestMismatchError, LayerFormatError, FileChangedError, RegistryError)


class _Unpacking:
    def __init__(
        self,
        snapshotter: Snapshotter,
        lease: Lease,
        layers: Sequence[LayerSource],
        chain: Sequence[str],
        *,
        ignore_chown: bool,
        skip_devices: bool,
        progress: ProgressCallback | None,
    ) -> None:
        self.applied: list[AppliedLayer | None] = [None] * len(layers)
        self.warnings: list[str] = []
        self._needs_lower: set[int] = set()
        self._snapshotter = snapshotter
        self._lease = lease
        self._layers = list(layers)
        self._chain = chain
        self._ignore_chown = ignore_chown
        self._skip_devices = skip_devices
        self._progress = progress

    def all_at_once(self, numbers: range, jobs: int) -> None:
        """The largest first, ``jobs`` at a time; a layer is named when all below it are."""
        with Pipeline() as pipeline:
            work, done = pipeline.channel(), pipeline.channel()

            def worker() -> None:
                while True:
                    number = work.get()
                    self.extract(number)
                    done.put(number)

            for number in sorted(numbers, key=lambda n: -self._layers[n].size):
                work.put(number)
            for _ in range(min(jobs, len(numbers))):
                pipeline.spawn(worker)
            complete: set[int] = set()
            for number in numbers:
                while number not in complete:
                    complete.add(done.get())
                self.commit(number)
            pipeline.stop()

    def extract(self, number: int) -> None:
        independent = self._snapshotter.driver.independent
        try:
            stats = self._extract(number)
        except (LayerError, FileChangedError, RegistryError) as exc:
            if self._take_instead(number, exc):
                self._snapshotter.remove(self._key(number))
                self.extract(number)
                return
            if not (independent and number) or isinstance(exc, (_NotInThisFormatError, *_NOT_THE_LAYER)):
                raise
            self._needs_lower.add(number)  # a hard link may be to a file below; anything else we shall hear again
            return
        (applied,) = stats.layers
        if independent and applied.needs_lower and (number or applied.whiteouts):
            self._needs_lower.add(number)
        else:
            self._done(number, stats)

    def _extract(self, number: int) -> ApplyStats:
        try:
            return self._extract_apart(number)
        except _UselessError:
            self._snapshotter.remove(self._key(number))
            return self._extract_apart(number, inherit=False)

    def _extract_apart(self, number: int, *, inherit: bool = True) -> ApplyStats:
        key, independent = self._key(number), self._snapshotter.driver.independent
        self._snapshotter.prepare(key, None if independent else self._below(number), lease=self._lease)
        place, parents = self._snapshotter.number(key)
        with self._snapshotter.driver.layer_target(place, parents) as target:
            return self._apply(self._layers[number], target.path, target.format, key=key if inherit else "")

    def _take_instead(self, number: int, exc: FastlayerError, *, final: bool = False) -> bool:
        """Whether a layer that was not what it should be is now taken from somewhere else.

        What is refused in a layer that is extracted by itself may do on the layers below, unless ``final``.
        """
        layer = self._layers[number]
        alone = self._snapshotter.driver.independent and number and not final
        if layer.instead is None or (alone and not isinstance(exc, _NOT_THE_LAYER)):
            return False
        self._layers[number] = layer.instead
        if layer.instead.instead is None:
            self.warnings.append(f"{layer.digest or layer.diff_id}: all of it is taken, because {exc}")
        return True

    def _below(self, number: int) -> str | None:
        return self._chain[number - 1] if number else None

    def _apply(self, layer: LayerSource, target: Path, format: Format, *, key: str = "") -> ApplyStats:
        """``key``: of the snapshot, where files of one that was cut short may be taken."""
        with (
            layer.open() as blob,
            _naming(blob, layer) as named,
            _next_step(),
            self._donor(blob, layer, key) as donor,
        ):
            stats = apply(
                [named],
                target,
                format=format,
                digest=[layer.digest],
                diff_id=[layer.diff_id],
                ignore_chown=self._ignore_chown,
                skip_devices=self._skip_devices,
                donor=donor,
                progress=self._report,
            )
        if key and layer.digest is not None and _identity(blob):
            cutshort.note(self._snapshotter, key, layer.digest)
        return stats

    @contextmanager
    def _donor(self, blob: Any, layer: LayerSource, key: str) -> Iterator[int | None]:
        """What an extraction of the same bytes has left that was cut short."""
        if not key or layer.digest is None:
            yield None
            return
        identity = _identity(blob)
        if identity:
            cutshort.note(self._snapshotter, key, identity)
        with cutshort.inherited(
            self._snapshotter, self._lease, f"donor-{key}", [identity] if identity else [layer.digest]
        ) as donor:
            try:
                yield donor
            except FileChangedError as exc:
                raise exc if donor is None else _UselessError from exc

    def _done(self, number: int, stats: ApplyStats) -> None:
        self.applied[number] = stats.layers[0]
        known = [*self.warnings, ROOT_IS_OPAQUE]  # of the lowest layer, where it makes no difference
        self.warnings += [warning for warning in stats.warnings if warning not in known]

    def _extract_on_top(self, number: int) -> None:
        """Onto the layers below as they are seen; the kernel notes what it takes from them."""
        try:
            self._extract_mounted(number)
        except (LayerError, FileChangedError, RegistryError) as exc:
            if not self._take_instead(number, exc, final=True):
                raise
            self._extract_mounted(number)

    def _extract_mounted(self, number: int) -> None:
        from fastlayer.mounts.mounting import private

        key = self._key(number)
        self._snapshotter.remove(key)
        self._snapshotter.prepare(key, self._below(number), lease=self._lease)
        (mount,) = self._snapshotter.ready(key)
        with private(mount) as path:
            self._done(number, self._apply(self._layers[number], path, "dir"))

    def commit(self, number: int) -> None:
        rebase = self._snapshotter.driver.independent and number > 0
        if number in self._needs_lower:
            self._extract_on_top(number)
            rebase = False
        try:
            self._snapshotter.commit(
                self._chain[number], self._key(number), parent=self._chain[number - 1] if rebase else None
            )
        except AlreadyExistsError:  # another process was faster
            self._snapshotter.remove(self._key(number))

    def _key(self, number: int) -> str:
        return f"unpack-{self._lease.id}-{number}-{self._chain[number].rpartition(':')[2][:12]}"

    def _report(self, progress: Progress) -> None:
        checkpoint()  # another layer failed, or Ctrl-C
        if self._progress is not None:
            self._progress(progress)


class _UselessError(Exception):
    """What an extraction has left that was cut short cannot be used: the layer has several entries of one name."""


def _identity(blob: Any) -> str:
    """The name that stands for the bytes of a blob on its way, and for no others."""
    return str(getattr(blob, "identity", ""))


@contextmanager
def _naming(blob: Any, layer: LayerSource) -> Iterator[Any]:
    """A descriptor has no name for messages: the layer has."""
    if not isinstance(blob, int):
        yield blob
        return
    with io.FileIO(blob, closefd=False) as file:
        file.name = f"layer {layer.digest or layer.diff_id}"
        yield file


class _NotInThisFormatError(UnsafeEntryError):
    """A device 0:0, which other drivers can keep."""


@contextmanager
def _next_step() -> Iterator[None]:
    try:
        yield
    except UnsafeEntryError as exc:
        if not str(exc).endswith("on overlay"):
            raise
        raise _NotInThisFormatError(f"{exc}: unpack the image with another driver (`--driver vfs`)") from exc
