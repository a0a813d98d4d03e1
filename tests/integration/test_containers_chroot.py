"""Containers by chroot alone: where neither namespaces nor mounts can be made, as root of an unprivileged pod."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastlayer.container.chrooted import _inside
from tests.conftest import needs_root, require
from tests.containers import FOREVER, Command, Terminal, keeper_of, lives, until
from tests.integration.confined import confined

pytestmark = [needs_root, pytest.mark.usefixtures("engine")]

_SCRIPT = """
set -e
fl() { python -m fastlayer "$@"; }
fl run --rm box sh -c 'id -u; hostname > /dev/null; exit 3' || echo $?
fl run --rm -u app -w /etc -e A=1 box sh -c 'id -u; pwd; echo $A'
fl run -d --name d box sh -c "trap 'exit 4' TERM; echo up; while :; do sleep 0.05; done" > /dev/null
while [ "$(fl logs d)" != up ]; do :; done
fl exec d sh -c 'echo y > /root/y; cat /etc/hostname | wc -c'
fl exec -d d sleep 98765
fl diff d | grep root/y
fl cp d:/root/y - | tar -xO
fl stop d
fl inspect -f '{{.State.ExitCode}}' d
fl start d
fl kill d
fl wait d
fl commit d made > /dev/null
fl rm d
fl run --rm made cat /root/y
fl ps -aq
"""


@pytest.fixture
def pod(box_archive: Path, tmp_path: Path, engine: object) -> Iterator[Command]:
    found = Command(tmp_path / "store", FASTLAYER_DRIVER="vfs", FASTLAYER_ISOLATION="chroot")
    found.out("load", "-q", "-i", box_archive)
    yield found
    found.run("rm", "-f", *found.out("ps", "-aq").split() or ["none"])


def test_a_life_in_a_pod(pod: Command, tmp_path: Path) -> None:
    (tmp_path / "script").write_text(_SCRIPT.replace("python -m", f"{sys.executable} -m"))
    done = confined(["sh", tmp_path / "script"], **pod.env)
    assert done.returncode == 0, done.stderr
    expected = ["0", "3", "1000", "/etc", "1", "13", "A", "/root/y", "y", "d", "4", "d", "d", "137", "d", "y"]
    assert done.stdout.split() == expected


def test_without_asking_a_pod_has_no_containers(pod: Command) -> None:
    """It would hide nothing of the host: who wants that says so. The error names it."""
    env = {name: value for name, value in pod.env.items() if name != "FASTLAYER_ISOLATION"}
    done = confined(pod.words("run", "--rm", "box", "true"), **{**env, "FASTLAYER_ISOLATION": ""})
    assert done.returncode == 125 and "--runtime chroot" in done.stderr, done


def test_all_its_processes_end_with_it(pod: Command) -> None:
    script = f"sleep 987651 & (setsid sh -c 'sleep 987651 & sleep 987651' &); echo up; {FOREVER}"
    pod.out("run", "-d", "--name", "c", "box", "sh", "-c", script)
    until(lambda: pod.out("logs", "c") == "up")
    pod.out("exec", "-d", "c", "sleep", "987652")
    root = os.readlink(f"/proc/{pod.state('c')['Pid']}/root")
    until(lambda: len(_inside(root)) >= 5)
    pod.out("stop", "-t", "0", "c")
    assert _inside(root) == []


def test_a_program_that_runs_before_its_keeper_has_said_so(pod: Command) -> None:
    """Its monitor saw that it ran and did not know yet what: then nobody was told for as long as it ran."""
    require("strace")
    pod.out("run", "-d", "--name", "c", "box", "sh", "-c", FOREVER)
    slow = ["strace", "-D", "-f", "-qq", "-o/dev/null", "-etrace=write", "-einject=write:delay_enter=300000"]
    words = [*slow, *pod.words("exec", "-d", "c", "sleep", "987655")]
    done = subprocess.run(words, env=pod.env, stdin=subprocess.DEVNULL, timeout=60, check=False)
    assert done.returncode == 0


@pytest.mark.parametrize("who", ["monitor", "keeper", "both"])
def test_killed_keepers_leave_nothing(pod: Command, who: str) -> None:
    script = f"sleep 987653 & (setsid sleep 987653 &); echo up; {FOREVER}"
    pod.out("run", "-d", "--name", "c", "box", "sh", "-c", script)
    until(lambda: pod.out("logs", "c") == "up")
    pid = pod.state("c")["Pid"]
    root = os.readlink(f"/proc/{pid}/root")
    monitor = int((next((pod.root / "containers").iterdir()) / "running").read_text().split()[1])
    keeper = keeper_of(monitor)
    for victim in {"monitor": [monitor], "keeper": [keeper], "both": [monitor, keeper]}[who]:
        os.kill(victim, signal.SIGSTOP)
    for victim in {"monitor": [monitor], "keeper": [keeper], "both": [monitor, keeper]}[who]:
        os.kill(victim, signal.SIGKILL)
    until(lambda: not lives(pid))
    if who == "both":
        assert pod.out("ps", "-q") == ""
        assert _inside(root) == []
    until(lambda: _inside(root) == [])
    assert pod.state("c")["Status"] == "exited"


def test_a_terminal(pod: Command) -> None:
    terminal = Terminal(pod.words("run", "--rm", "-it", "box", "sh"), pod.env)
    terminal.expect(b"# ")
    terminal.type(b"stty size; tty; exit 5\n")
    terminal.expect(b"33 99")
    assert terminal.wait() == 5
    pod.out("run", "-d", "--name", "c", "box", "sh", "-c", FOREVER)
    terminal = Terminal(pod.words("exec", "-it", "c", "sh"), pod.env)
    terminal.expect(b"# ")
    terminal.type(b"stty size; exit 6\n")
    terminal.expect(b"33 99")
    assert terminal.wait() == 6


@pytest.mark.parametrize(
    "words", [["-v", "/etc:/x"], ["--network", "none"], ["--read-only"], ["--device", "/dev/null:/dev/x"], ["--init"]]
)
def test_what_it_cannot_is_refused(pod: Command, words: list[str]) -> None:
    pod.refused("run", "--rm", *words, "box", "true", code=125)


def test_links_of_the_image_do_not_lead_out(pod: Command, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    script = f"rm -rf /etc; ln -s {tmp_path}/outside /etc; ln -s {tmp_path}/outside /new"
    pod.out("run", "--name", "c", "box", "sh", "-c", script)
    pod.out("commit", "c", "evil")
    pod.run("run", "--rm", "evil", "true")
    assert os.listdir(tmp_path / "outside") == []


def test_a_driver_that_has_to_mount_is_refused(command: Command) -> None:
    assert "vfs or btrfs" in command.refused("run", "--rm", "--runtime", "chroot", "box", "true", code=125)


def test_pausing_freezes_the_container_alone(pod: Command) -> None:
    from fastlayer.running import cgroups

    if "freezer" not in cgroups.hierarchies():
        pytest.skip("no freezer cgroup here")
    pod.out("run", "-d", "--name", "c", "box", "sh", "-c", f"sleep 987654 & {FOREVER}")
    pod.out("pause", "c")
    pid = pod.state("c")["Pid"]
    frozen = {int(word) for word in Path(_freezer(pid), "cgroup.procs").read_text().split()}
    assert pid in frozen and os.getpid() not in frozen and len(frozen) < 10
    pod.out("unpause", "c")


def _freezer(pid: int) -> str:
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if "freezer" in controllers:
            return f"/sys/fs/cgroup/freezer{path}"
    return next(
        f"/sys/fs/cgroup{line.split(':', 2)[2]}" for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    )
