"""The btrfs driver on a loop-mounted btrfs: the conformance suite, faults, limits, probing."""

from __future__ import annotations

import errno
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import fastlayer
from fastlayer import _backend
from fastlayer.container.mounting import temporary
from fastlayer.drivers import registry
from fastlayer.drivers.btrfs import Btrfs, subvolumes
from fastlayer.errors import NoSpaceError, StorageError
from fastlayer.image.images import Images
from fastlayer.image.importing import import_image
from fastlayer.maintenance.check import check as check_store
from fastlayer.metadata.database import Database
from fastlayer.metadata.leases import Leases
from fastlayer.snapshot.snapshotter import Snapshotter
from fastlayer.store.collect import collect
from fastlayer.store.store import open_store
from fastlayer.testing import snapshotter_suite as suite
from tests.filesystems import loop_fs, need_root

MIB = 1 << 20


@pytest.fixture(scope="module")
def filesystem() -> Iterator[Path]:
    need_root()
    with loop_fs("btrfs", 1 << 30) as path:
        yield path


@pytest.fixture
def root(filesystem: Path) -> Iterator[Path]:
    root = filesystem / "store"
    root.mkdir()
    yield root
    driver = Btrfs(root / "btrfs" if (root / "btrfs").exists() else root)
    for number in sorted(driver.numbers(), reverse=True):
        driver.remove(number)
    subprocess.run(["rm", "-rf", root], check=True)


@pytest.fixture
def driver(root: Path) -> Btrfs:
    return Btrfs(root)


@pytest.mark.parametrize("check", suite.CHECKS, ids=suite.name_of)
def test_conformance(check: Callable[[suite.Bench], None], engine: _backend.Engine, root: Path, tmp_path: Path) -> None:
    (root / "leases").mkdir()
    (root / "btrfs").mkdir()
    database = Database(root / "metadata.db")
    try:
        check(suite.Bench(Snapshotter(database, Leases(database, root / "leases"), Btrfs(root / "btrfs")), tmp_path))
    finally:
        database.close()


def tree(driver: Btrfs, number: int) -> Path:
    return Path(driver.mounts(number, [], "active")[0].source)


def base(driver: Btrfs) -> Path:
    driver.create(1, [], "active")
    made = tree(driver, 1)
    (made / "etc").mkdir()
    (made / "etc/passwd").write_text("root")
    (made / "big").write_bytes(os.urandom(2 * MIB))
    driver.seal(1, [])
    return made


def lines(driver: Btrfs, number: int, parents: list[int]) -> list[str]:
    with driver.changes(number, parents) as changes:
        return [f"{change.kind} {change.name}" for change in changes]


# ---- the tree of a snapshot


def test_a_sealed_snapshot_is_read_only_for_everyone(driver: Btrfs, engine: _backend.Engine) -> None:
    sealed = base(driver)
    with pytest.raises(OSError) as info:
        (sealed / "new").write_text("x")
    assert info.value.errno == errno.EROFS
    driver.seal(1, [])  # again, after a kill


def test_a_child_seals_its_parent_if_nobody_could(driver: Btrfs, engine: _backend.Engine) -> None:
    driver.create(1, [], "active")
    nest(tree(driver, 1) / "n")
    driver.create(2, [1], "active")
    assert (tree(driver, 2) / "n/deeper/still").read_text() == "more"
    with pytest.raises(OSError, match="Read-only"):
        (tree(driver, 1) / "new").write_text("x")


def test_unsynced_writes_are_seen(driver: Btrfs, engine: _backend.Engine) -> None:
    base(driver)
    driver.create(2, [1], "active")
    with open(tree(driver, 2) / "etc/passwd", "r+b") as file:
        file.write(b"ROOT")
        file.flush()
        assert lines(driver, 2, [1]) == ["C /etc/passwd"]
        file.write(b"and more")
        file.flush()
        with driver.changes(2, [1]) as changes:
            assert next(iter(changes)).size == len("ROOTand more")


def test_a_mapped_page_is_seen(driver: Btrfs, engine: _backend.Engine) -> None:
    import mmap

    base(driver)
    driver.create(2, [1], "active")
    with open(tree(driver, 2) / "big", "r+b") as file, mmap.mmap(file.fileno(), 0) as page:
        page[:4] = b"once"
        assert lines(driver, 2, [1]) == ["C /big"]
        driver.duplicate(3, [1], 2)
        page[5000:5004] = b"more"
        assert lines(driver, 2, [1]) == ["C /big"]
    assert (tree(driver, 2) / "big").read_bytes()[5000:5004] == b"more"
    assert (tree(driver, 3) / "big").read_bytes()[:4] == b"once"


def test_writes_right_before_and_after_the_snapshot(driver: Btrfs, engine: _backend.Engine) -> None:
    """None of the parent's is a change, all of the child's are."""
    driver.create(1, [], "active")
    for number in range(50):
        (tree(driver, 1) / f"before-{number}").write_text("x")
    driver.create(2, [1], "active")
    (tree(driver, 2) / "after").write_text("y")
    (tree(driver, 2) / "before-7").write_text("z")
    os.utime(tree(driver, 2), ns=(0, os.stat(tree(driver, 1)).st_mtime_ns))
    assert lines(driver, 2, [1]) == ["A /after", "C /before-7"]


def test_the_changes_of_a_duplicate_outlive_its_source(driver: Btrfs, engine: _backend.Engine) -> None:
    base(driver)
    driver.create(2, [1], "active")
    (tree(driver, 2) / "etc/passwd").write_text("2")
    driver.duplicate(3, [1], 2)
    driver.remove(2)
    driver.create(4, [1], "active")  # the parent's generation goes on
    assert driver._keys(3, 1) == [b"", b"etc", b"etc/passwd"]
    assert lines(driver, 3, [1]) == ["C /etc/passwd"]
    driver.create(5, [3, 1], "active")
    assert lines(driver, 5, [3, 1]) == []
    driver.remove(3)
    assert not (driver.root / "forks/3").exists()


def test_a_tree_from_elsewhere_is_walked(driver: Btrfs, engine: _backend.Engine) -> None:
    base(driver)
    driver.create(2, [], "active")
    (tree(driver, 2) / "big").write_bytes((tree(driver, 1) / "big").read_bytes())
    assert driver._keys(2, 1) is None
    assert "D /etc" in lines(driver, 2, [1])


# ---- subvolumes inside


def nest(path: Path) -> Path:
    subvolumes.create(path)
    (path / "inside").write_text("data")
    subvolumes.create(path / "deeper")
    (path / "deeper/still").write_text("more")
    return path


def test_inner_subvolumes_are_committed_as_directories(driver: Btrfs, engine: _backend.Engine) -> None:
    base(driver)
    driver.create(2, [1], "active")
    nest(tree(driver, 2) / "etc/machines")
    wanted = lines(driver, 2, [1])
    assert "A /etc/machines/deeper/still" in wanted
    driver.duplicate(3, [1], 2)
    assert lines(driver, 3, [1]) == wanted
    driver.seal(2, [1])
    assert lines(driver, 2, [1]) == wanted
    for number in (2, 3):
        driver.create(10 + number, [number, 1], "active")
        assert (tree(driver, 10 + number) / "etc/machines/deeper/still").read_text() == "more"
        assert lines(driver, 10 + number, [number, 1]) == []


def test_a_flattening_that_was_cut_goes_on(driver: Btrfs, engine: _backend.Engine) -> None:
    driver.create(1, [], "active")
    nest(tree(driver, 1) / "n")
    (tree(driver, 1) / ".fastlayer-nested-n").mkdir()  # killed while copying
    (tree(driver, 1) / ".fastlayer-nested-n/half").write_text("x")
    driver.seal(1, [])
    assert sorted(os.listdir(tree(driver, 1))) == ["n"]
    driver.create(2, [], "active")
    nest(tree(driver, 2) / ".fastlayer-nested-n")  # killed after the exchange
    (tree(driver, 2) / "n").mkdir()
    driver.seal(2, [])
    assert sorted(os.listdir(tree(driver, 2))) == ["n"]


def test_inner_subvolumes_go_with_the_snapshot(driver: Btrfs, engine: _backend.Engine) -> None:
    base(driver)
    driver.create(2, [1], "active")
    nest(tree(driver, 2) / "etc/machines")
    subvolumes.snapshot(tree(driver, 2) / "etc/machines", tree(driver, 2) / "ro", readonly=True)
    driver.remove(2)
    assert driver.numbers() == {1}
    driver.remove(2)
    driver.remove(77)


def test_a_sealed_snapshot_with_inner_subvolumes_is_removed(driver: Btrfs, engine: _backend.Engine) -> None:
    driver.create(1, [], "active")
    nest(tree(driver, 1) / "n")
    with subvolumes.opened(tree(driver, 1)) as fd:
        engine.subvolume.set_readonly(fd, True)
    driver.remove(1)
    assert driver.numbers() == set()


# ---- usage and limits


def test_usage_is_what_was_added(driver: Btrfs, engine: _backend.Engine) -> None:
    base(driver)
    assert 2 * MIB <= driver.usage(1, []).bytes < 2 * MIB + 9000
    assert driver.usage(1, []).inodes == 4
    driver.create(2, [1], "active")
    assert driver.usage(2, [1]) == (0, 0, 0)
    made = tree(driver, 2)
    (made / "new").write_bytes(os.urandom(MIB))
    subprocess.run(["cp", "--reflink=always", made / "big", made / "copy"], check=True)
    with open(made / "big", "r+b") as file:
        file.write(os.urandom(8192))
    found = driver.usage(2, [1])
    assert (found.bytes, found.inodes, found.shared) == (MIB + 8192, 2, 2 * MIB)
    driver.seal(2, [1])
    driver.create(3, [2, 1], "active")
    assert driver.usage(2, [1]) == found, "a child does not change what its parent takes"


def test_a_view_takes_nothing(driver: Btrfs) -> None:
    base(driver)
    driver.create(2, [1], "view")
    assert driver.numbers() == {1}
    assert driver.mounts(2, [1], "view") == driver.mounts(1, [], "committed")
    assert driver.usage(2, [1]) == (0, 0, 0) and lines(driver, 2, [1]) == []
    driver.remove(2)


def test_a_full_quota_is_no_space(engine: _backend.Engine) -> None:
    need_root()
    with loop_fs("btrfs") as path:
        driver = Btrfs(path)
        base(driver)
        assert driver.quota(1) is None
        driver.create(2, [1], "active", size=16 * MIB)
        with pytest.raises(OSError) as info:
            for number in range(32):
                with open(tree(driver, 2) / str(number), "wb") as file:
                    file.write(os.urandom(MIB))
                    os.fsync(file.fileno())
        assert info.value.errno == errno.EDQUOT
        quota = driver.quota(2)
        assert quota is not None and 8 * MIB < quota[1] <= 16 * MIB
        layer = path / "layer.tar"
        source = path / "source"
        source.mkdir()
        (source / "large").write_bytes(os.urandom(20 * MIB))
        fastlayer.diff(None, source, layer)
        driver.create(3, [1], "active", size=8 * MIB)
        with pytest.raises(StorageError) as refused, driver.layer_target(3, [1]) as target:
            fastlayer.apply([layer], target.path, format=target.format)
        assert refused.value.errno == errno.EDQUOT
        for number in (3, 2, 1):
            driver.remove(number)


def test_a_full_file_system_is_no_space() -> None:
    need_root()
    with loop_fs("btrfs") as path:
        driver = Btrfs(path)
        base(driver)
        driver.create(2, [1], "active")
        with pytest.raises(OSError), open(tree(driver, 2) / "fill", "wb") as file:
            while True:
                file.write(os.urandom(MIB))
        with pytest.raises(NoSpaceError, match="snapshot"):
            for number in range(3, 6000):
                driver.create(number, [1], "active")
        for number in driver.numbers():
            driver.remove(number)
        assert driver.numbers() == set()
        eventually(lambda: driver.create(1, [], "active"), path)


def eventually(work: Callable[[], object], path: Path) -> None:
    """btrfs frees the space of deleted subvolumes in the background, twice a minute or after a sync of its own."""
    for _ in range(100):
        try:
            work()
            return
        except NoSpaceError:
            with subvolumes.opened(path) as fd:
                _backend.engine().subvolume.sync(fd)
            time.sleep(0.1)
    work()


# ---- probing


def test_the_probe_leaves_nothing(root: Path, engine: _backend.Engine) -> None:
    assert Btrfs.probe(root).works
    assert os.listdir(root) == []
    assert registry.choose(root, "btrfs") is Btrfs


def test_the_probe_says_why_not(tmp_path: Path, root: Path, engine: _backend.Engine) -> None:
    other = Btrfs.probe(tmp_path)
    assert not other.works and "not on btrfs" in other.why and other.remedy
    gone = Btrfs.probe(root / "gone")
    assert not gone.works and "gone" in gone.why and gone.remedy


def as_user(work: Callable[[], object]) -> str:
    """What ``work`` gives in a process of user 1000."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setresgid(1000, 1000, 1000)
            os.setresuid(1000, 1000, 1000)
            os.write(write, repr(work()).encode())
        except BaseException as exc:
            os.write(write, repr(exc).encode())
        finally:
            os._exit(0)
    os.close(write)
    with open(read, "rb") as answer:
        text = answer.read().decode()
    os.waitpid(child, 0)
    return text


def test_the_probe_of_a_user_names_the_mount_option(root: Path, engine: _backend.Engine) -> None:
    life(Btrfs(root))  # everything is imported now
    with loop_fs("btrfs") as path:
        path.parent.chmod(0o755)
        own = path / "own"
        own.mkdir()
        os.chown(own, 1000, 1000)
        refused = as_user(lambda: Btrfs.probe(own))
        assert refused.startswith("Probe(works=False") and "user_subvol_rm_allowed" in refused
        assert os.listdir(own) == []
        subprocess.run(["mount", "-o", "remount,user_subvol_rm_allowed", path], check=True)
        assert as_user(lambda: tuple(Btrfs.probe(own))) == "(True, '', '')"
        assert as_user(lambda: life(Btrfs(own))) == "['C /', 'A /new']"
        assert Btrfs(own).numbers() == set()


def life(driver: Btrfs) -> list[str]:
    driver.create(1, [], "active")
    driver.seal(1, [])
    driver.create(2, [1], "active")
    (tree(driver, 2) / "new").write_text("x")
    found = lines(driver, 2, [1])
    driver.usage(2, [1])
    driver.duplicate(3, [1], 2)
    for number in (3, 2, 1):
        driver.remove(number)
    return found


def test_without_the_right_to_search_changes_are_walked(
    driver: Btrfs, engine: _backend.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    base(driver)
    driver.create(2, [1], "active")
    (tree(driver, 2) / "etc/passwd").write_text("other")
    (tree(driver, 2) / "new").write_bytes(b"x" * 8192)

    def refuse(*_arguments: object) -> None:
        raise StorageError(errno.EPERM, "search tree")

    for name in ("changed", "usage", "nested"):
        monkeypatch.setattr(engine.subvolume, name, refuse)
    assert lines(driver, 2, [1]) == ["C /", "C /etc/passwd", "A /new"]
    assert driver.usage(2, [1]).bytes >= 8192
    quiet = tree(driver, 2) / "big"
    stamp = quiet.stat().st_mtime_ns
    with open(quiet, "r+b") as file:
        file.write(b"as large as before")
    os.utime(quiet, ns=(stamp, stamp))
    assert lines(driver, 2, [1]) == ["C /", "C /big", "C /etc/passwd", "A /new"]
    subvolumes.create(tree(driver, 2) / "n")
    driver.remove(2)
    assert driver.numbers() == {1}


def test_a_copy_holds_no_trusted_attributes(root: Path, tmp_path: Path) -> None:
    (root / "leases").mkdir()
    (root / "btrfs").mkdir()
    database = Database(root / "metadata.db")
    found = Snapshotter(database, Leases(database, root / "leases"), Btrfs(root / "btrfs"))
    bench = suite.Bench(found, tmp_path)
    bench.commit("base", None, suite.base)
    found.prepare("work", "base")
    with bench.mounted("work") as tree:
        (tree / "new/dir").mkdir(parents=True)
        (tree / "etc/passwd").unlink()
        for path in (tree, tree / "etc", tree / "etc/hosts", tree / "bin/sh", tree / "new/dir"):
            os.setxattr(path, "trusted.secret", b"1", follow_symlinks=False)
    wanted = [str(change) for change in found.changes("work")]
    found.duplicate("copy", "work")
    with bench.mounted("copy") as tree:
        for path in (tree, *tree.rglob("*")):
            assert "trusted.secret" not in os.listxattr(path, follow_symlinks=False), path
    assert [str(change) for change in found.changes("copy")] == wanted
    database.close()


def test_a_mounted_image_is_sound(root: Path, tmp_path: Path) -> None:
    """A read-only mount has no subvolume of its own, and nothing that could be lost."""
    (tmp_path / "tree/etc").mkdir(parents=True)
    (tmp_path / "tree/etc/passwd").write_text("root")
    with open_store(root, driver="btrfs") as store:
        import_image(store, tmp_path / "tree", "base")
        with temporary(store, Images(store).find("base")) as path:
            assert (path / "etc/passwd").read_text() == "root"
            assert not check_store(store, repair=True).findings
            assert len(list(store.snapshotter.walk())) == 2
        Images(store).untag("base")
        collect(store)
