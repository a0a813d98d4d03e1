"""A change table of rows that somebody lists: contract in ``fastlayer._backend.TableBuilder``."""

from __future__ import annotations

import stat
import struct
from collections.abc import Iterable
from typing import Any

from fastlayer._baseline.table import AUX_DATED, AUX_OFFSET, AUX_PATH, ROW_AUX, ROW_GROUP, Change, ChangeTable
from fastlayer._baseline.tree import Entry, parent_of
from fastlayer.errors import UsageError, show_path

_NAME_MAX, _ID_MAX, _SIZE_MAX, _XATTRS_MAX = 255, 2**32 - 2, 2**63 - 1, 64 << 20
_RDEV_MAX = (4095, 1048575)
_TYPES = (stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO)


class TableBuilder:
    """See ``fastlayer._backend.TableBuilder``."""

    def __init__(self) -> None:
        self._changes: list[tuple[Change, int]] = []
        self._ended = False

    def add(self, rows: Iterable[tuple[Any, ...]]) -> None:
        self._check()
        self._ended = True  # until all were taken
        for row in rows:
            try:
                change = _change(*row)
            except (struct.error, OverflowError, TypeError, ValueError, IndexError, AttributeError) as exc:
                raise UsageError(f"{row!r:.200} is no row of a table: {exc}") from exc
            self._changes.append((change, row[-1]))
        self._ended = False

    def finish(self) -> ChangeTable:
        self._check()
        self._ended = True
        self._changes.sort(key=lambda pair: pair[0].path)
        leaders: dict[int, Change] = {}
        last = None
        for change, group in self._changes:
            if change.path == last:
                raise _refused(change.path, "the path has two rows")
            last = change.path
            if change.flags & ROW_GROUP and change.kind in ("A", "C") and leaders.setdefault(group, change) != change:
                change.leader = leaders[group]
        self._refuse_below_files()
        return ChangeTable([change for change, _ in self._changes])

    def _refuse_below_files(self) -> None:
        files = {change.path for change, _ in self._changes if change.kind != "D" and not change.entry.is_dir}
        for change, _ in self._changes:
            above = parent_of(change.path)
            while above:
                if above in files:
                    raise _refused(change.path, "a row below what is no directory")
                above = parent_of(above)

    def _check(self) -> None:
        if self._ended:
            raise UsageError("the table is finished, or has failed")


def _is_plain(path: bytes) -> bool:
    parts = path.split(b"/")
    return b"\0" not in path and all(0 < len(part) <= _NAME_MAX and part not in (b".", b"..") for part in parts)


def _refused(path: bytes, why: str) -> UsageError:
    return UsageError(f"{show_path(path)}: {why}")


def _change(
    kind: str,
    path: bytes,
    mode: int,
    uid: int,
    gid: int,
    size: int,
    mtime_ns: int,
    rdev: tuple[int, int],
    link: bytes,
    xattrs: tuple[tuple[bytes, bytes], ...],
    root: int,
    source: bytes | int,
    ctime_ns: int,
    group: int,
) -> Change:
    is_file = stat.S_ISREG(mode)
    entry = Entry(
        path, mode, uid, gid, size if is_file else len(link), mtime_ns, 0, 0, 0, 0, rdev, link, tuple(xattrs)
    )  # fmt: skip
    _check_entry(kind, entry)
    if kind == "D":
        return Change(kind, entry)
    _check_content(path, size if is_file else 0, root, source)
    change = Change(kind, entry, flags=ROW_GROUP if group and not entry.is_dir else 0)
    if is_file and size:
        change.aux = _aux(root, source, ctime_ns)
        change.flags |= ROW_AUX
    return change


def _check_entry(kind: str, entry: Entry) -> None:
    path = entry.path
    if kind not in ("A", "C", "D", "P"):
        raise _refused(path, "the kind of a row is none of A, C, D and P")
    if path and not _is_plain(path):
        raise _refused(path, "the path of a row is not made of plain names")
    if kind == "D":
        if not path or not 0 <= entry.mode < 1 << 16:
            raise _refused(path, "the root cannot be deleted")
        return
    _check_type(kind, entry)
    _check_numbers(entry)
    _check_xattrs(entry)


def _check_type(kind: str, entry: Entry) -> None:
    is_link = stat.S_ISLNK(entry.mode)
    if not 0 <= entry.mode < 1 << 16 or entry.type not in _TYPES:
        raise _refused(entry.path, "the mode of a row has no type that a layer can have")
    if not entry.is_dir and (not entry.path or kind == "P"):
        raise _refused(entry.path, "the root, and a row of kind P, must be a directory")
    if is_link and (not entry.link or b"\0" in entry.link):
        raise _refused(entry.path, "a symbolic link needs a target, without NUL")
    if not is_link and entry.link:
        raise _refused(entry.path, "a target of what is no symbolic link")


def _check_numbers(entry: Entry) -> None:
    if not (0 <= entry.uid <= _ID_MAX and 0 <= entry.gid <= _ID_MAX):
        raise _refused(entry.path, "an owner that is no id: 0 to 4294967294 are")
    if not 0 <= entry.size <= _SIZE_MAX:
        raise _refused(entry.path, "a size or a time that no file can have")
    if not -(1 << 63) <= entry.mtime_ns // 10**9 < 1 << 63:
        raise _refused(entry.path, "a size or a time that no file can have")
    if not (0 <= entry.rdev[0] <= _RDEV_MAX[0] and 0 <= entry.rdev[1] <= _RDEV_MAX[1]):
        raise _refused(entry.path, "device numbers that no layer can have")


def _check_xattrs(entry: Entry) -> None:
    names = [name for name, _ in entry.xattrs]
    if any(not 0 < len(name) <= _NAME_MAX or b"\0" in name for name in names):
        raise _refused(entry.path, "an extended attribute that no file can have")
    if sum(6 + len(name) + len(value) for name, value in entry.xattrs) > _XATTRS_MAX:
        raise _refused(entry.path, "an extended attribute that no file can have")
    if names != sorted(set(names)):
        raise _refused(entry.path, "extended attributes must be sorted by name")


def _check_content(path: bytes, size: int, root: int, source: bytes | int) -> None:
    if not isinstance(source, bytes) and root > 255:
        raise _refused(path, "bytes at an offset must be in one of the first 256 roots")
    if root > 0xFFFF:
        raise _refused(path, "more than 65536 roots")
    if size and isinstance(source, bytes) and not _is_plain(source):
        raise _refused(path, "the source of a row is not made of plain names")


def _aux(root: int, source: bytes | int, ctime_ns: int) -> bytes:
    """Where the bytes are (csrc/fl_entry.h)."""
    if not isinstance(source, bytes):
        return AUX_OFFSET.pack(b"O", root, source)
    if ctime_ns:
        return AUX_DATED.pack(b"F", root, ctime_ns % (1 << 64)) + source
    return AUX_PATH.pack(b"P", root) + source
