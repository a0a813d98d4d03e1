"""A repository of a registry as the destination of a transfer."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from fastlayer.errors import RegistryError
from fastlayer.oci.descriptor import Descriptor
from fastlayer.oci.digest import Digest
from fastlayer.registry.blobs import blob_size
from fastlayer.registry.client import Repository
from fastlayer.registry.uploads import How
from fastlayer.transfer.ends.protocols import Bytes, LayerOf, Moved, Write
from fastlayer.transfer.ends.streaming import CHUNK, push_stream
from fastlayer.transfer.ends.verified import Verified
from fastlayer.transfer.forms import Made

_ACTIONS = ("pull", "push")
_TOO_LARGE = 413
_REFUSED = (400, 401, 403, 404, 405)  # of a mount: what must not be read has nothing for us


def nowhere(_: Digest) -> Iterable[str]:
    """No repository is known that has it."""
    return ()


class RegistryDestination:
    """See ``protocols.Destination``. ``reference``: the tag or digest that the image gets.

    ``chunk``: bytes of one request of an upload, 0 for all in one; ``mounts``: the repositories of the registry that
    may have a blob; ``went`` is told of each layer that is in the repository now.
    """

    workers = 6

    def __init__(
        self,
        repository: Repository,
        reference: str,
        *,
        chunk: int = 0,
        mounts: Callable[[Digest], Iterable[str]] = nowhere,
        went: Callable[[Digest], object] = lambda digest: None,
    ) -> None:
        self.name = f"{repository.registry}/{repository.name}"
        self._repository = repository
        self._reference = reference
        self._chunk = chunk
        self._mounts = mounts
        self._went = went

    def has(self, blob: Descriptor) -> bool:
        found = blob_size(self._repository.calls, blob.digest, actions=_ACTIONS) is not None
        if found:
            self._went(blob.digest)
        return found

    def has_manifest(self, manifest: Descriptor) -> bool:
        return self._repository.head_manifest(manifest.digest) is not None

    def mount(self, blob: Descriptor) -> bool:
        for other in self._mounts(blob.digest):
            try:
                upload = self._repository.mount_blob(blob.digest, other)
            except RegistryError as exc:
                if exc.status not in _REFUSED:
                    raise
                continue
            if upload is not None:
                upload.cancel()
                return False
            if self.has(blob):
                return True
        return False

    def put(self, layer: LayerOf, data: Bytes, moved: Moved) -> How:
        blob, chunk = layer.blob, self._chunk
        source = Verified(blob, data, moved)
        while True:
            try:
                how = self._repository.push_blob(
                    blob.digest, blob.size, source, chunk=chunk, mounts=self._mounts(blob.digest)
                )
                break
            except RegistryError as exc:
                if exc.status != _TOO_LARGE or chunk:
                    raise
                chunk = CHUNK
        if layer.diff_id is not None:
            self._went(blob.digest)
        return how

    def put_made(self, layer: LayerOf, write: Write, moved: Moved) -> Made:
        made = push_stream(self._repository, write, chunk=self._chunk, moved=moved)
        self._went(made.digest)
        return made

    def put_manifest(self, manifest: Descriptor, data: bytes, subject: Digest | None) -> None:
        self._put(manifest, data, subject, manifest.digest)

    def commit(self, root: Descriptor, data: bytes, subject: Digest | None) -> None:
        self._put(root, data, subject, self._reference or root.digest)

    def _put(self, manifest: Descriptor, data: bytes, subject: Digest | None, reference: str) -> None:
        pushed = self._repository.put_manifest(data, manifest.media_type, reference)
        if subject is not None and not pushed.subject_known:
            self._repository.tag_referrer(subject, manifest, data)

    def give_up(self) -> None:
        self._repository.give_up()
