"""Whether the snapshots of an image hold what its layers say, file by file.

Compared are the layers' blobs, put onto each other, and the tree that is seen of them: names, types, contents, targets
of links. Owners, modes, times and attributes may differ with good reason (``ignore_chown``, implied directories), and
devices may be missing (``skip_devices``).
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Collection
from typing import TYPE_CHECKING

from fastlayer.container.mounted import all_mounts
from fastlayer.container.mounting import temporary
from fastlayer.errors import DriverError, FastlayerError, StorageError, show_path
from fastlayer.layer.diff import diff
from fastlayer.maintenance.restore import restore

if TYPE_CHECKING:
    from fastlayer.image.images import Image
    from fastlayer.layer.diff import Change
    from fastlayer.oci.digest import Digest
    from fastlayer.store.store import Store

_WRONG = frozenset({"content", "type", "link"})


def with_blobs(store: Store, image: Image, damaged: Collection[Digest]) -> Image | None:
    """The lower layers of an image that have their blobs, as an image; None where the lowest has none, or damaged."""
    count = 0
    for layer in image.layers:
        if layer.digest in damaged or not store.content.has(layer.digest):
            break
        count += 1
    if not count:
        return None
    return image._replace(layers=image.layers[:count], chain_id=image.chain[count - 1])


def wrong_file(store: Store, image: Image) -> str:
    """The first file that is not as the layers have it, with what is wrong; empty when all are.

    Raises ``DriverError`` where the image cannot be looked at.
    """
    blobs = [os.fspath(store.content.path_of(layer.digest)) for layer in image.layers]
    with temporary(store, image) as place, diff(blobs, place, compare="content", xattrs="none") as changes:
        for change in changes:
            if why := _wrong(change):
                return f"{show_path(change.name)}: {why}"
    return ""


def is_forbidden(error: FastlayerError) -> bool:
    """Whether an image could not be looked at because we may not mount: nothing is wrong with it for that."""
    cause = error.__cause__
    return isinstance(error, DriverError) and isinstance(cause, StorageError) and cause.errno == errno.EPERM


def _wrong(change: Change) -> str:
    if change.kind == "A":
        return "is in none of its layers"
    if change.kind == "D":
        return "" if stat.S_ISCHR(change.mode) or stat.S_ISBLK(change.mode) else "is missing"
    found = _WRONG.intersection(change.what)
    return f"has another {sorted(found)[0]} than its layers say" if found else ""


def unpack_again(store: Store, image: Image) -> bool:
    """Makes all snapshots of the image anew, under whatever is made of them. Not while any of them is mounted."""
    snapshotter = store.snapshotter
    numbers = {str(name): snapshotter.number(str(name))[0] for name in image.chain}
    for found in all_mounts(store):
        if found.driver == snapshotter.driver.name:
            _, below = snapshotter.number(found.key)
            if set(below) & set(numbers.values()):
                return False
    return all(restore(store, snapshotter.driver.name, numbers[str(name)], str(name)) for name in image.chain)
