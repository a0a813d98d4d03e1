"""``fastlayer.apply``: layers onto a tree.

::

    read, sha256 (digest) -> inflate (in parallel where the blob allows it) -> sha256 (diff_id) -> extract

All stages of a layer run at once; layers follow each other. A small layer is applied without threads.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from fastlayer import _backend
from fastlayer.errors import DigestMismatchError, LayerError, LimitError, UsageError
from fastlayer.layer.decompress import Lookahead, Reader, open_pieces, open_reader
from fastlayer.layer.pipeline import STEP, Channel, Pipeline, Ring, default_jobs
from fastlayer.layer.progress import ProgressCallback, Reporter
from fastlayer.layer.source import Source, is_stream
from fastlayer.layer.target import Target
from fastlayer.oci.digest import Digest, sha256_digest
from fastlayer.oci.mediatypes import layer_media_type

Format = Literal["dir", "overlay", "overlay-userxattr", "aufs"]
Durability = Literal["none", "syncfs", "fsync"]
IdMap = Sequence[tuple[int, int, int]]

_FORMATS = ("dir", "overlay", "overlay-userxattr", "aufs")
_SMALL = 1 << 20  # blobs up to this many bytes are applied in the calling thread
_RATIO_FREE = 1 << 30  # bytes a layer may expand to before max_ratio counts
_RAW_SIZE = 256 << 10
_MAX_ID = (1 << 32) - 2


class Limits(NamedTuple):
    """What a layer may cost; 0 means no limit. Exceeding one raises ``LimitError``.

    ``max_size``: bytes of all regular files of a layer; ``max_file_size``: of one; ``max_pax``: of one extended header;
    ``max_ratio``: tar bytes per blob byte, counted once a layer has expanded beyond 1 GiB.
    """

    max_entries: int = 20_000_000
    max_size: int = 1 << 40
    max_file_size: int = 1 << 40
    max_ratio: int = 200
    max_pax: int = 1 << 20


DEFAULT_LIMITS = Limits()


class AppliedLayer(NamedTuple):
    """One layer as it was applied. ``digest`` and ``size`` are of the blob, ``diff_id`` and ``tar_size`` of the tar."""

    media_type: str
    digest: Digest
    size: int
    diff_id: Digest
    tar_size: int
    entries: int
    payload: int
    whiteouts: int

    def to_dict(self) -> dict[str, Any]:
        """For JSON; names as in an OCI descriptor where it has them."""
        return {
            "mediaType": self.media_type,
            "digest": str(self.digest),
            "size": self.size,
            "diff_id": str(self.diff_id),
            "tar_size": self.tar_size,
            "entries": self.entries,
            "payload": self.payload,
            "whiteouts": self.whiteouts,
        }


class ApplyStats(NamedTuple):
    """What was done: sums over ``layers``, and warnings (one line per cause)."""

    layers: tuple[AppliedLayer, ...]
    entries: int
    payload: int
    whiteouts: int
    warnings: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "entries": self.entries,
            "payload": self.payload,
            "whiteouts": self.whiteouts,
            "layers": [layer.to_dict() for layer in self.layers],
            "warnings": list(self.warnings),
        }


def apply(
    layers: Any,
    target: Any,
    *,
    format: Format = "dir",
    digest: str | Sequence[str | None] | None = None,
    diff_id: str | Sequence[str | None] | None = None,
    uid_map: IdMap | None = None,
    gid_map: IdMap | None = None,
    ignore_chown: bool = False,
    durability: Durability = "none",
    jobs: int | None = None,
    limits: Limits = DEFAULT_LIMITS,
    progress: ProgressCallback | None = None,
) -> ApplyStats:
    """Puts ``layers``, lowest first, onto the directory ``target``.

    ``layers``: a path, descriptor or binary file object, or a sequence of them; the codec is found from the content.
    ``target``: a path, or the descriptor of a directory. A path where nothing is yet becomes a directory: it is made
    beside its name and renamed when all layers are applied and verified, so a failure leaves nothing. A directory that
    exists is changed in place, so a failure leaves it half-done.

    ``format``: ``dir`` carries whiteouts out; the others convert them to that storage format. ``digest`` (of the blob)
    and ``diff_id`` (of the tar): what each layer must hash to, else ``DigestMismatchError``. ``uid_map``, ``gid_map``:
    ``(inside, outside, count)`` ranges. ``ignore_chown``: owners that may not be set are left. ``durability``: what has
    reached the disk at return: nothing in particular, the whole file system (``syncfs``), or each file (``fsync``).
    """
    sources = _as_list(layers)
    wanted = list(zip(_expected("digest", digest, sources), _expected("diff_id", diff_id, sources), strict=True))
    _check(format, durability, jobs)
    report, threads = Reporter(progress), default_jobs(jobs)
    applied: list[AppliedLayer] = []
    warnings: list[str] = []
    with Target(target) as place:
        extractor = _backend.engine().extract.Extractor(
            place.fd,
            format=format,
            uid_map=_id_map("uid_map", uid_map),
            gid_map=_id_map("gid_map", gid_map),
            ignore_chown=ignore_chown,
            max_entries=limits.max_entries,
            max_size=limits.max_size,
            max_file_size=limits.max_file_size,
            max_pax=limits.max_pax,
            fsync=durability == "fsync",
        )
        try:
            for value, (blob_digest, tar_digest) in zip(sources, wanted, strict=True):
                with Source(value) as source:
                    layer, found = _apply_named(source, extractor, limits, threads, report)
                    _verify(source.name, layer, blob_digest, tar_digest)
                applied.append(layer)
                warnings += [warning for warning in found if warning not in warnings]
        except BaseException:
            extractor.abort()
            raise
        place.commit(durability)
    return ApplyStats(
        tuple(applied),
        sum(layer.entries for layer in applied),
        sum(layer.payload for layer in applied),
        sum(layer.whiteouts for layer in applied),
        tuple(warnings),
    )


# ---- arguments -----------------------------------------------------------------------------------


def _as_list(layers: Any) -> list[Any]:
    if isinstance(layers, Sequence) and not isinstance(layers, (str, bytes)) and not is_stream(layers):
        return list(layers)
    return [layers]


def _expected(name: str, value: str | Sequence[str | None] | None, sources: list[Any]) -> list[Digest | None]:
    values = [value] if isinstance(value, str) else [None] * len(sources) if value is None else list(value)
    if len(values) != len(sources):
        raise UsageError(f"{name}: {len(values)} given for {len(sources)} layers: give one for each")
    found = []
    for text in values:
        try:
            checked = None if text is None else Digest(text)
        except ValueError as exc:
            raise UsageError(f"{name}: {exc}") from exc
        if checked is not None and checked.algorithm != "sha256":
            raise UsageError(f"{name}: {checked.algorithm} is not supported: give a sha256 digest")
        found.append(checked)
    return found


def _check(format: str, durability: str, jobs: int | None) -> None:
    if format not in _FORMATS:
        raise UsageError(f"format={format!r} is unknown: use {', '.join(_FORMATS)}")
    if durability not in ("none", "syncfs", "fsync"):
        raise UsageError(f"durability={durability!r} is unknown: use none, syncfs or fsync")
    if jobs is not None and jobs < 1:
        raise UsageError("jobs must be at least 1")


def _id_map(name: str, ranges: IdMap | None) -> tuple[tuple[int, int, int], ...] | None:
    """Ranges that may be used: non-empty, within 32 bits (2^32-1 means "no id"), inside ids not named twice."""
    if not ranges:
        return None
    checked = sorted((int(inside), int(outside), int(count)) for inside, outside, count in ranges)
    end = 0
    for inside, outside, count in checked:
        if count < 1 or min(inside, outside) < 0 or max(inside, outside) + count - 1 > _MAX_ID:
            raise UsageError(f"{name}: {inside}:{outside}:{count} is not a range of ids")
        if inside < end:
            raise UsageError(f"{name}: id {inside} is mapped twice")
        end = inside + count
    return tuple(checked)


# ---- one layer -----------------------------------------------------------------------------------


class _Run:
    """The counters of one layer on its way."""

    def __init__(self, source: Source, extractor: _backend.Extractor, limits: Limits, report: Reporter) -> None:
        self.source = source
        self.blob_sha = hashlib.sha256(usedforsecurity=False)
        self.blob_size = 0
        self.tar_sha = hashlib.sha256(usedforsecurity=False)
        self.tar_size = 0
        self._extractor = extractor
        self._limits = limits
        self._report = report

    def took(self, data: memoryview) -> None:
        """Bytes of the blob were read."""
        self.blob_sha.update(data)
        self.blob_size += len(data)

    def feed(self, data: Any) -> None:
        """Bytes of the tar, on to the extractor."""
        self.tar_size += len(data)
        if self.tar_size > _RATIO_FREE and 0 < self._limits.max_ratio * max(self.blob_size, 1) < self.tar_size:
            raise LimitError(
                f"expands to more than {self._limits.max_ratio} times its size: raise max_ratio if you trust it"
            )
        self._extractor.feed(data)
        self._report.update("apply", self._extractor.entries, self.blob_size, self.source.size)


def _apply_named(
    source: Source, extractor: _backend.Extractor, limits: Limits, jobs: int, report: Reporter
) -> tuple[AppliedLayer, tuple[str, ...]]:
    """Errors about the layer get its name."""
    try:
        return _apply_one(source, extractor, limits, jobs, report)
    except LayerError as exc:
        raise type(exc)(f"{source.name}: {exc}") from exc


def _apply_one(
    source: Source, extractor: _backend.Extractor, limits: Limits, jobs: int, report: Reporter
) -> tuple[AppliedLayer, tuple[str, ...]]:
    run = _Run(source, extractor, limits, report)
    extractor.begin_layer()
    small = source.size is not None and source.size <= _SMALL
    codec = _apply_inline(run) if small else _apply_threaded(run, jobs)
    stats = extractor.end_layer()
    report.end("apply", stats.entries, run.blob_size, source.size)
    plain = codec == "none"
    diff_id = sha256_digest(run.tar_sha.hexdigest())
    layer = AppliedLayer(
        layer_media_type(codec),
        diff_id if plain else sha256_digest(run.blob_sha.hexdigest()),
        run.tar_size if plain else run.blob_size,
        diff_id,
        run.tar_size,
        stats.entries,
        stats.payload,
        stats.whiteouts,
    )
    return layer, stats.warnings


class _Hashed:
    """The source, hashed as it is read."""

    def __init__(self, run: _Run) -> None:
        self._run = run

    def readinto(self, buffer: Any, /) -> int:
        count = self._run.source.readinto(buffer)
        self._run.took(memoryview(buffer)[:count])
        return count


def _apply_inline(run: _Run) -> str:
    codec, reader = open_reader(Lookahead(_Hashed(run)))
    buffer = memoryview(bytearray(_SMALL))
    while count := reader.readinto(buffer):
        run.tar_sha.update(buffer[:count])
        run.feed(buffer[:count])
    return codec


class _Checked:
    """The source for a stage: a silent pipe does not keep it from stopping."""

    def __init__(self, source: Source, pipeline: Pipeline) -> None:
        self._source = source
        self._pipeline = pipeline

    def readinto(self, buffer: Any, /) -> int:
        self._pipeline.check()
        return self._source.readinto(buffer, self._pipeline.check)


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


def _apply_threaded(run: _Run, jobs: int) -> str:
    """The stages in threads of their own; the caller's one extracts."""
    with Pipeline() as pipeline:
        look = Lookahead(_Checked(run.source, pipeline))
        codec = look.detect()
        stream = Lookahead(_spawn_reader(run, look, pipeline)) if codec != "none" else look
        ring = Ring(pipeline, 6, STEP)
        expanded, hashed = pipeline.channel(), pipeline.channel()
        credits = pipeline.channel()  # pieces of tar that may be on their way
        for _ in range(jobs + 4):
            credits.put(None)
        pipeline.spawn(lambda: _expand(open_pieces(codec, stream), pipeline, ring, credits, expanded, jobs))
        pipeline.spawn(lambda: _hash_in_order(run, expanded, hashed))
        while True:
            data, buffer = hashed.get()
            if data is None:
                break
            run.feed(data)
            if buffer is not None:
                ring.give(buffer)
            else:
                credits.put(None)
        pipeline.stop()
    return codec


def _spawn_reader(run: _Run, look: Lookahead, pipeline: Pipeline) -> _Stream:
    """Reads and hashes the blob ahead of the inflater."""
    ring, raw = Ring(pipeline, 8, _RAW_SIZE), pipeline.channel()

    def read() -> None:
        count = 1
        while count:
            buffer = ring.take()
            count = look.readinto(buffer)
            run.took(buffer[:count])
            raw.put((buffer, count))

    pipeline.spawn(read)
    return _Stream(raw, ring)


def _expand(pieces: Any, pipeline: Pipeline, ring: Ring, credits: Channel, expanded: Channel, jobs: int) -> None:
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


def _hash_in_order(run: _Run, expanded: Channel, hashed: Channel) -> None:
    ready: dict[int, tuple[Any, Any]] = {}
    number = 0
    while True:
        while number not in ready:
            found, data, buffer = expanded.get()
            ready[found] = (data, buffer)
        data, buffer = ready.pop(number)
        if data is not None:
            run.tar_sha.update(data)
        hashed.put((data, buffer))
        if data is None:
            return
        number += 1


def _verify(name: str, layer: AppliedLayer, digest: Digest | None, diff_id: Digest | None) -> None:
    for what, wanted, found in (("digest", digest, layer.digest), ("diff_id", diff_id, layer.diff_id)):
        if wanted is not None and wanted != found:
            raise DigestMismatchError(f"{name}: {what} is {found}, not {wanted}: fetch the layer again")
