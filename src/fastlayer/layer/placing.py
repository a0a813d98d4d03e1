"""A change table becomes a tree, or a layer in a storage format, without a tar: files are copied, or share extents."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from fastlayer import _backend
from fastlayer._values import NamedTuple
from fastlayer.errors import StorageError, UsageError
from fastlayer.layer.limits import DEFAULT_LIMITS, Limits, check_limits
from fastlayer.layer.pipeline import default_jobs
from fastlayer.layer.target import Target

if TYPE_CHECKING:
    from fastlayer.layer import types
    from fastlayer.layer.apply import Format


class Placed(NamedTuple):
    """What was done. The first four are as of the applied tar (``AppliedLayer``).

    ``shared``: bytes of files that share their extents with their source; ``copied``: bytes that were moved. Holes are
    in neither. ``warnings``: one line per cause.
    """

    entries: int
    payload: int
    whiteouts: int
    needs_lower: bool
    shared: int
    copied: int
    warnings: tuple[str, ...]


class Contents:
    """Small contents that are in no file (here-documents): a root for rows, held in memory; a context manager.

    ::

        with Contents() as contents:
            offset = contents.add(b"hello")
            builder.add([NewRow("A", b"f", 0o100644, size=5, root=1, source=offset)])
            place(builder.finish(), [context_fd, contents.fd], target)
    """

    def __init__(self) -> None:
        self.fd = os.memfd_create("fastlayer-contents", os.MFD_CLOEXEC)
        self._size = 0

    def add(self, data: bytes) -> int:
        """Where the bytes are from now on: the ``source`` of a row."""
        offset, view = self._size, memoryview(data)
        while view:
            written = os.pwrite(self.fd, view, self._size)
            self._size += written
            view = view[written:]
        return offset

    def __enter__(self) -> Contents:
        return self

    def __exit__(self, *_exc: object) -> None:
        os.close(self.fd)


def _nothing() -> None:
    pass


def place(
    table: _backend.ChangeTable,
    roots: Sequence[int],
    target: types.Directory,
    *,
    format: Format = "dir",
    clamp_mtime: int | None = None,
    ignore_chown: bool = False,
    skip_devices: bool = False,
    limits: Limits = DEFAULT_LIMITS,
    jobs: int | None = None,
    checkpoint: Callable[[], None] = _nothing,
) -> Placed:
    """Puts what ``table`` says onto the directory ``target``, as applying its layer tar would, and nothing else.

    ``roots``: descriptors of the directories (or files) that the rows' contents are in; number 0 is that of tree B for
    rows that name none. ``clamp_mtime``: seconds; later mtimes become it. ``jobs``: threads that copy. ``checkpoint``
    is called between batches; what it raises stops the work. The other arguments are those of ``fastlayer.apply``; a
    target that exists and fails is left half-done, one that does not is made when all is complete.

    Raises ``FileChangedError`` for a file that is not what the table says, ``UnsafeEntryError`` for a name or a device
    that a layer or the format cannot hold, ``LimitError``, ``StorageError``.
    """
    from fastlayer.layer.apply import FORMATS

    if format not in FORMATS:
        raise UsageError(f"format={format!r} is unknown: use {', '.join(FORMATS)}")
    check_limits(limits)
    with Target(target) as directory:
        extractor = _backend.engine().extract.Extractor(
            directory.fd,
            format=format,
            ignore_chown=ignore_chown,
            skip_devices=skip_devices,
            max_entries=limits.max_entries,
            max_size=limits.max_size,
            max_file_size=limits.max_file_size,
            max_pax=limits.max_pax,
        )
        try:
            placed = _place(extractor, table, list(roots), clamp_mtime, default_jobs(jobs), checkpoint)
        except StorageError as exc:
            extractor.abort()
            raise _explained(exc, directory.name) from exc
        except BaseException:
            extractor.abort()
            raise
        directory.commit("none")
    return placed


def _place(
    extractor: Any,
    table: _backend.ChangeTable,
    roots: list[int],
    clamp_mtime: int | None,
    jobs: int,
    checkpoint: Callable[[], None],
) -> Placed:
    extractor.begin_layer()
    while extractor.place(table, roots, clamp_mtime, jobs=jobs):
        checkpoint()
    shared, copied = extractor.shared_bytes, extractor.copied_bytes
    stats = extractor.end_layer()
    return Placed(stats.entries, stats.payload, stats.whiteouts, stats.needs_lower, shared, copied, stats.warnings)


def _explained(exc: StorageError, target: str) -> StorageError:
    """With where and what to do next."""
    from fastlayer.layer.apply import NEXT_STEPS

    return StorageError(exc.errno or 0, exc.op, exc.filename, within=target, hint=NEXT_STEPS.get(exc.errno or 0, ""))
