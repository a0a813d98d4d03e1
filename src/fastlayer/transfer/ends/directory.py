"""``dir:``: an image as a directory of files, as skopeo writes it (containers/image, directory transport).

::

    version              "Directory Transport Version: 1.1\\n"
    manifest.json        the manifest, or the index
    HEX.manifest.json    the manifests of an index
    HEX                  blobs; of another algorithm than sha256 ALGORITHM-HEX

Blobs come under their names when they are complete, manifest.json last: until then the directory is what it was.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, cast

from fastlayer.content.files import explained, write_all
from fastlayer.content.ingest import new_hash
from fastlayer.content.store import hashes_to, open_plain
from fastlayer.errors import (
    CorruptStoreError,
    DigestMismatchError,
    NotFoundError,
    OperandError,
    StorageError,
    show_path,
)
from fastlayer.oci.descriptor import Descriptor
from fastlayer.oci.digest import Digest
from fastlayer.oci.manifest import MAX_MANIFEST
from fastlayer.registry.uploads import How
from fastlayer.transfer.ends.protocols import Bytes, LayerOf, Moved, Write
from fastlayer.transfer.ends.verified import Verified
from fastlayer.transfer.forms import Made

_VERSION = b"Directory Transport Version: 1.1\n"
_KNOWN_VERSION = re.compile(rb"Directory Transport Version: 1\.\d+\n?")
_OURS = re.compile(r"(?:[a-z0-9]+-)?[0-9a-f]{64,128}(?:\.manifest\.json)?|signature-\d+|\.\S*\.fastlayer-[0-9a-f]{12}")


def file_of(digest: Digest) -> str:
    """The name of a blob."""
    return digest.encoded if digest.algorithm == "sha256" else f"{digest.algorithm}-{digest.encoded}"


class DirectoryBlobs:
    """The files of such a directory, to be read. See ``image.formats.source.Blobs``."""

    def __init__(self, path: str) -> None:
        self.path = Path(path)

    def root(self) -> bytes:
        """manifest.json."""
        if not self.path.is_dir():
            raise NotFoundError(f"{show_path(str(self.path))}: no such directory: give dir:DIR")
        return self._read(self.path / "manifest.json", MAX_MANIFEST)

    def has(self, digest: str) -> bool:
        return any(path.exists() for path in self._paths(digest))

    def size(self, digest: str) -> int:
        with self.open(digest) as file:
            return os.fstat(file.fileno()).st_size

    def open(self, digest: str) -> BinaryIO:
        for path in self._paths(digest):
            with suppress(FileNotFoundError), explained("read", path, but=FileNotFoundError):
                return open_plain(path)
        raise NotFoundError(f"{digest}: no such file in {show_path(str(self.path))}: it is incomplete")

    def read(self, digest: str, limit: int = MAX_MANIFEST) -> bytes:
        with self.open(digest) as file:
            data = file.read(limit + 1)
        if len(data) > limit:
            raise CorruptStoreError(f"{digest}: has more than the {limit} bytes that are expected")
        checked = Digest(digest)
        hasher = new_hash(checked.algorithm)
        hasher.update(data)
        if hasher.hexdigest() != checked.encoded:
            raise DigestMismatchError(f"{show_path(str(self.path))}: {digest} has other contents: copy it again")
        return data

    def _paths(self, digest: str) -> tuple[Path, Path]:
        name = file_of(Digest(digest))
        return self.path / name, self.path / f"{name}.manifest.json"

    def _read(self, path: Path, limit: int) -> bytes:
        try:
            with explained("read", path, but=FileNotFoundError), open_plain(path) as file:
                data = file.read(limit + 1)
        except FileNotFoundError:
            raise NotFoundError(f"{show_path(str(path))}: is missing: {show_path(str(self.path))} is no dir:") from None
        if len(data) > limit:
            raise CorruptStoreError(f"{show_path(str(path))}: has more than {limit} bytes")
        return data


class DirectoryDestination:
    """See ``protocols.Destination``."""

    workers = 6

    def __init__(self, path: str) -> None:
        self.name = f"dir:{path}"
        self._path = Path(path)
        self._named: set[str] = {"version", "manifest.json"}
        self._read: set[Digest] = set()

    def has(self, blob: Descriptor) -> bool:
        """Whether it is there, and is what it is called, for which it is read once: it may be anybody's."""
        self._named.add(file_of(blob.digest))
        if blob.digest not in self._read:
            try:
                with open_plain(self._path / file_of(blob.digest), os.O_NOFOLLOW) as file:
                    if os.fstat(file.fileno()).st_size != blob.size or not hashes_to(file, blob.digest):
                        return False
            except (OSError, CorruptStoreError):
                return False
            self._read.add(blob.digest)
        return True

    def has_manifest(self, manifest: Descriptor) -> bool:
        return False

    def mount(self, blob: Descriptor) -> bool:
        return False

    def put(self, layer: LayerOf, data: Bytes, moved: Moved) -> How:
        if self.has(layer.blob):
            return How.PRESENT
        with self._new() as (file, named):
            for piece in Verified(layer.blob, data, moved)(0):
                write_all(file.fileno(), piece)
            named(file_of(layer.blob.digest))
        return How.UPLOADED

    def put_made(self, layer: LayerOf, write: Write, moved: Moved) -> Made:
        with self._new() as (file, named):
            made = write(file)
            named(file_of(made.digest))
        return made

    def put_manifest(self, manifest: Descriptor, data: bytes, subject: Digest | None) -> None:
        self._write(f"{file_of(manifest.digest)}.manifest.json", data)

    def commit(self, root: Descriptor, data: bytes, subject: Digest | None) -> None:
        self._write("version", _VERSION)
        self._write("manifest.json", data)
        for name in os.listdir(self._path):
            if name not in self._named and _OURS.fullmatch(name):
                with suppress(OSError):
                    (self._path / name).unlink()

    def _write(self, name: str, data: bytes) -> None:
        with self._new() as (file, named):
            write_all(file.fileno(), data)
            named(name)

    @contextmanager
    def _new(self) -> Iterator[tuple[BinaryIO, Callable[[str], None]]]:
        """A file, and what gives it its name: in place of whatever has that, be it a link."""
        temporary = self._path / f".layer.fastlayer-{os.urandom(6).hex()}"

        def named(name: str) -> None:
            self._named.add(name)
            os.rename(temporary, self._path / name)

        try:
            with explained("write", self._path), open(temporary, "xb", buffering=0) as file:
                yield cast(BinaryIO, file), named
        finally:
            temporary.unlink(missing_ok=True)

    def give_up(self) -> None:
        pass


@contextmanager
def opened_directory(path: str) -> Iterator[DirectoryDestination]:
    """A directory to write to, made when it is not there. Raises ``OperandError`` for one with other things in it."""
    target = Path(path)
    made = not target.exists()
    try:
        target.mkdir(parents=True, exist_ok=True)
        filled = bool(os.listdir(target))
    except OSError as exc:
        raise StorageError(exc.errno or 0, "cannot write", path) from exc
    if filled and not _is_ours(target):
        raise OperandError(f"{show_path(path)}: has other things than an image in it: give a new directory")
    try:
        yield DirectoryDestination(path)
    finally:
        if made:
            with suppress(OSError):
                target.rmdir()  # unless something has come there


def _is_ours(target: Path) -> bool:
    """What was interrupted before its end has no version yet, and nothing but files with our names."""
    try:
        with open_plain(target / "version") as file:
            return _KNOWN_VERSION.fullmatch(file.read(100)) is not None
    except FileNotFoundError:
        return all(_OURS.fullmatch(name) for name in os.listdir(target))
