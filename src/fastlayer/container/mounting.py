"""Images as directories: read-only views, and writable layers on top."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from fastlayer.container import writable
from fastlayer.container.alone import alone
from fastlayer.container.mounted import (
    Mounted,
    announce,
    complete,
    elsewhere,
    find,
    forget_if_gone,
    is_on_top,
    proposed,
    refuse_mounted,
    withdraw,
)
from fastlayer.errors import DriverError, InUseError, NotFoundError, UsageError, show_path
from fastlayer.image.images import Image, Images
from fastlayer.snapshot.driver import NO_OPTIONS, Options

if TYPE_CHECKING:
    from fastlayer.container.writable import Writable
    from fastlayer.metadata.leases import Lease
    from fastlayer.mounts.mount import Mount
    from fastlayer.oci.platform import Platform
    from fastlayer.store.store import Store


_PATIENCE = 1.0  # seconds: others keep mounts busy, or copies of them, for a moment


def mount_image(
    store: Store,
    image: Image,
    target: str | os.PathLike[str],
    *,
    storage_options: Options = NO_OPTIONS,
    warnings: list[str] | None = None,
) -> Mounted:
    """Mounts an image read-only at ``target``, an existing directory. Raises ``DriverError`` without the right to.

    ``storage_options``: as of ``mount_layer``, those that make sense for what is only read. What unpacking the image,
    if it has to be done now, leaves out is added to ``warnings``; here and in what follows.
    """
    place = _place(store, target)
    snapshotter = store.snapshotter
    snapshotter.driver.check_options(storage_options, "view")
    key = f"mount-{os.urandom(8).hex()}"
    parent = _chain(store, image, warnings)
    with store.lease(f"mount {image.name}") as lease:
        snapshotter.view(key, parent, options=storage_options, lease=lease)
        mounts = snapshotter.ready(key)
        new = proposed(place, snapshotter.driver.name, key, image.name, None, len(mounts))
        return _mount(store, lease, mounts, new)


def mount_writable(store: Store, layer: Writable, target: str | os.PathLike[str]) -> Mounted:
    """Mounts a writable layer at ``target``. Raises ``InUseError`` when it is mounted: overlayfs forbids two."""
    place = _place(store, target)
    with alone(store, layer.name), store.lease(f"mount {layer.name}") as lease:
        refuse_mounted(store, layer)
        mounts = writable.snapshotter_of(store, layer).ready(layer.key)
        new = proposed(place, layer.driver, layer.key, layer.image, layer.name, len(mounts))
        return _mount(store, lease, mounts, new)


def unmount(store: Store, text: str, *, detach: bool = False, remove: bool = False) -> Mounted:
    """Unmounts a target, or the target of a writable layer's name; with ``remove`` the layer goes, too.

    ``detach``: also when it is in use (umount(2), MNT_DETACH). Raises ``NotFoundError``; ``InUseError`` when it is in
    use, covered by another mount, or in another mount namespace.
    """
    from fastlayer.mounts.mounting import umount

    found = find(store, text)
    place = show_path(found.target)
    if not found.here:
        raise InUseError(f"{text}: is mounted at {elsewhere(found)}")
    if not is_on_top(store, found):
        raise InUseError(f"{place}: another mount lies over it: unmount that first")
    for _ in range(found.depth):
        umount(found.target, detach=detach, patience=_PATIENCE)
    forget_if_gone(store, found)
    if remove and found.writable:
        _remove_soon(store, found.writable)
    return found


def _remove_soon(store: Store, name: str) -> None:
    """Whoever makes a mount namespace at this moment (a sandbox that starts) has a copy until it has dropped it."""
    end = time.monotonic() + _PATIENCE
    while True:
        try:
            return writable.remove(store, name)
        except InUseError:
            if time.monotonic() >= end:
                raise
            time.sleep(0.05)


@contextmanager
def temporary(store: Store, image: Image, *, warnings: list[str] | None = None) -> Iterator[Path]:
    """An image's tree for the block, to look at: mounted where nobody else sees it, or as a plain directory.

    That of an image without layers is empty.
    """
    from fastlayer.mounts.mounting import as_directory

    if image.chain_id is None:
        with tempfile.TemporaryDirectory(prefix="fastlayer-") as empty:
            yield Path(empty)
        return
    snapshotter = store.snapshotter
    if store.read_only:  # no view can be made, and none is needed
        with as_directory(snapshotter.mounts(_chain(store, image, warnings))) as path:
            yield path
        return
    with store.lease(f"look at {image.name}") as lease:
        key = f"look-{lease.id}"
        snapshotter.view(key, _chain(store, image, warnings), lease=lease)
        try:
            with as_directory(snapshotter.ready(key)) as path:
                yield path
        finally:
            snapshotter.remove(key)


@contextmanager
def mount(
    image: str,
    *,
    writable: bool = False,
    name: str | None = None,
    target: str | os.PathLike[str] | None = None,
    root: str | os.PathLike[str] | None = None,
    driver: str | None = None,
    storage_options: Options = NO_OPTIONS,
    attach: bool = True,
    warnings: list[str] | None = None,
) -> Iterator[Path]:
    """An image as a directory for the block: ``with fastlayer.mount("debian") as path: ...``.

    Read-only, or with a ``writable`` layer on top, which goes at the end unless it has a ``name`` (a layer of that name
    is used again). ``target``: an existing directory to mount at; by default a temporary one. ``storage_options``: the
    driver's (``docs/overlay2.md``), for a layer that is made now: ``{"volatile": "on"}``. ``attach=False``: nothing is
    mounted, and no right to is needed: the writable layer's own directory in the store, with the drivers vfs and btrfs.
    What unpacking the image, if that has to be done now, leaves out (devices, without the right to make them) is added
    to ``warnings``.
    """
    from fastlayer.store.store import existing_store

    if not attach:
        with (
            existing_store(root, driver=driver) as store,
            _in_place(store, image, name, storage_options, warnings) as place,
        ):
            yield place
        return
    with existing_store(root, driver=driver) as store, _target(target) as place:
        found = _begin(store, image, place, writable, name, storage_options, warnings)
        try:
            yield place
        finally:
            unmount(store, found.writable or found.target, remove=name is None)


@contextmanager
def _in_place(
    store: Store, image: str, name: str | None, options: Options, warnings: list[str] | None
) -> Iterator[Path]:
    layer, place = layer_in_place(store, image, name, storage_options=options, warnings=warnings)
    try:
        yield place
    finally:
        if name is None:
            writable.remove(store, layer.name)


@contextmanager
def _target(given: str | os.PathLike[str] | None) -> Iterator[Path]:
    """What was given, or a directory of its own. Never removed with what is in it: something may be mounted still."""
    import tempfile

    if given is not None:
        yield Path(given)
        return
    scratch = Path(tempfile.mkdtemp(prefix="fastlayer-"))
    try:
        yield scratch
    finally:
        try:
            os.rmdir(scratch)
        except OSError:
            pass  # what keeps it is the error that is on its way


def _begin(
    store: Store,
    image: str,
    place: Path,
    wanted: bool,
    name: str | None,
    options: Options,
    warnings: list[str] | None,
) -> Mounted:
    if not (wanted or name):
        stack = Images(store).find_stack(image)
        return mount_image(store, stack, place, storage_options=options, warnings=warnings)
    return mount_layer(store, image, name, place, storage_options=options, warnings=warnings)


def mount_layer(
    store: Store,
    image: str | None,
    name: str | None,
    target: str | os.PathLike[str],
    *,
    size: int | None = None,
    storage_options: Options = NO_OPTIONS,
    platform: Platform | None = None,
    warnings: list[str] | None = None,
) -> Mounted:
    """Mounts the layer ``name``, or a new one on ``image``, which does not stay when it cannot be mounted.

    ``size``, ``storage_options``: of a new one (``writable.create``).
    """
    layer, made = _layer(store, image, name, size, storage_options, platform, warnings)
    try:
        return mount_writable(store, layer, target)
    except BaseException:
        if made:
            with suppress(InUseError):  # another process was faster
                writable.remove(store, layer.name)
        raise


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
    storage_options: Options = NO_OPTIONS,
    platform: Platform | None = None,
    warnings: list[str] | None = None,
) -> Writable:
    """The layer ``name``, or a new one on ``image``."""
    return _layer(store, image, name, size, storage_options, platform, warnings)[0]


def layer_in_place(
    store: Store,
    image: str | None,
    name: str | None,
    *,
    size: int | None = None,
    storage_options: Options = NO_OPTIONS,
    platform: Platform | None = None,
    warnings: list[str] | None = None,
) -> tuple[Writable, Path]:
    """The same with its directory; a new one is of a driver that has one to show, and does not stay if it has none."""
    store.prefer_directories()
    layer, made = _layer(store, image, name, size, storage_options, platform, warnings)
    try:
        return layer, writable.directory(store, layer)
    except BaseException:
        if made:
            writable.remove(store, layer.name)
        raise


def _layer(
    store: Store,
    image: str | None,
    name: str | None,
    size: int | None,
    options: Options,
    platform: Platform | None,
    warnings: list[str] | None,
) -> tuple[Writable, bool]:
    """The layer, and whether it has been made just now."""
    layer = _existing(store, image, name)
    if layer is None and image is None:
        raise NotFoundError(f"{name}: no writable layer of that name: name an image to make one")
    if layer is not None and size is not None:
        raise UsageError(f"{layer.name}: its size is given when it is made")
    if layer is not None and options:
        raise UsageError(f"{layer.name}: its storage options are given when it is made: leave them out")
    if layer is not None:
        return layer, False
    found = Images(store).find(image or "", platform)
    return writable.create(store, found, name, size=size, storage_options=options, warnings=warnings), True


# ---- doing it --------------------------------------------------------------------------------------


def _chain(store: Store, image: Image, warnings: list[str] | None) -> str:
    """The snapshot of all layers, unpacked now if need be."""
    if image.chain_id is None:
        raise DriverError(f"{image.name}: has no layers, so there is nothing to mount")
    if not store.snapshotter.exists(image.chain_id):
        from fastlayer.image.unpack import ensure_unpacked

        lost: list[str] = [] if warnings is None else warnings
        lost += ensure_unpacked(store, image)
    return str(image.chain_id)


def _place(store: Store, target: str | os.PathLike[str]) -> str:
    if not os.fspath(target):
        raise UsageError("the target has an empty name: give a directory")
    path = os.path.realpath(os.fspath(target))
    if not os.path.isdir(path):
        raise UsageError(f"{show_path(path)}: is no directory: make one to mount at")
    root = os.path.realpath(store.root)
    if os.path.commonpath([path, root]) in (path, root):
        raise UsageError(f"{show_path(path)}: would cover the store, or lie in it: choose another target")
    return path


def _mount(store: Store, lease: Lease, mounts: list[Mount], new: Mounted) -> Mounted:
    """Announces it, mounts, and notes that it is done; undone together."""
    from fastlayer.mounts.mounting import mount as mount_at
    from fastlayer.mounts.mounting import umount
    from fastlayer.mounts.signs import sign_of

    announce(store, lease, new, sign_of(mounts))
    try:
        mount_at(mounts, new.target)
        try:
            complete(store, new)
        except BaseException:
            umount(new.target, detach=True)
            raise
    except BaseException:
        withdraw(store, lease, new)
        raise
    return new
