"""Layers that leave something to those below, through every driver: the trees are those of `apply` and of umoci.

Tools that write layers entry by entry (ko, jib, bazel, `COPY --link`) name no parent directories; others make hard
links to files of a layer below. An overlay of such layers, each extracted for itself, is another tree.
"""

from __future__ import annotations

import io
import os
import random
import re
import stat
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest

import fastlayer
from fastlayer.container import writable
from fastlayer.container.commit import commit
from fastlayer.container.mounting import temporary
from fastlayer.errors import UnsafeEntryError
from fastlayer.image.images import Images
from fastlayer.image.importing import import_image
from fastlayer.image.load import load
from fastlayer.image.materialize import materialize
from fastlayer.image.save import save
from fastlayer.image.unpack import ensure_unpacked
from fastlayer.maintenance.check import check
from fastlayer.store.store import open_store
from fastlayer.testing.dump import difference, dump
from tests.conftest import require
from tests.filesystems import loop_fs, need_root
from tests.stores import Layout, tree

WHEN = 1_700_000_000
Entry = tuple[str, str]  # name; type and what belongs to it

BELOW: list[Entry] = [
    ("etc/", "d0700 7:8"),
    ("etc/passwd", "f root"),
    ("tmp/", "d1777 0:0"),
    ("file", "f content"),
    ("usr/", "d0755 0:0"),
    ("usr/lib/", "d0755 0:0"),
    ("usr/lib/a", "f a"),
    ("lib", "l usr/lib"),
]
ODD: dict[str, list[Entry]] = {
    "implied directories": [("etc/new", "f n"), ("tmp/new", "f n"), ("deep/er/new", "f n")],
    "only a whiteout": [("etc/.wh.passwd", "f")],
    "a whiteout of nothing": [("etc/.wh.nothing", "f"), ("no/such/.wh.x", "f")],
    "a whiteout below a file": [("file/.wh.x", "f")],
    "an opaque mark below a file": [("file/.wh..wh..opq", "f")],
    "an opaque directory": [("etc/.wh..wh..opq", "f"), ("etc/new", "f n")],
    "an opaque root": [(".wh..wh..opq", "f"), ("new", "f n"), ("etc/.wh.passwd", "f")],
    "below a link": [("lib/b", "f b"), ("lib/.wh.a", "f")],
    "a hard link to a file below": [("etc/second", "h etc/passwd"), ("third", "h file")],
    "a file in the place of a directory": [("etc", "f now a file")],
    "a directory in the place of a file": [("file/new", "f n")],
    "described later": [("etc/new", "f n"), ("etc/", "d0750 1:2")],
}


def layer(path: Path, entries: list[Entry]) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for name, what in entries:
            info = tarfile.TarInfo(name.rstrip("/"))
            info.mtime = WHEN
            kind, _, rest = what.partition(" ")
            data = b""
            if kind.startswith("d"):
                info.type, info.mode = tarfile.DIRTYPE, int(kind[1:], 8)
                info.uid, info.gid = map(int, rest.split(":"))
            elif kind in "lh":
                info.type = tarfile.SYMTYPE if kind == "l" else tarfile.LNKTYPE
                info.linkname = rest
            else:
                data = rest.encode()
                info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def seen(path: Path) -> dict[str, dict[str, Any]]:
    """The tree without times that no entry gives."""
    found = dump(path)
    for entry in found.values():
        if entry["mtime_ns"] != WHEN * 10**9:
            entry.pop("mtime_ns")
    return found


def trees(place: Path, stack: list[list[Entry]], drivers: list[tuple[str, Path]]) -> None:
    """Every driver shows what `apply` makes."""
    layers = [layer(place / f"{number}.tar.gz", entries) for number, entries in enumerate(stack)]
    Layout(place / "layout").image_of_files("odd:1", layers)
    fastlayer.apply(layers, place / "applied")
    wanted = seen(place / "applied")
    for driver, root in drivers:
        with open_store(root, driver=driver) as store:
            (loaded,) = load(store, place / "layout")
            assert not loaded.warnings, driver
            with temporary(store, Images(store).find("odd:1")) as path:
                found = seen(path)
            assert not difference(wanted, found), f"{driver}: {difference(wanted, found)}"
            assert check(store).sound


@pytest.fixture(scope="module")
def file_system(tmp_path_factory: pytest.TempPathFactory) -> Any:

    need_root()
    with loop_fs("btrfs", 300 << 20) as path:
        yield path


@pytest.mark.parametrize("name", ODD)
def test_every_driver_shows_the_same(tmp_path: Path, file_system: Path, name: str) -> None:
    btrfs = file_system / tmp_path.name
    btrfs.mkdir()
    top: list[Entry] = [("etc/top", "f t")]
    drivers = [("overlay2", tmp_path / "overlay2"), ("vfs", tmp_path / "vfs"), ("btrfs", btrfs)]
    trees(tmp_path, [BELOW, ODD[name], top], drivers)


@pytest.mark.parametrize("form", ["docker-archive", "oci-archive"])
@pytest.mark.parametrize("stream", [False, True], ids=["file", "stream"])
def test_from_an_archive(tmp_path: Path, form: Any, stream: bool) -> None:
    """Where a layer is read twice."""
    need_root()
    stack = [BELOW, ODD["implied directories"], ODD["a hard link to a file below"], ODD["an opaque directory"]]
    layers = [layer(tmp_path / f"{number}.tar.gz", entries) for number, entries in enumerate(stack)]
    Layout(tmp_path / "layout").image_of_files("odd:1", layers)
    with open_store(tmp_path / "vfs", driver="vfs") as store:
        load(store, tmp_path / "layout")
        save(store, ["odd:1"], tmp_path / "archive", format=form)
        with temporary(store, Images(store).find("odd:1")) as path:
            wanted = seen(path)
    with open_store(tmp_path / "overlay2", driver="overlay2") as store, open(tmp_path / "archive", "rb") as file:
        load(store, file if stream else tmp_path / "archive")
        with temporary(store, Images(store).find("odd:1")) as path:
            found = seen(path)
        assert check(store).sound and not store.content.leftovers()
    assert not difference(wanted, found), difference(wanted, found)


def test_unpacked_in_a_user_namespace(tmp_path: Path) -> None:
    need_root()
    stack = [BELOW, ODD["implied directories"], ODD["an opaque root"]]
    stack[0] = [(name, what.replace("7:8", "0:0")) for name, what in stack[0]]
    layers = [layer(tmp_path / f"{number}.tar.gz", entries) for number, entries in enumerate(stack)]
    Layout(tmp_path / "layout").image_of_files("odd:1", layers)
    fastlayer.apply(layers, tmp_path / "applied")
    words = f"""
export FASTLAYER_ROOT={tmp_path}/store FASTLAYER_DRIVER=overlay2
{sys.executable} -m fastlayer load -q -i {tmp_path}/layout && mkdir {tmp_path}/mnt
{sys.executable} -m fastlayer mount odd:1 {tmp_path}/mnt && cp -a {tmp_path}/mnt {tmp_path}/copy
"""
    subprocess.run(["unshare", "-Urm", "sh", "-ec", words], check=True)
    wanted, found = seen(tmp_path / "applied"), seen(tmp_path / "copy")
    for one in (wanted, found):
        one["."].pop("mtime_ns", None)
    assert not difference(wanted, found), difference(wanted, found)


NOT_UMOCI = ("a hard link to a file below", "a directory in the place of a file")  # refused there, or damaged


@pytest.mark.parametrize("name", [name for name in ODD if name not in NOT_UMOCI])
def test_umoci_makes_the_same(tmp_path: Path, name: str) -> None:
    need_root()
    require("umoci")
    stack = [BELOW, ODD[name]]
    layers = [layer(tmp_path / f"{number}.tar.gz", entries) for number, entries in enumerate(stack)]
    Layout(tmp_path / "layout").image_of_files("odd:1", layers)
    subprocess.run(["umoci", "unpack", "--image", f"{tmp_path}/layout:odd:1", tmp_path / "bundle"], check=True)
    fastlayer.apply(layers, tmp_path / "applied")
    wanted, found = seen(tmp_path / "applied"), seen(tmp_path / "bundle/rootfs")
    assert not difference(wanted, found), difference(wanted, found)


NAMES = ["a", "a/b", "a/b/c", "a/x", "l", "l/b", "f", "f/x"]


def entries(chance: random.Random) -> list[Entry]:
    found: list[Entry] = []
    for _ in range(chance.randrange(1, 6)):
        name = chance.choice(NAMES)
        above = os.path.dirname(name)
        kind = chance.randrange(8)
        if kind < 2:
            found.append((name, "f " + chance.choice("12")))
        elif kind == 2:
            found.append((name + "/", f"d{chance.choice(['0700', '0755'])} {chance.randrange(3)}:0"))
        elif kind == 3:
            found.append((name, "l " + chance.choice(["a", "/a/b", "nowhere"])))
        elif kind == 4:
            found.append((os.path.join(above, ".wh.." + "wh..opq"), "f"))
        elif kind < 7:
            found.append((os.path.join(above, ".wh." + os.path.basename(name)), "f"))
        else:
            found.append((name, "h " + chance.choice(NAMES) if chance.random() < 0.4 else "f 3"))
    return found


@pytest.mark.parametrize("seed", range(40))
def test_random_stacks(tmp_path: Path, seed: int) -> None:
    need_root()
    chance = random.Random(seed)
    compared = 0
    for number in range(30):
        if compared == 5:
            return
        place = tmp_path / str(number)
        place.mkdir()
        stack = [entries(chance) for _ in range(3)]
        try:
            fastlayer.apply([layer(place / "probe.tar.gz", part) for part in stack[:1]], place / "probe")
            for part in stack[1:]:
                fastlayer.apply([layer(place / "probe.tar.gz", part)], place / "probe")
        except fastlayer.LayerError:
            with open_store(place / "store", driver="overlay2") as store:
                layers = [layer(place / f"bad{n}.tar.gz", part) for n, part in enumerate(stack)]
                Layout(place / "bad").image_of_files("odd:1", layers)
                with pytest.raises(fastlayer.LayerError):
                    load(store, place / "bad")
                assert check(store).sound
            continue
        trees(place, stack, [("overlay2", place / "overlay2")])
        compared += 1
    pytest.fail("hardly any of them can be applied")


def test_an_imported_layer_is_what_a_loaded_one_is(tmp_path: Path) -> None:
    """Markers with nothing below, in directories that the layer does not describe, leave nothing."""
    need_root()
    entries: list[Entry] = [
        ("d/kept", "f 1"),
        ("d/.wh.gone", "f "),
        ("q/.wh..wh..opq", "f "),
        ("q/x", "f 2"),
        ("no/such/.wh.x", "f "),
    ]
    path = layer(tmp_path / "0.tar.gz", entries)
    with open_store(tmp_path / "store", driver="overlay2") as store:
        image = import_image(store, path, "it")
        number, _ = store.snapshotter.number(str(image.chain_id))
        own = store.snapshotter.driver.own_tree(number)
        assert own is not None
        assert sorted(file.name for file in own.rglob("*")) == ["d", "kept", "q", "x"]
        assert not any(os.listxattr(file) for file in own.rglob("*"))
        assert len(list(store.snapshotter.walk())) == 1 and check(store).sound


def test_devices_that_are_lost_when_an_image_is_first_used(tmp_path: Path) -> None:
    need_root()
    path = tmp_path / "0.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        null = tarfile.TarInfo("dev/null")
        null.type, null.devmajor, null.devminor = tarfile.CHRTYPE, 1, 3
        tar.addfile(null)
    Layout(tmp_path / "layout").image_of_files("odd:1", [path])
    words = f"""
export FASTLAYER_ROOT={tmp_path}/store FASTLAYER_DRIVER=overlay2
run="{sys.executable} -m fastlayer"; mnt={tmp_path}/mnt; load="$run load -q --no-unpack -i {tmp_path}/layout"
mkdir $mnt
$load; $run mount odd:1 $mnt; $run umount $mnt; $run rmi odd:1
$load; $run mount --rw odd:1 $mnt; $run umount --rm $mnt; $run rmi odd:1
$load; $run diff odd:1 $mnt
"""
    done = subprocess.run(["unshare", "-Urm", "sh", "-ec", words], check=True, capture_output=True, text=True)
    warning = "fastlayer: warning: 1 devices not made: Operation not permitted (first: dev/null)"
    assert done.stderr.splitlines() == [warning] * 3


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("committed", [False, True])
def test_a_device_that_overlay_cannot_keep(tmp_path: Path, number: int, committed: bool) -> None:
    """It would be a whiteout there; the way out is told, whether the layer is a blob or another driver's snapshot."""
    need_root()
    root = tree(tmp_path / "root", {"dev/": "", "file": "x"})
    if number == 0:
        os.mknod(root / "dev/zero", stat.S_IFCHR)
    with open_store(tmp_path / "store", driver="vfs") as store:
        layer = writable.create(store, import_image(store, root, "below"), "work")
        if number == 1:
            os.mknod(writable.directory(store, layer) / "dev/zero", stat.S_IFCHR)
        image = commit(store, layer, "odd:1")
        if not committed:
            materialize(store, image)
    why = "dev/zero: device 0:0 would be a whiteout on overlay: unpack the image with another driver (`--driver vfs`)"
    with open_store(tmp_path / "store", driver="overlay2") as store:
        with pytest.raises(UnsafeEntryError, match=re.escape(why)) as refused:
            ensure_unpacked(store, image)
        about = image.layers[number]
        assert (f"layer {about.diff_id}" if committed else about.digest.encoded) in str(refused.value)
        assert all(info.kind == "committed" for info in store.snapshotter.walk())
