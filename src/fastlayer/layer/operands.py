"""What can stand on either side of a diff.

================================================  ============================================================
``None``                                          the empty tree
a path, or the descriptor, of a directory         that directory, read when needed
a path, descriptor or file object of a layer tar  its tree, whiteouts carried out; any codec, detected by content
a sequence of those                               a stack of layers, lowest first
a path of a saved index, or a ``TreeIndex``       what ``fastlayer.index`` remembered; no file contents
================================================  ============================================================
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from fastlayer import _backend
from fastlayer._values import NamedTuple
from fastlayer.errors import OperandError, StorageError, UsageError, show_path
from fastlayer.layer.limits import DEFAULT_LIMITS, Limits
from fastlayer.layer.progress import Reporter
from fastlayer.layer.reading import open_quietly

if TYPE_CHECKING:
    from fastlayer.layer.index import TreeIndex

_WIDTH = {"none": 0, "docker": 1, "all": 2}
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


class Operand:
    """One opened side of a diff. ``close`` when the last reader is done.

    ``side`` is what a differ takes: a directory descriptor, ``Columns`` or None. ``directory`` is that descriptor, or
    None. ``contents()`` is the descriptor that the bytes of files come from when this side is B, or None: the
    directory, or the file that backs a tar.
    """

    def __init__(
        self,
        name: str,
        side: int | _backend.Columns | None,
        *,
        directory: int | None = None,
        contents: Callable[[], int | None] = lambda: None,
        xattrs: str | None = None,
        relax: Callable[[], object] = lambda: None,
        closer: Callable[[], object] | None = None,
    ) -> None:
        self.name = name
        self.side = side
        self.directory = directory
        self.contents = contents
        self.xattrs = xattrs  # what an index has kept; None when the operand is no index
        self.relax = relax  # gives back memory of what was read of this side
        self._closer = closer

    def close(self) -> None:
        closer, self._closer = self._closer, None
        if closer is not None:
            closer()


def parse(text: str | bytes) -> str | bytes | list[str] | list[bytes]:
    """An operand of the command line: a path, or several layer tars joined with ``+``, lowest first.

    A name that exists is taken as it is, whatever letters it has.
    """
    if os.path.lexists(text):
        return text
    if isinstance(text, bytes):
        return [os.fsencode(piece) for piece in _split(os.fsdecode(text))] if b"+" in text else text
    return _split(text) if "+" in text else text


def _split(text: str) -> list[str]:
    pieces = text.split("+")
    if not all(pieces):
        raise UsageError(f"{show_path(text)}: a stack is LAYER+LAYER: name a layer on both sides of each +")
    return pieces


def check_xattrs(operand: Operand, policy: str) -> None:
    """An index cannot be compared by xattrs that it has not kept: raises ``OperandError``."""
    if operand.xattrs is not None and _WIDTH[policy] > _WIDTH[operand.xattrs]:
        raise OperandError(
            f"{operand.name}: the index was made with xattrs={operand.xattrs}: diff with that, or make the index again"
        )


def check_descriptors(*values: Any) -> None:
    """All descriptors are open: before opening one operand could give a closed descriptor of the next its number."""
    for value in values:
        if isinstance(value, int) and not isinstance(value, bool):
            try:
                os.fstat(value)
            except (OSError, OverflowError) as exc:
                raise OperandError(
                    f"descriptor {value}: {os.strerror(errno.EBADF)}: give a directory or a file that is open"
                ) from exc


class Wants(NamedTuple):
    """How an operand is opened. ``contents``: its file bytes will be needed; ``keys``: a tar's content keys will be;
    ``limits``: of layer tars.
    """

    contents: bool
    keys: bool
    report: Reporter
    jobs: int
    limits: Limits = DEFAULT_LIMITS


def open_operand(
    value: Any, *, contents: bool, keys: bool, report: Reporter, jobs: int, limits: Limits = DEFAULT_LIMITS
) -> Operand:
    """Opens one side; see ``Wants``.

    Raises ``OperandError`` (or what a damaged layer or index raises).
    """
    from fastlayer.layer.source import is_stream

    wants = Wants(contents, keys, report, jobs, limits)
    if value is None:
        return Operand("the empty tree", None)
    if _is_index(value):
        return _of_index(value, contents)
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes, bytearray, memoryview)):
        return _of_layers(list(value), wants)
    if is_stream(value):
        return _of_layers([value], wants)
    if isinstance(value, bool) or not isinstance(value, (int, str, bytes, os.PathLike)):
        raise OperandError(f"{type(value).__name__}: not a tree: give a directory, a saved index or layer tars")
    return _of_file(value, wants)


def _is_index(value: Any) -> bool:
    """Without importing numpy for those who have no index."""
    return type(value).__module__ == "fastlayer.layer.index"


def _name(value: Any) -> str:
    return f"descriptor {value}" if isinstance(value, int) else show_path(os.fsencode(value))


def _of_file(value: Any, wants: Wants) -> Operand:
    name = _name(value)
    try:
        mode = os.stat(value).st_mode
        if stat.S_ISDIR(mode):
            return of_directory(value)
    except (OSError, ValueError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else str(exc)
        raise OperandError(f"{name}: {reason}: give a directory, a saved index or layer tars") from exc
    if stat.S_ISREG(mode) and _starts_like_index(value, name):
        from fastlayer.layer.index import TreeIndex

        return _of_index(TreeIndex.open(value), wants.contents)
    return _of_layers([value], wants)


def of_directory(value: Any) -> Operand:
    """A directory by path or descriptor. Raises ``OperandError`` when it is none or cannot be read."""
    name = _name(value)
    try:
        fd = os.open(".", _DIRECTORY, dir_fd=value) if isinstance(value, int) else os.open(value, _DIRECTORY)
    except (OSError, ValueError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else str(exc)
        raise OperandError(f"{name}: {reason}: give a directory that can be read") from exc
    return Operand(name, fd, directory=fd, contents=lambda: fd, closer=lambda: os.close(fd))


def _starts_like_index(value: Any, name: str) -> bool:
    from fastlayer.layer.index_format import MAGIC

    try:
        fd = os.dup(value) if isinstance(value, int) else open_quietly(value)
        try:
            return bool(os.pread(fd, len(MAGIC), 0) == MAGIC)
        finally:
            os.close(fd)
    except OSError as exc:
        raise OperandError(f"{name}: {exc.strerror}: give a directory, a saved index or layer tars") from exc


def _of_index(index: TreeIndex, contents: bool) -> Operand:
    if contents:
        raise OperandError(
            f"{index.name}: a saved index has no file contents: as B of a layer give the directory or layer tars"
        )
    return Operand(index.name, index.columns, xattrs=index.meta.xattrs)


def _of_layers(values: list[Any], wants: Wants) -> Operand:
    from fastlayer.layer.source import check_sources
    from fastlayer.layer.tartree import read_stack

    check_sources(values)
    _refuse_indexes(values)
    tree = read_stack(values, **wants._asdict())
    return Operand(tree.name, tree.columns, contents=tree.contents, relax=tree.relax, closer=tree.close)


def _refuse_indexes(values: list[Any]) -> None:
    """A saved index is a whole tree, no layer of a stack."""
    for value in values:
        if isinstance(value, (str, bytes, os.PathLike)) and os.path.isfile(value):
            name = _name(value)
            if _starts_like_index(value, name):
                raise OperandError(f"{name}: a saved index cannot be part of a stack: give layer tars, or it alone")


def name_side(error: StorageError, operands: Sequence[Operand]) -> StorageError:
    """The same error, of a path below one of the directories, with the name of the directory in which it happens."""
    path = error.filename
    if isinstance(path, str):
        path = os.fsencode(path)
    if path is not None and path.startswith(b"/"):
        return error
    for operand in operands:
        if operand.directory is not None and _fails_there(operand.directory, path or b".", error.errno):
            where = os.fsencode(operand.name)
            return StorageError(error.errno or 0, error.op, os.path.join(where, path) if path else where)
    return error


def _fails_there(root: int, path: bytes, errnum: int | None) -> bool:
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC, dir_fd=root))
    except OSError as exc:
        return exc.errno == errnum
    return False
