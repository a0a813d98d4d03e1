"""Uploads of blobs that are made while they are sent: digest and size are known when the last byte is gone.

The bytes go in one request without a length, as Docker sends them, or in chunks for registries that want those. What
fails goes on at the byte that the registry has: its writer is run again, and gives the same bytes again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Generic, Protocol, TypeVar

from fastlayer.errors import RegistryError
from fastlayer.oci.digest import Digest
from fastlayer.registry.client import Repository
from fastlayer.registry.http import Body, body_of
from fastlayer.registry.uploads import Upload
from fastlayer.transfer.ends.flow import Flow, flowing

CHUNK = 8 << 20  # bytes of a chunk for registries that refuse larger requests
_MOST_KEPT = 64 << 20  # bytes of a chunk that only the registry wants as large as that
_TOO_LARGE = 413
_LOST = frozenset({404, 416})  # the registry has forgotten the upload, or is at another byte than we think
_TRIES = 3  # for those, and for logins that ran out
_ANEW = 5  # times that a blob begins anew


class Written(Protocol):
    """What the writer of a blob says of it at the end; ``layer.writer.Layer`` is one."""

    @property
    def digest(self) -> Digest: ...
    @property
    def size(self) -> int: ...


W = TypeVar("W", bound=Written)


def push_stream(
    repository: Repository,
    write: Callable[[Any], W],
    *,
    chunk: int = 0,
    moved: Callable[[int], object] = lambda offset: None,
) -> W:
    """Uploads what ``write`` writes to the file it is given, each time the same, and returns what that returns.

    ``chunk``: bytes of one request, which are kept in memory; 0: all in one, if the registry takes that. ``moved`` is
    told how many bytes have gone. Raises ``RegistryError``, and what ``write`` raises.
    """
    return _Stream(repository, write, chunk, moved).run()


class _LostError(Exception):
    """The registry does not have what is not here any more: the blob begins anew."""


class _Stream(Generic[W]):
    """A blob on its way, through as many uploads as it takes."""

    def __init__(
        self,
        repository: Repository,
        write: Callable[[Any], W],
        chunk: int,
        moved: Callable[[int], object],
    ) -> None:
        self._repository = repository
        self._write = write
        self._chunk = chunk
        self._upload: Upload | None = None
        self._moved = moved
        self._written: W | None = None
        self._failures = 0  # since something was taken last
        self._begun = 0

    def run(self) -> W:
        while True:
            try:
                return self._go_on()
            except RegistryError as exc:
                self._consider(exc)
                if self._find_out() and self._written is not None:
                    return self._written
            except _LostError:
                self._cancel()
            except BaseException:
                self._cancel()
                raise

    def _go_on(self) -> W:
        if self._upload is None:
            self._upload = self._repository.start_upload()
            self._begun += 1
        upload, written = self._upload, self._written
        if written is None or upload.offset != written.size:
            with flowing(self._write, upload.offset) as flow:
                self._send(upload, flow)
                written = self._written = flow.result
        if upload.offset != written.size:
            raise RegistryError(
                f"{self._repository.name}: upload: the registry has {upload.offset} of {written.size} bytes",
                transient=True,
            )
        upload.finish(written.digest)
        return written

    def _send(self, upload: Upload, flow: Flow[W]) -> None:
        if self._chunk:
            at = upload.offset
            if upload.smallest > max(self._chunk, _MOST_KEPT):
                raise RegistryError(
                    f"{self._repository.registry}: wants chunks of {upload.smallest} bytes at least, more than are kept"
                    " in memory: push without --chunk-size, or to another registry"
                )
            for data in _chunks(flow, max(self._chunk, upload.smallest)):
                self._send_chunk(upload, data, at)
                at += len(data)
            return
        pieces = iter(flow)
        first = next(pieces, None)
        if first is not None:
            upload.stream(Body(lambda: self._counted(first, pieces, upload.offset), None, again=False))

    def _counted(
        self, first: bytes | memoryview, rest: Iterator[bytes | memoryview], offset: int
    ) -> Iterator[bytes | memoryview]:
        piece: bytes | memoryview | None = first
        while piece is not None:
            yield piece
            offset += len(piece)
            self._moved(offset)
            piece = next(rest, None)

    def _send_chunk(self, upload: Upload, data: bytes, at: int) -> None:
        """Until the registry has all of it; what it has of it is not sent again."""
        while upload.offset < at + len(data):
            try:
                upload.send(body_of(data[upload.offset - at :]))
                self._failures = 0
            except RegistryError as exc:
                self._consider(exc)
                if upload.refresh() < max(at, 1):
                    raise _LostError from exc
            self._moved(upload.offset)

    def _consider(self, exc: RegistryError) -> None:
        """Waits, or raises when there is no sense in going on."""
        self._failures += 1
        if exc.status == _TOO_LARGE and not self._chunk:
            self._chunk = CHUNK
            self._cancel()
            return
        again = exc.status in _LOST or exc.status == 401  # the stream cannot be sent again with another login by itself
        try:
            if self._begun > _ANEW:
                raise exc
            if not (again and self._upload is not None and self._failures <= _TRIES):
                self._repository.wait(self._failures - 1, exc)
        except RegistryError:
            self._cancel()
            raise

    def _find_out(self) -> bool:
        """Where the upload stands; True when all is there, for only the answer was lost."""
        if self._upload is None:
            return False
        before = self._upload.offset
        try:
            has = self._upload.refresh()
        except RegistryError as exc:
            if not exc.transient:
                self._upload = None
                return self._is_there()
            return False
        if not has:  # or one byte: registries do not tell these apart
            self._cancel()
        elif has > before:
            self._failures = 0
        return False

    def _is_there(self) -> bool:
        try:
            return self._written is not None and self._repository.blob_size(self._written.digest) is not None
        except RegistryError:
            return False

    def _cancel(self) -> None:
        if self._upload is not None:
            self._upload.cancel()
            self._upload = None


def _chunks(pieces: Iterable[bytes | memoryview], size: int) -> Iterator[bytes]:
    """The same bytes in pieces of ``size``, but for the last."""
    held = bytearray()
    for piece in pieces:
        held += piece
        while len(held) >= size:
            yield bytes(held[:size])
            del held[:size]
    if held:
        yield bytes(held)
