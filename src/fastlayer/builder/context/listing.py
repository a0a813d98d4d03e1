"""What a context sends: every path with its size, sums of directories, and what its ignore file saves."""

from __future__ import annotations

import stat
from collections.abc import Iterable, Iterator

from fastlayer._values import NamedTuple
from fastlayer.builder.context.blame import Blame
from fastlayer.builder.context.context import Context
from fastlayer.builder.context.scanning import Scan
from fastlayer.builder.context.table import FILE, Batch, Entry, kinds_of
from fastlayer.errors import StorageError

_TYPES = {
    stat.S_IFDIR: "directory",
    stat.S_IFREG: "file",
    stat.S_IFLNK: "link",
    stat.S_IFIFO: "fifo",
    stat.S_IFCHR: "device",
    stat.S_IFBLK: "device",
}


class Line(NamedTuple):
    """A path and what it holds. ``size``: bytes of regular files, each name of a hard-linked one counted, for each is
    sent; of a directory, where sums are asked for, with all that is below, ``entries`` of them with itself."""

    path: bytes
    type: str
    mode: int
    entries: int
    size: int


class Sums(NamedTuple):
    """``entries`` and ``size`` of what is sent; ``ignored_entries``, ``ignored_size`` of what the ignore file leaves
    out: -1 where that cannot be looked at; ``sockets``: never sent."""

    entries: int
    size: int
    ignored_entries: int
    ignored_size: int
    sockets: int


def lines(context: Context) -> Iterator[Line]:
    """Every path that is sent, in the order of paths."""
    for entry in context.tree.below(b""):
        yield Line(entry.path, type_of(entry), entry.mode, 1, size_of(entry))


def top_lines(context: Context) -> list[Line]:
    """What is right below the context, directories with all that is in them; the largest first."""
    found = []
    for name in context.tree.names(b""):
        entry = context.tree.find(name)
        if entry is not None:
            entries, size = 1, size_of(entry)
            for below in context.tree.below(name):
                entries, size = entries + 1, size + size_of(below)
            found.append(Line(name, type_of(entry), entry.mode, entries, size))
    return sorted(found, key=lambda line: (-line.size, line.path))


def sums(context: Context) -> Sums:
    """What it comes to; walks through the ignored part, too."""
    table = context.tree.digested.table
    entries, size = _summed(table.batches)
    ignored = (0, 0)
    if context.patterns:
        try:
            everything = _summed(Scan(context.fd, Blame(context.name)).batches())
            ignored = everything[0] - entries, everything[1] - size
        except StorageError:
            ignored = (-1, -1)
    return Sums(entries - 1, size, *ignored, context.tree.sockets)


def _summed(batches: Iterable[Batch]) -> tuple[int, int]:
    """How many entries, the root with them, and bytes of their regular files."""
    entries = size = 0
    for batch in batches:
        sizes = memoryview(batch.all_records()).cast("Q")[2::12].tolist()
        entries += batch.entries
        size += sum(length for length, kind in zip(sizes, kinds_of(batch), strict=True) if kind == FILE)
    return entries, size


def type_of(entry: Entry) -> str:
    return _TYPES.get(stat.S_IFMT(entry.mode), "other")


def size_of(entry: Entry) -> int:
    return entry.size if stat.S_ISREG(entry.mode) else 0
