"""Repositories of registries as builds use them: the one that a name means, and blobs that come whatever breaks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from fastlayer._values import NamedTuple
from fastlayer.content.files import write_all
from fastlayer.content.ingest import new_hash
from fastlayer.errors import DigestMismatchError, RegistryError
from fastlayer.registry.opening import Wishes, opened, sources

if TYPE_CHECKING:
    from fastlayer.oci.descriptor import Descriptor
    from fastlayer.oci.reference import Reference
    from fastlayer.registry.blobs import BlobStream
    from fastlayer.registry.client import Repository
    from fastlayer.registry.manifests import RawManifest

Warn = Callable[[str], object]
_PIECE = 1 << 20


class Found(NamedTuple):
    """Where a name was found, and the manifest that it names there."""

    repository: Repository
    manifest: RawManifest


def wishes_of(wished: Wishes | None, insecure: bool | None) -> Wishes:
    """What the command says, and what is said of one registry."""
    found = wished or Wishes()
    return found if insecure is None else found._replace(verify=not insecure)


def find(ends: ExitStack, reference: Reference, wishes: Wishes, warn: Warn) -> Found:
    """The first place, mirrors before their origin, that has a manifest of that name; open until ``ends`` is closed.

    Raises the ``RegistryError`` of the first when none has.
    """
    first: RegistryError | None = None
    for location in sources(reference, wishes):
        with ExitStack() as trying:
            try:
                repository = trying.enter_context(opened(location, wishes, warn=warn))
                manifest = repository.manifest(location.reference.digest or location.reference.tag)
            except RegistryError as exc:
                first = first or exc
                continue
            ends.enter_context(trying.pop_all())
            return Found(repository, manifest)
    raise first or RegistryError(f"{reference}: no registry is set up for it")


class Download:
    """The bytes of a blob as they come, verified by nobody; where the connection breaks they go on from there."""

    def __init__(self, repository: Repository, blob: Descriptor) -> None:
        self._repository = repository
        self._blob = blob
        self._stream: BlobStream | None = None
        self._at = 0
        self._etag = ""
        self._failures = 0  # in a row, without a byte between them

    def readinto(self, buffer: Any, /) -> int:
        """Up to ``len(buffer)`` bytes, 0 at the end. Raises ``RegistryError``, ``DigestMismatchError`` for a blob of
        another size."""
        while True:
            try:
                data = self._opened().read(len(buffer))
                break
            except RegistryError as exc:
                self.close()
                self._repository.calls.calls.wait(self._failures, exc)
                self._failures += 1
        memoryview(buffer)[: len(data)] = data
        self._at += len(data)
        if data:
            self._failures = 0
        return len(data)

    def _opened(self) -> BlobStream:
        if self._stream is None:
            size = self._blob.size
            self._stream = self._repository.blob(self._blob.digest, offset=self._at, size=size, etag=self._etag)
            self._etag = self._stream.etag
            for skipped in _sizes(self._at - self._stream.offset):  # it knows no ranges
                if not self._stream.read(skipped):
                    break
        return self._stream

    def close(self) -> None:
        if self._stream is not None:
            self._stream.close()
            self._stream = None


def _sizes(count: int) -> Iterator[int]:
    while count > 0:
        yield min(count, _PIECE)
        count -= _PIECE


def fetch(repository: Repository, blob: Descriptor, fd: int) -> None:
    """All of a blob into an empty file. Raises ``DigestMismatchError`` when it is another one."""
    hasher = new_hash(blob.digest.algorithm)
    buffer = memoryview(bytearray(min(_PIECE, max(blob.size, 1))))
    download = Download(repository, blob)
    try:
        while count := download.readinto(buffer):
            hasher.update(buffer[:count])
            write_all(fd, buffer[:count])
    finally:
        download.close()
    if hasher.hexdigest() != blob.digest.encoded:
        raise DigestMismatchError(f"{blob.digest}: the bytes hash to {hasher.hexdigest()}: write it there again")
