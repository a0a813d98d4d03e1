"""The store under fire: processes that are killed at any instant, and many that work at once."""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fastlayer.container import writable
from fastlayer.container.commit import commit
from fastlayer.container.mounted import all_mounts
from fastlayer.container.mounting import mount_image, mount_writable, temporary, unmount
from fastlayer.errors import AlreadyExistsError, InUseError, NotFoundError
from fastlayer.image.images import Images
from fastlayer.image.load import load
from fastlayer.image.materialize import materialize
from fastlayer.maintenance.check import check
from fastlayer.mounts.table import entries
from fastlayer.store.collect import collect
from fastlayer.store.store import Store, open_store
from tests.filesystems import need_root
from tests.stores import Layout, imported

KILLS = 300
CHILDREN = 16
LEFTOVERS = {"lease", "blob"}  # what a killed process may leave; the next collection clears it away


@pytest.fixture(params=["overlay2", "vfs"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Path, str]]:
    if request.param == "overlay2":
        need_root()
    layout = Layout(tmp_path / "layout")
    shared = {f"usr/lib/{number}": os.urandom(3000) for number in range(120)}
    layout.image("app:1", [shared, {"etc/conf": b"1", "usr/lib/.wh.7": b""}])
    layout.image("app:2", [shared, {"etc/conf": b"2"}, {"bin/tool": os.urandom(20_000)}])
    yield tmp_path, request.param
    leaked = [entry.target for entry in entries() if entry.target.startswith(os.fsencode(tmp_path) + b"/")]
    for target in leaked:
        os.system(f"umount -l '{os.fsdecode(target)}'")
    assert not leaked, "mounts were left behind"


def child(work: Callable[[], object]) -> int:
    """Forks; the child does its work and ends, with a trace when it fails."""
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        work()
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def ended(pid: int, deadline: float) -> int:
    """Its exit status; -9 when it had to be killed at the deadline."""
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)


def jobs(root: Path, driver: str) -> list[Callable[[Store], object]]:
    """What is killed in the middle. Each may find what another left."""
    layout = root / "layout"

    def load_all(store: Store) -> None:
        load(store, layout)

    def commit_one(store: Store) -> None:
        name = f"w{random.randrange(10**9)}"
        layer = writable.create(store, Images(store).find("keep"), name)
        number, _ = store.snapshotter.number(layer.key)
        tree = store.snapshotter.driver.own_tree(number)
        assert tree is not None
        (tree / "written").write_bytes(os.urandom(5000))
        image = commit(store, layer, f"made:{random.randrange(4)}")
        materialize(store, image)
        writable.remove(store, name)

    def remove_some(store: Store) -> None:
        for name in ("app:1", "app:2", "made:0", "made:1"):
            try:
                Images(store).untag(name, force=True)
            except NotFoundError:
                pass
        collect(store)

    def collect_all(store: Store) -> None:
        collect(store)

    return [load_all, commit_one, remove_some, collect_all]


def conf(store: Store, name: str) -> bytes:
    with temporary(store, Images(store).find(name)) as path:
        return (path / "etc/conf").read_bytes()


def test_killed_at_any_instant(place: tuple[Path, str]) -> None:
    """What was committed is there, what was not is cleared away, hundreds of times."""
    root, driver = place
    with open_store(root / "store", driver=driver) as store:
        kept = imported(store, root / "kept", "keep")
    seed = int(os.environ.get("FASTLAYER_SEED", "0")) or random.randrange(10**9)
    print(f"FASTLAYER_SEED={seed}")
    chance = random.Random(seed)
    killed = 0
    for turn in range(KILLS):
        job = chance.choice(jobs(root, driver))

        def work(job: Callable[[Store], object] = job, turn: int = turn) -> None:
            random.seed(seed + turn)
            with open_store(root / "store", driver=driver) as store:
                job(store)

        pid = child(work)
        time.sleep(chance.random() ** 2 * 0.12)
        os.kill(pid, signal.SIGKILL)
        status = os.waitpid(pid, 0)[1]
        killed += os.WIFSIGNALED(status)
        assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
        if turn % 20 == 19:
            with open_store(root / "store", driver=driver) as store:
                found = check(store)
                wrong = [finding for finding in found.findings if not (finding.note and finding.what in LEFTOVERS)]
                assert not wrong, wrong
                assert Images(store).find("keep").id == kept.id
                collect(store)
                found = check(store)
                assert not found.findings, found.findings
    assert killed > KILLS // 4, "most were done before they were killed"
    with open_store(root / "store", driver=driver) as store:
        load(store, root / "layout")
        assert (conf(store, "app:1"), conf(store, "app:2")) == (b"1", b"2")
        for image in Images(store).all():
            Images(store).untag(str(image.id) if not image.names else image.names[0], force=True)
        for layer in writable.all_of(store):
            writable.remove(store, layer.name)
        for image in Images(store).all():
            Images(store).untag(str(image.id), force=True)
        collect(store)
        assert not check(store).findings
        assert not list(store.content.digests()) and not store.snapshotter.driver.numbers()


def busy(root: Path, driver: str, number: int, seconds: float) -> None:
    """One of many: loads, mounts, commits and removes until the time is over."""
    chance = random.Random(number)
    target = root / f"mnt-{number}"
    target.mkdir(exist_ok=True)
    end = time.monotonic() + seconds
    turn = 0
    while time.monotonic() < end:
        turn += 1
        with open_store(root / "store", driver=driver) as store:
            action = chance.randrange(5)
            if action == 0:
                load(store, root / "layout")
            elif action == 1:
                mount_and_commit(store, target, f"l{number}-{turn}", f"own-{number}:{turn % 3}")
            elif action == 2:
                try:
                    Images(store).untag(chance.choice(["app:1", "app:2", f"own-{number}:{turn % 3}"]), force=True)
                except NotFoundError:
                    pass
            elif action == 3:
                collect(store)
            else:
                look(store, target, chance.choice(["app:1", "app:2"]))


def mount_and_commit(store: Store, target: Path, name: str, image: str) -> None:
    layer = writable.create(store, Images(store).find("keep"), name)
    if os.geteuid() == 0:
        mount_writable(store, layer, target)
        (target / "etc/mine").write_text(name)
        commit(store, layer, image)
        unmount(store, name)
    else:
        commit(store, layer, image)
    remove(store, name)


def remove(store: Store, name: str) -> None:
    """Whoever makes a mount namespace on this machine meanwhile (other tests) has a copy of the mount for a while."""
    end = time.monotonic() + 60
    while True:
        try:
            return writable.remove(store, name)
        except InUseError as exc:
            if "another mount namespace" not in str(exc) or time.monotonic() > end:
                raise
            time.sleep(0.1)


def look(store: Store, target: Path, name: str) -> None:
    try:
        image = Images(store).find(name)
        if os.geteuid() == 0:
            mount_image(store, image, target)
            assert (target / "etc/conf").read_bytes() == name[-1].encode()
            unmount(store, os.fspath(target))
        else:
            assert conf(store, name) == name[-1].encode()
    except (NotFoundError, InUseError, AlreadyExistsError):
        pass  # another process has just removed it


def test_many_at_once(place: tuple[Path, str]) -> None:
    """No deadlock, no lost image, nothing left mounted."""
    root, driver = place
    with open_store(root / "store", driver=driver) as store:
        kept = imported(store, root / "kept", "keep")
    pids = [child(lambda number=number: busy(root, driver, number, 8.0)) for number in range(CHILDREN)]  # type: ignore[misc]
    assert [ended(pid, time.monotonic() + 120) for pid in pids] == [0] * CHILDREN, "some failed (1) or hung (-9)"
    end = time.monotonic() + 60
    with open_store(root / "store", driver=driver) as store:
        found = check(store)
        assert not found.findings, found.findings
        assert Images(store).find("keep").id == kept.id
        while all_mounts(store) and time.monotonic() < end:
            time.sleep(0.1)  # as in `remove`
        assert not all_mounts(store) and not writable.all_of(store)
        load(store, root / "layout")
        assert (conf(store, "app:1"), conf(store, "app:2")) == (b"1", b"2")
    shutil.rmtree(root / "kept")
