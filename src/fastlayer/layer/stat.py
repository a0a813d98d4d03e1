"""What a diff amounts to: totals per kind, and how much of the modified files really changed."""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from fastlayer import _backend
from fastlayer._values import NamedTuple
from fastlayer.errors import StorageError

if TYPE_CHECKING:
    import numpy as np

    from fastlayer.layer.places import Place, Records


class KindStat(NamedTuple):
    """``files`` of the ``entries`` are regular, with ``bytes`` of content (of a deletion A's; hard links once)."""

    entries: int = 0
    files: int = 0
    bytes: int = 0


class DiffStat(NamedTuple):
    """Totals per kind (``A``, ``C``, ``D``), and of the regular files that exist on both sides and differ in content:

    how many, their bytes in B, and ``changed_bytes``: those of them in chunks (content-defined) that A's file has not;
    None when it cannot be known, because an operand is a saved index, which has no contents.
    """

    kinds: dict[str, KindStat]
    modified_files: int
    modified_bytes: int
    changed_bytes: int | None

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "kinds": {kind: found._asdict() for kind, found in self.kinds.items()},
            "modified_files": self.modified_files,
            "modified_bytes": self.modified_bytes,
            "changed_bytes": self.changed_bytes,
        }


class ModifiedFile(NamedTuple):
    """A regular file that exists on both sides and differs in content. ``size``: in B.

    ``ranges``: where it is new, as (offset, length): chunks (content-defined) that A's file has not; None when that
    cannot be known, because an operand is a saved index.
    """

    path: bytes
    size: int
    ranges: tuple[tuple[int, int], ...] | None

    @property
    def changed(self) -> int | None:
        """Bytes of all ranges."""
        return None if self.ranges is None else sum(length for _, length in self.ranges)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "path": "/" + self.path.decode("utf-8", "surrogateescape"),
            "size": self.size,
            "changed_bytes": self.changed,
            "ranges": None if self.ranges is None else [list(found) for found in self.ranges],
        }


def diff_stat(
    table: _backend.ChangeTable, old: Callable[[bytes], Place | None], roots: Callable[[], Sequence[int]]
) -> DiffStat:
    """Reads the modified files of both sides, as ``modified_files`` does."""
    kinds = {kind: KindStat() for kind in "ACD"}
    modified = _Modified(table, old, roots)
    files = total = 0
    changed: int | None = 0
    for number, row in enumerate(_backend.iter_rows(table)):
        if row.kind == "P":
            continue
        kinds[row.kind] = _count(kinds[row.kind], row)
        if modified.counts(number, row):
            files, total = files + 1, total + row.size
            if changed is not None:  # once unknown, the others need not be read
                really = modified.file(number, row).changed
                changed = None if really is None else changed + really
    return DiffStat(kinds, files, total, changed)


def modified_files(
    table: _backend.ChangeTable, old: Callable[[bytes], Place | None], roots: Callable[[], Sequence[int]]
) -> Iterator[ModifiedFile]:
    """Each with where it changed; one of several names once. Reads both sides.

    ``old`` finds A's file; ``roots`` are those of the encoder, none if B has no contents, asked for when needed.
    """
    modified = _Modified(table, old, roots)
    for number, row in enumerate(_backend.iter_rows(table)):
        if modified.counts(number, row):
            yield modified.file(number, row)


def _count(so_far: KindStat, row: _backend.Row) -> KindStat:
    is_file = stat.S_ISREG(row.mode)
    size = row.size if is_file and row.leader is None else 0
    return KindStat(so_far.entries + 1, so_far.files + is_file, so_far.bytes + size)


def _is_modified(row: _backend.Row) -> bool:
    return row.kind == "C" and stat.S_ISREG(row.mode) and bool(row.what & _backend.CONTENT)


class _Modified:
    """The modified regular files; one of several names counts once."""

    def __init__(
        self,
        table: _backend.ChangeTable,
        old: Callable[[bytes], Place | None],
        roots: Callable[[], Sequence[int]],
    ) -> None:
        self._table = table
        self._old = old
        self._roots = roots
        self._groups: set[int] = set()  # led by a name that is not modified itself, but new

    def counts(self, number: int, row: _backend.Row) -> bool:
        return _is_modified(row) and (row.leader is None or not self._is_counted(number))

    def file(self, number: int, row: _backend.Row) -> ModifiedFile:
        return ModifiedFile(row.path, row.size, self._ranges(number, row) if row.size else ())

    def _is_counted(self, number: int) -> bool:
        """By an earlier name of the same file."""
        leader = self._records[number].leader
        if leader in self._groups or _is_modified(self._table.row(leader)):
            return True
        self._groups.add(leader)
        return False

    @cached_property
    def _records(self) -> Records:
        from fastlayer.layer.places import Records

        return Records(self._table)

    def _ranges(self, number: int, row: _backend.Row) -> tuple[tuple[int, int], ...] | None:
        from fastlayer.layer.chunks import changed_ranges
        from fastlayer.layer.places import opened

        roots = self._roots()
        before = self._old(row.path)
        if not roots or before is None:
            return None
        after = self._records.place(self._records[number], roots)
        try:
            with opened(before, row.path) as a, opened(after, row.path, row.size) as b:
                return tuple(changed_ranges(a, b))
        except OSError as exc:
            raise exc if isinstance(exc, StorageError) else StorageError(exc.errno or 0, "read", row.path) from exc


def row_dtype() -> np.dtype[Any]:
    """``struct fl_row`` of csrc/fl_entry.h."""
    import numpy as np

    return np.dtype(
        [
            ("ino", "u8"),
            ("size", "u8"),
            ("mtime_sec", "i8"),
            ("path_off", "u8"),
            ("mtime_nsec", "u4"),
            ("uid", "u4"),
            ("gid", "u4"),
            ("path_len", "u4"),
            ("xattr_len", "u4"),
            ("leader", "u4"),
            ("mode", "u2"),
            ("link_len", "u2"),
            ("what", "u2"),
            ("kind", "S1"),
            ("flags", "u1"),
        ]
    )
