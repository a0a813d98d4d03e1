"""Indexes that people put together: one name for an image per platform (``podman manifest``, ``docker manifest``).

Such an index is an image of the store. Its entries are images of the store, or of registries: those have the annotation
``SOURCE``, which says where they are and is left out when the index is pushed. Nothing of them is fetched before that.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from fastlayer._checked import words
from fastlayer._values import NamedTuple
from fastlayer.errors import AlreadyExistsError, FastlayerError, NotFoundError, StorageError, UsageError, show_path
from fastlayer.image.images import Images, full_name
from fastlayer.oci import mediatypes
from fastlayer.oci.config import MAX_CONFIG, parse_config
from fastlayer.oci.descriptor import Descriptor
from fastlayer.oci.digest import Digest
from fastlayer.oci.image_index import ImageIndex, new_index, parse_index
from fastlayer.oci.manifest import MAX_MANIFEST, Manifest
from fastlayer.oci.platform import Platform, host_platform
from fastlayer.oci.reference import Reference, is_id_prefix, parse_reference
from fastlayer.registry.looking import Warn, silent
from fastlayer.registry.opening import AS_SET_UP, Wishes
from fastlayer.registry.places import parse_place
from fastlayer.transfer.documents import Documents, of_store, opened_documents

if TYPE_CHECKING:
    from fastlayer.store.store import Store

SOURCE = "io.fastlayer.source"  # annotation: [HOST[:PORT]/]PATH[:TAG]@DIGEST
_LOCK = "locks/indexes"
_SHORTEST = 6  # digits of a digest by which an entry is named


class Which(NamedTuple):
    """Which images of an index are meant: ``all`` of them, or that of a platform, by default this machine's."""

    all: bool = False
    platform: Platform | None = None


class Change(NamedTuple):
    """What ``annotate`` changes of an entry; None leaves it. ``annotations`` are added to those there are."""

    os: str | None = None
    architecture: str | None = None
    variant: str | None = None
    os_version: str | None = None
    os_features: tuple[str, ...] | None = None
    annotations: Mapping[str, str] = {}


THIS_MACHINE = Which()
UNCHANGED = Change()


def create_index(
    store: Store,
    name: str,
    images: Sequence[str] = (),
    *,
    wishes: Wishes = AS_SET_UP,
    which: Which = THIS_MACHINE,
    amend: bool = False,
    annotations: Mapping[str, str] | None = None,
    warn: Warn = silent,
) -> Digest:
    """Makes the index ``name`` of images of the store and of registries; returns its digest.

    ``amend``: add to one that is there. Raises ``AlreadyExistsError``, ``NotFoundError``, ``RegistryError``.
    """
    full, entries = full_name(name), gathered(store, images, wishes, which, warn)
    with _alone(store):
        old = _index_named(store, full)
        if old is None and _is_taken(store, full):
            raise AlreadyExistsError(
                f"{name}: an image has this name: choose another, or remove it with `fastlayer rmi`"
            )
        if old is not None and not amend:
            raise AlreadyExistsError(f"{name}: this index is there: add to it with --amend or `fastlayer manifest add`")
        notes = {**(old.annotations if old else {}), **(annotations or {})}
        return _put(store, full, old, new_index(_merged(old.manifests if old else (), entries), annotations=notes))


def add_to_index(
    store: Store,
    name: str,
    images: Sequence[str],
    *,
    wishes: Wishes = AS_SET_UP,
    which: Which = THIS_MACHINE,
    change: Change = UNCHANGED,
    warn: Warn = silent,
) -> Digest:
    """Adds images to the index ``name``, changed as ``change`` says; returns its digest now. Raises as above."""
    entries = [changed(entry, change) for entry in gathered(store, images, wishes, which, warn)]
    return _edited(store, name, lambda old: _merged(old.manifests, entries))


def annotate(store: Store, name: str, image: str, change: Change) -> Digest:
    """Changes what the index ``name`` says of an image; returns its digest now. ``image``: its digest, or the beginning
    of it, or the name by which it was added."""

    def edit(old: ImageIndex) -> list[Descriptor]:
        wanted = entry_of(store, old, image, name)
        return [changed(entry, change) if entry.digest == wanted.digest else entry for entry in old.manifests]

    return _edited(store, name, edit)


def annotate_index(store: Store, name: str, annotations: Mapping[str, str]) -> Digest:
    """Adds annotations to the index itself."""
    return _edited(store, name, lambda old: old.manifests, annotations)


def remove_from_index(store: Store, name: str, images: Sequence[str]) -> Digest:
    """Takes images out of the index ``name``; returns its digest now."""

    def edit(old: ImageIndex) -> list[Descriptor]:
        gone = {entry_of(store, old, image, name).digest for image in images}
        return [entry for entry in old.manifests if entry.digest not in gone]

    return _edited(store, name, edit)


def index_named(store: Store, name: str) -> ImageIndex:
    """Raises ``NotFoundError``."""
    found = _index_named(store, full_name(name))
    if found is None:
        why = "is an image, no index" if _is_taken(store, full_name(name)) else "no such index"
        raise NotFoundError(f"{name}: {why}: make one with `fastlayer manifest create`")
    return found


def entry_of(store: Store, index: ImageIndex, image: str, name: str) -> Descriptor:
    """The entry of an index that a person means. Raises ``NotFoundError``, ``UsageError`` for several."""
    found = _by_digest(index, image) or _by_source(index, image) or _by_store(store, index, image)
    if len(found) == 1:
        return found[0]
    if found:
        raise UsageError(f"{image}: {len(found)} images of {name}: give the digest of one")
    there = ", ".join(entry.digest.encoded[:12] for entry in index.manifests) or "nothing"
    raise NotFoundError(f"{show_path(image)}: not in {name}, which has {there}")


def source_of(entry: Descriptor) -> Reference | None:
    """Where an entry is that is not in the store."""
    text = entry.annotations.get(SOURCE)
    return None if text is None else parse_reference(text)


def without_source(entry: Descriptor) -> Descriptor:
    """The entry as others see it."""
    return entry._replace(annotations={key: value for key, value in entry.annotations.items() if key != SOURCE})


def changed(entry: Descriptor, change: Change) -> Descriptor:
    """The entry with other properties."""
    old = entry.platform or Platform("", "")
    given = {name: value for name, value in change._asdict().items() if name != "annotations" and value is not None}
    new = old._replace(**given)
    try:
        new.check()
    except ValueError as exc:
        raise UsageError(f"{exc}: give linux, amd64, v8 and the like") from None
    annotations = {**entry.annotations, **change.annotations}
    return entry._replace(platform=entry.platform if new == old else new, annotations=annotations)


# ---- where the entries come from -----------------------------------------------------------------------


def gathered(store: Store, images: Sequence[str], wishes: Wishes, which: Which, warn: Warn) -> list[Descriptor]:
    """The entries for images by name: of the store where it has them, else of a registry."""
    return [entry for text in words("images", images) for entry in _entries(store, text, wishes, which, warn)]


def _entries(store: Store, text: str, wishes: Wishes, which: Which, warn: Warn) -> list[Descriptor]:
    place = parse_place(text)
    if not place.is_registry:
        raise UsageError(f"{text}: only images of the store and of registries: load it, or copy it to a registry first")
    if not text.startswith("docker://"):
        with suppress(NotFoundError):
            return _of_store(store, text, which)
    reference = place.reference
    assert reference is not None
    with opened_documents(place, wishes, warn) as documents:
        found = _chosen(documents, which, lambda entry: True)
    return [
        entry._replace(annotations={**entry.annotations, SOURCE: str(reference._replace(digest=str(entry.digest)))})
        for entry in found
    ]


def _of_store(store: Store, text: str, which: Which) -> list[Descriptor]:
    documents = of_store(store, text, Images(store).target_of(text)[0])
    return _chosen(documents, which, lambda entry: store.content.has(entry.digest) or SOURCE in entry.annotations)


def _chosen(documents: Documents, which: Which, there: Callable[[Descriptor], bool]) -> list[Descriptor]:
    document = documents.document
    if isinstance(document, Manifest):
        return [documents.root._replace(platform=_platform(documents, document))]
    if which.all:
        return [entry for entry in document.manifests if there(entry)]
    wanted = which.platform or host_platform()
    found = [entry for entry in document.candidates(wanted) if there(entry)]
    if not found:
        raise NotFoundError(f"{documents.name}: has no image for {wanted}: give --platform or --all")
    return found[:1]


def _platform(documents: Documents, manifest: Manifest) -> Platform | None:
    """Of its configuration; what is no image is for none."""
    if not manifest.is_image:
        return None
    return parse_config(documents.read(manifest.config, MAX_CONFIG), documents.name).platform


def _by_digest(index: ImageIndex, text: str) -> list[Descriptor]:
    digits = text.removeprefix("sha256:")
    if not is_id_prefix(text) or len(digits) < _SHORTEST:
        return []
    return [entry for entry in index.manifests if entry.digest.encoded.startswith(digits)]


def _by_source(index: ImageIndex, text: str) -> list[Descriptor]:
    with suppress(FastlayerError):
        wanted = parse_reference(text.removeprefix("docker://")).with_default_tag()
        return [entry for entry in index.manifests if _is_meant(source_of(entry), wanted)]
    return []


def _is_meant(source: Reference | None, wanted: Reference) -> bool:
    if source is None or source.name != wanted.name:
        return False
    return source.digest == wanted.digest if wanted.digest else source.tag == wanted.tag


def _by_store(store: Store, index: ImageIndex, text: str) -> list[Descriptor]:
    with suppress(FastlayerError):
        digests = {entry.digest for entry in _of_store(store, text, Which(all=True))}
        return [entry for entry in index.manifests if entry.digest in digests]
    return []


# ---- the store -----------------------------------------------------------------------------------------


def _merged(old: Iterable[Descriptor], new: Iterable[Descriptor]) -> list[Descriptor]:
    """Each digest once, at its first place; what is new counts."""
    found = {entry.digest: entry for entry in old}
    found.update((entry.digest, entry) for entry in new)
    return list(found.values())


def _edited(
    store: Store,
    name: str,
    edit: Callable[[ImageIndex], Iterable[Descriptor]],
    annotations: Mapping[str, str] | None = None,
) -> Digest:
    with _alone(store):
        old = index_named(store, name)
        notes = {**old.annotations, **(annotations or {})}
        return _put(store, full_name(name), old, new_index(edit(old), media_type=old.media_type, annotations=notes))


def _index_named(store: Store, full: str) -> ImageIndex | None:
    try:
        target, _ = Images(store).target_of(full)
    except NotFoundError:
        return None
    if target.media_type not in mediatypes.INDEXES:
        return None
    return parse_index(store.content.read(target.digest), target.media_type, full)


def _is_taken(store: Store, full: str) -> bool:
    try:
        Images(store).target_of(full)
    except NotFoundError:
        return False
    return True


def _put(store: Store, full: str, old: ImageIndex | None, index: ImageIndex) -> Digest:
    """The new index gets the name; the old one goes if it had no other."""
    if len(index.raw) > MAX_MANIFEST:
        raise UsageError(f"{full}: an index of {len(index.raw)} bytes: registries take {MAX_MANIFEST}")
    images = Images(store)
    with store.lease(f"index {full}") as lease:
        with store.database.write() as db:
            lease.add(db, "blob", [index.digest, *(entry.digest for entry in index.manifests)])
        for entry in index.manifests:
            if SOURCE not in entry.annotations and not store.content.has(entry.digest):
                raise NotFoundError(f"{entry.digest}: has been removed meanwhile: load it again")
        store.content.put(index.raw, lease.id)
        images.put([full], index.descriptor, lease=lease)
    if old is not None and old.digest != index.digest:
        with suppress(FastlayerError):
            if not images.target_of(old.digest)[1]:
                images.untag(old.digest)
    return index.digest


@contextmanager
def _alone(store: Store) -> Iterator[None]:
    """One at a time changes indexes: what another adds meanwhile would be lost."""
    path = store.root / _LOCK
    try:
        path.parent.mkdir(mode=0o700, exist_ok=True)
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as exc:
        raise StorageError(exc.errno or 0, "cannot lock", os.fspath(path)) from exc
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)
