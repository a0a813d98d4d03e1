"""``type=local``: caches as tags of an image layout (image-spec image-layout.md), which other tools copy as any.

Who writes or reads holds a shared lock on ``blobs``; what no tag leads to any more goes when nobody else does.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from fastlayer.builder.ownplaces import refuse_others
from fastlayer.builder.sharing import records
from fastlayer.content.files import explained
from fastlayer.content.store import REF_NAME, ContentStore, check_layout, read_index
from fastlayer.errors import CorruptStoreError, ManifestError, NotFoundError, show_path
from fastlayer.image.formats.oci import LayoutBlobs
from fastlayer.oci import mediatypes
from fastlayer.oci.digest import Digest
from fastlayer.oci.manifest import MAX_MANIFEST, Manifest, parse_manifest

if TYPE_CHECKING:
    from fastlayer.builder.sharing.options import CacheFrom
    from fastlayer.image.formats.source import Blobs
    from fastlayer.oci.image_index import ImageIndex

LEASE = "cache"  # in the names of unfinished blobs


class LocalPlace:
    """A layout that is read; it keeps what it has until it is closed. Raises ``NotFoundError`` when it is none."""

    def __init__(self, path: str) -> None:
        self.name = show_path(path)
        self.path = Path(path)
        if not self.path.exists():
            raise NotFoundError(f"{self.name}: is not there")
        check_layout(self.path)
        self._lock = _locked(self.path, fcntl.LOCK_SH)
        self.blobs: Blobs = LayoutBlobs(self.path)

    def manifest(self, wanted: CacheFrom) -> Manifest:
        """The manifest of a tag, or of a digest. Raises ``NotFoundError``, ``ManifestError``."""
        digest = wanted.digest or tagged(read_index(self.path), wanted.tag)
        if not digest:
            raise NotFoundError(f"{self.name}: has no cache with the tag {wanted.tag}")
        found = parse_manifest(self.blobs.read(digest, MAX_MANIFEST), "", f"{self.name}: {digest}")
        if not records.is_cache(found):
            raise ManifestError(f"{self.name}: {digest} is no build cache of fastlayer: write it with --cache-to")
        return found

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


@contextmanager
def written(path: str) -> Iterator[ContentStore]:
    """A layout to be written to, made where there is none, also beside others. A killed writer leaves what was there.

    Raises ``OperandError`` for a directory with other things in it, ``StorageError``.
    """
    place = Path(path)
    refuse_others(place, "the cache", "oci-layout", {"blobs", "ingest"})
    with explained("cannot write", place):
        (place / "blobs").mkdir(parents=True, exist_ok=True)
    lock = _locked(place, fcntl.LOCK_SH)
    try:
        yield ContentStore(place)
    finally:
        os.close(lock)


def known_blobs(layout: ContentStore) -> dict[Digest, list[records.StoredLayer]]:
    """The layers that caches of any tag have there, whose blobs are as long as they should be."""
    found: dict[Digest, list[records.StoredLayer]] = {}
    for entry in layout.read_index().manifests:
        try:
            manifest = parse_manifest(layout.read(entry.digest, MAX_MANIFEST))
            if not records.is_cache(manifest):
                continue
            config = layout.read(manifest.config.digest, records.MAX_RECORDS)
            layers = records.from_documents(manifest, config, str(entry.digest)).layers.values()
            for layer in layers:
                if layer.blob is not None and has_whole(layout, layer.blob.digest, layer.blob.size):
                    found.setdefault(layer.diff_id, []).append(layer)
        except (ManifestError, NotFoundError, CorruptStoreError):
            continue  # it is no use to us
    return found


def has_whole(layout: ContentStore, digest: str, size: int) -> bool:
    """Whether a blob is there, as long as it should be."""
    try:
        return layout.size(digest) == size
    except (NotFoundError, CorruptStoreError):
        return False


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
