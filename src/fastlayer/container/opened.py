"""The tree of a writable layer as one directory, whether it is mounted at this moment or not."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from fastlayer.container import writable
from fastlayer.container.alone import alone
from fastlayer.container.mounted import all_mounts, elsewhere, refuse_mounted, running_root
from fastlayer.errors import InUseError

if TYPE_CHECKING:
    from fastlayer.container.mounted import Mounted
    from fastlayer.container.writable import Writable
    from fastlayer.mounts.mount import Mount
    from fastlayer.store.store import Store

LAYERS_MAX = 32  # FL_BACKING_LAYERS


@contextmanager
def opened(store: Store, layer: Writable, *, bare: bool = False) -> Iterator[int]:
    """A descriptor of the root, for the block, to read from and to write to.

    Where the layer is mounted that mount is used, also one of another mount namespace; of a running container it is
    what its program sees, or, ``bare``, that without all that is mounted in it: /proc, volumes, /etc/hosts; otherwise
    it is mounted where nobody else sees it. Raises ``InUseError`` for a mount that cannot be reached, ``DriverError``
    without the right to mount.
    """
    from fastlayer.mounts.mounting import as_directory

    found = _mount_of(store, layer)
    if found is not None:
        with _descriptor(_path(found)) as fd:
            yield fd
        return
    root = running_root(store, layer)
    if root is not None and bare:
        from fastlayer.container.bare import bare_root

        fd = bare_root(Path(root))
        try:
            yield fd
        finally:
            os.close(fd)
        return
    if root is not None:
        with _descriptor(Path(root)) as fd:
            yield fd
        return
    with alone(store, layer.name):
        refuse_mounted(store, layer)
        snapshotter = writable.snapshotter_of(store, layer)
        with as_directory(snapshotter.ready(layer.key)) as path, _descriptor(path) as fd:
            yield fd


@contextmanager
def layers_of(store: Store, layer: Writable) -> Iterator[tuple[int, ...]]:
    """Descriptors of the directories that its overlay shows merged, the one written to first, for the block.

    Empty where there is no overlay, or they are on several file systems, or too many.
    """
    with ExitStack() as stack:
        found: list[int] = []
        for path in _directories_of(writable.snapshotter_of(store, layer).mounts(layer.key)):
            try:
                fd = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            except OSError:
                found.clear()
                break
            stack.callback(os.close, fd)
            found.append(fd)
        yield tuple(found) if len({os.fstat(fd).st_dev for fd in found}) == 1 else ()


def _directories_of(mounts: Sequence[Mount]) -> list[str]:
    if len(mounts) != 1 or mounts[0].type != "overlay" or len(mounts[0].lowers) >= LAYERS_MAX:
        return []
    uppers = [word.removeprefix("upperdir=") for word in mounts[0].options if word.startswith("upperdir=")]
    return [*uppers, *mounts[0].lowers] if uppers else []


def _mount_of(store: Store, layer: Writable) -> Mounted | None:
    return next((found for found in all_mounts(store) if found.writable == layer.name), None)


def _path(found: Mounted) -> Path:
    if found.here:
        return Path(found.target)
    if not found.process:
        raise InUseError(f"{found.writable}: is mounted at {elsewhere(found)}")
    return Path(f"/proc/{found.process}/root{found.target}")


@contextmanager
def _descriptor(path: Path) -> Iterator[int]:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)
