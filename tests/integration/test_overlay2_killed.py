"""kill -9 at any instant, and many at once: books and directories agree afterwards, what was committed is there."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fastlayer.mounts import mounting
from fastlayer.snapshot.snapshotter import Snapshotter
from tests.conftest import needs_root
from tests.integration.test_filesystems import tmpfs
from tests.snapshots import snapshots

pytestmark = needs_root
_REPOSITORY = Path(__file__).parents[2]

# Makes, commits, copies and removes; what is committed under a name holds a file of that name.
_WORKER = """
import random, sys
from pathlib import Path
from fastlayer.errors import InUseError, NotFoundError
from tests.snapshots import commit_layer, snapshots
root, worker, rounds = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
chance = random.Random(worker)
with snapshots(root) as found:
    print("ready", flush=True)
    for number in range(rounds):
        name = f"{worker}-{number}"
        committed = [info.key for info in found.walk() if info.kind == "committed"]
        parent = chance.choice([None, *committed])
        try:
            if chance.random() < 0.4:
                commit_layer(found, name, {name: b"x" * 3000, "d/": None, "d/.wh.no": None}, parent)
            else:
                found.prepare(f"work {name}", parent)
                diff = found.driver.root / str(found.number(f"work {name}")[0]) / "diff"
                (diff / name).write_bytes(b"x" * 3000)
                if chance.random() < 0.5:
                    found.duplicate(name, f"work {name}")
                    found.remove(f"work {name}")
                else:
                    found.commit(name, f"work {name}")
            if committed and chance.random() < 0.5:
                found.remove(chance.choice(committed))
        except (InUseError, NotFoundError):
            pass  # others are at work, too
"""


def worker(root: Path, name: str, rounds: int) -> subprocess.Popen[str]:
    child = subprocess.Popen(
        [sys.executable, "-c", _WORKER, root, name, str(rounds)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=_REPOSITORY,
    )
    assert child.stdout is not None and child.stdout.readline() == "ready\n", child.communicate()[1]
    return child


def check(found: Snapshotter) -> int:
    """Books and directories agree; every committed snapshot is whole. Returns how many there are."""
    infos = list(found.walk())
    assert found.driver.numbers() == {info.number for info in infos}
    committed = [info for info in infos if info.kind == "committed"]
    for info in committed:
        with mounting.temporary(found.ready(info.key)) as where:
            assert (where / info.key).stat().st_size == 3000, info
    return len(committed)


def tidy(found: Snapshotter) -> None:
    """What the garbage collection does, and whoever left active snapshots behind."""
    found.clear_dead()
    found.leases.sweep()
    for info in list(found.walk()):
        if info.kind != "committed":
            found.remove(info.key)


@pytest.mark.timeout(600)
def test_killed_at_any_instant() -> None:
    chance = random.Random(7)
    with tmpfs() as root, snapshots(root) as found:
        for number in range(40):
            child = worker(root, f"w{number}", 1000)
            time.sleep(chance.random() * 0.25)
            child.send_signal(signal.SIGKILL)
            child.communicate()
            tidy(found)
            count = check(found)
            for info in sorted(found.walk(), key=lambda info: -info.number)[: max(0, count - 12)]:
                found.remove(info.key)
        assert list((root / "leases").iterdir()) == []


@pytest.mark.timeout(600)
def test_many_at_once() -> None:
    with tmpfs() as root, snapshots(root) as found:
        children = [worker(root, f"p{number}", 12) for number in range(8)]
        for child in children:
            _, errors = child.communicate(timeout=300)
            assert child.returncode == 0, errors
        tidy(found)
        assert check(found) > 8
        for info in sorted(found.walk(), key=lambda info: -info.number):
            found.remove(info.key)
        assert found.driver.numbers() == set()
