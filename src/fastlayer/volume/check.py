"""``store check``: what the books say of volumes, against what is on the disk."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from fastlayer.errors import InUseError, NotFoundError
from fastlayer.volume import books, imaged, lock, options
from fastlayer.volume.books import LOCAL, Volume
from fastlayer.volume.local import DATA, SNAPSHOTS, Local, folders_of
from fastlayer.volume.names import is_name, is_state_name

if TYPE_CHECKING:
    from fastlayer.store.store import Store

Found = tuple[str, str, bool]  # the volume, what is wrong, whether it is right again


def check(store: Store, *, repair: bool = False) -> Iterator[Found]:
    """Volumes of the driver ``local`` without their directory, and directories of volumes that nobody knows.

    With ``repair`` what nobody knows is a volume again, with all that is in it, and one whose files are lost is
    forgotten, unless somebody has it.
    """
    for volume in books.all_of(store):
        if volume.driver == LOCAL and (lost := _lost(store, volume)):
            yield (
                volume.name,
                f"{lost} is not on disk, and with it what was in it",
                repair and _forgotten(store, volume),
            )
    for place in folders_of(store.root / "volumes"):
        if not place.name.startswith(".") and not books.is_known(store, place.name):
            yield from _orphan(store, place, repair)


def _lost(store: Store, volume: Volume) -> str:
    """What the volume lacks; nothing when it is whole."""
    if not Local(store).data(volume.name).is_dir():
        return "its directory"
    return "" if volume.snapshot is None or _has_snapshot(store, volume) else "its snapshot"


def _forgotten(store: Store, volume: Volume) -> bool:
    from fastlayer.volume.volumes import Volumes

    try:
        Volumes(store).remove(volume.name, force=True)
    except InUseError:
        return False
    return True


def _orphan(store: Store, place: Path, repair: bool) -> Iterator[Found]:
    """It may be on its way just now: then who has the lock has its row."""
    why = "is on disk, but nobody knows it"
    if store.read_only or not is_name(place.name):
        yield place.name, why, False
        return
    with lock.alone(store, place.name):
        if books.is_known(store, place.name) or not place.is_dir():
            return
        adopted = repair and (place / DATA).is_dir()
        if adopted:
            _adopt(store, place.name)
    yield place.name, why, adopted


def _adopt(store: Store, name: str) -> None:
    """With its options and labels, its own snapshot when it is one of an image, and those that have been named."""
    local, found = Local(store), imaged.own_snapshot(store, name)
    volume = local.noted(name)
    if found is None and (options.parse(volume.options).source or ("",))[0] == "image":
        volume = volume._replace(options={})  # what it was made of is lost; what is there is a plain directory
    books.adopt(store, volume)
    if found is not None:
        books.set_snapshot(store, name, *found)
    for place in folders_of(local.place(name) / SNAPSHOTS):
        if is_state_name(place.name):
            books.add_snapshot(store, name, place.name, None)


def _has_snapshot(store: Store, volume: Volume) -> bool:
    assert volume.snapshot is not None
    driver, key = volume.snapshot
    try:
        return store.snapshotter_of(driver).exists(key)
    except NotFoundError:
        return False
