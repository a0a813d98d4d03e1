"""``mounts=true``: cache mounts go where the cache goes, under its tag with ``.mounts`` behind it.

A build sends those that its steps had, and takes those that a step wants and the store has not: a build that finds all
its steps moves none.
"""

from __future__ import annotations

import threading
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING

from fastlayer.builder.cachemounts import all_mounts
from fastlayer.builder.context.waiting import beside
from fastlayer.builder.mountarchive import repository
from fastlayer.builder.repositories import wishes_of
from fastlayer.errors import FastlayerError, RegistryMissingError
from fastlayer.oci.reference import parse_reference

if TYPE_CHECKING:
    from fastlayer.builder.context.waiting import Check
    from fastlayer.builder.mountarchive.places import Source
    from fastlayer.builder.sharing.options import CacheFrom, CacheTo
    from fastlayer.builder.workshop import Workshop
    from fastlayer.oci.reference import Reference

SUFFIX = ".mounts"


def place_of(name: str) -> Reference:
    """Where the mounts are of a cache in a registry. Raises ``ReferenceFormatError`` for a tag that is too long."""
    found = parse_reference(name).with_default_tag()
    return found.with_tag(found.tag + SUFFIX)


def bring(shop: Workshop, identity: str) -> None:
    """Takes a mount that the store has not from the first cache that has it; what goes wrong is a warning."""
    with shop.once("lock of mounts", lambda _: threading.Lock()):
        for wanted in shop.options.cache_from:
            if not wanted.mounts or any(mount.id == identity for mount in all_mounts(shop.store)):
                continue
            try:
                source = shop.once(f"mounts of {wanted.src}", partial(_opened, shop, wanted))
                if source is not None and identity in source.mounts:
                    beside(partial(_take, shop, source, identity), shop.check)
            except FastlayerError as exc:
                shop.check()
                shop.warnings.append(f"--cache-from: {identity}: {exc}: it begins empty")


def _take(shop: Workshop, source: Source, identity: str, check: Check) -> None:
    from fastlayer.builder.mountarchive.importing import import_mounts

    import_mounts(shop.store, source, ids=[identity], jobs=shop.options.jobs, check=check)


def _opened(shop: Workshop, wanted: CacheFrom, ends: ExitStack) -> Source | None:
    """None: there are no mounts, or they cannot be read."""
    wishes = wishes_of(shop.options.wishes, wanted.insecure)
    try:
        return ends.enter_context(repository.source(shop.store, place_of(wanted.src), wishes, shop.warnings.append))
    except RegistryMissingError:  # as in the first run of a pipeline
        return None
    except FastlayerError as exc:
        shop.warnings.append(f"--cache-from: {exc}: building without its cache mounts")
        return None


def send(shop: Workshop, wanted: CacheTo) -> None:
    """Those that steps of this build had. Raises ``RegistryError``, ``ManifestError``, ``StorageError``."""
    from fastlayer.builder.mountarchive.exporting import export

    ids = sorted(shop.mounts & {mount.id for mount in all_mounts(shop.store)})
    if not ids:
        return
    place = place_of(wanted.dest)
    with shop.journal.vertex(f"exporting cache mounts to {place}") as work:
        wishes = wishes_of(shop.options.wishes, wanted.insecure)
        with repository.target(place, wishes, shop.late.append) as target:
            done = export(shop.store, target, ids=ids, jobs=shop.options.jobs, check=shop.check)
        for one in done.mounts:
            work.note(f"{one.mount.id}: {one.written} of {len(one.mount.chunks)} chunks are new")
