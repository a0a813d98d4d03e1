"""The format of shared caches: what is written is read again, and nothing else is."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from fastlayer.builder.cache import key_of
from fastlayer.builder.context.nodes import HEAD
from fastlayer.builder.sharing import inline, nodes, records
from fastlayer.builder.sharing.export import Gathered, Made
from fastlayer.builder.sharing.records import Bundle, Record, StoredLayer
from fastlayer.errors import ManifestError
from fastlayer.image.images import LayerInfo
from fastlayer.oci import mediatypes
from fastlayer.oci.config import ImageConfig, new_config, parse_config
from fastlayer.oci.descriptor import Descriptor
from fastlayer.oci.digest import Digest, digest_of
from fastlayer.oci.manifest import Manifest, new_manifest, parse_manifest
from fastlayer.oci.mediatypes import LAYER_GZIP
from fastlayer.oci.platform import host_platform

LAYER = Digest("sha256:" + "1" * 64)
BARE = Digest("sha256:" + "2" * 64)
BLOB = Descriptor(LAYER_GZIP, Digest("sha256:" + "b" * 64), 77)
INPUTS = {"step": "run", "parent": None, "env": {"A": "1"}, "mounts": [{"_details": [["src", "ab" * 32]]}], "n": 1}


def bundle() -> Bundle:
    run = Record(key_of(INPUTS), "RUN make", INPUTS, LAYER, 5, 6)
    other = {"step": "copy", "facts": ["x"]}
    copy = Record(key_of(other), "COPY a b", other, BARE, 7, 0)
    nothing = {"step": "workdir", "parent": "sha256:" + "3" * 64}
    workdir = Record(key_of(nothing), "WORKDIR /", nothing, None, 7, 0)
    layers = {LAYER: StoredLayer(LAYER, 2048, 9, BLOB), BARE: StoredLayer(BARE, 1024, 0, None)}
    node = Descriptor(records.NODES, Digest("sha256:" + "c" * 64), 5)
    return Bundle((run, copy, workdir), layers, node)


def test_what_is_written_is_read_again() -> None:
    config, manifest = records.to_documents(bundle())
    read = parse_manifest(manifest.raw)
    assert read.artifact_type == records.ARTIFACT and records.is_cache(read) and not read.is_image
    assert read.config.digest == digest_of(config) and [part.digest for part in read.layers] == [
        BLOB.digest,
        "sha256:" + "c" * 64,
    ]
    found = records.from_documents(read, config, "cache")
    assert sorted(found.records) == sorted(bundle().records)
    assert found.layers == bundle().layers and found.nodes == bundle().nodes


def test_the_order_makes_no_difference() -> None:
    made = bundle()
    turned = made._replace(records=made.records[::-1], layers=dict(reversed(made.layers.items())))
    assert records.to_documents(turned) == records.to_documents(made)


def first(name: str, value: Any) -> Callable[[Any], None]:
    return lambda document: document["steps"][0].__setitem__(name, value)


def layer(name: str, value: Any) -> Callable[[Any], None]:
    return lambda document: document["layers"][0].__setitem__(name, value)


def inputs(**more: Any) -> Callable[[Any], None]:
    def change(document: Any) -> None:
        step = document["steps"][0]
        step["inputs"] = {**step["inputs"], **more}
        step["key"] = key_of(step["inputs"])

    return change


HOSTILE: dict[str, Callable[[Any], None]] = {
    "another schema": lambda document: document.__setitem__("schema", 2),
    "a key of other inputs": first("key", "f" * 64),
    "inputs of another key": lambda document: document["steps"][0]["inputs"].__setitem__("extra", 1),
    "no inputs": first("inputs", None),
    "a layer beyond": first("layer", 2),
    "a layer below": first("layer", -1),
    "a layer that is true": first("layer", True),
    "a time that is text": first("created_ns", "1"),
    "a time before all": first("created_ns", -1),
    "a huge time": first("duration_ns", 1 << 70),
    "no instruction": first("what", 1),
    "a diff id that is none": layer("diff_id", "sha256:xyz"),
    "a diff id of another kind": layer("diff_id", "sha512:" + "1" * 128),
    "a size below nothing": layer("size", -1),
    "a blob beyond": layer("blob", 9),
    "a blob that is no layer": layer("blob", 1),
    "a parent that is no digest": inputs(parent="../../etc"),
    "variables that are a list": inputs(env=["A"]),
    "mounts that are text": inputs(mounts="x"),
    "mounts of text": inputs(mounts=["x"]),
    "details that are odd": inputs(_details=[["a"]]),
    "details that are short": inputs(_details=[["a", "00"]]),
    "details that are a number": inputs(_details=7),
    "steps that are an object": lambda document: document.__setitem__("steps", {}),
}


@pytest.mark.parametrize("change", HOSTILE.values(), ids=HOSTILE)
def test_what_no_build_writes_is_refused(change: Callable[[Any], None]) -> None:
    config, manifest = records.to_documents(bundle())
    document = json.loads(config)
    change(document)
    with pytest.raises(ManifestError) as caught:
        records.from_documents(manifest, json.dumps(document).encode(), "the cache")
    assert str(caught.value).startswith("the cache") and "\n" not in str(caught.value)


@pytest.mark.parametrize("data", [b"", b"[]", b"{", b"\xff", b'{"schema":1,"schema":1}'])
def test_no_json_is_refused(data: bytes) -> None:
    with pytest.raises(ManifestError):
        records.from_documents(records.to_documents(bundle())[1], data, "the cache")


def test_text_that_is_no_utf8() -> None:
    """What is only for people is left out; a step that cannot be told at all is."""
    inputs = {"step": "copy", "_details": [["\udcff", "ab" * 32]]}
    record = Record(key_of(inputs), "COPY", inputs, None, 0, 0)
    found = records.presentable(record)
    assert found is not None and found.inputs == {"step": "copy"} and key_of(found.inputs) == record.key
    assert records.presentable(record._replace(what="RUN \udcff")) is None


# ---- nodes -----------------------------------------------------------------------------------------


def node(name: bytes, key: bytes = bytes(32)) -> bytes:
    return HEAD.pack(0o40755, 0, 0, 0, 0, len(name), 0, 0) + name + key


def digest(data: bytes) -> bytes:
    from blake3 import blake3

    return blake3(data).digest()


def test_nodes_are_known_by_their_digest() -> None:
    below = node(b"x")
    top = node(b"below", digest(below))
    kept = {digest(data): data for data in (top, below)}
    packed = nodes.pack(kept)
    assert packed is not None and nodes.unpack(packed, "nodes") == kept
    assert nodes.below([digest(top)], kept.get) == kept
    assert not nodes.is_whole(kept)  # what `x` leads to is not there


@pytest.mark.parametrize("data", [b"\x05\0\0\0ab", b"\x05\0", b"\xff\xff\xff\xffx", b"\x03\0\0\0abc"])
def test_nodes_that_are_none(data: bytes) -> None:
    import zstandard

    with pytest.raises(ManifestError):
        nodes.unpack(zstandard.compress(data), "nodes")
    with pytest.raises(ManifestError):
        nodes.unpack(data, "nodes")


# ---- in an image -----------------------------------------------------------------------------------


def gathered(size: int) -> Gathered:
    """One step of that many characters, and its layer."""
    inputs = {"step": "run", "text": "x" * size, "_details": [["src", "ab" * 32]]}
    info = LayerInfo(LAYER, LAYER, mediatypes.LAYER, 2048, 2048, 9, False)
    return Gathered((Record(key_of(inputs), "RUN make", inputs, LAYER, 5, 6),), {LAYER: Made(info, None)}, frozenset())


class Given:
    """An image that is read."""

    name = "image"

    def __init__(self, config: bytes) -> None:
        self.config = config

    def read(self, blob: Descriptor, limit: int) -> bytes:
        return self.config


def image_of(config: ImageConfig, *layers: Descriptor) -> Manifest:
    return new_manifest(config.descriptor(), layers)


def test_an_image_has_its_records() -> None:
    """Without what is for people; a layer is where the image has it, however it is compressed there."""
    base = new_config(host_platform(), [BARE, LAYER])
    made = inline.with_records(base, gathered(10))
    assert made is not None and made.run == base.run and made.diff_ids == base.diff_ids
    found = inline.read(image_of(made, BLOB._replace(digest=BARE), BLOB), Given(made.raw))  # type: ignore[arg-type]
    (record,) = found.records
    assert record.key == gathered(10).records[0].key and "_details" not in record.inputs
    assert found.layers[LAYER].blob == BLOB


def test_an_image_has_only_so_many() -> None:
    assert inline.with_records(new_config(host_platform(), [LAYER]), gathered(inline.MAX_INLINE)) is None


def test_an_image_whose_layers_are_others() -> None:
    """As when a push has made eStargz of them, which are other tars."""
    made = inline.with_records(new_config(host_platform(), [LAYER]), gathered(10))
    assert made is not None
    other = json.loads(made.raw)
    other["rootfs"]["diff_ids"] = [BARE]
    config = parse_config(json.dumps(other).encode())
    with pytest.raises(ManifestError, match="is not the layer that its build cache says"):
        inline.read(image_of(config, BLOB), Given(config.raw))  # type: ignore[arg-type]
    with pytest.raises(ManifestError, match="has 2 layers"):
        inline.read(image_of(made, BLOB, BLOB), Given(made.raw))  # type: ignore[arg-type]
    bare = new_config(host_platform(), [LAYER])
    with pytest.raises(ManifestError, match="without a build cache"):
        inline.read(image_of(bare, BLOB), Given(bare.raw))  # type: ignore[arg-type]
