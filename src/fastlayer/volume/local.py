"""The driver ``local``: volumes in the store, and what its options mount (``options.py``).

::

    <root>/volumes/NAME/_data         the files; a mount point while something is mounted for the volume
    <root>/volumes/NAME/snapshots/S   named states (``copies.py``)
    <root>/volumes/NAME/about.json    options and labels, for when the database is lost (``check.py``)

Whatever is mounted is mounted for the first user and unmounted when the last has gone.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastlayer.drivers import folders, quota
from fastlayer.drivers.system import refusals
from fastlayer.errors import (
    AlreadyExistsError,
    DriverError,
    FastlayerError,
    InUseError,
    NotFoundError,
    UsageError,
    show_path,
)
from fastlayer.volume import books, imaged, options, trees
from fastlayer.volume.books import Volume
from fastlayer.volume.driver import Scope
from fastlayer.volume.trees import Copied

if TYPE_CHECKING:
    from fastlayer.store.store import Store

DATA, SNAPSHOTS, ABOUT = "_data", "snapshots", "about.json"
NEW = ".new"  # a tree that a volume is put back to
_MAX_ABOUT = 16 << 20  # bytes
UNNAMED = ".new-"  # before a lease: a snapshot that is being made


class Local:
    """See ``driver.py`` for what the methods promise. It is the only driver that knows the store."""

    scope: Scope = "local"

    def __init__(self, store: Store) -> None:
        self._store = store
        self.copied: Copied | None = None  # how the last ``create`` has copied something

    def create(self, name: str, given: Mapping[str, str]) -> None:
        """The row of the volume is there: it is of a killed process' ``create``, or of the one under way."""
        found = options.parse(given)
        place = self.place(name)
        if place.exists():
            raise AlreadyExistsError(
                f"volume {name}: {show_path(os.fspath(place))} is there, but nobody knows it: "
                "`fastlayer store check --repair` makes it a volume again"
            )
        with refusals("mkdir"):
            place.mkdir(mode=0o700, parents=True)
            for directory in (place.parent, place):
                directory.chmod(0o711)
        try:
            self._note(name)
            self._fill(name, place / DATA, found)
        except BaseException:
            self.remove(name)
            raise

    def _note(self, name: str) -> None:
        volume = self._volume(name)
        if volume is not None:
            about = {"options": dict(volume.options), "labels": dict(volume.labels), "created_ns": volume.created_ns}
            with refusals("write"):
                (self.place(name) / ABOUT).write_text(json.dumps(about))

    def noted(self, name: str) -> Volume:
        """The volume as it was made; of one that nothing is known of, only the name."""
        from fastlayer.oci import jsontext

        bare = Volume(name, books.LOCAL, {}, {}, time.time_ns())
        try:
            found = jsontext.parse_object((self.place(name) / ABOUT).read_bytes(), ABOUT, _MAX_ABOUT)
            options.parse(_texts(found["options"]))
            return bare._replace(
                options=_texts(found["options"]), labels=_texts(found["labels"]), created_ns=int(found["created_ns"])
            )
        except (OSError, FastlayerError, KeyError, TypeError, ValueError):
            return bare

    def _fill(self, name: str, data: Path, found: options.LocalOptions) -> None:
        kind, what = found.source or ("", "")
        if kind == "image":
            imaged.create(self._store, name, what, found.size)
        elif kind:
            from fastlayer.volume import copies

            if kind == "clone":
                self.copied = copies.clone_into(self._store, name, data, what, found.size)
            else:
                self.copied = copies.state_into(self._store, name, data, what, found.size)
        else:
            trees.make(data, None if found.is_mounted else found.size)
        if not data.exists():
            trees.make(data)  # a mount point

    def fill(self, name: str, how: Callable[[Path], object]) -> None:
        """Of a volume that has just been created; it is removed again when that fails."""
        try:
            how(self.data(name))
        except BaseException:
            self.remove(name)
            raise

    def remove(self, name: str) -> None:
        place = self.place(name)
        self._unmount_all(name, place / DATA)
        volume = self._volume(name)
        if volume is not None:
            imaged.remove(self._store, volume)
        for tree in (*folders_of(place / SNAPSHOTS), place / NEW, place / DATA):
            trees.remove(tree)
        folders.remove(place.parent, os.fsencode(name))

    def mount(self, name: str, user: str) -> Path:
        from fastlayer.mounts.mounting import mount

        volume = books.find(self._store, name)
        seen = self.path(name)
        if seen is not None:
            return seen
        data = self.data(name)
        if not data.is_dir():
            raise self._lost(name)
        found = options.parse(volume.options)
        if volume.snapshot is None:
            mount([options.mount_of(name, found)], data)
            return data
        self._refuse_elsewhere(name, user)
        mount(imaged.mounts(self._store, volume), data)
        return data

    def _refuse_elsewhere(self, name: str, user: str) -> None:
        """An overlay must not be mounted twice: what one mount writes the other does not expect."""
        from fastlayer.mounts.namespaces import current, view_of

        here, data = current(), os.fsencode(self.data(name))
        for other in books.users_of(self._store, name):
            if other.mounted and other.user != user and other.mount_ns != here:
                view = view_of(other.mount_ns)
                if view is None or any(entry.target == data for entry in view.entries):
                    raise InUseError(
                        f"volume {name}: {other.user} has it mounted in another mount namespace: end that first"
                    )

    def unmount(self, name: str, user: str, *, last: bool) -> None:
        if last:
            self._unmount_all(name, self.data(name))

    def _unmount_all(self, name: str, data: Path) -> None:
        """Whoever has it open, or a copy of the mount, keeps what it has."""
        from fastlayer.mounts import table
        from fastlayer.mounts.mounting import umount

        while data.is_dir() and table.find(data) is not None:
            umount(data, detach=True)

    def path(self, name: str) -> Path | None:
        from fastlayer.mounts import table

        volume = self._volume(name)
        data = self.data(name)
        if volume is None or not data.is_dir():
            return None
        if volume.snapshot is not None:
            return imaged.plain_directory(self._store, volume) or (data if table.find(data) is not None else None)
        if options.parse(volume.options).is_mounted:
            return data if table.find(data) is not None else None
        return data

    def status(self, name: str) -> Mapping[str, Any]:
        """Snapshots, and what the limit leaves, where there are such."""
        volume = books.find(self._store, name)
        if not self.data(name).is_dir():
            raise self._lost(name)
        found: dict[str, Any] = {}
        states = [state.name for state in books.snapshots_of(self._store, name)]
        if states:
            found["Snapshots"] = states
        limit = options.parse(volume.options).size
        if limit is not None:
            found["SizeLimit"] = limit
            if number := quota.project(self.data(name)):
                found["SizeUsed"] = quota.used(self.data(name), number)
        return found

    def names(self) -> list[str]:
        return [volume.name for volume in books.all_of(self._store) if volume.driver == books.LOCAL]

    def _lost(self, name: str) -> NotFoundError:
        return NotFoundError(f"volume {name}: {show_path(os.fspath(self.data(name)))} is not there: its files are lost")

    # ---- places ------------------------------------------------------------------------------

    def place(self, name: str) -> Path:
        return self._store.root / "volumes" / name

    def data(self, name: str) -> Path:
        return self.place(name) / DATA

    def _volume(self, name: str) -> Volume | None:
        """In whatever state it is."""
        try:
            return books.find(self._store, name)
        except NotFoundError:
            found = [entry.volume for entry in books.in_work(self._store) if entry.volume.name == name]
            return found[0] if found else None


def _texts(value: Any) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise TypeError("no object of texts")
    return value


def folders_of(place: Path) -> list[Path]:
    """The directories in a directory, which need not be there."""
    try:
        return [path for path in sorted(place.iterdir()) if path.is_dir() and not path.is_symlink()]
    except FileNotFoundError:
        return []


def need_own_data(volume: Volume, what: str) -> None:
    """Raises ``DriverError`` unless the volume's files are the store's own."""
    if volume.driver != books.LOCAL:
        raise DriverError(f"volume {volume.name}: the driver {volume.driver} has no {what}: `volume clone` it first")
    found = options.parse(volume.options)
    if found.is_mounted:
        raise UsageError(f"volume {volume.name}: its files lie elsewhere (type={found.type}): `volume clone` it first")
