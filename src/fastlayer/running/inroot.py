"""Putting things into a root file system where nothing can be mounted, and taking them out again.

Paths are resolved inside the root, component by component with O_NOFOLLOW: links and ``..`` never lead out. Directories
keep their times, so that the layer is the same as if it had been mounted.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from contextlib import suppress

from fastlayer.errors import RunError, StorageError, show_path

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_LINKS_MAX = 40


class Guests:
    """What is in a root for the time of one run. ``close`` takes everything out, the last first."""

    def __init__(self, root: str) -> None:
        try:
            self._root = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as exc:
            raise StorageError(exc.errno or 0, "cannot open the root file system", root) from exc
        self._undo: list[Callable[[], None]] = []
        self._serial = 0

    def put(self, path: str, make: Callable[[int, str], None], keep: Callable[[int, str], None] | None = None) -> None:
        """Calls ``make(directory, name)`` where ``path`` leads; what was there comes back in the end.

        ``keep``: called likewise before it is taken out. Raises ``RunError``.
        """
        try:
            directory, name = self._walk(path)
            try:
                self._place(os.dup(directory), name, make, keep)
            finally:
                os.close(directory)
        except OSError as exc:
            raise RunError(f"cannot put {path} into the root file system: {exc.strerror}") from exc

    def read(self, path: str) -> bytes | None:
        """A regular file of the root, at most 16 MiB; None when there is none."""
        return read_file(self._root, path)

    def has_device(self, path: str, numbers: tuple[int, int]) -> bool:
        """Whether the root has that character device itself."""
        try:
            directory, name = walk(self._root, path, _is_missing)
            try:
                found = os.stat(name, dir_fd=directory, follow_symlinks=False)
            finally:
                os.close(directory)
        except OSError:
            return False
        return stat.S_ISCHR(found.st_mode) and found.st_rdev == os.makedev(*numbers)

    def close(self) -> None:
        """Raises what the first failure was, after all has been tried."""
        failure: OSError | None = None
        while self._undo:
            try:
                self._undo.pop()()
            except OSError as exc:
                failure = failure or exc
        os.close(self._root)
        if failure is not None:
            raise RunError(f"cannot take what the step was given out of its root again: {failure}") from failure

    def _walk(self, path: str) -> tuple[int, str]:
        """An open directory and a name in it; directories that are missing are made."""
        return walk(self._root, path, self._make_directory)

    def _make_directory(self, directory: int, name: str) -> None:
        with _times_kept(directory):
            os.mkdir(name, 0o755, dir_fd=directory)
        made = os.stat(name, dir_fd=directory, follow_symlinks=False)
        kept = os.dup(directory)
        self._undo.append(lambda: _remove_empty(kept, name, made))

    def _place(
        self, directory: int, name: str, make: Callable[[int, str], None], keep: Callable[[int, str], None] | None
    ) -> None:
        aside = None
        with _times_kept(directory):
            if _exists(directory, name):
                self._serial += 1
                aside = f".fastlayer-aside-{os.getpid()}-{self._serial}"
                os.rename(name, aside, src_dir_fd=directory, dst_dir_fd=directory)
            self._undo.append(lambda: _take_out(directory, name, aside, keep))
            make(directory, name)


class _times_kept:
    """The times of a directory, whatever is made in it inside the block."""

    def __init__(self, directory: int) -> None:
        self._directory = directory

    def __enter__(self) -> None:
        self._before = os.stat(self._directory)

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):
            os.utime(self._directory, ns=(self._before.st_atime_ns, self._before.st_mtime_ns))


def walk(root: int, path: str, missing: Callable[[int, str], None]) -> tuple[int, str]:
    """Where ``path`` leads inside the root: an open directory, which is the caller's, and a name that is no link.

    ``missing(directory, name)`` is called for a directory on the way that is not there; it makes it, or raises.
    """
    rest = [part for part in path.split("/") if part not in ("", ".")]
    above: list[int] = [os.dup(root)]
    links = 0
    try:
        while rest:
            name = rest.pop(0)
            if name == "..":
                if len(above) > 1:
                    os.close(above.pop())
                continue
            target = _link(above[-1], name)
            if target is not None:
                links += 1
                if links > _LINKS_MAX:
                    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
                rest[:0] = [part for part in target.split("/") if part not in ("", ".")]
                if target.startswith("/"):
                    _close_down_to(above, 1)
                continue
            if not rest:
                return above.pop(), name
            if not _exists(above[-1], name):
                missing(above[-1], name)
            above.append(os.open(name, _DIRECTORY, dir_fd=above[-1]))
        raise OSError(errno.EISDIR, "it leads to the root itself")
    finally:
        _close_down_to(above, 0)


def _close_down_to(fds: list[int], count: int) -> None:
    while len(fds) > count:
        os.close(fds.pop())


def read_file(root: int, path: str, limit: int = 16 << 20) -> bytes | None:
    """A regular file inside the root; None when there is none, or it is larger than ``limit`` bytes."""
    try:
        directory, name = walk(root, path, _is_missing)
        try:
            if not stat.S_ISREG(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode):
                return None  # opening a device does things
            fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
        finally:
            os.close(directory)
    except OSError:
        return None
    with open(fd, "rb") as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return None
        data = file.read(limit + 1)
    return data if len(data) <= limit else None


def _is_missing(directory: int, name: str) -> None:
    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))


def _link(directory: int, name: str) -> str | None:
    try:
        return os.readlink(name, dir_fd=directory)
    except OSError as exc:
        if exc.errno in (errno.EINVAL, errno.ENOENT):
            return None
        raise


def _exists(directory: int, name: str) -> bool:
    try:
        os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _remove_empty(directory: int, name: str, made: os.stat_result) -> None:
    """What the step has put there stays."""
    try:
        found = os.stat(name, dir_fd=directory, follow_symlinks=False)
        if (found.st_dev, found.st_ino) == (made.st_dev, made.st_ino):
            with _times_kept(directory):
                os.rmdir(name, dir_fd=directory)
    except OSError as exc:
        if exc.errno not in (errno.ENOENT, errno.ENOTEMPTY, errno.EEXIST):
            raise
    finally:
        os.close(directory)


def _take_out(directory: int, name: str, aside: str | None, keep: Callable[[int, str], None] | None) -> None:
    try:
        with _times_kept(directory):
            try:
                if keep is not None and _exists(directory, name):
                    keep(directory, name)
            finally:
                remove(directory, name)
                if aside is not None:
                    os.rename(aside, name, src_dir_fd=directory, dst_dir_fd=directory)
    finally:
        os.close(directory)


def remove(directory: int, name: str) -> None:
    """A file or a whole tree, if it is there; no link is followed."""
    import shutil

    try:
        found = os.stat(name, dir_fd=directory, follow_symlinks=False)
        if stat.S_ISDIR(found.st_mode):
            shutil.rmtree(name, dir_fd=directory)
        else:
            os.unlink(name, dir_fd=directory)
    except FileNotFoundError:
        pass


def copy(source: str, directory: int, name: str) -> None:
    """Copies a file or tree to ``name``, which is not there: data, links, modes, owners, times, xattrs.

    Sockets, fifos and devices are left out; hard links become files of their own.
    """
    place = f"/proc/self/fd/{directory}/{name}" if os.path.exists("/proc/self/fd") else None
    if place is None:
        raise RunError(f"{show_path(source)}: cannot be copied into the root without /proc: mount it")
    copy_to(source, place)


def copy_to(source: str, target: str) -> None:
    import shutil

    if not os.path.isdir(source):
        _copy_file(source, target)
        return

    def left_out(place: str, names: list[str]) -> list[str]:
        return [name for name in names if not _can_copy(os.path.join(place, name))]

    shutil.copytree(source, target, symlinks=True, ignore=left_out, copy_function=_copy_file)
    for place, folders, _ in os.walk(source):
        for folder in (place, *(os.path.join(place, name) for name in folders)):
            if not os.path.islink(folder):
                _copy_owner(folder, os.path.join(target, os.path.relpath(folder, source)))
    _copy_directory_times(source, target)


def _copy_directory_times(source: str, target: str) -> None:
    import shutil

    for place, _, _ in os.walk(source, topdown=False):
        with suppress(OSError):
            shutil.copystat(place, os.path.join(target, os.path.relpath(place, source)))


def _can_copy(path: str) -> bool:
    mode = os.lstat(path).st_mode
    return stat.S_ISREG(mode) or stat.S_ISDIR(mode) or stat.S_ISLNK(mode)


def _copy_file(source: str, target: str, *, follow_symlinks: bool = True) -> str:
    import shutil

    shutil.copyfile(source, target, follow_symlinks=follow_symlinks)
    _copy_owner(source, target, follow_symlinks=follow_symlinks)
    shutil.copystat(source, target, follow_symlinks=follow_symlinks)
    return target


def _copy_owner(source: str, target: str, *, follow_symlinks: bool = True) -> None:
    found = os.stat(source, follow_symlinks=follow_symlinks)
    with suppress(PermissionError):
        os.chown(target, found.st_uid, found.st_gid, follow_symlinks=follow_symlinks)
