"""``store check``: is everything there, is it what it says, and is there something that nobody knows?

Safe while others work in the store: what a living lease makes or removes is theirs. With ``repair`` everything is set
right that can be without losing anything: leftovers go, wrong notes are corrected, missing and damaged snapshots are
unpacked again, damaged blobs that can be made again are, and what nobody knows is set aside. What cannot be repaired
stays a finding. A damaged database is put back by ``maintenance/recover.py``, before the store is opened.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from fastlayer._values import NamedTuple
from fastlayer.errors import DriverError, FastlayerError, NotFoundError
from fastlayer.image.contents import is_partial
from fastlayer.image.holders import holders
from fastlayer.image.images import Image, Images, LayerInfo
from fastlayer.image.unpack import ensure_unpacked
from fastlayer.layer.pipeline import default_jobs, map_ordered
from fastlayer.oci.chain import chain_ids
from fastlayer.oci.digest import Digest
from fastlayer.oci.image_index import parse_index
from fastlayer.snapshot.snapshotter import children_first
from fastlayer.store.collect import clear_dead, reachable_blobs
from fastlayer.store.driver_root import on_disk
from fastlayer.store.layout_index import index_bytes, write_index
from fastlayer.volume.volumes import clear_dead as clear_dead_volumes

if TYPE_CHECKING:
    from fastlayer.store.store import Store


class Finding(NamedTuple):
    """Something wrong. ``what``: kind of thing; ``subject``: which; ``why``; ``repaired``: it is right again.

    ``note``: nothing is wrong: work of a killed process that the next garbage collection clears away.
    """

    what: str
    subject: str
    why: str
    repaired: bool = False
    note: bool = False


class Report(NamedTuple):
    """``blobs``, ``bytes``, ``snapshots``, ``images``: how many were looked at."""

    findings: tuple[Finding, ...]
    blobs: int
    bytes: int
    snapshots: int
    images: int

    @property
    def sound(self) -> bool:
        """Nothing is wrong any more."""
        return all(finding.repaired or finding.note for finding in self.findings)


Progress = Callable[[int, int], object]  # blobs done, of how many


def check(store: Store, *, repair: bool = False, jobs: int | None = None, progress: Progress | None = None) -> Report:
    """Looks at the whole store: reads every blob and every file of an unpacked image.

    Raises ``CorruptStoreError`` when the database itself is damaged.
    """
    checker = _Checker(store, repair)
    checker.database()
    checker.interrupted_work()
    checker.blobs(jobs, progress)
    checker.containers()
    checker.snapshots()
    checker.images()
    checker.trees()
    checker.volumes()
    checker.index()
    return Report(
        tuple(checker.findings), checker.blob_count, checker.byte_count, checker.snapshot_count, checker.count
    )


def _missing(key: str) -> str:
    """An image's layer can be made again; what somebody wrote cannot."""
    lost = (
        ", and with it what was written to the layer" if key.startswith(("writable/", "container/", "volume/")) else ""
    )
    return f"is not on disk{lost}"


class _Checker:
    def __init__(self, store: Store, repair: bool) -> None:
        self.store = store
        self.repair = repair
        self.findings: list[Finding] = []
        self.blob_count = self.byte_count = self.snapshot_count = self.count = 0
        self._damaged: set[Digest] = set()
        self._gone: set[str] = set()  # snapshots that are not on disk
        self._forgotten: set[str] = set()  # snapshots that were not on disk, and whose notes went
        self._waiting: set[tuple[str, int]] = set()  # layers of containers that could not come back yet
        self._gives: dict[Digest, bool] = {}  # snapshots that give the blob of their layer again

    def database(self) -> None:
        wrong = self.store.database.check()
        if wrong:
            from fastlayer.metadata.spare import DamagedError

            raise DamagedError(self.store.database.path, wrong[0])

    def interrupted_work(self) -> None:
        dead = self.store.leases.dead()
        leftovers = [name for lease, name in self.store.content.leftovers() if not self.store.leases.alive(lease)]
        if self.repair:
            clear_dead_volumes(self.store)
            clear_dead(self.store)
        for lease in dead:
            self._find("lease", lease, "its holder was killed", self.repair, note=True)
        for path in leftovers:
            self._find("blob", path.name, "half-written by a process that was killed", self.repair, note=True)

    # ---- blobs -------------------------------------------------------------------------------

    def blobs(self, jobs: int | None, progress: Progress | None) -> None:
        digests = sorted(self.store.content.digests())
        self.blob_count = len(digests)
        for number, (digest, size, why) in enumerate(map_ordered(self._blob, digests, default_jobs(jobs)), 1):
            self.byte_count += size
            if why:
                self._damaged.add(digest)
                self._find("blob", digest, why, self._drop_damaged(digest))
            if progress is not None:
                progress(number, len(digests))
        self._presence()

    def _blob(self, digest: Digest) -> tuple[Digest, int, str]:
        """Its bytes, and what is wrong with it."""
        size = 0
        try:
            size = self.store.content.size(digest)
            self.store.content.check(digest)
        except NotFoundError:
            return digest, 0, ""  # collected meanwhile
        except FastlayerError as exc:
            return digest, size, str(exc)
        return digest, size, ""

    def _drop_damaged(self, digest: Digest) -> bool:
        """A damaged layer goes when its snapshot can give it again."""
        if not self.repair or not self._can_be_made_again(digest):
            return False
        self.store.content.remove(digest)
        with self.store.database.write() as db:
            db.execute("UPDATE layers SET present = 0 WHERE digest = ?", (digest,))
        return True

    def _can_be_made_again(self, digest: Digest) -> bool:
        for image in Images(self.store).all():
            for layer, name in zip(image.layers, image.chain, strict=True):
                if layer.digest == digest and holders(self.store, str(name)):
                    return self._gives_the_same(layer, name)
        return False

    def _gives_the_same(self, layer: LayerInfo, name: Digest) -> bool:
        """Hashed once, however many images have it."""
        from fastlayer.image.materialize import gives_the_same

        if name not in self._gives:
            try:
                self._gives[name] = gives_the_same(self.store, layer, name)
            except FastlayerError:
                self._gives[name] = False  # its driver cannot be used now
        return self._gives[name]

    def _presence(self) -> None:
        """Blobs that should be there. One that is noted as missing may well be: noting it comes after making it."""
        with self.store.database.read() as db:
            noted = {str(row[0]) for row in db.execute("SELECT digest FROM layers WHERE present")}
            noted &= reachable_blobs(db)
        for digest in sorted(noted):
            if not self.store.content.has(digest):
                self._find("layer", digest, "is missing", self._note_missing(digest))

    def _note_missing(self, digest: str) -> bool:
        """What other tools are told is true then; whether anything is lost is seen with the images."""
        if self.repair:
            with self.store.database.write() as db:
                db.execute("UPDATE layers SET present = 0 WHERE digest = ?", (digest,))
        return self.repair

    # ---- containers --------------------------------------------------------------------------

    def containers(self) -> None:
        """Those whose rows are lost come back before their layers are taken for nobody's."""
        from fastlayer.maintenance import containers

        for found in containers.check(self.store, repair=self.repair):
            self._find("container", *found)
        self._waiting = containers.waiting(self.store)

    # ---- snapshots ---------------------------------------------------------------------------

    def snapshots(self) -> None:
        in_use = self.store.drivers_in_use()
        for name in in_use:
            self.store.snapshotter_of(name)  # a driver that has rows must be there
        others = [name for name in on_disk(self.store.root) if name not in in_use]
        orphans = {name: self._compare(name) for name in [*in_use, *others]}
        if self.repair and any(orphans.values()):
            self._adopt(orphans)
        for name, numbers in orphans.items():
            for number in sorted(numbers):
                if (name, number) not in self._waiting:
                    self._orphan(name, number)

    def _compare(self, name: str) -> set[int]:
        """The driver's snapshots with the rows; returns those that have none."""
        try:
            there = self.store.snapshotter_of(name).driver.numbers()  # before the rows: those are there first
        except (FastlayerError, OSError) as exc:
            self._find("driver", name, f"its snapshots cannot be seen: {exc}")
            return set()
        with self.store.database.read() as db:
            found = db.execute("SELECT * FROM snapshots WHERE driver = ?", (name,)).fetchall()
        rows = {int(row["number"]): row for row in found}
        self.snapshot_count += len(rows)
        holes = []
        for number in children_first({number: rows[number]["parent"] for number in rows.keys() - there}):
            if rows[number]["state"] == "ready" and rows[number]["kind"] != "view":  # which may need no place
                key = rows[number]["key"]
                forgotten = self._forget(name, number, key)
                if forgotten or rows[number]["kind"] == "active":
                    self._find("snapshot", f"{name}/{key}", _missing(key), forgotten)
                else:
                    holes.append(number)
        for number in reversed(holes):
            self._fill(name, number, rows[number]["key"])
        return there - rows.keys()

    def _adopt(self, orphans: dict[str, set[int]]) -> None:
        from fastlayer.maintenance.adopt import adopt

        found = adopt(self.store, orphans)
        for driver, number, name in found.snapshots:
            orphans[driver].remove(number)
            why = f"is on disk, but nobody knows it: by its digest it is the layer {name}"
            self._find("snapshot", f"{driver}/{number}", why, True)
        for digest in found.images:
            why = f"its name is lost: `fastlayer tag {digest.encoded[:12]} NAME` gives it one"
            self._find("image", digest, why, True)

    def _orphan(self, name: str, number: int) -> None:
        driver = self.store.snapshotter_of(name).driver
        if number not in driver.numbers():
            return  # its removal was under way
        why, repaired = "is on disk, but nobody knows it", False
        if self.repair:
            try:
                kept = driver.set_aside(number)
                why += f": moved to {kept}" if kept else ""
                driver.remove(number)
                repaired = True
            except DriverError as exc:
                why += f": {exc}"
        self._find("snapshot", f"{name}/{number}", why, repaired)

    def _fill(self, name: str, number: int, key: str) -> None:
        """A snapshot is gone and others are made of it: what they were made of is unpacked again."""
        from fastlayer.maintenance.restore import restore

        repaired = self.repair and restore(self.store, name, number, key)
        why = "is not on disk"
        if not repaired:
            why += f": load its image again, then run `fastlayer store check --repair --driver {name}`"
            self._gone.add(key)
        self._find("snapshot", f"{name}/{key}", why, repaired)

    def _forget(self, name: str, number: int, key: str) -> bool:
        """A note without a snapshot goes when nothing is made of it; an image's is unpacked again later."""
        forgotten = False
        if self.repair:
            with self.store.database.write() as db:
                db.execute(
                    "DELETE FROM snapshots WHERE number = ? AND state = 'ready'"
                    " AND number NOT IN (SELECT parent FROM snapshots WHERE parent IS NOT NULL)",
                    (number,),
                )
                forgotten = db.execute("SELECT 1 FROM snapshots WHERE number = ?", (number,)).fetchone() is None
                if forgotten:
                    self._forgotten.add(key)
                    db.execute("DELETE FROM writable WHERE driver = ? AND key = ?", (name, key))
        return forgotten

    # ---- images ------------------------------------------------------------------------------

    def images(self) -> None:
        images = Images(self.store)
        found = images.all()
        self.count = len(found)
        for image in found:
            for problem in self._image(images, image):
                self._find("image", image.name, *problem)
        seen = {image.target.digest for image in found}
        with self.store.database.read() as db:
            unknown = [str(row[0]) for row in db.execute("SELECT name, digest FROM images") if row[1] not in seen]
        for name in sorted(unknown):
            if not _is_of_others(images, name):
                self._find("image", name, "what it names is not known", self._record_again(images, name))

    def _image(self, images: Images, image: Image) -> Iterator[tuple[str, bool]]:
        try:
            manifest, config = images.manifest(image), images.config(image)
        except FastlayerError as exc:
            yield str(exc), False
            return
        if config.chain_id != image.chain_id or [layer.digest for layer in manifest.layers] != [
            layer.digest for layer in image.layers
        ]:
            yield "the notes differ from its manifest", self._record_again(images, image.names[0])
        chain = [str(name) for name in chain_ids(config.diff_ids)]
        held = [holders(self.store, name) for name in chain]
        for number, layer in enumerate(image.layers):
            if self.store.content.has(layer.digest):
                continue
            if not held[number]:
                yield f"layer {number + 1} ({layer.digest}) is neither there nor unpacked: load the image again", False
                return
            if is_partial(self.store, chain[number], layer.digest):
                continue  # it is as it was
            if not self._gives_the_same(layer, image.chain[number]):
                why = "its blob is not there, and its snapshot is not what it was"
                yield f"layer {number + 1} ({layer.digest}): {why}: make the image again", False
        ours = self.store.snapshotter.driver.name
        unpacked = [ours in drivers for drivers in held]
        if any(unpacked) and not all(unpacked) and self._forgotten.intersection(chain):
            yield "some of its layers are not unpacked", self._unpack(image)

    def trees(self) -> None:
        """What the snapshots show, against the blobs of their layers; the longest stacks first, each once."""
        from fastlayer.maintenance import verify

        if self.store.read_only:
            return  # looking takes a snapshot
        seen: set[Digest] = set()
        ours = self.store.snapshotter.driver.name if self.count else ""
        for image in sorted(Images(self.store).all(), key=lambda image: -len(image.layers)):
            stack = verify.with_blobs(self.store, image, self._damaged)
            if stack is None or stack.chain_id in seen or self._gone.intersection(stack.chain):
                continue
            if not all(ours in holders(self.store, name) for name in stack.chain):
                continue
            seen.update(stack.chain)
            try:
                why = verify.wrong_file(self.store, stack)
                repaired = bool(why) and self.repair and verify.unpack_again(self.store, stack)
            except FastlayerError as exc:
                why, repaired = f"cannot be looked at: {exc}", False
                if verify.is_forbidden(exc):
                    self._find("image", image.name, why, note=True)
                    continue
            if why and not repaired and self.repair:
                why += ": unmount what is made of it, and repair again"
            if why:
                self._find("image", image.name, why, repaired)

    def _record_again(self, images: Images, name: str) -> bool:
        if not self.repair:
            return False
        target, names = images.target_of(name)
        with self.store.lease(f"repair {name}") as lease:
            images.put(names, target, lease=lease)
        return True

    def _unpack(self, image: Image) -> bool:
        if not self.repair:
            return False
        try:
            ensure_unpacked(self.store, image)
        except (NotFoundError, DriverError):
            return False
        return True

    def volumes(self) -> None:
        from fastlayer.volume.check import check as check_volumes

        for found in check_volumes(self.store, repair=self.repair):
            self._find("volume", *found)
        if self.repair:
            from fastlayer.maintenance.containers import hold_volumes

            hold_volumes(self.store)

    def index(self) -> None:
        """The layout's own list of images."""
        database = self.store.database
        with (
            self.store.lease("check index.json") as lease,
            database.write() if self.repair else database.read() as db,
        ):
            wanted = index_bytes(db)
            try:
                with open(self.store.content.path / "index.json", "rb") as file:
                    found = file.read()
                same = parse_index(found).raw == wanted
            except (FastlayerError, OSError):
                same = False
            if not same and self.repair:
                write_index(self.store, db, lease)
        if not same:
            self._find("index.json", "content", "does not name the images of the store", self.repair)

    def _find(self, what: str, subject: str, why: str, repaired: bool = False, *, note: bool = False) -> None:
        self.findings.append(Finding(what, str(subject), why, repaired, note))


def _is_of_others(images: Images, name: str) -> bool:
    """An index of images that are elsewhere is known for what it is."""
    try:
        return images.is_of_others(images.target_of(name)[0])
    except FastlayerError:
        return False
