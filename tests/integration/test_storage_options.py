"""`mount --storage-opt` of overlay2, by the command on real mounts: what is seen, committed and refused."""

from __future__ import annotations

import io
import json
import os
import stat
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import fastlayer
from fastlayer.container import mounting, writable
from fastlayer.container.commit import commit
from fastlayer.drivers.overlay2 import layout, unsynced
from fastlayer.errors import DriverError, UsageError
from fastlayer.image.images import Images
from fastlayer.image.importing import import_image
from fastlayer.mounts.table import entries
from fastlayer.store.store import Store, open_store
from fastlayer.testing.dump import difference, dump
from tests.conftest import needs_root
from tests.integration.userns import unshared
from tests.shell import Shell
from tests.stores import tree

pytestmark = needs_root

MIB = 1 << 20
BIG = os.urandom(4 * MIB)
FILES = {"lib/big": BIG, "lib/deep/er/file": "deep", "lib/deep/other": "other", "etc/passwd": "root\n"}
ID_MAP = "id_map=0:100000:65536"


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    """A store with an image of two layers; what is mounted below goes at the end."""
    shell = Shell(tmp_path / "store", "overlay2")
    with open_store(shell.root, driver="overlay2") as store:
        import_image(store, tree(tmp_path / "root", FILES), "one")
        mounting.mount_layer(store, "one", "second", place(tmp_path, "k0"))
        (tmp_path / "k0/lib/deep/er/second").write_text("of the second layer")
        commit(store, writable.find(store, "second"), "base")
        mounting.unmount(store, "second", remove=True)
    try:
        yield shell
    finally:
        for entry in reversed(list(entries())):
            if entry.target.startswith(os.fsencode(tmp_path) + b"/"):
                subprocess.run(["umount", "-l", entry.target], check=True)


def place(tmp_path: Path, name: str) -> Path:
    path = tmp_path / name
    path.mkdir(exist_ok=True)
    return path


def mounted(shell: Shell, target: Path, name: str, image: str, *options: str) -> Path:
    words = [word for option in options for word in ("--storage-opt", option)]
    shell.good("mount", "--rw", "--name", name, *words, image, target)
    return target


def snapshot_of(shell: Shell, name: str) -> Path:
    """Its directory in the store."""
    with open_store(shell.root, driver="overlay2") as store:
        snapshotter = store.snapshotter
        return snapshotter.driver.root / str(snapshotter.number(writable.find(store, name).key)[0])


def options_of(target: Path) -> set[bytes]:
    """What the kernel says of the mount."""
    return set(next(entry.super_options for entry in entries() if entry.target == os.fsencode(target)))


def is_volatile(target: Path) -> bool:
    """Linux 6.18 has another word for it."""
    return bool(options_of(target) & {b"volatile", b"fsync=volatile"})


def inspected(shell: Shell, name: str) -> dict[str, Any]:
    (found,) = json.loads(shell.good("inspect", name))
    return dict(found)


def seen(root: Path) -> dict[str, dict[str, Any]]:
    found = dump(root, ignore=("names",))
    found["."].pop("mtime_ns")  # layers do not carry the root
    return found


def same(wanted: dict[str, dict[str, Any]], found: dict[str, dict[str, Any]]) -> None:
    assert not (text := difference(wanted, found)), text


def saved(shell: Shell, image: str, tmp_path: Path) -> dict[str, dict[str, Any]]:
    """The image by what `save` writes: its layers, which Python's tarfile can read, put onto each other."""
    archive = tmp_path / "saved.tar"
    shell.good("save", "--format", "docker-archive", "-o", archive, image)
    into = tmp_path / f"saved-{image}"
    with tarfile.open(archive) as outer:
        member = outer.extractfile("manifest.json")
        assert member is not None
        (manifest,) = json.load(member)
        layers = [outer.extractfile(name).read() for name in manifest["Layers"]]  # type: ignore[union-attr]
    for number, data in enumerate(layers):
        with tarfile.open(fileobj=io.BytesIO(data)) as inner:
            for entry in inner:
                assert not any("overlay" in key for key in entry.pax_headers), entry.pax_headers
                if entry.isreg() and entry.name.endswith("/big"):
                    file = inner.extractfile(entry)
                    assert file is not None and file.read() == BIG, f"layer {number}: {entry.name} is not complete"
        fastlayer.apply(io.BytesIO(data), into)
    return seen(into)


def everything(shell: Shell, name: str, image: str, base: str, wanted: dict[str, Any], tmp_path: Path) -> None:
    """`diff`, `commit` and `save` of a layer against what was seen in its mount."""
    listed = set(shell.good("diff", name).splitlines())
    shell.good("diff", name, "-o", tmp_path / "layer.tar")
    shell.good("save", "--format", "docker-archive", "-o", tmp_path / "base.tar", base)
    shell.good("commit", name, image)
    same(wanted, saved(shell, image, tmp_path))
    assert set(shell.good("diff", base, image).splitlines()) == listed
    shell.good("mount", image, place(tmp_path, "look"))
    same(wanted, seen(tmp_path / "look"))
    shell.good("umount", tmp_path / "look")
    with fastlayer.mount(base, root=shell.root, driver="overlay2") as below:
        fastlayer.clone(below, tmp_path / f"applied-{image}")
    fastlayer.apply(tmp_path / "layer.tar", tmp_path / f"applied-{image}")
    same(wanted, seen(tmp_path / f"applied-{image}"))


# ---- metacopy and redirects ----------------------------------------------------------------------


@pytest.mark.parametrize("while_mounted", [True, False])
def test_metacopy_copies_no_data_and_all_that_is_made_of_it_is_complete(
    shell: Shell, tmp_path: Path, while_mounted: bool
) -> None:
    target = mounted(shell, place(tmp_path, "k1"), "work", "base", "metacopy=on")
    os.chmod(target / "lib/big", 0o640)
    os.chown(target / "lib/deep/other", 5, 6)
    upper = snapshot_of(shell, "work") / "diff"
    assert (upper / "lib/big").stat().st_blocks == 0 and (upper / "lib/big").stat().st_size == 4 * MIB
    wanted = seen(target)
    if not while_mounted:
        shell.good("umount", "work")
    assert set(shell.good("diff", "work").splitlines()) == {"C /lib/big", "C /lib/deep/other"}
    everything(shell, "work", "made", "base", wanted, tmp_path)


@pytest.mark.parametrize("while_mounted", [True, False])
def test_a_directory_of_the_image_is_renamed(shell: Shell, tmp_path: Path, while_mounted: bool) -> None:
    target = mounted(shell, place(tmp_path, "k1"), "work", "base", "redirect_dir=on")
    os.rename(target / "lib", target / "moved")
    os.rename(target / "moved/deep/er", target / "moved/up")
    (target / "moved/up/file").write_text("and changed")
    upper = snapshot_of(shell, "work") / "diff"
    assert os.getxattr(upper / "moved", "trusted.overlay.redirect") == b"lib"
    assert not (upper / "moved/big").exists()
    wanted = seen(target)
    if not while_mounted:
        shell.good("umount", "work")
    listed = set(shell.good("diff", "work").splitlines())
    assert {"D /lib", "A /moved/big", "A /moved/up/second", "A /moved/up/file"} <= listed
    everything(shell, "work", "made", "base", wanted, tmp_path)


def test_without_the_options_it_is_as_ever(shell: Shell, tmp_path: Path) -> None:
    """Also where another layer of the store has them."""
    mounted(shell, place(tmp_path, "k1"), "other", "base", "metacopy=on")
    os.chmod(tmp_path / "k1/lib/big", 0o640)
    target = mounted(shell, place(tmp_path, "k2"), "plain", "base")
    assert not options_of(target) & {b"metacopy=on", b"redirect_dir=on"} and not is_volatile(target)
    with pytest.raises(OSError, match="cross-device"):
        os.rename(target / "lib", target / "moved")
    os.chmod(target / "lib/big", 0o640)
    assert (snapshot_of(shell, "plain") / "diff/lib/big").stat().st_blocks * 512 >= 4 * MIB


def test_redirects_are_followed_and_made_by_those_only_that_asked(shell: Shell, tmp_path: Path) -> None:
    target = mounted(shell, place(tmp_path, "k1"), "work", "base", "redirect_dir=on")
    os.rename(target / "lib", target / "moved")
    shell.good("commit", "work", "made")
    next_one = mounted(shell, place(tmp_path, "k2"), "next", "made")
    assert not options_of(next_one) & {b"redirect_dir=on", b"redirect_dir=nofollow"}, "the default is to follow"
    with pytest.raises(OSError, match="cross-device"):
        os.rename(next_one / "moved", next_one / "again")
    (next_one / "moved/deep/other").write_text("changed on top")
    everything(shell, "next", "top", "made", seen(next_one), tmp_path)


def test_on_files_without_data_the_kernel_wants_both(shell: Shell, tmp_path: Path) -> None:
    """metacopy=on needs redirect_dir=on where something is written (overlayfs.rst, "Metadata only copy up")."""
    target = mounted(shell, place(tmp_path, "k1"), "work", "base", "metacopy=on")
    os.chmod(target / "lib/big", 0o640)
    os.rename(target / "lib/big", target / "big")
    shell.good("commit", "work", "made")
    next_one = mounted(shell, place(tmp_path, "k2"), "next", "made", "metacopy=off", "redirect_dir=off")
    assert {b"metacopy=on", b"redirect_dir=on"} <= options_of(next_one)
    assert (next_one / "big").read_bytes() == BIG and stat.S_IMODE((next_one / "big").stat().st_mode) == 0o640
    os.chmod(next_one / "big", 0o600)
    os.rename(next_one / "lib", next_one / "moved")
    wanted = seen(next_one)
    everything(shell, "next", "top", "made", wanted, tmp_path)
    shell.good("umount", "--all")
    shell.good("rm", "work", "next")
    mounted(shell, target, "last", "top", "metacopy=on")
    os.chmod(target / "big", 0o444)
    everything(shell, "last", "topmost", "top", seen(target), tmp_path)


def test_clamped_times_and_other_drivers_get_complete_files(shell: Shell, tmp_path: Path) -> None:
    target = mounted(shell, place(tmp_path, "k1"), "work", "base", "metacopy=on")
    os.chmod(target / "lib/big", 0o640)
    os.rename(target / "lib", target / "moved")
    wanted = seen(target)
    shell.good("commit", "work", "made")
    shell.good("commit", "--source-date-epoch", "1000000000", "work", "clamped")
    shell.good("umount", "work")
    shell.env["FASTLAYER_DRIVER"] = "vfs"
    shell.good("mount", "made", target)
    same(wanted, seen(target))
    shell.good("umount", target)
    found = saved(shell, "clamped", tmp_path)
    for entry in (*wanted.values(), *found.values()):
        entry.pop("mtime_ns", None)
    same(wanted, found)


def test_what_is_remembered(shell: Shell, tmp_path: Path) -> None:
    root = shell.root / "overlay2"
    assert layout.read(root) == layout.Layout("overlay")
    target = mounted(shell, place(tmp_path, "k1"), "work", "base", "redirect_dir=on")
    assert layout.read(root) == layout.Layout("overlay", redirect_dir=True)
    os.rename(target / "lib", target / "moved")
    shell.good("umount", "work")
    mounted(shell, target, "more", "base", "metacopy=on")
    assert layout.read(root) == layout.Layout("overlay", metacopy=True, redirect_dir=True)
    with open_store(shell.root, driver="overlay2") as store:
        image = commit(store, writable.find(store, "work"), "made")
        number = store.snapshotter.number(str(image.chain_id))[0]
    notes = {path.name for path in (root / str(number)).iterdir()}
    assert notes == {"diff", "redirects"}, "what was copied says itself what it has"


@pytest.mark.parametrize("option", ["metacopy", "redirect_dir"])
def test_both_are_refused_in_a_user_namespace(tmp_path: Path, option: str) -> None:
    tmp_path.chmod(0o755)
    store, target = tmp_path / "store", tmp_path / "k1"
    script = f"""
set -e
run() {{ {sys.executable} -m fastlayer "$@" --root {store} --driver overlay2; }}
mkdir -p {tmp_path}/root {target}; echo 1 > {tmp_path}/root/a
run import {tmp_path}/root base
if run mount --rw --name work --storage-opt {option}=on base {target}; then exit 9; fi
run mounts --format json
run mount --rw --name work --storage-opt volatile=on base {target}
test -e {target}/a
"""
    done = unshared(["sh", "-c", script], tmp_path)
    assert done.returncode == 0, done
    assert done.stderr == f"fastlayer: driver overlay2: {option} is for root only: run as root, or leave it off\n"
    assert done.stdout.splitlines()[-1] == "work" and '"work"' not in done.stdout


def test_copy_up_ahead_of_time_leaves_such_files_to_the_kernel(shell: Shell, tmp_path: Path) -> None:
    target = mounted(shell, place(tmp_path, "k1"), "work", "base", "metacopy=on")
    os.chmod(target / "lib/big", 0o640)
    shell.good("umount", "work")
    assert "open the file for writing instead" in shell.refused("copy-up", "work", "lib/big")
    shell.good("copy-up", "work", "etc/passwd")


# ---- volatile ------------------------------------------------------------------------------------


def test_volatile_is_mounted_so_each_time_and_inspect_leaves_it_alone(shell: Shell, tmp_path: Path) -> None:
    target = mounted(shell, place(tmp_path, "k1"), "work", "base", "volatile=on")
    assert is_volatile(target)
    own = snapshot_of(shell, "work")
    mark, note = own / "work/work/incompat/volatile", own / "boot"
    before = (mark.stat(), note.stat(), note.read_text())
    for _ in range(2):
        found = inspected(shell, "work")
        assert found["StorageOptions"] == {"volatile": "on"}
        assert "volatile" in found["GraphDriver"]["Mounts"][0]["options"]
        shell.good("mounts", "--usage")
    assert (mark.stat(), note.stat(), note.read_text()) == before
    (target / "new").write_text("1")
    shell.good("umount", "work")
    inspected(shell, "work")
    assert mark.exists(), "the kernel's sign is taken away for the next mount, not for a look"
    shell.good("mount", "--name", "work", target)
    assert is_volatile(target) and (target / "new").read_text() == "1"


def test_volatile_is_refused_after_a_reboot(shell: Shell, tmp_path: Path) -> None:
    target = mounted(shell, place(tmp_path, "k1"), "work", "base", "volatile=on")
    (target / "new").write_text("1")
    shell.good("umount", "work")
    (snapshot_of(shell, "work") / "boot").write_text("another boot\n")
    gone = "the machine went down while it was volatile, parts may be lost: remove it"
    assert gone in shell.refused("mount", "--name", "work", target)
    assert gone in shell.refused("commit", "work", "made")
    shell.env["SOURCE_DATE_EPOCH"] = "1000000000"
    assert gone in shell.refused("commit", "work", "made")
    assert "A /new" in shell.good("diff", "work").splitlines(), "what is left can be looked at"
    assert inspected(shell, "work")["Name"] == "work"
    assert {row["Repository"] for row in shell.rows("images")} == {"one", "base"}
    shell.good("store", "check")
    shell.good("rm", "work")


@pytest.mark.parametrize("epoch", [None, 1_000_000_000])
@pytest.mark.parametrize("while_mounted", [True, False])
def test_commit_of_a_volatile_layer_syncs_before_the_image_has_its_name(
    shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, epoch: int | None, while_mounted: bool
) -> None:
    target = mounted(shell, place(tmp_path, "k1"), "work", "base", "volatile=on")
    (target / "new").write_text("1")
    plain = mounted(shell, place(tmp_path, "k2"), "plain", "base")
    (plain / "new").write_text("2")
    if not while_mounted:
        shell.good("umount", "--all")
    with open_store(shell.root, driver="overlay2") as store:
        images, synced = Images(store), list[set[str]]()
        monkeypatch.setattr(unsynced, "syncfs", lambda fd: synced.append({i.name for i in images.all()}))
        commit(store, writable.find(store, "plain"), "from-plain", source_date_epoch=epoch)
        assert synced == []
        commit(store, writable.find(store, "work"), "from-work", source_date_epoch=epoch)
    assert len(synced) == (2 if while_mounted and epoch else 1), "the clamped one is a copy of a copy"
    assert all(len(names) == 3 and not any("from-work" in name for name in names) for names in synced)


# ---- id_map --------------------------------------------------------------------------------------


def test_owners_are_seen_shifted_and_stored_unshifted(shell: Shell, tmp_path: Path) -> None:
    os.chown(tmp_path / "root/etc/passwd", 7, 8)
    shell.good("import", tmp_path / "root", "owned")
    target = mounted(shell, place(tmp_path, "k1"), "work", "owned", ID_MAP)
    status = (target / "etc/passwd").stat()
    assert (status.st_uid, status.st_gid) == (100_007, 100_008) and target.stat().st_uid == 100_000
    os.chown(target / "lib/big", 100_001, 100_002)
    shell.good("commit", "work", "made")
    shell.good("umount", "work")
    shell.good("mount", "--name", "work", target)
    assert (target / "lib/big").stat().st_uid == 100_001, "the map is of every mount"
    assert inspected(shell, "work")["GraphDriver"]["Mounts"][0]["id_map"] == [[0, 100_000, 65_536]]
    shell.good("mount", "made", place(tmp_path, "k2"))
    status = (tmp_path / "k2/lib/big").stat()
    assert (status.st_uid, status.st_gid) == (1, 2)


def test_an_image_is_looked_at_with_other_owners(shell: Shell, tmp_path: Path) -> None:
    target = place(tmp_path, "k1")
    shell.good("mount", "--storage-opt", ID_MAP, "base", target)
    assert (target / "etc/passwd").stat().st_uid == 100_000
    (row,) = shell.rows("mounts")
    assert row["StorageOptions"] == {"id_map": "0:100000:65536"} and row["Mode"] == "ro"
    shell.good("umount", target)
    assert shell.rows("mounts") == []
    with fastlayer.mount("base", root=shell.root, driver="overlay2", storage_options={"id_map": "0:5000:10"}) as where:
        assert (where / "etc/passwd").stat().st_uid == 5000
    os.chown(tmp_path / "root/etc/passwd", 11, 11)
    shell.good("import", tmp_path / "root", "owned")
    with fastlayer.mount("owned", root=shell.root, driver="overlay2", storage_options={"id_map": "0:50:10"}) as where:
        assert (where / "etc/passwd").stat().st_uid == 65534, "nobody"


# ---- what works here -----------------------------------------------------------------------------


def test_doctor_tries_the_options(shell: Shell, tmp_path: Path) -> None:
    found = {row["Driver"]: row["StorageOptions"] for row in shell.rows("doctor", "--root", tmp_path)}
    assert found["overlay2"] == "metacopy redirect_dir volatile id_map" and found["vfs"] == ""
    tmp_path.chmod(0o755)
    place(tmp_path, "own")
    command = [sys.executable, "-m", "fastlayer", "doctor", "--root", str(tmp_path / "own"), "--format", "json"]
    done = unshared(command, tmp_path / "own")
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["StorageOptions"] for row in rows if row["Driver"] == "overlay2"] == ["volatile"], done
    assert os.listdir(tmp_path / "own") == [] and "STORAGE OPTIONS" in shell.good("doctor")


# ---- who may ask for what ------------------------------------------------------------------------


def test_the_options_are_those_of_the_layer(shell: Shell, tmp_path: Path) -> None:
    words = ["--storage-opt", "volatile=on", "--storage-opt", "redirect_dir=on"]
    line = shell.good("mount", "--rw", "--name", "work", *words, "--json", "base", place(tmp_path, "k1"))
    wanted = {"volatile": "on", "redirect_dir": "on"}
    assert json.loads(line)["storage_options"] == wanted
    mounted(shell, place(tmp_path, "k2"), "plain", "base")
    found = {row["Name"]: row["StorageOptions"] for row in shell.rows("mounts")}
    assert found == {"work": wanted, "plain": {}}
    assert inspected(shell, "work")["StorageOptions"] == wanted and inspected(shell, "plain")["StorageOptions"] == {}
    shell.good("umount", "work")
    refused = shell.refused("mount", "--rw", "--name", "work", "--storage-opt", "volatile=off", tmp_path / "k1", code=2)
    assert refused == "fastlayer: work: its storage options are given when it is made: leave them out"
    assert inspected(shell, "work")["StorageOptions"] == wanted


NOTHING = "driver {}: has no option volatile, nor any other: leave out storage options"
REFUSED = [
    (["--rw", "--storage-opt", "colour=on"], "driver overlay2: no option colour: use metacopy, redirect_dir, volatile"),
    (["--rw", "--storage-opt", "volatile=maybe"], "driver overlay2: volatile=maybe: use on or off"),
    (["--rw", "--storage-opt", "id_map=0:1"], "driver overlay2: id_map=0:1: use INSIDE:OUTSIDE:COUNT"),
    (["--rw", "--storage-opt", "volatile"], "--storage-opt 'volatile': give KEY=VALUE"),
    (["--rw", "--storage-opt", "=on"], "--storage-opt '=on': give KEY=VALUE"),
    (
        ["--rw", "--storage-opt", "volatile=on", "--storage-opt", "volatile=off"],
        "'volatile': is given twice",
    ),
    (["--rw", "--storage-opt", "size=1g"], "--storage-opt size: give --size instead"),
    (
        ["--storage-opt", "volatile=on"],
        "driver overlay2: volatile is for writable layers: read-only mounts",
    ),
    (
        ["--storage-opt", "metacopy=on"],
        "driver overlay2: metacopy is for writable layers: read-only mounts",
    ),
    (["--rw", "--driver", "vfs", "--storage-opt", "volatile=on"], NOTHING.format("vfs")),
    (["--driver", "vfs", "--storage-opt", "volatile=on"], NOTHING.format("vfs")),
]


@pytest.mark.parametrize("words,text", REFUSED, ids=[" ".join(words) for words, _ in REFUSED])
def test_refusals_are_one_line_and_leave_nothing(shell: Shell, tmp_path: Path, words: list[str], text: str) -> None:
    def state() -> tuple[object, ...]:
        with open_store(shell.root, driver="overlay2") as store, store.database.read() as db:
            return ([tuple(row) for row in db.execute("SELECT driver, key FROM snapshots")], store.drivers_in_use())

    before = state()
    assert text in shell.refused("mount", *words, "base", place(tmp_path, "k1"), code=2)
    assert state() == before and shell.rows("mounts") == []


@pytest.fixture
def store(shell: Shell) -> Iterator[Store]:
    with open_store(shell.root, driver="overlay2") as store:
        yield store


def test_from_python(shell: Shell, store: Store, tmp_path: Path) -> None:
    image, target = Images(store).find("base"), place(tmp_path, "k1")
    layer = writable.create(store, image, "made", storage_options={"volatile": "on"})
    assert writable.storage_options(store, layer) == {"volatile": "on"}
    mounting.mount_writable(store, layer, target)
    assert is_volatile(target)
    mounting.unmount(store, "made")
    mounting.mount_layer(store, "base", "other", target, storage_options={"redirect_dir": "on"})
    assert b"redirect_dir=on" in options_of(target)
    with pytest.raises(UsageError, match="given when it is made"):
        mounting.mount_layer(store, None, "made", target, storage_options={"volatile": "on"})
    with pytest.raises(UsageError, match="no option x"):
        writable.create(store, image, "bad", storage_options={"x": "on"})
    mounting.unmount(store, "other")
    options = {"volatile": "on", "metacopy": "on"}
    with fastlayer.mount(
        "base", writable=True, target=target, root=shell.root, driver="overlay2", storage_options=options
    ) as where:
        assert is_volatile(where) and b"metacopy=on" in options_of(where)


def test_a_layer_whose_options_the_kernel_refuses_does_not_stay(
    shell: Shell, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> int:
        raise DriverError("the kernel cannot map the ids of this file system: mount without an id map")

    monkeypatch.setattr("fastlayer.mounts.mounting.mount", refuse)
    with pytest.raises(DriverError, match="without an id map"):
        mounting.mount_layer(store, "base", "one", place(tmp_path, "k1"), storage_options={"id_map": "0:1:1"})
    assert writable.all_of(store) == []
