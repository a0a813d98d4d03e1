"""``fastlayer.diff``: what changed from tree A to tree B, as a list or as a layer."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Any, overload

from fastlayer import _backend
from fastlayer._backend import Compare, Row, XattrPolicy
from fastlayer._values import NamedTuple
from fastlayer.errors import StorageError, UsageError
from fastlayer.layer.arguments import CALLBACK, DIRECTORIES, DIRECTORY, NAME, NUMBER, check
from fastlayer.layer.limits import DEFAULT_LIMITS, Limits, check_limits
from fastlayer.layer.operands import Operand, check_descriptors, check_xattrs, name_side, of_directory, open_operand
from fastlayer.layer.pipeline import default_jobs
from fastlayer.layer.progress import ProgressCallback, Reporter

if TYPE_CHECKING:
    import numpy as np

    from fastlayer.layer import types
    from fastlayer.layer.places import Place
    from fastlayer.layer.stat import DiffStat, ModifiedFile
    from fastlayer.layer.writer import Layer

WHAT = ("content", "mode", "owner", "mtime", "xattr", "type", "link", "device")  # names of the bits of Row.what
_TYPES = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "dir",
    stat.S_IFLNK: "symlink",
    stat.S_IFCHR: "char",
    stat.S_IFBLK: "block",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
}
_ROW_SIZE = 64  # struct fl_row
_ROW_KIND = 62  # offset of its `kind`
_BATCH = 1024
_TICK_NS = 20_000_000  # ctimes are taken from a clock that ticks every 1 to 10 ms
_SETTLE = 4096  # pairs that may wait for a hash
_RELAX = 1 << 16  # entries between giving back memory of what was read
_MAX_SECONDS = (1 << 63) // 10**9 - 1  # a time in nanoseconds fits 64 bits


class ChangeKind(StrEnum):
    """Docker's letters."""

    ADD = "A"
    MODIFY = "C"
    DELETE = "D"


_KINDS = {str(kind): kind for kind in ChangeKind}


class Change(NamedTuple):
    """One changed path.

    ``path`` is relative and in bytes (``b"usr/bin/x"``; the root is ``b""``), ``name`` for people (``"/usr/bin/x"``).
    ``what`` names the changed attributes of a MODIFY. The attributes are those of B; of a DELETE only type, mode and
    size, and they are A's. ``size`` is bytes of a regular file, ``link`` a symlink's target, ``hardlink`` the path of
    the first name of the file when this is a later one, else None.
    """

    kind: ChangeKind
    path: bytes
    what: tuple[str, ...]
    mode: int
    uid: int
    gid: int
    size: int
    mtime_ns: int
    link: bytes
    hardlink: bytes | None
    rdev: tuple[int, int]

    @property
    def name(self) -> str:
        return "/" + os.fsdecode(self.path)

    @property
    def type(self) -> str:
        """``file``, ``dir``, ``symlink``, ``char``, ``block``, ``fifo`` or ``socket``."""
        return _TYPES.get(stat.S_IFMT(self.mode), "file")


def _what_names() -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(name for bit, name in enumerate(WHAT) if bits >> bit & 1) for bits in range(1 << len(WHAT)))


_WHAT_NAMES = _what_names()


def _change(row: Row) -> Change:
    return Change(
        _KINDS[row.kind],
        row.path,
        _WHAT_NAMES[row.what],
        row.mode,
        row.uid,
        row.gid,
        row.size,
        row.mtime_ns,
        row.link,
        row.leader,
        row.rdev,
    )


class Changes:
    """The answer of a diff: iterable, sized, true when anything changed. Changes come sorted by path (byte order).

    It keeps its operands open so that ``write`` and ``stat`` can read them; ``close`` it, use it as a context manager,
    or just drop it.
    """

    def __init__(
        self,
        table: _backend.ChangeTable,
        a: Operand,
        b: Operand,
        warnings: Sequence[str],
        lowers: Sequence[Operand] = (),
        upper: _backend.UpperDiffer | None = None,
    ) -> None:
        self._table = table
        self._a = a
        self._b = b
        self._lowers = tuple(lowers)
        self._upper = upper  # knows what the lower directories had
        self._closed = False
        self._hidden: frozenset[bytes] = frozenset()
        self.warnings = tuple(warnings)
        kinds = bytes(table.records().cast("B")[_ROW_KIND::_ROW_SIZE]) if len(table) else b""
        self._count = len(kinds) - kinds.count(b"P")

    def __len__(self) -> int:
        return self._count - len(self._hidden)

    def __bool__(self) -> bool:
        return len(self) > 0

    def __iter__(self) -> Iterator[Change]:
        rows = _backend.iter_rows(self._table, _BATCH)
        return (_change(row) for row in rows if row.kind != "P" and row.path not in self._hidden)

    def hide(self, paths: Iterable[bytes]) -> None:
        """Leaves these changes out of the list. They stay in the layer that is written."""
        self._hidden = frozenset(paths)

    @property
    def table(self) -> _backend.ChangeTable:
        """The answer as the engine gave it: what ``layer.placing`` takes."""
        return self._table

    def later_than(self, seconds: int) -> list[bytes]:
        """The paths in the layer, those of unchanged parents included, whose mtime SOURCE_DATE_EPOCH would clamp."""
        limit = seconds * 10**9
        rows = _backend.iter_rows(self._table, _BATCH)
        return [row.path for row in rows if row.kind != "D" and row.mtime_ns > limit]

    def stat(self) -> DiffStat:
        """Totals per kind, and how many bytes of modified files really changed (content-defined chunks).

        Reads the modified files of both sides; layer tars may be decompressed a second time for it.
        """
        from fastlayer.layer.stat import diff_stat

        return diff_stat(*self._both_sides())

    def modified(self) -> Iterator[ModifiedFile]:
        """The regular files that both sides have and that differ in content, with where they do; reads as ``stat``."""
        from fastlayer.layer.stat import modified_files

        return modified_files(*self._both_sides())

    def _both_sides(self) -> tuple[_backend.ChangeTable, Callable[[bytes], Place | None], Callable[[], list[int]]]:
        """The table, what finds A's files, and the roots of B's."""
        from fastlayer.layer.places import below_upper, in_operand

        self._need_operands()
        old = in_operand(self._a) if self._upper is None else below_upper(self._upper, self._lowers)
        return self._table, old, lambda: self.roots() if self._b.xattrs is None else []

    def to_numpy(self) -> np.ndarray[Any, Any]:
        """The change table as a structured array (``csrc/fl_entry.h``, ``struct fl_row``), without copying.

        Parent directories that are only there for the layer (kind ``P``) are included. ``heap`` holds the paths.
        """
        import numpy as np

        from fastlayer.layer.stat import row_dtype

        return np.frombuffer(self._table.records(), dtype=row_dtype())

    @property
    def heap(self) -> memoryview:
        """The bytes that ``path_off`` of ``to_numpy`` points into."""
        return self._table.heap()

    def write(
        self,
        output: types.Output,
        *,
        compression: str | None = None,
        level: int | None = None,
        source_date_epoch: int | None = None,
        jobs: int | None = None,
        progress: ProgressCallback | None = None,
    ) -> Layer:
        """Writes the layer that makes B of A.

        ``output``: a path (complete or not there at all), a descriptor or a binary file object. ``compression`` is
        ``none``, ``gzip``, ``zstd``, ``zstd:chunked`` or ``estargz``; by default what the extension of ``output``
        says. ``source_date_epoch``: seconds; later mtimes become it. Raises ``FileChangedError`` when B is not what it
        was, ``UnsafeEntryError`` for a changed name that a layer cannot hold, ``StorageError`` when the output cannot
        be written.
        """
        from fastlayer.layer import compression as codecs
        from fastlayer.layer.output import Output, refuse_inside
        from fastlayer.layer.writer import write_layer

        self._need_operands()
        _check_writing(compression, level, source_date_epoch, jobs, progress)
        if compression is None:
            compression = codecs.by_name(output) if isinstance(output, (str, bytes, os.PathLike)) else "none"
        codec = codecs.layer_codec(compression, level)
        roots = self.roots()
        with Output(output) as target:
            if self._b.directory is not None:
                refuse_inside(target, self._b.directory)
            layer = write_layer(
                self._table,
                roots,
                target,
                codec,
                clamp_mtime=source_date_epoch,
                jobs=default_jobs(jobs),
                report=Reporter(progress),
                warnings=self.warnings,
            )
            target.commit()
        return layer

    def roots(self) -> list[int]:
        """The descriptors that the contents of the table's files are read from, while this is open."""
        if self._b.xattrs is not None:
            raise UsageError(
                f"{self._b.name}: a saved index has no file contents: as B of a layer give the directory or layer tars"
            )
        contents = self._b.contents()
        if contents is None:
            return []
        return [contents, *(lower.directory for lower in self._lowers if lower.directory is not None)]

    def _need_operands(self) -> None:
        if self._closed:
            raise UsageError("the changes are closed: write and stat need the trees, so call them before")

    def close(self) -> None:
        """Closes the operands; the changes stay readable."""
        self._closed = True
        for operand in (self._a, self._b, *self._lowers):
            operand.close()

    def __enter__(self) -> Changes:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def __del__(self) -> None:
        if hasattr(self, "_lowers"):
            self.close()

    def __repr__(self) -> str:
        return f"<Changes: {self._count} from {self._a.name} to {self._b.name}>"


@overload
def diff(
    a: types.Operand,
    b: types.Operand,
    output: None = None,
    *,
    compare: Compare = "auto",
    xattrs: XattrPolicy = "all",
    compression: str | None = None,
    level: int | None = None,
    source_date_epoch: int | None = None,
    jobs: int | None = None,
    limits: Limits = DEFAULT_LIMITS,
    progress: ProgressCallback | None = None,
) -> Changes: ...
@overload
def diff(
    a: types.Operand,
    b: types.Operand,
    output: types.Output,
    *,
    compare: Compare = "auto",
    xattrs: XattrPolicy = "all",
    compression: str | None = None,
    level: int | None = None,
    source_date_epoch: int | None = None,
    jobs: int | None = None,
    limits: Limits = DEFAULT_LIMITS,
    progress: ProgressCallback | None = None,
) -> Layer: ...
def diff(
    a: types.Operand,
    b: types.Operand,
    output: types.Output | None = None,
    *,
    compare: Compare = "auto",
    xattrs: XattrPolicy = "all",
    compression: str | None = None,
    level: int | None = None,
    source_date_epoch: int | None = None,
    jobs: int | None = None,
    limits: Limits = DEFAULT_LIMITS,
    progress: ProgressCallback | None = None,
) -> Changes | Layer:
    """What has to be done to tree ``a`` to get tree ``b``.

    Operands are described in ``fastlayer.layer.operands``. Without ``output`` the ``Changes``; with it the layer is
    written there and described (see ``Changes.write`` for ``compression``, ``level``, ``source_date_epoch``).

    ``compare``: ``metadata`` trusts type, size, mtime, mode, owner, xattrs, link and device; ``content`` also reads all
    equal-looking files; ``auto`` reads those it cannot prove equal more cheaply. ``xattrs``: ``all``, ``docker`` (only
    security.capability) or ``none``. ``jobs``: threads for each kind of work, never visible in the result. ``limits``:
    what a layer tar as an operand may cost, as for ``apply``.
    """
    _check(compare, xattrs)
    _check_writing(compression, level, source_date_epoch, jobs, progress)
    check_limits(limits)
    report, threads = Reporter(progress), default_jobs(jobs)
    check_descriptors(a, b)
    opened: list[Operand] = []
    try:
        # a tar compared with no files at all, or by metadata, needs no content keys
        keys = compare != "metadata" and a is not None and b is not None
        for value, contents in ((a, False), (b, output is not None)):
            opened.append(open_operand(value, contents=contents, keys=keys, report=report, jobs=threads, limits=limits))
        for operand in opened:
            check_xattrs(operand, xattrs)
        left, right = opened
        differ = _backend.engine().changes.Differ(
            left.side, right.side, compare=compare, xattrs=xattrs, details=output is None, threads=threads
        )
        directory = left.directory if left.directory is not None else right.directory
        try:
            table = _run(differ, directory, threads, report, opened)
        except StorageError as exc:
            raise name_side(exc, opened) from exc
        changes = Changes(table, left, right, _warnings(table, differ.assumed))
    except BaseException:
        for operand in opened:
            operand.close()
        raise
    return _deliver(changes, output, compression, level, source_date_epoch, jobs, progress)


def diff_snapshots(a: Any, b: Any, *, shared_until_ns: int, xattrs: XattrPolicy = "all") -> Changes:
    """``diff`` of two directories that are one file system at two moments: snapshots of its block device, or of a
    subvolume.

    They were the same at ``shared_until_ns`` (nanoseconds since 1970), so files with an equal inode number and an equal
    ctime of more than a clock tick before are not read.
    """
    opened: list[Operand] = []
    try:
        for value in (a, b):
            opened.append(of_directory(value))
        left, right = opened
        differ = _backend.engine().changes.Differ(
            left.side, right.side, xattrs=xattrs, details=True, shared_until_ns=shared_until_ns - _TICK_NS
        )
        table = _run(differ, left.directory, default_jobs(None), Reporter(None))
        return Changes(table, left, right, _warnings(table, differ.assumed))
    except BaseException:
        for operand in opened:
            operand.close()
        raise


@overload
def diff_upper(
    upper: types.Directory,
    lowers: types.Directory | Sequence[types.Directory],
    output: None = None,
    *,
    compare: Compare = "auto",
    xattrs: XattrPolicy = "all",
    userxattr: bool | None = None,
    compression: str | None = None,
    level: int | None = None,
    source_date_epoch: int | None = None,
    jobs: int | None = None,
    progress: ProgressCallback | None = None,
) -> Changes: ...
@overload
def diff_upper(
    upper: types.Directory,
    lowers: types.Directory | Sequence[types.Directory],
    output: types.Output,
    *,
    compare: Compare = "auto",
    xattrs: XattrPolicy = "all",
    userxattr: bool | None = None,
    compression: str | None = None,
    level: int | None = None,
    source_date_epoch: int | None = None,
    jobs: int | None = None,
    progress: ProgressCallback | None = None,
) -> Layer: ...
def diff_upper(
    upper: types.Directory,
    lowers: types.Directory | Sequence[types.Directory],
    output: types.Output | None = None,
    *,
    compare: Compare = "auto",
    xattrs: XattrPolicy = "all",
    userxattr: bool | None = None,
    compression: str | None = None,
    level: int | None = None,
    source_date_epoch: int | None = None,
    jobs: int | None = None,
    progress: ProgressCallback | None = None,
) -> Changes | Layer:
    """What an overlayfs upper directory changes in the lower ones, reading the upper one only.

    ``lowers``: a directory or a sequence of them, top first, as in overlayfs' ``lowerdir=``. The rest as in ``diff``.

    ``userxattr``: as the mount option: overlayfs' marks are ``user.overlay.*``, else ``trusted.overlay.*``. Only those
    are honoured; attributes of the other name are data. None: what the caller can have mounted, which is ``trusted``
    for who may see ``trusted.*`` (root), else ``user``.
    """
    from fastlayer.layer.overlay import doubtful_marks, has_user_marks, too_many_files

    _check(compare, xattrs)
    _check_writing(compression, level, source_date_epoch, jobs, progress)
    report, threads = Reporter(progress), default_jobs(jobs)
    check(upper=(upper, DIRECTORY), lowers=(lowers, DIRECTORIES))
    below = list(lowers) if isinstance(lowers, Sequence) and not isinstance(lowers, (str, bytes)) else [lowers]
    if not below:
        raise UsageError("an upper directory needs at least one lower directory")
    check_descriptors(upper, *below)
    user_marks = has_user_marks(userxattr)
    opened: list[Operand] = []
    try:
        for value in (upper, *below):
            opened.append(of_directory(value))
        top, *bottoms = opened
        differ = _backend.engine().upper.UpperDiffer(
            top.side,
            [bottom.side for bottom in bottoms],
            compare=compare,
            xattrs=xattrs,
            userxattr=user_marks,
            details=output is None,
        )
        table = _run(differ, top.directory, threads, report)
        warnings = _warnings(table, 0)
        if userxattr is None and not user_marks and (doubt := doubtful_marks(top.directory)):
            warnings.append(doubt)
        changes = Changes(table, bottoms[0], top, warnings, bottoms, differ)
    except BaseException as exc:
        for operand in opened:
            operand.close()
        if said := too_many_files(exc, len(below)):
            raise said from exc
        raise
    return _deliver(changes, output, compression, level, source_date_epoch, jobs, progress)


def diff_only(a: Any, b: Any, only: Sequence[bytes]) -> Changes:
    """``diff`` of two directories for those who know where they may differ.

    ``only``: sorted paths, as ``fastlayer._backend.Differ`` describes them. If nothing else differs, the changes and
    their layer are those of ``diff(a, b)``, but for warnings about sockets at other places.
    """
    check_descriptors(a, b)
    opened: list[Operand] = []
    try:
        opened.append(of_directory(a))
        opened.append(of_directory(b))
        left, right = opened
        differ = _backend.engine().changes.Differ(left.side, right.side, details=True, threads=0, only=only)
        table = _run(differ, left.directory, 1, Reporter(None))
        return Changes(table, left, right, _warnings(table, differ.assumed))
    except BaseException:
        for operand in opened:
            operand.close()
        raise


def _deliver(
    changes: Changes,
    output: types.Output | None,
    compression: str | None,
    level: int | None,
    source_date_epoch: int | None,
    jobs: int | None,
    progress: ProgressCallback | None,
) -> Changes | Layer:
    if output is None:
        return changes
    with changes:
        return changes.write(
            output,
            compression=compression,
            level=level,
            source_date_epoch=source_date_epoch,
            jobs=jobs,
            progress=progress,
        )


def _check(compare: str, xattrs: str) -> None:
    if compare not in ("auto", "metadata", "content"):
        raise UsageError(f"compare={compare!r} is unknown: use auto, metadata or content")
    if xattrs not in ("all", "docker", "none"):
        raise UsageError(f"xattrs={xattrs!r} is unknown: use all, docker or none")


def _check_writing(
    compression: str | None,
    level: int | None,
    source_date_epoch: int | None,
    jobs: int | None,
    progress: ProgressCallback | None,
) -> None:
    check(
        compression=(compression, NAME),
        level=(level, NUMBER),
        source_date_epoch=(source_date_epoch, NUMBER),
        jobs=(jobs, NUMBER),
        progress=(progress, CALLBACK),
    )
    if source_date_epoch is not None and abs(source_date_epoch) > _MAX_SECONDS:
        raise UsageError(f"source_date_epoch={source_date_epoch} is no time: give seconds since 1970")
    if jobs is not None and jobs < 1:
        raise UsageError("jobs must be at least 1")


def _run(
    differ: _backend.Differ, directory: int | None, jobs: int, report: Reporter, read: Sequence[Operand] = ()
) -> _backend.ChangeTable:
    """Steps to the end, and hashes what only hashing can prove on the way, so that it does not pile up.

    ``read``: operands that can give back memory of what was read.
    """
    more, relaxed = True, 0
    while more:
        more = differ.step()
        report.update("compare", differ.entries, differ.bytes_compared)
        pairs = differ.unverified()
        if pairs and directory is not None and (len(pairs) >= _SETTLE or not more):
            from fastlayer.layer.keys import settle_all

            settle_all(differ, pairs, directory, jobs, report)
        if differ.entries - relaxed >= _RELAX:
            relaxed = differ.entries
            for operand in read:
                operand.relax()
    report.end("compare", differ.entries, differ.bytes_compared)
    return differ.finish()


def _warnings(table: _backend.ChangeTable, assumed: int) -> list[str]:
    found = []
    if table.skipped_sockets:
        found.append(f"{_many(table.skipped_sockets, 'socket')} skipped: a layer cannot hold sockets")
    if table.dropped_xattrs:
        found.append(f"{_many(table.dropped_xattrs, 'extended attribute')} left out by the xattr policy")
    if assumed:
        found.append(
            f"{_many(assumed, 'file')} counted as changed without proof: an index made with content would know"
        )
    return found


def _many(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"
