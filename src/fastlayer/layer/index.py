"""``fastlayer.index``: remember what a tree looks like, to compare with later."""

from __future__ import annotations

import os
import stat
import tempfile
import time
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fastlayer import _backend
from fastlayer._backend import XattrPolicy
from fastlayer.errors import StorageError, UsageError
from fastlayer.layer import index_format
from fastlayer.layer.arguments import CALLBACK, DIRECTORY, FLAG, check
from fastlayer.layer.index_format import COLUMNS, HEADER_SIZE, POLICIES, Meta, aligned
from fastlayer.layer.operands import of_directory
from fastlayer.layer.output import Output, refuse_inside
from fastlayer.layer.pipeline import STEP, default_jobs
from fastlayer.layer.progress import ProgressCallback, Reporter
from fastlayer.layer.source import Source

if TYPE_CHECKING:
    from typing import BinaryIO

    from fastlayer.layer import types

_RACY_SLACK_NS = 20_000_000  # ctimes are taken from a clock that ticks every 1 to 10 ms
_HAS_KEY = 1  # csrc/fl_entry.h
_ENTRY = np.dtype([(name, kind) for name, kind in COLUMNS[:-2]])
_FIXED_COLUMNS = [name for name, _ in COLUMNS[:-2]]


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


class TreeIndex:
    """A saved tree: a memory-mapped table, usable as an operand of ``diff``. ``len`` is its number of entries.

    ``columns`` has one array per attribute, sorted by path. An index opens in constant memory: it is checked by reading
    through it once, and mapped.
    """

    def __init__(self, file: BinaryIO, name: str) -> None:
        """Takes over ``file``. Raises ``IndexFormatError`` when anything about it is wrong."""
        self.name = name
        with file:
            self.meta, table = index_format.read_header(file, name)
            index_format.verify_blocks(file, table, name)
            arrays = index_format.map_columns(file, self.meta, table, name)
            self.file_size = os.fstat(file.fileno()).st_size
        self.columns = _backend.Columns(
            count=self.meta.entries,
            racy_ns=self.meta.racy_ns,
            data_off=None,
            **{**arrays, "key": arrays["key"] if self.meta.content else None},
        )

    @classmethod
    def open(cls, path: types.Path | int) -> TreeIndex:
        """Opens a saved index. Raises ``OperandError``, ``IndexFormatError``."""
        check(path=(path, DIRECTORY))
        name = Source.describe(path)
        file, _ = index_format.open_index(path, name)
        return cls(file, name)

    def __len__(self) -> int:
        return self.meta.entries

    @property
    def keys_missing(self) -> int:
        """Non-empty regular files whose content is not known."""
        return self.meta.keys_missing

    @property
    def warnings(self) -> tuple[str, ...]:
        if not self.meta.dropped_xattrs:
            return ()
        noun = "extended attribute" if self.meta.dropped_xattrs == 1 else "extended attributes"
        return (f"{self.meta.dropped_xattrs} {noun} left out by the xattr policy",)

    def to_dict(self) -> dict[str, Any]:
        """For JSON; ``racy_ns``: ctimes at or after it prove nothing."""
        return {
            "entries": len(self),
            "file_size": self.file_size,
            "content": self.meta.content,
            "xattrs": self.meta.xattrs,
            "keys_missing": self.meta.keys_missing,
            "racy_ns": self.meta.racy_ns,
            "warnings": list(self.warnings),
        }

    def __repr__(self) -> str:
        return f"<TreeIndex {self.name}: {len(self)} entries>"


def index(
    path: types.Directory,
    output: types.Path | int | None = None,
    *,
    content: bool = True,
    xattrs: XattrPolicy = "all",
    progress: ProgressCallback | None = None,
) -> TreeIndex:
    """Saves what the directory ``path`` (a path or a descriptor) looks like to the file ``output``.

    ``content``: also the blake3 of every regular file, so that a later diff need not trust times. ``xattrs``: which
    extended attributes are kept; a diff with this index can only compare those. Without ``output`` the index lives in
    an unlinked temporary file for as long as the returned object does.

    Raises ``FileChangedError`` when the tree changes meanwhile, ``StorageError``, ``OperandError``.
    """
    check(path=(path, DIRECTORY), content=(content, FLAG), progress=(progress, CALLBACK))
    if xattrs not in POLICIES:
        raise UsageError(f"xattrs={xattrs!r} is unknown: use all, docker or none")
    if output is not None and not isinstance(output, (int, str, bytes, os.PathLike)):
        raise UsageError(f"output {type(output).__name__}: an index is mapped, give a path or a descriptor of a file")
    root = of_directory(path)
    assert root.directory is not None
    try:
        builder = _Builder(root.directory, content=content, jobs=default_jobs(None), report=Reporter(progress))
        if output is None:
            return _write_unnamed(builder, builder.scan(xattrs), root.name)
        with Output(output) as target:
            refuse_inside(target, root.directory)
            builder.write(target, builder.scan(xattrs))
            target.commit()
        return TreeIndex.open(output)
    finally:
        root.close()


def _write_unnamed(builder: _Builder, meta: Meta, name: str) -> TreeIndex:
    file = tempfile.TemporaryFile(prefix="fastlayer-", buffering=0)
    try:
        with Output(file.fileno()) as target:
            builder.write(target, meta)
        file.seek(0)
        return TreeIndex(file, name)
    except BaseException:
        file.close()
        raise


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


class _Builder:
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

    def scan(self, xattrs: XattrPolicy) -> Meta:
        """Walks the tree."""
        racy_ns = time.clock_gettime_ns(time.CLOCK_REALTIME) - _RACY_SLACK_NS
        scanner = _backend.engine().scan.Scanner(self._root, xattrs=xattrs)
        while (batch := scanner.next_batch()) is not None:
            self._add(np.frombuffer(bytearray(batch[0]), dtype=_ENTRY), memoryview(batch[1]))
            self._report.update("index", self.count, self._bytes)
        self._report.end("index", self.count, self._bytes)
        self.skipped_sockets = int(scanner.skipped_sockets)
        return Meta(self.count, racy_ns, self.keys_missing, int(scanner.dropped_xattrs), self._content, xattrs)

    def _add(self, entries: Any, heap: memoryview) -> None:
        if self._content:
            self._columns["key"].add(self._keys(entries, heap))
        else:
            regular = (entries["mode"] & 0o170000) == stat.S_IFREG
            self.keys_missing += int(np.count_nonzero(regular & (entries["size"] > 0)))
        entries["path_off"] += self._columns["heap"].length
        for name in _FIXED_COLUMNS:
            self._columns[name].add(entries[name].tobytes())
        self._columns["heap"].add(heap)
        self.count += len(entries)

    def _keys(self, entries: Any, heap: memoryview) -> bytes:
        """32 bytes an entry; sets the flag of those that have a key."""
        from fastlayer.layer.keys import EMPTY_KEY, file_keys

        rows = np.flatnonzero((entries["mode"] & 0o170000) == stat.S_IFREG)
        entries["flags"][rows] |= _HAS_KEY
        found = dict.fromkeys(rows[entries["size"][rows] == 0].tolist(), EMPTY_KEY)
        wanted: list[tuple[int, _File]] = []
        for row in rows[entries["size"][rows] > 0].tolist():
            file = _File(*entries[row].item())
            known = self._linked.get((file.dev, file.ino)) if file.nlink > 1 else None
            if known is not None:
                found[row] = known
            else:
                wanted.append((row, file))
        files = [(bytes(heap[f.path_off : f.path_off + f.path_len]), f.size) for _, f in wanted]
        for (row, file), (path, size), key in zip(wanted, files, file_keys(self._root, files, self._jobs), strict=True):
            self._check(path, file)
            found[row] = key
            self._bytes += size
            if file.nlink > 1:
                self._linked[file.dev, file.ino] = key
        return b"".join(found.get(row, bytes(32)) for row in range(len(entries)))

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
