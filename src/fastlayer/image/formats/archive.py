"""Archive files: looking into one without a store, and writing the OCI kind."""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Sequence
from typing import Any, BinaryIO, cast

from fastlayer.content.ingest import new_hash
from fastlayer.content.store import LAYOUT_VERSION
from fastlayer.errors import (
    CorruptStoreError,
    DigestMismatchError,
    ManifestError,
    NotFoundError,
    OperandError,
    StorageError,
    show_path,
)
from fastlayer.image.formats import docker, oci
from fastlayer.image.formats.scan import scan
from fastlayer.image.formats.source import ArchivedImage, Blobs, Format, ImageSource
from fastlayer.image.formats.tarwriter import TarWriter
from fastlayer.layer.compression import MAGIC_LENGTH, detect
from fastlayer.layer.output import Output
from fastlayer.oci import jsontext
from fastlayer.oci.digest import Digest
from fastlayer.oci.manifest import MAX_MANIFEST
from fastlayer.oci.platform import Platform


def open_images(value: str | os.PathLike[str]) -> ImageSource:
    """The images at a path: an image layout directory or an archive file, by what is in it.

    Raises ``OperandError``, ``NotFoundError`` (a directory without a layout), and what ``scan`` raises.
    """
    if os.path.isdir(value):
        return oci.OciLayout(value)
    return ArchiveFile(value)


# ---- a file that stays -------------------------------------------------------------------------------


class ArchiveFile:
    """A plain archive file, read where it is. See ``ImageSource``.

    Opening an OCI archive reads little more than its headers; of a docker-archive every layer has to be hashed. Blobs
    that are opened are not verified. A compressed archive is refused: its blobs have no place.
    """

    def __init__(self, value: str | os.PathLike[str]) -> None:
        name = show_path(os.fsencode(value))
        try:
            self._fd = os.open(value, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
        except (OSError, ValueError) as exc:
            reason = exc.strerror if isinstance(exc, OSError) else str(exc)
            raise OperandError(f"{name}: {reason}: give an image archive that can be read") from exc
        self._places = _Places(self._fd, name)
        try:
            if not stat.S_ISREG(os.fstat(self._fd).st_mode):
                raise OperandError(f"{name}: not a plain file: load the archive instead")
            if detect(os.pread(self._fd, MAGIC_LENGTH, 0)) != "none":
                raise OperandError(f"{name}: is compressed: load the archive, or decompress it first")
            found = scan(self._fd, self._places, name=name)
        except BaseException:
            os.close(self._fd)
            raise
        self.format: Format = found.format
        self.images: tuple[ArchivedImage, ...] = found.images

    def has(self, digest: str) -> bool:
        return digest in self._places

    def size(self, digest: str) -> int:
        return self._places.size(digest)

    def open(self, digest: str) -> BinaryIO:
        return self._places.open(digest)

    def read(self, digest: str, limit: int = MAX_MANIFEST) -> bytes:
        return self._places.read(digest, limit)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> ArchiveFile:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()


class _Places:
    """A sink that remembers where each blob stands in the file."""

    def __init__(self, fd: int, name: str) -> None:
        self._fd = fd
        self._name = name
        self._places: dict[str, tuple[int, int]] = {}  # digest -> offset, size
        self._made: dict[str, bytes] = {}  # manifests that are not in the file

    def begin(self, size: int, digest: Digest | None, offset: int | None) -> _Hashing | None:
        if offset is None:  # a manifest that was made
            return _Hashing(self, digest, -1)
        if digest is None:
            return _Hashing(self, None, offset)
        self._places[digest] = (offset, size)
        return None

    def keep(self, digest: Digest, offset: int, size: int, data: bytes) -> None:
        if offset < 0:
            self._made[digest] = data
        else:
            self._places[digest] = (offset, size)

    def __contains__(self, digest: str) -> bool:
        return digest in self._places or digest in self._made

    def size(self, digest: str) -> int:
        if digest in self._made:
            return len(self._made[digest])
        return self._place(digest)[1]

    def open(self, digest: str) -> BinaryIO:
        if digest in self._made:
            return io.BytesIO(self._made[digest])
        return cast(BinaryIO, _Part(self._fd, *self._place(digest), f"{self._name}: {digest}"))

    def read(self, digest: str, limit: int = MAX_MANIFEST) -> bytes:
        size = self.size(digest)
        if size > limit:
            raise CorruptStoreError(f"{digest}: has {size} bytes where at most {limit} are expected")
        with self.open(digest) as file:
            data = file.read()
        hasher = new_hash(Digest(digest).algorithm)
        hasher.update(data)
        if hasher.hexdigest() != Digest(digest).encoded:
            raise DigestMismatchError(f"{self._name}: {digest} has other contents: do not use this archive")
        return data

    def _place(self, digest: str) -> tuple[int, int]:
        place = self._places.get(digest)
        if place is None:
            raise NotFoundError(f"{digest}: no such blob in {self._name}")
        return place


class _Hashing:
    """Takes a blob that stays where it is: all that is wanted is its digest."""

    def __init__(self, places: _Places, digest: Digest | None, offset: int) -> None:
        self._places, self._digest, self._offset = places, digest, offset
        self._hasher = new_hash("sha256")
        self._size = 0
        self._data: list[bytes] = []

    def write(self, data: Any) -> None:
        self._hasher.update(data)
        self._size += len(data)
        if self._offset < 0:
            self._data.append(bytes(data))

    def commit(self) -> tuple[Digest, int]:
        found = Digest("sha256:" + self._hasher.hexdigest())
        self._places.keep(self._digest or found, self._offset, self._size, b"".join(self._data))
        return found, self._size

    def abort(self) -> None:
        """Nothing was written."""


class _Part(io.RawIOBase):
    """A part of the archive file, with a position of its own. ``name``: what messages call it."""

    def __init__(self, fd: int, offset: int, size: int, name: str) -> None:
        self._fd, self._at, self._end, self.name = fd, offset, offset + size, name

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")[: max(0, self._end - self._at)]
        try:
            count = os.preadv(self._fd, [view], self._at) if len(view) else 0
        except OSError as exc:
            raise StorageError(exc.errno or 0, "read", self.name) from exc
        self._at += count
        return count


# ---- writing ---------------------------------------------------------------------------------------


def save_oci_archive(
    value: Any,
    images: Sequence[ArchivedImage],
    blobs: Blobs,
    *,
    platform: Platform | None = None,
    compatible: bool = True,
) -> None:
    """Writes a tar of an image layout to ``value`` (path, descriptor such as 1, binary file).

    ``compatible``: with a ``manifest.json``, which is what ``docker load`` reads since Docker 1.10; it names the images
    for ``platform`` (this machine's when None).

    Raises ``NotFoundError`` for a blob that is missing, ``ManifestError``, ``StorageError``.
    """
    oci.refuse_directory(value)
    wanted = oci.contents(images, blobs)
    documents = {
        "oci-layout": jsontext.write({"imageLayoutVersion": LAYOUT_VERSION}),
        "index.json": oci.layout_index(images).to_bytes(),
    }
    if compatible and (chosen := _for_docker(images, blobs, platform)):
        documents["manifest.json"] = docker.compatible_manifest_json(chosen)
    for descriptor in wanted:
        if blobs.size(descriptor.digest) != descriptor.size:  # before the first byte is written
            raise CorruptStoreError(f"{descriptor.digest}: is not as long as its descriptor says: load the image again")
    with Output(value) as output:
        tar = TarWriter(output)
        for name, data in documents.items():
            tar.file(name, data)
        tar.directory("blobs")
        for algorithm in sorted({descriptor.digest.algorithm for descriptor in wanted}):
            tar.directory(f"blobs/{algorithm}")
        for descriptor in wanted:
            with blobs.open(descriptor.digest) as file:
                tar.stream(f"blobs/{descriptor.digest.algorithm}/{descriptor.digest.encoded}", descriptor.size, file)
        tar.finish()
        output.commit()


def _for_docker(images: Sequence[ArchivedImage], blobs: Blobs, platform: Platform | None) -> list[docker.Single]:
    """What Docker can load of it; an artifact, or an image for other machines only, is none of that."""
    found = []
    for image in images:
        try:
            found += docker.singles([image], blobs, platform)
        except ManifestError:
            continue
    return found
