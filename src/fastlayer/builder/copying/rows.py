"""From what is copied, and where to, to the rows of a layer (BuildKit: fsutil copy).

Files take the place of files and links. Directories are merged: those that are copied give theirs their attributes,
except the one whose content is copied: the target keeps its own, and takes its time. A file over a directory, or the
other way round, is refused.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator, Sequence
from typing import NoReturn

from fastlayer._values import NamedTuple
from fastlayer.builder.copying.filter import Chosen
from fastlayer.builder.copying.folder import Folder
from fastlayer.builder.copying.ownership import ROOT, Mode, Owner
from fastlayer.builder.copying.sources import Pick, Selection
from fastlayer.builder.copying.target import NOTHING, Fact, Overlap, Target, what
from fastlayer.builder.copying.trees import Entry, Found, Xattrs, join, parent
from fastlayer.errors import DockerfileError, show_path

# kind, path, mode, uid, gid, size, mtime_ns, rdev, link, xattrs, root, source, ctime_ns, group
Row = tuple[str, bytes, int, int, int, int, int, tuple[int, int], bytes, Xattrs, int, bytes, int, int]

BATCH = 4096  # rows
_FEW = 16  # files, for which one does not read a whole directory
_MADE = stat.S_IFDIR | 0o755


class Part(NamedTuple):
    """What is copied from one tree. ``root``: the number of its descriptor; ``keep_owner``: as it is there, else 0:0;
    ``replace``: it was an archive: whatever is in the way goes, and directories that are links are entered."""

    selection: Selection
    root: int = 0
    keep_owner: bool = False
    mode: Mode | None = None
    replace: bool = False


class _Step(NamedTuple):
    part: Part
    pick: Pick
    path: bytes
    overlap: Overlap


class Copying:
    """One COPY or ADD, planned: everything it asks of the tree below has been asked.

    ``owner``: of ``--chown``; ``created_ns``: the time of directories that are made. ``facts``: see ``Target.facts``.
    Raises ``DockerfileError`` when things cannot be put there.
    """

    def __init__(self, target: Target, parts: Sequence[Part], *, owner: Owner | None = None, created_ns: int) -> None:
        self._target = target
        self._owner = owner
        self._created_ns = created_ns
        self._at_target = "directory" if target.is_directory else "other" if target.entry is not None else "nothing"
        self._target_time: int | None = None
        self.sockets = 0  # that were left out; complete when the rows were read
        self._count = sum(len(part.selection.picks) for part in parts)
        self._steps = [self._step(part, pick) for part in parts for pick in part.selection.picks]
        entry = target.entry
        if self._steps and target.is_directory and entry is not None:
            target.depends(entry if self._target_time is None else _at(entry, 0))
        self.facts: tuple[Fact, ...] = (*target.facts, ("owner", owner))

    @property
    def meets(self) -> bool:
        """Whether something of it may be there already, just the same: then the layer says it again."""
        target = self._target
        if target.unknown or any(step.overlap.known for step in self._steps):
            return True
        time = self._created_ns if self._target_time is None else min(self._target_time, self._created_ns)
        if target.entry is not None and (not target.is_directory or target.entry.mtime_ns == time):
            return True
        return any(not step.pick.is_directory and target.find(step.path) is not None for step in self._steps)

    # ---- planning ------------------------------------------------------------------------------

    def _step(self, part: Part, pick: Pick) -> _Step:
        if pick.is_directory:
            return self._directory_step(part, pick)
        if self._target.wanted or self._at_target == "directory":
            self._at_target = "directory"
            path = join(self._target.path, pick.name)
            if self._is_directory(pick.name):
                _refuse(pick, pick.entry, path, Found(path, stat.S_IFDIR))
            return _Step(part, pick, path, NOTHING)
        if self._at_target == "file":
            raise DockerfileError(
                f"several files are copied to /{show_path(self._target.path)}, which is no directory: "
                "end the target with a slash"
            )
        self._at_target = "file"
        return _Step(part, pick, self._target.path, NOTHING)

    def _is_directory(self, name: bytes) -> bool:
        """Whether a file that goes into the target meets a directory."""
        if self._count > _FEW:
            return self._target.has_directory(self._target.path, name)
        lower = self._target.find(join(self._target.path, name))
        return lower is not None and stat.S_ISDIR(lower.mode)

    def _directory_step(self, part: Part, pick: Pick) -> _Step:
        target = self._target
        if self._at_target in ("other", "file"):
            entry = what(target.entry) if target.entry is not None else "is a file"
            raise DockerfileError(f"cannot copy a directory to /{show_path(target.path)}, which {entry}")
        self._at_target = "directory"
        if not part.replace:
            self._target_time = pick.entry.mtime_ns
        overlap = NOTHING
        if target.is_directory:
            overlap = target.overlap(part.selection.tree, pick.path, target.path, replace=part.replace)
        return _Step(part, pick, target.path, overlap)

    # ---- rows ----------------------------------------------------------------------------------

    def rows(self) -> Iterator[list[Row]]:
        """In batches, in no order, each path once. Rows of kind P repeat directories that are there; sockets, which no
        layer can hold, are left out."""
        batch: list[Row] = []
        for row in self._all():
            batch.append(row)
            if len(batch) == BATCH:
                yield batch
                batch = []
        if batch:
            yield batch

    def _all(self) -> Iterator[Row]:
        """Only what a later step could change is held back."""
        if not self._steps:
            return
        yield from self._above()
        held: dict[bytes, Row] = {}
        groups: dict[tuple[int, int, int], Row] = {}
        self.sockets = 0
        for number, step in enumerate(self._steps):
            held.update(_on_the_way(step.overlap))
            is_last = number == len(self._steps) - 1 and not step.overlap.moved
            if is_last and not held and not step.overlap.known and step.pick.is_directory:
                yield from self._onto_nothing(step, groups, number)
                return
            for new, entry in self._of_step(step, held):
                row = _grouped(new, entry, groups, number)
                held.pop(row[1], None)
                if is_last:
                    yield row
                else:
                    held[row[1]] = row
        yield from held.values()

    def _above(self) -> Iterator[Row]:
        """The target's parents, and itself when it is a directory."""
        uid, gid = self._owner or ROOT
        for path, entry in self._target.parents:
            yield _kept(entry) if entry is not None else _made(path, uid, gid, self._created_ns)
        path, entry = self._target.path, self._target.entry
        if not path or self._at_target != "directory":
            return
        if entry is None:
            yield _made(path, uid, gid, self._created_ns if self._target_time is None else self._target_time)
        elif self._target_time is None:
            yield _kept(entry)
        else:
            yield _kept(_at(entry, self._target_time), "A")

    def _onto_nothing(self, step: _Step, groups: dict[tuple[int, int, int], Row], number: int) -> Iterator[Row]:
        """The usual case, of which there may be very many."""
        part, pick = step.part, step.pick
        if pick.filter is not None:
            found = ((chosen.relative, chosen.entry) for chosen in part.selection.below(pick))
        else:
            start = len(pick.path) + 1 if pick.path else 0
            found = ((entry.path[start:], entry) for entry in part.selection.tree.below(pick.path))
        base = step.path + b"/" if step.path else b""
        for relative, entry in found:
            row = self._new(part, entry, base + relative)
            if row is not None:
                yield row if entry.nlink < 2 else _grouped(row, entry, groups, number)

    def _of_step(self, step: _Step, held: dict[bytes, Row]) -> Iterator[tuple[Row, Entry]]:
        moved = step.overlap.moved
        if not step.pick.is_directory:
            yield from self._one(step, Chosen(b"", step.pick.entry, False), step.path, held)
            return
        for chosen in step.part.selection.below(step.pick):
            path = join(step.path, chosen.relative)
            if moved:
                path = _moved(path, moved)
            yield from self._one(step, chosen, path, held)

    def _one(self, step: _Step, chosen: Chosen, path: bytes, held: dict[bytes, Row]) -> Iterator[tuple[Row, Entry]]:
        """What comes of one entry where something may be already."""
        row = self._new(step.part, chosen.entry, path)
        if row is None:
            return
        earlier = held.get(path)
        there = _standing(earlier) if earlier is not None else step.overlap.known.get(path)
        if there is None:
            yield row, chosen.entry
            return
        entry = chosen.entry
        is_directory, was_directory = stat.S_ISDIR(entry.mode), stat.S_ISDIR(there.mode)
        if is_directory != was_directory and (not step.part.replace or (earlier is not None and was_directory)):
            _refuse(step.pick, entry, path, there)
        if not (is_directory and was_directory):
            yield row, entry
        elif chosen.implied:
            kind = "A" if earlier is not None or there.mode != entry.mode else "P"
            yield _kept(_with_mode(there, entry.mode), kind), entry
        elif step.part.replace and _is_implied(step.part, entry):
            yield earlier or _kept(there), entry
        else:
            yield (*row[:9], _united(there.xattrs, row[9]), *row[10:]), entry

    def _new(self, part: Part, entry: Entry, path: bytes) -> Row | None:
        """The row of an entry that meets nothing."""
        mode = entry.mode
        if stat.S_ISSOCK(mode):
            self.sockets += 1
            return None
        if b".wh." in path and any(name.startswith(b".wh.") for name in path.split(b"/")):
            raise DockerfileError(
                f"/{show_path(path)}: names that begin with .wh. mean deletions in a layer: rename it or exclude it"
            )
        uid, gid = self._owner_of(part, entry)
        if part.mode is not None:
            mode = part.mode.apply(mode)
        if stat.S_ISREG(mode):
            return (
                "A", path, mode, uid, gid, entry.size, entry.mtime_ns, (0, 0), b"", entry.xattrs,
                part.root, entry.path, entry.ctime_ns, 0,
            )  # fmt: skip
        return (
            "A", path, mode, uid, gid, 0, entry.mtime_ns, entry.rdev, entry.link, entry.xattrs, part.root, b"", 0, 0,
        )  # fmt: skip

    def _owner_of(self, part: Part, entry: Entry) -> tuple[int, int]:
        if part.replace and stat.S_ISDIR(entry.mode) and _is_implied(part, entry):
            return ROOT
        return self._owner or ((entry.uid, entry.gid) if part.keep_owner else ROOT)


def _grouped(row: Row, entry: Entry, groups: dict[tuple[int, int, int], Row], step: int) -> Row:
    """Names of the same file that are copied together stay names of one file, whose bytes are at the first of them."""
    if entry.nlink < 2 or not stat.S_ISREG(entry.mode):
        return row
    key = (step, entry.dev, entry.ino)
    if key not in groups:
        groups[key] = (*row[:13], len(groups) + 1)
    return (row[0], row[1], *groups[key][2:])


def _made(path: bytes, uid: int, gid: int, mtime_ns: int) -> Row:
    return ("A", path, _MADE, uid, gid, 0, mtime_ns, (0, 0), b"", (), 0, b"", 0, 0)


def _kept(entry: Entry, kind: str = "P") -> Row:
    """A directory of the lower tree."""
    return (
        kind, entry.path, entry.mode, entry.uid, entry.gid, 0, entry.mtime_ns, (0, 0), b"", entry.xattrs, 0, b"", 0, 0,
    )  # fmt: skip


def _at(entry: Entry, mtime_ns: int) -> Found:
    return Found(entry.path, entry.mode, entry.uid, entry.gid, mtime_ns=mtime_ns, xattrs=entry.xattrs)


def _with_mode(entry: Entry, mode: int) -> Found:
    return Found(entry.path, mode, entry.uid, entry.gid, mtime_ns=entry.mtime_ns, xattrs=entry.xattrs)


def _standing(row: Row) -> Found:
    return Found(row[1], row[2], row[3], row[4], mtime_ns=row[6], link=row[8], xattrs=row[9])


def _united(below: Xattrs, above: Xattrs) -> Xattrs:
    return tuple(sorted({**dict(below), **dict(above)}.items())) if below else above


def _is_implied(part: Part, entry: Entry) -> bool:
    """Whether no entry of the archive speaks of the directory."""
    tree = part.selection.tree
    return isinstance(tree, Folder) and tree.explicit is not None and entry.path not in tree.explicit


def _on_the_way(overlap: Overlap) -> Iterator[tuple[bytes, Row]]:
    """The directories that lead to those that links were resolved to."""
    for real in overlap.moved.values():
        path = parent(real)
        while path:
            if path in overlap.known:
                yield path, _kept(overlap.known[path])
            path = parent(path)


def _moved(path: bytes, moved: dict[bytes, bytes]) -> bytes:
    above = path
    while above:
        if above in moved:
            return moved[above] + path[len(above) :]
        above = parent(above)
    return path


def _refuse(pick: Pick, entry: Entry, path: bytes, there: Entry) -> NoReturn:
    source = show_path(entry.path or pick.path)
    if stat.S_ISDIR(there.mode):
        raise DockerfileError(f"cannot replace the directory /{show_path(path)} with /{source}, which {what(entry)}")
    raise DockerfileError(f"cannot copy the directory /{source} to /{show_path(path)}, which {what(there)}")
