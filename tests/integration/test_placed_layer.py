"""A table becomes a snapshot on every kind of driver and file system, and gives back the layer that was hashed."""

from __future__ import annotations

import os
import random
import resource
import signal
import stat
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from fastlayer import _backend
from fastlayer._backend import NewRow
from fastlayer.drivers.btrfs import Btrfs
from fastlayer.drivers.overlay2 import Overlay2
from fastlayer.drivers.vfs import Vfs
from fastlayer.errors import FileChangedError, NotFoundError, StorageError, UnsafeEntryError
from fastlayer.image.materialize import Nowhere
from fastlayer.image.placed import placed_layer
from fastlayer.layer import writer
from fastlayer.snapshot.snapshotter import Snapshotter
from fastlayer.testing.dump import difference, dump
from tests.conftest import needs_root
from tests.filesystems import loop_fs
from tests.integration.test_filesystems import tmpfs
from tests.integration.test_store_faults import child
from tests.pairs import directory
from tests.snapshots import commit_layer, mounted, snapshots
from tests.unit.test_table_builder import DIR, FILE, LINK, TIME, built

pytestmark = needs_root

DRIVERS: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "overlay2 on tmpfs": ("tmpfs", Overlay2),
    "overlay2 on xfs": ("xfs", Overlay2),
    "vfs on tmpfs": ("tmpfs", Vfs),
    "vfs on xfs": ("xfs", Vfs),
    "btrfs": ("btrfs", Btrfs),
}
BASE = {
    "etc/": None,
    "etc/passwd": b"root",
    "etc/old": b"x",
    "usr/": None,
    "usr/link": "../etc",
    "full/": None,
    "full/f": b"1",
}


@contextmanager
def file_system(kind: str) -> Iterator[Path]:
    with memory() if kind == "tmpfs" else loop_fs(kind, 1 << 30) as where:
        yield where


@contextmanager
def memory() -> Iterator[Path]:
    where = Path(tempfile.mkdtemp(prefix="fastlayer-placed-", dir="/dev/shm"))
    try:
        yield where
    finally:
        subprocess.run(["rm", "-rf", "--", where], check=True)


@pytest.fixture(scope="module", params=DRIVERS)
def place(request: pytest.FixtureRequest) -> Iterator[tuple[Path, Callable[[Path], Any]]]:
    kind, driver = DRIVERS[request.param]
    with file_system(kind) as where:
        yield where, driver


@pytest.fixture
def snapshotter(place: tuple[Path, Callable[[Path], Any]]) -> Iterator[Snapshotter]:
    where, driver = place
    root = Path(tempfile.mkdtemp(dir=where))
    name = driver.name  # type: ignore[attr-defined]
    (root / name).mkdir()
    with snapshots(root, driver(root / name)) as found:
        yield found


@pytest.fixture
def source(place: tuple[Path, Callable[[Path], Any]]) -> Path:
    return Path(tempfile.mkdtemp(dir=place[0]))


def rows_of(source: Path, rng: random.Random, parents: str = "P") -> list[NewRow]:
    """Files of all sizes below etc and new, a link, a device, a deletion, a replaced directory."""
    rows = [
        NewRow(parents, b"etc", DIR, 0, 0, mtime_ns=10**15),
        NewRow("A", b"new", stat.S_IFDIR | 0o2700, 5, 6, mtime_ns=TIME + 1),
        NewRow("A", b"new/link", LINK, mtime_ns=TIME, link=b"/etc/passwd"),
        NewRow("A", b"new/null", stat.S_IFCHR | 0o666, mtime_ns=TIME, rdev=(1, 3)),
        NewRow("A", b"full", FILE, mtime_ns=TIME),
        NewRow("D", b"etc/old", FILE),
    ]
    for number in range(40):
        file = source / f"f{number}"
        file.write_bytes(rng.randbytes(rng.choice((0, 10, 4096, 100_000, 500_000))))
        found = file.stat()
        path = b"%s/%d" % (rng.choice((b"etc", b"new")), number)
        rows.append(
            NewRow(
                "A",
                path,
                FILE,
                7,
                8,
                found.st_size,
                found.st_mtime_ns,
                source=b"f%d" % number,
                ctime_ns=found.st_ctime_ns,
            )
        )
    first = rows[-1]
    rows.append(first._replace(path=b"new/again", group=3))
    rows[-2] = first._replace(group=3)
    return rows


def placed(found: Snapshotter, name: str, parent: str | None, table: Any, roots: list[int], **options: Any) -> Any:
    with found.leases.hold("test") as lease:
        return placed_layer(found, lease, name, parent, table, roots, about="COPY . .", **options)


@pytest.mark.parametrize("epoch", [None, 1_500_000_000])
def test_the_snapshot_gives_the_layer(
    engine: _backend.Engine, snapshotter: Snapshotter, source: Path, epoch: int | None
) -> None:
    commit_layer(snapshotter, "base", BASE)
    table = built(engine, *rows_of(source, random.Random(1)))
    with directory(source) as root:
        layer = placed(snapshotter, "layer", "base", table, [root], source_date_epoch=epoch, jobs=3)
    assert layer.entries == len(table) and layer.warnings == ()
    with snapshotter.changes("layer") as changes:
        again = changes.write(Nowhere(), compression="none")
    assert (again.diff_id, again.tar_size) == (layer.diff_id, layer.tar_size)
    assert {info.key for info in snapshotter.walk()} == {"base", "layer"}


def test_it_is_what_applying_the_layer_makes(
    engine: _backend.Engine, snapshotter: Snapshotter, source: Path, tmp_path: Path
) -> None:
    import fastlayer

    commit_layer(snapshotter, "base", BASE)
    table = built(engine, *rows_of(source, random.Random(2)))
    with directory(source) as root:
        placed(snapshotter, "placed", "base", table, [root])
        data, encoder = bytearray(), engine.encode.Encoder(table, [root])
        buffer = bytearray(1 << 20)
        while count := encoder.readinto(buffer):
            data += buffer[:count]
    (tmp_path / "layer.tar").write_bytes(data)
    independent = snapshotter.driver.independent
    snapshotter.prepare("key", None if independent else "base")
    number, parents = snapshotter.number("key")
    with snapshotter.driver.layer_target(number, parents) as target:
        fastlayer.apply(tmp_path / "layer.tar", target.path, format=target.format)
    snapshotter.commit("applied", "key", parent="base" if independent else None)
    for name in ("applied", "placed"):
        snapshotter.view(f"view {name}", name)
    with mounted(snapshotter, "view applied") as one, mounted(snapshotter, "view placed") as two:
        assert difference(dump(one), dump(two)) == ""


def test_directories_without_a_row_keep_what_they_are(
    engine: _backend.Engine, snapshotter: Snapshotter, source: Path
) -> None:
    """The table leaves them to the snapshot below."""
    commit_layer(snapshotter, "base", {"etc/": None, "etc/passwd": b"root"})
    (source / "f").write_bytes(b"x")
    table = built(engine, NewRow("A", b"etc/f", FILE, size=1, source=b"f"))
    with directory(source) as root:
        placed(snapshotter, "layer", "base", table, [root])
    snapshotter.view("view", "layer")
    with mounted(snapshotter, "view") as where:
        assert sorted(os.listdir(where / "etc")) == ["f", "passwd"]
        assert (where / "etc").stat().st_mtime == 1_000_000


@pytest.mark.parametrize("bad", ["changed", "name", "gone"])
def test_a_failure_leaves_nothing(engine: _backend.Engine, snapshotter: Snapshotter, source: Path, bad: str) -> None:
    commit_layer(snapshotter, "base", BASE)
    before = sorted(os.listdir(snapshotter.driver.root))
    rows = rows_of(source, random.Random(3))
    if bad == "changed":
        rows[20] = rows[20]._replace(size=rows[20].size + 1)
    elif bad == "gone":
        rows[20] = rows[20]._replace(source=b"nowhere", size=5)
    else:
        rows.append(NewRow("A", b"etc/.wh.x", FILE))
    with directory(source) as root, pytest.raises((FileChangedError, UnsafeEntryError)):
        placed(snapshotter, "layer", "base", built(engine, *rows), [root])
    assert {info.key for info in snapshotter.walk()} == {"base"}
    assert sorted(os.listdir(snapshotter.driver.root)) == before


def test_without_a_parent(engine: _backend.Engine, snapshotter: Snapshotter, source: Path) -> None:
    rows = [row for row in rows_of(source, random.Random(4), "A") if row.kind != "D"]
    rows.append(NewRow("A", b"", DIR, mtime_ns=TIME))  # what nothing is below has a root of its own
    with directory(source) as root:
        layer = placed(snapshotter, "layer", None, built(engine, *rows), [root])
    with snapshotter.changes("layer") as changes:
        assert changes.write(Nowhere(), compression="none").diff_id == layer.diff_id
    with pytest.raises(NotFoundError):
        placed(snapshotter, "other", "nobody", built(engine), [])


def test_two_of_one_name(engine: _backend.Engine, snapshotter: Snapshotter, source: Path) -> None:
    for _ in range(2):
        placed(snapshotter, "layer", None, built(engine, NewRow("A", b"d", DIR)), [])
    assert [info.key for info in snapshotter.walk()] == ["layer"]


@pytest.mark.parametrize("kind", ["xfs", "btrfs"])
def test_extents_are_shared(kind: str) -> None:
    """Where source and store are one file system that can: a file of 100 MiB takes no room."""
    from fastlayer.layer.placing import place

    engine = _backend.engine()
    with loop_fs(kind) as where:
        source = where / "source"
        source.mkdir()
        (source / "f").write_bytes(os.urandom(1 << 20) * 100)
        os.sync()
        free = os.statvfs(where).f_bavail * os.statvfs(where).f_frsize
        row = NewRow("A", b"f", FILE, size=100 << 20, source=b"f")
        with directory(source) as root:
            done = place(built(engine, row), [root], where / "target")
        os.sync()
        assert done.shared == 100 << 20 and done.copied == 0
        assert free - os.statvfs(where).f_bavail * os.statvfs(where).f_frsize < 8 << 20
        assert (where / "target/f").read_bytes() == (source / "f").read_bytes()


def test_no_room(engine: _backend.Engine) -> None:
    """A full file system: the error says so, and nothing is left."""
    with tempfile.TemporaryDirectory() as elsewhere, tmpfs() as where:
        subprocess.run(["mount", "-o", "remount,size=20m", where], check=True)
        source = Path(elsewhere)
        (source / "f").write_bytes(b"x" * (3 << 20))
        (where / "vfs").mkdir()
        rows = [NewRow("A", b"%d" % number, FILE, size=3 << 20, source=b"f") for number in range(20)]
        with snapshots(source, Vfs(where / "vfs")) as found, directory(source) as root:
            with pytest.raises(StorageError, match="No space left"):
                placed(found, "layer", None, built(engine, *rows), [root], jobs=4)
            assert list(found.walk()) == [] and os.listdir(where / "vfs") == []


@pytest.mark.parametrize("delay", [0.0, 0.03, 0.1])
def test_an_interrupt_leaves_nothing(
    engine: _backend.Engine, snapshotter: Snapshotter, source: Path, delay: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While files are placed and hashed; the database has interrupts of its own.

    In a process of its own: an interrupt may fall between a call that opens and the line that keeps what it gave.
    """
    commit_layer(snapshotter, "base", BASE)
    before = sorted(os.listdir(snapshotter.driver.root))
    (source / "f").write_bytes(b"x" * 400_000)
    rows = [NewRow("A", b"%d" % number, FILE, size=400_000, source=b"f") for number in range(3000)]
    timer = threading.Timer(delay, lambda: signal.raise_signal(signal.SIGINT))

    def write_layer(*arguments: Any, **options: Any) -> Any:
        timer.start()
        return writer.write_layer(*arguments, **options)

    def interrupted() -> None:
        driver = snapshotter.driver
        own = snapshots(driver.root.parent, type(driver)(driver.root))
        with own as found, directory(source) as root, pytest.raises(KeyboardInterrupt):
            placed(found, "layer", "base", built(engine, *rows), [root], jobs=3)
        timer.join()

    monkeypatch.setattr("fastlayer.image.placed.write_layer", write_layer)
    assert os.waitstatus_to_exitcode(os.waitpid(child(interrupted), 0)[1]) == 0
    assert {info.key for info in snapshotter.walk()} == {"base"}
    assert sorted(os.listdir(snapshotter.driver.root)) == before


def test_an_interrupt_right_after_the_commit(snapshotter: Snapshotter, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is what the caller hears of, and the snapshot is whole."""
    commit = Snapshotter.commit

    def interrupted(*arguments: Any, **options: Any) -> None:
        commit(*arguments, **options)
        raise KeyboardInterrupt

    monkeypatch.setattr(Snapshotter, "commit", interrupted)
    with pytest.raises(KeyboardInterrupt):
        placed(snapshotter, "layer", None, built(_backend.engine(), NewRow("A", b"d", DIR)), [])
    assert [(info.key, info.kind) for info in snapshotter.walk()] == [("layer", "committed")]


def test_few_descriptors_are_enough(snapshotter: Snapshotter, source: Path) -> None:
    commit_layer(snapshotter, "base", BASE)
    table = built(_backend.engine(), *rows_of(source, random.Random(5)))
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = max(map(int, os.listdir("/proc/self/fd")))
    with directory(source) as root:
        resource.setrlimit(resource.RLIMIT_NOFILE, (used + 58, limits[1]))
        try:
            placed(snapshotter, "layer", "base", table, [root], jobs=5)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_a_lower_layer_is_needed_only_without_rows_of_parents(engine: _backend.Engine, tmp_path: Path) -> None:
    from fastlayer.layer.placing import place

    etc, file = NewRow("P", b"etc", DIR), NewRow("A", b"etc/f", FILE)
    assert not place(built(engine, etc, file), [], tmp_path / "one", format="overlay").needs_lower
    assert place(built(engine, file), [], tmp_path / "two", format="overlay").needs_lower
    assert not place(built(engine, file), [], tmp_path / "three", format="dir").needs_lower
