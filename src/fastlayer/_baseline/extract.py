"""Puts layer tars onto a tree: contract in ``fastlayer._backend.Extractor``, rules in docs/formats.md.

Every name is resolved from the target's descriptor again (``paths.resolve``); nothing about the tree is remembered but
  - the paths that this layer made, because a whiteout acts on the layers below only, wherever it stands in the layer;
  - what a directory is to look like at the end: the times of its entry, or those it had when nothing in the layer
    speaks of it. It is matched by inode: a directory that was replaced since is left alone.
Directories that no entry speaks of are made 0755, owner 0:0.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from fastlayer._baseline import paths, whiteouts
from fastlayer._baseline.attributes import Attributes
from fastlayer._baseline.paths import Parts, proc_path
from fastlayer._baseline.remove import remove, remove_children
from fastlayer._baseline.tarread import TarItem, TarParser
from fastlayer.errors import LimitError, StorageError, UnsafeEntryError, UsageError, show_path

_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_ANY = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_IMPLIED_MODE = 0o755
_MAX_TARGET = 4095
_ROOT_IS_OPAQUE = "the root is opaque, which overlay cannot say: mount this layer without lower ones"


class ExtractStats(NamedTuple):
    """See ``fastlayer._backend.ExtractStats``."""

    entries: int
    payload: int
    whiteouts: int
    warnings: tuple[str, ...]
    skipped_xattrs: int


class _Settle(NamedTuple):
    """A directory to be settled at the end of the layer; ``mode`` None: as it is."""

    dev: int
    ino: int
    mtime_ns: int
    mode: int | None


class _OpenFile(NamedTuple):
    fd: int
    item: TarItem


class Extractor:
    """See ``fastlayer._backend.Extractor``.

    ``uid_map``, ``gid_map``: ``(inside, outside, count)`` ranges; an id outside them is refused. ``ignore_chown``:
    owners that may not be set are left. Limits of 0 are none; ``max_size`` counts the bytes of a layer's regular files
    as they will be read (holes included).
    """

    def __init__(
        self,
        target_fd: int,
        *,
        format: str = "dir",
        uid_map: tuple[tuple[int, int, int], ...] | None = None,
        gid_map: tuple[tuple[int, int, int], ...] | None = None,
        ignore_chown: bool = False,
        max_entries: int = 0,
        max_size: int = 0,
        max_file_size: int = 0,
        max_pax: int = 1 << 20,
        fsync: bool = False,
    ) -> None:
        self.entries = 0
        self.payload = 0
        self._root = target_fd
        self._storage = whiteouts.storage(format)
        self._attributes = Attributes(uid_map, gid_map, ignore_chown, self._storage.xattr_prefix)
        self._max_entries, self._max_size, self._max_file_size = max_entries, max_size, max_file_size
        self._max_pax = max_pax
        self._fsync = fsync
        self._parser: TarParser | None = None
        self._failed = False
        self._out: _OpenFile | None = None
        self._path = b""  # the entry at hand, for messages

    # ---- the layer

    def begin_layer(self) -> None:
        if self._failed or self._parser is not None:
            raise UsageError("the extractor has failed" if self._failed else "end_layer is missing")
        self._parser = TarParser(self._max_pax)
        self._made: set[bytes] = set()
        self._settle: dict[Parts, _Settle] = {}
        self._entries_before, self._payload_before = self.entries, self.payload
        self._size = self._whiteouts = 0
        self._warnings: list[str] = []
        self._attributes.begin_layer()
        self._take_permission(self._root, ())

    def feed(self, buffer: Any) -> None:
        view = memoryview(buffer).cast("B")
        with self._in_layer() as parser:
            for event in parser.parse(view):
                if event[0] == "entry":
                    self._take_entry(event[1])
                elif event[0] == "data":
                    self._write(view[event[1] : event[2]], event[3])
                else:
                    self._finish_file()

    def end_layer(self) -> ExtractStats:
        with self._in_layer() as parser:
            parser.finish()
            for path in sorted(self._settle, reverse=True):  # children first: a parent may close itself
                self._settle_directory(path)
        self._parser = None
        return ExtractStats(
            self.entries - self._entries_before,
            self.payload - self._payload_before,
            self._whiteouts,
            (*self._warnings, *self._attributes.warnings()),
            self._attributes.skipped_xattrs,
        )

    def abort(self) -> None:
        self._failed = True
        if self._out is not None:
            os.close(self._out.fd)
            self._out = None

    @contextmanager
    def _in_layer(self) -> Iterator[TarParser]:
        """After any failure the extractor is good for nothing."""
        if self._failed or self._parser is None:
            raise UsageError("the extractor has failed" if self._failed else "call begin_layer first")
        self._failed = True
        try:
            yield self._parser
        except OSError as exc:
            raise StorageError(exc.errno or 0, "extract", self._path) from exc
        self._failed = False

    # ---- entries

    def _take_entry(self, item: TarItem) -> None:
        self._path = item.path
        self._count(item)
        parts = paths.normalise(item.path)
        if whiteouts.is_bookkeeping(parts):
            return
        marker = whiteouts.marker(parts, item.path)
        if marker is not None:
            self._whiteouts += 1
            self._take_marker(marker)
        elif not parts:
            self._make_root(item)
        else:
            self._make(item, parts)

    def _count(self, item: TarItem) -> None:
        self.entries += 1
        self._size += item.size
        for value, limit, what in (
            (self.entries - self._entries_before, self._max_entries, "entries in the layer"),
            (item.size, self._max_file_size, "bytes in a file"),
            (self._size, self._max_size, "bytes in the files of the layer"),
        ):
            if limit and value > limit:
                raise LimitError(f"{show_path(item.path)}: more than {limit} {what}")

    def _make_root(self, item: TarItem) -> None:
        if item.type != "5":
            raise UnsafeEntryError(f"{show_path(item.path)}: an entry that would replace the root")
        self._describe_directory(self._root, (), item)

    def _make(self, item: TarItem, parts: Parts) -> None:
        with self._place(parts[:-1], self._imply) as (parent, at):
            path = (*at, parts[-1])
            self._keep_times(parent, at)
            _MAKERS[item.type](self, parent, path, item)
            self._made.add(b"/".join(path))

    def _make_file(self, parent: int, path: Parts, item: TarItem) -> None:
        self._vacate(parent, path)
        self._out = _OpenFile(os.open(path[-1], _NEW_FILE, 0o600, dir_fd=parent), item)

    def _make_directory(self, parent: int, path: Parts, item: TarItem) -> None:
        if not _is_directory(parent, path[-1]):
            self._new_directory(parent, path)
        with _opened(path[-1], paths.DIRECTORY, parent) as fd:
            self._describe_directory(fd, path, item)

    def _make_symlink(self, parent: int, path: Parts, item: TarItem) -> None:
        if len(item.link) > _MAX_TARGET:
            raise UnsafeEntryError(f"{show_path(item.path)}: the target of a symbolic link is longer than 4095 bytes")
        self._vacate(parent, path)
        os.symlink(item.link, path[-1], dir_fd=parent)
        self._describe(parent, path, item)

    def _make_device(self, parent: int, path: Parts, item: TarItem) -> None:
        if item.type == "3" and item.rdev == (0, 0) and isinstance(self._storage, whiteouts.OverlayStorage):
            raise UnsafeEntryError(f"{show_path(item.path)}: device 0:0 would be a whiteout on overlay")
        kind = stat.S_IFCHR if item.type == "3" else stat.S_IFBLK
        self._vacate(parent, path)
        os.mknod(path[-1], kind | 0o600, os.makedev(*item.rdev), dir_fd=parent)
        self._describe(parent, path, item)

    def _make_fifo(self, parent: int, path: Parts, item: TarItem) -> None:
        self._vacate(parent, path)
        os.mkfifo(path[-1], 0o600, dir_fd=parent)
        self._describe(parent, path, item)

    def _make_hardlink(self, parent: int, path: Parts, item: TarItem) -> None:
        """Its target is a path in the tree whose last component is not followed. The inode's attributes stay."""
        target = paths.normalise(item.link)
        if any(part.startswith(whiteouts.PREFIX) for part in target):
            raise UnsafeEntryError(f"{show_path(item.path)}: hard link to a whiteout")
        with self._place(target[:-1], _no_directory) as (directory, at):
            if not target or directory < 0 or not self._can_be_linked(directory, target[-1]):
                raise UnsafeEntryError(f"{show_path(item.path)}: hard link to {show_path(item.link)}, which is no file")
            if (*at, target[-1]) == path:
                raise UnsafeEntryError(f"{show_path(item.path)}: hard link to itself")
            self._vacate(parent, path)
            try:
                os.link(target[-1], path[-1], src_dir_fd=directory, dst_dir_fd=parent, follow_symlinks=False)
            except FileNotFoundError:  # it was below what the link replaces
                raise UnsafeEntryError(f"{show_path(item.path)}: hard link to what it replaces") from None

    def _can_be_linked(self, directory: int, name: bytes) -> bool:
        found = _lstat(directory, name)
        return found is not None and not stat.S_ISDIR(found.st_mode) and not self._storage.is_hidden(directory, name)

    # ---- content and attributes

    def _write(self, data: memoryview, position: int) -> None:
        if self._out is None:  # the body of a marker
            return
        self.payload += len(data)
        while data:
            written = os.pwrite(self._out.fd, data, position)
            data, position = data[written:], position + written

    def _finish_file(self) -> None:
        if self._out is None:
            return
        fd, item = self._out
        if item.sparse:
            os.ftruncate(fd, item.size)
        self._attributes.apply(fd, item)
        os.utime(fd, ns=(item.mtime_ns, item.mtime_ns))
        if self._fsync:
            os.fsync(fd)
        self._out = None
        os.close(fd)

    def _describe(self, parent: int, path: Parts, item: TarItem) -> None:
        with _opened(path[-1], _ANY, parent) as fd:
            self._attributes.apply(fd, item)
            os.utime(proc_path(fd), ns=(item.mtime_ns, item.mtime_ns))

    def _describe_directory(self, fd: int, path: Parts, item: TarItem) -> None:
        """Times at the end of the layer, and the mode, too, when it would close the directory to its owner."""
        self._take_permission(fd, path)
        open_mode = item.mode if os.geteuid() == 0 else item.mode | 0o700
        self._attributes.apply(fd, item._replace(mode=open_mode))
        found = os.stat(proc_path(fd))
        self._settle[path] = _Settle(found.st_dev, found.st_ino, item.mtime_ns, item.mode)

    def _take_permission(self, fd: int, path: Parts) -> None:
        """Not root: a directory of our own that is closed to us is opened up until the end of the layer."""
        if os.geteuid() == 0:
            return
        found = os.stat(proc_path(fd))
        if found.st_uid == os.geteuid() and found.st_mode & 0o700 != 0o700:
            os.chmod(proc_path(fd), stat.S_IMODE(found.st_mode) | 0o700)
            self._settle[path] = _Settle(found.st_dev, found.st_ino, found.st_mtime_ns, stat.S_IMODE(found.st_mode))

    def _keep_times(self, fd: int, path: Parts) -> None:
        """Before the first change to a directory that no entry has spoken of."""
        if path not in self._settle:
            found = os.stat(proc_path(fd))
            self._settle[path] = _Settle(found.st_dev, found.st_ino, found.st_mtime_ns, None)

    def _settle_directory(self, path: Parts) -> None:
        self._path = b"/".join(path)
        want = self._settle[path]
        try:
            fd = paths.open_directory(self._root, path)
        except (FileNotFoundError, NotADirectoryError):
            return
        try:
            found = os.stat(proc_path(fd))
            if (found.st_dev, found.st_ino) != (want.dev, want.ino):
                return
            if want.mode is not None and want.mode | 0o700 != want.mode and os.geteuid() != 0:
                os.chmod(proc_path(fd), want.mode)
            os.utime(proc_path(fd), ns=(want.mtime_ns, want.mtime_ns))
            if self._fsync:
                _sync_directory(fd)
        finally:
            os.close(fd)

    # ---- places

    @contextmanager
    def _place(self, parts: Parts, obstacle: paths.Obstacle) -> Iterator[tuple[int, Parts]]:
        """The directory ``parts`` lead to, links followed inside the target; (-1, ()) where there is none."""
        found = paths.resolve(self._root, parts, obstacle, self._take_permission)
        try:
            yield found or (-1, ())
        finally:
            if found is not None:
                os.close(found[0])

    def _vacate(self, parent: int, path: Parts) -> bool:
        """Makes room for an entry: removes whatever is there. Whether there was anything, a marker included."""
        hidden = self._storage.reveal(parent, path[-1])
        found = _lstat(parent, path[-1]) is not None
        if found:
            remove(parent, path, lambda _: False, lambda *_: None)
        self._settle.pop(path, None)
        return hidden or found

    def _new_directory(self, parent: int, path: Parts) -> None:
        """What a new directory takes the place of hid the lower layers: so does the directory."""
        replaces = self._vacate(parent, path)
        os.mkdir(path[-1], 0o700, dir_fd=parent)
        if replaces and self._storage.stores_markers:
            with _opened(path[-1], paths.DIRECTORY, parent) as fd:
                self._storage.set_opaque(fd)

    def _imply(self, parent: int, at: Parts, name: bytes) -> bool:
        """A parent directory that is missing, or whose place something else has, is made."""
        self._keep_times(parent, at)
        self._new_directory(parent, (*at, name))
        with _opened(name, paths.DIRECTORY, parent) as fd:
            self._attributes.apply_implied(fd, _IMPLIED_MODE)
        return True

    def _imply_missing(self, parent: int, at: Parts, name: bytes) -> bool:
        """For markers: what is hidden, or not a directory, has nothing to hide."""
        if not self._storage.stores_markers or _lstat(parent, name) or self._storage.is_hidden(parent, name):
            return False
        return self._imply(parent, at, name)

    # ---- whiteouts

    def _take_marker(self, marker: whiteouts.Marker) -> None:
        with self._place(marker.directory, self._imply_missing) as (fd, at):
            if fd < 0:
                return
            self._keep_times(fd, at)
            if marker.name is None:
                self._hide_children(fd, at)
            else:
                self._hide(fd, (*at, marker.name))

    def _hide(self, parent: int, path: Parts) -> None:
        name = path[-1]
        remove(parent, path, self._is_of_this_layer, self._forget_lower)
        if not self._storage.stores_markers:
            return
        if _is_directory(parent, name):
            with _opened(name, paths.DIRECTORY, parent) as fd:
                self._storage.set_opaque(fd)
        elif _lstat(parent, name) is None and not self._is_below_opaque(path[:-1]):
            self._storage.hide(parent, name)

    def _hide_children(self, fd: int, path: Parts) -> None:
        remove_children(fd, path, self._is_of_this_layer, self._forget_lower)
        self._storage.set_opaque(fd)
        if not path and isinstance(self._storage, whiteouts.OverlayStorage):
            self._warnings = [_ROOT_IS_OPAQUE]

    def _is_of_this_layer(self, path: Parts) -> bool:
        return b"/".join(path) in self._made

    def _forget_lower(self, fd: int, path: Parts) -> None:
        """A directory of a lower layer that stays only for what this layer put below it is an implied one now."""
        self._attributes.apply_implied(fd, _IMPLIED_MODE)
        self._settle.pop(path, None)

    def _is_below_opaque(self, path: Parts) -> bool:
        """Nothing of lower layers shows here: a marker would be litter."""
        for depth in range(len(path) + 1):
            with self._place(path[:depth], _no_directory) as (fd, _):
                if self._storage.is_opaque(fd):
                    return True
        return False


_MAKERS: dict[str, Callable[[Extractor, int, Parts, TarItem], None]] = {
    "0": Extractor._make_file,
    "1": Extractor._make_hardlink,
    "2": Extractor._make_symlink,
    "3": Extractor._make_device,
    "4": Extractor._make_device,
    "5": Extractor._make_directory,
    "6": Extractor._make_fifo,
}


def _no_directory(parent: int, at: Parts, name: bytes) -> bool:
    return False


@contextmanager
def _opened(name: bytes, flags: int, parent: int) -> Iterator[int]:
    fd = os.open(name, flags, dir_fd=parent)
    try:
        yield fd
    finally:
        os.close(fd)


def _lstat(parent: int, name: bytes) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=parent, follow_symlinks=False)
    except FileNotFoundError:
        return None


def _is_directory(parent: int, name: bytes) -> bool:
    found = _lstat(parent, name)
    return found is not None and stat.S_ISDIR(found.st_mode)


def _sync_directory(fd: int) -> None:
    """Its owner, when not root, may have to open it up for a moment."""
    mode = stat.S_IMODE(os.stat(proc_path(fd)).st_mode)
    is_closed = os.geteuid() != 0 and mode & 0o500 != 0o500
    if is_closed:
        os.chmod(proc_path(fd), mode | 0o500)
    with _opened(b".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, fd) as readable:
        if is_closed:
            os.chmod(readable, mode)
        os.fsync(readable)
