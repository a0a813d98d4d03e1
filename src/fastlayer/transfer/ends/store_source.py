"""An image of the store as the source of a transfer: its blobs, and, where a layer has none, its snapshot.

A layer that was never written, or whose blob was discarded, is made of its snapshot while it goes; nothing is written
for it here. Its snapshot stays what it is, so that takes no more than reading the files again, and the store no space.
What it came to is remembered (``known.py``), so that the next push need not even do that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, cast

from fastlayer.errors import CorruptStoreError, DigestMismatchError
from fastlayer.image.holders import first_that_gives, holding
from fastlayer.oci.descriptor import Descriptor
from fastlayer.oci.digest import Digest
from fastlayer.oci.mediatypes import layer_compression
from fastlayer.transfer import known
from fastlayer.transfer.ends.protocols import LayerOf, Write
from fastlayer.transfer.forms import Form, Made, made, remade, threads

if TYPE_CHECKING:
    from fastlayer.snapshot.snapshotter import Snapshotter
    from fastlayer.store.store import Store

_PIECE = 1 << 20


class StoreSource:
    """See ``protocols.Source``. ``jobs``: threads that compress; ``name``: of the image, for messages."""

    def __init__(self, store: Store, name: str, jobs: int | None = None) -> None:
        self.name = name
        self._store = store
        self._jobs = threads(jobs)

    def has_manifest(self, manifest: Descriptor) -> bool:
        return self._store.content.has(manifest.digest)

    def read(self, document: Descriptor, limit: int) -> bytes:
        return self._store.content.read(document.digest, limit)

    def open(self, blob: Descriptor, offset: int = 0) -> Iterator[bytes]:
        with self._store.content.open(blob.digest) as file:
            file.seek(offset)
            while piece := file.read(_PIECE):
                yield piece

    def writer(self, layer: LayerOf, form: Form | None) -> Write | None:
        if self._store.content.has(layer.blob.digest) or layer.diff_id is None:
            return None if form is None else remade(layer.blob, lambda: self.open(layer.blob), form, self._jobs)
        own = layer_compression(layer.blob.media_type)
        if form is None and own not in ("none", "gzip", "zstd"):
            return None
        return _Snapshot(self._store, layer, form, self._jobs).write

    def known_form(self, layer: LayerOf, form: Form) -> Made | None:
        if layer.diff_id is None:
            return None
        with self._store.database.read() as db:
            return known.form_of(db, layer.diff_id, form)

    def note_form(self, layer: LayerOf, form: Form, made: Made) -> None:
        if not self._store.read_only:
            with self._store.database.write() as db:
                known.remember_form(db, form, made)

    def give_up(self) -> None:
        """Files need no waiting for."""


class _Snapshot:
    """The blob of a layer that is only there as a snapshot."""

    def __init__(self, store: Store, layer: LayerOf, form: Form | None, jobs: int) -> None:
        self._store = store
        self._layer = layer
        self._form = form
        self._jobs = jobs
        self._found: Snapshotter | None = None

    def write(self, output: Any) -> Made:
        """Raises ``CorruptStoreError`` when the snapshot does not give the layer."""
        try:
            found = self._made(output)
        except DigestMismatchError:
            found = None
        wanted = self._layer.blob.digest if self._form is None else found and found.digest
        if found is None or found.made_of != self._layer.diff_id or found.digest != wanted:
            raise CorruptStoreError(
                f"{self._layer.blob.digest}: its snapshot does not give the layer again: run `fastlayer store check`"
            )
        return found

    def _made(self, output: Any) -> Made:
        form = self._form or Form(cast(Any, layer_compression(self._layer.blob.media_type)))
        with self._snapshotter().changes(str(self._layer.chain_id)) as changes:
            return made(changes.write(output, compression=form.compression, level=form.level, jobs=self._jobs))

    def _snapshotter(self) -> Snapshotter:
        if self._found is None:
            digest, name = self._layer.blob.digest, str(self._layer.chain_id)
            assert self._layer.diff_id is not None
            self._found = first_that_gives(holding(self._store, digest, name), self._layer.diff_id, name)
        return self._found


def mounts_of(store: Store, registry: str, own: str) -> Any:
    """For a destination: the repositories of a registry that a blob may be mounted from, but for ``own``."""

    def mounts(digest: Digest) -> Iterable[str]:
        with store.database.read() as db:
            return [name for name in known.repositories(db, digest, registry) if name != own]

    return mounts


def went_from(store: Store, registry: str, repository: str) -> Callable[[Digest], None]:
    """For a destination: told of each blob that a repository has got, or had. A store that we may only read learns
    nothing."""

    def went(digest: Digest) -> None:
        if store.read_only:
            return
        with store.database.read() as db:
            if repository in known.repositories(db, digest, registry):
                return
        with store.database.write() as db:
            known.remember(db, digest, registry, repository)

    return went
