"""Bundles of OCI runtimes (runtime-spec, bundle.md): each a directory in TMPDIR, for as long as its runtime runs.

Each is locked by its maker, so those of killed ones are known, and removed by the next process that makes one.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_PREFIX = "fastlayer-run-"


@contextmanager
def bundle() -> Iterator[str]:
    """An empty directory of our own, which is gone afterwards. Raises ``OSError``."""
    import shutil
    import tempfile

    _remove_dead(tempfile.gettempdir())
    path, fd = _make(tempfile.gettempdir())
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        os.close(fd)


def _make(place: str) -> tuple[str, int]:
    import tempfile

    while True:
        path = tempfile.mkdtemp(prefix=_PREFIX, dir=place)
        try:
            fd = os.open(path, _DIRECTORY)
        except FileNotFoundError:
            continue
        fcntl.flock(fd, fcntl.LOCK_EX)
        if os.path.isdir(path):  # nobody took it for a dead one's meanwhile
            return path, fd
        os.close(fd)


@cache  # once is enough for a process
def _remove_dead(place: str) -> None:
    with os.scandir(place) as entries:
        found = [entry.path for entry in entries if entry.name.startswith(_PREFIX)]
    for path in found:
        _remove_if_dead(path)


def _remove_if_dead(path: str) -> None:
    import shutil

    try:
        fd = os.open(path, _DIRECTORY)
    except OSError:
        return
    try:
        if os.fstat(fd).st_uid == os.geteuid():
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(path, ignore_errors=True)
    except OSError:
        pass  # its maker is alive
    finally:
        os.close(fd)
