"""The content store: blobs that appear complete and verified, or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest

from fastlayer.content.store import ContentStore, IndexEntry, index_of
from fastlayer.errors import (
    CorruptStoreError,
    DigestMismatchError,
    ManifestError,
    NotFoundError,
    StorageError,
    UsageError,
)
from fastlayer.oci import Descriptor, Digest
from fastlayer.oci.mediatypes import MANIFEST

LEASE = "0123456789abcdef"


def digest(data: bytes, algorithm: str = "sha256") -> Digest:
    return Digest(f"{algorithm}:" + hashlib.new(algorithm, data).hexdigest())


@pytest.fixture
def store(tmp_path: Path) -> ContentStore:
    return ContentStore(tmp_path / "content")


def test_a_new_store_is_an_image_layout(store: ContentStore) -> None:
    assert json.loads((store.path / "oci-layout").read_text()) == {"imageLayoutVersion": "1.0.0"}
    assert json.loads((store.path / "index.json").read_text())["manifests"] == []
    assert (store.path / "blobs/sha256").is_dir()
    assert store.leftovers() == []
    assert ContentStore(store.path, create=False).read_index().manifests == ()


def test_opening_again_keeps_names(store: ContentStore) -> None:
    store.write_index([IndexEntry("a", Descriptor(MANIFEST, digest(b""), 0))], LEASE)
    assert len(ContentStore(store.path).read_index().manifests) == 1


@pytest.mark.parametrize("size", [0, 1, 4096, (1 << 20) + 1])
def test_write_and_read_back(store: ContentStore, size: int) -> None:
    data = os.urandom(size)
    with store.ingest(LEASE) as blob:
        for start in range(0, size, 100_000):
            blob.write(memoryview(data)[start : start + 100_000])
        assert not store.has(digest(data))
        stored = blob.commit()
    assert stored == (digest(data), size)
    assert store.has(stored.digest) and store.size(stored.digest) == size
    assert store.read(stored.digest) == data
    with store.open(stored.digest) as file:
        assert file.read() == data and file.fileno() >= 0
    store.check(stored.digest)
    assert list(store.digests()) == [stored.digest] and store.leftovers() == []


@pytest.mark.parametrize("durability", ["none", "syncfs", "fsync"])
def test_durability(tmp_path: Path, durability: str) -> None:
    store = ContentStore(tmp_path / "c", durability=durability)  # type: ignore[arg-type]
    assert store.put(b"x", LEASE).digest == digest(b"x")
    with pytest.raises(UsageError):
        ContentStore(tmp_path / "d", durability="perhaps")  # type: ignore[arg-type]


def test_wrong_bytes_leave_nothing(store: ContentStore) -> None:
    cases = [
        {"digest": digest(b"other")},
        {"digest": digest(b"data"), "size": 5},
        {"digest": digest(b"data"), "size": 3},
        {"size": 1},
    ]
    for wanted in cases:
        with pytest.raises(DigestMismatchError), store.ingest(LEASE, **wanted) as blob:  # type: ignore[arg-type]
            blob.write(b"data")
            blob.commit()
    assert list(store.digests()) == [] and store.leftovers() == []


def test_too_much_is_noticed_at_once(store: ContentStore) -> None:
    with store.ingest(LEASE, size=10) as blob:
        with pytest.raises(DigestMismatchError, match="longer than the 10 bytes"):
            blob.write(b"x" * 11)
        assert os.fstat(blob.fileno()).st_size == 0


def test_an_exception_aborts(store: ContentStore) -> None:
    with pytest.raises(KeyboardInterrupt), store.ingest(LEASE) as blob:
        blob.write(b"x")
        raise KeyboardInterrupt
    assert store.leftovers() == []


def test_a_trusted_digest_is_not_computed_again(store: ContentStore) -> None:
    with store.ingest(LEASE, digest=digest(b"data"), size=4, trusted=True) as blob:
        blob.write(b"lies")
        blob.commit()
    with pytest.raises(CorruptStoreError, match="damaged"):
        store.check(digest(b"data"))
    with store.ingest(LEASE, trusted=True) as blob:
        blob.write(b"late")
        with pytest.raises(UsageError, match="trusted"):
            blob.commit()
        assert blob.commit(digest(b"late")) == (digest(b"late"), 4)
    store.check(digest(b"late"))


def test_other_algorithms(store: ContentStore) -> None:
    wanted = digest(b"data", "sha512")
    assert store.put(b"data", LEASE, digest=wanted).digest == wanted
    store.check(wanted)
    assert list(store.digests()) == [wanted]
    with pytest.raises(UsageError, match="blake3"):
        store.put(b"", LEASE, digest="blake3:" + "0" * 64)


def test_what_is_not_there(store: ContentStore) -> None:
    gone = digest(b"gone")
    for call in (store.size, store.open, store.read, store.check):
        with pytest.raises(NotFoundError, match="no such blob"):
            call(gone)
    assert not store.has(gone) and not store.remove(gone)
    for wrong in ("", "sha256:../../../etc/passwd", "x"):
        with pytest.raises(ValueError):
            store.has(wrong)


def test_remove(store: ContentStore) -> None:
    stored = store.put(b"x", LEASE)
    with store.open(stored.digest) as file:
        assert store.remove(stored.digest) and not store.has(stored.digest)
        assert file.read() == b"x"  # who has it open may read on


def test_damage_is_found(store: ContentStore) -> None:
    stored = store.put(b"data", LEASE)
    store.path_of(stored.digest).write_bytes(b"dat4")
    for call in (store.read, store.check):
        with pytest.raises(CorruptStoreError, match="load the image again"):
            call(stored.digest)
    assert store.put(b"data", LEASE) == stored  # bringing it again heals
    store.check(stored.digest)


def test_a_blob_that_is_no_file(store: ContentStore, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("s")
    for make in (os.mkdir, os.mkfifo, lambda path: os.symlink(tmp_path / "secret", path)):
        path = store.path_of(digest(b"s"))
        make(path)
        for call in (store.read, store.size, store.has):
            with pytest.raises((CorruptStoreError, StorageError)):
                call(digest(b"s"))
        path.rmdir() if path.is_dir() else path.unlink()


def test_reading_is_bounded(store: ContentStore) -> None:
    stored = store.put(b"x" * 101, LEASE)
    assert store.read(stored.digest, 101)
    with pytest.raises(CorruptStoreError, match="at most 100"):
        store.read(stored.digest, 100)


# ---- other people's files


@pytest.mark.parametrize("known", [True, False])
def test_adopt_copies_where_nothing_can_be_shared(store: ContentStore, tmp_path: Path, known: bool) -> None:
    data = os.urandom(3 << 20)
    (tmp_path / "f").write_bytes(data)
    stored = store.adopt(tmp_path / "f", LEASE, digest=digest(data) if known else None)
    assert stored == (digest(data), len(data))
    (tmp_path / "f").write_bytes(b"changed later")
    store.check(stored.digest)
    with open(tmp_path / "f", "rb") as file:
        assert store.adopt(file.fileno(), LEASE).digest == digest(b"changed later")


def test_adopt_by_hard_link_when_asked(store: ContentStore, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"data")
    stored = store.adopt(tmp_path / "f", LEASE, how="link")
    assert stored == (digest(b"data"), 4)
    assert store.path_of(stored.digest).samefile(tmp_path / "f")
    with pytest.raises(DigestMismatchError):
        store.adopt(tmp_path / "f", LEASE, digest=digest(b"x"), how="link")
    assert store.leftovers() == [] and (tmp_path / "f").read_bytes() == b"data"


def test_adopt_by_moving(store: ContentStore, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"data")
    number = (tmp_path / "f").stat().st_ino
    with pytest.raises(DigestMismatchError):
        store.adopt(tmp_path / "f", LEASE, digest=digest(b"x"), how="move")
    stored = store.adopt(tmp_path / "f", LEASE, how="move")
    assert store.path_of(stored.digest).stat().st_ino == number and not (tmp_path / "f").exists()
    with tempfile.NamedTemporaryFile(dir="/var/tmp", delete=False) as elsewhere:
        elsewhere.write(b"from another file system")
    assert store.adopt(elsewhere.name, LEASE, how="move").digest == digest(b"from another file system")
    assert not Path(elsewhere.name).exists()


def test_adopt_refuses_what_is_no_file(store: ContentStore, tmp_path: Path) -> None:
    with pytest.raises((UsageError, StorageError)):
        store.adopt(tmp_path, LEASE)
    with pytest.raises(StorageError):
        store.adopt(tmp_path / "gone", LEASE)
    assert store.leftovers() == []


# ---- killed processes, many processes


def test_leftovers_tell_their_lease(store: ContentStore) -> None:
    child = (
        "import os, signal, sys\n"
        "from fastlayer.content.store import ContentStore\n"
        f"blob = ContentStore({str(store.path)!r}).ingest('dead0')\n"
        "blob.write(b'x' * 1000)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", child], check=False)
    with store.ingest("alive1") as blob:
        blob.write(b"still going")
        (store.path / "ingest/odd").write_text("")
        assert sorted(lease for lease, _ in store.leftovers()) == ["", "alive1", "dead0"]
        assert store.sweep(lambda lease: lease == "alive1") == 2
        assert [lease for lease, _ in store.leftovers()] == ["alive1"]
        stored = blob.commit()
    store.check(stored.digest)


def test_a_lease_is_no_path(store: ContentStore) -> None:
    for lease in ("", "a/b", "..", "a-b", "a\n", "ä"):
        with pytest.raises(UsageError):
            store.ingest(lease)


def test_the_same_blob_from_many_threads(store: ContentStore) -> None:
    data = os.urandom(1 << 18)
    errors: list[BaseException] = []

    def bring() -> None:
        try:
            assert store.put(data, LEASE).digest == digest(data)
        except BaseException as exc:
            errors.append(exc)

    threads = [threading.Thread(target=bring) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    store.check(digest(data))


# ---- names


def test_the_index_is_deterministic_and_readable(store: ContentStore) -> None:
    entries = [
        IndexEntry("docker.io/library/b:latest", Descriptor(MANIFEST, digest(b"b"), 1, {"x": "y"})),
        IndexEntry("docker.io/library/a:latest", Descriptor(MANIFEST, digest(b"a"), 1)),
        IndexEntry("", Descriptor(MANIFEST, digest(b"c"), 1)),
    ]
    with store.index_lock():
        store.write_index(entries, LEASE)
    first = (store.path / "index.json").read_bytes()
    store.write_index([*reversed(entries), entries[0]], LEASE)
    assert (store.path / "index.json").read_bytes() == first == index_of(entries).to_bytes()
    found = store.read_index().manifests
    assert [d.annotations.get("org.opencontainers.image.ref.name", "") for d in found] == sorted(
        e.name for e in entries
    )
    assert found[2].annotations["io.containerd.image.name"] == "docker.io/library/b:latest"
    assert found[2].annotations["x"] == "y" and store.leftovers() == []


def test_a_broken_layout_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no OCI image layout"):
        ContentStore(tmp_path / "none", create=False)
    store = ContentStore(tmp_path / "c")
    for name, data, error in [
        ("index.json", b"{", ManifestError),
        ("index.json", None, CorruptStoreError),
        ("oci-layout", b'{"imageLayoutVersion":"2.0.0"}', CorruptStoreError),
        ("oci-layout", b"[]", ManifestError),
        ("oci-layout", b"x" * 5000, CorruptStoreError),
    ]:
        path = store.path / name
        path.unlink() if data is None else path.write_bytes(data)
        with pytest.raises(error):
            ContentStore(store.path, create=False).read_index()


def test_a_document_that_is_no_file_is_not_waited_for(store: ContentStore) -> None:
    for name in ("index.json", "oci-layout"):
        (store.path / name).unlink()
        os.mkfifo(store.path / name)
        with pytest.raises(CorruptStoreError, match="no plain file"):
            ContentStore(store.path, create=False).read_index()


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError):
        ContentStore(tmp_path / "file/below")
