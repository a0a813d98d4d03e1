"""``metadata.db.copy``: a spare copy of the database, which ``store check --repair`` puts back when that is damaged.

A process that changed the database makes it when it closes the store: by SQLite's backup, under a temporary name, then
renamed. It is a help and no promise: what a process that was killed did, or one that found no room, is not in it, and
who puts it back looks at what is really there (``maintenance/recover.py``). So nothing is flushed to the disk: a copy
that a crash of the machine tore fails its check and is not used, and the database itself is as good as ever then.

How often: always while the database is small; a larger one takes a moment, and its copy must be ``_REST`` times as old
as that moment is long, so that copying takes at most that part of anybody's time.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from fastlayer._values import NamedTuple
from fastlayer.errors import CorruptStoreError, StoreError, show_path
from fastlayer.metadata import readonly

if TYPE_CHECKING:
    from fastlayer.metadata.database import Database

DAMAGED = (
    "restore it, or move it and all files metadata.db* beside it aside and load the images again; writable layers stay "
    "on disk, in numbered folders of the driver's directory"
)
_SMALL = 256 << 10  # bytes: 2 ms
_SPEED = 150 << 20  # bytes of a larger one that are checked and copied in a second
_REST = 30
_ROOM = 2 << 20  # bytes that stay free: a store that is full must be able to work (store/reserve.py)
_TURNS = 3


class DamagedError(CorruptStoreError):
    """The database at ``path`` is damaged: ``why``."""

    def __init__(self, path: Path, why: str, advice: str = "") -> None:
        super().__init__(f"{show_path(os.fspath(path))}: {why}: {advice or advice_for(path)}")
        self.why = why


class Look(NamedTuple):
    """A database file that nobody writes to. ``sequence``: the last number a snapshot got; ``wrong``: "" when sound."""

    version: int
    sequence: int
    wrong: str


def copy_of(path: Path) -> Path:
    """Where the copy of the database ``path`` is."""
    return path.with_name(path.name + ".copy")


def mark_of(path: Path) -> Path:
    """A file that is there from before a copy is put back until what is on disk has been taken into it."""
    return path.with_name(path.name + ".recovery")


def made(path: Path) -> str | None:
    """When the copy of the database was made; None when there is none."""
    try:
        moment = copy_of(path).stat().st_mtime
    except OSError:
        return None
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(moment))


def advice_for(path: Path) -> str:
    """What to do about a damaged database."""
    when = made(path)
    return DAMAGED if when is None else f"`fastlayer store check --repair` puts back the copy of {when}"


def refuse_lost(path: Path) -> None:
    """Before a database is opened, which would make a new one: raises ``DamagedError`` when there was one."""
    if copy_of(path).exists():  # looked at first: another process may be making both
        try:
            empty = path.stat().st_size == 0
        except FileNotFoundError:
            raise DamagedError(path, "is missing") from None
        if empty:
            raise DamagedError(path, "is empty")


def refuse_unfinished(path: Path) -> None:
    """Raises ``CorruptStoreError`` while a copy is being put back."""
    if mark_of(path).exists():
        raise CorruptStoreError(
            f"{show_path(os.fspath(path))}: its copy is being put back, or that was interrupted: wait, or run "
            "`fastlayer store check --repair`"
        )


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Nobody else makes or puts back a copy. Raises ``BlockingIOError``, ``OSError``."""
    fd = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(fd)


def renew(database: Database) -> None:
    """After work: makes the copy if this process changed the database and it is time for one. Never raises.

    Whoever finds another process at it leaves it to that: it looks again when it is done.
    """
    if not database.changed:
        return
    with suppress(OSError, sqlite3.Error, StoreError):
        for _ in range(_TURNS):
            if not _is_due(database.path):
                return
            with alone(database.path):
                seen = _make(database)
            if seen is None or database.data_version() == seen:
                return


def _is_due(path: Path) -> bool:
    size = path.stat().st_size
    free = os.statvfs(path.parent)
    if free.f_bavail * free.f_frsize < size + _ROOM:
        return False
    if size <= _SMALL:
        return True
    try:
        age = time.time() - copy_of(path).stat().st_mtime
    except FileNotFoundError:
        return True
    return not 0 <= age < _REST * size / _SPEED


def _make(database: Database) -> int | None:
    """What was copied, as ``data_version`` tells it; None when it was not: it is damaged, or has lost what it had."""
    copy = copy_of(database.path)
    new = copy.with_name(copy.name + ".new")
    try:
        new.unlink(missing_ok=True)  # of a process that was killed
        os.close(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
        last = look(copy, thorough=False) if copy.exists() else None
        seen = database.copy_to(new, above=0 if last is None or last.wrong else last.sequence)
        if seen is not None:
            os.rename(new, copy)
        return seen
    finally:
        new.unlink(missing_ok=True)


def look(path: Path, *, thorough: bool = True) -> Look:
    """What a file is that nobody writes to; nothing is made beside it."""
    try:
        db = readonly.immutable(path)
        try:
            wrong = [str(row[0]) for row in db.execute("PRAGMA integrity_check")] if thorough else ["ok"]
            version = int(db.execute("PRAGMA user_version").fetchone()[0])
            return Look(version, last_number(db), "" if wrong == ["ok"] else wrong[0])
        finally:
            db.close()
    except sqlite3.Error as exc:
        return Look(0, 0, str(exc))


def last_number(db: sqlite3.Connection) -> int:
    """The last number that a snapshot got."""
    row = db.execute("SELECT seq FROM sqlite_sequence WHERE name = 'snapshots'").fetchone()
    return 0 if row is None else int(row[0])
