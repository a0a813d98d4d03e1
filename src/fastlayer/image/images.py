"""The images of a store: names, what they name, and what that is made of.

A name names a manifest or an index (one manifest per platform). What lists show of a manifest is remembered in the
database when the image comes in, so ``images`` and ``history`` of a thousand images open no blobs but the ones shown.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from fastlayer._values import NamedTuple
from fastlayer.errors import CorruptStoreError, InUseError, NotFoundError, ReferenceFormatError, StoreError
from fastlayer.oci import mediatypes
from fastlayer.oci.chain import chain_ids
from fastlayer.oci.descriptor import Descriptor
from fastlayer.oci.digest import ALGORITHMS, Digest
from fastlayer.oci.platform import Platform, choose, host_platform, stored_platform
from fastlayer.oci.reference import SHORT_ID, Reference, is_id_prefix, parse_any, parse_reference

if TYPE_CHECKING:
    import sqlite3

    from fastlayer.metadata.leases import Lease
    from fastlayer.oci.config import ImageConfig
    from fastlayer.oci.manifest import Manifest
    from fastlayer.store.store import Store

_SHORTEST_ID = 2
_MISSING = "no such image: `fastlayer images` lists them, `fastlayer pull` or `load` brings one in"
_MAX_MANIFEST = 4 << 20  # bytes, as in oci/manifest.py


class LayerInfo(NamedTuple):
    """A layer as the store knows it: ``size`` of the blob, ``payload`` bytes of the files in it.

    A layer that was never unpacked has ``tar_size`` 0, and its size for a payload.
    """

    digest: Digest
    diff_id: Digest
    media_type: str
    size: int
    tar_size: int
    payload: int
    present: bool


class Image(NamedTuple):
    """An image for one platform.

    ``id`` is the digest of its configuration, as in Docker; ``target`` what the name names.

    ``chain_id``: the name of the snapshot of all its layers; None for an image without layers.
    """

    names: tuple[str, ...]
    target: Descriptor
    manifest: Digest
    id: Digest
    platform: Platform
    created: str
    chain_id: Digest | None
    layers: tuple[LayerInfo, ...]

    @property
    def chain(self) -> list[Digest]:
        """For each layer the chain id of the stack that ends with it: the names of the snapshots."""
        return chain_ids(layer.diff_id for layer in self.layers)

    @property
    def size(self) -> int:
        """Bytes of the files in all layers, as Docker's SIZE."""
        return sum(layer.payload for layer in self.layers)

    @property
    def name(self) -> str:
        """For messages: the first name, or the id."""
        return self.names[0] if self.names else str(self.id)


class Images:
    """The images of ``store``."""

    def __init__(self, store: Store) -> None:
        self.store = store

    # ---- looking -----------------------------------------------------------------------------

    def all(self) -> list[Image]:
        """All images, and every platform of those that have several; by name. Those without a name come last."""
        with self.store.database.read() as db:
            rows = db.execute(
                "SELECT digest, media_type, size, group_concat(name, char(10)) AS names FROM images GROUP BY digest "
                "ORDER BY min(name)"
            ).fetchall()
            known = _Known(db)
            return [image for row in rows for image in known.images(_target(row), _real(row["names"].split("\n")))]

    def find(self, text: str, platform: Platform | None = None) -> Image:
        """The image that a person means: a name, a digest, the beginning of an id, or a chain id, in this order.

        ``platform`` chooses among several; default: this machine's. Raises ``NotFoundError``,
        ``ReferenceFormatError``; ``StoreError`` when an id could be several images' or the platform is not there.
        """
        try:
            target, names = self.target_of(text)
        except NotFoundError:
            if (image := self._by_chain(text, platform, lower=False)) is None:
                raise
            return image
        with self.store.database.read() as db:
            found = list(_images(db, target, names))
            if not found:
                raise self._without_images(text, target)
        wanted = [image for image in found if text in (image.id, image.manifest) or _is_prefix(text, image)]
        return _choose(text, wanted or found, platform, demanded=platform is not None)

    def platforms(self, text: str) -> list[Image]:
        """All that a name, digest or id names: an image per platform, of those that are there. Raises as ``find``."""
        target, names = self.target_of(text)
        with self.store.database.read() as db:
            return list(_images(db, target, names))

    def _without_images(self, text: str, target: Descriptor) -> StoreError:
        """An index may name images that are elsewhere; else the database is wrong."""
        if self.is_of_others(target):
            return NotFoundError(
                f"{text}: an index of which no image is in the store: pull it (`fastlayer manifest inspect` shows it)"
            )
        return CorruptStoreError(f"{text}: {target.digest} is not known: run `fastlayer store check --repair`")

    def is_of_others(self, target: Descriptor) -> bool:
        """Whether it is an index that is in the store, of images that are elsewhere."""
        from fastlayer.oci.image_index import parse_index

        content = self.store.content
        if target.media_type not in mediatypes.INDEXES or not content.has(target.digest):
            return False
        index = parse_index(content.read(target.digest), target.media_type, str(target.digest))
        return not any(content.has(child.digest) for child in index.manifests)

    def find_stack(self, text: str, platform: Platform | None = None) -> Image:
        """As ``find``, and by the chain id of lower layers: an image of those alone, to be looked at."""
        try:
            return self.find(text, platform)
        except NotFoundError:
            if (image := self._by_chain(text, platform, lower=True)) is None:
                raise
            return image

    def _by_chain(self, text: str, platform: Platform | None, *, lower: bool) -> Image | None:
        """By a chain id or at least 12 digits of one. Many images may have the same layers; any of them will do."""
        if not is_id_prefix(text) or len(text.removeprefix("sha256:")) < SHORT_ID:
            return None
        prefix = "sha256:" + text.removeprefix("sha256:")
        stacks = (stack for image in self.all() for stack in (_lower(image) if lower else [image]))
        found = [stack for stack in stacks if stack.chain_id is not None and stack.chain_id.startswith(prefix)]
        if len({stack.chain_id for stack in found}) > 1:
            raise StoreError(f"{text}: could be several stacks of layers: give more digits")
        return (
            _choose(text, found if platform else found[:1], platform, demanded=platform is not None) if found else None
        )

    def target_of(self, text: str) -> tuple[Descriptor, list[str]]:
        """What a name, digest or id names - an index with all its platforms, or a manifest - and all its names."""
        with self.store.database.read() as db:
            return self._target_of(db, text)

    def _target_of(self, db: sqlite3.Connection, text: str) -> tuple[Descriptor, list[str]]:
        target = _by_name(db, text) or _by_digest(db, text)
        if target is None:
            raise NotFoundError(f"{text}: {_MISSING}")
        return target, _names(db, target.digest)

    def by_target(self, target: Descriptor, names: Sequence[str] = (), platform: Platform | None = None) -> Image:
        """The image of a target that has just been put there."""
        with self.store.database.read() as db:
            found = list(_images(db, target, names))
        return _choose(str(target.digest), found, platform, demanded=platform is not None)

    def of_manifest(self, digest: Digest) -> Image:
        """The image of a manifest that a name or a writable layer keeps, even when it has no name any more."""
        from fastlayer.oci.manifest import parse_manifest

        target = parse_manifest(self.store.content.read(digest)).descriptor
        with self.store.database.read() as db:
            found = list(_images(db, target, _real(_names(db, digest))))
        if not found:
            raise CorruptStoreError(f"{digest}: is not known: run `fastlayer store check --repair`")
        return found[0]

    def manifest(self, image: Image) -> Manifest:
        """The manifest of an image. Raises ``CorruptStoreError`` when its blob is damaged."""
        from fastlayer.oci.manifest import parse_manifest

        return parse_manifest(self.read(image.manifest), "", image.name)

    def config(self, image: Image) -> ImageConfig:
        """The configuration of an image."""
        from fastlayer.oci.config import MAX_CONFIG, parse_config

        return parse_config(self.read(image.id, MAX_CONFIG), image.name)

    def read(self, digest: Digest, limit: int = _MAX_MANIFEST) -> bytes:
        """A small blob, verified."""
        return self.store.content.read(digest, limit)

    # ---- changing ----------------------------------------------------------------------------

    def put(self, names: Iterable[str], target: Descriptor, layers: Iterable[LayerInfo] = (), *, lease: Lease) -> None:
        """Gives names to what is complete in the store; a name that something else has is moved.

        ``layers``: what is known of them (``insert_layers``). Raises ``ManifestError`` for an inconsistent image.
        """
        documents = self._documents(target)
        with self.store.database.write() as db:
            insert_layers(db, layers)
            for record in documents:
                record(db)
            _give_names(db, list(names), target)
            _write_index(self.store, db, lease)

    def tag(self, text: str, name: str) -> str:
        """Gives the image another name; returns it in full."""
        full = full_name(name)
        target, _ = self.target_of(text)
        with self.store.lease(f"tag {full}") as lease, self.store.database.write() as db:
            if not db.execute("SELECT 1 FROM images WHERE digest = ?", (target.digest,)).fetchone():
                raise NotFoundError(f"{text}: has been removed meanwhile: load it again")
            _give_names(db, [full], target)
            _write_index(self.store, db, lease)
        return full

    def untag(self, text: str, *, force: bool = False) -> list[str]:
        """Takes a name away, or all names when ``text`` is an id; returns them. The garbage collector does the rest.

        An image without a name goes by its id. An id with several names needs ``force``. Raises ``InUseError`` when a
        writable layer is made of the image and this was its last name.
        """
        with self.store.lease(f"untag {text}") as lease, self.store.database.write() as db:
            target, names = self._target_of(db, text)
            by_name = _by_name(db, text) is not None
            doomed = [str(_reference(text))] if by_name else [*names, str(target.digest)]
            if not by_name and len(names) > 1 and not force:
                raise InUseError(f"{text}: has {len(names)} names ({', '.join(names)}): remove them, or use --force")
            if set(names) <= set(doomed) and not force:
                _refuse_used(db, text, target)
            db.executemany("DELETE FROM images WHERE name = ?", [(name,) for name in doomed])
            _write_index(self.store, db, lease)
        return _real(doomed) or doomed

    def nameless(self) -> list[Descriptor]:
        """What has lost its name to another image, or never had one."""
        with self.store.database.read() as db:
            return [_target(row) for row in db.execute("SELECT * FROM images WHERE name = digest ORDER BY name")]

    def _documents(self, target: Descriptor) -> list[Callable[[sqlite3.Connection], None]]:
        """What is to be recorded for a target and all below it."""
        from fastlayer.oci.image_index import ImageIndex, walk

        has = self.store.content.has
        records: list[Callable[[sqlite3.Connection], None]] = []
        nodes = walk(target, lambda d, limit: self.read(d.digest, limit), lambda d: not has(d.digest))
        for node in nodes:
            document = node.document
            if isinstance(document, ImageIndex):
                here = [child.digest for child in document.manifests if has(child.digest)]
                records.append(_recorder_of_refs(document.digest, here))
            elif document is not None:
                records += self._manifest_records(document)
        return records

    def _manifest_records(self, manifest: Manifest) -> list[Callable[[sqlite3.Connection], None]]:
        from fastlayer.oci.config import MAX_CONFIG, check_consistent, parse_config

        refs = [manifest.config.digest, *(layer.digest for layer in manifest.layers)]
        records = [_recorder_of_refs(manifest.digest, refs)]
        if manifest.is_image:
            config = parse_config(self.read(manifest.config.digest, MAX_CONFIG), str(manifest.digest))
            check_consistent(manifest, config, str(manifest.digest))
            records.append(_recorder_of_manifest(manifest, config))
        return records


def _lower(image: Image) -> Iterator[Image]:
    """The lower layers of an image, named by their chain ids."""
    for number, chain in enumerate(image.chain[:-1], 1):
        yield image._replace(names=(str(chain),), chain_id=chain, layers=image.layers[:number])


def full_name(text: str) -> str:
    """The name to give to an image, in full, with a tag. Raises ``ReferenceFormatError``."""
    name = _reference(text)
    if looks_like_id(name):
        raise ReferenceFormatError(f"{text}: `sha256:` begins an image id, not a name: choose another repository")
    return str(name)


def full_name_if_any(text: str) -> str:
    """The name in full with its tag; what is no name as it is."""
    try:
        return str(_reference(text))
    except ReferenceFormatError:
        return text


def looks_like_id(name: Reference) -> bool:
    """No image gets such a name: it would be taken for the id of another."""
    return name.familiar_name in ALGORITHMS


# ---- rows ------------------------------------------------------------------------------------------


def insert_layers(db: sqlite3.Connection, layers: Iterable[LayerInfo]) -> None:
    """Within a write transaction: what is known of layers. Of those that are known already nothing changes, but that a
    blob may be there now, and be described better."""
    db.executemany(
        "INSERT INTO layers (digest, diff_id, media_type, size, tar_size, payload, present) "
        "VALUES (?, ?, ?, ?, ?, ?, ?) "
        "ON CONFLICT (digest) DO UPDATE SET present = max(present, excluded.present),"
        " diff_id = CASE WHEN excluded.present OR excluded.tar_size THEN excluded.diff_id ELSE diff_id END,"
        " payload = CASE WHEN tar_size THEN payload ELSE excluded.payload END,"
        " tar_size = max(tar_size, excluded.tar_size)",
        [(*layer[:6], int(layer.present)) for layer in layers],
    )


def layer_of(db: sqlite3.Connection, digest: str) -> LayerInfo | None:
    """What is known of a layer."""
    row = db.execute("SELECT * FROM layers WHERE digest = ?", (digest,)).fetchone()
    return None if row is None else _layer(db, digest, row["diff_id"])


def _recorder_of_refs(parent: Digest, children: Sequence[Digest]) -> Callable[[sqlite3.Connection], None]:
    def record(db: sqlite3.Connection) -> None:
        db.executemany(
            "INSERT OR IGNORE INTO blob_refs (parent, child) VALUES (?, ?)", [(parent, child) for child in children]
        )

    return record


def _recorder_of_manifest(manifest: Manifest, config: ImageConfig) -> Callable[[sqlite3.Connection], None]:
    layers = [
        [str(layer.digest), str(diff_id)] for layer, diff_id in zip(manifest.layers, config.diff_ids, strict=True)
    ]
    row = (
        manifest.digest,
        config.digest,
        str(config.platform),
        config.created,
        config.chain_id,
        json.dumps(layers, separators=(",", ":")),
    )

    def record(db: sqlite3.Connection) -> None:
        db.execute(
            "INSERT OR REPLACE INTO manifests (digest, config_digest, platform, created, chain_id, layers) "
            "VALUES (?, ?, ?, ?, ?, ?)",
            row,
        )

    return record


def _target(row: sqlite3.Row) -> Descriptor:
    return Descriptor(row["media_type"], Digest(row["digest"]), row["size"])


def _images(db: sqlite3.Connection, target: Descriptor, names: Sequence[str]) -> Iterator[Image]:
    """The image of a target, or those of its platforms."""
    rows = db.execute(
        "WITH RECURSIVE below(digest, place) AS (SELECT ?, 0"
        " UNION SELECT child, place + 1 FROM blob_refs JOIN below ON parent = below.digest WHERE place < 9)"
        " SELECT DISTINCT m.* FROM manifests m JOIN below ON m.digest = below.digest ORDER BY m.platform",
        (target.digest,),
    ).fetchall()
    for row in rows:
        layers = tuple(_layer(db, digest, diff_id) for digest, diff_id in json.loads(row["layers"]))
        yield _image(row, target, names, layers)


def _image(row: sqlite3.Row, target: Descriptor, names: Sequence[str], layers: tuple[LayerInfo, ...]) -> Image:
    chain = Digest(row["chain_id"]) if row["chain_id"] else None
    platform = stored_platform(row["platform"]) if row["platform"] else host_platform()
    return Image(
        tuple(sorted(names)),
        target,
        Digest(row["digest"]),
        Digest(row["config_digest"]),
        platform,
        row["created"] or "",
        chain,
        layers,
    )


class _Known:
    """All manifests and layers, read at once, for lists of everything."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        self._manifests = {row["digest"]: row for row in db.execute("SELECT * FROM manifests")}
        self._layers = {row["digest"]: row for row in db.execute("SELECT * FROM layers")}

    def images(self, target: Descriptor, names: Sequence[str]) -> Iterable[Image]:
        """As ``_images``; what is for one platform needs no search."""
        row = self._manifests.get(str(target.digest))
        if row is None:
            return _images(self._db, target, names)
        pairs = json.loads(row["layers"])
        layers = tuple(_layer_info(self._layers.get(digest), digest, diff_id) for digest, diff_id in pairs)
        return (_image(row, target, names, layers),)


def _layer(db: sqlite3.Connection, digest: str, diff_id: str) -> LayerInfo:
    row = db.execute("SELECT * FROM layers WHERE digest = ?", (digest,)).fetchone()
    return _layer_info(row, digest, diff_id)


def _layer_info(row: sqlite3.Row | None, digest: str, diff_id: str) -> LayerInfo:
    if row is None:
        return LayerInfo(Digest(digest), Digest(diff_id), mediatypes.LAYER, 0, 0, 0, False)
    return LayerInfo(
        Digest(digest),
        Digest(diff_id),
        row["media_type"],
        row["size"],
        row["tar_size"],
        row["payload"],
        bool(row["present"]),
    )


def _names(db: sqlite3.Connection, digest: str) -> list[str]:
    return _real(row[0] for row in db.execute("SELECT name FROM images WHERE digest = ? ORDER BY name", (digest,)))


def _real(names: Iterable[str]) -> list[str]:
    """Without the digest that stands for a name where there is none."""
    return [str(name) for name in names if not name.startswith("sha256:")]


def _write_index(store: Store, db: sqlite3.Connection, lease: Lease) -> None:
    from fastlayer.store.layout_index import write_index

    write_index(store, db, lease)


def _give_names(db: sqlite3.Connection, names: list[str], target: Descriptor) -> None:
    """As in Docker: what loses its last name stays, without one, until it is pruned; its digest stands for the name."""
    marks = ",".join("?" * len(names))
    losers = db.execute(
        f"SELECT DISTINCT digest, media_type, size FROM images WHERE name IN ({marks}) AND digest != ?",
        (*names, target.digest),
    ).fetchall()
    _insert_names(db, names or [str(target.digest)], target)
    if names or _names(db, target.digest):
        db.execute("DELETE FROM images WHERE name = ?", (target.digest,))
    for loser in map(_target, losers):
        if not _names(db, loser.digest):
            _insert_names(db, [str(loser.digest)], loser)


def _insert_names(db: sqlite3.Connection, names: Iterable[str], target: Descriptor) -> None:
    db.executemany(
        "INSERT OR REPLACE INTO images (name, digest, media_type, size, updated_ns) VALUES (?, ?, ?, ?, ?)",
        [(name, target.digest, target.media_type, target.size, time.time_ns()) for name in names],
    )


def _reference(text: str) -> Reference:
    return parse_reference(text).with_default_tag()


def _by_name(db: sqlite3.Connection, text: str) -> Descriptor | None:
    meant = parse_any(text)
    if not isinstance(meant, Reference) or (text.startswith("sha256:") and is_id_prefix(text)):
        return None
    row = db.execute("SELECT * FROM images WHERE name = ?", (str(meant.with_default_tag()),)).fetchone()
    if row is None and meant.digest:  # NAME@DIGEST: whatever has that digest
        row = db.execute("SELECT * FROM images WHERE digest = ? LIMIT 1", (meant.digest,)).fetchone()
    return None if row is None else _target(row)


def _by_digest(db: sqlite3.Connection, text: str) -> Descriptor | None:
    """By digest or the beginning of one: of a target, a manifest below it, or a configuration."""
    if not is_id_prefix(text) or len(text) < _SHORTEST_ID:
        return None
    prefix = "sha256:" + text.removeprefix("sha256:") + "%"
    rows = db.execute(
        "WITH RECURSIVE above(digest) AS ("
        " SELECT digest FROM manifests WHERE digest LIKE ?1 OR config_digest LIKE ?1"
        " UNION SELECT digest FROM images WHERE digest LIKE ?1"
        " UNION SELECT parent FROM blob_refs JOIN above ON child = above.digest)"
        " SELECT DISTINCT i.digest, i.media_type, i.size FROM images i JOIN above ON i.digest = above.digest",
        (prefix,),
    ).fetchall()
    if len(rows) > 1:
        raise StoreError(f"{text}: could be {len(rows)} images: give more digits")
    return _target(rows[0]) if rows else None


def _is_prefix(text: str, image: Image) -> bool:
    if not is_id_prefix(text):
        return False
    full = "sha256:" + text.removeprefix("sha256:")
    return str(image.id).startswith(full) or str(image.manifest).startswith(full)


def _choose(text: str, images: list[Image], platform: Platform | None, *, demanded: bool) -> Image:
    if len(images) == 1 and not demanded:
        return images[0]
    found = choose(platform or host_platform(), ((image.platform, image) for image in images))
    if not found:
        there = ", ".join(sorted({str(image.platform) for image in images}))
        raise NotFoundError(f"{text}: not for {platform or host_platform()}: it is there for {there}")
    return found[0]


def _refuse_used(db: sqlite3.Connection, text: str, target: Descriptor) -> None:
    user = db.execute(
        "WITH RECURSIVE below(digest) AS (SELECT ?"
        " UNION SELECT child FROM blob_refs JOIN below ON parent = below.digest)"
        " SELECT name FROM writable JOIN below ON manifest = below.digest LIMIT 1",
        (target.digest,),
    ).fetchone()
    if user is not None:
        raise InUseError(
            f"{text}: the writable layer {user[0]} is made of it: `fastlayer rm {user[0]}`, or use --force"
        )
