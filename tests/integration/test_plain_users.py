"""Plain users with ranges of ids: files of layers belong to ids that only a user namespace lets them work with."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.buildroot import make_root
from tests.conftest import require
from tests.integration.dockerregistry import DockerRegistry, basic_auth
from tests.integration.userns import as_somebody

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="shows another /etc/subuid in place of the machine's")
IDS = {
    "/etc/passwd": "somebody:x:54321:54321::/:/bin/sh\n",
    "/etc/subuid": "somebody:200000:65536\n",
    "/etc/subgid": "somebody:300000:65536\n",
}
PRIVATE = "mkdir -m 700 /private && echo 1 > /private/file && chown -R 7:8 /private && echo hi > /plain"

# each command is a process of its own
COMMANDS = """
import io, os, subprocess, sys, tarfile
os.chdir(os.environ["HOME"])
def fastlayer(*words):
    done = subprocess.run([sys.executable, "-m", "fastlayer", *words], capture_output=True)
    assert done.returncode == 0, (words, done.stdout, done.stderr)
    return done.stdout
def refused(*words, status=1):
    done = subprocess.run([sys.executable, "-m", "fastlayer", *words], capture_output=True)
    assert done.returncode == status, (words, done)
    return done.stderr
def driver():
    return [name for name in ("overlay2", "vfs") if os.path.isdir(os.path.join(os.environ["FASTLAYER_ROOT"], name))]
def owners(tar):
    return {member.name: (member.uid, member.gid) for member in tarfile.open(fileobj=io.BytesIO(tar))}
archive, private = sys.argv[1:]
WANTED = {"plain": (0, 0), "private": (7, 8), "private/file": (7, 8)}
fastlayer("import", "-q", archive, "base")
fastlayer("run", "--name", "box", "base", "sh", "-c", private)
"""


def run(scratch: Path, code: str, *, driver: str | None = "vfs", **more: str) -> None:
    require("newuidmap", "newgidmap")
    if not all(map(os.path.exists, IDS)):
        pytest.skip("no /etc/subuid to show another one in place of")
    shown = {}
    for place, text in IDS.items():
        file = scratch / os.path.basename(place)
        file.write_text(text)
        shown[file] = place
    make_root(scratch / "root")
    subprocess.run(["tar", "-C", scratch / "root", "-cf", scratch / "base.tar", "."], check=True)
    command = [sys.executable, "-c", COMMANDS + code, scratch / "base.tar", PRIVATE]
    given = {"FASTLAYER_ROOT": str(scratch / "store"), **({"FASTLAYER_DRIVER": driver} if driver else {}), **more}
    done = as_somebody(command, scratch, shown=shown, **given)
    assert done.returncode == 0, done.stderr


def test_what_a_container_wrote_is_seen_with_its_owners(tmp_path: Path) -> None:
    run(
        tmp_path,
        """
assert fastlayer("diff", "box").decode().split() == ["A", "/plain", "A", "/private", "A", "/private/file"]
for tar in (fastlayer("diff", "box", "-o", "-"), fastlayer("export", "box")):
    found = owners(tar)
    assert {name: found[name] for name in WANTED} == WANTED, found
assert owners(fastlayer("cp", "-a", "box:/private", "-"))["private/file"] == (7, 8)
fastlayer("commit", "-q", "box", "made")
names = fastlayer("run", "--rm", "made", "ls", "-ln", "/private").decode().split()
assert "7" in names and "8" in names, names
""",
    )


def test_it_is_measured_kept_and_removed(tmp_path: Path) -> None:
    run(
        tmp_path,
        """
fastlayer("ps", "-a", "-s"); fastlayer("inspect", "-s", "box"); fastlayer("mounts", "--usage")
fastlayer("system", "df", "-v")
fastlayer("commit", "-q", "box", "made")
fastlayer("checkpoint", "box", "then"); fastlayer("fork", "box", "other"); fastlayer("rollback", "box", "then")
assert b"A /private/file" in fastlayer("diff", "base", "made")
assert b"sound" in fastlayer("store", "check")
fastlayer("rmi", "made"); fastlayer("checkpoint", "--rm", "box", "then"); fastlayer("store", "gc")
assert b"Removed: other" in fastlayer("system", "prune", "-af")
left = os.listdir(os.path.join(os.environ["FASTLAYER_ROOT"], "vfs"))
assert left == ["identity"], left
""",
    )


def test_a_running_container_is_reached_from_outside(tmp_path: Path) -> None:
    run(
        tmp_path,
        """
fastlayer("run", "-d", "--name", "busy", "base", "sh", "-c", "echo hi > /new; mkfifo /wait; cat /wait")
while b"/wait" not in fastlayer("diff", "busy"):
    assert b"busy" in fastlayer("ps"), fastlayer("logs", "busy")
assert fastlayer("cp", "busy:/new", "-") and "new" in owners(fastlayer("export", "busy"))
fastlayer("commit", "-q", "busy", "made"); fastlayer("rm", "-f", "busy")
""",
    )


def test_what_may_not_be_read_is_said_to_python(tmp_path: Path) -> None:
    run(
        tmp_path,
        """
import fastlayer as api
from fastlayer.errors import StorageError
for dest in (io.BytesIO(), "out"):
    try:
        api.Container("box").copy_from("/private", dest)
        raise AssertionError("it was read")
    except StorageError as exc:
        assert str(exc).startswith("box:/private: open: Permission denied"), exc
assert not os.path.exists("out")
""",
    )


@pytest.mark.parametrize("driver", ["vfs", "overlay2"])
def test_a_directory_that_holds_the_store_does_not_go_into_it(tmp_path: Path, driver: str) -> None:
    """An overlay shows the place of the copy as another one than that in the store, which is read at the same time."""
    run(
        tmp_path,
        """
command = [sys.executable, "-m", "fastlayer", "cp", ".", "box:/tmp"]
done = subprocess.run(command, capture_output=True, timeout=60)
assert done.returncode == 1 and (b"holds the store" in done.stderr or b"inside" in done.stderr), done
os.mkdir("beside"); fastlayer("cp", "beside", "box:/tmp")
assert b"tmp/beside" in fastlayer("diff", "box") and b"/tmp/store" not in fastlayer("diff", "box")
""",
        driver=driver,
    )


def test_who_may_not_have_the_ids_that_he_is_given(tmp_path: Path) -> None:
    """Without new privileges newuidmap has none; one that is refused is told of. All is the user's then."""
    run(
        tmp_path,
        """
import shutil
def as_given(*before, **environ):
    for words in (("import", "-q", archive, "own"), ("run", "--rm", "own", "ls", "-ln", "/"), ("doctor",)):
        command = [*before, sys.executable, "-m", "fastlayer", *words]
        done = subprocess.run(command, capture_output=True, env={**os.environ, **environ})
        assert done.returncode == 0, (words, done)
        yield words[0], done.stderr
os.environ["FASTLAYER_ROOT"] += "-alone"
assert all(not told for _, told in as_given("setpriv", "--no-new-privs"))
os.mkdir("bin")
for name in ("newuidmap", "newgidmap"):
    shutil.copy(shutil.which(name), "bin")  # whose rights go
told = dict(as_given(PATH=os.path.abspath("bin") + ":" + os.environ["PATH"]))
assert not told["import"] and all(b"newuidmap or newgidmap refused" in told[verb] for verb in ("run", "doctor")), told
""",
        driver=None,
    )


def test_volumes(tmp_path: Path) -> None:
    run(
        tmp_path,
        """
fastlayer("run", "--rm", "-v", "data:/data", "base", "sh", "-c", private.replace("/p", "/data/p"))
for words in (("ls", "-s"), ("clone", "data", "copy"), ("snapshot", "data", "s1")):
    fastlayer("volume", *words)
fastlayer("volume", "export", "data", "-o", "data.tar")
found = owners(open("data.tar", "rb").read())
assert {name: found[name] for name in WANTED} == WANTED, found
fastlayer("volume", "snapshots", "rm", "data", "s1"); fastlayer("volume", "rm", "data")
assert b"copy" in fastlayer("volume", "prune", "-af")
""",
    )


def test_what_comes_in_has_its_owners(tmp_path: Path) -> None:
    """With the driver that `run` would take, which cannot be used outside of a namespace."""
    with DockerRegistry(tmp_path) as registry:
        run(
            tmp_path,
            f"""
fastlayer("commit", "-q", "box", "made"); fastlayer("tag", "made", "{registry.host}/made")
fastlayer("push", "-q", "{registry.host}/made"); fastlayer("save", "-o", "made.tar", "made")
fastlayer("unshare", "rm", "-r", os.environ["FASTLAYER_ROOT"])
def has_owners(image):
    names = fastlayer("run", "--rm", image, "ls", "-lnR", "/private").decode()
    assert [line.split()[2:4] for line in names.splitlines() if line.startswith("-")] == [["7", "8"]], names
    assert driver() == ["overlay2"]
    fastlayer("rmi", image)
    fastlayer("unshare", "rm", "-r", os.environ["FASTLAYER_ROOT"])
fastlayer("pull", "-q", "{registry.host}/made")
has_owners("{registry.host}/made")
fastlayer("load", "-q", "-i", "made.tar")
fastlayer("run", "--name", "box", "made", "true"); fastlayer("export", "box", "-o", "root.tar"); fastlayer("rm", "box")
has_owners("made")
fastlayer("import", "-q", "root.tar", "made")
has_owners("made")
""",
            driver=None,
        )


def test_credential_helpers_run_as_the_user_they_know(tmp_path: Path) -> None:
    """D-Bus services, say, compare who a client says it is with what the kernel knows."""
    with DockerRegistry(tmp_path, auth=basic_auth(tmp_path)) as registry:
        run(
            tmp_path,
            f"""
os.mkdir("bin"); os.mkdir(".docker")
with open("bin/docker-credential-test", "w") as file:
    file.write("#!/bin/sh\\ncat > asked; id -u > who; id -g >> who; ls -ln asked > whose; echo not there; exit 1")
os.chmod("bin/docker-credential-test", 0o755)
with open(".docker/config.json", "w") as file:
    file.write('{{"credsStore": "test"}}')
os.environ["PATH"] = os.getcwd() + "/bin:" + os.environ["PATH"]
refused("pull", "{registry.host}/absent")
assert open("who").read().split() == ["54321", "54321"] and open("whose").read().split()[2:4] == ["54321", "54321"]
assert open("asked").read() == "{registry.host}"
""",
        )


def test_directories_that_are_imported(tmp_path: Path) -> None:
    """One's own is seen as in a build, with what belongs to one's other ids; somebody else's as it is."""
    theirs = tmp_path.parent / f"{tmp_path.name}-theirs"
    theirs.mkdir(mode=0o755)
    (theirs / "file").write_text("theirs")
    run(
        tmp_path,
        f"""
os.mkdir("own"); open("own/file", "w").close()
fastlayer("unshare", "sh", "-c", "mkdir -m 700 own/closed && echo > own/closed/file && chown -R 9:9 own/closed")
fastlayer("import", "-q", "own", "own"); fastlayer("import", "-q", "{theirs}", "theirs")
found = owners(fastlayer("diff", "theirs", "own", "-o", "-"))
assert (found["file"], found["closed"], found["closed/file"]) == ((0, 0), (9, 9), (9, 9)), found
fastlayer("mount", "--rw", "--no-mount", "--name", "empty", "theirs")
assert owners(fastlayer("export", "empty"))["file"] == (0, 0)
""",
    )


def test_a_command_in_a_namespace(tmp_path: Path) -> None:
    run(
        tmp_path,
        """
os.mkdir("target")
assert fastlayer("unshare", "id", "-u").strip() == b"0"
assert fastlayer("unshare", "printenv", "HOME", "_CONTAINERS_ROOTLESS_UID").split()[1] == b"54321"
assert b"overlay2" in fastlayer("doctor").split(b"yes")[0]
assert b"inside `fastlayer unshare`" in refused("mount", "base", "target")
fastlayer("commit", "-q", "box", "made")
script = f"{sys.executable} -m fastlayer mount made target && ls -ln target && cat target/private/file"
names = fastlayer("unshare", "sh", "-c", f"{script} && {sys.executable} -m fastlayer umount target").decode()
assert ["7", "8"] in [line.split()[2:4] for line in names.splitlines()] and names.split()[-2] == "1", names
assert len(fastlayer("mounts").splitlines()) == 2  # the container
assert refused("unshare", "sh", "-c", "exit 9", status=9) == b""
assert b"No such file" in refused("unshare", "./nowhere", status=127)
assert b"Permission denied" in refused("unshare", "/etc", status=126)
assert b"is empty" in refused("unshare", "", status=2)
assert b"needs no namespace" in refused("unshare", sys.executable, "-m", "fastlayer", "unshare", status=2)
place = fastlayer("mount", "--rw", "--no-mount", "--name", "layer", "made").decode().strip()
assert "/vfs/" in place and driver() == ["overlay2", "vfs"], place
open(place + "/new", "w").close()
assert fastlayer("diff", "layer").split()[-2:] == [b"A", b"/new"]
fastlayer("rm", "layer")
""",
        driver=None,
        SHELL="/bin/true",
    )


def test_who_has_no_ids_but_his_own(tmp_path: Path) -> None:
    """Everything is the user's, as before; the driver is that of the other verbs."""
    make_root(tmp_path / "root")
    (tmp_path / "root" / "srv").mkdir()
    os.chown(tmp_path / "root" / "srv", 33, 33)
    subprocess.run(["tar", "-C", tmp_path / "root", "-cf", tmp_path / "base.tar", "."], check=True)
    code = COMMANDS.replace('fastlayer("run", "--name", "box", "base", "sh", "-c", private)', "")
    command = [sys.executable, "-c", code + NO_IDS, tmp_path / "base.tar", ""]
    done = as_somebody(command, tmp_path, FASTLAYER_ROOT=str(tmp_path / "store"))
    assert done.returncode == 0, done.stderr


NO_IDS = """
assert driver() == ["overlay2"]
names = fastlayer("run", "--rm", "base", "ls", "-ln", "/").decode().splitlines()
assert all(line.split()[2:4] == ["0", "0"] for line in names[1:] if line.endswith((" bin", " srv"))), names
"""
