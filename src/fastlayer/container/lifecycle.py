"""Stopping, pausing, removing, renaming; and what killed monitors leave behind."""

from __future__ import annotations

import os
import re
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from fastlayer.container import chrooted, client, containers, kept, state, volumes, writable
from fastlayer.container.alone import alone
from fastlayer.container.alone import sweep as sweep_locks
from fastlayer.container.mountoptions import MountOption, of_record
from fastlayer.container.state import State
from fastlayer.errors import AlreadyExistsError, FastlayerError, InUseError, NotFoundError, RunError, UsageError

if TYPE_CHECKING:
    import sqlite3

    from fastlayer.container.containers import Container
    from fastlayer.container.writable import Writable
    from fastlayer.store.store import Store

_STOP_SECONDS = 10
_NAP = 0.005
_ID = re.compile(r"[0-9a-f]{64}")


def state_of(store: Store, container: Container) -> State:
    return state.state_of(containers.directory_of(store, container.id))


# ---- ending ----------------------------------------------------------------------------------------


def kill(store: Store, container: Container, number: int = signal.SIGKILL) -> None:
    """Sends a signal. Raises ``RunError`` when it does not run."""
    client.kill(containers.directory_of(store, container.id), container.name, number)
    if number == signal.SIGKILL and state_of(store, container).status == "paused":
        _thaw(store, container)


def stop(store: Store, container: Container, seconds: float | None = None, signal_: str = "") -> State:
    """Asks it to end, and after ``seconds`` (-1: never) makes it. What does not run is left as it is."""
    directory = containers.directory_of(store, container.id)
    found = state.state_of(directory)
    if not found.running:
        return found
    from fastlayer.running.signals import number_of, parse_signal

    config = containers.config_of(store, container)["Config"]
    of_image = number_of(config.get("StopSignal") or "SIGTERM") or signal.SIGTERM  # that may be none, as with Docker
    number = parse_signal(signal_) if signal_ else of_image
    if seconds is None:
        seconds = config.get("StopTimeout", _STOP_SECONDS)
    with suppress(RunError):
        client.kill(directory, container.name, number)
        if found.status == "paused":
            _thaw(store, container)
        if not _ends_within(directory, seconds):
            client.kill(directory, container.name, signal.SIGKILL)
    ended = state.wait_for_end(directory)
    chrooted.end_strays(directory)
    give_back(store, container)
    return ended


def _ends_within(directory: Path, seconds: float | None) -> bool:
    if seconds is None or seconds < 0:
        state.wait_for_end(directory)
        return True
    end = time.monotonic() + seconds
    while state.is_locked(directory):
        if time.monotonic() >= end:
            return False
        time.sleep(_NAP)
    return True


def wait(store: Store, container: Container) -> State:
    """Until it has ended; at once when it does not run."""
    found = state.wait_for_end(containers.directory_of(store, container.id))
    give_back(store, container)
    return found


def ended(store: Store, container: Container, *, force: bool = False) -> None:
    """What its end brings along: one that was not to stay goes (``force``: as of ``remove``), another gives its volumes
    back."""
    if container.auto_remove:
        remove(store, container, force=force)
    else:
        give_back(store, container)


def give_back(store: Store, container: Container) -> None:
    """What was mounted for its volumes is unmounted with their last user, unless it has been started again."""
    has_volumes = any(mount.kind == "volume" for mount in _mounts_of(store, container))
    if not (has_volumes and volumes.are_mounted(store, container.id)):
        return
    try:
        with alone(store, writable.of_container(store, container.id).name):
            if not state_of(store, container).running:
                volumes.give_back(store, container.id)
    except FastlayerError:
        pass  # `recover` tries again; that it has ended is no less true


# ---- pausing ---------------------------------------------------------------------------------------


def pause(store: Store, container: Container) -> None:
    """Stops all its processes where they are. Raises ``RunError`` where that cannot be."""
    from fastlayer.container.pausing import in_freezer
    from fastlayer.running import cgroups

    directory = containers.directory_of(store, container.id)
    found = state.state_of(directory)
    if not found.running:
        raise RunError(f"Container {container.name} is not running: `fastlayer start {container.name}` first")
    if found.status == "paused":
        raise RunError(f"Container {container.name} is already paused")
    with in_freezer(directory, container.id, found.pid) as freezer:
        cgroups.set_frozen(freezer, frozen=True)


def unpause(store: Store, container: Container) -> None:
    if state_of(store, container).status != "paused":
        raise RunError(f"Container {container.name} is not paused")
    _thaw(store, container)


def _thaw(store: Store, container: Container) -> None:
    from fastlayer.running import cgroups

    cgroups.thaw(state.cgroups_of(containers.directory_of(store, container.id)))


# ---- removing --------------------------------------------------------------------------------------


def remove(store: Store, container: Container, *, force: bool = False, with_volumes: bool = False) -> None:
    """The container with its layer and logs. ``force``: also when it runs, or its layer is mounted.

    ``with_volumes``: its anonymous volumes, too; those of one that was not to stay go anyway.

    Raises ``InUseError`` when it runs.
    """
    store.make_room()
    directory = containers.directory_of(store, container.id)
    found = state.state_of(directory)
    if found.running:
        if not force:
            raise InUseError(
                f"You cannot remove a running container {container.short_id}: "
                f"`fastlayer stop {container.name}` first, or use --force"
            )
        with suppress(RunError):
            kill(store, container)
        state.wait_for_end(directory)
    held = state.lock(directory, container.name) if directory.is_dir() else -1
    try:
        _note_killed(directory)
        if force:
            _unmount(store, container)
        chrooted.end_strays(directory)
        _clear_cgroups(directory)
        mounts = _mounts_of(store, container)
        _forget(store, container)
    finally:
        if held >= 0:
            os.close(held)
    if any(mount.kind == "volume" for mount in mounts):
        volumes.release(store, container.id, mounts if with_volumes or container.auto_remove else ())
    _remove_directory(directory.with_name(f".old-{container.id}"))


def _mounts_of(store: Store, container: Container) -> list[MountOption]:
    try:
        return [of_record(row) for row in containers.config_of(store, container)["MountOptions"]]
    except (FastlayerError, KeyError, TypeError):
        return []  # it is damaged, and goes


def _remove_directory(directory: Path) -> None:
    """What is left is found by the next ``recover``. A container has only files, but for one of an OCI runtime."""
    with suppress(OSError):
        for name in os.listdir(directory):
            with suppress(IsADirectoryError, PermissionError):
                os.unlink(directory / name)
        try:
            os.rmdir(directory)
        except OSError:
            import shutil

            shutil.rmtree(directory, ignore_errors=True)


def _forget(store: Store, container: Container) -> None:
    """The rows in one transaction; the directory is nobody's from then on."""
    from fastlayer.snapshot.snapshotter import Snapshotter

    directory = containers.directory_of(store, container.id)
    views = containers.layer_key(container.id) + "/"
    with store.lease(f"remove {container.name}") as lease:

        def note(db: sqlite3.Connection) -> None:
            db.execute("DELETE FROM containers WHERE id = ?", (container.id,))
            found = "SELECT number FROM snapshots WHERE key >= ? AND key < ? AND state = 'ready'"
            numbers = [int(row[0]) for row in db.execute(found, (views, views[:-1] + "0"))]
            Snapshotter.mark_removed(db, numbers, lease.id)
            with suppress(FileNotFoundError):
                os.rename(directory, directory.with_name(f".old-{container.id}"))

        tried = None
        while (layer := _layer_of(store, container)) not in (None, tried):
            assert layer is not None
            with suppress(NotFoundError):  # it has been renamed meanwhile
                writable.remove_layer(store, layer, note=note)
                return
            tried = layer
        with store.database.write() as db:  # a container that has lost its layer
            note(db)


def _layer_of(store: Store, container: Container) -> Writable | None:
    try:
        return writable.of_container(store, container.id)
    except NotFoundError:
        return None


def _unmount(store: Store, container: Container) -> None:
    from fastlayer.container.mounted import all_mounts

    layer = _layer_of(store, container)
    if layer is not None and any(found.writable == layer.name for found in all_mounts(store)):
        from fastlayer.container.mounting import unmount

        unmount(store, layer.name, detach=True)


def _clear_cgroups(directory: Path) -> None:
    paths = state.cgroups_of(directory)
    if paths:
        from fastlayer.running import cgroups

        cgroups.thaw(paths)
        cgroups.remove(paths)


def rename(store: Store, container: Container, name: str) -> None:
    """Another name, for the layer, too. Raises ``AlreadyExistsError``, ``UsageError``."""
    name = name.removeprefix("/")
    writable.check_name(name)
    if name == container.name:
        raise UsageError("Renaming a container with the same name as its current name: give another one")
    writable.refuse_taken(store, name)
    with store.database.write() as db:
        taken = db.execute("SELECT id FROM containers WHERE name = ?", (name,)).fetchone()
        if taken is not None:
            raise AlreadyExistsError(
                f'Conflict. The container name "/{name}" is already in use by container {taken["id"][:12]}: '
                "give another name"
            )
        before = db.execute("SELECT name FROM containers WHERE id = ?", (container.id,)).fetchone()
        if before is None:
            raise NotFoundError(f"No such container: {container.name}: it has been removed meanwhile")
        db.execute("UPDATE containers SET name = ? WHERE id = ?", (name, container.id))
        writable.rename(db, before["name"], name)
        kept.change(containers.directory_of(store, container.id), name=name)


# ---- what was left behind --------------------------------------------------------------------------


def recover(store: Store) -> int:
    """Corrects what killed processes of ours have left; returns how many containers and directories that were.

    A container whose monitor was killed has ended; its cgroups go, and itself if it was not to stay; its volumes are
    given back. A directory that belongs to no container goes.
    """
    place = store.root / "containers"
    if store.read_only or not place.is_dir():
        return 0
    count, with_volumes = 0, volumes.users_with_mounts(store)
    for container in containers.all_of(store):
        try:
            count += _recover_one(store, container)
        except FastlayerError:
            continue  # someone is at work on it, and does what is needed
        if volumes.user_of(container.id) in with_volumes and not state_of(store, container).running:
            give_back(store, container)
    sweep_locks(store, lambda: containers.names(store))
    return count + volumes.release_left(store) + _sweep(store, place)


def _recover_one(store: Store, container: Container) -> bool:
    directory = containers.directory_of(store, container.id)
    if (directory / containers.COMMITTING).exists():
        from fastlayer.container.pausing import resume_abandoned

        if resume_abandoned(directory):
            return True
    if chrooted.root_of(directory) is not None and not state.is_locked(directory):
        chrooted.end_strays(directory)
    started, unfinished = (directory / "running").exists() or state.has_failed(directory), _is_unfinished(directory)
    if not (unfinished or (container.auto_remove and started)) or state.is_locked(directory):
        return False
    if unfinished:
        held = state.lock(directory, container.name, patience=0.0)
        try:
            chrooted.end_strays(directory)
            _note_killed(directory)
        finally:
            os.close(held)
    if container.auto_remove:
        remove(store, container)
    return True


def _is_unfinished(directory: Path) -> bool:
    return (directory / "running").exists() and not (directory / "exit").exists()


def _note_killed(directory: Path) -> None:
    """The end of a container whose monitor was killed, with what that would have cleared. The lock is held."""
    if _is_unfinished(directory):
        _clear_cgroups(directory)
        (directory / "attach").unlink(missing_ok=True)
        state.note_end(directory, state.KILLED)


def _sweep(store: Store, place: Path) -> int:
    """Directories get their names within the transaction that makes their rows; nobody is in one now."""
    strange = [name for name in os.listdir(place) if name.startswith((".new-", ".old-")) or _ID.fullmatch(name)]
    if not strange:
        return 0
    count = 0
    with store.database.read() as db:
        known = {str(row[0]) for row in db.execute("SELECT id FROM containers")}
    suspects = [name for name in strange if name not in known]
    if not suspects:
        return 0
    with store.database.write() as db:
        known = {str(row[0]) for row in db.execute("SELECT id FROM containers")}
        living = _being_made(place, suspects)
        for name in suspects:
            if name not in known and name not in living and not _can_come_back(store, db, place / name):
                _remove_directory(place / name)
                count += 1
    return count


def _can_come_back(store: Store, db: sqlite3.Connection, directory: Path) -> bool:
    """Its row was lost, and its layer is nobody's: `store check --repair` takes it up again."""
    found = kept.read(directory) if _ID.fullmatch(directory.name) else None
    if found is None or db.execute("SELECT 1 FROM snapshots WHERE number = ?", (found.number,)).fetchone():
        return False
    try:
        return found.kind == "view" or found.number in store.snapshotter_of(found.driver).driver.numbers()
    except (FastlayerError, OSError):
        return True  # its driver cannot be used now


def _being_made(place: Path, suspects: list[str]) -> set[str]:
    """``.new-ID``: somebody may be making it just now; after an hour nobody is."""
    found = set()
    for name in suspects:
        with suppress(OSError):
            if name.startswith(".new-") and time.time() - os.stat(place / name).st_mtime < 3600:
                found.add(name)
    return found


def prune(store: Store, chosen: list[Container]) -> list[str]:
    """Removes those of ``chosen`` that do not run; returns their ids."""
    gone = []
    for container in chosen:
        if not state_of(store, container).running:
            with suppress(InUseError, NotFoundError):
                remove(store, container)
                gone.append(container.id)
    return gone
