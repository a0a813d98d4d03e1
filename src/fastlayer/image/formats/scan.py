"""Reading an image archive in one pass: every member that may be a blob goes to a sink; then it shows what it all is.

An OCI archive is a tar of an image layout: ``oci-layout``, ``index.json``, ``blobs/``. A docker-archive has
``manifest.json`` (often last), configurations, layers, and links between them. Newer ones are both at once and are
taken for OCI archives. Members come in any order; what decides is what is there at the end.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastlayer._values import NamedTuple
from fastlayer.content.ingest import Keep
from fastlayer.content.store import ContentStore
from fastlayer.errors import DigestMismatchError, LayerError, LayerFormatError, LimitError, UnsafeEntryError, show_path
from fastlayer.image.formats import docker, oci
from fastlayer.image.formats.members import Document, Found, Members
from fastlayer.image.formats.source import ArchivedImage, Format, Sink, Stored, Writer
from fastlayer.image.formats.tarstream import Member, TarStream, link_target
from fastlayer.layer.compression import MAGIC_LENGTH
from fastlayer.layer.limits import MAX_RATIO
from fastlayer.layer.source import NO_TAR
from fastlayer.oci.digest import Digest

DOCUMENTS = {
    "oci-layout": 4 << 10,
    "index.json": 16 << 20,
    "manifest.json": 16 << 20,
    "repositories": 16 << 20,
}  # names and the bytes they may have


class Archive(NamedTuple):
    """What was in an archive. ``unused``: blobs the sink has got that belong to no image by their names.

    Blobs that an index or manifest names are looked for by whoever loads them: an archive need not have all platforms.
    """

    format: Format
    images: tuple[ArchivedImage, ...]
    unused: tuple[Digest, ...]


class StoreSink:
    """Puts blobs into a content store, for the lease of whoever loads. Those that are there already are not read.

    ``keep`` is told each digest before the blob is looked for, or gets its name: the place to note it for the lease, so
    that no garbage collection takes it in between.
    """

    def __init__(self, store: ContentStore, lease: str, keep: Keep | None = None) -> None:
        self._store = store
        self._lease = lease
        self._keep = keep

    def begin(self, size: int, digest: Digest | None, offset: int | None) -> Writer | None:
        if digest is not None and self._keep is not None:
            self._keep(digest)
        if digest is not None and self._store.has(digest) and self._store.size(digest) == size:
            return None
        return self._store.ingest(self._lease, digest=digest, size=size, keep=self._keep)

    def read(self, digest: str, limit: int) -> bytes:
        return self._store.read(digest, limit)


def scan(value: Any, sink: Sink, *, max_ratio: int = MAX_RATIO, name: str | None = None) -> Archive:
    """Reads an archive (path, descriptor, binary file; plain or gzip or zstd) and gives its blobs to ``sink``.

    ``max_ratio``: bytes a compressed archive may expand to per byte of its own (0: any), beyond the first GiB.
    ``name``: what messages call it.

    Raises ``ManifestError``, ``LayerFormatError``, ``UnsafeEntryError``, ``LimitError``, ``DigestMismatchError``,
    ``StorageError``, and what the sink raises. Blobs that the sink has got by then stay there.
    """
    stream = TarStream(value, max_ratio=max_ratio)
    stream.source.name = name or stream.source.name
    visitor = _Visitor(sink)
    try:
        stream.run(visitor)
        return _resolve(visitor.members, sink, stream.source.name)
    except LayerError as exc:
        if isinstance(exc, LayerFormatError) and visitor.members.empty and str(exc).endswith(NO_TAR):
            what = "is no archive: give what a tool saved, or an image layout directory"
            raise LayerFormatError(f"{stream.source.name}: {what}") from exc
        if str(exc).startswith(stream.source.name):
            raise
        raise type(exc)(f"{stream.source.name}: {exc}") from exc
    finally:
        visitor.abort()
        stream.close()


def _resolve(members: Members, sink: Sink, name: str) -> Archive:
    resolve: Callable[[Members, Sink, str], tuple[ArchivedImage, ...]]
    if "oci-layout" in members.documents and "index.json" in members.documents:
        kind: Format = "oci-archive"
        resolve = oci.archived_images
    elif "manifest.json" in members.documents:
        kind, resolve = "docker-archive", docker.archived_images
    else:
        raise LayerFormatError(_unknown(members))
    images = resolve(members, sink, name)
    return Archive(kind, images, members.unused(keep_named=kind == "oci-archive"))


def _unknown(members: Members) -> str:
    if "repositories" in members.documents:
        return "an archive of Docker before 1.10, without manifest.json: load it with that Docker and save it anew"
    if "index.json" in members.documents or "oci-layout" in members.documents:
        return "an incomplete image layout: it needs oci-layout and index.json"
    return "no image archive: it has neither index.json nor manifest.json (a root file system is imported, not loaded)"


class _Visitor:
    """Sorts the members: documents stay in memory, everything else goes to the sink."""

    def __init__(self, sink: Sink) -> None:
        self.members = Members()
        self._sink = sink
        self._current: _Body | None = None

    def member(self, member: Member) -> bool:
        self._current = None
        if member.kind != "file":
            self.members.add_link(member.name, link_target(member))
            return False
        if member.name in DOCUMENTS:
            self._current = _Text(self.members, member, DOCUMENTS[member.name])
            return True
        if not member.name or _is_noise(member.name):
            return False
        self._current = blob = _Blob(self.members, member, self._sink)
        return blob.wanted

    def data(self, piece: Any) -> None:
        if self._current is not None:
            self._current.data(piece)

    def end(self) -> None:
        if self._current is not None:
            body, self._current = self._current, None
            body.end()

    def abort(self) -> None:
        """After an error: nothing half-written stays."""
        if self._current is not None:
            self._current.abort()


def _is_noise(name: str) -> bool:
    """What Docker before 1.10 wanted beside each layer: nobody else needs it, and it would be a blob of no use."""
    folder, _, last = name.rpartition("/")
    return last in ("json", "VERSION") and len(folder) == 64 and not folder.strip("0123456789abcdef")


class _Body:
    def data(self, piece: Any) -> None:
        raise NotImplementedError

    def end(self) -> None:
        raise NotImplementedError

    def abort(self) -> None:
        """Nothing to undo."""


class _Text(_Body):
    """One of the documents."""

    def __init__(self, members: Members, member: Member, limit: int) -> None:
        if member.size > limit:
            raise LimitError(f"{member.name} has {member.size} bytes; the limit is {limit}")
        self._members, self._name, self._text = members, member.name, bytearray()

    def data(self, piece: Any) -> None:
        self._text += piece

    def end(self) -> None:
        self._members.add_document(self._name, Document(self._text))


class _Blob(_Body):
    """A candidate. One whose name is its digest need not be taken again, and is verified when it is."""

    def __init__(self, members: Members, member: Member, sink: Sink) -> None:
        self._members, self._member = members, member
        self._head = b""
        self._digest = blob_digest(member.name)
        self._writer: Writer | None = sink.begin(member.size, self._digest, member.offset)
        if self._writer is None and self._digest is None:
            raise UnsafeEntryError(f"{show_path(member.name)}: refused")

    @property
    def wanted(self) -> bool:
        return self._writer is not None

    def data(self, piece: Any) -> None:
        if len(self._head) < MAGIC_LENGTH:
            self._head += bytes(piece[: MAGIC_LENGTH - len(self._head)])
        if self._writer is not None:
            self._writer.write(piece)

    def end(self) -> None:
        if self._writer is None:
            assert self._digest is not None
            stored = Stored(self._digest, self._member.size)
        else:
            try:
                stored = Stored(*self._writer.commit())
            except DigestMismatchError as exc:
                raise DigestMismatchError(f"{show_path(self._member.name)}: {exc}") from exc
            finally:
                self._writer.abort()
        self._members.add_blob(self._member.name, Found(stored.digest, stored.size, self._head))

    def abort(self) -> None:
        if self._writer is not None:
            self._writer.abort()


def blob_digest(name: str) -> Digest | None:
    """The digest in ``blobs/ALGORITHM/HEX``."""
    parts = name.split("/")
    if len(parts) != 3 or parts[0] != "blobs":
        return None
    try:
        return Digest(f"{parts[1]}:{parts[2]}")
    except ValueError:
        return None
