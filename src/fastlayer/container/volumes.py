"""The volumes of a container: made when it is made, held as long as it is there, mounted while it runs."""

from __future__ import annotations

import os
import re
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from fastlayer.errors import DriverError, FastlayerError, NotFoundError

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Iterator

    from fastlayer.container.mountoptions import MountOption
    from fastlayer.image.images import Image
    from fastlayer.store.store import Store
    from fastlayer.volume.books import Volume
    from fastlayer.volume.volumes import Volumes

_TRIES = 8
_USER = re.compile(r"container-[0-9a-f]{64}")


def user_of(identity: str) -> str:
    """The name of a container among the users of volumes (``fastlayer.volume.use``)."""
    return f"container-{identity}"


def prepare(store: Store, image: Image, identity: str, mounts: Iterable[MountOption]) -> list[MountOption]:
    """The mounts with the names of their volumes: those that are missing are made, and new ones filled from the image.

    They are held for this process until ``keep`` says that the container is there. Raises what making a volume raises;
    then nothing is held.
    """
    found: list[MountOption] = []
    try:
        for mount in mounts:
            found.append(_held(store, identity, mount) if mount.kind == "volume" else mount)
            if mount.kind == "volume" and not mount.nocopy:
                _fill(store, image, found[-1])
    except BaseException:
        release(store, identity, found)
        raise
    return found


@contextmanager
def given_back_on_failure(store: Store, identity: str, mounts: list[MountOption]) -> Iterator[None]:
    """While the container that they were prepared for is made."""
    try:
        yield
    except BaseException:
        if any(mount.kind == "volume" for mount in mounts):
            release(store, identity, mounts)
        raise


def _fill(store: Store, image: Image, mount: MountOption) -> None:
    from fastlayer.container.mounting import temporary
    from fastlayer.volume.volumes import Volumes

    if image.chain_id is not None:
        with temporary(store, image) as tree:
            Volumes(store).populate(mount.source, tree, mount.target)


def _held(store: Store, identity: str, mount: MountOption) -> MountOption:
    """With the name of its volume. As Docker does: one that is there is taken as it is, unless a driver is named."""
    from fastlayer.volume import books, use
    from fastlayer.volume.volumes import Volumes

    volumes, owner = Volumes(store), books.process_name(os.getpid())
    for _ in range(_TRIES):
        volume = _known(volumes, mount) or volumes.create(
            mount.source or None,
            driver=mount.driver or books.LOCAL,
            options=dict(mount.options),
            labels=dict(mount.labels),
        )
        with suppress(NotFoundError):  # it has been removed since
            use.hold(store, volume.name, user_of(identity), owner=owner)
            return mount._replace(source=volume.name, anonymous=mount.anonymous or not mount.source)
    raise NotFoundError(f"volume {mount.source}: is removed as soon as it is made: see who does that")


def _known(volumes: Volumes, mount: MountOption) -> Volume | None:
    if not mount.source or mount.driver or mount.options:
        return None
    try:
        return volumes.find(mount.source)
    except NotFoundError:
        return None


def keep(db: sqlite3.Connection, identity: str) -> None:
    """The container is there, and has its volumes from now on. Part of the transaction that makes its row."""
    from fastlayer.volume import books

    books.settle(db, user_of(identity))


def directory_of_volume(store: Store, identity: str, mount: MountOption) -> str:
    """The directory that a container sees at ``mount.target``."""
    from fastlayer.volume.volumes import Volumes

    return str(Volumes(store).acquire(mount.source, user_of(identity), subpath=mount.subpath))


def users_with_mounts(store: Store) -> set[str]:
    """Who needs the files of volumes now, or did when it was killed."""
    if not _has_any(store):
        return set()
    from fastlayer.volume import books

    return {use.user for use in books.users_of(store) if use.mounted}


def _has_any(store: Store) -> bool:
    """Whether there has ever been a volume; where there was none, what knows them is not loaded."""
    return (store.root / "volumes").is_dir()


def are_mounted(store: Store, identity: str) -> bool:
    """Whether the container has not given its volumes back."""
    from fastlayer.volume import books

    return any(use.mounted for use in books.uses_of(store, user_of(identity)))


def give_back(store: Store, identity: str) -> None:
    """The container does not run: what nobody else uses is unmounted, and plugins are told so. It has them still."""
    from fastlayer.volume import use

    if are_mounted(store, identity):
        use.release(store, user_of(identity), keep=True)


def release(store: Store, identity: str, doomed: Iterable[MountOption]) -> None:
    """The container is gone; of its volumes the anonymous ones among ``doomed`` are gone with it."""
    from fastlayer.volume.volumes import Volumes

    volumes = Volumes(store)
    with suppress(DriverError):  # a plugin that is not well: `release_left` comes back to it
        volumes.release(user_of(identity))
    for mount in doomed:
        if mount.kind == "volume" and mount.anonymous:
            with suppress(FastlayerError):  # somebody else has it, or it is gone already
                volumes.remove(mount.source)


def release_left(store: Store) -> int:
    """Gives back what containers have that are gone: who removed them was killed, or a plugin was not well.

    Users are looked at before containers: those that come meanwhile are not missed. Returns for how many.
    """
    from fastlayer.container import containers
    from fastlayer.volume import books, use

    suspects = {held.user for held in books.users_of(store) if _USER.fullmatch(held.user) and not held.owner}
    left = suspects - {user_of(container.id) for container in containers.all_of(store)} if suspects else set()
    for user in left:
        with suppress(FastlayerError):
            use.release(store, user)
    return len(left)
