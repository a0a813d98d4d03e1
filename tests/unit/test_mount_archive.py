"""Cache mounts as archives: exact, incremental, and safe whatever an archive says."""

from __future__ import annotations

import io
import json
import os
import random
import socket
import stat
import tarfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fastlayer import _backend
from fastlayer.builder import cachemounts
from fastlayer.builder.cachemounts import Access, all_mounts, data_of, use
from fastlayer.builder.mountarchive import index, places
from fastlayer.builder.mountarchive.entries import Entry, from_lines, to_line
from fastlayer.builder.mountarchive.exporting import Export, export
from fastlayer.builder.mountarchive.importing import Imported, import_mounts
from fastlayer.builder.mountarchive.pack import MAX_CHUNK, Chunk, expand
from fastlayer.errors import (
    CorruptStoreError,
    FastlayerError,
    LayerFormatError,
    ManifestError,
    NoSpaceError,
    NotFoundError,
    OperandError,
    UnsafeEntryError,
)
from fastlayer.store.store import Store, open_store
from tests.conftest import needs_root

PIP = "/root/.cache/pip"


@pytest.fixture
def stores(tmp_path: Path) -> Iterator[tuple[Store, Store]]:
    with open_store(tmp_path / "one", driver="vfs") as one, open_store(tmp_path / "two", driver="vfs") as two:
        yield one, two


def nothing() -> None:
    pass


def made(store: Store, identity: str = PIP) -> Path:
    """A cache mount, made when there is none."""
    with use(store, identity, "shared", Access(), nothing) as place:
        return place


def there(store: Store, identity: str = PIP) -> Path:
    (mount,) = [mount for mount in all_mounts(store) if mount.id == identity]
    return data_of(store, mount)


def written(store: Store, place: Path, *ids: str) -> Export:
    with places.directory(os.fspath(place), write=True) as target:
        return export(store, target, ids=ids)


def taken(store: Store, place: Path, *ids: str) -> list[Imported]:
    with places.directory(os.fspath(place), write=False) as source:
        return import_mounts(store, source, ids=ids)


def look(root: Path) -> dict[str, tuple[Any, ...]]:
    """Everything that counts of all files; hard links by the first name."""
    found: dict[str, tuple[Any, ...]] = {}
    first: dict[int, str] = {}
    for path in [root, *sorted(root.rglob("*"))]:
        name = os.fspath(path.relative_to(root))
        status = path.lstat()
        same = first.setdefault(status.st_ino, name)
        content: Any = None
        if path.is_symlink():
            content = os.readlink(path)
        elif path.is_file():
            content = path.read_bytes()
        attributes = (
            {key: os.getxattr(path, key) for key in os.listxattr(path, follow_symlinks=False)}
            if (not path.is_symlink())
            else {}
        )
        found[name] = (
            *(status.st_mode, status.st_uid, status.st_gid, status.st_mtime_ns, same, status.st_rdev),
            *(content, attributes),
        )
    return found


def leftovers(store: Store) -> list[str]:
    """Of imports: where they unpack."""
    place = store.root / "cache/work"
    return os.listdir(place) if place.exists() else []


def fill(place: Path) -> None:
    """One of everything that needs no privilege."""
    (place / "wheels/deep/er").mkdir(parents=True)
    (place / "wheels/big").write_bytes(os.urandom(3 << 20))
    (place / "wheels/deep/small").write_bytes(b"small\n")
    (place / "wheels/deep/er/empty").write_bytes(b"")
    (place / "wheels/deep/er/empty").chmod(0o4751)
    os.link(place / "wheels/deep/small", place / "wheels/again")
    os.symlink("deep/small", place / "wheels/link")
    os.symlink("/etc/passwd", place / "absolute")
    os.symlink("nowhere", place / "dangling")
    os.mkfifo(place / "fifo", 0o640)
    (place / "caf\udce9\n").write_bytes(b"odd name")
    os.setxattr(place / "wheels/big", "user.origin", b"\0x")
    with open(place / "sparse", "wb") as file:
        file.truncate(64 << 20)
        os.pwrite(file.fileno(), b"data", 32 << 20)
    (place / "wheels").chmod(0o700)
    for number, path in enumerate([place, *sorted(place.rglob("*"))]):
        os.utime(path, ns=(1, 1_600_000_000_000_000_001 + number), follow_symlinks=False)


def test_exact(engine: _backend.Engine, stores: tuple[Store, Store], tmp_path: Path) -> None:
    one, two = stores
    fill(made(one))
    before = look(there(one))
    (done,) = written(one, tmp_path / "a").mounts
    assert look(there(one)) == before and done.mount.files == len(before)
    (new,) = taken(two, tmp_path / "a")
    assert look(there(two)) == before and new.refused == 0 and new.kept == 0
    assert there(two).joinpath("sparse").stat().st_blocks < 2048
    assert not leftovers(two)


@needs_root
def test_owners_and_devices(stores: tuple[Store, Store], tmp_path: Path) -> None:
    one, two = stores
    place = made(one)
    (place / "mine").write_text("1")
    os.chown(place / "mine", 1234, 4321)
    os.setxattr(place / "mine", "security.capability", bytes.fromhex("0100000200040000000000000000000000000000"))
    (place / "mine").chmod(0o2755)
    os.chown(place, 7, 8)
    os.mknod(place / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.symlink("x", place / "link")
    os.lchown(place / "link", 5, 6)
    before = look(place)
    written(one, tmp_path / "a")
    taken(two, tmp_path / "a")
    assert look(there(two)) == before


def test_the_chunks_do_not_depend_on_the_engine(stores: tuple[Store, Store], tmp_path: Path) -> None:
    fill(made(stores[0]))
    found = []
    for name in ("native", "baseline"):
        chosen = _backend._load(name)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(_backend, "_chosen", chosen)
            found.append(written(stores[0], tmp_path / name).mounts[0].mount)
    assert found[0] == found[1]


def test_only_new_chunks_are_written(stores: tuple[Store, Store], tmp_path: Path) -> None:
    one, _ = stores
    place, numbers = made(one), random.Random(1)  # the number of chunks depends on the bytes
    for number in range(20):
        (place / f"f{number:02}").write_bytes(numbers.randbytes(300_000))
    written(one, tmp_path / "a")
    first = inodes(tmp_path / "a")
    again = written(one, tmp_path / "a")
    assert [done.written for done in again.mounts] == [0] and inodes(tmp_path / "a") == first
    (place / "f10").write_bytes(numbers.randbytes(300_000))
    done = written(one, tmp_path / "a")
    after = inodes(tmp_path / "a")
    kept = {name for name in after if first.get(name) == after[name]}
    assert 0 < done.mounts[0].written <= 6 and len(kept) >= len(first) - 7
    assert done.removed == len(first.keys() - after.keys()) > 0


def inodes(place: Path) -> dict[str, int]:
    return {path.name: path.stat().st_ino for path in place.rglob("*") if path.is_file()}


def test_equal_data_is_kept_once(stores: tuple[Store, Store], tmp_path: Path) -> None:
    """Whichever cache mount it is of."""
    one, two = stores
    data = os.urandom(4 << 20)
    (made(one, "a") / "x").write_bytes(data)
    (made(one, "b") / "y").write_bytes(data)
    done = written(one, tmp_path / "a")
    assert done.mounts[1].new < 1000  # its names only
    taken(two, tmp_path / "a")
    assert (there(two, "a") / "x").read_bytes() == (there(two, "b") / "y").read_bytes() == data


def test_files_that_are_there_are_not_written(stores: tuple[Store, Store], tmp_path: Path) -> None:
    one, two = stores
    fill(made(one))
    written(one, tmp_path / "a")
    taken(two, tmp_path / "a")
    before = (there(two) / "wheels/big").stat().st_ino
    (there(one) / "new").write_bytes(b"new")
    (there(one) / "wheels/deep/small").unlink()
    written(one, tmp_path / "a")
    (done,) = taken(two, tmp_path / "a")
    assert done.bytes == 3 and look(there(two)) == look(there(one))
    assert (there(two) / "wheels/big").stat().st_ino == before


def test_what_was_changed_there_becomes_right(stores: tuple[Store, Store], tmp_path: Path) -> None:
    """Content of the same size, attributes, links that stand where files were."""
    one, two = stores
    fill(made(one))
    written(one, tmp_path / "a")
    taken(two, tmp_path / "a")
    place, outside = there(two), tmp_path / "outside"
    outside.mkdir()
    (outside / "er").mkdir()
    (place / "wheels/deep/small").write_bytes(b"SMALL\n")
    os.utime(place / "wheels/deep/small", ns=(1, (there(one) / "wheels/deep/small").stat().st_mtime_ns))
    (place / "wheels/big").chmod(0o600)
    os.setxattr(place / "wheels/big", "user.more", b"1")
    (place / "extra").write_bytes(b"x")
    (place / "wheels/deep/er/empty").unlink()
    (place / "wheels/deep/er").rmdir()
    (place / "wheels/deep/er").symlink_to(outside)
    (place / "sparse").unlink()
    (place / "sparse").symlink_to(outside / "file")
    taken(two, tmp_path / "a")
    assert look(there(two)) == look(there(one))
    assert [path.name for path in outside.iterdir()] == ["er"]


def test_what_are_several_files_do_not_become_one(stores: tuple[Store, Store], tmp_path: Path) -> None:
    one, two = stores
    for name in ("x", "y"):
        (made(one) / name).write_bytes(b"the same")
        os.utime(there(one) / name, ns=(1, 1))
    written(one, tmp_path / "a")
    (made(two) / "x").write_bytes(b"the same")
    os.link(there(two) / "x", there(two) / "y")
    taken(two, tmp_path / "a")
    assert (there(two) / "x").stat().st_nlink == (there(two) / "y").stat().st_nlink == 1


def test_ids(stores: tuple[Store, Store], tmp_path: Path) -> None:
    one, two = stores
    for name in ("a", "b"):
        (made(one, name) / "f").write_text(name)
    written(one, tmp_path / "x", "a")
    written(one, tmp_path / "x", "b")  # the other one stays
    assert [done.id for done in taken(two, tmp_path / "x", "b")] == ["b"]
    assert [mount.id for mount in all_mounts(two)] == ["b"]
    cachemounts.remove(one, all_mounts(one)[0])
    written(one, tmp_path / "x")  # all that there are, and no others
    with places.directory(os.fspath(tmp_path / "x"), write=False) as found:
        assert list(found.mounts) == ["b"]
    with pytest.raises(NotFoundError, match="no cache mount has this id"):
        written(one, tmp_path / "x", "none")
    with pytest.raises(NotFoundError, match="has no cache mount with the id none"):
        taken(two, tmp_path / "x", "none")


def test_age_travels(stores: tuple[Store, Store], tmp_path: Path) -> None:
    """Or nothing would ever be too old for a pipeline that takes it each time."""
    one, two = stores
    made(one)
    with one.database.write() as db:
        db.execute("UPDATE cache_mounts SET used_ns = 5")
    written(one, tmp_path / "a")
    taken(two, tmp_path / "a")
    assert all_mounts(two)[0].used_ns == 5


def test_of_several_directories_one_is_left(stores: tuple[Store, Store], tmp_path: Path) -> None:
    """What builds take first is what was imported."""
    one, two = stores
    (made(one) / "f").write_text("new")
    written(one, tmp_path / "a")
    with use(two, PIP, "private", Access(), nothing), use(two, PIP, "private", Access(), nothing):
        pass
    assert len(all_mounts(two)) == 2
    taken(two, tmp_path / "a")
    assert (made(two) / "f").read_text() == "new" and len(all_mounts(two)) == 1


def test_it_waits_for_steps(stores: tuple[Store, Store], tmp_path: Path) -> None:
    one, two = stores
    (made(one) / "f").write_text("new")
    written(one, tmp_path / "a")
    waited, order = threading.Event(), []

    def work() -> None:
        with open_store(two.root, driver="vfs") as store, places.directory(str(tmp_path / "a"), write=False) as source:
            import_mounts(store, source, waiting=lambda _: waited.set())
            order.append("import")

    with use(two, PIP, "shared", Access(), nothing) as place:
        thread = threading.Thread(target=work)
        thread.start()
        assert waited.wait(30)
        (place / "late").write_text("x")
        order.append("step")
    thread.join(60)
    assert order == ["step", "import"] and sorted(os.listdir(there(two))) == ["f"]


def test_sockets_are_left_out(stores: tuple[Store, Store], tmp_path: Path) -> None:
    place = made(stores[0])
    with socket.socket(socket.AF_UNIX) as server:
        here = os.getcwd()
        os.chdir(place)
        try:
            server.bind("s")
        finally:
            os.chdir(here)
        (done,) = written(stores[0], tmp_path / "a").mounts
    assert done.sockets == 1 and done.mount.files == 1


def test_one_file(stores: tuple[Store, Store], tmp_path: Path) -> None:
    """The same as a tar, which is read from a pipe, too."""
    one, two = stores
    fill(made(one))
    with places.archive(tmp_path / "a.tar") as target:
        export(one, target)
    with tarfile.open(tmp_path / "a.tar") as tar:
        names = tar.getnames()
    assert names[-1] == index.NAME and len(names) == len(set(names)) > 3
    source, sink = os.pipe()

    def feed() -> None:
        with os.fdopen(sink, "wb") as file:
            file.write((tmp_path / "a.tar").read_bytes())

    thread = threading.Thread(target=feed)
    thread.start()
    with places.unpacked(two, source) as archive:
        import_mounts(two, archive)
    thread.join()
    os.close(source)
    assert look(there(two)) == look(there(one)) and not leftovers(two)


# ---- hostile archives ------------------------------------------------------------------------------


def document(place: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((place / index.NAME).read_text())
    return found


def rewritten(place: Path, change: Callable[[Any], None]) -> None:
    found = document(place)
    change(found["mounts"][0])
    (place / index.NAME).write_text(json.dumps(found))


def chunk_files(place: Path) -> list[Path]:
    return [path for path in (place / "chunks").rglob("*") if path.is_file()]


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def each(change: Callable[[Path], object]) -> Callable[[Path], object]:
    def harm(place: Path) -> None:
        for path in chunk_files(place):
            change(path)

    return harm


def fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def linked(path: Path) -> None:
    path.unlink()
    path.symlink_to("/etc/passwd")


HARM: dict[str, tuple[Callable[[Path], object], type[FastlayerError]]] = {
    "bits": (each(flip), CorruptStoreError),
    "cut": (each(lambda path: os.truncate(path, path.stat().st_size // 2)), CorruptStoreError),
    "empty": (each(lambda path: os.truncate(path, 0)), CorruptStoreError),
    "gone": (each(lambda path: path.unlink()), NotFoundError),
    "huge": (each(lambda path: os.truncate(path, 1 << 40)), CorruptStoreError),
    "fifos": (each(fifo), CorruptStoreError),
    "links": (each(linked), FastlayerError),
    "index cut": (lambda place: os.truncate(place / index.NAME, 20), ManifestError),
    "index of another version": (lambda place: (place / index.NAME).write_text('{"schema":2}'), ManifestError),
    "index huge": (lambda place: os.truncate(place / index.NAME, 1 << 40), CorruptStoreError),
    "index a fifo": (lambda place: fifo(place / index.NAME), CorruptStoreError),
    "less data": (lambda place: rewritten(place, lambda mount: mount["data"].pop()), LayerFormatError),
    "more data": (lambda place: rewritten(place, lambda mount: mount.update(data=2 * mount["data"])), LayerFormatError),
    "no lines": (lambda place: rewritten(place, lambda mount: mount["lines"].clear()), LayerFormatError),
    "a path for a chunk": (
        lambda place: rewritten(place, lambda mount: mount["data"].append(["../../etc/passwd", 5, 5])),
        ManifestError,
    ),
    "a chunk of nothing": (
        lambda place: rewritten(place, lambda mount: mount["data"].append(["a" * 64, 0, 5])),
        ManifestError,
    ),
    "a chunk too large": (
        lambda place: rewritten(place, lambda mount: mount["data"].append(["a" * 64, MAX_CHUNK + 1, 5])),
        ManifestError,
    ),
    "an odd id": (lambda place: rewritten(place, lambda mount: mount.update(id="\x1b[2J")), ManifestError),
    "a time that is text": (lambda place: rewritten(place, lambda mount: mount.update(used_ns="x")), ManifestError),
}  # fmt: skip


@pytest.mark.parametrize("harm,error", HARM.values(), ids=HARM)
def test_damaged_archives_change_nothing(
    stores: tuple[Store, Store],
    tmp_path: Path,
    harm: Callable[[Path], object],
    error: type[FastlayerError],
) -> None:
    one, two = stores
    (made(one) / "f").write_bytes(os.urandom(100_000))
    written(one, tmp_path / "a")
    (made(two) / "old").write_text("1")
    before = look(there(two))
    harm(tmp_path / "a")
    with pytest.raises(error) as caught:
        taken(two, tmp_path / "a")
    assert "\n" not in str(caught.value) and look(there(two)) == before
    assert not leftovers(two)


def test_a_damaged_archive_is_put_right(stores: tuple[Store, Store], tmp_path: Path) -> None:
    """A chunk that is not as long as it was when it was written is written again."""
    one, two = stores
    (made(one) / "f").write_bytes(os.urandom(100_000))
    written(one, tmp_path / "a")
    for path in chunk_files(tmp_path / "a"):
        path.write_bytes(b"")
    written(one, tmp_path / "a")
    taken(two, tmp_path / "a")
    assert look(there(two)) == look(there(one))


def test_an_archive_of_more_than_there_is_room_for(stores: tuple[Store, Store], tmp_path: Path) -> None:
    """A megabyte of zeros, told a million times: nothing is written."""
    one, two = stores
    (made(one) / "f").write_bytes(bytes(MAX_CHUNK))
    written(one, tmp_path / "a")
    (chunk,) = document(tmp_path / "a")["mounts"][0]["data"]
    times = 20_000_000
    line = Entry(b"", "d"), Entry(b"f", "f", 0o644, size=times * chunk[1], key="a" * 64)
    with places.directory(os.fspath(tmp_path / "a"), write=False) as source:
        real = source.mounts[PIP]
        lines = b"".join(map(to_line, line))
        chunks = put(tmp_path / "a", lines)
        source.mounts[PIP] = real._replace(lines=(chunks,), data=(Chunk(chunk[0], times * chunk[1], chunk[2]),))
        with pytest.raises(NoSpaceError):
            import_mounts(two, source)
    assert all_mounts(two) == []


def put(place: Path, data: bytes) -> Chunk:
    import zstandard
    from blake3 import blake3

    identity = blake3(data).hexdigest()
    path = place / "chunks" / identity[:2] / f"{identity}.zst"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(zstandard.compress(data))
    return Chunk(identity, len(data), path.stat().st_size)


ROOT = Entry(b"", "d", 0o755)
UNSAFE: dict[str, list[Entry]] = {
    "up": [ROOT, Entry(b"../f", "p")],
    "absolute": [ROOT, Entry(b"/etc", "d")],
    "dot": [ROOT, Entry(b"./f", "p")],
    "double": [ROOT, Entry(b"a", "d"), Entry(b"a//b", "p")],
    "nul": [ROOT, Entry(b"a\0b", "p")],
    "long": [ROOT, Entry(b"a" * 256, "p")],
    "through a link": [ROOT, Entry(b"a", "l", link=b"/etc"), Entry(b"a/passwd", "p")],
    "through a file": [ROOT, Entry(b"a", "p"), Entry(b"a/b", "p")],
    "without a directory": [ROOT, Entry(b"a/b", "p")],
    "twice": [ROOT, Entry(b"a", "l", link=b"/etc"), Entry(b"a", "d")],
    "a name of nothing": [ROOT, Entry(b"a", "h", link=b"../../etc/passwd")],
    "a name of a directory": [ROOT, Entry(b"d", "d"), Entry(b"a", "h", link=b"d")],
    "a name of itself": [ROOT, Entry(b"a", "h", link=b"a")],
}


@pytest.mark.parametrize("entries", UNSAFE.values(), ids=UNSAFE)
def test_names_that_lead_elsewhere(entries: list[Entry]) -> None:
    with pytest.raises(UnsafeEntryError, match="do not use this archive"):
        list(from_lines([b"".join(map(to_line, entries))], "archive"))


@pytest.mark.parametrize(
    "change",
    [
        {"type": "x"}, {"type": "fd"}, {"type": ""}, {"type": None}, {"mode": -1}, {"mode": 1 << 20},
        {"uid": (1 << 32) - 1}, {"gid": "0"}, {"mtime_ns": 1.5}, {"mtime_ns": 1 << 64},
        {"xattrs": ["x"]}, {"xattrs": {"": "AA=="}},
        {"xattrs": {"user.x": "?"}}, {"size": -1}, {"size": 1 << 63}, {"key": "x"}, {"key": None}, {"path": 1},
        {"holes": [[0, 0]]}, {"holes": [[5, 6]]}, {"holes": [[3, 1], [0, 1]]}, {"holes": [[0, 2], [1, 1]]},
        {"holes": 1}, {"holes": [[0]]}, {"path": ""},
    ],
)  # fmt: skip
def test_lines_that_no_export_writes(change: dict[str, Any]) -> None:
    line = json.loads(to_line(Entry(b"f", "f", 0o644, size=10, key="a" * 64)))
    data = to_line(ROOT) + json.dumps({**line, **change}).encode() + b"\n"
    with pytest.raises((LayerFormatError, UnsafeEntryError)):
        list(from_lines([data], "archive"))


@pytest.mark.parametrize("data", [b"", b"{}\n", b"x\n", b"[" * 5000 + b"\n", b'{"path": "", "type"', b"\xff\n"])
def test_no_lines_at_all(data: bytes) -> None:
    with pytest.raises(LayerFormatError):
        list(from_lines([data], "archive"))


def test_a_frame_of_another_size_is_not_expanded() -> None:
    import zstandard

    with pytest.raises(CorruptStoreError, match="another size"):
        expand(Chunk("a" * 64, 5, 9), zstandard.compress(bytes(1 << 24)))
    with pytest.raises(CorruptStoreError, match="not what its name says"):
        expand(Chunk("a" * 64, 5, 9), zstandard.compress(b"12345"))


@pytest.mark.parametrize("name", ["../x", "chunks/aa/" + "b" * 64 + ".zst", "other", "chunks/aa/aa.zst"])
def test_a_tar_with_other_things(stores: tuple[Store, Store], tmp_path: Path, name: str) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        tar.addfile(tarfile.TarInfo(name), io.BytesIO(b""))
    with pytest.raises((LayerFormatError, UnsafeEntryError)), places.unpacked(stores[0], tmp_path / "a.tar"):
        raise AssertionError("it was taken")
    assert not leftovers(stores[0])


def test_places_that_are_no_archives(stores: tuple[Store, Store], tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("1")
    with pytest.raises(OperandError, match="holds other things"):
        written(stores[0], tmp_path)
    with pytest.raises(NotFoundError, match="no archive of cache mounts"):
        taken(stores[0], tmp_path)
    assert (tmp_path / "mine").read_text() == "1"
