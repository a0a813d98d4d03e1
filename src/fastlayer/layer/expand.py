"""From the bytes of a blob to the bytes of its tar, with everything that can run at once running at once.

::

    read -> inflate (in parallel where the blob allows it) -> the caller's sink
      |                                                    |
      +-> sha256 (digest)                                  +-> sha256 (diff_id)

The sink runs in the caller's thread; a buffer goes back when it was both hashed and taken. A small blob is expanded
without threads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from fastlayer import _backend
from fastlayer.errors import LayerFormatError, LimitError
from fastlayer.layer.compression import Packing
from fastlayer.layer.decompress import PIECE_SIZE, Expand, Lookahead, Reader, open_pieces, open_reader
from fastlayer.layer.hashing import hashing
from fastlayer.layer.pipeline import STEP, Channel, Pipeline, Ring, in_order
from fastlayer.layer.source import Source
from fastlayer.oci.digest import Digest, sha256_digest

_SMALL = 1 << 20  # blobs up to this many bytes stay in the calling thread
_RATIO_FREE = 1 << 30  # bytes a layer may expand to before max_ratio counts
_RAW_SIZE = 256 << 10  # bytes of blob read at once
_RAW_AHEAD = 16  # of those that may wait for the inflater and the hashes
_MAX_IDLE = 256 << 20  # bytes of blob that expand to nothing: padding and skippable frames, but not without an end
_TAR_AHEAD = 4  # buffers of tar beyond one for each job


class Expansion:
    """One blob on its way. After ``run``: ``codec``, sizes in bytes, and the digests.

    ``hashed=False`` leaves the digests out. ``max_ratio``: tar bytes per blob byte (0: any), see ``limits.Limits``.
    """

    def __init__(self, source: Source, *, jobs: int, max_ratio: int = 0, hashed: bool = True) -> None:
        self.source = source
        self.codec: Packing = "none"
        self.tar_size = 0
        self._read = 0
        self._useful = 0  # what had been read when tar bytes last came out
        self._jobs = jobs
        self._max_ratio = max_ratio
        self._hashed = hashed

    @property
    def blob_size(self) -> int:
        """Bytes of the blob; while running, those that were read."""
        return self.tar_size if self.codec == "none" else self._read

    def run(self, sink: Callable[[Any], object]) -> None:
        """Hands the whole tar to ``sink``, in buffers that are only valid during the call.

        Raises ``LayerFormatError`` for damage, ``LimitError``, ``StorageError``, and whatever the sink raises.
        """
        if self.source.size is not None and self.source.size <= _SMALL:
            self._run_inline(sink)
        else:
            self._run_threaded(sink)

    def refuse_empty(self) -> None:
        """After ``run``: raises ``LayerFormatError`` when there was nothing at all, which a cut download looks like."""
        if not self.tar_size:
            raise LayerFormatError("is empty, which no layer is: fetch or make it again; an empty tree is a directory")

    def _hand_over(self, data: Any, sink: Callable[[Any], object]) -> None:
        self.tar_size += len(data)
        self._useful = self._read
        if self.tar_size > _RATIO_FREE and 0 < self._max_ratio * max(self._read, 1) < self.tar_size:
            raise LimitError(
                f"expands to more than {self._max_ratio} times its size: raise max_ratio (--max-ratio) if you trust it"
            )
        sink(data)

    def _took(self, count: int) -> None:
        self._read += count
        if self._read - self._useful > _MAX_IDLE and self.codec != "none":
            raise LayerFormatError(f"more than {_MAX_IDLE >> 20} MiB of it expand to nothing: give the layer alone")

    def _hashed_to(self, blob: Digest, tar: Digest) -> None:
        self.diff_id = tar
        self.digest = tar if self.codec == "none" else blob

    # ---- in one thread ----

    def _run_inline(self, sink: Callable[[Any], object]) -> None:
        look = Lookahead(self.source)
        self.codec = look.detect()
        blob, tar = (_backend.hashing().Sha256() for _ in range(2))

        def took(data: memoryview) -> None:
            if self._hashed and self.codec != "none":
                blob.update(data)
            self._took(len(data))

        _, reader = open_reader(Lookahead(_Counted(look, took)))
        buffer = memoryview(bytearray(STEP))
        while count := reader.readinto(buffer):
            if self._hashed:
                tar.update(buffer[:count])
            self._hand_over(buffer[:count], sink)
        if self._hashed:
            self._hashed_to(sha256_digest(blob.hexdigest()), sha256_digest(tar.hexdigest()))

    # ---- in many ----

    def _run_threaded(self, sink: Callable[[Any], object]) -> None:
        with hashing(2) as (blob, tar), Pipeline() as pipeline:
            look = Lookahead(_Interruptible(self.source, pipeline))
            self.codec = look.detect()
            counted = _Counted(look, lambda data: self._took(len(data)))
            plain = self.codec == "none"
            stream = Lookahead(counted if plain else _read_ahead(counted, pipeline, blob.put if self._hashed else None))
            ring = Ring(pipeline, self._jobs + _TAR_AHEAD, PIECE_SIZE[self.codec])
            expanded = pipeline.channel()
            pieces = open_pieces(self.codec, stream)
            pipeline.spawn(lambda: _expand(pieces, pipeline, ring, expanded, self._jobs))
            for buffer, count in in_order(expanded):
                back = ring.returns(buffer, 2 if self._hashed else 1)
                if self._hashed:
                    tar.put(buffer[:count], back)
                for start in range(0, count, STEP):
                    self._hand_over(buffer[start : min(start + STEP, count)], sink)
                back()
            if self._hashed:
                self._hashed_to(blob.finish(), tar.finish())
            pipeline.stop()


class _Counted:
    """A stream that tells what was read from it."""

    def __init__(self, source: Lookahead, took: Callable[[memoryview], None]) -> None:
        self._source = source
        self._took = took

    def readinto(self, buffer: Any, /) -> int:
        count = self._source.readinto(buffer)
        self._took(memoryview(buffer)[:count])
        return count


class _Interruptible:
    """The source for a stage: a silent pipe does not keep it from stopping."""

    def __init__(self, source: Source, pipeline: Pipeline) -> None:
        self._source = source
        self._check = pipeline.check

    def readinto(self, buffer: Any, /) -> int:
        self._check()
        return self._source.readinto(buffer, self._check)


class _Stream:
    """The other end of a channel of (data, what gives its buffer back) as something to read from."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._back: Callable[[], object] | None = None
        self._rest = memoryview(b"")
        self._ended = False

    def readinto(self, buffer: Any, /) -> int:
        if not self._rest and not self._refill():
            return 0
        count = min(len(self._rest), len(buffer))
        buffer[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count

    def _refill(self) -> bool:
        if self._back is not None:
            self._back()
            self._back = None
        if self._ended:
            return False
        self._rest, self._back = self._channel.get()
        self._ended = not self._rest
        return not self._ended


def _read_ahead(source: _Counted, pipeline: Pipeline, put: Callable[[Any, Any], object] | None) -> _Stream:
    """Reads the blob ahead of the inflater. ``put``: hashes it."""
    ring, raw = Ring(pipeline, _RAW_AHEAD, _RAW_SIZE), pipeline.channel()

    def read() -> None:
        count = 1
        while count:
            buffer = ring.take()
            count = source.readinto(buffer)
            back = ring.returns(buffer, 1 if put is None else 2)
            if put is not None:
                put(buffer[:count], back)
            raw.put((buffer[:count], back))

    pipeline.spawn(read)
    return _Stream(raw)


def _expand(pieces: Iterable[Expand | Reader], pipeline: Pipeline, ring: Ring, expanded: Channel, jobs: int) -> None:
    """Gives pieces to a pool that expands them, and streams what cannot be cut. Numbers everything; None is the end.

    Buffers are given out in the order of the pieces, so that the next one that is waited for always has one.
    """
    work = pipeline.channel()

    def worker() -> None:
        while True:
            number, piece, buffer = work.get()
            expanded.put((number, (buffer, piece(buffer))))

    number = workers = 0
    for piece in pieces:
        if not callable(piece):
            number = _stream(piece, ring, expanded, number)
            continue
        work.put((number, piece, ring.take()))
        number += 1
        if workers < jobs:
            workers += 1
            pipeline.spawn(worker)
    expanded.put((number, None))


def _stream(reader: Reader, ring: Ring, expanded: Channel, number: int) -> int:
    while True:
        buffer = ring.take()
        filled = 0
        while filled < STEP and (count := reader.readinto(buffer[filled:STEP])):
            filled += count
        expanded.put((number, (buffer, filled)))
        number += 1
        if filled < STEP:
            return number
