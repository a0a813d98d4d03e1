"""What Python programs give to ``run``, ``create`` and ``build``: each of its kind, or refused with what to give."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import fastlayer
from fastlayer.container import given
from fastlayer.container.options import Options
from fastlayer.errors import UsageError
from tests.containers import Command


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"memory": "64m"}, "memory: '64m' is not a whole number"),
        ({"memory": True}, "memory: True is not a whole number"),
        ({"memory": 1.5}, "not a whole number"),
        ({"size": "10g"}, "size: '10g' is not a whole number"),
        ({"stop_timeout": "1"}, "stop_timeout: '1'"),
        ({"cpus": "1"}, "cpus: '1' is not a number"),
        ({"volumes": "/a:/b"}, r"volumes: '/a:/b' is no list of words: give \['/a:/b'\]"),
        ({"tmpfs": "/a"}, "tmpfs: '/a' is no list"),
        ({"mounts": [{"type": "bind"}]}, "mounts: .* is not a text"),
        ({"cap_add": "NET_RAW"}, "cap_add: 'NET_RAW' is no list"),
        ({"cap_add": ["NET_RAW", 5]}, "cap_add: 5 is not a text"),
        ({"cap_add": 5}, "cap_add: 5 is no list"),
        ({"env": "A=1"}, "env: 'A=1' is no list"),
        ({"labels": ["a=b"]}, "labels: .* is no mapping"),
        ({"labels": {"a": 1}}, "labels: 1 is not a text"),
        ({"workdir": b"/"}, "workdir: b'/' is not a text"),
        ({"read_only": "yes"}, "read_only: 'yes' is neither"),
        ({"add_hosts": "a:1"}, "add_hosts: 'a:1' is no mapping"),
        ({"add_hosts": ["a:1"]}, "add_hosts: .* is no mapping"),
        ({"entrypoint": [1]}, "entrypoint: 1 is not a text"),
        ({"nope": 1}, "nope: there is no such option: add_hosts, "),
    ],
)
def test_what_is_refused(asked: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        given.options_of(asked)


def test_what_is_taken() -> None:
    made = given.options_of(
        {
            "env": {"A": "1", "B": 2, "C": None},
            "user": 1000,
            "add_hosts": {"db": "10.0.0.1"},
            "entrypoint": "/bin/sh",
            "cap_drop": {"ALL"},
            "cpus": 2,
            "hostname": None,
            "volumes": ["/a:/b:ro"],
            "tmpfs": ("/c",),
        }
    )
    assert made._replace(mounts=()) == Options(
        env=("A=1", "B=2", "C"),
        user="1000",
        add_hosts=(("db", "10.0.0.1"),),
        entrypoint=("/bin/sh",),
        cap_drop=("ALL",),
        cpus=2,
        mounts=(),
    )
    assert [(one.kind, one.target, one.readonly) for one in made.mounts] == [
        ("bind", "/b", True),
        ("tmpfs", "/c", False),
    ]
    assert given.options_of({"entrypoint": ""}).entrypoint == () and given.options_of({}) == Options()


@pytest.mark.parametrize(
    ("words", "named", "message"),
    [
        ((["ls", "/"],), {}, "the words of a program are texts of their own"),
        ((b"ls",), {}, "the words of a program"),
        (("ls",), {"name": 5}, "name: 5 is not a text"),
        (("ls",), {"platform": 5}, "platform: 5 is not a text"),
        (("cat",), {"stdin": "text"}, "stdin: str is not bytes"),
    ],
)
def test_a_call_that_is_wrong_makes_nothing(
    words: tuple[Any, ...], named: dict[str, Any], message: str, tmp_path: Path
) -> None:
    command = Command(tmp_path / "store", FASTLAYER_DRIVER="vfs")
    (tmp_path / "tree").mkdir()
    command.out("import", "-q", tmp_path / "tree", "box")
    with pytest.raises(UsageError, match=message):
        fastlayer.run("box", *words, root=command.root, driver="vfs", **named)
    assert command.out("ps", "-aq") == ""


@pytest.mark.parametrize(
    ("method", "words", "named", "message"),
    [
        ("exec", ("id",), {"workdir": 1}, "workdir: 1 is not a text"),
        ("exec", ("id",), {"user": 1.5}, "user: 1.5 is not a text"),
        ("exec", ("id",), {"privileged": "yes"}, "privileged: 'yes' is neither"),
        ("kill", (1.5,), {}, "signal: 1.5 is not a text"),
        ("kill", (0,), {}, "Invalid signal: 0"),
        ("kill", (-9,), {}, "Invalid signal: -9"),
        ("stop", (), {"timeout": "1"}, "timeout: '1' is not a number"),
        ("logs", (), {"tail": "1"}, "tail: '1' is not a whole number"),
        ("logs", (), {"tail": -1}, "tail: -1 is below 0"),
        ("commit", (5,), {}, "name: 5 is not a text"),
        ("commit", ("a:1",), {"message": None}, "message: None is not a text"),
        ("commit", ("a:1",), {"changes": "CMD x"}, r"changes: 'CMD x' is no list of words: give \['CMD x'\]"),
        ("commit", ("a:1",), {"pause": "no"}, "pause: 'no' is neither"),
        ("checkpoint", (1,), {}, "name: 1 is not a text"),
        ("rollback", (None,), {}, "name: None is not a text"),
        ("fork", (1,), {}, "name: 1 is not a text"),
        ("fork", ("b",), {"checkpoint": 1}, "checkpoint: 1 is not a text"),
        ("rename", (1,), {}, "name: 1 is not a text"),
        ("remove", (), {"force": "no"}, "force: 'no' is neither"),
    ],
)
def test_methods_of_a_container(
    method: str, words: tuple[Any, ...], named: dict[str, Any], message: str, tmp_path: Path
) -> None:
    (tmp_path / "tree").mkdir()
    command = Command(tmp_path / "store", FASTLAYER_DRIVER="vfs")
    command.out("import", "-q", tmp_path / "tree", "box")
    made = fastlayer.create("box", "sh", name="c", root=command.root)
    with pytest.raises(UsageError, match=message):
        getattr(made, method)(*words, **named)
    assert command.out("ps", "-a", "--format", "{{.Names}} {{.State}}").split() == ["c", "created"]


@pytest.mark.parametrize(
    ("method", "words", "named", "message"),
    [
        ("create", (1,), {}, "volume: 1 is not a text"),
        ("create", ("new",), {"driver": None}, "driver: None is not a text"),
        ("create", ("new",), {"options": ["type=tmpfs"]}, "options: .* is no mapping"),
        ("create", ("new",), {"options": {"size": 5}}, "options: 5 is not a text"),
        ("create", ("new",), {"labels": {"a": 1}}, "labels: 1 is not a text"),
        ("acquire", ("data", 1), {}, "user: 1 is not a text"),
        ("acquire", ("data", "u"), {"subpath": None}, "subpath: None is not a text"),
        ("acquire", (1, "u"), {}, "volume: 1 is not a text"),
        ("clone", ("data", None), {}, "volume: None is not a text"),
        ("snapshot", ("data", 1), {}, "snapshot: 1 is not a text"),
        ("restore", ("data", None), {}, "snapshot: None is not a text"),
        ("remove", (1,), {}, "volume: 1 is not a text"),
    ],
)
def test_methods_of_volumes(
    method: str, words: tuple[Any, ...], named: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with fastlayer.volumes(tmp_path / "store", driver="vfs") as volumes:
        volumes.create("data")
        with pytest.raises(UsageError, match=message):
            getattr(volumes, method)(*words, **named)
        assert [known.name for known in volumes.all()] == ["data"] and not volumes.in_use()


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ({"tags": "app:1"}, r"tags: 'app:1' is no list of words: give \['app:1'\]"),
        ({"build_args": ["A=1"]}, "build_args: .* is no mapping"),
        ({"labels": {"a": 1}}, "labels: 1 is not a text"),
        ({"target": 5}, "target: 5 is not a text"),
        ({"platform": ["linux/amd64"]}, "platform: .* is not a text"),
        ({"no_cache": "yes"}, "no_cache: 'yes' is neither"),
        ({"source_date_epoch": "0"}, "source_date_epoch: '0' is not a whole number"),
        ({"source_date_epoch": -1}, "source_date_epoch=-1 is no time"),
        ({"source_date_epoch": 2**70}, f"source_date_epoch={2**70} is no time"),
        ({"allow": "security.insecure"}, "allow: .* is no list"),
        ({"cache_from": "dir"}, "cache_from: .* is no list"),
        ({"file": 5}, "file: 5 is not a text"),
        ({"context": 5}, "context: 5 is not a text"),
    ],
)
def test_builds_take_nothing_else_either(named: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message):
        fastlayer.build(**{"context": tmp_path, "root": tmp_path / "store", "driver": "vfs", **named})


def test_a_build_takes_paths(tmp_path: Path) -> None:
    (tmp_path / "context").mkdir()
    (tmp_path / "context/file").touch()
    (tmp_path / "other").write_text("FROM scratch\nCOPY file /\n")
    made = fastlayer.build(
        tmp_path / "context", file=tmp_path / "other", tags=("app:1",), root=tmp_path / "store", driver="vfs"
    )
    assert len(made.image.layers) == 1
