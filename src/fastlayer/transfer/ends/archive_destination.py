"""``oci-archive:`` and ``docker-archive:`` as destinations: a tar into which the blobs go one after the other.

The file appears when it is complete. What refers to the blobs stands behind them, for only then is it known what they
came to.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from fastlayer.content.store import LAYOUT_VERSION, IndexEntry, index_of
from fastlayer.errors import DigestMismatchError, ManifestError, OperandError, ReferenceFormatError, UsageError
from fastlayer.image.formats import docker, oci
from fastlayer.image.formats.source import ArchivedImage
from fastlayer.image.formats.tarwriter import LateBody, TarWriter
from fastlayer.layer.expand import Expansion
from fastlayer.layer.output import Output
from fastlayer.layer.pipeline import default_jobs
from fastlayer.layer.source import Source
from fastlayer.oci import jsontext, mediatypes
from fastlayer.oci.config import MAX_CONFIG, check_consistent, parse_config
from fastlayer.oci.descriptor import Descriptor
from fastlayer.oci.digest import Digest
from fastlayer.oci.manifest import parse_manifest
from fastlayer.oci.reference import Reference, parse_reference
from fastlayer.registry.uploads import How
from fastlayer.transfer.ends.protocols import Bytes, LayerOf, Moved, Write
from fastlayer.transfer.ends.verified import Verified
from fastlayer.transfer.forms import Made, Pieces


class _Archive:
    """What both kinds have in common. See ``protocols.Destination``."""

    workers = 1  # a tar has one end

    def __init__(self, name: str, tar: TarWriter) -> None:
        self.name = name
        self._tar = tar
        self._written: set[str] = set()
        self._kept: dict[str, bytes] = {}  # manifests and configurations, by digest

    @abstractmethod
    def _member(self, layer: LayerOf, blob: Descriptor) -> str:
        """The name of a blob in the archive."""

    def has(self, blob: Descriptor) -> bool:
        return blob.digest in self._written

    def has_manifest(self, manifest: Descriptor) -> bool:
        return False

    def mount(self, blob: Descriptor) -> bool:
        return False

    def put(self, layer: LayerOf, data: Bytes, moved: Moved) -> How:
        if self.has(layer.blob):
            return How.PRESENT
        pieces = Verified(layer.blob, data, moved)(0)
        if layer.blob.media_type in mediatypes.CONFIGS and layer.blob.size <= MAX_CONFIG:
            small = self._kept[layer.blob.digest] = b"".join(pieces)
            self._tar.file(self._member(layer, layer.blob), small)
        else:
            self._stream(layer, pieces)
        self._written.add(layer.blob.digest)
        return How.UPLOADED

    def _stream(self, layer: LayerOf, pieces: Iterator[bytes | memoryview]) -> None:
        with self._tar.body(self._member(layer, layer.blob), layer.blob.size) as body:
            for piece in pieces:
                body.write(piece)

    def put_made(self, layer: LayerOf, write: Write, moved: Moved) -> Made:
        late = self._late()
        try:
            made = write(late)
        except BaseException:
            late.abort()
            raise
        if made.digest in self._written:
            late.abort()
        else:
            late.commit(self._member(layer, made.descriptor))
            self._written.add(made.digest)
        return made

    def _late(self) -> LateBody:
        """A member whose size is known at its end."""
        late = self._tar.late_body()
        if late is None:
            raise OperandError(f"{self.name}: layers that are made on their way need a plain file: name one")
        return late

    def give_up(self) -> None:
        pass


class OciArchive(_Archive):
    """A tar of a layout; ``reference``: the image's name in it."""

    def __init__(self, name: str, tar: TarWriter, reference: str) -> None:
        super().__init__(name, tar)
        self._reference = reference
        for directory in ("blobs", "blobs/sha256"):
            tar.directory(directory)

    def _member(self, layer: LayerOf, blob: Descriptor) -> str:
        return f"blobs/{blob.digest.algorithm}/{blob.digest.encoded}"

    def put_manifest(self, manifest: Descriptor, data: bytes, subject: Digest | None) -> None:
        if manifest.digest not in self._written:
            self._tar.file(self._member(LayerOf(manifest), manifest), data)
            self._kept[manifest.digest] = data
            self._written.add(manifest.digest)

    def commit(self, root: Descriptor, data: bytes, subject: Digest | None) -> None:
        self.put_manifest(root, data, subject)
        self._tar.file("index.json", index_of([IndexEntry(self._reference, root)]).to_bytes())
        if found := self._for_docker(root):
            self._tar.file("manifest.json", found)
        self._tar.file("oci-layout", jsontext.write({"imageLayoutVersion": LAYOUT_VERSION}))

    def _for_docker(self, root: Descriptor) -> bytes:
        """What Docker reads of it; an artifact is nothing to it, and so is an image for another machine."""
        names = tuple(filter(None, [_name(self._reference)]))
        try:
            return docker.compatible_manifest_json(
                docker.singles([ArchivedImage(names, root)], _Kept(self._kept), None)
            )
        except (ManifestError, KeyError):
            return b""


class DockerArchive(_Archive):
    """What ``docker load`` takes, with layers that are not compressed; of one platform."""

    def __init__(self, name: str, tar: TarWriter, reference: Reference | None) -> None:
        super().__init__(name, tar)
        self._reference = reference

    def _member(self, layer: LayerOf, blob: Descriptor) -> str:
        return docker.layer_member(layer.diff_id) if layer.diff_id else docker.config_member(blob.digest)

    def _stream(self, layer: LayerOf, pieces: Iterator[bytes | memoryview]) -> None:
        if layer.diff_id is None:
            raise ManifestError(f"{layer.blob.digest}: is no layer of an image, and an archive of Docker has no other")
        if layer.diff_id in self._written:
            for _ in pieces:
                pass  # it is verified all the same
            return
        self._tar.directory(layer.diff_id.encoded)
        if mediatypes.layer_compression(layer.blob.media_type) == "none":
            super()._stream(layer, pieces)
        else:
            self._expand(layer, pieces)
        self._written.add(layer.diff_id)

    def _expand(self, layer: LayerOf, pieces: Iterator[bytes | memoryview]) -> None:
        late = self._late()
        try:
            with Source(Pieces(pieces, str(layer.blob.digest))) as source:
                expansion = Expansion(source, jobs=default_jobs(None))
                expansion.run(late.write)
            for _ in pieces:
                pass
            if expansion.diff_id != layer.diff_id:
                raise DigestMismatchError(
                    f"{layer.blob.digest}: its tar hashes to {expansion.diff_id} instead of {layer.diff_id}"
                )
        except BaseException:
            late.abort()
            raise
        late.commit(self._member(layer, layer.blob))

    def put_made(self, layer: LayerOf, write: Write, moved: Moved) -> Made:
        assert layer.diff_id is not None
        self._tar.directory(layer.diff_id.encoded)
        return super().put_made(layer, write, moved)

    def put_manifest(self, manifest: Descriptor, data: bytes, subject: Digest | None) -> None:
        raise UsageError(f"{self.name}: takes an image for one platform: give --platform instead of --all")

    def commit(self, root: Descriptor, data: bytes, subject: Digest | None) -> None:
        if root.media_type in mediatypes.INDEXES:
            self.put_manifest(root, data, subject)
        manifest = parse_manifest(data, root.media_type, str(root.digest))
        manifest.require_image(str(root.digest))
        config = parse_config(self._kept[manifest.config.digest], str(root.digest))
        check_consistent(manifest, config, str(root.digest))
        names = (self._reference,) if self._reference is not None else ()
        for member, content in docker.documents([docker.Single(names, manifest, config)]).items():
            self._tar.file(member, content)


class _Kept:
    """Manifests and configurations that have passed by, as ``Blobs``."""

    def __init__(self, kept: dict[str, bytes]) -> None:
        self._kept = kept

    def has(self, digest: str) -> bool:
        return digest in self._kept

    def size(self, digest: str) -> int:
        return len(self._kept[digest])

    def open(self, digest: str) -> Any:
        raise KeyError(digest)

    def read(self, digest: str, limit: int = 0) -> bytes:
        return self._kept[digest]


def _name(text: str) -> Reference | None:
    """A name in a layout where that is an image's; a mere tag is none."""
    if "/" not in text and ":" not in text:
        return None
    try:
        return parse_reference(text).with_default_tag()
    except ReferenceFormatError:
        return None


@contextmanager
def opened_oci_archive(path: str, reference: str) -> Iterator[OciArchive]:
    """An archive that gets its name with the end of the block."""
    oci.refuse_directory(path)
    with Output(path) as output:
        tar = TarWriter(output)
        yield OciArchive(f"oci-archive:{path}", tar, reference)
        tar.finish()
        output.commit()


@contextmanager
def opened_docker_archive(path: str, reference: Reference | None) -> Iterator[DockerArchive]:
    """The same of Docker's kind."""
    oci.refuse_directory(path)
    with Output(path) as output:
        tar = TarWriter(output)
        yield DockerArchive(f"docker-archive:{path}", tar, reference)
        tar.finish()
        output.commit()
