"""A tree as plain objects, in byte order of the full path.

``walk`` reads a directory, ``walk_columns`` an index or a scanned tar; both yield ``Entry`` values, the root
(path ``b""``) first. Names are bytes; nothing is opened but directories, and no symbolic link is followed.
"""

from __future__ import annotations

import errno
import io
import itertools
import os
import stat
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from fastlayer.errors import LayerFormatError, StorageError

Xattrs = tuple[tuple[bytes, bytes], ...]

FLAG_HAS_KEY, FLAG_NO_CTIME = 1, 2  # csrc/fl_entry.h FL_ENTRY_*

READ_SIZE = 128 * 1024
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_HOST_ONLY = (b"security.selinux", b"trusted.SGI_ACL_FILE", b"trusted.SGI_ACL_DEFAULT")  # XFS lists ACLs twice
_XATTR_HEAD = struct.Struct("=HI")


@dataclass(slots=True)
class Entry:
    """One path of one tree. ``(dev, ino)`` equal means the same hard-link group; ``ino`` 0 means unknown."""

    path: bytes
    mode: int
    uid: int
    gid: int
    size: int  # regular: bytes, symbolic link: bytes of the target, else 0
    mtime_ns: int
    ctime_ns: int
    dev: int
    ino: int
    nlink: int
    rdev: tuple[int, int]
    link: bytes
    xattrs: Xattrs  # those that travel, sorted by name
    dropped: int = 0  # xattrs left out by policy
    flags: int = 0
    key: bytes | None = None  # blake3 of a regular file, when an index knows it
    data_off: int | None = None  # where its bytes begin in the file behind Columns
    place: tuple[int, bytes] | None = None  # root descriptor and path to read it from, when it is in a directory

    @property
    def type(self) -> int:
        return stat.S_IFMT(self.mode)

    @property
    def is_dir(self) -> bool:
        return stat.S_ISDIR(self.mode)

    @property
    def is_file(self) -> bool:
        return stat.S_ISREG(self.mode)

    @property
    def inode(self) -> tuple[int, int]:
        return (self.dev, self.ino)

    @property
    def shared(self) -> bool:
        """May have other names."""
        return self.nlink > 1 and self.ino != 0 and not self.is_dir


def parent_of(path: bytes) -> bytes:
    return path.rpartition(b"/")[0]


def below(path: bytes, name: bytes) -> bytes:
    return path + b"/" + name if path else name


# ---- xattrs -----------------------------------------------------------------------------------


def is_host_only(name: bytes) -> bool:
    """Never travels, and is not worth a warning: labels, second names of ACLs, properties of a btrfs file."""
    return name in _HOST_ONLY or name.startswith(b"btrfs.")


def filter_xattrs(pairs: Xattrs, policy: str) -> tuple[Xattrs, int]:
    """What travels under a policy, and how many were left out; those that every host has for itself are not counted."""
    kept = tuple(pair for pair in pairs if _travels(pair[0], policy))
    left_out = [name for name, _ in pairs if not _travels(name, policy) and not is_host_only(name)]
    return kept, len(left_out)


def _travels(name: bytes, policy: str) -> bool:
    if policy == "none":
        return False
    if policy == "docker":
        return name == b"security.capability"
    return not is_host_only(name) and not name.startswith(b"trusted.")


def pack_xattrs(xattrs: Xattrs) -> bytes:
    """The xattr blob of csrc/fl_entry.h."""
    return b"".join(_XATTR_HEAD.pack(len(name), len(value)) + name + value for name, value in xattrs)


def unpack_xattrs(blob: bytes) -> Xattrs:
    found = []
    at = 0
    while at < len(blob):
        start = at + _XATTR_HEAD.size
        name_len, value_len = _XATTR_HEAD.unpack_from(blob, at) if start <= len(blob) else (0, 0)
        if start + name_len + value_len > len(blob):
            raise LayerFormatError("malformed extended attributes")
        at = start
        found.append((blob[at : at + name_len], blob[at + name_len : at + name_len + value_len]))
        at += name_len + value_len
    return tuple(found)


def read_xattrs(dir_fd: int, name: bytes) -> Xattrs:
    """All xattrs of a name in a directory (of the directory itself for ``b"."``), sorted; never of a link's target."""
    where = b"/proc/self/fd/%d/%s" % (dir_fd, name)
    try:
        names = os.listxattr(where, follow_symlinks=False)
    except OSError as exc:
        if exc.errno == errno.ENOTSUP:
            return ()
        raise
    pairs = []
    for label in sorted(os.fsencode(text) for text in names):
        try:
            pairs.append((label, os.getxattr(where, label, follow_symlinks=False)))
        except OSError as exc:
            if exc.errno not in (errno.ENODATA, errno.ENOTSUP):
                raise
    return tuple(pairs)


# ---- opening beneath a root -------------------------------------------------------------------


def open_bytes(root_fd: int, path: bytes) -> io.FileIO:
    """A regular file, for reading without a buffer."""
    return io.FileIO(open_file(root_fd, path), "rb")


def open_dir(root_fd: int, path: bytes) -> int:
    """A new descriptor of a directory beneath the root, component by component: any depth, no link followed."""
    fd = _open_quietly(b".", _DIRECTORY, root_fd)
    for name in path.split(b"/") if path else ():
        try:
            inner = _open_quietly(name, _DIRECTORY, fd)
        finally:
            os.close(fd)
        fd = inner
    return fd


def open_file(root_fd: int, path: bytes) -> int:
    """A new descriptor for reading. Does not hang on a fifo."""
    parent = open_dir(root_fd, parent_of(path))
    try:
        return _open_quietly(path.rpartition(b"/")[2], _FILE, parent)
    finally:
        os.close(parent)


def _open_quietly(name: bytes, flags: int, dir_fd: int) -> int:
    """Access times are left alone where that is permitted."""
    try:
        return os.open(name, flags | os.O_NOATIME, dir_fd=dir_fd)
    except PermissionError:
        return os.open(name, flags, dir_fd=dir_fd)


# ---- walking ----------------------------------------------------------------------------------


def walk(root_fd: int, policy: str = "all", enters: Callable[[bytes], bool] | None = None) -> Iterator[Entry]:
    """Every entry of a directory tree in path order, the root first. What vanishes meanwhile is left out.

    A directory's children make two events per subdirectory, its name and later its descent at ``name/``,
    so that ``a-b`` comes between ``a`` and ``a/b``. ``enters``: which directories are looked into, if not all.
    """
    root = read_entry(root_fd, b".", b"")
    if root is None:
        raise StorageError(errno.ENOENT, "stat", b"")
    yield placed(root, root_fd, policy)
    yield from walk_below(root_fd, b"", policy, enters)


def walk_below(
    root_fd: int, path: bytes, policy: str, enters: Callable[[bytes], bool] | None = None
) -> Iterator[Entry]:
    """As ``walk``, of what is below one directory of the tree."""
    stack = [_events(root_fd, path, policy)]
    while stack:
        if not stack[-1]:
            stack.pop()
            continue
        key, entry = stack[-1].pop()
        if not key.endswith(b"/"):
            yield entry
        elif enters is None or enters(entry.path):
            stack.append(_events(root_fd, entry.path, policy))


def _events(root_fd: int, path: bytes, policy: str) -> list[tuple[bytes, Entry]]:
    """The events of one directory, last first."""
    found = []
    for name, entry in read_dir(root_fd, path):
        placed(entry, root_fd, policy)
        found.append((name, entry))
        if entry.is_dir:
            found.append((name + b"/", entry))
    return sorted(found, key=lambda event: event[0], reverse=True)


def placed(entry: Entry, root_fd: int, policy: str) -> Entry:
    """Says where an entry was found and filters its xattrs."""
    entry.place = (root_fd, entry.path)
    entry.xattrs, entry.dropped = filter_xattrs(entry.xattrs, policy)
    return entry


def read_dir(root_fd: int, path: bytes) -> list[tuple[bytes, Entry]]:
    """The children of a directory by name, in no order."""
    try:
        fd = open_dir(root_fd, path)
    except OSError as exc:
        raise StorageError(exc.errno or errno.EIO, "open", path) from exc
    try:
        names = [os.fsencode(text) for text in os.listdir(fd)]
        found = [(name, read_entry(fd, name, below(path, name))) for name in names]
    finally:
        os.close(fd)
    return [(name, entry) for name, entry in found if entry is not None]


def read_entry(dir_fd: int, name: bytes, path: bytes) -> Entry | None:
    """One name of a directory with all its xattrs; None when it is not there."""
    try:
        st = os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
        link = os.readlink(name, dir_fd=dir_fd) if stat.S_ISLNK(st.st_mode) else b""
        xattrs = read_xattrs(dir_fd, name)
    except FileNotFoundError:
        return None
    except OSError as exc:
        raise StorageError(exc.errno or errno.EIO, "stat", path) from exc
    return Entry(
        path=path,
        mode=st.st_mode,
        uid=st.st_uid,
        gid=st.st_gid,
        size=st.st_size if stat.S_ISREG(st.st_mode) else len(link),
        mtime_ns=st.st_mtime_ns,
        ctime_ns=st.st_ctime_ns,
        dev=st.st_dev,
        ino=st.st_ino,
        nlink=st.st_nlink,
        rdev=(os.major(st.st_rdev), os.minor(st.st_rdev)),
        link=link,
        xattrs=xattrs,
    )


def walk_columns(columns: Any, policy: str = "all") -> Iterator[Entry]:
    """The entries of ``fastlayer._backend.Columns``. Raises ``LayerFormatError`` when they are not in path order."""
    if columns.count == 0:
        return
    names_u32 = (
        "mtime_nsec", "ctime_nsec", "mode", "uid", "gid", "nlink", "rdev_major", "rdev_minor", "path_len", "link_len",
        "xattr_len", "flags",
    )  # fmt: skip
    views = {name: _raw(getattr(columns, name)).cast("I") for name in names_u32}
    views |= {name: _raw(getattr(columns, name)).cast("q") for name in ("mtime_sec", "ctime_sec")}
    views |= {name: _raw(getattr(columns, name)).cast("Q") for name in ("dev", "ino", "size", "path_off")}
    heap = memoryview(columns.heap)
    keys = None if columns.key is None else _raw(columns.key)
    offsets = None if columns.data_off is None else _raw(columns.data_off).cast("Q")
    last = b""
    for i in range(columns.count):
        entry = _column_entry({name: view[i] for name, view in views.items()}, heap)
        if i and entry.path <= last:
            raise LayerFormatError(f"entry {i} of the tree table: out of order")
        last = entry.path
        entry.xattrs, entry.dropped = filter_xattrs(entry.xattrs, policy)
        if keys is not None and entry.flags & FLAG_HAS_KEY:
            entry.key = bytes(keys[32 * i : 32 * i + 32])
        if offsets is not None:
            entry.data_off = offsets[i]
        yield entry


def _raw(column: Any) -> memoryview:
    return memoryview(column).cast("B")


def _column_entry(cell: dict[str, int], heap: memoryview) -> Entry:
    ends = [cell["path_off"]]
    for length in (cell["path_len"], cell["link_len"], cell["xattr_len"]):
        ends.append(ends[-1] + length)
    path, link, blob = (bytes(heap[start:stop]) for start, stop in itertools.pairwise(ends))
    return Entry(
        path=path,
        mode=cell["mode"] & 0xFFFF,
        uid=cell["uid"],
        gid=cell["gid"],
        size=cell["size"],
        mtime_ns=cell["mtime_sec"] * 10**9 + cell["mtime_nsec"],
        ctime_ns=cell["ctime_sec"] * 10**9 + cell["ctime_nsec"],
        dev=cell["dev"],
        ino=cell["ino"],
        nlink=cell["nlink"],
        rdev=(cell["rdev_major"], cell["rdev_minor"]),
        link=link,
        xattrs=unpack_xattrs(blob),
        flags=cell["flags"],
    )
