"""The rows of COPY and ADD are what the engine takes: placed on the tree below they give what a copy would give."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastlayer import _backend
from fastlayer.layer.placing import place
from tests.copying import close_all, planned
from tests.unit.test_copying_gather import tar
from tests.unit.test_copying_sources import make


@pytest.fixture(autouse=True)
def descriptors() -> Iterator[None]:
    yield
    close_all()


def placed(text: str, tree: Path, lower: Path, work: Path) -> Path:
    """A copy of the lower tree with the layer on it."""
    result = work / "result"
    shutil.rmtree(result, ignore_errors=True)
    shutil.copytree(lower, result, symlinks=True)
    found, copying = planned(text, tree, lower, work, keep_owner=True)
    builder = _backend.engine().changes.TableBuilder()
    for batch in copying.rows():
        builder.add(batch)
    place(builder.finish(), found.roots, result, ignore_chown=os.geteuid() != 0)
    return result


def files(root: Path) -> dict[str, str]:
    found = {}
    for directory, directories, names in os.walk(root):
        for name in (*directories, *names):
            path = Path(directory) / name
            what = f"-> {os.readlink(path)}" if path.is_symlink() else "/" if path.is_dir() else path.read_text()
            found[str(path.relative_to(root))] = what
    return found


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = make(tmp_path / "tree", "a", "d/f", "d/sub/g", "e/f", "d/l -> f", "lonely")
    os.link(root / "d/f", root / "d/sub/again")
    os.link(root / "lonely", tmp_path / "its other name")
    (root / "t").write_bytes(tar("lib/f", "usr/", "new"))
    return root


@pytest.mark.parametrize(
    "text,expected",
    [
        ("COPY a /x/y/", {"x/y/a": "a"}),
        ("COPY d /old", {"old/f": "d/f", "old/sub/g": "d/sub/g", "old/sub/again": "d/f", "old/l": "-> f"}),
        ("COPY d e lonely /new/", {"new/f": "e/f", "new/sub/again": "d/f", "new/lonely": "lonely"}),
        ("COPY lonely /link/x", {"usr/lib/x": "lonely"}),
        ("COPY --link lonely /link/x", {"link/x": "lonely", "link": "/"}),
        ("COPY --parents d/sub/again /old", {"old/d/sub/again": "d/f"}),
        ("ADD t /", {"usr/lib/f": "lib/f", "new": "new", "lib": "-> usr/lib"}),
        ("COPY <<E /old/f\nhere\nE\n", {"old/f": "here\n"}),
    ],
)
def test_what_is_placed(
    engine: _backend.Engine, tree: Path, tmp_path: Path, text: str, expected: dict[str, str]
) -> None:
    links = ("lib -> usr/lib", "link -> usr/lib")
    lower = make(tmp_path / "lower", "old/f", "old/kept", "old/sub/kept", "usr/lib/kept", *links)
    result = files(placed(text, tree, lower, tmp_path))
    assert {name: result.get(name) for name in expected} == expected
    replaced = {name for name in expected if name in files(lower)}
    untouched = {name: what for name, what in files(lower).items() if name not in replaced}
    assert {name: result.get(name) for name in untouched} == untouched
    assert os.listdir(tmp_path / "lower") == os.listdir(lower)


def test_names_of_one_file(engine: _backend.Engine, tree: Path, tmp_path: Path) -> None:
    result = placed("COPY d lonely /x/", tree, make(tmp_path / "lower", "other"), tmp_path)
    assert (result / "x/f").stat().st_ino == (result / "x/sub/again").stat().st_ino
    assert (result / "x/lonely").stat().st_nlink == 1


def test_sources_of_many_kinds_in_one_layer(engine: _backend.Engine, tree: Path, tmp_path: Path) -> None:
    text = "ADD a t <<one <<two /x/\n1\none\n2\ntwo\n"
    result = files(placed(text, tree, make(tmp_path / "lower", "other"), tmp_path))
    assert {name: what for name, what in result.items() if what != "/"} == {
        "other": "other",
        "x/a": "a",
        "x/lib/f": "lib/f",
        "x/new": "new",
        "x/one": "1\n",
        "x/two": "2\n",
    }


def test_several_patterns_with_parents(engine: _backend.Engine, tree: Path, tmp_path: Path) -> None:
    text = "COPY --parents a d/f d/su*/g */f /x/"
    result = files(placed(text, tree, make(tmp_path / "lower", "other"), tmp_path))
    assert {name for name, what in result.items() if what != "/"} == {
        *("other", "x/a", "x/d/f", "x/d/sub/g", "x/e/f"),
    }
