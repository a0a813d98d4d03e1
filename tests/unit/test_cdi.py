"""Devices described by files (CDI): what files say, which device a name means, what cannot be done."""

from __future__ import annotations

import importlib.util
import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastlayer.errors import RunError, UsageError
from fastlayer.running import cdi
from fastlayer.running.cdiedits import Edits, edits_of
from fastlayer.running.devices import check_device, device_edits
from fastlayer.running.spec import Bind, Device


@pytest.fixture(autouse=True)
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    found = tmp_path / "etc", tmp_path / "run"
    for place in found:
        place.mkdir()
    monkeypatch.setenv("FASTLAYER_CDI_SPEC_DIRS", ":".join(map(str, found)))
    return found


def describe(place: Path, *devices: dict[str, Any], name: str = "a.json", **fields: Any) -> Path:
    value = {"cdiVersion": "0.6.0", "kind": "vendor.com/dev", "devices": list(devices), **fields}
    (place / name).write_text(json.dumps(value))
    return place / name


def device(name: str, **edits: Any) -> dict[str, Any]:
    return {"name": name, "containerEdits": edits}


def names(wanted: str) -> list[str]:
    return [found.name for found in cdi.find(cdi.registry(), wanted)]


def test_which_devices_a_name_means(places: tuple[Path, Path]) -> None:
    marked = {"annotations": {cdi.CLASS: "fast"}}
    describe(places[0], device("b"), {**device("a"), **marked}, {**device("c"), **marked})
    describe(places[0], device("x"), name="b.json", kind="other.org/dev", annotations={cdi.CLASS: "fast"})
    assert names("vendor.com/dev=b") == ["vendor.com/dev=b"]
    assert names("vendor.com/dev") == ["vendor.com/dev=a"]
    assert names("vendor.com/dev=*") == ["vendor.com/dev=a", "vendor.com/dev=b", "vendor.com/dev=c"]
    assert names("vendor.com/dev=fast") == ["vendor.com/dev=a", "vendor.com/dev=c"]
    assert names("other.org/dev=fast") == ["other.org/dev=x"]
    assert names("vendor.com/dev=z") == names("vendor.com/none") == []


def test_what_several_devices_bring(places: tuple[Path, Path], tmp_path: Path) -> None:
    file = describe(
        places[0],
        device("null", deviceNodes=[{"path": "/dev/some/null", "hostPath": "/dev/null", "type": "c"}], env=["A=1"]),
        device("zero", deviceNodes=[{"path": "/dev/zero"}], additionalGids=[7, 8]),
        containerEdits={
            "env": ["ALL=yes"],
            "mounts": [{"hostPath": str(tmp_path), "containerPath": "/opt/lib", "options": ["ro", "bind", "nosuid"]}],
            "additionalGids": [8, 9],
        },
    )
    found = device_edits(["vendor.com/dev=null", "vendor.com/dev=zero", "/dev/full:/dev/f:rwm"])
    assert found.devices == (
        Device("/dev/null", "/dev/some/null"),
        Device("/dev/zero", "/dev/zero"),
        Device("/dev/full", "/dev/f"),
    )
    assert found.mounts == (Bind(str(tmp_path), "/opt/lib", readonly=True),)
    assert set(found.env) == {"A=1", "ALL=yes"} and set(found.groups) == {7, 8, 9}
    both = cdi.edits(cdi.registry().devices.values())
    assert both.env.count("ALL=yes") == 1  # of the file, once
    assert file.exists()


def test_a_later_directory_counts(places: tuple[Path, Path]) -> None:
    describe(places[0], device("a", env=["X=etc"]), device("b", env=["X=etc"]))
    describe(places[1], device("a", env=["X=run"]))
    assert device_edits(["vendor.com/dev=a"]).env == ("X=run",)
    assert device_edits(["vendor.com/dev=b"]).env == ("X=etc",)


def test_two_of_a_name_are_a_problem(places: tuple[Path, Path]) -> None:
    describe(places[0], device("a"))
    describe(places[0], device("a"), name="b.json")
    (problem,) = cdi.registry().problems
    assert "b.json: vendor.com/dev=a is also in" in problem


def test_a_broken_file_does_not_hide_others(places: tuple[Path, Path]) -> None:
    describe(places[0], device("a"))
    (places[0] / "broken.json").write_text("{")
    os.mkfifo(places[0] / "fifo.json")
    (places[0] / "notes.txt").write_text("nothing")
    assert names("vendor.com/dev=a") == ["vendor.com/dev=a"]
    with pytest.raises(RunError, match=r"no CDI device vendor.com/dev=b is described in .*broken.json: not JSON"):
        device_edits(["vendor.com/dev=b"])


@pytest.mark.parametrize(
    "fields,message",
    [
        ({"cdiVersion": "2.0.0"}, "cdiVersion '2.0.0' is not known"),
        ({"kind": "vendor"}, "the kind 'vendor'"),
        ({"kind": 7}, "the kind 7"),
        ({"devices": {}}, "no list of devices"),
        ({"devices": [7]}, "the name None"),
        ({"devices": [{"name": "a b"}]}, "the name 'a b'"),
        ({"annotations": {"a": 1}}, "annotations are texts"),
    ],
)
def test_files_that_are_no_specification(places: tuple[Path, Path], fields: dict[str, Any], message: str) -> None:
    describe(places[0], **fields)
    (problem,) = cdi.registry().problems
    assert message in problem and problem.startswith(str(places[0]))


@pytest.mark.parametrize(
    "edits,message",
    [
        ([], "not an object"),
        ({"hooks": [{"hookName": "createContainer", "path": "/bin/x"}]}, "wants hooks: .* not run here"),
        ({"intelRdt": {"closID": "x"}}, "intelRdt"),
        ({"netDevices": [{}]}, "netDevices"),
        ({"env": "X=1"}, "env is not a list"),
        ({"env": ["X"]}, "not NAME=value"),
        ({"deviceNodes": ["/dev/null"]}, "path None"),
        ({"deviceNodes": [{"path": "dev/null"}]}, "not an absolute path"),
        ({"deviceNodes": [{"path": "/dev/no-such"}]}, "no such device"),
        ({"deviceNodes": [{"path": "/dev/null", "fileMode": 0o600}]}, "wants fileMode 384"),
        ({"deviceNodes": [{"path": "/dev/null", "major": 8}]}, "wants major 8"),
        ({"deviceNodes": [{"path": "/dev/null", "type": "b"}]}, "wants type 'b'"),
        ({"mounts": [{"hostPath": "/etc", "containerPath": "/x", "type": "nfs"}]}, "of the type 'nfs'"),
        ({"mounts": [{"hostPath": "/etc", "containerPath": "/x", "options": ["noexec"]}]}, "'noexec' is not known"),
        ({"mounts": [{"hostPath": "/no-such", "containerPath": "/x"}]}, "is not there"),
        ({"additionalGids": [0]}, "no number of a group"),
        ({"additionalGids": ["video"]}, "no number of a group"),
    ],
)
def test_edits_that_cannot_be_made(edits: Any, message: str) -> None:
    with pytest.raises(RunError, match=f"^here: .*{message}"):
        edits_of(edits, "here")


def test_devices_as_they_are_may_be_said(places: tuple[Path, Path]) -> None:
    about = os.stat("/dev/null")
    node = {
        "path": "/dev/null",
        "type": "u",
        "major": os.major(about.st_rdev),
        "minor": os.minor(about.st_rdev),
        "fileMode": stat.S_IMODE(about.st_mode),
        "permissions": "rwm",
    }
    assert edits_of({"deviceNodes": [node]}, "x") == Edits(devices=(Device("/dev/null", "/dev/null"),))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.sampled_from(["", "/dev/null", "/etc", "A=1", "c", "ro"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["path", "type"]), inner, max_size=2),
    max_leaves=6,
)
KEYS = [
    "env",
    "deviceNodes",
    "mounts",
    "additionalGids",
    "hostPath",
    "containerPath",
    "path",
    "options",
    "major",
    "uid",
]
VALUES = st.dictionaries(
    st.sampled_from(KEYS), JSON | st.lists(st.dictionaries(st.sampled_from(KEYS), JSON)), max_size=4
)


@given(JSON | VALUES)
def test_nonsense_is_an_error_of_the_description(value: Any) -> None:
    try:
        assert isinstance(edits_of(value, "here"), Edits)
    except RunError as exc:
        assert str(exc).startswith("here: ")


YAML = """\
cdiVersion: "0.6.0"
kind: "vendor.com/dev"
devices:
- name: foo
  containerEdits:
    env:
    - FOO=injected
"""


def test_yaml(places: tuple[Path, Path]) -> None:
    """As the example of BuildKit's documentation; without PyYAML one is told what to do."""
    (places[0] / "foo.yaml").write_text(YAML)
    (places[0] / "bad.yml").write_text("a: [")
    found = cdi.registry()
    if importlib.util.find_spec("yaml") is None:
        assert all("pip install 'fastlayer[cdi]'" in problem for problem in found.problems)
        with pytest.raises(RunError, match="PyYAML, which is not installed"):
            device_edits(["vendor.com/dev=foo"])
    else:
        assert device_edits(["vendor.com/dev=foo"]).env == ("FOO=injected",)
        assert "bad.yml: not YAML" in found.problems[0]


def test_yaml_that_is_json_needs_nothing(places: tuple[Path, Path]) -> None:
    describe(places[0], device("a", env=["X=1"]), name="a.yaml")
    assert device_edits(["vendor.com/dev=a"]).env == ("X=1",)


@pytest.mark.parametrize("word", ["/dev/null", "/dev/null:/dev/x", "/dev/null:rwm", "a/b", "a.c/b-c=0:1", "a/b=*"])
def test_words_for_devices(word: str) -> None:
    check_device(word)


@pytest.mark.parametrize(
    "word", ["", "null", "a/b=", "a/b=*x", "/dev/null:r", "/dev/a:/dev/b:/dev/c", "-a/b", "a/b/c=d"]
)
def test_words_that_are_no_devices(word: str) -> None:
    with pytest.raises(UsageError, match="--device"):
        check_device(word)
