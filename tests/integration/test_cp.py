"""``fastlayer cp``: what it does beside Docker's own on the same script, and in layers of every driver."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bench import peers
from fastlayer.testing.dump import dump
from tests.conftest import needs_root, require
from tests.containers import FOREVER, Command, until
from tests.filesystems import extents, loop_fs
from tests.integration import runners
from tests.integration.buildbases import busybox
from tests.shell import COMMAND, Shell
from tests.stores import tree

pytestmark = needs_root
Done = subprocess.CompletedProcess[str]
Run = Callable[..., Done]
WHEN = 978_307_200  # seconds
# What both are given, in the directory with the files; NAME: is of the container.
SCRIPT = """
f NAME:/new             f NAME:/nodir/       f NAME:/nodir/x      f NAME:/etc         f NAME:/etc/
d NAME:/d1              d NAME:/d1           d/. NAME:/d2         d/. NAME:/d2/no/x   d/ NAME:/d3
d/ NAME:/d3/            d NAME:/new          f NAME:/d1/sub       link NAME:/lnk      -L link NAME:/lnk2
dirlink NAME:/dl        dirlink/ NAME:/dl2   dirlink/. NAME:/dl3  f NAME:/d1/l        nope NAME:/x
NAME:/nope out0         NAME:/d1 out1        NAME:/d1 out1        NAME:/d1/. out2     NAME:/new out1/
NAME:/new out3/         NAME:/new out4       NAME:/lnk out5       -L NAME:/lnk out6   -L NAME:/lnk2 out7
f NAME:relative         f NAME:/../../up     NAME:/d1/x/ out8     f/ NAME:/z          f/. NAME:/z
d NAME:/d1/x            NAME:/d1 f           f NAME:              NAME: out9          f d
other:/x out10          NAME:/bin/sh out11   -L NAME:/bin/sh out12  NAME:/tree/opaque out13
tree NAME:/             over NAME:/          over/. NAME:/tree    f NAME:/tree/gone   d/x NAME:/tree/dir
"""
ORDERS = [order.split() for line in SCRIPT.strip().splitlines() for order in line.split("  ") if order.strip()]


def files(place: Path) -> Path:
    """What is copied."""
    made = tree(place, {"f": "1", "d/x": "2", "d/sub/y": "3", "tree/dir/a": "1", "tree/b": "2", "over/tree/b": "new"})
    (made / "d/l").symlink_to("x")
    (made / "link").symlink_to("f")
    (made / "dirlink").symlink_to("d")
    for path in ("f", "d", "d/x", "d/sub"):
        os.chown(made / path, 1000, 1001)
    (made / "d/x").chmod(0o4755)
    (made / "over/tree").chmod(0o700)
    for path in sorted(made.rglob("*"), reverse=True):
        os.utime(path, (WHEN, WHEN), follow_symlinks=False)
    return made


def carried_out(run: Run, name: str, orders: list[list[str]] = ORDERS) -> list[tuple[str, bool]]:
    """Which orders were met."""
    named = [[word.replace("NAME:", f"{name}:") for word in order] for order in orders]
    return [(" ".join(words), run(*words).returncode == 0) for words in named]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return busybox(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def docker_says(
    base: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[list[tuple[str, bool]], dict[str, tuple[object, ...]], object]:
    """What Docker did, and the trees then: outside, and in the container."""
    require("dockerd", "docker")
    place = tmp_path_factory.mktemp("docker")
    here = files(place / "files")
    with peers.docker(place / "daemon", "overlay2") as words:
        docker = [os.fspath(word) for word in words]
        subprocess.run([*docker, "load", "-q", "-i", base], check=True, stdout=subprocess.DEVNULL)
        subprocess.run(
            [*docker, "create", "--name", "one", "fastlayer.invalid/busybox", "sh"],
            check=True,
            stdout=subprocess.DEVNULL,
        )

        def run(*given: str) -> subprocess.CompletedProcess[str]:
            return subprocess.run([*docker, "cp", *given], cwd=here, capture_output=True, text=True)

        did = carried_out(run, "one")
        out = place / "tree"
        out.mkdir()
        with subprocess.Popen([*docker, "export", "one"], stdout=subprocess.PIPE) as export:
            subprocess.run(["tar", "-x", "-C", out], stdin=export.stdout, check=True)
    return did, known(here), known(out)


def known(root: Path) -> dict[str, tuple[object, ...]]:
    """Paths with what both must have the same; times of directories that were written to are of the moment."""
    found = {}
    for path in root.rglob("*"):
        name, status = str(path.relative_to(root)), path.lstat()
        if name.split("/")[0] in ("dev", "proc", "sys", ".dockerenv") or name in (
            "etc/hosts",
            "etc/hostname",
            "etc/resolv.conf",
            "etc/mtab",
        ):
            continue  # Docker's own
        content = os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else None
        when = int(status.st_mtime) if not path.is_dir() else None
        found[name] = (status.st_mode, status.st_uid, status.st_gid, content, when)
    return found


@pytest.fixture(params=["overlay2", "vfs", "btrfs"])
def shell(request: pytest.FixtureRequest, tmp_path: Path, base: Path) -> Iterator[Shell]:
    """A store of that driver with the layer ``one``, which is not mounted."""
    if request.param != "btrfs":
        yield prepared(Shell(tmp_path / "store", request.param), base, tmp_path)
        return
    with loop_fs("btrfs", 1 << 30) as place:
        yield prepared(Shell(place / "store", "btrfs"), base, tmp_path)


def prepared(shell: Shell, base: Path, place: Path) -> Shell:
    shell.good("load", "-q", "-i", base)
    (place / "mnt").mkdir()
    shell.good("mount", "--rw", "--name", "one", "fastlayer.invalid/busybox", place / "mnt")
    shell.good("umount", "one")
    return shell


def test_the_same_as_docker(
    shell: Shell, tmp_path: Path, docker_says: tuple[list[tuple[str, bool]], object, object]
) -> None:
    here = files(tmp_path / "files")

    def run(*given: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [*COMMAND, "cp", *given],
            cwd=here,
            env=shell.env,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0 or len(done.stderr.splitlines()) == 1, done.stderr
        return done

    did, outside, inside = docker_says
    assert carried_out(run, "one") == did
    assert known(here) == outside
    shell.good("mount", "--name", "one", tmp_path / "mnt")
    try:
        assert known(tmp_path / "mnt") == inside
    finally:
        shell.good("umount", "one")
    assert "sound" in shell.good("store", "check")


# podman 4.3 has no -L, copies what a link leads to, and takes a file for a directory.
_NOT_PODMAN = ("-L", "NAME:/lnk", "NAME:/bin/sh", "NAME:/d1/x/")
_OF_THESE = {f"out{number}" for number in (5, 6, 7, 8, 11, 12)}


def test_podman_does_the_same(
    base: Path, tmp_path: Path, docker_says: tuple[list[tuple[str, bool]], dict[str, tuple[object, ...]], object]
) -> None:
    """Which orders are met, and what they leave outside: as docker, and hence we."""
    here = files(tmp_path / "files")
    orders = [order for order in ORDERS if not order[0].startswith(_NOT_PODMAN)]
    with runners.podman(tmp_path / "podman", "crun") as peer:
        peer("create", "--name", "one", *peer.plain, peer.load(base), "sh")

        def run(*given: str) -> Done:
            words = [*map(str, peer.words), "cp", *given]
            return subprocess.run(words, cwd=here, env={**os.environ, **peer.env}, capture_output=True, text=True)

        did = carried_out(run, "one", orders)
    said = dict(docker_says[0])
    assert did == [(words, said[words]) for words, _ in did]
    assert known(here) == {name: about for name, about in docker_says[1].items() if name not in _OF_THESE}


def test_mounted_or_not(shell: Shell, tmp_path: Path) -> None:
    """Through the mount that is there, and it is seen there at once."""
    mnt = tmp_path / "mnt"
    shell.good("mount", "--name", "one", mnt)
    try:
        shell.good("cp", tree(tmp_path / "new", {"x": "1"}), "one:/")
        assert (mnt / "new/x").read_text() == "1"
        (mnt / "new/y").write_text("2")
        shell.good("cp", "one:/new", tmp_path / "back")
    finally:
        shell.good("umount", "one")
    assert sorted(path.name for path in (tmp_path / "back").iterdir()) == ["x", "y"]
    assert [line.split()[1] for line in shell.good("diff", "one").splitlines()] == ["/", "/new", "/new/x", "/new/y"]


def test_tars_on_both_ends(shell: Shell, tmp_path: Path) -> None:
    made = tree(tmp_path / "made", {"a": "1", "b/c": "2"})
    tar = subprocess.run(["tar", "c", "-C", made, "."], capture_output=True, check=True).stdout
    shell.good("cp", "-", "one:/tmp", input=tar)
    done = shell.run("cp", "one:/tmp/.", "-")
    assert done.returncode == 0, done.stderr
    out = tmp_path / "out"
    out.mkdir()
    subprocess.run(["tar", "x", "-C", out], input=done.stdout, check=True)
    assert (out / "a").read_text() == "1" and (out / "b/c").read_text() == "2"
    (tmp_path / "junk").write_bytes(b"junk" * 1000)
    done = shell.run("cp", "-", "one:/tmp", input=b"junk" * 1000)
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1


def test_nothing_stays_of_one_that_is_killed(shell: Shell, tmp_path: Path) -> None:
    """Nor is its directory changed; and the layer can be used at once."""
    mnt = tmp_path / "mnt"
    shell.good("mount", "--name", "one", mnt)
    try:
        before = (mnt / "tmp").stat().st_mtime_ns
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as tar:
            entry = tarfile.TarInfo("large")
            entry.size = 1 << 20
            tar.addfile(entry, io.BytesIO(bytes(entry.size)))
        copying = subprocess.Popen([*COMMAND, "cp", "-", "one:/tmp"], stdin=subprocess.PIPE, env=shell.env)
        assert copying.stdin is not None
        copying.stdin.write(buffer.getvalue()[: 300 << 10])
        copying.stdin.flush()
        until(lambda: list((mnt / "tmp").glob(".fastlayer-cp-*/tree")))
        copying.kill()
        copying.wait()
        copying.stdin.close()
        until(lambda: os.listdir(mnt / "tmp") == [])
        until(lambda: (mnt / "tmp").stat().st_mtime_ns == before)
    finally:
        shell.good("umount", "one")
    assert shell.good("diff", "one") == ""


def test_from_one_to_another(shell: Shell, tmp_path: Path) -> None:
    shell.good("mount", "--rw", "--name", "two", "fastlayer.invalid/busybox", tmp_path / "mnt")
    shell.good("umount", "two")
    shell.good("cp", tree(tmp_path / "new", {"x": "1"}), "one:/")
    shell.good("cp", "one:/new", "two:/etc")
    shell.good("cp", "two:/etc/new", "two:/copy")
    shell.good("cp", "two:/copy", tmp_path / "back")
    assert (tmp_path / "back/x").read_text() == "1"
    assert "lies inside" in shell.refused("cp", "two:/etc", "two:/etc/new/")


def test_wrong_usage(shell: Shell, tmp_path: Path) -> None:
    for words, why in {
        ("a", "b"): "none of the two is in a writable layer",
        ("-", "-"): "none of the two",
        ("one:", tmp_path): "the path is empty",
    }.items():
        assert why in shell.refused("cp", *words, code=2)
    assert "no writable layer of that name" in shell.refused("cp", "three:/x", tmp_path)


SHARING = [("xfs", "vfs"), ("xfs", "overlay2"), ("btrfs", "overlay2"), ("btrfs", "btrfs")]


@pytest.mark.parametrize("kind, driver", SHARING)
def test_shares_blocks(base: Path, tmp_path: Path, kind: str, driver: str) -> None:
    """On a file system that can, with a driver whose layers are directories of it, nothing is copied."""
    with loop_fs(kind, 1 << 30) as place:
        shell = prepared(Shell(place / "store", driver), base, tmp_path)
        big = place / "big"
        big.write_bytes(os.urandom(64 << 20))
        os.sync()
        before = shutil.disk_usage(place).used
        shell.good("cp", big, "one:/")
        shell.good("cp", "one:/big", place / "back")
        shell.good("cp", "one:/big", "one:/again")
        os.sync()
        assert shutil.disk_usage(place).used - before < 8 << 20
        assert (place / "back").read_bytes() == big.read_bytes()


def test_a_running_container_shares_blocks_too(base: Path) -> None:
    """Its program reads, runs and lengthens what has come in below its feet."""
    with loop_fs("xfs", 1 << 30) as place:
        command = Command(place / "store", FASTLAYER_DRIVER="overlay2")
        command.out("load", "-q", "-i", base)
        command.out("run", "-d", "--name", "one", "fastlayer.invalid/busybox", "sh", "-c", FOREVER)
        try:
            made = tree(place / "made", {"sub/big": os.urandom(32 << 20), "busybox": Path("/bin/busybox").read_bytes()})
            (made / "busybox").chmod(0o755)
            os.sync()
            before = shutil.disk_usage(place).used
            command.out("cp", made, "one:/srv")
            command.out("cp", made / "busybox", "one:/tmp")
            digest = hashlib.sha256((made / "sub/big").read_bytes()).hexdigest()
            assert command.out("exec", "one", "/tmp/busybox", "sha256sum", "/srv/sub/big").split()[0] == digest
            assert command.out("exec", "one", "/srv/busybox", "echo", "runs") == "runs"
            script = "exec 3>>/srv/sub/big; printf more >&3; wc -c < /srv/sub/big; tail -c 4 /srv/sub/big"
            assert command.out("exec", "one", "sh", "-c", script).split() == [str((32 << 20) + 4), "more"]
            command.out("cp", "one:/srv/sub", place / "back")
            assert (place / "back/big").read_bytes() == (made / "sub/big").read_bytes() + b"more"
            [back, *_], [origin, *_] = extents(place / "back/big"), extents(made / "sub/big")
            assert back[:2] == origin[:2]  # it may be longer: by the new end
            os.sync()
            assert shutil.disk_usage(place).used - before < 8 << 20
        finally:
            command.run("rm", "-f", "one")


def test_a_whole_tree_comes_back(shell: Shell, tmp_path: Path) -> None:
    """Everything that the copy engine keeps."""
    made = files(tmp_path / "files")
    os.setxattr(made / "f", "user.note", b"1")
    os.link(made / "f", made / "again")
    os.mknod(made / "zero", 0o600 | 0o020000, os.makedev(1, 5))
    os.mkfifo(made / "fifo")
    shell.good("cp", "-a", made, "one:/kept")
    shell.good("cp", "-a", "one:/kept", tmp_path / "back")
    assert dump(tmp_path / "back") == dump(made)
    done = shell.run("cp", "one:/kept", "-")
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as tar:
        assert tar.getmember("kept/f").islnk() or tar.getmember("kept/again").islnk()
        assert tar.getmember("kept/zero").ischr()
