"""Writing a layer: encode, hash, compress, hash, write, all at once and each byte once.

::

    encoder -> 1 MiB buffers -> sha256 (diff_id) -> compress (a pool) -> in order: sha256 (digest), write

The bytes depend on the change table, the codec and its level only. A layer that fits one piece is made without threads.
"""

from __future__ import annotations

import hashlib
import mmap
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from fastlayer import _backend
from fastlayer.layer.compression import Codec
from fastlayer.layer.output import Output
from fastlayer.layer.pipeline import STEP, Channel, Pipeline, Ring
from fastlayer.layer.progress import Reporter
from fastlayer.oci.descriptor import Descriptor
from fastlayer.oci.digest import Digest, sha256_digest
from fastlayer.oci.mediatypes import layer_media_type

_LARGEST_PIECE = 16 << 20


class Layer(NamedTuple):
    """A written layer. ``size`` and ``digest`` are of the blob, ``tar_size`` and ``diff_id`` of the tar inside.

    ``entries`` counts tar entries (whiteouts and parent directories included), ``payload`` bytes of file content.
    """

    media_type: str
    digest: Digest
    size: int
    diff_id: Digest
    tar_size: int
    entries: int
    payload: int
    warnings: tuple[str, ...] = ()

    @property
    def descriptor(self) -> Descriptor:
        """The OCI descriptor of the blob."""
        return Descriptor(self.media_type, self.digest, self.size)

    def to_dict(self) -> dict[str, Any]:
        """For JSON: the descriptor's properties, then diff_id, tar_size, entries, payload, warnings."""
        return {
            **self.descriptor.to_dict(),
            "diff_id": str(self.diff_id),
            "tar_size": self.tar_size,
            "entries": self.entries,
            "payload": self.payload,
            "warnings": list(self.warnings),
        }


class _Tar:
    """The tar as the encoder gives it, hashed on the way."""

    def __init__(self, encoder: _backend.Encoder, report: Reporter) -> None:
        self.encoder = encoder
        self.sha = hashlib.sha256(usedforsecurity=False)
        self.size = 0
        self._report = report

    def fill(self, buffer: memoryview, pipeline: Pipeline | None = None, *, hashed: bool = True) -> int:
        """The next bytes, in steps of a MiB; less than the buffer holds only at the end."""
        filled = 0
        while filled < len(buffer):
            if pipeline is not None:
                pipeline.check()
            part = buffer[filled : filled + STEP]
            count = self.encoder.readinto(part)
            if hashed:
                self.sha.update(part[:count])
            filled += count
            if count < len(part):
                break
        self.size += filled
        return filled

    def tell(self) -> None:
        self._report.update("write", self.encoder.entries, self.size)


class _Blob:
    """The blob as it is written, hashed on the way."""

    def __init__(self, output: Output, *, hashed: bool) -> None:
        self.sha = hashlib.sha256(usedforsecurity=False)
        self.size = 0
        self._output = output
        self._hashed = hashed

    def write(self, data: Any) -> None:
        if self._hashed:
            self.sha.update(data)
        self._output.write(data)
        self.size += len(data)


def write_layer(
    table: _backend.ChangeTable,
    roots: Sequence[int],
    output: Output,
    codec: Codec,
    *,
    clamp_mtime: int | None,
    jobs: int,
    report: Reporter,
    warnings: Sequence[str] = (),
) -> Layer:
    """Encodes ``table`` into ``output`` (which the caller commits). Raises what the engine and the output raise."""
    encoder = _backend.engine().encode.Encoder(table, list(roots), clamp_mtime)
    tar = _Tar(encoder, report)
    plain = codec.name == "none"
    blob = _Blob(output, hashed=not plain)
    first = memoryview(mmap.mmap(-1, codec.block_size))
    count = tar.fill(first)
    if count < len(first):
        blob.write(codec.compress(first[:count]))
    elif plain:
        _write_plain(tar, blob, first)
    else:
        _write_compressed(tar, blob, codec, first, jobs)
    report.end("write", encoder.entries, tar.size, tar.size)
    diff_id = sha256_digest(tar.sha.hexdigest())
    digest = diff_id if plain else sha256_digest(blob.sha.hexdigest())
    media_type = layer_media_type(codec.name)
    return Layer(media_type, digest, blob.size, diff_id, tar.size, encoder.entries, encoder.payload, tuple(warnings))


def _write_plain(tar: _Tar, blob: _Blob, first: memoryview) -> None:
    """Encode, hash and write in three threads; the caller's one writes."""
    blob.write(first)
    with Pipeline() as pipeline:
        ring = Ring(pipeline, 6, len(first))
        encoded, hashed = pipeline.channel(), pipeline.channel()

        def encode() -> None:
            count = len(first)
            while count == len(first):
                buffer = ring.take()
                count = tar.fill(buffer, pipeline, hashed=False)
                encoded.put((buffer, count))

        def digest() -> None:
            while True:
                buffer, count = encoded.get()
                tar.sha.update(buffer[:count])
                hashed.put((buffer, count))

        pipeline.spawn(encode)
        pipeline.spawn(digest)
        count = len(first)
        while count == len(first):
            buffer, count = hashed.get()
            blob.write(buffer[:count])
            ring.give(buffer)
            tar.tell()
        pipeline.stop()


def _write_compressed(tar: _Tar, blob: _Blob, codec: Codec, first: memoryview, jobs: int) -> None:
    """Encode and hash in one thread, compress in ``jobs``, hash and write in the caller's.

    A buffer goes back when its piece is written: that bounds the pieces that wait, too.
    """
    _keep_freed_pieces()
    with Pipeline() as pipeline:
        ring = Ring(pipeline, jobs + 3, len(first))
        work, done = pipeline.channel(), pipeline.channel()
        work.put((0, first, len(first)))

        def encode() -> None:
            number, count = 0, len(first)
            while count == len(first):
                buffer = ring.take()
                number += 1
                count = tar.fill(buffer, pipeline)
                if count:
                    work.put((number, buffer, count))
            done.put((number if count else number - 1, None, buffer))

        def compress() -> None:
            while True:
                number, buffer, count = work.get()
                done.put((number, codec.compress(buffer[:count]), buffer))

        pipeline.spawn(encode)
        for _ in range(jobs):
            pipeline.spawn(compress)
        for piece, buffer in _in_order(done):
            blob.write(piece)
            ring.give(buffer)
            tar.tell()
        pipeline.stop()


def _keep_freed_pieces() -> None:
    """Freeing one large block, never touched, tells glibc's malloc to recycle the compressed pieces.

    Its threshold for giving memory back to the kernel follows the largest block freed (mallopt(3), M_MMAP_THRESHOLD);
    without this every piece is mapped, zeroed and unmapped anew. Other allocators take no notice.
    """
    bytearray(_LARGEST_PIECE)


def _in_order(done: Channel) -> Iterator[tuple[bytes, memoryview]]:
    """Pieces (and the buffers they came from) by number, until the last one, whose number comes with None."""
    ready: dict[int, tuple[bytes, memoryview]] = {}
    number, last = 0, -1
    while last < 0 or number <= last:
        while number not in ready:
            found, piece, buffer = done.get()
            if piece is None:
                last = found
                if number > last:
                    return
            else:
                ready[found] = (piece, buffer)
        yield ready.pop(number)
        number += 1
