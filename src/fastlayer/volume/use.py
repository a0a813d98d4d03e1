"""Using volumes: ``acquire`` gives the directory of one to a user, ``release`` takes it back.

::

    path = acquire(store, "data", "container-1f3a", subpath="db", read_only=True)
    ...                                    bind `path` into the container, run it
    release(store, "container-1f3a")       all that the user has

A *user* is any text that names a use: the id of a container, of a plugin client's mount. As long as it has a volume
nobody can remove that. What the user was is the caller's to know: after a crash it calls ``release`` (or ``acquire``
again) with the same text, and both do the right thing whatever had been done before.

``hold`` keeps a volume for a container that does not run; ``release(keep=True)`` when it has stopped.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from fastlayer._checked import text
from fastlayer.errors import DriverError, FastlayerError, NotFoundError, UsageError, show_path
from fastlayer.volume import books
from fastlayer.volume import subpath as parts
from fastlayer.volume.lock import alone
from fastlayer.volume.registry import driver_of

if TYPE_CHECKING:
    from fastlayer.store.store import Store

_LONGEST = 1024  # characters of a user


def hold(store: Store, name: str, user: str, *, owner: str = "") -> None:
    """``user`` has the volume, which cannot be removed from now on; nothing is mounted. Raises ``NotFoundError``.

    ``owner``: as of ``acquire``.
    """
    _check_user(user)
    with alone(store, name):
        books.find(store, name)
        if not any(known.volume == name for known in books.uses_of(store, user)):
            books.note_user(store, name, user, mounted=False, owner=owner)


def acquire(store: Store, name: str, user: str, *, subpath: str = "", read_only: bool = False, owner: str = "") -> Path:
    """The directory of the volume ``name`` for ``user``, which has it until ``release``.

    ``subpath``: a part of it, a directory or a file, resolved so that nothing that is in the volume leads out of it;
    ``read_only``: what is returned cannot be written to. Both are bind mounts, which need the right to mount; the
    directory of a plain volume without them needs none. ``owner``: a process (``books.process_name``) for those who ask
    later whether it still lives. Calling it again for the same user is no error, and gives the same.

    Raises ``NotFoundError`` for the volume or the part, ``InUseError``, ``UsageError``, ``DriverError`` for what cannot
    be mounted, ``StorageError``; the user has what it had before then.
    """
    _check_user(user)
    if text("subpath", subpath):
        parts.check_subpath(subpath)
    with alone(store, name):
        volume = books.find(store, name)
        driver = driver_of(store, volume.driver)
        known = next((use for use in books.uses_of(store, user) if use.volume == name), None)
        books.note_user(store, name, user, mounted=True, owner=owner)
        try:
            directory = driver.path(name) if known is not None and known.mounted else None
            directory = _checked(volume.driver, name, directory or driver.mount(name, user))
            if not subpath and not read_only:
                return directory
            return parts.bind(store, name, user, directory, subpath=subpath, read_only=read_only)
        except BaseException:
            if known is None or not known.mounted:
                _let_go(store, name, user, keep=known is not None)
            raise


def release(store: Store, user: str, name: str | None = None, *, keep: bool = False) -> None:
    """``user`` needs the volume - or all it has - no more; what was mounted is unmounted with its last user.

    ``keep``: it still has them, and comes back. A user that has nothing is no error.
    Raises ``DriverError`` when a driver cannot unmount; the user has the volume still then.
    """
    failed: FastlayerError | None = None
    for use in books.uses_of(store, user):
        if name in (None, use.volume):
            try:
                with alone(store, use.volume):
                    _let_go(store, use.volume, user, keep=keep)
            except FastlayerError as exc:
                failed = failed or exc
    if failed is not None:
        raise failed


def _let_go(store: Store, name: str, user: str, *, keep: bool) -> None:
    """``release`` for who has the lock of the volume."""
    parts.unbind(store, name, user)
    try:
        volume, users = books.find(store, name), books.users_of(store, name)
        if any(use.mounted and use.user == user for use in users):
            last = not any(use.mounted and use.user != user for use in users)
            driver_of(store, volume.driver).unmount(name, user, last=last)
    except NotFoundError:
        pass  # the volume, or its driver, is gone: so is what it had mounted
    books.drop_user(store, name, user, keep=keep)


def release_dead(store: Store, name: str | None = None) -> None:
    """Gives back what users have that said which process they are for, when that is not there any more.

    ``name``: of that volume only. A client of our plugin may be followed by another, whose containers go on: its
    mounts are dead only when the machine has been started anew.
    """
    for user in books.users_of(store, name):
        gone = not user.mounted if user.user.startswith(books.CLIENT) else not books.is_alive(user.owner)
        if user.owner and gone:
            release(store, user.user, user.volume)


@contextmanager
def temporary(store: Store, name: str) -> Iterator[Path]:
    """The directory of a volume for the block."""
    user = _own_name()
    path = acquire(store, name, user, owner=books.process_name(os.getpid()))
    try:
        yield path
    finally:
        release(store, user)


@contextmanager
def held(store: Store, name: str) -> Iterator[None]:
    """For the block nobody removes the volume, or puts it back to a snapshot; nothing is mounted."""
    user = _own_name()
    hold(store, name, user, owner=books.process_name(os.getpid()))
    try:
        yield
    finally:
        release(store, user)


def _own_name() -> str:
    return f"fastlayer-{os.getpid()}-{books.random_key()}"


def _checked(driver: str, name: str, directory: Path) -> Path:
    """Drivers are anybody's."""
    if not isinstance(directory, Path) or not directory.is_absolute() or not directory.is_dir():
        raise DriverError(
            f"volume {name}: the driver {driver} says it is at {show_path(os.fspath(directory))}, which is no directory"
        )
    return directory


def _check_user(user: str) -> None:
    if not text("user", user) or len(user) > _LONGEST or not user.isprintable():
        raise UsageError(f"{show_path(user) or repr(user)}: not a user of a volume: give 1 to {_LONGEST} characters")
