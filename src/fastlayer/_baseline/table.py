"""The change table: rows in path order, as Python values and as the flat records of csrc/fl_entry.h."""

from __future__ import annotations

import stat
import struct
from dataclasses import dataclass
from functools import cached_property

from fastlayer._baseline.tree import Entry, Xattrs, pack_xattrs, parent_of
from fastlayer._values import NamedTuple
from fastlayer.errors import LimitError, show_path

CONTENT, MODE, OWNER, MTIME, XATTR, TYPE, LINK, DEVICE = 1, 2, 4, 8, 16, 32, 64, 128

ROW_VERIFY, ROW_GROUP, ROW_AUX, ROW_KEY = 1, 2, 4, 8
NO_LEADER = 0xFFFFFFFF
_AUX_CTIME = struct.Struct("=cQ")
RECORD = struct.Struct("=QQqQIIIIIIHHHBB")
AUX_PATH = struct.Struct("=cH")  # "P", root number; the path follows
AUX_DATED = struct.Struct("=cHQ")  # "F", root number, ctime; the path follows
AUX_OFFSET = struct.Struct("=cBQ")  # "O", root number, offset


def ctime_aux(entry: Entry) -> bytes:
    """The aux of a file that is read at its own path (csrc/fl_entry.h)."""
    return _AUX_CTIME.pack(b"C", entry.ctime_ns % (1 << 64))


class Row(NamedTuple):
    """One line as Python values; the fields are those of ``fastlayer._backend.Row``."""

    kind: str
    what: int
    path: bytes
    mode: int
    uid: int
    gid: int
    size: int
    mtime_ns: int
    rdev: tuple[int, int]
    link: bytes
    leader: bytes | None
    xattrs: Xattrs


@dataclass(slots=True)
class Change:
    """A line while the table is being made. ``kind`` is one of ``A C D P`` or ``""`` for a line that goes away.

    ``entry`` is B's (A's for a deletion). ``leader`` is the first name of the hard link when this is a later one.
    """

    kind: str
    entry: Entry
    what: int = 0
    flags: int = 0
    aux: bytes = b""  # where the bytes of a regular file are, or its ctime when they are at its path
    leader: Change | None = None

    @property
    def path(self) -> bytes:
        return self.entry.path


class ChangeTable:
    """See ``fastlayer._backend.ChangeTable``."""

    def __init__(self, changes: list[Change], skipped_sockets: int = 0) -> None:
        self.changes = _needed(changes)
        self.skipped_sockets = skipped_sockets
        self.dropped_xattrs = sum(change.entry.dropped for change in self.changes if change.kind != "D")
        self._number = {change.path: number for number, change in enumerate(self.changes)}

    def __len__(self) -> int:
        return len(self.changes)

    def row(self, number: int) -> Row:
        if not 0 <= number < len(self.changes):
            raise IndexError(number)
        return _as_row(self.changes[number])

    def rows(self, start: int = 0, stop: int | None = None) -> list[Row]:
        return [_as_row(change) for change in self.changes[start:stop]]

    def records(self) -> memoryview:
        return self._packed[0]

    def heap(self) -> memoryview:
        return self._packed[1]

    @cached_property
    def _packed(self) -> tuple[memoryview, memoryview]:
        records, heap = bytearray(), bytearray()
        for change in self.changes:
            leader = NO_LEADER if change.leader is None else self._number[change.leader.path]
            records += _record(change, len(heap), leader)
            heap += _variable_part(change)
        return memoryview(bytes(records)), memoryview(bytes(heap))


def _needed(changes: list[Change]) -> list[Change]:
    """Drops what goes away, and unchanged directories with no change below them."""
    kept = []
    above_changes: set[bytes] = set()
    for change in reversed(changes):  # children come after their parents
        needed = change.kind in ("A", "C", "D") or (
            change.kind == "P" and change.path in above_changes and change.path != b""
        )
        if needed:
            kept.append(change)
            above = parent_of(change.path)
            while above not in above_changes:  # not all of them need rows
                above_changes.add(above)
                above = parent_of(above)
    return kept[::-1]


def _as_row(change: Change) -> Row:
    entry = change.entry
    if change.kind == "D":
        size = entry.size if entry.is_file else 0
        return Row("D", 0, entry.path, entry.mode, 0, 0, size, 0, (0, 0), b"", None, ())
    return Row(
        kind=change.kind,
        what=change.what,
        path=entry.path,
        mode=entry.mode,
        uid=entry.uid,
        gid=entry.gid,
        size=entry.size if entry.is_file else 0,
        mtime_ns=entry.mtime_ns,
        rdev=entry.rdev if _is_device(entry) else (0, 0),
        link=entry.link,
        leader=None if change.leader is None else change.leader.path,
        xattrs=entry.xattrs,
    )


def _is_device(entry: Entry) -> bool:
    return stat.S_ISCHR(entry.mode) or stat.S_ISBLK(entry.mode)


def _record(change: Change, path_off: int, leader: int) -> bytes:
    entry = change.entry
    size = entry.rdev[0] << 32 | entry.rdev[1] if _is_device(entry) else entry.size if entry.is_file else 0
    if change.kind == "D":
        return RECORD.pack(0, size, 0, path_off, 0, 0, 0, len(entry.path), 0, leader, entry.mode, 0, 0, ord("D"), 0)
    link = entry.link or change.aux
    if len(link) > 0xFFFF:
        raise LimitError(f"{show_path(entry.path)}: link target of {len(link)} bytes is too long")
    sec, nsec = divmod(entry.mtime_ns, 10**9)
    return RECORD.pack(
        entry.ino, size, sec, path_off, nsec, entry.uid, entry.gid, len(entry.path), len(pack_xattrs(entry.xattrs)),
        leader, entry.mode, len(link), change.what, ord(change.kind), change.flags,
    )  # fmt: skip


def _variable_part(change: Change) -> bytes:
    entry = change.entry
    if change.kind == "D":
        return entry.path
    key = entry.key if change.flags & ROW_KEY and entry.key is not None else b""
    return entry.path + (entry.link or change.aux) + pack_xattrs(entry.xattrs) + key
