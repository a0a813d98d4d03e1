"""A scanned tree as the engine's own records: 96 bytes and a name per entry, no Python object.

Entries are in path order (the byte order of full paths), ``BATCH`` to a batch; ``path_off`` counts from where the heap
of the batch begins. What is below a directory is one range of rows, its children are among them.
"""

from __future__ import annotations

import os
import struct
import sys
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from fastlayer._values import NamedTuple

if TYPE_CHECKING:
    import mmap

RECORD = struct.Struct("=QQQqqQIIIIIIIIIIII")  # struct fl_entry, csrc/fl_entry.h
SIZE = RECORD.size
BATCH = 1 << 12  # entries; what a scanner gives at a time
_PATH = struct.Struct("=Q32xI")  # path_off and path_len, from byte 40
_PATH_AT = 40
_TAIL = struct.Struct("=III")  # path_len, link_len, xattr_len, from byte 80
_TAIL_AT = 80
_TYPE_AT = 57 if sys.byteorder == "little" else 58  # the byte of `mode` that has the type
_ROOM = 32 << 20  # bytes of records that may be held in memory; more lie in a temporary file

_RELAX = 64  # batches between giving back memory of mapped ones

NOTHING, FILE, DIRECTORY, KNOWN = 0, 1, 2, 3  # of an entry: needs no key, is a file or directory without, has its key
_KINDS = bytes({0x40: DIRECTORY, 0x80: FILE}.get(byte & 0xF0, NOTHING) for byte in range(256))


class Entry(NamedTuple):
    """One path of a tree as it was scanned. ``path`` is relative to the root, which is ``b""``; ``mode`` has the type;
    ``size``: bytes of a regular file or of a link's target, else 0; ``rdev``: (major, minor)."""

    path: bytes
    mode: int
    uid: int
    gid: int
    size: int
    mtime_ns: int
    rdev: tuple[int, int]
    link: bytes
    xattrs: tuple[tuple[bytes, bytes], ...]
    dev: int
    ino: int
    nlink: int
    ctime_ns: int


class Batch(NamedTuple):
    """Records and heap: ``bytes``, or places in a mapped file, slices of which are ``bytes``, too."""

    entries: int
    records: bytes | mmap.mmap
    records_at: int
    heap: bytes | mmap.mmap
    heap_at: int
    heap_size: int

    def same(self, other: Batch) -> bool:
        """Whether all of it is the same, byte by byte."""
        return (
            self.entries == other.entries
            and self.heap_size == other.heap_size
            and self.all_records() == other.all_records()
            and self.all_heap() == other.all_heap()
        )

    def all_records(self) -> bytes:
        return self.records[self.records_at : self.records_at + self.entries * SIZE]

    def all_heap(self) -> bytes:
        return self.heap[self.heap_at : self.heap_at + self.heap_size]


def in_memory(records: bytes, heap: bytes) -> Batch:
    """A batch as a scanner gives it."""
    return Batch(len(records) // SIZE, records, 0, heap, 0, len(heap))


class Table:
    """Batches as a whole. All but the last one are full."""

    def __init__(self, batches: list[Batch]) -> None:
        self.batches = batches
        self.count = sum(batch.entries for batch in batches)
        self._firsts = [self.path(number * BATCH) for number in range(len(batches))]

    def record(self, row: int) -> bytes:
        """Its 96 bytes."""
        batch = self.batches[row // BATCH]
        at = batch.records_at + row % BATCH * SIZE
        return batch.records[at : at + SIZE]

    def fields(self, row: int) -> tuple[int, ...]:
        """The numbers of its record, in their order."""
        batch = self.batches[row // BATCH]
        return RECORD.unpack_from(batch.records, batch.records_at + row % BATCH * SIZE)

    def path(self, row: int) -> bytes:
        batch = self.batches[row // BATCH]
        at, length = _PATH.unpack_from(batch.records, batch.records_at + row % BATCH * SIZE + _PATH_AT)
        at += batch.heap_at
        return batch.heap[at : at + length]

    def rest(self, row: int, fields: tuple[int, ...]) -> tuple[bytes, bytes]:
        """Link target and xattr blob."""
        batch = self.batches[row // BATCH]
        at = batch.heap_at + fields[5] + fields[14]
        end = at + fields[15]
        return batch.heap[at:end], batch.heap[end : end + fields[16]]

    def entry(self, row: int) -> Entry:
        """As Python values."""
        found = self.fields(row)
        link, xattrs = self.rest(row, found)
        return Entry(
            self.path(row),
            found[8],
            found[9],
            found[10],
            found[2],
            found[3] * 1_000_000_000 + found[6],
            (found[12], found[13]),
            link,
            tuple(unpack_xattrs(xattrs)) if xattrs else (),
            found[0],
            found[1],
            found[11],
            found[4] * 1_000_000_000 + found[7],
        )

    def lower_bound(self, path: bytes) -> int:
        """The first row whose path is not less."""
        batch = bisect_right(self._firsts, path) - 1
        if batch < 0:
            return 0
        low, high = batch * BATCH, min((batch + 1) * BATCH, self.count)
        while low < high:
            middle = (low + high) // 2
            if self.path(middle) < path:
                low = middle + 1
            else:
                high = middle
        return low

    def find(self, path: bytes) -> int:
        """The row of a path; -1: there is none."""
        row = self.lower_bound(path)
        return row if row < self.count and self.path(row) == path else -1

    def below(self, path: bytes) -> tuple[int, int]:
        """The rows of everything below a directory: from, to."""
        if not path:
            return min(1, self.count), self.count
        return self.lower_bound(path + b"/"), self.lower_bound(path + b"0")  # "0" comes right behind "/"

    def children(self, path: bytes) -> Iterator[tuple[int, bytes]]:
        """Row and path of what is right below a directory, by name."""
        row, stop = self.below(path)
        start = len(path) + 1 if path else 0
        while row < stop:
            found = self.path(row)
            if (slash := found.find(b"/", start)) >= 0:  # of the tree below a child before it
                row = self.lower_bound(found[:slash] + b"0")
                continue
            yield row, found
            row += 1

    def paths(self, start: int, stop: int) -> Iterator[tuple[int, bytes]]:
        """Row and path of a range of rows."""
        while start < stop:
            number = start // BATCH
            batch = self.batches[number]
            first = number * BATCH
            end = min(stop, first + batch.entries)
            records = memoryview(batch.all_records())[(start - first) * SIZE : (end - first) * SIZE]
            offsets, lengths = records.cast("Q")[5::12].tolist(), records.cast("I")[20::24].tolist()
            heap = batch.all_heap()
            for row, at, length in zip(range(start, end), offsets, lengths, strict=True):
                yield row, heap[at : at + length]
            start = end

    def kinds(self) -> bytearray:
        """What each entry is, when nothing is known about it yet."""
        found = bytearray()
        for batch in self.batches:
            found += kinds_of(batch)
        return found

    def relax(self, number: int = 0) -> None:
        """Gives back memory of what was read of mapped batches; by who goes through them, for each ``number``."""
        if number % _RELAX:
            return
        import mmap

        for mapping in {id(b.records): b.records for b in self.batches if not isinstance(b.records, bytes)}.values():
            mapping.madvise(mmap.MADV_DONTNEED)


def kinds_of(batch: Batch) -> bytes:
    """``FILE``, ``DIRECTORY`` or ``NOTHING`` of each entry."""
    return batch.all_records()[_TYPE_AT::SIZE].translate(_KINDS)


def kind_of(record: bytes) -> int:
    """The same of one."""
    return _KINDS[record[_TYPE_AT]]


def lengths_of(batch: Batch, start: int, count: int) -> tuple[int, int]:
    """Where in the heap what belongs to these entries begins and ends."""
    first = batch.records_at + start * SIZE
    last = first + (count - 1) * SIZE
    begin = int.from_bytes(batch.records[first + 40 : first + 48], sys.byteorder)
    end = int.from_bytes(batch.records[last + 40 : last + 48], sys.byteorder)
    return begin, end + sum(_TAIL.unpack_from(batch.records, last + _TAIL_AT))


def unpack_xattrs(blob: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Names and values."""
    at = 0
    while at < len(blob):
        name_length, value_length = struct.unpack_from("=HI", blob, at)
        at += 6
        yield blob[at : at + name_length], blob[at + name_length : at + name_length + value_length]
        at += name_length + value_length


class Gatherer:
    """Makes a table of batches that come one by one. Beyond 64 MiB they go to an unlinked temporary file."""

    def __init__(self) -> None:
        self._batches: list[Batch] = []
        self._held = 0
        self._spooled: list[tuple[int, int, int, int]] = []  # number of the batch, offset, bytes of records and heap
        self._fd = -1
        self._end = 0

    def add(self, batch: Batch) -> None:
        if not isinstance(batch.records, bytes):
            self._batches.append(batch)
            return
        self._held += len(batch.records) + batch.heap_size
        if self._held <= _ROOM:
            self._batches.append(batch)
            return
        self._spool(batch.records, batch.all_heap())
        self._batches.append(Batch(batch.entries, b"", 0, b"", 0, batch.heap_size))

    def _spool(self, records: bytes, heap: bytes) -> None:
        from fastlayer.layer.columns import open_spool, write_at

        if self._fd < 0:
            self._fd = open_spool()
        write_at(self._fd, records, self._end)
        write_at(self._fd, heap, self._end + len(records))
        self._spooled.append((len(self._batches), self._end, len(records), len(heap)))
        self._end += len(records) + len(heap)

    def finish(self) -> Table:
        if self._fd >= 0:
            import mmap

            mapped = mmap.mmap(self._fd, self._end, access=mmap.ACCESS_READ)
            for number, at, records, heap in self._spooled:
                self._batches[number] = Batch(records // SIZE, mapped, at, mapped, at + records, heap)
            self.close()
        return Table(self._batches)

    def close(self) -> None:
        """Without ``finish``, too."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def gathered(batches: Iterable[Batch]) -> Table:
    """A table of batches."""
    gatherer = Gatherer()
    try:
        for batch in batches:
            gatherer.add(batch)
        return gatherer.finish()
    finally:
        gatherer.close()
