"""Layers that are nowhere but in snapshots which the database does not know: found again by their digests.

An image that was committed has no blob for its topmost layer; its manifest and configuration are blobs. When the
database has forgotten both, the layer's digest in the manifest tells which snapshot it is: the encoder gives the same
bytes for the same tree (``image/materialize.py``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from fastlayer._values import NamedTuple
from fastlayer.errors import FastlayerError
from fastlayer.image.holders import Nowhere, holders
from fastlayer.image.images import Images, LayerInfo
from fastlayer.image.record import of_written
from fastlayer.image.unpack import of_blob, unpack
from fastlayer.oci.chain import chain_ids
from fastlayer.oci.config import MAX_CONFIG, check_consistent, parse_config
from fastlayer.oci.manifest import MAX_MANIFEST, parse_manifest
from fastlayer.oci.mediatypes import layer_compression
from fastlayer.store.collect import reachable_blobs

if TYPE_CHECKING:
    from fastlayer.metadata.leases import Lease
    from fastlayer.oci.descriptor import Descriptor
    from fastlayer.oci.digest import Digest
    from fastlayer.oci.manifest import Manifest
    from fastlayer.store.store import Store


_PAIRED = 16  # orphans of which every two are compared


class Adopted(NamedTuple):
    """What is known again: snapshots as (driver, number, name), and images - their ids - that had no entry."""

    snapshots: tuple[tuple[str, int, str], ...]
    images: tuple[Digest, ...]


def adopt(store: Store, orphans: Mapping[str, set[int]]) -> Adopted:
    """Looks among the ``orphans`` (driver -> numbers) for layers that an image lacks; they are its layers again.

    An image that gets a layer and that nothing names is recorded, without a name. ``orphans`` stay as they are.
    """
    with store.lease("find layers again") as lease:
        search = _Search(store, lease, {driver: set(numbers) for driver, numbers in orphans.items()})
        for stack in list(_stacks(store)):
            search.look_for(stack)
    return Adopted(tuple(search.snapshots), tuple(search.images))


class _Stack(NamedTuple):
    """An image as its blobs tell it."""

    manifest: Manifest
    layers: Sequence[Descriptor]
    diff_ids: Sequence[Digest]
    names: Sequence[Digest]


def _stacks(store: Store) -> Iterator[_Stack]:
    """All images of which manifest and configuration are there."""
    for digest in sorted(store.content.digests()):
        try:
            with store.content.open(digest) as file:
                if store.content.size(digest) > MAX_MANIFEST or file.read(1) != b"{":
                    continue
            manifest = parse_manifest(store.content.read(digest))
            if not manifest.is_image:
                continue
            config = parse_config(store.content.read(manifest.config.digest, MAX_CONFIG))
            check_consistent(manifest, config)
        except FastlayerError:
            continue
        yield _Stack(manifest, manifest.layers, config.diff_ids, chain_ids(config.diff_ids))


class _Search:
    def __init__(self, store: Store, lease: Lease, orphans: dict[str, set[int]]) -> None:
        self.snapshots: list[tuple[str, int, str]] = []
        self.images: list[Digest] = []
        self._store = store
        self._lease = lease
        self._orphans = orphans
        self._found: dict[Digest, LayerInfo] = {}
        with store.database.read() as db:
            self._reachable = reachable_blobs(db)

    def look_for(self, stack: _Stack) -> None:
        for position, (layer, name) in enumerate(zip(stack.layers, stack.names, strict=True)):
            there = self._store.content.has(layer.digest) or holders(self._store, str(name))
            if not there and not self._layer(stack, position):
                return
        gained = any(layer.digest in self._found for layer in stack.layers)
        if gained and stack.manifest.digest not in self._reachable:
            self._record(stack)

    def _layer(self, stack: _Stack, position: int) -> bool:
        """Whether one of the orphans is the layer."""
        for driver, numbers in self._orphans.items():
            if not numbers:
                continue
            if position and not self._is_there(driver, stack, position - 1):
                if not self._store.snapshotter_of(driver).driver.independent and self._pair(driver, stack, position):
                    return True
                self._unpack(driver, stack, position)
            parents = self._below(driver, stack, position)
            if parents is not None and self._one_of(driver, sorted(numbers, reverse=True), stack, position, parents):
                return True
        return False

    def _one_of(self, driver: str, numbers: Sequence[int], stack: _Stack, position: int, parents: list[int]) -> bool:
        """On these parents. The youngest is tried first: a copy of something is younger than that."""
        for number in numbers:
            layer = self._read(driver, number, stack.layers[position], parents)
            if layer is not None:
                self._found[layer.digest] = layer
                self._adopt(driver, number, stack, position, parents)
                return True
        return False

    def _pair(self, driver: str, stack: _Stack, position: int) -> bool:
        """The layer, and the one below it, which has a blob, from which another tree would be made today: where a layer
        does not say of its directories what their times are."""
        self._unpack(driver, stack, position - 1)
        below = self._below(driver, stack, position - 1)
        if below is None:
            return False
        numbers = sorted(self._orphans[driver], reverse=True)[:_PAIRED]
        for parent in numbers:
            younger = [number for number in numbers if number > parent]
            if any(self._read(driver, number, stack.layers[position], [parent, *below]) for number in younger):
                self._adopt(driver, parent, stack, position - 1, below)
                return self._one_of(driver, younger, stack, position, [parent, *below])
        return False

    def _read(self, driver: str, number: int, wanted: Descriptor, parents: list[int]) -> LayerInfo | None:
        """What is known of the layer, when it is the wanted one."""
        try:
            with self._store.snapshotter_of(driver).driver.changes(number, parents) as changes:
                layer = changes.write(Nowhere(), compression=layer_compression(wanted.media_type))
        except (FastlayerError, OSError):
            return None  # half made, or of another stack
        if layer.digest != wanted.digest:
            return None
        return of_written(layer, present=False)._replace(media_type=wanted.media_type)

    def _adopt(self, driver: str, number: int, stack: _Stack, position: int, parents: list[int]) -> None:
        name = str(stack.names[position])
        self._store.snapshotter_of(driver).adopt(name, number, parents)
        self._orphans[driver].remove(number)
        self.snapshots.append((driver, number, name))

    def _is_there(self, driver: str, stack: _Stack, position: int) -> bool:
        return self._store.snapshotter_of(driver).exists(str(stack.names[position]))

    def _below(self, driver: str, stack: _Stack, position: int) -> list[int] | None:
        """The numbers below a layer, nearest first; None when they are not there."""
        if position == 0:
            return []
        if not self._is_there(driver, stack, position - 1):
            return None
        number, parents = self._store.snapshotter_of(driver).number(str(stack.names[position - 1]))
        return [number, *parents]

    def _unpack(self, driver: str, stack: _Stack, count: int) -> None:
        """The lowest layers, from their blobs."""
        try:
            if count and self._store.snapshotter.driver.name == driver:
                sources = [
                    of_blob(self._store, diff_id, layer.digest, layer.size)
                    for layer, diff_id in zip(stack.layers[:count], stack.diff_ids[:count], strict=True)
                ]
                unpack(self._store, self._lease, sources)
        except FastlayerError:
            pass  # then it is not for this driver

    def _record(self, stack: _Stack) -> None:
        layers = [
            self._found.get(layer.digest) or layer_of_blob(self._store, layer, diff_id)
            for layer, diff_id in zip(stack.layers, stack.diff_ids, strict=True)
        ]
        Images(self._store).put([], stack.manifest.descriptor, layers, lease=self._lease)
        self.images.append(stack.manifest.config.digest)


def layer_of_blob(store: Store, layer: Descriptor, diff_id: Digest) -> LayerInfo:
    """What is known of a layer that was not unpacked."""
    return LayerInfo(
        layer.digest, diff_id, layer.media_type, layer.size, 0, layer.size, store.content.has(layer.digest)
    )
