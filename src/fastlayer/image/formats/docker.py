"""What ``docker save`` writes and ``docker load`` reads: ``manifest.json`` beside configurations and layers.

There is no manifest in the sense of a registry in such an archive; one is made when it is read, always the same for the
same bytes: an OCI manifest over the configuration as it is and the layers as they are.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

from fastlayer._values import NamedTuple
from fastlayer.errors import (
    CorruptStoreError,
    DigestMismatchError,
    LayerFormatError,
    ManifestError,
    ReferenceFormatError,
)
from fastlayer.image.formats import oci
from fastlayer.image.formats.members import Members
from fastlayer.image.formats.source import ArchivedImage, Blobs, Sink
from fastlayer.image.formats.tarwriter import TarWriter
from fastlayer.layer.compression import detect
from fastlayer.layer.expand import Expansion
from fastlayer.layer.output import Output
from fastlayer.layer.pipeline import default_jobs
from fastlayer.layer.source import Source
from fastlayer.oci import jsontext, mediatypes
from fastlayer.oci.config import MAX_CONFIG, ImageConfig, check_consistent, parse_config
from fastlayer.oci.descriptor import Descriptor
from fastlayer.oci.digest import Digest
from fastlayer.oci.manifest import MAX_MANIFEST, Manifest, new_manifest
from fastlayer.oci.platform import Platform, choose, host_platform
from fastlayer.oci.reference import Reference, parse_reference

Expand = Literal["zstd", "all"]
_MAX_IMAGES = 10_000
_NAMED = re.compile(r"(?:^|/)([0-9a-f]{64})(?:\.json)?$")  # a configuration by its digest: what Docker and podman write


# ---- reading ---------------------------------------------------------------------------------------


def archived_images(members: Members, sink: Sink, name: str) -> tuple[ArchivedImage, ...]:
    """The images of a docker-archive that has passed by; their manifests go to the sink."""
    what = f"{name}: manifest.json"
    data = members.documents["manifest.json"]
    manifests: dict[str, Manifest] = {}
    names: dict[str, set[Reference]] = {}
    configs: dict[str, ImageConfig] = {}
    entries = jsontext.parse_objects(data, what, len(data))
    if len(entries) > _MAX_IMAGES:
        raise ManifestError(f"{what}: names {len(entries)} images; the limit is {_MAX_IMAGES}")
    for number, entry in enumerate(entries, 1):
        manifest = _manifest(entry, members, sink, configs, f"{what}: image {number}")
        manifests[manifest.digest] = manifest
        names.setdefault(manifest.digest, set()).update(_names(entry, f"{what}: image {number}"))
    if not names:
        raise ManifestError(f"{what}: names no image")
    return tuple(ArchivedImage(tuple(sorted(found)), manifests[digest].descriptor) for digest, found in names.items())


def _manifest(
    entry: dict[str, Any], members: Members, sink: Sink, configs: dict[str, ImageConfig], what: str
) -> Manifest:
    jsontext.check_spelling(entry, ("Config", "RepoTags", "Layers"), what)
    called = jsontext.text(entry, "Config", what)
    config = _member(members, called, "Config", what)
    if (own := _NAMED.search(called)) and own[1] != config.digest.encoded:
        raise DigestMismatchError(f"{what}: {called}: hashes to {config.digest}: do not use this archive")
    if config.size > MAX_CONFIG:
        raise ManifestError(f"{what}: a configuration of {config.size} bytes; the limit is {MAX_CONFIG}")
    if config.digest not in configs:
        configs[config.digest] = parse_config(sink.read(config.digest, MAX_CONFIG), f"{what}: configuration")
    read = configs[config.digest]
    layers, names = [], jsontext.texts(entry, "Layers", what)
    for name in names:
        found = _member(members, name, "Layers", what)
        media_type = mediatypes.layer_media_type(detect(found.head))
        if mediatypes.layer_compression(media_type) is None:
            raise ManifestError(f"{what}: {name}: is {media_type}, which no layer may be: make the image again")
        layers.append(Descriptor(media_type, found.digest, found.size))
    manifest = new_manifest(read.descriptor(), layers)
    check_consistent(manifest, read, what)
    for name, layer, diff_id in zip(names, layers, read.diff_ids, strict=True):
        if layer.digest != diff_id and mediatypes.layer_compression(layer.media_type) == "none":
            raise DigestMismatchError(
                f"{what}: {name}: diff_id is {layer.digest}, not {diff_id}: do not use this image"
            )
    if len(manifest.raw) > MAX_MANIFEST:
        raise ManifestError(f"{what}: has more layers than a manifest has room for")
    _keep(manifest, sink)
    return manifest


def _member(members: Members, path: str, key: str, what: str) -> Any:
    parts = path.split("/")
    if not path or path.startswith("/") or ".." in parts:
        raise ManifestError(f"{what}: {key} has the name {path[:100]!a}, which is none within the archive")
    return members.find("/".join(part for part in parts if part not in ("", ".")))


def _names(entry: dict[str, Any], what: str) -> set[Reference]:
    names = set()
    for text in jsontext.texts(entry, "RepoTags", what):
        try:
            names.add(parse_reference(text).with_default_tag())
        except ReferenceFormatError as exc:
            raise ManifestError(f"{what}: {exc}") from None
    return names


def _keep(manifest: Manifest, sink: Sink) -> None:
    writer = sink.begin(len(manifest.raw), manifest.digest, None)
    if writer is None:
        return
    try:
        writer.write(manifest.raw)
        writer.commit()
    finally:
        writer.abort()


# ---- which manifests ---------------------------------------------------------------------------------


class Single(NamedTuple):
    """One image for one platform, as ``manifest.json`` has it."""

    names: tuple[Reference, ...]
    manifest: Manifest
    config: ImageConfig


def singles(images: Iterable[ArchivedImage], blobs: Blobs, platform: Platform | None) -> list[Single]:
    """Of each image the manifest for ``platform`` (this machine's when None). Raises ``ManifestError``."""
    return [_single(image, blobs, platform) for image in images]


def _single(image: ArchivedImage, blobs: Blobs, platform: Platform | None) -> Single:
    offered: list[tuple[Platform | None, Single]] = []
    for node in oci.nodes(image.descriptor, blobs):
        if isinstance(node.document, Manifest) and node.document.is_image:
            node.document.require_image(node.document.digest)
            config = parse_config(blobs.read(node.document.config.digest, MAX_CONFIG), node.document.config.digest)
            offered.append((config.platform, Single(image.names, node.document, config)))
    chosen = choose(platform or host_platform(), offered)
    if not chosen and platform is None and len(offered) == 1:
        return offered[0][1]  # an image for another machine, and nothing else to choose
    if not chosen:
        have = ", ".join(str(found) for found, _ in offered) or "none"
        raise ManifestError(f"{image.descriptor.digest}: no image for {platform or host_platform()}; there are: {have}")
    check_consistent(chosen[0].manifest, chosen[0].config, chosen[0].manifest.digest)
    return chosen[0]


# ---- writing ---------------------------------------------------------------------------------------


def save_docker_archive(
    value: Any,
    images: Sequence[ArchivedImage],
    blobs: Blobs,
    *,
    platform: Platform | None = None,
    expand: Expand = "zstd",
) -> None:
    """Writes what ``docker load`` and ``podman load`` take to ``value`` (path, descriptor such as 1, binary file).

    An image for several platforms is reduced to ``platform``. ``expand``: which layers are stored uncompressed; gzip is
    understood by every reader, zstd is not. Layers that images share are there once.

    Raises ``NotFoundError``, ``ManifestError``, ``CorruptStoreError``, ``StorageError``.
    """
    oci.refuse_directory(value)
    chosen = singles(images, blobs, platform)
    with Output(value) as output:
        tar = TarWriter(output)
        for member, data in documents(chosen).items():
            tar.file(member, data)
        written: set[str] = set()
        for single in chosen:
            _write_image(tar, single, blobs, expand, written)
        tar.finish()
        output.commit()


def _config_name(single: Single) -> str:
    return config_member(single.config.digest)


def _layer_name(single: Single, number: int) -> str:
    return layer_member(single.config.diff_ids[number])


def config_member(digest: Digest) -> str:
    """The name that a configuration has in a docker-archive."""
    return f"{digest.encoded}.json"


def layer_member(diff_id: Digest) -> str:
    """The name that a layer has in one."""
    return f"{diff_id.encoded}/layer.tar"


def documents(chosen: Sequence[Single]) -> dict[str, bytes]:
    """What says which members are which images, by name of member."""
    found = {"manifest.json": _manifest_json(chosen, _config_name, _layer_name)}
    if repositories := _repositories(chosen):
        found["repositories"] = jsontext.write(repositories)
    return found


def compatible_manifest_json(chosen: Sequence[Single]) -> bytes:
    """``manifest.json`` for an archive that has its blobs in ``blobs/``."""

    def layer(single: Single, number: int) -> str:
        return _blob_name(single.manifest.layers[number])

    return _manifest_json(chosen, lambda single: _blob_name(single.manifest.config), layer)


def _blob_name(descriptor: Descriptor) -> str:
    return f"blobs/{descriptor.digest.algorithm}/{descriptor.digest.encoded}"


def _manifest_json(
    chosen: Sequence[Single], config_name: Callable[[Single], str], layer_name: Callable[[Single, int], str]
) -> bytes:
    entries: dict[str, dict[str, Any]] = {}
    for single in chosen:
        layers = [layer_name(single, number) for number in range(len(single.config.diff_ids))]
        entry = {"Config": config_name(single), "RepoTags": [], "Layers": layers}
        entry = entries.setdefault(single.config.digest, entry)
        entry["RepoTags"] = sorted({*entry["RepoTags"], *tags_of(single)})
    return jsontext.write([entries[digest] for digest in sorted(entries)]) + b"\n"


def tags_of(single: Single) -> list[str]:
    """The names that Docker can give: those with a tag; in their full form, for podman puts short ones on localhost."""
    named = [name.with_default_tag() for name in single.names]
    return sorted({str(name._replace(digest="")) for name in named if name.tag})


def _repositories(chosen: Sequence[Single]) -> dict[str, dict[str, str]]:
    """What Docker before 1.10 reads: name, tag, top layer."""
    found: dict[str, dict[str, str]] = {}
    for single in chosen:
        for name in single.names:
            tagged = name.with_default_tag()
            if tagged.tag and single.config.diff_ids:
                found.setdefault(tagged.familiar_name, {})[tagged.tag] = single.config.diff_ids[-1].encoded
    return {name: dict(sorted(tags.items())) for name, tags in sorted(found.items())}


def _write_image(tar: TarWriter, single: Single, blobs: Blobs, expand: Expand, written: set[str]) -> None:
    name = _config_name(single)
    if name not in written:
        written.add(name)
        tar.file(name, single.config.raw)
    for number, layer in enumerate(single.manifest.layers):
        name = _layer_name(single, number)
        if name not in written:
            written.add(name)
            tar.directory(single.config.diff_ids[number].encoded)
            _write_layer(tar, name, layer, single.config.diff_ids[number], blobs, expand)


def _write_layer(tar: TarWriter, name: str, layer: Descriptor, diff_id: str, blobs: Blobs, expand: Expand) -> None:
    compression = mediatypes.layer_compression(layer.media_type)
    if compression == "none" or (compression == "gzip" and expand == "zstd"):
        with blobs.open(layer.digest) as file:
            tar.stream(name, layer.size, file)
        return
    size = _expanded(layer, blobs, lambda _: None, diff_id)  # the header comes before the bytes
    with tar.body(name, size) as body:
        _expanded(layer, blobs, body.write, None)


def _expanded(layer: Descriptor, blobs: Blobs, sink: Callable[[Any], object], diff_id: str | None) -> int:
    """Bytes of the layer's tar, which all went to ``sink``; verified when ``diff_id`` is given."""
    with blobs.open(layer.digest) as file, Source(_descriptor_of(file)) as source:
        expansion = Expansion(source, jobs=default_jobs(None), hashed=diff_id is not None)
        try:
            expansion.run(sink)
        except LayerFormatError as exc:
            raise CorruptStoreError(f"{layer.digest}: {exc}") from exc
    if diff_id is not None and expansion.diff_id != diff_id:
        raise CorruptStoreError(f"{layer.digest}: its tar hashes to {expansion.diff_id} instead of {diff_id}")
    return expansion.tar_size


def _descriptor_of(file: Any) -> Any:
    """The descriptor of a file; a part of an archive has none of its own."""
    try:
        return file.fileno()
    except OSError:
        return file
