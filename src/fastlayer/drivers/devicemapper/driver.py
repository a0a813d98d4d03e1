"""``devicemapper``: a thin device per snapshot, block for block copy-on-write below a file system of its own.

What a kill -9 leaves is told by the books (``books.py``); how the pool is kept by ``pool.py``.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from fastlayer.drivers.devicemapper import deltas, dmsetup, filesystem
from fastlayer.drivers.devicemapper.books import SnapshotBook
from fastlayer.drivers.devicemapper.dmsetup import SECTOR, PoolStatus
from fastlayer.drivers.devicemapper.filesystem import ROOTFS
from fastlayer.drivers.devicemapper.options import Options, check
from fastlayer.drivers.devicemapper.pool import BASE, MAX_DEVICE, Pool
from fastlayer.drivers.devicemapper.probing import probe
from fastlayer.drivers.paths import require
from fastlayer.drivers.plain import Plain
from fastlayer.errors import CorruptStoreError, DriverError, InUseError, StorageError
from fastlayer.mounts.mount import Mount
from fastlayer.snapshot.driver import NO_OPTIONS, Kind, LayerTarget, Probe, State, Usage
from fastlayer.snapshot.driver import Options as StorageOptions

if TYPE_CHECKING:
    from fastlayer.layer.diff import Changes


class DeviceMapper(Plain):
    """The driver below ``root``. ``options``: how to make the pool, by default from ``FASTLAYER_DM_*``."""

    name = "devicemapper"
    independent = False
    directories = False

    def __init__(self, root: Path, options: Options | None = None) -> None:
        if options is not None:
            check(options)
        self.root = root
        self._pool = Pool(root, options)
        self._books = self._pool.books

    @classmethod
    def probe(cls, root: Path) -> Probe:
        """Makes a small pool with one thin device on files below ``root``, and takes it away again."""
        return probe(root)

    # ---- making ------------------------------------------------------------------------------

    def create(self, number: int, parents: Sequence[int], kind: Kind, *, size: int | None = None) -> None:
        """``size``: bytes of the whole file system, those of its parents included; never less than the parent's.

        Raises ``NoSpaceError`` below the low-water mark of the pool.
        """
        with self._pool.held() as status:
            if kind == "view":
                self._make_view(number, parents[0])
                return
            self._pool.need_space(status)
            status = self._pool.with_base(status)
            book = self._settled(parents[0]) if parents else self._base()
            larger = self._larger(book.size, size)
            made = SnapshotBook(_device(number), larger or book.size, made_ns=time.time_ns())
            self._books.set_snapshot(number, made)
            self._pool.add(status, number, book.device)
            if larger:
                self._pool.activate(number, made, writable=True)
        if larger:
            filesystem.grow(self._kind, self._pool.path_of(number))

    def _base(self) -> SnapshotBook:
        return SnapshotBook(BASE, self._pool.options.base_size, sealed=True)

    def _make_view(self, number: int, parent: int) -> None:
        """A view is one more read-only device over the thin device of its parent: the pool does not notice."""
        below = self._settled(parent)
        self._books.set_snapshot(number, SnapshotBook(below.device, below.size, sealed=True, made_ns=time.time_ns()))

    def _larger(self, least: int, size: int | None) -> int | None:
        """The size of a device that must grow, in whole blocks of the pool."""
        if size is None or size == least:
            return None
        if size < least:
            raise DriverError(
                f"size {size}: cannot be smaller than the file system of its parent: give {least} bytes or more"
            )
        block = self._pool.options.block_size
        return -(-size // block) * block

    def _settled(self, number: int) -> SnapshotBook:
        """A committed snapshot, sealed: the process that committed it may have been killed before it was."""
        book = self._snapshot(number)
        return book if book.sealed else self._seal(number, book)

    def _snapshot(self, number: int) -> SnapshotBook:
        book = self._books.snapshot(number)
        if book is None:
            raise CorruptStoreError(f"{self.root}: snapshot {number} is gone: remove what is made of it, load it again")
        return book

    @property
    def _kind(self) -> str:
        return self._pool.options.file_system

    @contextmanager
    def layer_target(self, number: int, parents: Sequence[int]) -> Iterator[LayerTarget]:
        """A private mount of the device. Raises ``NoSpaceError`` when the pool ran full, however the block ended."""
        with self._pool.held():
            self._pool.activate(number, self._snapshot(number), writable=True)
        try:
            with filesystem.mounted(self._kind, self._pool.path_of(number)) as root:
                yield LayerTarget(root / ROOTFS, "dir")
        except (StorageError, OSError) as exc:
            self._explain_full(number, exc)
            raise
        finally:
            with self._pool.held(), suppress(InUseError):
                self._pool.deactivate(number)

    def _explain_full(self, number: int, cause: BaseException) -> None:
        with self._pool.held() as status:
            if status.mode != "rw":
                raise self._pool.lost_writes(number) from cause

    # ---- sealing -----------------------------------------------------------------------------

    def seal(self, number: int, parents: Sequence[int]) -> None:
        """Replays what is in the journal of its file system and takes the device away; from now on it is read-only.

        Raises ``InUseError`` while it is mounted, ``NoSpaceError`` while the pool is full: writes may be lost.
        """
        with self._pool.held() as status:
            book = self._snapshot(number)
            if book.sealed:
                return
            if status.mode != "rw":
                raise self._pool.lost_writes(number)
            self._seal(number, book)

    def _seal(self, number: int, book: SnapshotBook) -> SnapshotBook:
        found = self._pool.info(number)
        if found is not None and found.open:
            raise InUseError(f"snapshot {number}: {self._pool.path_of(number)} is mounted or open: unmount it first")
        if found is None:
            self._pool.start(number, book, writable=True)
        elif not found.live or found.readonly or found.suspended:
            self._pool.activate(number, book, writable=True)
        filesystem.recover(self._kind, self._pool.path_of(number))
        self._pool.deactivate(number)
        sealed = book._replace(sealed=True)
        self._books.set_snapshot(number, sealed)
        return sealed

    def duplicate(self, number: int, parents: Sequence[int], source: int, *, live: bool = False) -> int:
        """A thin snapshot of the source, whose file system is frozen for that moment if it is mounted."""
        with self._pool.held() as status:
            self._seal(number, self._copy(status, number, source))
        return 0

    def fork(
        self, number: int, parents: Sequence[int], source: int, *, size: int | None = None, live: bool = False
    ) -> int:
        """As ``duplicate``. A file system does not shrink: ``size`` is at least that of the source."""
        with self._pool.held() as status:
            least = self._snapshot(source).size
            larger = self._larger(least, size) if size is not None and size > least else None
            made = self._copy(status, number, source)
            if larger:
                made = made._replace(size=larger)
                self._books.set_snapshot(number, made)
                self._pool.activate(number, made, writable=True)
        if larger:
            filesystem.grow(self._kind, self._pool.path_of(number))
        return 0

    def _copy(self, status: PoolStatus, number: int, source: int) -> SnapshotBook:
        self._pool.need_space(status)
        book = self._snapshot(source)
        copy = SnapshotBook(_device(number), book.size, made_ns=book.made_ns)
        self._books.set_snapshot(number, copy)
        active = self._pool.info(source) is not None
        self._pool.add(status, number, book.device, source=self._pool.name_of(source) if active else "")
        return copy

    # ---- using -------------------------------------------------------------------------------

    def mounts(
        self,
        number: int,
        parents: Sequence[int],
        kind: State,
        options: StorageOptions = NO_OPTIONS,
    ) -> list[Mount]:
        """The tree is the directory ``rootfs`` of its file system; ``make_ready`` makes the device."""
        words = filesystem.mount_options(self._kind, readonly=kind != "active")
        return [Mount(self._kind, self._pool.path_of(number), words, subdirectory=ROOTFS)]

    def make_ready(
        self,
        number: int,
        parents: Sequence[int],
        kind: State,
        options: StorageOptions = NO_OPTIONS,
    ) -> None:
        """The device is there, and holds what it should."""
        writable = kind == "active"
        with self._pool.held():
            book = self._snapshot(number) if writable else self._settled(number)
            self._pool.activate(number, book, writable=writable)

    def changes(self, number: int, parents: Sequence[int]) -> Changes:
        """Walks the two trees; files that inode and ctime prove to be those of the parent are not read.

        The devices used for it go when the result is closed.
        """
        from fastlayer.layer.diff import diff, diff_snapshots

        with self._looked_at(number) as tree:
            if not parents:
                return diff(None, tree)
            book = self._snapshot(number)
            with self._looked_at(parents[0]) as parent:
                return diff_snapshots(parent, tree, shared_until_ns=book.made_ns)

    @contextmanager
    def _looked_at(self, number: int) -> Iterator[Path]:
        """The tree of a snapshot, read-only; files opened in it stay usable after the block."""
        with self._pool.held():
            book = self._snapshot(number)
            if not book.sealed:
                self._pool.activate(number, book, writable=True)
        if not book.sealed:
            with filesystem.looked_at(self._kind, self._pool.path_of(number)) as root:
                yield root / ROOTFS
            return
        name = self._pool.look_prefix(book.device) + os.urandom(4).hex()
        dmsetup.create(name, self._pool.thin_table(book), readonly=True)
        try:
            with filesystem.mounted(self._kind, dmsetup.path_of(name), readonly=True) as root:
                dmsetup.remove(name, deferred=True)  # it goes with its last user, also when that one is killed
                yield root / ROOTFS
        except BaseException:
            with suppress(StorageError):
                dmsetup.remove(name, deferred=True)
            raise

    def usage(self, number: int, parents: Sequence[int]) -> Usage:
        """Blocks of the pool that differ from the parent's: exact, by ``thin_delta``, for what has reached the device.

        Without that program the difference of what the two have mapped, which misses blocks that were overwritten.
        Inodes are not counted.
        """
        with self._pool.held():
            book = self._snapshot(number)
            if book.device != number:
                return Usage(0, 0)  # a view
            below = self._snapshot(parents[0]) if parents else self._base()
            if shutil.which("thin_delta"):
                blocks = deltas.own_blocks(self._pool.name, below.device, number)
                return Usage(blocks * self._pool.options.block_size, 0)
            return Usage(max(0, self._mapped(number, book) - self._mapped_of(parents, below)) * SECTOR, 0)

    def _mapped_of(self, parents: Sequence[int], below: SnapshotBook) -> int:
        return self._mapped(parents[0] if parents else BASE, below)

    def _mapped(self, number: int, book: SnapshotBook) -> int:
        """Sectors; the device is there for the question only if it was not before."""
        name = self._pool.name_of(number)
        fields = dmsetup.status(name)
        if fields is not None:
            return dmsetup.mapped_sectors(fields, name)
        self._pool.activate(number, book, writable=False)
        try:
            return dmsetup.mapped_sectors(dmsetup.status(name) or [], name)
        finally:
            self._pool.deactivate(number)

    def own_tree(self, number: int) -> Path | None:
        """In no directory."""
        return None

    def copy_up(self, number: int, parents: Sequence[int], paths: Sequence[bytes]) -> int:
        """Nothing to prepare: blocks are copied, not files. The paths must be there all the same."""
        with self._looked_at(number) as tree:
            require(tree, paths)
        return 0

    # ---- removing ----------------------------------------------------------------------------

    def remove(self, number: int) -> None:
        """Raises ``InUseError`` while it is mounted."""
        with self._pool.held_if_any() as status:
            if status is None:
                return
            self._pool.deactivate(number)
            book = self._books.snapshot(number)
            if book is None:
                return
            if book.device == number:
                self._pool.give_back(number, book)
                self._pool.delete(status, number)
            self._books.drop_snapshot(number)

    def set_aside(self, number: int) -> Path | None:
        """A device cannot be moved: one of its own, which may hold what is nowhere else, stays where it is."""
        book = self._books.snapshot(number)
        if book is not None and book.device == number:
            raise DriverError(f"snapshot {number}: may hold what is nowhere else, so it stays in the pool")
        return None

    def numbers(self) -> set[int]:
        return self._books.numbers()

    # ---- the pool ----------------------------------------------------------------------------

    def pool_status(self) -> PoolStatus:
        """How full the pool is (blocks), and whether it takes writes."""
        with self._pool.held() as status:
            return status

    def grow(self, data_size: int | None = None, metadata_size: int | None = None) -> PoolStatus:
        """Makes the pool larger while it is in use: see ``Pool.grow``. Sizes in bytes; None keeps a file's size."""
        with self._pool.held():
            return self._pool.grow(data_size, metadata_size)

    def stop(self) -> None:
        """Takes all devices, the pool and its loop devices away until they are needed again.

        Raises ``InUseError`` while a snapshot is mounted.
        """
        with self._pool.held_if_any() as status:
            if status is not None:
                self._pool.stop()


def _device(number: int) -> int:
    """The thin device of a snapshot. A thin pool has 24 bits for its name."""
    if not BASE < number <= MAX_DEVICE:
        raise DriverError(f"snapshot {number}: a thin pool numbers its devices up to {MAX_DEVICE}: start a new store")
    return number
