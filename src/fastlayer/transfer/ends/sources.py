"""Where images come from, besides the store: registries, layouts, archives, directories. See ``protocols.Source``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fastlayer.image.formats.source import Blobs
from fastlayer.oci import mediatypes
from fastlayer.oci.descriptor import Descriptor
from fastlayer.oci.digest import Digest
from fastlayer.oci.image_index import parse_document
from fastlayer.oci.manifest import MAX_MANIFEST
from fastlayer.registry.client import Repository
from fastlayer.registry.manifests import RawManifest
from fastlayer.transfer.ends.protocols import LayerOf, Write
from fastlayer.transfer.ends.steady import steady
from fastlayer.transfer.forms import Form, Made, remade, threads

_PIECE = 1 << 20
_DOCUMENTS = mediatypes.MANIFESTS | mediatypes.INDEXES | mediatypes.SCHEMA_1


class _Elsewhere:
    """What those have in common that have all their blobs, and remember nothing."""

    def __init__(self, name: str, jobs: int | None = None) -> None:
        self.name = name
        self._jobs = threads(jobs)

    def open(self, blob: Descriptor, offset: int = 0) -> Iterator[bytes | memoryview]:
        raise NotImplementedError

    def writer(self, layer: LayerOf, form: Form | None) -> Write | None:
        return None if form is None else remade(layer.blob, lambda: self.open(layer.blob), form, self._jobs)

    def known_form(self, layer: LayerOf, form: Form) -> Made | None:
        return None

    def note_form(self, layer: LayerOf, form: Form, made: Made) -> None:
        pass

    def give_up(self) -> None:
        pass


class RegistrySource(_Elsewhere):
    """A repository of a registry. ``root``: a manifest of it that is here already."""

    def __init__(self, repository: Repository, name: str, root: RawManifest, jobs: int | None = None) -> None:
        super().__init__(name, jobs)
        self._repository = repository
        self._root = root

    def has_manifest(self, manifest: Descriptor) -> bool:
        return self._repository.head_manifest(manifest.digest) is not None

    def read(self, document: Descriptor, limit: int) -> bytes:
        if document.digest == self._root.digest:
            return self._root.data
        if document.media_type in _DOCUMENTS:
            return self._repository.manifest(document.digest).data
        return self._repository.read_blob(document, limit)

    def open(self, blob: Descriptor, offset: int = 0) -> Iterator[bytes | memoryview]:
        return steady(self._repository, blob, offset)

    def referrers(self, digest: Digest) -> list[Descriptor]:
        return self._repository.referrers(digest)

    def give_up(self) -> None:
        self._repository.give_up()


class BlobsSource(_Elsewhere):
    """A layout, archive or directory. ``entries``: what its index names, where it has one."""

    def __init__(self, blobs: Blobs, name: str, entries: tuple[Descriptor, ...] = (), jobs: int | None = None) -> None:
        super().__init__(name, jobs)
        self._blobs = blobs
        self._entries = entries

    def has_manifest(self, manifest: Descriptor) -> bool:
        return self._blobs.has(manifest.digest)

    def read(self, document: Descriptor, limit: int) -> bytes:
        return self._blobs.read(document.digest, limit)

    def open(self, blob: Descriptor, offset: int = 0) -> Iterator[bytes | memoryview]:
        with self._blobs.open(blob.digest) as file:
            _skip(file, offset)
            while piece := file.read(_PIECE):
                yield piece

    def referrers(self, digest: Digest) -> list[Descriptor]:
        return [entry for entry in self._entries if self._subject(entry) == digest]

    def _subject(self, entry: Descriptor) -> Digest | None:
        from fastlayer.transfer.moving import subject_of

        if entry.media_type not in _DOCUMENTS or not self._blobs.has(entry.digest):
            return None
        return subject_of(parse_document(entry, self._blobs.read(entry.digest, MAX_MANIFEST)))


def _skip(file: Any, offset: int) -> None:
    if not offset:
        return
    if file.seekable():
        file.seek(offset)
        return
    while offset > 0 and (piece := file.read(min(offset, _PIECE))):
        offset -= len(piece)
