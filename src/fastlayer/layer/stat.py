"""What a diff amounts to: totals per kind, and how much of the modified files really changed."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from fastlayer.errors import StorageError

if TYPE_CHECKING:
    import numpy as np

    from fastlayer.layer.diff import Change, Changes


class KindStat(NamedTuple):
    """``files`` of the ``entries`` are regular, with ``bytes`` of content (of a deletion A's; hard links once)."""

    entries: int = 0
    files: int = 0
    bytes: int = 0


class DiffStat(NamedTuple):
    """Totals per kind (``A``, ``C``, ``D``), and of the regular files that exist on both sides and differ in content:

    how many, their bytes in B, and ``changed_bytes``: those of them in chunks (content-defined) that A's file has not.
    """

    kinds: dict[str, KindStat]
    modified_files: int
    modified_bytes: int
    changed_bytes: int

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "kinds": {kind: found._asdict() for kind, found in self.kinds.items()},
            "modified_files": self.modified_files,
            "modified_bytes": self.modified_bytes,
            "changed_bytes": self.changed_bytes,
        }


def diff_stat(changes: Changes, old_roots: Sequence[int], new_root: int | None) -> DiffStat:
    """Reads the modified files of both sides, where both are directories; elsewhere all of a modified file counts."""
    kinds = {kind: KindStat() for kind in "ACD"}
    files = modified = really = 0
    for change in changes:
        kinds[change.kind] = _count(kinds[change.kind], change)
        if change.kind == "C" and change.type == "file" and "content" in change.what and change.hardlink is None:
            files += 1
            modified += change.size
            really += _changed_bytes(change, old_roots, new_root)
    return DiffStat(kinds, files, modified, really)


def _count(so_far: KindStat, change: Change) -> KindStat:
    is_file = change.type == "file"
    size = change.size if is_file and change.hardlink is None else 0
    return KindStat(so_far.entries + 1, so_far.files + is_file, so_far.bytes + size)


def _changed_bytes(change: Change, old_roots: Iterable[int], new_root: int | None) -> int:
    from fastlayer.layer.chunks import changed_bytes
    from fastlayer.layer.keys import open_file

    if new_root is None:
        return change.size
    for root in old_roots:
        try:
            old = open_file(root, change.path)
        except OSError:
            continue
        try:
            if not stat.S_ISREG(os.fstat(old).st_mode):
                return change.size
            return _compare(old, new_root, change.path, open_file, changed_bytes)
        finally:
            os.close(old)
    return change.size


def _compare(old: int, new_root: int, path: bytes, open_file: Any, changed_bytes: Any) -> int:
    try:
        new = open_file(new_root, path)
    except OSError as exc:
        raise StorageError(exc.errno or 0, "open", path) from exc
    try:
        return int(changed_bytes(old, new))
    finally:
        os.close(new)


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
