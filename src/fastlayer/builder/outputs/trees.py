"""``type=local`` and ``type=tar``: the files of an image, all layers together, without whiteouts."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastlayer.content.files import explained
from fastlayer.errors import DriverError, OperandError, show_path
from fastlayer.image.images import Image
from fastlayer.image.pipe import piped
from fastlayer.image.unpack import ensure_unpacked, layers_of

if TYPE_CHECKING:
    from fastlayer.layer.progress import ProgressCallback
    from fastlayer.store.store import Store

_USERS = ("user.", "system.posix_acl_")


def write_tree(store: Store, image: Image, dest: str, *, progress: ProgressCallback | None = None) -> tuple[str, ...]:
    """The files as the directory ``dest``; returns warnings. Owners stay where that is permitted.

    A new or empty directory gets them all at once, when they are complete; one with other files keeps those that the
    image has not got. A directory that was there stays its owner's. Raises ``OperandError``, ``StorageError``.
    """
    if os.path.realpath(dest) == "/":
        raise OperandError("/: is the root of this machine: name a directory below it")
    near = os.path.dirname(os.path.abspath(dest))
    with explained("mkdir", dest):
        os.makedirs(near, exist_ok=True)
    with tree_of(store, image, near=near) as tree, _keeping_attributes(dest):
        if _has_files(dest):
            return _poured(tree, dest, progress)
        from fastlayer.layer.clone import clone

        return clone(tree, dest, progress=progress).warnings


def write_tar(
    store: Store,
    image: Image,
    output: Any,
    *,
    epoch: int | None = None,
    jobs: int | None = None,
    progress: ProgressCallback | None = None,
) -> tuple[str, ...]:
    """The files as one tar: to a path, a descriptor or a binary file; returns warnings.

    ``epoch``: seconds; later mtimes become it.

    Raises ``StorageError``, ``OperandError``; a file that is not complete keeps no name.
    """
    from fastlayer.layer.diff import diff

    with tree_of(store, image) as tree, diff(None, tree, jobs=jobs) as changes:
        written = changes.write(output, compression="none", source_date_epoch=epoch, jobs=jobs, progress=progress)
    return tuple(written.warnings)


@contextmanager
def tree_of(store: Store, image: Image, *, near: str | None = None) -> Iterator[Path]:
    """The tree of an image for the block, to be read: a mount that nobody else sees, or a directory of the driver.

    Where nobody may mount, its layers are extracted into a temporary directory ``near`` the place it is meant for.
    """
    if image.chain_id is None:
        with _temporary(near) as path:
            yield path
        return
    ensure_unpacked(store, image)
    with ExitStack() as stack:
        try:
            tree = stack.enter_context(_viewed(store, image))
        except DriverError:
            tree = stack.enter_context(_temporary(near))
            _extract(store, image, tree)
        yield tree


@contextmanager
def _viewed(store: Store, image: Image) -> Iterator[Path]:
    from fastlayer.mounts.mounting import as_directory

    snapshotter, chain = store.snapshotter, str(image.chain_id)
    if store.read_only:  # no view can be made, and none is needed
        with as_directory(snapshotter.mounts(chain)) as path:
            yield path
        return
    with store.lease(f"look at {image.name}") as lease:
        key = f"output-{lease.id}"
        snapshotter.view(key, chain, lease=lease)
        try:
            with as_directory(snapshotter.ready(key)) as path:
                yield path
        finally:
            snapshotter.remove(key)


def _extract(store: Store, image: Image, target: Path) -> None:
    from fastlayer.layer.apply import apply
    from fastlayer.store.store import may_make_devices, may_own_all

    with ExitStack() as stack:
        blobs = [stack.enter_context(layer.open()) for layer in layers_of(store, image)]
        apply(blobs, target, ignore_chown=not may_own_all(), skip_devices=not may_make_devices())


def _poured(tree: Path, dest: str, progress: ProgressCallback | None) -> tuple[str, ...]:
    """Onto what is there, as a layer: nothing outside of it is touched, whatever links it has."""
    from fastlayer.layer.apply import apply
    from fastlayer.layer.diff import diff
    from fastlayer.store.store import may_make_devices, may_own_all

    with diff(None, tree) as changes:
        with piped(lambda sink: changes.write(sink, compression="none")) as source:
            stats = apply(
                [source],
                dest,
                ignore_chown=not may_own_all(),
                skip_devices=not may_make_devices(),
                progress=progress,
            )
        return (*changes.warnings, *stats.warnings)


@contextmanager
def _keeping_attributes(dest: str) -> Iterator[None]:
    """Of a directory that is there: owner, mode, and the xattrs that users set. It is a place, not the image's root."""
    try:
        status = os.stat(dest)
        attributes = {name: os.getxattr(dest, name) for name in os.listxattr(dest) if name.startswith(_USERS)}
    except OSError:
        yield
        return
    try:
        yield
    finally:
        with explained("restore attributes", dest):
            if os.stat(dest)[4:6] != status[4:6]:
                os.chown(dest, status.st_uid, status.st_gid)
            os.chmod(dest, stat.S_IMODE(status.st_mode))
            for name in os.listxattr(dest):
                if name.startswith(_USERS) and name not in attributes:
                    os.removexattr(dest, name)
            for name, value in attributes.items():
                os.setxattr(dest, name, value)


def _has_files(dest: str) -> bool:
    try:
        return bool(os.listdir(dest))
    except FileNotFoundError:
        return False
    except NotADirectoryError:
        raise OperandError(f"{show_path(dest)}: is not a directory: give one, or a name that is free") from None
    except OSError as exc:
        raise OperandError(f"{show_path(dest)}: {exc.strerror}: give a directory that you may write to") from exc


@contextmanager
def _temporary(near: str | None) -> Iterator[Path]:
    import tempfile

    with explained("mkdir", near or tempfile.gettempdir()):
        place = tempfile.TemporaryDirectory(prefix=".fastlayer-", dir=near, ignore_cleanup_errors=True)
    with place as name:
        path = Path(name) / "root"
        path.mkdir()
        path.chmod(0o755)
        yield path
