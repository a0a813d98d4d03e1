"""Temporary directories for what is fetched and unpacked: gone at the end, whatever happens.

In a store they lie below ``cache/unpacked``, where their data can be shared with layers, and those of killed processes
are removed by the next one.
"""

from __future__ import annotations

import os
from contextlib import suppress
from types import TracebackType

from fastlayer._temporary import make_locked, those_of_the_dead
from fastlayer.errors import StorageError

_PREFIX = "fastlayer-context-"


class Scratch:
    """A directory of our own; a context manager. ``path``, ``fd``."""

    def __init__(self, store: str | os.PathLike[str] | None = None) -> None:
        """``store``: the root of one that can be written to; None: ``TMPDIR``. Raises ``StorageError``."""
        place = _place(store)
        self.path, self.fd = _make(place)
        self._owned = True
        if place is not None:
            for path, fd in those_of_the_dead(_PREFIX, place):
                with suppress(OSError):  # something is mounted there: it is for the next one
                    _remove(path, fd)

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


def _make(place: str | None) -> tuple[str, int]:
    import tempfile

    try:
        return make_locked(_PREFIX, place)
    except OSError as exc:
        raise StorageError(exc.errno or 0, "make a temporary directory", place or tempfile.gettempdir()) from exc


def _remove(path: str, fd: int) -> None:
    from fastlayer.layer.target import empty

    empty(fd)
    try:
        os.rmdir(path)
    except OSError:
        pass  # somebody put something there: not ours to remove
