"""Writing a layer whose files can be fetched one by one: cut, add up, compress, write, each byte once.

::

    tar -> batches of frames -> compress (a pool) -> in order: write, and note where the frames are
               |      |                                  |
               |      +-> sums of chunks and files ------+
               +-> sha256 (diff_id)                      +-> sha256 (digest)

The bytes depend on the tar, the format and its level only. A tar that has no table of contents (``Cutter.problem``) is
written as an ordinary blob, with a warning. Memory: the buffers of the ring, and about 100 bytes for an entry.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from fastlayer.layer.chunked import estargz, zstdchunked
from fastlayer.layer.chunked.cutting import BATCH, DATA, SKIP, Batch, Cutter, Entry
from fastlayer.layer.chunked.frames import Packer
from fastlayer.layer.chunked.places import ESTARGZ_SIZE
from fastlayer.layer.chunked.sums import Sum, Sums
from fastlayer.layer.compression import Chunked
from fastlayer.layer.hashing import HashStream, hashing
from fastlayer.layer.output import Output
from fastlayer.layer.pipeline import Pipeline, Ring, in_order
from fastlayer.layer.progress import Reporter
from fastlayer.layer.writer import Blob, Layer, Tar, TarSource, keep_freed_pieces
from fastlayer.oci.mediatypes import layer_media_type

_AHEAD = 5  # buffers beyond one for each compressing thread


class Format(Protocol):
    """A blob in the making. ``begin`` comes for every entry, ``chunk`` for every frame of its bytes, in order."""

    with_crc: bool  # whether sums have one
    annotations: dict[str, str]  # of the layer, after ``ending``
    cutter: Cutter

    @property
    def packer(self) -> Packer: ...
    def begin(self, entry: Entry) -> None: ...
    def chunk(self, offset: int, size: int, end: int, found: Sum) -> None: ...
    def tail(self, data: bytes) -> None:
        """Bytes behind the last entry."""
        ...

    def ending(self, offset: int) -> Iterator[tuple[bytes, bytes]]:
        """What follows in the blob, ``offset`` bytes long so far: (bytes of the tar, the same compressed)."""
        ...

    def plain_ending(self) -> Iterator[tuple[bytes, bytes]]:
        """The same of a blob without a table."""
        ...


def write_chunked(source: TarSource, output: Output, codec: Chunked, *, jobs: int, report: Reporter) -> Layer:
    """Writes a tar into ``output`` (which the caller commits), with a table of contents if it can have one.

    The layer's ``annotations`` belong into its descriptor; without a table there are none, and a warning says why. The
    tar of an eStargz is another one than the source: its ``diff_id`` is that of the blob.

    Raises what the source and the output raise, and ``LayerFormatError`` for what is no tar.
    """
    form: Format = zstdchunked.ZstdChunked(codec.level) if codec.base == "zstd" else estargz.Stargz(codec.level)
    work = _Work(Tar(source, report), Blob(output), form)
    keep_freed_pieces()
    with hashing(3 if form.cutter.own_end else 2) as streams:
        tar_stream, blob_stream, *source_stream = streams
        work.run(tar_stream, blob_stream, source_stream, jobs)
        warnings = work.end(codec.name, tar_stream, blob_stream)
        diff_id, digest, *made_of = (stream.finish() for stream in streams)
    report.end("write", work.cutter.entries, work.tar_size, work.tar_size)
    if codec.base == "gzip" and form.annotations:
        form.annotations[ESTARGZ_SIZE] = str(work.tar_size)
    return Layer(
        layer_media_type(codec.base),
        digest,
        work.blob.size,
        diff_id,
        work.tar_size,
        work.cutter.entries,
        work.cutter.payload,
        warnings,
        tuple(form.annotations.items()),
        *made_of,
    )


class _Work:
    def __init__(self, tar: Tar, blob: Blob, form: Format) -> None:
        self.blob = blob
        self.tar_size = 0
        self.cutter = form.cutter
        self._tar = tar
        self._form = form
        self._tells = True  # the table is being written

    def run(
        self, tar_stream: HashStream, blob_stream: HashStream, source_stream: Sequence[HashStream], jobs: int
    ) -> None:
        with Pipeline() as pipeline:
            stages = _Stages(self._tar, self._form, pipeline, (tar_stream, *source_stream), jobs)
            for batch, packed, lengths, back in in_order(stages.done):
                self._note(batch, lengths, stages.sums.get())
                blob_stream.put(packed)
                self.blob.write(packed)
                self.tar_size += sum(frame.stop - frame.start for frame in batch.frames if frame.kind != SKIP)
                back()
                self._tar.tell()
            pipeline.stop()

    def _note(self, batch: Batch, lengths: list[int], sums: list[Sum]) -> None:
        """Where the entries of the batch are in the blob."""
        entries, offset, found = iter(batch.entries), self.blob.size, iter(sums)
        entry = next(entries, None)
        for number, (frame, length) in enumerate(zip(batch.frames, lengths, strict=True)):
            while entry is not None and entry.at <= number:
                self._begin(entry)
                entry = next(entries, None)
            if frame.kind == DATA and self._tells:
                self._form.chunk(offset, frame.stop - frame.start, offset + length, next(found))
            offset += length
        while entry is not None:
            self._begin(entry)
            entry = next(entries, None)
        if batch.tail and self._tells:
            self._form.tail(batch.tail)

    def _begin(self, entry: Entry) -> None:
        self._tells = self._tells and bool(entry.text)
        if self._tells:
            self._form.begin(entry)

    def end(self, name: str, tar_stream: HashStream, blob_stream: HashStream) -> tuple[str, ...]:
        """Writes what follows the tar; returns the warnings."""
        problem = self.cutter.problem
        ending = self._form.plain_ending() if problem else self._form.ending(self.blob.size)
        for tar, packed in ending:
            tar_stream.put(tar)
            blob_stream.put(packed)
            self.blob.write(packed)
            self.tar_size += len(tar)
        if not problem:
            return ()
        return (f"written without the table of contents of {name}, which cannot have {problem}",)


class _Stages:
    """The threads before the last one. ``done`` has (number, (batch, packed, lengths, back)), ``sums`` those of each
    batch, in order."""

    def __init__(self, tar: Tar, form: Format, pipeline: Pipeline, streams: Sequence[HashStream], jobs: int) -> None:
        """``streams``: of the tar that comes out and, if it is another one, of that which goes in."""
        self.done, self.sums = pipeline.channel(), pipeline.channel()
        self._tar = tar
        self._form = form
        self._pipeline = pipeline
        self._streams = streams
        self._ring = Ring(pipeline, jobs + _AHEAD, BATCH)
        self._work, self._to_sum = pipeline.channel(), pipeline.channel()
        self._number = 0
        pipeline.spawn(self._cut)
        pipeline.spawn(self._sum)
        for _ in range(jobs):
            pipeline.spawn(self._pack)

    def _cut(self) -> None:
        cutter, buffer, left = self._form.cutter, self._ring.take(), 0
        while True:
            count = self._tar.fill(buffer[left:], self._pipeline)
            view = buffer[: left + count]
            back = self._give(cutter.feed(view, count), buffer, view[left:])
            rest = view[len(view) - cutter.left :]
            ended, left, buffer = len(view) < BATCH, len(rest), self._ring.take()
            buffer[:left] = rest
            back()
            if ended:
                break
        self._give(cutter.finish(buffer[:left]), buffer, buffer[:0])()
        self.done.put((self._number, None))

    def _give(self, batch: Batch, buffer: memoryview, new: memoryview) -> Any:
        """To the other stages. Returns what is to be called when the cutter needs the buffer no more."""
        tar_stream, *source_stream = self._streams
        runs = _kept(batch)
        back = self._ring.returns(buffer, 3 + len(runs) + len(source_stream))
        for start, stop in runs:
            tar_stream.put(batch.view[start:stop], back)
        for stream in source_stream:
            stream.put(new, back)
        self._to_sum.put((batch, back))
        self._work.put((self._number, batch, back))
        self._number += 1
        return back

    def _sum(self) -> None:
        sums = Sums(with_crc=self._form.with_crc)
        while True:
            batch, back = self._to_sum.get()
            self.sums.put(sums.of(batch.view, batch.frames))
            back()

    def _pack(self) -> None:
        while True:
            number, batch, back = self._work.get()
            packed, lengths = self._form.packer.pack(batch.view, batch.frames)
            self.done.put((number, (batch, packed, lengths, back)))


def _kept(batch: Batch) -> list[tuple[int, int]]:
    """What goes into the blob, neighbouring frames as one."""
    runs: list[tuple[int, int]] = []
    for frame in batch.frames:
        if frame.kind == SKIP:
            continue
        if runs and runs[-1][1] == frame.start:
            runs[-1] = (runs[-1][0], frame.stop)
        else:
            runs.append((frame.start, frame.stop))
    return runs
