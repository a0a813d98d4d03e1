"""What is there for a while: names for it, and directories that are locked by their makers, so that those of killed
processes are known and can go."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def name_beside(name: bytes) -> bytes:
    """A hidden name for what will be called ``name``, in the same directory; it fits where that does."""
    return b".%s.fastlayer-%s" % (name[:200], os.urandom(6).hex().encode())


def make_locked(prefix: str, place: str | None) -> tuple[str, int]:
    """A new directory in ``place`` (None: TMPDIR): its path, and a descriptor that locks it. Raises ``OSError``."""
    import tempfile

    while True:
        path = tempfile.mkdtemp(prefix=prefix, dir=place)
        try:
            fd = os.open(path, _DIRECTORY)
        except FileNotFoundError:  # before it was locked somebody took it for one of the dead
            continue
        fcntl.flock(fd, fcntl.LOCK_EX)
        if _is_there(path, fd):
            return path, fd
        os.close(fd)


def those_of_the_dead(prefix: str, place: str) -> Iterator[tuple[str, int]]:
    """The same of those that our user made and nobody holds any more; each is locked until the next is asked for."""
    with os.scandir(place) as entries:
        found = [entry.path for entry in entries if entry.name.startswith(prefix)]
    for path in found:
        try:
            fd = os.open(path, _DIRECTORY)
        except OSError:
            continue
        try:
            if os.fstat(fd).st_uid == os.geteuid() and _is_free(fd):
                yield path, fd
        finally:
            os.close(fd)


def _is_there(path: str, fd: int) -> bool:
    try:
        return os.path.samestat(os.stat(path, follow_symlinks=False), os.fstat(fd))
    except FileNotFoundError:
        return False


def _is_free(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
