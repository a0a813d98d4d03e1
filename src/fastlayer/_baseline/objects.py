"""Copying one object with all its attributes: owner, mode, xattrs, times in this order (csrc/fl_attrs.h, fl_copy.h)."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Iterator

from fastlayer._baseline.backing import Beneath
from fastlayer.errors import FileChangedError, show_path

_FICLONE = 0x40049409
_PIECE = 1 << 20
_NOT_SUPPORTED = (errno.EOPNOTSUPP, errno.EXDEV, errno.ENOTTY, errno.ENOSYS, errno.EINVAL, errno.EPERM, errno.ETXTBSY)
_ALIASES = ("trusted.SGI_ACL_FILE", "trusted.SGI_ACL_DEFAULT")  # XFS lists the ACLs twice
_OVERLAY = ("trusted.overlay.", "user.overlay.")


class Counts:
    """What a copy did so far."""

    def __init__(self) -> None:
        self.entries = self.bytes = self.shared = self.copied = self.sockets = 0
        self.lost_owners = self.lost_xattrs = self.changed = 0

    def values(self) -> tuple[int, ...]:
        return (
            self.entries, self.bytes, self.shared, self.copied, self.sockets, self.lost_owners, self.lost_xattrs,
            self.changed,
        )  # fmt: skip


class Attributes:
    """Copies attributes. What cannot be kept (no permission, no xattrs there) is counted, not an error."""

    def __init__(self, counts: Counts, *, skip_overlay: bool = False) -> None:
        self._counts = counts
        self._left_out = _OVERLAY if skip_overlay else ()

    def mkdir(self, name: bytes, dir_fd: int) -> None:
        os.mkdir(name, 0o700, dir_fd=dir_fd)
        os.chmod(name, 0o700, dir_fd=dir_fd)

    def make_private(self, fd: int) -> None:
        """0700, of this process' group, without setgid and ACLs."""
        if os.fstat(fd).st_gid != os.getegid():
            os.chown(fd, -1, os.getegid())
        for acl in ("system.posix_acl_default", "system.posix_acl_access"):
            try:
                os.removexattr(fd, acl)
            except OSError:
                continue
        os.chmod(fd, 0o700)

    def copy(self, src: int, status: os.stat_result, dst: int) -> None:
        mode = stat.S_IMODE(status.st_mode)
        try:
            os.chown(dst, status.st_uid, status.st_gid)
        except OSError as exc:
            mode = self._owner_lost(exc, mode)
        names = self._names(src)
        self._copy_xattrs(src, dst, [name for name in names if name.startswith("user.")])  # what mode may forbid
        os.chmod(dst, mode)
        self._copy_xattrs(src, dst, [name for name in names if not name.startswith("user.")])
        os.utime(dst, ns=(status.st_atime_ns, status.st_mtime_ns))

    def copy_at(self, src_dir: int, src: bytes, status: os.stat_result, dst_dir: int, dst: bytes) -> None:
        mode = stat.S_IMODE(status.st_mode)
        try:
            os.chown(dst, status.st_uid, status.st_gid, dir_fd=dst_dir, follow_symlinks=False)
        except OSError as exc:
            mode = self._owner_lost(exc, mode)
        if not stat.S_ISLNK(status.st_mode):
            os.chmod(dst, mode, dir_fd=dst_dir)
        source = b"/proc/self/fd/%d/%s" % (src_dir, src)
        self._copy_xattrs(source, b"/proc/self/fd/%d/%s" % (dst_dir, dst), self._names(source))
        os.utime(dst, ns=(status.st_atime_ns, status.st_mtime_ns), dir_fd=dst_dir, follow_symlinks=False)

    def _owner_lost(self, exc: OSError, mode: int) -> int:
        if exc.errno not in (errno.EPERM, errno.EINVAL):
            raise exc
        self._counts.lost_owners += 1
        return mode & 0o1777

    def _names(self, src: int | bytes) -> list[str]:
        """The xattrs that are copied."""
        try:
            names = os.listxattr(src, follow_symlinks=isinstance(src, int))
        except OSError as exc:
            if exc.errno != errno.EOPNOTSUPP:
                raise
            return []
        return [name for name in names if name not in _ALIASES and not name.startswith(self._left_out)]

    def _copy_xattrs(self, src: int | bytes, dst: int | bytes, names: list[str]) -> None:
        follow = isinstance(src, int)
        for name in names:
            try:
                os.setxattr(dst, name, os.getxattr(src, name, follow_symlinks=follow), follow_symlinks=follow)
            except OSError as exc:
                if exc.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.EACCES):
                    raise
                self._counts.lost_xattrs += 1


def open_source(dir_fd: int, name: bytes, flags: int = 0) -> int:
    """Opens for reading without waiting, following or, where permitted, touching the access time."""
    flags |= os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        return os.open(name, flags | os.O_NOATIME, dir_fd=dir_fd)
    except PermissionError:
        return os.open(name, flags, dir_fd=dir_fd)
    except OSError as exc:
        if exc.errno not in (errno.ELOOP, errno.ENOTDIR):
            raise
        raise FileChangedError(f"{show_path(name)}: changed its type while it was copied") from exc


def copy_special(
    src_dir: int, src: bytes, status: os.stat_result, dst_dir: int, dst: bytes, attributes: Attributes
) -> None:
    """A symbolic link, device, fifo or socket."""
    if stat.S_ISLNK(status.st_mode):
        os.symlink(os.readlink(src, dir_fd=src_dir), dst, dir_fd=dst_dir)
    else:
        os.mknod(dst, stat.S_IFMT(status.st_mode) | 0o600, status.st_rdev, dir_fd=dst_dir)
    attributes.copy_at(src_dir, src, status, dst_dir, dst)


def fill_file(
    src_dir: int,
    src: bytes,
    dst_dir: int,
    dst: bytes,
    attributes: Attributes,
    counts: Counts,
    *,
    sync: bool = False,
    live: bool = False,
    behind: Beneath | None = None,
) -> None:
    """A regular file: content, then attributes. ``live``: as it is read when it changes meanwhile. ``behind``: what the
    two directories are in the layers of an overlay."""
    source = open_source(src_dir, src)
    try:
        status = os.fstat(source)
        if not stat.S_ISREG(status.st_mode):
            raise FileChangedError(f"{show_path(src)}: changed its type while it was copied")
        target = os.open(dst, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=dst_dir)
        try:
            if behind is None or not _share_behind(behind, (source, src), status, (target, dst), counts):
                _copy_data(source, status, target, counts, live)
            now = os.fstat(source)
            if (now.st_size, now.st_mtime_ns) != (status.st_size, status.st_mtime_ns):
                if not live:
                    raise FileChangedError(f"{show_path(src)}: changed while it was copied")
                counts.changed += 1
            attributes.copy(source, status, target)
            if sync:
                os.fsync(target)
        finally:
            os.close(target)
    finally:
        os.close(source)
    counts.bytes += status.st_size


def _share_behind(
    behind: Beneath, source: tuple[int, bytes], status: os.stat_result, target: tuple[int, bytes], counts: Counts
) -> bool:
    """Whether the extents are shared now. ``source``, ``target``: descriptor and name."""
    if status.st_size == 0:
        return False
    with behind.files(*source, status, *target) as real:
        if real is None or not _share(*real):
            return False
    counts.shared += sum(end - start for start, end in _segments(source[0], status.st_size))
    return True


def _share(src: int, dst: int) -> bool:
    try:
        fcntl.ioctl(dst, _FICLONE, src)
    except OSError as exc:
        if exc.errno not in _NOT_SUPPORTED:
            raise
        return False
    return True


def _copy_data(src: int, status: os.stat_result, dst: int, counts: Counts, live: bool) -> None:
    """Shares the extents, or copies the data between the holes."""
    size = status.st_size
    if size == 0:
        return
    if _share(src, dst):
        counts.shared += sum(end - start for start, end in _segments(src, size))
        return
    for start, end in _segments(src, size):
        counts.copied += _copy_piece(src, dst, start, end, live)
    os.truncate(dst, min(size, os.fstat(src).st_size) if live else size)


def _segments(fd: int, size: int) -> Iterator[tuple[int, int]]:
    """(start, end) of what is in no hole."""
    offset = 0
    while offset < size:
        try:
            start = os.lseek(fd, offset, os.SEEK_DATA)
        except OSError as exc:
            if exc.errno != errno.ENXIO:
                raise
            return
        offset = min(os.lseek(fd, start, os.SEEK_HOLE), size)
        if start < offset:
            yield start, offset


def _copy_piece(src: int, dst: int, start: int, end: int, live: bool) -> int:
    at = start
    while at < end:
        data = os.pread(src, min(_PIECE, end - at), at)
        if not data and not live:
            raise FileChangedError("file became shorter while it was copied")
        if not data:
            break
        at += os.pwrite(dst, data, at)
    return max(0, at - start)
