"""Where the bytes of a file are, on either side of a diff: in tree B exactly where the encoder takes them from."""

from __future__ import annotations

import os
import stat
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from struct import Struct
from typing import Any, Literal

from fastlayer import _backend
from fastlayer._values import NamedTuple
from fastlayer.errors import StorageError
from fastlayer.layer.chunks import Extent
from fastlayer.layer.operands import Operand

_RECORD = Struct("=QQqQ6I3H2B")  # struct fl_row of csrc/fl_entry.h
_AUX_PATH, _AUX_OFFSET = Struct("=cH"), Struct("=cBQ")
_AUX = 4  # FL_ROW_AUX
NO_LEADER = 0xFFFFFFFF


class Record(NamedTuple):
    """A ``struct fl_row``, its variable part still in the heap."""

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


class Place(NamedTuple):
    """A file: ``path`` beneath the directory ``fd``, or without a path ``size`` bytes of the file ``fd``."""

    fd: int
    path: bytes | None
    offset: int = 0
    size: int = 0


class Records:
    """The rows of a change table as they are."""

    def __init__(self, table: _backend.ChangeTable) -> None:
        self._records = table.records()
        self._heap = table.heap()

    def __getitem__(self, number: int) -> Record:
        return Record(*_RECORD.unpack_from(self._records, number * _RECORD.size))

    def place(self, row: Record, roots: Sequence[int]) -> Place:
        """Of the bytes of a regular file of B. ``roots`` as for the encoder."""
        start = row.path_off + row.path_len
        aux = bytes(self._heap[start : start + row.link_len]) if row.flags & _AUX else b"C"
        if aux[:1] == b"C":  # where it is named, with the ctime it had
            return Place(roots[0], bytes(self._heap[row.path_off : start]))
        if aux[:1] == b"O":
            _, root, offset = _AUX_OFFSET.unpack(aux)
            return Place(roots[root], None, offset, row.size)
        _, root = _AUX_PATH.unpack_from(aux)
        return Place(roots[root], aux[_AUX_PATH.size :])


def in_operand(operand: Operand) -> Callable[[bytes], Place | None]:
    """Finds a regular file of tree A by its path; None where the operand has no contents."""
    if (fd := operand.directory) is not None:
        return lambda path: Place(fd, path)
    columns = operand.side
    offsets = columns.data_off if isinstance(columns, _backend.Columns) else None
    if not isinstance(columns, _backend.Columns) or offsets is None:
        return lambda path: None

    starts, sizes, data = (_items(column, "Q") for column in (columns.path_off, columns.size, offsets))
    lengths, heap = _items(columns.path_len, "I"), _items(columns.heap, "B")

    def path_at(number: int) -> bytes:
        start = starts[number]
        return bytes(heap[start : start + lengths[number]])

    def find(path: bytes) -> Place | None:
        number = bisect_left(range(columns.count), path, key=path_at)
        backing = operand.contents()
        if backing is None or number == columns.count or path_at(number) != path:
            return None
        return Place(backing, None, data[number], sizes[number])

    return find


def _items(column: Any, code: Literal["B", "I", "Q"]) -> memoryview:
    """A column as numbers, whatever kind of buffer it is."""
    items: memoryview = memoryview(column).cast("B").cast(code)
    return items


def below_upper(differ: _backend.UpperDiffer, lowers: Sequence[Operand]) -> Callable[[bytes], Place | None]:
    """The same in the merge of lower directories."""

    def find(path: bytes) -> Place | None:
        found = differ.old_place(path)
        if found is None:
            return None
        fd = lowers[found[0] - 1].directory
        return None if fd is None else Place(fd, found[1])

    return find


@contextmanager
def opened(place: Place, name: bytes, size: int | None = None) -> Iterator[Extent]:
    """The bytes, to be read. ``name``: for errors. ``size``: what a file of a directory must still have.

    Raises ``StorageError`` and ``FileChangedError``.
    """
    if place.path is None:
        yield Extent(place.fd, place.offset, place.size)
        return
    from fastlayer.layer.keys import changed, open_file

    try:
        fd = open_file(place.fd, place.path)
    except OSError as exc:
        raise StorageError(exc.errno or 0, "open", name) from exc
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or size not in (None, status.st_size):
            raise changed(name)
        yield Extent(fd, 0, status.st_size)
    finally:
        os.close(fd)
