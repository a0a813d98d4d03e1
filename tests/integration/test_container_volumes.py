"""What is mounted in containers: volumes through the lives of those that have them, binds, images, tmpfs."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import fastlayer
from fastlayer import _backend
from fastlayer.container import imagemounts
from fastlayer.container.mountoptions import MountOption
from fastlayer.errors import StorageError
from fastlayer.maintenance.containers import hold_volumes
from fastlayer.mounts import table
from fastlayer.store.store import existing_store
from tests.buildroot import make_root
from tests.conftest import needs_root, require
from tests.containers import FOREVER, Command, lives, until
from tests.integration.userns import as_somebody
from tests.volume_plugins import Plugin, Unix, handler, serving

pytestmark = [needs_root, pytest.mark.usefixtures("engine")]

TMPFS = ["-o", "type=tmpfs", "-o", "device=tmpfs"]


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive of the images ``box``, which has a ``VOLUME``, and ``parts``."""
    place = tmp_path_factory.mktemp("volumes")
    root = make_root(place / "root")
    (root / "data").mkdir(mode=0o750)
    (root / "data/first").write_text("of the image")
    command = Command(place / "store")
    command.out("import", "-q", "-c", 'CMD ["sh"]', "-c", "VOLUME /data", root, "box")
    parts = place / "parts"
    (parts / "a/b").mkdir(parents=True)
    (parts / "a/b/file").write_text("part")
    (parts / "a/link").symlink_to("b")
    (parts / "etc").mkdir()
    (parts / "etc/own").write_text("of the image")
    (parts / "absolute").symlink_to("/etc")
    (parts / "upwards").symlink_to("../../../../etc")
    command.out("import", "-q", parts, "parts")
    command.out("save", "-o", place / "images.tar", "box", "parts")
    return place / "images.tar"


@pytest.fixture
def command(imported: Path, tmp_path: Path, engine: object) -> Iterator[Command]:
    found = Command(tmp_path / "store", FASTLAYER_DRIVER="overlay2")
    found.out("load", "-q", "-i", imported)
    yield found
    found.run("rm", "-fv", *found.out("ps", "-aq").split() or ["none"])


def users(command: Command, name: str) -> list[bool]:
    """Whether each of those who have the volume needs its files now."""
    (found,) = json.loads(command.out("volume", "inspect", name))
    return [user["Mounted"] for user in found["Users"]]


def is_mounted(command: Command, name: str) -> bool:
    return table.find(command.root / "volumes" / name / "_data") is not None


@contextmanager
def mounted(place: Path, *words: str) -> Iterator[Path]:
    place.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", place], check=True)
    try:
        for word in words:
            subprocess.run(["mount", word, place], check=True)
        yield place
    finally:
        subprocess.run(["umount", "-R", "-l", place], check=True)


# ---- the life of a volume ----------------------------------------------------------------------------


def test_volumes_are_given_back_when_a_container_ends(command: Command) -> None:
    """As Docker unmounts them: attached, in the background, stopped; the container has them still."""
    command.out("volume", "create", *TMPFS, "memory")
    command.out("run", "--name", "a", "-v", "memory:/m", "box", "touch", "/m/file")
    assert not is_mounted(command, "memory") and users(command, "memory") == [False]
    command.out("run", "-d", "--name", "b", "-v", "memory:/m", "box", "sh", "-c", f"touch /m/b; {FOREVER}")
    assert is_mounted(command, "memory") and sorted(users(command, "memory")) == [False, True]
    assert command.out("run", "--rm", "-v", "memory:/m", "box", "ls", "/m") == "b"  # not `file`; and it goes first
    assert is_mounted(command, "memory")
    command.out("exec", "b", "sh", "-c", "kill -TERM 1")  # nobody is attached: its monitor does it
    until(lambda: not is_mounted(command, "memory"))
    command.out("start", "b")
    assert is_mounted(command, "memory")
    command.out("stop", "b")
    assert not is_mounted(command, "memory")
    assert "in use" in command.refused("volume", "rm", "memory")
    command.out("rm", "a", "b")
    command.out("volume", "rm", "memory")


def test_what_a_stopped_container_has_can_be_restored(command: Command) -> None:
    command.out("run", "-d", "--name", "a", "-v", "data:/v", "box", "sh", "-c", f"echo 1 > /v/f; {FOREVER}")
    until(lambda: command.run("exec", "a", "cat", "/v/f").stdout == "1\n")
    command.out("volume", "snapshot", "data", "one")
    assert "works with its files" in command.refused("volume", "restore", "data", "one")
    command.out("exec", "a", "sh", "-c", "echo 2 > /v/f")
    command.out("stop", "a")
    command.out("volume", "restore", "data", "one")
    command.out("start", "a")
    assert command.out("exec", "a", "ls", "/v") == "f"


def test_of_a_monitor_that_was_killed(command: Command) -> None:
    command.out("volume", "create", *TMPFS, "memory")
    command.out("run", "-d", "--name", "a", "-v", "memory:/m", "box", "sh", "-c", FOREVER)
    found = command.state("a")
    (monitor,) = [
        int(line.split()[1]) for line in (command.root / "containers").glob("*/running") for line in [line.read_text()]
    ]
    os.kill(monitor, signal.SIGKILL)
    until(lambda: not lives(found["Pid"]))
    assert is_mounted(command, "memory")
    command.out("ps", "-a")
    assert not is_mounted(command, "memory") and users(command, "memory") == [False]


def test_who_runs_with_a_volume_is_known_again(command: Command) -> None:
    """The database was put back: what is mounted for a container that runs stays when others come and go."""
    command.out("volume", "create", *TMPFS, "memory")
    command.out("run", "-d", "--name", "a", "-v", "memory:/m", "box", "sh", "-c", f"touch /m/file; {FOREVER}")
    command.out("create", "--name", "b", "-v", "memory:/m", "box")
    with existing_store(command.root, driver="overlay2") as store:
        with store.database.write() as db:
            db.execute("DELETE FROM volume_users")
        hold_volumes(store)
    assert sorted(users(command, "memory")) == [False, True]
    assert command.out("run", "--rm", "-v", "memory:/m", "box", "ls", "/m") == "file"
    assert is_mounted(command, "memory")
    command.out("stop", "-t", "0", "a")
    assert not is_mounted(command, "memory")


def test_a_container_that_cannot_be_started_needs_no_files(command: Command) -> None:
    command.out("volume", "create", *TMPFS, "memory")
    assert command.run("run", "--name", "a", "-v", "memory:/m", "box", "nothing").returncode == 127
    assert not is_mounted(command, "memory") and users(command, "memory") == [False]


def test_who_was_killed_while_making_a_container_has_no_volume(command: Command) -> None:
    """Between the volume and the container: the first is nobody's, and can be removed."""
    code = (
        "import os, sys; from fastlayer.container import create; "
        "create._make = lambda *_, **__: os.kill(os.getpid(), 9); "
        "from fastlayer.cli.main import main; main()"
    )
    words = command.words("create", "-v", "data:/v", "box")
    done = subprocess.run([words[0], "-c", code, *words[3:]], env=command.env, capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert "data" in command.out("volume", "ls", "-q").split()
    command.out("volume", "rm", "data")
    command.out("volume", "prune", "-f")
    assert command.out("volume", "ls", "-q") == ""


def test_who_runs_one_is_killed_at_any_instant(command: Command) -> None:
    """The next command finds a container that runs with all of it, or nothing that needs or keeps the volume."""
    chance = random.Random(5)
    command.out("volume", "create", *TMPFS, "memory")
    for turn in range(8):
        words = command.words(
            "run", "-d", "--name", f"c{turn}", "-v", "memory:/m", "-v", "/other", "box", "sleep", "60"
        )
        child = subprocess.Popen(words, env=command.env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(chance.uniform(0.05, 0.4))
        child.kill()
        child.wait()
        running = command.out("ps", "-q").split()
        if running:
            assert command.out("exec", running[0], "grep", "-c", " /m ", "/proc/mounts") == "1"
        assert is_mounted(command, "memory") == bool(running)
        command.run("rm", "-fv", *command.out("ps", "-aq").split() or ["none"])
        command.out("volume", "prune", "-f")
        assert command.out("volume", "ls", "-q") == "memory" and users(command, "memory") == []


def test_anonymous_volumes_go_with_their_container(command: Command) -> None:
    command.out("run", "--rm", "-v", "/anonymous", "box", "cat", "/data/first")
    assert command.out("volume", "ls", "-q") == ""
    command.out(
        "create", "--name", "a", "-v", "/anonymous", "-v", "named:/n", "--mount", "type=volume,target=/o", "box"
    )
    assert len(command.out("volume", "ls", "-q").split()) == 4
    command.out("rm", "-v", "a")
    assert command.out("volume", "ls", "-q") == "named"


def test_volumes_of_another_driver_and_options_in_words(command: Command) -> None:
    text = "type=volume,source=made,target=/m,volume-driver=local,volume-opt=type=tmpfs,volume-opt=device=tmpfs,"
    text += '"volume-opt=o=size=1m,uid=7",volume-label=of=me'
    said = command.out("run", "--name", "a", "--mount", text, "box", "sh", "-c", "grep ' /m ' /proc/mounts")
    assert "size=1024k" in said and "uid=7" in said
    (found,) = json.loads(command.out("volume", "inspect", "made"))
    assert found["Options"] == {"type": "tmpfs", "device": "tmpfs", "o": "size=1m,uid=7"}
    assert found["Labels"] == {"of": "me"}
    config = command.inspect("a")["HostConfig"]["Mounts"][0]["VolumeOptions"]
    assert config["DriverConfig"] == {"Name": "local", "Options": found["Options"]} and config["Labels"] == {"of": "me"}
    for words in (
        ["--volume-driver", "nobody", "-v", "xx:/x"],
        ["--mount", "source=xx,target=/x,volume-driver=nobody"],
    ):
        assert "nobody" in command.refused("run", "--rm", *words, "box", "true", code=125)
    assert "xx" not in command.out("volume", "ls", "-q").split()


def test_a_volume_of_a_package_is_used_as_it_is(command: Command, tmp_path: Path) -> None:
    """What was made with ``-d`` needs no driver named again."""
    place = tmp_path / "site"
    about = place / "theirs-1.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1\n")
    (about / "entry_points.txt").write_text("[fastlayer.volume_drivers]\ntheirs = tests.volume_drivers:Folders\n")
    command.env["PYTHONPATH"] = os.pathsep.join([str(place), *filter(None, [os.environ.get("PYTHONPATH")])])
    command.out("volume", "create", "-d", "theirs", "data")
    command.out("run", "--name", "a", "-v", "data:/v", "box", "touch", "/v/file")
    assert (command.root / "volume-drivers/theirs/data/file").exists()
    (found,) = [mount for mount in command.inspect("a")["Mounts"] if mount["Destination"] == "/v"]
    assert (found["Driver"], found["Source"]) == ("theirs", str(command.root / "volume-drivers/theirs/data"))


def test_a_plugin_is_told_and_may_be_gone_meanwhile(command: Command, tmp_path: Path) -> None:
    """Mounted while the container runs; what a plugin that was away could not be told, it is told later."""
    (tmp_path / "theirs").mkdir()
    sockets = Path(tempfile.mkdtemp(prefix="fl-"))
    command.env["FASTLAYER_PLUGIN_PATH"] = str(sockets)
    plugin = Plugin(tmp_path / "theirs")

    def served() -> Any:
        (sockets / "tasty.sock").unlink(missing_ok=True)
        return serving(Unix(str(sockets / "tasty.sock"), handler(plugin)))

    try:
        with served():
            command.out("volume", "create", "-d", "tasty", "data")
            command.out("run", "--name", "a", "-v", "data:/v", "box", "touch", "/v/file")
            assert plugin.mounts == {"data": set()} and (tmp_path / "theirs/data/file").exists()
            command.out("start", "a")
            until(lambda: command.state("a")["Status"] == "exited" and not plugin.mounts["data"])
            command.out("run", "-d", "--name", "b", "-v", "data:/v", "box", "sh", "-c", FOREVER)
            assert len(plugin.mounts["data"]) == 1
        command.out("stop", "-t", "0", "b")
        command.out("rm", "b")
        with served():
            assert "in use (container-" in command.refused("volume", "rm", "data")  # of a
            assert plugin.mounts == {"data": set()}
            command.out("rm", "a")
            command.out("volume", "rm", "data")
    finally:
        shutil.rmtree(sockets)


def test_a_part_is_looked_for_at_each_start(command: Command) -> None:
    """Also when its monitor was killed, and could not give the volume back."""
    command.out(
        "run", "-d", "--name", "f", "-v", "data:/v", "box", "sh", "-c", f"mkdir /v/sub; touch /v/sub/old; {FOREVER}"
    )
    until(lambda: command.run("exec", "f", "ls", "/v/sub").stdout == "old\n")
    given = ["--mount", "source=data,target=/s,volume-subpath=sub", "box", "sh", "-c", f"ls /s; {FOREVER}"]
    command.out("run", "-d", "--name", "a", *given)
    until(lambda: command.out("logs", "a") == "old")
    (note,) = (command.root / "containers").glob(f"{command.inspect('a')['Id']}/running")
    os.kill(int(note.read_text().split()[1]), signal.SIGKILL)
    until(lambda: command.state("a")["Status"] == "exited")
    command.out("exec", "f", "sh", "-c", "mv /v/sub /v/away; mkdir /v/sub; touch /v/sub/new")
    command.out("start", "a")
    until(lambda: command.out("logs", "a").split() == ["old", "new"])
    command.out("exec", "f", "sh", "-c", "rm -r /v/sub; ln -s /etc /v/sub")
    command.out("stop", "-t", "0", "a")
    assert "No such file" in command.refused("start", "a")


def test_a_source_that_cannot_be_made(command: Command, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    said = command.refused("run", "--rm", "-v", f"{tmp_path}/file/sub:/h", "box", "true", code=125)
    assert "Not a directory" in said and command.out("ps", "-aq") == ""


def test_volumes_from(command: Command, tmp_path: Path) -> None:
    (tmp_path / "shown").mkdir()
    (tmp_path / "shown/host").touch()
    given = ["-v", "named:/n", "-v", f"{tmp_path}/shown:/h:ro", "--tmpfs", "/t"]
    command.out("run", "--name", "a", *given, "box", "sh", "-c", "echo 1 > /n/f; echo 2 > /data/g")
    said = command.out(
        "run", "--name", "b", "--volumes-from", "a", "box", "sh", "-c", "cat /n/f /data/g; ls /h; test ! -d /t"
    )
    assert said.split() == ["1", "2", "host"]
    assert command.inspect("b")["HostConfig"]["VolumesFrom"] == ["a"]
    assert command.inspect("b")["HostConfig"]["Binds"] is None
    done = command.run("run", "--rm", "--volumes-from", "a:ro", "box", "touch", "/n/x")
    assert done.returncode == 1 and "Read-only" in done.stderr
    assert command.out("run", "--rm", "--volumes-from", "a", "-v", "other:/n", "box", "ls", "/n") == ""
    command.out("rm", "-v", "a")  # b has what was a's
    assert command.out("run", "--rm", "--volumes-from", "b", "box", "cat", "/data/g") == "2"
    command.out("rm", "-v", "b")
    assert sorted(command.out("volume", "ls", "-q").split()) == ["named", "other"]
    for text, why in (("a", "No such container"), ("x:y", "invalid volumes-from"), (":ro", "invalid volumes-from")):
        assert why in command.refused("create", "--volumes-from", text, "box", code=1 if "No" in why else 2)


def test_from_python(command: Command) -> None:
    """What was run has given its volumes back; anonymous ones go when that is asked for."""
    command.out("volume", "create", *TMPFS, "memory")
    given: dict[str, Any] = {"root": command.root, "driver": "overlay2"}
    found = fastlayer.run("box", "cat", "/data/first", volumes=["memory:/m"], **given)
    assert isinstance(found, fastlayer.Result) and found.stdout == b"of the image"
    assert not is_mounted(command, "memory")
    made = fastlayer.create("box", mounts=["source=memory,target=/m"], volumes_from=[], **given)
    made.start()
    made.wait()
    assert users(command, "memory") == [False, False]
    before = len(command.out("volume", "ls", "-q").split())
    made.remove(volumes=True)
    assert len(command.out("volume", "ls", "-q").split()) == before - 1


# ---- binds -------------------------------------------------------------------------------------------


def test_what_is_mounted_below_a_bind(command: Command, tmp_path: Path) -> None:
    shown = tmp_path / "shown"
    shown.mkdir()
    bind = f"type=bind,source={shown},target=/h"
    with mounted(shown / "sub") as sub:
        (sub / "below").touch()

        def says(text: str, what: str) -> str:
            return command.run("run", "--rm", "--mount", f"{bind}{text}", "box", "sh", "-c", what).stdout.strip()

        assert says("", "ls /h/sub") == "below"
        assert says(",bind-recursive=disabled", "ls /h/sub") == says(",bind-nonrecursive", "ls /h/sub") == ""
        assert says(",readonly", "touch /h/x || touch /h/sub/x || echo neither") == "neither"
        assert says(",readonly,bind-recursive=writable", "touch /h/x || touch /h/sub/x && echo below") == "below"


@pytest.mark.parametrize("words,seen,back", [("rshared", True, True), ("rslave", True, False), ("", False, False)])
def test_what_is_mounted_later(command: Command, tmp_path: Path, words: str, seen: bool, back: bool) -> None:
    """bind-propagation: the host's mounts appear in the container, and the other way round, as was asked."""
    with mounted(tmp_path / "shown", "--make-shared") as shown:
        (shown / "late").mkdir()
        (shown / "back").mkdir()
        program = f"mount -t tmpfs t /h/back && touch /h/back/inner && echo up; {FOREVER}"
        given = ["--privileged", "-v", f"{shown}:/h{':' if words else ''}{words}"]
        command.out("run", "-d", "--name", "a", *given, "box", "sh", "-c", program)
        until(lambda: command.out("logs", "a") == "up")
        with mounted(shown / "late") as late:
            (late / "outer").touch()
            assert (command.out("exec", "a", "ls", "/h/late") == "outer") == seen
        assert (shown / "back/inner").exists() == back
        command.out("rm", "-f", "a")


def test_a_place_that_passes_nothing_on(command: Command, tmp_path: Path) -> None:
    with mounted(tmp_path / "shown", "--make-private") as shown:
        for word, kind in (("rshared", "a shared mount"), ("slave", "a shared or slave mount")):
            said = command.refused("run", "--rm", "-v", f"{shown}:/h:{word}", "box", "true", code=125)
            assert f"is not {kind}" in said


# ---- images, tmpfs -----------------------------------------------------------------------------------


def test_a_part_of_an_image(command: Command) -> None:
    def says(subpath: str, what: str) -> Any:
        text = f"type=image,source=parts,target=/p,image-subpath={subpath}"
        return command.run("run", "--rm", "--mount", text, "box", "sh", "-c", what)

    assert says("a/b", "ls /p").stdout == "file\n"
    assert says("a/link/file", "cat /p").stdout == "part"
    assert "Read-only" in says("a/b", "touch /p/x").stderr
    for link in ("absolute", "upwards"):  # the image's /etc
        assert says(link, "ls /p").stdout == "own\n"
    for subpath, why in (("a/none", "No such file"), ("../etc", "without `..`"), ("/etc", "relative path")):
        done = says(subpath, "true")
        assert (done.returncode, len(done.stderr.splitlines())) == (125, 1) and why in done.stderr, done


@pytest.mark.parametrize("runtime", ["crun", "runc"])
def test_parts_by_other_runtimes(command: Command, runtime: str, tmp_path: Path) -> None:
    require(runtime)
    given = ["run", "--rm", "--runtime", runtime]
    for part, what in (("image-subpath=a/link", "cat /p/file; touch /p/x"), ("image-subpath=a/b/file", "cat /p")):
        done = command.run(*given, "--mount", f"type=image,source=parts,target=/p,{part}", "box", "sh", "-c", what)
        assert done.stdout == "part" and ("Read-only" in done.stderr) == ("touch" in what)
    with mounted(tmp_path / "shown", "--make-shared") as shown:
        said = command.refused(*given, "-v", f"{shown}:/h:rshared", "box", "true", code=125)
        assert "by the runtime native alone" in said


def test_a_part_of_an_image_where_detached_mounts_cannot_be_copied(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Linux before 6.15 (EINVAL): the image is attached for a moment."""
    api = _backend.engine().mountapi
    clone, calls = api.clone_mount, list[bytes]()

    def refusing(path: bytes, *, recursive: bool) -> int:
        calls.append(path)
        if len(calls) == 1:
            raise StorageError(errno.EINVAL, "open_tree", path)
        return int(clone(path, recursive=recursive))

    monkeypatch.setattr(api, "clone_mount", refusing)
    with existing_store(command.root, driver="overlay2") as store:
        before = list(table.entries())
        shown = imagemounts.show(store, "0" * 64, 0, MountOption("image", "/p", "parts", subpath="a/link"), [])
        try:
            assert len(calls) == 2 and os.listdir(f"/proc/self/fd/{shown.fd}") == ["file"] and not shown.is_file
            assert os.statvfs(f"/proc/self/fd/{shown.fd}").f_flag & os.ST_RDONLY
        finally:
            os.close(shown.fd)
        assert len(list(table.entries())) == len(before)


@pytest.mark.parametrize("runtime", ["native", "crun", "runc"])
def test_words_of_a_tmpfs(command: Command, runtime: str) -> None:
    def says(*words: str) -> set[str]:
        given = ["--runtime", runtime, *words, "box", "grep", " /t ", "/proc/mounts"]
        return set(command.out("run", "--rm", *given).split()[3].split(","))

    usual = says("--tmpfs", "/t")
    assert {"rw", "nosuid", "nodev", "noexec"} <= usual
    asked = says("--tmpfs", "/t:exec,uid=7,size=64k,dev")
    assert {"uid=7", "size=64k", "nodev"} <= asked and "noexec" not in asked  # devices stay shut in a sandbox
    assert "ro" in says("--tmpfs", "/t:ro") and "ro" in says("--mount", "type=tmpfs,target=/t,readonly")


# ---- plain users -------------------------------------------------------------------------------------

_SCRIPT = """
set -e
fl() { python -m fastlayer "$@"; }
fl load -q --no-unpack -i "$HOME/images.tar" > /dev/null
fl run --name a -v data:/v -v /tmp:/h:ro box sh -c 'echo x > /v/f; mkdir /v/sub; echo y > /v/sub/g; cat /data/first'
echo
fl run --rm --mount source=data,target=/s,volume-subpath=sub,readonly box sh -c 'cat /s/g; touch /s/h || echo ro'
fl run --rm --mount type=image,source=parts,target=/p,image-subpath=a/link box ls /p
fl run --rm --volumes-from a:ro box sh -c 'cat /v/f; touch /v/x || echo ro'
fl volume snapshot data s
fl volume create -o type=tmpfs -o device=tmpfs memory > /dev/null
program="trap 'exit 0' TERM; touch /m/f; echo up; while :; do sleep 0.05; done"
fl run -d --name m -v memory:/m box sh -c "$program" > /dev/null
while [ "$(fl logs m)" != up ]; do :; done
fl exec m ls /m
fl stop m
fl volume inspect -f '{{range .Users}}{{.Mounted}}{{end}}' memory
fl start m
fl kill m > /dev/null
fl wait m
fl rm -v a m
fl volume restore data s
fl volume rm data memory
fl volume prune -f > /dev/null
fl volume ls -q
"""


def test_of_a_plain_user(imported: Path, tmp_path: Path) -> None:
    shutil.copy(imported, tmp_path / "images.tar")
    (tmp_path / "script").write_text(_SCRIPT.replace("python -m", f"{sys.executable} -m"))
    done = as_somebody(
        ["sh", tmp_path / "script"], tmp_path, FASTLAYER_ROOT=str(tmp_path / "store"), FASTLAYER_DRIVER="overlay2"
    )
    assert done.returncode == 0, (done.stdout, done.stderr)
    wanted = ["of the image", "y", "ro", "file", "x", "ro", "s", "f", "m", "false", "m", "137", "a", "m", "data"]
    assert done.stdout.splitlines() == [*wanted, "data", "memory"], (done.stdout, done.stderr)
