"""The ``btrfs`` driver: each snapshot is a subvolume.

::

    <root>/subvolumes/<number>    the snapshot; a view has none, it is a read-only bind mount of its parent
    <root>/forks/<number>         of a duplicate: the UUID of what it was forked from, the transaction, the seconds
    <root>/empty                  what a snapshot without a parent is compared with

A child is a btrfs snapshot of its parent: made in one transaction, sharing everything. Sealing sets the read-only
property. Changes are found by generation (``generation.py``), in time that depends on what changed and not on what is
there; who may not search trees (CAP_SYS_ADMIN) gets them by a walk, which reads no file that has kept its inode and its
ctime since the fork.

A size limit is one on the exclusive bytes of the subvolume's quota group, metadata included. The first snapshot with a
limit turns the quotas of the file system on. They cost: btrfs then accounts every reference to every extent, which
makes snapshots and their removal slower the more snapshots share data; btrfs-quota(8). Nobody else should use them.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastlayer import _backend
from fastlayer.drivers import folders
from fastlayer.drivers.attributes import drop_trusted
from fastlayer.drivers.btrfs import subvolumes
from fastlayer.drivers.btrfs.generation import Fork
from fastlayer.drivers.paths import require
from fastlayer.drivers.plain import Plain
from fastlayer.drivers.system import refusals, storage_error
from fastlayer.drivers.usage import tree_usage
from fastlayer.errors import StorageError
from fastlayer.mounts.mount import Mount
from fastlayer.snapshot.driver import NO_OPTIONS, Kind, LayerTarget, Options, Probe, State, Usage

if TYPE_CHECKING:
    from fastlayer.layer.diff import Changes

_FORBIDDEN = (errno.EPERM, errno.EACCES)


class Btrfs(Plain):
    """See ``snapshot/driver.py`` for what the methods promise."""

    name = "btrfs"
    independent = False
    directories = True

    def __init__(self, root: Path) -> None:
        self.root = root

    @classmethod
    def probe(cls, root: Path) -> Probe:
        from fastlayer.drivers.btrfs.probe import probe

        return probe(root)

    # ---- making ------------------------------------------------------------------------------

    def create(self, number: int, parents: Sequence[int], kind: Kind, *, size: int | None = None) -> None:
        if kind == "view":
            return
        self._subvolumes().mkdir(mode=0o700, exist_ok=True)
        path = self._path(number)
        if parents:
            self.seal(parents[0], parents[1:])  # who committed it may have been killed right before
            subvolumes.snapshot(self._path(parents[0]), path)
        else:
            subvolumes.create(path)
        if size is not None:
            subvolumes.limit(path, size)

    @contextmanager
    def layer_target(self, number: int, parents: Sequence[int]) -> Iterator[LayerTarget]:
        yield LayerTarget(self._path(number), "dir")

    def seal(self, number: int, parents: Sequence[int]) -> None:
        """Sets the read-only property. Subvolumes that were made inside become directories first (by reflink)."""
        path = self._path(number)
        with subvolumes.opened(path) as fd:
            if _engine().info(fd).readonly:
                return
            fcntl.flock(fd, fcntl.LOCK_EX)
            subvolumes.flatten(path)
            _engine().set_readonly(fd, True)

    def duplicate(self, number: int, parents: Sequence[int], source: int, *, live: bool = False) -> int:
        path, origin = self._path(number), self._path(source)
        if parents:
            self._note_fork(number, source, parents[0])
        with subvolumes.opened(origin) as fd:
            plain = not subvolumes.inner_paths(fd, origin)
        own = os.geteuid() == 0  # who may see ``trusted.*``
        subvolumes.snapshot(origin, path, readonly=plain and not own)
        if not plain:
            subvolumes.flatten(path, origin)
        if own:
            with refusals("cannot copy the snapshot"):
                drop_trusted(path, only=self._keys(number, parents[0]) if parents else None)
        self.seal(number, parents)
        return 0  # of one moment

    def fork(
        self, number: int, parents: Sequence[int], source: int, *, size: int | None = None, live: bool = False
    ) -> int:
        path, origin = self._path(number), self._path(source)
        if parents:
            self._note_fork(number, source, parents[0])
        with subvolumes.opened(origin) as fd:
            plain = not subvolumes.inner_paths(fd, origin)
        subvolumes.snapshot(origin, path)
        if not plain:
            subvolumes.flatten(path, origin)
        if size is not None:
            subvolumes.limit(path, size)
        return 0  # of one moment

    # ---- using -------------------------------------------------------------------------------

    def mounts(
        self,
        number: int,
        parents: Sequence[int],
        kind: State,
        options: Options = NO_OPTIONS,
    ) -> list[Mount]:
        path = self._path(parents[0] if kind == "view" else number)
        return [Mount("bind", os.fspath(path), ("rbind", "rw" if kind == "active" else "ro"))]

    def changes(self, number: int, parents: Sequence[int]) -> Changes:
        from fastlayer.layer.diff import diff, diff_only, diff_snapshots

        path = self._path(number)
        if not parents:
            return diff(self._empty(), path)
        if not path.exists():  # a view
            return diff_only(self._path(parents[0]), self._path(parents[0]), [b""])
        keys = self._keys(number, parents[0])
        if keys is not None:
            return diff_only(self._path(parents[0]), path, keys)
        fork = self._forked(number, parents[0])
        if fork is None:
            return diff(self._path(parents[0]), path)
        return diff_snapshots(self._path(parents[0]), path, shared_until_ns=fork.seconds * 10**9)

    def _keys(self, number: int, parent: int) -> list[bytes] | None:
        """Where to look for changes; None: everywhere."""
        from fastlayer.drivers.btrfs.generation import differing

        fork = self._forked(number, parent)
        if fork is None:
            return None
        with subvolumes.opened(self._path(parent)) as parent_fd, subvolumes.opened(self._path(number)) as fd:
            _engine().sync(fd)
            try:
                return differing(parent_fd, fd, fork)
            except StorageError as exc:
                if exc.errno in _FORBIDDEN:
                    return None
                raise

    def usage(self, number: int, parents: Sequence[int]) -> Usage:
        """Bytes of the extents made since the snapshot was (each once), of the inodes made, and reflinked bytes.

        Exact at any time, and of a parent, too: what its children share with it still counts (the exclusive bytes of a
        quota group would not; see ``quota``). Without the right to search trees all that no other file shares.
        """
        path = self._path(number)
        if not path.exists():
            return Usage(0, 0)
        fork = self._forked(number, parents[0]) if parents else Fork(0, 0)
        try:
            if fork is not None:
                with subvolumes.opened(path) as fd:
                    _engine().sync(fd)
                    return Usage(*_engine().usage(fd, fork.transaction))
        except StorageError as exc:
            if exc.errno not in _FORBIDDEN:
                raise
        found = tree_usage(path)
        return Usage(found.bytes - found.shared, found.inodes, found.shared)

    def quota(self, number: int) -> tuple[int, int] | None:
        """(referenced, exclusive) bytes as btrfs accounts them, metadata included; None where quotas are off."""
        with subvolumes.opened(self._path(number)) as fd:
            _engine().sync(fd)
            found: tuple[int, int] | None = _engine().qgroup_usage(fd, _engine().info(fd).id)
            return found

    def own_tree(self, number: int) -> Path | None:
        """A subvolume has all files of those below it, too: ``usage`` tells what is its own."""
        return None

    def copy_up(self, number: int, parents: Sequence[int], paths: Sequence[bytes]) -> int:
        with refusals("copy-up"):
            require(self._path(number), paths)
        return 0

    # ---- removing ----------------------------------------------------------------------------

    def remove(self, number: int) -> None:
        path = self._path(number)
        group = subvolumes.group(path)
        subvolumes.delete(path)
        self._fork(number).unlink(missing_ok=True)
        if group is not None:
            subvolumes.forget_group(self._subvolumes(), group)

    def set_aside(self, number: int) -> Path | None:
        path = self._path(number)
        if not folders.is_filled(path):
            return None
        with subvolumes.opened(path) as fd:
            sealed = _engine().info(fd).readonly
            if sealed:  # cannot go to another directory
                _engine().set_readonly(fd, False)
            try:
                with refusals("cannot move the snapshot"):
                    return folders.set_aside(self.root, path)
            finally:
                if sealed:
                    _engine().set_readonly(fd, True)

    def numbers(self) -> set[int]:
        return folders.numbers(self._subvolumes())

    # ---- places ------------------------------------------------------------------------------

    def _subvolumes(self) -> Path:
        return self.root / "subvolumes"

    def _path(self, number: int) -> Path:
        return self._subvolumes() / str(number)

    def _empty(self) -> Path:
        empty = self.root / "empty"
        empty.mkdir(exist_ok=True)
        return empty

    # ---- forks -------------------------------------------------------------------------------

    def _fork(self, number: int) -> Path:
        return self.root / "forks" / str(number)

    def _forked(self, number: int, parent: int) -> Fork | None:
        """When a snapshot left its parent; None when nobody knows."""
        with subvolumes.opened(self._path(number)) as fd, subvolumes.opened(self._path(parent)) as parent_fd:
            own, above = _engine().info(fd), _engine().info(parent_fd)
        if own.parent_uuid == above.uuid:
            return Fork(own.created, own.created_sec)
        try:
            uuid, *when = self._fork(number).read_text().split()
        except (OSError, ValueError):
            return None
        if uuid != above.uuid.hex() or len(when) != 2 or not all(word.isdecimal() for word in when):
            return None
        return Fork(*map(int, when))

    def _note_fork(self, number: int, source: int, parent: int) -> None:
        """The duplicate is a snapshot of its source, which may go: what it has to be compared with is lost then."""
        fork = self._forked(source, parent)
        if fork is None:
            return
        with subvolumes.opened(self._path(parent)) as fd:
            uuid = _engine().info(fd).uuid.hex()
        path = self._fork(number)
        try:
            path.parent.mkdir(mode=0o700, exist_ok=True)
            with open(path, "w") as file:
                file.write(f"{uuid} {fork.transaction} {fork.seconds}\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as exc:
            raise storage_error(exc, "write", path) from exc


def _engine() -> Any:
    return _backend.engine().subvolume
