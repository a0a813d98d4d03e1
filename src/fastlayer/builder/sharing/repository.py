"""``type=registry``: a cache under a tag of a repository, and image configurations that have one in them.

Of a cache that is read only the manifest and the records come at once; a layer when it is asked for. Of one that is
written nothing goes that the repository has: blobs are asked for first, and mounted from other repositories of the same
registry where these have them. New layers are compressed while others are on their way.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastlayer.builder.repositories import Download, find, wishes_of
from fastlayer.builder.sharing import records
from fastlayer.content.files import explained, write_all
from fastlayer.errors import DigestMismatchError, ManifestError, NotFoundError, RegistryMissingError
from fastlayer.oci import mediatypes
from fastlayer.oci.digest import Digest, digest_of
from fastlayer.oci.image_index import parse_index
from fastlayer.oci.manifest import Manifest, parse_manifest
from fastlayer.oci.platform import host_platform
from fastlayer.oci.reference import parse_reference
from fastlayer.registry.opening import destination, opened

if TYPE_CHECKING:
    from fastlayer.builder.repositories import Warn
    from fastlayer.builder.sharing.options import CacheFrom, CacheTo
    from fastlayer.builder.sharing.places import Source
    from fastlayer.oci.descriptor import Descriptor
    from fastlayer.oci.platform import Platform
    from fastlayer.registry.client import Repository
    from fastlayer.registry.opening import Wishes

_PIECE = 1 << 20
_UPLOADS = 4  # at once; what more is ready waits, in files


# ---- reading ---------------------------------------------------------------------------------------


class RepositorySource:
    """A tag or digest of a repository. Raises ``RegistryError`` when there is none at any place where it may be."""

    def __init__(self, wanted: CacheFrom, wished: Wishes | None, platform: Platform | None, warn: Warn) -> None:
        self.name = wanted.src
        self._platform = platform or host_platform()
        self._ends = ExitStack()
        wishes = wishes_of(wished, wanted.insecure)
        self.repository, self._found = find(self._ends, parse_reference(wanted.src), wishes, warn)

    def manifest(self) -> Manifest:
        found = self._found
        if found.media_type in mediatypes.INDEXES:
            candidates = parse_index(found.data, found.media_type, self.name).candidates(self._platform)
            if not candidates:
                raise NotFoundError(f"{self.name}: has no image for {self._platform}")
            found = self.repository.manifest(candidates[0].digest)
        return parse_manifest(found.data, found.media_type, self.name)

    def read(self, blob: Descriptor, limit: int) -> bytes:
        return self.repository.read_blob(blob, limit)

    def open(self, blob: Descriptor) -> closing[Download]:
        return closing(Download(self.repository, blob))

    def close(self) -> None:
        self._ends.close()


# ---- writing ---------------------------------------------------------------------------------------


@contextmanager
def written(wanted: CacheTo, wished: Wishes | None, scratch: Path, warn: Warn) -> Iterator[RepositoryTarget]:
    """A tag to be written. ``scratch``: a directory for layers that wait."""
    wishes = wishes_of(wished, wanted.insecure)
    location = destination(parse_reference(wanted.dest), wishes)
    with opened(location, wishes, warn=warn) as repository:
        target = RepositoryTarget(repository, location.reference.tag, scratch, wanted.dest)
        try:
            yield target
        except BaseException:
            repository.calls.calls.connections.give_up()
            raise
        finally:
            target.close()


class RepositoryTarget:
    """See ``places.Target``. Uploads are under way until ``finish``, which raises what went wrong with one."""

    def __init__(self, repository: Repository, tag: str, scratch: Path, name: str) -> None:
        self.name = name
        self._repository = repository
        self._tag = tag
        self._scratch = scratch
        self._pool = ThreadPoolExecutor(_UPLOADS)
        self._slots = threading.Semaphore(2 * _UPLOADS)
        self._uploads: list[Future[None]] = []

    def known(self) -> dict[Digest, list[records.StoredLayer]]:
        """Those of the cache that has the tag now."""
        try:
            found = self._repository.manifest(self._tag)
            manifest = parse_manifest(found.data, found.media_type, self.name)
            if not records.is_cache(manifest):
                return {}
            config = self._repository.read_blob(manifest.config, records.MAX_RECORDS)
            bundle = records.from_documents(manifest, config, self.name)
        except (RegistryMissingError, ManifestError, DigestMismatchError):
            return {}  # there is none, or it is no use to us
        return {layer.diff_id: [layer] for layer in bundle.layers.values()}

    def has(self, blob: Descriptor) -> bool:
        return self._repository.blob_size(blob.digest) in (blob.size, 0)  # 0: it does not say

    def put(self, data: bytes) -> None:
        if self._repository.blob_size(digest_of(data)) is None:
            self._repository.push_bytes(data)

    def copy(self, blob: Descriptor, source: Source) -> None:
        mounts = []
        if isinstance(source, RepositorySource) and _endpoint(source.repository) == _endpoint(self._repository):
            mounts = [source.repository.name] * (source.repository.name != self._repository.name)
        self._repository.push_blob(blob.digest, blob.size, lambda _: _verified(blob, source), mounts=mounts)

    @contextmanager
    def blob(self, number: int) -> Iterator[_Waiting]:
        """A file without a name until it has been sent."""
        with explained("cannot write", self._scratch):
            file = tempfile.TemporaryFile(dir=self._scratch, buffering=0)
        waiting = _Waiting(file, self._send)
        try:
            yield waiting
        finally:
            if not waiting.sent:
                file.close()

    def adopt(self, number: int, path: Path, digest: Digest) -> None:
        with explained("read", path):
            file = open(path, "rb", buffering=0)
        self._send(file, digest)

    def _send(self, file: Any, digest: Digest) -> None:
        """Waits while many are on their way. Raises what went wrong with an earlier one."""
        self._slots.acquire()
        for earlier in self._uploads:
            if earlier.done() and earlier.exception() is not None:
                self._done(file)
                earlier.result()
        upload = self._pool.submit(self._push, file, digest)
        upload.add_done_callback(lambda _: self._done(file))
        self._uploads.append(upload)

    def _push(self, file: Any, digest: Digest) -> None:
        size = os.fstat(file.fileno()).st_size
        self._repository.push_blob(digest, size, lambda offset: _pieces(file.fileno(), offset))

    def _done(self, file: Any) -> None:
        file.close()
        self._slots.release()

    def finish(self, manifest: Manifest) -> None:
        for upload in self._uploads:
            upload.result()
        there = self._repository.head_manifest(self._tag)
        if there is None or there.digest != manifest.digest:
            self._repository.put_manifest(manifest.raw, manifest.media_type, self._tag)

    def close(self) -> None:
        """Waits for the uploads under way."""
        self._pool.shutdown(cancel_futures=True)


class _Waiting:
    """A blob that is sent when it is complete (``outputs.targets.Blob``)."""

    def __init__(self, file: Any, send: Callable[[Any, Digest], None]) -> None:
        self.sent = False
        self._file = file
        self._send = send

    def write(self, data: Any, /) -> None:
        with explained("cannot write", "the layer on its way to the registry"):
            write_all(self._file.fileno(), data)

    def commit(self, digest: str, /) -> None:
        self.sent = True
        self._send(self._file, Digest(digest))


def _endpoint(repository: Repository) -> str:
    return repository.calls.calls.base


def _pieces(fd: int, offset: int) -> Iterator[bytes]:
    """A file from an offset on."""
    while data := os.pread(fd, _PIECE, offset):
        offset += len(data)
        yield data


def _verified(blob: Descriptor, source: Source) -> Iterator[memoryview]:
    """The bytes of a blob of another place. Raises ``DigestMismatchError`` before the last of a wrong one."""
    hasher = hashlib.new(blob.digest.algorithm, usedforsecurity=False)
    buffer = memoryview(bytearray(_PIECE))
    left = blob.size
    with source.open(blob) as stream:
        while count := stream.readinto(buffer):
            hasher.update(buffer[:count])
            left -= count
            if left < 0 or (not left and hasher.hexdigest() != blob.digest.encoded):
                break
            yield buffer[:count]
    if left or hasher.hexdigest() != blob.digest.encoded:
        raise DigestMismatchError(f"{blob.digest}: the bytes hash to {hasher.hexdigest()}")
