"""Random stacks of tars with names that collide, links, hard links and markers: both engines make the same columns."""

from __future__ import annotations

import io
import random
import tarfile
from typing import Any

import pytest

from fastlayer import _backend
from fastlayer.errors import LayerError

NAMES = ["a", "a-b", "b", "c", "dir", "dir.d", "l", "x" * 255, "..", ".wh.a", ".wh.b", ".wh.dir", ".wh..wh..opq", "."]
TARGETS = ["a", "/", "..", "../b", "dir", "/dir/a", "l", "a/b", "x" * 300, "."]


def random_layer(rng: random.Random, entries: int) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for _ in range(entries):
            weights = [9, 4, 9, 9, 9, 4, 5, 1, 0.05, 2, 2, 2, 1, 0.4]
            info = tarfile.TarInfo("/".join(rng.choices(NAMES, weights, k=rng.choice([1, 1, 2, 2, 3, 4]))))
            kind = rng.choices("0123456", [8, 2, 2, 1, 1, 6, 1])[0]
            info.type, info.mode = kind.encode(), rng.choice([0o644, 0o755, 0o4711])
            info.mtime = rng.choice([0, 1.25, -3, 1_700_000_000])
            info.uid, info.devmajor, info.devminor = rng.choice([0, 1000]), rng.choice([0, 5]), rng.choice([0, 300])
            content = b""
            if kind == "0":
                content = rng.randbytes(rng.choice([0, 3, 700]))
            elif kind == "1":
                info.linkname = "/".join(rng.choices(NAMES[:7], k=rng.choice([1, 2])))
            elif kind == "2":
                info.linkname = rng.choice(TARGETS)
            info.size = len(content)
            if rng.random() < 0.2:
                info.pax_headers = {"SCHILY.xattr.user.k": "v", "SCHILY.xattr.trusted.t": "no"}
            tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


def merged(engine: str, layers: list[bytes], step: int) -> Any:
    """Every column and event, or the error of the first layer that is refused; bad entries are left out by retrying."""
    merger = _backend._load(engine).merge.Merger()
    events = []
    try:
        for layer in layers:
            merger.begin_layer()
            for at in range(0, len(layer), step):
                events += merger.feed(layer[at : at + step])
            merger.end_layer()
        for number, key in [(e[1], e[3].to_bytes(32, "big")) for e in events if e[0] == "file"]:
            merger.set_key(number, key)
        merger.finish()
    except LayerError as exc:
        return type(exc), str(exc)
    columns = [bytearray() for _ in range(21)]
    while (batch := merger.next_batch(7)) is not None:
        for column, piece in zip(columns, batch, strict=True):
            column += memoryview(piece).cast("B")
    return events, columns, merger.count, merger.size, merger.sparse, merger.entries


def single_entries(layer: bytes) -> list[bytes]:
    """The layer cut into archives of one entry, so that one refused entry does not hide the others."""
    out = []
    with tarfile.open(fileobj=io.BytesIO(layer)) as tar:
        members = tar.getmembers()
    for member, after in zip(members, [*(m.offset for m in members[1:]), None], strict=True):
        out.append(layer[member.offset : after])
    return out


def acceptable(layers: list[bytes]) -> list[bytes]:
    """The same layers without the entries that are refused, one after the other."""
    kept: list[bytes] = []
    for layer in layers:
        good = b""
        for entry in single_entries(layer):
            if isinstance(merged("baseline", [*kept, good + entry], 1 << 20)[0], list):
                good += entry
        kept.append(good or bytes(1024))
    return kept


@pytest.mark.parametrize("seed", range(40))
def test_both_engines_merge_alike(seed: int) -> None:
    rng = random.Random(seed)
    layers = [random_layer(rng, rng.choice([3, 10, 25])) for _ in range(rng.choice([1, 2, 3]))]
    for stack in (layers, acceptable(layers)):
        step = rng.choice([100, 512, 1 << 20])
        assert merged("native", stack, step) == merged("baseline", stack, step)
    assert isinstance(merged("native", acceptable(layers), 1 << 20)[0], list)
