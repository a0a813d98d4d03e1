"""Image layouts as tools write them (image-spec image-layout.md): what ``index.json`` names, and writing one."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from fastlayer._temporary import name_beside
from fastlayer.content.files import explained, share
from fastlayer.content.store import (
    CONTAINERD_NAME,
    LAYOUT_VERSION,
    REF_NAME,
    ContentStore,
    IndexEntry,
    check_layout,
    index_of,
    open_blob,
    read_blob,
    read_index,
)
from fastlayer.errors import ManifestError, NotFoundError, OperandError, ReferenceFormatError, show_path
from fastlayer.image.formats.members import Members
from fastlayer.image.formats.source import ArchivedImage, Blobs, Documents, Format, Sink
from fastlayer.oci import jsontext, mediatypes
from fastlayer.oci.descriptor import Descriptor
from fastlayer.oci.digest import Digest
from fastlayer.oci.image_index import ImageIndex, Node, is_attestation, parse_index, walk
from fastlayer.oci.manifest import MAX_MANIFEST, Manifest
from fastlayer.oci.reference import Reference, parse_reference

_LEASE = "save"
_PIECE = 1 << 20


# ---- reading ---------------------------------------------------------------------------------------


def images_of(index: ImageIndex, what: str) -> tuple[ArchivedImage, ...]:
    """The images of an ``index.json``, in its order; lines that name the same one under several names are joined."""
    found: dict[Digest, Descriptor] = {}
    names: dict[Digest, set[Reference]] = {}
    labels: dict[Digest, set[str]] = {}
    for entry in index.manifests:
        if entry.media_type in mediatypes.SCHEMA_1 or is_attestation(entry):
            continue
        if entry.media_type not in mediatypes.MANIFESTS | mediatypes.INDEXES:
            raise ManifestError(f"{what}: names something of the unknown type {entry.media_type!a}")
        found.setdefault(entry.digest, Descriptor(entry.media_type, entry.digest, entry.size))
        reference, label = name_of(entry)
        names.setdefault(entry.digest, set()).update([reference] if reference else [])
        labels.setdefault(entry.digest, set()).update([label] if label else [])
    return tuple(
        ArchivedImage(tuple(sorted(names[digest])), bare, tuple(sorted(labels[digest])))
        for digest, bare in found.items()
    )


def name_of(entry: Descriptor) -> tuple[Reference | None, str]:
    """The name that a line of an index gives, and its label where that is a mere tag.

    containerd and Docker say the full name in an annotation of their own, others in ``ref.name``, where skopeo and
    umoci have any text.
    """
    label, full = entry.annotations.get(REF_NAME, ""), entry.annotations.get(CONTAINERD_NAME, "")
    for text in (full, label if "/" in label or ":" in label else ""):
        if text:
            try:
                return parse_reference(text).with_default_tag(), ""
            except ReferenceFormatError:
                continue
    return None, label or full


def archived_images(members: Members, sink: Sink, name: str) -> tuple[ArchivedImage, ...]:
    """The images of an OCI archive that has passed by. Raises ``ManifestError``."""
    layout = jsontext.parse_object(members.documents["oci-layout"], f"{name}: oci-layout", 4096)
    if layout.get("imageLayoutVersion") != LAYOUT_VERSION:
        raise ManifestError(f"{name}: an image layout of another version than {LAYOUT_VERSION}")
    data = members.documents["index.json"]
    images = images_of(parse_index(data, what=f"{name}: index.json", limit=len(data)), f"{name}: index.json")
    if not images:
        raise ManifestError(f"{name}: index.json names no image")
    for image in images:
        found = members.by_digest(image.descriptor.digest)
        if found is None:
            raise ManifestError(f"{name}: {image.descriptor.digest} is missing in the archive: save it again")
        if found.size != image.descriptor.size:
            raise ManifestError(f"{name}: {image.descriptor.digest} is not as long as index.json says")
        _check_complete(image.descriptor, members, sink, name)
    return images


def _check_complete(image: Descriptor, members: Members, sink: Sink, name: str) -> None:
    """One manifest at least must have all that belongs to it: an archive may have been cut between two members."""

    def missing(descriptor: Descriptor) -> bool:
        return members.by_digest(descriptor.digest) is None

    gap = image.digest
    for node in walk(image, lambda descriptor, limit: sink.read(descriptor.digest, limit), missing):
        if isinstance(node.document, Manifest):
            parts = (node.document.config, *node.document.layers)
            gaps = [part for part in parts if missing(part) and not mediatypes.is_foreign(part.media_type)]
            for part in parts:
                found = members.by_digest(part.digest)
                if found is not None and found.size != part.size:
                    raise ManifestError(f"{name}: {part.digest} is not as long as its descriptor says")
            if not gaps:
                return
            gap = gaps[0].digest
        elif node.document is None:
            gap = node.descriptor.digest
    raise ManifestError(f"{name}: {gap} is missing in the archive: save it again")


class LayoutBlobs:
    """The blobs of an image layout directory, whatever its index names. See ``Blobs``."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    def has(self, digest: str) -> bool:
        try:
            self.open(digest).close()
        except NotFoundError:
            return False
        return True

    def size(self, digest: str) -> int:
        with self.open(digest) as file:
            return os.fstat(file.fileno()).st_size

    def open(self, digest: str) -> BinaryIO:
        return open_blob(self.path, digest)

    def read(self, digest: str, limit: int = MAX_MANIFEST) -> bytes:
        return read_blob(self.path, digest, limit)


class OciLayout(LayoutBlobs):
    """An image layout directory, read where it is. See ``ImageSource``."""

    format: Format = "oci-layout"

    def __init__(self, path: str | os.PathLike[str]) -> None:
        super().__init__(path)
        check_layout(self.path)
        self.images = images_of(read_index(self.path), f"{show_path(os.fspath(self.path))}/index.json")

    def close(self) -> None:
        """Nothing is held open."""

    def __enter__(self) -> OciLayout:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()


# ---- what belongs to an image ------------------------------------------------------------------------


def nodes(image: Descriptor, blobs: Documents) -> list[Node]:
    """The manifests and indexes of an image. Platforms that are not there are left out, but one has to be.

    Raises ``ManifestError``, ``NotFoundError``.
    """

    def missing(descriptor: Descriptor) -> bool:
        return descriptor.digest != image.digest and not blobs.has(descriptor.digest)

    found = list(walk(image, lambda descriptor, limit: blobs.read(descriptor.digest, limit), missing))
    if not any(isinstance(node.document, Manifest) for node in found):
        raise ManifestError(f"{image.digest}: none of its manifests is there: pull or load the image again")
    return found


def contents(images: Iterable[ArchivedImage], blobs: Blobs) -> list[Descriptor]:
    """All blobs of images, each once: manifests and indexes first, then configurations and layers."""
    documents: dict[str, Descriptor] = {}
    parts: dict[str, Descriptor] = {}
    for image in images:
        for node in nodes(image.descriptor, blobs):
            if node.document is None:
                continue
            documents.setdefault(node.descriptor.digest, node.descriptor)
            if isinstance(node.document, Manifest):
                for part in (node.document.config, *node.document.layers):
                    if not mediatypes.is_foreign(part.media_type) or blobs.has(part.digest):
                        parts.setdefault(part.digest, part)
    return [*documents.values(), *(part for digest, part in parts.items() if digest not in documents)]


def layout_index(images: Iterable[ArchivedImage]) -> ImageIndex:
    """``index.json`` of images: a line per name."""
    return index_of(entry for image in images for entry in entries_of(image))


def entries_of(image: ArchivedImage) -> list[IndexEntry]:
    names = [str(name.with_default_tag()) for name in image.names] or list(image.labels) or [""]
    return [IndexEntry(name, image.descriptor) for name in names]


# ---- writing ---------------------------------------------------------------------------------------


def save_oci_layout(path: str | os.PathLike[str], images: Iterable[ArchivedImage], blobs: Blobs) -> None:
    """Writes an image layout directory; one that exists keeps its images, and names are given to the new ones.

    A new directory appears when it is complete. Data is shared by reflink where the file system can.

    Raises ``NotFoundError`` for a blob that is missing, ``ManifestError``, ``StorageError``.
    """
    given = list(images)
    with layout_at(path) as layout:
        for descriptor in contents(given, blobs):
            if not layout.has(descriptor.digest) or layout.size(descriptor.digest) != descriptor.size:
                with blobs.open(descriptor.digest) as file:
                    _copy(layout, file, descriptor)
        add_names(layout, given)


@contextmanager
def layout_at(path: str | os.PathLike[str]) -> Iterator[ContentStore]:
    """An image layout for the block to put blobs and names into; a new one gets its name when the block has ended.

    Raises ``NotFoundError`` for a directory with other things in it, ``StorageError``.
    """
    target = Path(path)
    if target.exists():
        with explained("read", target):
            filled = any(target.iterdir())
        if filled:
            check_layout(target)
        try:
            with _filled(target) as layout:
                yield layout
        except BaseException:
            for path in () if filled else target.iterdir():
                _remove(path)
            raise
        return
    staging = target.with_name(os.fsdecode(name_beside(os.fsencode(target.name))))
    try:
        with _filled(staging) as layout:
            yield layout
        with explained("commit", target):
            os.rename(staging, target)
    except BaseException:
        _remove(staging)
        raise


@contextmanager
def _filled(path: Path) -> Iterator[ContentStore]:
    try:
        yield ContentStore(path)
    finally:
        try:
            (path / "ingest").rmdir()
        except OSError:
            pass


def add_names(layout: ContentStore, images: Iterable[ArchivedImage]) -> None:
    """Lines of ``index.json`` for images whose blobs are there; what had their names before loses them."""
    with layout.index_lock():
        entries = [entry for image in images for entry in entries_of(image)]
        layout.write_index([*_kept(layout, {entry.name for entry in entries}), *entries], _LEASE)


def _copy(store: ContentStore, file: Any, descriptor: Descriptor) -> None:
    with store.ingest(_LEASE, digest=descriptor.digest, size=descriptor.size) as blob:
        try:
            fd = file.fileno()
        except OSError:  # a part of an archive
            while piece := file.read(_PIECE):
                blob.write(piece)
        else:
            blob.take(fd, descriptor.size, shared=share(fd, blob.fileno()))
        blob.commit()


def _kept(store: ContentStore, taken: set[str]) -> list[IndexEntry]:
    """The lines of the index that stay: those whose name is not given to another image."""
    kept = []
    for entry in store.read_index().manifests:
        reference, label = name_of(entry)
        name = str(reference) if reference else label
        if not name or name not in taken:
            kept.append(IndexEntry(name, entry))
    return kept


def _remove(path: Path) -> None:
    import shutil

    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()


def refuse_directory(value: Any) -> None:
    """An archive is a file."""
    if isinstance(value, (str, bytes, os.PathLike)) and os.path.isdir(value):
        raise OperandError(f"{show_path(os.fsencode(value))}: is a directory: name a file for the archive")
