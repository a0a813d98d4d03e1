"""A store that fills its file system can still be cleared."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastlayer.container import writable
from fastlayer.container.mounted import all_mounts
from fastlayer.errors import NoSpaceError
from fastlayer.image.images import Images
from fastlayer.maintenance.recover import check_store
from fastlayer.store import reserve
from fastlayer.store.store import Store, open_store
from tests.containers import Command, make_root
from tests.filesystems import need_root
from tests.integration.command import COMMAND
from tests.integration.test_build import Builder
from tests.stores import imported, tree, vfs_store


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A tmpfs of 12 MiB."""
    need_root()
    place = tmp_path / "small"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", place], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", place], check=True)


def fill(place: Path) -> None:
    with open(place / "filler", "ab", buffering=0) as file:
        try:
            while True:
                file.write(b"x" * 4096)
        except OSError:
            pass


def filled(small: Path, tmp_path: Path) -> Path:
    with vfs_store(small / "store") as store:
        writable.create(store, imported(store, tmp_path / "root"), "w")
    assert (small / "store/reserve").stat().st_blocks * 512 >= 1 << 20
    fill(small)
    return small / "store"


def test_removing_works_on_a_full_file_system(small: Path, tmp_path: Path) -> None:
    root = filled(small, tmp_path)
    with open_store(root) as store:
        assert not (root / "reserve").exists() and not all_mounts(store)
        writable.remove(store, "w")
        Images(store).untag("base:1")
    os.unlink(small / "filler")
    open_store(root).close()
    assert (root / "reserve").exists()


def test_a_full_store_can_be_checked(small: Path, tmp_path: Path) -> None:
    root = filled(small, tmp_path)
    for _ in range(2):
        assert check_store(root).sound
        assert (root / "reserve").exists()
        fill(small)


def test_what_was_given_up_is_taken_back(small: Path, tmp_path: Path) -> None:
    """Else whatever fills the file system takes that, too, after the first command that only looked."""
    root = filled(small, tmp_path)
    for _ in range(3):
        with open_store(root) as store:
            assert not (root / "reserve").exists() and len(Images(store).all()) == 1
        assert (root / "reserve").stat().st_blocks * 512 >= 900 << 10
        fill(small)
    with open_store(root) as store, store.lease("somebody at work"):
        with open_store(root) as other:
            assert len(Images(other).all()) == 1
        assert not (root / "reserve").exists(), "nobody takes it back from who is at work"
        writable.remove(store, "w")
    os.unlink(small / "filler")
    open_store(root).close()
    assert (root / "reserve").stat().st_size == reserve.SIZE


def test_the_room_is_not_for_what_others_write(small: Path, tmp_path: Path) -> None:
    """A container's program and ``cp`` fill what is free, and can be removed still: the reserve is not theirs."""
    command = Command(small / "store", FASTLAYER_DRIVER="overlay2")
    command.out("import", "-q", make_root(tmp_path / "root"), "box")
    command.out("create", "--name", "c", "box", "sh", "-c", "cat /dev/zero > /root/$(date +%s%N)")
    command.out("run", "-d", "--name", "d", "box", "sleep", "1000")
    (tmp_path / "big").write_bytes(bytes(2 << 20))
    (tmp_path / "little").write_bytes(bytes(50 << 10))
    fill(small)
    try:
        for number in range(8):
            command.run("start", "-a", "c")
            command.run("exec", "d", "sh", "-c", "cat /dev/zero > /root/y")
            command.run("cp", tmp_path / "big", "c:/big")
            command.run("cp", tmp_path / "little", f"c:/little{number}")
            assert (small / "store/reserve").stat().st_blocks * 512 >= 256 << 10, number
        command.out("rm", "-f", "d")
    finally:
        command.run("kill", "d")
    command.out("rm", "c")
    assert command.out("ps", "-aq") == ""
    command.out("store", "check")


def test_a_step_that_fills_the_file_system_is_what_is_told(small: Path, tmp_path: Path) -> None:
    """Not that its snapshot could not be removed: there is the reserve for that."""
    made = Builder(small, make_root(tmp_path / "root"))
    made.write("FROM busybox\nRUN dd if=/dev/zero of=/big bs=1M count=50\n")
    lines = made.build(code=1)
    assert lines[-1].endswith("Dockerfile:2: RUN dd if=/dev/zero of=/big bs=1M count=50: exit status 1")
    assert any("No space left on device" in line for line in lines)
    assert made.good("store", "check").endswith(": sound\n")


def test_a_full_file_system_is_named(small: Path, tmp_path: Path) -> None:
    root = filled(small, tmp_path)
    os.unlink(root / "reserve")
    fill(small)
    with pytest.raises(NoSpaceError, match=r"metadata\.db: write: No space left on device: make room"):
        Store(root)


# ---- inodes --------------------------------------------------------------------------------------


@pytest.fixture(params=["overlay2", "vfs"])
def scarce(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A tmpfs of 300 inodes."""
    need_root()
    monkeypatch.setenv("FASTLAYER_DRIVER", request.param)
    place = tmp_path / "scarce"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=100m,nr_inodes=300", "tmpfs", place], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", place], check=True)


def use_up_inodes(place: Path) -> int:
    """Returns how many there were."""
    filler = place / "filler"
    filler.mkdir(exist_ok=True)
    for number in range(1000):
        try:
            (filler / f"{os.urandom(4).hex()}").touch()
        except OSError:
            return number
    raise AssertionError("there is no end of inodes")


def fl(place: Path, *words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *map(str, words), "--root", place / "store"], capture_output=True, text=True, check=False
    )


def test_images_are_removed_where_no_inode_is_left(scarce: Path, tmp_path: Path) -> None:
    root = tree(tmp_path / "root", {f"dir/{number}": b"x" for number in range(60)})
    saved = tmp_path / "saved.tar"
    for words in (("import", root, "base:1"), ("save", "base:1", "-o", saved)):
        assert fl(scarce, *words).returncode == 0
    assert len(os.listdir(scarce / "store/spare")) == reserve.INODES
    use_up_inodes(scarce)
    failed = fl(scarce, "load", "-i", saved)  # there already: needs some, too
    assert failed.returncode == 0, failed.stderr
    use_up_inodes(scarce)
    before = os.statvfs(scarce).f_favail
    assert before == 0
    for words in (("images",), ("inspect", "base:1"), ("rmi", "base:1"), ("system", "prune", "-a", "-f")):
        done = fl(scarce, *words)
        assert done.returncode == 0, (words, done.stderr)
    assert os.statvfs(scarce).f_favail >= 60
    assert len(os.listdir(scarce / "store/spare")) == reserve.INODES
    for path in list((scarce / "filler").iterdir())[:20]:  # work takes a few more than what was there
        path.unlink()
    done = fl(scarce, "load", "-i", saved)
    assert (done.returncode, done.stdout) == (0, "Loaded image: base:1\n"), done.stderr
    assert "sound" in fl(scarce, "store", "check").stdout


def test_an_image_that_does_not_fit_leaves_a_store_that_works(scarce: Path, tmp_path: Path) -> None:
    small = tree(tmp_path / "small", {f"{number}": b"x" for number in range(20)})
    large = tree(tmp_path / "large", {f"{number}": b"x" for number in range(400)})
    assert fl(scarce, "import", small, "small:1").returncode == 0
    failed = fl(scarce, "import", large, "large:1")
    assert failed.returncode == 1 and "No space left on device" in failed.stderr
    assert len(failed.stderr.splitlines()) == 1
    for words in (("images",), ("rmi", "small:1"), ("import", small, "again:1")):
        done = fl(scarce, *words)
        assert done.returncode == 0, (words, done.stderr)


def test_without_the_spare_inodes_the_reason_is_named(scarce: Path, tmp_path: Path) -> None:
    assert fl(scarce, "import", tree(tmp_path / "root", {"a": b"x"}), "base:1").returncode == 0
    for path in (scarce / "store/spare").iterdir():
        path.unlink()
    use_up_inodes(scarce)
    done = fl(scarce, "images")
    assert done.returncode == 1
    assert "metadata.db: write: No space left on device: make room there" in done.stderr


def test_spare_inodes_are_taken_back_and_new_ones_made_only_where_there_are_enough(scarce: Path) -> None:
    spare = scarce / "store/spare"
    open_store(scarce / "store").close()
    use_up_inodes(scarce)
    with open_store(scarce / "store"):
        assert not os.listdir(spare)
    assert len(os.listdir(spare)) == reserve.INODES and os.statvfs(scarce).f_favail == 0
    for path in spare.iterdir():
        path.unlink()
    open_store(scarce / "store").close()
    assert not os.listdir(spare)  # somebody else may want the few that are left
    for path in (scarce / "filler").iterdir():
        path.unlink()
    open_store(scarce / "store").close()
    assert len(os.listdir(spare)) == reserve.INODES
    assert {path.stat().st_mode & 0o777 for path in spare.iterdir()} == {0o600}
