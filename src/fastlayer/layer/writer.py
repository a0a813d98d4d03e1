"""Writing a layer: encode, hash, compress, hash, write, all at once and each byte once.

::

    encoder -> 1 MiB buffers -> compress (a pool) -> in order: write
                 |                                      |
                 +-> sha256 (diff_id)                   +-> sha256 (digest)

The bytes depend on the change table, the codec and its level only. A layer that fits one piece is made without threads.
"""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from typing import Any, Protocol

from fastlayer import _backend
from fastlayer._values import NamedTuple
from fastlayer.layer.compression import Chunked, Codec
from fastlayer.layer.hashing import hashing
from fastlayer.layer.output import Output
from fastlayer.layer.pipeline import STEP, Pipeline, Ring, in_order
from fastlayer.layer.progress import Reporter
from fastlayer.oci.descriptor import Descriptor
from fastlayer.oci.digest import Digest, digest_of
from fastlayer.oci.mediatypes import layer_media_type

_LARGEST_PIECE = 16 << 20


class Layer(NamedTuple):
    """A written layer. ``size`` and ``digest`` are of the blob, ``tar_size`` and ``diff_id`` of the tar inside.

    ``entries`` counts tar entries (whiteouts and parent directories included), ``payload`` bytes of file content.
    ``annotations``, keys and values, belong into its descriptor: those of zstd:chunked and eStargz tell readers where
    the files are. ``made_of``: the diff id of the tar that was given, where the one inside is another (eStargz).
    """

    media_type: str
    digest: Digest
    size: int
    diff_id: Digest
    tar_size: int
    entries: int
    payload: int
    warnings: tuple[str, ...] = ()
    annotations: tuple[tuple[str, str], ...] = ()
    made_of: Digest | None = None

    @property
    def source_id(self) -> Digest:
        """The diff id of the tar that was given."""
        return self.made_of or self.diff_id

    @property
    def descriptor(self) -> Descriptor:
        """The OCI descriptor of the blob."""
        return Descriptor(self.media_type, self.digest, self.size, dict(self.annotations))

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


class TarSource(Protocol):
    """A tar that is read once, from its beginning. An encoder is one, and so is the reader of a blob."""

    def readinto(self, buffer: Any, /) -> int:
        """Up to len(buffer) bytes; 0 at the end."""
        ...


class Tar:
    """The tar as the source gives it."""

    def __init__(self, source: TarSource, report: Reporter) -> None:
        self.size = 0
        self._source = source
        self._report = report

    def fill(self, buffer: memoryview, pipeline: Pipeline | None = None) -> int:
        """The next bytes, in steps of a MiB; less than the buffer holds only at the end."""
        filled = 0
        while filled < len(buffer):
            if pipeline is not None:
                pipeline.check()
            part = buffer[filled : filled + STEP]
            count = _read(self._source, part)
            filled += count
            if count < len(part):
                break
        self.size += filled
        return filled

    @property
    def entries(self) -> int:
        """Tar entries so far; 0 where the source does not count them."""
        return getattr(self._source, "entries", 0)

    def tell(self) -> None:
        self._report.update("write", self.entries, self.size)


def _read(source: TarSource, part: memoryview) -> int:
    """Fills the part; fewer bytes only at the end."""
    filled = 0
    while filled < len(part) and (count := source.readinto(part[filled:] if filled else part)):
        filled += count
    return filled


class Blob:
    """The blob as it is written."""

    def __init__(self, output: Output) -> None:
        self.size = 0
        self._output = output

    def write(self, data: Any) -> None:
        self._output.write(data)
        self.size += len(data)


def write_layer(
    table: _backend.ChangeTable,
    roots: Sequence[int],
    output: Output,
    codec: Codec | Chunked,
    *,
    clamp_mtime: int | None,
    jobs: int,
    report: Reporter,
    warnings: Sequence[str] = (),
) -> Layer:
    """Encodes ``table`` into ``output`` (which the caller commits). Raises what the engine and the output raise."""
    encoder = _backend.engine().encode.Encoder(table, list(roots), clamp_mtime)
    written = write_tar(encoder, output, codec, jobs=jobs, report=report)
    return written._replace(entries=encoder.entries, payload=encoder.payload, warnings=(*warnings, *written.warnings))


def write_tar(source: TarSource, output: Output, codec: Codec | Chunked, *, jobs: int, report: Reporter) -> Layer:
    """Compresses a tar into ``output`` (which the caller commits); its entries are not counted.

    ``codec``: as ``compression.layer_codec`` gives it. With ``estargz`` the ``diff_id`` is not that of the source;
    ``warnings`` may say that it, or a ``zstd:chunked``, came out as an ordinary blob (``chunked.writer``). Raises what
    the source and the output raise.
    """
    if isinstance(codec, Chunked):
        from fastlayer.layer.chunked.writer import write_chunked

        return write_chunked(source, output, codec, jobs=jobs, report=report)
    tar, blob = Tar(source, report), Blob(output)
    plain = codec.name == "none"
    first = memoryview(mmap.mmap(-1, codec.block_size))
    count = tar.fill(first)
    if count < len(first):
        diff_id, digest = _write_small(blob, codec, first[:count])
    elif plain:
        diff_id = digest = _write_plain(tar, blob, first)
    else:
        diff_id, digest = _write_compressed(tar, blob, codec, first, jobs)
    report.end("write", tar.entries, tar.size, tar.size)
    return Layer(layer_media_type(codec.name), digest, blob.size, diff_id, tar.size, 0, 0)


def _write_small(blob: Blob, codec: Codec, data: memoryview) -> tuple[Digest, Digest]:
    """diff_id and digest, as of the other two."""
    piece = codec.compress(data)
    blob.write(piece)
    diff_id = digest_of(data)
    return diff_id, diff_id if codec.name == "none" else digest_of(piece)


def _write_plain(tar: Tar, blob: Blob, first: memoryview) -> Digest:
    """Encode, hash and write in three threads; the caller's one writes."""
    with hashing(1) as (stream,), Pipeline() as pipeline:
        ring = Ring(pipeline, 6, len(first))
        encoded = pipeline.channel()
        encoded.put((first, len(first)))

        def encode() -> None:
            count = len(first)
            while count == len(first):
                buffer = ring.take()
                count = tar.fill(buffer, pipeline)
                encoded.put((buffer, count))

        pipeline.spawn(encode)
        count = len(first)
        while count == len(first):
            buffer, count = encoded.get()
            back = ring.returns(buffer, 2)
            stream.put(buffer[:count], back)
            blob.write(buffer[:count])
            back()
            tar.tell()
        pipeline.stop()
        return stream.finish()


def _write_compressed(tar: Tar, blob: Blob, codec: Codec, first: memoryview, jobs: int) -> tuple[Digest, Digest]:
    """Encode in one thread, compress in ``jobs``, write in the caller's.

    A buffer goes back when it is hashed and its piece is written and hashed: that bounds the pieces that wait, too.
    """
    keep_freed_pieces()
    with hashing(2) as (tar_stream, blob_stream), Pipeline() as pipeline:
        ring = Ring(pipeline, jobs + 5, len(first))
        work, done = pipeline.channel(), pipeline.channel()

        def give_out(number: int, buffer: memoryview, count: int) -> None:
            back = ring.returns(buffer, 3)
            tar_stream.put(buffer[:count], back)
            work.put((number, buffer[:count], back))

        def encode() -> None:
            number, count = 0, len(first)
            while count == len(first):
                buffer = ring.take()
                number += 1
                count = tar.fill(buffer, pipeline)
                if count:
                    give_out(number, buffer, count)
            done.put((number + 1 if count else number, None))

        def compress() -> None:
            while True:
                number, data, back = work.get()
                done.put((number, (codec.compress(data), back)))

        give_out(0, first, len(first))
        pipeline.spawn(encode)
        for _ in range(jobs):
            pipeline.spawn(compress)
        for piece, back in in_order(done):
            blob_stream.put(piece, back)
            blob.write(piece)
            back()
            tar.tell()
        pipeline.stop()
        return tar_stream.finish(), blob_stream.finish()


def keep_freed_pieces() -> None:
    """Freeing one large block, never touched, tells glibc's malloc to recycle the compressed pieces.

    Its threshold for giving memory back to the kernel follows the largest block freed (mallopt(3), M_MMAP_THRESHOLD);
    without this every piece is mapped, zeroed and unmapped anew. Other allocators take no notice.
    """
    bytearray(_LARGEST_PIECE)
