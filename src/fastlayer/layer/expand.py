"""From the bytes of a blob to the bytes of its tar, with everything that can run at once running at once.

::

    read, sha256 (digest) -> inflate (in parallel where the blob allows it) -> sha256 (diff_id) -> the caller's sink

The sink runs in the caller's thread. A small blob is expanded without threads.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from typing import Any

from fastlayer.errors import LimitError
from fastlayer.layer.compression import Compression
from fastlayer.layer.decompress import Expand, Lookahead, Reader, open_pieces, open_reader
from fastlayer.layer.pipeline import STEP, Channel, Pipeline, Ring
from fastlayer.layer.source import Source
from fastlayer.oci.digest import Digest, sha256_digest

_SMALL = 1 << 20  # blobs up to this many bytes stay in the calling thread
_RATIO_FREE = 1 << 30  # bytes a layer may expand to before max_ratio counts
_RAW_SIZE = 256 << 10  # bytes of blob read at once
_RAW_AHEAD = 8  # of those that may wait for the inflater
_TAR_AHEAD = 6  # MiB of tar that may wait for the sink


class Expansion:
    """One blob on its way. After ``run``: ``codec``, sizes in bytes, and the digests.

    ``hashed=False`` leaves the digests out. ``max_ratio``: tar bytes per blob byte (0: any), see ``apply.Limits``.
    """

    def __init__(self, source: Source, *, jobs: int, max_ratio: int = 0, hashed: bool = True) -> None:
        self.source = source
        self.codec: Compression = "none"
        self.tar_size = 0
        self._read = 0
        self._jobs = jobs
        self._max_ratio = max_ratio
        self._hashed = hashed
        self._blob_sha = hashlib.sha256(usedforsecurity=False)
        self._tar_sha = hashlib.sha256(usedforsecurity=False)

    @property
    def blob_size(self) -> int:
        """Bytes of the blob; while running, those that were read."""
        return self.tar_size if self.codec == "none" else self._read

    @property
    def diff_id(self) -> Digest:
        return sha256_digest(self._tar_sha.hexdigest())

    @property
    def digest(self) -> Digest:
        return self.diff_id if self.codec == "none" else sha256_digest(self._blob_sha.hexdigest())

    def run(self, sink: Callable[[Any], object]) -> None:
        """Hands the whole tar to ``sink``, in buffers that are only valid during the call.

        Raises ``LayerFormatError`` for damage, ``LimitError``, ``StorageError``, and whatever the sink raises.
        """
        if self.source.size is not None and self.source.size <= _SMALL:
            self._run_inline(sink)
        else:
            self._run_threaded(sink)

    def _hand_over(self, data: Any, sink: Callable[[Any], object]) -> None:
        self.tar_size += len(data)
        if self.tar_size > _RATIO_FREE and 0 < self._max_ratio * max(self._read, 1) < self.tar_size:
            raise LimitError(f"expands to more than {self._max_ratio} times its size: raise max_ratio if you trust it")
        sink(data)

    def _took(self, data: memoryview) -> None:
        if self._hashed and self.codec != "none":
            self._blob_sha.update(data)
        self._read += len(data)

    def _unpacked(self, data: Any) -> None:
        if self._hashed:
            self._tar_sha.update(data)

    # ---- in one thread ----

    def _run_inline(self, sink: Callable[[Any], object]) -> None:
        look = Lookahead(self.source)
        self.codec = look.detect()
        _, reader = open_reader(Lookahead(_Counted(look, self._took)))
        buffer = memoryview(bytearray(STEP))
        while count := reader.readinto(buffer):
            self._unpacked(buffer[:count])
            self._hand_over(buffer[:count], sink)

    # ---- in many ----

    def _run_threaded(self, sink: Callable[[Any], object]) -> None:
        with Pipeline() as pipeline:
            look = Lookahead(_Interruptible(self.source, pipeline))
            self.codec = look.detect()
            counted = _Counted(look, self._took)
            stream = Lookahead(counted if self.codec == "none" else _read_ahead(counted, pipeline))
            ring = Ring(pipeline, _TAR_AHEAD, STEP)
            expanded, hashed, credits = pipeline.channel(), pipeline.channel(), pipeline.channel()
            for _ in range(self._jobs + 4):  # pieces that may be on their way
                credits.put(None)
            pieces = open_pieces(self.codec, stream)
            pipeline.spawn(lambda: _expand(pieces, pipeline, ring, credits, expanded, self._jobs))
            pipeline.spawn(lambda: self._hash_in_order(expanded, hashed))
            while True:
                data, buffer = hashed.get()
                if data is None:
                    break
                self._hand_over(data, sink)
                if buffer is not None:
                    ring.give(buffer)
                else:
                    credits.put(None)
            pipeline.stop()

    def _hash_in_order(self, expanded: Channel, hashed: Channel) -> None:
        ready: dict[int, tuple[Any, Any]] = {}
        number = 0
        while True:
            while number not in ready:
                found, data, buffer = expanded.get()
                ready[found] = (data, buffer)
            data, buffer = ready.pop(number)
            if data is not None:
                self._unpacked(data)
            hashed.put((data, buffer))
            if data is None:
                return
            number += 1


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
    """The other end of a channel of (buffer, count) as something to read from."""

    def __init__(self, channel: Channel, ring: Ring) -> None:
        self._channel = channel
        self._ring = ring
        self._buffer: memoryview | None = None
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
        if self._buffer is not None:
            self._ring.give(self._buffer)
            self._buffer = None
        if self._ended:
            return False
        buffer, count = self._channel.get()
        self._ended = count == 0
        self._buffer, self._rest = buffer, buffer[:count]
        return not self._ended


def _read_ahead(source: _Counted, pipeline: Pipeline) -> _Stream:
    """Reads (and hashes) the blob ahead of the inflater."""
    ring, raw = Ring(pipeline, _RAW_AHEAD, _RAW_SIZE), pipeline.channel()

    def read() -> None:
        count = 1
        while count:
            buffer = ring.take()
            count = source.readinto(buffer)
            raw.put((buffer, count))

    pipeline.spawn(read)
    return _Stream(raw, ring)


def _expand(
    pieces: Iterable[Expand | Reader], pipeline: Pipeline, ring: Ring, credits: Channel, expanded: Channel, jobs: int
) -> None:
    """Gives pieces to a pool that expands them, and streams what cannot be cut. Numbers everything; None is the end."""
    work = pipeline.channel()

    def worker() -> None:
        while True:
            number, piece = work.get()
            expanded.put((number, piece(), None))

    number = workers = 0
    for piece in pieces:
        if not callable(piece):
            number = _stream(piece, ring, expanded, number)
            continue
        credits.get()
        if workers < jobs:
            workers += 1
            pipeline.spawn(worker)
        work.put((number, piece))
        number += 1
    expanded.put((number, None, None))


def _stream(reader: Reader, ring: Ring, expanded: Channel, number: int) -> int:
    while True:
        buffer = ring.take()
        filled = 0
        while filled < len(buffer) and (count := reader.readinto(buffer[filled:])):
            filled += count
        if filled:
            expanded.put((number, buffer[:filled], buffer))
            number += 1
        else:
            ring.give(buffer)
        if filled < len(buffer):
            return number
