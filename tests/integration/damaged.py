"""A store whose database comes to harm."""

from __future__ import annotations

import os
import random
import shutil
import signal
import sqlite3
from collections.abc import Callable
from pathlib import Path

from fastlayer.container import writable
from fastlayer.container.commit import commit
from fastlayer.container.mounting import temporary
from fastlayer.image.images import Images
from fastlayer.image.load import load
from fastlayer.maintenance.check import Report
from fastlayer.maintenance.recover import check_store
from fastlayer.oci.descriptor import Descriptor
from fastlayer.store.store import Store, open_store
from tests.stores import Layout

PAGE = 4096
SEED = 20


class Place:
    """A store with two images, a third that was committed (its topmost layer has no blob), a writable layer ``w``."""

    def __init__(self, top: Path, driver: str) -> None:
        self.top = top
        self.root = top / "store"
        self.driver = driver
        self.path = self.root / "metadata.db"
        self.copy = self.root / "metadata.db.copy"
        layout = Layout(top / "layout")
        shared = {f"usr/lib/{number}": os.urandom(300) for number in range(40)}
        layout.image("app:1", [shared, {"etc/conf": b"1"}])
        layout.image("app:2", [shared, {"etc/conf": b"2"}, {"bin/tool": os.urandom(2000)}])
        with self.open() as store:
            load(store, top / "layout")
            write(store, "w", "app:1", b"precious")
            commit(store, writable.find(store, "w"), "made:1")

    def open(self) -> Store:
        return open_store(self.root, driver=self.driver)

    def check(self, *, repair: bool = False) -> Report:
        return check_store(self.root, driver=self.driver, repair=repair)

    def aged(self) -> Callable[[], None]:
        """Keeps the copy that is there now; the result puts it back, as if those that came since had been killed."""
        kept = self.top / "old-copy"
        shutil.copy2(self.copy, kept)
        return lambda: shutil.copy2(kept, self.copy) and None

    def whole(self, store: Store) -> None:
        """Everything that was made by ``__init__`` is there, and can be read."""
        assert [image.name for image in Images(store).all()] == [f"docker.io/library/{n}" for n in NAMES]
        assert (conf(store, "app:1"), conf(store, "app:2")) == (b"1", b"2")
        assert conf(store, "made:1", "data") == b"precious"
        assert [layer.name for layer in writable.all_of(store)] == ["w"]
        assert (tree_of(store, "w") / "data").read_bytes() == b"precious"


NAMES = ("app:1", "app:2", "made:1")


def write(store: Store, name: str, image: str, data: bytes) -> writable.Writable:
    layer = writable.create(store, Images(store).find(image), name)
    (tree_of(store, name) / "data").write_bytes(data)
    return layer


def tree_of(store: Store, name: str) -> Path:
    layer = writable.find(store, name)
    snapshotter = store.snapshotter_of(layer.driver)
    tree = snapshotter.driver.own_tree(snapshotter.number(layer.key)[0])
    return tree or Path(snapshotter.mounts(layer.key)[0].source)


def conf(store: Store, name: str, path: str = "etc/conf") -> bytes:
    with temporary(store, Images(store).find(name)) as tree:
        return (tree / path).read_bytes()


def index_of(store: Store) -> tuple[Descriptor, ...]:
    return store.content.read_index().manifests


def sound(place: Place) -> None:
    report = place.check()
    assert report.sound and not report.findings, report.findings


def overwrite(path: Path, offset: int, data: bytes) -> None:
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(data)


def damaged_schema(path: Path) -> None:
    """All of the first page but SQLite's header."""
    overwrite(path, 100, random.Random(SEED).randbytes(PAGE - 100))


def damaged_middle(path: Path) -> None:
    size = path.stat().st_size
    overwrite(path, size // 2 // PAGE * PAGE, random.Random(SEED).randbytes(size // 4 // PAGE * PAGE))


DAMAGE: dict[str, Callable[[Path], object]] = {
    "first page": lambda path: overwrite(path, 0, random.Random(SEED).randbytes(PAGE)),
    "schema": damaged_schema,
    "middle": damaged_middle,
    "half": lambda path: os.truncate(path, path.stat().st_size // 2 // PAGE * PAGE),
    "half a page": lambda path: os.truncate(path, PAGE // 2),
    "empty": lambda path: os.truncate(path, 0),
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "deleted": lambda path: path.unlink(),
    "text": lambda path: path.write_text("nonsense" * 2000),
    "a new one": lambda path: (path.unlink(), sqlite3.connect(path).execute("CREATE TABLE t (a)").connection.close()),
}


def child(work: Callable[[], object]) -> None:
    """Does the work in another process, which is killed at its end."""
    pid = os.fork()
    if not pid:
        try:
            work()
        finally:
            os.kill(os.getpid(), signal.SIGKILL)
    assert os.waitpid(pid, 0)[1] == signal.SIGKILL
