"""What the driver remembers below its root: how the pool was made, which snapshots there are, what was under way.

::

    pool.json        the options of the pool and its identity, written once
    base             there when the base file system is complete
    journal          the change of the pool that is under way, or was the last one
    snapshots/N      one small file per snapshot, from before its thin device is made until after that is deleted
    lock             flock(2) around everything that talks to the pool

The pool counts its changes (its transaction id); the journal names the next one before the pool is told. So after a
kill -9 at any instant the next process knows which change may be half done, and a pool that does not belong to these
books (restored from elsewhere, wiped) is refused instead of used.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fastlayer._values import NamedTuple
from fastlayer.drivers.devicemapper.dmsetup import locked_with
from fastlayer.drivers.devicemapper.options import Options
from fastlayer.errors import CorruptStoreError, StorageError


class PoolBook(NamedTuple):
    """``identity`` is in the names of all devices of the pool; ``uuid`` of nothing else on this machine."""

    identity: str
    options: Options


class SnapshotBook(NamedTuple):
    """``device``: the thin device in the pool - a view uses its parent's. ``size``: bytes of the device.

    ``made_ns``: when it was the same as its parent, in nanoseconds since 1970.
    """

    device: int
    size: int
    sealed: bool = False
    made_ns: int = 0


class Change(NamedTuple):
    """A change of the pool. ``transaction``: the pool's id when it is done. ``source``: a device to resume, or none."""

    transaction: int
    what: str
    number: int
    source: str = ""


class Books:
    """The files; everything that writes is called under ``lock``."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._snapshots = root / "snapshots"

    @contextmanager
    def lock(self) -> Iterator[None]:
        """One process (and thread) at a time; the kernel drops the lock when all who hold it are dead."""
        fd = os.open(self.root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            with locked_with(fd):
                yield
        finally:
            os.close(fd)

    # ---- the pool ----------------------------------------------------------------------------

    def pool(self) -> PoolBook | None:
        """None when no pool was made yet."""
        found = self._read(self.root / "pool.json")
        if found is None:
            return None
        try:
            return PoolBook(str(found.pop("identity")), Options(**found))
        except (KeyError, TypeError):
            raise self._damaged(self.root / "pool.json") from None

    def make_pool(self, options: Options) -> PoolBook:
        book = PoolBook(os.urandom(6).hex(), options)
        self._snapshots.mkdir(exist_ok=True)
        self._write(self.root / "pool.json", {"identity": book.identity, **options._asdict()})
        return book

    @property
    def has_base(self) -> bool:
        return (self.root / "base").exists()

    def set_base(self) -> None:
        self._write(self.root / "base", {})

    def journal(self) -> Change | None:
        found = self._read(self.root / "journal")
        try:
            return None if found is None else Change(**found)
        except TypeError:
            raise self._damaged(self.root / "journal") from None

    def set_journal(self, change: Change) -> None:
        self._write(self.root / "journal", change._asdict())

    # ---- snapshots ---------------------------------------------------------------------------

    def snapshot(self, number: int) -> SnapshotBook | None:
        found = self._read(self._snapshots / str(number))
        try:
            return None if found is None else SnapshotBook(**found)
        except TypeError:
            raise self._damaged(self._snapshots / str(number)) from None

    def set_snapshot(self, number: int, book: SnapshotBook) -> None:
        self._write(self._snapshots / str(number), book._asdict())

    def drop_snapshot(self, number: int) -> None:
        (self._snapshots / str(number)).unlink(missing_ok=True)

    def numbers(self) -> set[int]:
        try:
            return {int(name) for name in os.listdir(self._snapshots) if name.isdigit()}
        except FileNotFoundError:
            return set()

    # ---- files -------------------------------------------------------------------------------

    def _read(self, path: Path) -> dict[str, Any] | None:
        try:
            found = json.loads(path.read_bytes())
        except FileNotFoundError:
            return None
        except ValueError:
            raise self._damaged(path) from None
        if not isinstance(found, dict):
            raise self._damaged(path)
        return found

    def _write(self, path: Path, value: dict[str, Any]) -> None:
        """On disk, whole, when this returns: the pool is told afterwards."""
        new = path.with_name(path.name + ".new")
        try:
            with open(new, "w") as file:
                json.dump(value, file)
                file.flush()
                os.fsync(file.fileno())
            os.rename(new, path)
            folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except OSError as exc:
            raise StorageError(exc.errno or 0, "cannot write", os.fspath(path)) from exc

    def _damaged(self, path: Path) -> CorruptStoreError:
        return CorruptStoreError(f"{path}: damaged: restore it, or remove the snapshots of this driver and its root")
