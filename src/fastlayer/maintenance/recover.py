"""``store check`` of a store whose database is damaged or missing: with ``--repair`` its copy is put back.

The copy (``metadata/spare.py``) is a state that was once true, so what was done since is looked for on disk:

* What a process was making when the copy was made may be complete, and in use, by now: such rows are dropped, so that
  their snapshots count as unknown, and nothing of them is cleared away as the work of the dead.
* Snapshots get numbers above all that are on disk.
* ``content/index.json`` is as new as the last change: images that it names and the copy does not are recorded again;
  those that it does not name and that are gone were removed.
* The rest does ``check`` with ``repair``: what was written into snapshots that the copy does not know is set aside, the
  layers of committed images among them are found by their digests (``maintenance/adopt.py``).

A mark (``metadata.db.recovery``) is there from before the first file is moved until all this is done: meanwhile others
cannot open the store, and who finds the mark of a process that was killed begins again. Nothing is deleted.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from fastlayer._values import NamedTuple
from fastlayer.container import writable
from fastlayer.container.mounted import all_mounts, note_again
from fastlayer.content.store import CONTAINERD_NAME, MAX_INDEX
from fastlayer.errors import FastlayerError, InUseError, NoSpaceError, StorageError, StoreError, show_path
from fastlayer.image.images import Images
from fastlayer.maintenance.adopt import layer_of_blob
from fastlayer.maintenance.check import Finding, Progress, Report, check
from fastlayer.metadata.leases import is_held
from fastlayer.metadata.migrations import MIGRATIONS
from fastlayer.oci.config import MAX_CONFIG, parse_config
from fastlayer.oci.image_index import parse_index, walk
from fastlayer.oci.manifest import Manifest
from fastlayer.snapshot.snapshotter import children_first
from fastlayer.store import access, driver_root, reserve
from fastlayer.store.collect import note_blobs

if TYPE_CHECKING:
    import sqlite3

    from fastlayer.image.images import LayerInfo
    from fastlayer.metadata.spare import Look
    from fastlayer.oci.descriptor import Descriptor
    from fastlayer.store.store import Store

_CONNECTED = 128  # the byte of -shm that everyone who has the database open keeps locked (SQLite's WAL-index format)


class PutBack(NamedTuple):
    """A copy that was put back: ``why``, of ``when`` it is, and where the damaged database is now ("": there was none).

    ``inode``: of the new database, which tells whether it is in its place.
    """

    why: str
    when: str
    damaged: str
    inode: int = 0


def check_store(
    root: str | os.PathLike[str] | None = None,
    *,
    driver: str | None = None,
    repair: bool = False,
    jobs: int | None = None,
    progress: Progress | None = None,
) -> Report:
    """``check`` of the store at ``root``, which this process has not opened, be its database sound or not.

    Raises ``CorruptStoreError`` for a damaged one without ``repair``, or when there is no copy that can be used;
    ``InUseError`` when it would have to be replaced while others work in the store.
    """
    from fastlayer.store.store import Store, default_root

    place = Path(os.path.abspath(os.fspath(root))) if root is not None else default_root()
    with (
        _room(place),
        _recovered(place, driver=driver, repair=repair) as first,
        Store(place, driver=driver) as store,
    ):
        try:
            report = check(store, repair=repair, jobs=jobs, progress=progress)
        except FastlayerError as exc:
            if not first:
                raise
            report = Report((Finding("store", os.fspath(place), str(exc)),), 0, 0, 0, 0)
        return report._replace(findings=(*first, *report.findings))


@contextmanager
def _room(place: Path) -> Iterator[None]:
    """Where the file system is full the database cannot even be looked at."""
    if not access.exists(place) or access.is_read_only(place):
        yield
        return
    released = reserve.release_if_full(place)
    try:
        yield
    finally:
        reserve.renew(place, released)


@contextmanager
def _recovered(place: Path, *, driver: str | None, repair: bool) -> Iterator[list[Finding]]:
    """Puts the copy back if need be; yields what there is to say of it. The store can be opened then."""
    from fastlayer.metadata import spare
    from fastlayer.store.store import Store

    path = place / "metadata.db"
    why = damage_of(place)
    left = _read_mark(path)
    if not repair or (why is None and left is None):
        if why is not None:
            raise spare.DamagedError(path, why)
        spare.refuse_unfinished(path)
        yield []
        return
    with ExitStack() as ours, _alone(path):
        _refuse_busy(place)
        if left is not None and why is None and left.inode == path.stat().st_ino:
            done = left
        else:
            done = put_back(place, why or str(left and left.why))
        store = ours.enter_context(Store(place, driver=driver, recovering=True))
        found = [_finding(done), *_reconcile(store)]
        _finish(path, done)
    yield found  # the store has been closed after the lock was given up: it has a copy again


def _finding(done: PutBack) -> Finding:
    kept = f"; the damaged one is {done.damaged} now" if done.damaged else ""
    return Finding("database", "metadata.db", f"{done.why}: its copy of {done.when} was put back{kept}", repaired=True)


# ---- what is damaged, and who is at work -----------------------------------------------------------


def damage_of(place: Path) -> str | None:
    """What is wrong with the database of a store; None when it is sound. Raises ``OperandError`` where is no store."""
    from fastlayer.metadata import spare
    from fastlayer.metadata.database import Database
    from fastlayer.store.store import require_store

    path = place / "metadata.db"
    try:
        require_store(place)
        copy = _usable(path)  # before the database: others may be making both newer
        torn = _has_torn_wal(path)  # before it is opened, when SQLite drops what it does not understand
        database = Database(path, read_only=access.is_read_only(place), recovering=True)
        try:
            if wrong := database.check():
                return wrong[0]
            with database.read() as db:
                last = spare.last_number(db)
        finally:
            database.close()
    except spare.DamagedError as exc:
        return exc.why
    if copy is not None and (copy.sequence > last or (torn and copy.sequence == last)):
        return "is older than its copy: a part of it was lost"
    return None


def _has_torn_wal(path: Path) -> bool:
    """Whether there is a write-ahead log that is none, while the copy is younger than the rest of the database."""
    from fastlayer.metadata import spare

    try:
        with open(f"{path}-wal", "rb") as file:
            head = file.read(32)
        older = path.stat().st_mtime_ns <= spare.copy_of(path).stat().st_mtime_ns
    except OSError:
        return False
    return older and head != b"" and not _is_wal_header(head)


def _is_wal_header(head: bytes) -> bool:
    """By its magic number and checksum (SQLite's file format, 4.1 and 4.2)."""
    magic = int.from_bytes(head[:4], "big")
    if len(head) < 32 or magic & ~1 != 0x377F0682:
        return False
    order: str = "big" if magic & 1 else "little"
    words = [int.from_bytes(head[at : at + 4], order) for at in range(0, 24, 4)]  # type: ignore[arg-type]
    one = two = 0
    for first, second in zip(words[::2], words[1::2], strict=True):
        one = (one + first + two) & 0xFFFFFFFF
        two = (two + second + one) & 0xFFFFFFFF
    return head[24:32] == one.to_bytes(4, "big") + two.to_bytes(4, "big")


def _usable(path: Path) -> Look | None:
    """The copy, when it is sound and of a version that we know."""
    from fastlayer.metadata import spare

    copy = spare.copy_of(path)
    found = spare.look(copy) if copy.exists() else None
    return found if found is not None and not found.wrong and 0 < found.version <= len(MIGRATIONS) else None


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    from fastlayer.metadata import spare

    try:
        with spare.alone(path):
            yield
    except BlockingIOError:
        raise InUseError(
            f"{show_path(os.fspath(path))}: another process copies it or puts it back: try again"
        ) from None


def _refuse_busy(place: Path) -> None:
    """Raises ``InUseError`` while others work in the store: they would go on with the damaged database."""
    name = show_path(os.fspath(place))
    leases = place / "leases"
    held = leases.is_dir() and any(is_held(leases / lease) for lease in os.listdir(leases))
    if held or _is_connected(place / "metadata.db-shm"):
        raise InUseError(f"{name}: its database is damaged, and another process works in it: end that, then try again")


def _is_connected(path: Path) -> bool:
    """Whether somebody has the database open. This process must not."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, _CONNECTED)
    except OSError:
        return True
    finally:
        os.close(fd)
    return False


# ---- putting it back -------------------------------------------------------------------------------


def put_back(place: Path, why: str) -> PutBack:
    """Moves the damaged database aside and its copy, made fit for what is on disk, into its place."""
    from fastlayer.metadata import spare

    path = place / "metadata.db"
    when = spare.made(path)
    if _usable(path) is None:
        broken = "" if when is None else f", and its copy of {when} is damaged, too"
        raise spare.DamagedError(path, why + broken, spare.DAMAGED)
    reserve.release_if_full(place)
    fresh = path.with_name("metadata.db.new")
    with _written(fresh):
        _copy(spare.copy_of(path), fresh)
        _make_fit(fresh, driver_root.on_disk(place))
        done = PutBack(why, str(when), _free_name(path), fresh.stat().st_ino)
        _keep_index(path)
        _write_mark(path, done)
        _move_aside(place, done.damaged)
        os.replace(fresh, path)
        _sync(place)
    return done


@contextmanager
def _written(path: Path) -> Iterator[None]:
    import sqlite3

    parts = [Path(f"{path}{suffix}") for suffix in ("", "-journal", "-wal", "-shm")]
    try:
        for part in parts:
            part.unlink(missing_ok=True)  # of one that was killed
        yield
    except sqlite3.Error as exc:
        name = show_path(os.fspath(path))
        raise StoreError(f"{name}: {exc}: check the permissions and space of the store's directory") from exc
    except OSError as exc:
        kind = NoSpaceError if exc.errno in (errno.ENOSPC, errno.EDQUOT) else StorageError
        raise kind(exc.errno or 0, "cannot put the copy back", os.fspath(path)) from exc
    finally:
        for part in parts:
            part.unlink(missing_ok=True)


def _make_fit(path: Path, on_disk: dict[str, set[int]]) -> None:
    import sqlite3

    db = sqlite3.connect(path, isolation_level=None)
    try:
        db.row_factory = sqlite3.Row
        db.execute("PRAGMA journal_mode=DELETE")
        db.execute("PRAGMA foreign_keys=ON")
        db.execute("BEGIN")
        _disown(db, on_disk)
        highest = max((number for numbers in on_disk.values() for number in numbers), default=0)
        db.execute("DELETE FROM sqlite_sequence WHERE name = 'snapshots' AND seq < ?", (highest,))
        if not db.execute("SELECT 1 FROM sqlite_sequence WHERE name = 'snapshots'").fetchone():
            db.execute("INSERT INTO sqlite_sequence (name, seq) VALUES ('snapshots', ?)", (highest,))
        db.execute("COMMIT")
    finally:
        db.close()
    _sync(path)


def _disown(db: sqlite3.Connection, on_disk: dict[str, set[int]]) -> None:
    """Of what was being made or removed, nobody knows what became of it."""
    rows = {
        int(row["number"]): row for row in db.execute("SELECT number, driver, parent, lease, sealing FROM snapshots")
    }
    for number in children_first({number: row["parent"] for number, row in rows.items() if row["lease"] is not None}):
        if db.execute("SELECT 1 FROM snapshots WHERE parent = ?", (number,)).fetchone():
            db.execute("UPDATE snapshots SET lease = NULL, state = 'ready' WHERE number = ?", (number,))
        else:
            db.execute("DELETE FROM snapshots WHERE number = ?", (number,))
    for number, row in rows.items():
        if row["sealing"] is not None and number not in on_disk.get(row["driver"], ()):
            db.execute("UPDATE snapshots SET sealing = NULL WHERE number = ?", (number,))
    db.execute("DELETE FROM leases")


def _free_name(path: Path) -> str:
    """Where the damaged database goes; "" when there is none to be kept."""
    if not any(os.path.exists(f"{path}{suffix}") for suffix in ("", "-wal", "-shm")):
        return ""
    base = f"{path.name}.damaged-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}"
    name, count = base, 1
    while any(path.with_name(name + suffix).exists() for suffix in ("", "-wal", "-shm", "-index.json")):
        count += 1
        name = f"{base}-{count}"
    return name


def _move_aside(place: Path, name: str) -> None:
    """The database itself gets a second name: the first one is always there."""
    path = place / "metadata.db"
    if not name:
        return
    if path.exists():
        try:
            os.link(path, path.with_name(name))
        except OSError:
            _copy(path, path.with_name(name))
    for suffix in ("-wal", "-shm"):
        if os.path.exists(f"{path}{suffix}"):
            os.rename(f"{path}{suffix}", path.with_name(name + suffix))


def _copy(source: Path, target: Path) -> None:
    """A new file that nobody else may read."""
    fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with open(fd, "wb") as written, open(source, "rb") as file:
        shutil.copyfileobj(file, written)


def _index_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.recovery-index.json")


def _keep_index(path: Path) -> None:
    """It is written anew with the first image that is recorded: what an interrupted recovery kept is the older one."""
    from fastlayer.metadata import spare

    kept, found = _index_of(path), path.parent / "content/index.json"
    if found.exists() and not (kept.exists() and spare.mark_of(path).exists()):
        new = kept.with_name(kept.name + ".new")
        new.unlink(missing_ok=True)
        _copy(found, new)
        os.rename(new, kept)


def _finish(path: Path, done: PutBack) -> None:
    """Who wants to look at the damaged database finds the index of that time beside it."""
    from fastlayer.metadata import spare

    with suppress(FileNotFoundError):
        if done.damaged:
            os.rename(_index_of(path), path.with_name(f"{done.damaged}-index.json"))
        else:
            _index_of(path).unlink()
    spare.mark_of(path).unlink()


def _write_mark(path: Path, done: PutBack) -> None:
    from fastlayer.metadata import spare

    spare.mark_of(path).write_text(json.dumps(done._asdict()) + "\n")
    _sync(path.parent)


def _read_mark(path: Path) -> PutBack | None:
    from fastlayer.metadata import spare

    try:
        return PutBack(**json.loads(spare.mark_of(path).read_bytes()))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError):  # its writer was killed: nothing has been moved yet
        return PutBack("was damaged", "", "")


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


# ---- what was done since the copy was made ---------------------------------------------------------


def _reconcile(store: Store) -> list[Finding]:
    with store.database.write() as db:
        note_blobs(store, db)
    return [*_names(store), *_mounts(store)]


def _mounts(store: Store) -> list[Finding]:
    """Layers that were mounted since: they must not be mounted twice."""
    again = []
    with suppress(FastlayerError):
        all_mounts(store)  # forgets those that are gone
    for layer in writable.all_of(store):
        try:
            found = note_again(store, layer)
        except FastlayerError:
            continue  # its snapshot is gone, or cannot be seen now
        if found is not None:
            why = f"{show_path(found.target)} was mounted after the copy was made: noted again"
            again.append(Finding("mount", layer.name, why, repaired=True))
    return again


def _names(store: Store) -> list[Finding]:
    try:
        entries = parse_index(_index_of(store.database.path).read_bytes(), what="index.json", limit=MAX_INDEX).manifests
    except (FastlayerError, OSError) as exc:
        return [Finding("index.json", "content", f"{exc}: images that only it named are without a name", False)]
    named = [(entry.annotations.get(CONTAINERD_NAME, ""), entry) for entry in entries]
    found = [finding for name, entry in named if (finding := _record(store, name, entry))]
    return [*found, *_forget_removed(store, {name or str(entry.digest) for name, entry in named})]


def _record(store: Store, name: str, target: Descriptor) -> Finding | None:
    """An image that the index names."""
    with store.database.read() as db:
        known = db.execute(
            "SELECT 1 FROM images WHERE digest = ? AND (name = ? OR ? = '')", (target.digest, name, name)
        ).fetchone()
    if known is not None:
        return None
    subject = name or str(target.digest)
    try:
        with store.lease(f"record {subject}") as lease:
            Images(store).put([name] if name else [], target, _layers(store, target), lease=lease)
    except FastlayerError as exc:
        return Finding("image", subject, f"came after the copy, and cannot be recorded: {exc}")
    return Finding("image", subject, "came after the copy: recorded again", repaired=True)


def _layers(store: Store, target: Descriptor) -> list[LayerInfo]:
    content, found = store.content, []
    for node in walk(target, lambda d, limit: content.read(d.digest, limit), lambda d: not content.has(d.digest)):
        if isinstance(node.document, Manifest) and node.document.is_image:
            config = parse_config(content.read(node.document.config.digest, MAX_CONFIG))
            pairs = zip(node.document.layers, config.diff_ids, strict=True)
            found += [layer_of_blob(store, layer, diff_id) for layer, diff_id in pairs]
    return found


def _forget_removed(store: Store, named: set[str]) -> list[Finding]:
    """Names of the copy that the index has not got, of images that are not there."""
    with store.database.write() as db:
        rows = db.execute("SELECT name, digest FROM images ORDER BY name").fetchall()
        gone = [str(row["name"]) for row in rows if row["name"] not in named and not store.content.has(row["digest"])]
        db.executemany("DELETE FROM images WHERE name = ?", [(name,) for name in gone])
    return [Finding("image", name, "was removed after the copy was made", repaired=True) for name in gone]
