"""Containers on every storage driver, by every runtime, of root and of plain users, and by the Python interface."""

from __future__ import annotations

import io
import os
import shutil
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import fastlayer
from fastlayer.errors import AlreadyExistsError, InUseError, NotFoundError, OperandError, RunError, UsageError
from tests.buildroot import make_root
from tests.conftest import needs_root
from tests.containers import CHANGES, FOREVER, Command, Terminal, until
from tests.filesystems import loop_fs
from tests.integration.userns import as_somebody

pytestmark = needs_root


def imported(root: Path, place: Path, driver: str) -> Command:
    command = Command(root, FASTLAYER_DRIVER=driver)
    command.out("import", "-q", *(word for change in CHANGES for word in ("-c", change)), make_root(place), "box")
    return command


@pytest.fixture(params=["overlay2", "vfs", "btrfs"])
def command(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Command]:
    if request.param != "btrfs":
        yield imported(tmp_path / "store", tmp_path / "root", request.param)
        return
    with loop_fs("btrfs") as place:
        found = imported(place / "store", tmp_path / "root", "btrfs")
        yield found
        found.run("rm", "-f", *found.out("ps", "-aq").split() or ["none"])


@pytest.mark.parametrize("runtime", ["native", "crun", "runc"])
def test_lives_on_every_driver(command: Command, runtime: str) -> None:
    if runtime != "native" and shutil.which(runtime) is None:
        pytest.skip(f"{runtime} is not installed")
    with_ = ["--runtime", runtime]
    done = command.run(
        "run", "--name", "a", *with_, "box", "sh", "-c", "echo x >> /etc/passwd; echo t > /root/temp; exit 3"
    )
    assert done.returncode == 3, done
    assert {"C /etc/passwd", "A /root/temp"} <= set(command.out("diff", "a").splitlines())
    command.out("run", "-d", "--name", "b", *with_, "box", "sh", "-c", f"echo up; {FOREVER}")
    until(lambda: command.out("logs", "b") == "up")
    assert command.run("exec", "b", "cat", "/root/temp").returncode == 1
    assert "x" not in command.out("exec", "b", "cat", "/etc/passwd").splitlines()
    command.out("commit", "-q", "a", "kept")
    command.out("rm", "a")
    command.out("exec", "b", "touch", "/root/new")
    assert command.out("run", "--rm", *with_, "kept", "cat", "/root/temp") == "t"
    command.out("stop", "b")
    assert command.state("b")["ExitCode"] == 0
    assert "A /root/new" in command.out("diff", "b").splitlines()
    command.out("rm", "b")
    assert command.run("run", "--rm", *with_, "box", "ls", "/root/new", "/root/temp").returncode == 1
    command.out("store", "check")


@pytest.mark.parametrize("runtime", ["crun", "runc"])
def test_by_a_runtime_it_is_the_same(tmp_path: Path, runtime: str) -> None:
    if shutil.which(runtime) is None:
        pytest.skip(f"{runtime} is not installed")
    command = imported(tmp_path / "store", tmp_path / "root", "overlay2")
    with_ = ["--runtime", runtime]
    script = "id -u; pwd; hostname; cat /etc/hostname; ulimit -n; grep CapEff /proc/self/status | cut -f2; touch /x"
    words = ["-u", "app", "-w", "/etc", "-h", "name", "--ulimit", "nofile=64", "--read-only", "--cap-drop", "all"]
    done = command.run("run", "--rm", *with_, *words, "box", "sh", "-c", script)
    assert done.stdout.split() == ["1000", "/etc", "name", "name", "64", "0" * 16], done
    assert "Read-only file system" in done.stderr
    assert command.refused("run", "--rm", *with_, "box", "nope", code=127)
    assert command.refused("run", "--rm", *with_, "box", "/etc/passwd", code=126)
    assert command.run("run", "--rm", "-i", *with_, "box", "cat", input="in").stdout == "in"
    words = ["--mount", "type=image,source=box,target=/see", "box", "sh", "-c", "cat /see/etc/group; touch /see/x"]
    done = command.run("run", "--rm", *with_, *words)
    assert done.stdout.startswith("root:") and "Read-only file system" in done.stderr, done
    terminal = Terminal(command.words("run", "--rm", "-it", *with_, "box", "sh"), command.env)
    terminal.expect(b"# ")
    terminal.type(b"sleep 0.3; stty size; exit 5\n")  # the runtime passes the size on when it comes to it
    terminal.expect(b"33 99")
    assert terminal.wait() == 5
    command.out("run", "-d", "--name", "k", *with_, "box", "sleep", "100")
    pid = command.state("k")["Pid"]
    assert Path(f"/proc/{pid}/comm").read_text() == "sleep\n"
    command.out("export", "-o", tmp_path / "out.tar", "k")
    with tarfile.open(tmp_path / "out.tar") as tar:
        assert [name for name in tar.getnames() if name.startswith(("./proc", "proc"))][1:] == []
    command.out("kill", "k")
    assert command.out("wait", "k") == "137"
    command.out("rm", "k")


# ---- plain users -----------------------------------------------------------------------------------

_SCRIPT = r"""
set -e
fl() { python -m fastlayer "$@"; }
fl load -q --no-unpack -i "$HOME/box.tar" > /dev/null
fl run --rm box sh -c 'id -u; echo x > /root/x; cat /root/x'
fl run --rm --network none box sh -c 'grep : /proc/net/dev | cut -d: -f1; ls /sys/class/net'
fl run -d --name d box sh -c "trap 'exit 4' TERM; echo up; while :; do sleep 0.05; done"
while [ "$(fl logs d)" != up ]; do :; done
fl exec d sh -c 'echo y > /root/y; id -u; hostname | wc -c'
fl diff d | grep root/y
fl export d | tar t | grep -c "root/y\|proc/self\|etc/hosts/"
fl stop d
fl inspect -f '{{.State.ExitCode}}' d
fl start d
fl kill d
fl wait d
fl rm d
fl ps -aq
fl run --rm -m 64m box echo limited
fl run --rm --name n box nope || echo $?
fl run --rm -u 2000000000:0 box true || echo $?
for r in crun runc; do
  if command -v $r > /dev/null; then fl run --rm --runtime $r --network none box ls /sys/class/net; else echo lo; fi
done
"""


@pytest.mark.parametrize("driver", ["overlay2", "vfs"])
def test_of_a_plain_user(tmp_path: Path, driver: str) -> None:
    imported(tmp_path / "of-root", tmp_path / "root", "vfs").out("save", "-o", tmp_path / "box.tar", "box")
    (tmp_path / "script").write_text(_SCRIPT.replace("python -m", f"{sys.executable} -m"))
    done = as_somebody(
        ["sh", tmp_path / "script"], tmp_path, FASTLAYER_ROOT=str(tmp_path / "store"), FASTLAYER_DRIVER=driver
    )
    assert done.returncode == 0, done.stderr
    words = done.stdout.split()
    assert words[:4] == ["0", "x", "lo", "lo"] and len(words[4]) == 64, done.stdout
    assert words[5:] == [
        *("0", "13", "A", "/root/y", "1", "d", "4", "d", "d", "137", "d", "limited", "127", "125", "lo", "lo")
    ], done.stdout
    assert "Limitation discarded" in done.stderr
    assert "the user 2000000000:0 is not among the ids of this user namespace: give this user ranges" in done.stderr


# ---- from Python -----------------------------------------------------------------------------------


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return imported(tmp_path / "store", tmp_path / "root", "overlay2").root


def test_run_from_python(store: Path) -> None:
    done = fastlayer.run("box", "sh", "-c", "cat; echo err >&2", stdin=b"in" * 50_000, remove=True, root=store)
    assert isinstance(done, fastlayer.Result)
    assert (done.status, done.stdout, done.stderr) == (0, b"in" * 50_000, b"err\n")
    with pytest.raises(RunError, match="status 3: sad") as caught:
        fastlayer.run("box", "sh", "-c", "echo sad >&2; exit 3", remove=True, root=store)
    assert caught.value.status == 3
    assert fastlayer.run("box", "false", check=False, remove=True, root=store).status == 1  # type: ignore[union-attr]
    with pytest.raises(RunError) as caught:
        fastlayer.run("box", "nope", remove=True, root=store)
    assert caught.value.status == 127
    assert os.listdir(store / "containers") == []


def test_a_life_from_python(store: Path, tmp_path: Path) -> None:
    (tmp_path / "shown").mkdir()
    options = {"env": {"A": "1"}, "volumes": [f"{tmp_path}/shown:/shown"], "labels": {"k": "v"}, "workdir": "/etc"}
    with fastlayer.create("box", "sh", "-c", f"echo $A; {FOREVER}", name="py", root=store, **options) as made:
        assert (made.status, made.name) == ("created", "py")
        made.start()
        until(lambda: made.logs() == b"1\n")
        assert made.exec("sh", "-c", "pwd; touch /shown/x; exit 2", stdin=b"").status == 2
        assert (tmp_path / "shown/x").exists()
        with pytest.raises(InUseError):
            made.start()
        with pytest.raises(InUseError):
            made.remove()
        made.rename("other")
        assert made.inspect()["Name"] == "/other" and made.inspect()["Config"]["Labels"]["k"] == "v"
        assert made.stop() == 0 and made.wait() == 0 and made.status == "exited"
    with pytest.raises(NotFoundError):
        made.start()


@pytest.mark.parametrize("runs", [True, False])
def test_files_in_and_out_from_python(store: Path, tmp_path: Path, runs: bool) -> None:
    tree, out = tmp_path / "tree", io.BytesIO()
    (tree / "in").mkdir(parents=True)
    (tree / "in" / "file").write_bytes(b"file")
    os.chown(tree / "in" / "file", 3, 4)
    with fastlayer.create("box", "sh", "-c", FOREVER, root=store) as made:
        if runs:
            made.start()
        made.copy_to(tree / "in", "/new")
        assert [(change.kind, change.path) for change in made.diff()] == [("A", b"new"), ("A", b"new/file")]
        made.copy_from("/new/file", tmp_path / "mine")
        made.copy_from("/new", tmp_path / "theirs", keep_owners=True)
        made.copy_from(b"/new", out)
        assert os.stat(tmp_path / "mine").st_uid == 0 and (tmp_path / "mine").read_bytes() == b"file"
        assert os.stat(tmp_path / "theirs/file").st_gid == 4
        made.copy_to(io.BytesIO(out.getvalue()), "/root")
        with (tmp_path / "out.tar").open("wb") as file:
            made.copy_from("/root/new/.", file.fileno())
        with tarfile.open(tmp_path / "out.tar") as tar:
            assert {member.name.strip("./"): member.uid for member in tar} == {"": 0, "file": 3}
        made.export(tmp_path / "all.tar.gz")
        with tarfile.open(tmp_path / "all.tar.gz") as tar:
            assert {"new/file", "root/new/file", "etc/passwd"} <= {name.removeprefix("./") for name in tar.getnames()}
        with pytest.raises(NotFoundError, match="/absent"):
            made.copy_from("/absent", tmp_path / "absent")
        with pytest.raises(OperandError, match="directory that exists"):
            made.copy_to(io.BytesIO(out.getvalue()), "/absent")
        assert not (tmp_path / "absent").exists()
    with pytest.raises(NotFoundError):
        made.diff()


def closed() -> io.BytesIO:
    file = io.BytesIO()
    file.close()
    return file


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda made: made.copy_to(None, "/"), "source: NoneType is neither a path, a descriptor nor a binary file"),
        (lambda made: made.copy_to(True, "/"), "source: bool"),
        (lambda made: made.copy_to(io.StringIO(), "/"), "source: is an open text file"),
        (lambda made: made.copy_to("a", 5), "path: 5 is not a path"),
        (lambda made: made.copy_to("a", "a\0b"), "path: .* null byte"),
        (lambda made: made.copy_to("", "/"), "source: the path is empty"),
        (lambda made: made.copy_from("/", b""), "dest: the path is empty"),
        (lambda made: made.copy_from("/", [1]), "dest: list"),
        (lambda made: made.copy_from("/", "a", follow="x"), "follow: 'x'"),
        (lambda made: made.copy_from("/", "a", keep_owners=3), "keep_owners: 3"),
        (lambda made: made.export(open(os.devnull, "rb")), "output: is a file that is not open to write"),
        (lambda made: made.copy_to(closed(), "/"), "source: is a file that is not open to read"),
        (lambda made: made.export(open(os.devnull)), "output: is an open text file"),
    ],
)
def test_what_is_no_file_for_python(tmp_path: Path, call: Callable[[Any], None], message: str) -> None:
    """Before the store is opened."""
    with pytest.raises(UsageError, match=message):
        call(fastlayer.Container("0" * 64, root=tmp_path / "absent"))


def test_errors_from_python(store: Path) -> None:
    with pytest.raises(NotFoundError):
        fastlayer.create("absent", root=store)
    with pytest.raises(UsageError, match="nonsense"):
        fastlayer.create("box", nonsense=1, root=store)
    with pytest.raises(UsageError):
        fastlayer.create("box", volumes=["relative:x"], root=store)
    with fastlayer.create("box", name="twice", root=store), pytest.raises(AlreadyExistsError):
        fastlayer.create("box", name="twice", root=store)


def test_a_thousand_take_little(store: Path) -> None:
    before = _taken(store)
    made = [fastlayer.create("box", "true", root=store) for _ in range(40)]
    assert (_taken(store) - before) / len(made) <= 64 << 10
    for each in made:
        each.remove()
    assert os.listdir(store / "containers") == []


def _taken(root: Path) -> int:
    return sum(
        os.lstat(Path(place) / name).st_blocks * 512
        for place, names, files in os.walk(root)
        for name in (*names, *files)
    )


def test_monitors_are_small(store: Path) -> None:
    with fastlayer.run("box", "sleep", "100", detach=True, root=store) as made:  # type: ignore[union-attr]
        identity = made.id
        _, monitor, _ = (store / "containers" / identity / "running").read_text().split()
        until(lambda: _private(int(monitor)) < 1 << 20)


def _private(pid: int) -> int:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) << 10 for line in lines if line.startswith("Private_"))
