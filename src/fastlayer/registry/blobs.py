"""Blobs of a registry: whether they are there, and their bytes, from wherever one left off (RFC 9110, 14)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from types import TracebackType

from fastlayer._values import NamedTuple
from fastlayer.errors import DigestMismatchError, LimitError, RegistryError, UsageError
from fastlayer.oci.descriptor import Descriptor
from fastlayer.oci.digest import Digest, digest_of
from fastlayer.registry.answers import STEP, Answer
from fastlayer.registry.calls import RepositoryCalls
from fastlayer.registry.lines import one_line

MAX_BYTES = 4 << 20  # of a blob that is read into memory: a configuration
_SHORT = 19  # characters of a digest in messages


class Range(NamedTuple):
    """``Content-Range``; ``end`` is behind the last byte, ``total`` None when it is not said."""

    start: int
    end: int
    total: int | None


def blob_size(repository: RepositoryCalls, digest: Digest, *, actions: tuple[str, ...] = ("pull",)) -> int | None:
    """Its size in bytes, 0 when the registry does not say; None when it is not there.

    ``actions``: what the token is asked for, by who is going to do more with it.
    """
    doing = f"blob {short(digest)}"
    with repository.call("HEAD", f"blobs/{digest}", doing, (200, 404), actions=actions) as answer:
        return None if answer.status == 404 else answer.length or 0


def open_blob(
    repository: RepositoryCalls,
    digest: Digest,
    *,
    offset: int = 0,
    end: int | None = None,
    size: int | None = None,
    etag: str = "",
    address: str = "",
    repeat: bool = True,
) -> BlobStream:
    """The bytes of a blob from ``offset`` to before ``end``, as they come; nobody has verified them yet.

    ``size``: what its descriptor says; ``etag``: of the answer that gave what is there already: the range is given for
    the same only; ``address``: where to get it instead, such as ``BlobStream.url`` or a foreign layer's; ``repeat``: as
    the pauses say, until bytes come. A server that knows no ranges, or has something else now, gives all of it: see
    ``BlobStream.offset``. Raises ``RegistryError``, ``DigestMismatchError`` for another size.
    """
    if offset < 0 or (end is not None and end <= offset) or (size is not None and offset >= size > 0):
        raise UsageError(f"bytes {offset} to {end} of a blob of {size}: there are none")
    headers = {}
    if offset or end is not None:
        headers["Range"] = f"bytes={offset}-{'' if end is None else end - 1}"
        if etag and not etag.startswith("W/"):  # only a strong one will do (RFC 9110, 13.1.5)
            headers["If-Range"] = etag
    doing = f"blob {short(digest)}"
    answer = repository.call("GET", address or f"blobs/{digest}", doing, (200, 206), headers=headers, repeat=repeat)
    try:
        return BlobStream(answer, f"{repository.calls.registry}/{repository.name}: {doing}", offset, end, size)
    except BaseException:
        answer.close()
        raise


def read_blob(repository: RepositoryCalls, descriptor: Descriptor, limit: int = MAX_BYTES) -> bytes:
    """A small blob, verified: a configuration. Raises ``LimitError`` for one that is not small."""
    doing = f"{repository.name}: blob {short(descriptor.digest)}"
    if descriptor.size > limit:
        raise LimitError(f"{doing}: has {descriptor.size} bytes; the limit is {limit}")

    def read() -> bytes:
        with open_blob(repository, descriptor.digest, size=descriptor.size, repeat=False) as stream:
            return b"".join(stream)

    data = repository.calls.patiently(read)
    found = digest_of(data)
    if found != descriptor.digest:
        raise DigestMismatchError(f"{doing}: what came is {found}: try again, or tell who runs the registry")
    return data


def delete_blob(repository: RepositoryCalls, digest: Digest) -> None:
    """Deletes a blob, where the registry allows it."""
    doing = f"deleting {short(digest)}"
    with repository.call("DELETE", f"blobs/{digest}", doing, (200, 202, 204), actions=("pull", "delete")):
        pass


class BlobStream:
    """The bytes of a blob.

    ``offset``: of the first that comes: 0 where all of it is given though a part was asked for; ``length``: how many
    come, which may be fewer than were asked for, ``total``: of the whole blob, both None when nobody knows; ``etag``,
    ``url``: for ``open_blob`` later on.
    """

    def __init__(self, answer: Answer, where: str, offset: int, end: int | None, size: int | None) -> None:
        self._answer = answer
        self._where = where
        self.url = answer.url
        self.etag = answer.headers.get("etag", "")
        encoding = answer.headers.get("content-encoding", "identity").strip().lower()
        if encoding not in ("", "identity"):
            raise RegistryError(f"{where}: comes in the encoding {one_line(encoding)}, which nobody asked for")
        self.offset, self.length, self.total = self._extent(answer, offset, end, size)
        self.received = 0

    def _extent(
        self, answer: Answer, offset: int, end: int | None, size: int | None
    ) -> tuple[int, int | None, int | None]:
        """Where it begins, how many bytes come, and of how many."""
        if answer.status == 200:
            total = answer.length if answer.length is not None else size
            self._require(total, size)
            return 0, total, total
        found = parse_range(answer.headers.get("content-range", ""))
        asked = offset > 0 or end is not None
        if not asked or found is None or found.start != offset or (end is not None and found.end > end):
            said = one_line(answer.headers.get("content-range", ""))
            raise RegistryError(f"{self._where}: asked for bytes from {offset} on, it gives {said!a}")
        total = size if found.total is None else found.total
        self._require(total, size)
        length = found.end - found.start
        if answer.length not in (None, length) or (total is not None and found.end > total):
            raise RegistryError(f"{self._where}: its Content-Range and Content-Length contradict each other")
        return offset, length, total

    def _require(self, total: int | None, size: int | None) -> None:
        if size is not None and total != size:
            raise DigestMismatchError(f"{self._where}: has {total} bytes there, not the {size} of its descriptor")

    def read(self, most: int = STEP) -> bytes:
        """The next bytes, at most ``most``; none at the end, which is where it was announced. Raises
        ``RegistryError``."""
        data = self._answer.read(most)
        self.received += len(data)
        if self.length is not None and self.received > self.length:
            self.close()
            raise RegistryError(f"{self._where}: more than the {self.length} bytes that were announced come")
        if not data and self.length is not None and self.received < self.length:
            self.close()
            raise RegistryError(
                f"{self._where}: cut off after {self.received} of {self.length} bytes: try again", transient=True
            )
        return data

    def __iter__(self) -> Iterator[bytes]:
        while data := self.read():
            yield data

    def close(self) -> None:
        """Ends it; the connection is given up unless all has been read."""
        self._answer.close()

    def __enter__(self) -> BlobStream:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


def parse_range(text: str) -> Range | None:
    """``Content-Range: bytes START-END/TOTAL``."""
    found = re.fullmatch(r"\s*bytes\s+(\d{1,19})-(\d{1,19})/(\d{1,19}|\*)\s*", text, re.ASCII | re.IGNORECASE)
    if found is None or int(found[1]) > int(found[2]):
        return None
    return Range(int(found[1]), int(found[2]) + 1, None if found[3] == "*" else int(found[3]))


def short(digest: str) -> str:
    """A digest in messages."""
    return digest[:_SHORT]
