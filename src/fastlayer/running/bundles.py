"""Bundles of OCI runtimes (runtime-spec, bundle.md): each a directory in TMPDIR, for as long as its runtime runs.

Those of killed processes are removed by the next one that makes one.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

from fastlayer._temporary import make_locked, those_of_the_dead

_PREFIX = "fastlayer-run-"


@contextmanager
def bundle() -> Iterator[str]:
    """An empty directory of our own, which is gone afterwards. Raises ``OSError``."""
    import shutil
    import tempfile

    _remove_dead(tempfile.gettempdir())
    path, fd = make_locked(_PREFIX, None)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        os.close(fd)


@cache  # once is enough for a process
def _remove_dead(place: str) -> None:
    import shutil

    for path, _ in those_of_the_dead(_PREFIX, place):
        shutil.rmtree(path, ignore_errors=True)
