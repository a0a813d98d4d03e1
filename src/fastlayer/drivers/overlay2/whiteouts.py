"""Whiteouts of a layer that hide nothing.

A layer is extracted without looking at those below, so each of its ``.wh.NAME`` becomes a whiteout. The kernel expects
one only where there is something to hide: in a directory that no lower layer has, the name would still be listed (and
then not be found). When the layers below are known such whiteouts go.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

from fastlayer.drivers.overlay2.lookup import is_opaque, provider
from fastlayer.errors import DriverError, StorageError


def drop_pointless(diff: Path, lowers: Sequence[Path]) -> int:
    """Removes them from the layer ``diff`` that lies on ``lowers`` (top first); returns how many.

    Reads the names of the layer, not their attributes. Directories keep their times.
    """
    count = 0
    for directory, names in list(_whiteouts(os.fsencode(diff))):
        inner = os.path.relpath(directory, os.fsencode(diff))
        pointless = [name for name in names if _hides_nothing(diff, lowers, os.path.normpath(inner + b"/" + name))]
        if pointless:
            status = os.lstat(directory)
            for name in pointless:
                os.unlink(directory + b"/" + name)
            os.utime(directory, ns=(status.st_atime_ns, status.st_mtime_ns))
            count += len(pointless)
    return count


def _whiteouts(root: bytes) -> Iterator[tuple[bytes, list[bytes]]]:
    """Directories and the whiteouts in them. What is too deep for a path stays as it is."""
    waiting = [root]
    while waiting:
        directory = waiting.pop()
        found = []
        try:
            with os.scandir(directory) as listing:
                for child in listing:
                    if child.is_dir(follow_symlinks=False):
                        waiting.append(child.path)
                    elif not child.is_file(follow_symlinks=False) and not child.is_symlink():
                        status = child.stat(follow_symlinks=False)
                        if stat.S_ISCHR(status.st_mode) and status.st_rdev == 0:
                            found.append(child.name)
        except OSError as exc:
            if exc.errno != errno.ENAMETOOLONG:
                raise
        if found:
            yield directory, found


def _hides_nothing(diff: Path, lowers: Sequence[Path], path: bytes) -> bool:
    above = os.path.dirname(path)
    while above:
        if is_opaque(os.path.join(os.fsencode(diff), above)):
            return True
        above = os.path.dirname(above)
    try:
        provider(lowers, path)
    except StorageError as exc:
        return exc.errno == errno.ENOENT
    except DriverError:
        pass  # something is there, though only the kernel can say what
    return False
