"""What an older scan knew, taken over by a newer one of the same tree.

Both tables are walked in step. Equal stretches are found by comparing bytes, so what did not change costs nothing per
entry; only where they differ single rows are looked at.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastlayer._values import NamedTuple
from fastlayer.builder.context.digests import add_parents, forget, identity
from fastlayer.builder.context.nodes import KEY
from fastlayer.builder.context.table import BATCH, DIRECTORY, FILE, KNOWN, SIZE, Batch, Table, kind_of, lengths_of

if TYPE_CHECKING:
    import mmap

_MAX_MOVED = 200_000  # files that may be looked up by their inodes


class Known(NamedTuple):
    """A table and what is known of it, all of which can be believed. ``keys`` begin at ``keys_at``."""

    table: Table
    kinds: bytes | bytearray
    keys: bytes | bytearray | mmap.mmap
    keys_at: int

    def key(self, row: int, count: int = 1) -> bytes | bytearray:
        at = self.keys_at + KEY * row
        return self.keys[at : at + KEY * count]


def taken_over(old: Known, new: Table) -> tuple[bytearray, bytearray]:
    """``kinds`` and ``keys`` of the new table."""
    merge = _Merge(old, new)
    same = [a is b for a, b in zip(old.table.batches, new.batches, strict=False)]
    start = 0
    for number in range(max(len(old.table.batches), len(new.batches)) + 1):
        equal = number < len(same) and same[number]
        if equal or number >= max(len(old.table.batches), len(new.batches)):
            merge.stretch(start * BATCH, number * BATCH)
            start = number + 1
        if equal:
            merge.take(number * BATCH, number * BATCH, new.batches[number].entries)
            new.relax(number)
    merge.moved()
    forget(new, merge.kinds, merge.above)
    return merge.kinds, merge.keys


class _Merge:
    def __init__(self, old: Known, new: Table) -> None:
        self.old, self.new = old, new
        self.kinds = new.kinds()
        self.keys = bytearray(KEY * new.count)
        self.above: set[bytes] = set()  # directories with a change below
        self._added: list[int] = []  # files, rows of new
        self._gone: list[int] = []  # files, rows of old
        self._masks: dict[bool, tuple[int, bytes]] = {}

    def take(self, row: int, old: int, count: int) -> None:
        """All about these rows as it was."""
        self.kinds[row : row + count] = self.old.kinds[old : old + count]
        self.keys[KEY * row : KEY * (row + count)] = self.old.key(old, count)

    def stretch(self, start: int, stop: int) -> None:
        """Rows that differ somewhere, of both tables; the paths in it are those of this stretch in both."""
        row, end = start, min(stop, self.new.count)
        old, old_end = start, min(stop, self.old.table.count)
        step = BATCH
        while row < end and old < old_end:
            count = min(step, end - row, old_end - old, BATCH - row % BATCH, BATCH - old % BATCH)
            if self._equal(row, old, count):
                self.take(row, old, count)
                row, old, step = row + count, old + count, min(2 * step, BATCH)
            elif count > 1:
                step = count // 2
            else:
                more_new, more_old = self._differ(row, old)
                row, old, step = row + more_new, old + more_old, 1
        for left in range(row, end):
            self._add(left)
        for left in range(old, old_end):
            self._remove(left)

    def _equal(self, row: int, old: int, count: int) -> bool:
        new_batch, old_batch = self.new.batches[row // BATCH], self.old.table.batches[old // BATCH]
        row, old, new_number, old_number = row % BATCH, old % BATCH, row // BATCH, old // BATCH
        new_mask, old_mask = self._masked(True, new_number, new_batch), self._masked(False, old_number, old_batch)
        if new_mask[row * SIZE : (row + count) * SIZE] != old_mask[old * SIZE : (old + count) * SIZE]:
            return False
        return _heap(new_batch, row, count) == _heap(old_batch, old, count)

    def _masked(self, new: bool, number: int, batch: Batch) -> bytes:
        """The records without their places in the heap, which depend on what comes before them."""
        held = self._masks.get(new)
        if held is None or held[0] != number:
            (self.new if new else self.old.table).relax(number)
            records = bytearray(batch.all_records())
            memoryview(records).cast("Q")[5::12] = memoryview(bytes(8 * batch.entries)).cast("Q")
            held = self._masks[new] = (number, bytes(records))
        return held[1]

    def _differ(self, row: int, old: int) -> tuple[int, int]:
        """Looks at one row of each; how far to go on."""
        new_path, old_path = self.new.path(row), self.old.table.path(old)
        if new_path < old_path:
            self._add(row)
            return 1, 0
        if new_path > old_path:
            self._remove(old)
            return 0, 1
        if self.kinds[row] == DIRECTORY == kind_of(self.old.table.record(old)):
            self.take(row, old, 1)
            add_parents(new_path, self.above)
        else:
            self._add(row)
            self._remove(old)
        return 1, 1

    def _add(self, row: int) -> None:
        add_parents(self.new.path(row), self.above)
        if self.kinds[row] == FILE:
            self._added.append(row)

    def _remove(self, old: int) -> None:
        add_parents(self.old.table.path(old), self.above)
        if self.old.kinds[old] == KNOWN:
            self._gone.append(old)

    def moved(self) -> None:
        """Files that have another name: an inode with the ctime it had has the content it had."""
        if not self._added or not self._gone or len(self._gone) > _MAX_MOVED:
            return
        known = {identity(self.old.table.record(old)): old for old in self._gone}
        for row in self._added:
            old = known.get(identity(self.new.record(row)))
            if old is not None:
                self.take(row, old, 1)


def _heap(batch: Batch, start: int, count: int) -> bytes:
    begin, end = lengths_of(batch, start, count)
    return batch.heap[batch.heap_at + begin : batch.heap_at + end]
