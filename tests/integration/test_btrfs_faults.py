"""The btrfs driver under kill -9 and under many processes."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fastlayer import _backend
from fastlayer.drivers.btrfs import Btrfs, subvolumes
from fastlayer.metadata.database import Database
from fastlayer.metadata.leases import Leases
from fastlayer.snapshot.snapshotter import Snapshotter
from tests.filesystems import loop_fs, need_root


@pytest.fixture
def root() -> Iterator[Path]:
    need_root()
    with loop_fs("btrfs", 1 << 30) as path:
        yield path


def tree(driver: Btrfs, number: int) -> Path:
    return Path(driver.mounts(number, [], "active")[0].source)


def fork(work: Callable[[], object]) -> int:
    child = os.fork()
    if child == 0:
        try:
            work()
            os._exit(0)
        except BaseException as exc:
            os.write(2, f"{exc!r}\n".encode())
            os._exit(1)
    return child


def killed(work: Callable[[], object], seconds: float) -> None:
    child = fork(work)
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    assert status in (signal.SIGKILL, 0), status


def fill(path: Path) -> None:
    for number in range(3):
        inner = path / f"inner-{number}"
        subvolumes.create(inner)
        (inner / "data").write_bytes(os.urandom(100_000))
        subvolumes.create(inner / "deeper")
        for name in range(30):
            (inner / "deeper" / str(name)).write_text(str(name))
    (path / "plain").write_text("x")


def picture(path: Path) -> dict[str, bytes]:
    return {str(p.relative_to(path)): p.read_bytes() if p.is_file() else b"" for p in sorted(path.rglob("*"))}


def test_killed_while_making_and_removing(root: Path, engine: _backend.Engine) -> None:
    driver = Btrfs(root)
    driver.create(1, [], "active")
    (tree(driver, 1) / "f").write_text("1")
    driver.seal(1, [])

    def work() -> None:
        while True:
            driver.create(2, [1], "active")
            fill(tree(driver, 2))
            driver.duplicate(3, [1], 2)
            driver.seal(2, [1])
            driver.remove(3)
            driver.remove(2)

    rng = random.Random(7)
    for _ in range(40):
        killed(work, rng.random() * 0.25)
        for number in (3, 2):
            driver.remove(number)
        assert driver.numbers() == {1} == {int(name) for name in os.listdir(root / "subvolumes")}
        assert not os.path.exists(root / "forks") or os.listdir(root / "forks") == []
    assert picture(tree(driver, 1)) == {"f": b"1"}


def test_killed_while_sealing(root: Path, engine: _backend.Engine) -> None:
    driver = Btrfs(root)
    rng = random.Random(8)
    for number in range(1, 31):
        driver.create(number, [], "active")
        fill(tree(driver, number))
        wanted = picture(tree(driver, number))
        for _ in range(3):
            killed(lambda number=number: driver.seal(number, []), rng.random() * 0.05)  # type: ignore[misc]
        driver.seal(number, [])
        assert picture(tree(driver, number)) == wanted
        driver.create(100, [number], "active")
        assert picture(tree(driver, 100)) == wanted, "nothing is a subvolume of its own any more"
        driver.remove(100)
        driver.remove(number)


def test_many_processes_on_one_store(root: Path) -> None:
    (root / "leases").mkdir()
    (root / "btrfs").mkdir()

    def snapshotter() -> Snapshotter:
        database = Database(root / "metadata.db")
        return Snapshotter(database, Leases(database, root / "leases"), Btrfs(root / "btrfs"))

    def base() -> None:
        own = snapshotter()
        own.prepare("base key")
        number, _ = own.number("base key")
        (tree(Btrfs(root / "btrfs"), number) / "f").write_text("base")
        own.commit("base", "base key")

    def work(worker: int) -> None:
        own = snapshotter()
        for turn in range(5):
            key = f"{worker}-{turn}"
            own.prepare(key, "base")
            path = Path(own.ready(key)[0].source)
            (path / "f").write_text(key)
            with own.changes(key) as changes:
                assert [(c.kind, c.path) for c in changes] == [("C", b"f")]
            own.duplicate(f"copy {key}", key)
            own.commit(f"done {key}", key)
            own.remove(f"copy {key}")
            if turn % 2:
                own.remove(f"done {key}")

    assert os.waitpid(fork(base), 0)[1] == 0
    children = [fork(lambda worker=worker: work(worker)) for worker in range(16)]  # type: ignore[misc]
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 16
    own = snapshotter()
    names = [info.key for info in own.walk()]
    assert len(names) == 1 + 16 * 3 == len(Btrfs(root / "btrfs").numbers())
    for name in names[1:]:
        number, _ = own.number(name)
        assert (tree(Btrfs(root / "btrfs"), number) / "f").read_text() == name.removeprefix("done ")
    own.database.close()


def test_a_lost_file_system_is_one_clear_line(tmp_path: Path) -> None:
    need_root()
    with loop_fs("btrfs") as path:
        driver = Btrfs(path)
        driver.create(1, [], "active")
        subprocess.run(["mount", "-o", "remount,ro", path], check=True)
        for call in (lambda: driver.create(2, [1], "active"), lambda: driver.remove(1)):
            with pytest.raises(Exception) as info:
                call()
            assert "Read-only file system" in str(info.value) and "\n" not in str(info.value)
        assert "read-write" in Btrfs.probe(path).remedy
