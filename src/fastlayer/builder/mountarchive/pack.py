"""A stream of bytes as chunks, each named by the blake3 of its bytes and kept as one zstd frame.

Where a stream is cut is decided by its bytes (``layer/chunks.py``), so one file that changed makes one or two new
chunks, and equal data is kept once, whichever file or cache mount it is of.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol

from fastlayer import _backend
from fastlayer._values import NamedTuple
from fastlayer.errors import CorruptStoreError
from fastlayer.layer.pipeline import default_jobs, map_ordered

SIZES = (64 << 10, 256 << 10, 1 << 20)  # bytes: least, average and most of a chunk
MAX_CHUNK = SIZES[2]
MAX_PACKED = MAX_CHUNK + (MAX_CHUNK >> 6) + 4096  # bytes of its frame


class Chunk(NamedTuple):
    """``id``: hex blake3 of its bytes; ``size``: how many; ``packed``: bytes of its frame."""

    id: str
    size: int
    packed: int


class Sink(Protocol):
    """Where chunks go."""

    def has(self, identity: str, size: int) -> int:
        """Bytes of the frame of a chunk that is there, and whole; 0: it is not."""
        ...

    def put(self, identity: str, packed: bytes) -> None: ...


class Packer:
    """Takes a stream in pieces. ``written``: how many chunks had to be, ``new``: bytes of their frames.

    Chunks are compressed by ``jobs`` threads; a few wait for them, so memory does not depend on the stream.
    """

    def __init__(self, sink: Sink, pool: ThreadPoolExecutor, jobs: int) -> None:
        from fastlayer.layer.compression import codec

        self.new = self.written = 0
        self._sink = sink
        self._pool = pool
        self._most = 2 * jobs
        self._codec = codec("zstd")
        self._chunker = _backend.engine().chunk.Chunker(*SIZES)
        self._held = bytearray()  # what belongs to the chunk under way
        self._base = 0  # offset of the stream where that begins
        self._waiting: list[tuple[str, Future[bytes]]] = []
        self._packed: dict[str, int] = {}  # bytes of frames by id; 0 while one is being made
        self._order: list[tuple[str, int]] = []

    def take(self, piece: Any) -> None:
        """The next bytes of the stream."""
        self._cut(self._chunker.feed(piece, False), piece)

    def finish(self) -> list[Chunk]:
        """The end of the stream; all its chunks are in the sink."""
        self._cut(self._chunker.feed(b"", True), b"")
        while self._waiting:
            self._write_one()
        return [Chunk(identity, size, self._packed[identity]) for identity, size in self._order]

    def _cut(self, ends: Sequence[int], piece: Any) -> None:
        at = self._base + len(self._held)  # offset of the piece
        view = memoryview(piece)
        done = 0
        for end in ends:
            self._held += view[done : end - at]
            done = end - at
            self._chunk(bytes(self._held))
            self._held.clear()
            self._base = end
        self._held += view[done:]

    def _chunk(self, data: bytes) -> None:
        from blake3 import blake3

        identity = blake3(data).hexdigest()
        self._order.append((identity, len(data)))
        if identity in self._packed:
            return
        self._packed[identity] = self._sink.has(identity, len(data))
        if self._packed[identity]:
            return
        self._waiting.append((identity, self._pool.submit(self._codec.compress, data)))
        if len(self._waiting) > self._most:
            self._write_one()

    def _write_one(self) -> None:
        identity, packed = self._waiting.pop(0)
        data = packed.result()
        self._sink.put(identity, data)
        self._packed[identity] = len(data)
        self.new += len(data)
        self.written += 1


# ---- reading ---------------------------------------------------------------------------------------

Get = Callable[[str], bytes]  # the frame of a chunk. Raises ``NotFoundError``


def unpacked(chunks: Sequence[Chunk], get: Get, jobs: int | None = None) -> Iterator[bytes]:
    """The bytes of chunks, in order, each verified; several are expanded ahead.

    Raises ``CorruptStoreError`` for what is not what its name says.
    """
    return map_ordered(lambda chunk: expand(chunk, get(chunk.id)), chunks, min(default_jobs(jobs), os.cpu_count() or 1))


def expand(chunk: Chunk, frame: bytes) -> bytes:
    """The bytes of a frame, whose sizes are only believed within bounds."""
    import zstandard
    from blake3 import blake3

    try:
        parameters = zstandard.get_frame_parameters(frame)
        if parameters.content_size != chunk.size or chunk.size > MAX_CHUNK:
            raise CorruptStoreError(f"the chunk {chunk.id} has another size than it should have: export it again")
        data = zstandard.ZstdDecompressor(max_window_size=2 * MAX_CHUNK).decompress(frame)
    except zstandard.ZstdError as exc:
        raise CorruptStoreError(f"the chunk {chunk.id} is damaged ({exc}): export it again") from None
    if blake3(data).hexdigest() != chunk.id:
        raise CorruptStoreError(f"the chunk {chunk.id} is not what its name says: export it again")
    return data
