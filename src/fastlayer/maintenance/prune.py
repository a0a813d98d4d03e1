"""Pruning: stopped containers, layers that are not mounted, images that nobody uses; then all that nobody can reach."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from fastlayer._values import NamedTuple
from fastlayer.container import containers, lifecycle, writable
from fastlayer.container.mounted import all_mounts, is_running
from fastlayer.errors import FastlayerError, InUseError, NotFoundError
from fastlayer.image.images import Image, Images
from fastlayer.store.collect import Collected, collect

if TYPE_CHECKING:
    from fastlayer.container.containers import Container
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
    the images that may go at all. What others remove or begin to use meanwhile is passed over, and so is what cannot
    go: ``Collected.failed`` says why.
    """
    failed: list[FastlayerError] = []
    gone = _layers(store, dry_run, failed) if layers else []
    images = Images(store)
    names: list[str] = []
    nameless: list[str] = []
    targets: list[str] = []  # of those without a name
    for platforms in _unused(store, images.all(), gone, meant):
        image = platforms[0]
        if not image.names:
            with _passed_over(failed):
                if not dry_run:
                    images.untag(str(image.target.digest))
                nameless += [str(image.id) for image in platforms]
                targets.append(str(image.target.digest))
        for name in image.names if named else ():
            with _passed_over(failed):
                if not dry_run:
                    images.untag(name)
                names.append(name)
    collected = collect(store, dry_run=dry_run, as_if_gone=([*names, *targets], gone) if dry_run else ((), ()))
    all_failed = (*failed, *collected.failed)
    return Pruned(tuple(gone), tuple(names), tuple(nameless), collected._replace(failed=all_failed))


def _unused(
    store: Store, images: Iterable[Image], gone: Collection[str], meant: Callable[[Image], bool]
) -> list[list[Image]]:
    """Those that may go, all platforms of each together: what a name names goes as a whole, or not at all."""
    used = {layer.manifest for layer in writable.all_of(store) if layer.name not in gone}
    mounted = mounted_chains(store)
    found: dict[str, list[Image]] = {}
    for image in images:
        found.setdefault(str(image.target.digest), []).append(image)
    return [
        platforms
        for platforms in found.values()
        if all(one.manifest not in used and str(one.chain_id) not in mounted and meant(one) for one in platforms)
    ]


def mounted_chains(store: Store) -> set[str]:
    """The stacks of layers that are mounted read-only, whatever the images are called by now."""
    views = [found for found in all_mounts(store) if found.writable is None]
    return {str(store.snapshotter_of(found.driver).stat(found.key).parent) for found in views}


def _layers(store: Store, dry_run: bool, failed: list[FastlayerError]) -> list[str]:
    gone = []
    mounted = {found.writable for found in all_mounts(store)}
    of_containers = {container.name: container for container in containers.all_of(store)}
    for layer in writable.all_of(store):
        if layer.name not in mounted and not is_running(store, layer):
            with _passed_over(failed):
                if not dry_run:
                    _remove(store, layer.name, of_containers.get(layer.name))
                gone.append(layer.name)
    return gone


def _remove(store: Store, name: str, container: Container | None) -> None:
    if container is None:
        writable.remove(store, name)
    else:
        lifecycle.remove(store, container)


@contextmanager
def _passed_over(failed: list[FastlayerError]) -> Iterator[None]:
    """What is somebody else's now, or cannot go: the latter is noted."""
    try:
        yield
    except (NotFoundError, InUseError):
        pass
    except FastlayerError as exc:
        failed.append(exc)
