"""Containers after their database was lost: they come back from what is in their directories, those that run, too."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import needs_root
from tests.containers import FOREVER, Command, until

pytestmark = needs_root


@pytest.fixture(params=["overlay2", "vfs"])
def store(request: pytest.FixtureRequest, box_archive: Path, tmp_path: Path) -> Iterator[Command]:
    found = Command(tmp_path / "store", FASTLAYER_DRIVER=request.param)
    found.out("load", "-q", "-i", box_archive)
    yield found
    found.run("rm", "-f", *found.out("ps", "-aq").split() or ["none"])


def copy_of_now(store: Command) -> Callable[[], None]:
    """Keeps the spare copy of the database; the result damages that and puts the copy of then in its place."""
    kept = (store.root / "metadata.db.copy").read_bytes()

    def lose() -> None:
        for name in ("metadata.db-wal", "metadata.db-shm"):
            (store.root / name).unlink(missing_ok=True)
        (store.root / "metadata.db").write_bytes(b"nonsense" * 1000)
        (store.root / "metadata.db.copy").write_bytes(kept)

    return lose


def test_containers_that_came_after_the_copy(store: Command) -> None:
    lose = copy_of_now(store)
    script = f"echo kept > /root/file; echo data > /vol/file; echo said; {FOREVER}"
    store.out("run", "-d", "--name", "up", "-v", "data:/vol", "-l", "k=v", "box", "sh", "-c", script)
    assert (
        store.run("run", "--name", "ended", "-e", "A=1", "box", "sh", "-c", "echo $A > /root/file; exit 3").returncode
        == 3
    )
    until(lambda: store.out("logs", "up") == "said")
    before = {name: store.inspect(name) for name in ("up", "ended")}
    lose()
    report = store.run("store", "check", "--repair")
    assert report.returncode == 0 and report.stdout.count("container") >= 2, report
    assert store.out("store", "check")
    assert sorted(store.out("ps", "-a", "--format", "{{.Names}} {{.State}}").splitlines()) == [
        "ended exited",
        "up running",
    ]
    assert {name: store.inspect(name) for name in ("up", "ended")} == before
    assert store.out("exec", "up", "cat", "/root/file", "/vol/file").split() == ["kept", "data"]
    assert store.out("ps", "-q", "--filter", "label=k=v") == before["up"]["Id"][:12]
    store.refused("volume", "rm", "data")  # it is known again who has it
    store.out("stop", "-t", "5", "up")
    assert store.state("up")["ExitCode"] == 0
    store.out("commit", "ended", "made")
    assert store.out("run", "--rm", "made", "cat", "/root/file") == "1"
    store.out("start", "up")
    assert "A /root/file" in store.out("diff", "up")
    store.out("rm", "-f", "up", "ended")
    store.out("volume", "rm", "data")
    assert os.listdir(store.root / "containers") == []
    assert store.out("store", "check")


def test_what_changed_since_the_copy(store: Command) -> None:
    """Renamed, gone back, removed; and a name that somebody else has by now."""
    store.out("run", "--name", "old", "box", "sh", "-c", "echo 1 > /root/one")
    store.out("checkpoint", "old", "first")
    store.out("create", "--name", "gone", "box")
    lose = copy_of_now(store)
    store.out("rename", "old", "new")
    store.out("cp", "/etc/hostname", "new:/root/two")
    store.out("rollback", "new", "first")
    store.out("rm", "gone")
    lose()
    store.out("store", "check", "--repair")
    assert store.out("ps", "-a", "--format", "{{.Names}}").split() == ["new"]
    assert store.out("diff", "new").splitlines() == ["C /root", "A /root/one"]
    assert store.out("store", "check")


def test_a_database_without_a_copy(store: Command, box_archive: Path) -> None:
    """A new one is made by loading the images again; until the repair nothing takes the containers away."""
    script = f"echo kept > /root/file; {FOREVER}"
    store.out("run", "-d", "--name", "up", "box", "sh", "-c", script)
    until(lambda: "/root/file" in store.out("diff", "up"))
    identity = store.inspect("up")["Id"]
    for path in store.root.glob("metadata.db*"):
        path.unlink()
    store.out("load", "-q", "-i", box_archive)
    assert store.out("ps", "-aq") == "" and (store.root / "containers" / identity).is_dir()
    store.out("container", "prune", "-f")
    store.out("create", "--name", "up", "box")
    store.out("store", "check", "--repair")
    assert store.inspect(identity)["Name"] == f"/up-{identity[:12]}"
    assert store.out("exec", identity, "cat", "/root/file") == "kept"
    store.out("rm", "-f", identity)


def test_its_image_is_not_there_yet(store: Command, box_archive: Path) -> None:
    """Its layer is not set aside; when the image is there it comes back."""
    store.out("run", "--name", "c", "box", "sh", "-c", "echo kept > /root/file")
    for path in store.root.glob("metadata.db*"):
        path.unlink()
    shutil.rmtree(store.root / "content")
    store.out("import", "-q", _file(store.root.parent / "dir"), "other")
    done = store.run("store", "check", "--repair")
    assert done.returncode == 1 and "load" in done.stdout + done.stderr, done
    store.out("load", "-q", "-i", box_archive)
    store.out("store", "check", "--repair")
    assert store.out("cp", "c:/root/file", "-").count("kept") == 1


def _file(place: Path) -> Path:
    place.mkdir()
    (place / "file").touch()
    return place
