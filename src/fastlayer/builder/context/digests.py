"""The keys of a table's entries: blake3 of files, node digests of directories. Computed when asked for, and kept.

A key that is known stays true for as long as the record stays the same, if the file's ctime lies safely before the scan
that saw it: any later change gives it another ctime (git's racy rule). Keys of younger files are used while this
process runs and are not handed on.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

from fastlayer import _backend
from fastlayer._values import NamedTuple
from fastlayer.builder.context.blame import Blame
from fastlayer.builder.context.nodes import KEY, Rules, encode
from fastlayer.builder.context.table import DIRECTORY, FILE, KNOWN, SIZE, Table, kind_of
from fastlayer.errors import FileChangedError, StorageError

_TICK_NS = 20_000_000  # ctimes are taken from a clock that ticks every 1 to 10 ms
_FILES = 512  # hashed and checked at once, or so many bytes:
_BYTES = 8 << 20
_ROOM = 16 << 20  # bytes of nodes kept for whoever writes them
_FEW = 32  # a directory costs this many times as much when it is looked up alone


def racy_now() -> int:
    """Files with a ctime from here on (ns) may change without our seeing it."""
    return time.clock_gettime_ns(time.CLOCK_REALTIME) - _TICK_NS


class Job(NamedTuple):
    """A file to hash: its row, path and size."""

    row: int
    path: bytes
    size: int


class Digests:
    """A table and what is known of its entries' contents."""

    def __init__(
        self,
        fd: int,
        table: Table,
        rules: Rules,
        blame: Blame,
        racy_ns: int,
        kinds: bytearray | None = None,
        keys: bytearray | None = None,
    ) -> None:
        self.fd = fd
        self.blame = blame
        self.table = table
        self.rules = rules
        self.racy_ns = racy_ns
        self.kinds = table.kinds() if kinds is None else kinds
        self.keys = bytearray(KEY * table.count) if keys is None else keys
        self.fresh = 0  # keys that were computed here
        self._racy: set[int] = set()  # rows whose keys are not handed on
        self._types = b""  # of the rows, when they were asked for
        self._nodes: dict[int, tuple[bytes, list[int]]] = {}  # made here, as many as there is room for
        self._room = _ROOM

    def is_directory(self, row: int) -> bool:
        return kind_of(self.table.record(row)) == DIRECTORY

    def key(self, row: int) -> bytes:
        return bytes(self.keys[KEY * row : KEY * (row + 1)])

    def digest(self, row: int) -> bytes:
        """Of the entry and all below it, which ``fill`` has been asked for."""
        from blake3 import blake3

        return blake3(self.top(row)).digest()

    def top(self, row: int) -> bytes:
        """The node with this entry alone."""
        return encode(self.table, row, b"", self.key(row), self.rules)

    def fill(self, rows: list[int], jobs: int | None) -> None:
        """Computes what is not known of these entries and all below them, by ``jobs`` threads (None: all processors).

        Raises ``FileChangedError`` when a file is not what was scanned, ``StorageError`` for one that cannot be read.
        """
        files = [row for row in set(rows) if self.kinds[row] == FILE]
        directories = [
            (row, *self.table.below(self.table.path(row))) for row in set(rows) if self.kinds[row] == DIRECTORY
        ]
        ranges = [(row, row + 1) for row in files] + [(start, stop) for _, start, stop in directories]
        if ranges:
            self._hash_files(sorted(ranges), jobs)
        for row, start, stop in sorted(directories, reverse=True):  # what is below a directory comes behind it
            if self.kinds[row] == DIRECTORY:
                self._hash_directories(row, start, stop)

    # ---- files ----

    def _hash_files(self, ranges: list[tuple[int, int]], jobs: int | None) -> None:
        from fastlayer.layer.pipeline import default_jobs, map_ordered

        linked: dict[tuple[int, int], int] = {}  # the first row of each file with several names
        others: list[tuple[int, int]] = []
        batches = _batches(self._jobs(ranges, linked, others))
        for done, keys in map_ordered(self._hash, batches, default_jobs(jobs)):
            for job, key in zip(done, keys, strict=True):
                self._learn(job.row, key)
        for row, same in others:
            self._learn(row, self.key(same))

    def _jobs(
        self, ranges: list[tuple[int, int]], linked: dict[tuple[int, int], int], others: list[tuple[int, int]]
    ) -> Iterator[Job]:
        end = 0
        for start, stop in ranges:  # one within another, or apart
            for row in self._unknown(FILE, max(start, end), stop):
                fields = self.table.fields(row)
                if fields[11] > 1 and (first := linked.setdefault((fields[0], fields[1]), row)) != row:
                    others.append((row, first))
                    continue
                yield Job(row, self.table.path(row), fields[2])
            end = max(end, stop)

    def _unknown(self, kind: int, start: int, stop: int) -> Iterator[int]:
        while (start := self.kinds.find(kind, start, stop)) >= 0:
            yield start
            start += 1

    def _learn(self, row: int, key: bytes) -> None:
        self.keys[KEY * row : KEY * (row + 1)] = key
        self.kinds[row] = KNOWN
        self.fresh += 1
        fields = self.table.fields(row)
        if fields[4] * 1_000_000_000 + fields[7] >= self.racy_ns:
            self._racy.add(row)

    def _hash(self, batch: list[Job]) -> tuple[list[Job], list[bytes]]:
        """In a thread. The files are looked at once more afterwards."""
        from fastlayer.layer.keys import EMPTY_KEY, file_keys

        try:
            found = file_keys(self.fd, [(job.path, job.size) for job in batch if job.size], 1)
            keys = [next(found) if job.size else EMPTY_KEY for job in batch]
        except FileChangedError:
            self._check(batch)  # says which one, in our words
            raise
        except StorageError as exc:
            raise self.blame.unreadable(exc) from exc
        self._check(batch)
        return batch, keys

    def _check(self, batch: list[Job]) -> None:
        """They are still what the table says."""
        paths = [b"", *(job.path for job in batch)]
        found = _backend.engine().scan.Scanner(self.fd, xattrs="none", only=paths).next_batch(len(paths))
        records = found[0] if found is not None else b""
        for number, job in enumerate(batch, 1):
            new = records[number * SIZE : (number + 1) * SIZE]
            if identity(self.table.record(job.row)) != identity(new):
                raise self.blame.changed(job.path)

    # ---- directories ----

    def _hash_directories(self, top: int, start: int, stop: int) -> None:
        from blake3 import blake3

        rows = [top, *self._unknown(DIRECTORY, start, stop)]
        children = None if len(rows) * _FEW < stop - start else self._grouped(rows, start, stop)
        for row in reversed(rows):  # what is below a directory comes behind it
            path = self.table.path(row)
            within = list(self.table.children(path)) if children is None else children.pop(path)
            data = self._node(path, within)
            self.keys[KEY * row : KEY * (row + 1)] = blake3(data).digest()
            self._keep(row, data, within)
            self.kinds[row] = KNOWN
            self.fresh += 1

    def _grouped(self, rows: list[int], start: int, stop: int) -> dict[bytes, list[tuple[int, bytes]]]:
        """The children of these directories, found in one pass."""
        found: dict[bytes, list[tuple[int, bytes]]] = {self.table.path(row): [] for row in rows}
        for row, path in self.table.paths(start, stop):
            within = found.get(path[: max(path.rfind(b"/"), 0)])
            if within is not None:
                within.append((row, path))
        return found

    def _node(self, path: bytes, children: list[tuple[int, bytes]]) -> bytes:
        cut = len(path) + 1 if path else 0
        return b"".join(encode(self.table, row, name[cut:], self.key(row), self.rules) for row, name in children)

    def _keep(self, row: int, data: bytes, children: list[tuple[int, bytes]]) -> None:
        """For ``node``, which is asked next about what is new."""
        self._room -= len(data)
        if self._room >= 0:
            self._nodes[row] = data, self._directories(children)

    def _directories(self, children: list[tuple[int, bytes]]) -> list[int]:
        if not self._types:
            self._types = bytes(self.table.kinds())
        return [row for row, _ in children if self._types[row] == DIRECTORY]

    def node(self, row: int) -> tuple[bytes, list[int]]:
        """The node of a directory whose key is known, and the rows of the directories in it."""
        kept = self._nodes.get(row)
        if kept is None:
            path = self.table.path(row)
            children = list(self.table.children(path))
            kept = self._node(path, children), self._directories(children)
        return kept

    # ---- handing on ----

    def lasting(self) -> bytearray:
        """``kinds`` with only those keys known that any later process may believe."""
        kinds = bytearray(self.kinds)
        above: set[bytes] = set()
        for row in self._racy:
            kinds[row] = FILE
            add_parents(self.table.path(row), above)
        forget(self.table, kinds, above)
        return kinds


def _batches(jobs: Iterator[Job]) -> Iterator[list[Job]]:
    batch: list[Job] = []
    held = 0
    for job in jobs:
        batch.append(job)
        held += job.size
        if len(batch) >= _FILES or held >= _BYTES:
            yield batch
            batch, held = [], 0
    if batch:
        yield batch


def identity(record: bytes) -> bytes:
    """Of a record: dev, ino, size, mtime, ctime. The same file with the same content, whatever its name is."""
    return record[:40] + record[48:56]


def add_parents(path: bytes, found: set[bytes]) -> None:
    """Adds the directories above a path."""
    while path:
        path = path[: max(path.rfind(b"/"), 0)]
        if path in found:
            return
        found.add(path)


def forget(table: Table, kinds: bytearray, directories: set[bytes]) -> None:
    """The keys of these directories are known no more."""
    for path in directories:
        row = table.find(path)
        if row >= 0 and kinds[row] == KNOWN:
            kinds[row] = DIRECTORY
