"""Volumes where it matters what they lie on: reflink, snapshots and quotas of real file systems; overlayfs."""

from __future__ import annotations

import errno
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from fastlayer.errors import DriverError, FastlayerError, InUseError, NoSpaceError, StorageError
from fastlayer.image.importing import import_image
from fastlayer.maintenance.check import check
from fastlayer.maintenance.disk import disk_usage
from fastlayer.mounts import mounting, table
from fastlayer.mounts.mount import Mount
from fastlayer.store.store import open_store
from fastlayer.volume import books, options
from fastlayer.volume.volumes import Volumes, clear_dead
from tests.conftest import needs_root
from tests.filesystems import loop_fs
from tests.integration import uml
from tests.integration.command import Place, only_line
from tests.integration.userns import SOMEBODY, as_somebody, unshared
from tests.stores import tree

MIB = 1 << 20
INSIDE = os.environ.get(uml.INSIDE) == "1"
_REPOSITORY = Path(__file__).parents[2]
_LIMITED = {"xfs": ((), "prjquota"), "ext4": (("-O", "quota,project,ea_inode"), "prjquota"), "btrfs": ((), "")}


@pytest.fixture(scope="module")
def disks() -> Iterator[dict[str, Path]]:
    with ExitStack() as stack:
        yield _Disks(stack)


class _Disks(dict[str, Path]):
    """File systems, made when they are asked for."""

    def __init__(self, stack: ExitStack) -> None:
        super().__init__()
        self._stack = stack

    def __missing__(self, kind: str) -> Path:
        self[kind] = self._stack.enter_context(loop_fs(kind))
        return self[kind]


@pytest.fixture
def root(disks: dict[str, Path], request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A place for a store, on the file system that is the parameter; ``tmpfs``: on that for temporary files."""
    kind = request.param
    return tmp_path / "store" if kind == "tmpfs" else disks[kind] / f"store-{os.urandom(4).hex()}"


on = pytest.mark.parametrize


# ---- copies ------------------------------------------------------------------------------------------


@needs_root
@on("root", ["xfs", "btrfs", "ext4", "tmpfs"], indirect=True)
def test_copies_share_what_can_be_shared(root: Path, request: pytest.FixtureRequest) -> None:
    kind = request.node.callspec.params["root"]
    with open_store(root, driver="vfs") as store:
        volumes = Volumes(store)
        volumes.create("data")
        place = volumes.acquire("data", "one")
        (place / "big").write_bytes(os.urandom(8 * MIB))
        os.sync()
        for copied in (volumes.snapshot("data", "s1"), volumes.clone("data", "copy") and volumes.copied):
            assert copied is not None
            assert copied.atomic == (kind == "btrfs")
            assert (copied.copied_bytes == 0) == (kind in ("btrfs", "xfs"))
        (line,) = [line for line in disk_usage(store).lines if line.type == "Local Volumes"]
        parts = 1 if kind in ("btrfs", "xfs") else 3
        assert parts * 8 * MIB <= line.size < (parts + 0.5) * 8 * MIB
        (place / "big").write_bytes(b"changed")
        assert (volumes.acquire("copy", "one") / "big").stat().st_size == 8 * MIB
        volumes.release("one")
        volumes.restore("data", "s1")
        assert (place / "big").stat().st_size == 8 * MIB
        for name in ("data", "copy"):
            volumes.remove(name)
        assert [path for path in (root / "volumes").iterdir() if path.name[0] != "."] == []


_IN_TURN = """
import os, sys
os.chdir(sys.argv[1])
number = 0
while True:
    number += 1
    for name in ("a", "b"):
        with open(name + ".new", "w") as file:
            file.write(str(number))
        os.rename(name + ".new", name)
"""


@needs_root
@on("root", ["btrfs"], indirect=True)
def test_a_copy_on_btrfs_is_of_one_moment(root: Path) -> None:
    """Two files are written in turn, the first never behind; no copy shows it otherwise."""
    with open_store(root, driver="vfs") as store:
        volumes = Volumes(store)
        volumes.create("data")
        place = volumes.acquire("data", "one")
        writer = subprocess.Popen([sys.executable, "-c", _IN_TURN, place])
        try:
            while not (place / "b").exists():
                time.sleep(0.01)
            for number in range(8):
                assert volumes.snapshot("data", f"s{number}").atomic
        finally:
            writer.kill()
            writer.wait()
        volumes.release("one")
        for number in range(8):
            volumes.restore("data", f"s{number}")
            a, b = (int((place / name).read_text()) for name in ("a", "b"))
            assert a in (b, b + 1)
        volumes.remove("data")


@needs_root
@on("root", ["btrfs"], indirect=True)
def test_subvolumes_that_were_made_inside(root: Path) -> None:
    with open_store(root, driver="vfs") as store:
        volumes = Volumes(store)
        volumes.create("data")
        place = volumes.acquire("data", "one")
        subprocess.run(["btrfs", "-q", "subvolume", "create", place / "inner"], check=True)
        (place / "inner/file").write_text("x")
        volumes.clone("data", "copy")
        assert (volumes.acquire("copy", "one") / "inner/file").read_text() == "x"
        volumes.release("one")
        volumes.remove("data")
        volumes.remove("copy")
        assert not place.exists()


# ---- limits ------------------------------------------------------------------------------------------


def fill(path: Path, size: int) -> int:
    """Writes until the system refuses; returns the error."""
    try:
        with open(path, "wb", buffering=0) as file:
            for _ in range(size // MIB):
                file.write(os.urandom(MIB))
                os.fsync(file.fileno())
    except OSError as exc:
        return exc.errno or 0
    return 0


def fill_as_somebody(place: Path, size: int) -> int:
    """The same by a plain user, into the file ``big``: on ext4 root is held by no limit (CAP_SYS_RESOURCE)."""
    place.chmod(0o777)
    directory = os.open(place, os.O_RDONLY)
    child = os.fork()
    if child == 0:
        try:
            os.fchdir(directory)
            os.setgid(SOMEBODY)
            os.setuid(SOMEBODY)
            os._exit(fill(Path("big"), size))
        finally:
            os._exit(255)
    os.close(directory)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@needs_root
@on("kind", _LIMITED)
def test_a_limit_holds(kind: str) -> None:
    """Also in a clone and after a restore; it is gone with the volume."""
    features, mount_options = _LIMITED[kind]
    try:
        stack = ExitStack()
        where = stack.enter_context(loop_fs(kind, features=features, options=mount_options))
    except RuntimeError:
        if INSIDE:
            raise
        pytest.skip("this kernel has no project quotas: see test_on_another_kernel")
    with stack, open_store(where / "store", driver="vfs") as store:
        volumes = Volumes(store)
        volumes.create("data", options={"size": "20m"})
        place = volumes.acquire("data", "one")
        full = (errno.ENOSPC, errno.EDQUOT)
        assert fill_as_somebody(place, 40 * MIB) in full
        if kind != "btrfs":
            assert volumes.details("data").status["SizeLimit"] == 20 * MIB
            assert 10 * MIB < volumes.details("data").status["SizeUsed"] <= 20 * MIB
        (place / "big").unlink()
        (place / "small").write_text("x")
        os.sync()
        volumes.snapshot("data", "s1")
        volumes.clone("data", "copy")
        assert fill_as_somebody(volumes.acquire("copy", "one"), 40 * MIB) in full
        volumes.release("one")
        volumes.restore("data", "s1")
        assert (place / "small").read_text() == "x"
        assert fill_as_somebody(place, 40 * MIB) in full
        volumes.create("free")
        assert fill_as_somebody(volumes.acquire("free", "one"), 40 * MIB) == 0
        volumes.release("one")
        for name in ("data", "copy", "free"):
            volumes.remove(name)


@pytest.mark.skipif(INSIDE, reason="we are there")
@pytest.mark.timeout(600)
@needs_root
def test_on_another_kernel() -> None:
    """Limits with the project quotas of Linux 6.1, which this kernel may lack."""
    done = uml.on_uml(uml.pytest_command(f"{__file__}::test_a_limit_holds"), timeout=500)
    assert done.returncode == 0, done.stdout
    assert "passed" in done.stdout


@needs_root
@on("root", ["ext4", "tmpfs"], indirect=True)
def test_where_nothing_can_be_limited(root: Path) -> None:
    with open_store(root, driver="vfs") as store:
        volumes = Volumes(store)
        with pytest.raises(DriverError, match=r"cannot be limited here.*prjquota"):
            volumes.create("data", options={"size": "20m"})
        assert volumes.all() == [] and not (root / "volumes/data").exists()


# ---- made of images -------------------------------------------------------------------------------------


@needs_root
@on("root,driver", [("xfs", "overlay2"), ("btrfs", "btrfs"), ("tmpfs", "vfs")], indirect=["root"])
def test_an_image_as_a_volume(root: Path, driver: str, tmp_path: Path) -> None:
    source = tree(tmp_path / "image", {"etc/conf": "image", "bin/tool": os.urandom(MIB), "old": "1"})
    with open_store(root, driver=driver) as store:
        import_image(store, source, "base:1")
        volumes = Volumes(store)
        volumes.create("root", options={"image": "base:1"})
        place = volumes.acquire("root", "one")
        assert volumes.acquire("root", "two") == place
        (place / "etc/conf").write_text("mine")
        (place / "old").unlink()
        second = volumes.acquire(volumes.create("second", options={"image": "base:1"}).name, "one")
        assert (second / "etc/conf").read_text() == "image" and (second / "old").exists()
        volumes.snapshot("root", "s1")
        (place / "etc/conf").write_text("later")
        copy = volumes.acquire(volumes.clone("root", "copy").name, "one")
        assert (copy / "etc/conf").read_text() == "later" and not (copy / "old").exists()
        if driver == "overlay2":
            assert volumes.size(volumes.find("root")) < MIB // 2
        volumes.release("one")
        assert (place / "etc/conf").read_text() == "later"
        volumes.release("two")
        assert table.find(place) is None
        volumes.restore("root", "s1")
        place = volumes.acquire("root", "one")
        assert (place / "etc/conf").read_text() == "mine" and not (place / "old").exists()
        assert (place / "bin/tool").stat().st_size == MIB
        volumes.release("one")
        assert check(store).sound
        for name in ("copy", "root", "second"):
            volumes.remove(name)
        assert [info.kind for info in store.snapshotter.walk()] == ["committed"]


@needs_root
@on("root", ["xfs"], indirect=True)
def test_an_overlay_is_mounted_in_one_namespace(root: Path, tmp_path: Path) -> None:
    source = tree(tmp_path / "image", {"file": "image"})
    with open_store(root, driver="overlay2") as store:
        import_image(store, source, "base:1")
        Volumes(store).create("root", options={"image": "base:1"})
    code = (
        "import sys, time\nimport fastlayer\n"
        "with fastlayer.volumes(sys.argv[1]) as v: v.acquire('root', 'there')\n"
        "print('ready', flush=True)\ninput()\n"
    )
    child = subprocess.Popen(
        ["unshare", "-m", "--propagation", "private", sys.executable, "-c", code, root],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None and child.stdout.readline() == "ready\n"
    with open_store(root) as store:
        volumes = Volumes(store)
        with pytest.raises(InUseError, match="there has it mounted in another mount namespace"):
            volumes.acquire("root", "here")
        assert [user.user for user in books.users_of(store)] == ["there"]
        child.communicate("\n")
        volumes.release("there")
        assert (volumes.acquire("root", "here") / "file").read_text() == "image"
        volumes.release("here")
        volumes.remove("root")


# ---- full disks --------------------------------------------------------------------------------------------


@needs_root
@on("kind", ["ext4", "xfs"])
def test_a_full_disk_leaves_nothing_half_made(kind: str, tmp_path: Path) -> None:
    with loop_fs(kind) as where, open_store(where / "store", driver="vfs") as store:
        volumes = Volumes(store)
        volumes.create("data")
        place = volumes.acquire("data", "one")
        free = os.statvfs(where).f_bavail * os.statvfs(where).f_frsize
        fill(place / "big", int(free * 0.7))
        volumes.release("one")
        volumes.export("data", tmp_path / "data.tar")
        with pytest.raises(FastlayerError) as caught:
            volumes.import_archive("copy", tmp_path / "data.tar")
        assert isinstance(caught.value, NoSpaceError) or "No space" in str(caught.value)
        assert [volume.name for volume in volumes.all()] == ["data"]
        assert not (where / "store/volumes/copy").exists()


# ---- kill -9 ------------------------------------------------------------------------------------------------

_WORKER = """
import random, sys
import fastlayer
root, driver, seed, user = sys.argv[1:]
chance = random.Random(seed + user)
with fastlayer.volumes(root, driver=driver) as volumes:
    print("ready", flush=True)
    while True:
        name = f"v{chance.randrange(4)}"
        try:
            given = chance.choice([{}, {"image": "base:1"}, {"clone": f"v{chance.randrange(4)}"},
                                   {"type": "tmpfs", "device": "tmpfs"}])
            if chance.random() < 0.5:
                volumes.create(name, options=given)
            place = volumes.acquire(name, user, subpath=chance.choice(["", "."]))
            (place / user).write_text("x")
            assert (place / user).read_text() == "x"
            if chance.random() < 0.3:
                volumes.snapshot(name, f"s{chance.randrange(3)}")
            volumes.release(user)
            if chance.random() < 0.3:
                volumes.restore(name, f"s{chance.randrange(3)}")
            if chance.random() < 0.3:
                volumes.remove(name)
        except fastlayer.FastlayerError:
            volumes.release(user)
"""


@needs_root
@on("root,driver", [("xfs", "overlay2"), ("btrfs", "btrfs")], indirect=["root"])
def test_killed_at_any_instant(root: Path, driver: str, tmp_path: Path) -> None:
    """Three at work on the same volumes. The next process finds books and disk in agreement, and removes everything."""
    chance = random.Random(7)
    with open_store(root, driver=driver) as store:
        import_image(store, tree(tmp_path / "image", {"file": "image"}), "base:1")
    users = ["one", "two", "three"]
    for turn in range(8):
        children = [
            subprocess.Popen(
                [sys.executable, "-c", _WORKER, root, driver, str(turn), user],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                cwd=_REPOSITORY,
                text=True,
            )
            for user in users
        ]
        for child in children:
            assert child.stdout is not None
            if child.stdout.readline() != "ready\n":
                pytest.fail(child.communicate()[1])
        time.sleep(chance.uniform(0.1, 1.0))
        for child in children:
            child.send_signal(signal.SIGKILL)
        for child in children:
            _, errors = child.communicate()
            assert child.returncode == -signal.SIGKILL, errors
        with open_store(root, driver=driver) as store:
            volumes = Volumes(store)
            for user in users:
                volumes.release(user)
            clear_dead(store)
            report = check(store, repair=True)
            assert report.sound, report.findings
            known = {volume.name for volume in volumes.all()}
            assert {path.name for path in (root / "volumes").iterdir() if path.name[0] != "."} == known
            assert volumes.in_use() == set()
            below = os.fsencode(root / "volumes")
            assert [entry.target for entry in table.entries() if entry.target.startswith(below)] == []
            for volume in volumes.all():
                path = volumes.acquire(volume.name, "judge")
                assert volume.snapshot is None or options.parse(volume.options).source
                assert path.is_dir()
                volumes.release("judge")
    with open_store(root, driver=driver) as store:
        volumes = Volumes(store)
        for volume in volumes.all():
            volumes.remove(volume.name)
        assert [info.kind for info in store.snapshotter.walk()] == ["committed"]


# ---- plain users --------------------------------------------------------------------------------------------


def test_in_a_user_namespace(tmp_path: Path) -> None:
    """Root of a user namespace has all of it: an image's tree by overlayfs, tmpfs, parts, copies."""
    tree(tmp_path / "image", {"file": "image", "dir/sub": "x"})
    code = """
import sys
from pathlib import Path
import fastlayer
from fastlayer.image.importing import import_image
scratch = Path(sys.argv[1])
with fastlayer.volumes(scratch / "store") as volumes:
    import_image(volumes.store, scratch / "image", "base:1")
    volumes.create("root", options={"image": "base:1"})
    place = volumes.acquire("root", "one")
    (place / "file").write_text("mine")
    part = volumes.acquire("root", "one", subpath="dir", read_only=True)
    assert (part / "sub").read_text() == "x"
    try:
        (part / "new").write_text("x")
        raise SystemExit("read-only is not")
    except OSError:
        pass
    volumes.clone("root", "copy")
    volumes.create("scratch", options={"type": "tmpfs", "device": "tmpfs"})
    volumes.acquire("scratch", "one")
    volumes.release("one")
    assert (volumes.acquire("copy", "two") / "file").read_text() == "mine"
    volumes.release("two")
    for name in ("root", "copy", "scratch"):
        volumes.remove(name)
print("done")
"""
    done = unshared([sys.executable, "-c", code, tmp_path], tmp_path)
    assert done.stdout == "done\n", done.stderr


def test_by_a_plain_user(tmp_path: Path) -> None:
    """Without any right to mount: plain volumes have all but what needs mounts, which is refused in one line."""
    code = """
import sys
from pathlib import Path
import fastlayer
scratch = Path(sys.argv[1])
with fastlayer.volumes(scratch / "store", driver="vfs") as volumes:
    volumes.create("data")
    (volumes.acquire("data", "one") / "file").write_text("x")
    volumes.snapshot("data", "s1")
    volumes.clone("data", "copy")
    volumes.release("one")
    volumes.restore("data", "s1")
    volumes.export("data", scratch / "data.tar.gz")
    volumes.import_archive("again", scratch / "data.tar.gz")
    assert (volumes.acquire("again", "one") / "file").read_text() == "x"
    volumes.release("one")
    volumes.create("scratch", options={"type": "tmpfs", "device": "tmpfs"})
    for given in ({"name": "scratch"}, {"name": "data", "read_only": True}):
        try:
            volumes.acquire(user="one", **given)
        except fastlayer.DriverError as exc:
            print("not permitted" in str(exc))
    assert volumes.in_use() == set()
    for volume in volumes.all():
        volumes.remove(volume.name)
"""
    done = as_somebody([sys.executable, "-c", code, tmp_path], tmp_path)
    assert done.stdout == "True\nTrue\n", done.stderr


@needs_root
def test_a_store_that_cannot_be_written(tmp_path: Path) -> None:
    """Volumes are listed, measured and checked; using one is refused."""
    with open_store(tmp_path / "store", driver="vfs") as store:
        volumes = Volumes(store)
        volumes.create("data")
        (volumes.acquire("data", "one") / "file").write_text("x")
        volumes.release("one")
    (tmp_path / "store/volumes/unknown/_data").mkdir(parents=True)
    with mounting.temporary([Mount("bind", str(tmp_path / "store"), ("ro",))]) as where, open_store(where) as store:
        volumes = Volumes(store)
        assert [(volume.name, volumes.size(volume)) for volume in volumes.all()] == [("data", 4096)]
        assert str(volumes.details("data").path) == str(where / "volumes/data/_data")
        assert [finding.subject for finding in check(store).findings] == ["unknown"]
        with pytest.raises(StorageError, match="Read-only"):
            volumes.acquire("data", "one")
        with pytest.raises(StorageError, match="Read-only"):
            volumes.create("new")


# ---- the command ----------------------------------------------------------------------------------------------


@needs_root
def test_the_command(tmp_path: Path) -> None:
    place = Place(tmp_path)
    root = place.root / "store"
    words = ("--root", root)
    place.good("volume", "create", "--label", "team=db", "--label", "only", "data", *words)
    anonymous = place.good("volume", "create", *words).decode().strip()
    assert place.good("volume", "ls", "-q", *words).decode().split() == sorted(["data", anonymous])
    assert place.good("volume", "ls", "-q", "--filter", "label=team=db", *words) == b"data\n"
    assert place.good("volume", "ls", "-q", "-f", "name=at", "-f", "driver=local", *words) == b"data\n"
    shown = place.good("volume", "ls", "--format", '{{.Name}} {{.Driver}} {{.Labels}} {{.Label "team"}}', *words)
    assert b"data local only=,team=db db" in shown.splitlines()
    mountpoint = place.good("volume", "inspect", "-f", '{{.Mountpoint}} {{index .Labels "team"}}', "data", *words)
    assert mountpoint == b"%s db\n" % os.fsencode(root / "volumes/data/_data")
    assert place.good("inspect", "--type", "volume", "-f", "{{.Name}}", "data", *words) == b"data\n"
    (root / "volumes/data/_data/file").write_text("kept")
    place.good("volume", "snapshot", "data", "s1", *words)
    assert place.good("volume", "snapshots", "ls", "-q", "data", *words) == b"s1\n"
    (root / "volumes/data/_data/file").write_text("lost")
    place.good("volume", "restore", "data", "s1", *words)
    assert (root / "volumes/data/_data/file").read_text() == "kept"
    place.good("volume", "clone", "data@s1", "copy", *words)
    archive = place.good("volume", "export", "data", *words)
    place.good("volume", "import", "again", "-", *words, input=archive)
    assert (root / "volumes/again/_data/file").read_text() == "kept"
    place.good("volume", "snapshots", "rm", "data", "s1", *words)
    usage = place.good("system", "df", *words).decode()
    assert any(line.startswith("Local Volumes") and line.split()[2] == "4" for line in usage.splitlines()), usage
    assert "in use" in _held(place, root)
    assert anonymous in place.good("system", "prune", "-f", "--volumes", *words).decode()
    assert place.good("volume", "rm", "data", "copy", *words) == b"data\ncopy\n"
    place.good("volume", "rm", "-f", "nothing", *words)
    assert "Removed: again" in place.good("volume", "prune", "-af", *words).decode()
    assert place.good("volume", "ls", "-q", *words) == b""


def _held(place: Place, root: Path) -> str:
    with open_store(root) as store:
        Volumes(store).acquire("data", "container-1")
        done = place.run("volume", "rm", "-f", "data", "--root", root)
        Volumes(store).release("container-1")
    return only_line(done, 1)


@pytest.mark.parametrize(
    "words,code,why",
    [
        (("create", "a"), 2, "not the name"),
        (("create", "-o", "color", "data"), 2, "KEY=VALUE"),
        (("create", "-o", "color=red", "data"), 2, "no such option"),
        (("create", "--label", "=x", "data"), 2, "KEY=VALUE"),
        (("create", "-d", "nothing", "data"), 1, "no plugin"),
        (("create", "-o", "image=nothing", "data"), 1, "nothing"),
        (("create", "-o", "clone=nothing", "data"), 1, "no such volume"),
        (("inspect", "nothing"), 1, "no such volume"),
        (("rm", "nothing"), 1, "no such volume"),
        (("prune",), 2, "--force"),
        (("ls", "--filter", "color=red"), 2, "no such filter"),
        (("restore", "nothing", "s1"), 1, "no such volume"),
        (("import", "data", "/no/such/file"), 1, "No such file"),
        (("import", "data", "oci:/no/such/place"), 1, "no OCI image layout"),
        (("export", "nothing", "-o", "x.tar"), 1, "no such volume"),
    ],
)
def test_refusals_are_one_line(tmp_path: Path, words: tuple[str, ...], code: int, why: str) -> None:
    place = Place(tmp_path)
    with open_store(place.root / "store", driver="vfs"):
        pass
    done = place.run("volume", *words, "--root", place.root / "store")
    lines = done.stderr.decode().splitlines()
    assert done.returncode == code and len(lines) == 1 and why in lines[0], done.stderr
    assert done.stdout == (b"[]\n" if words[0] == "inspect" else b"")  # as Docker
