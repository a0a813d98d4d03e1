"""Containers against what is done to them: readers that stop, programs that hide, disks that are full."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from fastlayer.container import containers, execute, state
from fastlayer.errors import NotFoundError, RunError
from fastlayer.store.store import existing_store, open_store
from tests.buildroot import make_root
from tests.conftest import needs_root
from tests.containers import FOREVER, Command, Terminal, keeper_of, lives, of_its_own, until

pytestmark = [needs_root, pytest.mark.usefixtures("engine")]


@pytest.fixture
def command(tmp_path: Path, engine: object) -> Iterator[Command]:
    with of_its_own(tmp_path) as found:
        yield found


# ---- readers, keepers ------------------------------------------------------------------------------


def test_a_reader_that_has_stopped_does_not_keep_a_container_from_ending(command: Command) -> None:
    reader = subprocess.Popen(
        command.words("run", "--name", "r", "box", "sh", "-c", "echo up; sleep 0.3; yes"),
        env=command.env,
        stdout=subprocess.PIPE,
    )
    assert reader.stdout is not None and reader.stdout.readline() == b"up\n"
    reader.send_signal(signal.SIGSTOP)
    log = command.root / "containers" / command.inspect("r")["Id"] / "log.json"
    until(lambda: log.stat().st_size > 200_000)
    try:
        command.out("kill", "r", timeout=20)
        assert command.out("wait", "r", timeout=20) == "137"
        assert command.state("r")["Status"] == "exited"
        command.out("rm", "r", timeout=20)
    finally:
        reader.send_signal(signal.SIGCONT)
    rest = reader.stdout.read()  # all that was written before the end
    assert reader.wait() == 137 and set(rest.split()) == {b"y"}, rest[:100]


def test_the_last_output_is_complete_for_all_that_are_attached(command: Command, tmp_path: Path) -> None:
    script = "trap 'exec head -c 300000 /dev/zero' USR1; while :; do echo up; sleep 0.05; done"
    command.out("run", "-d", "--name", "a", "box", "sh", "-c", script)
    places = [tmp_path / f"out-{number}" for number in range(3)]
    readers = []
    for place in places:
        with place.open("wb") as out:
            readers.append(subprocess.Popen(command.words("attach", "a"), env=command.env, stdout=out))
    until(lambda: all(place.stat().st_size > 0 for place in places))
    command.out("kill", "-s", "USR1", "a")
    assert [reader.wait(60) for reader in readers] == [0] * 3
    assert [place.read_bytes().count(b"\0") for place in places] == [300000] * 3


def test_a_pipeline_whose_reader_has_enough_ends(command: Command) -> None:
    """141, as of any program in it; what was not to stay is ended, the other one goes on, as Docker's does."""
    for words in (["--rm"], ["--name", "stays"]):
        program = subprocess.Popen(
            command.words("run", *words, "box", "sh", "-c", "while :; do echo x; sleep 0.01; done"),
            env=command.env,
            stdout=subprocess.PIPE,
        )
        assert program.stdout is not None and program.stdout.readline() == b"x\n"
        program.stdout.close()
        assert program.wait(30) == 141
    assert command.out("ps", "-a", "--format", "{{.Names}} {{.State}}") == "stays running"


def test_a_terminal_that_is_gone_takes_its_client_along(command: Command) -> None:
    terminal = Terminal(command.words("run", "--name", "t", "-it", "box", "sh", "-c", "trap '' HUP; cat"), command.env)
    until(lambda: command.run("inspect", "-f", "{{.State.Status}}", "t").stdout == "running\n")
    os.write(terminal.fd, b"seen\n")
    terminal.expect(b"seen\r\nseen")
    os.close(terminal.fd)
    until(lambda: os.waitpid(terminal.pid, os.WNOHANG)[0] == terminal.pid)
    assert command.state("t")["Status"] == "running"


def test_a_killed_keeper_takes_along_what_it_could_not_be_bound_to(command: Command, tmp_path: Path) -> None:
    """A setuid program is not told when its parent dies (PR_SET_PDEATHSIG is gone)."""
    root = make_root(tmp_path / "setuid")
    (root / "apart").mkdir()
    shutil.copy(root / "bin/busybox", root / "apart/sleep")
    (root / "apart/sleep").chmod(0o4755)
    command.out("import", "-q", root, "setuid")
    command.out("run", "-d", "--name", "s", "-u", "app", "setuid", "/apart/sleep", "1000")
    found = (command.root / "containers" / command.inspect("s")["Id"] / "running").read_text().split()
    pid, monitor = int(found[0]), int(found[1])
    os.kill(keeper_of(monitor), signal.SIGKILL)
    try:
        until(lambda: not lives(pid) and not lives(monitor), 10)
    finally:
        if lives(pid):
            os.kill(pid, signal.SIGKILL)
    assert command.state("s")["ExitCode"] == 137


def test_exec_in_one_that_ends(command: Command) -> None:
    """It says so, whatever it has come to."""
    for number in range(3):
        command.out("run", "-d", "--name", f"e{number}", "box", "sleep", "100")
        programs = [
            subprocess.Popen(
                command.words("exec", f"e{number}", "sleep", "1"), env=command.env, stderr=subprocess.PIPE, text=True
            )
            for _ in range(4)
        ]
        command.out("rm", "-f", f"e{number}")
        for program in programs:
            said = program.communicate(timeout=60)[1]
            assert (program.returncode, said) == (137, "") or "o such container" in said or "not running" in said, said


def test_what_was_removed_meanwhile_is_not_called_damaged(command: Command) -> None:
    """Between looking it up and reading what was asked for; also while the removal is being written."""
    command.out("create", "--name", "c", "box", "true")
    with open_store(command.root) as store, open_store(command.root) as other:
        container = containers.find(store, "c")
        directory = containers.directory_of(store, container.id)
        with ThreadPoolExecutor() as pool:
            with other.database.write() as db:
                db.execute("DELETE FROM containers")
                directory.rename(directory.with_name(f".old-{container.id}"))
                read = pool.submit(containers.config_of, store, container)
                time.sleep(0.05)
            with pytest.raises(NotFoundError, match="No such container: c"):
                read.result(timeout=30)


def test_what_ends_or_goes_at_that_moment(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between looking for it and working with it."""
    command.out("run", "-d", "--name", "c", "box", "sleep", "100")
    with existing_store(command.root) as store:
        row = containers.find(store, "c")
        found = state.state_of(containers.directory_of(store, row.id))
        command.out("stop", "-t", "0", "c")
        with monkeypatch.context() as patched:
            patched.setattr(state, "state_of", lambda _directory: found)
            with pytest.raises(RunError, match="is not running: it has just ended"):
                execute.execute(store, row, ["true"])
        command.out("rm", "c")
        with pytest.raises(NotFoundError, match="No such container: c"):
            containers.config_of(store, row)


# ---- a disk that is full ---------------------------------------------------------------------------


def test_who_waits_hears_how_it_ended_though_it_is_removed(command: Command) -> None:
    for number in range(4):
        identity = command.out("run", "-d", "box", "sleep", "60")
        waiting = subprocess.Popen(
            command.words("wait", identity), env=command.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        until(lambda one=waiting: _waits_for_a_lock(one.pid))
        command.out("rm", "-f", identity)
        assert waiting.communicate() == ("137\n", ""), number


def _waits_for_a_lock(pid: int) -> bool:
    return "lock_inode_wait" in Path(f"/proc/{pid}/wchan").read_text()  # of flock(2)


def test_a_stop_signal_of_the_image_that_is_none(command: Command) -> None:
    identity = command.out("run", "-d", "box", "sh", "-c", FOREVER)
    place = command.root / "containers" / identity / "config.json"
    record = json.loads(place.read_text())
    record["Config"]["StopSignal"] = "SIGNOTHING"
    place.write_text(json.dumps(record))
    command.refused("stop", "-s", "SIGNOTHING", identity, code=2)
    command.out("stop", identity)
    assert command.state(identity)["ExitCode"] == 0  # by SIGTERM


@pytest.fixture
def small(tmp_path: Path, engine: object) -> Iterator[Command]:
    """In a file system of 24 MB, its root's parent."""
    place = tmp_path / "small"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "none", place], check=True)
    try:
        command = Command(place / "store", FASTLAYER_DRIVER="overlay2")
        command.out("import", "-q", make_root(tmp_path / "root"), "box")
        (tmp_path / "given").mkdir()
        yield command
        (place / "fill").unlink(missing_ok=True)
        command.run("rm", "-f", *command.out("ps", "-aq").split() or ["none"])
    finally:
        subprocess.run(["umount", "-l", place], check=True)


def fill(place: Path) -> None:
    subprocess.run(["dd", "if=/dev/zero", f"of={place}", "bs=4k"], stderr=subprocess.DEVNULL, check=False)


def test_how_it_ended_is_known_on_a_full_disk(small: Command, tmp_path: Path) -> None:
    command, filled = small, small.root.parent / "fill"
    script = "while [ ! -e /given/go ]; do sleep 0.05; done; exit 7"
    words = ["-v", f"{tmp_path}/given:/given", "box", "sh", "-c", script]
    command.out("run", "-d", "--name", "before", *words)
    command.out("create", "--name", "after", *words)
    fill(filled)
    command.out("start", "after")
    (tmp_path / "given/go").touch()
    assert command.out("wait", "before", "after").split() == ["7", "7"]
    assert [command.state(name)["ExitCode"] for name in ("before", "after")] == [7, 7]
    command.out("rm", "before", "after")
    filled.unlink()
    command.out("store", "check")


def test_a_full_disk_damages_no_line_of_a_log(small: Command, tmp_path: Path) -> None:
    command, filled = small, small.root.parent / "fill"
    filled.write_bytes(bytes(16 << 20))
    script = "yes of no use | head -c 1200000; touch /given/full; "
    script += "while [ ! -e /given/go ]; do sleep 0.05; done; echo the last line"
    command.out("run", "-d", "--name", "l", "-v", f"{tmp_path}/given:/given", "box", "sh", "-c", script)
    log = command.root / "containers" / command.inspect("l")["Id"] / "log.json"
    until(lambda: (tmp_path / "given/full").exists(), 60)
    filled.unlink()
    (tmp_path / "given/go").touch()
    assert command.out("wait", "l") == "0"
    assert 2_000_000 < log.stat().st_size < 9_000_000
    lines = command.out("logs", "l").split("\n")
    assert set(lines) <= {"of no use", "the last line"} and lines.count("of no use") == len(lines) - 1
    assert lines[-1] == "the last line"
    command.out("rm", "l")


def test_without_inodes_nothing_stays_of_what_could_not_run(tmp_path: Path, engine: object) -> None:
    """However far it comes: what is removed then has the store's reserve."""
    place = tmp_path / "small"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "nr_inodes=2000", "none", place], check=True)
    try:
        command = Command(place / "store", FASTLAYER_DRIVER="overlay2")
        command.out("import", "-q", make_root(tmp_path / "root"), "box")
        assert command.out("run", "--rm", "-v", "/anon", "box", "echo", "up") == "up"
        failed = 0
        for free in range(16, 40, 2):
            left = os.statvfs(place).f_ffree - free
            for number in range(left):
                (place / f"filler-{number}").touch()
            done = command.run("run", "--rm", "-v", "/anon", "box", "true")
            failed += done.returncode == 125 and done.stderr.count("\n") == 1
            assert done.returncode in (0, 125) and "internal" not in done.stderr, done.stderr
            for number in range(left):
                (place / f"filler-{number}").unlink()
            assert (command.out("ps", "-aq"), command.out("volume", "ls", "-q")) == ("", ""), free
        assert failed >= 2
        command.out("store", "check")
    finally:
        subprocess.run(["umount", "-l", place], check=True)
