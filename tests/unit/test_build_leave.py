"""``--allow``, ``RUN --device`` as it is written, and options of Docker's that are refused."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from fastlayer.builder.dockerfile.devices import RunDevice, parse_device
from fastlayer.builder.dockerfile.instructions import Run
from fastlayer.builder.dockerfile.stages import read
from fastlayer.builder.leave import Leave, check_leave, parse_leave
from fastlayer.errors import DockerfileError, UsageError
from tests.shell import Shell


def test_leave() -> None:
    assert parse_leave([]) == Leave()
    found = parse_leave(["security.insecure", "network.host", "device=a.b/c=d", "device=e/f,alias=x/y=z", "fs.read=/x"])
    assert found == Leave(True, True, False, {"a.b/c=d": "a.b/c=d", "e/f": "x/y=z"})
    assert found.has_device("q/r", "a.b/c=d") and not found.has_device("q/r")
    assert (found.meant("x/y=z"), found.meant("a.b/c=d"), found.meant("other/x")) == ("e/f", "a.b/c=d", "other/x")
    assert parse_leave(["device"]).has_device("any/thing")


@pytest.mark.parametrize("word", ["", "insecure", "device=", "device=x", "device=a/b,name=x", "security.insecure=1"])
def test_what_is_no_leave(word: str) -> None:
    with pytest.raises(UsageError, match="--allow"):
        parse_leave([word])


def _run(flags: str) -> Run:
    (stage,) = read(f"FROM x\nRUN {flags} true".encode()).stages
    (command,) = stage.commands
    assert isinstance(command, Run)
    return command


def test_what_needs_leave() -> None:
    for flags, network in (("", "none"), ("--security=sandbox", "none"), ("--network=host", "default")):
        check_leave(_run(flags), Leave(), network)
    for flags, words in (("--security=insecure", "security.insecure"), ("--network=host", "network.host")):
        with pytest.raises(DockerfileError, match=f"give --allow {words}"):
            check_leave(_run(flags), Leave(), "none")
        check_leave(_run(flags), parse_leave([words]), "none")


@pytest.mark.parametrize(
    "text,found",
    [
        ("vendor.com/dev=a", RunDevice("vendor.com/dev=a")),
        ("name=vendor.com/dev=a", RunDevice("vendor.com/dev=a")),
        ("vendor.com/dev,required", RunDevice("vendor.com/dev", True)),
        ("required=true,NAME=a/b", RunDevice("a/b", True)),
        ("a/b=*,required=0", RunDevice("a/b=*")),
    ],
)
def test_devices_of_run(text: str, found: RunDevice) -> None:
    assert parse_device(text) == found
    assert _run(f"--device={text} --device=x/y").devices == (found, RunDevice("x/y"))


@pytest.mark.parametrize("text", ["", "required", "a/b,c/d", "a/b,name=c/d", "a/b,required=x", "a/b,requird=1", '"a'])
def test_devices_of_run_that_are_none(text: str) -> None:
    with pytest.raises(DockerfileError, match="--device="):
        parse_device(text)


@pytest.mark.parametrize(
    "words,message",
    [
        (["-m", "1g"], "--memory: steps run in the cgroup of the command: .*MemoryMax"),
        (["--cpu-quota=5"], "--cpu-quota: steps run in the cgroup"),
        (["--cgroup-parent", "x"], "--cgroup-parent: "),
        (["--push"], "--push: the image has no name that says where to"),
        (["--provenance=mode=max"], "--provenance: no attestations are made"),
        (["--sbom", "true"], "--sbom: no attestations are made"),
        (["--annotation", "a=b"], "--annotation: .*annotation.KEY"),
        (["--ulimit", "files=1"], "ulimit 'files=1': give NAME=SOFT"),
        (["--security-opt", "apparmor=x"], "--security-opt 'apparmor=x': use seccomp=FILE"),
        (["--security-opt", "seccomp=/no/such"], "/no/such: cannot read the seccomp profile: No such file"),
        (["--allow", "everything"], "--allow 'everything': use security.insecure"),
        (["--device", "x"], "--device 'x': give PATH"),
    ],
)
def test_options_that_are_refused(words: list[str], message: str, tmp_path: Path) -> None:
    said = Shell(tmp_path / "store").refused("build", *words, tmp_path, code=2)
    assert re.search(message, said), said
    assert not (tmp_path / "store").exists()
