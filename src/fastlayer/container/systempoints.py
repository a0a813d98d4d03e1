"""Mount points of the system that an image lacks: they are there while a container runs, and nobody has written them.

Docker keeps them in a layer of their own below the container's; here they are made at the start and taken away in the
end. What tells of the layer meanwhile leaves them out.
"""

from __future__ import annotations

import itertools
import os
import stat
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from fastlayer.container import writable
from fastlayer.container.mounted import is_running

if TYPE_CHECKING:
    from fastlayer.container.writable import Writable
    from fastlayer.layer.diff import Change, Changes
    from fastlayer.store.store import Store

_FILES = (b"etc/resolv.conf", b"etc/hosts", b"etc/hostname")
_DIRECTORIES = (b"proc", b"sys", b"dev", b"etc")  # after the files, of which the last may be the home


def points_in(changes: Iterable[Change]) -> list[bytes]:
    """Those that have been made: new, and empty; what is in others before them."""
    new = {change.path: change for change in changes if change.kind == "A"}
    found: list[bytes] = []
    for path in _FILES:
        if path in new and stat.S_ISREG(new[path].mode) and new[path].size == 0:
            found.append(path)
    for path in _DIRECTORIES:
        inside = {name for name in new if name.startswith(path + b"/")}
        if path in new and stat.S_ISDIR(new[path].mode) and inside <= set(found):
            found.append(path)
    return found


def changes(store: Store, layer: Writable) -> Changes:
    """What was written to the layer, without them. The caller closes the result.

    Of a container the root itself is never told of, as Docker has it.
    """
    found = writable.changes(store, layer)
    if layer.container is not None:
        root = [change.path for change in itertools.islice(found, 1) if not change.path]  # it sorts first
        found.hide([*root, *(points_in(found) if is_running(store, layer) else ())])
    return found


def take_away(store: Store, layer: Writable, copy: str) -> None:
    """From a copy of a running container's layer, where its driver shows the tree."""
    snapshotter = writable.snapshotter_of(store, layer)
    tree = snapshotter.driver.own_tree(snapshotter.number(copy)[0])
    if tree is None:
        return
    with snapshotter.changes(copy) as found:
        points = points_in(found)
    for path in points:
        with suppress(OSError):
            _remove(tree, path)


def _remove(tree: Path, path: bytes) -> None:
    """The directory it is in keeps its time."""
    folder, _, name = path.rpartition(b"/")
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    where = os.open(os.path.join(os.fsencode(tree), folder), flags)
    try:
        before = os.fstat(where)
        if stat.S_ISDIR(os.stat(name, dir_fd=where, follow_symlinks=False).st_mode):
            os.rmdir(name, dir_fd=where)
        else:
            os.unlink(name, dir_fd=where)
        os.utime(where, ns=(before.st_atime_ns, before.st_mtime_ns))
    finally:
        os.close(where)
