"""Images of a repository as something to load (``image/load.py``): manifests, and layers that are read as they come."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from fastlayer.errors import DigestMismatchError, LayerFormatError, NotFoundError
from fastlayer.oci.descriptor import Descriptor
from fastlayer.oci.digest import Digest
from fastlayer.oci.image_index import ImageIndex, parse_document
from fastlayer.transfer.pulling.kept import KeptBlob
from fastlayer.transfer.pulling.layout import Room
from fastlayer.transfer.pulling.partial import PartialLayer, partial_layer

if TYPE_CHECKING:
    from fastlayer.image.unpack import LayerSource
    from fastlayer.metadata.leases import Lease
    from fastlayer.registry.client import Repository
    from fastlayer.registry.manifests import RawManifest
    from fastlayer.store.store import Store
    from fastlayer.transfer.pulling.downloads import Download, Downloads, Reader

_PIECE = 1 << 20


class Remote:
    """What can be loaded of one manifest or index of a repository. See ``image.load.Arrivals``.

    ``wanted``: the manifests below the index that are of interest; None: all. ``whole``: all of every blob is to be in
    the store. ``layers``: of the manifests that were read; ``resumed``: whether some bytes were here before;
    ``received``: bytes of layers that came in part; ``warnings``: about those. ``close`` at the end.
    """

    def __init__(
        self,
        store: Store,
        lease: Lease,
        repository: Repository,
        downloads: Downloads,
        root: RawManifest,
        wanted: Collection[Digest] | None = None,
        *,
        whole: bool = False,
    ) -> None:
        self.resumed = False
        self.costly = not whole
        self.warnings: list[str] = []
        self.layers: set[Digest] = set()
        self._parts: list[PartialLayer] = []
        self._room = Room()
        self._store = store
        self._lease = lease
        self._repository = repository
        self._downloads = downloads
        self._wanted = wanted
        self._documents: dict[str, bytes] = {}
        self._manifests: dict[str, Descriptor] = {str(root.digest): root.descriptor}
        self._blobs: dict[str, Descriptor] = {}
        self._coming: dict[Digest, Download] = {}
        self._learn(root.descriptor, root.data)

    def _learn(self, descriptor: Descriptor, data: bytes) -> None:
        """What a manifest or index tells of others."""
        self._documents[str(descriptor.digest)] = data
        document = parse_document(descriptor, data)
        if isinstance(document, ImageIndex):
            self._manifests |= {str(child.digest): child for child in document.manifests}
        else:
            self._blobs |= {str(part.digest): part for part in (document.config, *document.layers)}
            self.layers |= {layer.digest for layer in document.layers}

    def has(self, digest: str) -> bool:
        if digest in self._blobs or digest in self._documents:
            return True
        return digest in self._manifests and (self._wanted is None or digest in self._wanted)

    def read(self, digest: str, limit: int = 4 << 20) -> bytes:
        digest = str(digest)
        if digest in self._documents:
            return self._documents[digest]
        if self._store.content.has(digest):
            data = self._store.content.read(digest, limit)
        elif digest in self._manifests:
            data = self._repository.manifest(digest).data
        elif digest in self._blobs:
            data = self._repository.read_blob(self._blobs[digest], limit)
        else:
            raise NotFoundError(f"{digest}: nothing names it")
        if digest in self._manifests:
            self._learn(self._manifests[digest], data)
        self._documents[digest] = data
        return data

    # ---- layers --------------------------------------------------------------------------------------------

    def expect(self, blobs: Sequence[Descriptor]) -> None:
        """Fetches what nobody else fetches; nothing is waited for."""
        for blob in blobs:
            self._begin(blob, patient=False)

    def in_part(self, layer: Descriptor, diff_id: Digest, chain: Digest, whole: LayerSource) -> LayerSource | None:
        """See ``image.load.Arrivals`` and ``partial.py``."""
        if not self.costly or layer.digest in self._coming:
            return None
        found = partial_layer(
            self._store,
            self._lease,
            self._repository,
            layer,
            diff_id,
            chain,
            whole,
            room=self._room,
            warn=self.warnings.append,
            observe=self._downloads.report,
        )
        if found is None:
            return None
        self._parts.append(found)
        return found.source

    @property
    def received(self) -> int:
        return sum(part.stats.fetched for part in self._parts)

    def close(self) -> None:
        for part in self._parts:
            part.close()

    def _begin(self, blob: Descriptor, *, patient: bool) -> Download | None:
        """None: the store has it, or, unless ``patient``, another process fetches it."""
        if blob.digest in self._coming:
            return self._coming[blob.digest]
        kept = KeptBlob(self._store, blob.digest, blob.size)
        done = lambda: self._store.content.has(blob.digest)  # noqa: E731
        if not kept.lock(done, self._finish_others if patient else None):
            return None
        self.resumed = self.resumed or kept.spans.total > 0
        self._coming[blob.digest] = self._downloads.begin(blob, kept)
        return self._coming[blob.digest]

    def _finish_others(self) -> None:
        """Before two processes wait for each other: what has come here becomes a blob, though nobody has read it."""
        for download in list(self._coming.values()):
            if download.is_complete and not download.readers and not self._store.content.has(download.blob.digest):
                _check(download)
                self._keep(download)

    @contextmanager
    def taking(self, blob: Descriptor, *, trusted: bool = False) -> Iterator[Any]:
        """See ``image.load.Arrivals``. Raises ``RegistryError``, ``DigestMismatchError``, ``NoSpaceError``."""
        download = self._begin(blob, patient=True)
        if download is None or self._store.content.has(blob.digest):
            with self._store.content.open(blob.digest) as file:
                yield file
            return
        with download.reading(hashed=not trusted) as reader:
            try:
                yield reader
                if not trusted:
                    _compare(reader, blob)
            except (DigestMismatchError, LayerFormatError):  # what has come is something else
                download.spoilt()
                raise
        self._keep(download)

    def _keep(self, download: Download) -> None:
        download.settle()
        download.kept.give(self._store, self._lease.id, download.blob.digest)
        download.end()


def _compare(reader: Reader, blob: Descriptor) -> None:
    if reader.digest != blob.digest:
        raise DigestMismatchError(f"{blob.digest}: what came hashes to {reader.digest}: try again")


def _check(download: Download) -> None:
    """Reads what has come. Raises ``DigestMismatchError``."""
    with download.reading(hashed=True) as reader:
        buffer = memoryview(bytearray(_PIECE))
        while reader.readinto(buffer):
            pass
        try:
            _compare(reader, download.blob)
        except DigestMismatchError:
            download.spoilt()
            raise
