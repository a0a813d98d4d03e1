"""What volumes take on disk."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fastlayer.volume import books, imaged, options
from fastlayer.volume.books import LOCAL, Volume
from fastlayer.volume.local import SNAPSHOTS, Local, folders_of

if TYPE_CHECKING:
    from fastlayer.drivers.sharing import Blocks
    from fastlayer.store.store import Store


def size(store: Store, volume: Volume) -> int | None:
    """Bytes of one volume with its snapshots, what these share counted once.

    None where its files are not the store's, or cannot be seen.
    """
    if volume.driver != LOCAL or options.parse(volume.options).is_mounted:
        return None
    if volume.snapshot is not None:
        return imaged.usage(store, volume)
    trees = _trees(store, volume)
    return _together(trees) if trees else None


def sum_of(store: Store, volumes: Sequence[Volume]) -> int:
    """Bytes of several, what they share counted once."""
    trees = [tree for volume in volumes if volume.driver == LOCAL for tree in _trees(store, volume)]
    return _together(trees) + sum(imaged.usage(store, volume) for volume in volumes if volume.snapshot is not None)


def _trees(store: Store, volume: Volume) -> list[Path]:
    """The directories of a plain volume."""
    if volume.snapshot is not None or options.parse(volume.options).is_mounted:
        return []
    local = Local(store)
    known = {state.name for state in books.snapshots_of(store, volume.name)}
    states = [place for place in folders_of(local.place(volume.name) / SNAPSHOTS) if place.name in known]
    return [tree for tree in (local.data(volume.name), *states) if tree.is_dir()]


def _together(trees: Sequence[Path]) -> int:
    """Trees that share nothing are not looked at file by file."""
    from fastlayer.drivers.usage import tree_usage

    usages = [tree_usage(tree) for tree in trees]
    if len(trees) < 2 or not any(usage.shared for usage in usages):
        return sum(usage.bytes for usage in usages)
    from fastlayer.drivers.sharing import together

    return together([_blocks(tree) for tree in trees])


def _blocks(tree: Path) -> Blocks:
    """Subvolumes of one btrfs share blocks though their device numbers differ; their inode numbers are their own."""
    from fastlayer.drivers.btrfs import subvolumes
    from fastlayer.drivers.sharing import blocks_of

    found = blocks_of(tree)
    identity = subvolumes.file_system(tree)
    if identity is None:
        return found
    own = found.own + int(found.linked[:, 1].sum())
    return found._replace(device=int.from_bytes(identity), own=own, linked=found.linked[:0])
