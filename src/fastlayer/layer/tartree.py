"""A stack of layer tars as one tree: what ``apply`` would make of it, without making it.

Layers are read once, lowest first, and merged by the engine, which keeps names and attributes as flat records. The
result goes into columns in path order (``columns``), whose memory is a mapped temporary file when they are large.
File contents pass by; their blake3 keys stay. When this tree is B of a layer, the contents come from the tar
itself (a single uncompressed one) or from a spool, an unlinked temporary file, filled at once for a stream and in a
second reading for a file.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from fastlayer import _backend
from fastlayer.errors import FastlayerError, FileChangedError, LayerError
from fastlayer.layer.columns import Spool, open_spool, write_at
from fastlayer.layer.decompress import Lookahead
from fastlayer.layer.expand import Expansion
from fastlayer.layer.limits import Limits
from fastlayer.layer.progress import Reporter
from fastlayer.layer.reading import open_quietly
from fastlayer.layer.source import Source, is_stream, named

if TYPE_CHECKING:
    from fastlayer._backend import Merger

_ZEROS = bytes(1 << 16)
# bytes of an item of each column, in the order of Columns; then keys and places of the bytes of files
_SIZES = (8, 8, 8, 8, 8, 8, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 32, 8)


# ---- contents --------------------------------------------------------------------------------------


class _Contents:
    """Follows the data of files as it goes by: their keys, and their place in the spool."""

    def __init__(self, *, keys: bool, spool: int | None) -> None:
        self.wanted = keys or spool is not None
        self._keys = keys
        self._spool = spool
        self._number = self._size = self._offset = 0  # of the file that goes by
        self._hasher: Any = None
        self._at = 0

    def take(self, merger: Merger, events: list[tuple[Any, ...]], view: memoryview) -> None:
        for event in events:
            if event[0] == "data":
                self._data(view[event[1] : event[2]], event[3])
            elif event[0] == "file":
                self._begin(*event[1:])
            else:
                self._end(merger)

    def _begin(self, number: int, size: int, offset: int) -> None:
        self._number, self._size, self._offset, self._at = number, size, offset, 0
        if self._keys:
            import blake3

            self._hasher = blake3.blake3()

    def _data(self, piece: memoryview, pos: int) -> None:
        if self._hasher is not None:
            self._zeros(pos)
            self._hasher.update(piece)
            self._at = pos + len(piece)
        if self._spool is not None:
            write_at(self._spool, piece, self._offset + pos)

    def _end(self, merger: Merger) -> None:
        if self._hasher is not None:
            self._zeros(self._size)
            merger.set_key(self._number, self._hasher.digest())

    def finish(self, merger: Merger) -> None:
        if self._spool is not None:
            os.ftruncate(self._spool, merger.size)

    def _zeros(self, until: int) -> None:
        while self._at < until:
            step = min(until - self._at, len(_ZEROS))
            self._hasher.update(_ZEROS[:step])
            self._at += step


# ---- reading -----------------------------------------------------------------------------------------


class TarTree:
    """A stack that has been read. ``columns`` for a differ, ``contents()`` for an encoder; ``close`` when done.

    ``relax()`` gives memory of the columns back that a reader is done with.
    """

    def __init__(
        self, name: str, columns: _backend.Columns, relax: Callable[[], object], open_contents: Callable[[], int]
    ) -> None:
        self.name = name
        self.columns = columns
        self.relax = relax
        self._open_contents = open_contents
        self._fd = -1

    def contents(self) -> int:
        """A descriptor of the file that ``columns.data_off`` points into."""
        if self._fd < 0:
            self._fd = self._open_contents()
        return self._fd

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class _NotInPlace(Exception):
    """A tar that was to be read in place has a file that is not stored as it is."""


def read_stack(
    values: Sequence[Any], *, contents: bool, keys: bool, limits: Limits, report: Reporter, jobs: int
) -> TarTree:
    """Reads layers, lowest first: paths, descriptors or file objects.

    ``contents``: they will be needed, so fill a spool in the same reading if one is needed. ``keys``: hash the files.
    Raises what a damaged or unsafe layer raises, with its name.
    """
    reading = _Reading(values, limits, report, jobs)
    again = all(_can_be_read_again(value) for value in values)
    single = len(values) == 1 and again
    spool = open_spool() if (contents and not single) or not again else None
    try:
        merger, in_place = reading.merge_once(_Contents(keys=keys, spool=spool), single=single)
        size = merger.size
        columns, relax = _columns(merger)
        del merger  # its memory, before a differ begins
    except BaseException:
        if spool is not None:
            os.close(spool)
        raise

    def open_contents() -> int:
        if spool is not None:
            return spool
        return open_quietly(values[0]) if in_place else reading.respool(size)

    found = TarTree(" + ".join(Source.describe(value) for value in values), columns, relax, open_contents)
    if spool is not None:
        found.contents()
    return found


def _can_be_read_again(value: Any) -> bool:
    if is_stream(value) or isinstance(value, int):
        return False
    try:
        return stat.S_ISREG(os.stat(value).st_mode)
    except OSError:
        return True  # Source says what is wrong


def _is_plain(value: Any) -> bool:
    """Not compressed. What cannot be read is for the reading to say."""
    try:
        with Source(value) as source:
            return Lookahead(source).detect() == "none"
    except FastlayerError:
        return False


class _Reading:
    """The layers of one stack, and how to read them."""

    def __init__(self, values: Sequence[Any], limits: Limits, report: Reporter, jobs: int) -> None:
        self._values = values
        self._limits = limits
        self._report = report
        self._jobs = jobs

    def merge_once(self, contents: _Contents, *, single: bool) -> tuple[Merger, bool]:
        """The tree, and whether its files are to be read where they are in the tar."""
        if single and _is_plain(self._values[0]):
            try:
                return self._merge(contents, in_place=True), True
            except _NotInPlace:
                pass
        return self._merge(contents, in_place=False), False

    def _merge(self, contents: _Contents, *, in_place: bool) -> Merger:
        merger = self._new_merger(in_place=in_place)
        for value in self._values:
            before = merger.entries
            with Source(value) as source:
                try:
                    codec = self._read(merger, source, contents)
                except LayerError as exc:
                    raise named(exc, source, merger.entries - before) from exc
                if in_place and (merger.sparse or codec != "none"):
                    raise _NotInPlace
        contents.finish(merger)
        return merger

    def _new_merger(self, *, in_place: bool) -> Merger:
        limits = self._limits
        merger: Merger = _backend.engine().merge.Merger(
            in_place=in_place,
            max_entries=limits.max_entries,
            max_size=limits.max_size,
            max_file_size=limits.max_file_size,
            max_pax=limits.max_pax,
        )
        return merger

    def _read(self, merger: Merger, source: Source, contents: _Contents) -> str:
        """One layer. Returns its codec."""
        blob = Expansion(source, jobs=self._jobs, max_ratio=self._limits.max_ratio, hashed=False)

        def sink(buffer: Any) -> None:
            events = merger.feed(buffer)
            if contents.wanted:
                contents.take(merger, events, memoryview(buffer))
            self._report.update("read", merger.entries, blob.blob_size, source.size)

        merger.begin_layer()
        blob.run(sink)
        blob.refuse_empty()
        merger.end_layer()
        return blob.codec

    def respool(self, size: int) -> int:
        """A second reading, for the contents."""
        spool = open_spool()
        try:
            merger = self._merge(_Contents(keys=False, spool=spool), in_place=False)
            if merger.size != size:
                raise FileChangedError(f"{Source.describe(self._values[0])}: changed while it was read: try again")
        except BaseException:
            os.close(spool)
            raise
        return spool


def _columns(merger: Merger) -> tuple[_backend.Columns, Callable[[], object]]:
    merger.finish()
    spool = Spool(merger.count, _SIZES)
    try:
        while (batch := merger.next_batch()) is not None:
            *columns, heap, keys, offsets = batch
            spool.add((*columns, keys, offsets, heap))
        *columns, keys, offsets, heap = spool.finish()
    finally:
        spool.close()
    names = _backend.Columns._fields[1:19]
    return _backend.Columns(
        count=merger.count,
        **dict(zip(names, columns, strict=True)),
        heap=heap,
        key=keys,
        data_off=offsets,
        racy_ns=0,
    ), spool.relax
