"""The volumes and directories of the host in a container that does not run: `cp` reaches them as if it did."""

from __future__ import annotations

import os
from contextlib import ExitStack
from typing import TYPE_CHECKING

from fastlayer.errors import DriverError, OperandError, show_path

if TYPE_CHECKING:
    from fastlayer.container.mountoptions import MountOption
    from fastlayer.container.writable import Writable
    from fastlayer.store.store import Store


class ContainerMounts:
    """As ``spot.Mounts``. A volume is in use from when it is asked for until ``stack`` ends."""

    def __init__(self, store: Store, stack: ExitStack, mounts: list[MountOption]) -> None:
        self._store = store
        self._stack = stack
        self._mounts = {os.fsencode(os.path.normpath(mount.target)): mount for mount in mounts}
        self.targets = sorted(self._mounts, reverse=True)  # what lies in another one comes before it

    def open(self, target: bytes) -> int:
        mount = self._mounts[target]
        place = self._volume(mount) if mount.kind == "volume" else mount.source
        if os.path.isfile(place):
            raise OperandError(f"{show_path(target)}: is a file that is mounted there: copy {place}")
        try:
            if mount.readonly:
                return _read_only(place)
            return os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as exc:
            raise OperandError(f"{show_path(target)}: what is mounted there, {place}: {exc.strerror}") from exc

    def _volume(self, mount: MountOption) -> str:
        from fastlayer.volume import books, use

        user = f"cp-{os.getpid()}-{os.urandom(4).hex()}"
        owner = books.process_name(os.getpid())
        place = use.acquire(self._store, mount.source, user, subpath=mount.subpath, owner=owner)
        self._stack.callback(use.release, self._store, user)
        return str(place)


def _read_only(place: str) -> int:
    from fastlayer.mounts.mount import Mount
    from fastlayer.mounts.mounting import detached

    fd = detached(Mount("bind", place, ("rbind", "ro")))
    if fd is None:
        raise DriverError(f"{place}: is mounted read-only, which this kernel cannot show here: use Linux 5.2 or newer")
    return fd


def mounts_of(store: Store, stack: ExitStack, layer: Writable) -> ContainerMounts | None:
    """None for a layer that is no container's, and for one that runs: there they are mounted."""
    from fastlayer.container import containers, inspecting
    from fastlayer.container.mounted import is_running

    if layer.container is None or is_running(store, layer):
        return None
    found = inspecting.mounts(store, containers.find(store, layer.container))
    return ContainerMounts(store, stack, [mount for mount in found if mount.kind in ("bind", "volume")])
