"""The overlay fast path: what an upperdir changes about its lowerdirs, by reading the upperdir.

A merged directory is the tuple of real directories that make it up, top first. Names are looked up in it as the kernel
does (Documentation/filesystems/overlayfs.rst). Layer 0 is the upperdir, 1 and on are the lowerdirs.
"""

from __future__ import annotations

import errno
import os
import stat
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import takewhile

from fastlayer._baseline.changes import Differ, HardLinks, Inode, Pair
from fastlayer._baseline.table import AUX_PATH, ROW_AUX, Change, ctime_aux
from fastlayer._baseline.tree import (
    Entry,
    Xattrs,
    below,
    filter_xattrs,
    open_dir,
    parent_of,
    read_entry,
)
from fastlayer._values import NamedTuple
from fastlayer.errors import StorageError, UnsafeEntryError, UsageError, show_path

__all__ = ["UpperDiffer"]

UPPER = 0
_ESCAPE = b"overlay."
_NAME_MAX = 255
_MAX_LOWERS = 0xFFFF  # what a row can name

Place = tuple[int, bytes]  # layer, path of a real object in it
Merged = tuple[Place, ...]


class Real(NamedTuple):
    """A real object of one layer. ``marks``: its overlay xattrs by short name."""

    place: Place
    entry: Entry
    marks: dict[bytes, bytes]

    @property
    def is_whiteout(self) -> bool:
        device = stat.S_ISCHR(self.entry.mode) and self.entry.rdev == (0, 0)
        return device or (self.entry.is_file and self.entry.size == 0 and b"whiteout" in self.marks)

    @property
    def ends_merge(self) -> bool:
        """Nothing below shows through."""
        if self.entry.is_dir:
            return self.marks.get(b"opaque") == b"y"
        return not self.is_metacopy

    @property
    def is_metacopy(self) -> bool:
        return self.entry.is_file and b"metacopy" in self.marks


class Found(NamedTuple):
    """What a merged directory has under a name: an entry and, of a directory, what it is merged from."""

    entry: Entry
    merged: Merged


class Overlay:
    """Lookups in layers that are not mounted."""

    def __init__(self, layers: Sequence[int], policy: str, *, userxattr: bool) -> None:
        self._layers = layers
        self._policy = policy
        self._prefix = b"user.overlay." if userxattr else b"trusted.overlay."

    def root(self, first: int) -> Found:
        """The merge of the layers from ``first`` down."""
        merged = tuple((layer, b"") for layer in range(first, len(self._layers)))
        top = self._read(merged[0], b"")
        if top is None:
            raise StorageError(errno.ENOENT, "stat", b"")
        return Found(self._visible(top, top, b""), merged)

    def names(self, merged: Merged) -> set[bytes]:
        found: set[bytes] = set()
        for layer, path in merged:
            fd = open_dir(self._layers[layer], path)
            try:
                found |= {os.fsencode(text) for text in os.listdir(fd)}
            finally:
                os.close(fd)
        return found

    def lookup(self, merged: Merged, path: bytes) -> Found | None:
        """The object that is seen at ``path``, whose parent is ``merged``."""
        stack = self._stack(merged, path.rpartition(b"/")[2], path)
        top = next(stack, None)
        if top is None:
            return None
        if top.entry.is_dir:
            directories = takewhile(lambda real: real.entry.is_dir, stack)
            return Found(self._visible(top, top, path), (top.place, *(real.place for real in directories)))
        return Found(self._visible(top, self._bytes_of(top, stack, path), path), ())

    def _stack(self, merged: Merged, name: bytes, path: bytes) -> Iterator[Real]:
        """The real objects under a name, top first, down to where the merge ends. ``path``: as seen, for errors."""
        for depth, (layer, directory) in enumerate(merged, 1):
            real = self._read((layer, below(directory, name)), path)
            if real is None:
                continue
            if real.is_whiteout:
                return
            yield real
            if real.ends_merge:
                return
            if redirect := real.marks.get(b"redirect"):
                yield from self._redirected(merged[depth:], layer, redirect, path)
                return

    def _redirected(self, rest: Merged, layer: int, redirect: bytes, path: bytes) -> Iterator[Real]:
        """A sibling name, or a path from the root of the layers below."""
        if not redirect.startswith(b"/"):
            yield from self._stack(rest, redirect, path)
            return
        *parents, name = redirect[1:].split(b"/")
        merged: Merged = tuple((number, b"") for number in range(layer + 1, len(self._layers)))
        for parent in parents:
            stack = self._stack(merged, parent, path)
            merged = tuple(real.place for real in takewhile(lambda real: real.entry.is_dir, stack))
        yield from self._stack(merged, name, path)

    def _bytes_of(self, top: Real, below_it: Iterator[Real], path: bytes) -> Real:
        if not top.is_metacopy:
            return top
        for real in takewhile(lambda r: r.entry.is_file, below_it):
            if not real.is_metacopy:
                return real
        raise UnsafeEntryError(f"{show_path(path)}: metacopy without data: name every lower directory of the mount")

    def _read(self, place: Place, seen_at: bytes) -> Real | None:
        layer, path = place
        if len(path.rpartition(b"/")[2]) > _NAME_MAX:  # a redirect can ask for it
            return None
        try:
            fd = open_dir(self._layers[layer], parent_of(path))
        except OSError as exc:
            raise StorageError(exc.errno or errno.EIO, "open", path) from exc
        try:
            entry = read_entry(fd, path.rpartition(b"/")[2] or b".", path)
        finally:
            os.close(fd)
        if entry is None:
            return None
        marks = marks_of(entry.xattrs, self._prefix)
        if not is_place(marks.get(b"redirect", b"")):
            raise UnsafeEntryError(
                f"{show_path(seen_at)}: overlay.redirect names no place inside the layers: "
                "do not use this upper directory"
            )
        return Real(place, entry, marks)

    def _visible(self, real: Real, data: Real, path: bytes) -> Entry:
        """As it is seen through the overlay at ``path``."""
        xattrs, dropped = filter_xattrs(visible_xattrs(real.entry.xattrs, self._prefix), self._policy)
        layer, where = data.place
        return replace(real.entry, path=path, xattrs=xattrs, dropped=dropped, place=(self._layers[layer], where))


def marks_of(xattrs: Xattrs, prefix: bytes) -> dict[bytes, bytes]:
    """Overlay's own xattrs. A mount has one prefix; under any other they are data, which anyone may set."""
    found: dict[bytes, bytes] = {}
    for name, value in xattrs:
        short = name.removeprefix(prefix)
        if short != name and not short.startswith(_ESCAPE):
            found[short] = value
    return found


def visible_xattrs(xattrs: Xattrs, prefix: bytes) -> Xattrs:
    """Without overlay's own; an escaped one (``overlay.overlay.X``) is seen as what it stands for."""
    found = []
    for name, value in xattrs:
        short = name.removeprefix(prefix)
        if short == name:
            found.append((name, value))
        elif short.startswith(_ESCAPE):
            found.append((prefix + short.removeprefix(_ESCAPE), value))
    return tuple(sorted(found))


def is_place(redirect: bytes) -> bool:
    """None at all, a sibling's name, or a path from the root of the layers: nothing that leads out of them."""
    if not redirect:
        return True
    names = redirect[1:].split(b"/") if redirect.startswith(b"/") else [redirect]
    return all(name not in (b"", b".", b"..") and b"/" not in name and b"\0" not in name for name in names)


class PartialLinks(HardLinks):
    """Groups when A is not walked whole: its link counts speak for the names that were not met.

    A name that B has on another inode left those behind, and its group is not as it was. Unless that inode has more
    links than names: they are overlayfs' own (index=on), which gives the names left behind the new inode, too.
    """

    def __init__(self) -> None:
        super().__init__()
        self._links: dict[Inode, int] = {}
        self._gone: Counter[Inode] = Counter()

    def add(self, a: Entry | None, change: Change) -> None:
        super().add(a, change)
        if a is not None and a.shared:
            self._links[a.inode] = a.nlink

    def gone(self, a: Entry) -> None:
        """A has it, B has nothing there."""
        if a.shared:
            self._links[a.inode] = a.nlink
            self._gone[a.inode] += 1

    def _unchanged(self, members: list[Change]) -> bool:
        if not super()._unchanged(members):
            return False
        entry = members[0].entry
        before = self._was[entry.path]
        if before is None or before == entry.inode or entry.nlink > len(members):
            return True
        return self._links.get(before, 0) <= len(self._still_there[before]) + self._gone[before]


class UpperDiffer(Differ):
    """See ``fastlayer._backend.Differ``. A is the merge of the lowerdirs, B that of all layers.

    Names of the lowerdirs that share an inode with something the upperdir has are not looked for, see ``PartialLinks``.
    """

    _links: PartialLinks

    def __init__(
        self,
        upper_fd: int,
        lower_fds: Sequence[int],
        *,
        compare: str = "auto",
        xattrs: str = "all",
        userxattr: bool = False,
        details: bool = False,
    ) -> None:
        if not 0 < len(lower_fds) <= _MAX_LOWERS:
            few = "an upper directory needs lower ones: name at least one"
            raise UsageError(f"too many lower directories: name at most {_MAX_LOWERS}" if lower_fds else few)
        super().__init__(None, None, compare=compare, xattrs=xattrs, details=details)
        self._layers = (upper_fd, *lower_fds)
        self._overlay = Overlay(self._layers, xattrs, userxattr=userxattr)
        self._pairs = self._upper_pairs()
        self._links = PartialLinks()

    def old_place(self, path: bytes) -> tuple[int, bytes] | None:
        found: Found | None = self._overlay.root(1)
        at = b""
        for name in path.split(b"/"):
            if found is None:
                return None
            at = below(at, name)
            found = self._overlay.lookup(found.merged, at)
        if found is None or not found.entry.is_file or found.entry.place is None:
            return None
        root, where = found.entry.place
        return self._layers.index(root), where

    def _take_removed(self, a: Entry) -> None:
        super()._take_removed(a)
        self._links.gone(a)

    def point_at_bytes(self, change: Change) -> None:
        assert change.entry.place is not None
        root, path = change.entry.place
        if not change.entry.size:
            return
        change.flags |= ROW_AUX
        if root == self._layers[UPPER]:
            change.aux = ctime_aux(change.entry)
        else:
            change.aux = AUX_PATH.pack(b"P", self._layers.index(root)) + path

    def _upper_pairs(self) -> Iterator[Pair]:
        """As ``lockstep``, but only where the upperdir has something."""
        a, b = self._overlay.root(1), self._overlay.root(UPPER)
        yield a.entry, b.entry
        stack = [self._events(b"", a.merged, b.merged)]
        while stack:
            if not stack[-1]:
                stack.pop()
                continue
            key, path, before, after = stack[-1].pop()
            if key.endswith(b"/"):
                stack.append(self._events(path, before.merged if before else (), after.merged if after else ()))
            else:
                yield before.entry if before else None, after.entry if after else None

    def _events(self, path: bytes, a: Merged, b: Merged) -> list[tuple[bytes, bytes, Found | None, Found | None]]:
        """(key, path, in A, in B) of one directory's children, last first."""
        found = []
        for name in self._names(a, b):
            child = below(path, name)
            before, after = self._overlay.lookup(a, child), self._overlay.lookup(b, child)
            found.append((name, child, before, after))
            if after is not None and after.entry.is_dir:
                found.append((name + b"/", child, before, after))
        return sorted(found, key=lambda event: event[0], reverse=True)

    def _names(self, a: Merged, b: Merged) -> set[bytes]:
        """Names that may be seen differently; those of the upperdir alone where nothing else joined or left."""
        if a == b:
            return set()
        if b and b[0][0] == UPPER and b[1:] == a:
            return self._overlay.names(b[:1])
        return self._overlay.names(a) | self._overlay.names(b)
