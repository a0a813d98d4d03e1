"""What the files of a tree take on the disk: allocated blocks, every inode once, and how much of it is shared."""

from __future__ import annotations

import os
from typing import Any

from fastlayer import _backend
from fastlayer.snapshot.driver import Usage

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def tree_usage(root: Any) -> Usage:
    """Of a directory and all below it, on one file system; other mounts are left out. Never follows a link.

    What vanishes meanwhile does not count. ``shared`` stays 0 where files cannot share blocks.
    """
    fd = os.open(root, _DIRECTORY)
    try:
        walk = _backend.engine().usage.TreeUsage(fd)
        try:
            while walk.step():
                pass
            return Usage(*walk.sums())
        finally:
            walk.close()
    finally:
        os.close(fd)
