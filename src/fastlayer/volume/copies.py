"""Copies of volumes, and named states of one: by reflink or btrfs snapshot, and by copying where nothing can be shared.

What is written meanwhile: on btrfs a copy is of one moment. Elsewhere every file is taken as it is when it is read, one
after the other, so that what a program writes to several files may be of different moments; stop it, or let it flush
and pause, when that matters. ``Copied`` tells which it was.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from fastlayer.drivers.system import refusals
from fastlayer.errors import InUseError, UsageError, show_path
from fastlayer.volume import books, imaged, options, trees, use
from fastlayer.volume.books import Snapshot, Volume
from fastlayer.volume.local import NEW, SNAPSHOTS, UNNAMED, Local, folders_of, need_own_data
from fastlayer.volume.lock import alone, alone_if_free
from fastlayer.volume.names import LONGEST, check_state_name
from fastlayer.volume.trees import Copied

if TYPE_CHECKING:
    from fastlayer.store.store import Store


def clone_into(store: Store, name: str, data: Path, source_name: str, size: int | None) -> Copied:
    """The new volume ``name`` gets all that ``source_name`` holds now, whatever its driver is."""
    source = books.find(store, source_name)
    if source.snapshot is not None:
        with use.held(store, source.name):
            return _by_snapshot(source, imaged.copy(store, name, source, size))
    with use.temporary(store, source.name) as directory:
        return trees.copy(directory, data, size)


def state_into(store: Store, name: str, data: Path, text: str, size: int | None) -> Copied:
    """The new volume gets what the snapshot ``VOLUME@SNAPSHOT`` holds."""
    source_name, sign, state_name = text.partition("@")
    if not sign:
        raise UsageError(f"volume option snapshot: {show_path(text)}: give VOLUME@SNAPSHOT")
    source = books.find(store, source_name)
    books.find_snapshot(store, source.name, state_name)
    with alone(store, source.name, state=state_name):
        state = books.find_snapshot(store, source.name, state_name)
        if state.key is None or source.snapshot is None:
            return trees.copy(_tree(store, source, state.name), data, size)
        imaged.copy_state(store, name, source.snapshot[0], state.key, size)
        return Copied(atomic=True)


def snapshot(store: Store, name: str, state_name: str) -> Copied:
    """Gives what the volume holds now a name. Raises ``AlreadyExistsError``, ``DriverError``, ``UsageError``.

    Others use the volume meanwhile; nobody removes it, or puts it back to another state.
    """
    check_state_name(state_name)
    if len(name) + len(state_name) >= LONGEST:
        raise UsageError(f"{show_path(state_name)}: with the name of the volume it is too long: at most {LONGEST - 1}")
    volume = books.find(store, name)
    need_own_data(volume, "snapshots")
    books.refuse_state(store, name, state_name)
    with use.held(store, name):
        if volume.snapshot is not None:
            return _by_snapshot(volume, imaged.snapshot(store, volume, state_name))
        return _snapshot_of_tree(store, volume, state_name)


def _snapshot_of_tree(store: Store, volume: Volume, state_name: str) -> Copied:
    place = _tree(store, volume, state_name)
    with refusals("mkdir"):
        place.parent.mkdir(mode=0o700, exist_ok=True)
    with store.lease(f"snapshot volume {volume.name}") as lease:
        new = place.with_name(f"{UNNAMED}{lease.id}")
        done = trees.copy(Local(store).data(volume.name), new)
        try:
            with alone(store, volume.name), alone(store, volume.name, state=state_name):
                books.refuse_state(store, volume.name, state_name)
                trees.remove(place)  # of a process that was killed before it was noted
                with refusals("rename"):
                    new.rename(place)
                books.add_snapshot(store, volume.name, state_name, None)
        except BaseException:
            trees.remove(new)
            raise
    return done


def snapshots(store: Store, name: str) -> list[Snapshot]:
    """The named states of a volume, oldest first."""
    return books.snapshots_of(store, books.find(store, name).name)


def remove_snapshot(store: Store, name: str, state_name: str) -> None:
    """Raises ``NotFoundError``."""
    books.find_snapshot(store, books.find(store, name).name, state_name)
    with alone(store, name), alone(store, name, state=state_name):
        volume = books.find(store, name)
        state = books.find_snapshot(store, name, state_name)
        books.drop_snapshot(store, name, state_name)
        if state.key is not None:
            imaged.drop_state(store, volume, state.key)
        else:
            trees.remove(_tree(store, volume, state_name))


def restore(store: Store, name: str, state_name: str) -> Copied:
    """The volume holds what it held at the snapshot; what was written since is gone, the snapshot stays.

    Raises ``InUseError`` while somebody uses its files.
    """
    books.find_snapshot(store, books.find(store, name).name, state_name)
    use.release_dead(store, name)
    with alone(store, name), alone(store, name, state=state_name):
        volume = books.find(store, name)
        need_own_data(volume, "snapshots")
        state = books.find_snapshot(store, name, state_name)
        users = [user.user for user in books.users_of(store, name) if user.mounted or user.owner]
        if users:
            raise InUseError(f"volume {name}: {users[0]} works with its files: stop that first")
        local, size = Local(store), options.parse(volume.options).size
        local.unmount(name, "", last=True)
        if state.key is not None:
            imaged.restore(store, volume, state.key, size)
            return Copied(atomic=True)
        new = local.place(name) / NEW
        trees.remove(new)
        done = trees.copy(_tree(store, volume, state_name), new, size)
        trees.exchange(new, local.data(name))
        trees.remove(new)
        return done


def sweep(store: Store) -> int:
    """Trees of snapshots, and of states to go back to, whose makers were killed go; returns how many."""
    gone = 0
    for volume in books.all_of(store):
        new = Local(store).place(volume.name) / NEW
        if new.is_dir():
            with alone_if_free(store, volume.name) as free:  # else somebody restores it just now
                if free:
                    trees.remove(new)
                    gone += 1
        for place in folders_of(Local(store).place(volume.name) / SNAPSHOTS):
            if place.name.startswith(UNNAMED) and not store.leases.alive(place.name.removeprefix(UNNAMED)):
                trees.remove(place)
                gone += 1
    return gone


def _tree(store: Store, volume: Volume, state_name: str) -> Path:
    return Local(store).place(volume.name) / SNAPSHOTS / os.fspath(state_name)


def _by_snapshot(source: Volume, changed: int) -> Copied:
    assert source.snapshot is not None
    return Copied(atomic=source.snapshot[0] in ("btrfs", "devicemapper"), changed=changed)
