"""Directories that ``RUN --mount=type=cache`` keeps from build to build, outside of all layers.

::

    <root>/cache/mounts/NUMBER/data    the directory
    <root>/cache/mounts/NUMBER/lock    locked by who uses it: shared, or alone

Rows of ``cache_mounts`` name them by id; several may have one id, since ``sharing=private`` makes another while the
first is in use. What is locked is never pruned.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from fastlayer._values import NamedTuple
from fastlayer.content.files import explained
from fastlayer.errors import StorageError

if TYPE_CHECKING:
    from fastlayer.store.store import Store

Sharing = str  # shared, private or locked
MODE = 0o755  # of a new one
_PAUSE = 0.05  # seconds between attempts at a lock
_DATA, _LOCK = "data", "lock"


class CacheMount(NamedTuple):
    """One directory. ``used_ns``: when a step had it last."""

    number: int
    id: str
    created_ns: int
    used_ns: int


class Access(NamedTuple):
    """How a new directory is made: its mode and owner, and what is put into it."""

    mode: int = MODE
    uid: int = 0
    gid: int = 0
    seed: Callable[[Path], None] | None = None


def all_mounts(store: Store) -> list[CacheMount]:
    """The directories there are, oldest first."""
    with store.database.read() as db:
        rows = db.execute("SELECT number, id, created_ns, used_ns FROM cache_mounts ORDER BY number").fetchall()
    return [CacheMount(*row) for row in rows]


def data_of(store: Store, mount: CacheMount) -> Path:
    """The directory itself."""
    return _place(store, mount.number) / _DATA


@contextmanager
def use(store: Store, identity: str, sharing: Sharing, access: Access, check: Callable[[], None]) -> Iterator[Path]:
    """The directory of that id for the block, made when there is none.

    ``sharing``: ``shared``: others may have it at the same time; ``locked``: waits until nobody has; ``private``:
    another one when somebody has. ``check`` is called while it waits, and may raise. Raises ``StorageError``.
    """
    number, lock = _taken(store, identity, sharing, access, check)
    try:
        yield _place(store, number) / _DATA
        with store.database.write() as db:
            db.execute("UPDATE cache_mounts SET used_ns = ? WHERE number = ?", (time.time_ns(), number))
    finally:
        os.close(lock)


@contextmanager
def alone(
    store: Store, identity: str, check: Callable[[], None], waiting: Callable[[], None] = lambda: None
) -> Iterator[CacheMount | None]:
    """The directory of that id that was used last, while no step has it; None where there is none.

    ``waiting`` is called once if a step has it, ``check`` while it does, and may raise.
    """
    told = False
    while (mount := _latest(store, identity)) is not None:
        try:
            lock = _lock(store, mount.number, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, FileNotFoundError):
            if not told:
                waiting()
            told = True
            check()
            time.sleep(_PAUSE)
            continue
        try:
            if mount.number in _numbers(store, identity):
                yield mount
                return
        finally:
            os.close(lock)
    yield None


def _latest(store: Store, identity: str) -> CacheMount | None:
    found = [mount for mount in all_mounts(store) if mount.id == identity]
    return max(found, key=lambda mount: mount.used_ns, default=None)


def make_empty(place: Path) -> None:
    """What ``replace`` takes: a directory that is no cache mount yet."""
    _fill(place, Access())


def data_in(place: Path) -> Path:
    """Where its files are."""
    return place / _DATA


def replace(store: Store, identity: str, fresh: Path, old: CacheMount | None, *, used_ns: int) -> None:
    """``fresh`` becomes the directory of that id, in one step; ``old`` goes, which the caller has alone."""
    with explained("cannot make a cache mount", fresh), store.database.write() as db:
        row = db.execute("SELECT seq FROM sqlite_sequence WHERE name = 'cache_mounts'").fetchone()
        number = _free(store, (row[0] if row else 0) + 1)
        _place(store, number).parent.mkdir(parents=True, exist_ok=True)
        os.rename(fresh, _place(store, number))
        if old is not None:
            db.execute("DELETE FROM cache_mounts WHERE number = ?", (old.number,))
        db.execute(
            "INSERT INTO cache_mounts (number, id, created_ns, used_ns) VALUES (?, ?, ?, ?)",
            (number, identity, time.time_ns(), used_ns),
        )
    if old is not None:
        clear(_place(store, old.number))


def remove_others(store: Store, identity: str) -> None:
    """Of several directories of that id the latest made stays, and those that steps have."""
    for mount in [mount for mount in all_mounts(store) if mount.id == identity][:-1]:
        remove(store, mount)


def remove(store: Store, mount: CacheMount) -> bool:
    """Removes a directory unless a step has it; tells whether it did."""
    try:
        lock = _lock(store, mount.number, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except FileNotFoundError:
        lock = -1
    try:
        with store.database.write() as db:
            db.execute("DELETE FROM cache_mounts WHERE number = ?", (mount.number,))
        clear(_place(store, mount.number))
    finally:
        if lock >= 0:
            os.close(lock)
    return True


def _taken(store: Store, identity: str, sharing: Sharing, access: Access, check: Callable[[], None]) -> tuple[int, int]:
    """The number of a directory, and the descriptor that keeps it locked."""
    kind = fcntl.LOCK_SH if sharing == "shared" else fcntl.LOCK_EX
    while True:
        for number in _numbers(store, identity):
            try:
                lock = _lock(store, number, kind | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            except FileNotFoundError:  # being made, or removed
                continue
            if number in _numbers(store, identity):
                return number, lock
            os.close(lock)
        if sharing == "private" or not _numbers(store, identity):
            _make(store, identity, access, alone=sharing != "private")
        else:
            check()
            time.sleep(_PAUSE)


def _numbers(store: Store, identity: str) -> list[int]:
    with store.database.read() as db:
        rows = db.execute("SELECT number FROM cache_mounts WHERE id = ? ORDER BY number", (identity,)).fetchall()
    return [int(row[0]) for row in rows]


def _make(store: Store, identity: str, access: Access, *, alone: bool) -> None:
    """Complete before anybody can find it. ``alone``: unless somebody was faster."""
    fresh = _place(store, 0).with_name(f"new-{os.urandom(8).hex()}")
    try:
        _fill(fresh, access)
        with store.database.write() as db:
            if alone and db.execute("SELECT 1 FROM cache_mounts WHERE id = ?", (identity,)).fetchone():
                return
            moment = time.time_ns()
            row = db.execute("SELECT seq FROM sqlite_sequence WHERE name = 'cache_mounts'").fetchone()
            number = _free(store, (row[0] if row else 0) + 1)
            os.rename(fresh, _place(store, number))
            db.execute(
                "INSERT INTO cache_mounts (number, id, created_ns, used_ns) VALUES (?, ?, ?, ?)",
                (number, identity, moment, moment),
            )
    except OSError as exc:
        raise StorageError(exc.errno or errno.EIO, "cannot make a cache mount", os.fspath(fresh)) from exc
    finally:
        clear(fresh)


def _free(store: Store, number: int) -> int:
    """From ``number`` on: one may be there whose maker was killed before its row was written."""
    while _place(store, number).exists():
        number += 1
    return number


def _fill(place: Path, access: Access) -> None:
    from fastlayer.running.idmaps import give

    place.mkdir(parents=True, mode=0o700)
    data = place / _DATA
    data.mkdir()
    if access.seed is not None:
        access.seed(data)
    if os.geteuid() == 0:
        give(data, access.uid, access.gid)
    data.chmod(access.mode)
    (place / _LOCK).touch(mode=0o600)


def clear(place: Path) -> None:
    """Removes a directory with all that is in it, if it is there."""
    if place.exists():
        from fastlayer.layer.target import remove_tree

        remove_tree(place)


def _lock(store: Store, number: int, kind: int) -> int:
    fd = os.open(_place(store, number) / _LOCK, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, kind)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _place(store: Store, number: int) -> Path:
    return store.root / "cache" / "mounts" / str(number)
