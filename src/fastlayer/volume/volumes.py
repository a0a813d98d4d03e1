"""The volumes of a store: making, finding, removing them. What programs and the command work with."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastlayer._checked import mapping, text
from fastlayer._values import NamedTuple
from fastlayer.errors import AlreadyExistsError, FastlayerError, InUseError, NotFoundError, UsageError, show_path
from fastlayer.volume import books, copies, imaged, lock, populate, sizes, subpath, use
from fastlayer.volume.books import LOCAL, Snapshot, User, Volume
from fastlayer.volume.local import Local
from fastlayer.volume.names import ANONYMOUS, TEMPORARY, check_name, is_name, new_name
from fastlayer.volume.options import parse
from fastlayer.volume.registry import driver_of
from fastlayer.volume.trees import Copied

if TYPE_CHECKING:
    from fastlayer.layer.types import LayerSource, Output
    from fastlayer.layer.writer import Layer
    from fastlayer.store.store import Store

NOTHING: Mapping[str, str] = {}


class Details(NamedTuple):
    """Where a volume is (None: nowhere now), what its driver says of it, and who has it."""

    volume: Volume
    path: Path | None
    scope: str
    status: Mapping[str, Any]
    users: tuple[User, ...]


class Volumes:
    """The volumes of an open store. Every change is safe against being killed, and against others at work."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.copied: Copied | None = None
        """How the last ``create``, ``clone``, ``snapshot``, ``restore`` or ``import_archive`` has copied something;
        None: it did not."""

    # ---- making ------------------------------------------------------------------------------

    def create(
        self,
        name: str | None = None,
        *,
        driver: str = LOCAL,
        options: Mapping[str, str] = NOTHING,
        labels: Mapping[str, str] = NOTHING,
        fill: Callable[[Path], object] | None = None,
    ) -> Volume:
        """Makes a volume; without a ``name`` an anonymous one. One that is there already is returned as it is.

        ``options``: the driver's, of ``local`` those in ``fastlayer.volume.options``. ``fill``: of a new volume of the
        driver ``local`` whose files are the store's: called with its directory before anybody can find it.
        Raises ``UsageError`` for what is no name or option, ``AlreadyExistsError`` when the name is taken by a volume
        of another driver or with other options, and what the driver raises; nothing is left then.
        """
        labels, options, driver = _checked_labels(labels), mapping("options", options), text("driver", driver)
        if name is None:
            name, labels = new_name(), {**labels, ANONYMOUS: ""}
        check_name(name)
        self.copied = None
        keeper = driver_of(self.store, driver)
        with lock.alone(self.store, name):
            known = self._existing(name, driver, options)
            if known is not None and fill is not None:
                raise AlreadyExistsError(f"volume {name}: exists already: choose another name")
            if known is not None:
                return known
            clear_dead(self.store, only=name)
            new = Volume(name, driver, options, labels, time.time_ns())
            if driver != LOCAL and _is_there(keeper, name):
                books.adopt(self.store, new)
                return new
            with self.store.lease(f"create volume {name}") as lease:
                books.begin(self.store, lease, new)
                try:
                    keeper.create(name, options)
                    if fill is not None and isinstance(keeper, Local):
                        keeper.fill(name, fill)
                except BaseException:
                    books.forget(self.store, name)
                    raise
                books.finish(self.store, name)
        if isinstance(keeper, Local):
            self.copied = keeper.copied
        return books.find(self.store, name)

    def _existing(self, name: str, driver: str, wanted: Mapping[str, str]) -> Volume | None:
        try:
            known = books.find(self.store, name)
        except NotFoundError:
            return None
        if known.driver != driver:
            raise AlreadyExistsError(f"volume {name}: exists with the driver {known.driver}: choose another name")
        if wanted and dict(wanted) != dict(known.options):
            raise AlreadyExistsError(
                f"volume {name}: exists with other options: choose another name, or leave them out"
            )
        return known

    def clone(self, source: str, name: str, *, labels: Mapping[str, str] | None = None) -> Volume:
        """A new volume of the driver ``local`` with all that ``source``, of any driver, holds now.

        ``copied`` tells how. It has the limit of the source, and its labels unless others are given.
        """
        known = books.find(self.store, source)
        given = {"clone": source}
        if known.driver == LOCAL and "size" in known.options and not parse(known.options).is_mounted:
            given["size"] = known.options["size"]
        kept = {key: value for key, value in known.labels.items() if key != ANONYMOUS}
        self._refuse_taken(name)
        return self.create(name, options=given, labels=kept if labels is None else labels)

    def _refuse_taken(self, name: str) -> None:
        check_name(name)
        if any(volume.name == name for volume in self.all()):
            raise AlreadyExistsError(f"volume {name}: exists already: choose another name")

    # ---- finding -----------------------------------------------------------------------------

    def find(self, name: str) -> Volume:
        """Raises ``NotFoundError``."""
        return books.find(self.store, text("the name of a volume", name))

    def all(self) -> list[Volume]:
        """All volumes, by name."""
        return books.all_of(self.store)

    def details(self, name: str) -> Details:
        """What is known of a volume; its driver is asked. Raises ``NotFoundError``, and what the driver raises."""
        volume = self.find(name)
        keeper = driver_of(self.store, volume.driver)
        status = keeper.status(name)
        return Details(volume, keeper.path(name), keeper.scope, status, tuple(books.users_of(self.store, name)))

    def path(self, volume: Volume) -> Path | None:
        """Where its files are seen now; its driver is asked."""
        return driver_of(self.store, volume.driver).path(volume.name)

    def in_use(self) -> set[str]:
        """The volumes that somebody has."""
        return {user.volume for user in books.users_of(self.store)}

    def size(self, volume: Volume) -> int | None:
        """Bytes it takes on disk, snapshots included; None where its files are not the store's, or cannot be seen."""
        return sizes.size(self.store, volume)

    # ---- removing ----------------------------------------------------------------------------

    def remove(self, name: str, *, force: bool = False) -> None:
        """Removes the volume with its data and snapshots. Raises ``InUseError`` while somebody has it.

        ``force``, as Docker's: one that is not there is no error, one whose driver fails or is gone is forgotten; one
        that is in use is refused as without.
        """
        try:
            volume = self.find(name)
        except NotFoundError:
            if force:
                return
            raise
        use.release_dead(self.store, name)
        with lock.alone(self.store, name):
            with self.store.lease(f"remove volume {name}") as lease:
                books.doom(self.store, lease, name)
                try:
                    driver_of(self.store, volume.driver).remove(name)
                except FastlayerError:
                    if not force:
                        books.finish(self.store, name)  # it is there still
                        raise
                books.forget(self.store, name)
            lock.forget(self.store, name)

    def prune(
        self,
        *,
        named: bool = False,
        dry_run: bool = False,
        meant: Callable[[Volume], bool] = lambda _volume: True,
    ) -> list[tuple[Volume, int]]:
        """Removes anonymous volumes that nobody has - with ``named`` all - and returns them with the bytes they took.

        As Docker does, those of the driver ``local`` only: others may have users elsewhere. ``dry_run``: only tells.
        ``meant``: those that may go. What others begin to use meanwhile is passed over.
        """
        if not dry_run:
            clear_dead(self.store)
        used, gone = self.in_use(), []
        for volume in self.all():
            if volume.driver != LOCAL or volume.name in used or not (named or volume.anonymous) or not meant(volume):
                continue
            size = self.size(volume) or 0
            try:
                if not dry_run:
                    self.remove(volume.name)
                gone.append((volume, size))
            except (InUseError, NotFoundError):
                pass
        return gone

    # ---- copies, archives, use: see the modules ----------------------------------------------

    def snapshot(self, name: str, state: str) -> Copied:
        """Gives what the volume holds now a name, to be restored or cloned later (``fastlayer.volume.copies``)."""
        self.copied = copies.snapshot(self.store, name, state)
        return self.copied

    def snapshots(self, name: str) -> list[Snapshot]:
        """The named states of a volume, oldest first."""
        return copies.snapshots(self.store, name)

    def remove_snapshot(self, name: str, state: str) -> None:
        """Raises ``NotFoundError``."""
        copies.remove_snapshot(self.store, name, state)

    def restore(self, name: str, state: str) -> Copied:
        """The volume holds again what it held then. Raises ``InUseError`` while somebody works with its files."""
        self.copied = copies.restore(self.store, name, text("the name of a snapshot", state))
        return self.copied

    def export(self, name: str, output: Output, *, compression: str | None = None) -> Layer:
        """Writes the files of a volume as a tar or an artifact of a layout (``fastlayer.volume.archive``)."""
        from fastlayer.volume import archive

        return archive.export(self, name, output, compression=compression)

    def import_archive(
        self,
        name: str,
        source: LayerSource,
        *,
        options: Mapping[str, str] = NOTHING,
        labels: Mapping[str, str] | None = None,
    ) -> Volume:
        """A new volume with what a tar or an artifact holds (``fastlayer.volume.archive``).

        ``options``: ``size``, if any; ``labels``: default those of the artifact.
        """
        from fastlayer.volume import archive

        self._refuse_taken(name)
        return archive.import_archive(self, name, source, options=options, labels=labels)

    def hold(self, name: str, user: str) -> None:
        """``user`` has the volume without needing its files now (``fastlayer.volume.use``)."""
        use.hold(self.store, name, user)

    def acquire(self, name: str, user: str, *, subpath: str = "", read_only: bool = False) -> Path:
        """The directory of the volume for ``user``, until ``release`` (``fastlayer.volume.use``)."""
        return use.acquire(self.store, name, user, subpath=subpath, read_only=read_only)

    def release(self, user: str, name: str | None = None, *, keep: bool = False) -> None:
        """``user`` needs the volume, or all it has, no more (``fastlayer.volume.use``)."""
        use.release(self.store, user, name, keep=keep)

    def populate(self, name: str, image_root: str | os.PathLike[str], path: str, *, nocopy: bool = False) -> bool:
        """Fills an empty volume with a directory of an image's tree (``fastlayer.volume.populate``)."""
        return populate.populate(self.store, name, image_root, path, nocopy=nocopy)


@contextmanager
def volumes(root: str | os.PathLike[str] | None = None, *, driver: str | None = None) -> Iterator[Volumes]:
    """The volumes of the store at ``root``, which is made when it is not there::

        with fastlayer.volumes() as found:
            found.create("data", labels={"of": "me"})
            path = found.acquire("data", "job-1")

    ``driver``: the storage driver for volumes that are made of images.
    """
    from fastlayer.store.store import open_store

    with open_store(root, driver=driver) as store:
        yield Volumes(store)


def clear_dead(store: Store, *, only: str | None = None) -> int:
    """Undoes what killed processes were making, finishes what they were removing; returns how many went.

    ``only``: of that name, whose lock the caller has.
    """
    cleared = 0
    for entry in books.left_by_the_dead(store):
        name = entry.volume.name
        if only is None:
            with lock.alone(store, name):
                cleared += _clear(store, entry)
        elif only == name:
            cleared += _clear(store, entry)
    if only is None:
        use.release_dead(store)
        cleared += _clear_temporary(store)
        cleared += imaged.sweep(store) + copies.sweep(store)
        _sweep_locks(store)
        subpath.sweep(store, {(user.user, user.volume) for user in books.users_of(store)})
    return cleared


def _clear_temporary(store: Store) -> int:
    """Volumes that were made for a process which was killed."""
    cleared = 0
    for volume in books.all_of(store):
        owner = volume.labels.get(TEMPORARY)
        if owner is not None and not books.is_alive(owner):
            with suppress(InUseError, NotFoundError):
                Volumes(store).remove(volume.name)
                cleared += 1
    return cleared


def _sweep_locks(store: Store) -> None:
    """Of names that are no volume's."""
    for name in lock.names(store):
        if is_name(name) and not books.is_known(store, name):
            with lock.alone(store, name):
                if not books.is_known(store, name):
                    lock.forget(store, name)


def _clear(store: Store, entry: books.Unfinished) -> bool:
    with store.lease(f"clear volume {entry.volume.name}") as lease:
        if not books.take_over(store, lease, entry):
            return False
        if entry.volume.driver == LOCAL or entry.state == "removing":
            try:
                driver_of(store, entry.volume.driver).remove(entry.volume.name)
            except FastlayerError:
                if entry.volume.driver == LOCAL:
                    raise
        books.forget(store, entry.volume.name)
    return True


def _is_there(keeper: Any, name: str) -> bool:
    """Whether a driver has the volume already, made by somebody else."""
    try:
        keeper.status(name)
    except NotFoundError:
        return False
    return True


def _checked_labels(given: Mapping[str, str]) -> dict[str, str]:
    labels = mapping("labels", given)
    for key, value in labels.items():
        if not key or "=" in key or "\0" in key + value:
            raise UsageError(f"label {show_path(key) or repr(key)}: give a name without `=`")
    return labels
