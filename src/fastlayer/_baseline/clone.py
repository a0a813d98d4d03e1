"""Exact copies: whole trees, and single paths as overlayfs copies them up (csrc/fl_clone.h, csrc/fl_copyup.h)."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from fastlayer._baseline.backing import Behind, Beneath, checked
from fastlayer._baseline.objects import Attributes, Counts, copy_special, fill_file, open_source
from fastlayer._baseline.rename import rename_new
from fastlayer.errors import FileChangedError, StorageError, UnsafeEntryError, UsageError

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_BATCH = 256
_NEW = b"new"


@contextmanager
def _naming(path: bytes) -> Iterator[None]:
    """System errors become ``StorageError`` with this path."""
    try:
        yield
    except StorageError:
        raise
    except OSError as exc:
        raise StorageError(exc.errno or 0, "copy", path) from exc


def _open_beneath(root: int, path: bytes) -> int:
    """Opens a directory component by component; a symbolic link on the way is an error."""
    fd = open_source(root, b".", os.O_DIRECTORY)
    for name in filter(None, path.split(b"/")):
        try:
            inner = open_source(fd, name, os.O_DIRECTORY)
        finally:
            os.close(fd)
        fd = inner
    return fd


class TreeCloner:
    """Copies the tree of ``src_fd`` into the empty private directory ``dst_fd``; see ``_backend.TreeCloner``."""

    def __init__(
        self, src_fd: int, dst_fd: int, *, jobs: int | None = None, live: bool = False, behind: Behind | None = None
    ) -> None:
        if jobs is not None and jobs < 1:
            raise UsageError("jobs must be at least 1")
        self._src, self._dst, self._live, self._behind = src_fd, dst_fd, live, checked(behind)
        self._here: Beneath | None = None
        self._counts = Counts()
        self._links: dict[tuple[int, int], bytes] = {}
        self._own = os.fstat(dst_fd)
        self._attributes = Attributes(self._counts)
        with _naming(b""):
            self._attributes.make_private(dst_fd)
        self._work: Iterator[None] | None = self._run()

    def step(self) -> bool:
        if self._work is None:
            raise UsageError("the clone was aborted")
        return all(next(self._work, True) is None for _ in range(_BATCH))

    def stats(self) -> tuple[int, ...]:
        return self._counts.values()

    def abort(self) -> None:
        self._work = None

    def _run(self) -> Iterator[None]:
        directories = [b""]
        for path in directories:  # grows while it is walked: parents before children
            with ExitStack() as stack:
                with _naming(path):
                    src, dst = self._both(stack, path)
                    self._here = None if self._behind is None else Beneath(self._behind, self._src, path, path)
                if self._here is not None:
                    stack.callback(self._here.close)
                status = os.fstat(src)
                if (status.st_dev, status.st_ino) == (self._own.st_dev, self._own.st_ino):
                    raise UsageError("the destination lies inside the source")
                for name in map(os.fsencode, os.listdir(src)):
                    whole = path + b"/" + name if path else name
                    with _naming(whole):
                        if self._copy(src, dst, name, whole):
                            directories.append(whole)
                    yield
        for path in reversed(directories):
            with _naming(path):
                self._finish(path)
            yield

    def _copy(self, src: int, dst: int, name: bytes, whole: bytes) -> bool:
        """Copies one entry; True for a directory, whose children are still to come."""
        status = os.stat(name, dir_fd=src, follow_symlinks=False)
        if stat.S_ISSOCK(status.st_mode):
            self._counts.sockets += 1
            return False
        self._counts.entries += 1
        if stat.S_ISDIR(status.st_mode):
            self._attributes.mkdir(name, dst)
            return True
        inode = (status.st_dev, status.st_ino)
        if inode in self._links:
            self._link(self._links[inode], dst, name)
            return False
        if status.st_nlink > 1:
            self._links[inode] = whole
        if stat.S_ISREG(status.st_mode):
            fill_file(src, name, dst, name, self._attributes, self._counts, live=self._live, behind=self._here)
        else:
            copy_special(src, name, status, dst, name, self._attributes)
        return False

    def _link(self, first: bytes, dst: int, name: bytes) -> None:
        parent, _, base = first.rpartition(b"/")
        fd = _open_beneath(self._dst, parent)
        try:
            os.link(base, name, src_dir_fd=fd, dst_dir_fd=dst, follow_symlinks=False)
        finally:
            os.close(fd)

    def _finish(self, path: bytes) -> None:
        with ExitStack() as stack:
            src, dst = self._both(stack, path)
            self._attributes.copy(src, os.fstat(src), dst)

    def _both(self, stack: ExitStack, path: bytes) -> tuple[int, int]:
        """The directory on both sides, open for the block."""
        src = _open_beneath(self._src, path)
        stack.callback(os.close, src)
        dst = _open_beneath(self._dst, path)
        stack.callback(os.close, dst)
        return src, dst


def _xattr(dir_fd: int, name: bytes, *keys: bytes) -> bytes | None:
    """The value of the first of these xattrs that is there."""
    for key in keys:
        try:
            return os.getxattr(b"/proc/self/fd/%d/%s" % (dir_fd, name), key, follow_symlinks=False)
        except OSError:
            continue
    return None


def _look_up(dir_fd: int | None, name: bytes) -> os.stat_result | None:
    if dir_fd is None:
        return None
    try:
        return os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
    except FileNotFoundError:
        return None


def _is_whiteout(dir_fd: int, name: bytes, status: os.stat_result) -> bool:
    if stat.S_ISCHR(status.st_mode):
        return status.st_rdev == 0
    marks = (b"trusted.overlay.whiteout", b"user.overlay.whiteout")
    return stat.S_ISREG(status.st_mode) and status.st_size == 0 and _xattr(dir_fd, name, *marks) is not None


class PathCopier:
    """Copies one path up; see ``_backend.PathCopier``."""

    def __init__(
        self, lower_fd: int, upper_fd: int, work_fd: int, path: bytes, *, behind: Behind | None = None
    ) -> None:
        if b"\0" in path:
            raise UsageError("a path cannot contain a NUL byte")
        self._roots = lower_fd, upper_fd
        self._work, self._path, self._behind = work_fd, path, checked(behind)
        self._counts = Counts()
        self._attributes = Attributes(self._counts, skip_overlay=True)
        self._stage = b""
        self._stage_fd = -1

    def step(self) -> bool:
        try:
            with _naming(self._path):
                self._run()
        finally:
            self.abort()
        return False

    def stats(self) -> tuple[int, ...]:
        return self._counts.values()

    def abort(self) -> None:
        if self._stage_fd >= 0:
            for remove in (os.unlink, os.rmdir):
                try:
                    remove(_NEW, dir_fd=self._stage_fd)
                except OSError:
                    continue
            os.close(self._stage_fd)
            os.rmdir(self._stage, dir_fd=self._work)
            self._stage_fd = -1

    def _missing(self) -> StorageError:
        return StorageError(errno.ENOENT, "copy-up", self._path)

    def _run(self) -> None:
        names = self._path.split(b"/") if self._path else []
        if any(name in (b"", b".", b"..") for name in names):
            raise UnsafeEntryError(f"{os.fsdecode(self._path)}: not a plain relative path")
        lower: int | None = os.dup(self._roots[0])
        upper = os.dup(self._roots[1])
        try:
            for number, name in enumerate(names):
                is_parent = number < len(names) - 1
                self._ensure(lower, upper, name, is_parent)
                if is_parent:
                    lower, upper = self._descend(lower, upper, name)
        finally:
            for fd in (lower, upper):
                if fd is not None:
                    os.close(fd)

    def _ensure(self, lower: int | None, upper: int, name: bytes, is_parent: bool) -> None:
        """Makes sure that name is in the upper directory."""
        above = _look_up(upper, name)
        if above is not None:
            if _is_whiteout(upper, name, above):
                raise self._missing()
            self._check_parent(above, is_parent)
            return
        below = _look_up(lower, name)
        if lower is None or below is None or _is_whiteout(lower, name, below):
            raise self._missing()
        self._check_parent(below, is_parent)
        parent = os.fstat(upper)
        self._open_stage()
        self._build(lower, name, below)
        self._expose(upper, name, below)
        try:
            os.utime(upper, ns=(parent.st_atime_ns, parent.st_mtime_ns))
        except PermissionError:
            pass

    def _check_parent(self, status: os.stat_result, is_parent: bool) -> None:
        if is_parent and stat.S_ISLNK(status.st_mode):
            raise UnsafeEntryError(f"{os.fsdecode(self._path)}: a parent is a symbolic link")
        if is_parent and not stat.S_ISDIR(status.st_mode):
            raise StorageError(errno.ENOTDIR, "copy-up", self._path)

    def _descend(self, lower: int | None, upper: int, name: bytes) -> tuple[int | None, int]:
        inner_upper = os.open(name, _DIRECTORY, dir_fd=upper)
        opaque = _xattr(upper, name, b"trusted.overlay.opaque", b"user.overlay.opaque") == b"y"
        below = None if opaque else _look_up(lower, name)
        inner_lower = None
        if below is not None and stat.S_ISDIR(below.st_mode):
            inner_lower = os.open(name, _DIRECTORY, dir_fd=lower)
        if lower is not None:
            os.close(lower)
        os.close(upper)
        return inner_lower, inner_upper

    def _open_stage(self) -> None:
        if self._stage_fd < 0:
            self._stage = b"fastlayer-%s" % os.urandom(8).hex().encode()
            self._attributes.mkdir(self._stage, self._work)
            self._stage_fd = os.open(self._stage, _DIRECTORY, dir_fd=self._work)
            self._attributes.make_private(self._stage_fd)

    def _build(self, lower: int, name: bytes, status: os.stat_result) -> None:
        if stat.S_ISREG(status.st_mode):
            self._build_file(lower, name)
        elif stat.S_ISDIR(status.st_mode):
            self._attributes.mkdir(_NEW, self._stage_fd)
            src = open_source(lower, name, os.O_DIRECTORY)
            dst = os.open(_NEW, _DIRECTORY, dir_fd=self._stage_fd)
            try:
                if not stat.S_ISDIR(os.fstat(src).st_mode):
                    raise FileChangedError(f"{os.fsdecode(self._path)}: changed its type while it was copied")
                self._attributes.copy(src, os.fstat(src), dst)
            finally:
                os.close(src)
                os.close(dst)
        else:
            copy_special(lower, name, status, self._stage_fd, _NEW, self._attributes)

    def _build_file(self, lower: int, name: bytes) -> None:
        parent = self._path.rpartition(b"/")[0]
        here = None if self._behind is None else Beneath(self._behind, self._roots[0], parent, self._stage)
        try:
            fill_file(lower, name, self._stage_fd, _NEW, self._attributes, self._counts, sync=True, behind=here)
        finally:
            if here is not None:
                here.close()

    def _expose(self, upper: int, name: bytes, status: os.stat_result) -> None:
        """Moves the finished object to its place; somebody else may have been faster, which is as good."""
        try:
            try:
                rename_new(self._stage_fd, _NEW, upper, name)
            except PermissionError:
                if not stat.S_ISDIR(status.st_mode):
                    raise
                os.chmod(_NEW, 0o700, dir_fd=self._stage_fd)  # moving a directory writes its ".."
                rename_new(self._stage_fd, _NEW, upper, name)
                os.chmod(name, stat.S_IMODE(status.st_mode), dir_fd=upper)
        except FileExistsError:
            return
        self._counts.entries += 1
