"""Every driver passes the conformance suite on real file systems; a wrong driver does not; all give the same tree."""

from __future__ import annotations

import gzip
import os
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from fastlayer.container.mounting import temporary
from fastlayer.drivers.registry import driver_class
from fastlayer.drivers.vfs import Vfs
from fastlayer.image.images import Images
from fastlayer.image.load import load
from fastlayer.metadata.database import Database
from fastlayer.metadata.leases import Leases
from fastlayer.snapshot.driver import Driver, Kind, Usage
from fastlayer.snapshot.snapshotter import Snapshotter
from fastlayer.store.store import open_store
from fastlayer.testing import snapshotter_suite as suite
from fastlayer.testing.dump import difference, dump
from tests.applying import char, file, folder, hardlink
from tests.conftest import require
from tests.corpus.tarparts import END
from tests.filesystems import loop_fs, need_root
from tests.integration import judges
from tests.integration.userns import unshared
from tests.stores import Layout

PLACES = [
    ("overlay2", "tmpfs"),
    ("overlay2", "xfs"),
    ("overlay2", "ext4"),
    ("vfs", "tmpfs"),
    ("vfs", "xfs"),
    ("vfs", "ext4"),
    ("btrfs", "btrfs"),
]


def bench(driver: Driver, root: Path, scratch: Path) -> suite.Bench:
    (root / "leases").mkdir(parents=True)
    scratch.mkdir()
    database = Database(root / "metadata.db")
    return suite.Bench(Snapshotter(database, Leases(database, root / "leases"), driver), scratch)


@pytest.fixture(scope="module")
def file_systems() -> Iterator[Callable[[str, Path], Path]]:
    """A file system of each kind, mounted once."""
    with ExitStack() as stack:
        found: dict[str, Path] = {}

        def give(kind: str, tmp: Path) -> Path:
            if kind == "tmpfs":
                return tmp
            if kind not in found:
                found[kind] = stack.enter_context(loop_fs(kind, 600 << 20))
            place = found[kind] / tmp.name
            place.mkdir()
            return place

        yield give


@pytest.mark.parametrize("check", suite.CHECKS, ids=suite.name_of)
@pytest.mark.parametrize("name,kind", PLACES, ids=["-".join(place) for place in PLACES])
def test_conformance(
    file_systems: Callable[[str, Path], Path],
    tmp_path: Path,
    name: str,
    kind: str,
    check: Callable[[suite.Bench], None],
) -> None:
    need_root()
    place = file_systems(kind, tmp_path)
    root = place / "driver"
    root.mkdir()
    assert driver_class(name).probe(root).works
    check(bench(driver_class(name)(root), place / "store", tmp_path / "scratch"))


# ---- wrong drivers are caught --------------------------------------------------------------------


class WritesIntoParent(Vfs):
    """A child that is its parent's tree under another name."""

    def create(self, number: int, parents: Sequence[int], kind: Kind, *, size: int | None = None) -> None:
        if not parents:
            super().create(number, parents, kind, size=size)
            return
        (self.root / str(number)).mkdir()
        (self.root / str(number) / "tree").symlink_to(self.root / str(parents[0]) / "tree")


class ForgetsAttributes(Vfs):
    """Copies with a tool that keeps no extended attributes, owners and hard links."""

    def _clone(self, source: Path, target: Path) -> None:
        subprocess.run(["cp", "-r", source, target], check=True)


class LeavesThingsBehind(Vfs):
    def remove(self, number: int) -> None:
        tree = self.root / str(number) / "tree"
        if tree.exists():
            os.rename(tree, self.root / str(number) / "old")


class MeasuresNothing(Vfs):
    def usage(self, number: int, parents: Sequence[int]) -> Usage:
        return Usage(0, 0)


class DuplicatesByName(Vfs):
    def duplicate(self, number: int, parents: Sequence[int], source: int, *, live: bool = False) -> int:
        (self.root / str(number)).symlink_to(self.root / str(source))
        return 0


class SeesNoDeletions(Vfs):
    def changes(self, number: int, parents: Sequence[int]) -> Any:
        real = super().changes(number, parents)

        class Some:
            def __enter__(self) -> Any:
                return [change for change in real if change.kind != "D"]

            def __exit__(self, *_exc: object) -> None:
                real.close()

        return Some()


@pytest.mark.parametrize(
    "wrong",
    [WritesIntoParent, ForgetsAttributes, LeavesThingsBehind, MeasuresNothing, DuplicatesByName, SeesNoDeletions],
)
def test_a_wrong_driver_does_not_pass(tmp_path: Path, wrong: type[Vfs]) -> None:
    failed = []
    for number, check in enumerate(suite.CHECKS):
        root = tmp_path / f"driver{number}"
        root.mkdir()
        try:
            check(bench(wrong(root), tmp_path / f"store{number}", tmp_path / f"scratch{number}"))
        except AssertionError:
            failed.append(suite.name_of(check))
        except Exception:
            failed.append(suite.name_of(check))
    assert failed, f"{wrong.__name__} passes the suite"


# ---- the same image everywhere -------------------------------------------------------------------


def image(place: Path, *, devices: bool = True) -> Path:
    """A layout with an image of three layers: whiteouts, an opaque directory, replaced types, odd owners."""
    import fastlayer

    trees = [place / f"tree{number}" for number in range(3)]
    trees[0].mkdir()
    trees[1].mkdir()
    suite.base(trees[1])
    if not devices:
        (trees[1] / "var/null").unlink()
    fastlayer.clone(trees[1], trees[2])
    suite.edit(trees[2])
    fastlayer.clone(trees[2], place / "last")
    (place / "last/etc/added").unlink()
    (place / "last/deep").rename(place / "last/moved")
    layout = Layout(place / "layout")
    tars = []
    for number, (a, b) in enumerate(((trees[0], trees[1]), (trees[1], trees[2]), (trees[2], place / "last"))):
        tars.append(place / f"layer{number}.tar.gz")
        fastlayer.diff(a, b, tars[-1])
    layout.image_of_files("app:latest", tars)
    return place / "last"


def test_the_same_image_through_every_driver(file_systems: Callable[[str, Path], Path], tmp_path: Path) -> None:
    """... and as umoci unpacks it."""
    need_root()
    tree = image(tmp_path)
    wanted = dump(tree)
    wanted["."].pop("mtime_ns")  # layers do not carry the root
    for name, kind in PLACES:
        place = file_systems(kind, tmp_path / f"{name}-{kind}") if kind != "tmpfs" else tmp_path / f"{name}-{kind}"
        with open_store(place / "store", driver=name) as store:
            load(store, tmp_path / "layout")
            with temporary(store, Images(store).find("app")) as path:
                found = dump(path)
        found["."].pop("mtime_ns")
        assert not difference(wanted, found), f"{name} on {kind}: {difference(wanted, found)}"
    require("umoci")
    subprocess.run(["umoci", "unpack", "--image", f"{tmp_path}/layout:app:latest", tmp_path / "bundle"], check=True)
    theirs = dump(tmp_path / "bundle/rootfs")
    theirs["."].pop("mtime_ns")
    assert not difference(wanted, theirs), difference(wanted, theirs)


def test_docker_unpacks_the_same(tmp_path: Path) -> None:
    need_root()
    judge = judges.Docker()
    judges.need(judge)
    tree = image(tmp_path)
    layers = [tmp_path / f"layer{number}.tar.gz" for number in range(3)]
    work = tmp_path / "docker"
    work.mkdir()
    wanted, theirs = dump(tree), dump(judge.unpack(layers, work))
    for found in (wanted, theirs):
        found["."].pop("mtime_ns")
    for name, entry in wanted.items():  # docker 20.10 stores seconds and security.capability only
        for key in ("mtime_ns", "xattrs"):
            entry.pop(key, None)
            theirs[name].pop(key, None)
    assert not difference(wanted, theirs), difference(wanted, theirs)


# ---- disk usage where files share blocks ---------------------------------------------------------


@pytest.mark.parametrize(("driver", "kind"), [("vfs", "xfs"), ("overlay2", "xfs"), ("btrfs", "btrfs")])
def test_shared_blocks_count_once(
    file_systems: Callable[[str, Path], Path], tmp_path: Path, driver: str, kind: str
) -> None:
    """An image, a second one that was committed on it, and the writable layer share one file of 8 MiB."""
    from fastlayer.container import writable
    from fastlayer.container.commit import commit
    from fastlayer.container.mounting import mount_writable, unmount
    from fastlayer.image.importing import import_image
    from fastlayer.maintenance.disk import disk_usage

    need_root()
    place = file_systems(kind, tmp_path)
    (place / "root").mkdir()
    (place / "mnt").mkdir()
    (place / "root/big").write_bytes(os.urandom(8 << 20))
    with open_store(place / "store", driver=driver) as store:
        base = import_image(store, place / "root", "base")
        layer = writable.create(store, base, "work")
        mount_writable(store, layer, place / "mnt")
        (place / "mnt/small").write_bytes(b"x" * 100_000)
        unmount(store, "work")
        commit(store, layer, "child")
        os.sync()
        usage = disk_usage(store)
    images = usage.lines[0]
    assert images.total == 2 and usage.lines[1].total == 1
    assert (8 << 20) + 100_000 <= images.size < 9 << 20, f"two images of 8 MiB that share it take {images.size}"
    child = next(row for row in usage.images if row.image.names == ("docker.io/library/child:latest",))
    assert child.shared >= 8 << 20 and 100_000 <= child.unique < 1 << 20
    (row,) = usage.writable
    assert row.size - row.shared < 1 << 20, "what it takes for itself"
    assert usage.lines[1].size < 1 << 20 and usage.lines[1].reclaimable == usage.lines[1].size
    if driver == "vfs":
        assert row.shared >= 8 << 20


# ---- without privileges --------------------------------------------------------------------------


def test_an_ordinary_user_in_a_namespace_of_his_own(tmp_path: Path) -> None:
    """``unshare -Urm``: overlay2 with user marks; without the right to mount vfs, and no mounts at all."""
    need_root()
    image(tmp_path, devices=False)  # which a user namespace cannot make
    tmp_path.chmod(0o755)
    home = tmp_path / "home"
    home.mkdir()
    subprocess.run(["chmod", "-R", "a+rX", tmp_path / "layout"], check=True)
    script = f"""
set -e
export FASTLAYER_ROOT={home}/store
fl() {{ {sys.executable} -m fastlayer "$@"; }}
fl load -q -i {tmp_path}/layout
mkdir -p {home}/mnt
fl mount --rw --name work app {home}/mnt
echo changed >{home}/mnt/etc/passwd
rm -r {home}/mnt/moved
fl diff work
fl commit -q work app:2
fl umount work
fl mounts --format '{{{{.Driver}}}}'
fl store check
"""
    done = unshared(["bash", "-c", script], home)
    assert done.returncode == 0, done.stderr
    assert "C /etc/passwd" in done.stdout and "D /moved" in done.stdout
    assert "overlay2" in done.stdout and "sound" in done.stdout
    plain = f"""
set -e
export FASTLAYER_ROOT={home}/plain
fl() {{ {sys.executable} -m fastlayer "$@"; }}
fl load -q -i {tmp_path}/layout
fl diff app {tmp_path}/layout >/dev/null
fl images --format '{{{{.Repository}}}}'
place=$(fl mount --rw --no-mount --name work app)
echo changed >$place/etc/passwd
fl diff work
fl commit -q work app:2
fl rm work
fl store check
"""
    done = unshared(["setpriv", "--bounding-set=-all", "--inh-caps=-all", "bash", "-c", plain], home)
    assert done.returncode == 0, done.stderr
    assert os.path.isdir(home / "plain/vfs") and "app" in done.stdout and "sound" in done.stdout
    assert "C /etc/passwd" in done.stdout


@pytest.mark.parametrize("driver", ["overlay2", "vfs"])
def test_images_with_devices_in_a_user_namespace(tmp_path: Path, driver: str) -> None:
    """They are left out and told; what they replace is hidden; save gives the layers as they came."""
    need_root()
    layout = Layout(tmp_path / "layout")
    layers = [
        folder(b"dev") + char(b"dev/null", 1, 3) + hardlink(b"dev/zero", b"dev/null") + file(b"etc/old", b"1"),
        char(b"etc/old", 1, 5) + file(b"etc/new", b"2"),
    ]
    for number, layer in enumerate(layers):
        (tmp_path / f"layer{number}").write_bytes(gzip.compress(layer + END))
    layout.image_of_files("dev:1", [tmp_path / "layer0", tmp_path / "layer1"])
    tmp_path.chmod(0o755)
    subprocess.run(["chmod", "-R", "a+rX", layout.path], check=True)
    home = tmp_path / "home"
    (home / "tree/sub").mkdir(parents=True)
    (home / "tree/sub/file").write_text("x")
    os.mknod(home / "tree/sub/null", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    subprocess.run(["chown", "-R", "54321:54321", home], check=True)
    os.chown(home / "tree/sub/null", 54321, 54321)
    script = f"""
set -e
export FASTLAYER_ROOT={home}/store FASTLAYER_DRIVER={driver}
fl() {{ {sys.executable} -m fastlayer "$@"; }}
fl load -i {layout.path}
mkdir {home}/mnt
fl mount dev:1 {home}/mnt
(cd {home}/mnt; find . | sort)
fl umount {home}/mnt
fl save dev:1 -o {home}/saved.tar
fl import {home}/tree tree:1 >/dev/null
fl save tree:1 -o {home}/tree.tar
fl mount --rw --name work dev:1 {home}/mnt
echo 3 >{home}/mnt/etc/new
fl umount work
fl diff work
fl store check
"""
    done = unshared(["bash", "-c", script], home)
    assert done.returncode == 0, done.stderr
    assert "./dev\n./etc\n./etc/new\n" in done.stdout and "C /etc/new" in done.stdout and "sound" in done.stdout
    assert "dev/null" not in done.stdout and "./etc/old" not in done.stdout
    refused = [line for line in done.stderr.splitlines() if "devices not made" in line]
    assert refused == [
        "fastlayer: warning: 2 devices not made: Operation not permitted (first: dev/null)",
        "fastlayer: warning: 1 devices not made: Operation not permitted (first: etc/old)",
        "fastlayer: warning: 1 devices not made: Operation not permitted (first: sub/null)",
    ]
    with open_store(tmp_path / "root", driver=driver) as store:
        load(store, home / "saved.tar")
        load(store, home / "tree.tar")
        with temporary(store, Images(store).find("dev:1")) as path:
            assert stat.S_ISCHR((path / "dev/null").lstat().st_mode) and (path / "dev/zero").stat().st_rdev
            assert (path / "etc/old").lstat().st_rdev == os.makedev(1, 5)
        with temporary(store, Images(store).find("tree:1")) as path:
            assert (path / "sub/null").lstat().st_rdev == os.makedev(1, 3)


def test_mount_in_python(tmp_path: Path) -> None:
    import fastlayer

    need_root()
    image(tmp_path)
    root = tmp_path / "store"
    with open_store(root, driver="overlay2") as store:
        load(store, tmp_path / "layout")
    with fastlayer.mount("app", root=root) as path:
        assert (path / "etc/passwd").read_text().startswith("root")
        with pytest.raises(OSError, match="Read-only"):
            (path / "new").write_text("x")
    assert not path.exists() or not os.listdir(path)
    with fastlayer.mount("app", writable=True, root=root) as path:
        (path / "new").write_text("x")
    with fastlayer.mount("app", name="kept", root=root) as path:
        assert not (path / "new").exists(), "a layer without a name went with its block"
        (path / "mine").write_text("x")
    with fastlayer.mount("app", name="kept", root=root) as path:
        assert (path / "mine").exists()
    with open_store(root) as store:
        from fastlayer.container import writable

        assert [layer.name for layer in writable.all_of(store)] == ["kept"]
