"""The forms that a layer can be sent in: codec, level, and what its descriptor says then."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from fastlayer._checked import whole
from fastlayer._values import NamedTuple
from fastlayer.content.files import write_all
from fastlayer.errors import DigestMismatchError, UsageError
from fastlayer.image.pipe import piped
from fastlayer.layer.expand import Expansion
from fastlayer.layer.pipeline import default_jobs
from fastlayer.layer.source import Source
from fastlayer.oci import mediatypes
from fastlayer.oci.descriptor import Descriptor
from fastlayer.oci.digest import Digest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from fastlayer.layer.writer import Layer, TarSource

Compression = Literal["none", "gzip", "zstd", "zstd:chunked", "estargz"]
COMPRESSIONS: tuple[Compression, ...] = ("none", "gzip", "zstd", "zstd:chunked", "estargz")
MAKERS = 2  # layers that are made at the same time: each takes all processors, but for its beginning and its end
_MOST_JOBS = 8  # threads of one layer that is made: memory goes with them


class Made(NamedTuple):
    """The blob of a layer that was made: ``size`` in bytes; ``annotations`` are for its descriptor.

    ``diff_id``: of the tar inside, which is another one than that of the layer in an eStargz; ``made_of``: the latter.
    """

    media_type: str
    digest: Digest
    size: int
    diff_id: Digest
    made_of: Digest
    annotations: Mapping[str, str] = {}
    warnings: tuple[str, ...] = ()

    @property
    def descriptor(self) -> Descriptor:
        return Descriptor(self.media_type, self.digest, self.size, self.annotations)


def made(layer: Layer) -> Made:
    """Of what the writer of a layer says."""
    blob = (layer.media_type, layer.digest, layer.size)
    return Made(*blob, layer.diff_id, layer.source_id, dict(layer.annotations), layer.warnings)


class Form(NamedTuple):
    """A compression, and the level that was asked for (None: its own)."""

    compression: Compression
    level: int | None = None

    @property
    def name(self) -> str:
        """``gzip:1``: what the store remembers the result by."""
        return self.compression if self.level is None else f"{self.compression}:{self.level}"

    @property
    def codec(self) -> str:
        """What a reader needs that knows nothing of chunks: ``none``, ``gzip`` or ``zstd``."""
        from fastlayer.layer.compression import CHUNKED

        return CHUNKED.get(self.compression, self.compression)

    @property
    def media_type(self) -> str:
        return mediatypes.layer_media_type(self.codec)

    def write(self, source: TarSource, output: Any, jobs: int) -> Made:
        """Writes the blob of a tar to a binary file."""
        from fastlayer.layer.compression import layer_codec
        from fastlayer.layer.output import Output
        from fastlayer.layer.progress import Reporter
        from fastlayer.layer.writer import write_tar

        codec = layer_codec(self.compression, self.level)
        with Output(output) as target:
            return made(write_tar(source, target, codec, jobs=jobs, report=Reporter(None)))


def form_of(compression: str, level: int | None) -> Form:
    """The form that was asked for. Raises ``UsageError``."""
    from fastlayer.layer.compression import check_level

    for known in COMPRESSIONS:
        if compression == known:
            check_level(known, None if level is None else whole("level", level))
            return Form(known, level)
    raise UsageError(f"unknown compression {compression!a}: use {', '.join(COMPRESSIONS[:-1])} or {COMPRESSIONS[-1]}")


def threads(jobs: int | None) -> int:
    """How many make one layer, of the ``jobs`` that were asked for."""
    return min(default_jobs(jobs), _MOST_JOBS)


def remade(
    blob: Descriptor, data: Callable[[], Iterable[bytes | memoryview]], form: Form, jobs: int
) -> Callable[[Any], Made]:
    """What makes a layer of its blob in another form: inflated, verified and compressed as it goes by."""

    def tar(sink: int) -> None:
        with Source(Pieces(data(), str(blob.digest))) as source:
            expansion = Expansion(source, jobs=jobs)
            expansion.run(lambda piece: write_all(sink, piece))
        if expansion.digest != blob.digest:
            raise DigestMismatchError(f"{blob.digest}: the bytes hash to {expansion.digest}: fetch it again")

    def write(output: Any) -> Made:
        with piped(tar) as source, Source(source) as inflated:
            return form.write(inflated, output, jobs)

    return write


class Pieces(io.RawIOBase):
    """Pieces as a file to read from."""

    def __init__(self, pieces: Iterable[bytes | memoryview], name: str) -> None:
        self.name = name
        self._pieces = iter(pieces)
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not len(self._rest):
            piece = next(self._pieces, None)
            if piece is None:
                return 0
            self._rest = memoryview(piece).cast("B")
        count = min(len(self._rest), len(buffer))
        buffer[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count
