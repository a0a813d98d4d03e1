"""``cp NAME:PATH -``: a file or directory as a tar, below its own name, as `docker cp` writes it."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from typing import Any

from fastlayer import _backend
from fastlayer._backend import NewRow, Row
from fastlayer.container.cp.copying import found, tree_of
from fastlayer.container.cp.spot import Side, Spot, opened_directory

_BATCH = 4096  # rows


def write(source: Side, output: Any, *, follow: bool = False, jobs: int | None = None) -> tuple[str, ...]:
    """Writes the tar to a descriptor or binary file; returns warnings. ``DIR/.`` has no name before its paths.

    Raises ``NotFoundError``, ``OperandError``, ``FileChangedError``, ``StorageError``, and ``UnsafeEntryError`` for a
    name that would be a whiteout in a layer.
    """
    from fastlayer.layer.diff import diff

    with found(source, follow=follow) as what:
        if not what.is_directory:
            with opened_directory(what.parent) as root:
                return _write([_file_row(what, root)], root, output, jobs)
        with tree_of(source, what) as tree, diff(None, tree, jobs=jobs) as changes:
            prefix = b"" if source.says_content else what.name_in(source)
            return (*_write(_below(prefix, changes.table), tree, output, jobs), *changes.warnings)


def _write(rows: Any, root: int, output: Any, jobs: int | None) -> tuple[str, ...]:
    from fastlayer.layer.compression import codec
    from fastlayer.layer.output import Output
    from fastlayer.layer.pipeline import default_jobs
    from fastlayer.layer.progress import Reporter
    from fastlayer.layer.writer import write_layer

    builder = _backend.engine().changes.TableBuilder()
    builder.add(rows)
    with Output(output) as target:
        layer = write_layer(
            builder.finish(),
            [root],
            target,
            codec("none", None),
            clamp_mtime=None,
            jobs=default_jobs(jobs),
            report=Reporter(None),
        )
        target.commit()
    return layer.warnings


def _file_row(what: Spot, root: int) -> NewRow:
    status = os.lstat(what.name, dir_fd=root)
    is_file, is_link = stat.S_ISREG(status.st_mode), stat.S_ISLNK(status.st_mode)
    return NewRow(
        "A",
        what.name,
        status.st_mode,
        status.st_uid,
        status.st_gid,
        status.st_size if is_file else 0,
        status.st_mtime_ns,
        (os.major(status.st_rdev), os.minor(status.st_rdev)),
        os.readlink(what.name, dir_fd=root) if is_link else b"",
        _xattrs(root, what.name),
        source=what.name,
        ctime_ns=status.st_ctime_ns if is_file else 0,
    )


def _xattrs(directory: int, name: bytes) -> tuple[tuple[bytes, bytes], ...]:
    path = b"/proc/self/fd/%d/%s" % (directory, name)
    try:
        names = sorted(map(os.fsencode, os.listxattr(path, follow_symlinks=False)))
        return tuple((key, os.getxattr(path, key, follow_symlinks=False)) for key in names)
    except OSError:
        return ()


def _below(prefix: bytes, table: _backend.ChangeTable) -> Iterator[NewRow]:
    groups: dict[bytes, int] = {}
    for row in _rows(table):
        if row.leader is not None:
            groups.setdefault(row.leader, len(groups) + 1)
    return (_moved(prefix, row, groups) for row in _rows(table))


def _rows(table: _backend.ChangeTable) -> Iterator[Row]:
    for start in range(0, len(table), _BATCH):
        yield from table.rows(start, start + _BATCH)


def _moved(prefix: bytes, row: Row, groups: dict[bytes, int]) -> NewRow:
    """``groups``: a number for each file with several names, by the first of them."""
    first = row.path if row.leader is None else row.leader
    return NewRow(
        "A",
        b"/".join(part for part in (prefix, row.path) if part),
        row.mode,
        row.uid,
        row.gid,
        row.size,
        row.mtime_ns,
        row.rdev,
        row.link,
        row.xattrs,
        source=first,
        group=groups.get(first, 0),
    )
