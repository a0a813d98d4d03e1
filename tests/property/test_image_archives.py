"""Whatever an archive holds, it is read or refused with one line; nothing half-made stays, and both engines agree."""

from __future__ import annotations

import io
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fastlayer import _backend
from fastlayer.content.store import ContentStore
from fastlayer.errors import FastlayerError
from fastlayer.image.formats.scan import StoreSink, scan
from tests.images import docker_members, layer_tar, make_image, make_tar, oci_members

IMAGE = make_image(layer_tar({"a": b"x" * 700}), layer_tar({"b": b"y"}), names=["docker.io/library/a:1"])
ARCHIVES = {"oci": make_tar(oci_members(IMAGE)), "docker": make_tar(docker_members(IMAGE))}
damage = st.one_of(
    st.tuples(st.just("byte"), st.integers(0, 1 << 20), st.integers(0, 255)),
    st.tuples(st.just("cut"), st.integers(0, 1 << 20), st.just(0)),
    st.tuples(st.just("drop"), st.integers(0, 1 << 11), st.just(0)),
    st.tuples(st.just("double"), st.integers(0, 1 << 11), st.just(0)),
)


def damaged(data: bytes, steps: list[tuple[str, int, int]]) -> bytes:
    for kind, place, value in steps:
        if not data:
            return data
        at = place % len(data)
        block = at // 512 * 512
        if kind == "byte":
            data = data[:at] + bytes([value]) + data[at + 1 :]
        elif kind == "cut":
            data = data[:at]
        elif kind == "drop":
            data = data[:block] + data[block + 512 :]
        else:
            data = data[: block + 512] + data[block:]
    return data


def outcome(data: bytes | Path, root: str) -> object:
    store = ContentStore(root)
    try:
        found = scan(io.BytesIO(data) if isinstance(data, bytes) else data, StoreSink(store, "test"))
    except FastlayerError as exc:
        assert str(exc).isprintable(), str(exc)
        return type(exc)
    finally:
        assert store.leftovers() == []
        for digest in store.digests():
            store.check(digest)
    return found


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(sorted(ARCHIVES)), st.lists(damage, min_size=1, max_size=4))
def test_damaged_archives(tmp_path: Path, kind: str, steps: list[tuple[str, int, int]]) -> None:
    data = damaged(ARCHIVES[kind], steps)
    before = _backend.engine()
    results = []
    with tempfile.TemporaryDirectory(dir=tmp_path) as work:
        path = Path(work) / "archive"
        path.write_bytes(data)
        for name in ("native", "baseline"):
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(_backend, "_chosen", _backend._load(name))
                results += [outcome(data, f"{work}/{name}"), outcome(path, f"{work}/{name}-file")]
    assert _backend.engine() is before
    assert results[0] == results[2] and results[1] == results[3]
    assert isinstance(results[0], type) == isinstance(results[1], type), results


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(["oci", "docker"]), st.randoms(use_true_random=False), st.data())
def test_documents_with_anything_in_them(tmp_path: Path, kind: str, chance: object, data: st.DataObject) -> None:
    members = list(oci_members(IMAGE) if kind == "oci" else docker_members(IMAGE))
    place = data.draw(st.integers(0, len(members) - 1))
    name, old = members[place]
    if isinstance(old, bytes):
        members[place] = (
            name,
            damaged(old, [("byte", data.draw(st.integers(0, len(old))), data.draw(st.integers(0, 255)))]),
        )
    with tempfile.TemporaryDirectory(dir=tmp_path) as work:
        outcome(make_tar(members), f"{work}/store")
