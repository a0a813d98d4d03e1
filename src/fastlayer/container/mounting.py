"""Images as directories: read-only views, and writable layers on top."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from fastlayer.container import writable
from fastlayer.container.mounted import Made, Mounted, find, forget, refuse_mounted, remember
from fastlayer.errors import DriverError, NotFoundError, UsageError, show_path
from fastlayer.image.images import Image, Images

if TYPE_CHECKING:
    from fastlayer.container.writable import Writable
    from fastlayer.mounts.mount import Mount
    from fastlayer.oci.platform import Platform
    from fastlayer.store.store import Store


_PATIENCE = 1.0  # seconds: whoever lists mounts at this moment keeps them busy for microseconds


def mount_image(store: Store, image: Image, target: str | os.PathLike[str]) -> Mounted:
    """Mounts an image read-only at ``target``, an existing directory. Raises ``DriverError`` without the right to."""
    place = _place(target)
    snapshotter = store.snapshotter
    key = f"mount-{os.urandom(8).hex()}"
    parent = _chain(store, image)
    with store.lease(f"mount {image.name}") as lease:
        mounts = snapshotter.view(key, parent, lease=lease)
        try:
            return _mount(store, mounts, place, snapshotter.driver.name, key, image.name, None)
        except BaseException:
            snapshotter.remove(key)
            raise


def mount_writable(store: Store, layer: Writable, target: str | os.PathLike[str]) -> Mounted:
    """Mounts a writable layer at ``target``. Raises ``InUseError`` when it is mounted: overlayfs forbids two."""
    place = _place(target)
    refuse_mounted(store, layer)
    mounts = writable.snapshotter_of(store, layer).mounts(layer.key)
    return _mount(store, mounts, place, layer.driver, layer.key, layer.image, layer.name)


def unmount(store: Store, text: str, *, detach: bool = False, remove: bool = False) -> Mounted:
    """Unmounts a target, or the target of a writable layer's name; with ``remove`` the layer goes, too.

    ``detach``: also when it is in use (umount(2), MNT_DETACH). Raises ``NotFoundError``, ``InUseError`` (EBUSY).
    """
    from fastlayer.mounts.mounting import umount

    found = find(store, text)
    if found.here:
        for _ in range(found.depth):
            umount(found.target, detach=detach, patience=_PATIENCE)
    forget(store, found)
    if remove and found.writable:
        writable.remove(store, found.writable)
    return found


@contextmanager
def temporary(store: Store, image: Image) -> Iterator[Path]:
    """An image's tree for the block, to look at: mounted where nobody else sees it, or as a plain directory."""
    snapshotter = store.snapshotter
    with store.lease(f"look at {image.name}") as lease:
        key = f"look-{lease.id}"
        mounts = snapshotter.view(key, _chain(store, image), lease=lease)
        try:
            with _as_directory(mounts) as path:
                yield path
        finally:
            snapshotter.remove(key)


@contextmanager
def _as_directory(mounts: list[Mount]) -> Iterator[Path]:
    """Bind mounts need no mounting when they are only looked at."""
    if len(mounts) == 1 and mounts[0].type == "bind":
        yield Path(mounts[0].source)
        return
    from fastlayer.mounts.mounting import private

    (value,) = mounts
    with private(value) as path:
        yield path


@contextmanager
def mount(
    image: str,
    *,
    writable: bool = False,
    name: str | None = None,
    target: str | os.PathLike[str] | None = None,
    root: str | os.PathLike[str] | None = None,
    driver: str | None = None,
) -> Iterator[Path]:
    """An image as a directory for the block: ``with fastlayer.mount("debian") as path: ...``.

    Read-only, or with a ``writable`` layer on top, which goes at the end unless it has a ``name`` (a layer of that name
    is used again). ``target``: an existing directory to mount at; by default a temporary one.
    """
    import tempfile

    from fastlayer.store.store import existing_store

    with existing_store(root, driver=driver) as store, tempfile.TemporaryDirectory(prefix="fastlayer-") as scratch:
        place = Path(scratch) if target is None else Path(target)
        found = _begin(store, image, place, writable, name)
        try:
            yield place
        finally:
            unmount(store, found.target, remove=name is None)


def _begin(store: Store, image: str, place: Path, wanted: bool, name: str | None) -> Mounted:
    if not (wanted or name):
        return mount_image(store, Images(store).find_stack(image), place)
    layer = _existing(store, image, name) or writable.create(store, Images(store).find(image), name)
    return mount_writable(store, layer, place)


def _existing(store: Store, image: str | None, name: str | None) -> Writable | None:
    """The layer of that name, when there is one; it must be of the same image."""
    try:
        layer = writable.find(store, name) if name else None
    except NotFoundError:
        return None
    if layer is not None and image is not None and Images(store).find(image).manifest != layer.manifest:
        raise UsageError(f"{layer.name}: is a layer of {layer.image}, not of {image}: leave out the image")
    return layer


def open_writable(
    store: Store,
    image: str | None,
    name: str | None,
    *,
    size: int | None = None,
    platform: Platform | None = None,
) -> Writable:
    """The layer ``name``, or a new one on ``image``."""
    layer = _existing(store, image, name)
    if layer is None and image is None:
        raise NotFoundError(f"{name}: no writable layer of that name: name an image to make one")
    if layer is not None and size is not None:
        raise UsageError(f"{layer.name}: its size is given when it is made")
    return layer or writable.create(store, Images(store).find(image or "", platform), name, size=size)


# ---- doing it --------------------------------------------------------------------------------------


def _chain(store: Store, image: Image) -> str:
    """The snapshot of all layers, unpacked now if need be."""
    if image.chain_id is None:
        raise DriverError(f"{image.name}: has no layers, so there is nothing to mount")
    if not store.snapshotter.exists(image.chain_id):
        from fastlayer.image.unpack import ensure_unpacked

        ensure_unpacked(store, image)
    return str(image.chain_id)


def _place(target: str | os.PathLike[str]) -> str:
    path = os.path.realpath(os.fspath(target))
    if not os.path.isdir(path):
        raise UsageError(f"{show_path(path)}: is no directory: make one to mount at")
    return path


def _mount(
    store: Store, mounts: list[Mount], place: str, driver: str, key: str, image: str, layer: str | None
) -> Mounted:
    """Mounts and remembers it, in this order, undone together; only then is a view no longer the lease's."""
    from fastlayer.mounts.mounting import mount as mount_at
    from fastlayer.mounts.mounting import umount

    made = Made(mount_at(mounts, place), len(mounts))
    try:
        return remember(store, place, driver, key, image, layer, made)
    except BaseException:
        umount(place, detach=True)
        raise
