"""Collecting the columns of a saved index (``index_format``): a walk, and the blake3 of files when it is wanted."""

from __future__ import annotations

import stat
import struct
import tempfile
import time
from typing import Any

from fastlayer import _backend
from fastlayer._backend import XattrPolicy
from fastlayer._values import NamedTuple
from fastlayer.errors import StorageError
from fastlayer.layer import index_format
from fastlayer.layer.index_format import COLUMNS, HEADER_SIZE, Meta, aligned
from fastlayer.layer.output import Output
from fastlayer.layer.pipeline import STEP
from fastlayer.layer.progress import Reporter

_RACY_SLACK_NS = 20_000_000  # ctimes are taken from a clock that ticks every 1 to 10 ms
_HAS_KEY = 1  # csrc/fl_entry.h
_ENTRY = struct.Struct("=QQQqqQ12I")  # struct fl_entry
_WIDE = [name for name, kind in COLUMNS[:-2] if kind.endswith("8")]
_NARROW = [name for name, kind in COLUMNS[:-2] if kind.endswith("4")]
# where they are, counted in numbers of their own size
_WIDE_STEP, _NARROW_STEP = _ENTRY.size // 8, _ENTRY.size // 4
_FIRST_NARROW = 2 * len(_WIDE)
_SIZE, _PATH_OFF = _WIDE.index("size"), _WIDE.index("path_off")
_MODE, _FLAGS = (_FIRST_NARROW + _NARROW.index(name) for name in ("mode", "flags"))


class _File(NamedTuple):
    """``struct fl_entry`` of one file as Python numbers, in its order."""

    dev: int
    ino: int
    size: int
    mtime_sec: int
    ctime_sec: int
    path_off: int
    mtime_nsec: int
    ctime_nsec: int
    mode: int
    uid: int
    gid: int
    nlink: int
    rdev_major: int
    rdev_minor: int
    path_len: int
    link_len: int
    xattr_len: int
    flags: int


class _Column:
    """One growing column: in memory while it is small, in an unlinked temporary file beyond a MiB."""

    def __init__(self) -> None:
        import blake3

        self.length = 0
        self.hasher = blake3.blake3()
        self._tail = bytearray()
        self._file: Any = None

    def add(self, data: bytes | bytearray | memoryview) -> None:
        self.hasher.update(data)
        self.length += len(data)
        self._tail += data
        if len(self._tail) >= STEP:
            self._spill()

    def _spill(self) -> None:
        try:
            if self._file is None:
                self._file = tempfile.TemporaryFile(prefix="fastlayer-", buffering=0)
            self._file.write(self._tail)
        except OSError as exc:
            raise StorageError(exc.errno or 0, "spool", tempfile.gettempdir()) from exc
        self._tail.clear()

    def write_to(self, output: Output) -> None:
        if self._file is not None:
            self._file.seek(0)
            while piece := self._file.read(STEP):
                output.write(piece)
            self._file.close()
        output.write(bytes(self._tail))


class Builder:
    """Collects the columns of a tree, batch by batch."""

    def __init__(self, root: int, *, content: bool, jobs: int, report: Reporter) -> None:
        self.count = 0
        self.keys_missing = 0
        self.skipped_sockets = 0
        self._root = root
        self._content = content
        self._jobs = jobs
        self._report = report
        self._bytes = 0
        self._columns = {name: _Column() for name, _ in COLUMNS}
        self._linked: dict[tuple[int, int], bytes] = {}  # inodes with several names, already hashed

    def scan(self, xattrs: XattrPolicy, *, racy_ns: int | None = None) -> Meta:
        """Walks the tree. ``racy_ns``: ctimes from here on prove nothing; by the clock where nobody knows better."""
        if racy_ns is None:
            racy_ns = time.clock_gettime_ns(time.CLOCK_REALTIME) - _RACY_SLACK_NS
        scanner = _backend.engine().scan.Scanner(self._root, xattrs=xattrs)
        while (batch := scanner.next_batch()) is not None:
            self._add(bytearray(batch[0]), memoryview(batch[1]))
            self._report.update("index", self.count, self._bytes)
        self._report.end("index", self.count, self._bytes)
        self.skipped_sockets = int(scanner.skipped_sockets)
        return Meta(self.count, racy_ns, self.keys_missing, int(scanner.dropped_xattrs), self._content, xattrs)

    def _add(self, records: bytearray, heap: memoryview) -> None:
        """``records``: a ``struct fl_entry`` each."""
        wide, narrow = memoryview(records).cast("Q"), memoryview(records).cast("I")
        if self._content:
            self._columns["key"].add(self._keys(records, narrow, heap))
        else:
            files = zip(narrow[_MODE::_NARROW_STEP], wide[_SIZE::_WIDE_STEP], strict=True)
            self.keys_missing += sum(1 for mode, size in files if size and stat.S_ISREG(mode))
        before = self._columns["heap"].length
        if before:
            for at in range(_PATH_OFF, len(wide), _WIDE_STEP):
                wide[at] += before
        for number, name in enumerate(_WIDE):
            self._columns[name].add(wide[number::_WIDE_STEP].tobytes())
        for number, name in enumerate(_NARROW, _FIRST_NARROW):
            self._columns[name].add(narrow[number::_NARROW_STEP].tobytes())
        self._columns["heap"].add(heap)
        self.count += len(records) // _ENTRY.size

    def _keys(self, records: bytearray, narrow: memoryview[int], heap: memoryview) -> bytes:
        """32 bytes an entry; sets the flag of those that have a key."""
        from fastlayer.layer.keys import EMPTY_KEY, file_keys

        found: dict[int, bytes] = {}
        wanted: list[tuple[int, _File]] = []
        for row, file in enumerate(map(_File._make, _ENTRY.iter_unpack(records))):
            if not stat.S_ISREG(file.mode):
                continue
            narrow[_NARROW_STEP * row + _FLAGS] |= _HAS_KEY
            known = self._linked.get((file.dev, file.ino)) if file.nlink > 1 else None
            if file.size == 0 or known is not None:
                found[row] = known or EMPTY_KEY
            else:
                wanted.append((row, file))
        files = [(bytes(heap[f.path_off : f.path_off + f.path_len]), f.size) for _, f in wanted]
        for (row, file), (path, size), key in zip(wanted, files, file_keys(self._root, files, self._jobs), strict=True):
            self._check(path, file)
            found[row] = key
            self._bytes += size
            if file.nlink > 1:
                self._linked[file.dev, file.ino] = key
        return b"".join(found.get(row, bytes(32)) for row in range(len(records) // _ENTRY.size))

    def _check(self, path: bytes, file: _File) -> None:
        """The file that was hashed is still the one that was listed."""
        from fastlayer.layer.keys import changed, stat_file

        try:
            status = stat_file(self._root, path)
        except OSError as exc:
            raise changed(path) from exc
        if status.st_ino != file.ino or status.st_ctime_ns != file.ctime_sec * 1_000_000_000 + file.ctime_nsec:
            raise changed(path)

    def write(self, output: Output, meta: Meta) -> None:
        """The file of ``index_format``."""
        offset, table = aligned(HEADER_SIZE), []
        for name, _ in COLUMNS:
            column = self._columns[name]
            table.append((offset, column.length, column.hasher.digest()))
            offset = aligned(offset + column.length)
        output.write(index_format.pack_header(meta, table, offset))
        position = HEADER_SIZE
        for (name, _), (start, length, _) in zip(COLUMNS, table, strict=True):
            output.write(bytes(start - position))
            self._columns[name].write_to(output)
            position = start + length
        output.write(bytes(offset - position))
