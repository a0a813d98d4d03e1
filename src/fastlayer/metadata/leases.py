"""Leases: who works in the store now, and what the garbage collector must leave to them.

A lease is a file ``leases/ID`` whose holder keeps it locked (flock(2)) for as long as it works. The kernel drops the
lock when the process ends, however it ends, in whichever pid namespace it ran; so a lock that can be taken proves that
the holder is dead, and nothing has to be guessed from process numbers or times.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from fastlayer.errors import StorageError

if TYPE_CHECKING:
    import sqlite3

    from fastlayer.metadata.database import Database

RefKind = Literal["blob", "snapshot"]


class Lease:
    """A held lease. What is added to it stays in the store at least until it is released."""

    def __init__(self, identity: str) -> None:
        self.id = identity

    def add(self, db: sqlite3.Connection, kind: RefKind, refs: Iterable[str]) -> None:
        """Within a write transaction: keeps blobs (digests) or snapshots (keys) from being collected."""
        db.executemany(
            "INSERT OR IGNORE INTO lease_refs (lease, kind, ref) VALUES (?, ?, ?)", [(self.id, kind, r) for r in refs]
        )


class Leases:
    """The leases of one store; ``directory`` holds their files."""

    def __init__(self, database: Database, directory: Path) -> None:
        self._database = database
        self._directory = directory

    @contextmanager
    def hold(self, what: str) -> Iterator[Lease]:
        """A lease for the block; ``what`` says to others what is being done (``load``, ``commit NAME``).

        Where nothing can be written nothing goes, either: then there is none to be had, and none is needed to read.
        """
        if self._database.read_only:
            yield Lease("read-only")
            return
        identity, fd = self._lock_new()
        try:
            with self._database.write(passing=True) as db:
                db.execute(
                    "INSERT INTO leases (id, pid, what, created_ns) VALUES (?, ?, ?, ?)",
                    (identity, os.getpid(), what, time.time_ns()),
                )
            yield Lease(identity)
        finally:
            try:
                with self._database.write(passing=True) as db:
                    forget(db, [identity])
            finally:
                self._unlink(identity)
                os.close(fd)

    def dead(self) -> list[str]:
        """Leases in the database whose holders are gone."""
        with self._database.read() as db:
            known = [str(row[0]) for row in db.execute("SELECT id FROM leases")]
        return [identity for identity in known if not self.alive(identity)]

    def alive(self, identity: str) -> bool:
        """Whether the holder still runs."""
        return is_held(self._directory / identity)

    def sweep(self) -> int:
        """Forgets dead leases and their files; returns how many. What they were making must be cleared before."""
        gone = self.dead()
        if gone:
            with self._database.write(passing=True) as db:
                forget(db, gone)
        for name in os.listdir(self._directory):
            if not self.alive(name):
                self._unlink(name)
        return len(gone)

    def _lock_new(self) -> tuple[str, int]:
        while True:
            identity = os.urandom(8).hex()
            path = self._directory / identity
            try:
                fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            except OSError as exc:
                raise StorageError(exc.errno or 0, "cannot write", os.fspath(path)) from exc
            fcntl.flock(fd, fcntl.LOCK_EX)
            if os.fstat(fd).st_nlink:  # a sweep may have taken the file for a dead one before it was locked
                return identity, fd
            os.close(fd)

    def _unlink(self, identity: str) -> None:
        try:
            os.unlink(self._directory / identity)
        except FileNotFoundError:
            pass


def is_held(path: Path) -> bool:
    """Whether the holder of the lease with this file still runs."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def forget(db: sqlite3.Connection, identities: Iterable[str]) -> None:
    """Within a write transaction: the leases are over. What they kept is kept by its users, or by nobody."""
    db.executemany("DELETE FROM leases WHERE id = ?", [(identity,) for identity in identities])
