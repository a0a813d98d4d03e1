"""Changes of a tree that was recorded while it was the same as another one: found by inode and ctime, never by mtime.

The record is a saved index (``index_format``) without content. Whatever is done to an inode gives it a new ctime, which
nobody can set, so a path that has the inode and the ctime of its record is what it was. Only the others are compared
with the other tree: what a step costs is two walks, and not the reading of all files.

* A ctime as late as the record itself proves nothing: a change in the same tick of the clock would not show (the
  "racily clean" entries of git's index). "As late" is by the clock of the file system: the record's own ctime.
* An unchanged ctime says nothing of other names of the inode on file systems where a rename leaves it alone. So all
  names of a hard-linked file are compared when one of them is.
* A file system in memory (tmpfs) does not see what is written through a mapping that was read before: nothing is
  recorded there (``notices_mapped_writes``).
* When the machine loses power a file can have new bytes and its old ctime. A record holds until the next start only:
  its owner names it after ``boot``.
* A record that is damaged or missing proves nothing at all: everything is compared.
"""

from __future__ import annotations

import mmap
import os
import stat
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from fastlayer import _backend
from fastlayer._values import NamedTuple
from fastlayer.errors import IndexFormatError, OperandError
from fastlayer.layer import index_format
from fastlayer.layer.differing import above, normal
from fastlayer.layer.operands import of_directory
from fastlayer.layer.pipeline import default_jobs

if TYPE_CHECKING:
    from fastlayer.layer.diff import Changes

_ROW = struct.Struct("=QQqQIIIIIIHHHBB")  # struct fl_row
_TYPE = 32  # FL_WHAT_TYPE


def record(tree: Path, output: Path) -> None:
    """Writes what the directory ``tree`` is now to the file ``output``, which is on the same file system.

    Nothing changes the tree meanwhile. Raises ``StorageError``.
    """
    from fastlayer.layer.index_builder import Builder
    from fastlayer.layer.output import Output
    from fastlayer.layer.progress import Reporter

    root = of_directory(tree)
    assert root.directory is not None
    try:
        with Output(output) as target:
            assert target.place is not None
            target.write(b"\0")  # its ctime is now
            now = os.fstat(target.place).st_ctime_ns
            os.lseek(target.place, 0, os.SEEK_SET)
            builder = Builder(root.directory, content=False, jobs=1, report=Reporter(None))
            builder.write(target, builder.scan("all", racy_ns=now))
            target.commit()
    finally:
        root.close()


def notices_mapped_writes(probe: Path) -> bool:
    """Whether a file gets a new ctime by whatever changes it: by trying the one way that not all file systems notice.

    ``probe``: a file of at least a byte, which is changed. False, too, when it was written to a moment ago.
    """
    with open(probe, "r+b", buffering=0) as file, mmap.mmap(file.fileno(), 1) as mapped:
        before = os.fstat(file.fileno()).st_ctime_ns
        mapped[0] ^= 1  # it is read first: the page is there, and nobody is told of the write
        return os.fstat(file.fileno()).st_ctime_ns != before


def boot() -> str:
    """The name of the time since the machine was started, which records have to be told apart by; empty: unknown."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def diff_recorded(other: Path, tree: Path, saved: Path | None) -> Changes:
    """``diff(other, tree)``, of a ``tree`` that was ``other`` when it was recorded in the file ``saved``, if it was."""
    from fastlayer.layer.diff import diff, diff_only

    before = None if saved is None else _open(saved)
    if before is None:
        return diff(other, tree)
    return diff_only(other, tree, _differing(before, tree))


def _open(saved: Path) -> _backend.Columns | None:
    name = str(saved)
    try:
        file, _ = index_format.open_index(saved, name)
        with file:
            meta, table = index_format.read_header(file, name)
            index_format.verify_blocks(file, table, name)
            blocks = index_format.map_blocks(file, meta, table, name)
    except (OperandError, IndexFormatError):
        return None
    return _backend.Columns(count=meta.entries, racy_ns=meta.racy_ns, data_off=None, **{**blocks, "key": None})


class _Seen(NamedTuple):
    """A path that is not what it was. ``tree``: all below it may be anything, too."""

    path: bytes
    ino: int
    tree: bool


def _differing(before: _backend.Columns, tree: Path) -> list[bytes]:
    """The keys that tell all differences."""
    keys: set[bytes] = set()
    inodes: set[int] = set()
    for seen in _seen(_compare(before, tree)):
        keys.add(seen.path)
        inodes.add(seen.ino)
        if seen.tree:
            keys.add(seen.path + b"/")
    return normal(_with_links(before, keys, inodes))


def _compare(before: _backend.Columns, tree: Path) -> _backend.ChangeTable:
    """By what the record knows: files that have its inode and ctime are the same, no others are."""
    root = of_directory(tree)
    try:
        differ = _backend.engine().changes.Differ(before, root.side, threads=default_jobs(None))
        while differ.step():
            pass
        table: _backend.ChangeTable = differ.finish()
        return table
    finally:
        root.close()


def _seen(table: _backend.ChangeTable) -> Iterator[_Seen]:
    """The rows of a table. A directory that came or went, or became something else, is looked at whole."""
    heap = table.heap()
    for ino, _, _, start, _, _, _, length, _, _, mode, _, what, kind, _ in _ROW.iter_unpack(table.records()):
        is_other = what & _TYPE or (kind in b"AD" and stat.S_ISDIR(mode))
        yield _Seen(bytes(heap[start : start + length]), ino, bool(is_other))


def _with_links(before: _backend.Columns, keys: set[bytes], inodes: set[int]) -> set[bytes]:
    """Adds all recorded names of the hard-linked files that have one among the keys, or an inode among those seen."""
    names: dict[int, list[bytes]] = {}
    mode, length = memoryview(before.mode).cast("I"), memoryview(before.path_len).cast("I")
    ino, start = memoryview(before.ino).cast("Q"), memoryview(before.path_off).cast("Q")
    for at, count in enumerate(memoryview(before.nlink).cast("I")):
        if count > 1 and not stat.S_ISDIR(mode[at]):
            path = bytes(before.heap[start[at] : start[at] + length[at]])
            names.setdefault(ino[at], []).append(path)
    linked = set(keys)
    for number, paths in names.items():
        if number in inodes or any(_is_among(path, keys) for path in paths):
            linked.update(paths)
    return linked


def _is_among(path: bytes, keys: set[bytes]) -> bool:
    """Whether a key names it, or a tree that it is in."""
    if path in keys:
        return True
    while path:
        path = above(path)
        if path + b"/" in keys:
            return True
    return False
