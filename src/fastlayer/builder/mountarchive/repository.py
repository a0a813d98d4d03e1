"""Archives of cache mounts in registries: an artifact of the OCI image-spec whose layers are packs of chunks.

::

    manifest   artifactType application/vnd.fastlayer.cachemounts.v1
      config   cache-mounts.json (``index.py``) and "packs": for each layer the chunks in it, [HEX, bytes of the frame]
      layers   the frames of these chunks, one after the other

A chunk that a pack in the repository has is not sent again; what a pack has that nobody needs stays in it until it is
more than half. Packs that are read come whole, verified, those that will be needed next ahead of time, each once.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from fastlayer._values import NamedTuple
from fastlayer.builder.mountarchive import index
from fastlayer.builder.mountarchive.index import Mount
from fastlayer.builder.mountarchive.pack import MAX_PACKED
from fastlayer.builder.repositories import fetch, find
from fastlayer.content.files import explained, new_file
from fastlayer.errors import LimitError, NoSpaceError, NotFoundError, RegistryMissingError, UsageError
from fastlayer.oci import jsontext
from fastlayer.oci.descriptor import Descriptor
from fastlayer.oci.digest import digest_of
from fastlayer.oci.manifest import Manifest, new_manifest, parse_manifest
from fastlayer.registry.opening import destination, opened

if TYPE_CHECKING:
    from fastlayer.builder.repositories import Warn
    from fastlayer.oci.reference import Reference
    from fastlayer.registry.client import Repository
    from fastlayer.registry.opening import Wishes
    from fastlayer.store.store import Store

ARTIFACT = "application/vnd.fastlayer.cachemounts.v1"
CONFIG = "application/vnd.fastlayer.cachemounts.config.v1+json"
PACK = "application/vnd.fastlayer.cachemounts.pack.v1"
MAX_PACK = 64 << 20  # bytes of one that is read
MAX_CHUNKS = 30_000  # of one archive: what jsontext takes of them in one document
_FULL = 8 << 20  # bytes of a pack that is complete
_AT_ONCE = 4  # packs on their way
_ENOSPC = 28
Archive = TypeVar("Archive", "RepositorySource", "RepositoryTarget")


class Pack(NamedTuple):
    """``chunks``: their ids and bytes, in order."""

    blob: Descriptor
    chunks: tuple[tuple[str, int], ...]


class Contents(NamedTuple):
    """What an artifact says."""

    mounts: dict[str, Mount]
    packs: tuple[Pack, ...]


def to_documents(found: Contents) -> tuple[bytes, Manifest]:
    """The configuration and the manifest. Raises ``LimitError``."""
    count = sum(len(pack.chunks) for pack in found.packs)
    if count > MAX_CHUNKS:
        raise LimitError(f"{count} chunks; an artifact may have {MAX_CHUNKS}: give --id, or export to a directory")
    packs = [[list(chunk) for chunk in pack.chunks] for pack in found.packs]
    config = jsontext.write({**index.to_value(found.mounts.values()), "packs": packs})
    descriptor = Descriptor(CONFIG, digest_of(config), len(config))
    return config, new_manifest(descriptor, [pack.blob for pack in found.packs], more={"artifactType": ARTIFACT})


def from_documents(manifest: Manifest, config: bytes, what: str) -> Contents:
    """Reads them. Raises ``ManifestError`` for whatever is not as it has to be."""
    value = jsontext.parse_object(config, what, index.MAX_INDEX)
    mounts = index.from_value(value, what)
    listed = value.get("packs")
    if not isinstance(listed, list) or len(listed) != len(manifest.layers):
        jsontext.refuse(what, "does not say what is in its packs: export it again")
    packs = tuple(_pack(blob, items, what) for blob, items in zip(manifest.layers, listed, strict=True))
    return Contents(mounts, packs)


def _pack(blob: Descriptor, items: Any, what: str) -> Pack:
    chunks = [tuple(item) if isinstance(item, list) else () for item in items] if isinstance(items, list) else []
    good = all(
        len(chunk) == 2 and index.is_id(chunk[0]) and type(chunk[1]) is int and 0 < chunk[1] <= MAX_PACKED
        for chunk in chunks
    )
    if not (chunks and good and blob.size <= MAX_PACK and sum(chunk[1] for chunk in chunks) == blob.size):
        jsontext.refuse(what, f"{blob.digest}: is no pack of the chunks that it is said to have")
    return Pack(blob, tuple(chunks))


def _contents(repository: Repository, manifest: Manifest, what: str) -> Contents:
    if manifest.config.media_type != CONFIG:
        jsontext.refuse(what, "is no archive of cache mounts: write it with `fastlayer cache export`")
    return from_documents(manifest, repository.read_blob(manifest.config, index.MAX_INDEX), what)


@contextmanager
def _at_work(repository: Repository, archive: Archive) -> Iterator[Archive]:
    """The archive for the block; when that fails, what its threads receive and send ends, too."""
    try:
        yield archive
    except BaseException:
        repository.give_up()
        raise
    finally:
        archive.close()


# ---- reading ---------------------------------------------------------------------------------------


@contextmanager
def source(store: Store, reference: Reference, wishes: Wishes, warn: Warn) -> Iterator[RepositorySource]:
    """An archive for the block. Raises ``RegistryError``, ``ManifestError``."""
    from fastlayer.builder.cachemounts import clear
    from fastlayer.store.collect import work_place

    with ExitStack() as ends:
        repository, found = find(ends, reference, wishes, warn)
        name = str(reference)
        contents = _contents(repository, parse_manifest(found.data, found.media_type, name), name)
        lease = ends.enter_context(store.lease("cache import"))
        place = work_place(store.root) / lease.id
        with explained("cannot write", place):
            place.mkdir(parents=True, mode=0o700)
        ends.callback(clear, place)
        yield ends.enter_context(_at_work(repository, RepositorySource(repository, contents, place, name)))


class RepositorySource:
    """See ``places.Source``. ``place``: a directory for packs."""

    def __init__(self, repository: Repository, contents: Contents, place: Path, name: str) -> None:
        self.name = name
        self.mounts = contents.mounts
        self._repository = repository
        self._packs = contents.packs
        self._place = place
        self._where = _positions(contents.packs)
        self._lock = threading.Lock()
        self._coming: dict[int, Future[Path]] = {}
        self._pool = ThreadPoolExecutor(_AT_ONCE)

    def expect(self, identities: Iterable[str]) -> None:
        """Their packs begin to come. Raises ``NoSpaceError`` when there is no room for them."""
        found = (self._where.get(identity) for identity in identities)
        numbers = [number for number in dict.fromkeys(spot[0] for spot in found if spot) if number not in self._coming]
        with explained("read", self._place):
            free = os.statvfs(self._place)
        needed = sum(self._packs[number].blob.size for number in numbers)
        if needed > free.f_bavail * free.f_frsize:
            raise NoSpaceError(_ENOSPC, f"{self.name} needs {needed} bytes", os.fspath(self._place))
        for number in numbers:
            self._ask(number)

    def _ask(self, number: int) -> Future[Path]:
        with self._lock:
            if number not in self._coming:
                self._coming[number] = self._pool.submit(self._fetch, number)
            return self._coming[number]

    def _fetch(self, number: int) -> Path:
        path = self._place / f"pack{number}"
        with explained("cannot write", self._place):
            fd = new_file(path)
            try:
                fetch(self._repository, self._packs[number].blob, fd)
            finally:
                os.close(fd)
        return path

    def get(self, identity: str) -> bytes:
        spot = self._where.get(identity)
        if spot is None:
            raise NotFoundError(f"{self.name}: the chunk {identity} is missing: export it again")
        number, offset, size = spot
        path = self._ask(number).result()
        with explained("read", self._place), open(path, "rb", buffering=0) as file:
            return os.pread(file.fileno(), size, offset)

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)


def _positions(packs: Sequence[Pack]) -> dict[str, tuple[int, int, int]]:
    """Of each chunk: the number of a pack, offset and bytes in it."""
    found: dict[str, tuple[int, int, int]] = {}
    for number, pack in enumerate(packs):
        offset = 0
        for identity, size in pack.chunks:
            found.setdefault(identity, (number, offset, size))
            offset += size
    return found


# ---- writing ---------------------------------------------------------------------------------------


@contextmanager
def target(reference: Reference, wishes: Wishes, warn: Warn) -> Iterator[RepositoryTarget]:
    """A tag to be written; what has it keeps it until all is there. Raises ``RegistryError``."""
    if reference.digest:
        raise UsageError(f"{reference}: nothing can be written under a digest: give a tag")
    location = destination(reference, wishes)
    with ExitStack() as ends:
        repository = ends.enter_context(opened(location, wishes, warn=warn))
        archive = RepositoryTarget(repository, location.reference.tag, str(reference))
        yield ends.enter_context(_at_work(repository, archive))


class RepositoryTarget:
    """See ``places.Target``. Packs are sent by threads while others are made; ``finish`` waits for them."""

    def __init__(self, repository: Repository, tag: str, name: str) -> None:
        self.name = name
        self._repository = repository
        self._tag = tag
        self._before, old = self._old()
        self.mounts = old.mounts
        self._there = old.packs
        self._where = _positions(old.packs)
        self._looked: dict[int, bool] = {}  # whether old packs are still there
        self._new: dict[str, int] = {}  # chunks that were put, with their bytes
        self._packs: list[Pack] = []
        self._chunks: list[tuple[str, int]] = []  # of the pack under way
        self._held = bytearray()
        self._pool = ThreadPoolExecutor(_AT_ONCE)
        self._slots = threading.Semaphore(_AT_ONCE)
        self._uploads: list[Future[Any]] = []

    def _old(self) -> tuple[str, Contents]:
        """The manifest that has the tag now, and what is in it."""
        try:
            found = self._repository.manifest(self._tag)
        except RegistryMissingError:
            return "", Contents({}, ())
        manifest = parse_manifest(found.data, found.media_type, self.name)
        return found.digest, _contents(self._repository, manifest, self.name)

    def has(self, identity: str, size: int) -> int:
        if identity in self._new:
            return self._new[identity]
        spot = self._where.get(identity)
        return spot[2] if spot is not None and self._is_there(spot[0]) else 0

    def _is_there(self, number: int) -> bool:
        if number not in self._looked:
            blob = self._there[number].blob
            self._looked[number] = self._repository.blob_size(blob.digest) in (blob.size, 0)  # 0: it does not say
        return self._looked[number]

    def put(self, identity: str, packed: bytes) -> None:
        self._new[identity] = len(packed)
        self._chunks.append((identity, len(packed)))
        self._held += packed
        if len(self._held) >= _FULL:
            self._send()

    def _send(self) -> None:
        if not self._chunks:
            return
        data = bytes(self._held)
        digest = digest_of(data)
        self._packs.append(Pack(Descriptor(PACK, digest, len(data)), tuple(self._chunks)))
        self._held.clear()
        self._chunks = []
        self._slots.acquire()
        upload = self._pool.submit(self._repository.push_blob, digest, len(data), lambda offset: (data[offset:],))
        upload.add_done_callback(lambda _: self._slots.release())
        self._uploads.append(upload)

    def finish(self, mounts: dict[str, Mount]) -> int:
        needed = {identity for mount in mounts.values() for identity in mount.chunks}
        kept = self._kept(needed)
        self._send()
        for upload in self._uploads:
            upload.result()
        packs = sorted((*kept, *self._packs), key=lambda pack: pack.blob.digest)
        config, manifest = to_documents(Contents(mounts, tuple(packs)))
        if manifest.digest != self._before:
            if self._repository.blob_size(manifest.config.digest) is None:
                self._repository.push_bytes(config)
            self._repository.put_manifest(manifest.raw, manifest.media_type, self._tag)
        return len(set(self._where) - {identity for pack in packs for identity, _ in pack.chunks})

    def _kept(self, needed: set[str]) -> list[Pack]:
        """Old packs that stay. What is needed of one that is mostly of no use goes into a new one."""
        used: dict[int, list[str]] = {}
        for identity in sorted(needed - set(self._new)):
            if identity not in self._where or not self._is_there(self._where[identity][0]):
                raise NotFoundError(f"{self.name}: the chunk {identity} is missing there: export without --id")
            used.setdefault(self._where[identity][0], []).append(identity)
        kept = []
        for number, identities in sorted(used.items()):
            pack = self._there[number]
            if 2 * sum(self._where[identity][2] for identity in identities) >= pack.blob.size:
                kept.append(pack)
            else:
                self._move(pack, identities)
        return kept

    def _move(self, pack: Pack, identities: Iterable[str]) -> None:
        with open(os.memfd_create("pack", os.MFD_CLOEXEC), "rb", buffering=0) as file:
            fetch(self._repository, pack.blob, file.fileno())
            for identity in identities:
                _, offset, size = self._where[identity]
                self.put(identity, os.pread(file.fileno(), size, offset))

    def close(self) -> None:
        """Waits for what is under way."""
        self._pool.shutdown(cancel_futures=True)
