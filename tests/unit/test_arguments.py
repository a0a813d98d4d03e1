"""Arguments of the wrong type: one clear line from every public function, before anything is done."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import fastlayer
from fastlayer.errors import OperandError, UsageError

CALLS: dict[str, Callable[..., Any]] = {
    "diff": lambda t, **k: fastlayer.diff(**{"a": None, "b": t / "tree", "output": t / "out.tar", **k}),
    "diff_upper": lambda t, **k: fastlayer.diff_upper(**{"upper": t / "tree", "lowers": [t / "empty"], **k}),
    "write": lambda t, **k: fastlayer.diff(None, t / "tree").write(**{"output": t / "out.tar", **k}),
    "apply": lambda t, **k: fastlayer.apply(**{"layers": [t / "layer.tar"], "target": t / "new", **k}),
    "index": lambda t, **k: fastlayer.index(**{"path": t / "tree", "output": t / "idx", **k}),
    "open": lambda t, **k: fastlayer.TreeIndex.open(**{"path": t / "old.idx", **k}),
    "clone": lambda t, **k: fastlayer.clone(**{"src": t / "tree", "dst": t / "copy", **k}),
    "copy_up": lambda t, **k: fastlayer.copy_up(**{"lower": t / "tree", "upper": t / "empty", "path": "f", **k}),
    "chunks": lambda t, **k: fastlayer.chunks(**{"source": t / "layer.tar", **k}),
}
WRONG: list[tuple[str, dict[str, Any]]] = [
    *[(call, {"progress": 5}) for call in ("diff", "diff_upper", "write", "apply", "index", "clone")],
    *[(call, {"jobs": jobs}) for call in ("diff", "diff_upper", "write", "apply") for jobs in ("2", 1.5, True, 0)],
    *[(call, {"level": "9"}) for call in ("diff", "diff_upper", "write")],
    *[(call, {"source_date_epoch": "now"}) for call in ("diff", "diff_upper", "write")],
    *[(call, {"compression": 5}) for call in ("diff", "diff_upper", "write")],
    *[(call, {name: value}) for call in ("diff", "diff_upper") for name in ("compare", "xattrs") for value in (3, {})],
    *[("diff", {name: value}) for name in ("a", "b") for value in (3.5, {}, object(), True, [3.5], [None])],
    *[(call, {"output": value}) for call in ("diff", "write", "index") for value in (3.5, object(), [])],
    *[("diff_upper", {"upper": value}) for value in (3.5, None, True, [])],
    *[("diff_upper", {"lowers": value}) for value in (3.5, None, [3.5], [None], {})],
    *[("apply", {"layers": value}) for value in (3.5, None, [3.5], {}, [True])],
    *[("apply", {"target": value}) for value in (3.5, None, True, [])],
    *[("apply", {name: value}) for name in ("digest", "diff_id") for value in (5, [5], {}, b"sha256:")],
    *[
        ("apply", {name: value})
        for name in ("uid_map", "gid_map")
        for value in ([(0, 1)], [5], 5, "0:1:2", [("0", 1, 2)], [(0, 1, 2.5)], {0: 1})
    ],
    *[("apply", {"limits": value}) for value in ({}, None, (1, 2), fastlayer.Limits(max_size="1"))],  # type: ignore[arg-type]
    *[
        ("apply", {"ignore_chown": "no"}),
        ("apply", {"skip_devices": "no"}),
        ("apply", {"format": 5}),
        ("apply", {"durability": []}),
    ],
    *[("index", {"path": value}) for value in (3.5, None, True, {})],
    *[("index", {"content": "no"}), ("index", {"xattrs": 5})],
    *[("open", {"path": value}) for value in (3.5, None, True, {})],
    *[("clone", {name: value}) for name in ("src", "dst") for value in (3.5, None, True, [])],
    *[("copy_up", {name: value}) for name in ("lower", "upper", "path") for value in (3.5, None, True, [])],
    *[("copy_up", {"workdir": 3.5}), ("copy_up", {"path": 3})],
    *[("chunks", {"source": value}) for value in (3.5, None, {}, True, object())],
    *[("chunks", {name: value}) for name in ("min_size", "avg_size", "max_size") for value in ("64", None, 65536.0)],
]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "f").write_bytes(b"content")
    (tmp_path / "empty").mkdir()
    fastlayer.diff(None, tmp_path / "tree", tmp_path / "layer.tar")
    fastlayer.index(tmp_path / "tree", tmp_path / "old.idx")
    return tmp_path


@pytest.mark.parametrize("call", CALLS)
def test_the_calls_work_with_the_right_ones(place: Path, call: str) -> None:
    CALLS[call](place)


@pytest.mark.parametrize(("call", "wrong"), WRONG)
def test_a_wrong_type_is_one_clear_line(place: Path, call: str, wrong: dict[str, Any]) -> None:
    before = sorted(os.listdir(place))
    with pytest.raises((UsageError, OperandError)) as caught:
        CALLS[call](place, **wrong)
    assert "\n" not in str(caught.value)
    assert ": " in str(caught.value) or " must " in str(caught.value) or " not " in str(caught.value)
    assert sorted(os.listdir(place)) == before


def test_names_are_in_the_message() -> None:
    for wrong, text in (({"jobs": "2"}, "jobs='2'"), ({"uid_map": [(0, 1)]}, r"uid_map=\[\(0, 1\)\]")):
        with pytest.raises(UsageError, match=text):
            fastlayer.apply("layer", "target", **wrong)  # type: ignore[arg-type]
