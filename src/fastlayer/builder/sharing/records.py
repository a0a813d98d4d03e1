"""The build cache as an artifact of the OCI image-spec: records of steps, and the layers they came to as blobs.

::

    manifest   artifactType application/vnd.fastlayer.buildcache.v1
      config   the records: JSON, below
      layers   blobs of layers, then one of Merkle nodes (``nodes.py``)

    {"schema": 1,
     "layers": [{"diff_id": "sha256:...", "size": 123, "payload": 45, "blob": 0}],
     "steps": [{"key": "...", "what": "RUN make", "layer": 0, "created_ns": 1, "duration_ns": 2, "inputs": {...}}]}

``layer`` is a position in ``layers``, null for a step that changed no file; ``blob`` one in the manifest's layers, null
where the bytes are not with it. Everything is checked before it is used: a key has to be that of its inputs. Nothing
here knows where the blobs are: in a directory, a registry, or an image that has the records in its configuration
(``inline.py``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from fastlayer._values import NamedTuple
from fastlayer.builder.cache import counting, key_of
from fastlayer.errors import UsageError
from fastlayer.oci import jsontext, mediatypes
from fastlayer.oci.descriptor import Descriptor
from fastlayer.oci.digest import Digest, digest_of
from fastlayer.oci.manifest import Manifest, new_manifest

T = TypeVar("T")

SCHEMA = 1
ARTIFACT = "application/vnd.fastlayer.buildcache.v1"
CONFIG = "application/vnd.fastlayer.buildcache.config.v1+json"
NODES = "application/vnd.fastlayer.buildcache.nodes.v1+zstd"
MAX_RECORDS = 64 << 20  # bytes of the configuration
_MAX_WHAT = 1 << 20  # characters of an instruction
_MAX_NUMBER = 1 << 62
_KEY = 32  # bytes of a node's digest


class StoredLayer(NamedTuple):
    """A layer: ``size`` bytes of tar with ``payload`` bytes of files; ``blob``: None where its bytes are not there."""

    diff_id: Digest
    size: int
    payload: int
    blob: Descriptor | None


class Record(NamedTuple):
    """A step. ``layer``: its diff id, None when it changed no file; ``inputs``: what its key is made of."""

    key: str
    what: str
    inputs: Mapping[str, Any]
    layer: Digest | None
    created_ns: int
    duration_ns: int


class Bundle(NamedTuple):
    """A cache. ``nodes``: the blob of Merkle nodes, None where there is none."""

    records: tuple[Record, ...]
    layers: Mapping[Digest, StoredLayer]
    nodes: Descriptor | None = None


# ---- writing ---------------------------------------------------------------------------------------


def to_documents(bundle: Bundle) -> tuple[bytes, Manifest]:
    """The configuration and the manifest. The same cache always gives the same bytes."""
    layers = sorted(bundle.layers.values(), key=lambda layer: layer.diff_id)
    blobs = {layer.blob.digest: layer.blob for layer in layers if layer.blob is not None}
    order = {digest: number for number, digest in enumerate(blobs)}
    config = jsontext.write(
        to_value(bundle, lambda layer: None if layer.blob is None else order[layer.blob.digest]),
    )
    parts = [*blobs.values(), *([bundle.nodes] if bundle.nodes is not None else [])]
    descriptor = Descriptor(CONFIG, digest_of(config), len(config))
    return config, new_manifest(descriptor, parts, more={"artifactType": ARTIFACT})


def to_value(bundle: Bundle, blob: Callable[[StoredLayer], int | None]) -> dict[str, Any]:
    """The records as JSON. ``blob``: where a layer's bytes stand among the layers of the manifest."""
    layers = sorted(bundle.layers.values(), key=lambda layer: layer.diff_id)
    places = {layer.diff_id: number for number, layer in enumerate(layers)}
    return {
        "schema": SCHEMA,
        "layers": [
            {"diff_id": layer.diff_id, "size": layer.size, "payload": layer.payload, "blob": blob(layer)}
            for layer in layers
        ],
        "steps": [_step(record, places) for record in sorted(bundle.records, key=lambda record: record.key)],
    }


def _step(record: Record, places: Mapping[Digest, int]) -> dict[str, Any]:
    return {
        "key": record.key,
        "what": record.what,
        "layer": None if record.layer is None else places[record.layer],
        "created_ns": record.created_ns,
        "duration_ns": record.duration_ns,
        "inputs": record.inputs,
    }


def presentable(record: Record) -> Record | None:
    """A record whose text is all UTF-8, as JSON has to be; without what is only for people if that is why; or None."""
    for found in (record, record._replace(inputs=counting(record.inputs))):
        try:
            jsontext.write([found.what, found.inputs])
        except UsageError:
            continue
        return found
    return None


# ---- reading ---------------------------------------------------------------------------------------


def is_cache(manifest: Manifest) -> bool:
    """Whether a manifest is that of a build cache."""
    return manifest.config.media_type == CONFIG


def from_documents(manifest: Manifest, config: bytes, what: str) -> Bundle:
    """Reads a cache. ``what`` begins messages. Raises ``ManifestError`` for whatever is not as it has to be."""
    return from_value(jsontext.parse_object(config, what, MAX_RECORDS), manifest, what)


def from_value(value: Mapping[str, Any], manifest: Manifest, what: str) -> Bundle:
    """The same of JSON that has been parsed. ``manifest``: that has the layers."""
    if value.get("schema") != SCHEMA:
        jsontext.refuse(what, f"is a build cache of another version than {SCHEMA}: write it again")
    nodes = [part for part in manifest.layers if part.media_type == NODES]
    layers = [_layer(entry, manifest, what) for entry in jsontext.objects(value, "layers", what)]
    records = [_record(entry, layers, what) for entry in jsontext.objects(value, "steps", what)]
    return Bundle(tuple(records), {layer.diff_id: layer for layer in layers}, nodes[0] if nodes else None)


def _layer(entry: Mapping[str, Any], manifest: Manifest, what: str) -> StoredLayer:
    try:
        diff_id = Digest(jsontext.text(entry, "diff_id", what))
    except ValueError as exc:
        jsontext.refuse(what, str(exc))
    if diff_id.algorithm != "sha256":
        jsontext.refuse(what, f"{diff_id}: the diff id of a layer is a sha256")
    blob = _place(entry, "blob", manifest.layers, what)
    if blob is not None and mediatypes.layer_compression(blob.media_type) is None:
        jsontext.refuse(what, f"{blob.digest}: is no layer, but of the type {blob.media_type!a}")
    return StoredLayer(diff_id, _number(entry, "size", what), _number(entry, "payload", what), blob)


def _record(entry: Mapping[str, Any], layers: Sequence[StoredLayer], what: str) -> Record:
    layer = _place(entry, "layer", layers, what)
    text, inputs = jsontext.text(entry, "what", what), jsontext.mapping(entry, "inputs", what)
    key = jsontext.text(entry, "key", what)
    if len(text) > _MAX_WHAT or key != key_of(inputs):
        jsontext.refuse(what, f"the step {key[:12]!a} is not what its key says: do not use this cache")
    _check_inputs(inputs, what)
    created, duration = _number(entry, "created_ns", what), _number(entry, "duration_ns", what)
    return Record(key, text, inputs, layer.diff_id if layer is not None else None, created, duration)


def _check_inputs(inputs: Mapping[str, Any], what: str) -> None:
    """Those that the builder looks into must be of the kind that it writes."""
    parent, env, mounts = inputs.get("parent"), inputs.get("env") or {}, inputs.get("mounts") or []
    try:
        if parent is not None:
            Digest(parent)
        if not isinstance(env, dict) or not isinstance(mounts, list) or not all(isinstance(m, dict) for m in mounts):
            raise ValueError
        for about in (inputs, *mounts):
            for path, digest in about.get("_details") or ():
                if not isinstance(path, str) or len(bytes.fromhex(digest)) != _KEY:
                    raise ValueError
    except (ValueError, TypeError, AttributeError):
        jsontext.refuse(what, "has a step with inputs that no build makes: do not use this cache")


def _place(entry: Mapping[str, Any], name: str, among: Sequence[T], what: str) -> T | None:
    number = entry.get(name)
    if number is None:
        return None
    if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number < len(among):
        jsontext.refuse(what, f"{name} is not one of its {len(among)} layers")
    return among[number]


def _number(entry: Mapping[str, Any], name: str, what: str) -> int:
    number = entry.get(name)
    if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number < _MAX_NUMBER:
        jsontext.refuse(what, f"{name} is no number of the kind it has to be")
    return number
