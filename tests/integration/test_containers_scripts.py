"""Scripts that docker, podman and we run alike. What differs, and why, is in docs/containers.md."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.conftest import needs_root
from tests.containers import FOREVER, until
from tests.integration.containerjudges import IMAGE, Run, opened

pytestmark = needs_root

NET = ("--network", "none")
NAMES = "{{.Names}}"
# Each is done in a directory of its own, which has the files of TREE.
TREE = {"a": "1\n", "sub/b": "2\n", "sub/deep/c": "3\n"}
CHANGED = {
    "nothing": "true",
    "file": "echo more >> a",
    "file below": "echo more >> sub/deep/c",
    "mode": "chmod 600 sub/b",
    "mode of a directory": "chmod 700 sub",
    "owner": "chown 12:34 sub/b",
    "times": "touch -d '2020-01-01 00:00' a sub/b",
    "gone": "rm sub/deep/c",
    "directory gone": "rm -r sub",
    "file for a directory": "rm -r sub; echo file > sub",
    "link for a file": "rm a; ln -s sub a",
    "device for a file": "rm a; mknod a c 1 3",
    "renamed": "mv sub moved; mv a b",
    "copied": "cp -a sub copy",
    "new": "mkdir -p x/y; echo new > x/y/z; mkfifo x/p",
    "written again": "cat a > t; mv t a",
}
# podman 4.3 lists no directory with another owner, one that was made anew as gone, and fails at one in place of a file.
NOT_PODMAN = {
    "owner of a directory": "chown 12:34 sub/deep",
    "directory made anew": "rm -r sub; mkdir sub; echo again > sub/b",
    "directory for a file": "rm a; mkdir a; echo in > a/in",
}
BOX = {f"m/{number}/{name}": text for number in range(len(CHANGED) + len(NOT_PODMAN)) for name, text in TREE.items()}


class Judged(NamedTuple):
    """``name`` of the judge; what it is asked, and what we are."""

    name: str
    theirs: Run
    ours: Run

    def same(self, script: Callable[[Run], Any]) -> None:
        """Both come to the same with it."""
        wanted, found = script(self.theirs), script(self.ours)
        assert [pair for pair in zip(wanted, found, strict=True) if pair[0] != pair[1]] == []


@pytest.fixture(scope="module", params=["docker", "podman"])
def judged(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Judged]:
    with opened(request.param, tmp_path_factory.mktemp("scripts"), BOX) as both:
        yield Judged(request.param, *both)


def said(run: Run, *words: str, **options: Any) -> tuple[int, str]:
    """Status and stdout. podman has 125 for whatever failed in it, docker only where a program was to be run."""
    done = run(*words, **options)
    failed = done.returncode == 125 and words[0] != "run"
    return (1 if failed else done.returncode), done.stdout


def up(run: Run, name: str, script: str, *options: str) -> None:
    """A container in the background that has begun its script."""
    assert run("run", "-d", "--name", name, *NET, *options, IMAGE, "sh", "-c", f"echo up; {script}").returncode == 0
    until(lambda: run("logs", name).stdout == "up\n")


RUNS = [
    ["-u", "app:extra", IMAGE, "id"],
    ["-u", ":1001", IMAGE, "sh", "-c", "id -u; id -g"],
    [IMAGE, "sh", "-c", "kill -KILL $$"],
    [IMAGE, "/etc"],
    [IMAGE, "/nope/x"],
    ["--entrypoint", "", IMAGE, "echo", "x"],
    ["--entrypoint", "", IMAGE],
    ["--name", "two words", IMAGE, "true"],
    ["--pull", "never", "absent.invalid/x:1", "true"],
    ["-e", "=x", IMAGE, "true"],
    ["--ulimit", "nope=1", IMAGE, "true"],
    ["-v", "a:b:c:d", IMAGE, "true"],
    ["-v", "/x:/y:nope", IMAGE, "true"],
    ["--mount", "type=nope,target=/x", IMAGE, "true"],
    ["--mount", "type=bind,source=/nope,target=/x", IMAGE, "true"],
    ["--network", "nope", IMAGE, "true"],
    ["--stop-signal", "nope", IMAGE, "true"],
]


def test_runs(judged: Judged) -> None:
    judged.same(lambda run: [(words, said(run, "run", "--rm", *NET, *words)) for words in RUNS])


# ---- lists -----------------------------------------------------------------------------------------

FILTERS = (
    "status=created",
    "status=exited",
    "name=^l1$",
    "label=k=v",
    "exited=5",
    "before=l3",
    "since=l2",
    "volume=vol",
)
# podman's names of images and networks are others, and it looks for volumes by their names only.
NOT_BY_PODMAN = (
    *("status=running", "name=l", "name=/l1", "name=nope", "label=k", "label=k=nope", "exited=0", "ancestor=box"),
    *(
        "ancestor=box:latest",
        "ancestor=absent",
        "volume=/v",
        "volume=/etc",
        "volume=/seen",
        "volume=nope",
        "network=none",
    ),
)
COLUMNS = "{{.Names}} {{.Command}} {{.Image}} {{.State}} {{.Ports}} {{.Labels}} {{.Mounts}} {{.Networks}} "
COLUMNS += '{{.LocalVolumes}} {{.Label "k"}}'


def test_lists(judged: Judged) -> None:
    filters = [*FILTERS, *(NOT_BY_PODMAN if judged.name == "docker" else ())]

    def script(run: Run) -> Any:
        run("create", "--name", "l1", "-l", "k=v", "-l", "x=y", *NET, IMAGE, "sleep", "1000")
        up(run, "l2", FOREVER, "-l", "k=w", "-v", "vol:/v")
        run("run", "--name", "l3", "-v", "/etc:/seen", *NET, IMAGE, "sh", "-c", "exit 5")
        run("run", "--name", "l4", "--entrypoint", "sh", *NET, IMAGE, "-c", "exit 0")

        def shown(*words: str) -> tuple[int, list[str]]:
            status, out = said(run, "ps", *words)
            return status, sorted(out.splitlines())

        listed = [(filter_, shown("-a", "--filter", filter_, "--format", NAMES)) for filter_ in filters]
        listed += [
            ("two labels", shown("-a", "--filter", "label=k=v", "--filter", "label=x", "--format", NAMES)),
            ("two states", shown("--filter", "status=exited", "--filter", "status=created", "--format", NAMES)),
            ("running", shown("--format", NAMES)),
            ("last", shown("-l", "--format", NAMES)),
            ("last two", shown("-n", "2", "--format", NAMES)),
            ("none is all", shown("-n", "0", "--format", NAMES)),
            ("before what is not there", shown("-a", "--filter", "before=nope")),
        ]
        ids = said(run, "ps", "-aq", "--no-trunc")[1].split()
        assert sorted(identity[:12] for identity in ids) == sorted(said(run, "ps", "-aq")[1].split())
        if judged.name == "docker":
            listed += [
                ("columns", shown("-a", "--format", COLUMNS)),
                ("whole", shown("-a", "--no-trunc", "--format", "{{.Names}} {{.Command}}")),
                ("order", said(run, "ps", "-a", "--format", NAMES)),
            ]
        run("rm", "-f", "-v", "l1", "l2", "l3", "l4")
        return listed

    judged.same(script)


# ---- lives -----------------------------------------------------------------------------------------


def test_verbs(judged: Judged) -> None:
    """Of what runs, has ended, was never started, and is not there; several at once."""

    def script(run: Run) -> Any:
        up(run, "up", FOREVER)
        run("run", "--name", "ended", *NET, IMAGE, "sh", "-c", "echo out; exit 5")
        run("create", "--name", "never", *NET, IMAGE, "sleep", "1000")
        steps = [
            *(("wait", "ended"), ("start", "-a", "ended"), ("wait", "ended", "ended"), ("stop", "ended")),
            *(("kill", "ended"), ("kill", "never"), ("exec", "up", "sh", "-c", "exit 9")),
            *(("pause", "ended"), ("unpause", "ended"), ("rename", "never", "up"), ("rename", "never", "other")),
            *(("kill", "-s", "HUP", "other"), ("rm", "nope"), ("rm", "-f", "nope"), ("rm", "other")),
            *(("kill", "--signal", "9", "up"), ("wait", "up"), ("inspect", "-f", "{{.State.Status}}", "up")),
            *(("inspect", "-f", "{{.RestartCount}} {{.State.OOMKilled}} {{.State.Pid}}", "up"), ("ps", "-q")),
            *(("restart", "-t", "0", "ended"), ("diff", "nope"), ("export", "nope"), ("commit", "nope", "x")),
        ]
        if judged.name == "docker":  # podman does what it can only when it can do it for all
            steps += [("wait", "ended", "nope"), ("start", "nope", "ended"), ("exec", "-w", "/nope", "up", "true")]
            steps += [("rm", "up", "nope", "ended"), ("exec", "-w", "/nope", "never", "true")]
            steps.insert(0, ("rm", "up"))  # podman: 2
        found = [(words, said(run, *words)) for words in steps]
        run("rm", "-f", "up", "ended", "other", "never")
        return found

    judged.same(script)


def test_exec_that_cannot_begin(judged: Judged) -> None:
    """docker says 126 whatever it is; podman tells what is not there, as we do."""
    if judged.name != "docker":
        pytest.skip("podman has statuses of its own for it")

    def script(run: Run) -> Any:
        up(run, "ex", FOREVER)
        steps = (["-w", "/nope", "ex", "true"], ["-u", "nobodyhere", "ex", "true"], ["ex", "/etc/passwd"])
        found = [said(run, "exec", *words)[0] for words in steps]
        run("rm", "-f", "ex")
        return found

    judged.same(script)


def test_a_second_life(judged: Judged) -> None:
    """create, start -a -i; the exit status; the times of the life before, while the next one goes on."""

    def script(run: Run) -> Any:
        run("create", "--name", "twice", "-i", *NET, IMAGE, "sh", "-c", "cat; echo err >&2; sleep 0.1; exit 4")
        done = run("start", "-a", "-i", "twice", input="hello\n")
        found = [done.returncode, done.stdout, done.stderr, said(run, "logs", "twice"), said(run, "wait", "twice")]
        run("rm", "twice")
        up(run, "more", FOREVER)
        before = said(run, "inspect", "-f", "{{.State.FinishedAt}}", "more")[1]
        run("kill", "more")
        run("wait", "more")
        ended = said(run, "inspect", "-f", "{{.State.FinishedAt}}", "more")[1]
        run("start", "more")
        again = said(run, "inspect", "-f", "{{.State.FinishedAt}}", "more")[1]
        found += [before.startswith("0001-01-01"), ended == before, again == ended]
        found.append(said(run, "inspect", "-f", "{{.State.Status}} {{.State.Running}} {{.State.ExitCode}}", "more"))
        run("rm", "-f", "more")
        return found

    judged.same(script)


def test_stopping(judged: Judged) -> None:
    def script(run: Run) -> Any:
        up(run, "deaf", "trap '' TERM; while :; do sleep 0.05; done")
        up(run, "hears", "trap 'exit 9' USR1; while :; do sleep 0.05; done", "--stop-signal", "USR1")
        begun = time.monotonic()
        found = [said(run, "stop", "-t", "1", "deaf"), 1 <= time.monotonic() - begun < 8, said(run, "stop", "hears")]
        state = "{{.State.ExitCode}} {{.State.Status}} {{.State.Running}} {{.State.Pid}}"
        found += [said(run, "inspect", "-f", state, name) for name in ("deaf", "hears")]
        run("rm", "deaf", "hears")
        return found

    judged.same(script)


def test_what_cannot_be_started_stays(judged: Judged) -> None:
    """It is left to be looked at; docker prints its id, podman does not."""

    def script(run: Run) -> Any:
        done = run("run", "-d", "--name", "bad", *NET, IMAGE, "nope")
        found = [done.returncode, said(run, "start", "bad")[0]]
        found.append(said(run, "inspect", "-f", "{{.State.Status}} {{.State.Running}} {{.State.Pid}}", "bad"))
        if judged.name == "docker":
            found.append(done.stdout.strip() == said(run, "inspect", "-f", "{{.Id}}", "bad")[1].strip())
            found.append(said(run, "inspect", "-f", "{{.State.ExitCode}} {{.State.FinishedAt}}", "bad"))
        run("rm", "bad")
        return found

    judged.same(script)


def test_what_cannot_be_started_goes_when_it_was_not_to_stay(judged: Judged) -> None:
    def script(run: Run) -> Any:
        run("create", "--rm", "--name", "bad", *NET, IMAGE, "nope")
        return [said(run, "start", "bad")[0], said(run, "ps", "-aq", "--filter", "name=bad")]

    judged.same(script)


# ---- logs ------------------------------------------------------------------------------------------


def test_logs(judged: Judged) -> None:
    def script(run: Run) -> Any:
        text = "for n in one two three; do echo $n; sleep 0.1; done; echo four >&2; sleep 0.1; echo five"
        run("run", "--name", "lg", *NET, IMAGE, "sh", "-c", text)
        lines = run("logs", "-t", "lg").stdout.splitlines()
        stamps = {line.split(" ")[1]: line.split(" ")[0] for line in lines}
        words = [
            *(["--tail", "0"], ["--tail", "1"], ["--tail", "3"], ["--tail", "-1"], ["-f", "--tail", "2"], ["-f"]),
            *(["--since", "1h"], ["--since", "2020-01-01T00:00:00Z"], ["--since", "1600000000"]),
            *(["--since", "2099-01-01T00:00:00Z"], ["--until", "2020-01-01T00:00:00Z"]),
        ]
        if judged.name == "docker":  # podman leaves the moment itself out, and knows a past but as --since
            words += [["--since", stamps["two"]], ["--until", "1h"], ["--tail", "all"], ["--tail", "no number"]]
            words += [["--since", stamps["two"], "--until", stamps["three"]], ["-n", "2"]]
            words += [["-f", "--since", stamps["five"]], ["--until", stamps["two"]]]
            words += [["--tail", "1", "--until", stamps["two"]]]
        known = {stamp: line for line, stamp in stamps.items()}
        found = []
        for options in words:
            done = run("logs", *options, "lg")
            about = [known.get(option, option) for option in options]
            found.append((about, done.returncode, done.stdout, done.stderr))
        run("rm", "lg")
        return found

    judged.same(script)


def test_logs_followed(judged: Judged) -> None:
    if judged.name != "docker":
        pytest.skip("podman follows by events, which there are none of here")

    def script(run: Run) -> Any:
        run("run", "-d", "--name", "fl", *NET, IMAGE, "sh", "-c", "echo a; sleep 0.5; echo b >&2; sleep 0.2; exit 3")
        done = run("logs", "-f", "fl")
        found = [done.returncode, done.stdout, done.stderr, said(run, "wait", "fl")]
        run("rm", "fl")
        return found

    judged.same(script)


# ---- changes ---------------------------------------------------------------------------------------


def test_diffs(judged: Judged) -> None:
    """All changes in one container. Directories are compared as far as something in them has not changed."""
    scripts = {**CHANGED, **(NOT_PODMAN if judged.name == "docker" else {})}
    text = "; ".join(f"cd /m/{number}; {script}" for number, script in enumerate(scripts.values()))

    def script(run: Run) -> Any:
        assert run("run", "--name", "df", *NET, "-w", "/", IMAGE, "sh", "-c", text).returncode == 0
        status, out = said(run, "diff", "df")
        run("rm", "df")
        lines = out.splitlines()
        shown = [line for line in lines if not _is_above(line, lines)]
        places = {f"/m/{number}": name for number, name in enumerate(scripts)}
        by = [
            (name, sorted(line for line in shown if f"{line[2:]}/".startswith(f"{place}/")))
            for place, name in places.items()
        ]
        return [status, *by]

    judged.same(script)


def _is_above(line: str, lines: list[str]) -> bool:
    """A directory that is listed for what is in it: docker's drivers differ in which they list."""
    return line.startswith("C ") and any(other[2:].startswith(f"{line[2:]}/") for other in lines)


def test_diff_of_what_runs(judged: Judged) -> None:
    """What is mounted in each container is no change of it, whatever the image lacks; the place of a volume is."""
    if judged.name != "docker":
        pytest.skip("podman's has changed /etc")

    def script(run: Run) -> Any:
        up(run, "dr", f"echo new > /root/new; echo h >> /etc/hosts; {FOREVER}", "-v", "dv:/lacking")
        until(lambda: "A /root/new" in said(run, "diff", "dr")[1])
        found = [sorted(said(run, "diff", "dr")[1].splitlines())]
        run("stop", "-t", "0", "dr")
        found.append(sorted(said(run, "diff", "dr")[1].splitlines()))
        run("rm", "-v", "dr")
        return found

    judged.same(script)


# ---- copies ----------------------------------------------------------------------------------------


def test_copies_reach_what_would_be_mounted(judged: Judged, tmp_path: Path) -> None:
    """Volumes and directories of the host in a container that was never started, and has ended."""
    if judged.name != "docker":
        pytest.skip("podman 4.3 copies from a container to itself without end")

    def script(run: Run) -> Any:
        place = tmp_path / ("ours" if run is judged.ours else "theirs")
        (place / "host/in").mkdir(parents=True)
        (place / "f").write_text("file\n")
        (place / "d").mkdir()
        (place / "d/x").write_text("x\n")
        mounts = ["-v", "cv:/vol", "-v", "cr:/only:ro", "-v", f"{place}/host:/a/b", "-v", "ci:/root"]
        run("create", "--name", "cm", *NET, *mounts, IMAGE, "sh", "-c", "cat /vol/f /a/b/in/f; ls /vol/d")
        run("cp", f"{place}/d", "cm:/tmp/linked")
        steps = [
            *(("f", "cm:/vol/f"), ("f", "cm:/a/b/in"), ("d", "cm:/vol"), ("f", "cm:/only/f"), ("f", "cm:/vol/no/f")),
            *(("f", "cm:/vol/../vol/./g"), ("f", "cm:/a/b/../b/up"), ("f", "cm:/root"), ("f", "cm:/vol/d")),
            *(("cm:/vol/f", "out"), ("cm:/vol", "tree"), ("cm:/vol/.", "content"), ("cm:/a/b/in/f", "bound")),
            *(("cm:/nope/f", "x"), ("cm:/only/none", "x")),
        ]
        found: list[Any] = [(words, said(run, "cp", *words, cwd=place)[0]) for words in steps]
        found += [said(run, "start", "-a", "cm"), said(run, "cp", "cm:/vol/f", "after", cwd=place)]
        found.append(sorted(str(path.relative_to(place)) for path in place.rglob("*")))
        found.append([(place / name).read_text() for name in ("out", "bound", "host/up")])
        run("rm", "-v", "cm")
        return found

    judged.same(script)
