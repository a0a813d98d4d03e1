"""Pushing an index that people put together: its images come from the store and from registries, each once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING

from fastlayer._values import NamedTuple
from fastlayer.errors import FastlayerError, RegistryError, RegistryMissingError, UsageError
from fastlayer.image.images import Images, full_name
from fastlayer.oci import mediatypes
from fastlayer.oci.descriptor import Descriptor
from fastlayer.oci.digest import Digest
from fastlayer.oci.image_index import ImageIndex, new_index, parse_document
from fastlayer.oci.reference import Reference
from fastlayer.registry.client import Repository
from fastlayer.registry.http import Budget
from fastlayer.registry.looking import Warn
from fastlayer.registry.opening import Wishes, opened, sources
from fastlayer.registry.places import Place, parse_place
from fastlayer.transfer.ends.opening import CONNECTIONS, opened_destination
from fastlayer.transfer.ends.protocols import LayerOf, Write
from fastlayer.transfer.ends.steady import steady
from fastlayer.transfer.ends.store_source import StoreSource, mounts_of, went_from
from fastlayer.transfer.events import Observer, silent
from fastlayer.transfer.forms import Form, form_of
from fastlayer.transfer.indexes import index_named, source_of, without_source
from fastlayer.transfer.moving import Wanted, move
from fastlayer.transfer.push import DEFAULTS, Pushed, PushOptions, hold, summed
from fastlayer.transfer.rewriting import check_format

if TYPE_CHECKING:
    from fastlayer.store.store import Store


def push_index(
    store: Store,
    name: str,
    destination: str | None = None,
    options: PushOptions = DEFAULTS,
    *,
    purge: bool = False,
    observe: Observer = silent,
) -> Pushed:
    """Pushes the index ``name`` with all its images to ``destination`` (default: where its name says).

    ``purge``: it is removed from the store then. Raises ``NotFoundError``, ``RegistryError``, ``UsageError``; nothing
    that is not complete gets a name.
    """
    check_format(options.manifest_format)
    index, place = index_named(store, name), _place(name, destination)
    warnings: list[str] = []
    wanted = Wanted(form_of(options.compression, options.level), options.force, options.manifest_format)
    with store.lease(f"push {name}") as lease, ExitStack() as stack:
        documents = (index.digest, *(entry.digest for entry in index.manifests))
        hold(store, lease, documents, Images(store).platforms(name))
        source = _IndexSource(store, name, index, options, stack, warnings.append)
        target = stack.enter_context(
            opened_destination(
                place,
                options.wishes,
                warnings.append,
                chunk=options.chunk,
                mounts=source.mounts,
                went=partial(went_from, store),
            )
        )
        moved = move(source, target, source.root, wanted, observe=observe)
    if purge:
        Images(store).untag(full_name(name))
    return summed(place, moved, warnings)


def _place(name: str, wanted: str | None) -> Place:
    place = parse_place(wanted or name)
    if place.reference is None or not place.is_registry or place.reference.digest:
        raise UsageError(f"{wanted or name}: an index is pushed to a registry: give docker://HOST/NAME[:TAG]")
    return place


class _Away(NamedTuple):
    """A repository that has images of the index, and its name as it is written."""

    repository: Repository
    name: Reference


class _IndexSource(StoreSource):
    """See ``protocols.Source``. ``root``: of the index as others see it."""

    def __init__(
        self, store: Store, name: str, index: ImageIndex, options: PushOptions, stack: ExitStack, warn: Warn
    ) -> None:
        super().__init__(store, name, options.jobs)
        seen = new_index(
            map(without_source, index.manifests), media_type=index.media_type, annotations=index.annotations
        )
        self.root = seen.descriptor
        self._repositories: dict[Digest, Reference] = {}  # where blobs are that the store has not
        self._raw = seen.raw
        self._found: dict[Digest, _Away] = {}
        self._away = _Repositories(options.wishes, stack, warn)
        for entry in index.manifests:
            reference = source_of(entry)
            if reference is not None and not store.content.has(entry.digest):
                self._note(entry.digest, self._away.having(reference, entry.digest))

    def _note(self, digest: Digest, away: _Away) -> None:
        self._found[digest] = away
        self._repositories[digest] = away.name

    def mounts(self, registry: str, path: str) -> Callable[[Digest], Iterable[str]]:
        """As ``mounts_of``: for a destination, from where else it can take a blob."""
        of_store = mounts_of(self._store, registry, path)

        def mounts(digest: Digest) -> Iterable[str]:
            found = self._repositories.get(digest)
            own = [found.path] if found is not None and found.domain == registry and found.path != path else []
            return dict.fromkeys((*own, *of_store(digest)))

        return mounts

    def has_manifest(self, manifest: Descriptor) -> bool:
        return manifest.digest in self._found or super().has_manifest(manifest)

    def read(self, document: Descriptor, limit: int) -> bytes:
        if document.digest == self.root.digest:
            return self._raw
        away = self._found.get(document.digest)
        if away is None:
            return super().read(document, limit)
        if document.media_type in mediatypes.MANIFESTS or document.media_type in mediatypes.INDEXES:
            data = away.repository.manifest(document.digest).data
            for part in _parts(document, data):
                if not self._store.content.has(part.digest):
                    self._note(part.digest, away)
            return data
        return away.repository.read_blob(document, limit)

    def open(self, blob: Descriptor, offset: int = 0) -> Iterator[bytes]:
        away = self._found.get(blob.digest)
        return super().open(blob, offset) if away is None else steady(away.repository, blob, offset)

    def writer(self, layer: LayerOf, form: Form | None) -> Write | None:
        """What is in a registry stays as it is: people know it by its digest."""
        return None if layer.blob.digest in self._found else super().writer(layer, form)

    def give_up(self) -> None:
        self._away.give_up()


class _Repositories:
    """Those that are open, by name: one for all images that come from there."""

    def __init__(self, wishes: Wishes, stack: ExitStack, warn: Warn) -> None:
        self._wishes = wishes
        self._stack = stack
        self._warn = warn
        self._open: dict[str, list[Repository]] = {}

    def having(self, reference: Reference, digest: Digest) -> _Away:
        """The first that has the manifest; mirrors go first. Raises ``RegistryMissingError``."""
        failed: FastlayerError | None = None
        for repository in self._of(reference):
            try:
                if repository.head_manifest(digest) is not None:
                    return _Away(repository, reference)
            except RegistryError as exc:
                failed = exc
        raise failed or RegistryMissingError(f"{reference.familiar_name}@{digest}: is not there any more: add another")

    def _of(self, reference: Reference) -> Iterator[Repository]:
        known = self._open.setdefault(reference.name, [])
        yield from known
        for location in sources(reference, self._wishes)[len(known) :]:
            found = self._stack.enter_context(
                opened(location, self._wishes, budget=Budget(CONNECTIONS), warn=self._warn)
            )
            known.append(found)
            yield found

    def give_up(self) -> None:
        for repositories in self._open.values():
            for repository in repositories:
                repository.give_up()


def _parts(document: Descriptor, data: bytes) -> Iterable[Descriptor]:
    found = parse_document(document, data)
    return found.manifests if isinstance(found, ImageIndex) else (found.config, *found.layers)
