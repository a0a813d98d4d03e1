"""Content-defined chunks: where to cut is decided by the bytes, so equal data gives equal chunks wherever it stands."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from fastlayer import _backend
from fastlayer._values import NamedTuple
from fastlayer.errors import OperandError, StorageError, UsageError, show_path
from fastlayer.layer.arguments import INTEGER, check, is_int
from fastlayer.layer.reading import open_quietly

if TYPE_CHECKING:
    import numpy as np

    from fastlayer.layer import types

    ChunkTable = np.ndarray[tuple[int], np.dtype[np.void]]

_WINDOW = 1 << 20  # still in a processor's cache when it is hashed after it was cut
_BLOCK = 1 << 20
_SIZES = (16384, 65536, 262144)


def chunks(
    source: types.ChunkSource, *, min_size: int = 16384, avg_size: int = 65536, max_size: int = 262144
) -> ChunkTable:
    """The chunks of a path, a descriptor (from offset 0) or a bytes-like object, as a table without gaps.

    Returns an array with one row per chunk, ``[("offset", "<u8"), ("length", "<u4"), ("blake3", "u1", (32,))]``. Every
    chunk but the last is ``min_size`` to ``max_size`` bytes long (64 <= min <= avg <= max <= 2^31, avg >= 256); the
    rule is in docs/chunks.md. Memory does not depend on the size of the source, but for the table.

    Raises ``UsageError`` for sizes that cannot be, ``OperandError`` and ``StorageError`` for a source that cannot be
    read.
    """
    import numpy as np

    check(min_size=(min_size, INTEGER), avg_size=(avg_size, INTEGER), max_size=(max_size, INTEGER))
    if not (64 <= min_size <= avg_size <= max_size <= 1 << 31 and avg_size >= 256):
        raise UsageError("chunk sizes need 64 <= min <= avg <= max <= 2^31, avg >= 256")
    offsets: list[int] = [0]
    keys = bytearray()
    for end, key in _keyed(source, (min_size, avg_size, max_size)):
        offsets.append(end)
        keys += key
    table = np.zeros(len(offsets) - 1, dtype=[("offset", "<u8"), ("length", "<u4"), ("blake3", "u1", (32,))])
    ends = np.array(offsets, dtype="<u8")
    table["offset"] = ends[:-1]
    table["length"] = ends[1:] - ends[:-1]
    table["blake3"] = np.frombuffer(keys, dtype="u1").reshape(-1, 32)
    return table


class Extent(NamedTuple):
    """``size`` bytes of an open file from ``start`` on."""

    fd: int
    start: int
    size: int


def changed_ranges(a: Extent, b: Extent) -> list[tuple[int, int]]:
    """Where file B is really new compared with file A: (offset, length), in order; neighbouring ones are one.

    Both files are compared in blocks of 1 MiB at the same offsets. Neighbouring blocks that differ (or that only one
    side has) form a region; the regions of both sides are cut into chunks, each region on its own. New are B's chunks
    whose blake3 is not among the keys of A's chunks. Blocks that are equal are not.
    """
    known: set[bytes] = set()
    cut: list[tuple[int, int, bytes]] = []
    for start, end in _different_regions(a, b):
        known.update(key for _, key in _keyed_region(a, start, end))
        at = start
        for stop, key in _keyed_region(b, start, end):
            cut.append((at, start + stop, key))
            at = start + stop
    found: list[tuple[int, int]] = []
    for start, end, key in cut:
        if key in known:
            continue
        if found and sum(found[-1]) == start:
            found[-1] = (found[-1][0], end - found[-1][0])
        else:
            found.append((start, end - start))
    return found


def changed_bytes(a: Extent, b: Extent) -> int:
    """How many bytes of file B are new (``changed_ranges``)."""
    return sum(length for _, length in changed_ranges(a, b))


def _different_regions(a: Extent, b: Extent) -> Iterator[tuple[int, int]]:
    """Maximal runs of differing blocks as (start, end)."""
    block_a, block_b = bytearray(_BLOCK), bytearray(_BLOCK)
    start, size = -1, max(a.size, b.size)
    for offset in range(0, size, _BLOCK):
        got_a, got_b = _read_block(a, block_a, offset), _read_block(b, block_b, offset)
        equal = got_a == got_b and (block_a == block_b if got_a == _BLOCK else block_a[:got_a] == block_b[:got_a])
        if not equal and start < 0:
            start = offset
        if equal and start >= 0:
            yield start, offset
            start = -1
    if start >= 0:
        yield start, size


def _read_block(of: Extent, buffer: bytearray, offset: int) -> int:
    return _read_at(of.fd, memoryview(buffer)[: max(of.size - offset, 0)], of.start + offset)


def _read_at(fd: int, buffer: bytearray | memoryview, offset: int) -> int:
    """Fills buffer from offset; less only at the end of the file."""
    view = memoryview(buffer)
    done = 0
    while done < len(view):
        got = os.preadv(fd, [view[done:]], offset + done)
        if got == 0:
            break
        done += got
    return done


def _windows(fd: int, start: int, end: int | None) -> Iterator[memoryview]:
    """The bytes of [start, end) in pieces; each stays valid until the next is asked for."""
    buffer = memoryview(bytearray(_WINDOW))
    while end is None or start < end:
        view = buffer if end is None else buffer[: end - start]
        got = _read_at(fd, view, start)
        if got == 0:
            return
        yield view[:got]
        start += got


def _keyed_region(of: Extent, start: int, end: int) -> Iterator[tuple[int, bytes]]:
    return _keys_of(_windows(of.fd, of.start + start, of.start + min(end, of.size)), _SIZES)


def _keyed(source: Any, sizes: tuple[int, int, int]) -> Iterator[tuple[int, bytes]]:
    """(offset behind the chunk, its blake3) of every chunk of what a caller may pass."""
    if is_int(source):
        yield from _keys_of(_readable(source, f"descriptor {source}"), sizes)
    elif isinstance(source, (str, os.PathLike)):
        try:
            fd = open_quietly(source, os.O_NONBLOCK)
        except (OSError, ValueError) as exc:
            reason = exc.strerror if isinstance(exc, OSError) else str(exc)
            raise OperandError(f"{show_path(os.fspath(source))}: {reason}: give a file that can be read") from exc
        try:
            yield from _keys_of(_readable(fd, show_path(os.fspath(source))), sizes)
        finally:
            os.close(fd)
    else:
        yield from _keys_of(_slices(source), sizes)


def _readable(fd: int, name: str) -> Iterator[memoryview]:
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OperandError(f"{name}: is not a regular file: give a file that can be read at any offset")
        yield from _windows(fd, 0, None)
    except OSError as exc:
        raise StorageError(exc.errno or 0, "read", name) from exc


def _slices(source: Any) -> Iterator[memoryview]:
    try:
        view = memoryview(source).cast("B")
    except TypeError as exc:
        raise UsageError(f"chunks takes a path, a descriptor or contiguous bytes, not {type(source).__name__}") from exc
    for start in range(0, len(view), _WINDOW):
        yield view[start : start + _WINDOW]


def _keys_of(windows: Iterator[memoryview], sizes: tuple[int, int, int]) -> Iterator[tuple[int, bytes]]:
    chunker = _backend.engine().chunk.Chunker(*sizes)
    hasher = _Hasher()
    for window in windows:
        yield from hasher.run(window, chunker.feed(window, False))
    yield from hasher.run(memoryview(b""), chunker.feed(b"", True))


class _Hasher:
    """blake3 of every chunk of a stream that comes in windows."""

    def __init__(self) -> None:
        from blake3 import blake3

        self._new = blake3
        self._open: Any = None  # hash of the chunk that began in an earlier window
        self._base = 0

    def run(self, window: memoryview, cuts: list[int]) -> list[tuple[int, bytes]]:
        """Takes the next window and the stream offsets of the cuts in it."""
        keys = []
        start = 0
        for cut in cuts:
            end = cut - self._base
            keys.append((cut, self._take(window[start:end]).digest()))
            self._open = None
            start = end
        if start < len(window):
            self._open = self._take(window[start:])
        self._base += len(window)
        return keys

    def _take(self, piece: memoryview) -> Any:
        state = self._new() if self._open is None else self._open
        return state.update(piece)
