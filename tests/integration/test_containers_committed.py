"""Images of containers, running or not: what of the container comes along, and that it holds still meanwhile."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

import fastlayer
from fastlayer.container import containers, pausing, state
from fastlayer.errors import RunError
from fastlayer.running import cgroups
from fastlayer.store.store import existing_store
from tests.conftest import needs_root
from tests.containers import FOREVER, Command, until

pytestmark = [needs_root, pytest.mark.usefixtures("engine")]
freezer = pytest.mark.skipif("freezer" not in cgroups.hierarchies(), reason="no freezer cgroup here")


def image(command: Command, name: str) -> dict[str, object]:
    (found,) = json.loads(command.out("inspect", "--type", "image", name))
    assert isinstance(found, dict)
    return found


def test_an_image_runs_as_its_container_did(command: Command) -> None:
    """Docker's commit: the configuration is the container's, and --change comes on top of it."""
    words = [
        "-e",
        "A=1",
        "-w",
        "/etc",
        "-u",
        "app",
        "-l",
        "k=v",
        "-v",
        "/anon",
        "-v",
        "named:/nm",
        "--stop-signal",
        "INT",
    ]
    command.out("run", "--name", "c", *words, "box", "sh", "-c", "echo hi > /tmp/x")
    command.out("commit", "-a", "me", "-m", "said", "-c", "ENV B=2", "c", "made")
    found = image(command, "made")
    assert found["Author"] == "me"
    assert found["Config"] == {
        "User": "app",
        "Env": ["A=1", "FROM_IMAGE=yes", "B=2"],
        "Cmd": ["sh", "-c", "echo hi > /tmp/x"],
        "Volumes": {"/anon": {}},
        "WorkingDir": "/etc",
        "Labels": {"k": "v", "of": "image"},
        "StopSignal": "INT",
    }
    (row, *_) = [json.loads(line) for line in command.out("history", "--format", "json", "made").splitlines()]
    assert (row["CreatedBy"], row["Comment"]) == ("sh -c echo hi > /tmp/x", "said")
    assert command.out("run", "--rm", "made", "cat", "/tmp/x") == "hi"


def test_of_a_writable_layer_the_configuration_is_the_images(command: Command, tmp_path: Path) -> None:
    command.out("create", "--name", "c", "-e", "A=1", "box")
    command.out("mount", "--rw", "--name", "w", "box", str(_directory(tmp_path / "mnt")))
    command.out("umount", "w")
    command.out("commit", "w", "of-layer")
    assert image(command, "of-layer")["Config"] == image(command, "box")["Config"]
    command.out("rm", "w")


def _directory(path: Path) -> Path:
    path.mkdir()
    return path


@freezer
def test_it_holds_still_while_it_is_committed(command: Command) -> None:
    """What is written together is found together: two files that get the same lines."""
    script = "i=0; while :; do i=$((i+1)); echo $i >> /tmp/one; echo $i >> /tmp/two; done"
    command.out("run", "-d", "--name", "c", "box", "sh", "-c", script)
    until(lambda: "/tmp/two" in command.out("diff", "c"))
    for number in range(3):
        done = command.run("commit", "--pause=true", "c", f"made:{number}")
        assert (done.returncode, done.stderr) == (0, "")
        one, two = command.out(
            "run", "--rm", f"made:{number}", "sh", "-c", "tail -qn1 /tmp/one; tail -qn1 /tmp/two"
        ).split()
        assert int(one) - int(two) in (0, 1)
    assert command.state("c")["Status"] == "running"
    before = command.out("exec", "c", "tail", "-n1", "/tmp/one")
    until(lambda: command.out("exec", "c", "tail", "-n1", "/tmp/one") != before)


@freezer
def test_one_that_was_paused_stays_so(command: Command) -> None:
    command.out("run", "-d", "--name", "c", "box", "sh", "-c", FOREVER)
    command.out("pause", "c")
    command.out("commit", "c", "made")
    assert command.state("c")["Status"] == "paused"


@freezer
@pytest.mark.parametrize("guarded", [True, False], ids=["alone", "with-its-guard"])
def test_a_killed_commit_leaves_nothing_frozen(command: Command, guarded: bool) -> None:
    """Killed in the middle: the guard lets the container go on, and should that be killed, too, the next command."""
    command.out("run", "-d", "--name", "c", "box", "sh", "-c", FOREVER)
    identity = command.inspect("c")["Id"]
    directory = command.root / "containers" / identity
    holder = os.fork()
    if holder == 0:
        try:
            with pausing.held_still(directory, identity, demanded=True):
                time.sleep(60)
        finally:
            os._exit(1)
    until(lambda: state.is_paused(directory))
    (guard,) = children_of(holder)
    if not guarded:
        os.kill(guard, signal.SIGKILL)
    os.kill(holder, signal.SIGKILL)
    os.waitpid(holder, 0)
    if guarded:
        until(lambda: not state.is_paused(directory), 5)
    else:
        assert state.is_paused(directory)
    assert command.out("exec", "c", "echo", "on") == "on"
    assert command.state("c")["Status"] == "running" and not (directory / "committing").exists()
    command.out("pause", "c")
    assert command.state("c")["Status"] == "paused"  # nobody of then lets it go on now


def children_of(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@freezer
def test_a_killed_commit_of_the_command(command: Command) -> None:
    """At any moment; the container goes on within a second, whatever had been reached."""
    command.out("run", "-d", "--name", "c", "box", "sh", "-c", f"dd if=/dev/zero of=/big bs=1M count=64; {FOREVER}")
    until(lambda: "/big" in command.out("diff", "c"))
    for delay in (0.1, 0.2, 0.3):
        commit = subprocess.Popen(command.words("commit", "c", "made"), env=command.env, stdout=subprocess.DEVNULL)
        time.sleep(delay)
        commit.kill()
        commit.wait()
        assert command.out("exec", "c", "echo", "on") == "on"


def test_a_pause_that_cannot_be_is_an_error_only_when_demanded(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    command.out("run", "-d", "--name", "c", "box", "sh", "-c", FOREVER)
    monkeypatch.setattr(cgroups, "hierarchies", dict)
    with existing_store(command.root) as store:
        row = containers.find(store, "c")
    directory = command.root / "containers" / row.id
    with pausing.held_still(directory, row.id, demanded=False) as held:
        assert not held
    with pytest.raises(RunError, match="freezer"), pausing.held_still(directory, row.id, demanded=True):
        pass
    assert not (directory / "committing").exists()


def test_sizes(command: Command) -> None:
    """As docker counts: bytes of the files in the layer, those that were copied up whole; names of one file once."""
    script = (
        "echo hello > /tmp/x; ln /tmp/x /tmp/y; printf 1234567 > /root/z; ln -s 12345 /tmp/l; echo x >> /etc/passwd"
    )
    command.out("run", "--name", "c", "box", "sh", "-c", script)
    passwd = len(command.out("run", "--rm", "box", "cat", "/etc/passwd")) + 1 + 2
    command.out("create", "--name", "empty", "box")
    own = 6 + 7 + 5 + passwd
    (whole,) = json.loads(command.out("inspect", "-s", "c"))
    below = int(command.out("inspect", "-f", "{{.Size}}", "--type", "image", "box"))
    assert (whole["SizeRw"], whole["SizeRootFs"]) == (own, below + own)
    assert "SizeRw" not in command.inspect("c")
    sizes = dict(
        line.split(" ", 1) for line in command.out("ps", "-as", "--format", "{{.Names}} {{.Size}}").splitlines()
    )
    virtual = f"{(below + own) / 1e6:.3g}MB"
    assert sizes["c"] == f"{own}B (virtual {virtual})"
    assert sizes["empty"].startswith("0B (virtual ")
    assert command.out("ps", "-a", "--format", "{{.Size}}").split() == []


def test_what_changed_inside_a_big_file(command: Command) -> None:
    """diff --chunks of a container: the ranges that were written, of a file of the image, running or not."""
    command.out("run", "--name", "make", "box", "sh", "-c", "dd if=/dev/urandom of=/big bs=1M count=8")
    command.out("commit", "make", "big")
    script = f"printf here | dd of=/big bs=1 seek=5000000 conv=notrunc; {FOREVER}"
    command.out("run", "-d", "--name", "c", "big", "sh", "-c", script)
    until(lambda: "C /big" in command.out("diff", "c"))
    for _ in range(2):
        found = json.loads(command.out("diff", "--chunks", "--format", "json", "c"))
        ((offset, length),) = found["ranges"]
        assert (found["path"], found["size"]) == ("/big", 8 << 20)
        assert offset <= 5_000_000 < offset + length <= offset + 2 * 262144
        assert f"{offset:>16} {length:>12}" in command.out("diff", "--chunks", "c").splitlines()
        command.out("stop", "c")
    statistics = json.loads(command.out("diff", "--stat", "--format", "json", "c"))
    assert statistics["modified_files"] == 1 and statistics["changed_bytes"] == length


def test_commit_from_python(command: Command) -> None:
    with fastlayer.create("box", "sh", "-c", "echo $A > /tmp/x", env={"A": "1"}, root=command.root) as made:
        made.start()
        made.wait()
        identity = made.commit("made", author="me", changes=["ENV B=2"])
    assert identity == image(command, "made")["Id"]
    result = fastlayer.run("made", "sh", "-c", "cat /tmp/x; echo $A$B", remove=True, root=command.root)
    assert isinstance(result, fastlayer.container.api.Result) and result.stdout == b"1\n12\n"


@pytest.mark.parametrize("driver", ["overlay2", "vfs"])
def test_mount_points_are_dockers(command: Command, tmp_path: Path, box_archive: Path, driver: str) -> None:
    """Those of volumes are the container's; those of the system are nobody's, while it runs, in images, and after."""
    command = Command(tmp_path / "other", FASTLAYER_DRIVER=driver)
    command.out("load", "-q", "-i", box_archive)
    (tmp_path / "file").touch()
    words = ["-v", f"{tmp_path}:/new/dir", "-v", f"{tmp_path}/file:/etc/newfile", "--tmpfs", "/tm", "-v", "vol:/vv"]
    script = f"echo x > /tmp/x; {FOREVER}"
    command.out("run", "-d", "--name", "c", *words, "box", "sh", "-c", script)
    try:
        until(lambda: "A /tmp/x" in command.out("diff", "c"))
        expected = ["A /etc/newfile", "A /new", "A /new/dir", "A /tm", "A /tmp/x", "A /vv", "C /etc", "C /tmp"]
        assert sorted(command.out("diff", "c").splitlines()) == expected
        command.out("commit", "c", "running")
        command.out("stop", "-t", "5", "c")
        assert sorted(command.out("diff", "c").splitlines()) == expected
        command.out("commit", "c", "ended")
        for name in ("running", "ended"):
            assert sorted(command.out("diff", "box", name).splitlines()) == [
                "A /etc/newfile",
                *expected[1:6],
                "C /",
                *expected[6:],
            ], name
    finally:
        command.run("rm", "-f", "c")
