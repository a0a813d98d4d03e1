"""Manifests, indexes, configurations: both dialects, what is kept, and what is refused."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastlayer.errors import FastlayerError, ManifestError
from fastlayer.oci import Descriptor, Digest, jsontext, mediatypes
from fastlayer.oci.config import History, RunConfig, check_consistent, new_config, parse_config
from fastlayer.oci.image_index import MAX_DEPTH, ImageIndex, new_index, parse_index, walk
from fastlayer.oci.manifest import Manifest, new_manifest, parse_manifest, total_size
from fastlayer.oci.platform import Platform


def digest(data: bytes) -> Digest:
    return Digest("sha256:" + hashlib.sha256(data).hexdigest())


def describe(data: bytes, media_type: str = mediatypes.LAYER_GZIP) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": digest(data), "size": len(data)}


OCI: dict[str, Any] = {
    "schemaVersion": 2,
    "mediaType": mediatypes.MANIFEST,
    "config": describe(b"{}", mediatypes.CONFIG),
    "layers": [describe(b"a"), describe(b"bb", mediatypes.LAYER_ZSTD), describe(b"c", mediatypes.LAYER)],
    "annotations": {"a": "b"},
}
DOCKER: dict[str, Any] = {
    "schemaVersion": 2,
    "mediaType": mediatypes.DOCKER_MANIFEST,
    "config": describe(b"{}", mediatypes.DOCKER_CONFIG),
    "layers": [describe(b"a", mediatypes.DOCKER_LAYER_GZIP), describe(b"c", mediatypes.DOCKER_LAYER)],
}
INDEX: dict[str, Any] = {
    "schemaVersion": 2,
    "mediaType": mediatypes.INDEX,
    "manifests": [
        {**describe(b"m", mediatypes.MANIFEST), "platform": {"os": "linux", "architecture": "amd64"}},
        {**describe(b"n", mediatypes.MANIFEST), "platform": {"os": "linux", "architecture": "arm", "variant": "v7"}},
        {
            **describe(b"o", mediatypes.MANIFEST),
            "platform": {"os": "unknown", "architecture": "unknown"},
            "annotations": {"vnd.docker.reference.type": "attestation-manifest"},
        },
    ],
}
CONFIG: dict[str, Any] = {
    "architecture": "amd64",
    "os": "linux",
    "created": "2024-01-01T00:00:00Z",
    "author": "me",
    "docker_version": "20.10",
    "container_config": {"Cmd": ["x"]},
    "config": {
        "Hostname": "",
        "User": "1000:1000",
        "Env": ["A=1", "PATH=/bin"],
        "Cmd": ["sh", "-c", "true"],
        "Entrypoint": None,
        "ExposedPorts": {"80/tcp": {}},
        "Volumes": {"/data": {}},
        "WorkingDir": "/w",
        "Labels": {"l": "v"},
        "OnBuild": None,
        "Healthcheck": {"Test": ["CMD", "x"], "Interval": 5},
        "ArgsEscaped": True,
    },
    "rootfs": {"type": "layers", "diff_ids": [digest(b"1"), digest(b"2")]},
    "history": [
        {"created_by": "ADD", "created": "2024-01-01T00:00:00Z"},
        {"created_by": "ENV A=1", "empty_layer": True, "x": 1},
        {"created_by": "RUN", "comment": "c"},
    ],
}


def dumps(value: Any) -> bytes:
    return json.dumps(value).encode()


@pytest.mark.parametrize("value", [OCI, DOCKER], ids=["oci", "docker"])
def test_manifest_keeps_its_bytes(value: dict[str, Any]) -> None:
    data = json.dumps(value, indent=3).encode() + b"\n"
    manifest = parse_manifest(data, value["mediaType"])
    manifest.require_image()
    assert (manifest.to_bytes(), manifest.digest, manifest.media_type) == (data, digest(data), value["mediaType"])
    assert manifest.descriptor == Descriptor(value["mediaType"], digest(data), len(data))
    assert [layer.to_dict() for layer in manifest.layers] == value["layers"]
    assert manifest.config.to_dict() == value["config"]
    assert manifest.annotations == value.get("annotations", {})


def test_media_type_by_document_descriptor_or_default() -> None:
    bare = {key: item for key, item in OCI.items() if key != "mediaType"}
    assert parse_manifest(dumps(bare)).media_type == mediatypes.MANIFEST
    assert parse_manifest(dumps(bare), mediatypes.DOCKER_MANIFEST).media_type == mediatypes.DOCKER_MANIFEST
    with pytest.raises(ManifestError, match="but its descriptor says"):
        parse_manifest(dumps(OCI), mediatypes.DOCKER_MANIFEST)


def test_unknown_properties_are_kept() -> None:
    layer = {**describe(b"a"), "urls": ["http://x"], "data": "YQ==", "vendor": {"x": [1]}}
    manifest = parse_manifest(dumps({**OCI, "layers": [layer], "org.vendor": 1}))
    assert manifest.value["org.vendor"] == 1
    assert manifest.layers[0].to_dict() == layer


def test_new_manifest_round_trip() -> None:
    manifest = parse_manifest(dumps(OCI))
    made = new_manifest(manifest.config, manifest.layers, annotations={"a": "b"})
    assert parse_manifest(made.to_bytes()).value == OCI
    assert made == new_manifest(manifest.config, manifest.layers, annotations={"a": "b"})


@pytest.mark.parametrize(
    "media_type",
    [
        "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
        "application/vnd.oci.image.layer.nondistributable.v1.tar",
        "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd",
    ],
)
def test_foreign_layers_are_refused(media_type: str) -> None:
    manifest = parse_manifest(dumps({**OCI, "layers": [describe(b"a", media_type)]}))
    with pytest.raises(ManifestError, match="layer 1 is not distributable"):
        manifest.require_image()


def test_artifacts_are_no_images() -> None:
    layers = [describe(b"a", "application/vnd.in-toto+json")]
    with pytest.raises(ManifestError, match="layer 1 is of the unknown type"):
        parse_manifest(dumps({**OCI, "layers": layers})).require_image()
    artifact = parse_manifest(dumps({**OCI, "config": describe(b"{}", mediatypes.EMPTY), "artifactType": "x/y"}))
    assert not artifact.is_image and artifact.artifact_type == "x/y"
    with pytest.raises(ManifestError, match="is no image"):
        artifact.require_image()


BROKEN: dict[str, Any] = {
    "schemaVersion": [{**OCI, "schemaVersion": n} for n in (None, 1, 3, "2", 2.0, True, [2])],
    "mediaType": [{**OCI, "mediaType": n} for n in (1, "text/plain", mediatypes.INDEX, *mediatypes.SCHEMA_1)],
    "config": [{**OCI, "config": n} for n in (None, [], "x", {}, {"mediaType": "x"}, {**OCI["config"], "size": -1})],
    "size": [{**OCI, "layers": [{**describe(b""), "size": n}]} for n in (None, "1", 1.5, True, -1, 1 << 63, 10**30)],
    "digest": [{**OCI, "layers": [{**describe(b""), "digest": n}]} for n in (None, 1, "", "x" * 9999, "sha256:../x")],
    "layers": [{**OCI, "layers": n} for n in ({}, "x", [1], [None], [[]], 1)],
    "annotations": [{**OCI, "annotations": n} for n in ([], {"a": 1}, "x")],
    "ambiguous": [{**OCI, n: []} for n in ("manifests", "fsLayers", "signatures", "Layers", "CONFIG", "schemaversion")],
    "descriptor": [{**OCI, "layers": [{**describe(b""), "Digest": digest(b"x")}]}],
    "top": [[], None, 1, "x", True],
}


@pytest.mark.parametrize("which", BROKEN)
def test_broken_manifests_are_refused(which: str) -> None:
    for value in BROKEN[which]:
        refused(lambda value=value: parse_manifest(dumps(value)))


TRAPS = [
    b"",
    b"{",
    b"\xff\xfe{}",
    b"\xef\xbb\xbf{}",
    b"{}garbage",
    b"{}{}",
    b'{"a": NaN}',
    b'{"a": -Infinity}',
    b'{"a": 1e999, "schemaVersion": 2}',
    b'{"schemaVersion": 2, "schemaVersion": 2}',
    b'{"a": {"b": 1, "b": 2}}',
    b'{"a": "\\ud800"}',
    b'{"\\udfff": 1}',
    b"[" * 100_000,
    b"[" * 100_000 + b"]" * 100_000,
    b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    b'{"a": ' + b"[" * 65 + b"]" * 65 + b"}",
    b'{"a": ' + b"9" * 5000 + b"}",
    b'"' + b"[" * 100_000,
    b'{"a": "\x00"}',
    b'{"a": "\n"}',
    "{}".encode("utf-16"),
    b" " * (5 << 20),
]
READERS: dict[str, Callable[[bytes], Any]] = {
    "manifest": parse_manifest,
    "index": parse_index,
    "config": parse_config,
}


def refused(call: Callable[[], Any]) -> str:
    with pytest.raises(ManifestError) as caught:
        call()
    line = str(caught.value)
    assert line.isprintable() and len(line) < 700, line[:2000]
    return line


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("trap", TRAPS, ids=lambda data: ascii(data[:20]))
def test_json_traps(reader: str, trap: bytes) -> None:
    refused(lambda: READERS[reader](trap))


@pytest.mark.parametrize("reader", READERS)
def test_json_traps_are_named_in_our_words(reader: str) -> None:
    words = {
        b'{"a": ' + b"9" * 5000 + b"}": "a number of 5000 digits is too large",
        b'{"a": -' + b"9" * 400 + b"}": "digits is too large",
        b'{"a": 1e999}': "a number is too large",
        b'{"a": ' + b"[" * 65 + b"]" * 65 + b"}": "nests more than 64 objects and arrays",
        b'{"a": {"b": 1, "b": 2}}': "key 'b' occurs twice",
        b'{"a": NaN}': "NaN is no number of JSON",
    }
    for data, why in words.items():
        line = refused(lambda data=data: READERS[reader](data))
        assert why in line and "sys." not in line


def test_braces_in_strings_do_not_count_as_depth() -> None:
    data = dumps({**OCI, "annotations": {"a": "[{" * 500 + '\\"[' * 100}})
    assert parse_manifest(data).annotations["a"].startswith("[{")


def test_a_deep_caller_meets_no_recursion_error() -> None:
    data = dumps({**OCI, "x": json.loads("[" * 50 + "]" * 50)})

    def down(left: int) -> None:
        if left:
            down(left - 1)
            return
        try:
            parse_manifest(data)
        except FastlayerError:
            pass

    for margin in range(12, 60):
        depth = 0
        frame = sys._getframe()
        while frame is not None:
            depth, frame = depth + 1, frame.f_back  # type: ignore[assignment]
        try:
            down(sys.getrecursionlimit() - depth - margin)
        except RecursionError as exc:
            # our own functions may meet the limit; the decoder must not
            assert "decod" not in str(exc)


def test_sizes_are_bounded() -> None:
    big = dumps({**OCI, "annotations": {"a": "x" * (4 << 20)}})
    assert "the limit is 4194304" in refused(lambda: parse_manifest(big))
    assert parse_config(dumps({**CONFIG, "x": "y" * (5 << 20)}))
    refused(lambda: parse_config(dumps({**CONFIG, "x": "y" * (9 << 20)})))


@settings(deadline=None)
@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=5),
                    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
                    max_leaves=8),
       st.sampled_from([*OCI, *CONFIG, "manifests"]), st.sampled_from(sorted(READERS)))  # fmt: skip
def test_any_value_in_any_place_is_read_or_refused(value: Any, key: str, reader: str) -> None:
    base = {"manifest": OCI, "index": INDEX, "config": CONFIG}[reader]
    for changed in ({**base, key: value}, value):
        data = dumps(changed)
        try:
            found = READERS[reader](data)
        except ManifestError as exc:
            assert str(exc).isprintable()
            continue
        assert found.to_bytes() == data and found.digest == digest(data)


# ---- indexes


def test_index_keeps_its_bytes_and_chooses() -> None:
    data = json.dumps(INDEX, indent=1).encode()
    index = parse_index(data, mediatypes.INDEX)
    assert (index.to_bytes(), index.digest) == (data, digest(data))
    assert [d.to_dict() for d in index.manifests] == INDEX["manifests"]
    assert index.candidates(Platform("linux", "amd64")) == [index.manifests[0]]
    assert index.candidates(Platform("linux", "arm64")) == [index.manifests[1]]
    assert index.candidates(Platform("linux", "s390x")) == []
    assert new_index(index.manifests).value == INDEX


def test_docker_lists_are_indexes() -> None:
    data = dumps({**INDEX, "mediaType": mediatypes.DOCKER_INDEX})
    assert parse_index(data).media_type == mediatypes.DOCKER_INDEX


@pytest.mark.parametrize(
    "change",
    [{"config": {}}, {"layers": []}, {"Manifests": []}, {"manifests": {}}, {"manifests": [1]}, {"schemaVersion": 1},
     {"mediaType": mediatypes.MANIFEST}, {"manifests": [{"mediaType": "x"}]},
     {"manifests": [{**describe(b""), "platform": []}]}, {"manifests": [{**describe(b""), "platform": {"os": 1}}]}],
    ids=str,
)  # fmt: skip
def test_broken_indexes_are_refused(change: dict[str, Any]) -> None:
    refused(lambda: parse_index(dumps({**INDEX, **change})))


class Blobs(dict[Digest, bytes]):
    def put(self, document: Manifest | ImageIndex) -> Descriptor:
        self[document.digest] = document.to_bytes()
        return document.descriptor

    def fetch(self, descriptor: Descriptor, limit: int) -> bytes:
        return self[descriptor.digest]


def test_walk_is_bounded_and_sees_everything_once() -> None:
    blobs = Blobs()
    leaf = blobs.put(parse_manifest(dumps(OCI)))
    both = blobs.put(new_index([leaf, leaf]))
    top = blobs.put(new_index([both, leaf, both]))
    assert [(n.descriptor, n.depth) for n in walk(top, blobs.fetch)] == [(top, 0), (both, 1), (leaf, 2)]
    gone = Descriptor(mediatypes.MANIFEST, digest(b"gone"), 4)
    partial = blobs.put(new_index([gone, leaf]))
    found = list(walk(partial, blobs.fetch, lambda d: d.digest not in blobs))
    assert [n.document is None for n in found] == [False, True, False]
    deep = leaf
    for _ in range(MAX_DEPTH + 1):
        deep = blobs.put(new_index([deep]))
    assert list(walk(blobs.put(new_index([leaf])), blobs.fetch))
    refused(lambda: list(walk(deep, blobs.fetch)))


# ---- configurations


def test_config_as_docker_writes_it() -> None:
    data = dumps(CONFIG)
    config = parse_config(data)
    assert (config.to_bytes(), config.digest) == (data, digest(data))
    assert (str(config.platform), config.created, config.author) == ("linux/amd64", "2024-01-01T00:00:00Z", "me")
    assert config.run.cmd == ("sh", "-c", "true") and config.run.entrypoint is None
    assert config.run.extra == {"Hostname": "", "ArgsEscaped": True}
    assert config.run.exposed_ports == ("80/tcp",) and config.run.volumes == ("/data",)
    assert config.history[1] == History(created_by="ENV A=1", empty_layer=True, extra={"x": 1})
    assert config.diff_ids == (digest(b"1"), digest(b"2"))
    assert config.run.to_dict() == {k: v for k, v in CONFIG["config"].items() if v is not None}
    assert [step.to_dict() for step in config.history] == CONFIG["history"]


def test_empty_and_absent_commands_differ() -> None:
    run = parse_config(dumps({"config": {"Cmd": [], "Entrypoint": "old"}})).run
    assert (run.cmd, run.entrypoint) == ((), ("old",))
    assert RunConfig(cmd=()).to_dict() == {"Cmd": []}


def test_edit_keeps_what_it_does_not_know() -> None:
    config = parse_config(dumps({**CONFIG, "vendor": {"x": 1}}))
    run = config.run._replace(user="root")
    new = config.edit(run=run, layers=[digest(b"3")], history=[History(created_by="RUN x")], created="now")
    assert new.value["vendor"] == {"x": 1} and "container_config" not in new.value
    assert new.diff_ids == (*config.diff_ids, digest(b"3"))
    assert new.history[:3] == config.history and new.history[3].created_by == "RUN x"
    assert (new.run, new.created, new.author) == (run, "now", "me")


def test_new_config_is_deterministic() -> None:
    made = [new_config(Platform("linux", "arm", "v7"), [digest(b"1")], history=[History("t", "ADD")]) for _ in "ab"]
    assert made[0] == made[1]
    assert made[0].platform == Platform("linux", "arm", "v7")
    assert made[0].descriptor() == Descriptor(mediatypes.CONFIG, made[0].digest, len(made[0].raw))


@pytest.mark.parametrize(
    "change",
    [{"rootfs": []}, {"rootfs": {"type": "x"}}, {"rootfs": {"type": "layers", "diff_ids": ["x"]}},
     {"rootfs": {"type": "layers", "diff_ids": [1]}}, {"rootfs": {"diff_ids": []}}, {"history": {}}, {"history": [1]},
     {"history": [{"empty_layer": 1}]}, {"config": []}, {"config": {"Env": "A=1"}}, {"config": {"Env": [1]}},
     {"config": {"Labels": {"a": 1}}}, {"config": {"Cmd": [1]}}, {"os": 1}, {"created": 5}, {"Rootfs": {}},
     {"config": {"ExposedPorts": []}}, {"config": {"Healthcheck": "x"}}],
    ids=str,
)  # fmt: skip
def test_broken_configs_are_refused(change: dict[str, Any]) -> None:
    refused(lambda: parse_config(dumps({**CONFIG, **change})))


def test_layers_diff_ids_and_history_must_fit() -> None:
    manifest = parse_manifest(dumps({**OCI, "layers": [describe(b"a"), describe(b"b")]}))
    check_consistent(manifest, parse_config(dumps(CONFIG)))
    check_consistent(manifest, parse_config(dumps({**CONFIG, "history": None})))
    for layers in ([], [describe(b"a")], [describe(b"a")] * 3):
        other = parse_manifest(dumps({**OCI, "layers": layers}))
        assert "diff ids" in refused(lambda other=other: check_consistent(other, parse_config(dumps(CONFIG))))
    short = parse_config(dumps({**CONFIG, "history": CONFIG["history"][:2]}))
    assert "history has 1 steps" in refused(lambda: check_consistent(manifest, short))


def test_sizes_count_each_blob_once() -> None:
    manifest = parse_manifest(dumps({**OCI, "layers": [describe(b"aa"), describe(b"aa"), describe(b"b")]}))
    assert total_size(manifest.layers) == 3


def test_json_is_compact_and_exact() -> None:
    assert jsontext.write({"b": "<é&>", "a": [1]}) == '{"b":"<é&>","a":[1]}'.encode()
