"""The files behind those of an overlay: what is surely the same file (csrc/fl_backing.h)."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from fastlayer.errors import UsageError

Behind = tuple[tuple[int, ...], int]  # _backend.Behind

_LAYERS_MAX = 32
_NOT_THERE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)
_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_ENTRY = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC


def checked(behind: Behind | None) -> Behind | None:
    if behind is not None and len(behind[0]) > _LAYERS_MAX:
        raise UsageError(f"{len(behind[0])} layers: at most {_LAYERS_MAX}")
    return behind


class Beneath:
    """The directories ``source`` and ``target`` below those of ``Behind``; ``root``: the source's in the overlay."""

    def __init__(self, behind: Behind, root: int, source: bytes, target: bytes) -> None:
        self._stack = ExitStack()
        layers, made_in = behind
        self._from_overlay, self._to_overlay = bool(layers), made_in >= 0
        self._view = os.fstat(root).st_dev
        self._layers: list[int] = []
        self._target: int | None = None
        if self._to_overlay:
            try:
                self._target = self._open(made_in, target)
            except OSError:
                self._target = None
        for layer in layers:
            try:
                self._layers.append(self._open(layer, source))
            except OSError as exc:
                if exc.errno not in _NOT_THERE:
                    self._layers.clear()  # what is topmost is not known
                    break
        if len({os.fstat(layer).st_dev for layer in self._layers}) > 1:
            self._layers.clear()

    def close(self) -> None:
        self._stack.close()

    def _open(self, root: int, path: bytes) -> int:
        """The directory, on the file system of ``root``; it stays open."""
        fd = os.open(b".", _DIRECTORY, dir_fd=root)
        for name in filter(None, path.split(b"/")):
            try:
                inner = os.open(name, _DIRECTORY, dir_fd=fd)
            finally:
                os.close(fd)
            fd = inner
        self._stack.callback(os.close, fd)
        if os.fstat(fd).st_dev != os.fstat(root).st_dev:
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
        return fd

    @contextmanager
    def files(
        self, source: int, src: bytes, status: os.stat_result, target: int, dst: bytes
    ) -> Iterator[tuple[int, int] | None]:
        """What extents are shared with instead of the two files, of which one or none may be in no overlay."""
        from_overlay = self._from_overlay and status.st_dev == self._view  # else it is of a mount below
        with ExitStack() as stack:
            real_source = self._source(stack, src, status) if from_overlay else source
            real_target = self._made(stack, dst, os.fstat(target)) if self._to_overlay else target
            known = real_source is not None and real_target is not None and (from_overlay or self._to_overlay)
            yield (real_source, real_target) if known else None  # type: ignore[misc]

    def _source(self, stack: ExitStack, name: bytes, seen: os.stat_result) -> int | None:
        """Of the topmost layer that has the name."""
        for layer in self._layers:
            try:
                os.stat(name, dir_fd=layer, follow_symlinks=False)
            except FileNotFoundError:
                continue
            except OSError:
                return None
            return _opened(stack, layer, name, os.O_RDONLY, _read_state(seen), _read_state)
        return None

    def _made(self, stack: ExitStack, name: bytes, seen: os.stat_result) -> int | None:
        if self._target is None:
            return None
        return _opened(stack, self._target, name, os.O_WRONLY, (seen.st_ino, 0), _new_state)


def _read_state(status: os.stat_result) -> tuple[int, ...]:
    """What was copied up has the inode number of its origin, but nobody can set a ctime."""
    return status.st_ino, status.st_mode, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _new_state(status: os.stat_result) -> tuple[int, ...]:
    return status.st_ino, status.st_size


def _opened(
    stack: ExitStack,
    directory: int,
    name: bytes,
    flags: int,
    wanted: tuple[int, ...],
    state: Callable[[os.stat_result], tuple[int, ...]],
) -> int | None:
    """The regular file of that name if it is as wanted; what has the name afterwards does not matter."""
    try:
        entry = os.open(name, _ENTRY, dir_fd=directory)
    except OSError:
        return None
    try:
        found = os.fstat(entry)
        if not stat.S_ISREG(found.st_mode) or found.st_dev != os.fstat(directory).st_dev or state(found) != wanted:
            return None
        fd = os.open(f"/proc/self/fd/{entry}", flags | os.O_CLOEXEC)
        stack.callback(os.close, fd)
        return fd
    except OSError:
        return None
    finally:
        os.close(entry)
