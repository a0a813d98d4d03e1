"""Killed processes of ours leave nothing; what is in a container does not get out of it."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.buildroot import make_root
from tests.conftest import needs_root
from tests.containers import FOREVER, Command, keeper_of, lives, of_its_own, until

SWAPPING = """
import ctypes, os, sys
place = os.open(sys.argv[1], os.O_RDONLY)
rename = ctypes.CDLL(None).renameat2
while True:
    rename(place, b"other", place, b"ours", 2)  # RENAME_EXCHANGE
"""

pytestmark = [needs_root, pytest.mark.usefixtures("engine")]


@pytest.fixture
def command(tmp_path: Path, engine: object) -> Iterator[Command]:
    with of_its_own(tmp_path) as found:
        yield found


def running(command: Command, name: str, *options: str) -> tuple[int, int]:
    """(pid of the program, of the monitor) of a new container."""
    command.out("run", "-d", "--name", name, *options, "box", "sh", "-c", FOREVER)
    identity = command.inspect(name)["Id"]
    pid, monitor, _ = (command.root / "containers" / identity / "running").read_text().split()
    return int(pid), int(monitor)


# ---- kill -9 ---------------------------------------------------------------------------------------


def test_a_killed_monitor_takes_its_container_along(command: Command) -> None:
    pid, monitor = running(command, "m")
    identity, keeper = command.inspect("m")["Id"], keeper_of(monitor)
    os.kill(monitor, signal.SIGKILL)
    until(lambda: not lives(pid) and not lives(keeper))
    assert command.out("ps", "-q") == ""
    state = command.state("m")
    assert (state["Status"], state["ExitCode"], state["Pid"]) == ("exited", 137, 0)
    command.out("start", "m")  # it can be used again
    assert command.state("m")["Running"]
    os.kill(int((command.root / "containers" / identity / "running").read_text().split()[1]), signal.SIGKILL)
    assert command.out("wait", "m") == "137"
    command.out("rm", "m")  # and be removed before anybody has looked
    assert os.listdir(command.root / "containers") == []


def test_a_killed_keeper_takes_the_container_along(command: Command) -> None:
    pid, monitor = running(command, "k")
    os.kill(keeper_of(monitor), signal.SIGKILL)
    until(lambda: not lives(pid) and not lives(monitor))
    assert command.state("k")["ExitCode"] == 137
    assert command.out("wait", "k") == "137"


def test_a_killed_monitor_of_one_that_was_not_to_stay(command: Command) -> None:
    _, monitor = running(command, "gone", "--rm")
    os.kill(monitor, signal.SIGKILL)
    until(lambda: not lives(monitor))
    until(lambda: command.out("ps", "-aq") == "")
    assert os.listdir(command.root / "containers") == []


def test_a_killed_monitor_leaves_no_cgroup(command: Command) -> None:
    from fastlayer.running import cgroups

    found = cgroups.hierarchies()
    if "memory" not in found:
        pytest.skip("no memory cgroup here")
    _, monitor = running(command, "cg", "-m", "64m")
    place = Path(found["memory"][0], "fastlayer", command.inspect("cg")["Id"])
    assert place.is_dir()
    os.kill(monitor, signal.SIGKILL)
    until(lambda: not lives(monitor))
    command.out("ps", "-a")
    assert not place.exists()


KILLED_AT_THE_FIRST_CGROUP = """
import os, signal, sys
from fastlayer.cli.main import main
make = os.makedirs
def killed(path, *rest, **options):
    make(path, *rest, **options)
    if str(path).startswith("/sys/fs/cgroup/") and not str(path).endswith("/fastlayer"):
        os.kill(os.getpid(), signal.SIGKILL)
os.makedirs = killed
main()
"""


def cgroups_of_container(identity: str) -> list[Path]:
    return list(Path("/sys/fs/cgroup").glob(f"**/fastlayer/{identity}"))


@pytest.mark.parametrize("words", [["pause", "c"], ["commit", "c", "made"], ["start", "limited"]])
def test_a_killed_command_leaves_no_cgroup(command: Command, words: list[str]) -> None:
    from fastlayer.running import cgroups

    if not {"freezer", "memory"} <= set(cgroups.hierarchies()) or not os.access("/sys/fs/cgroup/freezer", os.W_OK):
        pytest.skip("no cgroups of the old hierarchy that may be written")
    running(command, "c")
    command.out("create", "--name", "limited", "--memory", "64m", "box", "true")
    identity = command.inspect(words[1])["Id"]
    done = subprocess.run([sys.executable, "-c", KILLED_AT_THE_FIRST_CGROUP, *words], env=command.env, check=False)
    assert done.returncode == -signal.SIGKILL
    assert cgroups_of_container(identity) != []
    command.out("rm", "-f", "c", "limited")
    assert cgroups_of_container(identity) == []


def test_a_killed_client_leaves_the_container_running(command: Command) -> None:
    client = subprocess.Popen(
        command.words("run", "--name", "c", "box", "sh", "-c", f"echo up; {FOREVER}"),
        env=command.env,
        stdout=subprocess.PIPE,
    )
    assert client.stdout is not None and client.stdout.readline() == b"up\n"
    client.kill()
    client.wait()
    assert command.state("c")["Running"]
    command.out("stop", "c")
    assert command.state("c")["ExitCode"] == 0


def test_a_killed_client_of_one_that_was_not_to_stay(command: Command) -> None:
    client = subprocess.Popen(
        command.words("run", "--rm", "box", "sh", "-c", "echo up; sleep 1"), env=command.env, stdout=subprocess.PIPE
    )
    assert client.stdout is not None and client.stdout.readline() == b"up\n"
    client.kill()
    client.wait()
    until(lambda: command.out("ps", "-aq") == "")


def test_commands_killed_at_any_moment_leave_a_sound_store(command: Command) -> None:
    for moment in range(12):
        client = subprocess.Popen(
            command.words("run", "--rm", "box", "sleep", "0.2"), env=command.env, stdout=subprocess.DEVNULL
        )
        time.sleep(0.05 + moment * moment * 0.02)
        client.kill()
        client.wait()
    until(lambda: command.out("ps", "-q") == "")
    for identity in command.out("ps", "-aq").split():  # made, and never started
        assert command.state(identity)["Status"] in ("created", "exited")
        command.out("rm", "-f", identity)
    command.out("store", "gc")
    assert "writable" not in command.out("mounts", "--format", "json")
    command.out("create", "--name", "after", "box", "true")
    command.out("rm", "after")
    assert [name for name in os.listdir(command.root / "containers") if not name.startswith(".new-")] == []
    command.out("store", "check")


def test_one_that_could_not_be_started_and_was_not_to_stay(command: Command) -> None:
    command.out("create", "--rm", "--name", "c", "box", "nope")
    words = "from fastlayer.container import lifecycle; lifecycle.remove = lambda *_, **__: os.kill(os.getpid(), 9)"
    code = f"import os, sys; {words}; from fastlayer.cli.main import main; main()"
    done = subprocess.run([sys.executable, "-c", code, "start", "c"], env=command.env, check=False)
    assert done.returncode == -signal.SIGKILL
    assert command.out("ps", "-aq") == ""


def test_the_lock_of_a_layer_goes_with_it_in_the_end(command: Command) -> None:
    command.out("create", "--name", "c", "box", "true")
    command.out("start", "-a", "c")
    place = command.root / "locks"
    (place / "gone").touch()  # its remover was killed
    with open(place / "busy", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        command.out("store", "gc")
        assert sorted(os.listdir(place)) == ["busy", "c"]
    command.out("rm", "c")
    command.out("ps")
    assert os.listdir(place) == []


def test_many_at_once(command: Command) -> None:
    clients = [
        subprocess.Popen(
            command.words("run", "--rm", "box", "echo", str(number)), env=command.env, stdout=subprocess.PIPE, text=True
        )
        for number in range(8)
    ]
    assert [client.communicate()[0] for client in clients] == [f"{number}\n" for number in range(8)]
    assert {client.returncode for client in clients} == {0}
    assert command.out("ps", "-aq") == ""


# ---- names that change -----------------------------------------------------------------------------


def running_until_told(command: Command, name: str) -> subprocess.Popen[bytes]:
    """Of a container that is not to stay; it ends when its input does."""
    client = subprocess.Popen(
        command.words("run", "--rm", "-i", "--name", name, "box", "sh", "-c", "echo up; cat"),
        env=command.env,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert client.stdout is not None and client.stdout.readline() == b"up\n"
    return client


@pytest.mark.parametrize("mounted", [False, True])
def test_a_container_that_was_renamed_goes_and_not_the_next_one_of_its_name(
    command: Command, tmp_path: Path, mounted: bool
) -> None:
    client = running_until_told(command, "one")
    command.out("rename", "one", "old")
    command.out("create", "--name", "one", "box", "echo", "it is there")
    if mounted:
        target = tmp_path / "target"
        target.mkdir()
        command.out("mount", "--name", "one", target)
    client.communicate()
    assert client.returncode == 0
    if mounted:
        assert os.path.ismount(target)
        command.out("umount", target)
    assert command.out("ps", "-a", "--format", "{{.Names}}") == "one"
    assert command.out("start", "-a", "one") == "it is there"
    command.out("rm", "one")
    assert "1 snapshots" in command.out("store", "check")  # the image's


def test_a_container_of_which_two_change_the_name_keeps_its_layer(command: Command) -> None:
    from fastlayer.container import containers, lifecycle, writable
    from fastlayer.store.store import existing_store

    command.out("create", "--name", "one", "box", "true")
    with existing_store(command.root) as store:
        row = containers.find(store, "one")
        command.out("rename", "one", "two")
        lifecycle.rename(store, row, "three")
        assert writable.of_container(store, row.id).name == "three"
    command.out("start", "-a", "three")


# ---- out of it -------------------------------------------------------------------------------------


def test_working_directories_outside_are_refused(command: Command) -> None:
    """CVE-2024-21626: a descriptor that was left open on the host as the working directory."""
    for fd in (3, 4, 6, 9, 14):
        for path in (f"/proc/self/fd/{fd}", f"/proc/self/fd/{fd}/..", f"/proc/1/fd/{fd}"):
            done = command.run("run", "--rm", "-w", path, "box", "sh", "-c", "pwd; ls -a ../../../../..")
            inside = {"bin", "dev", "etc", "home", "proc", "root", "sys", "tmp"}  # and nothing else of any root
            assert set(done.stdout.split()) <= {"/", ".", "..", *inside}, (path, done)
    running(command, "w")
    for fd in (3, 5, 8):
        done = command.run("exec", "-w", f"/proc/self/fd/{fd}", "w", "pwd")
        assert done.returncode != 0, done


def test_no_descriptor_of_ours_comes_along(command: Command) -> None:
    running(command, "f")
    secret = os.open("/", os.O_RDONLY)
    os.set_inheritable(secret, True)
    try:
        for words in (["run", "--rm", "box"], ["exec", "f"]):
            out = command.out(*words, "ls", "/proc/self/fd", pass_fds=(secret,))
            assert out.split() == ["0", "1", "2", "3"], out  # the last is the directory that ls reads
    finally:
        os.close(secret)


def test_our_program_is_not_reached_by_its_link(command: Command, tmp_path: Path) -> None:
    """CVE-2019-5736: /proc/self/exe as the program of the container, or of exec in it."""
    for words in (["/proc/self/exe"], ["/proc/1/exe"]):
        done = command.run("run", "--rm", "box", *words, "--version")
        assert done.returncode == 126, done
    running(command, "x")
    done = command.run("exec", "x", "/proc/self/exe", "--version")
    assert done.returncode == 126, done
    command.out("exec", "x", "sh", "-c", "printf '#!/proc/self/exe\\n' > /bin/evil; chmod +x /bin/evil")
    assert command.run("exec", "x", "/bin/evil").returncode == 126


def test_exec_is_not_led_astray_by_names_that_change(command: Command) -> None:
    """CVE-2019-5736, in the moment between looking and executing: the program and /proc/self/exe change places."""
    pid, _ = running(command, "r")
    place = f"/proc/{pid}/root"
    shutil.copy(f"{place}/bin/busybox", f"{place}/bin/ours")
    os.symlink("/proc/self/exe", f"{place}/bin/other")
    # where the text of that link leads to in the container, which is as good as any file there
    program = Path(place + os.path.realpath(sys.executable))
    program.parent.mkdir(parents=True, exist_ok=True)
    program.write_text("#!/bin/sh\necho inside\n")
    program.chmod(0o755)
    swapping = subprocess.Popen([sys.executable, "-c", SWAPPING, f"{place}/bin"])
    try:
        for _ in range(40):
            done = command.run("exec", "r", "/bin/ours", "--version")
            assert done.stdout in ("", "inside\n") and "ours: not found" not in done.stderr, done
    finally:
        swapping.kill()
        swapping.wait()


def test_what_exec_executes_is_what_execve_would(command: Command) -> None:
    running(command, "e")
    script = r"""
    printf '#!/bin/sh -e\necho $0 $*\n' >/bin/one; printf '#!/bin/one  a b \n' >/bin/two; ln -s ../bin/two /bin/far
    printf '#!/bin/nope\n' >/bin/lost; printf 'echo x\n' >/bin/text; cp /bin/one /bin/plain; ln -s round /bin/round
    chmod 755 /bin/one /bin/two /bin/lost /bin/text; mkdir -m 700 /shut; cp /bin/one /shut/one
    """
    command.out("exec", "e", "sh", "-c", script)
    for words, out in {
        "one 1": "/bin/one 1",
        "far 2": "/bin/one a b /bin/far 2",
        "../bin/one 3": "../bin/one 3",
    }.items():
        assert command.out("exec", "e", *words.split()) == out
    for words, code in {
        "plain": 126,
        "text": 126,
        "lost": 127,
        "/bin/one/": 127,
        "/bin/": 126,
        "/bin/one/x": 127,
    }.items():
        assert command.run("exec", "e", words).returncode == code, words
    assert command.run("exec", "e", "/bin/round").returncode == 126
    assert command.run("exec", "-u", "app", "e", "/shut/one").returncode == 126


def test_exec_where_the_profile_knows_only_execve(command: Command, tmp_path: Path) -> None:
    profile = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["execveat"], "action": "SCMP_ACT_KILL"}]}
    (tmp_path / "profile.json").write_text(json.dumps(profile))
    running(command, "p", "--security-opt", f"seccomp={tmp_path}/profile.json")
    assert command.out("exec", "p", "echo", "done") == "done"


def test_a_watcher_in_the_container_cannot_look_into_exec(command: Command) -> None:
    """CVE-2016-9962, CVE-2019-5736: between entering and executing the process can be seen, not opened."""
    watch = """
    while :; do for p in /proc/[0-9]*; do
      case $p in /proc/1|/proc/$$) continue;; esac
      e=$(readlink $p/exe 2>/dev/null) && case "$e" in *python*|*store*) echo "$e" >> /found;; esac
      for f in $p/fd/*; do
        t=$(readlink $f 2>/dev/null) && case "$t" in */store*|*/containers*) echo "$t" >> /found;; esac
      done
    done; done
    """
    command.out("run", "-d", "--name", "spy", "box", "sh", "-c", watch)
    for _ in range(8):
        command.out("exec", "spy", "true")
    done = command.run("exec", "spy", "cat", "/found")
    assert done.returncode == 1 and done.stdout == "", done


def test_links_of_the_image_do_not_lead_mounts_out(command: Command, tmp_path: Path) -> None:
    """The targets of mounts, /proc and /dev of an image that has links there."""
    (tmp_path / "victim").mkdir()
    (tmp_path / "given").mkdir()
    (tmp_path / "given/file").write_text("given")
    root = make_root(tmp_path / "evil")
    (root / "out").symlink_to(tmp_path / "victim")
    (root / "up").symlink_to("../../../../../../../" + str(tmp_path / "victim"))
    command.out("import", "-q", root, "evil")
    for target in ("/out/made", "/up/made"):
        done = command.run("run", "--rm", "-v", f"{tmp_path}/given:{target}", "evil", "cat", f"{target}/file")
        assert done.stdout in ("given", ""), done
        assert os.listdir(tmp_path / "victim") == []
    (root / "proc").symlink_to(tmp_path / "victim")
    command.out("import", "-q", root, "evil2")
    assert command.run("run", "--rm", "evil2", "true").returncode == 125
    assert os.listdir(tmp_path / "victim") == []


def test_users_file_that_is_a_link_is_read_inside(command: Command, tmp_path: Path) -> None:
    root = make_root(tmp_path / "link")
    (root / "etc/passwd").unlink()
    (root / "etc/passwd").symlink_to("/etc/shadow-of-host")
    secret = Path("/etc/shadow-of-host")
    assert not secret.exists()
    command.out("import", "-q", root, "linked")
    command.refused("run", "--rm", "-u", "daemon", "linked", "id", code=125)


def test_devices_of_the_host_cannot_be_opened(command: Command) -> None:
    script = "mknod /d b 7 0; mknod /dev/d b 7 0; mknod /tmp/n c 1 3; "
    script += "for f in /d /dev/d /tmp/n; do head -c1 $f && echo opened; done"
    done = command.run("run", "--rm", "box", "sh", "-c", script)
    assert "opened" not in done.stdout, done
    assert (
        command.run("run", "--rm", "--device", "/dev/null:/dev/mine", "box", "head", "-c1", "/dev/mine").returncode == 0
    )
