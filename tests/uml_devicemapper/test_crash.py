"""kill -9 at any instant, of a process or of its programs, too, and many at once: what is left can be removed."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from fastlayer.drivers.devicemapper import DeviceMapper, dmsetup
from fastlayer.drivers.devicemapper.deltas import node_of
from tests.uml_devicemapper.attaching import attached
from tests.uml_devicemapper.conftest import EXT4, ready
from tests.uml_devicemapper.test_pool import content, sealed

ROUNDS = int(os.environ.get("FASTLAYER_CRASHES", "6"))


def thin_devices(driver: DeviceMapper) -> set[int]:
    """What the pool itself says it holds."""
    name = driver._pool.name
    metadata = dmsetup.run("table", name).split()[3]
    dmsetup.message(name, "reserve_metadata_snap")
    try:
        done = subprocess.run(
            ["thin_dump", "-m", "--skip-mappings", node_of(metadata)], capture_output=True, text=True, check=True
        )
    finally:
        dmsetup.message(name, "release_metadata_snap")
    return {int(number) for number in re.findall(r'dev_id="(\d+)"', done.stdout)}


def in_child(work: Callable[[], object]) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            os.setpgid(0, 0)
            work()
            os._exit(0)
        except BaseException as exc:
            os.write(2, f"child: {type(exc).__name__}: {exc}\n".encode())
            os._exit(1)
    with suppress(ProcessLookupError):  # on both sides: whoever is killed next is a group of its own already
        os.setpgid(pid, pid)
    return pid


def life(driver: DeviceMapper, number: int) -> None:
    """Everything that changes the pool, with numbers of its own."""
    driver.create(number, [1], "active")
    with driver.layer_target(number, [1]) as target:
        (target.path / "f").write_bytes(os.urandom(100_000))
    ready(driver, number, [1], "active")
    driver.changes(number, [1]).close()
    driver.duplicate(number + 1, [1], number)
    driver.seal(number, [1])
    driver.create(number + 2, [number], "view")
    ready(driver, number + 2, [number], "view")
    for used in (number + 2, number + 1, number):
        driver.remove(used)


def test_a_kill_at_any_instant_leaves_what_can_be_removed(driver: DeviceMapper, tmp_path: Path) -> None:
    sealed(driver, 1, [], a=b"one")
    life(driver, 2)
    started = time.monotonic()
    life(driver, 5)
    length = time.monotonic() - started
    seed = random.randrange(1 << 32)
    print("seed", seed)
    dice, stopped = random.Random(seed), 0
    for turn in range(ROUNDS):
        first = 10 * (turn + 1)
        pid = in_child(lambda first=first: life(driver, first))
        time.sleep(dice.uniform(0, length))
        dice.choice((os.kill, os.killpg))(pid, signal.SIGKILL)  # alone, or with the dmsetup it has started
        _, status = os.waitpid(pid, 0)
        stopped += os.WIFSIGNALED(status)
        for number in sorted(driver.numbers() - {1}, reverse=True):
            driver.remove(number)
        assert driver.numbers() == {1}
        assert thin_devices(driver) == {0, 1}, f"turn {turn}"
        looks = dmsetup.names(driver._pool.look_prefix(1))  # of a process killed before it had mounted the device
        assert len(looks) <= 1
        for name in looks:
            dmsetup.remove(name)
        assert [line.split()[0] for line in dmsetup.run("ls").splitlines()] == [driver._pool.name]
    assert stopped > ROUNDS // 2, "few were killed in time"
    assert content(driver, 1, tmp_path / "m") == {"a": b"one"}


def test_a_kill_while_the_pool_is_made(tmp_path: Path) -> None:
    for turn in range(5):
        root = tmp_path / str(turn)
        root.mkdir()
        pid = in_child(lambda root=root: DeviceMapper(root, EXT4).create(1, [], "active"))
        time.sleep(0.2 * turn)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        driver = DeviceMapper(root, EXT4)
        for number in driver.numbers():
            driver.remove(number)
        sealed(driver, 2, [], a=b"made")
        assert content(driver, 2, tmp_path / "m") == {"a": b"made"}
        driver.stop()


def test_many_processes_at_once(driver: DeviceMapper, root: Path, tmp_path: Path) -> None:
    def work(first: int) -> None:
        own = DeviceMapper(root)
        for number in range(first, first + 3):
            own.create(number, [1], "active")
            with attached(ready(own, number, [1], "active")[0], tmp_path / f"m{number}") as tree:
                (tree / "who").write_text(str(number))
            own.seal(number, [1])
        own.remove(first)

    sealed(driver, 1, [], a=b"one")
    children = [in_child(lambda n=n: work(10 * n)) for n in range(1, 5)]
    assert [os.waitpid(pid, 0)[1] for pid in children] == [0] * 4
    wanted = {1} | {10 * n + k for n in range(1, 5) for k in (1, 2)}
    assert driver.numbers() == wanted and thin_devices(driver) == wanted | {0}
    assert content(driver, 42, tmp_path / "m")["who"] == b"42"


def test_removing_what_never_was(driver: DeviceMapper) -> None:
    driver.remove(3)
    assert not driver.numbers() and driver._books.pool() is None
