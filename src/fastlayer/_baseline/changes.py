"""Two trees, what has to be done to the first to get the second.

The rules, with their sources, are in docs/formats.md. Both trees are walked in path order in lockstep; hard-link
groups are decided at the end, when every name is known.
"""

from __future__ import annotations

import errno
import stat
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

from fastlayer._baseline.builder import TableBuilder
from fastlayer._baseline.pick import pick
from fastlayer._baseline.table import (
    AUX_OFFSET,
    CONTENT,
    DEVICE,
    LINK,
    MODE,
    MTIME,
    OWNER,
    ROW_AUX,
    ROW_GROUP,
    ROW_KEY,
    ROW_VERIFY,
    TYPE,
    XATTR,
    Change,
    ChangeTable,
    Row,
    ctime_aux,
)
from fastlayer._baseline.tree import FLAG_NO_CTIME, READ_SIZE, Entry, open_bytes, parent_of, walk, walk_columns
from fastlayer.errors import StorageError, UsageError

__all__ = ["ChangeTable", "Differ", "Row", "TableBuilder"]

BATCH = 1024

Pair = tuple[Entry | None, Entry | None]
Inode = tuple[int, int]


def check_policies(compare: str, xattrs: str) -> None:
    if compare not in ("auto", "metadata", "content"):
        raise UsageError(f"compare={compare!r} is unknown: use auto, metadata or content")
    if xattrs not in ("all", "docker", "none"):
        raise UsageError(f"xattrs={xattrs!r} is unknown: use all, docker or none")


class Differ:
    """See ``fastlayer._backend.Differ``. ``threads`` is accepted and means nothing here."""

    def __init__(
        self,
        a: Any,
        b: Any,
        *,
        compare: str = "auto",
        xattrs: str = "all",
        details: bool = False,
        threads: int = 0,
        only: Sequence[bytes] | None = None,
        shared_until_ns: int = 0,
    ) -> None:
        check_policies(compare, xattrs)
        self.entries = 0
        self.bytes_compared = 0
        self.assumed = 0
        self._a, self._b = a, b
        self._compare, self._details = compare, details
        self._shared_until_ns = shared_until_ns
        self._changes: list[Change] = []
        self._gone: set[bytes] = set()  # directories of A that B has no directory for
        self._sockets = 0
        self._done = False
        self._links = HardLinks()
        self._verify: dict[int, tuple[bytes, bytes]] = {}  # row number -> path, key of the other side
        self._pairs = lockstep(self._source(a, xattrs, only), self._source(b, xattrs, only))

    # ---- stepping

    def step(self) -> bool:
        for _ in range(BATCH):
            pair = next(self._pairs, None)
            if pair is None:
                self._done = True
                return False
            self._take(*pair)
        return True

    def _source(self, operand: Any, policy: str, only: Sequence[bytes] | None) -> Iterator[Entry]:
        if operand is None:
            return iter(())
        if not isinstance(operand, int):
            return walk_columns(operand, policy)
        return walk(operand, policy) if only is None else pick(operand, only, policy)

    def _take(self, a: Entry | None, b: Entry | None) -> None:
        self.entries += (a is not None) + (b is not None)
        if b is not None and stat.S_ISSOCK(b.mode):  # cannot be in a layer, but hides what else was there
            self._sockets += 1
            if a is not None and stat.S_ISSOCK(a.mode):
                return
            b = None
        if b is not None:
            self._take_present(a, b)
        elif a is not None and a.path != b"":
            self._take_removed(a)

    def _take_removed(self, a: Entry) -> None:
        """One row for the topmost removed path; none below it, none below a directory that became something else."""
        if a.is_dir:
            self._gone.add(a.path)
        if parent_of(a.path) not in self._gone:
            self._changes.append(Change("D", a))

    def _take_present(self, a: Entry | None, b: Entry) -> None:
        if a is not None and a.is_dir and not b.is_dir:
            self._gone.add(a.path)
        if a is None:  # a table without an entry for its root does not know it: nothing to compare
            change = Change("A" if b.path or isinstance(self._a, int | None) else "P", b)
        else:
            change = self._compared(a, b)
        if b.is_file:
            self.point_at_bytes(change)
        self._changes.append(change)
        self._links.add(a, change)

    def point_at_bytes(self, change: Change) -> None:
        """Where the encoder finds the bytes of a file, or how it sees that they are still those that were listed."""
        if change.entry.data_off is not None:
            change.flags |= ROW_AUX
            change.aux = AUX_OFFSET.pack(b"O", 0, change.entry.data_off)
        elif change.entry.place is not None and change.entry.size:
            change.flags |= ROW_AUX
            change.aux = ctime_aux(change.entry)
        if change.entry.key is not None:
            change.flags |= ROW_KEY

    # ---- one path in both trees

    def _compared(self, a: Entry, b: Entry) -> Change:
        if a.type != b.type:
            return Change("C", b, TYPE)
        change = Change("", b, metadata_differences(a, b))
        if b.is_file:
            self._compare_content(a, change)
        if change.what:
            change.kind = "C"
        elif b.is_dir:
            change.kind = "P"
        return change

    def _compare_content(self, a: Entry, change: Change) -> None:
        b = change.entry
        if a.size != b.size:
            change.what |= CONTENT
            return
        if a.size != 0 and change.what == 0 and self._touched(a, b):
            change.what = CONTENT
        if a.size == 0 or not self._content_wanted(change.what) or self._proven(a, b):
            return
        if a.place is not None and b.place is not None:
            if not self._same_bytes(a.place, b.place):
                change.what |= CONTENT
        elif a.key is not None and b.key is not None:
            if a.key != b.key:
                change.what |= CONTENT
        elif (a.place is None) != (b.place is None) and (key := a.key or b.key) is not None:
            change.flags |= ROW_VERIFY
            self._verify[len(self._changes)] = (b.path, key)
        else:
            self.assumed += 1
            change.what |= CONTENT

    def _content_wanted(self, what: int) -> bool:
        if self._compare == "metadata":
            return False
        return what == 0 or self._details

    def _touched(self, a: Entry, b: Entry) -> bool:
        """An inode that a table knows has another ctime: without reading it may hold anything."""
        if self._compare != "metadata" or (a.place is not None and b.place is not None):
            return False
        if (a.flags | b.flags) & FLAG_NO_CTIME:
            return False
        return a.inode == b.inode and a.ino != 0 and a.ctime_ns != b.ctime_ns

    def _proven(self, a: Entry, b: Entry) -> bool:
        """Equal without reading: one file seen twice or, against an index, unchanged since it was indexed."""
        both = a.place is not None and b.place is not None
        if both and (a.inode == b.inode or a.place == b.place):
            return True
        if self._compare == "content" or (a.flags | b.flags) & FLAG_NO_CTIME or (a.place is None and b.place is None):
            return False
        racy_ns = self._shared_until_ns if both else (self._a if a.place is None else self._b).racy_ns
        return a.ino == b.ino != 0 and a.ctime_ns == b.ctime_ns and a.ctime_ns < racy_ns

    def _same_bytes(self, a: tuple[int, bytes], b: tuple[int, bytes]) -> bool:
        try:
            with open_bytes(*a) as left, open_bytes(*b) as right:
                while True:
                    piece = left.read(READ_SIZE)
                    if piece != right.read(READ_SIZE):
                        return False
                    if not piece:
                        return True
                    self.bytes_compared += len(piece)
        except OSError as exc:
            raise StorageError(exc.errno or errno.EIO, "read", b[1]) from exc

    # ---- the end

    def unverified(self) -> list[tuple[int, bytes, bytes]]:
        return [(number, path, key) for number, (path, key) in self._verify.items()]

    def settle(self, ticket: int, equal: bool) -> None:
        if self._verify.pop(ticket, None) is None:
            raise UsageError("no such ticket, or settled before")
        change = self._changes[ticket]
        change.flags &= ~ROW_VERIFY
        if not equal:
            change.what |= CONTENT
            change.kind = "C"

    def finish(self) -> ChangeTable:
        if not self._done:
            raise UsageError("finish before the last step")
        if self._verify:
            raise UsageError("finish before every unverified pair was settled")
        self._links.resolve()
        return ChangeTable(self._changes, self._sockets)


def lockstep(left: Iterator[Entry], right: Iterator[Entry]) -> Iterator[Pair]:
    """Both trees' entries in path order, equal paths paired."""
    a, b = next(left, None), next(right, None)
    while a is not None or b is not None:
        if b is None or (a is not None and a.path < b.path):
            yield a, None
            a = next(left, None)
        elif a is None or b.path < a.path:
            yield None, b
            b = next(right, None)
        else:
            yield a, b
            a, b = next(left, None), next(right, None)


def metadata_differences(a: Entry, b: Entry) -> int:
    """What differs between two entries of one type, hard links and the bytes of files aside."""
    found = 0
    if stat.S_IMODE(a.mode) != stat.S_IMODE(b.mode) and not stat.S_ISLNK(b.mode):
        found |= MODE
    if (a.uid, a.gid) != (b.uid, b.gid):
        found |= OWNER
    if a.mtime_ns != b.mtime_ns:
        found |= MTIME
    if a.xattrs != b.xattrs:
        found |= XATTR
    if stat.S_ISLNK(b.mode) and a.link != b.link:
        found |= LINK
    if (stat.S_ISCHR(b.mode) or stat.S_ISBLK(b.mode)) and a.rdev != b.rdev:
        found |= DEVICE
    return found


class HardLinks:
    """Which groups of names of one inode are other groups in B than they were in A.

    A group of B is as it was if every name is an unchanged entry of one and the same group of A, and every name
    of that group which B still has belongs to it. Otherwise the whole group is emitted again, its first name as the
    entry and the others as links to it: an engine that unpacks a layer by itself cannot link to a layer below.
    """

    def __init__(self) -> None:
        self._members: dict[Inode, list[Change]] = defaultdict(list)  # groups of B
        self._was: dict[bytes, Inode | None] = {}  # name in B -> its group in A, None if not known
        self._still_there: dict[Inode, set[bytes]] = defaultdict(set)  # group of A -> its names that B has

    def add(self, a: Entry | None, change: Change) -> None:
        """Every path of B, with what A has there."""
        b = change.entry
        if a is not None and a.shared:
            self._still_there[a.inode].add(b.path)
        if b.shared or (a is not None and a.shared):
            self._was[b.path] = None if a is None or a.is_dir or a.ino == 0 else a.inode
            if not b.is_dir and b.ino != 0:
                self._members[b.inode].append(change)

    def resolve(self) -> None:
        for members in self._members.values():
            if not self._unchanged(members):
                self._emit(members)

    def _unchanged(self, members: list[Change]) -> bool:
        if any(change.kind for change in members):
            return False
        groups = {self._was[change.path] for change in members}
        if len(groups) > 1:
            return False
        before = groups.pop()
        if before is None:
            return len(members) == 1
        return self._still_there[before] <= {change.path for change in members}

    def _emit(self, members: list[Change]) -> None:
        for change in members:
            if not change.kind:
                change.kind, change.what = "C", LINK
            if len(members) > 1:
                change.flags |= ROW_GROUP
                change.leader = members[0] if change is not members[0] else None
