"""Options of run and create as Docker has them: namespaces, kernel settings, files of variables, the bare image."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.buildroot import make_root
from tests.conftest import needs_root, require
from tests.containers import FOREVER, Command, until

pytestmark = [needs_root, pytest.mark.usefixtures("engine")]
runtimes = pytest.mark.parametrize("runtime", ["native", "crun", "runc"])


def needed(runtime: str) -> None:
    if runtime != "native":
        require(runtime)


@runtimes
def test_what_is_set_in_its_namespaces(command: Command, runtime: str) -> None:
    needed(runtime)
    words = ["--network", "none", "--sysctl", "kernel.shmmax=123", "--sysctl", "net.ipv4.ip_forward=1"]
    words += ["--domainname", "dom", "--oom-score-adj", "77", "--dns", "1.1.1.1", "--dns-search", "s.x"]
    words += ["--dns-opt", "ndots:2", "--runtime", runtime, "--name", "c"]
    script = "cd /proc/sys; cat kernel/shmmax net/ipv4/ip_forward kernel/domainname; cat /proc/self/oom_score_adj"
    said = command.out("run", *words, "box", "sh", "-c", f"{script}; cat /etc/resolv.conf; ls /sys/class/net")
    assert said.splitlines() == ["123", "1", "dom", "77", "search s.x", "nameserver 1.1.1.1", "options ndots:2", "lo"]
    host = command.inspect("c")["HostConfig"]
    assert host["Sysctls"] == {"kernel.shmmax": "123", "net.ipv4.ip_forward": "1"}
    assert (host["OomScoreAdj"], host["Dns"], host["DnsSearch"], host["DnsOptions"]) == (
        77,
        ["1.1.1.1"],
        ["s.x"],
        ["ndots:2"],
    )


@runtimes
def test_namespaces_of_the_host(command: Command, runtime: str) -> None:
    needed(runtime)
    names = ("ipc", "uts", "cgroup")
    ours = [os.readlink(f"/proc/self/ns/{name}") for name in names]
    script = "for n in ipc uts cgroup; do readlink /proc/self/ns/$n; done; hostname; ls /dev/shm"
    words = ["--ipc", "host", "--uts", "host", "--cgroupns", "host"]
    mark = Path("/dev/shm/of-host")
    mark.touch()
    try:
        said = command.out("run", "--rm", "--runtime", runtime, *words, "box", "sh", "-c", script).splitlines()
    finally:
        mark.unlink()
    assert said[:4] == [*ours, os.uname().nodename] and "of-host" in said[4:]
    own = command.out("run", "--rm", "--runtime", runtime, "box", "sh", "-c", script).splitlines()
    assert not set(own) & set(said)


def test_nothing_is_left_in_the_pid_namespace_of_the_host(command: Command) -> None:
    """Without a pid namespace the kernel ends nobody: what the program has started is looked for."""
    sleeper = "sleep 987654"
    script = f"{sleeper} & (setsid sh -c '{sleeper} & {sleeper}' &) ; sleep 0.2; "
    command.out("run", "--rm", "--pid", "host", "box", "sh", "-c", script + "true", timeout=30)
    assert sleeping(sleeper) == 0
    command.out("run", "-d", "--name", "c", "--pid", "host", "box", "sh", "-c", script + FOREVER)
    until(lambda: sleeping(sleeper) == 3)
    assert command.out("exec", "c", "readlink", "/proc/self/ns/pid") == os.readlink("/proc/self/ns/pid")
    os.kill(parent(command.state("c")["Pid"]), 9)  # the keeper: the monitor takes over
    until(lambda: sleeping(sleeper) == 0)
    until(lambda: command.state("c")["Status"] == "exited")
    command.refused("run", "--rm", "--runtime", "crun", "--pid", "host", "box", "true", code=125)


def sleeping(line: str) -> int:
    count = 0
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            count += Path(f"/proc/{name}/cmdline").read_bytes().split(b"\0")[:-1] == line.encode().split()
        except OSError:
            continue
    return count


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


@pytest.mark.parametrize(
    "words",
    [
        ["--sysctl", "foo=1"],
        ["--sysctl", "kernel.../x=1"],
        ["--sysctl", "net.ipv4.ip_forward=1"],
        ["--sysctl", "kernel.shmmax=1", "--ipc", "host"],
        ["--uts", "host", "-h", "name"],
        ["--pid", "container:x"],
        ["--ipc", "bogus"],
        ["--restart", "always"],
        ["--restart", "bogus"],
        ["--pull", "sometimes"],
        ["--oom-score-adj", "2000"],
        ["--dns", "name"],
        ["--dns-search", "a b"],
        ["--cpus", "1", "--cpu-quota", "2000"],
        ["--cpu-period", "1"],
        ["-m", "10m", "--memory-reservation", "20m"],
        ["--device", "/dev/null:/dev/x:r"],
        ["--readonly-image", "--storage-opt", "size=1m"],
        ["--env-file", "/does/not/exist"],
        ["--env-file", "/dev/zero"],
        ["--label-file", "/dev/zero"],
    ],
    ids=" ".join,
)
def test_what_cannot_be(command: Command, words: list[str]) -> None:
    command.refused("run", "--rm", *words, "box", "true", code=125)
    assert command.out("ps", "-aq") == ""


def test_switches_with_values(command: Command) -> None:
    """As Docker takes them; the program's own are left alone."""
    words = ["--rm=true", "--read-only=false", "--init=false", "-e", "--tty=true"]
    assert command.out("run", *words, "box", "sh", "-c", "touch /x; echo $0 $@", "--rm=true") == "--rm=true"
    assert command.out("ps", "-aq") == ""
    assert command.run("run", "--read-only=true", "--rm", "box", "touch", "/x").returncode == 1


def test_files_of_variables_are_read_as_dockers(command: Command, tmp_path: Path) -> None:
    file = tmp_path / "env"
    file.write_bytes(b'\xef\xbb\xbfBOM=1\n  LEAD= v v \nQ="a b"\n#c\n\n\tTAB=1\nABSENT\nHERE\nBOTH=file\n')
    command.env |= {"HERE": "ours"}
    for name in ("ABSENT", "FROM_IMAGE", "ALSO"):
        command.env.pop(name, None)
    words = ["--env-file", file, "-e", "BOTH=flag", "-e", "FROM_IMAGE", "-e", "ALSO"]
    lines = command.run("run", "--rm", *words, "box", "env").stdout.splitlines()
    assert {"BOM=1", "LEAD= v v ", 'Q="a b"', "TAB=1", "HERE=ours", "BOTH=flag"} <= set(lines)
    names = {line.partition("=")[0] for line in lines}
    assert not names & {"ABSENT", "FROM_IMAGE", "ALSO"}  # -e without a value takes the image's away
    for bad in (b"A B=1\n", b"=x\n", b" A =1\n", b"A\tB\n", b"A=\xff\n"):
        file.write_bytes(bad)
        command.refused("run", "--rm", "--env-file", file, "box", "true", code=125)
    file.write_text("a=1\nb\n# x\n")
    command.out("create", "--name", "c", "--label-file", file, "--label", "d", "--label", "e=", "box")
    assert command.inspect("c")["Config"]["Labels"] == {"of": "image", "a": "1", "d": "", "e": ""}


def test_noted_only(command: Command) -> None:
    command.out("create", "--name", "c", "--expose", "80", "--annotation", "a=b", "--pull", "never", "box")
    found = command.inspect("c")
    assert found["Config"]["ExposedPorts"] == {"80/tcp": {}} and found["HostConfig"]["Annotations"] == {"a": "b"}


# ---- the bare image --------------------------------------------------------------------------------


@pytest.fixture
def whole(command: Command, tmp_path: Path) -> Command:
    """With the image ``whole``, which has all places that a container mounts at."""
    root = make_root(tmp_path / "root")
    for name in ("proc", "sys", "dev", "data"):
        (root / name).mkdir()
    command.out("import", "-q", root, "whole")
    return command


@runtimes
def test_containers_on_the_bare_image(whole: Command, tmp_path: Path, runtime: str) -> None:
    needed(runtime)
    words = ["--readonly-image", "--runtime", runtime, "--tmpfs", "/data", "whole"]
    done = whole.run("run", "--name", "c", *words, "sh", "-c", "touch /data/x && echo mem; touch /x; ls /etc")
    assert done.stdout.splitlines()[0] == "mem" and "Read-only file system" in done.stderr
    assert whole.out("diff", "c") == ""
    assert whole.out("ps", "-as", "--format", "{{.Size}}").startswith("0B (virtual ")
    assert whole.inspect("c")["HostConfig"]["ReadonlyRootfs"] is True
    assert whole.out("cp", "c:/etc/passwd", "-")
    (tmp_path / "file").touch()
    for refused in (
        ["commit", "c"],
        ["checkpoint", "c", "x"],
        ["fork", "c", "d"],
        ["cp", tmp_path / "file", "c:/data"],
    ):
        whole.refused(*refused, code=2 if refused[0] != "cp" else 1)
    whole.out("rm", "c")
    assert whole.out("run", "--rm", "whole", "cat", "/etc/group")


def test_places_that_the_bare_image_lacks(whole: Command, tmp_path: Path) -> None:
    words = ["run", "--rm", "--readonly-image", "-v", f"{tmp_path}:/nowhere", "whole", "true"]
    assert "--readonly-image" in whole.refused(*words, code=125)
    assert whole.out("run", "--rm", "--readonly-image", "whole", "hostname")


def test_many_share_every_byte(whole: Command) -> None:
    """They take nothing but their configuration, and one that goes takes nothing from the others."""
    before = used(whole.root)
    names = [f"c{number}" for number in range(20)]
    for name in names:
        whole.out("create", "--readonly-image", "--name", name, "whole", "cat", "/etc/passwd")
    assert used(whole.root) - before < 20 * (16 << 10)
    lowers = {json.dumps(whole.inspect(name)["GraphDriver"]["Data"].get("LowerDir")) for name in names[:3]}
    assert len(lowers) == 1
    whole.out("rm", *names[:10])
    assert whole.out("start", "-a", names[15]) == whole.out("run", "--rm", "whole", "cat", "/etc/passwd")


def used(root: Path) -> int:
    """Bytes on disk, without the database, which grows in steps."""
    words = ["du", "-s", "--block-size=1", "--exclude=metadata.db*", root]
    return int(subprocess.run(words, capture_output=True, text=True, check=True).stdout.split()[0])
