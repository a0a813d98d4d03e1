"""``type=local``: caches as tags of an image layout (image-spec image-layout.md), which other tools copy as any.

Who writes or reads holds a shared lock on ``blobs``; what no tag leads to any more goes when nobody else does.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING, cast

from fastlayer.builder.outputs.targets import Layout
from fastlayer.builder.ownplaces import refuse_others
from fastlayer.builder.sharing import records
from fastlayer.content.files import explained
from fastlayer.content.store import REF_NAME, ContentStore, check_layout, open_blob, read_blob, read_index
from fastlayer.errors import CorruptStoreError, ManifestError, NotFoundError, show_path
from fastlayer.image.formats.oci import add_names
from fastlayer.image.formats.source import ArchivedImage
from fastlayer.oci import mediatypes
from fastlayer.oci.descriptor import Descriptor
from fastlayer.oci.digest import Digest, digest_of
from fastlayer.oci.manifest import MAX_MANIFEST, Manifest, parse_manifest

if TYPE_CHECKING:
    from fastlayer.builder.sharing.options import CacheFrom, CacheTo
    from fastlayer.builder.sharing.places import Source
    from fastlayer.image.images import LayerInfo
    from fastlayer.oci.image_index import ImageIndex
    from fastlayer.store.store import Store

LEASE = "cache"  # in the names of unfinished blobs
_PIECE = 1 << 20


class LayoutSource:
    """A layout that is read; it keeps what it has until it is closed. Raises ``NotFoundError`` when it is none."""

    def __init__(self, wanted: CacheFrom) -> None:
        self.name = show_path(wanted.src)
        self._wanted = wanted
        self._path = Path(wanted.src)
        if not self._path.exists():
            raise NotFoundError(f"{self.name}: is not there")
        check_layout(self._path)
        self._lock = _locked(self._path, fcntl.LOCK_SH)

    def manifest(self) -> Manifest:
        """The manifest of a tag, or of a digest. Raises ``NotFoundError``, ``ManifestError``."""
        wanted = self._wanted
        digest = wanted.digest or tagged(read_index(self._path), wanted.tag)
        if not digest:
            raise NotFoundError(f"{self.name}: has no cache with the tag {wanted.tag}")
        return parse_manifest(read_blob(self._path, digest, MAX_MANIFEST), "", f"{self.name}: {digest}")

    def read(self, blob: Descriptor, limit: int) -> bytes:
        return read_blob(self._path, blob.digest, limit)

    def open(self, blob: Descriptor) -> FileIO:
        return cast(FileIO, open_blob(self._path, blob.digest))

    def close(self) -> None:
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


def tagged(index: ImageIndex, tag: str) -> str:
    """The digest of what has the tag; empty: nothing has."""
    for entry in index.manifests:
        if entry.annotations.get(REF_NAME) == tag:
            return str(entry.digest)
    return ""


class LayoutTarget:
    """A layout that is written to, beside others who do. ``source``: the store whose layers go there."""

    def __init__(self, source: Store, layout: ContentStore, tag: str) -> None:
        self._source = source
        self._store = layout
        self._tag = tag

    def known(self) -> dict[Digest, list[records.StoredLayer]]:
        """Those of caches of any tag."""
        found: dict[Digest, list[records.StoredLayer]] = {}
        for entry in self._store.read_index().manifests:
            try:
                manifest = parse_manifest(self._store.read(entry.digest, MAX_MANIFEST))
                if not records.is_cache(manifest):
                    continue
                config = self._store.read(manifest.config.digest, records.MAX_RECORDS)
                bundle = records.from_documents(manifest, config, str(entry.digest))
            except (ManifestError, NotFoundError, CorruptStoreError):
                continue  # it is no use to us
            for layer in bundle.layers.values():
                found.setdefault(layer.diff_id, []).append(layer)
        return found

    def has(self, blob: Descriptor) -> bool:
        try:
            return self._store.size(blob.digest) == blob.size
        except (NotFoundError, CorruptStoreError):
            return False

    def put(self, data: bytes) -> None:
        digest = digest_of(data)
        if not self.has(Descriptor("", digest, len(data))):
            self._store.put(data, LEASE, digest=digest)

    def copy(self, blob: Descriptor, source: Source) -> None:
        buffer = memoryview(bytearray(_PIECE))
        with source.open(blob) as stream, self._store.ingest(LEASE, digest=blob.digest, size=blob.size) as writer:
            while count := stream.readinto(buffer):
                writer.write(buffer[:count])
            writer.commit()

    def make(
        self, layers: Sequence[tuple[LayerInfo, Digest]], wanted: CacheTo, jobs: int | None
    ) -> dict[Digest, Descriptor]:
        from fastlayer.builder.outputs.layers import Wanted, write_each

        form = Wanted(wanted.compression, wanted.level, force=True)
        done = write_each(self._source, layers, Layout(self._store, LEASE), form, jobs=jobs)
        return {layer.diff_id: Descriptor(layer.media_type, layer.digest, layer.size) for layer in done}

    def finish(self, manifest: Manifest) -> None:
        self.put(manifest.raw)
        if tagged(self._store.read_index(), self._tag) != manifest.digest:
            add_names(self._store, [ArchivedImage((), manifest.descriptor, (self._tag,))])


@contextmanager
def written(store: Store, wanted: CacheTo) -> Iterator[LayoutTarget]:
    """A layout to be written to, made where there is none. A killed writer leaves what was there.

    Raises ``OperandError`` for a directory with other things in it, ``StorageError``.
    """
    place = Path(wanted.dest)
    refuse_others(place, "the cache", "oci-layout", {"blobs", "ingest"})
    with explained("cannot write", place):
        (place / "blobs").mkdir(parents=True, exist_ok=True)
    lock = _locked(place, fcntl.LOCK_SH)
    try:
        yield LayoutTarget(store, ContentStore(place), wanted.tag)
    finally:
        os.close(lock)


# ---- what nobody needs -----------------------------------------------------------------------------


def sweep(path: str) -> int:
    """Removes what no line of the index leads to, and what killed writers left; nothing while others are at it.

    Returns how many blobs went. What leads to nothing that is known here is taken for the end of a line.
    """
    place = Path(path)
    lock = _locked(place, fcntl.LOCK_EX | fcntl.LOCK_NB)
    if lock < 0:
        return 0
    try:
        layout = ContentStore(place)
        layout.sweep(lambda _: False)
        kept = _reachable(layout)
        doomed = [digest for digest in layout.digests() if digest not in kept] if kept is not None else []
        for digest in doomed:
            layout.remove(digest)
        with explained("cannot write", place):
            (place / "ingest").rmdir()
        return len(doomed)
    finally:
        os.close(lock)


def _reachable(layout: ContentStore) -> set[Digest] | None:
    """None: something that is there cannot be understood, so nothing may go."""
    from fastlayer.oci.image_index import walk

    kept: set[Digest] = set()
    try:
        for entry in layout.read_index().manifests:
            kept.add(entry.digest)
            if entry.media_type not in mediatypes.MANIFESTS | mediatypes.INDEXES:
                return None
            for node in walk(entry, lambda d, limit: layout.read(d.digest, limit), lambda d: not layout.has(d.digest)):
                kept.add(node.descriptor.digest)
                if isinstance(node.document, Manifest):
                    kept.update(part.digest for part in (node.document.config, *node.document.layers))
    except (ManifestError, NotFoundError, CorruptStoreError):
        return None
    return kept


def _locked(path: Path, kind: int) -> int:
    """A descriptor that holds the lock; -1: with ``LOCK_NB`` others have it, or it cannot be had there at all."""
    with explained("cannot open", path / "blobs"):
        fd = os.open(path / "blobs", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, kind)
    except OSError as exc:
        os.close(fd)
        if exc.errno in (errno.EWOULDBLOCK, errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
            return -1
        raise
    return fd
