"""OCI values: digests, descriptors, media types, chain ids."""

from __future__ import annotations

import hashlib

import pytest

from fastlayer.oci import Descriptor, Digest, chain_id, chain_ids
from fastlayer.oci.mediatypes import DOCKER_LAYER_GZIP, LAYER_GZIP, LAYER_ZSTD, layer_compression, layer_media_type

EMPTY = "sha256:" + hashlib.sha256(b"").hexdigest()
OTHER = "sha256:" + hashlib.sha256(b"other").hexdigest()


def test_digest_is_a_str_with_parts() -> None:
    digest = Digest(EMPTY)
    assert digest == EMPTY and isinstance(digest, str)
    assert (digest.algorithm, digest.encoded) == ("sha256", EMPTY[7:])


@pytest.mark.parametrize(
    "text", ["", "sha256", "sha256:", EMPTY[:-1], EMPTY + "0", EMPTY.upper(), "md5:" + "0" * 32, "sha256:" + "g" * 64]
)
def test_digest_refuses(text: str) -> None:
    with pytest.raises(ValueError, match="is not a digest"):
        Digest(text)


def test_descriptor_round_trip() -> None:
    descriptor = Descriptor(LAYER_GZIP, Digest(EMPTY), 12, {"a": "b"})
    value = descriptor.to_dict()
    assert value == {"mediaType": LAYER_GZIP, "digest": EMPTY, "size": 12, "annotations": {"a": "b"}}
    assert Descriptor.from_dict(value) == descriptor
    assert "annotations" not in Descriptor(LAYER_GZIP, Digest(EMPTY), 12).to_dict()


@pytest.mark.parametrize(
    "broken",
    [{"mediaType": None}, {"size": -1}, {"size": True}, {"size": "1"}, {"digest": "x"}, {"annotations": {"a": 1}}],
)
def test_descriptor_refuses(broken: dict[str, object]) -> None:
    value = {"mediaType": LAYER_GZIP, "digest": EMPTY, "size": 1}
    with pytest.raises(ValueError):
        Descriptor.from_dict(value | broken)


def test_media_types() -> None:
    assert layer_media_type("zstd") == LAYER_ZSTD
    assert layer_compression(LAYER_ZSTD) == "zstd"
    assert layer_compression(DOCKER_LAYER_GZIP) == "gzip"
    assert layer_compression("text/plain") is None


def test_chain_ids_follow_the_specification() -> None:
    second = "sha256:" + hashlib.sha256(f"{EMPTY} {OTHER}".encode()).hexdigest()
    third = "sha256:" + hashlib.sha256(f"{second} {EMPTY}".encode()).hexdigest()
    assert chain_ids([EMPTY, OTHER, EMPTY]) == [EMPTY, second, third]
    assert chain_id([EMPTY]) == EMPTY
    with pytest.raises(ValueError, match="no chain id"):
        chain_id([])
