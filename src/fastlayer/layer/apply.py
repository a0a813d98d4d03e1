"""``fastlayer.apply``: layers onto a tree, each expanded (``expand``) and extracted at the same time."""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, Literal

from fastlayer import _backend
from fastlayer._values import NamedTuple
from fastlayer.errors import DigestMismatchError, LayerError, StorageError, UsageError
from fastlayer.layer.arguments import CALLBACK, DIGESTS, DIRECTORY, FLAG, ID_MAP, LIMITS, NUMBER, check
from fastlayer.layer.assembled import Assembled, Assembly, is_assembled
from fastlayer.layer.expand import Expansion
from fastlayer.layer.limits import DEFAULT_LIMITS, Limits, check_limits
from fastlayer.layer.operands import check_descriptors
from fastlayer.layer.pipeline import default_jobs
from fastlayer.layer.progress import ProgressCallback, Reporter
from fastlayer.layer.source import Source, check_sources, is_stream, named
from fastlayer.layer.target import Target
from fastlayer.oci.digest import Digest
from fastlayer.oci.mediatypes import layer_media_type

if TYPE_CHECKING:
    from fastlayer.layer import types

Format = Literal["dir", "overlay", "overlay-userxattr", "aufs"]
Durability = Literal["none", "syncfs", "fsync"]
IdMap = Sequence[tuple[int, int, int]]

FORMATS = ("dir", "overlay", "overlay-userxattr", "aufs")
_MAX_ID = (1 << 32) - 2
ROOT_IS_OPAQUE = "the root is opaque, which overlay cannot say: mount this layer without lower ones"  # a warning
NEXT_STEPS = {  # by errno
    errno.ENOSPC: "free some space, or give a target on another file system",
    errno.EDQUOT: "raise the quota, or give a target on another file system",
    errno.EROFS: "give a target that can be written to",
    errno.EPERM: "run as root; owners alone can be left with ignore_chown",
    errno.EACCES: "give a target that you may write to",
    errno.ENAMETOOLONG: "give a target on a file system that takes such names",
}


class AppliedLayer(NamedTuple):
    """One layer as it was applied. ``digest`` and ``size`` are of the blob, ``diff_id`` and ``tar_size`` of the tar.

    ``needs_lower``: in a format with markers: it has entries in directories that it does not describe, an opaque root,
    or devices that were left out. Mounted on lower layers that have something there, it is not what applying it onto
    them would make.
    """

    media_type: str
    digest: Digest
    size: int
    diff_id: Digest
    tar_size: int
    entries: int
    payload: int
    whiteouts: int
    needs_lower: bool = False

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
    layers: types.LayerSource | Sequence[types.LayerSource],
    target: types.Directory,
    *,
    format: Format = "dir",
    digest: str | Sequence[str | None] | None = None,
    diff_id: str | Sequence[str | None] | None = None,
    uid_map: IdMap | None = None,
    gid_map: IdMap | None = None,
    ignore_chown: bool = False,
    skip_devices: bool = False,
    durability: Durability = "none",
    donor: int | None = None,
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
    ``(inside, outside, count)`` ranges. ``ignore_chown``: owners that may not be set are left. ``skip_devices``:
    devices that may not be made (``EPERM``, as in user namespaces) are left out, with the hard links to them in the
    same layer, and counted in a warning. ``durability``: what has reached the disk at return: nothing in particular,
    the whole file system (``syncfs``), or each file (``fsync``). ``donor``: the descriptor of a directory, on the
    target's file system, in which an earlier call was cut short with the same bytes: its files are taken, not written
    again (``_backend.Extractor``); ``FileChangedError`` where that cannot be done: apply without it.
    """
    check(
        target=(target, DIRECTORY),
        digest=(digest, DIGESTS),
        diff_id=(diff_id, DIGESTS),
        uid_map=(uid_map, ID_MAP),
        gid_map=(gid_map, ID_MAP),
        ignore_chown=(ignore_chown, FLAG),
        skip_devices=(skip_devices, FLAG),
        donor=(donor, NUMBER),
        jobs=(jobs, NUMBER),
        limits=(limits, LIMITS),
        progress=(progress, CALLBACK),
    )
    sources = _as_list(layers)
    check_sources(value for value in sources if not is_assembled(value))
    wanted = list(zip(_expected("digest", digest, sources), _expected("diff_id", diff_id, sources), strict=True))
    _check(format, durability, jobs)
    check_limits(limits)
    check_descriptors(target, *sources)
    report, threads = Reporter(progress), default_jobs(jobs)
    uids, gids = _id_map("uid_map", uid_map), _id_map("gid_map", gid_map)
    with Target(target, (_mapped_root(uids), _mapped_root(gids))) as place:
        extractor = _backend.engine().extract.Extractor(
            place.fd,
            format=format,
            uid_map=uids,
            gid_map=gids,
            ignore_chown=ignore_chown,
            skip_devices=skip_devices,
            max_entries=limits.max_entries,
            max_size=limits.max_size,
            max_file_size=limits.max_file_size,
            max_pax=limits.max_pax,
            fsync=durability == "fsync",
            donor=-1 if donor is None else donor,
        )
        with _aborted_on_failure(extractor):
            stats = _apply_all(zip(sources, wanted, strict=True), extractor, limits, threads, report, place.name)
        place.commit(durability)
    return stats


# ---- arguments -----------------------------------------------------------------------------------


def _as_list(layers: Any) -> list[Any]:
    single = (str, bytes, bytearray, memoryview)
    if isinstance(layers, Sequence) and not isinstance(layers, single) and not is_stream(layers):
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
    if format not in FORMATS:
        raise UsageError(f"format={format!r} is unknown: use {', '.join(FORMATS)}")
    if durability not in ("none", "syncfs", "fsync"):
        raise UsageError(f"durability={durability!r} is unknown: use none, syncfs or fsync")
    if jobs is not None and jobs < 1:
        raise UsageError("jobs must be at least 1")


def _id_map(name: str, ranges: IdMap | None) -> tuple[tuple[int, int, int], ...] | None:
    """Ranges that may be used: non-empty, within 32 bits (2^32-1 means "no id"), inside ids not named twice."""
    if not ranges:
        return None
    checked = sorted((inside, outside, count) for inside, outside, count in ranges)
    end = 0
    for inside, outside, count in checked:
        if count < 1 or min(inside, outside) < 0 or max(inside, outside) + count - 1 > _MAX_ID:
            raise UsageError(f"{name}: {inside}:{outside}:{count} is not a range of ids")
        if inside < end:
            raise UsageError(f"{name}: id {inside} is mapped twice")
        end = inside + count
    return tuple(checked)


def _mapped_root(ranges: IdMap | None) -> int:
    """What id 0 is in the target; -1, which is no id, where it is outside of the map."""
    for inside, outside, count in ranges or ((0, 0, 1),):
        if inside <= 0 < inside + count:
            return outside
    return -1


# ---- layers --------------------------------------------------------------------------------------


@contextmanager
def _aborted_on_failure(extractor: _backend.Extractor) -> Iterator[None]:
    try:
        yield
    except BaseException:
        extractor.abort()
        raise


def _apply_all(
    layers: Iterable[tuple[Any, tuple[Digest | None, Digest | None]]],
    extractor: _backend.Extractor,
    limits: Limits,
    jobs: int,
    report: Reporter,
    target: str,
) -> ApplyStats:
    """Each onto the last, verified: its digest and diff id are what they have to be."""
    applied: list[AppliedLayer] = []
    warnings: list[str] = []
    for value, (blob_digest, tar_digest) in layers:
        with _opened(value, tar_digest) as source, _explained(source, target, extractor):
            layer, found = _apply_one(source, extractor, limits, jobs, report)
            _verify(source.name, layer, blob_digest, tar_digest)
        applied.append(layer)
        warnings += [warning for warning in found if warning not in warnings]
    return ApplyStats(
        tuple(applied),
        sum(layer.entries for layer in applied),
        sum(layer.payload for layer in applied),
        sum(layer.whiteouts for layer in applied),
        tuple(warnings),
    )


def _opened(value: Any, diff_id: Digest | None) -> AbstractContextManager[Source | Assembled]:
    if not is_assembled(value):
        return Source(value)
    if diff_id is None:
        raise UsageError(f"{value.name}: give its diff_id: nothing else tells whether it is the layer")
    return nullcontext(value)


@contextmanager
def _explained(source: Source | Assembled, target: str, extractor: _backend.Extractor) -> Iterator[None]:
    """Errors about the layer get its name, those of the target's file system its and the next step, too."""
    layer, before = source.name, extractor.entries
    try:
        yield
    except DigestMismatchError:
        raise
    except LayerError as exc:
        raise named(exc, source, extractor.entries - before) from exc
    except StorageError as exc:
        if exc.within or exc.filename == layer:  # about reading the layer itself
            raise
        hint = NEXT_STEPS.get(exc.errno or 0, "")
        if exc.errno == errno.EBUSY and exc.op == "remove a mount point":
            hint = "unmount what is mounted there first"
        elif exc.errno == errno.EPERM and exc.op == "mknod":
            hint = "run as root, or leave devices out (`--skip-devices`)"
        raise StorageError(exc.errno or 0, exc.op, exc.filename, within=f"{layer} onto {target}", hint=hint) from exc


def _apply_one(
    source: Source | Assembled, extractor: _backend.Extractor, limits: Limits, jobs: int, report: Reporter
) -> tuple[AppliedLayer, tuple[str, ...]]:
    if isinstance(source, Source):
        return _apply_blob(source, extractor, limits, jobs, report)
    return _apply_assembled(source, extractor, limits, report)


def _apply_assembled(
    source: Assembled, extractor: _backend.Extractor, limits: Limits, report: Reporter
) -> tuple[AppliedLayer, tuple[str, ...]]:
    tar = Assembly(source, extractor, max_ratio=limits.max_ratio)
    extractor.begin_layer()
    tar.run(lambda size: report.update("apply", extractor.entries, size, None))
    stats = extractor.end_layer()
    report.end("apply", stats.entries, tar.tar_size, None)
    layer = AppliedLayer(
        source.media_type,
        source.digest,
        source.size,
        tar.diff_id,
        tar.tar_size,
        stats.entries,
        stats.payload,
        stats.whiteouts,
        stats.needs_lower,
    )
    return layer, stats.warnings


def _apply_blob(
    source: Source, extractor: _backend.Extractor, limits: Limits, jobs: int, report: Reporter
) -> tuple[AppliedLayer, tuple[str, ...]]:
    blob = Expansion(source, jobs=jobs, max_ratio=limits.max_ratio)

    def sink(data: Any) -> None:
        extractor.feed(data)
        report.update("apply", extractor.entries, blob.blob_size, source.size)

    extractor.begin_layer()
    blob.run(sink)
    blob.refuse_empty()
    stats = extractor.end_layer()
    report.end("apply", stats.entries, blob.blob_size, source.size)
    layer = AppliedLayer(
        layer_media_type(blob.codec),
        blob.digest,
        blob.blob_size,
        blob.diff_id,
        blob.tar_size,
        stats.entries,
        stats.payload,
        stats.whiteouts,
        stats.needs_lower,
    )
    return layer, stats.warnings


def _verify(name: str, layer: AppliedLayer, digest: Digest | None, diff_id: Digest | None) -> None:
    for what, wanted, found in (("digest", digest, layer.digest), ("diff_id", diff_id, layer.diff_id)):
        if wanted is not None and wanted != found:
            raise DigestMismatchError(f"{name}: {what} is {found}, not {wanted}: fetch the layer again")
