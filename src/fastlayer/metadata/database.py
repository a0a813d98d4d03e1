"""``metadata.db``: one SQLite file (WAL) that any number of processes use at once.

Every change is one transaction of ``Database.write``, which takes the write lock at its beginning (``BEGIN
IMMEDIATE``): what a transaction has read cannot change before it ends. A reader never waits. The version of the layout
is ``PRAGMA user_version``; opening a store of an older version brings it up to date, a newer one is refused.
"""

from __future__ import annotations

import errno
import os
import sqlite3
from _thread import _local  # threading.local, without the rest of threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fastlayer.errors import NoSpaceError, StorageError, StoreError, show_path
from fastlayer.metadata import readonly, spare
from fastlayer.metadata.migrations import MIGRATIONS

_WAIT_SECONDS = 60.0  # for the write lock, which is held for milliseconds
_BESIDE, _FILES_BESIDE = 128 << 10, 2  # -wal and -shm
_READ_ONLY = "make its file system writable again, or `save` its images to another one"
_CORRUPT = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
_LOST = ("no such", "Could not decode")  # tables, columns, text: what we ask for is there unless it was damaged


class Database:
    """An open ``metadata.db``; every thread that uses it gets a connection of its own.

    ``changed``: by this process; what concerns leases only, which end with it, does not count. ``read_only``: its file
    system cannot be written; ``write`` raises ``StorageError`` then. ``recovering``: by who puts a copy back, while all
    others are refused. Raises ``CorruptStoreError`` when it is damaged, or lost.
    """

    def __init__(self, path: Path, *, read_only: bool = False, recovering: bool = False) -> None:
        self.path = path
        self.read_only = read_only
        self.changed = False
        self._local = _local()
        self._opened: list[sqlite3.Connection] = []
        if not recovering:
            spare.refuse_unfinished(path)
        spare.refuse_lost(path)
        try:
            self._migrate()
        except BaseException:
            self.close()
            raise

    @property
    def _db(self) -> sqlite3.Connection:
        found: sqlite3.Connection | None = getattr(self._local, "db", None)
        if found is None:
            with _explained(self.path):
                found = readonly.connect(self.path) if self.read_only else _connect(self.path)
            self._local.db = found
            self._opened.append(found)
        return found

    @contextmanager
    def write(self, *, passing: bool = False) -> Iterator[sqlite3.Connection]:
        """One transaction: committed at the end of the block, undone when it raises.

        ``passing``: what it changes is worth nothing when this process has ended.
        """
        if self.read_only:
            raise StorageError(errno.EROFS, "cannot change the store", os.fspath(self.path), hint=_READ_ONLY)
        with _explained(self.path):
            before = self._db.total_changes
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")
            self.changed |= not passing and self._db.total_changes != before

    @contextmanager
    def read(self) -> Iterator[sqlite3.Connection]:
        """A consistent view: all statements of the block see the same state."""
        with _explained(self.path):
            if self._db.in_transaction:  # within a write, which sees itself
                yield self._db
                return
            self._db.execute("BEGIN")
            try:
                yield self._db
            finally:
                self._db.execute("ROLLBACK")

    def check(self) -> list[str]:
        """What SQLite itself finds wrong with the file; empty when sound."""
        try:
            found = [str(row[0]) for row in self._db.execute("PRAGMA integrity_check")]
        except sqlite3.DatabaseError as exc:
            return [str(exc)]
        return [] if found == ["ok"] else found

    def copy_to(self, target: Path, *, above: int) -> int | None:
        """Copies a consistent state to the new file ``target``; returns its ``data_version``.

        None, and no complete file, when it is damaged, or has given no number to a snapshot since ``above``: then it
        is older than it was. What makes sure that pages reach the disk is left out: see ``metadata/spare.py``.
        """
        with self.read() as db:
            if spare.last_number(db) < above or db.execute("PRAGMA quick_check(1)").fetchone()[0] != "ok":
                return None
            made = sqlite3.connect(os.fspath(target), isolation_level=None)
            try:
                made.execute("PRAGMA synchronous=OFF")
                made.execute("PRAGMA journal_mode=OFF")
                db.backup(made)
            finally:
                made.close()
            return self.data_version()

    def data_version(self) -> int:
        """Another number when another connection has changed something."""
        return int(self._db.execute("PRAGMA data_version").fetchone()[0])

    def close(self) -> None:
        """No thread may be using it any more."""
        while self._opened:
            self._opened.pop().close()
        self._local = _local()

    def _version(self) -> int:
        return int(self._db.execute("PRAGMA user_version").fetchone()[0])

    def _migrate(self) -> None:
        with _explained(self.path):
            version = self._version()
        if version > len(MIGRATIONS):
            raise StoreError(
                f"{show_path(os.fspath(self.path))}: made by a newer fastlayer (layout {version}, this one knows "
                f"{len(MIGRATIONS)}): upgrade fastlayer"
            )
        if version < len(MIGRATIONS):
            with self.write() as db:
                version = self._version()  # another process may have been faster
                if version == 0 and spare.copy_of(self.path).exists():
                    raise spare.DamagedError(self.path, "is empty")
                for number in range(version, len(MIGRATIONS)):
                    for statement in MIGRATIONS[number]:
                        db.execute(statement)
                db.execute(f"PRAGMA user_version={len(MIGRATIONS)}")
            self.changed = True


def _connect(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(os.fspath(path), timeout=_WAIT_SECONDS, isolation_level=None, check_same_thread=False)
    db.row_factory = sqlite3.Row
    db.execute("PRAGMA journal_mode=WAL")
    db.execute("PRAGMA synchronous=NORMAL")
    db.execute("PRAGMA foreign_keys=ON")
    return db


def _is_full(directory: Path) -> bool:
    """Without room for the files SQLite keeps beside the database it cannot even be read."""
    try:
        found = os.statvfs(directory)
    except OSError:
        return False
    return found.f_bavail * found.f_frsize < _BESIDE or (found.f_files > 0 and found.f_favail < _FILES_BESIDE)


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """SQLite's errors as ours."""
    name = show_path(os.fspath(path))
    try:
        yield
    except sqlite3.DatabaseError as exc:
        code = getattr(exc, "sqlite_errorcode", 0) & 0xFF
        if code in _CORRUPT or str(exc).startswith(_LOST):
            raise spare.DamagedError(path, str(exc)) from exc
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            raise StoreError(
                f"{name}: locked for more than {_WAIT_SECONDS:.0f} s by another process: try again"
            ) from exc
        refused = code in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN)
        if code == sqlite3.SQLITE_FULL or (refused and _is_full(path.parent)):
            raise NoSpaceError(errno.ENOSPC, "write", os.fspath(path)) from exc
        if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_PERM):
            raise StoreError(f"{name}: {exc}: check the permissions and space of the store's directory") from exc
        raise
