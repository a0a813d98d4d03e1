"""The same scripts by docker and by us: exit statuses, what inspect tells, how lists show it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import needs_root
from tests.containers import FOREVER, until
from tests.integration.containerjudges import Run, opened

pytestmark = needs_root


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Run, Run]]:
    """(docker, we) as functions of the words of a command, with the image ``box``."""
    with opened("docker", tmp_path_factory.mktemp("judged")) as found:
        yield found


@pytest.mark.parametrize(
    "words",
    [
        ["run", "--rm", "--network", "none", "box", "true"],
        ["run", "--rm", "--network", "none", "box", "sh", "-c", "exit 42"],
        ["run", "--rm", "--network", "none", "box", "sh", "-c", "kill -TERM $$; exit 3"],
        ["run", "--rm", "--network", "none", "box", "nope"],
        ["run", "--rm", "--network", "none", "box", "/etc/passwd"],
        ["run", "--rm", "--network", "none", "-u", "nobodyknows", "box", "true"],
        ["run", "--rm", "--network", "none", "--cap-add", "nonsense", "box", "true"],
        ["run", "--rm", "--network", "none", "-m", "1k", "box", "true"],
        ["run", "--rm", "--network", "none", "-v", "/a:b", "box", "true"],
        ["run", "--rm", "--nonsense", "box"],
        ["run", "--rm", "--network", "none", "--entrypoint", "/bin/echo", "box", "a", "b"],
        ["run", "--rm", "--network", "none", "-w", "/new/dir", "box", "pwd"],
        ["run", "--rm", "--network", "none", "-u", "app", "box", "sh", "-c", "id -u; id -G; echo $HOME"],
        ["run", "--rm", "--network", "none", "-u", "12:34", "box", "sh", "-c", "id -u; id -g; id -G; echo $HOME"],
        ["run", "--rm", "--network", "none", "box", "sh", "-c", "grep Cap /proc/self/status"],
        ["run", "--rm", "--network", "none", "--cap-drop", "all", "box", "sh", "-c", "grep CapBnd /proc/self/status"],
        ["run", "--rm", "--network", "none", "--ulimit", "nofile=100", "box", "sh", "-c", "ulimit -n; umask"],
        ["run", "--rm", "--network", "none", "-h", "name", "box", "sh", "-c", "hostname; cat /etc/hostname"],
        ["run", "--rm", "--network", "none", "box", "sh", "-c", "test -t 0 || test -t 1 || echo no terminal"],
        ["run", "--rm", "--network", "none", "--read-only", "box", "sh", "-c", "touch /x 2>/dev/null || echo no"],
        ["stop", "absent"],
        ["kill", "absent"],
        ["rm", "absent"],
        ["wait", "absent"],
        ["logs", "absent"],
        ["start", "absent"],
        ["inspect", "--type", "container", "absent"],
        ["exec", "absent", "true"],
        ["create", "absent"],
    ],
    ids=" ".join,
)
def test_the_same_statuses_and_output(both: tuple[Run, Run], words: list[str]) -> None:
    theirs, ours = (run(*words) for run in both)
    said = theirs.stdout if words[0] == "run" else ""
    assert ours.returncode == theirs.returncode, (ours.stderr, theirs.stderr)
    assert (ours.stdout if words[0] == "run" else "") == said


OPTIONS = [
    *("--network", "none", "-e", "A=1", "-w", "/etc", "-u", "app", "-h", "host", "-l", "k=v", "--read-only"),
    *("--cap-add", "NET_ADMIN", "--cap-drop", "MKNOD", "--shm-size", "1m", "--tmpfs", "/mem:size=1m"),
    *("-v", "/etc:/see:ro", "--mount", "type=bind,source=/etc,target=/see2,readonly", "--stop-signal", "INT"),
    *("--stop-timeout", "3", "--ulimit", "nofile=100:200", "--add-host", "db:10.0.0.1", "--pids-limit", "50"),
    *("-m", "64m", "--cpus", "0.5", "--log-opt", "max-size=1m", "--mount", "type=tmpfs,target=/in-words"),
    *("-v", "of-script:/volume", "--mount", "type=volume,source=of-script,target=/volume2,readonly"),
]
FIELDS = [
    *("Path", "Args", "Name", "RestartCount", "Platform"),
    *(
        f"State.{name}"
        for name in ["Status", "Running", "Paused", "Restarting", "OOMKilled", "Dead", "ExitCode", "Error"]
    ),
    *(
        f"Config.{name}"
        for name in ["Hostname", "User", "AttachStdin", "AttachStdout", "AttachStderr", "Tty", "OpenStdin"]
    ),
    *(
        f"Config.{name}"
        for name in ["StdinOnce", "Cmd", "WorkingDir", "Entrypoint", "Labels", "StopSignal", "StopTimeout"]
    ),
    *(
        f"HostConfig.{name}"
        for name in ["Binds", "NetworkMode", "AutoRemove", "CapAdd", "CapDrop", "ExtraHosts", "Privileged"]
    ),
    *(
        f"HostConfig.{name}"
        for name in ["ReadonlyRootfs", "ShmSize", "Memory", "MemorySwap", "NanoCpus", "PidsLimit", "Tmpfs"]
    ),
    *(f"HostConfig.{name}" for name in ["Ulimits", "LogConfig", "RestartPolicy", "PortBindings", "Mounts"]),
]


def test_inspect_has_what_scripts_read(both: tuple[Run, Run]) -> None:
    found, sized = [], []
    for run in both:
        done = run("run", "--name", "ins", *OPTIONS, "box", "sh", "-c", "exit 3")
        assert done.returncode == 3, done.stderr
        found.append(json.loads(run("inspect", "ins").stdout)[0])
        sized.append(json.loads(run("inspect", "-s", "ins").stdout)[0])
        run("rm", "ins")
    theirs, ours = found
    for value in found:
        value["HostConfig"]["Binds"].sort()  # docker's client has them in any order
    assert {name: _field(ours, name) for name in FIELDS} == {name: _field(theirs, name) for name in FIELDS}
    assert set(ours["Config"]["Env"]) == set(theirs["Config"]["Env"])
    assert theirs["State"].keys() <= ours["State"].keys()
    for part in ("NetworkSettings", "HostConfig"):
        assert theirs[part].keys() <= ours[part].keys()
    (network,) = theirs["NetworkSettings"]["Networks"]
    assert theirs["NetworkSettings"]["Networks"][network].keys() == ours["NetworkSettings"]["Networks"][network].keys()
    assert _mounts(ours) == _mounts(theirs)
    assert {"SizeRw", "SizeRootFs"} <= sized[1].keys() and sized[0].keys() - sized[1].keys() == set()


@pytest.mark.parametrize(
    "template",
    [
        "{{.ID}}",
        "{{if .State.Health}}{{.State.Health.Status}}{{else}}{{.State.Status}}{{end}}",
        "{{range .Mounts}}[{{.Type}} {{.Name}} {{.Driver}} {{.Destination}}]{{end}}",
        "{{if .Config.Healthcheck}}yes{{end}} {{.Config.StopSignal}} {{.Config.ExposedPorts}} {{.Config.Shell}}",
        "{{.HostConfig.Sysctls}} {{if .SizeRw}}sized{{end}} {{if .Config.StopTimeout}}timed{{end}}",
    ],
)
def test_templates_find_what_is_left_out(both: tuple[Run, Run], tmp_path: Path, template: str) -> None:
    said = []
    for run in both:
        run("create", "--name", "ins", "--network", "none", "-v", f"{tmp_path}:/bound", "box", "true")
        identity = json.loads(run("inspect", "ins").stdout)[0]["Id"]
        done = run("inspect", "-f", template, "ins")
        said.append((done.returncode, done.stdout.replace(identity, "ID")))
        run("rm", "ins")
    assert said[1] == said[0]
    assert said[0][0] == 0


def _mounts(value: dict[str, Any]) -> list[Any]:
    """Volumes are elsewhere, and docker's have the mark ``z`` of SELinux."""
    keys = ("Type", "Name", "Driver", "Destination", "RW", "Propagation")
    rows = [[row.get(key) for key in keys] for row in value["Mounts"]]
    bound = [[row["Source"], row["Mode"]] for row in value["Mounts"] if row["Type"] != "volume"]
    return sorted([*rows, *bound], key=str)


def _field(value: dict[str, Any], name: str) -> Any:
    found: Any = value
    for part in name.split("."):
        found = found.get(part)
    return found


def test_lives_are_listed_alike(both: tuple[Run, Run]) -> None:
    said = []
    for run in both:
        net = ["--network", "none"]
        run("create", "--name", "never", *net, "box", "sleep", "1000000000000")
        run("run", "-d", "--name", "up", *net, "box", "sh", "-c", f"echo up; {FOREVER}")
        run("run", "--name", "ended", *net, "box", "sh", "-c", "echo out; echo err >&2; exit 5")
        until(lambda run=run: run("logs", "up").stdout == "up\n")
        shown = [
            sorted(run("ps", "-a", "--format", "{{.Names}} {{.State}} {{.Command}} {{.Image}}").stdout.splitlines()),
            run("ps", "--format", "{{.Names}}").stdout,
            run("ps", "-a", "--filter", "status=exited", "--format", "{{.Names}}").stdout,
            run("ps", "-a", "--filter", "exited=5", "--format", "{{.Names}}").stdout,
            run("wait", "ended").stdout,
            run("logs", "ended").stdout,
            run("logs", "ended").stderr,
            run("stop", "up").stdout,
            run("inspect", "-f", "{{.State.ExitCode}} {{.State.Status}}", "up").stdout,
            run("exec", "up", "true").returncode,
            run("start", "ended").stdout,
            run("kill", "never").returncode,
            run("rename", "never", "other").returncode,
            run("rename", "other", "ended").returncode,
            run("rm", "other", "up", "ended").stdout,
            run("ps", "-aq").stdout,
        ]
        said.append(shown)
    assert said[1] == said[0]
