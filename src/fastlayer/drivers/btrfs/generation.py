"""Where a subvolume differs from the one it is a snapshot of, found by generation instead of by a walk.

btrfs writes trees copy-on-write: what changed since a transaction is in leaves with a later generation, and an inode
that changed in any way has a later ``transid``; those that were only read are told by their ctime (csrc/fl_btrfs.h).
From the changed inodes that were there before follow the paths to look at:

* a file: each of its names (one it had before is missing from a directory that changed);
* a directory at the same path in both trees: itself, and each name whose entry is not the same. What is a directory
  now and was not that one before is looked at whole: it is new, or came from elsewhere with all that is in it;
* a directory that moved: its old and its new parent have changed, too, and that finds it;
* a new inode: it has a name in a directory that is new or has changed;
* a subvolume in the parent: its snapshot shows an empty directory there, though no entry changed;
* a hard-linked file at any of these paths: its other names, for groups are compared as a whole.

The differ then compares these paths in both trees: the answer is that of a walk.
"""

from __future__ import annotations

import struct

from fastlayer import _backend
from fastlayer._values import NamedTuple
from fastlayer.layer.differing import below, normal

ROOT_INODE = 256  # of every subvolume (BTRFS_FIRST_FREE_OBJECTID)

_ENTRY = struct.Struct("=QQQqqQIIIIIIIIIIII")  # struct fl_entry of csrc/fl_entry.h
_NONE = b"\0"  # no path: the place of an inode that has no name


class Places:
    """The paths of the inodes of one subvolume. ``fd``: its root."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._engine = _backend.engine().subvolume
        self._directories: dict[int, bytes] = {ROOT_INODE: b""}

    def directory(self, ino: int) -> bytes | None:
        """The path of a directory; None of one that has been removed."""
        above: list[tuple[int, bytes]] = []
        while ino not in self._directories:
            names = self._engine.names(self.fd, ino)
            if not names:
                self._directories[ino] = _NONE
                break
            above.append((ino, names[0][1]))
            ino = names[0][0]
        path = self._directories[ino]
        for number, name in reversed(above):
            path = path if path == _NONE else below(path, name)
            self._directories[number] = path
        return None if path == _NONE else path

    def names(self, ino: int) -> list[bytes]:
        """All paths of an inode."""
        found = []
        for parent, name in self._engine.names(self.fd, ino):
            path = self.directory(parent)
            if path is not None:
                found.append(below(path, name))
        return found

    def nested(self) -> list[bytes]:
        """The paths of the subvolumes right in this one."""
        found = []
        for _, parent, name in self._engine.nested(self.fd, self._engine.info(self.fd).id):
            path = self.directory(parent)
            if path is not None:
                found.append(below(path, name))
        return found


class Fork(NamedTuple):
    """When a subvolume left its parent: the transaction, and the time in seconds since 1970."""

    transaction: int
    seconds: int


def differing(parent_fd: int, child_fd: int, fork: Fork) -> list[bytes]:
    """The keys (``Differ(only=)``) that tell all differences between a subvolume and what it was at the fork, which
    ``parent_fd`` still is. Everything must have been written out (``sync``)."""
    parent, child = Places(parent_fd), Places(child_fd)
    keys: set[bytes] = set()
    for ino, is_directory in _backend.engine().subvolume.changed(child_fd, parent_fd, *fork):
        if is_directory:
            keys |= _changed_directory(parent, child, ino)
        else:
            keys.update(child.names(ino))
    for path in parent.nested() + child.nested():
        keys |= {path, path + b"/"}
    return _with_links(parent, child, keys)


def _changed_directory(parent: Places, child: Places, ino: int) -> set[bytes]:
    path = child.directory(ino)
    if path is None:
        return set()
    keys = {path}
    if path == parent.directory(ino):
        engine = _backend.engine().subvolume
        for flags, name in engine.compare_names(parent.fd, child.fd, ino):
            keys.add(below(path, name))
            if flags == engine.IN_B | engine.DIRECTORY:
                keys.add(below(path, name) + b"/")
    return keys


def _with_links(parent: Places, child: Places, keys: set[bytes]) -> list[bytes]:
    """Adds the other names of all hard-linked files, and the other files at those names, until there are no more."""
    complete = normal(keys)
    fresh = complete
    seen: tuple[set[int], set[int]] = (set(), set())
    while fresh:
        found: set[bytes] = set()
        for places, known in zip((parent, child), seen, strict=True):
            for ino in _linked(places.fd, fresh) - known:
                known.add(ino)
                found.update(places.names(ino))
        before, complete = set(complete), normal(found.union(complete))
        fresh = [b"", *(key for key in complete if key and key not in before)]
        if len(fresh) == 1:
            break
    return complete


def _linked(fd: int, keys: list[bytes]) -> set[int]:
    """The inodes at these places that have several names, of this subvolume only."""
    scanner = _backend.engine().scan.Scanner(fd, xattrs="none", only=keys)
    found: set[int] = set()
    device = None
    while batch := scanner.next_batch():
        for entry in _ENTRY.iter_unpack(batch[0]):
            if device is None:
                device = entry[0]  # of the root, which comes first
            if entry[11] > 1 and entry[8] & 0o170000 != 0o040000 and entry[0] == device:
                found.add(entry[1])
    return found
