"""Image indexes (image-spec image-index.md) and Docker's manifest lists: one name, an image per platform."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from fastlayer._values import NamedTuple
from fastlayer.errors import NotFoundError
from fastlayer.oci import jsontext, mediatypes
from fastlayer.oci.descriptor import Descriptor
from fastlayer.oci.digest import Digest
from fastlayer.oci.document import TypedDocument
from fastlayer.oci.manifest import MAX_MANIFEST, Manifest, parse_manifest, read_descriptor, settle_media_type
from fastlayer.oci.platform import Platform, choose

MAX_DEPTH = 8  # indexes within indexes
MAX_NODES = 10_000  # manifests and indexes below one name
_KNOWN = ("schemaVersion", "mediaType", "manifests", "annotations", "artifactType", "subject")
_FOREIGN_KEYS = ("config", "layers", "fsLayers", "signatures")  # of manifests (CVE-2021-41190)
_ATTESTATION = "vnd.docker.reference.type"

Read = Callable[[Descriptor, int], bytes]  # a blob of at most that many bytes, verified


class ImageIndex(TypedDocument):
    """Descriptors of manifests and further indexes. ``raw`` as in ``Manifest``."""

    __slots__ = ("manifests",)
    manifests: tuple[Descriptor, ...]

    def __init__(
        self,
        raw: bytes,
        media_type: str,
        manifests: tuple[Descriptor, ...],
        annotations: Mapping[str, str] | None = None,
        value: Mapping[str, Any] | None = None,
    ) -> None:
        self._fill(
            raw=raw, media_type=media_type, manifests=manifests, annotations=annotations or {}, value=value or {}
        )

    def candidates(self, platform: Platform) -> list[Descriptor]:
        """The manifests that run on ``platform``, best first (containerd's order); attestations are none.

        Those that do not say what they are for come last: their configurations say it.
        """
        return choose(platform, ((d.platform, d) for d in self.manifests if not is_attestation(d)))


def is_attestation(descriptor: Descriptor) -> bool:
    """BuildKit's statements about an image stand beside it in the index."""
    return _ATTESTATION in descriptor.annotations


def parse_index(data: bytes, media_type: str = "", what: str = "index", limit: int = MAX_MANIFEST) -> ImageIndex:
    """Reads an index or manifest list of at most ``limit`` bytes. Raises ``ManifestError``."""
    value = jsontext.parse_object(data, what, limit)
    jsontext.check_spelling(value, _KNOWN, what)
    jsontext.schema_two(value, what)
    for key in _FOREIGN_KEYS:
        if key in value:
            jsontext.refuse(what, f"has {key}: it could be read as something else than an index")
    found = settle_media_type(value, media_type, mediatypes.INDEXES, mediatypes.INDEX, what)
    entries = tuple(
        read_descriptor(entry, f"{what}: entry {number}")
        for number, entry in enumerate(jsontext.objects(value, "manifests", what), 1)
    )
    return ImageIndex(data, found, entries, jsontext.text_map(value, "annotations", what), value)


def new_index(
    manifests: Iterable[Descriptor],
    *,
    media_type: str = mediatypes.INDEX,
    annotations: Mapping[str, str] | None = None,
) -> ImageIndex:
    """An index of these; the same descriptors always give the same bytes."""
    entries = tuple(manifests)
    value: dict[str, Any] = {"schemaVersion": 2, "mediaType": media_type}
    value["manifests"] = [entry.to_dict() for entry in entries]
    if annotations:
        value["annotations"] = dict(annotations)
    return ImageIndex(jsontext.write(value), media_type, entries, dict(annotations or {}), value)


# ---- the tree below a name -------------------------------------------------------------------------


class Node(NamedTuple):
    """A manifest or index, with the descriptor that led to it; ``document`` is None where its blob is not there."""

    descriptor: Descriptor
    document: Manifest | ImageIndex | None
    depth: int


def parse_document(descriptor: Descriptor, data: bytes) -> Manifest | ImageIndex:
    """What the descriptor names. Raises ``ManifestError``."""
    what = f"{descriptor.digest}"
    if descriptor.media_type in mediatypes.INDEXES:
        return parse_index(data, descriptor.media_type, what)
    return parse_manifest(data, descriptor.media_type, what)


def way_to(platform: Platform, root: Descriptor, read: Callable[[Descriptor], bytes], what: str) -> list[Descriptor]:
    """What lies between an index and its manifest for a platform, that last; empty where ``root`` is no index.

    ``what``: for messages. Raises ``NotFoundError`` where it has none, ``ManifestError`` beyond ``MAX_DEPTH``.
    """
    found: list[Descriptor] = []
    while root.media_type in mediatypes.INDEXES:
        if len(found) > MAX_DEPTH:
            jsontext.refuse(what, f"has more than {MAX_DEPTH} indexes within each other")
        index = parse_index(read(root), root.media_type, str(root.digest))
        candidates = index.candidates(platform)
        if not candidates:
            there = sorted({str(one.platform) for one in index.manifests if one.platform and not is_attestation(one)})
            raise NotFoundError(
                f"{what}: not for {platform}: it is there for {', '.join(there) or 'nothing that can run'}: choose"
                " another --platform"
            )
        root = candidates[0]
        found.append(root)
    return found


def walk(root: Descriptor, read: Read, missing: Callable[[Descriptor], bool] | None = None) -> Iterator[Node]:
    """Everything at and below ``root``, parents first, each digest once.

    ``read`` fetches a blob. ``missing`` says of a descriptor that its blob is not there (an index may name platforms
    that were not fetched); without it every blob has to be. Raises ``ManifestError`` beyond ``MAX_DEPTH`` or
    ``MAX_NODES``.
    """
    seen: set[Digest] = set()
    todo = [(root, 0)]
    while todo:
        descriptor, depth = todo.pop()
        if descriptor.digest in seen:
            continue
        seen.add(descriptor.digest)
        if len(seen) > MAX_NODES:
            jsontext.refuse(root.digest, f"names more than {MAX_NODES} manifests")
        if missing is not None and missing(descriptor):
            yield Node(descriptor, None, depth)
            continue
        document = parse_document(descriptor, read(descriptor, MAX_MANIFEST))
        yield Node(descriptor, document, depth)
        if isinstance(document, ImageIndex):
            if depth == MAX_DEPTH:
                jsontext.refuse(root.digest, f"has more than {MAX_DEPTH} indexes within each other")
            todo += [(child, depth + 1) for child in reversed(document.manifests)]
