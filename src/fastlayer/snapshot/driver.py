"""What a storage driver is: the mechanics of one file system, without names, states or locks.

The snapshotter (``snapshot/snapshotter.py``) keeps the books - names, parents, what is active and what is committed,
who works on what - and calls a driver with numbers. A driver keeps one folder (subvolume, thin device) per number below
its root and nothing else; it has no memory of its own, so that any process can go on where another one was killed.

Rules for every driver:

* The snapshotter calls ``create``, ``seal``, ``remove`` of one number from one process at a time.
  Different numbers are worked on at the same time by many processes.
* A process may be killed inside any call. ``remove`` of that number must then clear away whatever is there, and calling
  ``remove`` for a number that has nothing is not an error.
* A sealed snapshot never changes again: no driver writes into it, not even times, while children or views use it.
* Errors are ``StorageError`` (the system refused), ``NoSpaceError`` (file system, pool or quota is full) or
  ``DriverError`` (cause and next step in one line).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal, Protocol

from fastlayer._values import NamedTuple
from fastlayer.errors import UsageError, show_path

if TYPE_CHECKING:
    from fastlayer.layer.apply import Format
    from fastlayer.layer.diff import Changes
    from fastlayer.mounts.mount import Mount

Kind = Literal["active", "view"]
State = Literal["active", "view", "committed"]

Options = Mapping[str, str]
"""How a snapshot is mounted, in words of its driver; given when it is made, the same for every mount of it."""

NO_OPTIONS: Options = MappingProxyType({})


class Usage(NamedTuple):
    """What one snapshot takes for itself, not counting what it shares with its parents.

    ``bytes``: allocated (512-byte blocks, or what the file system accounts as exclusive); ``inodes``: names' inodes
    (0 where the file system does not count them). ``shared``: bytes its files share with other files by reflink.
    """

    bytes: int
    inodes: int
    shared: int = 0


class Probe(NamedTuple):
    """Whether a driver works below a root: ``why`` not, and the ``remedy`` that would make it work. One line each."""

    works: bool
    why: str = ""
    remedy: str = ""


class LayerTarget(NamedTuple):
    """Where the layer of a new snapshot is extracted to, and in which format (``fastlayer.apply(format=)``)."""

    path: Path
    format: Format


class Driver(Protocol):
    """One storage driver at work below ``root`` (a directory of its own, which exists).

    ``number`` is the snapshot; ``parents`` are the numbers below it, nearest first, all sealed.
    """

    name: str
    root: Path
    independent: bool
    """A layer is extracted without its parents (overlay2): all layers of an image can be unpacked at the same time."""
    directories: bool
    """A snapshot is a directory as it is (vfs, btrfs): ``mounts`` is a bind mount that nobody needs to make."""

    @classmethod
    def probe(cls, root: Path) -> Probe:
        """Tries the mechanism itself (a real mount, subvolume, ...) below ``root``, leaving nothing behind."""
        ...

    @classmethod
    def working_options(cls, root: Path) -> tuple[str, ...]:
        """Those of its options (``check_options``) that work below a root where the driver does, by trying them."""
        ...

    def create(self, number: int, parents: Sequence[int], kind: Kind, *, size: int | None = None) -> None:
        """Makes the writable (``active``) or read-only (``view``) snapshot; looks like its nearest parent, or empty.

        ``size``: bytes the snapshot may take for itself. A driver that cannot limit raises ``DriverError``.
        """
        ...

    def layer_target(self, number: int, parents: Sequence[int]) -> AbstractContextManager[LayerTarget]:
        """Of an active snapshot that nobody has mounted: the place to extract a layer into."""
        ...

    def seal(self, number: int, parents: Sequence[int]) -> None:
        """Active becomes committed: from now on it is read only. Nothing is copied."""
        ...

    def duplicate(self, number: int, parents: Sequence[int], source: int, *, live: bool = False) -> int:
        """Makes ``number``, sealed, with the content the active ``source`` (same parents) has now.

        ``trusted.*`` attributes, which no layer holds, are left out (devicemapper keeps them); overlayfs' own stay.
        For commits that leave ``source`` in use. Cheap where the file system can share; ``source`` may be mounted.
        A driver that copies raises ``FileChangedError`` for a file that changes meanwhile; with ``live`` it is taken as
        it is read, and the result is the number of such files.
        """
        ...

    def fork(
        self, number: int, parents: Sequence[int], source: int, *, size: int | None = None, live: bool = False
    ) -> int:
        """Makes ``number``, active, with all that ``source`` (active or sealed, the same parents) has now.

        For checkpoints and what begins with them. ``size`` as of ``create``, ``live`` and the result as of
        ``duplicate``; unlike there nothing is left out.
        """
        ...

    def check_options(self, options: Options, kind: Kind) -> None:
        """Before anything is made. Raises ``UsageError`` for names or values the driver has not for this kind,
        ``DriverError`` for what cannot work here. What it lets pass holds for ``mounts`` and ``make_ready``."""
        ...

    def mounts(
        self,
        number: int,
        parents: Sequence[int],
        kind: State,
        options: Options = NO_OPTIONS,
    ) -> list[Mount]:
        """How to mount it; read-only unless active. Changes nothing, and may be asked of what is mounted.

        ``options``: of an active snapshot or a view, as it was made with; none of a committed one.
        """
        ...

    def make_ready(
        self,
        number: int,
        parents: Sequence[int],
        kind: State,
        options: Options = NO_OPTIONS,
    ) -> None:
        """What has to happen right before ``mounts`` are mounted, each time. Nobody has an active one mounted, or is at
        work on it; of others many may be made ready at once.

        Raises ``DriverError`` for a snapshot that must not be used any more.
        """
        ...

    def sync(self, number: int) -> None:
        """Of an active snapshot whose options let mounts skip syncing: all that was written to it, and copies of it,
        are on the disk when this returns. Raises ``DriverError`` when parts were lost before. Else nothing to do."""
        ...

    def changes(self, number: int, parents: Sequence[int]) -> Changes:
        """What the snapshot changes in its nearest parent (``fastlayer.layer.diff.Changes``; the caller closes it).

        O(changes) where the driver can; ``source`` may be mounted.
        """
        ...

    def usage(self, number: int, parents: Sequence[int]) -> Usage:
        """What the snapshot takes for itself now."""
        ...

    def own_tree(self, number: int) -> Path | None:
        """The directory whose files are the snapshot's own, for measuring; None where it lies in no directory."""
        ...

    def remove(self, number: int) -> None:
        """Clears away the snapshot, or what a killed process left of it. Nobody has it mounted."""
        ...

    def set_aside(self, number: int) -> Path | None:
        """Of a snapshot that no database knows: moves what is in it to ``lost+found``, sealed or not.

        A layer that was committed may be nowhere else. Returns where it is now; None when it is empty. Raises
        ``DriverError`` when it cannot be moved.
        """
        ...

    def numbers(self) -> set[int]:
        """All numbers that have something on disk, complete or not: for ``store check``."""
        ...

    def copy_up(self, number: int, parents: Sequence[int], paths: Sequence[bytes]) -> int:
        """Prepares files for writing in an active snapshot that is not mounted; returns the bytes that are shared
        instead of copied. Where every file is the snapshot's own anyway there is nothing to do: 0.

        Raises ``StorageError`` (ENOENT) for a path that is not there, ``UnsafeEntryError`` for one with ``..``; no
        link is followed."""
        ...


def refuse_options(driver: str, options: Options) -> None:
    """For drivers that have no options: raises ``UsageError`` when some are given."""
    for name in options:
        raise UsageError(f"driver {driver}: has no option {show_path(name)}, nor any other: leave out storage options")
