"""``cache import``: cache mounts as an archive has them, made beside what there is, which then gives way.

A file that is there already, at its path, is the same file afterwards: it gets another name in the new directory. Where
only its attributes are others its data is shared by reflink, or copied: the old directory stays what it is.
Everything is made in a directory that nobody else can reach, and only below directories that were made there, so no
name and no link can lead out of it; it takes the place of the old one when it is complete.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from fastlayer._values import NamedTuple
from fastlayer.builder import cachemounts
from fastlayer.builder.mountarchive.entries import Entry, from_lines
from fastlayer.builder.mountarchive.index import Mount
from fastlayer.builder.mountarchive.pack import Chunk, unpacked
from fastlayer.builder.mountarchive.place import Placing
from fastlayer.builder.mountarchive.present import Present
from fastlayer.errors import LayerFormatError, NoSpaceError, NotFoundError
from fastlayer.store.collect import work_place

if TYPE_CHECKING:
    from fastlayer.builder.cachemounts import CacheMount
    from fastlayer.builder.mountarchive.places import Source
    from fastlayer.store.store import Store

_ENOSPC = 28


class Imported(NamedTuple):
    """``files``: entries, ``kept``: files that were there, ``bytes``: of data that was written; ``refused``: owners,
    attributes and devices that the system did not let us set."""

    id: str
    files: int
    kept: int
    bytes: int
    refused: int


def import_mounts(
    store: Store,
    source: Source,
    *,
    ids: Sequence[str] = (),
    jobs: int | None = None,
    check: Callable[[], None] = lambda: None,
    waiting: Callable[[str], None] = lambda _: None,
) -> list[Imported]:
    """Takes the cache mounts of ``ids``, or all, from an archive. Those of the store with these ids become what it has.

    Waits until no step has a mount. Raises ``NotFoundError``, ``CorruptStoreError``, ``LayerFormatError``,
    ``UnsafeEntryError``, ``StorageError``; each mount is the old one then, or the new one.
    """
    for identity in ids:
        if identity not in source.mounts:
            raise NotFoundError(f"{source.name}: has no cache mount with the id {identity}")
    done = []
    with store.lease("cache import") as lease:
        place = work_place(store.root) / lease.id
        place.mkdir(parents=True, mode=0o700)
        try:
            for identity in dict.fromkeys(ids) or sorted(source.mounts):
                work = _Import(store, source, source.mounts[identity], place, jobs, check)
                with cachemounts.alone(store, identity, check, partial(waiting, identity)) as old:
                    done.append(work.run(old))
        finally:
            cachemounts.clear(place)
    return done


class _Import:
    def __init__(
        self, store: Store, source: Source, mount: Mount, place: Path, jobs: int | None, check: Callable[[], None]
    ) -> None:
        self._store = store
        self._source = source
        self._mount = mount
        self._place = place
        self._jobs = jobs
        self._check = check

    def run(self, old: CacheMount | None) -> Imported:
        fresh = self._place / "mount"
        cachemounts.make_empty(fresh)
        with Present(cachemounts.data_of(self._store, old) if old is not None else None) as present:
            entries, kept = self._plan(present)
            self._check_room(entries, kept)
            placing = Placing(cachemounts.data_in(fresh), present)
            try:
                self._fill(placing, entries, kept)
            finally:
                placing.close()
        used_ns = min(self._mount.used_ns, time.time_ns())
        cachemounts.replace(self._store, self._mount.id, fresh, old, used_ns=used_ns)
        cachemounts.remove_others(self._store, self._mount.id)
        return Imported(self._mount.id, len(entries), len(kept), placing.written, placing.refused)

    def _plan(self, present: Present) -> tuple[list[Entry], set[bytes]]:
        """What there is to be made, and which files are there."""
        self._source.expect(chunk.id for chunk in self._mount.lines)
        lines = unpacked(self._mount.lines, self._source.get, self._jobs)
        entries: list[Entry] = []
        kept: set[bytes] = set()
        for entry in from_lines(lines, f"{self._source.name}: {self._mount.id}"):
            if not len(entries) % 256:
                self._check()
            entries.append(entry)
            if entry.type == "f" and entry.size and present.has(entry):
                kept.add(entry.path)
        if sum(entry.stored for entry in entries) != self._mount.size:
            raise LayerFormatError(f"{self._source.name}: {self._mount.id}: has more or less data than its files need")
        return entries, kept

    def _check_room(self, entries: Sequence[Entry], kept: set[bytes]) -> None:
        """An archive may say the same chunk a million times."""
        needed = sum(entry.stored for entry in entries if entry.path not in kept)
        free = os.statvfs(self._place)
        if needed > free.f_bavail * free.f_frsize:
            raise NoSpaceError(_ENOSPC, f"{self._mount.id} needs {needed} bytes", os.fspath(self._store.root))

    def _fill(self, placing: Placing, entries: Sequence[Entry], kept: set[bytes]) -> None:
        reader = _Reader(self._source, self._mount.data, entries, kept, self._jobs)
        for number, entry in enumerate(entries):
            if not number % 256:
                self._check()
            if entry.type == "f" and entry.path not in kept:
                placing.file(entry, reader.pieces(entry))
            elif entry.type == "f":
                placing.kept(entry)
            else:
                placing.other(entry)
            if entry.path in kept:
                reader.skip(entry)
        placing.finish(entries)


class _Reader:
    """The data of files, in order; chunks that hold none that is asked for are not even read."""

    def __init__(
        self, source: Source, chunks: Sequence[Chunk], entries: Sequence[Entry], kept: set[bytes], jobs: int | None
    ) -> None:
        starts = [0]
        for chunk in chunks:
            starts.append(starts[-1] + chunk.size)
        needed = _needed(starts, entries, kept)
        self._starts = [starts[number] for number in needed]
        source.expect(chunks[number].id for number in needed)
        self._chunks = unpacked([chunks[number] for number in needed], source.get, jobs)
        self._next = 0  # number of the next chunk among those that are needed
        self._data = memoryview(b"")
        self._base = 0  # offset of that in the stream
        self._at = 0  # offset of the next file

    def skip(self, entry: Entry) -> None:
        """The data of this file is not wanted."""
        self._at += entry.stored

    def pieces(self, entry: Entry) -> Iterator[memoryview]:
        """The data of this file; all of it has to be taken."""
        end = self._at + entry.stored
        while self._at < end:
            if self._at >= self._base + len(self._data):
                self._data = memoryview(next(self._chunks))
                self._base = self._starts[self._next]
                self._next += 1
            start = self._at - self._base
            piece = self._data[start : start + end - self._at]
            self._at += len(piece)
            yield piece


def _needed(starts: Sequence[int], entries: Sequence[Entry], kept: set[bytes]) -> list[int]:
    """The numbers of the chunks that hold data of files that are not there."""
    found: list[int] = []
    at = number = 0
    for entry in entries:
        end = at + entry.stored
        if entry.path not in kept:
            while at < end:
                while starts[number + 1] <= at:
                    number += 1
                if not found or found[-1] != number:
                    found.append(number)
                at = min(end, starts[number + 1])
        at = end
    return found
