"""Uploads of blobs: whole, in chunks, as a stream of unknown size, or mounted (distribution-spec, "Pushing blobs").

An upload is an address that changes with every answer. What a registry has of it can be asked for, so that a chunk that
failed is not the end; a registry that has forgotten it gets all of it anew.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from enum import Enum

from fastlayer.errors import DigestMismatchError, RegistryError
from fastlayer.oci.digest import Digest, digest_of
from fastlayer.registry.answers import Answer, number
from fastlayer.registry.blobs import blob_size, short
from fastlayer.registry.calls import RepositoryCalls
from fastlayer.registry.http import Body, body_of
from fastlayer.registry.origins import with_query

_ACTIONS = ("pull", "push")
_BYTES = "application/octet-stream"
_LOST = frozenset({404, 416})  # the registry has forgotten the upload, or is at another byte than we think
_TRIES = 3  # to find out where an upload stands, for one chunk
_ANEW = 5  # times that a blob in chunks begins anew, however far each came
Source = Callable[[int], Iterable[bytes | memoryview]]  # the bytes of a blob from an offset on


class How(Enum):
    """How a blob came to be in a repository."""

    PRESENT = "present"
    MOUNTED = "mounted"
    UPLOADED = "uploaded"


class Upload:
    """One upload. ``url``: where it goes on; ``offset``: bytes that the registry has; ``smallest``: bytes that a chunk
    must have at least, but for the last (``OCI-Chunk-Min-Length``)."""

    def __init__(self, repository: RepositoryCalls, url: str, *, offset: int = 0, smallest: int = 0) -> None:
        self.repository = repository
        self.url = url
        self.offset = offset
        self.smallest = smallest

    def send(self, body: Body) -> None:
        """The next chunk, of a known size. Raises ``RegistryError``; ``refresh`` says how far it came then."""
        assert body.size is not None
        first, behind = self.offset, self.offset + body.size
        headers = {"Content-Type": _BYTES, "Content-Range": f"{first}-{behind - 1}"}
        self._patch(body, headers, behind)

    def stream(self, body: Body) -> None:
        """The rest in one request, of whatever size, as Docker sends it: without a ``Content-Range``."""
        sent = 0

        def counted() -> Iterator[bytes | memoryview]:
            nonlocal sent
            sent = 0
            for data in body.open():
                sent += len(data)
                yield data

        first = self.offset
        self._patch(Body(counted, body.size, body.again), {"Content-Type": _BYTES}, None)
        if self.offset not in (first + sent, first):
            raise RegistryError(f"{self.repository.name}: of {sent} bytes the registry took {self.offset - first}")
        self.offset = first + sent

    def _patch(self, body: Body, headers: dict[str, str], behind: int | None) -> None:
        with self._call("PATCH", self.url, (202, 201, 204), headers=headers, body=body) as answer:
            self._note(answer)
            has = upload_range(answer.headers.get("range", ""))
        if behind is None:
            self.offset = has if has is not None else self.offset
        elif has is None or (has == 1 and behind == 0):
            self.offset = behind
        elif not self.offset < has <= behind:
            raise RegistryError(f"{self.repository.name}: upload: {behind} bytes were sent, the registry says {has}")
        else:
            self.offset = has

    def refresh(self) -> int:
        """Asks how many bytes the registry has. Raises ``RegistryError`` when it has forgotten the upload."""
        with self._call("GET", self.url, (200, 202, 204)) as answer:
            self._note(answer)
            has = upload_range(answer.headers.get("range", "")) or 0
        self.offset = 0 if has == 1 and self.offset != 1 else has  # registries write 0-0 for nothing as well
        return self.offset

    def finish(self, digest: Digest, body: Body | None = None) -> None:
        """Closes it: from now on the blob is there. ``body``: what has not been sent yet."""
        headers = {"Content-Type": _BYTES} if body is not None else {}
        url = with_query(self.url, f"digest={_quoted(digest)}")
        with self._call("PUT", url, (201, 204), headers=headers, body=body) as answer:
            check_digest(answer, digest, self.repository.name)

    def cancel(self) -> None:
        """Lets the registry forget it; failures do not matter."""
        try:
            self._call("DELETE", self.url, range(600)).close()
        except RegistryError:
            pass

    def _call(
        self,
        method: str,
        url: str,
        expected: Iterable[int],
        *,
        headers: dict[str, str] | None = None,
        body: Body | None = None,
    ) -> Answer:
        seconds = self.repository.calls.connections.timeouts.finish if method in ("PUT", "PATCH") else None
        return self.repository.call(
            method,
            url,
            "upload",
            frozenset(expected),
            actions=_ACTIONS,
            headers=headers,
            body=body,
            seconds=seconds,
            repeat=False,
        )

    def _note(self, answer: Answer) -> None:
        location = answer.headers.get("location", "")
        if location:
            self.url = self.repository.at(answer, location)


def start_upload(repository: RepositoryCalls) -> Upload:
    """A new upload."""
    with repository.call("POST", "blobs/uploads/", "upload", (202,), actions=_ACTIONS) as answer:
        return _upload(repository, answer)


def mount_blob(repository: RepositoryCalls, digest: Digest, source: str) -> Upload | None:
    """Takes a blob over from the repository ``source`` of the same registry; None when that was done, else an upload
    to be carried on with, for the registry cannot."""
    url = f"blobs/uploads/?mount={_quoted(digest)}&from={_quoted(source)}"
    doing = f"mounting {short(digest)} of {source}"
    with repository.call("POST", url, doing, (201, 202), actions=_ACTIONS, others=(source,)) as answer:
        if answer.status == 202:
            return _upload(repository, answer)
        check_digest(answer, digest, repository.name)
        return None


def push_bytes(repository: RepositoryCalls, data: bytes) -> Digest:
    """A small blob in a single request, or two where the registry does not know that (end-4b)."""
    digest = digest_of(data)
    url = f"blobs/uploads/?digest={_quoted(digest)}"
    headers = {"Content-Type": _BYTES}
    doing = f"upload of {short(digest)}"
    body = body_of(data)
    with repository.call("POST", url, doing, (201, 202), actions=_ACTIONS, headers=headers, body=body) as answer:
        if answer.status == 201:
            check_digest(answer, digest, repository.name)
            return digest
        upload = _upload(repository, answer)
    upload.finish(digest, body)
    return digest


def push_blob(
    repository: RepositoryCalls,
    digest: Digest,
    size: int,
    source: Source,
    *,
    chunk: int = 0,
    mounts: Iterable[str] = (),
) -> How:
    """A blob that is all there, unless the repository has it already.

    ``source`` gives its bytes from an offset on, each time it is called; ``chunk``: bytes of one request, 0 for all in
    one; ``mounts``: repositories of the same registry that may have it. What fails for the moment goes on from where
    the registry is, as often as the pauses say. Raises ``RegistryError``.
    """
    if blob_size(repository, digest, actions=_ACTIONS) is not None:
        return How.PRESENT
    upload: Upload | None = None
    for other in mounts:
        upload = _mounted(repository, digest, other)
        if upload is None and blob_size(repository, digest, actions=_ACTIONS) is not None:
            return How.MOUNTED
        if upload is not None:
            break
    _Push(repository, digest, size, source, chunk, upload).run()
    return How.UPLOADED


def _mounted(repository: RepositoryCalls, digest: Digest, source: str) -> Upload | None:
    """A repository that must not be read is one that has nothing for us."""
    try:
        return mount_blob(repository, digest, source)
    except RegistryError as exc:
        if exc.status in (400, 401, 403, 404, 405):
            return None
        raise


class _Push:
    """A blob on its way, through as many uploads as it takes."""

    def __init__(
        self,
        repository: RepositoryCalls,
        digest: Digest,
        size: int,
        source: Source,
        chunk: int,
        upload: Upload | None,
    ) -> None:
        self._repository = repository
        self._digest = digest
        self._size = size
        self._source = source
        self._chunk = chunk
        self._upload = upload
        self._failures = 0  # since the last chunk that was taken
        self._begun = 0

    def run(self) -> None:
        while True:
            try:
                self._go_on()
                return
            except RegistryError as exc:
                self._consider(exc)
                if self._find_out():
                    return
            except BaseException:
                self._cancel()
                raise

    def _go_on(self) -> None:
        if self._upload is None:
            self._upload = start_upload(self._repository)
            self._begun += 1
        upload = self._upload
        if not self._chunk:
            body = self._part(upload.offset, self._size) if upload.offset < self._size or not self._size else None
            upload.finish(self._digest, body)
            return
        while upload.offset < self._size:
            behind = min(upload.offset + max(self._chunk, upload.smallest), self._size)
            upload.send(self._part(upload.offset, behind))
            self._failures = 0
        upload.finish(self._digest)

    def _part(self, first: int, behind: int) -> Body:
        return Body(lambda: _limited(self._source(first), behind - first), behind - first)

    def _consider(self, exc: RegistryError) -> None:
        """Waits, or raises when there is no sense in going on."""
        self._failures += 1
        lost = bool(self._chunk) and self._upload is not None and exc.status in _LOST and self._failures <= _TRIES
        try:
            if self._chunk and self._begun > _ANEW:
                raise exc
            if not lost:
                self._repository.calls.wait(self._failures - 1, exc)
        except RegistryError:
            self._cancel()
            raise

    def _find_out(self) -> bool:
        """Where the upload stands; True when all is there, for only the answer was lost."""
        if self._upload is None:
            return False
        try:
            has = self._upload.refresh() if self._chunk else 0
        except RegistryError as exc:
            if exc.transient:
                return False
            has = 0
        if not 0 < has <= self._size:
            self._upload = None
            return self._is_there()
        return False

    def _is_there(self) -> bool:
        try:
            return blob_size(self._repository, self._digest, actions=_ACTIONS) is not None
        except RegistryError:
            return False

    def _cancel(self) -> None:
        if self._upload is not None:
            self._upload.cancel()


def _limited(pieces: Iterable[bytes | memoryview], size: int) -> Iterator[memoryview]:
    """The first ``size`` bytes."""
    for data in pieces:
        view = memoryview(data).cast("B")[:size]
        size -= len(view)
        yield view
        if not size:
            return


def _upload(repository: RepositoryCalls, answer: Answer) -> Upload:
    location = answer.headers.get("location", "")
    if not location:
        raise RegistryError(f"{repository.calls.registry}: begins an upload, but does not say where: is it a registry?")
    smallest = number(answer.headers.get("oci-chunk-min-length", "")) or 0
    return Upload(repository, repository.at(answer, location), smallest=smallest)


def upload_range(text: str) -> int | None:
    """How many bytes a registry has, of ``Range: 0-LAST``; None when it does not say. ``0-0`` is 1, or nothing."""
    found = re.fullmatch(r"\s*(?:bytes=)?0-(\d{1,19})\s*", text, re.ASCII)
    return int(found[1]) + 1 if found else None


def check_digest(answer: Answer, digest: Digest, name: str) -> None:
    """Raises ``DigestMismatchError`` when the registry says that it has another blob than we think."""
    said = answer.headers.get("docker-content-digest", "").strip()
    if said and said.partition(":")[0] == digest.algorithm and said != digest:
        raise DigestMismatchError(f"{name}: the registry took {short(digest)} for {short(said)}: push it again")


def _quoted(text: str) -> str:
    from urllib.parse import quote

    return quote(text, safe="/:")
