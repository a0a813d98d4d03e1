"""Volumes as files: ``export`` and ``import``.

A *tar* has the files of the volume, compressed as its name says (``.tar``, ``.tar.gz``, ``.tar.zst``). An *artifact* is
the same tar in an OCI image layout, ``oci:DIR[:TAG]``: a manifest of the ``artifactType`` below, with an empty
configuration (image-spec manifest.md, "Guidelines for Artifact Usage") and one layer; its annotations hold the name and
the labels of the volume. skopeo and oras copy it to registries and back.

What comes in is hostile: it goes through ``fastlayer.apply``, and into a volume that nobody sees before it is complete.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastlayer.content.store import ContentStore, check_layout, open_blob, read_blob, read_index
from fastlayer.errors import ManifestError, NotFoundError, UsageError, show_path
from fastlayer.image.formats.oci import add_names, layout_at, name_of
from fastlayer.image.formats.source import ArchivedImage
from fastlayer.oci import jsontext, mediatypes
from fastlayer.oci.descriptor import Descriptor
from fastlayer.oci.manifest import MAX_MANIFEST, Manifest, new_manifest, parse_manifest
from fastlayer.volume import books, use
from fastlayer.volume import options as local_options
from fastlayer.volume.books import Volume
from fastlayer.volume.names import ANONYMOUS, TEMPORARY, new_name
from fastlayer.volume.trees import Copied

if TYPE_CHECKING:
    from fastlayer.layer.types import LayerSource, Output
    from fastlayer.layer.writer import Layer
    from fastlayer.volume.volumes import Volumes

ARTIFACT_TYPE = "application/vnd.fastlayer.volume.v1"
LABELS = "io.fastlayer.volume.labels"  # annotation: a JSON object
TITLE = "org.opencontainers.image.title"
_LAYOUT = "oci:"
_EMPTY = b"{}"
_LEASE = "volume"


def export(volumes: Volumes, name: str, output: Output, *, compression: str | None = None) -> Layer:
    """Writes the files of the volume, complete or not at all; returns what was written.

    ``output``: a path, a descriptor or a binary file object, or ``oci:DIR[:TAG]`` (the tag is the volume's name unless
    one is given). ``compression``: ``none``, ``gzip`` or ``zstd``; by default as the name says, gzip in an artifact.
    Of a volume that somebody uses, a clone is written (``copies.py`` tells of what moment that is). Raises
    ``UnsafeEntryError`` for a file whose name begins with ``.wh.``, which no such tar can hold, and what
    ``fastlayer.diff`` raises.
    """
    volume = volumes.find(name)
    if any(user.mounted for user in books.users_of(volumes.store, name)):
        twin = volumes.clone(name, new_name(), labels={ANONYMOUS: "", TEMPORARY: books.process_name(os.getpid())})
        try:
            return _write(volumes, volume, twin.name, output, compression)
        finally:
            volumes.remove(twin.name)
    return _write(volumes, volume, name, output, compression)


def _write(volumes: Volumes, volume: Volume, name: str, output: Any, compression: str | None) -> Layer:
    from fastlayer.layer.diff import diff

    layer: Layer
    with use.temporary(volumes.store, name) as directory, tempfile.TemporaryDirectory(prefix="fastlayer-") as empty:
        layout = _layout_of(output)
        if layout is None:
            layer = diff(empty, directory, output, compression=compression)
            return layer
        path, tag = layout
        with layout_at(path) as content:
            with content.ingest(_LEASE, trusted=True) as blob:
                layer = diff(empty, directory, blob, compression=compression or "gzip")
                blob.commit(layer.digest)
            _name(content, volume, layer, tag or volume.name)
        return layer


def _name(content: ContentStore, volume: Volume, layer: Layer, tag: str) -> None:
    import hashlib

    from fastlayer.oci.digest import sha256_digest

    digest = sha256_digest(hashlib.sha256(_EMPTY).hexdigest())
    annotations = {TITLE: volume.name}
    if volume.labels:
        annotations[LABELS] = json.dumps(dict(sorted(volume.labels.items())))
    manifest = new_manifest(
        Descriptor(mediatypes.EMPTY, digest, len(_EMPTY)),
        [Descriptor(layer.media_type, layer.digest, layer.size)],
        annotations=annotations,
        more={"artifactType": ARTIFACT_TYPE},
    )
    for wanted, data in ((digest, _EMPTY), (manifest.descriptor.digest, manifest.raw)):
        with content.ingest(_LEASE, digest=wanted, size=len(data)) as blob:
            blob.write(data)
            blob.commit()
    add_names(content, [ArchivedImage((), manifest.descriptor, (tag,))])


def import_archive(
    volumes: Volumes,
    name: str,
    source: LayerSource,
    *,
    options: Mapping[str, str] = {},
    labels: Mapping[str, str] | None = None,
) -> Volume:
    """A new volume of the driver ``local`` with what ``source`` holds; it appears when it has all of it.

    ``source``: a tar, compressed or not (a path, descriptor or file object), or ``oci:DIR[:TAG]``. ``options``:
    ``size``, if any. ``labels``: default those of the artifact. ``volumes.copied`` has warnings. Raises
    ``ManifestError`` and what ``fastlayer.apply`` raises.
    """
    if set(options) - {"size"}:
        raise UsageError("a volume that is imported takes the option size only")
    local_options.parse(options)
    layout = _layout_of(source)
    warnings: list[str] = []
    if layout is None:
        made = volumes.create(
            name, options=options, labels=labels or {}, fill=lambda data: warnings.extend(_apply([source], data))
        )
    else:
        manifest = _find(*layout)

        def fill(data: Path) -> None:
            with ExitStack() as opened:
                layers = [opened.enter_context(open_blob(layout[0], layer.digest)) for layer in manifest.layers]
                warnings.extend(_apply(layers, data, digest=[str(layer.digest) for layer in manifest.layers]))

        given = _labels(manifest) if labels is None else labels
        made = volumes.create(name, options=options, labels=given, fill=fill)
    volumes.copied = Copied(atomic=True, warnings=tuple(warnings))
    return made


def _apply(layers: list[Any], data: Path, **given: Any) -> list[str]:
    """What was left out."""
    from fastlayer.layer.apply import apply
    from fastlayer.store.store import may_make_devices, may_own_all

    done = apply(layers, data, ignore_chown=not may_own_all(), skip_devices=not may_make_devices(), **given)
    marks = f"{done.whiteouts} whiteouts (.wh.*) are no files, and were left out"
    return [*done.warnings, *([marks] if done.whiteouts else [])]


def _layout_of(value: Any) -> tuple[Path, str] | None:
    """(directory, tag or nothing) of ``oci:DIR[:TAG]``; None for what is none."""
    if not isinstance(value, (str, bytes)) or not os.fsdecode(value).startswith(_LAYOUT):
        return None
    directory, sign, tag = os.fsdecode(value).removeprefix(_LAYOUT).rpartition(":")
    if not sign or "/" in tag:
        directory, tag = os.fsdecode(value).removeprefix(_LAYOUT), ""
    if not directory:
        raise UsageError(f"{show_path(value)}: give oci:DIRECTORY or oci:DIRECTORY:TAG")
    return Path(directory), tag


def _find(path: Path, tag: str) -> Manifest:
    """The volume of that tag, or the only one."""
    what = show_path(os.fspath(path))
    check_layout(path)
    found = []
    for entry in read_index(path).manifests:
        if entry.media_type != mediatypes.MANIFEST:
            continue
        reference, label = name_of(entry)
        if tag and tag not in (label, str(reference)):
            continue
        data = read_blob(path, entry.digest, MAX_MANIFEST)
        manifest = parse_manifest(data, entry.media_type, str(entry.digest))
        if manifest.artifact_type == ARTIFACT_TYPE:
            found.append(manifest)
    if not found:
        named = f" of the tag {show_path(tag)}" if tag else ""
        raise NotFoundError(f"{what}: has no volume{named}: `fastlayer volume export NAME -o oci:DIR` makes one")
    if len({manifest.raw for manifest in found}) > 1:
        raise UsageError(f"{what}: has several volumes: say which, oci:DIR:TAG")
    for layer in found[0].layers:
        if mediatypes.layer_compression(layer.media_type) is None:
            raise ManifestError(f"{what}: has a volume with a layer of the unknown type {layer.media_type!a}")
    return found[0]


def _labels(manifest: Manifest) -> dict[str, str]:
    text = manifest.annotations.get(LABELS, "{}")
    value = jsontext.parse_object(text.encode("utf-8", "surrogatepass"), "the labels of the volume", MAX_MANIFEST)
    if not all(isinstance(item, str) for item in value.values()):
        raise ManifestError("the labels of the volume are no texts")
    return {str(key): str(item) for key, item in value.items()}
