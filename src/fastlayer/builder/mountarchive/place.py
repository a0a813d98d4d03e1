"""Entries of an archive become files below a new directory that nobody else can reach."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from fastlayer.builder.mountarchive.entries import Entry
from fastlayer.builder.mountarchive.present import Present
from fastlayer.builder.mountarchive.tree import opened, xattrs_of
from fastlayer.content.files import explained, share, write_all
from fastlayer.layer.reading import reachable

_FORBIDDEN = (errno.EPERM, errno.EACCES, errno.EINVAL, errno.ENOTSUP, errno.EOVERFLOW)
_KINDS = {"p": stat.S_IFIFO, "c": stat.S_IFCHR, "b": stat.S_IFBLK}


def _at(fd: int, position: int) -> int:
    os.lseek(fd, position, os.SEEK_SET)
    return fd


def _is_as(fd: int, entry: Entry) -> bool:
    """Whether a file has the attributes of the archive."""
    status = os.fstat(fd)
    found = stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid, status.st_mtime_ns
    wanted = entry.mode, entry.uid, entry.gid, entry.mtime_ns
    return found == wanted and xattrs_of(fd) == entry.xattrs


class Placing:
    """``written``: bytes of data; ``refused``: what may not be set or made here: owners, attributes, devices."""

    def __init__(self, root: Path, present: Present) -> None:
        self.written = 0
        self.refused = 0
        self._missing: set[bytes] = set()  # devices that could not be made, whose other names cannot be, either
        self._present = present
        self._name = root
        self._root = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def close(self) -> None:
        """Lets go of the directory."""
        os.close(self._root)

    def file(self, entry: Entry, pieces: Iterable[memoryview]) -> None:
        """A new file with this data. Raises ``StorageError``."""
        with explained("cannot write", self._name), reachable(self._root, entry.path) as (parent, name):
            fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=parent)
            try:
                self._data(fd, entry, pieces)
                self._attributes(fd, entry)
            finally:
                os.close(fd)

    def _data(self, fd: int, entry: Entry, pieces: Iterable[memoryview]) -> None:
        if entry.data is None:
            for piece in pieces:
                write_all(fd, piece)
                self.written += len(piece)
            return
        os.ftruncate(fd, entry.size)
        segments = iter(entry.data)
        at = left = 0
        for piece in pieces:
            while piece:
                if not left:
                    at, left = next(segments)
                part = piece[:left]
                count = os.pwrite(fd, part, at)
                at, left, piece = at + count, left - count, piece[count:]
                self.written += count

    def kept(self, entry: Entry) -> None:
        """The file that is there gets its name here, too; one with other attributes is copied."""
        with (
            explained("cannot write", self._name),
            reachable(self._present.root, entry.path) as (source, old),
            reachable(self._root, entry.path) as (parent, name),
        ):
            fd = os.open(old, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=source)
            try:
                if _is_as(fd, entry):
                    os.link(old, name, src_dir_fd=source, dst_dir_fd=parent, follow_symlinks=False)
                else:
                    self._copy(fd, entry, parent, name)
            finally:
                os.close(fd)

    def _copy(self, source: int, entry: Entry, parent: int, name: bytes) -> None:
        fd = os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=parent)
        try:
            if not share(source, fd):
                os.ftruncate(fd, entry.size)
                for start, length in entry.segments:
                    at = start
                    while at < start + length:
                        at += os.sendfile(_at(fd, at), source, at, start + length - at)
            self._attributes(fd, entry)
        finally:
            os.close(fd)

    def other(self, entry: Entry) -> None:
        """A directory, link, FIFO or device; directories get their attributes when they are full."""
        with explained("cannot write", self._name), reachable(self._root, entry.path or b".") as (parent, name):
            if entry.type == "d":
                if entry.path:
                    os.mkdir(name, 0o700, dir_fd=parent)
            elif entry.type == "h":
                self._second_name(entry, parent, name)
            elif entry.type == "l":
                os.symlink(entry.link, name, dir_fd=parent)
                self._allowed(os.chown, name, entry.uid, entry.gid, dir_fd=parent, follow_symlinks=False)
                times = (entry.mtime_ns, entry.mtime_ns)
                self._allowed(os.utime, name, ns=times, dir_fd=parent, follow_symlinks=False)
            elif self._allowed(os.mknod, name, _KINDS[entry.type] | 0o600, os.makedev(*entry.device), dir_fd=parent):
                self._allowed(os.chown, name, entry.uid, entry.gid, dir_fd=parent, follow_symlinks=False)
                os.chmod(name, entry.mode, dir_fd=parent)
                os.utime(name, ns=(entry.mtime_ns, entry.mtime_ns), dir_fd=parent)
            else:
                self._missing.add(entry.path)

    def _second_name(self, entry: Entry, parent: int, name: bytes) -> None:
        if entry.link in self._missing:
            self.refused += 1
            return
        with reachable(self._root, entry.link) as (source, first):
            os.link(first, name, src_dir_fd=source, dst_dir_fd=parent, follow_symlinks=False)

    def finish(self, entries: Sequence[Entry]) -> None:
        """The attributes of all directories, the deepest first: what is made in one changes its time."""
        for entry in reversed(entries):
            if entry.type == "d":
                with explained("cannot write", self._name), opened(self._root, entry.path) as fd:
                    self._attributes(fd, entry)

    def _attributes(self, fd: int, entry: Entry) -> None:
        """Owner, mode, extended attributes, time, in this order: each may change those before it."""
        self._allowed(os.fchown, fd, entry.uid, entry.gid)
        os.fchmod(fd, entry.mode)
        wanted, there = dict(entry.xattrs), dict(xattrs_of(fd))
        for name in there.keys() - wanted.keys():
            self._allowed(os.removexattr, fd, name)
        for name, value in wanted.items():
            if there.get(name) != value:
                self._allowed(os.setxattr, fd, name, value)
        os.utime(fd, ns=(entry.mtime_ns, entry.mtime_ns))

    def _allowed(self, call: Callable[..., Any], *args: Any, **rest: Any) -> bool:
        """Whether the system lets us; what it refuses to this user or file system is counted."""
        try:
            call(*args, **rest)
        except OSError as exc:
            if exc.errno not in _FORBIDDEN:
                raise
            self.refused += 1
            return False
        return True
