"""A change table becomes a committed snapshot: its files are placed while its tar is hashed."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from fastlayer.errors import AlreadyExistsError, NotFoundError, UnsafeEntryError
from fastlayer.image.holders import Nowhere
from fastlayer.layer.compression import codec
from fastlayer.layer.output import Output
from fastlayer.layer.pipeline import Stopped, checkpoint, default_jobs
from fastlayer.layer.placing import Placed, place
from fastlayer.layer.progress import Reporter
from fastlayer.layer.writer import Layer, write_layer

if TYPE_CHECKING:
    from pathlib import Path

    from fastlayer import _backend
    from fastlayer.layer.apply import Format
    from fastlayer.metadata.leases import Lease
    from fastlayer.snapshot.snapshotter import Snapshotter


def placed_layer(
    snapshotter: Snapshotter,
    lease: Lease,
    name: str,
    parent: str | None,
    table: _backend.ChangeTable,
    roots: Sequence[int],
    *,
    source_date_epoch: int | None = None,
    jobs: int | None = None,
    about: str,
    ignore_chown: bool = False,
    skip_devices: bool = False,
) -> Layer:
    """The committed snapshot ``name`` on ``parent`` with what ``table`` changes, and its layer, whose tar is not kept.

    ``table``, ``roots``: see ``layer.placing.place``. ``source_date_epoch``: seconds; later mtimes become it, in both.
    Without a parent the table needs a row of kind A for the root, or the snapshot does not give the same layer again.
    ``about``: what the layer is of, for messages. Warnings of the placing are the layer's.

    Raises what ``place`` and ``write_layer`` raise; then no snapshot is left.
    """
    work = _Placing(snapshotter, lease, name, parent, table, roots, source_date_epoch, default_jobs(jobs), about)
    work.ignore_chown, work.skip_devices = ignore_chown, skip_devices
    try:
        return work.run()
    except BaseException:
        work.undo()
        raise


class _Placing:
    ignore_chown = skip_devices = False

    def __init__(
        self,
        snapshotter: Snapshotter,
        lease: Lease,
        name: str,
        parent: str | None,
        table: _backend.ChangeTable,
        roots: Sequence[int],
        clamp: int | None,
        jobs: int,
        about: str,
    ) -> None:
        self._snapshotter = snapshotter
        self._lease = lease
        self._name, self._parent = name, parent
        self._key = f"place-{lease.id}-{name}"
        self._table, self._roots, self._clamp, self._jobs, self._about = table, list(roots), clamp, jobs, about
        self._prepared = False

    def run(self) -> Layer:
        independent = self._snapshotter.driver.independent
        self._prepare(None if independent else self._parent)
        number, parents = self._snapshotter.number(self._key)
        with self._snapshotter.driver.layer_target(number, parents) as target:
            layer, placed = self._place_and_hash(target.path, target.format)
        rebase = self._parent if independent else None
        if independent and placed.needs_lower and self._parent is not None:
            placed = self._place_on_top()
            rebase = None
        self._commit(rebase)
        return layer._replace(warnings=placed.warnings)

    def _prepare(self, parent: str | None) -> None:
        self._snapshotter.prepare(self._key, parent, lease=self._lease)
        self._prepared = True

    def undo(self) -> None:
        if self._prepared:
            self._prepared = False
            with suppress(NotFoundError):  # an interrupt may come when it is committed already
                self._snapshotter.remove(self._key)

    def _commit(self, rebase: str | None) -> None:
        try:
            self._snapshotter.commit(self._name, self._key, parent=rebase, lease=self._lease)
            self._prepared = False
        except AlreadyExistsError:  # another process was faster
            self.undo()

    def _place_on_top(self) -> Placed:
        """Onto the parent as it is seen; the kernel notes what it takes from it (image/unpack.py)."""
        from fastlayer.mounts.mounting import private

        self.undo()
        self._prepare(self._parent)
        (mount,) = self._snapshotter.ready(self._key)
        with private(mount) as path:
            return self._place(path, "dir", checkpoint)

    def _place(self, target: Path, format: Format, look: Callable[[], None]) -> Placed:
        try:
            return place(
                self._table,
                self._roots,
                target,
                format=format,
                clamp_mtime=self._clamp,
                ignore_chown=self.ignore_chown,
                skip_devices=self.skip_devices,
                jobs=self._jobs,
                checkpoint=look,
            )
        except UnsafeEntryError as exc:  # that the tree can have and the driver's format cannot
            raise UnsafeEntryError(
                f"{self._about}: {exc}: leave it out, or use another driver (`--driver vfs`)"
            ) from exc

    def _place_and_hash(self, target: Path, format: Format) -> tuple[Layer, Placed]:
        """The caller's thread hashes, and hears Ctrl-C. Nobody writes into the target when this is left."""
        placed: list[Placed] = []
        failed: list[BaseException] = []
        stop = threading.Event()

        def look() -> None:
            if stop.is_set():
                raise Stopped

        def run() -> None:
            try:
                look()
                placed.append(self._place(target, format, look))
            except BaseException as exc:
                failed.append(exc)

        thread = threading.Thread(target=run, daemon=True)
        try:
            thread.start()
            layer = self._hash(failed)
        except BaseException:
            stop.set()
            raise
        finally:
            if thread.is_alive():
                thread.join()
            if failed and not isinstance(failed[0], Stopped):
                raise failed[0] from None
        return layer, placed[0]

    def _hash(self, failed: list[BaseException]) -> Layer:
        with Output(Nowhere()) as output:
            return write_layer(
                self._table,
                self._roots,
                output,
                codec("none"),
                clamp_mtime=self._clamp,
                jobs=self._jobs,
                report=_Stopping(failed),
            )


class _Stopping(Reporter):
    """Ends the hashing when the placing has failed."""

    def __init__(self, failed: list[BaseException]) -> None:
        super().__init__(None)
        self._failed = failed

    def update(self, stage: str, entries: int, done: int, total: int | None = None) -> None:
        checkpoint()
        if self._failed:
            raise Stopped
