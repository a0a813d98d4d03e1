"""Random stacks of layers: put down one after the other, as overlay layers under the kernel, and as operands."""

from __future__ import annotations

import os
import random
import subprocess
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

import fastlayer
from fastlayer import _backend
from tests import trees
from tests.conftest import needs_root
from tests.property.test_roundtrip import ENGINES, Workshop, workshop

__all__ = ["workshop"]

SEEDS = range(12)
DEPTH = 3


def build(work: Workshop, seed: int, *, whiteout_devices: bool = True) -> list[bytes]:
    """Trees ``t0`` to ``t2``, each an edited copy of the one before, and the layer of each on the one before."""
    work.clear()
    generator = trees.Generator(random.Random(seed))
    if not whiteout_devices:
        generator.kinds = [kind for kind in generator.kinds if kind not in ("char", "block")]
    model = generator.tree(30)
    (work.where / "nothing").mkdir()
    layers = []
    for number in range(DEPTH):
        model.make(work.path(f"t{number}"))
        layers.append(layer_of(work, f"t{number - 1}" if number else None, f"t{number}"))
        (work.where / f"l{number}.tar").write_bytes(layers[-1])
        model = model.clone()
        for _ in range(generator.rng.randint(0, 20)):
            generator.rng.choice(trees.EDITS)(generator, model)
    return layers


def layer_of(work: Workshop, a: str | None, b: str) -> bytes:
    """By both backends; A None is the empty tree."""
    found = []
    for name in ENGINES:
        engine = _backend._load(name)
        with ExitStack() as opened:
            old = None if a is None else open_dir(opened, work.path(a))
            new = open_dir(opened, work.path(b))
            differ = engine.changes.Differ(old, new)
            while differ.step():
                pass
            encoder = engine.encode.Encoder(differ.finish(), [new])
            buffer, layer = bytearray(1 << 20), bytearray()
            while n := encoder.readinto(buffer):
                layer += buffer[:n]
        found.append(bytes(layer))
    assert found[0] == found[1]
    return found[0]


def open_dir(opened: ExitStack, path: str) -> int:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    opened.callback(os.close, fd)
    return fd


def put(engine: Any, layer: bytes, target: str, **options: Any) -> None:
    with ExitStack() as opened:
        extractor = engine.extract.Extractor(open_dir(opened, target), **options)
        extractor.begin_layer()
        extractor.feed(layer)
        extractor.end_layer()


@pytest.mark.parametrize("seed", SEEDS)
def test_layers_one_after_the_other(workshop: Workshop, engine: Any, seed: int) -> None:
    layers = build(workshop, seed)
    target = workshop.path("target")
    os.mkdir(target)
    for layer in layers:
        put(engine, layer, target)
    trees.assert_same_tree(target, workshop.path(f"t{DEPTH - 1}"))


@needs_root
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("format", ["overlay", "overlay-userxattr"])
def test_overlay_layers_under_the_kernel(workshop: Workshop, engine: Any, format: str, seed: int) -> None:
    """The kernel's merge is the tree; the root's attributes are the business of who makes the directories."""
    layers = build(workshop, seed, whiteout_devices=False)
    directories = [workshop.path(f"overlay{number}") for number in range(DEPTH)]
    for layer, directory in zip(layers, directories, strict=True):
        os.mkdir(directory)
        put(engine, layer, directory, format=format)
    merged = workshop.path("merged")
    os.mkdir(merged)
    options = f"ro,lowerdir={':'.join(reversed(directories))}{',userxattr' if format.endswith('userxattr') else ''}"
    if subprocess.run(["mount", "-t", "overlay", "overlay", "-o", options, merged], check=False).returncode:
        pytest.skip("overlay cannot be mounted here")
    try:
        seen, wanted = trees.snapshot(merged), trees.snapshot(workshop.path(f"t{DEPTH - 1}"))
    finally:
        subprocess.run(["umount", merged], check=True)
    del seen[b""], wanted[b""]
    trees.assert_same_tree(seen, wanted, ignore=("names",))  # a link into a lower layer is a copy there


def lines(a: Any, b: Any) -> list[tuple[str, bytes, tuple[str, ...]]]:
    return [(change.kind, change.path, change.what) for change in fastlayer.diff(a, b)]


@pytest.mark.parametrize("seed", SEEDS)
def test_every_kind_of_operand_says_the_same(workshop: Workshop, engine: Any, seed: int) -> None:
    layers = build(workshop, seed)
    stack = [workshop.path(f"l{number}.tar") for number in range(DEPTH)]
    first, last = workshop.path("t0"), workshop.path(f"t{DEPTH - 1}")
    wanted = lines(first, last)
    fastlayer.index(first, workshop.path("index"))
    assert lines(stack, last) == []
    assert lines(workshop.path("index"), last) == wanted
    assert lines(stack[:1], last) == wanted
    assert lines(first, stack) == wanted
    fastlayer.diff(stack[:-1], stack, workshop.path("again.tar"))
    assert Path(workshop.path("again.tar")).read_bytes() == layers[-1]
