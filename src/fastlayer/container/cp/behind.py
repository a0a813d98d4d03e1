"""The real directories behind those of an overlay: data is shared with what lies outside only through these.

What is found here is a guess, for a container may be renaming: the engine takes no file of which it is not sure that it
is the one that the overlay shows (csrc/fl_backing.h).
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from fastlayer._backend import Behind
from fastlayer._values import NamedTuple
from fastlayer.container.cp.spot import Side

_REAL = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NOT_THERE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)


class Sides(NamedTuple):
    """The two of a copy."""

    source: Side
    dest: Side

    @contextmanager
    def behind(self, source: int, target: int) -> Iterator[Behind]:
        """Of two directories, descriptors, on these sides."""
        with ExitStack() as stack:
            yield Behind(_layers(stack, self.source, source), _target(stack, self.dest, target))


def _layers(stack: ExitStack, side: Side, directory: int) -> tuple[int, ...]:
    path = _path_of(side, directory)
    if path is None:
        return ()
    found = []
    for layer in side.layers:
        try:
            found.append(_below(stack, layer, path))
        except OSError as exc:
            if exc.errno not in _NOT_THERE:
                return ()  # it may hide what is in the layers below
    return tuple(found)


def _target(stack: ExitStack, side: Side, directory: int) -> int:
    """In the topmost layer, where what is made in ``directory`` appears."""
    path = _path_of(side, directory)
    if path is None:
        return -1
    try:
        found = _below(stack, side.layers[0], path)
    except OSError:
        return -1
    return found if os.fstat(found).st_ino == os.fstat(directory).st_ino else -1


def _path_of(side: Side, directory: int) -> bytes | None:
    """Of a directory below the root of ``side``, as the overlay has it; None for one of another file system."""
    if not side.layers or os.fstat(directory).st_dev != os.fstat(side.root).st_dev:
        return None
    try:
        root, path = (os.readlink(b"/proc/self/fd/%d" % fd).rstrip(b"/") + b"/" for fd in (side.root, directory))
    except OSError:  # of any length: there may be no such path
        return None
    return path[len(root) :] if path.startswith(root) else None


def _below(stack: ExitStack, root: int, path: bytes) -> int:
    fd = os.open(b".", _REAL, dir_fd=root)
    for name in filter(None, path.split(b"/")):
        try:
            inner = os.open(name, _REAL, dir_fd=fd)
        finally:
            os.close(fd)
        fd = inner
    stack.callback(os.close, fd)
    return fd
