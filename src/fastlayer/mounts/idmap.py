"""Id maps of mounts: what ``inside`` owns on disk appears as ``outside`` (mount_setattr(2), "ID-mapped mounts")."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from fastlayer import _backend
from fastlayer.errors import DriverError, StorageError, UsageError

_MAX_ID = (1 << 32) - 2
_PR_SET_SECUREBITS, _NO_SETUID_FIXUP = 28, 4

Result = TypeVar("Result")


@contextmanager
def user_namespace(ranges: Sequence[tuple[int, int, int]]) -> Iterator[int]:
    """A descriptor of a user namespace that maps users and groups by ``(inside, outside, count)``, for the block.

    Raises ``UsageError`` for ranges that mean nothing, ``StorageError`` when the kernel refuses them.
    """
    lines = []
    for inside, outside, count in ranges:
        if count < 1 or min(inside, outside) < 0 or max(inside, outside) + count - 1 > _MAX_ID:
            raise UsageError(f"id map {inside}:{outside}:{count} is not a range of ids")
        lines.append(b"%d %d %d\n" % (inside, outside, count))
    text = b"".join(lines)
    fd = _backend.engine().mountapi.user_namespace(text, text)
    try:
        yield fd
    finally:
        os.close(fd)


def mapped_tree(path: str, ranges: Sequence[tuple[int, int, int]]) -> int:
    """A copy of the mount at ``path``, attached nowhere, in which owners are seen through the map. The caller's.

    Raises ``DriverError`` where the kernel cannot map this file system.
    """
    with user_namespace(ranges) as namespace:
        return map_tree(os.fsencode(path), namespace)


def map_tree(path: bytes, namespace: int) -> int:
    """The same by a descriptor of a user namespace."""
    api = _backend.engine().mountapi
    fd = int(api.clone_mount(path, recursive=False))
    try:
        api.change_mount(fd, set=0, userns=namespace)
    except BaseException as exc:
        os.close(fd)
        if isinstance(exc, StorageError) and exc.errno in (errno.EINVAL, errno.ENOSYS):
            raise DriverError(
                f"{os.fsdecode(path)}: the kernel cannot map the ids of this file system ({os.strerror(exc.errno)}): "
                "mount without an id map"
            ) from exc
        raise
    return fd


def as_mapped_root(ranges: Sequence[tuple[int, int, int]], action: Callable[[], Result]) -> Result:
    """Runs ``action`` in a thread that makes files as the one who appears as root, and keeps its capabilities.

    An overlay works in its upper directory as whoever mounted it; who has no place in the map could not (EOVERFLOW).
    """
    import ctypes
    import threading

    libc = ctypes.CDLL(None, use_errno=True)
    owner = next((outside for inside, outside, _ in ranges if inside == 0), ranges[0][1])
    results: list[Result] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            if libc.prctl(_PR_SET_SECUREBITS, _NO_SETUID_FIXUP, 0, 0, 0) < 0:  # of this thread alone
                raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
            libc.setfsgid(ctypes.c_uint(owner))
            libc.setfsuid(ctypes.c_uint(owner))
            results.append(action())
        except BaseException as exc:
            errors.append(exc)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]
