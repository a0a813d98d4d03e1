"""What an image has where a volume is mounted goes into the volume, if that is new and empty: Docker's rule."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from fastlayer.errors import StorageError
from fastlayer.volume import books, trees
from fastlayer.volume.lock import alone
from fastlayer.volume.subpath import open_inside
from fastlayer.volume.use import temporary

if TYPE_CHECKING:
    from fastlayer.store.store import Store

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


def populate(store: Store, name: str, image_root: str | os.PathLike[str], path: str, *, nocopy: bool = False) -> bool:
    """Copies the directory ``path`` of the tree ``image_root`` into the volume; tells whether it did.

    Only into an empty volume, never with ``nocopy``. The directory of the volume gets the owner, mode and times of the
    image's. ``path`` is resolved inside the tree; one that is not there, or is no directory, is not copied. Whoever is
    killed meanwhile leaves a volume that the next call fills from the beginning. Whoever wants what is copied acquires
    the volume before: a tmpfs is gone with its last user.
    Raises ``NotFoundError`` for the volume, ``StorageError``.
    """
    books.find(store, name)
    if nocopy:
        return False
    source = _source(image_root, path)
    if source is None:
        return False
    try:
        with temporary(store, name) as directory, alone(store, name):
            return _fill(store, name, source, directory)
    finally:
        os.close(source)


def _fill(store: Store, name: str, source: int, directory: Path) -> bool:
    if books.half_filled(store, name):
        trees.empty(directory)
    elif not trees.is_empty(directory):
        return False
    with store.lease(f"fill volume {name}") as lease:
        books.set_filling(store, name, lease.id)
        trees.fill(source, directory)
        books.set_filling(store, name, None)
    return True


def _source(image_root: str | os.PathLike[str], path: str) -> int | None:
    """The directory of the image, open for reading."""
    try:
        root = os.open(image_root, _DIRECTORY)
        try:
            found = open_inside(root, path.strip("/") or ".")
        finally:
            os.close(root)
        try:
            if not stat.S_ISDIR(os.fstat(found).st_mode):
                return None
            return os.open(".", _DIRECTORY, dir_fd=found)
        finally:
            os.close(found)
    except OSError as exc:
        if exc.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            return None
        raise StorageError(exc.errno or 0, "cannot look into the image", path) from exc
