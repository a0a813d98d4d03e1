"""SOURCE_DATE_EPOCH for trees: later times become it (reproducible-builds.org/specs/source-date-epoch)."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any


def clamp_times(root: Any, paths: Iterable[bytes], seconds: int) -> None:
    """Sets the modification times of paths below the directory ``root``, no link followed. Children come first, or the
    times of their directories stay as they are: setting times changes none above."""
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    moment = seconds * 10**9
    try:
        for path in paths:
            os.utime(path or b".", ns=(moment, moment), dir_fd=fd, follow_symlinks=False)
    finally:
        os.close(fd)
