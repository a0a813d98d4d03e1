"""Where the blobs of an image go: into a layout directory, or into an archive.

An archive needs the size of a blob in front of it. The largest layer is written where it is to be, and its header when
it is complete; the others, which are made at the same time, wait in files without a name. The documents come last, as
containerd and BuildKit write them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

from fastlayer.content.files import explained
from fastlayer.image.formats.source import ArchivedImage
from fastlayer.image.formats.tarwriter import LATE_LIMIT, LateBody, TarWriter
from fastlayer.layer.output import Output
from fastlayer.oci.digest import Digest

if TYPE_CHECKING:
    from pathlib import Path

    from fastlayer.content.store import ContentStore
    from fastlayer.oci.config import ImageConfig
    from fastlayer.oci.manifest import Manifest

_LEASE = "output"
_BLOBS = "blobs/sha256"


class Blob(Protocol):
    """One on its way; gone when its block is left without ``commit``."""

    def write(self, data: Any, /) -> object: ...
    def commit(self, digest: str, /) -> object:
        """The whole of it was written, and hashes to this."""
        ...


class Target(Protocol):
    """Takes blobs from several threads at once."""

    def blob(self, number: int) -> Any:
        """A context manager that gives a ``Blob``, for the layer of that number."""
        ...

    def adopt(self, number: int, path: Path, digest: Digest) -> None:
        """A blob that is a file. Raises ``DigestMismatchError`` when it is another one."""
        ...


class Layout:
    """A directory. ``lease``: in the names of unfinished blobs."""

    def __init__(self, store: ContentStore, lease: str = _LEASE) -> None:
        self._store = store
        self._lease = lease

    @contextmanager
    def blob(self, number: int) -> Iterator[Blob]:
        with self._store.ingest(self._lease, trusted=True) as writer:
            yield writer

    def adopt(self, number: int, path: Path, digest: Digest) -> None:
        self._store.adopt(path, self._lease, digest=digest)


class ImageLayout(Layout):
    """A directory that an image goes to."""

    def finish(self, image: ArchivedImage, manifest: Manifest, config: ImageConfig) -> None:
        """The documents and the name."""
        from fastlayer.image.formats.oci import add_names

        for data in (config.raw, manifest.raw):
            self._store.put(data, self._lease)
        add_names(self._store, [image])


@contextmanager
def layout(path: str) -> Iterator[ImageLayout]:
    """A new one appears when the block has ended; one that was there loses what was written in vain."""
    from fastlayer.image.formats.oci import layout_at

    with layout_at(path) as store:
        before = set(store.digests())
        try:
            yield ImageLayout(store)
        except BaseException:
            for digest in set(store.digests()) - before:
                store.remove(digest)
            raise


class Archive:
    """A tar. ``sizes``: bytes of the tar of each layer, to find the largest."""

    def __init__(self, output: Output, sizes: Sequence[int]) -> None:
        self._output = output
        self._tar = TarWriter(output)
        for name in ("blobs", _BLOBS):
            self._tar.directory(name)
        self._waiting: dict[int, tuple[Digest, int, Any]] = {}  # by number: digest, size, file
        self._written: set[Digest] = set()
        self._first = max(range(len(sizes)), key=lambda number: sizes[number], default=-1)
        self._late = output.place is not None and max(sizes, default=0) < LATE_LIMIT * 9 // 10

    @contextmanager
    def blob(self, number: int) -> Iterator[Blob]:
        late = self._tar.late_body() if self._late and number == self._first else None
        blob = _Placed(self, late) if late is not None else _Waiting(self, number)
        try:
            yield blob
        finally:
            blob.end()

    def adopt(self, number: int, path: Path, digest: Digest) -> None:
        from fastlayer.content.ingest import new_hash
        from fastlayer.errors import DigestMismatchError

        hasher = new_hash(digest.algorithm)
        buffer = memoryview(bytearray(1 << 20))
        with open(path, "rb", buffering=0) as file, self.blob(number) as blob:
            while count := file.readinto(buffer):
                hasher.update(buffer[:count])
                blob.write(buffer[:count])
            if hasher.hexdigest() != digest.encoded:
                raise DigestMismatchError(f"{digest}: the bytes hash to {hasher.hexdigest()}")
            blob.commit(digest)

    def placed(self, digest: Digest, body: LateBody) -> None:
        body.commit(f"{_BLOBS}/{digest.encoded}")
        self._written.add(digest)

    def wait(self, number: int, digest: Digest, size: int, file: Any) -> None:
        self._waiting[number] = (digest, size, file)

    def scratch(self) -> Any:
        """A file without a name, beside the archive or where temporary files go."""
        import tempfile

        with explained("cannot write", self._output.name):
            return tempfile.TemporaryFile(dir=self._output.directory, buffering=0)

    def finish(self, image: ArchivedImage, manifest: Manifest, config: ImageConfig) -> None:
        """All that waits, the documents, the end of the archive; it gets its name."""
        from fastlayer.content.store import LAYOUT_VERSION
        from fastlayer.image.formats.docker import Single, compatible_manifest_json
        from fastlayer.image.formats.oci import layout_index
        from fastlayer.oci import jsontext

        for number in sorted(self._waiting, key=lambda number: (number != self._first, number)):
            digest, size, file = self._waiting[number]
            with file:
                if digest not in self._written:
                    file.seek(0)
                    self._tar.stream(f"{_BLOBS}/{digest.encoded}", size, file)
            self._written.add(digest)
        for document in (config, manifest):
            self._tar.file(f"{_BLOBS}/{document.digest.encoded}", document.raw)
        self._tar.file("index.json", layout_index([image]).to_bytes())
        self._tar.file("manifest.json", compatible_manifest_json([Single(image.names, manifest, config)]))
        self._tar.file("oci-layout", jsontext.write({"imageLayoutVersion": LAYOUT_VERSION}))
        self._tar.finish()
        self._output.commit()

    def close(self) -> None:
        for _, _, file in self._waiting.values():
            file.close()


@contextmanager
def archive(value: Any, sizes: Sequence[int]) -> Iterator[Archive]:
    """``value``: a path, a descriptor or a binary file. A file appears when ``finish`` has been called."""
    from fastlayer.image.formats.oci import refuse_directory

    refuse_directory(value)
    with Output(value) as output:
        found = Archive(output, sizes)
        try:
            yield found
        finally:
            found.close()


class _Placed:
    """The blob that is written where it is to be."""

    def __init__(self, archive: Archive, body: LateBody) -> None:
        self._archive = archive
        self._body: LateBody | None = body

    def write(self, data: Any) -> None:
        assert self._body is not None
        self._body.write(data)

    def commit(self, digest: str) -> None:
        assert self._body is not None
        self._archive.placed(Digest(digest), self._body)
        self._body = None

    def end(self) -> None:
        if self._body is not None:
            self._body.abort()


class _Waiting:
    """One that waits in a file of its own."""

    def __init__(self, archive: Archive, number: int) -> None:
        self._archive = archive
        self._number = number
        self._size = 0
        self._file = archive.scratch()
        self._output = Output(self._file.fileno())

    def write(self, data: Any) -> None:
        self._output.write(data)
        self._size += len(data)

    def commit(self, digest: str) -> None:
        self._archive.wait(self._number, Digest(digest), self._size, self._file)
        self._file = None

    def end(self) -> None:
        if self._file is not None:
            self._file.close()
