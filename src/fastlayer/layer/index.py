"""``fastlayer.index``: remember what a tree looks like, to compare with later."""

from __future__ import annotations

import os
import tempfile
from typing import TYPE_CHECKING, Any

from fastlayer import _backend
from fastlayer._backend import XattrPolicy
from fastlayer.errors import UsageError
from fastlayer.layer import index_format
from fastlayer.layer.arguments import CALLBACK, DIRECTORY, FLAG, check
from fastlayer.layer.index_builder import Builder
from fastlayer.layer.index_format import POLICIES, Meta
from fastlayer.layer.operands import of_directory
from fastlayer.layer.output import Output, refuse_inside
from fastlayer.layer.pipeline import default_jobs
from fastlayer.layer.progress import ProgressCallback, Reporter
from fastlayer.layer.source import Source

if TYPE_CHECKING:
    from typing import BinaryIO

    from fastlayer.layer import types


class TreeIndex:
    """A saved tree: a memory-mapped table, usable as an operand of ``diff``. ``len`` is its number of entries.

    ``columns`` has one array per attribute, sorted by path. An index opens in constant memory: it is checked by reading
    through it once, and mapped.
    """

    def __init__(self, file: BinaryIO, name: str) -> None:
        """Takes over ``file``. Raises ``IndexFormatError`` when anything about it is wrong."""
        self.name = name
        with file:
            self.meta, table = index_format.read_header(file, name)
            index_format.verify_blocks(file, table, name)
            arrays = index_format.map_columns(file, self.meta, table, name)
            self.file_size = os.fstat(file.fileno()).st_size
        self.columns = _backend.Columns(
            count=self.meta.entries,
            racy_ns=self.meta.racy_ns,
            data_off=None,
            **{**arrays, "key": arrays["key"] if self.meta.content else None},
        )

    @classmethod
    def open(cls, path: types.Path | int) -> TreeIndex:
        """Opens a saved index. Raises ``OperandError``, ``IndexFormatError``."""
        check(path=(path, DIRECTORY))
        name = Source.describe(path)
        file, _ = index_format.open_index(path, name)
        return cls(file, name)

    def __len__(self) -> int:
        return self.meta.entries

    @property
    def keys_missing(self) -> int:
        """Non-empty regular files whose content is not known."""
        return self.meta.keys_missing

    @property
    def warnings(self) -> tuple[str, ...]:
        if not self.meta.dropped_xattrs:
            return ()
        noun = "extended attribute" if self.meta.dropped_xattrs == 1 else "extended attributes"
        return (f"{self.meta.dropped_xattrs} {noun} left out by the xattr policy",)

    def to_dict(self) -> dict[str, Any]:
        """For JSON; ``racy_ns``: ctimes at or after it prove nothing."""
        return {
            "entries": len(self),
            "file_size": self.file_size,
            "content": self.meta.content,
            "xattrs": self.meta.xattrs,
            "keys_missing": self.meta.keys_missing,
            "racy_ns": self.meta.racy_ns,
            "warnings": list(self.warnings),
        }

    def __repr__(self) -> str:
        return f"<TreeIndex {self.name}: {len(self)} entries>"


def index(
    path: types.Directory,
    output: types.Path | int | None = None,
    *,
    content: bool = True,
    xattrs: XattrPolicy = "all",
    progress: ProgressCallback | None = None,
) -> TreeIndex:
    """Saves what the directory ``path`` (a path or a descriptor) looks like to the file ``output``.

    ``content``: also the blake3 of every regular file, so that a later diff need not trust times. ``xattrs``: which
    extended attributes are kept; a diff with this index can only compare those. Without ``output`` the index lives in
    an unlinked temporary file for as long as the returned object does.

    Raises ``FileChangedError`` when the tree changes meanwhile, ``StorageError``, ``OperandError``.
    """
    check(path=(path, DIRECTORY), content=(content, FLAG), progress=(progress, CALLBACK))
    if xattrs not in POLICIES:
        raise UsageError(f"xattrs={xattrs!r} is unknown: use all, docker or none")
    if output is not None and not isinstance(output, (int, str, bytes, os.PathLike)):
        raise UsageError(f"output {type(output).__name__}: an index is mapped, give a path or a descriptor of a file")
    root = of_directory(path)
    assert root.directory is not None
    try:
        builder = Builder(root.directory, content=content, jobs=default_jobs(None), report=Reporter(progress))
        if output is None:
            return _write_unnamed(builder, builder.scan(xattrs), root.name)
        with Output(output) as target:
            refuse_inside(target, root.directory)
            builder.write(target, builder.scan(xattrs))
            target.commit()
        return TreeIndex.open(output)
    finally:
        root.close()


def _write_unnamed(builder: Builder, meta: Meta, name: str) -> TreeIndex:
    file = tempfile.TemporaryFile(prefix="fastlayer-", buffering=0)
    try:
        with Output(file.fileno()) as target:
            builder.write(target, meta)
        file.seek(0)
        return TreeIndex(file, name)
    except BaseException:
        file.close()
        raise
