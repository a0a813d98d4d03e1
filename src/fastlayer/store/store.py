"""A store: everything fastlayer keeps, below one directory.

::

    <root>/
      content/        blobs, in an OCI image layout
      metadata.db     what they are and who uses them (metadata/migrations.py)
      metadata.db.copy  a spare copy of that, for `store check --repair` (metadata/spare.py)
      reserve, spare  space and inodes to work with when the file system is full (store/reserve.py)
      leases/         who works here now (metadata/leases.py)
      overlay2/ ...   the snapshots of each storage driver, and its `identity` (store/driver_root.py)

Only its owner may read it (store/access.py). Opening is cheap: nothing is scanned. Any number of processes and threads
use one store at once.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

from fastlayer.content.store import ContentStore
from fastlayer.drivers import registry
from fastlayer.errors import OperandError, StorageError, StoreError, UsageError, show_path
from fastlayer.metadata import spare
from fastlayer.metadata.database import Database
from fastlayer.metadata.leases import Lease, Leases
from fastlayer.snapshot.driver import Driver
from fastlayer.snapshot.snapshotter import Snapshotter
from fastlayer.store import access, driver_root, reserve


def default_root() -> Path:
    """``FASTLAYER_ROOT``; ``/var/lib/fastlayer`` for root; else ``$XDG_DATA_HOME/fastlayer``.

    Root of a user namespace is not root: what it may write is in its user's home. Raises ``UsageError`` for who has
    none.
    """
    named = os.environ.get("FASTLAYER_ROOT")
    if named:
        return Path(named)
    if os.geteuid() == 0 and not in_user_namespace():
        return Path("/var/lib/fastlayer")
    if data := os.environ.get("XDG_DATA_HOME"):
        return Path(data) / "fastlayer"
    home = os.path.expanduser("~")
    if home == "~":
        raise UsageError("no home directory is known for the store: set HOME, or give --root or FASTLAYER_ROOT")
    return Path(home) / ".local/share/fastlayer"


def in_user_namespace() -> bool:
    """Whether ids are mapped (user_namespaces(7)): the initial namespace maps all 2^32 - 1 to themselves."""
    try:
        with open("/proc/self/uid_map") as file:
            return file.read().split() != ["0", "0", "4294967295"]
    except OSError:
        return False


def may_own_all() -> bool:
    """Whether files can be given to any of the ids that images use: by root, with at least 65,536 ids mapped."""
    if os.geteuid() != 0:
        return False
    try:
        with open("/proc/self/uid_map") as file:
            return sum(int(line.split()[2]) for line in file) >= 1 << 16
    except OSError:
        return True


_FULL = (errno.ENOSPC, errno.EDQUOT)
_MAKE_ROOM = "`fastlayer system prune` makes room, or give another place for the store with --root"


def may_make_devices() -> bool:
    """Whether device nodes can be made (mknod(2)): by root of the initial user namespace."""
    return _is_initial_root()


def sees_true_owners() -> bool:
    """Whether owners of files are to us what they are to others in this store: to root of the initial user namespace.

    A plain user makes files of nobody else, and is another inside a user namespace than outside.
    """
    return _is_initial_root()


def _is_initial_root() -> bool:
    return os.geteuid() == 0 and not in_user_namespace()


class Store:
    """An open store; a context manager. ``root`` is made when it is not there.

    ``read_only``: it is on a file system that cannot be written; what would change it raises ``StorageError``.
    ``recovering``: by who puts back the copy of its database (``maintenance/recover.py``).
    """

    def __init__(self, root: Path, *, driver: str | None = None, recovering: bool = False) -> None:
        self.root = root
        self._wanted = driver
        self._directories = False
        self._drivers: dict[str, Snapshotter] = {}
        self.read_only = access.exists(root) and access.is_read_only(root)
        if not self.read_only:
            self._settle()
        self.content = ContentStore(root / "content", create=not self.read_only)
        self.database = Database(root / "metadata.db", read_only=self.read_only, recovering=recovering)
        self.leases = Leases(self.database, root / "leases")

    def _settle(self) -> None:
        """Makes what is missing."""
        root = self.root
        for directory, mode in ((root, 0o711), (root / "leases", 0o700), (root / "content", 0o700)):
            _make(directory, mode)
        if not spare.copy_of(root / "metadata.db").exists():  # else it is lost
            access.new_database(root)
        access.make_private(root)
        self._released = reserve.release_if_full(root)

    @cached_property
    def snapshotter(self) -> Snapshotter:
        """The snapshots of the driver that was asked for, or of the first that works. Raises ``DriverError``.

        A store goes on with the driver it began with, unless another is demanded; that one is not tried again.
        """
        wanted, found = self._wanted_driver, self.drivers_in_use()
        if wanted in found:
            return self.snapshotter_of(str(wanted))
        if self._directories:
            found = [name for name in found if registry.driver_class(name).directories]
        if not wanted and found:
            return self.snapshotter_of(found[0])
        return self._open(registry.choose(self.root, wanted, directories=self._directories))

    @property
    def _wanted_driver(self) -> str | None:
        return self._wanted or os.environ.get("FASTLAYER_DRIVER") or None

    def prefer_directories(self) -> str | None:
        """Before the first use: only drivers will do whose snapshots need no mounting, unless one is asked for.

        The name of a driver that is asked for and will not do is returned.
        """
        self._directories = True
        wanted = self._wanted_driver
        return wanted if wanted is not None and not registry.driver_class(wanted).directories else None

    def snapshotter_of(self, driver: str) -> Snapshotter:
        """The snapshots of a certain driver: what is there may have been made by another than is used now."""
        if driver not in self._drivers:
            self._open(registry.driver_class(driver))
        return self._drivers[driver]

    def drivers_in_use(self) -> list[str]:
        """The drivers that have snapshots here; first the one that has the oldest."""
        with self.database.read() as db:
            rows = db.execute("SELECT driver FROM snapshots GROUP BY driver ORDER BY min(number)")
            return [str(row[0]) for row in rows]

    @contextmanager
    def lease(self, what: str) -> Iterator[Lease]:
        """A lease for the block (``metadata/leases.py``). Snapshots that are still the lease's at the end go."""
        with self.leases.hold(what) as lease:
            try:
                yield lease
            finally:
                self._clear(lease)

    def _clear(self, lease: Lease) -> None:
        with self.database.read() as db:
            rows = db.execute(
                "SELECT driver, number FROM snapshots WHERE lease = ? ORDER BY number DESC", (lease.id,)
            ).fetchall()
        for row in rows:
            self.snapshotter_of(row["driver"]).finish_removal([int(row["number"])])

    def make_room(self) -> None:
        """Before something is removed: where there is no space or inode for that, the reserve is given up."""
        if not self.read_only:
            more = reserve.release_if_full(self.root)
            self._released = reserve.Released(self._released.space or more.space, self._released.inodes + more.inodes)

    def take_back_room(self) -> None:
        """Before bytes of others are written here, of any number: they are not to have the reserve."""
        if not self.read_only:
            reserve.take_back(self.root, self._released)

    def close(self) -> None:
        spare.renew(self.database)
        self.database.close()
        if not self.read_only:
            reserve.renew(self.root, self._released)

    def __enter__(self) -> Store:
        return self

    def __exit__(self, _kind: object, exc: BaseException | None, _tb: object) -> None:
        if isinstance(exc, StorageError) and exc.errno in _FULL and os.fspath(self.root) in str(exc):
            exc.hint = _MAKE_ROOM
        self.close()

    def _open(self, driver: Callable[[Path], Driver]) -> Snapshotter:
        name = str(getattr(driver, "name", ""))
        if name not in self._drivers:
            place = self.root / name
            driver_root.settle(self.database, name, place, lambda: _make(place, 0o711))
            self._drivers[name] = Snapshotter(self.database, self.leases, driver(place))
        return self._drivers[name]


def open_store(root: str | os.PathLike[str] | None = None, *, driver: str | None = None) -> Store:
    """The store at ``root`` (default: ``default_root``), made when it is not there.

    ``driver``: the storage driver to use; else ``FASTLAYER_DRIVER``, else the one the store began with, else the first
    that works. Raises ``StoreError`` or ``StorageError`` when the place cannot be used; drivers are looked at when the
    first snapshot is needed.
    """
    return Store(Path(os.path.abspath(os.fspath(root))) if root is not None else default_root(), driver=driver)


def existing_store(root: str | os.PathLike[str] | None = None, *, driver: str | None = None) -> Store:
    """Like ``open_store``, but a place that is no store raises ``OperandError``: for commands that only look."""
    place = Path(os.path.abspath(os.fspath(root))) if root is not None else default_root()
    require_store(place)
    return Store(place, driver=driver)


def require_store(place: Path) -> None:
    """Raises ``OperandError`` where there is no store, ``CorruptStoreError`` where one has lost its database."""
    database = place / "metadata.db"
    if access.exists(place):
        return
    if spare.copy_of(database).exists() or any((place / "content/blobs").glob("*/*")):
        raise spare.DamagedError(database, "is missing")
    raise OperandError(f"{show_path(os.fspath(place))}: no store there: load or import an image first, or give --root")


def _make(directory: Path, mode: int) -> None:
    try:
        directory.mkdir(mode=0o700, parents=True)
        directory.chmod(mode)
    except FileExistsError:
        if not directory.is_dir():
            raise StoreError(f"{show_path(os.fspath(directory))}: is not a directory: give another root") from None
    except OSError as exc:
        raise StorageError(exc.errno or 0, "cannot make the store", os.fspath(directory)) from exc
