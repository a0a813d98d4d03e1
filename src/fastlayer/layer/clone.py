"""Exact copies of trees: ``clone``, and ``copy_up`` for one path of an overlay."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from fastlayer import _backend
from fastlayer._temporary import name_beside
from fastlayer._values import NamedTuple
from fastlayer.errors import OperandError, StorageError, UnsafeEntryError, UsageError, show_path
from fastlayer.layer import libc
from fastlayer.layer.arguments import CALLBACK, DIRECTORY, FLAG, PATH, WORKDIR, check
from fastlayer.layer.mounts import same_mount
from fastlayer.layer.operands import check_descriptors
from fastlayer.layer.progress import ProgressCallback, Reporter
from fastlayer.layer.target import empty, is_named, names_in, remove_made

if TYPE_CHECKING:
    from fastlayer.layer import types

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_NO_NAMES = (b"", b".", b"..")  # ways to a directory that nothing can be renamed to


class CloneStats(NamedTuple):
    """What a copy did.

    ``bytes``: sizes of the regular files, every inode once. ``shared_bytes`` of them lie in files that share their
    blocks with the source (reflink), ``copied_bytes`` were moved; holes are in neither. ``changed``: files that changed
    while they were copied (``live``).
    """

    entries: int
    bytes: int
    shared_bytes: int
    copied_bytes: int
    warnings: tuple[str, ...]
    changed: int = 0


def clone(
    src: types.Directory, dst: types.Directory, *, live: bool = False, progress: ProgressCallback | None = None
) -> CloneStats:
    """Copies the tree ``src`` exactly: owner, mode, xattrs, ACLs, times, hard links, holes, devices, fifos.

    ``src``: a path or descriptor of a directory. ``dst``: a name that is free, an empty directory, or the descriptor of
    one. The copy is made under a temporary name beside ``dst`` and renamed when it is complete, so a failure leaves
    nothing; an empty directory that is a mount point, or given as a symbolic link, ``.`` or a descriptor, is filled in
    place and emptied again on failure. Data is shared where the file system can. Sockets are skipped with a warning.
    ``live``: a file that changes while it is copied is no error, but taken as it is read: of one that only grows, what
    it was when it was opened.

    Raises ``OperandError`` for what cannot be used, ``StorageError`` when the system refuses, ``FileChangedError`` when
    a file changes while it is copied.
    """
    return copy_tree(src, dst, live=live, progress=progress)


def copy_tree(
    src: types.Directory,
    dst: types.Directory,
    *,
    live: bool = False,
    progress: ProgressCallback | None = None,
    behind: _backend.Behind | None = None,
) -> CloneStats:
    """As ``clone``. ``behind``: what the two are in the layers of overlays."""
    check(src=(src, DIRECTORY), dst=(dst, DIRECTORY), live=(live, FLAG), progress=(progress, CALLBACK))
    report = Reporter(progress)
    check_descriptors(src, dst)
    source = _open(src)
    try:
        with _Destination(dst) as place:
            _refuse_inside(source, place.fd, src, dst)
            with _naming(place.name):
                cloner = _backend.engine().clone.TreeCloner(source, place.fd, live=live, behind=behind)
                counts = _run(cloner, "clone", report)
            place.commit()
    finally:
        os.close(source)
    return _stats(counts)


def copy_up(
    lower: types.Directory, upper: types.Directory, path: types.Path, *, workdir: types.Directory | None = None
) -> CloneStats:
    """Copies one path of the directory ``lower`` to the directory ``upper`` as overlayfs does before the first write.

    The object is completed in ``workdir`` (a path or descriptor on the file system of ``upper``; by default a directory
    made beside ``upper`` for the call) and renamed to its place. Missing parents are made with the attributes they have
    in ``lower``; a directory comes without its children. A path that ``upper`` has is left alone: ``entries`` is 0.

    Raises ``UnsafeEntryError`` for ``..`` and for symbolic links as parents, ``StorageError`` (ENOENT) when the path
    is not there or a whiteout or an opaque directory of ``upper`` hides it.
    """
    check(lower=(lower, DIRECTORY), upper=(upper, DIRECTORY), path=(path, PATH), workdir=(workdir, WORKDIR))
    name = os.fsencode(path).strip(b"/")
    if b"\0" in name:
        raise UsageError("a path cannot contain a NUL byte")
    if b".." in name.split(b"/"):
        raise UnsafeEntryError(f"{show_path(name)}: not a plain relative path")
    name = b"/".join(part for part in name.split(b"/") if part not in (b"", b"."))
    check_descriptors(lower, upper, workdir)
    descriptors: list[int] = []
    try:
        descriptors.append(_open(lower))
        descriptors.append(_open(upper))
        with _work_directory(workdir, upper, descriptors[1]) as work:
            copier = _backend.engine().clone.PathCopier(descriptors[0], descriptors[1], work, name)
            return _stats(_run(copier, "copy-up", Reporter(None)))
    finally:
        for fd in descriptors:
            os.close(fd)


@contextmanager
def _naming(name: str) -> Iterator[None]:
    """An error about no entry in particular is about the destination."""
    try:
        yield
    except StorageError as exc:
        exc.filename = exc.filename or name
        raise


def _run(copier: Any, stage: str, report: Reporter) -> _backend.CopyCounts:
    """Steps to the end; whatever interrupts leaves no thread at work behind."""
    try:
        while copier.step():
            entries, size = copier.stats()[:2]
            report.update(stage, entries, size)
        counts = _backend.CopyCounts(*copier.stats())
    finally:
        copier.abort()
    report.end(stage, counts.entries, counts.bytes)
    return counts


def _stats(counts: _backend.CopyCounts) -> CloneStats:
    warnings = (
        (counts.sockets, "sockets skipped: they mean nothing without the process that made them"),
        (counts.lost_owners, "owners not kept: not permitted (run as root to keep them)"),
        (counts.lost_xattrs, "xattrs not kept: not permitted or not supported by the file system"),
    )
    return CloneStats(
        counts.entries,
        counts.bytes,
        counts.shared_bytes,
        counts.copied_bytes,
        tuple(f"{number} {text}" for number, text in warnings if number),
        counts.changed,
    )


def _show(value: Any) -> str:
    return f"descriptor {value}" if isinstance(value, int) else show_path(os.fsencode(value))


def _open(value: Any) -> int:
    """A new descriptor of a directory."""
    try:
        if isinstance(value, int):
            return os.open(".", _DIRECTORY, dir_fd=value)
        return os.open(value, _DIRECTORY)
    except (OSError, ValueError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else str(exc)
        raise OperandError(f"{_show(value)}: {reason}: give a directory that exists") from exc


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _refuse_inside(source: int, target: int, src: Any, dst: Any) -> None:
    """A tree cannot be copied into itself."""
    if lies_inside(target, source):
        raise OperandError(f"{_show(dst)}: lies inside {_show(src)}: give a directory outside of it")


def lies_inside(target: int, source: int) -> bool:
    """Whether the one directory is below the other, or is it: descriptors."""
    wanted = _identity(os.fstat(source))
    fd = os.dup(target)
    try:
        while True:
            here = _identity(os.fstat(fd))
            if here == wanted:
                return True
            above = os.open("..", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=fd)
            below, fd = fd, above  # forgotten before it is closed: an interrupt must not close it twice
            os.close(below)
            if _identity(os.fstat(fd)) == here:
                return False
    finally:
        os.close(fd)


class _Destination:
    """A context manager around the directory that is filled, ``fd``; without ``commit`` nothing of it stays."""

    def __init__(self, value: Any) -> None:
        self.name = _show(value)
        self.fd = self._parent = -1
        self._staging: bytes | None = None
        self._base = b""
        self._replaces = False
        self._complete = False
        if isinstance(value, int):
            self._use(value)
        else:
            self._use_path(os.fsencode(value))

    def _use(self, value: Any) -> None:
        """An existing directory, filled in place."""
        self.fd = _open(value)
        self._mode = stat.S_IMODE(os.fstat(self.fd).st_mode)
        try:
            taken = bool(names_in(self.fd))
        except OSError as exc:
            self.__exit__()
            raise OperandError(f"{self.name}: {exc.strerror}: give a name that is free") from exc
        if taken:
            os.close(self.fd)
            raise OperandError(f"{self.name}: is not empty: give an empty directory or a name that is free")

    def _use_path(self, path: bytes) -> None:
        bare = path.rstrip(b"/") or path  # lstat follows a link that a slash comes after
        head, self._base = os.path.split(bare)
        try:
            status = os.lstat(bare)
        except FileNotFoundError:
            self._stage(head or b".")
            return
        except (OSError, ValueError) as exc:
            raise OperandError(f"{self.name}: {getattr(exc, 'strerror', exc)}") from exc
        if not stat.S_ISDIR(status.st_mode) and not stat.S_ISLNK(status.st_mode):
            raise OperandError(f"{self.name}: exists and is not an empty directory: give a name that is free")
        self._use(path)
        if stat.S_ISDIR(status.st_mode) and self._base not in _NO_NAMES and not self._is_mount_point():
            os.close(self.fd)
            self.fd = -1
            self._replaces = True
            self._stage(head or b".")

    def _is_mount_point(self) -> bool:
        above = os.open("..", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self.fd)
        try:
            return not same_mount(self.fd, above)
        finally:
            os.close(above)

    def _stage(self, head: bytes) -> None:
        if self._base in _NO_NAMES:
            raise OperandError(f"{self.name}: not a name for a directory: give a name that is free")
        self._parent = _open(head)
        staging = name_beside(self._base)
        self._staging = staging  # before: an interrupt may come as soon as it is made
        try:
            os.mkdir(staging, 0o700, dir_fd=self._parent)
            self.fd = os.open(staging, _DIRECTORY | os.O_NOFOLLOW, dir_fd=self._parent)
        except OSError as exc:
            self.__exit__()
            raise StorageError(exc.errno or 0, "mkdir", self.name) from exc
        except BaseException:
            self.__exit__()
            raise

    def commit(self) -> None:
        """The tree is complete: it gets its name, which must still be free (or the empty directory it was)."""
        if self._staging is not None:
            try:
                if self._replaces:
                    os.rename(self._staging, self._base, src_dir_fd=self._parent, dst_dir_fd=self._parent)
                else:
                    libc.rename_new(self._parent, self._staging, self._parent, self._base)
            except OSError as exc:
                raise StorageError(exc.errno or 0, "rename", self.name) from exc
        self._complete = True

    def __enter__(self) -> _Destination:
        return self

    def __exit__(self, *_exc: object) -> None:
        try:
            if not self._complete:
                self._undo()
        finally:
            for fd in (self.fd, self._parent):
                if fd >= 0:
                    os.close(fd)
            self.fd = self._parent = -1

    def _undo(self) -> None:
        if self._staging is not None and self.fd >= 0 and not is_named(self.fd, self._parent, self._staging):
            return
        if self.fd >= 0 and names_in(self.fd):
            empty(self.fd)
        if self._staging is not None:
            remove_made(self._staging, self._parent)
        elif self.fd >= 0 and stat.S_IMODE(os.fstat(self.fd).st_mode) != self._mode:
            os.fchmod(self.fd, self._mode)


@contextmanager
def _work_directory(workdir: Any, upper: Any, upper_fd: int) -> Iterator[int]:
    """The caller's, or one beside the upper directory that goes away again."""
    if workdir is not None:
        fd = _open(workdir)
        try:
            _check_mount(fd, upper_fd, upper)
            yield fd
        finally:
            os.close(fd)
        return
    if isinstance(upper, int):
        raise UsageError("copy_up needs workdir= when upper is a descriptor: a directory on the same file system")
    head, base = os.path.split(os.path.realpath(os.fsencode(upper)))
    parent = _open(head)
    try:
        _check_mount(parent, upper_fd, upper)
        with _temporary(parent, name_beside(base), upper) as fd:
            yield fd
    finally:
        os.close(parent)


def _check_mount(work: int, upper: int, name: Any) -> None:
    """Objects are renamed from the work directory to the upper one, which only one mount can do."""
    if not same_mount(work, upper):
        raise OperandError(f"{_show(name)}: is on another mount than its workdir: give a workdir on the same mount")


@contextmanager
def _temporary(parent: int, name: bytes, upper: Any) -> Iterator[int]:
    try:
        os.mkdir(name, 0o700, dir_fd=parent)
        fd = os.open(name, _DIRECTORY, dir_fd=parent)
        try:
            yield fd
        finally:
            os.close(fd)
            os.rmdir(name, dir_fd=parent)
    except OSError as exc:
        if isinstance(exc, StorageError):
            raise
        raise StorageError(exc.errno or 0, "mkdir", _show(upper)) from exc
