"""Pruning: writable layers that are not mounted, images that nobody uses, and then all that nobody can reach."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from fastlayer.container import writable
from fastlayer.container.mounted import all_mounts
from fastlayer.errors import InUseError, NotFoundError
from fastlayer.image.images import Image, Images
from fastlayer.store.collect import Collected, collect

if TYPE_CHECKING:
    from fastlayer.store.store import Store


class Pruned(NamedTuple):
    """What went, or would go. ``layers``: writable ones; ``names``: of images; ``images``: ids of those without one."""

    layers: tuple[str, ...]
    names: tuple[str, ...]
    images: tuple[str, ...]
    collected: Collected


def prune(
    store: Store,
    *,
    layers: bool = False,
    named: bool = False,
    dry_run: bool = False,
    meant: Callable[[Image], bool] = lambda _image: True,
) -> Pruned:
    """Removes images without a name that no writable layer or mount is made of; with ``named`` those with a name, too.

    ``layers``: first all writable layers that are not mounted. ``dry_run``: only tells what would go. ``meant``:
    the images that may go at all. What others remove or begin to use meanwhile is passed over.
    """
    gone = _layers(store, dry_run) if layers else []
    images = Images(store)
    used = {layer.manifest for layer in writable.all_of(store) if layer.name not in gone}
    mounted = mounted_chains(store)
    names: list[str] = []
    nameless: list[str] = []
    targets: list[str] = []  # of those without a name
    for image in images.all():
        if image.manifest in used or str(image.chain_id) in mounted or not meant(image):
            continue
        if not image.names:
            with _unless_taken():
                if not dry_run:
                    images.untag(str(image.target.digest))
                nameless.append(str(image.id))
                targets.append(str(image.target.digest))
        for name in image.names if named else ():
            with _unless_taken():
                if not dry_run:
                    images.untag(name)
                names.append(name)
    collected = collect(store, dry_run=dry_run, as_if_gone=([*names, *targets], gone) if dry_run else ((), ()))
    return Pruned(tuple(gone), tuple(names), tuple(nameless), collected)


def mounted_chains(store: Store) -> set[str]:
    """The stacks of layers that are mounted read-only, whatever the images are called by now."""
    views = [found for found in all_mounts(store) if found.writable is None]
    return {str(store.snapshotter_of(found.driver).stat(found.key).parent) for found in views}


def _layers(store: Store, dry_run: bool) -> list[str]:
    gone = []
    mounted = {found.writable for found in all_mounts(store)}
    for layer in writable.all_of(store):
        if layer.name not in mounted:
            with _unless_taken():
                if not dry_run:
                    writable.remove(store, layer.name)
                gone.append(layer.name)
    return gone


@contextmanager
def _unless_taken() -> Iterator[None]:
    try:
        yield
    except (NotFoundError, InUseError):
        pass
