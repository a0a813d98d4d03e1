"""The layer tar of a change table: contract in ``fastlayer._backend.Encoder``, bytes in docs/formats.md.

Reads the table through ``records()`` and ``heap()`` (csrc/fl_entry.h), so it takes the tables of both backends.
"""

from __future__ import annotations

import errno
import os
import stat
import struct
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from fastlayer._baseline import header
from fastlayer._baseline.paths import open_beneath
from fastlayer._baseline.table import AUX_DATED, AUX_PATH
from fastlayer._values import NamedTuple
from fastlayer.errors import FileChangedError, StorageError, UnsafeEntryError, UsageError, show_path

_RECORD = struct.Struct("=QQqQ6I3H2B")  # struct fl_row
_XATTR = struct.Struct("=HI")
_AUX, _NO_LEADER = 4, 0xFFFFFFFF
_PIECE = 1 << 17
_TYPES = {
    stat.S_IFREG: header.FILE,
    stat.S_IFLNK: header.SYMLINK,
    stat.S_IFCHR: header.CHAR,
    stat.S_IFBLK: header.BLOCKDEV,
    stat.S_IFDIR: header.DIRECTORY,
    stat.S_IFIFO: header.FIFO,
}


class _Row(NamedTuple):
    """A ``struct fl_row`` with its variable part still in the heap."""

    ino: int
    size: int
    mtime_sec: int
    path_off: int
    mtime_nsec: int
    uid: int
    gid: int
    path_len: int
    xattr_len: int
    leader: int
    mode: int
    link_len: int
    what: int
    kind: int
    flags: int


class Encoder:
    """See ``fastlayer._backend.Encoder``."""

    def __init__(self, table: Any, roots: Sequence[int], clamp_mtime: int | None = None) -> None:
        self.entries = 0
        self.payload = 0
        self._records = table.records()
        self._heap = table.heap()
        self._roots = roots
        self._clamp = clamp_mtime
        self._pieces = filter(None, self._layer(len(table)))  # an empty piece would look like the end
        self._rest = memoryview(b"")

    def readinto(self, buffer: Any) -> int:
        """Fills buffer with the next tar bytes; less than its length only at the end, 0 when done."""
        view = memoryview(buffer).cast("B")
        filled = 0
        while filled < len(view):
            if not self._rest:
                self._rest = memoryview(next(self._pieces, b""))
                if not self._rest:
                    break
            n = min(len(view) - filled, len(self._rest))
            view[filled : filled + n] = self._rest[:n]
            self._rest = self._rest[n:]
            filled += n
        return filled

    def _layer(self, count: int) -> Iterator[bytes]:
        for number in sorted(range(count), key=self._sort_key):
            self.entries += 1
            yield from self._entry(self._row(number))
        yield bytes(2 * header.BLOCK)

    def _row(self, number: int) -> _Row:
        return _Row(*_RECORD.unpack_from(self._records, number * _RECORD.size))

    def _slice(self, start: int, length: int) -> bytes:
        return bytes(self._heap[start : start + length])

    def _path(self, row: _Row) -> bytes:
        return self._slice(row.path_off, row.path_len)

    def _link(self, row: _Row) -> bytes:
        return self._slice(row.path_off + row.path_len, row.link_len)

    def _xattrs(self, row: _Row) -> tuple[tuple[bytes, bytes], ...]:
        at = row.path_off + row.path_len + row.link_len
        end = at + row.xattr_len
        found = []
        while at < end:
            name_len, value_len = _XATTR.unpack_from(self._heap, at)
            at += _XATTR.size
            found.append((self._slice(at, name_len), self._slice(at + name_len, value_len)))
            at += name_len + value_len
        return tuple(found)

    def _sort_key(self, number: int) -> bytes:
        """Tar order: a directory, its whiteouts, its children (csrc/fl_changes.h)."""
        row = self._row(number)
        path = self._path(row)
        if row.kind != ord("D"):
            return path
        parent, slash, name = path.rpartition(b"/")
        return parent + slash + b"\0" + name

    def _entry(self, row: _Row) -> Iterator[bytes]:
        path = self._path(row)
        if any(part.startswith(b".wh.") for part in path.split(b"/")):
            raise UnsafeEntryError(f"{show_path(path)}: a name with .wh. means a deletion inside a layer: rename it")
        if row.kind == ord("D"):
            yield _whiteout(path)
        elif stat.S_ISREG(row.mode) and row.leader == _NO_LEADER:
            yield header.encode_header(self._header(row, path))
            yield from self._content(row, path)
            yield bytes(header.padding(row.size))
        else:
            yield header.encode_header(self._header(row, path))

    def _header(self, row: _Row, path: bytes) -> header.Header:
        kind = stat.S_IFMT(row.mode)
        plain = header.Header(
            _TYPES[kind], path, row.mode, row.uid, row.gid, mtime_ns=self._mtime_ns(row), xattrs=self._xattrs(row)
        )
        if row.leader != _NO_LEADER:  # attributes of the inode are already set: none are repeated but the plain ones
            return plain._replace(type=header.HARDLINK, link=self._path(self._row(row.leader)), xattrs=())
        if kind == stat.S_IFREG:
            return plain._replace(size=row.size)
        if kind == stat.S_IFDIR:
            return plain._replace(path=(path or b".") + b"/")
        if kind == stat.S_IFLNK:
            return plain._replace(link=self._link(row))
        if kind in (stat.S_IFCHR, stat.S_IFBLK):
            return plain._replace(rdev=(row.size >> 32, row.size & 0xFFFFFFFF))
        return plain

    def _mtime_ns(self, row: _Row) -> int:
        mtime_ns = row.mtime_sec * 10**9 + row.mtime_nsec
        return mtime_ns if self._clamp is None else min(mtime_ns, self._clamp * 10**9)

    def _content(self, row: _Row, path: bytes) -> Iterator[bytes]:
        """Exactly ``row.size`` bytes, or FileChangedError. An empty file is not opened."""
        if row.size == 0:
            return
        listed = None
        if row.flags & _AUX:
            where = self._link(row)
            if where[:1] != b"C":
                yield from self._aux_content(row, path, where)
                return
            listed = int.from_bytes(where[1:9], sys.byteorder)
        fd = _open(self._root(0), path, path)
        try:
            _check_unchanged(fd, path, row.size, row.mtime_sec * 10**9 + row.mtime_nsec, row.ino, listed)
            yield from self._copy(fd, path, row.size)
        finally:
            os.close(fd)

    def _aux_content(self, row: _Row, path: bytes, where: bytes) -> Iterator[bytes]:
        """Content that lives elsewhere: ``P`` and ``F`` with a path, ``O`` with an offset (csrc/fl_entry.h)."""
        if where[:1] == b"O":
            offset = int.from_bytes(where[2:10], sys.byteorder)
            yield from self._copy_range(self._root(where[1]), path, offset, row.size)
            return
        listed = None
        if where[:1] == b"F":
            _, root, listed = AUX_DATED.unpack_from(where)
            source = where[AUX_DATED.size :]
        else:
            _, root = AUX_PATH.unpack_from(where)
            source = where[AUX_PATH.size :]
        fd = _open(self._root(root), source, path)
        try:
            _check_unchanged(fd, path, row.size, ctime_ns=listed)
            yield from self._copy(fd, path, row.size)
        finally:
            os.close(fd)

    def _root(self, number: int) -> int:
        if number >= len(self._roots):
            raise UsageError(f"the change table needs root descriptor {number}; {len(self._roots)} were given")
        return self._roots[number]

    def _copy(self, fd: int, path: bytes, size: int) -> Iterator[bytes]:
        before = os.fstat(fd)
        yield from self._copy_range(fd, path, 0, size)
        _check_unchanged(fd, path, size, before.st_mtime_ns, ctime_ns=before.st_ctime_ns % (1 << 64))

    def _copy_range(self, fd: int, path: bytes, start: int, size: int) -> Iterator[bytes]:
        done = 0
        while done < size:
            try:
                piece = os.pread(fd, min(_PIECE, size - done), start + done)
            except OSError as exc:
                raise StorageError(exc.errno or 0, "read", path) from exc
            if not piece:
                raise _changed(path)
            done += len(piece)
            self.payload += len(piece)
            yield piece


def _whiteout(path: bytes) -> bytes:
    """An empty file with nothing of its own: mode, owner and time 0."""
    parent, slash, name = path.rpartition(b"/")
    return header.encode_header(header.Header(header.FILE, parent + slash + b".wh." + name, 0))


def _open(root: int, where: bytes, path: bytes) -> int:
    try:
        return open_beneath(root, where)
    except OSError as exc:
        if exc.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO):  # it was there when it was listed
            raise _changed(path) from exc
        raise StorageError(exc.errno or 0, "open", path) from exc


def _check_unchanged(
    fd: int, path: bytes, size: int, mtime_ns: int | None = None, ino: int = 0, ctime_ns: int | None = None
) -> None:
    now = os.fstat(fd)
    if (
        not stat.S_ISREG(now.st_mode)
        or now.st_size != size
        or (mtime_ns is not None and now.st_mtime_ns != mtime_ns)
        or (ino != 0 and now.st_ino != ino)
        or (ctime_ns is not None and now.st_ctime_ns % (1 << 64) != ctime_ns)
    ):
        raise _changed(path)


def _changed(path: bytes) -> FileChangedError:
    return FileChangedError(f"{show_path(path)}: changed while the layer was made; try again when the tree is quiet")
