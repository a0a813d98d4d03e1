"""Containers by the command: what they are given, how they end, what is told of them."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import tarfile
from pathlib import Path

import pytest

from tests.conftest import needs_root, require
from tests.containers import FOREVER, Command, Terminal, until

pytestmark = [needs_root, pytest.mark.usefixtures("engine")]


# ---- run -------------------------------------------------------------------------------------------


def test_run_gives_output_status_and_leaves_nothing(command: Command) -> None:
    done = command.run("run", "--rm", "box", "sh", "-c", "echo out; echo err >&2; exit 7")
    assert (done.returncode, done.stdout, done.stderr) == (7, "out\n", "err\n")
    assert command.out("ps", "-aq") == ""
    assert os.listdir(command.root / "containers") == []
    assert "container" not in command.out("mounts", "--format", "json")


@pytest.mark.parametrize(
    "words,status",
    [(["nope"], 127), (["/nope"], 127), (["/etc/passwd"], 126), (["/tmp"], 126), (["sh", "-c", "kill -9 $$"], None)],
)
def test_exit_statuses_are_dockers(command: Command, words: list[str], status: int | None) -> None:
    done = command.run("run", "--rm", "box", *words)
    assert done.returncode == (status if status is not None else 0), done  # the first process ignores its own SIGKILL
    if status is not None:
        assert len(done.stderr.splitlines()) == 1 and words[0] in done.stderr, done.stderr


@pytest.mark.parametrize(
    "words",
    [
        ["absent", "true"],
        ["-p", "80:80", "box"],
        ["-P", "box"],
        ["--network", "bridge", "box"],
        ["--nonsense", "box"],
        ["-v", "/a:relative", "box"],
        ["--mount", "type=bind,source=/does/not/exist,target=/x", "box"],
        ["--cap-add", "NONSENSE", "box"],
        ["-m", "1k", "box"],
        ["-u", "nobodyknows", "box", "true"],
        ["--name", "-bad", "box"],
        ["--ulimit", "nofile", "box"],
        ["--log-opt", "max-size=x", "box"],
        ["--restart", "always", "box"],
        ["--cpus", "nan", "box", "true"],
        ["--cpus", "0.001", "box", "true"],
        ["--cpu-shares", "-5", "box", "true"],
        ["--cpuset-cpus", "99999", "box", "true"],
        ["--cpuset-cpus", "0\n1", "box", "true"],
        ["--cpuset-cpus", "1-0", "box", "true"],
        ["--pids-limit", "9999999999999", "box", "true"],
        ["-h", "one\n10.0.0.1 two", "box", "true"],
        ["-h", "one two", "box", "true"],
        ["-v", "/dev/null/x:/y", "box", "true"],
        ["-v", "/proc/version/x:/y", "box", "true"],
        ["--tmpfs", "/x:uid=somebody", "box", "true"],
        ["--tmpfs", "/x:nonsense", "box", "true"],
    ],
)
def test_what_cannot_be_is_125_and_one_line(command: Command, words: list[str]) -> None:
    command.refused("run", "--rm", *words, code=125)
    assert command.out("ps", "-aq") == ""


def test_standard_input(command: Command) -> None:
    text = "".join(f"line {number}\n" for number in range(20_000))
    assert command.run("run", "--rm", "-i", "box", "cat", input=text).stdout == text
    assert command.run("run", "--rm", "box", "cat", input=text).stdout == ""  # without -i there is none


def test_a_reader_that_is_slow_gets_everything(command: Command) -> None:
    script = f"{' '.join(command.words('run', '--rm', 'box', 'seq', '200000'))} | (sleep 1; wc -l)"
    done = subprocess.run(["sh", "-c", script], env=command.env, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "200000"


def test_environment(command: Command, tmp_path: Path) -> None:
    file = tmp_path / "env"
    file.write_text("# comment\nFILE=1\nBOTH=file\nHERE\n\n")
    command.env |= {"HERE": "ours", "ALSO": "ours, too"}
    command.env.pop("ABSENT", None)
    words = ["--env-file", file, "-e", "BOTH=flag", "-e", "ALSO", "-e", "ABSENT", "-e", "EMPTY="]
    lines = set(command.out("run", "--rm", *words, "box", "env").splitlines())
    assert {"FROM_IMAGE=yes", "FILE=1", "BOTH=flag", "HERE=ours", "ALSO=ours, too", "EMPTY=", "HOME=/root"} <= lines
    assert not any(line.startswith("ABSENT") for line in lines)
    assert any(re.fullmatch(r"HOSTNAME=[0-9a-f]{12}", line) for line in lines)


def test_users_and_groups_are_those_of_the_root(command: Command) -> None:
    who = "id -u; id -g; id -G; echo $HOME; pwd"
    assert command.out("run", "--rm", "-u", "app", "box", "sh", "-c", who).split() == [
        *("1000", "1001", "1001", "1002", "/home/app", "/tmp")
    ]
    assert command.out("run", "--rm", "-u", "1000:extra", "box", "sh", "-c", who).split()[:3] == [
        "1000",
        "1002",
        "1002",
    ]
    assert command.out("run", "--rm", "-u", "4242", "box", "sh", "-c", who).split()[:4] == ["4242", "0", "0", "/"]
    more = command.out("run", "--rm", "-u", "app", "--group-add", "77", "box", "id", "-G").split()
    assert set(more) == {"1001", "1002", "77"}


def test_what_is_mounted(command: Command, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/file").write_text("of the host\n")
    words = ["-v", f"{tmp_path}/data:/rw", "-v", f"{tmp_path}/data:/ro:ro", "--tmpfs", "/mem:size=1m,mode=700"]
    words += ["--mount", "type=image,source=box,target=/image", "-v", f"{tmp_path}/made:/made"]
    script = (
        "cat /rw/file; echo new > /rw/new; echo no > /ro/no; df -k /mem | tail -1; ls /image/bin/sh; touch /image/x"
    )
    done = command.run("run", "--name", "m", *words, "box", "sh", "-c", script)
    assert done.stdout.startswith("of the host\n") and "/image/bin/sh" in done.stdout
    assert " 1024 " in done.stdout
    assert done.stderr.count("Read-only file system") == 2
    assert (tmp_path / "data/new").read_text() == "new\n" and not (tmp_path / "data/no").exists()
    assert (tmp_path / "made").is_dir()
    mounts = {row["Destination"]: row for row in command.inspect("m")["Mounts"]}
    assert (mounts["/ro"]["RW"], mounts["/rw"]["RW"]) == (False, True)
    assert mounts["/rw"]["Source"] == f"{tmp_path}/data" and mounts["/rw"]["Type"] == "bind"
    command.out("rm", "m")
    assert "image-" not in command.out("mounts", "--format", "json")


@pytest.mark.parametrize("runtime", ["native", "crun"])  # runc takes the mode of the mount point
def test_tmpfs_is_mounted_as_asked(command: Command, runtime: str) -> None:
    if runtime != "native":
        require(runtime)
    run = ["run", "--rm", "--runtime", runtime]
    show = "stat -c '%u %g %a' /t; cp /bin/busybox /t/true; /t/true && echo executed; touch /t/x && echo written"
    words = {
        "/t": "0 0 1777 written",
        "/t:uid=1000,gid=1001,mode=750,exec": "1000 1001 750 executed written",
        "/t:exec,noexec,rw": "0 0 1777 written",
        "/t:ro,nr_inodes=10": "0 0 1777",
    }
    for text, wanted in words.items():
        assert command.run(*run, "--tmpfs", text, "box", "sh", "-c", show).stdout.split() == wanted.split(), text
    mount = "type=tmpfs,target=/t,readonly"
    assert command.run(*run, "--mount", mount, "box", "sh", "-c", show).stdout.split() == ["0", "0", "1777"]


def test_volumes_outlive_containers(command: Command) -> None:
    """Named ones are kept, anonymous ones go with --rm; the image's files come into a new one."""
    words = ["-v", "data:/home/app", "-v", "/scratch"]
    command.out("run", "--rm", *words, "box", "sh", "-c", "echo kept > /home/app/file; echo x > /scratch/x")
    assert command.out("volume", "ls", "-q").split() == ["data"]
    command.out("run", "--name", "v", "-v", "data:/see:ro", "box", "sh", "-c", "cat /see/file; touch /see/no || true")
    assert command.out("logs", "v").splitlines()[0] == "kept"
    assert "Read-only" in command.run("logs", "v").stderr
    assert command.inspect("v")["Mounts"][0]["Name"] == "data"
    command.refused("volume", "rm", "data")  # a container has it, running or not
    command.out("rm", "v")
    command.out("run", "--rm", "-v", "etc:/etc", "box", "grep", "-q", "^app:", "/etc/passwd")  # filled from the image
    command.out("volume", "rm", "data", "etc")


def test_a_read_only_root(command: Command) -> None:
    script = "touch /tmp/x; touch /run/y && echo ok; echo z > /dev/null && echo null"
    done = command.run("run", "--rm", "--read-only", "--tmpfs", "/run", "box", "sh", "-c", script)
    assert done.stdout.split() == ["ok", "null"] and "Read-only file system" in done.stderr


def test_names_of_hosts(command: Command) -> None:
    script = "hostname; cat /etc/hostname; grep db /etc/hosts"
    words = ["-h", "box.example", "--add-host", "db:10.1.2.3"]
    assert command.out("run", "--rm", *words, "box", "sh", "-c", script).split() == [
        *("box.example", "box.example", "10.1.2.3", "db")
    ]


@pytest.mark.parametrize("runtime", ["native", "crun", "runc"])
def test_files_of_names_are_those_that_are_mounted(command: Command, runtime: str, tmp_path: Path) -> None:
    if shutil.which(runtime) is None and runtime != "native":
        pytest.skip(f"{runtime} is not installed")
    (tmp_path / "mine").write_text("mine\n")
    for name in ("hosts", "hostname", "resolv.conf"):
        words = ["--runtime", runtime, "--rm", "-v", f"{tmp_path}/mine:/etc/{name}:ro"]
        assert command.out("run", *words, "box", "cat", f"/etc/{name}") == "mine"


def test_networks(command: Command) -> None:
    none = command.out("run", "--rm", "--network", "none", "box", "ls", "/sys/class/net")
    host = command.out("run", "--rm", "--network", "host", "box", "sh", "-c", "ls /sys/class/net; hostname")
    assert none == "lo"
    assert host.split() == [*sorted(os.listdir("/sys/class/net")), os.uname().nodename]


def test_capabilities_limits_and_privileges(command: Command) -> None:
    caps = ["sh", "-c", "grep CapEff /proc/self/status; ulimit -n"]
    limit = ["--ulimit", "nofile=77:88"]
    default, nofile = command.out("run", "--rm", *limit, "box", *caps).replace("CapEff:", "").split()
    assert (default, nofile) == ("00000000a80425fb", "77")
    none = command.out("run", "--rm", "--cap-drop", "all", "--cap-add", "net_raw", "box", *caps).split()[1]
    assert int(none, 16) == 1 << 13
    all_ = command.out("run", "--rm", "--privileged", "box", *caps).split()[1]
    assert int(all_, 16) > int(default, 16)


def test_limits_of_memory_and_processes(command: Command) -> None:
    from fastlayer.running import cgroups

    if not {"memory", "pids"} <= set(cgroups.hierarchies()):
        pytest.skip("no cgroups for memory and pids here")
    eater = "x=a; while :; do x=$x$x; done"
    done = command.run("run", "--name", "eater", "-m", "20m", "--memory-swap", "20m", "box", "sh", "-c", eater)
    assert done.returncode == 137, done
    assert command.state("eater")["OOMKilled"] is True
    forks = "i=0; while [ $i -lt 30 ]; do sleep 1 & i=$((i+1)); done; wait"
    done = command.run("run", "--name", "forks", "--pids-limit", "10", "box", "sh", "-c", forks)
    assert "fork" in done.stderr, done
    for name in ("eater", "forks"):
        identity = command.inspect(name)["Id"]
        places = {place for place, _ in cgroups.hierarchies().values()}
        assert not any(os.path.exists(f"{place}/fastlayer/{identity}") for place in places)
    assert command.inspect("eater")["HostConfig"]["Memory"] == 20 << 20


def test_init_reaps_orphans(command: Command) -> None:
    script = "(sleep 0.1 &) ; sleep 0.6; ps -o comm | grep -c '^sleep'; cat /proc/1/comm"
    done = command.run("run", "--rm", "--init", "box", "sh", "-c", script)
    if "install tini" in done.stderr:
        pytest.skip("no static init is installed")
    assert done.stdout.split()[0] == "0" and done.stdout.split()[1] != "sh", done


# ---- the life of one -------------------------------------------------------------------------------


def test_created_started_stopped_removed(command: Command) -> None:
    identity = command.out("create", "--name", "one", "-l", "job=x", "box", "sh", "-c", f"echo up; {FOREVER}")
    assert re.fullmatch(r"[0-9a-f]{64}", identity)
    assert command.state("one")["Status"] == "created"
    assert command.out("start", "one") == "one"
    state = command.state("one")
    assert state["Running"] and state["Pid"] > 0 and state["FinishedAt"].startswith("0001-")
    assert command.out("ps", "-q", "--no-trunc") == identity
    command.refused("rm", "one")
    target = command.root.with_name("target")
    target.mkdir()
    assert "running container" in command.refused("mount", "--rw", "--name", "one", target)
    until(lambda: command.out("logs", "one") == "up")
    assert command.out("stop", identity[:7]) == identity[:7]
    state = command.state("one")
    assert (state["Status"], state["ExitCode"], state["Pid"]) == ("exited", 0, 0)
    assert state["FinishedAt"] > state["StartedAt"] > "2020"
    assert command.out("stop", "one") == "one"  # as Docker: it is stopped
    command.out("start", "one")
    assert command.out("kill", "one") == "one"
    assert command.out("wait", "one") == "137"
    assert command.out("logs", "one").split() == ["up", "up"]
    command.refused("kill", "one")
    assert command.out("rm", "one") == "one"
    assert command.out("ps", "-aq") == ""
    command.refused("inspect", "one")


def test_stopping_goes_on_to_kill(command: Command) -> None:
    command.out("run", "-d", "--name", "deaf", "--stop-timeout", "0", "box", "sh", "-c", "trap '' TERM; sleep 60")
    command.out("stop", "deaf")
    assert command.state("deaf")["ExitCode"] == 137
    own = "trap 'exit 3' USR1; echo up; while :; do sleep 0.05; done"
    command.out("run", "-d", "--name", "own", "--stop-signal", "USR1", "box", "sh", "-c", own)
    until(lambda: command.out("logs", "own") == "up")
    command.out("stop", "own")
    assert command.state("own")["ExitCode"] == 3


def test_the_life_of_what_is_written(command: Command) -> None:
    """The lesson: copied up, seen in diff, not by others, gone with the container."""
    command.out("run", "--name", "a", "box", "sh", "-c", "echo changed >> /etc/passwd; echo t > /root/temp.txt")
    assert {"C /etc/passwd", "A /root/temp.txt"} <= set(command.out("diff", "a").splitlines())
    assert "changed" not in command.out("run", "--rm", "box", "cat", "/etc/passwd")
    command.out("commit", "-q", "a", "kept")
    assert "changed" in command.out("run", "--rm", "kept", "cat", "/etc/passwd")
    command.out("rm", "a")
    assert command.run("run", "--rm", "box", "cat", "/root/temp.txt").returncode == 1
    assert command.out("run", "--rm", "kept", "cat", "/root/temp.txt") == "t"


def test_diff_and_commit_while_it_runs(command: Command) -> None:
    command.out("run", "-d", "--name", "r", "box", "sh", "-c", f"echo x > /root/x; echo up; {FOREVER}")
    until(lambda: command.out("logs", "r") == "up")
    assert "A /root/x" in command.out("diff", "r").splitlines()
    command.out("commit", "-q", "r", "while")
    assert command.out("run", "--rm", "while", "cat", "/root/x") == "x"


def test_export_of_a_running_container_is_of_its_layer(command: Command, tmp_path: Path) -> None:
    """Without /proc, volumes, files of the host: what `docker export` has."""
    (tmp_path / "given").mkdir()
    (tmp_path / "given/secret").write_text("of the host")
    script = f"echo x > /root/x; echo y > /vol/y; echo up; {FOREVER}"
    command.out(
        "run", "-d", "--name", "r", "-v", "vol:/vol", "-v", f"{tmp_path}/given:/given", "box", "sh", "-c", script
    )
    until(lambda: command.out("logs", "r") == "up")
    command.out("export", "-o", tmp_path / "out.tar", "r")
    with tarfile.open(tmp_path / "out.tar") as tar:
        found = {name.removeprefix("./").strip("/"): tar.getmember(name) for name in tar.getnames()}
    assert "root/x" in found and found["etc/hosts"].size == 0
    for mount in ("proc", "sys", "dev", "vol", "given"):
        assert [name for name in found if name.startswith(f"{mount}/")] == [], mount
        assert found[mount].isdir()


def test_copies_of_a_running_container(command: Command, tmp_path: Path) -> None:
    command.out("run", "-d", "--name", "r", "box", "sh", "-c", f"echo x > /root/x; echo up; {FOREVER}")
    until(lambda: command.out("logs", "r") == "up")
    command.out("cp", "r:/root/x", tmp_path / "x")
    assert (tmp_path / "x").read_text() == "x\n"
    (tmp_path / "y").write_text("y\n")
    command.out("cp", tmp_path / "y", "r:/root/")
    assert command.out("exec", "r", "cat", "/root/y") == "y"
    command.out("checkpoint", "r", "one")
    command.out("exec", "r", "rm", "/root/x")
    command.refused("rollback", "r", "one")  # it runs
    command.out("stop", "r")
    command.out("rollback", "r", "one")
    command.out("rename", "r", "other")
    command.out("rollback", "other", "one")  # which goes by the new name
    command.out("start", "other")
    assert command.out("exec", "other", "cat", "/root/x") == "x"


def test_names(command: Command) -> None:
    command.out("create", "--name", "taken", "box")
    assert "already in use" in command.refused("create", "--name", "taken", "box")
    made = command.out("create", "box")
    assert re.fullmatch(r"/[a-z]+_[a-z]+\d*", command.inspect(made)["Name"])
    command.refused("rename", made[:12], "taken")
    command.out("rename", "taken", "free")
    command.out("create", "--name", "taken", "box")
    assert {row["Names"] for row in map(json.loads, command.out("ps", "-a", "--format", "json").splitlines())} >= {
        *("taken", "free")
    }


def test_generated_names_do_not_clash() -> None:
    from fastlayer.container.names import new_name

    taken: set[str] = set()
    for _ in range(3000):
        name = new_name(taken)
        assert name not in taken
        taken.add(name)


def test_rm_of_what_runs(command: Command) -> None:
    command.out("run", "-d", "--rm", "--name", "auto", "box", "sh", "-c", FOREVER)
    command.out("rm", "-f", "auto")
    assert command.out("ps", "-aq") == ""
    command.out("run", "-d", "--rm", "--name", "auto", "box", "sleep", "0.1")
    until(lambda: not command.out("ps", "-aq"))  # its monitor has it removed
    assert os.listdir(command.root / "containers") == []


def test_prune_spares_those_that_run(command: Command) -> None:
    command.out("run", "-d", "--name", "up", "box", "sh", "-c", FOREVER)
    command.out("run", "--name", "ended", "box", "true")
    command.out("create", "--name", "never", "-l", "keep", "box")
    said = command.out("container", "prune", "-f", "--filter", "label!=keep").splitlines()
    assert said[0] == "Deleted Containers:" and len(said) == 2
    assert command.run("container", "prune", input="n\n").stdout == ""
    assert set(command.out("ps", "-a", "--format", "{{.Names}}").split()) == {"up", "never"}
    assert command.out("system", "prune", "--dry-run").splitlines()[0] == "Would remove: never"
    command.out("system", "prune", "-f")
    assert command.out("ps", "-a", "--format", "{{.Names}} {{.State}}") == "up running"
    command.out("exec", "up", "true")


def test_cidfile(command: Command, tmp_path: Path) -> None:
    place = tmp_path / "cid"
    identity = command.out("create", "--cidfile", place, "box")
    assert place.read_text() == identity
    command.refused("create", "--cidfile", place, "box", code=2)
    command.run("create", "--cidfile", tmp_path / "other", "absent")
    assert not (tmp_path / "other").exists()


def test_pause(command: Command) -> None:
    from fastlayer.running import cgroups

    if "freezer" not in cgroups.hierarchies():
        pytest.skip("no freezer cgroup here")
    command.out("run", "-d", "--name", "p", "box", "sh", "-c", "i=0; while :; do i=$((i+1)); echo $i; sleep 0.02; done")
    until(lambda: len(command.out("logs", "p").splitlines()) > 3)
    command.out("pause", "p")
    assert command.state("p")["Status"] == "paused" and "(Paused)" in command.out("ps")
    first = command.out("logs", "p")
    command.refused("exec", "p", "true")
    command.refused("pause", "p")
    assert command.out("logs", "p") == first
    command.out("unpause", "p")
    until(lambda: command.out("logs", "p") != first)
    command.out("pause", "p")
    command.out("stop", "-t", "1", "p")
    assert command.state("p")["Status"] == "exited"


# ---- logs ------------------------------------------------------------------------------------------


def test_logs(command: Command) -> None:
    command.run("run", "--name", "l", "box", "sh", "-c", "echo one; echo two >&2; printf three")
    done = command.run("logs", "l")
    assert (done.stdout, done.stderr) == ("one\nthree", "two\n")
    assert command.run("logs", "--tail", "1", "l").stdout == "three"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:]{8}\.\d{9}Z one", command.run("logs", "-t", "l").stdout.splitlines()[0])
    assert command.out("logs", "--since", "1h", "l").startswith("one")
    assert command.out("logs", "--until", "1h", "l") == ""
    lines = [json.loads(line) for line in Path(command.inspect("l")["LogPath"]).read_text().splitlines()]
    assert [(line["log"], line["stream"]) for line in lines] == [
        *(("one\n", "stdout"), ("two\n", "stderr"), ("three", "stdout"))
    ]


def test_logs_of_odd_bytes(command: Command) -> None:
    script = r"""printf 'q"b\\ t\t <>& \303\251 \377 \001 end\n'; head -c 40000 /dev/zero | tr '\0' x; echo"""
    out = command.run("run", "--name", "odd", "box", "sh", "-c", script, text=False).stdout
    assert out.startswith(b'q"b\\ t\t <>& \xc3\xa9 \xff \x01 end\n')
    text = command.run("logs", "odd", text=False).stdout
    assert text == out.replace(b"\xff", "\N{REPLACEMENT CHARACTER}".encode())
    lines = [json.loads(line)["log"] for line in Path(command.inspect("odd")["LogPath"]).read_text().splitlines()]
    assert [len(line) for line in lines[1:]] == [16384, 16384, 40001 - 2 * 16384]  # Docker's pieces


def test_logs_rotate(command: Command) -> None:
    words = ["--log-opt", "max-size=10k", "--log-opt", "max-file=3"]
    command.run("run", "--name", "rot", *words, "box", "seq", "100000")
    place = Path(command.inspect("rot")["LogPath"]).parent
    files = sorted(path.name for path in place.glob("log.json*"))
    assert files == ["log.json", "log.json.1", "log.json.2"]
    assert all((place / name).stat().st_size <= 10 << 10 for name in files)
    numbers = [int(line) for line in command.out("logs", "rot").splitlines()]
    assert numbers == list(range(numbers[0], 100001))


def test_logs_are_followed(command: Command) -> None:
    command.out("run", "-d", "--name", "f", "box", "sh", "-c", "for i in 1 2 3 4 5; do echo $i; sleep 0.1; done")
    assert command.out("logs", "-f", "f").split() == ["1", "2", "3", "4", "5"]


def test_no_logs(command: Command) -> None:
    assert command.out("run", "--name", "n", "--log-driver", "none", "box", "echo", "seen") == "seen"
    command.refused("logs", "n")


# ---- exec ------------------------------------------------------------------------------------------


def test_exec(command: Command) -> None:
    words = ["-d", "--name", "e", "-h", "inside", "-e", "GIVEN=1", "-w", "/etc", "--cap-drop", "net_raw"]
    command.out("run", *words, "box", "sh", "-c", FOREVER)
    script = "hostname; pwd; echo $GIVEN $FROM_IMAGE $MORE; cat /proc/1/comm; grep CapEff /proc/self/status"
    lines = command.out("exec", "-e", "MORE=2", "e", "sh", "-c", script).splitlines()
    assert lines[:4] == ["inside", "/etc", "1 yes 2", "sh"]
    assert not int(lines[4].split()[1], 16) >> 13 & 1
    assert command.out("exec", "-u", "app", "-w", "/", "e", "sh", "-c", "id -un; pwd; id -G").split() == [
        *("app", "/", "1001", "1002")
    ]
    assert command.run("exec", "-i", "e", "cat", input="text").stdout == "text"
    done = command.run("exec", "e", "sh", "-c", "echo o; echo e >&2; exit 5")
    assert (done.returncode, done.stdout, done.stderr) == (5, "o\n", "e\n")
    assert command.refused("exec", "e", "nope", code=127)
    assert command.refused("exec", "e", "/etc/passwd", code=126)
    command.out("exec", "-d", "e", "sh", "-c", "echo later > /tmp/later")
    until(lambda: command.run("exec", "e", "cat", "/tmp/later").stdout == "later\n")
    command.out("stop", "e")
    assert "is not running" in command.refused("exec", "e", "true")


def test_exec_sees_only_the_container(command: Command) -> None:
    command.out("run", "-d", "--name", "s", "--network", "none", "box", "sh", "-c", FOREVER)
    script = "for n in mnt pid net ipc uts cgroup; do readlink /proc/self/ns/$n; readlink /proc/1/ns/$n; done; "
    script += "ls /proc/self/fd"
    lines = command.out("exec", "s", "sh", "-c", script).splitlines()
    assert all(one == two for one, two in zip(lines[0:12:2], lines[1:12:2], strict=True)), lines
    assert lines[0] != os.readlink("/proc/self/ns/mnt") and lines[4] != os.readlink("/proc/self/ns/net")
    assert lines[12:] == ["0", "1", "2", "3"]  # the last is the directory that ls reads


# ---- terminals and signals -------------------------------------------------------------------------


def test_a_terminal(command: Command) -> None:
    terminal = Terminal(command.words("run", "--rm", "-it", "-h", "tty", "box", "sh"), command.env)
    terminal.type(b"tty; stty size; echo $TERM; test -t 0 && ls -l /dev/console | cut -c1\n")
    terminal.expect(b"/dev/pts/0\r\n")
    terminal.expect(b"33 99\r\n")
    terminal.expect(b"xterm\r\nc\r\n")
    terminal.resize(20, 60)
    terminal.type(b"sleep 0.3; stty size\n")
    terminal.expect(b"20 60\r\n")
    terminal.type(b"sh -c 'echo sle''eping; exec sleep 60'\n")
    terminal.expect(b"sleeping\r\n")
    terminal.type(b"\x03")  # the interrupt goes to what runs in the terminal
    terminal.type(b"echo still here; exit 6\n")
    terminal.expect(b"still here")
    assert terminal.wait() == 6


def test_detaching_and_attaching(command: Command) -> None:
    terminal = Terminal(command.words("run", "-it", "--name", "det", "box", "sh"), command.env)
    terminal.expect(b"# ")  # what is typed before that goes through a terminal that is not raw yet
    terminal.type(b"echo o''ne\n")
    terminal.expect(b"one\r\n")
    terminal.type(b"\x10\x11")
    assert terminal.wait() == 0
    assert command.state("det")["Running"]
    again = Terminal(command.words("attach", "det"), command.env)
    again.type(b"echo t''wo\n")
    again.expect(b"two\r\n")
    again.type(b"exit 4\n")
    assert again.wait() == 4
    assert "one" in command.out("logs", "det") and "two" in command.out("logs", "det")


def test_exec_with_a_terminal(command: Command) -> None:
    command.out("run", "-d", "--name", "et", "box", "sh", "-c", FOREVER)
    terminal = Terminal(command.words("exec", "-it", "et", "sh"), command.env)
    terminal.type(b"tty; stty size\n")
    terminal.expect(b"/dev/pts/0\r\n")
    terminal.expect(b"33 99\r\n")
    terminal.type(b"exit 3\n")
    assert terminal.wait() == 3


def test_tty_needs_one(command: Command) -> None:
    command.refused("run", "--rm", "-it", "box", "true", code=125)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1])
def test_signals_are_passed_on(command: Command, number: signal.Signals) -> None:
    name = number.name.removeprefix("SIG")
    script = f"trap 'echo got {name}; exit 9' {name}; echo up; while :; do sleep 0.05; done"
    process = subprocess.Popen(
        command.words("run", "--name", "sig", "box", "sh", "-c", script),
        env=command.env,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    process.send_signal(number)
    assert process.stdout.read() == f"got {name}\n"
    assert process.wait() == 9
