"""The ``vfs`` driver: a whole tree per snapshot, made by the clone engine. No privileges, no mounts, any file system.

::

    <root>/<number>/tree      the snapshot; a view has none where it can be a read-only bind mount of its parent
    <root>/<number>/fresh     while an active snapshot is what its parent is: nobody has written to it
    <root>/<number>/record-B  what the tree was when it ceased to be fresh, for finding changes (``layer/recorded.py``);
                              B: the boot of the machine that it holds for
    <root>/empty              what a snapshot without a parent is compared with

Where the file system can share extents (XFS, btrfs) a snapshot costs inodes but no data.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from fastlayer.drivers import folders
from fastlayer.drivers.attributes import drop_trusted
from fastlayer.drivers.paths import require
from fastlayer.drivers.plain import Plain
from fastlayer.drivers.system import refusals
from fastlayer.drivers.usage import tree_usage
from fastlayer.errors import DriverError, StorageError
from fastlayer.mounts.mount import Mount
from fastlayer.snapshot.driver import NO_OPTIONS, Kind, LayerTarget, Options, Probe, State, Usage

if TYPE_CHECKING:
    from fastlayer.layer.diff import Changes

_CAP_SYS_ADMIN = 21


class Vfs(Plain):
    """See ``snapshot/driver.py`` for what the methods promise."""

    name = "vfs"
    independent = False
    directories = True

    def __init__(self, root: Path) -> None:
        self.root = root

    @classmethod
    def probe(cls, root: Path) -> Probe:
        if not os.access(root, os.W_OK | os.X_OK):
            return Probe(False, f"{root} cannot be written", "choose another store with --root or FASTLAYER_ROOT")
        return Probe(True)

    def create(self, number: int, parents: Sequence[int], kind: Kind, *, size: int | None = None) -> None:
        self._refuse_limit(size)
        folder = self._folder(number)
        with refusals("cannot make the snapshot"):
            folder.mkdir(mode=0o700)
            if kind == "view" and may_mount():
                return
            if parents:
                if kind == "active":
                    (folder / "fresh").write_bytes(b"\0")
                self._clone(self._tree(parents[0]), folder / "tree")
            else:
                (folder / "tree").mkdir()
                (folder / "tree").chmod(0o755)
                os.utime(folder / "tree", (0, 0))  # on every machine and at any time the same

    @contextmanager
    def layer_target(self, number: int, parents: Sequence[int]) -> Iterator[LayerTarget]:
        (self._folder(number) / "fresh").unlink(missing_ok=True)
        yield LayerTarget(self._tree(number), "dir")

    def make_ready(self, number: int, parents: Sequence[int], kind: State, options: Options = NO_OPTIONS) -> None:
        """Before the first who may write to it, and what the layer is then costs a walk and not the reading of it all.

        A disk that is too full for the record is no reason not to go on.
        """
        folder = self._folder(number)
        if kind != "active" or not (folder / "fresh").exists() or not os.access(folder, os.W_OK):
            return
        from fastlayer.layer.recorded import notices_mapped_writes, record

        with refusals("cannot prepare the snapshot"):
            with suppress(StorageError, OSError):
                if (saved := self._record(number)) and notices_mapped_writes(folder / "fresh"):
                    record(folder / "tree", saved)
            (folder / "fresh").unlink()

    def seal(self, number: int, parents: Sequence[int]) -> None:
        """Nothing to do: nobody writes into a tree that is not active."""

    def duplicate(self, number: int, parents: Sequence[int], source: int, *, live: bool = False) -> int:
        folder = self._folder(number)
        with refusals("cannot copy the snapshot"):
            folder.mkdir(mode=0o700)
            changed = self._clone(self._tree(source), folder / "tree", live=live)
            drop_trusted(folder / "tree")
        return changed

    def fork(
        self, number: int, parents: Sequence[int], source: int, *, size: int | None = None, live: bool = False
    ) -> int:
        self._refuse_limit(size)
        folder = self._folder(number)
        with refusals("cannot copy the snapshot"):
            folder.mkdir(mode=0o700)
            return self._clone(self._tree(source), folder / "tree", live=live)

    def _refuse_limit(self, size: int | None) -> None:
        if size is not None:
            raise DriverError("driver vfs: cannot limit the size of a snapshot: use overlay2, btrfs or devicemapper")

    def mounts(
        self,
        number: int,
        parents: Sequence[int],
        kind: State,
        options: Options = NO_OPTIONS,
    ) -> list[Mount]:
        tree = self._tree(number)
        if not tree.exists():
            tree = self._tree(parents[0])
        return [Mount("bind", os.fspath(tree), ("rbind", "rw" if kind == "active" else "ro"))]

    def changes(self, number: int, parents: Sequence[int]) -> Changes:
        from fastlayer.layer.recorded import diff_recorded

        return diff_recorded(self._parent_tree(parents), self._tree(number), self._record(number))

    def usage(self, number: int, parents: Sequence[int]) -> Usage:
        tree = self._tree(number)
        with refusals("cannot measure the snapshot"):
            return tree_usage(tree) if tree.exists() else Usage(0, 0)

    def own_tree(self, number: int) -> Path | None:
        return self._tree(number)

    def remove(self, number: int) -> None:
        with refusals("cannot remove the snapshot"):
            folders.remove(self.root, b"%d" % number)

    def set_aside(self, number: int) -> Path | None:
        with refusals("cannot move the snapshot"):
            return folders.set_aside(self.root, self._folder(number)) if folders.is_filled(self._tree(number)) else None

    def numbers(self) -> set[int]:
        with refusals("cannot list the snapshots"):
            return folders.numbers(self.root)

    def copy_up(self, number: int, parents: Sequence[int], paths: Sequence[bytes]) -> int:
        with refusals("copy-up"):
            require(self._tree(number), paths)
        return 0

    def _folder(self, number: int) -> Path:
        return self.root / str(number)

    def _tree(self, number: int) -> Path:
        return self._folder(number) / "tree"

    def _record(self, number: int) -> Path | None:
        from fastlayer.layer.recorded import boot

        name = boot()
        return self._folder(number) / f"record-{name}" if name else None

    def _parent_tree(self, parents: Sequence[int]) -> Path:
        if parents:
            return self._tree(parents[0])
        empty = self.root / "empty"
        empty.mkdir(exist_ok=True)
        return empty

    def _clone(self, source: Path, target: Path, *, live: bool = False) -> int:
        """How many files changed meanwhile."""
        from fastlayer.layer.clone import clone

        return clone(source, target, live=live).changed


def may_mount() -> bool:
    """Whether this process may mount in the namespace it is in (CAP_SYS_ADMIN, capabilities(7))."""
    with open("/proc/self/status", "rb") as file:
        for line in file:
            if line.startswith(b"CapEff:"):
                return bool(int(line.split()[1], 16) >> _CAP_SYS_ADMIN & 1)
    return False
