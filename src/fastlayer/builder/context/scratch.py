"""Temporary directories for what is fetched and unpacked: gone at the end, whatever happens.

In a store they lie below ``cache/unpacked``, where their data can be shared with layers. Each is locked by its maker,
so those of killed processes are known, and removed by the next one.
"""

from __future__ import annotations

import fcntl
import os
from types import TracebackType

from fastlayer.errors import StorageError

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_PREFIX = "fastlayer-context-"


class Scratch:
    """A directory of our own; a context manager. ``path``, ``fd``."""

    def __init__(self, store: str | os.PathLike[str] | None = None) -> None:
        """``store``: the root of one that can be written to; None: ``TMPDIR``. Raises ``StorageError``."""
        place = _place(store)
        while True:
            self.path = _make(place)
            self.fd = os.open(self.path, _DIRECTORY)
            fcntl.flock(self.fd, fcntl.LOCK_EX)
            if _is_there(self.path, self.fd):  # nobody took it for a dead one's meanwhile
                break
            os.close(self.fd)
        self._owned = True
        if store is not None and place is not None:
            remove_dead(place)

    def close(self) -> None:
        if self._owned:
            self._owned = False
            _remove(self.path, self.fd)
            os.close(self.fd)

    def __enter__(self) -> Scratch:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _exc: BaseException | None, _tb: TracebackType | None
    ) -> None:
        self.close()


def _place(store: str | os.PathLike[str] | None) -> str | None:
    if store is None:
        return None
    place = os.path.join(os.fspath(store), "cache", "unpacked")
    try:
        for directory in (os.path.dirname(place), place):
            if not os.path.isdir(directory):
                os.mkdir(directory, 0o700)
    except FileExistsError:
        return place  # another process was faster
    except OSError:
        return None
    return place if os.access(place, os.W_OK | os.X_OK) else None


def _make(place: str | None) -> str:
    import tempfile

    try:
        return tempfile.mkdtemp(prefix=_PREFIX, dir=place)
    except OSError as exc:
        raise StorageError(exc.errno or 0, "make a temporary directory", place or tempfile.gettempdir()) from exc


def _is_there(path: str, fd: int) -> bool:
    try:
        return os.path.samestat(os.stat(path, follow_symlinks=False), os.fstat(fd))
    except FileNotFoundError:
        return False


def _remove(path: str, fd: int) -> None:
    from fastlayer.layer.target import empty

    empty(fd)
    try:
        os.rmdir(path)
    except OSError:
        pass  # somebody put something there: not ours to remove


def remove_dead(place: str) -> None:
    """Removes the directories whose makers are dead."""
    with os.scandir(place) as entries:
        found = [entry.path for entry in entries if entry.name.startswith(_PREFIX)]
    for path in found:
        try:
            fd = os.open(path, _DIRECTORY)
        except OSError:
            continue
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _remove(path, fd)
        except OSError:
            pass  # its maker is alive
        finally:
            os.close(fd)
