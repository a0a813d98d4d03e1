"""Puts layer tars onto a tree: contract in ``fastlayer._backend.Extractor``, rules in docs/formats.md.

Every name is resolved from the target's descriptor again (``paths.resolve``); nothing about the tree is remembered but
(in ``nodes.Node`` objects)
  - the paths that this layer made, because a whiteout acts on the layers below only, wherever it stands in the layer;
  - what a directory is to look like at the end: the times of its entry, or those it had when nothing in the layer
    speaks of it. It is matched by inode: a directory that was replaced since is left alone.
Directories that no entry speaks of are made 0755, owner 0:0.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from fastlayer._baseline import paths, whiteouts
from fastlayer._baseline.attributes import Attributes
from fastlayer._baseline.encode import Encoder
from fastlayer._baseline.nodes import Node, Settle
from fastlayer._baseline.paths import Handle, Parts, overrides_permissions, proc_path
from fastlayer._baseline.remove import remove, remove_children
from fastlayer._baseline.tarread import TarItem, TarParser
from fastlayer._values import NamedTuple
from fastlayer.errors import (
    FileChangedError,
    LayerFormatError,
    LimitError,
    StorageError,
    UnsafeEntryError,
    UsageError,
    show_path,
)

_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_ANY = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_IMPLIED_MODE = 0o755
_STEP = 1 << 20  # bytes of a table's tar at a time
_MAX_TARGET = 4095
_REPLACES = "replaces another entry, of which it is not known what is left"
_ROOT_IS_OPAQUE = "the root is opaque, which overlay cannot say: mount this layer without lower ones"


class ExtractStats(NamedTuple):
    """See ``fastlayer._backend.ExtractStats``."""

    entries: int
    payload: int
    whiteouts: int
    warnings: tuple[str, ...]
    skipped_xattrs: int
    needs_lower: bool


class _OpenFile(NamedTuple):
    fd: int
    item: TarItem
    donated: bool = False


class Extractor:
    """See ``fastlayer._backend.Extractor``.

    ``uid_map``, ``gid_map``: ``(inside, outside, count)`` ranges; an id outside them is refused. ``ignore_chown``:
    owners that may not be set are left. ``skip_devices``: devices that may not be made are left out, with the hard
    links to them in the same layer. Limits of 0 are none; ``max_size`` counts the bytes of a layer's regular files
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
        skip_devices: bool = False,
        max_entries: int = 0,
        max_size: int = 0,
        max_file_size: int = 0,
        max_pax: int = 1 << 20,
        fsync: bool = False,
        donor: int = -1,
    ) -> None:
        self.entries = 0
        self.payload = 0
        self.donated_bytes = 0
        self._donor = self._given_donor = donor
        self.shared_bytes = self.copied_bytes = 0
        self._root = target_fd
        self._storage = whiteouts.storage(format)
        self._is_free = overrides_permissions()
        self._attributes = Attributes(uid_map, gid_map, ignore_chown, self._storage.xattr_prefix)
        self._max_entries, self._max_size, self._max_file_size = max_entries, max_size, max_file_size
        self._skip_devices = skip_devices
        self._max_pax = max_pax
        self._fsync = fsync
        self._parser: TarParser | None = None
        self._failed = False
        self._out: _OpenFile | None = None
        self._placed: Encoder | None = None
        self._path = b""  # the entry at hand, for messages

    # ---- the layer

    def begin_layer(self) -> None:
        if self._failed or self._parser is not None:
            raise UsageError("the extractor has failed" if self._failed else "end_layer is missing")
        self._parser = TarParser(self._max_pax)
        self._top = Node()
        self._entries_before, self._payload_before = self.entries, self.payload
        self._size = self._whiteouts = 0
        self.shared_bytes = self.copied_bytes = self.donated_bytes = 0
        self._donor = -1 if self._given_donor < 0 or os.listdir(self._root) else self._given_donor
        self._warnings: list[str] = []
        self._needs_lower = False
        self._attributes.begin_layer()
        self._take_permission(self._root, self._top)

    def feed(self, buffer: Any) -> None:
        self._refuse_placing()
        self._take(buffer)

    def feed_extent(self, fd: int, offset: int, length: int) -> None:
        """The definition: what is there is read, and fed."""
        self._refuse_placing()
        with self._in_layer() as parser:
            if length > parser.body_left:
                raise LayerFormatError(f"a part of a file stands where it does not belong (at byte {parser.offset})")
        while length:
            piece = os.pread(fd, min(length, _STEP), offset)
            if not piece:
                self._failed = True
                raise FileChangedError(f"{show_path(self._path)}: file became shorter while it was copied")
            if self._out is not None and not self._out.donated:
                self.copied_bytes += len(piece)
            self._take(piece)
            offset, length = offset + len(piece), length - len(piece)

    def place(self, table: Any, roots: Sequence[int], clamp_mtime: int | None = None, *, jobs: int = 1) -> bool:
        """The definition: what the encoder makes of the table is taken. Blocks of zeros become holes, though."""
        if self._placed is None:
            self._placed, self._table = Encoder(table, roots, clamp_mtime), table
        elif self._table is not table:
            raise UsageError("the table has rows that are not placed yet")
        buffer = memoryview(bytearray(_STEP))
        try:
            count = self._placed.readinto(buffer)
        except BaseException:
            self._failed = True
            raise
        self._take(buffer[:count])
        if count < _STEP:
            self._placed = None
        return self._placed is not None

    def _refuse_placing(self) -> None:
        if self._placed is not None:
            raise UsageError("the table has rows that are not placed yet")

    def _take(self, buffer: Any) -> None:
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
        self._refuse_placing()
        with self._in_layer() as parser:
            parser.finish()
            self._settle_directories()
        self._parser = None
        return ExtractStats(
            self.entries - self._entries_before,
            self.payload - self._payload_before,
            self._whiteouts,
            (*self._warnings, *self._attributes.warnings()),
            self._attributes.skipped_xattrs,
            self._needs_lower,
        )

    def abort(self) -> None:
        self._failed = True
        self._placed = None  # and the file that it reads
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
            op = exc.op if isinstance(exc, StorageError) else "extract"
            raise StorageError(exc.errno or 0, op, self._path) from exc
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
        self._describe_directory(self._root, self._top, item)

    def _make(self, item: TarItem, parts: Parts) -> None:
        with self._place(parts[:-1], self._imply) as (parent, at):
            self._keep_times(parent, at)
            _MAKERS[item.type](self, parent, at, parts[-1], item)
            made = at.child(parts[-1])
            made.made = not made.left_out

    def _make_file(self, parent: int, at: Node, name: bytes, item: TarItem) -> None:
        self._vacate(parent, at, name)
        donated = self._take_donated(parent, name, item)
        if donated is not None:
            self.donated_bytes += item.size
            self._out = _OpenFile(donated, item, donated=True)
            return
        self._out = _OpenFile(os.open(name, _NEW_FILE, 0o600, dir_fd=parent), item)

    def _take_donated(self, parent: int, name: bytes, item: TarItem) -> int | None:
        """The donor's file of that name, moved to its place, if it has all of the content."""
        if self._donor < 0 or not item.size:
            return None
        *above, last = paths.normalise(item.path)
        try:
            with Handle(paths.open_directory(self._donor, tuple(above))) as directory:
                found = _lstat(directory.fd, last)
                if found is None or not stat.S_ISREG(found.st_mode) or found.st_size != item.size:
                    return None
                os.rename(last, name, src_dir_fd=directory.fd, dst_dir_fd=parent)
        except OSError:
            return None
        return os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)

    def _make_directory(self, parent: int, at: Node, name: bytes, item: TarItem) -> None:
        if not _is_directory(parent, name):
            self._new_directory(parent, at, name)
        with _opened(name, paths.DIRECTORY, parent) as fd:
            self._describe_directory(fd, at.child(name), item)

    def _make_symlink(self, parent: int, at: Node, name: bytes, item: TarItem) -> None:
        if len(item.link) > _MAX_TARGET:
            raise UnsafeEntryError(f"{show_path(item.path)}: the target of a symbolic link is longer than 4095 bytes")
        self._vacate(parent, at, name)
        os.symlink(item.link, name, dir_fd=parent)
        self._describe(parent, name, item)

    def _make_device(self, parent: int, at: Node, name: bytes, item: TarItem) -> None:
        if item.type == "3" and item.rdev == (0, 0) and isinstance(self._storage, whiteouts.OverlayStorage):
            raise UnsafeEntryError(f"{show_path(item.path)}: device 0:0 would be a whiteout on overlay")
        kind = stat.S_IFCHR if item.type == "3" else stat.S_IFBLK
        self._vacate(parent, at, name)
        try:
            os.mknod(name, kind | 0o600, os.makedev(*item.rdev), dir_fd=parent)
        except OSError as exc:
            if exc.errno != errno.EPERM or not self._skip_devices:
                raise StorageError(exc.errno or 0, "mknod", self._path) from exc
            self._leave_out(at, name, item)
            return
        self._describe(parent, name, item)

    def _leave_out(self, at: Node, name: bytes, item: TarItem) -> None:
        """The entry is not made; its place is free."""
        at.child(name).left_out = True
        self._needs_lower = self._needs_lower or self._storage.stores_markers  # it may have something to hide there
        self._attributes.lose(f"devices not made: {os.strerror(errno.EPERM)}", show_path(item.path))

    def _make_fifo(self, parent: int, at: Node, name: bytes, item: TarItem) -> None:
        self._vacate(parent, at, name)
        os.mkfifo(name, 0o600, dir_fd=parent)
        self._describe(parent, name, item)

    def _make_hardlink(self, parent: int, at: Node, name: bytes, item: TarItem) -> None:
        """Its target is a path in the tree whose last component is not followed. The inode's attributes stay."""
        target = paths.normalise(item.link)
        if any(part.startswith(whiteouts.PREFIX) for part in target):
            raise UnsafeEntryError(f"{show_path(item.path)}: hard link to a whiteout")
        with self._place(target[:-1], _no_directory) as (directory, there):
            missing = bool(target) and directory >= 0 and self._was_left_out(directory, there, target[-1])
            if not missing and (not target or directory < 0 or not self._can_be_linked(directory, target[-1])):
                raise UnsafeEntryError(f"{show_path(item.path)}: hard link to {show_path(item.link)}, which is no file")
            if there is at and target[-1] == name:
                raise UnsafeEntryError(f"{show_path(item.path)}: hard link to itself")
            self._vacate(parent, at, name)
            if missing:
                self._leave_out(at, name, item)
                return
            try:
                os.link(target[-1], name, src_dir_fd=directory, dst_dir_fd=parent, follow_symlinks=False)
            except FileNotFoundError:  # it was below what the link replaces
                raise UnsafeEntryError(f"{show_path(item.path)}: hard link to what it replaces") from None

    def _was_left_out(self, directory: int, there: Node, name: bytes) -> bool:
        node = there.find(name)
        return node is not None and node.left_out and _lstat(directory, name) is None

    def _can_be_linked(self, directory: int, name: bytes) -> bool:
        found = _lstat(directory, name)
        return found is not None and not stat.S_ISDIR(found.st_mode) and not self._storage.is_hidden(directory, name)

    # ---- content and attributes

    def _write(self, data: memoryview, position: int) -> None:
        if self._out is None:  # the body of a marker
            return
        self.payload += len(data)
        if self._out.donated:
            return
        if self._placed is not None:
            if not bytes(data).strip(b"\0"):
                return
            self.copied_bytes += len(data)
        while data:
            written = os.pwrite(self._out.fd, data, position)
            data, position = data[written:], position + written

    def _finish_file(self) -> None:
        if self._out is None:
            return
        fd, item, donated = self._out
        if not donated and (item.sparse or self._placed is not None):
            os.ftruncate(fd, item.size)
        self._attributes.apply(fd, item)
        os.utime(fd, ns=(item.mtime_ns, item.mtime_ns))
        if self._fsync:
            os.fsync(fd)
        self._out = None
        os.close(fd)

    def _describe(self, parent: int, name: bytes, item: TarItem) -> None:
        with _opened(name, _ANY, parent) as fd:
            self._attributes.apply(fd, item)
            os.utime(proc_path(fd), ns=(item.mtime_ns, item.mtime_ns))

    def _describe_directory(self, fd: int, at: Node, item: TarItem) -> None:
        """Times at the end of the layer, and the mode, too, when it would close the directory to its owner."""
        self._take_permission(fd, at)
        open_mode = item.mode if self._is_free else item.mode | 0o700
        self._attributes.apply(fd, item._replace(mode=open_mode))
        at.settle = Settle(*paths.identity(fd), item.mtime_ns, item.mode)

    def _take_permission(self, fd: int, at: Node) -> None:
        """Permissions count: a directory of our own that is closed to us is opened up until the end of the layer."""
        if self._is_free:
            return
        found = os.fstat(fd)
        if found.st_uid == os.geteuid() and found.st_mode & 0o700 != 0o700:
            os.chmod(proc_path(fd), stat.S_IMODE(found.st_mode) | 0o700)
            at.settle = Settle(found.st_dev, found.st_ino, found.st_mtime_ns, stat.S_IMODE(found.st_mode))

    def _keep_times(self, fd: int, at: Node) -> None:
        """Before the first change to a directory that no entry has spoken of."""
        if at.settle is None:
            found = os.fstat(fd)
            at.settle = Settle(found.st_dev, found.st_ino, found.st_mtime_ns, None)

    def _settle_directories(self) -> None:
        """Children first: a parent may close itself. The way up is found before."""
        stack = [(self._top, iter(_below(self._top)))]
        with Handle(paths.open_directory(self._root, ())) as here:
            while stack:
                node, children = stack[-1]
                child = next(children, None)
                if child is not None:
                    if (fd := _enter(here.fd, child)) >= 0:
                        here.move(fd)
                        stack.append((child, iter(_below(child))))
                    continue
                stack.pop()
                with Handle(os.open(".." if stack else ".", paths.DIRECTORY, dir_fd=here.fd)) as above:
                    self._settle_directory(here.fd, node)
                    here.move(above.release())

    def _settle_directory(self, fd: int, node: Node) -> None:
        want = node.settle
        if want is None or paths.identity(fd) != (want.dev, want.ino):
            return
        try:
            if want.mode is not None and want.mode | 0o700 != want.mode and not self._is_free:
                os.chmod(proc_path(fd), want.mode)
            os.utime(proc_path(fd), ns=(want.mtime_ns, want.mtime_ns))
            if self._fsync:
                _sync_directory(fd)
        except OSError:
            self._path = node.path()
            raise

    # ---- places

    @contextmanager
    def _place(self, parts: Parts, obstacle: paths.Obstacle) -> Iterator[tuple[int, Node]]:
        """The directory ``parts`` lead to, links followed inside the target; descriptor -1 where there is none."""
        found = paths.resolve(self._root, self._top, parts, obstacle, self._take_permission)
        if found is None:
            yield -1, self._top
            return
        with Handle(found[0]):
            yield found

    def _vacate(self, parent: int, at: Node, name: bytes) -> bool:
        """Makes room for an entry: removes whatever is there. Whether there was anything, a marker included."""
        hidden = self._storage.reveal(parent, name)
        found = _lstat(parent, name) is not None
        if found:
            remove(parent, name, None, self._forget_lower)
            if self.donated_bytes:
                raise FileChangedError(f"{show_path(self._path)}: {_REPLACES}")
        at.forget(name)
        return hidden or found

    def _new_directory(self, parent: int, at: Node, name: bytes) -> None:
        """What a new directory takes the place of hid the lower layers: so does the directory."""
        replaces = self._vacate(parent, at, name)
        os.mkdir(name, 0o700, dir_fd=parent)
        if replaces and self._storage.stores_markers:
            with _opened(name, paths.DIRECTORY, parent) as fd:
                self._storage.set_opaque(fd)

    def _imply(self, parent: int, at: Node, name: bytes, links: int = 0) -> bool:
        """A parent directory that is missing, or whose place something else has, is made."""
        self._keep_times(parent, at)
        self._new_directory(parent, at, name)
        self._needs_lower = self._needs_lower or self._storage.stores_markers
        with _opened(name, paths.DIRECTORY, parent) as fd:
            self._attributes.apply_implied(fd, _IMPLIED_MODE)
        return True

    def _imply_missing(self, parent: int, at: Node, name: bytes, links: int) -> bool:
        """For markers: what is hidden, or not a directory, has nothing to hide. Behind a link to nothing it is not
        known whether there is anything."""
        if links or not self._storage.stores_markers or _lstat(parent, name) or self._storage.is_hidden(parent, name):
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
                self._hide(fd, at, marker.name)

    def _hide(self, parent: int, at: Node, name: bytes) -> None:
        remove(parent, name, at.find(name), self._forget_lower)
        if not self._storage.stores_markers:
            return
        if _is_directory(parent, name):
            with _opened(name, paths.DIRECTORY, parent) as fd:
                self._storage.set_opaque(fd)
        elif _lstat(parent, name) is None and not self._is_below_opaque(at):
            self._storage.hide(parent, name)

    def _hide_children(self, fd: int, at: Node) -> None:
        remove_children(fd, at, self._forget_lower)
        self._storage.set_opaque(fd)
        if at is self._top and isinstance(self._storage, whiteouts.OverlayStorage):
            self._warnings = [_ROOT_IS_OPAQUE]
            self._needs_lower = True

    def _forget_lower(self, fd: int, at: Node) -> None:
        """A directory of a lower layer that stays only for what this layer put below it is an implied one now."""
        self._attributes.apply_implied(fd, _IMPLIED_MODE)
        at.settle = None

    def _is_below_opaque(self, at: Node) -> bool:
        """Nothing of lower layers shows here: a marker would be litter."""
        with Handle(paths.open_directory(self._root, ())) as here:
            for name in at.names():
                if self._storage.is_opaque(here.fd):
                    return True
                here.move(os.open(name, paths.DIRECTORY, dir_fd=here.fd))
            return self._storage.is_opaque(here.fd)


_MAKERS: dict[str, Callable[[Extractor, int, Node, bytes, TarItem], None]] = {
    "0": Extractor._make_file,
    "1": Extractor._make_hardlink,
    "2": Extractor._make_symlink,
    "3": Extractor._make_device,
    "4": Extractor._make_device,
    "5": Extractor._make_directory,
    "6": Extractor._make_fifo,
}


def _no_directory(parent: int, at: Node, name: bytes, links: int) -> bool:
    return False


def _below(node: Node) -> list[Node]:
    return list((node.below or {}).values())


def _enter(parent: int, node: Node) -> int:
    """Opens a directory that has something to be settled in it; -1 where there is none (any more)."""
    if node.settle is None and not node.below:
        return -1
    try:
        return os.open(node.name, paths.DIRECTORY, dir_fd=parent)
    except (FileNotFoundError, NotADirectoryError):
        return -1


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
    is_closed = mode & 0o500 != 0o500 and not overrides_permissions()
    if is_closed:
        os.chmod(proc_path(fd), mode | 0o500)
    with _opened(b".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, fd) as readable:
        if is_closed:
            os.chmod(readable, mode)
        os.fsync(readable)
