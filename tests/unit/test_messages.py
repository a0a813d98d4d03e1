"""What errors look like: one line that is not longer than a screen, with names and, where there is one, a next step."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

import fastlayer
from fastlayer import _backend
from fastlayer.errors import FastlayerError, StorageError, UnsafeEntryError, show_path
from tests.applying import apply, file, hardlink
from tests.corpus.tarparts import END, pax

LONG = {
    "ascii": b"/".join(b"%d" % number for number in range(20_000)),
    "utf-8": "/".join("é€𝄞" for _ in range(5_000)).encode(),
    "bytes": b"/".join([b"\xff\xfe"] * 5_000),
    "newline in the middle": b"a/" * 3000 + b"\n" + b"/b" * 3000,
}


@pytest.mark.parametrize("name", LONG)
def test_long_paths_are_shown_by_their_ends(name: str) -> None:
    shown = show_path(LONG[name])
    assert len(shown) <= 512
    assert "[...]" in shown
    assert shown.isprintable()
    assert name != "utf-8" or (shown.startswith("é€𝄞/é") and shown.endswith("é€𝄞"))
    assert show_path(b"x" * 512) == "x" * 512


@pytest.mark.parametrize("name", LONG)
def test_both_engines_say_the_same_of_long_paths(tmp_path: Path, name: str) -> None:
    said = []
    for backend in ("native", "baseline"):
        for layer in (
            pax(("path", LONG[name] + b"/../x")) + file(b"x"),
            pax(("path", b"x/" + LONG[name] + b"/.wh.")) + file(b"x"),
        ):
            with pytest.raises(UnsafeEntryError) as refusal:
                apply(_backend._load(backend), tmp_path, layer)
            assert len(str(refusal.value)) < 700
            said.append(str(refusal.value).partition(": ")[0])
    assert said[:2] == said[2:]


def test_link_targets_are_cut_too(engine: Any, tmp_path: Path) -> None:
    with pytest.raises(UnsafeEntryError) as refusal:
        apply(engine, tmp_path, pax(("linkpath", LONG["ascii"])) + hardlink(b"l", b"x"))
    assert len(str(refusal.value)) < 1200


@pytest.fixture
def full() -> str:
    if not os.path.exists("/proc/self/fd"):
        pytest.skip("no /proc")
    return "/proc/self"


def test_refusals_of_the_file_system_name_layer_target_and_next_step(engine: Any, tmp_path: Path, full: str) -> None:
    """/proc takes no files: whatever the errno, the line says where."""
    (tmp_path / "layer.tar").write_bytes(file(b"f", b"x") + END)
    with pytest.raises(StorageError) as refusal:
        fastlayer.apply(tmp_path / "layer.tar", full)
    text = str(refusal.value)
    assert text.startswith(f"{tmp_path}/layer.tar onto /proc/self: f: ")
    assert refusal.value.filename == b"f"


def test_a_next_step_follows_the_cause() -> None:
    error = StorageError(28, "write", b"d/f", within="layer.tar onto /target", hint="free some space")
    assert str(error) == "layer.tar onto /target: d/f: write: No space left on device: free some space"
    assert str(StorageError(28, "write")) == "write: No space left on device: make room there"
    assert str(StorageError(5, "write")) == "write: Input/output error"
    assert isinstance(error, FastlayerError)
