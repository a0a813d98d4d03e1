"""``--mount type=image``: another image's tree, or a part of it, read-only in a container.

A part (``image-subpath``) is resolved with the image as the root, as parts of volumes are
(``fastlayer.volume.subpath``): links of the image lead nowhere out of it. What is shown is a mount that is attached
nowhere, so nobody can exchange it.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING

from fastlayer._values import NamedTuple
from fastlayer.container.containers import layer_key
from fastlayer.errors import NotFoundError, RunError, StorageError, UsageError, show_path

if TYPE_CHECKING:
    from fastlayer.container.mountoptions import MountOption
    from fastlayer.mounts.mount import Mount
    from fastlayer.store.store import Store


class Shown(NamedTuple):
    """``fd``: of the mount, the caller's; ``subdirectory``: only that of it is to be shown."""

    fd: int
    subdirectory: str = ""
    is_file: bool = False


def show(store: Store, identity: str, number: int, mount: MountOption, warnings: list[str]) -> Shown:
    """The view of the image, made once for the mount ``number`` of the container, goes with the container.

    Raises ``NotFoundError`` for image and part, ``UsageError``, ``RunError`` where the kernel is too old.
    """
    from fastlayer.mounts import mounting

    value = _view(store, f"{layer_key(identity)}/image-{number}", mount, warnings)
    fd = mounting.detached(value)
    if fd is None:
        raise RunError(f"{mount.source}: this kernel cannot mount an image here: it lacks the new mount API")
    if not mount.subpath:
        return Shown(fd, value.subdirectory)
    try:
        return _part(fd, value, mount)
    finally:
        os.close(fd)


def _view(store: Store, key: str, mount: MountOption, warnings: list[str]) -> Mount:
    from fastlayer.image.images import Images
    from fastlayer.image.unpack import ensure_unpacked

    image = Images(store).find(mount.source)
    snapshotter = store.snapshotter
    if image.chain_id is None:
        raise UsageError(f"{mount.source}: has no layers, so there is nothing to mount")
    if not snapshotter.exists(key):
        if not snapshotter.exists(image.chain_id):
            warnings += ensure_unpacked(store, image)
        snapshotter.view(key, str(image.chain_id))
    (value,) = snapshotter.ready(key)
    return value


def _part(fd: int, value: Mount, mount: MountOption) -> Shown:
    """``subdirectory`` of a block file system is the driver's own: there the image begins."""
    root = os.open(value.subdirectory or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
    try:
        found = _opened(root, mount)
        try:
            kind = stat.S_IFMT(os.fstat(found).st_mode)
            if kind not in (stat.S_IFDIR, stat.S_IFREG):
                raise UsageError(f"{mount.source}: {show_path(mount.subpath)}: is neither a directory nor a file")
            return Shown(_copied(found, value, mount), is_file=kind == stat.S_IFREG)
        finally:
            os.close(found)
    finally:
        os.close(root)


def _opened(root: int, mount: MountOption) -> int:
    from fastlayer.volume.subpath import open_inside

    try:
        return open_inside(root, mount.subpath)
    except OSError as exc:
        if exc.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            why = os.strerror(exc.errno)
            raise NotFoundError(
                f"{mount.source}: image-subpath {show_path(mount.subpath)}: {why}: name what is in the image"
            ) from exc
        raise StorageError(exc.errno or 0, "cannot open the image-subpath", mount.subpath) from exc


def _copied(part: int, value: Mount, mount: MountOption) -> int:
    """A mount of ``part`` alone, read-only. Before Linux 6.15 a mount that is attached nowhere cannot be copied: there
    it is attached for a moment."""
    from fastlayer import _backend

    api = _backend.engine().mountapi
    try:
        return _locked(api.clone_mount(b"/proc/self/fd/%d" % part, recursive=False))
    except StorageError as exc:
        if exc.errno != errno.EINVAL:
            raise
    from fastlayer.mounts import mounting

    with mounting.temporary([value._replace(subdirectory="")]) as place:
        root = os.open(place / value.subdirectory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            again = _opened(root, mount)
            try:
                return _locked(api.clone_mount(b"/proc/self/fd/%d" % again, recursive=False))
            finally:
                os.close(again)
        finally:
            os.close(root)


def _locked(fd: int) -> int:
    from fastlayer import _backend

    try:
        _backend.engine().mountapi.change_mount(fd, set=1)  # MOUNT_ATTR_RDONLY
    except BaseException:
        os.close(fd)
        raise
    return fd
