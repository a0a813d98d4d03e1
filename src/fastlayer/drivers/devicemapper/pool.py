"""The thin pool: set up by whoever comes first after a boot, changed under a lock, reconciled after a kill -9."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from fastlayer.drivers.devicemapper import dmsetup, filesystem, loop
from fastlayer.drivers.devicemapper.books import Books, Change, PoolBook, SnapshotBook
from fastlayer.drivers.devicemapper.deltas import node_of
from fastlayer.drivers.devicemapper.dmsetup import SECTOR, DeviceInfo, DmError, PoolStatus
from fastlayer.drivers.devicemapper.options import Options, check, from_environment
from fastlayer.errors import CorruptStoreError, DriverError, InUseError, NoSpaceError, StorageError

BASE = 0  # thin device that all snapshots without a parent are made of
MAX_DEVICE = (1 << 24) - 1
_MAGIC = b"\xba\x52\x9c\x01"  # of a thin pool's superblock, 27022010 little endian
_MAGIC_AT = 32
_GROW = "remove snapshots, or grow the pool (docs/drivers-devicemapper.md)"


class Pool:
    """The pool below one driver's root. Everything but ``name_of`` is called within ``held``."""

    def __init__(self, root: Path, options: Options | None = None) -> None:
        self.root = root
        self.books = Books(root)
        self._options = options
        self._book: PoolBook | None = None

    # ---- names -------------------------------------------------------------------------------

    @property
    def book(self) -> PoolBook:
        """Raises ``DriverError`` when no pool was made yet."""
        if self._book is None:
            self._book = self.books.pool()
        if self._book is None:
            raise DriverError(f"{self.root}: has no thin pool yet: it is made with the first snapshot")
        return self._book

    @property
    def options(self) -> Options:
        return self.book.options

    @property
    def name(self) -> str:
        return f"fastlayer-{self.book.identity}-pool"

    def name_of(self, number: int) -> str:
        """The device-mapper name of a snapshot."""
        return f"fastlayer-{self.book.identity}-{number}"

    def path_of(self, number: int) -> str:
        return dmsetup.path_of(self.name_of(number))

    def look_prefix(self, number: int) -> str:
        """How the names of devices begin that are there for one look at a sealed snapshot."""
        return f"{self.name_of(number)}-look-"

    # ---- life --------------------------------------------------------------------------------

    @contextmanager
    def held(self) -> Iterator[PoolStatus]:
        """The pool, running and reconciled, for this process alone. Made when there is none."""
        with self.books.lock():
            yield self._running()

    @contextmanager
    def held_if_any(self) -> Iterator[PoolStatus | None]:
        """As ``held``; None, and nothing is made, when there is no pool yet."""
        with self.books.lock():
            yield None if self.books.pool() is None else self._running()

    def _running(self) -> PoolStatus:
        if self._book is None and self.books.pool() is None:
            options = self._options or from_environment()
            check(options)
            if options.metadata is not None:
                _refuse_used(options.metadata)
            self._book = self.books.make_pool(options)
        fields = dmsetup.status(self.name)
        if fields is not None and not fields:  # without a table: a dmsetup that was killed left it
            dmsetup.remove(self.name)
        if not fields:
            self._start()
            fields = dmsetup.status(self.name) or []
        return self._reconciled(dmsetup.pool_status(fields, self.name))

    def _start(self) -> None:
        data, metadata = self._devices()
        try:
            total = loop.device_size(data)
            table = self._table(total, _numbers(data), _numbers(metadata))
            dmsetup.create(self.name, table, keep=(data, metadata))
        except DmError as exc:
            raise DriverError(
                f"{self.root}: the thin pool does not start ({exc.text}): see dmesg; `thin_check` and `thin_repair` "
                "work on its metadata"
            ) from exc
        finally:
            os.close(data)  # the pool holds the devices from now on
            os.close(metadata)

    def _table(self, size: int, data: str, metadata: str) -> str:
        """Writes that find no space fail at once instead of waiting for it; fresh blocks are not zeroed."""
        block = self.options.block_size
        low_water = size // block * self.options.low_water // 100
        return (
            f"0 {size // block * block // SECTOR} thin-pool {metadata} {data} {block // SECTOR} {low_water} "
            "2 skip_block_zeroing error_if_no_space"
        )

    def _devices(self) -> tuple[int, int]:
        """Descriptors of the two block devices."""
        if self.options.data is not None and self.options.metadata is not None:
            first = _open_block(self.options.data, "FASTLAYER_DM_DATA")
            try:
                return first, _open_block(self.options.metadata, "FASTLAYER_DM_METADATA")
            except BaseException:
                os.close(first)
                raise
        first = loop.attach(self._file("data", self.options.data_size))
        try:
            return first, loop.attach(self._file("metadata", self.options.metadata_size))
        except BaseException:
            os.close(first)
            raise

    def _file(self, name: str, size: int) -> Path:
        """A sparse file, made when the pool is; one that is missing later is not made up for."""
        path = self.root / name
        if not path.exists():
            if self.books.journal() is not None:
                raise CorruptStoreError(f"{path}: is gone, and with it the snapshots of this driver: restore it")
            new = path.with_name(f"{name}.new")
            with open(new, "wb") as file:
                os.fchmod(file.fileno(), 0o600)
                file.truncate(size)
            new.rename(path)
        return path

    def stop(self) -> None:
        """Takes all devices and the pool away until they are needed again. Raises ``InUseError`` while one is open."""
        for name in dmsetup.names(f"fastlayer-{self.book.identity}-"):
            if name != self.name:
                self._take_away(name)
        try:
            dmsetup.remove(self.name)
        except DmError as exc:
            raise InUseError(f"{self.name}: is in use: unmount its snapshots first") from exc

    # ---- changes -----------------------------------------------------------------------------

    def _reconciled(self, status: PoolStatus) -> PoolStatus:
        """Ends what a killed process had begun; refuses a pool that these books are not about."""
        self._need_sound(status)
        last = self.books.journal()
        expected = last.transaction if last is not None else 0
        if status.transaction == expected:
            return status
        if last is None or status.transaction != expected - 1:
            raise CorruptStoreError(
                f"{self.root}: the thin pool is at change {status.transaction}, its books at {expected}: restore data, "
                "metadata and the driver's directory from the same moment"
            )
        if last.source:
            self._resume(last.source)
        dmsetup.message(self.name, "set_transaction_id", str(status.transaction), str(expected))
        return status._replace(transaction=expected)

    def _resume(self, name: str) -> None:
        found = dmsetup.info(name)
        if found is not None and found.suspended:
            dmsetup.resume(name)

    def _need_sound(self, status: PoolStatus) -> None:
        if status.needs_check or status.mode in ("ro", "Fail"):
            raise DriverError(
                f"{self.root}: the thin pool is read-only ({'needs a check' if status.needs_check else status.mode}): "
                f"unmount its snapshots, `dmsetup remove {self.name}`, then `thin_check --clear-needs-check-flag` or "
                "`thin_repair` its metadata, with more space for it if it was full"
            )

    def need_space(self, status: PoolStatus) -> None:
        """Raises ``NoSpaceError`` below the low-water mark: a write that fails half way costs more than one refused."""
        free = status.data_total - status.data_used
        if status.mode == "rw" and free * 100 > status.data_total * self.options.low_water:
            if (status.metadata_total - status.metadata_used) * 100 > status.metadata_total * 2:
                return
            raise self._full(f"{status.metadata_used} of {status.metadata_total} metadata blocks are used")
        raise self._full(f"{_percent(status)} % of its data is used")

    def _full(self, what: str) -> NoSpaceError:
        return NoSpaceError(errno.ENOSPC, f"thin pool: {what}: {_GROW}", os.fspath(self.root))

    def lost_writes(self, number: int) -> NoSpaceError:
        """The error for a snapshot that was written while the pool was full."""
        return NoSpaceError(
            errno.ENOSPC, f"thin pool ran full while snapshot {number} was written: {_GROW}", os.fspath(self.root)
        )

    def _change(self, status: PoolStatus, what: str, number: int, *words: str, source: str = "") -> PoolStatus:
        """One change: named in the journal, done, counted by the pool."""
        done = status.transaction + 1
        self.books.set_journal(Change(done, what, number, source))
        try:
            if source:
                dmsetup.message_while_suspended(source, self.name, *words)
            else:
                dmsetup.message(self.name, *words)
        finally:
            dmsetup.message(self.name, "set_transaction_id", str(status.transaction), str(done))
        return status._replace(transaction=done)

    def add(self, status: PoolStatus, device: int, origin: int | None, source: str = "") -> PoolStatus:
        """Makes a thin device: empty, or of ``origin``. One that is there already is an orphan of lost books.

        ``source``: the origin's device when someone may be writing to it; it is suspended meanwhile.
        """
        words = ("create_thin", str(device)) if origin is None else ("create_snap", str(device), str(origin))
        try:
            return self._change(status, "create", device, *words, source=source)
        except DmError as exc:
            if exc.errno == errno.EEXIST:
                status = self.delete(status._replace(transaction=status.transaction + 1), device)
                return self._change(status, "create", device, *words, source=source)
            if exc.errno == errno.ENOSPC:
                raise self._full("its metadata is full") from exc
            if exc.errno == errno.ENODATA or "No data" in exc.text:
                raise CorruptStoreError(f"{self.root}: thin device {origin} is gone from the pool: restore it") from exc
            raise

    def delete(self, status: PoolStatus, device: int) -> PoolStatus:
        """Deletes a thin device that is not active; one that is not there is no error."""
        try:
            return self._change(status, "delete", device, "delete", str(device))
        except DmError as exc:
            status = status._replace(transaction=status.transaction + 1)
            if exc.errno == errno.ENODATA:
                return status
            looks = dmsetup.names(self.look_prefix(device))
            if exc.errno != errno.EBUSY or not looks:
                raise
        for name in looks:  # of a process that was killed before it had mounted it
            self._take_away(name)
        return self.delete(status, device)

    def with_base(self, status: PoolStatus) -> PoolStatus:
        """The base file system, made once: mkfs costs more than all the rest."""
        if self.books.has_base:
            return status
        self.deactivate(BASE)
        status = self.add(status, BASE, None)
        self.activate(BASE, SnapshotBook(BASE, self.options.base_size), writable=True)
        try:
            filesystem.make(self.options.file_system, self.path_of(BASE))
        finally:
            self.deactivate(BASE)
        self.books.set_base()
        return status

    # ---- devices -----------------------------------------------------------------------------

    def thin_table(self, book: SnapshotBook) -> str:
        return f"0 {book.size // SECTOR} thin {dmsetup.path_of(self.name)} {book.device}"

    def info(self, number: int) -> DeviceInfo | None:
        return dmsetup.info(self.name_of(number))

    def activate(self, number: int, book: SnapshotBook, *, writable: bool) -> None:
        """Makes the device of a snapshot usable, if it is not yet, writable or not."""
        name, found = self.name_of(number), self.info(number)
        if found is not None and (not found.live or found.readonly == writable) and found.open == 0:
            dmsetup.remove(name)
            found = None
        if found is None:
            self.start(number, book, writable=writable)
        elif found.suspended:
            dmsetup.resume(name)
        else:
            dmsetup.make_node(name)

    def start(self, number: int, book: SnapshotBook, *, writable: bool) -> None:
        """``activate`` of a device that is not there."""
        dmsetup.make_node(self.name)
        dmsetup.create(self.name_of(number), self.thin_table(book), readonly=not writable)

    def deactivate(self, number: int) -> None:
        """Raises ``InUseError`` when it is mounted or open."""
        self._take_away(self.name_of(number))

    def _take_away(self, name: str) -> None:
        try:
            dmsetup.remove(name)
        except DmError as exc:
            if exc.errno == errno.EBUSY:
                raise InUseError(f"{dmsetup.path_of(name)}: is mounted or open: unmount it") from exc
            raise

    def give_back(self, number: int, book: SnapshotBook) -> None:
        """Before a deletion: space of the pool's file that only this snapshot uses goes back to the file's system.

        The pool itself gets it back by the deletion. The device is not there, before and after.
        """
        if self.options.data is not None:
            return
        with suppress(StorageError, OSError):
            self.start(number, book, writable=True)
            fd = os.open(self.path_of(number), os.O_RDWR | os.O_CLOEXEC)
            try:
                loop.discard(fd, loop.device_size(fd))
            finally:
                os.close(fd)
        self.deactivate(number)

    # ---- growing -----------------------------------------------------------------------------

    def grow(self, data_size: int | None = None, metadata_size: int | None = None) -> PoolStatus:
        """Makes the pool larger while it is in use: its files grow to these sizes (bytes) first; block devices must
        have been grown. A pool that was full takes writes again. Raises ``DriverError`` for a smaller size."""
        for name, size in (("data", data_size), ("metadata", metadata_size)):
            if size is not None:
                self._grow_file(name, size)
        metadata, data = dmsetup.run("table", self.name, device=self.name).split()[3:5]
        self._refreshed(metadata)
        size = self._refreshed(data)
        dmsetup.reload(self.name, self._table(size, data, metadata))
        dmsetup.resume(self.name)
        return dmsetup.pool_status(dmsetup.status(self.name) or [], self.name)

    def _refreshed(self, device: str) -> int:
        """The size of a device of the pool now, given as ``MAJOR:MINOR``."""
        fd = os.open(node_of(device), os.O_RDWR | os.O_CLOEXEC)
        try:
            if self.options.data is None:
                loop.refresh_size(fd)
            return loop.device_size(fd)
        finally:
            os.close(fd)

    def _grow_file(self, name: str, size: int) -> None:
        if self.options.data is not None:
            raise DriverError(f"{name}: the pool is on block devices: grow {self.options.data} (lvextend, ...) instead")
        path = self.root / name
        if size < path.stat().st_size:
            raise DriverError(f"{path}: a thin pool cannot shrink: give more than {path.stat().st_size} bytes")
        os.truncate(path, size)


def _percent(status: PoolStatus) -> int:
    return status.data_used * 100 // max(status.data_total, 1)


def _numbers(fd: int) -> str:
    device = os.fstat(fd).st_rdev
    return f"{os.major(device)}:{os.minor(device)}"


def _open_block(path: str, option: str) -> int:
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError as exc:
        raise DriverError(f"{option}={path}: {os.strerror(exc.errno or 0)}: give a block device of its own") from exc
    if os.fstat(fd).st_mode & 0o170000 != 0o060000:
        os.close(fd)
        raise DriverError(f"{option}={path}: is no block device: give one, or leave both out for files")
    return fd


def _refuse_used(metadata: str) -> None:
    """A new pool wants a metadata device that starts with zeros; what another pool left is never overwritten."""
    fd = _open_block(metadata, "FASTLAYER_DM_METADATA")
    try:
        head = os.pread(fd, 4096, 0)
    finally:
        os.close(fd)
    if head.strip(b"\0"):
        what = "another thin pool" if head[_MAGIC_AT : _MAGIC_AT + 4] == _MAGIC else "something"
        raise DriverError(
            f"FASTLAYER_DM_METADATA={metadata}: holds {what}: give another device, or zero its first 4096 bytes"
        )
