"""``fork`` of a container: another one with its configuration and all that it has written."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import fastlayer
from tests.conftest import needs_root
from tests.containers import Command, of_its_own, until

pytestmark = needs_root
FIRST = "echo new > /anon/file; echo named > /data/file; echo one > /etc/one"
SCRIPT = f"hostname; [ -e /anon/file ] || {{ {FIRST}; }}; sleep 300"


@pytest.fixture
def command(tmp_path: Path, engine: object) -> Iterator[Command]:
    with of_its_own(tmp_path) as found:
        yield found


def begun(command: Command, *words: str) -> None:
    volumes = ["-v", "data:/data", "-v", "/anon"]
    command.out("run", "-d", "--name", "a", *volumes, *words, "box", "sh", "-c", SCRIPT)
    until(lambda: command.run("exec", "a", "cat", "/etc/one").stdout == "one\n")


def test_it_goes_on_by_itself(command: Command, tmp_path: Path) -> None:
    """The original runs meanwhile, and loses nothing. Each sees what it writes itself, and the named volume of both."""
    begun(command, "-e", "A=1", "--label", "of=me", "--cidfile", str(tmp_path / "cid"))
    command.out("checkpoint", "a", "then")
    command.out("exec", "a", "sh", "-c", "echo two > /etc/two; rm /etc/group")
    assert command.out("fork", "a", "b") == "b"
    assert command.out("fork", "--from", "then", "a", "c") == "c"
    made, was = command.inspect("b"), command.inspect("a")
    assert made["State"]["Status"] == "created" and made["Id"] != was["Id"] and made["Image"] == was["Image"]
    assert made["Config"] == {**was["Config"], "Hostname": made["Id"][:12]}
    assert made["HostConfig"] == {**was["HostConfig"], "ContainerIDFile": ""}
    assert (tmp_path / "cid").read_text() == was["Id"]
    assert "D /etc/group" in command.out("diff", "b") and "group" not in command.out("diff", "c")

    command.out("start", "b", "c")
    said = command.out("exec", "b", "sh", "-c", "hostname; cat /etc/one /etc/two /anon/file /data/file; echo $A")
    assert said.split() == [made["Id"][:12], "one", "two", "new", "named", "1"]
    assert "two" not in command.out("exec", "c", "ls", "/etc")
    command.out("exec", "b", "sh", "-c", "echo b > /etc/one; echo b > /anon/file; echo b > /data/file")
    assert command.out("exec", "a", "cat", "/etc/one", "/anon/file", "/data/file").split() == ["one", "new", "b"]
    assert command.out("logs", "b").split() == [made["Id"][:12]]  # its own, from its own beginning

    command.out("rm", "-fv", "a")
    assert command.out("exec", "b", "cat", "/etc/one", "/anon/file").split() == ["b", "b"]
    command.out("commit", "b", "forked:1")
    assert command.out("run", "--rm", "forked:1", "cat", "/etc/one") == "b"
    command.out("rm", "-fv", "b", "c")
    assert command.out("volume", "ls", "-q") == "data"


def test_what_is_refused_makes_nothing(command: Command, tmp_path: Path) -> None:
    begun(command)
    volumes, containers = command.out("volume", "ls", "-q"), command.out("ps", "-aq")
    assert "already in use by container" in command.refused("fork", "a", "a")
    assert "has no checkpoint nope" in command.refused("fork", "--from", "nope", "a", "b")
    assert "not a name" in command.refused("fork", "a", "../b", code=2)
    command.refused("fork", "nope", "b")
    (tmp_path / "target").mkdir()
    command.out("mount", "--rw", "--name", "layer", "box", tmp_path / "target")
    command.out("umount", "layer")
    assert "layer" in command.refused("fork", "a", "layer")
    assert (command.out("volume", "ls", "-q"), command.out("ps", "-aq")) == (volumes, containers)


def test_from_python(command: Command) -> None:
    with fastlayer.create("box", "cat", "/etc/one", root=command.root) as first:
        layer = Path(json.loads(command.out("inspect", first.id))[0]["GraphDriver"]["Data"]["UpperDir"])
        (layer / "etc").mkdir(exist_ok=True)
        (layer / "etc/one").write_text("1")
        first.checkpoint("one")
        (layer / "etc/one").write_text("2")
        with first.fork("now") as now, first.fork("then", checkpoint="one") as then:
            for made, text in ((now, b"2"), (then, b"1")):
                made.start()
                assert made.wait() == 0 and made.logs() == text
        first.rollback("one")
        first.start()
        assert first.wait() == 0 and first.logs() == b"1"


def test_killed_at_any_moment(command: Command) -> None:
    """The new one is there as a whole, or nothing of it; a volume that was copied for it goes with the next prune."""
    begun(command)
    chance = random.Random(5)
    for number in range(12):
        program = subprocess.Popen(command.words("fork", "a", f"f{number}"), env=command.env)
        time.sleep(chance.uniform(0.02, 0.15))
        program.send_signal(signal.SIGKILL)
        program.wait()
    command.out("store", "gc")
    command.out("store", "check")
    command.out("volume", "prune", "-f")
    made = [name for name in command.out("ps", "-a", "--format", "{{.Names}}").split() if name != "a"]
    for name in made:
        command.out("start", name)
        assert command.out("exec", name, "cat", "/etc/one", "/anon/file").split() == ["one", "new"]
    assert len(command.out("volume", "ls", "-q").split()) == 2 + len(made)
    for path in (command.root / "containers").glob(".new-*"):
        os.utime(path, (0, 0))  # as long as it could be at work, nobody takes it
    command.out("store", "gc")
    assert not list((command.root / "containers").glob(".new-*"))
    command.out("rm", "-fv", "a", *made)
    assert command.out("volume", "ls", "-q") == "data"
    assert os.listdir(command.root / "containers") == []
