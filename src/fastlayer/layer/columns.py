"""Columns of a tree that grow batch by batch, and take memory only while they are small.

Up to a MiB they are bytes in memory. Larger ones lie in an unlinked temporary file that is mapped when it is complete:
the kernel can take its pages back, and ``relax`` gives them back. A column of nothing but zeros takes nothing at all:
it is an anonymous mapping that nobody has written to.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from typing import Any

from fastlayer.errors import StorageError

_PAGE = mmap.PAGESIZE
_SMALL = 1 << 20  # bytes of all columns together


def open_spool() -> int:
    """The descriptor of an unlinked temporary file."""
    try:
        with tempfile.TemporaryFile(prefix="fastlayer-") as file:
            return os.dup(file.fileno())
    except OSError as exc:
        raise StorageError(exc.errno or 0, "spool", tempfile.gettempdir()) from exc


def write_at(fd: int, data: Any, offset: int) -> None:
    """All of data, to a spool."""
    view = memoryview(data).cast("B")
    while len(view):
        try:
            count = os.pwrite(fd, view, offset)
        except OSError as exc:
            raise StorageError(exc.errno or 0, "spool", tempfile.gettempdir()) from exc
        view, offset = view[count:], offset + count


class _Column:
    """One column; ``length`` bytes so far, all of them zero while ``data`` is empty and ``spooled`` is 0."""

    __slots__ = ("data", "length", "offset", "spooled")

    def __init__(self, offset: int) -> None:
        self.length = 0
        self.data = bytearray()
        self.spooled = 0  # bytes that are in the spool, from `offset`
        self.offset = offset


class Spool:
    """Columns of ``count`` items of the given sizes, and one more, a heap, of any length."""

    def __init__(self, count: int, sizes: tuple[int, ...]) -> None:
        self._columns = []
        self._held = 0
        self._fd = -1
        offset = 0
        for size in sizes:
            self._columns.append(_Column(offset))
            offset += -(-count * size // _PAGE) * _PAGE
        self._columns.append(_Column(offset))
        self._mapped: mmap.mmap | None = None  # one for all: every mapping holds a descriptor

    def add(self, pieces: tuple[Any, ...]) -> None:
        """The next bytes of every column, the heap last."""
        for column, piece in zip(self._columns, pieces, strict=True):
            view = memoryview(piece).cast("B")
            if column.data or column.spooled or any_byte(view):
                missing = column.length - len(column.data) - column.spooled
                column.data += bytes(missing)
                column.data += view
                self._held += missing + len(view)
            column.length += len(view)
        if self._held > _SMALL:
            self._spill()

    def _spill(self) -> None:
        if self._fd < 0:
            self._fd = open_spool()
        for column in self._columns:
            write_at(self._fd, column.data, column.offset + column.spooled)
            column.spooled += len(column.data)
            column.data = bytearray()
        self._held = 0

    def finish(self) -> list[Any]:
        """A buffer for each column. Nothing may be added any more."""
        try:
            if self._fd >= 0:
                self._spill()
                end = max(column.offset + column.spooled for column in self._columns)
                self._mapped = mmap.mmap(self._fd, end, access=mmap.ACCESS_READ)
            return [self._buffer(column) for column in self._columns]
        finally:
            self.close()

    def _buffer(self, column: _Column) -> Any:
        if column.spooled and self._mapped is not None:
            return memoryview(self._mapped)[column.offset : column.offset + column.length]
        return column.data or mmap.mmap(-1, max(column.length, 8), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)

    def relax(self) -> None:
        """Gives back the memory of pages that were read; they are read again when they are needed."""
        if self._mapped is not None:
            self._mapped.madvise(mmap.MADV_DONTNEED)

    def close(self) -> None:
        """Without ``finish``, too."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def any_byte(view: memoryview) -> bool:
    """Whether there is a byte that is not zero."""
    return view.tobytes().count(0) != len(view)
