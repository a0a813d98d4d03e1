"""``system df``: what the store takes on disk, whose it is, and what could go."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING

from fastlayer._values import NamedTuple
from fastlayer.container import writable
from fastlayer.container.mounted import all_mounts, is_running
from fastlayer.drivers.sharing import Blocks, blocks_of, together
from fastlayer.drivers.usage import tree_usage
from fastlayer.errors import NotFoundError
from fastlayer.image.images import Image, Images
from fastlayer.oci.digest import Digest
from fastlayer.store import downloads
from fastlayer.volume import books, sizes
from fastlayer.volume.volumes import Volumes

if TYPE_CHECKING:
    from fastlayer.store.store import Store
    from fastlayer.volume.books import Volume


class Line(NamedTuple):
    """One kind of thing. ``size``, ``reclaimable``: bytes on disk."""

    type: str
    total: int
    active: int
    size: int
    reclaimable: int


class ImageDisk(NamedTuple):
    """One image. ``unique``: bytes that no other image has, neither as a layer nor by reflink; ``shared``: the others;
    ``users``: writable layers and mounts made of it."""

    image: Image
    size: int
    shared: int
    unique: int
    users: int


class WritableDisk(NamedTuple):
    """One writable layer. ``size``: bytes it takes for itself; ``shared`` of them are also the image's, by reflink."""

    layer: writable.Writable
    size: int
    shared: int
    mounted: bool


class VolumeDisk(NamedTuple):
    """One volume of the driver ``local``. ``size``: bytes its files take, None where they lie elsewhere; ``links``: who
    has it."""

    volume: Volume
    size: int | None
    links: int


class DiskUsage(NamedTuple):
    """The whole store."""

    lines: tuple[Line, ...]
    images: tuple[ImageDisk, ...]
    writable: tuple[WritableDisk, ...]
    volumes: tuple[VolumeDisk, ...]


def disk_usage(store: Store) -> DiskUsage:
    """Measures the store; snapshots that share blocks are looked at file by file, which takes a while."""
    parts = _Parts(store)
    images = _unique_images(Images(store).all())
    layers = _writable(store)
    volumes = _volumes(store)
    users = Counter(layer.layer.manifest for layer in layers)
    mounted = Counter(found.image for found in all_mounts(store) if found.writable is None)
    holders = Counter(part for image in images for part in parts.of(image))
    size = parts.bytes(holders)
    rows = []
    for image in images:
        here = parts.of(image)
        whole = parts.bytes(here)
        unique = parts.bytes_freed(holders, {part for part in here if holders[part] == 1})
        count = users[image.manifest] + sum(mounted[name] for name in (*image.names, str(image.id)))
        rows.append(ImageDisk(image, whole, whole - unique, unique, count))
    active = {part for row in rows if row.users for part in parts.of(row.image)}
    everything = {*holders, *map(_part, layers)}
    parts.bytes(everything)  # measures all
    lines = (
        Line("Images", len(images), sum(bool(row.users) for row in rows), size, size - parts.bytes(active)),
        Line(
            "Containers",
            len(layers),
            sum(layer.mounted for layer in layers),
            parts.bytes_freed(everything, {_part(layer) for layer in layers}),
            parts.bytes_freed(everything, {_part(layer) for layer in layers if not layer.mounted}),
        ),
        _volume_line(store, volumes),
        _build_cache(store, parts, everything, holders.keys()),
        *_begun(store),
    )
    return DiskUsage(lines, tuple(rows), tuple(layers), tuple(volumes))


def _volumes(store: Store) -> list[VolumeDisk]:
    volumes = Volumes(store)
    users = Counter(user.volume for user in books.users_of(store))
    local = [volume for volume in volumes.all() if volume.driver == books.LOCAL]
    return [VolumeDisk(volume, volumes.size(volume), users[volume.name]) for volume in local]


def _volume_line(store: Store, rows: list[VolumeDisk]) -> Line:
    size = sizes.sum_of(store, [row.volume for row in rows])
    active = [row.volume for row in rows if row.links]
    return Line("Local Volumes", len(rows), len(active), size, size - sizes.sum_of(store, active))


def _begun(store: Store) -> list[Line]:
    """Blobs of pulls that were cut short, if there are any."""
    count, size = downloads.usage(store.root)
    return [Line("Pulls Begun", count, 0, size, size)] if count else []


def _build_cache(store: Store, parts: _Parts, everything: set[str], imaged: Collection[str]) -> Line:
    """What the steps of builds keep that no image has, and the directories below ``cache``: all of it can go."""
    with store.database.read() as db:
        rows = db.execute("SELECT DISTINCT what, chain FROM build_steps WHERE chain IS NOT NULL").fetchall()
    chains = [str(row["chain"]) for row in rows]
    own = {part for chain in chains for part in parts.named(chain)} - set(imaged)
    parts.bytes(own)  # measures them
    place = store.root / "cache"
    size = parts.bytes_freed({*everything, *own}, own) + (tree_usage(place).bytes if place.is_dir() else 0)
    active = sum(any(part in imaged for part in parts.named(chain)) for chain in chains)
    return Line("Build Cache", len(rows), active, size, size)


class _Parts:
    """Blobs (``digest``) and snapshots (``driver/chain id``, ``driver/key``), and what those take."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._sizes: dict[str, int] = {}
        self._trees: dict[str, Blocks] = {}
        self._snapshots: dict[str, tuple[str, str]] = {}
        for driver in store.drivers_in_use():
            for info in store.snapshotter_of(driver).walk():
                if info.kind != "view":
                    self._snapshots[f"{driver}/{info.key}"] = (driver, info.key)

    def of(self, image: Image) -> set[str]:
        """The parts of an image that are there."""
        blobs = {image.target.digest, image.manifest, image.id, *(layer.digest for layer in image.layers)}
        snapshots = {f"{driver}/{name}" for driver in self._store.drivers_in_use() for name in image.chain}
        return {str(blob) for blob in blobs if self._store.content.has(blob)} | (snapshots & self._snapshots.keys())

    def bytes(self, parts: Iterable[str]) -> int:
        """Bytes on disk of several parts, what they share counted once."""
        total, trees = 0, []
        for part in parts:
            if part not in self._sizes and part not in self._trees:
                self._measure(part)
            if part in self._trees:
                trees.append(self._trees[part])
            else:
                total += self._sizes[part]
        return total + together(trees)

    def named(self, chain: str) -> set[str]:
        """The snapshots of a stack of layers, by all drivers."""
        return {f"{driver}/{chain}" for driver in self._store.drivers_in_use()} & self._snapshots.keys()

    def bytes_freed(self, parts: Iterable[str], going: set[str]) -> int:
        """Bytes of several parts that are free again when some of them go."""
        plain = sum(self._sizes[part] for part in going if part in self._sizes)
        if not going & self._trees.keys():
            return plain
        trees = {part: self._trees[part] for part in parts if part in self._trees}
        left = [tree for part, tree in trees.items() if part not in going]
        return plain + together(list(trees.values())) - together(left)

    def _measure(self, part: str) -> None:
        """A snapshot that shares blocks with others is looked at file by file, once."""
        if part not in self._snapshots:
            self._sizes[part] = self._blob(Digest(part))
            return
        driver, key = self._snapshots[part]
        snapshotter = self._store.snapshotter_of(driver)
        usage = snapshotter.usage(key)
        tree = snapshotter.driver.own_tree(snapshotter.number(key)[0])
        if usage.shared and tree is not None:
            self._trees[part] = blocks_of(tree)
        else:
            self._sizes[part] = usage.bytes

    def _blob(self, digest: Digest) -> int:
        try:
            return self._store.content.size(digest)
        except NotFoundError:
            return 0


def _part(row: WritableDisk) -> str:
    return f"{row.layer.driver}/{row.layer.key}"


def _unique_images(images: list[Image]) -> list[Image]:
    """Each manifest once, whatever it is called."""
    found: dict[Digest, Image] = {}
    for image in images:
        found.setdefault(image.manifest, image)
    return list(found.values())


def _writable(store: Store) -> list[WritableDisk]:
    mounted = {found.writable for found in all_mounts(store)}
    rows = []
    for layer in writable.all_of(store):
        usage = writable.usage(store, layer)
        in_use = layer.name in mounted or is_running(store, layer)
        rows.append(WritableDisk(layer, usage.bytes, usage.shared, in_use))
    return rows
